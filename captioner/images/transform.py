"""Brings an image to the size of the model. Axes: H, W rows and columns of the image; h, w of the result."""

import dataclasses
import operator
import typing

import numpy as np

PAD_VALUE = 127.0
"""Grey level of the margins of `resize="pad"`: the middle of 0..255."""

ResizeMode = typing.Literal["stretch", "center_crop", "pad"]
Interpolation = typing.Literal["bilinear", "bicubic"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """Resizes an image, antialiased, the same way for training and captioning.

    One code path serves eager calls and tf.data. `ImageTransform(**dataclasses.asdict(transform))` restores
    it, through JSON as well.

    Call arguments:
        image: uint8 or float tensor or array `(H, W, 3)`, values 0..255.

    Returns:
        float32 tensor `(h, w, 3)` with static shape, values 0..255, `(h, w) = image_size`.

    Raises:
        ValueError: If a setting or the shape of the image is impossible.
    """

    image_size: tuple[int, int]
    """Height and width of the result in px."""
    resize: ResizeMode = "stretch"
    """stretch: both axes by their own factor; center_crop: the largest centred box of the right aspect ratio;
    pad: the whole image, centred between grey margins."""
    interpolation: Interpolation = "bilinear"
    """bilinear, or bicubic as Pillow has it (a = -0.5); both are within one grey level of Pillow's."""
    crop_from: tuple[int, int] | None = None
    """Height and width in px to stretch to first; the middle of `image_size` is then cut out. None cuts nothing off."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", self._size("image_size"))  # JSON brings a list
        for name, kind in (("resize", ResizeMode), ("interpolation", Interpolation)):
            if (value := getattr(self, name)) not in typing.get_args(kind):
                raise ValueError(
                    f"`{name}` must be one of {', '.join(typing.get_args(kind))}; received {value!r}."
                )
        if self.crop_from is None:
            return
        object.__setattr__(self, "crop_from", self._size("crop_from"))
        if self.resize != "stretch" or any(
            a < b for a, b in zip(self.crop_from, self.image_size, strict=True)
        ):
            raise ValueError(
                f'`crop_from` must be at least `image_size`={self.image_size}, with resize="stretch"; received '
                f"crop_from={self.crop_from}, resize={self.resize!r}."
            )

    def _size(self, name: str) -> tuple[int, int]:
        value = getattr(self, name)
        try:
            height, width = (operator.index(side) for side in value)
        except (TypeError, ValueError):
            raise ValueError(
                f"`{name}` must be two whole numbers (height, width) in px; received {value!r}."
            ) from None
        if min(height, width) < 1:
            raise ValueError(f"`{name}` must be at least 1 px; received {value!r}.")
        return height, width

    def __call__(self, image):
        return self.padded(self.resized(image))

    def view(self, image) -> np.ndarray:
        """What the model sees of an image, to be looked at: uint8 `(H, W, 3)`, in the proportions of the image."""
        if self.resize == "stretch":
            image = np.asarray(image).astype("uint8")
            if self.crop_from is None:
                return image
            shares = zip(image.shape[:2], self.middle, self.crop_from, strict=True)
            rows, columns = (round(side * margin / whole) for side, margin, whole in shares)
            return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]
        return np.asarray(self(image)).round().astype("uint8")

    def resized(self, image):
        """Crops and resizes, but leaves the margins of `pad` out: float32 `(<=h, <=w, 3)`."""
        import tensorflow as tf

        image = as_image(image)
        rows, columns = tf.unstack(tf.shape(image)[:2])
        top, left, box_rows, box_columns = self.box(rows, columns)
        return self.resized_box(image[top : top + box_rows, left : left + box_columns])

    def resized_box(self, pixels, box=None, ratio=1):
        """Resizes a box, whose pixels may be those of a smaller decoded image: float32 `(<=h, <=w, 3)`.

        Args:
            pixels: uint8 or float tensor `(H, W, 3)`. The box, or with a little more around it.
            box: four int32 tensors `()`. First row, first column, number of rows and of columns of the box, counted
                from the corner of `pixels` in pixels of the full image; None for all of `pixels`.
            ratio: int or int32 tensor `()`. How many rows, and columns, of the full image a pixel stands for.
        """
        import tensorflow as tf

        top, left, box_rows, box_columns = box or (0, 0, *tf.unstack(tf.shape(pixels)[:2]))
        size = self.resized_size(box_rows, box_columns)
        rows = _Resampling.of_box(size[0], box_rows, top, ratio)
        columns = _Resampling.of_box(size[1], box_columns, left, ratio)
        # On the processor also where a GPU is present, so that every machine gives the same pixels.
        with tf.device("CPU"):
            if self.interpolation == "bilinear":
                resized = columns.of_columns(rows.of_rows(pixels, "triangle"), "triangle")
            else:  # it overshoots, so Pillow clips after the columns and after the rows, which moves pixels at sharp edges
                resized = tf.clip_by_value(columns.of_columns(pixels, "keyscubic"), 0.0, 255.0)
                resized = tf.clip_by_value(rows.of_rows(resized, "keyscubic"), 0.0, 255.0)
        if self.crop_from:
            height, width = self.image_size
            top, left = self.middle
            resized = resized[top : top + height, left : left + width]
        return resized

    def box(self, rows, columns):
        """The part of an image that is resized.

        Args:
            rows: int32 tensor `()`. H.
            columns: int32 tensor `()`. W.

        Returns:
            Four int32 tensors `()`: first row, first column, number of rows, number of columns.
        """
        import tensorflow as tf

        if self.resize != "center_crop":
            return tf.constant(0), tf.constant(0), rows, columns
        height, width = self.image_size
        box_rows = tf.clip_by_value(_rounded_ratio(columns, height, width), 1, rows)
        box_columns = tf.clip_by_value(_rounded_ratio(rows, width, height), 1, columns)
        return (rows - box_rows) // 2, (columns - box_columns) // 2, box_rows, box_columns

    def resized_size(self, rows, columns):
        """Rows and columns, two int32 tensors `()`, to which a box of so many rows and columns is resized."""
        import tensorflow as tf

        height, width = self.crop_from or self.image_size
        if self.resize != "pad":
            return tf.constant(height), tf.constant(width)
        # The side that fills the result is computed as exactly its length.
        new_rows = tf.clip_by_value(_rounded_ratio(rows, width, columns), 1, height)
        new_columns = tf.clip_by_value(_rounded_ratio(columns, height, rows), 1, width)
        return new_rows, new_columns

    @property
    def middle(self) -> tuple[int, int]:
        """First row and column that are kept of `crop_from`; (0, 0) without it."""
        if self.crop_from is None:
            return 0, 0
        return tuple((a - b) // 2 for a, b in zip(self.crop_from, self.image_size, strict=True))

    def padded(self, image):
        """Adds the margins of `pad` to what `resized` gave: float32 `(h, w, 3)`, a fixed shape."""
        import tensorflow as tf

        height, width = self.image_size
        if self.resize == "pad":
            rows, columns = tf.unstack(tf.shape(image)[:2])
            top, left = (height - rows) // 2, (width - columns) // 2
            margins = [[top, height - rows - top], [left, width - columns - left], [0, 0]]
            image = tf.pad(image, margins, constant_values=PAD_VALUE)
        return tf.ensure_shape(image, (height, width, 3))


def as_image(image):
    """Returns the image as a tensor `(H, W, 3)`; refuses another rank or number of channels."""
    import tensorflow as tf

    image = tf.convert_to_tensor(image)
    if not image.shape.is_compatible_with((None, None, 3)):
        raise ValueError(
            f"`image` must be one RGB image of shape (height, width, 3); received shape {image.shape}. "
            "decode_image gives this shape for every file."
        )
    return image


_STRONG_SHRINKAGE = 2.5
"""Above it, TensorFlow's operation is faster over its rows than over its columns; the pixels are the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Resampling:
    """Antialiased resampling of one axis: position `x` goes to `x * scale + shift`.

    TensorFlow's operation is fast over channels, so all that is not the axis becomes channels: to the bit the same pixels
    as with both axes at once, in less than half of the time.
    """

    new_length: typing.Any
    """Length of the axis afterwards: int32 tensor `()`."""
    scale: typing.Any
    """float32 tensor `()`."""
    shift: typing.Any
    """float32 tensor `()`."""

    @classmethod
    def of_box(cls, new_length, length, first, ratio) -> "_Resampling":
        """Brings `length` rows or columns of the full image, from the `first`, to `new_length`; `ratio` of them are one."""
        scale = _quotient(ratio * new_length, length)
        return cls(new_length=new_length, scale=scale, shift=-scale * _quotient(first, ratio))

    def of_rows(self, image, kernel: str):
        """`(H, W, 3)` to float32 `(new_length, W, 3)`."""
        import tensorflow as tf

        rows, columns, channels = tf.unstack(tf.shape(image))
        flat = tf.reshape(image, [rows, columns * channels])
        return tf.reshape(self._of_first_axis(flat, kernel), [self.new_length, columns, channels])

    def of_columns(self, image, kernel: str):
        """`(H, W, 3)` to float32 `(H, new_length, 3)`."""
        import tensorflow as tf

        rows, columns, channels = tf.unstack(tf.shape(image))
        flat = tf.reshape(image, [rows, columns * channels])

        def resampled():  # transposing two axes is faster than three, so the channels go with the columns
            columns_first = tf.reshape(tf.transpose(flat), [columns, channels * rows])
            new = self._of_first_axis(columns_first, kernel)
            return tf.transpose(tf.reshape(new, [self.new_length * channels, rows]))

        flat = tf.cond(self._is_identity(columns), lambda: tf.cast(flat, tf.float32), resampled)
        return tf.reshape(flat, [rows, self.new_length, channels])

    def _of_first_axis(self, values, kernel: str):
        """`(L, N)` to float32 `(new_length, N)`."""
        import tensorflow as tf

        length, count = tf.unstack(tf.shape(values))
        over_rows = self.scale * _STRONG_SHRINKAGE < 1.0

        def resampled():
            new = tf.raw_ops.ScaleAndTranslate(
                images=tf.reshape(values, tf.where(over_rows, [1, length, 1, count], [1, 1, length, count])),
                size=tf.where(over_rows, [self.new_length, 1], [1, self.new_length]),
                scale=tf.where(over_rows, [self.scale, 1.0], [1.0, self.scale]),
                translation=tf.where(over_rows, [self.shift, 0.0], [0.0, self.shift]),
                kernel_type=kernel,
                antialias=True,
            )
            return tf.reshape(new, [self.new_length, count])

        return tf.cond(self._is_identity(length), lambda: tf.cast(values, tf.float32), resampled)

    def _is_identity(self, length):
        """bool tensor `()`: whether so many rows or columns stay as they are."""
        return (self.scale == 1.0) & (self.shift == 0.0) & (self.new_length == length)


def _quotient(numerator, denominator):
    import tensorflow as tf

    return tf.cast(numerator, tf.float32) / tf.cast(denominator, tf.float32)


def _rounded_ratio(side, numerator, denominator):
    """`side * numerator / denominator` rounded to int32, computed in 64 bits."""
    import tensorflow as tf

    side, numerator, denominator = (tf.cast(number, tf.int64) for number in (side, numerator, denominator))
    return tf.cast((2 * side * numerator + denominator) // (2 * denominator), tf.int32)
