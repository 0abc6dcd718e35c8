"""Measures our training step on a Keras backend, training from cached features, and products of matrices.

Axes: B images, G texts per image, T text positions, V vocabulary.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from captioner.resources import DEFAULT_PRESET
from tools.benchmarks.flops import (
    decoder_flops,
    image_tokens_flops,
    network_flops,
    step_flops,
    vit_flops,
    vit_tokens,
)
from tools.benchmarks.worker import serve, timed

NUM_CACHED_IMAGES = 640
WORDS = (
    "a",
    "the",
    "dog",
    "cat",
    "man",
    "runs",
    "sleeps",
    "jumps",
    "on",
    "in",
    "beach",
    "sofa",
    "grass",
    "red",
    "blue",
)


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Builds what `part` of the configuration names: `step`, `cached` or `peak`."""
    os.environ["KERAS_BACKEND"] = configuration["backend"]
    if hasattr(os, "sched_setaffinity"):  # JAX has no setting for its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: configuration["num_threads"]])
    from tools.quiet import import_tensorflow

    import_tensorflow()
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    measure = {"step": _step, "cached": _cached, "peak": _peak}[configuration["part"]](configuration)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    if configuration["backend"] == "jax":
        import jax

        versions["jax"] = jax.__version__
    return {"versions": versions}, measure


def settings_of(configuration: dict, **changes):
    """The trainers' settings for a dtype, all else as it comes."""
    from trainers.settings import TrainSettings

    dtype = {"bfloat16": "mixed_bfloat16"}.get(configuration["dtype"], configuration["dtype"])
    return TrainSettings(run_dir=Path("unused"), dtype=dtype, **changes)


def build_captioner(configuration: dict, dtype: str):
    """An `ImageCaptioner` with random weights, dropout as GPT-2's, all parts trained.

    With the ViT it computes what the peer computes: the decoder attends to the ViT's own sequence.
    """
    from captioner.model import CaptionerBackbone, ImageCaptioner
    from captioner.model.backbone import PARTS

    arguments = dict(configuration["model"])
    if configuration["encoder"] == "vit":
        vit = configuration["vit"]
        image_size = (vit["image_size"], vit["image_size"])
        arguments |= {
            "image_encoder": _build_vit(vit, image_size, dtype),
            "image_size": image_size,
            "num_image_layers": 0,
            "plain_image_tokens": True,
        }
    backbone = CaptionerBackbone(**arguments, num_special_tokens=0, dropout=0.1, dtype=dtype)
    backbone.set_trainable_parts(PARTS)
    return ImageCaptioner(backbone)


def _build_vit(vit: dict, image_size: tuple[int, int], dtype: str):
    from captioner.model.vision_transformer import vision_transformer

    return vision_transformer(
        "vit",
        image_size,
        patch_size=(vit["patch_size"], vit["patch_size"]),
        hidden_dim=vit["hidden_size"],
        num_layers=vit["num_hidden_layers"],
        num_heads=vit["num_attention_heads"],
        intermediate_dim=vit["intermediate_size"],
        dtype=dtype,
    )


def random_batch(configuration: dict, image_size: tuple[int, int]) -> tuple:
    """`(x, y, sample_weight)` of B images with G captions of T tokens."""
    import numpy as np

    generator = np.random.default_rng(0)
    shape = tuple(configuration[name] for name in ("batch_size", "num_captions", "num_tokens"))
    token_ids = generator.integers(0, configuration["model"]["vocabulary_size"], (2, *shape)).astype("int32")
    images = generator.uniform(0, 255, (shape[0], *image_size, 3)).astype("float32")
    x = {"images": images, "token_ids": token_ids[0], "padding_mask": np.ones(shape, bool)}
    return x, token_ids[1], np.ones(shape, "float32")


def _step(configuration: dict) -> Callable[[], dict]:
    """Steps of the trainers' own compiled model, within its `fit`."""
    import keras
    import tensorflow as tf

    from trainers.loop import compiled_model
    from trainers.tf_data import steady

    started, processor_started = time.perf_counter(), time.process_time()
    changes = {} if configuration["clipping"] else {"clip_norm": 0.0}
    settings = settings_of(
        configuration, gradient_checkpointing=configuration["gradient_checkpointing"], **changes
    )
    captioner = build_captioner(configuration, settings.dtype)
    if settings.gradient_checkpointing:
        captioner.backbone.recompute_blocks()
    model = compiled_model(settings, captioner, num_steps=1000)
    batch = random_batch(configuration, captioner.backbone.image_size)
    batches = steady(tf.data.Dataset.from_tensors(batch).cache().repeat())

    def ends_of_steps(num_steps: int) -> list[tuple[float, float]]:
        ends = []

        def note(_, logs):
            float(logs["loss"])  # waits for the step
            ends.append((time.perf_counter(), time.process_time()))

        noting = keras.callbacks.LambdaCallback(on_train_batch_end=note)
        model.fit(batches, steps_per_epoch=num_steps, verbose=0, callbacks=[noting])
        return ends

    [(ended, processor_ended)] = ends_of_steps(1)
    facts = {
        "first_step_seconds": ended - started,
        "first_step_processor_seconds": processor_ended - processor_started,
        "flops": flops_of_step(configuration, captioner.backbone),
    }

    def measure() -> dict:
        (before, processor_before), (after, processor_after) = ends_of_steps(2)
        return facts | {
            "step_seconds": after - before,
            "processor_seconds": processor_after - processor_before,
        }

    return measure


def flops_of_step(configuration: dict, backbone) -> float:
    """What the products of a step compute."""
    model, num_images = configuration["model"], configuration["batch_size"]
    if configuration["encoder"] == "vit":
        num_image_tokens, images = vit_tokens(configuration["vit"]), vit_flops(configuration["vit"])
    else:
        num_image_tokens, channels = backbone.image_tokens.tokens.num_tokens, backbone.features_shape[-1]
        images = network_flops(backbone.image_encoder)
        images += image_tokens_flops(model, num_image_tokens, channels)
    texts = decoder_flops(
        model, num_images, configuration["num_captions"], configuration["num_tokens"], num_image_tokens
    )
    return step_flops(num_images * images + texts)


def _cached(configuration: dict) -> Callable[[], dict]:
    """An epoch of the default preset's shape from cached features, and how long its steps wait for data.

    Images and captions are random; the loop around the compiled step is ours, as `fit` does not say how long it waits.
    """
    from captioner.model.encoder_split import split_image_encoder
    from trainers.build import build_captioner
    from trainers.loop import compiled_model

    settings = settings_of(configuration, preset=DEFAULT_PRESET, max_length=20)
    captioner = build_captioner(settings, ())
    split = split_image_encoder(captioner.backbone.image_encoder, None)
    epoch = _cached_epochs(settings, captioner, split)
    model = compiled_model(settings, captioner, num_steps=1000, split=split)

    def measure() -> dict:
        batches = iter(epoch())
        model.train_on_batch(*next(batches))  # a run fills the pipeline once
        waited, num_captions, started = 0.0, 0, time.perf_counter()
        while True:
            batch, seconds = timed(lambda: next(batches, None))
            waited += seconds
            if batch is None:
                break
            model.train_on_batch(*batch)
            num_captions += int(batch[1].shape[0]) * int(batch[1].shape[1])
        whole = time.perf_counter() - started
        return {"captions_per_second": num_captions / whole, "waiting_share": waited / whole}

    return measure


def _cached_epochs(settings, captioner, split) -> Callable:
    """A function that gives the batches of an epoch, from features that are cached for as long as it lives."""
    import numpy as np
    from PIL import Image

    from trainers.caption_sets import tokenize_captions
    from trainers.encode_images import weights_fingerprint
    from trainers.feature_cache import cache_features
    from trainers.pipeline import training_dataset
    from trainers.records import CaptionedImage

    folder = tempfile.TemporaryDirectory()
    generator = np.random.default_rng(0)
    images = []
    for index in range(NUM_CACHED_IMAGES):
        path = Path(folder.name) / f"{index}.jpg"
        Image.fromarray(generator.integers(0, 256, (48, 64, 3)).astype("uint8")).save(path)
        captions = tuple(" ".join(generator.choice(WORDS, 24)) for _ in range(settings.captions_per_image))
        images.append(CaptionedImage(path, captions))
    captions = tokenize_captions(images, captioner.preprocessor.tokenizer, max_length=settings.max_length)
    source = cache_features(
        split.frozen,
        weights_fingerprint(split.frozen),
        captions.paths,
        captioner.preprocessor.image_transform,
        Path(folder.name) / "cache",
        progress=False,
    )

    def epoch():
        assert folder  # the files are there for as long as the function
        return training_dataset(
            captions,
            source,
            batch_size=settings.batch_size,
            captions_per_image=settings.captions_per_image,
            seed=settings.seed,
            num_epochs=1,
        )

    return epoch


def _peak(configuration: dict) -> Callable[[], dict]:
    """A product as large as those of a step."""
    import keras

    rows, inner, columns = configuration["product"]
    x, weight = (keras.random.normal(shape) for shape in ((rows, inner), (inner, columns)))
    x, weight = (keras.ops.cast(matrix, configuration["dtype"]) for matrix in (x, weight))

    def multiply():
        return keras.ops.convert_to_numpy(keras.ops.matmul(x, weight)[0, :1])

    def measure() -> dict:
        return {"gflops": 2e-9 * rows * inner * columns / min(timed(multiply)[1] for _ in range(5))}

    return measure


if __name__ == "__main__":
    serve(start)
