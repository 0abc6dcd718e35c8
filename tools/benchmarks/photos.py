"""Measures what captioning a folder of photos costs: reading, the model, both at once, the first captions, idle rows.

Axes: B images.
"""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.benchmarks.worker import serve, timed

WARM_UP_BATCHES = 10
"""Batches before the clock starts: the loop of captions may be compiled again after some calls."""
MAX_BYTES = 2_000_000_000
"""Photos that are held in memory, for the model alone; more are left out."""
CAPTIONS_WAITED_FOR = (1, 2, 10, 100)


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Loads the preset, and builds what `part` of the configuration names: `folder`, `first_captions` or `idle_rows`."""
    from tools.quiet import import_tensorflow

    import_tensorflow()
    import keras
    import tensorflow as tf

    from tools.caption import load_captioner

    tf.config.threading.set_intra_op_parallelism_threads(configuration["num_threads"])
    tf.config.threading.set_inter_op_parallelism_threads(configuration["num_threads"])
    captioner = load_captioner(configuration["preset"], configuration["dtype"])
    photos = photos_in(configuration["photos"], configuration["num_photos"])
    part = {"folder": _folder, "first_captions": _first_captions, "idle_rows": _idle_rows}
    measure = part[configuration["part"]](captioner, photos, configuration["batch_size"])
    return {
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "dtype": captioner.backbone.decoder.compute_dtype,
    }, measure


def photos_in(folder: str, num_photos: int) -> list:
    """The first photos of a folder, as `captioner caption` finds them.

    Raises:
        UsageError: If there is none.
    """
    from tools.inputs import find_images

    return find_images([folder], None)[:num_photos]


def _folder(captioner, photos: Sequence, batch_size: int) -> Callable[[], dict]:
    """Reading alone, the model alone and the command that overlaps them; the command writes to a file."""
    from tools.caption import CaptionCommand, caption

    in_memory = _read(photos, batch_size)
    names = tuple(image.name for image, _ in in_memory)
    pixels = [pixels for _, pixels in in_memory]
    photos = [image for image, _ in in_memory]

    def read() -> None:
        for _ in _batches_read(photos, batch_size):
            pass

    def run_model() -> None:
        captioner.caption(pixels, batch_size=batch_size)

    def run_command() -> None:
        with tempfile.TemporaryDirectory() as folder:
            output = str(Path(folder) / "captions.jsonl")
            command = CaptionCommand(inputs=names, output=output, batch_size=batch_size)
            caption(command, load=lambda preset: captioner)

    for _ in range(WARM_UP_BATCHES):
        captioner.caption(pixels[:batch_size], batch_size=batch_size)

    def measure() -> dict:
        reading, model, both = (timed(part)[1] for part in (read, run_model, run_command))
        return {
            "num_photos": len(pixels),
            "reading_seconds": reading,
            "model_seconds": model,
            "both_seconds": both,
            "share_of_slower": max(reading, model) / both,
        }

    return measure


def _first_captions(captioner, photos: Sequence, batch_size: int) -> Callable[[], dict]:
    """Seconds to the n-th caption, one photo at a time: once, as nothing is compiled only once."""
    in_memory = _read(photos[: max(CAPTIONS_WAITED_FOR)], batch_size)
    waited, seconds, processor_seconds = 0, {}, {}
    started, processor_started = time.perf_counter(), time.process_time()
    for count in CAPTIONS_WAITED_FOR:
        if count > len(in_memory):
            break
        for _, pixels in in_memory[waited:count]:
            captioner.caption([pixels], batch_size=1)
        waited = count
        seconds[count] = time.perf_counter() - started
        processor_seconds[count] = time.process_time() - processor_started
    return lambda: {"seconds": seconds, "processor_seconds": processor_seconds}


def _idle_rows(captioner, photos: Sequence, batch_size: int) -> Callable[[], dict]:
    """Counts the steps that each photo needs by itself: a batch takes as many as its slowest."""
    in_memory = _read(photos, batch_size)
    images = [captioner.preprocessor.prepare_images([pixels]) for _, pixels in in_memory]
    steps = steps_of_images(captioner, images)
    return lambda: {
        "num_photos": len(steps),
        "idle_share": idle_share(steps, batch_size),
        "whole_idle_share": idle_share(steps, batch_size, is_halved=False),
    }


def steps_of_images(captioner, images: Sequence) -> list[int]:
    """How many positions are decoded until an image's captions cannot change, for each image `(1, height, width, 3)`."""
    import tensorflow as tf

    from captioner.sampling import DecodingSettings

    decoder, sampler = captioner.backbone.decoder, DecodingSettings(**captioner.preprocessor.decoding)
    decode, num_steps = decoder.decode, tf.Variable(0, dtype=tf.int64)

    def counting(*arguments):
        num_steps.assign_add(1)
        return decode(*arguments)

    @tf.function(autograph=False)
    def search(images):
        return captioner.search(captioner.backbone.encode_images(images), sampler, 1)

    decoder.decode = counting
    steps = []
    try:
        for image in images:
            num_steps.assign(0)
            search(tf.convert_to_tensor(image))
            steps.append(int(num_steps))
    finally:
        del decoder.decode
    return steps


def idle_share(steps: Sequence[int], batch_size: int, *, is_halved: bool = True) -> float:
    """Share of the row-steps of batches that go to images which are finished.

    Args:
        steps: steps that each image needs by itself, in the order of the batches.
        batch_size: int. B.
        is_halved: bool. Whether a batch goes on with half of its images when the others are done, as `CaptionSearch` does.
    """
    batches = [steps[start : start + batch_size] for start in range(0, len(steps), batch_size)]
    return 1 - sum(steps) / sum(_row_steps(batch, is_halved) for batch in batches)


def _row_steps(steps: Sequence[int], is_halved: bool) -> int:
    from captioner.model.caption_search import SMALLEST_SHRUNK

    left, done, total = sorted(steps, reverse=True), 0, 0
    while is_halved and len(left) >= SMALLEST_SHRUNK:
        stop = left[len(left) // 2]  # as many are not done then
        total += len(left) * (stop - done)
        left, done = left[: len(left) // 2], stop
    return total + len(left) * (left[0] - done)


def _read(photos: Sequence, batch_size: int) -> list[tuple]:
    """Photos with their pixels, as many as may be held; files that cannot be read are left out."""
    from captioner.images import ImageError

    held, num_bytes = [], 0
    with contextlib.closing(_batches_read(photos, batch_size)) as reading:
        for image, pixels in itertools.chain.from_iterable(reading):
            if isinstance(pixels, ImageError):
                continue
            num_bytes += pixels.nbytes
            if num_bytes > MAX_BYTES:
                break
            held.append((image, pixels))
    return held


def _batches_read(photos: Sequence, batch_size: int):
    from tools.read_ahead import batches, reading_ahead

    with reading_ahead(photos, ahead=batch_size) as reading:
        yield from batches(reading, batch_size)


if __name__ == "__main__":
    serve(start)
