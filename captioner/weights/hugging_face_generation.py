"""The generation settings of a Hugging Face image captioner, read strictly, as our decoding settings."""

from collections.abc import Mapping
from typing import Any

from captioner.sampling import DecodingSettings
from captioner.weights.assign import WeightsError
from captioner.weights.hugging_face_config import is_number

_MOST = 2**31
_START, _END, _PAD = "decoder_start_token_id", "eos_token_id", "pad_token_id"
# Settings that mean the same here and there, with the defaults of `generate`.
_DECODING = {
    "num_beams": 1,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "min_length": 0,
}
_DEFAULT_MAX_LENGTH = 20
_EARLY_STOPPING = {"never": "exact", "False": "likely", "True": "first"}
# Settings of `generate` that ours do not have, with the values that change nothing.
_NEUTRAL = {
    "do_sample": (False,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0, 0),
    "penalty_alpha": (0.0, 0),
    "renormalize_logits": (False,),
    "bad_words_ids": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "exponential_decay_length_penalty": (),
    "sequence_bias": (),
    "stop_strings": (),
}


def parse_token_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, int]:
    """The ids of start, end and padding token, under the names that a GPT-2's config has for them.

    Raises:
        WeightsError: If there is no start or end token, or several ends.
    """
    start = _first(_START, generation, config, config["decoder"])
    if start is None:
        start = _first("bos_token_id", generation, config, config["decoder"])
    end, pad = (_first(name, generation, config, config["decoder"]) for name in (_END, _PAD))
    if isinstance(end, list) and len(end) == 1:
        end = end[0]
    for name, value in ((_START, start), (_END, end)):
        if type(value) is not int:
            raise WeightsError(f"`{name}` must be one token's id; received {value!r}.")
    return {"bos_token_id": start, "eos_token_id": end} | ({} if pad is None else {"pad_token_id": pad})


def parse_decoding(
    config: Mapping[str, Any], generation: Mapping[str, Any], max_sequence_length: int
) -> dict[str, Any]:
    """The decoding settings that `generate` would use, in our words: those that write the same captions.

    Their `max_length` counts the start token, ours does not. Their `min_length` counts it and not the end token, ours the
    other way round.

    Args:
        config: config.json.
        generation: generation_config.json, or an empty mapping.
        max_sequence_length: int. The decoder's positions, which bound the length.

    Raises:
        WeightsError: If a setting is set that our search does not have, or is absurd.
    """
    places = (generation, config, config["decoder"])
    for name, neutral in _NEUTRAL.items():
        value = _first(name, *places)
        if value is not None and value not in neutral:
            raise WeightsError(
                f"`{name}`={value!r} of the generation settings is not among ours. Remove it from the folder."
            )
    settings = {name: _number(name, default, places) for name, default in _DECODING.items()}
    # `min_new_tokens` and `max_new_tokens` count no start token, and go before the others.
    settings["min_length"] = _number("min_new_tokens", settings["min_length"] - 1, places) + 1
    max_length = _number("max_length", _DEFAULT_MAX_LENGTH, places)
    settings["max_length"] = min(_number("max_new_tokens", max_length - 1, places), max_sequence_length)
    settings["early_stopping"] = _early_stopping(settings["num_beams"], places)
    _require_same_penalties(settings, parse_token_ids(config, generation))
    try:
        DecodingSettings(**settings)
    except ValueError as error:
        raise WeightsError(f"the generation settings cannot be used: {error}") from None
    return settings


def _number(name: str, default: int | float, places: tuple[Mapping[str, Any], ...]) -> Any:
    value = _first(name, *places)
    value = default if value is None else value
    is_right = is_number(value) if isinstance(default, float) else type(value) is int
    if not is_right or not -_MOST < value < _MOST:
        kind = "a number" if isinstance(default, float) else "a whole number"
        raise WeightsError(f"`{name}` of the generation settings must be {kind}; received {value!r}.")
    return value


def _early_stopping(num_beams: int, places: tuple[Mapping[str, Any], ...]) -> str:
    value = _first("early_stopping", *places)
    theirs = str(False if value is None else value)
    if theirs not in _EARLY_STOPPING:
        raise WeightsError(
            f"`early_stopping` of the generation settings must be true, false or 'never'; received {value!r}."
        )
    return "first" if num_beams == 1 else _EARLY_STOPPING[theirs]  # one beam is greedy there


def _require_same_penalties(settings: Mapping[str, Any], token_ids: Mapping[str, int]) -> None:
    """Refuses what `generate` means otherwise, and what would change captions in silence."""
    has_penalty = settings["repetition_penalty"] != 1
    if has_penalty and settings["num_beams"] == 1:
        raise WeightsError(
            "`repetition_penalty` with `num_beams`=1 is of logits there and of log-probabilities here. Remove it from the "
            "folder, and give it when captioning."
        )
    if token_ids["bos_token_id"] == token_ids["eos_token_id"]:
        name = "repetition_penalty" if has_penalty else "no_repeat_ngram_size"
        if has_penalty or settings[name] == 1:
            raise WeightsError(
                f"`{name}`={settings[name]} of the generation settings makes the end of captions less likely there, since "
                "they start with the end token, and not here. Remove it from the folder, and give it when captioning."
            )


def _first(name: str, *places: Mapping[str, Any]) -> Any:
    """The value in the first place that has one."""
    return next((place[name] for place in places if place.get(name) is not None), None)
