"""Measuring in turns; one configuration of the decoding benchmark: ours, the peer, the floor; a folder of photos."""

import contextlib
import dataclasses
import statistics
import sys
from collections.abc import Hashable, Mapping

from tools.benchmarks.worker import Worker

OURS, PEER, PHOTOS = "tools.benchmarks.ours", "tools.benchmarks.peer", "tools.benchmarks.photos"
NUM_IDLE_PHOTOS = 256
"""Photos whose steps are counted, one at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of one configuration; None takes the benchmark's."""

    batch_size: int
    """Images at once (B)."""
    num_beams: int
    """Beams (K); 1 is greedy."""
    num_tokens: int | None = None
    """Tokens of a caption."""
    num_image_tokens: int | None = None
    """Image tokens (S)."""

    def given(self) -> dict:
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def __str__(self) -> str:
        sizes = self.given().items()
        return ", ".join(f"{key.removeprefix('num_').replace('_', ' ')} {value}" for key, value in sizes)


def take_turns(
    wanted: Mapping[Hashable, tuple[str, str, dict]], *, repetitions: int, versions: dict[str, str]
) -> dict[Hashable, dict]:
    """Measures each of some workers, one after the other, again and again.

    Args:
        wanted: for each name the interpreter, module and configuration of its worker.
        repetitions: measurements of each.
        versions: takes the versions of the libraries.

    Returns:
        For each name the medians of what its worker answered.
    """
    answers = {key: [] for key in wanted}
    with contextlib.ExitStack() as stack:
        workers = {}
        for key, arguments in wanted.items():
            workers[key] = stack.enter_context(Worker(*arguments))
            versions.update(workers[key].about["versions"])
        for _ in range(repetitions):
            for key, worker in workers.items():
                answers[key].append(worker.measure())
    return {key: medians_of(measured) for key, measured in answers.items()}


def measure_case(
    case: Case,
    common: dict,
    *,
    dtypes: tuple[str, ...],
    peer_python: str | None,
    with_floor: bool,
    repetitions: int,
    versions: dict[str, str],
) -> dict:
    """Measures ours in each dtype, the peer, and the floor in each dtype.

    Args:
        case: the sizes.
        common: what all configurations share.
        dtypes: of our decoder.
        peer_python: interpreter of the peer; None leaves it out.
        with_floor: whether to time the floor.
        repetitions: measurements of each, in turns.
        versions: takes the versions of the libraries.

    Returns:
        The sizes, and `ours`, `peer` and `floor`: medians in seconds, and peak memory in MB.
    """
    shared = common | case.given() | {"with_encoder": with_floor}
    wanted = {("ours", dtype): (sys.executable, OURS, "caption", dtype) for dtype in dtypes}
    if peer_python:
        wanted["peer", "float32"] = (peer_python, PEER, "caption", "float32")
    for dtype in dtypes if with_floor else ():
        wanted["TensorFlow", dtype] = (sys.executable, OURS, "floor", dtype)
        if peer_python:
            wanted["PyTorch", dtype] = (peer_python, PEER, "floor", dtype)
    medians = take_turns(
        {
            key: (python, module, shared | {"part": part, "dtype": dtype})
            for key, (python, module, part, dtype) in wanted.items()
        },
        repetitions=repetitions,
        versions=versions,
    )
    ours = {dtype: medians["ours", dtype] for dtype in dtypes}
    for answer in [*ours.values(), *([medians["peer", "float32"]] if peer_python else [])]:
        _require_forced(answer, shared["num_tokens"])
    floor = {
        dtype: {
            library: medians[library, dtype]["step_seconds"]
            for library in ("TensorFlow", "PyTorch")
            if (library, dtype) in medians
        }
        for dtype in dtypes
    }
    return {
        **{key: shared[key] for key in ("batch_size", "num_beams", "num_tokens", "num_image_tokens")},
        "ours": ours,
        "peer": medians.get(("peer", "float32")),
        "floor": floor if with_floor else None,
    }


def measure_photos(
    common: dict, *, dtypes: tuple[str, ...], repetitions: int, versions: dict[str, str]
) -> dict:
    """Measures what captioning a folder of photos costs; see `tools.benchmarks.photos`.

    Args:
        common: `photos`, a folder; `num_photos` at most; `preset`; `batch_size`; `num_threads`.
        dtypes: of the preset's decoder; one that is slow here is left out.
        repetitions: measurements of each, in turns; the first captions in new processes.
        versions: takes the versions of the libraries.

    Returns:
        `folder` and `first_captions` of each dtype, medians, and `idle_rows`.
    """

    def worker(part: str, dtype: str, **changes) -> Worker:
        return Worker(sys.executable, PHOTOS, common | {"part": part, "dtype": dtype} | changes)

    folder, first_captions = {}, {}
    with contextlib.ExitStack() as stack:
        workers = {}
        for dtype in dtypes:
            worker_of_dtype = stack.enter_context(worker("folder", dtype))
            versions.update(worker_of_dtype.about["versions"])
            if worker_of_dtype.about["dtype"] == dtype:
                workers[dtype], folder[dtype], first_captions[dtype] = worker_of_dtype, [], []
        for _ in range(repetitions):
            for dtype, worker_of_dtype in workers.items():
                folder[dtype].append(worker_of_dtype.measure())
    for _ in range(repetitions):
        for dtype, measured in first_captions.items():
            with worker("first_captions", dtype) as worker_of_dtype:
                measured.append(worker_of_dtype.measure())
    num_photos = min(common["num_photos"], NUM_IDLE_PHOTOS)
    with worker("idle_rows", dtypes[0], num_photos=num_photos) as counting:
        idle_rows = counting.measure()
    return {
        "batch_size": common["batch_size"],
        "preset": common["preset"],
        "folder": {dtype: medians_of(measured) for dtype, measured in folder.items()},
        "first_captions": {dtype: medians_of(measured) for dtype, measured in first_captions.items()},
        "idle_rows": idle_rows,
    }


def medians_of(measured: list):
    """The median of numbers, or of each entry of dicts."""
    if isinstance(measured[0], dict):
        return {key: medians_of([answer[key] for answer in measured]) for key in measured[0]}
    return statistics.median(measured)


def _require_forced(answer: dict, num_tokens: int) -> None:
    if answer["num_tokens"] != num_tokens:
        raise RuntimeError(
            f"captions must have {num_tokens} tokens, or their times say nothing; they have {answer['num_tokens']}."
        )
