"""A captioner small enough to check by hand, with coprime sizes so that no two axes can be confused."""

import keras

from captioner.model import CaptionerBackbone, ImageCaptioner, ImageCaptionerPreprocessor
from captioner.text import train_tokenizer

CAPTIONS = ["a dog runs on the beach", "two cats sleep on a red sofa", "a man rides a bike", "the dog sleeps"]
IMAGE_SIZE = (9, 15)  # a feature map of 3 x 5 cells


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
