"""Images and captions to the batch that a captioner reads. Axes: B images, G texts per image, T text
positions."""

import dataclasses
import os

import keras
import keras_hub
import numpy as np

from captioner.images import ImageTransform, read_image
from captioner.python_calls import python_call
from captioner.text.targets import training_targets
from captioner.text.tokenizer import CaptionTokenizer


@keras.saving.register_keras_serializable("captioner")
class ImageCaptionerPreprocessor(keras_hub.models.CausalLMPreprocessor):
    """Turns images of any size and their captions into the model's batch.

    Args:
        tokenizer: `CaptionTokenizer`.
        image_size: `(height, width)` in px that the image encoder reads.
        resize: "stretch", "center_crop" or "pad"; see `ImageTransform`.
        sequence_length: int. Text positions T of a batch.
        interpolation: "bilinear" or "bicubic"; see `ImageTransform`.
        crop_from: optional `(height, width)` in px to resize to before the middle is cut out; see `ImageTransform`.
        decoding: optional dict of decoding settings that differ from the library's, such as `{"num_beams": 4}`: the
            captioner's defaults.

    Call arguments:
        x: dict of `images`, a list of paths or of uint8 or float arrays `(H, W, 3)` in 0..255 (an array `(B,
            H, W, 3)` is such a list), and `captions`, for each image a str or a list of G str.

    Returns:
        `(x, y, sample_weight)`: `x` a dict of `images` float32 `(B, height, width, 3)`, `token_ids` int32 and
        `padding_mask` bool `(B, G, T)`, True = a real token; `y` int32 and `sample_weight` float32 `(B, G,
        T)`.

    In a `tf.data` pipeline, `fit` included, images are paths or one array, and captions a string tensor `(B,)` or
    `(B, G)`.

    Raises:
        ValueError: If the images do not all have the same number of captions.
    """

    tokenizer_cls = CaptionTokenizer

    def __init__(
        self,
        tokenizer,
        image_size,
        resize: str = "stretch",
        sequence_length: int = 32,
        interpolation: str = "bilinear",
        crop_from=None,
        decoding: dict | None = None,
        **kwargs,
    ):
        super().__init__(tokenizer=tokenizer, sequence_length=sequence_length, **kwargs)
        self.image_transform = ImageTransform(
            image_size=image_size, resize=resize, interpolation=interpolation, crop_from=crop_from
        )
        self.decoding = dict(decoding or {})

    def build(self, input_shape=None):
        self.built = True

    def call(self, x, y=None, sample_weight=None, sequence_length=None):
        length = sequence_length or self.sequence_length
        if _is_symbolic(x["captions"]):
            return self._call_in_graph(x["images"], x["captions"], length)
        return self._call_eagerly(x["images"], x["captions"], length)

    def _call_eagerly(self, images, captions, length: int):
        captions = [[text] if isinstance(text, str) else list(text) for text in _strings(captions)]
        num_texts = len(captions[0]) if captions else 0
        if any(len(texts) != num_texts for texts in captions):
            counts = sorted({len(texts) for texts in captions})
            raise ValueError(f"`captions` must hold as many texts for each image; received {counts}.")
        tokens = self.tokenizer.encode_batch([text for texts in captions for text in texts])
        targets = training_targets(
            tokens,
            start_token_id=self.tokenizer.start_token_id,
            end_token_id=self.tokenizer.end_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            max_length=length,
            pad_to_max_length=True,
        )
        shape = (len(captions), num_texts, -1)
        inputs = {
            "images": self.prepare_images(images),
            "token_ids": targets.token_ids.reshape(shape),
            "padding_mask": targets.padding_mask.reshape(shape),
        }
        return inputs, targets.targets.reshape(shape), targets.sample_weight.reshape(shape)

    def _call_in_graph(self, images, captions, length: int):
        import tensorflow as tf

        def arrays(images, captions):
            x, y, sample_weight = self._call_eagerly(images, captions, length)
            return *x.values(), y, sample_weight

        texts = (images.shape[0], captions.shape[1] if captions.shape.rank == 2 else 1, length)
        shapes = [(images.shape[0], *self.image_transform.image_size, 3), texts, texts, texts, texts]
        outputs = tf.numpy_function(
            python_call(arrays), [images, captions], ["float32", "int32", "bool", "int32", "float32"]
        )
        for output, shape in zip(outputs, shapes, strict=True):
            output.set_shape(shape)
        images, token_ids, padding_mask, y, sample_weight = outputs
        return {"images": images, "token_ids": token_ids, "padding_mask": padding_mask}, y, sample_weight

    def prepare_images(self, images) -> np.ndarray:
        """Reads and transforms a list of paths or arrays: float32 `(B, height, width, 3)` in 0..255."""
        arrays = [
            read_image(os.fsdecode(image)) if isinstance(image, str | bytes | os.PathLike) else image
            for image in images
        ]
        prepared = [np.asarray(self.image_transform(_as_numpy(array))) for array in arrays]
        return (
            np.stack(prepared) if prepared else np.zeros((0, *self.image_transform.image_size, 3), "float32")
        )

    def generate_preprocess(self, x, sequence_length=None):
        """Images and optional `prompts`, one of each or one for all, to `images`, `token_ids` and `padding_mask`, `(B, T)`."""
        x = x if isinstance(x, dict) else {"images": x}
        images = self.prepare_images(x["images"])
        prompts = _strings(x.get("prompts", ""))
        prompts = [prompts] * len(images) if isinstance(prompts, str) else prompts
        if len(prompts) != len(images):
            raise ValueError(
                f"`prompts` must be one for each of the {len(images)} images, or one text for all; received {len(prompts)}."
            )
        length = sequence_length or self.sequence_length
        token_ids, padding_mask = self.pack_prompts(prompts, length)
        return {"images": images, "token_ids": token_ids, "padding_mask": padding_mask}

    def pack_prompts(self, prompts, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Start token and prompt, padded: int32 `(B, T)` and bool `(B, T)`, True = given."""
        rows = [[self.tokenizer.start_token_id, *ids] for ids in self.tokenizer.encode_batch(prompts)]
        if longest := [row for row in rows if len(row) >= length]:
            raise ValueError(
                f"A prompt must leave room for the caption; {len(longest[0])} tokens of {length} are taken. "
                "Raise `max_length` or shorten the prompt."
            )
        token_ids = np.full((len(rows), length), self.tokenizer.pad_token_id, dtype="int32")
        for row, ids in zip(token_ids, rows, strict=True):
            row[: len(ids)] = ids
        lengths = np.array([len(row) for row in rows])
        return token_ids, np.arange(length)[None, :] < lengths[:, None]

    def generate_postprocess(self, x):
        """`token_ids` and `padding_mask` `(B, T)` to texts."""
        token_ids = keras.ops.convert_to_numpy(x["token_ids"])
        padding_mask = keras.ops.convert_to_numpy(x["padding_mask"])
        return [self.tokenizer.decode(row[mask]) for row, mask in zip(token_ids, padding_mask, strict=True)]

    def get_config(self):
        return super().get_config() | dataclasses.asdict(self.image_transform) | {"decoding": self.decoding}


def _is_symbolic(x) -> bool:
    """Whether x is a tensor of a `tf.data` pipeline, which has no value yet."""
    import tensorflow as tf

    return tf.is_symbolic_tensor(x)


def _as_numpy(array):
    return keras.ops.convert_to_numpy(array) if keras.ops.is_tensor(array) else np.asarray(array)


def _strings(texts) -> list:
    """A list, nested or not, of str, from lists, arrays or string tensors."""
    if hasattr(texts, "numpy"):
        texts = texts.numpy()
    if isinstance(texts, bytes):
        return texts.decode()
    if isinstance(texts, str):
        return texts
    return [_strings(text) for text in texts]
