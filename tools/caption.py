"""`captioner caption`: finds images, reads them ahead of the model, and writes their captions."""

import collections
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import tyro

from captioner.images import ImageError, read_image
from captioner.resources import DEFAULT_PRESET
from captioner.sampling import BeamSearch, DecodingSettings, Greedy, NucleusSampling
from tools.errors import UsageError
from tools.inputs import ImageInput, find_images
from tools.outputs import caption_rows, open_output

MAX_BATCH_PIXELS = 100_000_000
"""A batch ends early when its photos have more pixels than this: 0.3 GB."""
NUM_READERS = 4
"""Threads that read and decode ahead of the model."""
FEW = 3
"""So many images need no progress bar."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionCommand:
    """Writes captions for photos: to the terminal, or to a file that an interrupted command goes on with.

    Examples:
        captioner caption photo.jpg
        captioner caption photos/ --num-captions 3 --output captions.jsonl
        captioner caption list.csv --top-p 0.9 --temperature 0.8 --seed 7
        find . -name "*.jpg" | captioner caption - --output captions.csv
    """

    # The help of a flag is one line: tyro keeps line breaks.
    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders, globs in quotes, lists of paths (.txt, .csv, .tsv), or - for standard input."""
    output: str | None = None
    """A .jsonl, .csv or .json (COCO results) file; images it has are skipped. Default: the terminal."""
    preset: str = DEFAULT_PRESET
    """The model: a bundled preset's name, a preset's folder, or a training run's folder."""
    num_captions: int = 1
    """Captions for each image, best first."""
    batch_size: int = 16
    """Images that go through the model at once."""
    sampler: Literal["beam", "nucleus", "greedy"] | None = None
    """Beam search is the default; nucleus sampling is, where one of its flags is given."""
    num_beams: int | None = None
    """Beam search: captions kept at each step; 5, or as the preset has it."""
    length_penalty: float | None = None
    """Beam search: larger prefers longer captions, 0 ranks by log-probability; 0.7, or as the preset has it."""
    top_p: float | None = None
    """Nucleus sampling: probability mass of the tokens to draw from; 0.9 if not given."""
    top_k: int | None = None
    """Nucleus sampling: most tokens to draw from, 0 for no limit; 0 if not given."""
    temperature: float | None = None
    """Nucleus sampling: below 1 is safer, above 1 more surprising; 1 if not given."""
    seed: int | None = None
    """Nucleus sampling: the same seed gives the same captions; 0 if not given."""
    max_length: int | None = None
    """Most tokens of a caption; 30, or as the preset has it."""
    images: str | None = None
    """Folder that relative paths in lists start from; the list's own folder if not given."""
    image_column: str | None = None
    """The column of a table that holds the paths; guessed from common names if not given."""

    def __post_init__(self) -> None:
        if self.num_captions < 1:
            raise ValueError(f"`num_captions` must be at least 1; received num_captions={self.num_captions}.")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; received batch_size={self.batch_size}.")


_SAMPLERS = {
    "beam": (BeamSearch, ("num_beams", "length_penalty")),
    "nucleus": (NucleusSampling, ("top_p", "top_k", "temperature", "seed")),
    "greedy": (Greedy, ()),
}


def choose_sampler(command: CaptionCommand) -> DecodingSettings:
    """The decoding settings that the flags mean.

    Raises:
        UsageError: If flags contradict each other or a value is impossible.
    """
    given = {
        kind: [name for name in names if getattr(command, name) is not None]
        for kind, (_, names) in _SAMPLERS.items()
    }
    kind = command.sampler or ("nucleus" if given["nucleus"] and not given["beam"] else "beam")
    for other, names in given.items():
        if names and other != kind:
            raise UsageError(
                f"{_flag(names[0])} belongs to --sampler {other}, and "
                + (f"{_flag(given[kind][0])} to " if given[kind] else "the command says ")
                + f"--sampler {kind}. Leave one of them out."
            )
    settings, names = _SAMPLERS[kind]
    values = {name: getattr(command, name) for name in (*given[kind], "max_length")}
    try:
        sampler = settings(**{name: value for name, value in values.items() if value is not None})
    except ValueError as error:
        raise UsageError(str(error)) from error
    if kind == "greedy" and command.num_captions > 1:
        raise UsageError(
            f"--sampler greedy gives one caption; received --num-captions {command.num_captions}. "
            "Choose --sampler beam or nucleus."
        )
    if kind == "beam" and command.num_captions > sampler.num_beams:
        raise UsageError(
            f"--num-captions {command.num_captions} needs at least as many beams; received --num-beams "
            f"{sampler.num_beams}. Add --num-beams {command.num_captions}."
        )
    return sampler


def with_defaults(captioner: Any, command: CaptionCommand, sampler: DecodingSettings) -> DecodingSettings:
    """The settings of beam search, with the preset's own where no flag says otherwise."""
    own = getattr(getattr(captioner, "preprocessor", None), "decoding", None)
    if not own or not isinstance(sampler, BeamSearch):
        return sampler
    values = {name: value for name, value in own.items() if getattr(command, name) is None}
    if command.num_captions > values.get("num_beams", command.num_captions):
        values["num_beams"] = command.num_captions
    return dataclasses.replace(sampler, **values)


def load_captioner(preset: str) -> Any:
    """Loads an `ImageCaptioner`, without TensorFlow's chatter."""
    from tools.quiet import import_tensorflow

    import_tensorflow()
    from captioner.model import ImageCaptioner

    return ImageCaptioner.from_preset(preset)


def caption(command: CaptionCommand, load: Callable[[str], Any] = load_captioner) -> int:
    """Runs the command; returns 0, or 1 if an image could not be captioned.

    Args:
        command: the command's settings.
        load: function from a preset to an object with `caption(images, sampler, num_captions, batch_size)`.
    """
    sampler = choose_sampler(command)
    if not command.inputs:
        raise UsageError(
            "nothing to caption; name files, folders or lists: `captioner caption photo.jpg`, or give - to "
            "read paths from standard input."
        )
    images = find_images(command.inputs, sys.stdin, command.images, command.image_column)
    missing = [image for image in images if not image.path.exists()]
    for image in missing:
        where = "" if str(image.path) == image.name else f" ({image.path})"
        _say(f"{image.name}: no such file{where}; skipped")
    images = [image for image in images if image not in set(missing)]
    with contextlib.ExitStack() as stack:
        output = (
            stack.enter_context(open_output(command.output, command.num_captions)) if command.output else None
        )
        todo = [image for image in images if output is None or not output.has(image.name)]
        if len(todo) < len(images):
            _say(f"{len(images) - len(todo)} of {len(images)} images are in {command.output} already")
        num_bad = _caption_all(command, load, sampler, todo, output) if todo else 0
    if command.output:
        _say(f"{len(todo) - num_bad} images captioned, written to {command.output}")
    if num_bad + len(missing):
        _say(f"{num_bad + len(missing)} images could not be read; each is named above")
    return 1 if num_bad + len(missing) else 0


def _caption_all(command: CaptionCommand, load, sampler, todo: list[ImageInput], output) -> int:
    """Captions images batch by batch; returns how many could not be read."""
    num_bad = 0
    with _reading_ahead(todo, ahead=command.batch_size) as reading, _progress(len(todo)) as bar:
        captioner = load(command.preset)
        sampler = with_defaults(captioner, command, sampler)
        for batch in _batches(reading, command.batch_size):
            good = [(image, pixels) for image, pixels in batch if not isinstance(pixels, ImageError)]
            for _, error in ((i, e) for i, e in batch if isinstance(e, ImageError)):
                num_bad += 1
                bar.write(f"captioner: {error}; skipped", file=sys.stderr)
            if good:
                texts = captioner.caption(
                    [pixels for _, pixels in good],
                    sampler=sampler,
                    num_captions=command.num_captions,
                    batch_size=command.batch_size,
                )
                captioned = [(image.name, captions) for (image, _), captions in zip(good, texts, strict=True)]
                if output is not None:
                    output.write(captioned)
                else:
                    for name, captions in captioned:
                        bar.write(_shown(name, captions), file=sys.stdout)
                    sys.stdout.flush()
            bar.update(len(batch))
    return num_bad


@contextlib.contextmanager
def _reading_ahead(images: Sequence[ImageInput], ahead: int) -> Iterator[Iterator[tuple[ImageInput, Any]]]:
    """Reads files in threads, `ahead` of them before they are asked for; an error stands for its image."""

    def read(image: ImageInput) -> np.ndarray | ImageError:
        try:
            return read_image(image.path)
        except ImageError as error:
            return error

    def results() -> Iterator[tuple[ImageInput, Any]]:
        while waiting:
            image, future = waiting.popleft()
            for following in rest:
                waiting.append((following, pool.submit(read, following)))
                break
            yield image, future.result()

    rest = iter(images)
    waiting: collections.deque[tuple[ImageInput, Future]] = collections.deque()
    pool = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read-image")
    try:
        for image in rest:
            waiting.append((image, pool.submit(read, image)))
            if len(waiting) >= ahead:
                break
        yield results()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _batches(
    reading: Iterator[tuple[ImageInput, Any]], batch_size: int
) -> Iterator[list[tuple[ImageInput, Any]]]:
    batch, num_pixels = [], 0
    for image, pixels in reading:
        batch.append((image, pixels))
        num_pixels += 0 if isinstance(pixels, ImageError) else pixels.shape[0] * pixels.shape[1]
        if len(batch) == batch_size or num_pixels > MAX_BATCH_PIXELS:
            yield batch
            batch, num_pixels = [], 0
    if batch:
        yield batch


def _progress(total: int):
    from tqdm import tqdm

    # None: only where standard error is a terminal.
    return tqdm(total=total, unit="image", disable=True if total <= FEW else None, file=sys.stderr)


def _shown(name: str, captions) -> str:
    rows = caption_rows(name, captions)
    if len(rows) == 1:
        return f"{name}: {rows[0]['caption']} (score {rows[0]['score']:.2f})"
    return "\n".join(
        [f"{name}:", *(f"  {row['rank']}. {row['caption']} (score {row['score']:.2f})" for row in rows)]
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _say(message: str) -> None:
    sys.stderr.write(f"captioner: {message}\n")
