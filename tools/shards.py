"""The `captioner shards` commands: write tar shards, index them, and tell what training would see."""

import dataclasses
import itertools
import math
import os
import sys
from pathlib import Path

import tyro

from tools.errors import UsageError
from tools.messages import say
from trainers.records import Problem
from trainers.shards.filters import ShardFilters
from trainers.shards.paths import find_shards, is_remote, shown
from trainers.shards.remote import DEFAULT_CACHE_GB, open_cache
from trainers.shards.report import (
    DAMAGED_INDEX,
    NO_INDEX,
    OUTDATED_INDEX,
    ShardsReport,
    write_report,
)
from trainers.shards.write import ShardLayout

REPORT_FILE = "reports/shards.json"
"""Not beside the shards: img2dataset takes each .json there for one of its own when it goes on after a break."""
_QUIET_NOTES = ("", "indexed", "up to date")
_NOTES_SHOWN = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsWriteCommand(ShardLayout):
    """Writes images and captions as shuffled tar shards, in the layout of img2dataset and webdataset.

    The bytes of the images stay as they are; each is decoded once, and one that cannot be is left out and named. All
    captions of an image are in its .json, the first one in its .txt. The same command goes on after a break.

    Examples:
        captioner shards write --csv train.csv --images photos/ --output shards/

        captioner shards write --csv dataset_coco.json --images coco/ --split train --output shards/ --max-shard-mb 500

        captioner shards write --images folder_with_txt_beside_each/ --output shards/
    """

    output: Path
    """Folder for the shards."""
    csv: Path | None = None
    """Table: CSV, TSV, JSON lines, COCO or Karpathy's JSON. Without it each image needs a .txt, one caption a line."""
    images: Path | None = None
    """Folder that the table's image names start from, by default its own; or the folder of images with their .txt."""
    image_column: str | None = None
    """The table's column of image names; guessed from common names by default."""
    caption_column: str | None = None
    """The table's column of captions; guessed from common names by default."""
    split: str | None = None
    """Only this split of the table, for tables that have splits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.csv is None and self.images is None:
            raise UsageError("give --csv TABLE, or --images FOLDER whose images have a .txt beside them.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CacheFlags:
    """Where remote shards are kept."""

    cache_dir: Path | None = None
    """Folder of caches, as for training; by default ~/.cache/captioner. Remote shards and their indexes lie in `shards` there."""
    shard_cache_gb: float = DEFAULT_CACHE_GB
    """Disk space for remote shards, in 10^9 bytes."""

    def __post_init__(self) -> None:
        if not 0 < self.shard_cache_gb < math.inf:
            raise UsageError(f"--shard-cache-gb must be above 0; received {self.shard_cache_gb}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsIndexCommand(_CacheFlags, ShardFilters):
    """Checks every sample of tar shards and writes beside each shard the index that training reads.

    A sample is good if its image decodes wholly, a caption is text, and the filters let it pass. Training reads good
    samples only; all others are counted and named in the report. The same command goes on after a break, and reads
    only what has changed.

    Remote shards are fetched ahead, and their indexes kept in the cache. One whose server still tells the same of it is not
    fetched again. The exit code is 1 if a shard could not be fetched or read.

    Examples:
        captioner shards index shards/

        captioner shards index 'cc12m/{00000..01242}.tar' --min-side-px 64 --max-aspect-ratio 4 --tags remove

        captioner shards index 'https://host/cc3m/{00000..00331}.tar' --min-side-px 64
    """

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Tars, folders of tars, globs, or ranges in braces; also addresses, as https:// and whatever fsspec opens."""
    num_processes: int | None = None
    """Shards that are read at the same time, by default one for each processor."""
    report: Path | None = None
    """JSON file that names every rejected sample. Default: reports/shards.json in the folder of the first shard's index."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ShardFilters.__post_init__(self)
        if self.num_processes is not None and self.num_processes < 1:
            raise UsageError(f"--num-processes must be at least 1; received {self.num_processes}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsCheckCommand(_CacheFlags):
    """Tells what a training run would see of tar shards, by their indexes.

    The exit code is 1 if a sample was rejected, or if a shard has no index or has changed since it was indexed. Servers of
    remote shards are asked whether they have changed, and for the indexes beside them; shards are not fetched.

    Examples:
        captioner shards check 'cc3m/{00000..00331}.tar' --num-names 100

        captioner shards check 'https://host/cc3m/{00000..00331}.tar'
    """

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Tars, folders of tars, globs, or ranges in braces; also addresses, as https:// and whatever fsspec opens."""
    num_names: int = 20
    """Rejected samples that are named on the terminal."""
    report: Path | None = None
    """JSON file to write, that names all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsMissingCommand:
    """Tells how many images of a list img2dataset could download, and why it could not download the others.

    The exit code is 1 if the download of a shard is not finished.

    Example:
        captioner shards missing cc3m/ --output missing.parquet
    """

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Tars that img2dataset wrote, folders of tars, globs, or ranges in braces."""
    output: Path | None = None
    """Parquet file to write: the addresses and captions that failed, for img2dataset. Needs pyarrow."""
    num_names: int = 20
    """Error messages and unfinished shards that are shown."""


def shards_write(command: ShardsWriteCommand) -> int:
    """Runs the command; returns 0, or 1 if more than repeated captions was left out."""
    from trainers.caption_folder import read_folder
    from trainers.caption_tables import read_captions
    from trainers.shards.write import write_shards

    if command.csv is None:
        records = read_folder(command.images)
    else:
        records = read_captions(
            command.csv,
            command.images,
            image_column=command.image_column,
            caption_column=command.caption_column,
            split=command.split,
        )
    layout = ShardLayout(
        **{field.name: getattr(command, field.name) for field in dataclasses.fields(ShardLayout)}
    )
    root = command.images or command.csv.parent
    written = write_shards(records.images, command.output, layout, root=root, progress=sys.stderr.isatty())
    kept = f" ({written.num_kept:,} were there already)" if written.num_kept else ""
    problems = (*records.problems, *written.problems)
    for problem in problems[:_NOTES_SHOWN]:
        say(f"left out: {_described(problem)}")
    if len(problems) > _NOTES_SHOWN:
        say(f"and {len(problems) - _NOTES_SHOWN:,} more; images are named in {command.output}/*_stats.json")
    print(
        f"{written.num_shards:,} shards{kept} in {command.output}: {written.num_samples:,} images with "
        f"{written.num_captions:,} captions, {written.num_bytes / 1e6:,.1f} MB"
    )
    print(f"Index them: captioner shards index {command.output}")
    return 1 if any(problem.reason != "duplicate row" for problem in problems) else 0


def shards_index(command: ShardsIndexCommand) -> int:
    """Runs the command; returns 0, or 1 if a shard could not be fetched or read."""
    from trainers.shards.build_index import build_indexes

    shards = _found_shards(command.shards)
    filters = ShardFilters(
        **{field.name: getattr(command, field.name) for field in dataclasses.fields(ShardFilters)}
    )
    with open_cache(shards, command.cache_dir, command.shard_cache_gb) as cache:
        first = shards[0] if cache is None else cache.local_path(shards[0])
        report = build_indexes(
            shards,
            filters=filters,
            num_processes=command.num_processes,
            progress=sys.stderr.isatty(),
            cache=cache,
        )
    noted = [status for status in report.statuses if status.note not in _QUIET_NOTES]
    for status in noted[:_NOTES_SHOWN]:
        say(f"{status.shard}: {status.note}")
    if len(noted) > _NOTES_SHOWN:
        say(f"and {len(noted) - _NOTES_SHOWN:,} more shards like these")
    path = command.report or Path(first).parent / REPORT_FILE
    write_report(path, report)
    _print_totals(report)
    print(f"Every one of them is named in {path}" if report.counts else f"Report: {path}")
    return 1 if any(status.problem for status in report.statuses) else 0


def shards_check(command: ShardsCheckCommand) -> int:
    """Runs the command; returns 0, or 1 if something was rejected or a shard has no good index."""
    from trainers.shards.inspection import inspect_shards

    shards = _found_shards(command.shards)
    with open_cache(shards, command.cache_dir, command.shard_cache_gb) as cache:
        report = inspect_shards(shards, cache, progress=sys.stderr.isatty())
    if command.report is not None:
        write_report(command.report, report)
    _print_totals(report)
    for shard, problem in itertools.islice(report.problems(), command.num_names):
        print(f"  {os.path.join(os.path.dirname(shard), _described(problem))}")
    hidden = sum(report.counts.values()) - command.num_names
    if hidden > 0:
        print(f"  and {hidden:,} more; --report FILE names all, --num-names N shows more")
    if report.counts.keys() & {NO_INDEX, OUTDATED_INDEX, DAMAGED_INDEX}:
        print("Make indexes that are missing, outdated or damaged with `captioner shards index`.")
    return 1 if report.counts else 0


def shards_missing(command: ShardsMissingCommand) -> int:
    """Runs the command; returns 0, or 1 if the download of a shard is not finished."""
    from trainers.shards.downloads import read_downloads, write_missing

    shards = _found_shards(command.shards)
    if (remote := next(filter(is_remote, shards), None)) is not None:
        raise UsageError(
            f"what img2dataset writes beside its shards is read where it lies; download {shown(remote)!r} and that first."
        )
    downloads = read_downloads(shards)
    num_missing = downloads.num_urls - downloads.num_succeeded
    share = f" ({num_missing / downloads.num_urls:.1%})" if downloads.num_urls else ""
    print(
        f"{len(shards):,} shards: {downloads.num_succeeded:,} of {downloads.num_urls:,} images are there, "
        f"{num_missing:,}{share} are missing"
    )
    for message, count in itertools.islice(downloads.errors.items(), command.num_names):
        print(f"  {count:>9,}  {message}")
    if (hidden := len(downloads.errors) - command.num_names) > 0:
        print(f"  and {hidden:,} more messages; --num-names N shows more")
    for shard in downloads.unfinished[: command.num_names]:
        say(f"{shard}: not finished; run the command that downloads it again")
    if (hidden := len(downloads.unfinished) - command.num_names) > 0:
        say(f"and {hidden:,} more unfinished shards")
    if command.output is not None:
        finished = [shard for shard in shards if shard not in set(downloads.unfinished)]
        num_rows = write_missing(command.output, finished) if finished else 0
        if num_rows:
            print(
                f"Fetch the {num_rows:,} again into another folder: img2dataset --url_list {command.output} --input_format "
                "parquet --url_col url --caption_col caption --output_format webdataset --output_folder FOLDER"
            )
        else:
            print(f"Nothing failed: {command.output} is not written.")
    return 1 if downloads.unfinished else 0


def _found_shards(words: tuple[str, ...]) -> list[str]:
    if not words:
        raise UsageError("name at least one shard, folder, glob, or range such as 'cc3m/{00000..00331}.tar'.")
    try:
        return find_shards(words)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error


def _print_totals(report: ShardsReport) -> None:
    print(
        f"{len(report.statuses):,} shards: {report.num_samples:,} of {report.num_read:,} samples are good, with "
        f"{report.num_captions:,} captions"
    )
    if report.counts:
        print("Left out:")
    for reason, count in report.counts.items():
        print(f"  {count:>9,}  {reason}")


def _described(problem: Problem) -> str:
    return ": ".join(filter(None, (problem.item, problem.reason, problem.detail)))
