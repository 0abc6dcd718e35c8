"""Our decoding as a KerasHub sampler. Axes: B images, L text positions."""

import dataclasses

import keras
import keras_hub
from keras import ops

from captioner.sampling.decode import decode, rows_per_image
from captioner.sampling.settings import DecodingSettings
from captioner.sampling.task import Task
from captioner.sampling.token_sampling import uniform_draws


@keras.saving.register_keras_serializable("captioner")
class CaptionSampler(keras_hub.samplers.Sampler):
    """`DecodingSettings` behind the call contract of KerasHub's samplers.

    Args:
        settings: `DecodingSettings`, or a dict of its fields. `max_length` is not used: the prompt that a KerasHub
            sampler gets is padded to the length wanted.

    Call arguments:
        next: function `(prompt, cache, index) -> (logits, hidden_states, cache)`.
        prompt: int tensor `(B, L)`.
        cache: nest of tensors with one row per text.
        index: int. The first position to fill.
        mask: optional bool tensor `(B, L)`; True = given. What lies before `index` is given in any case.
        stop_token_ids: optional tuple of int.

    Returns:
        int tensor `(B, L)`: the best caption of each image; 0 behind its end.

    Raises:
        ValueError: If the settings hold text, which a sampler has no tokenizer for.
    """

    def __init__(self, settings: DecodingSettings | dict | None = None):
        super().__init__()
        if isinstance(settings, dict):
            settings = DecodingSettings(**settings)
        self.settings = settings or DecodingSettings()
        for name in ("prompt", "forbidden_words", "required_words"):
            if value := getattr(self.settings, name):
                raise ValueError(
                    f"`{name}` must be left out of a sampler of `generate()`, which reads tokens only; received "
                    f"{name}={value!r}. Use `caption()`, or give `generate()` the prompts beside the images."
                )

    def __call__(
        self,
        next,
        prompt,
        cache=None,
        index=0,
        mask=None,
        stop_token_ids=None,
        hidden_states=None,
        model=None,
        **kwargs,
    ):
        num_rows, max_length = rows_per_image(self.settings, 1), prompt.shape[1]
        cache = keras.tree.map_structure(
            lambda x: ops.repeat(x, num_rows, axis=0), () if cache is None else cache
        )
        before_index = ops.broadcast_to(ops.arange(max_length) < index, ops.shape(prompt))
        mask = before_index if mask is None else ops.logical_or(ops.cast(mask, "bool"), before_index)
        task = Task(
            prompt=ops.cast(prompt, "int32"),
            prompt_mask=mask,
            first_index=index,
            end_token_ids=tuple(stop_token_ids or ()),
            pad_token_id=0,
            settings=self.settings,
            num_captions=1,
            uniforms=ops.convert_to_tensor(uniform_draws(self.settings.seed, 1, max_length)),
        )
        return decode(next, cache, task).token_ids[:, 0]

    def get_config(self):
        return {"settings": dataclasses.asdict(self.settings)}
