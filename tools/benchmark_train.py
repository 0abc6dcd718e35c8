"""`captioner benchmark train`: how fast captioners are trained, beside a peer and beside the machine's peak."""

import dataclasses
import shlex
import sys
from typing import Literal

from captioner.cores import num_cores
from tools.benchmark import MODELS, PEER_MODULES
from tools.benchmarks.flops import vit_tokens
from tools.benchmarks.machine import hardware
from tools.benchmarks.measure_train import Contestant, Measurer
from tools.benchmarks.output import can_import, python_with, require_markdown, write_report
from tools.benchmarks.train_report import markdown
from tools.messages import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkTrainCommand:
    """Times training steps with random weights, and training from cached features: captions/s, memory, and a peer.

    Examples:
        captioner benchmark train --quick
        captioner benchmark train --output train.md --peer-python /path/to/python
    """

    output: str | None = None
    """A .md file for the report; a .json beside it gets the numbers. Default: the terminal only."""
    model: Literal["gpt2_124m", "tiny"] = "gpt2_124m"
    """Shapes of the model; tiny tries the command."""
    encoders: tuple[Literal["vit", "named"], ...] = ("vit", "named")
    """Image encoders: the peer's ViT, and the one that the model is named with."""
    captions_per_image: tuple[int, ...] = (1, 5)
    """Captions of each image of a step."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Of ours; bfloat16 keeps the weights in float32. The peer is measured in both."""
    libraries: tuple[Literal["tensorflow", "jax", "torch"], ...] = ("tensorflow", "jax")
    """Keras's backends for ours; those that no interpreter has are left out."""
    gradient_checkpointing: tuple[Literal["no", "yes"], ...] = ("no",)
    """Whether ours computes transformer blocks again in the backward pass; `no yes` measures both."""
    clipping: tuple[Literal["yes", "no"], ...] = ("yes",)
    """Whether ours clips the norm of the gradient, as training does by default and the peer does not; `yes no` measures both."""
    batch_size: int = 8
    """Images of a step."""
    num_tokens: int = 20
    """Tokens of each caption."""
    repetitions: int = 5
    """Measurements of each, in turns; medians are reported."""
    num_threads: int | None = None
    """Threads of ours and of the peer; those that this process may run on if not given."""
    peer_python: str | None = None
    """Interpreter with torch and transformers, and with jax and what this package requires; this one if none is given."""
    quick: bool = False
    """One image encoder, two measurements: a look, not a result."""

    def __post_init__(self) -> None:
        for name in (
            "encoders",
            "captions_per_image",
            "dtypes",
            "libraries",
            "gradient_checkpointing",
            "clipping",
        ):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must name at least one; received none.")
        for name in ("batch_size", "num_tokens", "repetitions", "captions_per_image"):
            value = getattr(self, name)
            if (min(value) if isinstance(value, tuple) else value) < 1:
                raise ValueError(f"`{name}` must be at least 1; received {name}={value}.")


def benchmark_train(command: BenchmarkTrainCommand) -> int:
    """Runs the command; prints the report and returns 0."""
    require_markdown(command.output)
    if command.quick:
        command = dataclasses.replace(command, encoders=command.encoders[:1], repetitions=2)
    report = run(command)
    write_report(report, markdown(report), command.output)
    return 0


def run(command: BenchmarkTrainCommand) -> dict:
    """Measures; returns the report as JSON values."""
    shape = MODELS[command.model]
    num_threads = command.num_threads or num_cores()
    sizes = {"batch_size": command.batch_size, "num_tokens": command.num_tokens}
    pythons = _pythons(command)
    measurer = Measurer(shape | sizes | {"num_threads": num_threads}, pythons, command.repetitions)
    vit = shape["vit"]
    product = (command.batch_size * vit_tokens(vit), vit["hidden_size"], vit["intermediate_size"])
    peaks = {
        dtype: {library: measurer.peak(library, dtype, product) for library in pythons}
        for dtype in command.dtypes
    }
    cached = {dtype: measurer.cached(dtype) for dtype in command.dtypes}
    steps = []
    for contestant in _contestants(command, pythons):
        say(f"measuring {contestant}")
        steps.append(measurer.step(contestant))
    return {
        "command": shlex.join(["captioner", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": {"python": sys.version.split()[0], **measurer.versions},
        "num_threads": num_threads,
        "model": command.model,
        "shape": shape["model"],
        "vit": vit,
        **sizes,
        "repetitions": command.repetitions,
        "product": product,
        "peaks": peaks,
        "cached": cached,
        "steps": steps,
    }


def _pythons(command: BenchmarkTrainCommand) -> dict[str, str]:
    """The interpreter of each library that is to be had."""
    pythons = {"tensorflow": sys.executable}
    for library in ("jax", "torch"):
        if library in command.libraries:
            pythons[library] = python_with(library)
            if pythons[library] is None and command.peer_python and can_import(command.peer_python, library):
                pythons[library] = command.peer_python
    pythons["peer"] = python_with(*PEER_MODULES, given=command.peer_python)
    return {library: python for library, python in pythons.items() if python}


def _contestants(command: BenchmarkTrainCommand, pythons: dict[str, str]) -> list[Contestant]:
    """Ours in all configurations, then the peer in bfloat16."""
    contestants = [
        Contestant(
            encoder=encoder,
            num_captions=num_captions,
            library=library,
            dtype=dtype,
            gradient_checkpointing=checkpointing == "yes",
            clipping=clipping == "yes",
        )
        for encoder in command.encoders
        for num_captions in command.captions_per_image
        for library in command.libraries
        for dtype in command.dtypes
        for checkpointing in command.gradient_checkpointing
        for clipping in command.clipping
        if library in pythons
    ]
    if "peer" in pythons and "bfloat16" in command.dtypes:
        contestants += [
            Contestant(
                encoder="vit", num_captions=num_captions, library="peer", dtype="bfloat16", clipping=False
            )
            for num_captions in command.captions_per_image
        ]
    return contestants
