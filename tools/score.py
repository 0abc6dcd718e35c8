"""`captioner score`: the probability that a model gives to captions of a table."""

import contextlib
import csv
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from captioner.files import atomic_path
from captioner.images import ImageError
from captioner.resources import DEFAULT_PRESET
from tools.caption import load_captioner
from tools.errors import UsageError
from tools.inputs import ImageInput
from tools.messages import say
from tools.read_ahead import batches, progress, reading_ahead
from tools.tables import read_caption_table

FIELDS = ("image", "caption", "log_prob", "score", "confidence", "tokens", "token_log_probs")
ENDINGS = (".jsonl", ".csv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreCommand:
    """Scores given captions: the log-probability that a model gives to each of them and to each of its tokens.

    Examples:
        captioner score captions.csv --images photos/

        captioner score captions.jsonl --images . --output scored.jsonl
    """

    # The help of a flag is one line: tyro keeps line breaks.
    table: tyro.conf.Positional[Path]
    """Images and captions: CSV, TSV, JSON lines (what `captioner caption` writes too), COCO or Karpathy's JSON."""
    images: Path | None = None
    """Folder that the table's image names start from; by default the table's own."""
    output: Path | None = None
    """A .jsonl or .csv file. Default: the terminal."""
    preset: str = DEFAULT_PRESET
    """The model: a bundled preset's name, a preset's folder, or a training run's folder."""
    length_penalty: float | None = None
    """The score is the log-probability divided by the number of tokens to the power of this; by default as the preset decodes."""
    image_column: str | None = None
    """The table's column of image names; guessed from common names by default."""
    caption_column: str | None = None
    """The table's column of captions; guessed from common names by default."""
    split: str | None = None
    """Only this split of the table, for tables that have splits."""
    batch_size: int = 16
    """Images that go through the model at once; each goes through once for all of its captions."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"`--batch-size` must be at least 1; received {self.batch_size}.")
        if self.length_penalty is not None and not 0 <= self.length_penalty < float("inf"):
            raise UsageError(f"`--length-penalty` must be 0 or more; received {self.length_penalty}.")
        if self.output is not None and self.output.suffix.lower() not in ENDINGS:
            raise UsageError(f"`--output` must end in {' or '.join(ENDINGS)}; received {str(self.output)!r}.")


def score(command: ScoreCommand, load: Callable[[str], Any] = load_captioner) -> int:
    """Runs the command; returns 0, or 1 if a caption could not be scored.

    Args:
        command: the command's settings.
        load: function from a preset to an `ImageCaptioner`.
    """
    records = read_caption_table(
        command.table,
        command.images,
        image_column=command.image_column,
        caption_column=command.caption_column,
        split=command.split,
    )
    captions = {str(image.path): list(image.captions) for image in records.images}
    images = [ImageInput(name, Path(name)) for name in captions]
    num_bad = 0
    with (
        _open(command.output) as write,
        reading_ahead(images, ahead=command.batch_size) as reading,
        progress(len(images)) as bar,
    ):
        captioner = load(command.preset)
        for batch in batches(reading, command.batch_size):
            good = []
            for image, pixels in batch:
                if isinstance(pixels, ImageError):
                    num_bad += 1
                    bar.write(f"captioner: {pixels}; skipped", file=sys.stderr)
                else:
                    good.append((image.name, pixels, captions[image.name]))
            for name, scored in _scored(captioner, good, command):
                if isinstance(scored, ValueError):
                    num_bad += 1
                    bar.write(f"captioner: {name}: {scored}; skipped", file=sys.stderr)
                else:
                    write(name, scored, captioner.preprocessor.tokenizer)
            bar.update(len(batch))
    if num_bad:
        say(f"{num_bad} of {len(images)} images were not scored; each is named above")
    return 1 if num_bad else 0


def _scored(captioner, images: list[tuple[str, Any, list[str]]], command: ScoreCommand) -> Iterator[tuple]:
    """Pairs of an image's name and its scored captions, or what is wrong with one of them."""
    names, pixels, texts = zip(*images, strict=True) if images else ((), (), ())
    try:
        scored = captioner.score(
            list(pixels), list(texts), length_penalty=command.length_penalty, batch_size=command.batch_size
        )
    except ValueError as error:  # a caption that is too long, say, must not cost the others
        if len(images) == 1:
            yield names[0], error
        else:
            for image in images:
                yield from _scored(captioner, [image], command)
    else:
        yield from zip(names, scored, strict=True)


@contextlib.contextmanager
def _open(path: Path | None) -> Iterator[Callable]:
    """A function that writes the scored captions of an image; the file is there when all are in it."""
    if path is None:
        yield lambda name, captions, tokenizer: sys.stdout.write(
            "".join(f"{name}: {c.text} (log_prob {c.log_prob:.2f}, score {c.score:.2f})\n" for c in captions)
        )
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        is_table = path.suffix.lower() == ".csv"
        if is_table:
            table.writeheader()

        def write(name, captions, tokenizer) -> None:
            for row in (_row(name, caption, tokenizer) for caption in captions):
                if is_table:  # lists are JSON in their cells
                    lists = {key: json.dumps(row[key], ensure_ascii=False) for key in FIELDS[-2:]}
                    table.writerow(row | lists)
                else:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


def _row(name: str, caption, tokenizer) -> dict[str, Any]:
    from captioner.text.words import token_texts

    values = (
        name,
        caption.text,
        round(caption.log_prob, 6),
        round(caption.score, 6),
        None if caption.confidence is None else round(caption.confidence, 6),
        token_texts(tokenizer, caption.token_ids),
        [round(value, 6) for value in caption.token_log_probs],
    )
    return dict(zip(FIELDS, values, strict=True))
