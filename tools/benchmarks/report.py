"""The report of the decoding benchmark as Markdown."""

from tools.benchmarks.markdown import heading, table
from tools.benchmarks.photos_report import photos_section


def markdown(report: dict) -> str:
    """Tables of speed, memory and growth, with what they were measured on.

    Args:
        report: as `tools.benchmark.run` returns it.
    """
    shape = report["shape"]
    size = "x".join(str(side) for side in shape["image_size"])
    lines = [
        *heading("Decoding", report),
        f"Random weights; exactly {report['num_tokens']} new tokens for each caption; {report['num_image_tokens']} image tokens; "
        f"decoder of {shape['num_layers']} layers of width {shape['hidden_dim']} with {shape['num_heads']} heads and "
        f"{shape['vocabulary_size']} tokens. Our image encoder is {shape['image_encoder']} at {size} in float32 with "
        f"{shape['num_image_layers']} image blocks, timed apart. "
        "The peer is Hugging Face's VisionEncoderDecoderModel with a ViT, float32 on PyTorch. Ours, the peer "
        f"and the floor took turns; medians of {report['repetitions']}. The floor is one product with each weight matrix that a "
        "step reads, in the fastest library of those tried, and nothing else, for as many steps; our share of it counts the "
        "projection of the image tokens, which is done once, as ours. Memory is the peak of a process of its own, "
        "image encoder included.",
        "",
        *table(_SPEED, _speed_rows(report["table"])),
        "",
        "Decoding alone, in steps, beside the floor and the peer:",
        "",
        *table(_STEPS, _step_rows(report["table"])),
        "",
        "What decoding costs when one size grows:",
        "",
        *table(_GROWTH, _growth_rows(report["growth"])),
        "",
        *(photos_section(report["photos"]) if report["photos"] else []),
    ]
    return "\n".join(lines)


_SPEED = (
    "batch", "beams", "decoder", "captions/s", "decoding alone/s", "share of decoding", "peak MB",
    "peer captions/s", "peer MB", "times the peer",
)  # fmt: skip
_STEPS = (
    "batch", "beams", "decoder", "ms a step", "floor ms", "floor by", "share of floor", "peer ms", "times the peer",
)  # fmt: skip
_GROWTH = ("batch", "beams", "tokens", "image tokens", "seconds", "times the first", "peak MB")


def _speed_rows(table: list[dict]):
    for row in table:
        batch, peer = row["batch_size"], row["peer"]
        for dtype, ours in row["ours"].items():
            whole = ours["decode_seconds"] + ours["encode_seconds"]
            peer_whole = peer and peer["decode_seconds"] + peer["encode_seconds"]
            yield (
                batch, row["num_beams"], dtype, f"{batch / whole:.2f}", f"{batch / ours['decode_seconds']:.2f}",
                f"{ours['decode_seconds'] / whole:.0%}", f"{ours['peak_mb']:.0f}",
                f"{batch / peer_whole:.2f}" if peer else "-", f"{peer['peak_mb']:.0f}" if peer else "-",
                f"{peer_whole / whole:.1f}" if peer else "-",
            )  # fmt: skip


def _step_rows(table: list[dict]):
    for row in table:
        peer, num_tokens = row["peer"], row["num_tokens"]
        for dtype, ours in row["ours"].items():
            library, floor = min(row["floor"][dtype].items(), key=lambda pair: pair[1])
            step = ours["decode_seconds"] / num_tokens
            yield (
                row["batch_size"], row["num_beams"], dtype, f"{1000 * step:.1f}", f"{1000 * floor:.1f}", library,
                f"{floor / step:.0%}", f"{1000 * peer['decode_seconds'] / num_tokens:.1f}" if peer else "-",
                f"{peer['decode_seconds'] / ours['decode_seconds']:.1f}" if peer else "-",
            )  # fmt: skip


def _growth_rows(growth: list[dict]):
    first = None
    for row in growth:
        ours = next(iter(row["ours"].values()))
        first = first or ours["decode_seconds"]
        yield (
            row["batch_size"], row["num_beams"], row["num_tokens"], row["num_image_tokens"],
            f"{ours['decode_seconds']:.2f}", f"{ours['decode_seconds'] / first:.2f}", f"{ours['peak_mb']:.0f}",
        )  # fmt: skip
