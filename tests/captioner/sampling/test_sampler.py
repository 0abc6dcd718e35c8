"""Our decoding behind the contract of KerasHub's samplers."""

import keras
import keras_hub
import numpy as np
import pytest
from worlds import END, World, best_captions, next_function

from captioner.sampling import DecodingSettings
from captioner.sampling.decode import require_captions
from captioner.sampling.sampler import CaptionSampler


def run(sampler, worlds, prompt, **arguments):
    cache = np.zeros(prompt.shape, "int32")
    cache[:, 0] = prompt[:, 0]
    return np.asarray(sampler(next_function(worlds), prompt, cache, index=1, **arguments))


def test_beam_search_answers_as_a_kerashub_sampler():
    worlds = [World(seed, 4) for seed in range(5)]
    prompt = np.tile([[1, 3, 3, 3]], (5, 1)).astype("int32")  # what lies behind the mask does not matter
    mask = np.arange(4)[None, :] < np.ones((5, 1))
    settings = DecodingSettings(num_beams=36)
    sampler = CaptionSampler(settings)
    token_ids = run(sampler, worlds, prompt, mask=mask, stop_token_ids=(END,))
    for row, world in zip(token_ids, worlds, strict=True):
        [(_, expected)] = best_captions(world, (1,), 4, settings, 1)
        assert row.tolist() == [*expected, 0, 0, 0][:4]


@pytest.mark.parametrize(
    "settings",
    [
        DecodingSettings(num_beams=2),
        DecodingSettings(sampler="greedy"),
        DecodingSettings(sampler="nucleus", seed=2),
        DecodingSettings(sampler="contrastive", top_k=2),
    ],
)
def test_without_a_mask_what_lies_before_the_index_is_given(settings):
    worlds = [World(seed, 4) for seed in range(3)]
    prompt = np.array([[3, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]], "int32")
    mask = np.arange(4)[None, :] < np.ones((3, 1))
    without = run(CaptionSampler(settings), worlds, prompt, stop_token_ids=(END,))
    np.testing.assert_array_equal(without[:, 0], [3, 1, 2])
    np.testing.assert_array_equal(
        without, run(CaptionSampler(settings), worlds, prompt, mask=mask, stop_token_ids=(END,))
    )


def test_without_stop_tokens_every_position_is_filled():
    worlds = [World(seed, 4) for seed in range(4)]
    token_ids = run(CaptionSampler(DecodingSettings(sampler="greedy")), worlds, np.ones((4, 9), "int32"))
    for row, world in zip(token_ids.tolist(), worlds, strict=True):
        assert row[1:] == [int(world.logits(tuple(row[:i])).argmax()) for i in range(1, 9)]


@pytest.mark.parametrize(
    "settings",
    [
        DecodingSettings(num_beams=7),
        DecodingSettings(sampler="greedy", max_length=5),
        DecodingSettings(sampler="nucleus", top_p=0.3, seed=9),
        DecodingSettings(sampler="contrastive", no_repeat_ngram_size=2),
    ],
)
def test_a_sampler_comes_back_from_its_config(settings):
    sampler = CaptionSampler(settings)
    assert CaptionSampler.from_config(sampler.get_config()).settings == settings
    config = keras.saving.serialize_keras_object(sampler)
    assert keras.saving.deserialize_keras_object(config).settings == settings
    assert keras_hub.samplers.get(sampler) is sampler


@pytest.mark.parametrize("text", [{"prompt": "a"}, {"forbidden_words": ("a",)}, {"required_words": ("a",)}])
def test_a_sampler_without_a_tokenizer_refuses_text(text):
    with pytest.raises(ValueError, match=f"`{next(iter(text))}` must be left out.*Use `caption"):
        CaptionSampler(DecodingSettings(**text))


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (DecodingSettings(num_beams=3), 3),
        (DecodingSettings(sampler="greedy"), 1),
        (DecodingSettings(sampler="contrastive"), 1),
        (DecodingSettings(sampler="nucleus"), 50),
    ],
)
def test_more_captions_than_a_sampler_can_give_are_refused(settings, most):
    require_captions(settings, most)
    for count in (0, most + 1) if most < 50 else (0,):
        with pytest.raises(ValueError, match=f"received num_captions={count}"):
            require_captions(settings, count)
