"""Measures the peak memory of `captioner convert huggingface` on a synthetic GPT-2 of a published size.

Usage: python tests/benchmarks/conversion_memory.py {124M,355M,774M,1558M} FOLDER

FOLDER takes the checkpoint and the preset, together 2.4 to 2.7 times the checkpoint; both are removed at the end.
"""

import json
import math
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from captioner.weights import write_safetensors

SIZES = {"124M": (768, 12, 12), "355M": (1024, 24, 16), "774M": (1280, 36, 20), "1558M": (1600, 48, 25)}
NUM_TOKENS, NUM_POSITIONS = 50257, 1024


def main(size: str, folder: str) -> None:
    width, num_layers, num_heads = SIZES[size]
    source, out = Path(folder) / "synthetic", Path(folder) / "preset"
    shutil.rmtree(out, ignore_errors=True)
    source.mkdir(parents=True, exist_ok=True)
    shapes = tensor_shapes(width, num_layers)
    write_safetensors(
        source / "model.safetensors",
        [(name, shape, lambda s=shape: random(s)) for name, shape in shapes.items()],
    )
    config = {"model_type": "gpt2", "vocab_size": NUM_TOKENS, "n_positions": NUM_POSITIONS, "n_embd": width}
    (source / "config.json").write_text(json.dumps(config | {"n_layer": num_layers, "n_head": num_heads}))
    tokens = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    tokens += [f"<{i}>" for i in range(len(tokens), NUM_TOKENS)]
    (source / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (source / "merges.txt").write_text("#version: 0.2\n")

    small = [
        "--image-encoder",
        "efficientnet_lite0",
        "--image-encoder-weights",
        "none",
        "--image-size-px",
        "32",
    ]
    command = [sys.executable, "-m", "tools.main", "convert", "huggingface", str(source), str(out), *small]
    start = time.perf_counter()
    subprocess.run([*command, "--num-image-layers", "0"], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    checkpoint = sum(4 * math.prod(shape) for shape in shapes.values())
    preset = (out / "model.weights.h5").stat().st_size
    report = {"checkpoint": checkpoint, "preset": preset, "peak memory": peak}
    for name, count in report.items():
        sys.stdout.write(f"{name}: {count / 1e9:.2f} GB, {count / checkpoint:.2f} of the checkpoint\n")
    sys.stdout.write(f"peak memory: {peak / preset:.2f} of the preset; {seconds:.0f} s\n")
    shutil.rmtree(source)
    shutil.rmtree(out)


def tensor_shapes(width: int, num_layers: int) -> dict[str, tuple[int, ...]]:
    shapes = {"wte.weight": (NUM_TOKENS, width), "wpe.weight": (NUM_POSITIONS, width)}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    for i in range(num_layers):
        layers = {"ln_1": (width,), "ln_2": (width,), "attn.c_attn": (width, 3 * width)}
        layers |= {
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }
        for name, shape in layers.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    return shapes


def random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, "float32") * np.float32(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
