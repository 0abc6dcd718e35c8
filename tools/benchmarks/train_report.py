"""The report of the training benchmark as Markdown."""

from captioner.resources import DEFAULT_PRESET
from tools.benchmarks.markdown import heading, table

_STEPS = (
    "image encoder", "captions an image", "library", "dtype", "gradient checkpointing", "clipping", "captions/s", "s a step",
    "processor s", "share of the peak", "peak MB", "first step s (processor s)", "peer captions/s", "peer processor s",
    "peer MB", "times the peer", "by processor s",
)  # fmt: skip
_CACHED = ("dtype", "captions/s", "waiting for data")
_LIBRARIES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch", "peer": "the peer"}


def markdown(report: dict) -> str:
    """Tables of steps, of products of matrices, and of training from cached features.

    Args:
        report: as `tools.benchmark_train.run` returns it.
    """
    shape, vit = report["shape"], report["vit"]
    size = "x".join(str(side) for side in shape["image_size"])
    product = " x ".join(str(side) for side in report["product"])
    lines = [
        *heading("Training", report),
        f"Steps with random weights, all parts trained: {report['batch_size']} images, captions of {report['num_tokens']} "
        f"tokens; decoder of {shape['num_layers']} layers of width {shape['hidden_dim']} with {shape['vocabulary_size']} "
        f"tokens. The image encoder is a ViT of {vit['num_hidden_layers']} layers of width {vit['hidden_size']} at "
        f"{vit['image_size']} px, whose sequence the decoder reads as it is, or {shape['image_encoder']} at {size} with "
        f"{shape['num_image_layers']} image blocks. Ours is the trainers' own step: AdamW, label smoothing and dropout as "
        "`captioner train` has them, and clipping where the table says so. The peer is Hugging Face's "
        "VisionEncoderDecoderModel on PyTorch with the ViT and AdamW without clipping, in float32, or in its own lines in "
        "bfloat16 by autocast; it takes one caption an image, so images are repeated. Ours and the peer took turns; medians "
        f"of {report['repetitions']}. The first step counts from "
        "before the model is built. Processor seconds are those of all threads, which other programs on the machine change "
        "least. Memory is the peak of a process of its own.",
        "",
        *table(_STEPS, (_step_row(row, report) for row in report["steps"])),
        "",
        "The share of the peak counts products and convolutions of a step, three times those of its forward pass, against "
        f"the fastest product of {product} that was measured:",
        "",
        *table(("dtype", "library", "GFLOP/s"), _peak_rows(report["peaks"])),
        "",
        f"The shape of {DEFAULT_PRESET} trained from cached features: random images, 5 captions of 20 tokens each, 32 images a "
        "step. Waiting is the time that steps were blocked because the next batch was not there; at most 5 % is wanted.",
        "",
        *table(_CACHED, (_cached_row(*item) for item in report["cached"].items())),
        "",
    ]
    return "\n".join(lines)


def _step_row(row: dict, report: dict) -> tuple:
    ours, peer, num_captions = row["ours"], row["peer"], report["batch_size"] * row["num_captions"]
    rate = num_captions / ours["step_seconds"]
    peak = max(report["peaks"][row["dtype"]].values())
    encoder = "ViT" if row["encoder"] == "vit" else report["shape"]["image_encoder"]
    return (
        encoder, row["num_captions"], _LIBRARIES[row["library"]], row["dtype"],
        "yes" if row["gradient_checkpointing"] else "-", "yes" if row["clipping"] else "-", f"{rate:.2f}",
        f"{ours['step_seconds']:.2f}",
        f"{ours['processor_seconds']:.1f}", f"{ours['flops'] / ours['step_seconds'] / 1e9 / peak:.0%}",
        f"{ours['peak_mb']:.0f}",
        f"{ours['first_step_seconds']:.0f} ({ours['first_step_processor_seconds']:.0f})", *_beside(peer, ours, num_captions),
    )  # fmt: skip


def _beside(peer: dict | None, ours: dict, num_captions: int) -> tuple:
    if peer is None:
        return ("-",) * 5
    return (
        f"{num_captions / peer['step_seconds']:.2f}", f"{peer['processor_seconds']:.1f}", f"{peer['peak_mb']:.0f}",
        f"{peer['step_seconds'] / ours['step_seconds']:.1f}",
        f"{peer['processor_seconds'] / ours['processor_seconds']:.1f}",
    )  # fmt: skip


def _peak_rows(peaks: dict):
    for dtype, by_library in peaks.items():
        for library, gflops in by_library.items():
            yield dtype, "PyTorch" if library == "peer" else _LIBRARIES[library], f"{gflops:.0f}"


def _cached_row(dtype: str, row: dict) -> tuple:
    return dtype, f"{row['captions_per_second']:.0f}", f"{row['waiting_share']:.1%}"
