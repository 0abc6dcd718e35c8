"""Measures what other pipelines take to decode and resize the same photos; neither shuffled nor with captions.

Axes: B images of a batch, S rows and columns of the result.
"""

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator

from tools.benchmarks.passes import LONG, SHORT, measure_cases
from tools.benchmarks.worker import serve


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Builds what `part` names: tf.data, DALI, webdataset+cv2, webdataset+simplejpeg, and the latter decoding smaller."""
    run_of, packages = {
        "tf.data": (_tf_data, ("tensorflow",)),
        "DALI": (_dali, ("nvidia-dali-cuda120",)),
        "webdataset+cv2": (_cv2, ("webdataset", "opencv-python-headless")),
        "webdataset+simplejpeg": (_simplejpeg, ("webdataset", "opencv-python-headless", "simplejpeg")),
        "webdataset+simplejpeg, smaller": (_simplejpeg, ("simplejpeg",)),
    }[configuration["part"]]
    measure = measure_cases(configuration, run_of)
    return {"versions": {package: _version(package) for package in packages}}, measure


def _tf_data(configuration: dict) -> Callable[[int], int]:
    from tools.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from tools.benchmarks.data_ours import count_images

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, (configuration["side"],) * 2, antialias=True)

    def dataset(num_epochs: int):
        paths = tf.data.Dataset.from_tensor_slices(configuration["paths"]).repeat(num_epochs)
        images = paths.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        return images.batch(configuration["batch_size"]).prefetch(2)

    datasets = {number: dataset(number) for number in (SHORT, LONG)}
    return lambda number: count_images(datasets[number])


def _dali(configuration: dict) -> Callable[[int], int]:
    from nvidia.dali import fn, pipeline_def, types

    batch_size, num_images = configuration["batch_size"], len(configuration["paths"])

    @pipeline_def(batch_size=batch_size, num_threads=configuration["num_threads"], device_id=None)
    def define():
        data = fn.readers.webdataset(
            paths=configuration["shards"], ext=["jpg"], missing_component_behavior="error"
        )
        images = fn.decoders.image(data, device="cpu", output_type=types.RGB)
        return fn.resize(images, size=(configuration["side"],) * 2, dtype=types.FLOAT)

    pipeline = define()
    pipeline.build()

    def run(num_epochs: int) -> int:
        # It wraps around: a batch is always whole.
        num_batches = num_epochs * num_images // batch_size
        return sum(len(pipeline.run()[0]) for _ in range(num_batches))

    return run


def _cv2(configuration: dict) -> Callable[[int], int]:
    import cv2
    import numpy as np

    def decode(data: bytes):
        image = cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_COLOR)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return _webdataset(configuration, decode)


def _simplejpeg(configuration: dict) -> Callable[[int], int]:
    import simplejpeg

    side = configuration["side"] if configuration["part"].endswith("smaller") else 0

    def decode(data: bytes):
        return simplejpeg.decode_jpeg(data, min_height=side, min_width=side)

    return _webdataset(configuration, decode)


def _webdataset(configuration: dict, decode: Callable) -> Callable[[int], int]:
    """Shards through webdataset, and OpenCV's area filter, which is antialiased."""
    import cv2
    import numpy as np
    import webdataset

    cv2.setNumThreads(1)
    side = configuration["side"]

    def images() -> Iterator:
        for (data,) in webdataset.WebDataset(configuration["shards"], shardshuffle=False).to_tuple("jpg"):
            yield cv2.resize(decode(data), (side, side), interpolation=cv2.INTER_AREA)

    def run(num_epochs: int) -> int:
        return sum(
            len(np.stack(batch).astype("float32"))
            for _ in range(num_epochs)
            for batch in _batches(images(), configuration["batch_size"])
        )

    return run


def _batches(images: Iterable, batch_size: int) -> Iterator[list]:
    batch = []
    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # another build of it, as opencv-python
        return "unknown"


if __name__ == "__main__":
    serve(start)
