"""Images in: decode any photo, transform it to the size of the model, vary it for training.

This is the only image preprocessing there is: captioning, training and shard checks call the same functions.
Importing it needs Pillow and NumPy; TensorFlow is imported by the first call that uses it.
"""

from captioner.images.augment import Augmentation
from captioner.images.decode import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    ImageError,
    decode_image,
    decode_in_graph,
    is_plain_jpeg,
    read_image,
)
from captioner.images.transform import ImageTransform
from captioner.images.views import load_view, view_of_image, view_of_jpeg

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "Augmentation",
    "ImageError",
    "ImageTransform",
    "decode_image",
    "decode_in_graph",
    "is_plain_jpeg",
    "load_view",
    "read_image",
    "view_of_image",
    "view_of_jpeg",
]
