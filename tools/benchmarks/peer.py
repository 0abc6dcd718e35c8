"""Measures Hugging Face's VisionEncoderDecoderModel with random weights on PyTorch; needs torch and transformers only."""

import functools
import time
from collections.abc import Callable

from tools.benchmarks.flops import decoder_flops, step_flops, vit_flops, vit_tokens
from tools.benchmarks.worker import serve, timed, timed_step


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Builds what `part` of the configuration names: `caption`, `floor`, `step` or `peak`."""
    import torch
    import transformers

    torch.set_num_threads(configuration["num_threads"])
    torch.manual_seed(0)
    torch.set_grad_enabled(configuration["part"] == "step")
    parts = {"caption": _caption, "floor": _floor, "step": _step, "peak": _peak}
    measure = parts[configuration["part"]](configuration)
    return {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}, measure


def build(configuration: dict):
    """The model with random weights, and its ViT's configuration."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    shape = configuration["model"]
    decoder = GPT2Config(
        n_embd=shape["hidden_dim"],
        n_head=shape["num_heads"],
        n_layer=shape["num_layers"],
        vocab_size=shape["vocabulary_size"],
        add_cross_attention=True,
        bos_token_id=0,
        eos_token_id=None,
    )
    encoder = ViTConfig(**configuration["vit"])
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return VisionEncoderDecoderModel(config), encoder


def _caption(configuration: dict) -> Callable[[], dict]:
    import torch

    num_tokens = configuration["num_tokens"]
    model, encoder = build(configuration)
    model.eval().generation_config.eos_token_id = None
    images = torch.randn(configuration["batch_size"], 3, encoder.image_size, encoder.image_size)

    def generate():
        return model.generate(
            images,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=None,
            num_beams=configuration["num_beams"],
            do_sample=False,
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
        )

    def measure() -> dict:
        token_ids, whole_seconds = timed(generate)
        _, encode_seconds = timed(lambda: model.encoder(images))
        return {
            "decode_seconds": whole_seconds - encode_seconds,
            "encode_seconds": encode_seconds,
            "num_tokens": token_ids.shape[-1] - 1,
        }

    return measure


def _step(configuration: dict) -> Callable[[], dict]:
    """Training steps of B images with G captions each: it takes one caption an image, so images are repeated."""
    import torch

    started, processor_started = time.perf_counter(), time.process_time()
    model, encoder = build(configuration)
    model.train()
    model.config.decoder_start_token_id = model.config.pad_token_id = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    images = torch.randn(configuration["batch_size"], 3, encoder.image_size, encoder.image_size)
    images = images.repeat_interleave(configuration["num_captions"], dim=0)
    labels = torch.randint(
        1, configuration["model"]["vocabulary_size"], (len(images), configuration["num_tokens"])
    )

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=configuration["dtype"] == "bfloat16"):
            loss = model(pixel_values=images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    texts = decoder_flops(
        configuration["model"], len(images), 1, configuration["num_tokens"], vit_tokens(configuration["vit"])
    )
    facts = {
        "first_step_seconds": time.perf_counter() - started,
        "first_step_processor_seconds": time.process_time() - processor_started,
        "flops": step_flops(len(images) * vit_flops(configuration["vit"]) + texts),
    }
    return lambda: facts | timed_step(step)


def _peak(configuration: dict) -> Callable[[], dict]:
    import torch

    rows, inner, columns = configuration["product"]
    dtype = getattr(torch, configuration["dtype"])
    x, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    multiply = functools.partial(torch.nn.functional.linear, x, weight)

    def measure() -> dict:
        return {"gflops": 2e-9 * rows * inner * columns / min(timed(multiply)[1] for _ in range(5))}

    return measure


def _floor(configuration: dict) -> Callable[[], dict]:
    import torch

    from tools.benchmarks.ours import weight_shapes

    model, dtype = configuration["model"], getattr(torch, configuration["dtype"])
    num_rows = configuration["batch_size"] * configuration["num_beams"]
    shapes = weight_shapes(model["hidden_dim"], model["num_layers"], model["vocabulary_size"])
    weights = [torch.randn(columns, rows).to(dtype) for rows, columns in shapes]
    inputs = {rows: torch.randn(num_rows, rows).to(dtype) for rows, _ in shapes}

    def step():
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    def measure() -> dict:
        num_steps = configuration["num_tokens"]
        _, seconds = timed(lambda: [step() for _ in range(num_steps)])
        return {"step_seconds": seconds / num_steps}

    return measure


if __name__ == "__main__":
    serve(start)
