"""The `captioner shards` commands: write tar shards, index them, and tell what training would see."""

import dataclasses
import itertools
import sys
from pathlib import Path

import tyro

from captioner.fetch import public_address
from tools.errors import UsageError
from trainers.records import Problem
from trainers.shards.filters import ShardFilters
from trainers.shards.paths import find_shards, is_remote
from trainers.shards.report import ShardsReport, inspect_shards, write_report
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
class ShardsIndexCommand(ShardFilters):
    """Checks every sample of tar shards and writes beside each shard the index that training reads.

    A sample is good if its image decodes wholly, a caption is text, and the filters let it pass. Training reads good
    samples only; all others are counted and named in the report. The same command goes on after a break, and reads
    only what has changed.

    Examples:
        captioner shards index shards/

        captioner shards index 'cc12m/{00000..01242}.tar' --min-side-px 64 --max-aspect-ratio 4 --tags remove
    """

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Tars, folders of tars, globs, or ranges in braces."""
    num_processes: int | None = None
    """Shards that are read at the same time, by default one for each processor."""
    report: Path | None = None
    """JSON file that names every rejected sample. Default: reports/shards.json in the first shard's folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_processes is not None and self.num_processes < 1:
            raise UsageError(f"--num-processes must be at least 1; received {self.num_processes}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsCheckCommand:
    """Tells what a training run would see of tar shards, by their indexes.

    The exit code is 1 if a sample was rejected, or if a shard has no index or has changed since it was indexed.

    Example:
        captioner shards check 'cc3m/{00000..00331}.tar' --num-names 100
    """

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Tars, folders of tars, globs, or ranges in braces."""
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
        _say(f"left out: {_described(problem)}")
    if len(problems) > _NOTES_SHOWN:
        _say(f"and {len(problems) - _NOTES_SHOWN:,} more; images are named in {command.output}/*_stats.json")
    print(
        f"{written.num_shards:,} shards{kept} in {command.output}: {written.num_samples:,} images with "
        f"{written.num_captions:,} captions, {written.num_bytes / 1e6:,.1f} MB"
    )
    print(f"Index them: captioner shards index {command.output}")
    return 1 if any(problem.reason != "duplicate row" for problem in problems) else 0


def shards_index(command: ShardsIndexCommand) -> int:
    """Runs the command; returns 0, or 1 if a shard could not be read."""
    from trainers.shards.build_index import build_indexes

    shards = _local_shards(command.shards)
    filters = ShardFilters(
        **{field.name: getattr(command, field.name) for field in dataclasses.fields(ShardFilters)}
    )
    report = build_indexes(
        shards, filters=filters, num_processes=command.num_processes, progress=sys.stderr.isatty()
    )
    noted = [status for status in report.statuses if status.note not in _QUIET_NOTES]
    for status in noted[:_NOTES_SHOWN]:
        _say(f"{status.shard}: {status.note}")
    if len(noted) > _NOTES_SHOWN:
        _say(f"and {len(noted) - _NOTES_SHOWN:,} more shards like these")
    path = command.report or Path(shards[0]).parent / REPORT_FILE
    write_report(path, report)
    _print_totals(report)
    print(f"Every one of them is named in {path}" if report.counts else f"Report: {path}")
    return 1 if any(status.problem for status in report.statuses) else 0


def shards_check(command: ShardsCheckCommand) -> int:
    """Runs the command; returns 0, or 1 if something was rejected or a shard has no good index."""
    from tqdm import tqdm

    shards = _local_shards(command.shards)
    with tqdm(total=len(shards), unit="shard", desc="Reading indexes", disable=None) as bar:
        report = inspect_shards(shards, on_shard=lambda status: bar.update())
    if command.report is not None:
        write_report(command.report, report)
    _print_totals(report)
    for shard, problem in itertools.islice(report.problems(), command.num_names):
        folder = Path(shard).parent
        print(f"  {folder}/{_described(problem)}")
    hidden = sum(report.counts.values()) - command.num_names
    if hidden > 0:
        print(f"  and {hidden:,} more; --report FILE names all, --num-names N shows more")
    return 1 if report.counts else 0


def shards_missing(command: ShardsMissingCommand) -> int:
    """Runs the command; returns 0, or 1 if the download of a shard is not finished."""
    from trainers.shards.downloads import read_downloads, write_missing

    shards = _local_shards(command.shards)
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
        _say(f"{shard}: not finished; run the command that downloads it again")
    if (hidden := len(downloads.unfinished) - command.num_names) > 0:
        _say(f"and {hidden:,} more unfinished shards")
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


def _local_shards(words: tuple[str, ...]) -> list[str]:
    if not words:
        raise UsageError("name at least one shard, folder, glob, or range such as 'cc3m/{00000..00331}.tar'.")
    try:
        shards = find_shards(words)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    remote = next(filter(is_remote, shards), None)
    if remote is not None:
        raise UsageError(f"shards are indexed where they lie; download {public_address(remote)!r} first.")
    return shards


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


def _say(message: str) -> None:
    sys.stderr.write(f"captioner: {message}\n")
