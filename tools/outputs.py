"""Where captions go: the terminal, or a file that an interrupted command goes on with."""

import abc
import csv
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from captioner.files import atomic_path
from tools.errors import UsageError

FIELDS = ("image", "rank", "caption", "log_prob", "score", "confidence")
ENDINGS = (".csv", ".jsonl", ".json")
SCORE_FIELDS = ("image", "caption", "log_prob", "score", "confidence", "tokens", "token_log_probs")
SCORE_ENDINGS = (".jsonl", ".csv")


class ScoredCaption(Protocol):
    """What is written of a caption; `captioner.model.Caption` has it."""

    text: str
    log_prob: float
    score: float
    confidence: float | None


def open_output(path: str, num_captions: int) -> "CaptionFile":
    """Opens a captions file by its ending; what an earlier command wrote there stays.

    Args:
        path: string. Ends in `.csv`, `.jsonl`, or `.json` (COCO results).
        num_captions: int. Captions that a finished image has; the last image of an interrupted file is taken
            out if it has fewer.

    Raises:
        UsageError: If the ending is another, or COCO results shall hold several captions of an image.
        ValueError: If the file exists and is no captions file.
    """
    ending = Path(path).suffix.lower()
    if ending == ".json":
        if num_captions > 1:
            raise UsageError(
                "COCO results (.json) hold one caption for each image; for --num-captions above 1 choose an "
                f"--output that ends in .jsonl or .csv; received {path!r}."
            )
        return CocoResults(Path(path))
    if ending not in ENDINGS:
        raise UsageError(f"--output must end in {', '.join(ENDINGS)}; received {path!r}.")
    return _LINES[ending](Path(path), lambda image: num_captions, FIELDS, "captioner caption")


def open_scores(path: Path, num_captions: Callable[[str], int]) -> "CaptionFile":
    """Opens a file of scored captions by its ending, one of `SCORE_ENDINGS`; what an earlier command wrote there stays.

    Args:
        path: path of the file.
        num_captions: function from an image's name to the number of captions that are scored.

    Raises:
        ValueError: If the file exists and holds no scored captions.
    """
    return _LINES[path.suffix.lower()](path, num_captions, SCORE_FIELDS, "captioner score")


def caption_rows(image: str, captions: Sequence[ScoredCaption]) -> list[dict[str, Any]]:
    """The rows of one image, best first. A caption is one line of text."""
    return [
        {
            "image": image,
            "rank": rank,
            "caption": " ".join(caption.text.split()),
            "log_prob": round(float(caption.log_prob), 6),
            "score": round(float(caption.score), 6),
            "confidence": None if caption.confidence is None else round(float(caption.confidence), 6),
        }
        for rank, caption in enumerate(captions, start=1)
    ]


class CaptionFile(abc.ABC):
    """A text file of one line for each caption that only grows, an image at a time.

    An interrupted command leaves at worst a half-written last line or an image with too few captions; both
    are cut off when the file is opened again.
    """

    header = ""
    line_start = ""

    def __init__(
        self, path: Path, num_captions: Callable[[str], int], fields: Sequence[str], command: str
    ) -> None:
        """Opens the file.

        Args:
            path: path of the file.
            num_captions: function from an image's name to the number of captions of it when it is finished.
            fields: what a row holds.
            command: the command that writes such files.
        """
        self.path, self.fields, self.command = path, fields, command
        self._done: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        size = self._read(num_captions) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(size)
        if size == 0:
            self._append(self.header)

    def __enter__(self) -> "CaptionFile":
        return self

    def __exit__(self, kind, *_) -> None:
        self._file.close()

    def has(self, image: str) -> bool:
        """Whether the file already holds the captions of an image."""
        return image in self._done

    def refusal(self, image: str) -> str | None:
        """Why the file cannot hold the captions of an image of this name, or None."""
        return None

    def write(self, captioned: Sequence[tuple[str, Sequence[ScoredCaption]]]) -> None:
        """Appends the captions of a batch, pairs of an image's name and its captions."""
        self.write_rows([row for image, captions in captioned for row in caption_rows(image, captions)])

    def write_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends all rows of an image, or of several."""
        self._append("".join(map(self.line, rows)))
        self._done.update(row["image"] for row in rows)

    @abc.abstractmethod
    def line(self, row: dict[str, Any]) -> str:
        """One row as a line, with its end."""

    @abc.abstractmethod
    def parse(self, line: str) -> dict[str, Any] | None:
        """The row of a line, or None if it is none."""

    def _append(self, text: str) -> None:
        self._file.write(text.encode("utf-8", errors="surrogateescape"))
        self._file.flush()

    def _read(self, num_captions: Callable[[str], int]) -> int:
        """Fills the set of finished images; returns the size of the file without its unfinished end."""
        content = self.path.read_bytes()
        lines = _lines(content)
        size, last, start, count = 0, None, 0, 0
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n") and number == len(lines):
                begins = self.header or self.line_start
                if number == 1 and not (begins.startswith(line) or line.startswith(begins)):
                    raise self._no_captions_file(number, line)
                break
            if number == 1 and self.header:
                if line.rstrip("\r\n") != self.header.rstrip():
                    raise self._no_captions_file(number, line)
            else:
                row = self.parse(line)
                if row is None or "image" not in row:
                    raise self._no_captions_file(number, line)
                if row["image"] != last:
                    last, start, count = row["image"], size, 0
                    self._done.add(last)
                count += 1
            size += len(line.encode("utf-8", errors="surrogateescape"))
        if last is not None and count < num_captions(last):
            self._done.discard(last)
            size = start
        return size

    def _no_captions_file(self, number: int, line: str) -> ValueError:
        return ValueError(
            f"{self.path} exists and was not written by `{self.command}`: line {number} is {line[:60]!r}; "
            "nothing was changed. Choose another --output, or remove the file."
        )


class JsonLines(CaptionFile):
    """One JSON object a line."""

    line_start = '{"image": "'

    def line(self, row: dict[str, Any]) -> str:
        # An undecodable file name is a surrogate, which JSON can only hold escaped.
        escape = any("\ud800" <= letter <= "\udfff" for letter in row["image"])
        return json.dumps(row, ensure_ascii=escape) + "\n"

    def parse(self, line: str) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return None
        return row if isinstance(row, dict) and row.keys() == set(self.fields) else None


class CsvTable(CaptionFile):
    """A table of one row for each caption; lists are JSON in their cells, and line breaks are spaces."""

    @property
    def header(self) -> str:
        return ",".join(self.fields) + "\n"

    def line(self, row: dict[str, Any]) -> str:
        cells = {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            for name, value in row.items()
        }
        cells["caption"] = re.sub(r"[\r\n]+", " ", cells["caption"])
        text = io.StringIO()
        csv.DictWriter(text, self.fields, lineterminator="\n").writerow(cells)
        return text.getvalue()

    def refusal(self, image: str) -> str | None:
        is_broken = "\n" in image or "\r" in image
        return (
            "a table cannot hold the line break in its name; choose a .jsonl --output" if is_broken else None
        )

    def parse(self, line: str) -> dict[str, Any] | None:
        values = next(csv.reader([line]))
        return dict(zip(self.fields, values, strict=True)) if len(values) == len(self.fields) else None


class CocoResults(JsonLines):
    """COCO results, a JSON list of image_id and caption; JSON lines in `NAME.json.partial` until it is whole.

    `image_id` is the number in a COCO file name (`COCO_val2014_000000391895.jpg`, `000000391895.jpg`), and
    the image's name otherwise.
    """

    def __init__(self, path: Path) -> None:
        self._results = path
        self._earlier = _read_results(path) if path.exists() else []
        self._earlier_ids = {entry["image_id"] for entry in self._earlier}
        super().__init__(path.with_name(path.name + ".partial"), lambda image: 1, FIELDS, "captioner caption")

    def has(self, image: str) -> bool:
        return super().has(image) or coco_image_id(image) in self._earlier_ids

    def __exit__(self, kind, *_) -> None:
        super().__exit__(kind)
        if kind is not None:
            return
        entries = {entry["image_id"]: entry for entry in self._earlier}
        for line in _lines(self.path.read_bytes()):
            row = json.loads(line)
            image_id = coco_image_id(row["image"])
            if image_id in entries:
                raise ValueError(
                    f"two images have the COCO number {image_id}, the second is {row['image']!r}; choose an "
                    f"--output that ends in .jsonl or .csv. The captions so far are in {self.path}."
                )
            entries[image_id] = {"image_id": image_id, "caption": row["caption"]}
        with atomic_path(self._results) as temporary:
            temporary.write_text(json.dumps(list(entries.values()), indent=0) + "\n", encoding="utf-8")
        os.unlink(self.path)


_LINES = {".jsonl": JsonLines, ".csv": CsvTable}


def coco_image_id(image: str) -> int | str:
    """The number in a COCO file name, or the name itself."""
    number = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", Path(image).stem)
    return int(number[1]) if number else image


def _lines(content: bytes) -> list[str]:
    """Lines with their ends; unlike `str.splitlines`, only a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", content.decode("utf-8", errors="surrogateescape"))


def _read_results(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and e.keys() == {"image_id", "caption"} for e in entries
    ):
        raise ValueError(
            f"{path} exists and is no list of COCO results; nothing was changed. Choose another --output, or "
            "remove the file."
        )
    return entries
