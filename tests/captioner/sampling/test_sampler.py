"""Our decoding behind the contract of KerasHub's samplers."""

import keras
import keras_hub
import numpy as np
import pytest
from worlds import END, World, best_captions, next_function

from captioner.sampling import BeamSearch, Greedy, NucleusSampling
from captioner.sampling.sampler import CaptionSampler, require_captions


def run(sampler, worlds, prompt, **arguments):
    cache = np.zeros(prompt.shape, "int32")
    cache[:, 0] = prompt[:, 0]
    return np.asarray(sampler(next_function(worlds), prompt, cache, index=1, **arguments))


def test_beam_search_answers_as_a_kerashub_sampler():
    worlds = [World(seed, 4) for seed in range(5)]
    prompt = np.tile([[1, 3, 3, 3]], (5, 1)).astype("int32")  # what lies behind the mask does not matter
    mask = np.arange(4)[None, :] < np.ones((5, 1))
    sampler = CaptionSampler(BeamSearch(num_beams=9, length_penalty=0.7))
    token_ids = run(sampler, worlds, prompt, mask=mask, stop_token_ids=(END,))
    for row, world in zip(token_ids, worlds, strict=True):
        [(_, expected)] = best_captions(world, (1,), 4, 0.7, 1)
        assert row.tolist() == [*expected, 0, 0, 0][:4]


@pytest.mark.parametrize("settings", [BeamSearch(num_beams=2), Greedy(), NucleusSampling(seed=2)])
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
    token_ids = run(CaptionSampler(Greedy()), worlds, np.ones((4, 9), "int32"))
    for row, world in zip(token_ids.tolist(), worlds, strict=True):
        assert row[1:] == [int(world.logits(tuple(row[:i])).argmax()) for i in range(1, 9)]


@pytest.mark.parametrize(
    "settings", [BeamSearch(num_beams=7), Greedy(max_length=5), NucleusSampling(top_p=0.3, seed=9)]
)
def test_a_sampler_comes_back_from_its_config(settings):
    sampler = CaptionSampler(settings)
    assert CaptionSampler.from_config(sampler.get_config()).settings == settings
    config = keras.saving.serialize_keras_object(sampler)
    assert keras.saving.deserialize_keras_object(config).settings == settings
    assert keras_hub.samplers.get(sampler) is sampler


def test_more_captions_than_a_sampler_can_give_are_refused():
    require_captions(BeamSearch(num_beams=3), 3)
    require_captions(NucleusSampling(), 50)
    for settings, count in ((BeamSearch(num_beams=3), 4), (Greedy(), 2), (NucleusSampling(), 0)):
        with pytest.raises(ValueError, match=f"received num_captions={count}"):
            require_captions(settings, count)
