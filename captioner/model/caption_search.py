"""Searches the captions of encoded images.

Axes: B images, K texts of an image, N captions per image, S image tokens, L text positions, D width.
"""

import functools

import keras
import numpy as np
from keras import ops

from captioner.model.inference import CALLS_BEFORE_XLA, compile_inference
from captioner.sampling.decode import advance, begin, finish, rows_per_image, take_images
from captioner.sampling.decoded import Decoded
from captioner.sampling.settings import DecodingSettings
from captioner.sampling.task import Task
from captioner.sampling.text_controls import TextControls

SMALLEST_SHRUNK = 8
"""Images of a batch that is halved when half of it is done. What is smaller is decoded to its end: XLA compiles each size."""


class CaptionSearch:
    """Decoding with one model and one set of settings, compiled.

    A batch stops when half of its images are done, and goes on with the others: those that are done cost nothing any more.
    A single image is decoded by one graph, which is traced sooner; on JAX every batch is, as each size would be compiled
    before its first use.

    Args:
        captioner: `ImageCaptioner` with a preprocessor.
        settings: `DecodingSettings`.
        num_captions: int. N.

    Call arguments:
        image_tokens: float tensor `(B, S, D)`.
        uniforms: float32 array `(N, L)` in [0, 1), with L = `max_length` + 1: what nucleus sampling draws with. The seed of the
            settings is not read.

    Returns:
        `Decoded` of arrays.
    """

    def __init__(self, captioner, settings: DecodingSettings, num_captions: int):
        self.decoder = captioner.backbone.decoder
        self.tokenizer = captioner.preprocessor.tokenizer
        self.settings, self.num_captions = settings, num_captions
        self.controls = TextControls.of(settings, self.tokenizer)
        self.shrinks = keras.config.backend() != "jax"
        # In bfloat16, XLA's products of many rows are slower than oneDNN's.
        xla_after = CALLS_BEFORE_XLA if self.decoder.compute_dtype == "float32" else None
        compiled = functools.partial(compile_inference, captioner, xla_after=xla_after)
        self._decode = compiled(self.decode)
        self._begin = compiled(self.begin)
        self._advance = compiled(self.advance)

    def __call__(self, image_tokens, uniforms) -> Decoded:
        if len(image_tokens) == 1 or not self.shrinks:
            return Decoded(*map(ops.convert_to_numpy, self._decode(image_tokens, uniforms)))
        batch = self._begin(image_tokens, uniforms)
        places = np.arange(len(image_tokens))
        found: list[np.ndarray] = []
        while True:
            captions, settled, going_on, batch = self._advance(batch, uniforms)
            captions = [np.array(ops.convert_to_numpy(x)) for x in captions]
            found = found or captions
            for whole, part in zip(found, captions, strict=True):
                whole[places] = part
            if ops.convert_to_numpy(settled).all():
                return Decoded(*found)
            places = places[ops.convert_to_numpy(going_on)]

    def decode(self, image_tokens, uniforms) -> Decoded:
        """Decodes as part of a graph, all images to the end of the last.

        Args:
            image_tokens: float tensor `(B, S, D)`.
            uniforms: float32 tensor `(N, L)` or `(B, N, L)` in [0, 1): what nucleus sampling draws with.

        Returns:
            `Decoded`, with the start token at position 0.
        """
        keys_values, state = self.begin(image_tokens, uniforms)
        task = self._task(ops.shape(image_tokens)[0], uniforms)
        step = next_function(self.decoder, keys_values)
        state, _ = advance(step, state, task, self.decoder.move_rows)
        return finish(state, task)

    def begin(self, image_tokens, uniforms) -> tuple:
        """The batch before the first step: keys and values of the images, which are never tiled or moved, and the state."""
        keys_values = self.decoder.image_keys_values(image_tokens)
        task = self._task(ops.shape(image_tokens)[0], uniforms)
        num_texts = rows_per_image(self.settings, self.num_captions)
        cache = self.decoder.empty_cache(task.num_images, num_texts, task.length)
        return keys_values, begin(next_function(self.decoder, keys_values), cache, task)

    def advance(self, batch: tuple, uniforms) -> tuple:
        """Decodes until at most half of the images may still change, or none of a small batch.

        Returns:
            `Decoded`; bool `(B,)`: which images are done; int32 `(B // 2,)`: which are to go on if not all are, and a batch of
            these: half of them whatever their number, so that few sizes are compiled.
        """
        keys_values, state = batch
        num_images = ops.shape(keys_values[0][0])[0]
        task = self._task(num_images, uniforms)
        num_unsettled = ops.where(num_images < SMALLEST_SHRUNK, 0, num_images // 2)
        step = next_function(self.decoder, keys_values)
        state, settled = advance(step, state, task, self.decoder.move_rows, num_unsettled)
        order = ops.argsort(ops.cast(settled, "int32") * num_images + ops.arange(num_images))
        going_on = order[: num_images // 2]
        rest = take_images((keys_values, state), going_on, num_images)
        return finish(state, task), settled, going_on, rest

    def _task(self, num_images, uniforms) -> Task:
        length = self.settings.max_length + 1  # the start token is not part of the caption
        given = [self.tokenizer.start_token_id, *self.controls.prompt_ids]
        row = np.full(length, self.tokenizer.pad_token_id, "int32")
        row[: len(given)] = given
        return Task(
            prompt=ops.broadcast_to(ops.convert_to_tensor(row), (num_images, length)),
            prompt_mask=ops.broadcast_to(ops.arange(length) < len(given), (num_images, length)),
            first_index=1,
            end_token_ids=(self.tokenizer.end_token_id,),
            pad_token_id=self.tokenizer.pad_token_id,
            settings=self.settings,
            num_captions=self.num_captions,
            num_given=len(given),
            words=self.controls.words,
            uniforms=uniforms,
        )


def next_function(decoder, image_keys_values):
    """The step of a sampler, which reads the last token of each text.

    Args:
        decoder: `GPT2Decoder`.
        image_keys_values: from `GPT2Decoder.image_keys_values`.
    """

    def next(token_ids, cache, index):
        last = ops.slice(token_ids, (0, index - 1), (ops.shape(token_ids)[0], 1))
        hidden, cache, _ = decoder.decode(last, cache, index - 1, image_keys_values)
        return decoder.logits(hidden[:, 0]), hidden[:, 0], cache

    return next
