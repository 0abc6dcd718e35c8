"""Measures our readers of training data, and their decoder alone. Axes: B images of a batch."""

import functools
from collections.abc import Callable
from pathlib import Path

from tools.benchmarks.passes import LONG, SHORT, measure_cases
from tools.benchmarks.photo_sets import CAPTIONS_PER_IMAGE, captions
from tools.benchmarks.worker import serve

MAX_LENGTH = 24
"""Text positions."""


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Builds what `part` of the configuration names: tf, dali, csv or decoder."""
    from tools.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from captioner.images import ImageTransform

    versions = {"tensorflow": tf.__version__}
    part = configuration["part"]
    if part == "dali":
        import nvidia.dali

        versions["nvidia-dali"] = nvidia.dali.__version__
    batches = {"tf": shard_batches, "dali": shard_batches, "csv": _csv, "decoder": _decoder}[part]

    def run_of(case: dict) -> Callable[[int], int]:
        dataset = batches(case, ImageTransform(image_size=(case["side"],) * 2))
        datasets = {number: dataset(number) for number in (SHORT, LONG)}
        return lambda number: count_images(datasets[number])

    return {"versions": versions}, measure_cases(configuration, run_of)


def shard_batches(configuration: dict, transform) -> Callable:
    """The batches of the webdataset trainer, as a function of the number of epochs."""
    from trainers.shards.batches import training_batches
    from trainers.shards.data import find_data
    from trainers.shards.engines import find_engine
    from trainers.shards.plan import ShardPlan
    from trainers.shards.read_problems import ReadProblems
    from trainers.shards.reader import CaptionTokens, ShardReader

    data = find_data(configuration["shards"], progress=False)
    tokens = CaptionTokens(
        tokenizer=tokenizer(), captions_per_image=CAPTIONS_PER_IMAGE, max_length=MAX_LENGTH
    )
    shuffle_buffer = configuration["shuffle_buffer"]
    reader = ShardReader(
        shards=data.opened(shuffle_buffer), tokens=tokens, problems=ReadProblems(_require_none)
    )
    plan = ShardPlan(sources=data.plan_sources, seed=0, shuffle_buffer=shuffle_buffer)
    _, decode = find_engine(configuration["part"])

    def dataset(num_epochs: int):
        return training_batches(
            plan,
            reader,
            decode,
            batch_size=configuration["batch_size"],
            transform=transform,
            augmentation=None,
            num_epochs=num_epochs,
        )

    return dataset


@functools.cache
def tokenizer():
    """A tokenizer of captions like those of the sets."""
    from captioner.text import train_tokenizer

    return train_tokenizer([text for number in range(1000) for text in captions(number)], 500)


def count_images(dataset) -> int:
    """Goes through batches of anything; gives the number of images in them."""
    import tensorflow as tf

    return sum(int(tf.nest.flatten(batch)[0].shape[0]) for batch in dataset)


def _csv(configuration: dict, transform) -> Callable:
    """The batches of the CSV trainer."""
    from trainers.caption_sets import tokenize_captions
    from trainers.pipeline import ImageFiles, training_dataset
    from trainers.records import CaptionedImage

    paths = configuration["paths"]
    images = [CaptionedImage(path=Path(path), captions=captions(number)) for number, path in enumerate(paths)]
    captions_of_set = tokenize_captions(images, tokenizer(), max_length=MAX_LENGTH)
    source = ImageFiles(paths=captions_of_set.paths, transform=transform)

    def dataset(num_epochs: int):
        return training_dataset(
            captions_of_set,
            source,
            batch_size=configuration["batch_size"],
            captions_per_image=CAPTIONS_PER_IMAGE,
            seed=0,
            num_epochs=num_epochs,
        )

    return dataset


def _decoder(configuration: dict, transform) -> Callable:
    """Nothing but decoding and resizing what is in memory; batches of one of the pixels of each image."""
    import numpy as np
    import tensorflow as tf

    from captioner.cores import num_cores
    from captioner.images import view_of_jpeg
    from trainers.tf_data import steady

    data = [Path(path).read_bytes() for path in configuration["paths"]]
    size = np.tile(np.array([configuration["size"][::-1]], "int32"), (len(data), 1))
    images = tf.data.Dataset.from_tensor_slices((data, size))

    def decode(encoded, size):
        return view_of_jpeg(encoded, size, transform, None, tf.zeros(2, tf.int32), True)[0, 0]

    def dataset(num_epochs: int):
        repeated = images.repeat(num_epochs)
        decoded = repeated.map(decode, num_parallel_calls=num_cores(), deterministic=True)
        return steady(decoded.batch(configuration["batch_size"]).prefetch(2))

    return dataset


def _require_none(problems) -> None:
    raise RuntimeError(f"the benchmark's own shards are damaged: {problems[0]}")


if __name__ == "__main__":
    serve(start)
