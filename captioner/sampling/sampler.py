"""Our decoding as a KerasHub sampler. Axes: B images, K beams, N captions per image, L text positions."""

import dataclasses

import keras
import keras_hub
from keras import ops

from captioner.sampling.beam_search import beam_search
from captioner.sampling.settings import BeamSearch, DecodingSettings, Greedy, NucleusSampling
from captioner.sampling.token_sampling import sample_tokens, uniform_draws

_SETTINGS = {settings.__name__: settings for settings in (BeamSearch, NucleusSampling, Greedy)}


def rows_per_image(settings: DecodingSettings, num_captions: int) -> int:
    """Texts of an image that are decoded side by side: the rows of `next` are B times this."""
    return settings.num_beams if isinstance(settings, BeamSearch) else num_captions


def decode(
    next,
    prompt,
    cache,
    index,
    prompt_mask,
    end_token_ids,
    pad_token_id,
    settings,
    num_captions,
    uniforms=None,
    move_rows=None,
):
    """Runs the decoding that `settings` describe; see `beam_search` and `sample_tokens` for the arguments.

    Raises:
        ValueError: If more captions are asked for than the settings can give.
    """
    require_captions(settings, num_captions)
    arguments = (next, prompt, cache, index, prompt_mask, end_token_ids, pad_token_id, settings, num_captions)
    if isinstance(settings, BeamSearch):
        return beam_search(*arguments, move_rows=move_rows)
    return sample_tokens(*arguments, uniforms=uniforms)


def require_captions(settings: DecodingSettings, num_captions: int) -> None:
    """Refuses a number of captions that the settings cannot give."""
    limit = {BeamSearch: getattr(settings, "num_beams", None), Greedy: 1}.get(type(settings))
    if num_captions < 1 or (limit is not None and num_captions > limit):
        most = "" if limit is None else f" and at most {limit} with {settings}"
        raise ValueError(
            f"`num_captions` must be at least 1{most}; received num_captions={num_captions}. "
            "Raise `num_beams`, or use NucleusSampling."
        )


@keras.saving.register_keras_serializable("captioner")
class CaptionSampler(keras_hub.samplers.Sampler):
    """Beam search, nucleus sampling or greedy behind the call contract of KerasHub's samplers.

    Args:
        settings: `BeamSearch`, `NucleusSampling` or `Greedy`. `max_length` of the settings is not used: the
            prompt that a KerasHub sampler gets is padded to the length wanted.

    Call arguments:
        next: function `(prompt, cache, index) -> (logits, hidden_states, cache)`.
        prompt: int tensor `(B, L)`.
        cache: nest of tensors with one row per text.
        index: int. The first position to fill.
        mask: optional bool tensor `(B, L)`; True = given. What lies before `index` is given in any case.
        stop_token_ids: optional tuple of int.

    Returns:
        int tensor `(B, L)`: the best caption of each image; 0 behind its end.
    """

    def __init__(self, settings: DecodingSettings | dict | None = None):
        super().__init__()
        if isinstance(settings, dict):
            settings = _SETTINGS[settings["name"]](**settings["values"])
        self.settings = settings or BeamSearch()

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
        uniforms = None
        if isinstance(self.settings, NucleusSampling):
            uniforms = ops.convert_to_tensor(uniform_draws(self.settings.seed, 1, max_length))
        decoded = decode(
            next, prompt, cache, index, mask, tuple(stop_token_ids or ()), 0, self.settings, 1, uniforms
        )
        return decoded.token_ids[:, 0]

    def get_config(self):
        values = dataclasses.asdict(self.settings)
        return {"settings": {"name": type(self.settings).__name__, "values": values}}
