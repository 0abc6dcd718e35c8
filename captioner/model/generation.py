"""KerasHub's `generate()` for captioners.

Axes: B images, R texts, N heads, L text positions, H head width.
"""

import os

from keras import ops

from captioner.model.caption_search import next_function
from captioner.sampling.sampler import CaptionSampler
from captioner.sampling.settings import DecodingSettings


class Generation:
    """What `generate()` of an `ImageCaptioner` calls; any KerasHub sampler can drive it."""

    def generate_step(self, inputs, stop_token_ids=None):
        """One batch of `generate()`, with whatever sampler `compile()` was given; see
        `keras_hub.models.CausalLM`."""
        token_ids, padding_mask = inputs["token_ids"], ops.cast(inputs["padding_mask"], "bool")
        settings = self.sampler.settings if isinstance(self.sampler, CaptionSampler) else DecodingSettings()
        self._require_fit(token_ids.shape[1] - 1, settings)
        # KerasHub's samplers look for stop tokens in unfilled positions too.
        stops = tuple(stop_token_ids or ())
        filler = min(set(range(len(stops) + 1)).difference(stops))
        token_ids = ops.where(padding_mask, token_ids, ops.cast(filler, token_ids.dtype))
        backbone = self.backbone
        image_tokens = backbone.encode_images(inputs["images"])
        step = next_function(backbone.decoder, backbone.decoder.image_keys_values(image_tokens))

        # KerasHub's samplers repeat and move the cache as one tensor, (R, layers, 2, N, L, H), so each text has a
        # cache of its own.
        def pack(cache):
            return ops.stack([ops.stack(pair, axis=1) for pair in cache["blocks"]], axis=1)

        def unpack(cache):
            blocks = [(cache[:, i, 0], cache[:, i, 1]) for i in range(backbone.num_layers)]
            return {"blocks": blocks, "origins": ops.zeros((ops.shape(cache)[0], length), "int32")}

        def next_packed(prompt, cache, index):
            logits, hidden, cache = step(prompt, unpack(cache), index)
            return logits, hidden, pack(cache)

        length = token_ids.shape[1]
        cache = backbone.decoder.empty_cache(ops.shape(token_ids)[0], 1, length)
        lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=-1)
        # The cache is filled by stepping through the prompt, so that prompts of different lengths need no
        # second way.
        token_ids = self.sampler(
            next=next_packed,
            prompt=token_ids,
            cache=pack(cache),
            index=1,
            mask=padding_mask,
            stop_token_ids=stop_token_ids,
            hidden_states=None,
            model=self,
        )
        is_stop = ops.zeros_like(padding_mask)
        for stop_token_id in stops:
            is_stop = ops.logical_or(is_stop, token_ids == stop_token_id)
        is_stop = ops.cast(ops.logical_and(is_stop, ops.arange(length)[None, :] >= lengths[:, None]), "int32")
        stopped_before = ops.cumsum(is_stop, axis=-1) - is_stop
        return {"token_ids": token_ids, "padding_mask": stopped_before == 0}

    def _normalize_generate_inputs(self, inputs):
        if self.preprocessor is None or hasattr(inputs, "as_numpy_iterator"):
            return super()._normalize_generate_inputs(inputs)
        inputs = inputs if isinstance(inputs, dict) else {"images": inputs}
        images = inputs["images"]
        single = isinstance(images, str | os.PathLike) or getattr(images, "ndim", None) == 3
        return [{key: [value] if single else value for key, value in inputs.items()}], single
