"""Reads photos in threads, ahead of the model."""

import collections
import contextlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from captioner.images import ImageError, read_image
from tools.inputs import ImageInput

MAX_BATCH_PIXELS = 100_000_000
"""A batch ends early when its photos have more pixels than this: 0.3 GB."""
NUM_READERS = 4
"""Threads that read and decode ahead of the model."""
FEW = 3
"""So many images need no progress bar."""


@contextlib.contextmanager
def reading_ahead(images: Sequence[ImageInput], ahead: int) -> Iterator[Iterator[tuple[ImageInput, Any]]]:
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


def batches(
    reading: Iterator[tuple[ImageInput, Any]], batch_size: int
) -> Iterator[list[tuple[ImageInput, Any]]]:
    """Groups what `reading_ahead` gives into batches of `batch_size`, or fewer where photos are large."""
    batch, num_pixels = [], 0
    for image, pixels in reading:
        batch.append((image, pixels))
        num_pixels += 0 if isinstance(pixels, ImageError) else pixels.shape[0] * pixels.shape[1]
        if len(batch) == batch_size or num_pixels > MAX_BATCH_PIXELS:
            yield batch
            batch, num_pixels = [], 0
    if batch:
        yield batch


def progress(total: int):
    """A progress bar on standard error; none for a few images, or where no one looks."""
    from tqdm import tqdm

    # None: only where standard error is a terminal.
    return tqdm(total=total, unit="image", disable=True if total <= FEW else None, file=sys.stderr)
