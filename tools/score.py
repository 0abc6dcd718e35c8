"""`captioner score`: the probability that a model gives to captions of a table."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from captioner.images import ImageError
from captioner.resources import DEFAULT_PRESET
from tools.caption import load_captioner
from tools.errors import UsageError
from tools.inputs import ImageInput
from tools.messages import say
from tools.outputs import SCORE_ENDINGS, SCORE_FIELDS, CaptionFile, open_scores
from tools.read_ahead import batches, progress, reading_ahead
from tools.tables import read_caption_table


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
    """A .jsonl or .csv file, which the same command typed again goes on with. Default: the terminal."""
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
        if self.output is not None and self.output.suffix.lower() not in SCORE_ENDINGS:
            raise UsageError(
                f"`--output` must end in {' or '.join(SCORE_ENDINGS)}; received {str(self.output)!r}."
            )


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
    with contextlib.ExitStack() as stack:
        output = None
        if command.output is not None:
            output = stack.enter_context(
                open_scores(command.output, lambda name: len(captions.get(name, ())))
            )
        lost = {name: why for name in captions if output is not None and (why := output.refusal(name))}
        for name, why in lost.items():
            say(f"{name}: {why}; skipped")
        todo = [name for name in captions if name not in lost and (output is None or not output.has(name))]
        if num_there := len(captions) - len(lost) - len(todo):
            say(f"the captions of {num_there} of {len(captions)} images are in {command.output} already")
        num_bad = len(lost) + (
            _score_all(command, load, {name: captions[name] for name in todo}, output) if todo else 0
        )
    if num_bad:
        say(f"{num_bad} of {len(captions)} images were not scored; each is named above")
    return 1 if num_bad else 0


def _score_all(
    command: ScoreCommand, load, captions: dict[str, list[str]], output: CaptionFile | None
) -> int:
    """Scores the captions of each image, batch by batch; returns how many images were not scored."""
    images = [ImageInput(name, Path(name)) for name in captions]
    num_bad = 0
    with reading_ahead(images, ahead=command.batch_size) as reading, progress(len(images)) as bar:
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
                elif output is None:
                    sys.stdout.write("".join(_shown(name, caption) for caption in scored))
                else:
                    output.write_rows(
                        [_row(name, caption, captioner.preprocessor.tokenizer) for caption in scored]
                    )
            bar.update(len(batch))
    return num_bad


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


def _shown(name: str, caption) -> str:
    return f"{name}: {caption.text} (log_prob {caption.log_prob:.2f}, score {caption.score:.2f})\n"


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
    return dict(zip(SCORE_FIELDS, values, strict=True))
