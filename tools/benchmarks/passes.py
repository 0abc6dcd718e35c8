"""CPU time of an image, from passes of two lengths."""

import time
from collections.abc import Callable

SHORT, LONG = 1, 3
"""Times that a pass goes through the set."""


def measure_cases(configuration: dict, run_of: Callable[[dict], Callable[[int], int]]) -> Callable[[], dict]:
    """A measurement of the CPU seconds of an image in each of the configuration's `cases`, by their names.

    Args:
        configuration: what all cases share, and `cases`: for each name what is its own.
        run_of: function from what is to be measured to what `seconds_per_image` takes.
    """
    cases = {
        name: seconds_per_image(run_of(configuration | case)) for name, case in configuration["cases"].items()
    }
    return lambda: {name: measure() for name, measure in cases.items()}


def seconds_per_image(run: Callable[[int], int]) -> Callable[[], float]:
    """A measurement of the CPU time of an image, all threads of the process together.

    It is what a long pass takes more than a short one: neither starting nor what was read ahead is in it.

    Args:
        run: function that goes so many times through the set, and returns the number of images that it gave.

    Raises:
        RuntimeError: If the set has not the same number of images each time.
    """

    def timed(num_epochs: int) -> tuple[int, float]:
        started = time.process_time()
        num_images = run(num_epochs)
        return num_images, time.process_time() - started

    def measure() -> float:
        (few, short), (many, long) = timed(SHORT), timed(LONG)
        if many * SHORT != few * LONG:
            raise RuntimeError(f"{SHORT} passes gave {few} images and {LONG} gave {many}.")
        return (long - short) / (many - few)

    return measure
