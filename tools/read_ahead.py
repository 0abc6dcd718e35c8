"""Reads photos in threads, ahead of the model."""

import collections
import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from captioner.images import ImageError, read_image
from tools.inputs import ImageInput

MAX_BATCH_PIXELS = 100_000_000
"""A batch ends early when its photos have more pixels than this, 0.3 GB, and no more are decoded while as many wait."""
NUM_READERS = 4
"""Threads that read and decode ahead of the model."""
EVERYTHING = "everything"
"""What is asked for at the end, so that no thread goes on waiting."""
FEW = 3
"""So many images need no progress bar."""


@contextlib.contextmanager
def reading_ahead(images: Sequence[ImageInput], ahead: int) -> Iterator[Iterator[tuple[ImageInput, Any]]]:
    """Reads files in threads, `ahead` of them before they are asked for, fewer large ones; an error stands for its image."""
    changed, num_waiting, asked_for = threading.Condition(), 0, None

    def read(image: ImageInput) -> np.ndarray | ImageError:
        nonlocal num_waiting
        with changed:
            changed.wait_for(lambda: num_waiting < MAX_BATCH_PIXELS or asked_for in (image, EVERYTHING))
        try:
            pixels = read_image(image.path)
        except ImageError as error:
            pixels = error
        with changed:
            num_waiting += _num_pixels(pixels)
        return pixels

    def ask_for(image: ImageInput | str, num_taken: int = 0) -> None:
        nonlocal num_waiting, asked_for
        with changed:
            num_waiting -= num_taken
            asked_for = image
            changed.notify_all()

    def results() -> Iterator[tuple[ImageInput, Any]]:
        num_taken = 0
        while waiting:
            image, future = waiting.popleft()
            for following in rest:
                waiting.append((following, pool.submit(read, following)))
                break
            ask_for(image, num_taken)
            pixels = future.result()
            num_taken = _num_pixels(pixels)
            yield image, pixels

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
        ask_for(EVERYTHING)
        pool.shutdown(wait=False, cancel_futures=True)


def batches(
    reading: Iterator[tuple[ImageInput, Any]], batch_size: int
) -> Iterator[list[tuple[ImageInput, Any]]]:
    """Groups what `reading_ahead` gives into batches of `batch_size`, or fewer where photos are large."""
    batch, num_pixels = [], 0
    for image, pixels in reading:
        batch.append((image, pixels))
        num_pixels += _num_pixels(pixels)
        if len(batch) == batch_size or num_pixels > MAX_BATCH_PIXELS:
            yield batch
            batch, num_pixels = [], 0
    if batch:
        yield batch


def _num_pixels(pixels: np.ndarray | ImageError) -> int:
    return 0 if isinstance(pixels, ImageError) else pixels.shape[0] * pixels.shape[1]


def progress(total: int):
    """A progress bar on standard error; none for a few images, or where no one looks."""
    from tqdm import tqdm

    # None: only where standard error is a terminal.
    return tqdm(total=total, unit="image", disable=True if total <= FEW else None, file=sys.stderr)
