"""CPU time of an image, from passes of two lengths."""

import time
from collections.abc import Callable

SHORT, LONG = 1, 3
"""Times that a pass goes through the set."""


def seconds_per_image(run: Callable[[int], int]) -> Callable[[], dict]:
    """A measurement of the CPU time of an image, all threads of the process together.

    It is what a long pass takes more than a short one: neither starting nor what was read ahead is in it.

    Args:
        run: function that goes so many times through the set, and returns the number of images that it gave.
    """

    def timed(num_epochs: int) -> tuple[int, float]:
        started = time.process_time()
        num_images = run(num_epochs)
        return num_images, time.process_time() - started

    def measure() -> dict:
        (few, short), (many, long) = timed(SHORT), timed(LONG)
        if many * SHORT != few * LONG:
            raise RuntimeError(f"{SHORT} passes gave {few} images and {LONG} gave {many}.")
        return {"cpu_seconds": (long - short) / (many - few)}

    return measure
