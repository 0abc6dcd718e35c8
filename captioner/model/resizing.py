"""A captioner for images of another size than it was trained on.

Axes: h rows and w columns of the image tokens' grid, S image tokens, D width.
"""

import dataclasses

import keras
import numpy as np

from captioner.model.image_grid import ImageGrid, image_grid


def resize_captioner(captioner, image_size: tuple[int, int]):
    """Builds a captioner with the same weights that reads images of another size.

    The learned positions of the image tokens are interpolated, bilinearly, from the grid of training to the new one. All
    other weights are copied, so an image encoder must not have weights that depend on the image size. A calibration is
    kept, though it was made at the other size.

    Args:
        captioner: `ImageCaptioner`.
        image_size: `(height, width)` in px.

    Returns:
        A new `ImageCaptioner`; the same one if it has this size already.

    Raises:
        ValueError: If the image encoder cannot be built for this size, or its output is no grid.
    """
    old, image_size = captioner.backbone, tuple(image_size)
    if image_size == old.image_size:
        return captioner
    encoder = old.image_encoder_name or _resized_encoder(old.image_encoder, image_size)
    config = old.get_config() | {"image_encoder": encoder, "image_size": image_size}
    backbone = type(old).from_config(config)
    _copy_weights(old, backbone)
    preprocessor = captioner.preprocessor
    if preprocessor is not None:
        transform = dataclasses.asdict(preprocessor.image_transform) | {"image_size": image_size}
        preprocessor = type(preprocessor)(
            preprocessor.tokenizer,
            **transform,
            sequence_length=preprocessor.sequence_length,
            decoding=preprocessor.decoding,
        )
    return type(captioner)(backbone, preprocessor, captioner.calibration)


def interpolate_positions(positions: np.ndarray, grid: ImageGrid, new_grid: ImageGrid) -> np.ndarray:
    """Stretches learned positions over another grid, bilinearly, with both grids' outer edges on each other.

    Args:
        positions: float array `(S, D)`; those of class tokens come first and stay.
        grid: the grid that they were learned for.
        new_grid: the grid wanted.

    Returns:
        Float array `(S', D)`.
    """
    first = grid.num_class_tokens
    cells = positions[first:].reshape(grid.height, grid.width, -1)
    rows = _interpolation(grid.height, new_grid.height)
    columns = _interpolation(grid.width, new_grid.width)
    stretched = np.einsum("ij,jkd,lk->ild", rows, cells, columns)
    return np.concatenate([positions[:first], stretched.reshape(-1, positions.shape[1])])


def _interpolation(count: int, new_count: int) -> np.ndarray:
    """The weights `(new_count, count)` of old cells in new ones; each row sums to 1."""
    centres = (np.arange(new_count) + 0.5) * count / new_count - 0.5
    return np.stack([np.interp(centres, np.arange(count), one) for one in np.eye(count)], axis=1)


def _resized_encoder(encoder: keras.Model, image_size: tuple[int, int]) -> keras.Model:
    try:
        return keras.models.clone_model(encoder, input_tensors=keras.Input((*image_size, 3), name="images"))
    except Exception as error:  # whatever its layers raise
        raise ValueError(
            f"`image_size` {image_size} does not suit the image encoder {encoder.name!r}: {error}"
        ) from error


def _copy_weights(old, new) -> None:
    if len(old.weights) != len(new.weights):
        raise ValueError(
            f"`image_size` can be changed for the weights of a preset alone; this model has {len(old.weights)} weights in "
            f"place of {len(new.weights)}. Change it before LoRA or quantising."
        )
    positions = None if new.plain_image_tokens else new.image_tokens.tokens.positions
    for source, target in zip(old.weights, new.weights, strict=True):
        value = keras.ops.convert_to_numpy(source)
        if target is positions:
            grids = (image_grid(model.features_shape, model.image_size) for model in (old, new))
            value = interpolate_positions(value, *grids)
        if value.shape != tuple(target.shape):
            raise ValueError(
                f"`image_size` must be {old.image_size} for this image encoder, whose weight {source.path} depends on it: "
                f"{value.shape} would become {tuple(target.shape)}."
            )
        target.assign(value)
