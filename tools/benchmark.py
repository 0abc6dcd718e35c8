"""`captioner benchmark decode`: how fast captions are decoded, beside the floor and beside a peer."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Literal

from captioner.cores import num_cores
from captioner.resources import DEFAULT_PRESET
from tools.benchmarks.machine import hardware
from tools.benchmarks.measure import Case, measure_case, measure_photos
from tools.benchmarks.output import python_with, require_markdown, write_report
from tools.benchmarks.photos import photos_in
from tools.benchmarks.report import markdown
from tools.messages import say

MODELS = {
    "gpt2_124m": {
        "model": {
            "image_encoder": "efficientnet_v2_s", "image_size": (224, 224), "vocabulary_size": 50257,
            "hidden_dim": 768, "num_heads": 12, "num_image_layers": 2, "num_layers": 12,
        },
        "vit": {  # ViT-B/16: 197 image tokens
            "image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        "num_image_tokens": 197,
    },
    "tiny": {
        "model": {
            "image_encoder": "efficientnet_lite0", "image_size": (32, 32), "vocabulary_size": 50,
            "hidden_dim": 8, "num_heads": 2, "num_image_layers": 1, "num_layers": 2,
        },
        "vit": {
            "image_size": 32, "patch_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        "num_image_tokens": 5,
    },
}  # fmt: skip
"""Shapes: ours, and the ViT that is the peer's image encoder, in the peer's words."""
PEER_MODULES = ("torch", "transformers")
PHOTOS_BATCH_SIZE = 16
"""As `captioner caption` takes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkDecodeCommand:
    """Times decoding with random weights and a forced length: captions/s, memory, floor, and a peer.

    Examples:
        captioner benchmark decode --quick
        captioner benchmark decode --output decode.md --peer-python /path/to/python
        captioner benchmark decode --photos photos/ --preset runs/mine
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
    photos: str | None = None
    """A folder of photos: also times captioning it with --preset, and the first captions."""
    preset: str = DEFAULT_PRESET
    """With --photos: a bundled preset's name, a preset's folder, or a training run's folder."""
    num_photos: int = 1000
    """Photos of the folder that are used, at most."""
    quick: bool = False
    """One image, few tokens, few photos, two measurements: a look, not a result."""

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "num_beams"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"`{name}` must be numbers of at least 1; received {name}={getattr(self, name)}."
                )
        for name in ("num_tokens", "repetitions", "num_photos"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; received {name}={getattr(self, name)}.")
        if self.photos is None and self.preset != DEFAULT_PRESET:
            raise ValueError(
                f"`preset` is for --photos, which is not given; received preset={self.preset!r}."
            )
        if not self.dtypes:
            raise ValueError("`dtypes` must name at least one dtype; received none.")


def benchmark_decode(command: BenchmarkDecodeCommand) -> int:
    """Runs the command; prints the report and returns 0."""
    require_markdown(command.output)
    if command.quick:
        num_photos = min(command.num_photos, 32)
        command = dataclasses.replace(
            command, batch_sizes=(1,), num_tokens=4, repetitions=2, num_photos=num_photos
        )
    if command.photos is not None:
        photos_in(command.photos, command.num_photos)  # an empty folder is an error now, not in an hour
    report = run(command)
    write_report(report, markdown(report), command.output)
    return 0


def run(command: BenchmarkDecodeCommand) -> dict:
    """Measures; returns the report as JSON values."""
    shape = MODELS[command.model]
    peer_python = python_with(*PEER_MODULES, given=command.peer_python)
    num_threads = command.num_threads or num_cores()
    common = {**shape, "num_tokens": command.num_tokens, "num_threads": num_threads}
    versions: dict[str, str] = {}
    preset = None if command.photos is None else _resolved(command.preset)

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
    photos = None
    if command.photos is not None:
        say(f"captioning the photos of {command.photos}")
        photos = measure_photos(
            {
                "photos": str(Path(command.photos).absolute()),  # workers run in another folder
                "num_photos": command.num_photos,
                "preset": preset,
                "batch_size": PHOTOS_BATCH_SIZE,
                "num_threads": num_threads,
            },
            dtypes=command.dtypes,
            repetitions=command.repetitions,
            versions=versions,
        ) | {"preset": command.preset}
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
        "photos": photos,
    }


def _resolved(preset: str) -> str:
    """What a worker, which runs in another folder, loads.

    Raises:
        FileNotFoundError: If there is no such preset.
    """
    from tools.quiet import import_tensorflow

    import_tensorflow()
    from captioner.model.presets import resolve_preset

    resolved = resolve_preset(preset)
    return resolved if "://" in resolved else str(Path(resolved).absolute())


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
