"""`captioner benchmark decode`: how fast captions are decoded, beside the floor and beside a peer."""

import dataclasses
import importlib.util
import json
import shlex
import sys
from pathlib import Path
from typing import Literal

from captioner.files import atomic_path
from tools.benchmarks.machine import hardware, num_cores
from tools.benchmarks.measure import Case, measure_case
from tools.benchmarks.report import markdown
from tools.errors import UsageError

MODELS = {
    "gpt2_124m": {
        "model": {
            "image_encoder": "efficientnet_v2_s", "image_size": (224, 224), "vocabulary_size": 50257,
            "hidden_dim": 768, "num_heads": 12, "num_image_layers": 2, "num_layers": 12,
        },
        "peer_encoder": {},  # ViT-B/16 at 224: 197 image tokens
        "num_image_tokens": 197,
    },
    "tiny": {
        "model": {
            "image_encoder": "efficientnet_lite0", "image_size": (32, 32), "vocabulary_size": 50,
            "hidden_dim": 8, "num_heads": 2, "num_image_layers": 1, "num_layers": 2,
        },
        "peer_encoder": {
            "image_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        "num_image_tokens": 5,
    },
}  # fmt: skip
"""Shapes: ours, and the peer's image encoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkDecodeCommand:
    """Times decoding with random weights and a forced length: captions/s, memory, floor, and a peer.

    Examples:
        captioner benchmark decode --quick
        captioner benchmark decode --output decode.md --peer-python /path/to/python
    """

    output: str | None = None
    """A .md file for the report; a .json beside it gets the numbers. Default: the terminal only."""
    model: Literal["gpt2_124m", "tiny"] = "gpt2_124m"
    """Shapes of the model; tiny tries the command."""
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    """Images at once."""
    num_beams: tuple[int, ...] = (1, 5)
    """Beams; 1 is greedy."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    """Of the decoder; the image encoder is float32 in all."""
    num_tokens: int = 20
    """Tokens of each caption."""
    repetitions: int = 5
    """Measurements of each configuration, in turns; medians are reported."""
    num_threads: int | None = None
    """Threads of ours and of the peer; those that this process may run on if not given."""
    peer_python: str | None = None
    """Interpreter with torch and transformers; this one, if it has them and none is given."""
    quick: bool = False
    """One image, few tokens, two measurements: a look, not a result."""

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "num_beams"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"`{name}` must be numbers of at least 1; received {name}={getattr(self, name)}."
                )
        for name in ("num_tokens", "repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; received {name}={getattr(self, name)}.")
        if not self.dtypes:
            raise ValueError("`dtypes` must name at least one dtype; received none.")


def benchmark_decode(command: BenchmarkDecodeCommand) -> int:
    """Runs the command; prints the report and returns 0."""
    if command.output is not None and Path(command.output).suffix != ".md":
        raise UsageError(f"--output must end in .md; received {command.output!r}.")
    if command.quick:
        command = dataclasses.replace(command, batch_sizes=(1,), num_tokens=4, repetitions=2)
    report = run(command)
    write_report(report, markdown(report), command.output)
    return 0


def write_report(report: dict, text: str, output: str | None) -> None:
    """Prints the text, and writes it to `output` and the report beside it as .json, if there is an `output`."""
    sys.stdout.write(text)
    if output is None:
        return
    path = Path(output)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    say(f"written to {path} and {path.with_suffix('.json')}")


def say(message: str) -> None:
    """Tells the user what happens."""
    sys.stderr.write(f"captioner: {message}\n")


def run(command: BenchmarkDecodeCommand) -> dict:
    """Measures; returns the report as JSON values."""
    shape = MODELS[command.model]
    peer_python = command.peer_python or _this_python_if_peer()
    num_threads = command.num_threads or num_cores()
    common = {**shape, "num_tokens": command.num_tokens, "num_threads": num_threads}
    versions: dict[str, str] = {}

    def rows(cases: list[Case], **arguments) -> list[dict]:
        measured = []
        for case in cases:
            say(f"measuring {case}")
            row = measure_case(case, common, repetitions=command.repetitions, versions=versions, **arguments)
            measured.append(row)
        return measured

    table = rows(
        [Case(batch_size=b, num_beams=k) for b in command.batch_sizes for k in command.num_beams],
        dtypes=command.dtypes,
        peer_python=peer_python,
        with_floor=True,
    )
    growth = rows(
        _growth_cases(command, shape), dtypes=command.dtypes[:1], peer_python=None, with_floor=False
    )
    return {
        "command": shlex.join(["captioner", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": {"python": sys.version.split()[0], **versions},
        "num_threads": num_threads,
        "model": command.model,
        "num_tokens": command.num_tokens,
        "num_image_tokens": shape["num_image_tokens"],
        "repetitions": command.repetitions,
        "shape": shape["model"],
        "table": table,
        "growth": growth,
    }


def _growth_cases(command: BenchmarkDecodeCommand, shape: dict) -> list[Case]:
    """One size at a time grows: beams, tokens, image tokens."""
    batch, beams, factors = (1, 2, (2,)) if command.quick else (4, 5, (2, 4))
    tokens, image_tokens = command.num_tokens, shape["num_image_tokens"]
    base = Case(batch_size=batch, num_beams=beams, num_tokens=tokens, num_image_tokens=image_tokens)
    return [
        base,
        *(dataclasses.replace(base, num_beams=beams * n) for n in factors),
        *(dataclasses.replace(base, num_tokens=tokens * n) for n in factors),
        *(dataclasses.replace(base, num_image_tokens=image_tokens * n) for n in factors),
    ]


def _this_python_if_peer() -> str | None:
    has_peer = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return sys.executable if has_peer else None
