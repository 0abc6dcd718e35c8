"""Finds unusable images before training, and reports all that was left out of the data."""

import contextlib
import dataclasses
import json
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
from tqdm import tqdm

from captioner.cores import num_cores
from captioner.images import ImageError, read_image
from trainers.disk import default_cache_dir, explained_disk_errors, run_file
from trainers.records import CaptionedImage, CaptionRecords, Problem

_DECODER = f"1 pillow {PIL.__version__}"  # what another decoder said is no longer known


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a table's images and captions came down to."""

    source: str
    """The table."""
    columns: tuple[str, str] | None
    """The columns read as image and caption, if the format has columns."""
    num_rows: int
    """Captions in the table."""
    num_images: int
    """Images that are used."""
    num_captions: int
    """Captions that are used."""
    problems: tuple[Problem, ...]
    """What was left out, each item named."""
    num_unnamed: dict[str, int] = dataclasses.field(default_factory=dict)
    """Items left out by reason that are too many to be named here as well; the indexes of shards name them."""
    num_unnamed_captions: int = 0
    """Captions lost with them."""

    @property
    def counts(self) -> dict[str, int]:
        """Items left out for each reason, the most frequent first."""
        named = Counter(problem.reason for problem in self.problems)
        return dict((named + Counter(self.num_unnamed)).most_common())

    @property
    def bad_fraction(self) -> float:
        """Share of the table's captions that are not used; a lost image counts with all of its captions."""
        num_captions = sum(problem.num_captions for problem in self.problems)
        return (num_captions + self.num_unnamed_captions) / max(self.num_rows, 1)

    def summary(self) -> str:
        """One paragraph for people."""
        text = f"{self.source}: {self.num_images:,} images with {self.num_captions:,} captions"
        if not self.counts:
            return f"{text}; nothing was left out."
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.items())
        text = f"{text}; left out {self.bad_fraction:.2%} of the captions: {reasons}."
        if not self.num_unnamed:
            return text
        num_unnamed = sum(self.num_unnamed.values())
        return f"{text} {num_unnamed:,} of these are not named here: `captioner shards check --report FILE` names all."

    def to_dict(self) -> dict:
        """The report for JSON, with counts and share."""
        return {
            **dataclasses.asdict(self),
            "counts": self.counts,
            "bad_fraction": self.bad_fraction,
            "summary": self.summary(),
        }


def check_data(
    records: CaptionRecords,
    *,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[list[CaptionedImage], DataReport]:
    """Leaves out the images that are missing or cannot be decoded.

    Args:
        records: what `read_captions` gave.
        cache_dir: path, by default `~/.cache/captioner`. Remembers what was found out about unchanged files.
        progress: bool. Whether to show a progress bar.

    Returns:
        The usable images in their order, and a `DataReport` of everything left out, the rows included.

    Raises:
        OSError: If the cache folder cannot be written.
    """
    problems = check_images(records.images, cache_dir=cache_dir, progress=progress)
    bad = {problem.item for problem in problems}
    images = [image for image in records.images if str(image.path) not in bad]
    report = DataReport(
        source=records.source,
        columns=records.columns,
        num_rows=records.num_rows,
        num_images=len(images),
        num_captions=sum(len(image.captions) for image in images),
        problems=(*records.problems, *problems),
    )
    return images, report


def check_images(
    images: Sequence[CaptionedImage],
    *,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[Problem]:
    """Decodes each image wholly, unless the same file was decoded before.

    Args, Raises: as for `check_data`.

    Returns:
        The problem of each missing, unreadable or undecodable file, in the order of `images`.
    """
    cache_dir = Path(cache_dir or default_cache_dir())
    problems = []
    with (
        explained_disk_errors(cache_dir, "cache_dir"),
        _Memory(cache_dir / "checked_images.sqlite") as memory,
        ThreadPoolExecutor(num_cores()) as threads,
    ):
        bar = tqdm(images, unit="image", desc="Checking images", disable=not progress)
        # In portions: what an interruption loses is one of them, and the queue stays short.
        for start in range(0, len(images), 1024):
            portion = images[start : start + 1024]
            paths = [str(image.path) for image in portion]
            known = memory.recall(paths)
            found = threads.map(lambda path, known=known: _check(path, known.get(path)), paths)
            remembered = []
            for image, (reason, detail, identity) in zip(portion, found, strict=True):
                if reason:
                    problems.append(Problem(reason, str(image.path), detail, len(image.captions)))
                if identity is not None:
                    remembered.append((str(image.path), *identity, detail))
                bar.update()
            memory.remember(remembered)
        bar.close()
    return problems


def write_data_report(path: str | os.PathLike, reports: Mapping[str, DataReport]) -> None:
    """Writes reports by the name of their part, such as "train" and "validation", as one JSON file."""
    with run_file(path) as temporary:
        content = {part: report.to_dict() for part, report in reports.items()}
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def read_problems(path: str | os.PathLike, part: str) -> list[Problem]:
    """The problems of a part of a report that `write_data_report` wrote; none if the file or the part is not there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Problem(**problem) for problem in content[part]["problems"]]
    return []


def require_good_data(report: DataReport, max_bad_fraction: float, report_path: str | os.PathLike) -> None:
    """Refuses data of which too much was left out.

    Args:
        report: DataReport. The report of one table, already written to `report_path`.
        max_bad_fraction: float. The largest share of captions that may be left out, 0 to 1.
        report_path: path. Where the reader finds every item.

    Raises:
        ValueError: If `report.bad_fraction` is larger, or no image is left.
    """
    if not 0.0 <= max_bad_fraction <= 1.0:
        raise ValueError(f"`max_bad_fraction` must be from 0 to 1; received {max_bad_fraction}.")
    if report.num_images and report.bad_fraction <= max_bad_fraction:
        return
    examples = "".join(f"\n  {p.reason}: {p.item}  {p.detail}".rstrip() for p in report.problems[:5])
    limit = (
        f"the limit is max_bad_fraction={max_bad_fraction:.2%}" if report.num_images else "no image is left"
    )
    raise ValueError(
        f"{report.summary()}\nThat is too much: {limit}.{examples}\nThey are named in {report_path}."
    )


def _check(path: str, known: tuple | None) -> tuple[str, str, tuple[int, int] | None]:
    """Reason and detail, empty for a good file, and the size and time to remember it by, None for none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "missing file", "", None
    except OSError as error:
        return "unreadable file", str(error.strerror), None
    if not stat.S_ISREG(status.st_mode):
        return "unreadable file", "not a file", None
    identity = (status.st_size, status.st_mtime_ns)
    if known is not None and known[:2] == identity:
        return "undecodable image" if known[2] else "", known[2], None
    try:
        read_image(path)
    except ImageError as error:
        if isinstance(error.__cause__, OSError):  # it may be readable tomorrow
            return "unreadable file", str(error), None
        return "undecodable image", str(error).removeprefix(f"{path}: "), identity
    return "", "", identity


class _Memory:
    """What was found out about files, in a database that several runs may use at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Memory":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._forget(error)
        return self

    def __exit__(self, *_) -> None:
        self.database.close()

    def _open(self) -> None:
        self.database = sqlite3.connect(self.path, timeout=60)
        with self.database:
            self.database.execute(
                "CREATE TABLE IF NOT EXISTS checked (path TEXT, decoder TEXT, size INTEGER, "
                "mtime_ns INTEGER, problem TEXT, PRIMARY KEY (path, decoder))"
            )

    def _forget(self, error: sqlite3.DatabaseError) -> None:
        """Begins anew: a damaged memory is worth nothing; it fills again. One that cannot be used is an error."""
        if isinstance(error, sqlite3.OperationalError):
            raise self._explained(error) from error
        self.database.close()
        self.path.unlink()
        self._open()

    def recall(self, paths: list[str]) -> dict[str, tuple[int, int, str]]:
        """Size, time and problem (empty for none) of the paths that were checked before."""
        try:
            return dict(self._recall(paths))
        except sqlite3.DatabaseError as error:
            self._forget(error)
            return {}

    def _recall(self, paths: list[str]) -> Iterator[tuple[str, tuple[int, int, str]]]:
        query = "SELECT size, mtime_ns, problem FROM checked WHERE path = ? AND decoder = ?"
        for path in paths:
            row = self.database.execute(query, (path, _DECODER)).fetchone()
            if row is not None:
                yield path, row

    def remember(self, rows: list[tuple[str, int, int, str]]) -> None:
        """Keeps `(path, size, mtime_ns, problem)`; a damaged memory loses them."""
        try:
            with self.database:
                self.database.executemany(
                    "INSERT OR REPLACE INTO checked VALUES (?, ?, ?, ?, ?)",
                    [(path, _DECODER, *rest) for path, *rest in rows],
                )
        except sqlite3.DatabaseError as error:
            self._forget(error)

    def _explained(self, error: sqlite3.Error) -> OSError:
        return OSError(f"cannot write {self.path}: {error}. Choose another folder with `cache_dir`.")
