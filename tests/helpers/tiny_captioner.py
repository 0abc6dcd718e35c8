"""A captioner small enough to check by hand, with coprime sizes so that no two axes can be confused."""

import keras
import numpy as np

from captioner.model import CaptionerBackbone, ImageCaptioner, ImageCaptionerPreprocessor
from captioner.text import train_tokenizer

CAPTIONS = ["a dog runs on the beach", "two cats sleep on a red sofa", "a man rides a bike", "the dog sleeps"]
IMAGE_SIZE = (9, 15)  # a feature map of 3 x 5 cells
NUM_IMAGE_TOKENS = 15


def tiny_encoder(channels: int = 7) -> keras.Model:
    """Cells of 3 x 3 pixels: float `(B, 9, 15, 3)` to `(B, 3, 5, C)`."""
    images = keras.Input((*IMAGE_SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    return keras.Model(images, keras.layers.Conv2D(channels, 3, strides=3, name="cells")(x))


def tiny_captioner(seed: int = 0, image_encoder=None, **changes) -> ImageCaptioner:
    """A random captioner with large weights, so that its captions depend on the image."""
    keras.utils.set_random_seed(seed)
    tokenizer = train_tokenizer(CAPTIONS * 2, 280)
    sizes = {
        "image_size": IMAGE_SIZE,
        "vocabulary_size": tokenizer.vocabulary_size() - tokenizer.num_special_tokens,
        "num_special_tokens": tokenizer.num_special_tokens,
        "hidden_dim": 22,
        "num_heads": 2,
        "num_image_layers": 1,
        "num_layers": 2,
        "intermediate_dim": 26,
        "max_sequence_length": 17,
    }
    backbone = CaptionerBackbone(image_encoder or tiny_encoder(), **sizes | changes)
    for variable in backbone.trainable_variables:
        if "kernel" in variable.path or "embedding" in variable.path:
            variable.assign(variable * 8)
    preprocessor = ImageCaptionerPreprocessor(tokenizer, IMAGE_SIZE, sequence_length=13)
    return ImageCaptioner(backbone, preprocessor)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    """uint8 `(B, 9, 15, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (count, *IMAGE_SIZE, 3)).astype("uint8")


def random_batch(model: ImageCaptioner, num_images: int, num_texts: int, length: int, seed: int = 0) -> dict:
    """The model's input `(B, G, T)`: random tokens, the last text of each image with two padded positions."""
    generator = np.random.default_rng(seed)
    shape = (num_images, num_texts, length)
    padding_mask = np.ones(shape, bool)
    padding_mask[:, -1, -2:] = False
    return {
        "images": random_images(num_images, seed).astype("float32"),
        "token_ids": generator.integers(0, model.preprocessor.tokenizer.vocabulary_size(), shape).astype(
            "int32"
        ),
        "padding_mask": padding_mask,
    }


def logits_of(model: ImageCaptioner, inputs: dict) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(inputs, training=False))
