"""`captioner shards index`, `check` and `missing`: what training would see of tar shards."""

import dataclasses
import itertools
import math
import os
import sys
from pathlib import Path

import tyro

from tools.errors import UsageError
from tools.messages import say
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

REPORT_FILE = "reports/shards.json"
"""Not beside the shards: img2dataset takes each .json there for one of its own when it goes on after a break."""
_NOTES_SHOWN = 20
_QUIET_NOTES = ("", "indexed", "up to date")


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

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_count(self.num_names)


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

    def __post_init__(self) -> None:
        _require_count(self.num_names)


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
        print(f"  {os.path.join(os.path.dirname(shard), str(problem))}")
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


def _require_count(num_names: int) -> None:
    if num_names < 0:
        raise UsageError(f"--num-names must be at least 0; received {num_names}.")


def _found_shards(words: tuple[str, ...]) -> list[str]:
    if not words:
        raise UsageError("name at least one shard, folder, glob, or range such as 'cc3m/{00000..00331}.tar'.")
    try:
        return find_shards(words)
    except (FileNotFoundError, ValueError) as error:
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
