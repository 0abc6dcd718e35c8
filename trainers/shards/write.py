"""Writes images and captions as tar shards in img2dataset's layout.

`00000.tar` holds for each sample KEY.jpg (or the true ending of its bytes), KEY.txt with one caption and KEY.json
with all of them; KEY is the number of the shard, five digits, and of the sample in it. `00000_stats.json` beside it
counts, and names the images that could not be used.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioner.cores import num_cores
from captioner.files import atomic_path
from captioner.images import MAX_FILE_BYTES, ImageError, decode_image
from trainers.disk import explained_disk_errors
from trainers.records import CaptionedImage, Problem

PLAN_FILE = "write_plan.json"
_SAMPLE_OVERHEAD_BYTES = 3 * 512 + 3 * 256 + 512  # headers, padding, and a .json without captions
_EXTENSIONS = {
    b"\xff\xd8": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"GIF8": "gif",
    b"II": "tif",
    b"MM": "tif",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """How samples are divided into shards."""

    samples_per_shard: int = 10_000
    """Most samples of a shard."""
    max_shard_mb: float | None = None
    """Most megabytes of a shard, about; any number by default."""
    seed: int = 0
    """Another seed shuffles otherwise."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ValueError(
                f"`samples_per_shard` must be at least 1; received samples_per_shard={self.samples_per_shard}."
            )
        if self.max_shard_mb is not None and not self.max_shard_mb > 0:
            raise ValueError(f"`max_shard_mb` must be above 0; received max_shard_mb={self.max_shard_mb}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenShards:
    """What was written, by this run and by those before it."""

    num_shards: int
    """Shards in the folder."""
    num_kept: int
    """Shards of them that were there already."""
    num_samples: int
    """Images in them."""
    num_captions: int
    """Their captions."""
    num_bytes: int
    """Size of all shards."""
    problems: tuple[Problem, ...]
    """Images that could not be used."""

    @property
    def counts(self) -> dict[str, int]:
        """Images that could not be used, by reason."""
        return dict(Counter(problem.reason for problem in self.problems).most_common())


def write_shards(
    images: Sequence[CaptionedImage],
    output: str | os.PathLike,
    layout: ShardLayout | None = None,
    *,
    root: str | os.PathLike | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> WrittenShards:
    """Writes shards, shuffled; the bytes of the images stay as they are.

    Each image is decoded wholly before; one that cannot be is left out and named. The same images, captions
    and layout give the same bytes. A shard that is there already is kept, so that an interrupted run goes on.

    Args:
        images: the images with their captions.
        output: path. Folder for the shards.
        layout: `ShardLayout`. Sizes and shuffling.
        root: path. Folder that the names of images in the .json are relative to; by default only the last
            part of their path is kept.
        num_threads: int. Images decoded at the same time, by default one for each processor.
        progress: bool. Whether to show a progress bar.

    Returns:
        A `WrittenShards`.

    Raises:
        ValueError: If there are no images, or the folder holds shards of other images or of another layout.
        OSError: If the folder cannot be written.
    """
    layout, output = layout or ShardLayout(), Path(output)
    if not images:
        raise ValueError("`images` must hold at least one image; received none.")
    shards = _divided(images, layout)
    width = max(4, len(str(layout.samples_per_shard - 1)))
    with explained_disk_errors(output, "output"):
        output.mkdir(parents=True, exist_ok=True)
        _claim(output, images, layout, shards, root)
        num_kept, kept_images, all_stats = 0, 0, []
        threads = ThreadPoolExecutor(num_threads or num_cores())
        with threads, tqdm(total=len(images), unit="image", desc="Writing", disable=not progress) as bar:
            for number, rows in enumerate(shards):
                tar, stats_path = output / f"{number:05d}.tar", output / f"{number:05d}_stats.json"
                if tar.exists() and stats_path.exists():
                    num_kept, kept_images = num_kept + 1, kept_images + len(rows)
                    bar.initial = kept_images  # they count as done, not as speed
                    bar.update(len(rows))
                else:
                    keys = [f"{number:05d}{place:0{width}d}" for place in range(len(rows))]
                    loaded = _loaded([images[row] for row in rows], keys, root, threads)
                    _write_shard(tar, stats_path, loaded, bar)
                all_stats.append(json.loads(stats_path.read_text(encoding="utf-8")))
    return WrittenShards(
        num_shards=len(shards),
        num_kept=num_kept,
        num_samples=sum(stats["successes"] for stats in all_stats),
        num_captions=sum(stats["captions"] for stats in all_stats),
        num_bytes=sum((output / f"{number:05d}.tar").stat().st_size for number in range(len(shards))),
        problems=tuple(Problem(**problem) for stats in all_stats for problem in stats["problems"]),
    )


def _divided(images: Sequence[CaptionedImage], layout: ShardLayout) -> list[list[int]]:
    """Positions of the images of each shard, in their order there."""
    order = np.random.default_rng(layout.seed).permutation(len(images)).tolist()
    max_bytes = math.inf if layout.max_shard_mb is None else layout.max_shard_mb * 1e6
    shards: list[list[int]] = []
    num_bytes = math.inf
    for row in order:
        size = 0 if max_bytes == math.inf else _sample_bytes(images[row])
        if not shards or len(shards[-1]) == layout.samples_per_shard or num_bytes + size > max_bytes:
            shards.append([])
            num_bytes = 0
        shards[-1].append(row)
        num_bytes += size
    return shards


def _sample_bytes(image: CaptionedImage) -> int:
    try:
        size = os.stat(image.path).st_size
    except OSError:  # it will be named when it is read
        size = 0
    return size + 2 * sum(len(caption.encode()) for caption in image.captions) + _SAMPLE_OVERHEAD_BYTES


def _claim(output: Path, images, layout: ShardLayout, shards: list[list[int]], root) -> None:
    """Notes in the folder what is written there, or refuses a folder that holds something else."""
    digest = hashlib.sha256()
    for rows in shards:
        for row in rows:
            image = images[row]
            digest.update(json.dumps([_name(image.path, root), image.captions]).encode())
        digest.update(b"\n")
    plan = {**dataclasses.asdict(layout), "num_images": len(images), "samples_sha256": digest.hexdigest()}
    path = output / PLAN_FILE
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = None
        known = known if isinstance(known, dict) else {}
        if known != plan:
            names = [field.name for field in dataclasses.fields(ShardLayout)]
            other = [f"`{name}`" for name in names if known.get(name) != plan[name]]
            raise ValueError(
                f"{output} holds shards with another {' and '.join(other) or 'set of images and captions'}. Give the "
                "same images, captions and settings to go on, or another `output`."
            )
    elif any(output.glob("*.tar")):
        raise ValueError(f"{output} holds shards of another origin. Choose another `output`.")
    else:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def _loaded(images, keys: list[str], root, threads: ThreadPoolExecutor) -> Iterator[dict | Problem]:
    """Samples in their order, read ahead in portions."""
    for start in range(0, len(images), 64):
        portion = slice(start, start + 64)
        yield from threads.map(lambda image, key: _sample(image, key, root), images[portion], keys[portion])


def _sample(image: CaptionedImage, key: str, root) -> dict | Problem:
    problem = {"item": str(image.path), "num_captions": len(image.captions)}
    try:
        if not os.path.isfile(image.path):
            reason = "unreadable file" if os.path.exists(image.path) else "missing file"
            return Problem(reason, **problem, detail="not a file")
        with open(image.path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        height, width, _ = decode_image(data).shape
    except OSError as error:
        return Problem("unreadable file", **problem, detail=str(error.strerror))
    except ImageError as error:
        return Problem("undecodable image", **problem, detail=str(error))
    metadata = {
        "caption": image.captions[0],
        "captions": image.captions,
        "key": key,
        "file_name": _name(image.path, root),
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    extension = next(name for magic, name in _EXTENSIONS.items() if data.startswith(magic))
    return {
        "__key__": key,
        extension: data,
        "txt": image.captions[0].encode(),
        "json": json.dumps(metadata).encode(),
    }


def _name(path: Path, root) -> str:
    if root is None:
        return os.path.basename(path)
    return os.path.relpath(path, root).replace(os.sep, "/")


def _write_shard(tar: Path, stats_path: Path, loaded: Iterator[dict | Problem], bar: tqdm) -> None:
    import webdataset

    problems, num_samples, num_captions = [], 0, 0
    with atomic_path(tar) as temporary:
        with temporary.open("wb") as file, webdataset.TarWriter(file, mtime=0, encoder=False) as writer:
            for sample in loaded:
                bar.update()
                if isinstance(sample, Problem):
                    problems.append(dataclasses.asdict(sample))
                    continue
                writer.write(sample)
                num_samples += 1
                num_captions += len(json.loads(sample["json"])["captions"])
        stats = {
            "count": num_samples + len(problems),
            "successes": num_samples,
            "captions": num_captions,
            "problems": problems,
        }
        with atomic_path(stats_path) as temporary_stats:  # before the tar, which says that all is done
            temporary_stats.write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")
