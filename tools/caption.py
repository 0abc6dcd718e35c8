"""`captioner caption`: finds images and writes their captions."""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import tyro

from captioner.images import ImageError
from captioner.resources import DEFAULT_PRESET
from tools.attention import AttentionPictures
from tools.decoding_flags import DecodingFlags, choose_settings, with_own_defaults
from tools.errors import UsageError
from tools.inputs import ImageInput, find_images
from tools.messages import say
from tools.outputs import caption_rows, open_output
from tools.read_ahead import batches, progress, reading_ahead

CONSENSUS_TEMPERATURE = 0.5
"""Of the captions that --consensus draws: few of those drawn at 1 are good."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionCommand:
    """Writes captions for photos: to the terminal, or to a file that an interrupted command goes on with.

    Examples:
        captioner caption photo.jpg
        captioner caption photos/ --num-captions 3 --output captions.jsonl
        captioner caption photo.jpg --attention out/
        captioner caption list.csv --top-p 0.9 --temperature 0.8 --seed 7
        captioner caption photo.jpg --prompt "a close-up of" --forbidden-words man woman
        find . -name "*.jpg" | captioner caption - --output captions.csv
    """

    # The help of a flag is one line: tyro keeps line breaks.
    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders, globs in quotes, lists of paths (.txt, .csv, .tsv), or - for standard input."""
    output: str | None = None
    """A .jsonl, .csv or .json (COCO results) file; images it has are skipped. Default: the terminal."""
    preset: str = DEFAULT_PRESET
    """The model: a bundled preset's name, a preset's folder, or a training run's folder."""
    image_size_px: int | None = None
    """Height and width that photos are brought to, for larger or smaller details; the preset's own if not given."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """bfloat16 takes less memory, and less time with a large decoder where the processor has it; by default the preset's own."""
    num_captions: int = 1
    """Captions for each image, best first."""
    batch_size: int = 16
    """Images that go through the model at once."""
    consensus: int | None = None
    """Draw so many captions of an image and take the one that agrees most with the others; --temperature 0.5 if not given."""
    min_confidence: float | None = None
    """Leave out captions whose confidence is lower, 0 to 1; needs a calibrated preset."""
    attention: str | None = None
    """A folder for a picture of each photo: where the model looked as it said each word of its best caption."""
    attention_layer: int | None = None
    """The decoder block that --attention shows, 0 is the first; the mean of all if not given."""
    images: str | None = None
    """Folder that relative paths in lists start from; the list's own folder if not given."""
    image_column: str | None = None
    """The column of a table that holds the paths; guessed from common names if not given."""

    decoding: DecodingFlags = DecodingFlags()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.num_captions < 1:
            raise ValueError(f"`num_captions` must be at least 1; received num_captions={self.num_captions}.")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; received batch_size={self.batch_size}.")
        if self.consensus is not None and self.consensus < max(2, self.num_captions):
            raise UsageError(
                f"--consensus must be at least 2 and --num-captions {self.num_captions}; received {self.consensus}."
            )
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise UsageError(f"--min-confidence must be from 0 to 1; received {self.min_confidence}.")
        if self.attention_layer is not None and self.attention is None:
            raise UsageError("--attention-layer belongs to --attention; say where: --attention FOLDER.")


def load_captioner(preset: str, dtype: str | None = None) -> Any:
    """Loads an `ImageCaptioner`, without TensorFlow's chatter.

    Args:
        preset: see `ImageCaptioner.from_preset`.
        dtype: of the weights; None is the preset's own. Where bfloat16 is slow, float32 is taken and a line says so.
    """
    from tools.quiet import import_tensorflow

    import_tensorflow()
    from captioner.model import ImageCaptioner
    from captioner.model.inference import has_fast_bfloat16

    if dtype == "bfloat16" and not has_fast_bfloat16():
        say("this processor has no instructions for bfloat16, which would be slower; going on in float32")
        dtype = "float32"
    return ImageCaptioner.from_preset(preset, **({} if dtype is None else {"dtype": dtype}))


def resized(captioner: Any, image_size_px: int | None) -> Any:
    """The captioner for square images of another size, if one is given."""
    if image_size_px is None:
        return captioner
    from captioner.model.resizing import resize_captioner

    return resize_captioner(captioner, (image_size_px, image_size_px))


def caption(command: CaptionCommand, load: Callable[[str], Any] | None = None) -> int:
    """Runs the command; returns 0, or 1 if an image could not be captioned.

    Args:
        command: the command's settings.
        load: function from a preset to an object with `caption(images, sampler, num_captions, batch_size)`.
    """
    load = load or functools.partial(load_captioner, dtype=command.dtype)
    decoding = command.decoding if command.consensus is None else _for_consensus(command.decoding)
    sampler = choose_settings(decoding, command.consensus or command.num_captions)
    if not command.inputs:
        raise UsageError(
            "nothing to caption; name files, folders or lists: `captioner caption photo.jpg`, or give - to "
            "read paths from standard input."
        )
    images = find_images(command.inputs, sys.stdin, command.images, command.image_column)
    with contextlib.ExitStack() as stack:
        output = (
            stack.enter_context(open_output(command.output, command.num_captions)) if command.output else None
        )
        lost = {image: problem for image in images if (problem := _problem(image, output))}
        for image, problem in lost.items():
            say(f"{image.name}: {problem}; skipped")
        images = [image for image in images if image not in lost]
        todo = [image for image in images if output is None or not output.has(image.name)]
        if len(todo) < len(images):
            say(f"{len(images) - len(todo)} of {len(images)} images are in {command.output} already")
        num_bad, num_left_out = _caption_all(command, load, sampler, todo, output) if todo else (0, 0)
    if command.output:
        say(f"{len(todo) - num_bad} images captioned, written to {command.output}")
    if command.min_confidence is not None:
        say(f"{num_left_out} captions left out, their confidence is below {command.min_confidence:g}")
    if num_bad + len(lost):
        say(f"{num_bad + len(lost)} images could not be captioned; each is named above")
    return 1 if num_bad + len(lost) else 0


def _problem(image: ImageInput, output) -> str | None:
    """Why an image cannot be captioned, as far as its name tells, or None."""
    if not os.path.exists(image.path):  # False also for a path that no file can have
        return "no such file" if str(image.path) == image.name else f"no such file ({image.path})"
    return None if output is None else output.refusal(image.name)


def _caption_all(command: CaptionCommand, load, sampler, todo: list[ImageInput], output) -> tuple[int, int]:
    """Captions images batch by batch; returns how many images could not be read, and captions left out."""
    num_bad = num_left_out = 0
    with reading_ahead(todo, ahead=command.batch_size) as reading, progress(len(todo)) as bar:
        captioner = resized(load(command.preset), command.image_size_px)
        _require_calibration(command, captioner)
        sampler = with_own_defaults(sampler, command.decoding, captioner, command.num_captions)
        pictures = (
            None
            if command.attention is None
            else AttentionPictures(command.attention, captioner, command.attention_layer)
        )
        for batch in batches(reading, command.batch_size):
            good = [(image, pixels) for image, pixels in batch if not isinstance(pixels, ImageError)]
            for _, error in ((i, e) for i, e in batch if isinstance(e, ImageError)):
                num_bad += 1
                bar.write(f"captioner: {error}; skipped", file=sys.stderr)
            written = _captions(command, captioner, sampler, [pixels for _, pixels in good])
            kept = [[caption for caption in captions if _is_kept(command, caption)] for captions in written]
            num_left_out += sum(map(len, written)) - sum(map(len, kept))
            captioned = [
                (image, pixels, texts) for (image, pixels), texts in zip(good, kept, strict=True) if texts
            ]
            if pictures is not None:
                pictures.write([(image.name, pixels, best) for image, pixels, (best, *_) in captioned])
            if output is not None:
                output.write([(image.name, texts) for image, _, texts in captioned])
            else:
                for image, _, texts in captioned:
                    bar.write(_shown(image.name, texts), file=sys.stdout)
                sys.stdout.flush()
            bar.update(len(batch))
    return num_bad, num_left_out


def _captions(command: CaptionCommand, captioner, sampler, images: list) -> list[list]:
    """For each image its captions, best first."""
    if not images:
        return []
    num_captions = command.consensus or command.num_captions
    captions = captioner.caption(
        images, sampler=sampler, num_captions=num_captions, batch_size=command.batch_size
    )
    if command.consensus is None:
        return captions
    from captioner.evaluation.consensus import rank_by_consensus

    return [rank_by_consensus(drawn)[: command.num_captions] for drawn in captions]


def _for_consensus(flags: DecodingFlags) -> DecodingFlags:
    """The flags that draw the captions."""
    if flags.sampler not in (None, "nucleus"):
        raise UsageError(
            f"--consensus draws captions with --sampler nucleus; received --sampler {flags.sampler}."
        )
    temperature = CONSENSUS_TEMPERATURE if flags.temperature is None else flags.temperature
    return dataclasses.replace(flags, sampler="nucleus", temperature=temperature)


def _require_calibration(command: CaptionCommand, captioner) -> None:
    if command.min_confidence is not None and captioner.calibration is None:
        raise UsageError(
            f"--min-confidence needs a calibrated preset, and {command.preset} is not. Calibrate it on images with "
            f"reference captions: captioner evaluate --csv TABLE --images FOLDER --preset {command.preset} --calibrate"
        )


def _is_kept(command: CaptionCommand, caption) -> bool:
    return command.min_confidence is None or caption.confidence >= command.min_confidence


def _shown(name: str, captions) -> str:
    rows = caption_rows(name, captions)
    if len(rows) == 1:
        return f"{name}: {_shown_row(rows[0])}"
    return "\n".join([f"{name}:", *(f"  {row['rank']}. {_shown_row(row)}" for row in rows)])


def _shown_row(row: dict[str, Any]) -> str:
    confidence = "" if row["confidence"] is None else f", confidence {row['confidence']:.2f}"
    return f"{row['caption']} (score {row['score']:.2f}{confidence})"
