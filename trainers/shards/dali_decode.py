"""Engine `dali`: NVIDIA DALI decodes, crops, resizes and varies the images of batches that were read elsewhere.

DALI gets one byte string for each sample: what is to be done to the image, the numbers that belong to it, and the
encoded image. So these numbers travel with their image, each sample is read once, and DALI opens no file.

Axes: B images of a batch, H, W rows and columns of the image, h, w of the result.
"""

import functools

from captioner.cores import num_cores
from captioner.images import Augmentation, ImageTransform
from captioner.images.transform import PAD_VALUE
from trainers.shards.ppm import BLANK

INSTALL_COMMAND = "captioner doctor --install-dali"

# A sample begins with real numbers and whole ones, 4 bytes each. Real: the two colour matrices, each transposed and
# row by row. Whole: box (top, left, rows, columns), size to resize to, where a result with margins begins, flip, and
# at the end whether it is a sample, since this and `rest` behind it go through DALI untouched.
_NUM_REAL = 18
_HEAD_BYTES = 4 * (_NUM_REAL + 10)


def is_available() -> bool:
    """True where DALI and its TensorFlow plugin are installed and can be imported."""
    try:
        _plugin()
    except ImportError:
        return False
    return True


def decode_batches(
    dataset, *, batch_size: int, transform: ImageTransform, augmentation: Augmentation | None = None
):
    """Decodes the images of a dataset of batches; on the GPU that TensorFlow sees first, if there is one.

    The pixels are those of `captioner.images` to within one grey level on average, and depend on nothing but
    the sample's data and seed. The order is kept. The results are in the memory of the processor.

    Args:
        dataset: tf.data.Dataset of `(encoded, rest)`. `encoded` is a dictionary: "data" string `(B,)`, each an
            upright RGB or grey JPEG or a PPM; "size" int32 `(B, 2)`, its height and width; "seed" int32
            `(B, 2)`; "allow_flip" bool `(B,)`. `rest` is any structure of numbers and truths `(B, ...)` whose
            axes after B are of known length.
        batch_size: int. The largest B of `dataset`; each of its batches gives one, and may be shorter.
        transform: ImageTransform.
        augmentation: Augmentation, or None for the transform alone.

    Returns:
        tf.data.Dataset of (float32 `(B, h, w, 3)`, values 0..255, and `rest`).

    Raises:
        ImportError: If DALI or its plugin is not there.
        ValueError: If `batch_size` is below 1, or an axis of `rest` is of unknown length.
    """
    import tensorflow as tf

    from trainers.tf_data import as_it_stands

    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; received batch_size={batch_size}.")
    plugin = _plugin()
    rest_spec = dataset.element_spec[1]
    columns = [_Column(spec) for spec in tf.nest.flatten(rest_spec)]
    num_rest_bytes = sum(column.num_bytes for column in columns)
    head = functools.partial(_head, transform=transform, augmentation=augmentation or Augmentation())

    @as_it_stands
    def pack_rest(encoded, rest):
        values = zip(columns, tf.nest.flatten(rest), strict=True)
        nothing = tf.zeros((tf.shape(encoded["data"])[0], 0), tf.uint8)
        return encoded, tf.concat([nothing, *(column.pack(value) for column, value in values)], 1)

    @as_it_stands
    def pack(encoded, rest):
        numbers = head(encoded["size"], encoded["seed"], encoded["allow_flip"], True)
        return tf.concat([numbers, rest, tf.io.decode_raw(encoded["data"], tf.uint8)], 0)

    @as_it_stands
    def unpack(images, tail):
        num_samples = tf.reduce_sum(tf.bitcast(tail[:, :4], tf.int32))
        tail, values, start = tail[:num_samples], [], 4
        for column in columns:
            values.append(column.unpack(tail[:, start : start + column.num_bytes]))
            start += column.num_bytes
        return images[:num_samples], tf.nest.pack_sequence_as(rest_spec, values)

    blank = tf.concat([
        head(tf.constant([1, 1]), tf.constant([0, 0]), False, False),
        tf.zeros(num_rest_bytes, tf.uint8),
        tf.io.decode_raw(BLANK, tf.uint8),  # fills a short batch up, and is cut off again
    ], 0)  # fmt: skip
    blanks = tf.data.Dataset.from_tensors(blank).repeat()

    @as_it_stands
    def filled(encoded, rest):
        # DALI takes whole batches only: the last of each epoch would be filled from the next.
        samples = tf.data.Dataset.from_tensor_slices((encoded, rest)).map(pack)
        num_missing = tf.math.floormod(-tf.shape(encoded["data"], tf.int64)[0], batch_size)
        return samples.concatenate(blanks.take(num_missing))

    samples = dataset.map(pack_rest).flat_map(filled)
    device = 0 if tf.config.list_physical_devices("GPU") else None
    options = {"batch_size": batch_size, "num_threads": num_cores(), "device_id": device}
    # The dataset is on the processor also where DALI works on a GPU: so all that follows is the same.
    with tf.device("/cpu:0"):
        decoded = plugin.experimental.DALIDatasetWithInputs(
            _pipeline(transform, augmentation or Augmentation(), num_rest_bytes, options),
            input_datasets={"samples": samples},
            output_dtypes=(tf.float32, tf.uint8),
            output_shapes=((batch_size, *transform.image_size, 3), (batch_size, 4 + num_rest_bytes)),
            **options,
        )
    # DALI's dataset ends with its input, but says that it is infinite; after take_while its length is unknown.
    return decoded.map(unpack).take_while(as_it_stands(lambda images, rest: tf.shape(images)[0] > 0))


def _plugin():
    try:
        import nvidia.dali.plugin.tf as plugin
    except Exception as error:  # a plugin that was built for another TensorFlow fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImportError(
            f"DALI or its TensorFlow plugin cannot be used: {reason}. Install them: {INSTALL_COMMAND}"
        ) from error
    return plugin


def _head(size, seed, allow_flip, is_sample: bool, transform: ImageTransform, augmentation: Augmentation):
    """What is to be done to one image, as uint8 `(_HEAD_BYTES,)`."""
    import tensorflow as tf

    variation = augmentation.variation(*tf.unstack(size), seed, allow_flip)
    top, left, *crop_size = variation.crop
    box_top, box_left, *box_size = transform.box(*crop_size)
    resized_size = transform.resized_size(*box_size)
    margin = [(a - b) // 2 for a, b in zip(transform.image_size, resized_size, strict=True)]
    flip = tf.cast(variation.flip, tf.int32)
    whole = [top + box_top, left + box_left, *box_size, *resized_size, -margin[0], -margin[1], flip]
    real = tf.zeros(_NUM_REAL)
    if augmentation.color_jitter > 0.0:
        real = tf.concat([tf.reshape(tf.transpose(matrix), [-1]) for matrix in variation.color_matrices()], 0)
    return tf.reshape(
        tf.bitcast(tf.concat([tf.bitcast(real, tf.int32), tf.stack([*whole, int(is_sample)])], 0), tf.uint8),
        [-1],
    )


def _pipeline(transform: ImageTransform, augmentation: Augmentation, num_rest_bytes: int, options: dict):
    """DALI's part: bytes in, float images and the bytes of `is_sample` and `rest` out."""
    from nvidia.dali import fn, math, pipeline_def, types

    on_gpu = options["device_id"] is not None

    @pipeline_def(exec_dynamic=True, **options)  # or no result could come back from a GPU
    def define():
        sample = fn.external_source(name="samples", device="cpu", dtype=types.UINT8, ndim=1)
        real = fn.reinterpret(sample[: 4 * _NUM_REAL], dtype=types.FLOAT)
        whole = fn.reinterpret(sample[4 * _NUM_REAL : _HEAD_BYTES], dtype=types.INT32)
        images = fn.decoders.image(
            sample[_HEAD_BYTES + num_rest_bytes :],
            device="mixed" if on_gpu else "cpu",
            output_type=types.RGB,
            use_fast_idct=False,
            jpeg_fancy_upsampling=True,
            adjust_orientation=False,  # images come upright
        )
        images = fn.slice(images, start=whole[0:2], shape=whole[2:4], axes=(0, 1))
        images = _resized(images, fn.cast(whole[2:6], dtype=types.FLOAT), transform)
        if transform.crop_from:
            images = fn.slice(images, start=transform.middle, shape=transform.image_size, axes=(0, 1))
        if augmentation.color_jitter > 0.0:
            matrix, mean_matrix = fn.reshape(real[:9], shape=(3, 3)), fn.reshape(real[9:], shape=(3, 3))
            mean = fn.reductions.mean(images, axes=(0, 1), keep_dims=True)
            images = fn.coord_transform(images, M=matrix) + fn.coord_transform(mean, M=mean_matrix)
            images = math.clamp(images, 0.0, 255.0)
        if augmentation.horizontal_flip:
            images = fn.flip(images, horizontal=whole[8])
        if transform.resize == "pad":  # begins in the margin, outside of the image
            images = fn.slice(
                images,
                start=whole[6:8],
                shape=transform.image_size,
                axes=(0, 1),
                out_of_bounds_policy="pad",
                fill_values=PAD_VALUE,
            )
        return images.cpu() if on_gpu else images, sample[_HEAD_BYTES - 4 : _HEAD_BYTES + num_rest_bytes]

    return define()


def _resized(images, sizes, transform: ImageTransform):
    """Resizes from the rows and columns `sizes[:2]` to `sizes[2:]`."""
    from nvidia.dali import fn, math, types

    resize = functools.partial(fn.resize, antialias=True, dtype=types.FLOAT)
    if transform.interpolation == "bilinear":
        return resize(images, size=sizes[2:], interp_type=types.INTERP_LINEAR)
    for rows in (sizes[0], sizes[2]):  # the columns, then the rows, each clipped: as ImageTransform does it
        images = resize(images, resize_y=rows, resize_x=sizes[3], interp_type=types.INTERP_CUBIC)
        images = math.clamp(images, 0.0, 255.0)
    return images


class _Column:
    """One component of `rest` as bytes, and back."""

    def __init__(self, spec):
        import tensorflow as tf

        if not spec.shape[1:].is_fully_defined() or spec.dtype == tf.string:
            raise ValueError(
                f"`dataset` must have only numbers of known shape beside the images; received {spec}."
            )
        self._shape, self._dtype = spec.shape[1:].as_list(), spec.dtype
        self._stored = tf.uint8 if spec.dtype == tf.bool else spec.dtype
        self.num_bytes = spec.shape[1:].num_elements() * self._stored.size

    def pack(self, values):
        import tensorflow as tf

        return tf.reshape(tf.bitcast(tf.cast(values, self._stored), tf.uint8), [-1, self.num_bytes])

    def unpack(self, data):
        import tensorflow as tf

        shape = [-1, *self._shape, *([self._stored.size] if self._stored.size > 1 else [])]
        return tf.cast(tf.bitcast(tf.reshape(data, shape), self._stored), self._dtype)
