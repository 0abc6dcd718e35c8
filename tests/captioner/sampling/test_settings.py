"""What decoding settings refuse."""

import dataclasses

import pytest

from captioner.sampling import DecodingSettings
from captioner.sampling.settings import FIELD_SAMPLERS


@pytest.mark.parametrize(
    "values",
    [
        {"sampler": "beams"},
        {"num_beams": 0},
        {"length_penalty": -0.1},
        {"length_penalty": float("nan")},
        {"early_stopping": True},
        {"num_beams": 4, "num_beam_groups": 3},
        {"num_beam_groups": 5, "diversity_penalty": 0.0},
        {"diversity_penalty": 0.5},
        {"max_length": 0},
        {"max_length": 5, "min_length": 6},
        {"no_repeat_ngram_size": -1},
        {"repetition_penalty": 0.0},
        {"forbidden_words": (" ",)},
        {"required_words": tuple("abcdefghi")},
        {"num_beam_groups": 5, "diversity_penalty": 1.0, "required_words": ("a",)},
        {"sampler": "nucleus", "top_p": 0.0},
        {"sampler": "nucleus", "top_p": 1.1},
        {"sampler": "nucleus", "top_p": float("nan")},
        {"sampler": "nucleus", "top_k": 0},
        {"sampler": "nucleus", "min_p": 1.0},
        {"sampler": "nucleus", "temperature": 0.0},
        {"sampler": "nucleus", "seed": -1},
        {"sampler": "contrastive", "penalty_alpha": 1.5},
    ],
    ids=str,
)
def test_impossible_values_are_refused(values):
    with pytest.raises(ValueError, match=r"`\w+` must be .*; received \w+=.*"):
        DecodingSettings(**values)


OTHERS = {
    "num_beams": 3, "length_penalty": 1.0, "early_stopping": "first", "num_beam_groups": 5, "diversity_penalty": 0.5,
    "top_p": 0.5, "top_k": 3, "min_p": 0.1, "temperature": 2.0, "seed": 1, "penalty_alpha": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_field_of_another_sampler_is_refused(name):
    assert OTHERS.keys() == FIELD_SAMPLERS.keys()
    groups = {"num_beam_groups": 5, "diversity_penalty": 0.5}  # one needs the other
    values = groups if name in groups else {name: OTHERS[name]}
    for sampler in ("beam", "nucleus", "greedy", "contrastive"):
        if sampler in FIELD_SAMPLERS[name]:
            assert getattr(DecodingSettings(sampler=sampler, **values), name) == OTHERS[name]
        else:
            with pytest.raises(ValueError, match=rf"belongs to sampler='.*sampler='{sampler}'. Leave one"):
                DecodingSettings(sampler=sampler, **values)


def test_words_are_a_tuple_and_one_string_is_refused():
    settings = DecodingSettings(forbidden_words=["dog", "cat"])
    assert settings.forbidden_words == ("dog", "cat") and hash(settings)
    with pytest.raises(ValueError, match=r"tuple of words; received required_words='dog'. Write \('dog',\)"):
        DecodingSettings(required_words="dog")


def test_what_is_recorded_are_the_fields_that_the_sampler_reads():
    recorded = DecodingSettings(sampler="greedy", max_length=7).to_dict()
    assert recorded["max_length"] == 7 and not recorded.keys() & FIELD_SAMPLERS.keys()
    names = {field.name for field in dataclasses.fields(DecodingSettings)}
    assert names == recorded.keys() | FIELD_SAMPLERS.keys()
