"""`captioner benchmark data`: what reading training data costs, beside other pipelines."""

import dataclasses
import shlex
import sys
import tempfile
from pathlib import Path

from tools.benchmarks.data_report import markdown
from tools.benchmarks.machine import hardware, num_cores
from tools.benchmarks.measure import take_turns
from tools.benchmarks.output import can_import, require_markdown, write_report
from tools.benchmarks.photo_sets import (
    QUALITY,
    bits_per_pixel,
    repeat_shard,
    write_indexed_shards,
    write_photos,
)
from tools.benchmarks.worker import ROOT, Worker
from tools.errors import UsageError
from tools.messages import say

OURS, PEERS, RUNS = (f"tools.benchmarks.{name}" for name in ("data_ours", "data_peers", "data_runs"))
SIZES = ((400, 300), (640, 480), (1600, 1200))
"""Widths and heights of the photos in px."""
OPENCV_PEERS = {
    "webdataset+cv2": ("webdataset", "cv2"),
    "webdataset+simplejpeg": ("webdataset", "cv2", "simplejpeg"),
    "webdataset+simplejpeg, smaller": ("webdataset", "cv2", "simplejpeg"),
}
"""What each of them imports."""
DALI = ("nvidia.dali", "nvidia.dali.plugin.tf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkDataCommand:
    """Times reading, decoding and resizing of training images, and the memory and start of a run.

    Counted is the CPU time of all threads, since images per CPU second say what a training needs. DALI, and webdataset with
    OpenCV and simplejpeg, are measured where they can be imported. Nothing runs on a GPU.

    Examples:
        captioner benchmark data --quick
        captioner benchmark data --output data.md --peer-python /path/to/python
    """

    output: str | None = None
    """A .md file for the report; a .json beside it gets the numbers. Default: the terminal only."""
    photos: str = str(ROOT / "res" / "photos")
    """Folder of JPEGs that the sets of photos are cut from."""
    sides: tuple[int, ...] = (224, 400)
    """Sides in px that images are resized to."""
    num_photos: int = 128
    """Photos of each set; a quarter of them at the largest size."""
    jpeg_quality: int = QUALITY
    """Quality of the JPEGs, 1 to 95."""
    batch_size: int = 32
    """Images at once; divides the number of photos of every set."""
    repetitions: int = 5
    """Measurements of each reader, in turns; medians are reported."""
    num_shards: int = 1000
    """Shards, of a thousand samples each, of the set whose first batch is timed."""
    num_small: int = 20_000
    """Images of the set whose memory is watched; they are 32 px wide."""
    epochs: int = 10
    """Times to go through that set."""
    shuffle_buffer: int = 10_000
    """As in `captioner train webdataset`."""
    peer_python: str | None = None
    """Interpreter with webdataset, OpenCV and simplejpeg; this one if none is given."""
    quick: bool = False
    """Few photos, small sets, two measurements: a look, not a result."""

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 1:
            raise ValueError(f"`sides` must be numbers of at least 1; received sides={self.sides}.")
        for name, least in {
            "repetitions": 1, "num_shards": 1, "num_small": 1, "epochs": 2, "batch_size": 1, "shuffle_buffer": 1,
        }.items():  # fmt: skip
            if (value := getattr(self, name)) < least:
                raise ValueError(f"`{name}` must be at least {least}; received {name}={value}.")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"`jpeg_quality` must be 1 to 95; received jpeg_quality={self.jpeg_quality}.")
        if self.num_photos < 1 or self.num_photos % (4 * self.batch_size) * (not self.quick):
            raise ValueError(
                f"`num_photos` must be a multiple of 4 * batch_size={self.batch_size}; received {self.num_photos}."
            )


def benchmark_data(command: BenchmarkDataCommand) -> int:
    """Runs the command; prints the report and returns 0."""
    require_markdown(command.output)
    if not any(Path(command.photos).glob("*.jpg")):
        raise UsageError(
            f"--photos must be a folder with .jpg files, such as res/photos of a checkout; received {command.photos!r}."
        )
    if command.quick:
        command = dataclasses.replace(
            command, num_photos=4 * 8, batch_size=8, repetitions=2, num_shards=20, num_small=200, epochs=3
        )
    report = run(command)
    write_report(report, markdown(report), command.output)
    return 0


def run(command: BenchmarkDataCommand) -> dict:
    """Measures; returns the report as JSON values."""
    peer_python = command.peer_python or sys.executable
    readers = _readers(peer_python)
    versions: dict[str, str] = {"python": sys.version.split()[0]}
    common = {
        "batch_size": command.batch_size,
        "shuffle_buffer": command.shuffle_buffer,
        "num_threads": num_cores(),
    }
    with tempfile.TemporaryDirectory(prefix="captioner_benchmark_") as folder:
        speed = _speed(command, Path(folder), readers, common, versions)
        engines = [name for name in ("tf", "dali") if name in readers]
        memory = _memory(command, Path(folder), engines, common)
        first_batch = _first_batch(command, Path(folder), engines, common)
    return {
        "command": shlex.join(["captioner", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions,
        "repetitions": command.repetitions,
        "jpeg_quality": command.jpeg_quality,
        "left_out": [name for name in ("dali", "DALI", *OPENCV_PEERS) if name not in readers],
        "speed": speed,
        "memory": memory,
        "first_batch": first_batch,
    }


def _readers(peer_python: str) -> dict[str, tuple[str, str]]:
    """Interpreter and module of each reader that can be measured."""
    readers = {name: (sys.executable, OURS) for name in ("tf", "csv", "decoder")}
    readers["tf.data"] = (sys.executable, PEERS)
    if can_import(sys.executable, *DALI):
        readers |= {"dali": (sys.executable, OURS), "DALI": (sys.executable, PEERS)}
    for name, packages in OPENCV_PEERS.items():
        if can_import(peer_python, *packages):
            readers[name] = (peer_python, PEERS)
    return readers


def _speed(
    command: BenchmarkDataCommand, folder: Path, readers: dict, common: dict, versions: dict[str, str]
) -> list[dict]:
    """CPU milliseconds of an image, for each size, side and reader, and of indexing it."""
    table, cases, sets = {}, {}, {}
    for size in SIZES:
        name = "x".join(map(str, size))
        num_images = command.num_photos // (4 if size == SIZES[-1] else 1)
        say(f"writing {num_images} photos of {name}")
        paths = write_photos(
            folder / name, command.photos, num_images=num_images, size=size, quality=command.jpeg_quality
        )
        shards = write_indexed_shards(folder / f"{name}_shards", paths, samples_per_shard=num_images)
        sets[name] = {"paths": paths, "shards": shards, "size": size}
        for side in command.sides:
            cases[f"{name} to {side}"] = sets[name] | {"side": side}
            table[f"{name} to {side}"] = {
                "size": size,
                "side": side,
                "bits_per_pixel": bits_per_pixel(paths, size),
            }
    say(f"measuring {', '.join(readers)}, and indexing")
    wanted = {
        reader: (python, module, common | {"cases": cases, "part": reader})
        for reader, (python, module) in readers.items()
    }
    wanted["indexing"] = (sys.executable, RUNS, {"cases": sets, "what": "indexing"})
    medians = take_turns(wanted, repetitions=command.repetitions, versions=versions)
    for name, row in table.items():
        row["cpu_ms"] = {reader: 1000 * medians[reader][name] for reader in readers}
        row["indexing_cpu_ms"] = 1000 * medians["indexing"][name.partition(" to ")[0]]
    return list(table.values())


def _memory(command: BenchmarkDataCommand, folder: Path, engines: list[str], common: dict) -> dict:
    """MB held after each epoch of the small set, for each engine."""
    say(f"writing {command.num_small} small images")
    paths = write_photos(folder / "small", command.photos, num_images=command.num_small, size=(32, 24))
    shards = write_indexed_shards(folder / "small_shards", paths, samples_per_shard=1000)
    given = {"what": "memory", "shards": shards, "num_images": len(paths), "side": 32}
    result = {"num_images": len(paths)}
    for engine in engines:
        say(f"{command.epochs} epochs with engine {engine}")
        with Worker(sys.executable, RUNS, common | given | {"part": engine}) as worker:
            result[engine] = [worker.measure()["memory_mb"] for _ in range(command.epochs)]
    return result


def _first_batch(command: BenchmarkDataCommand, folder: Path, engines: list[str], common: dict) -> dict:
    """Seconds to the first batch of many shards, each time in a new process, for each engine."""
    num_samples = 40 if command.quick else 1000
    paths = write_photos(folder / "first", command.photos, num_images=num_samples, size=SIZES[0])
    [shard] = write_indexed_shards(folder / "one_shard", paths, samples_per_shard=num_samples)
    repeat_shard(shard, folder / "shards", command.num_shards)
    given = {"what": "first_batch", "shards": [str(folder / "shards")], "side": command.sides[0]}
    result = {"num_shards": command.num_shards, "samples_per_shard": num_samples}
    for engine in engines:
        say(f"first batch of {command.num_shards} shards with engine {engine}")
        runs = []
        for _ in range(command.repetitions):
            with Worker(sys.executable, RUNS, common | given | {"part": engine}) as worker:
                runs.append(worker.measure())
        result[engine] = min(runs, key=lambda answer: answer["seconds"])
    return result
