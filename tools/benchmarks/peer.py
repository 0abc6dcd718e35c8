"""Measures Hugging Face's VisionEncoderDecoderModel with random weights on PyTorch; needs torch and transformers only."""

import time
from collections.abc import Callable

from tools.benchmarks.worker import serve


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Builds what `part` of the configuration names: `caption` or `floor`."""
    import torch
    import transformers

    torch.set_num_threads(configuration["num_threads"])
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    measure = {"caption": _caption, "floor": _floor}[configuration["part"]](configuration)
    return {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}, measure


def _caption(configuration: dict) -> Callable[[], dict]:
    import torch
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    shape, num_tokens = configuration["model"], configuration["num_tokens"]
    decoder = GPT2Config(
        n_embd=shape["hidden_dim"],
        n_head=shape["num_heads"],
        n_layer=shape["num_layers"],
        vocab_size=shape["vocabulary_size"],
        add_cross_attention=True,
        bos_token_id=0,
        eos_token_id=None,
    )
    encoder = ViTConfig(**configuration["peer_encoder"])
    model = VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    ).eval()
    model.generation_config.eos_token_id = None
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
        token_ids, whole_seconds = _timed(generate)
        _, encode_seconds = _timed(lambda: model.encoder(images))
        return {
            "decode_seconds": whole_seconds - encode_seconds,
            "encode_seconds": encode_seconds,
            "num_tokens": token_ids.shape[-1] - 1,
        }

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
        return {"step_seconds": min(_timed(step)[1] for _ in range(5))}

    return measure


def _timed(function: Callable):
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    serve(start)
