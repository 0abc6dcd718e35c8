"""Greedy and nucleus sampling: frequencies against the truncated distribution, seeds, batches."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from worlds import END, World, next_function

from captioner.sampling import Greedy, NucleusSampling
from captioner.sampling.token_sampling import draw_token, sample_tokens, uniform_draws

NUM_DRAWS = 2000


def frequencies(logits, sampling):
    """How often each token is drawn when the random number runs evenly through [0, 1)."""
    uniforms = ((np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS).astype("float32")
    tiled = np.repeat(np.asarray([logits], "float32"), NUM_DRAWS, axis=0)
    return np.bincount(np.asarray(draw_token(tiled, uniforms, sampling)), minlength=len(logits)) / NUM_DRAWS


def truncated(logits, sampling):
    """The distribution to draw from, by its definition, in float64; and its cumulative sums."""
    probs = np.exp((np.asarray(logits) - np.max(logits)) / sampling.temperature)
    order = np.argsort(-probs, kind="stable")[: sampling.top_k or None]
    cumulative = np.cumsum(probs[order]) / probs[order].sum()
    kept = order[: int(np.searchsorted(cumulative, sampling.top_p)) + 1]
    result = np.zeros_like(probs)
    result[kept] = probs[kept] / probs[kept].sum()
    return result, cumulative


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=7, unique=True),
    st.floats(0.05, 1.0),
    st.integers(0, 8),
    st.floats(0.3, 3.0),
)
def test_tokens_are_as_frequent_as_the_truncated_distribution_says(tenths, top_p, top_k, temperature):
    sampling = NucleusSampling(top_p=top_p, top_k=top_k, temperature=temperature)
    logits = np.array(tenths) / 10
    expected, cumulative = truncated(logits, sampling)
    assume(np.abs(cumulative - top_p).min() > 1e-4 or top_p == 1)
    np.testing.assert_allclose(frequencies(logits, sampling), expected, atol=3 / NUM_DRAWS)


def test_the_token_that_crosses_top_p_belongs_to_the_nucleus():
    logits = np.log([0.13, 0.5, 0.25, 0.12])
    np.testing.assert_array_equal(frequencies(logits, NucleusSampling(top_p=0.49)) > 0, [0, 1, 0, 0])
    np.testing.assert_array_equal(frequencies(logits, NucleusSampling(top_p=0.51)) > 0, [0, 1, 1, 0])
    np.testing.assert_array_equal(frequencies(logits, NucleusSampling(top_p=0.76)) > 0, [1, 1, 1, 0])
    np.testing.assert_allclose(frequencies(logits, NucleusSampling(top_p=1.0)), np.exp(logits), atol=1e-3)


def test_tokens_that_tie_with_the_last_one_of_the_nucleus_are_kept():
    logits = np.log([0.125, 0.5, 0.25, 0.125])
    np.testing.assert_array_equal(frequencies(logits, NucleusSampling(top_p=0.76)) > 0, [1, 1, 1, 1])


def test_draws_do_not_depend_on_which_of_two_all_but_equal_tokens_is_likelier():
    logits = np.zeros((1, 5), "float32")
    nudged = logits + np.array([[0, 1e-6, 0, 1e-6, 0]], "float32")
    for uniform in np.array([0.1, 0.3, 0.5, 0.7, 0.9], "float32"):  # the middles of the five shares
        uniforms, sampling = np.array([uniform]), NucleusSampling(top_p=1.0)
        assert draw_token(logits, uniforms, sampling) == draw_token(nudged, uniforms, sampling)


def test_the_largest_random_number_draws_a_token_of_the_nucleus():
    largest = np.full(1, 1 - 2.0**-24, "float32")
    logits = np.random.default_rng(0).normal(0, 1, (1, 3001)).astype("float32")
    sampling = NucleusSampling(top_p=0.5)
    assert truncated(logits[0], sampling)[0][int(draw_token(logits, largest, sampling)[0])] > 0


def sample(worlds, sampling, num_captions=1, length=7, prompts=None, pad=3):
    prompts = prompts or [(0,)] * len(worlds)
    prompt, mask = np.full((len(worlds), length), pad, "int32"), np.zeros((len(worlds), length), bool)
    for row, row_mask, tokens in zip(prompt, mask, prompts, strict=True):
        row[: len(tokens)], row_mask[: len(tokens)] = tokens, True
    cache = np.zeros((len(worlds) * num_captions, length), "int32")
    cache[:, 0] = np.repeat(prompt, num_captions, axis=0)[:, 0]
    uniforms = uniform_draws(sampling.seed, num_captions, length) if hasattr(sampling, "seed") else None
    decoded = sample_tokens(
        next_function(worlds), prompt, cache, 1, mask, (END,), pad, sampling, num_captions, uniforms
    )
    return [np.asarray(x) for x in decoded]


def greedy_by_hand(world, prompt, length):
    tokens = tuple(prompt)
    while len(tokens) < length and (tokens[-1] != END or len(tokens) == len(prompt)):
        tokens += (int(world.logits(tokens).argmax()),)
    return list(tokens)


def test_greedy_takes_the_most_likely_token_until_the_end():
    worlds = [World(seed, 5) for seed in range(8)]
    prompts = [(0,), (1, END), (3,), (4, 0, 1)] * 2
    token_ids, _, log_probs, scores, lengths = sample(worlds, Greedy(), prompts=prompts)
    for b, (world, prompt) in enumerate(zip(worlds, prompts, strict=True)):
        expected = greedy_by_hand(world, prompt, 7)
        assert token_ids[b, 0].tolist() == expected + [3] * (7 - len(expected))
        assert lengths[b, 0] == len(expected) - len(prompt)
        np.testing.assert_allclose(log_probs[b, 0], world.log_prob(tuple(expected), len(prompt)), atol=1e-5)
        np.testing.assert_allclose(scores[b, 0], log_probs[b, 0] / lengths[b, 0], rtol=1e-6)


@pytest.mark.parametrize("narrow", [{"top_p": 1e-6}, {"top_p": 1.0, "top_k": 1}, {"temperature": 1e-3}])
def test_sampling_from_one_token_is_greedy(narrow):
    worlds = [World(seed, 5) for seed in range(6)]
    drawn, expected = sample(worlds, NucleusSampling(**narrow)), sample(worlds, Greedy())
    for d, e in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(d, e, rtol=1e-6)


def test_the_same_seed_gives_the_same_captions_and_another_gives_others():
    worlds = [World(seed, 5) for seed in range(6)]
    first, again, other = (sample(worlds, NucleusSampling(top_p=1.0, seed=s), 3)[0] for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_caption_does_not_depend_on_the_batch_around_its_image():
    worlds = [World(seed, 5) for seed in range(4)]
    together = sample(worlds, NucleusSampling(top_p=0.95), 3)
    for b, world in enumerate(worlds):
        for all_images, one in zip(together, sample([world], NucleusSampling(top_p=0.95), 3), strict=True):
            np.testing.assert_allclose(all_images[b], one[0], rtol=1e-6)


def test_captions_come_best_first_with_the_models_own_log_probabilities():
    worlds = [World(seed, 5) for seed in range(5)]
    sampling = NucleusSampling(top_p=0.8, top_k=3, temperature=1.7)
    token_ids, token_log_probs, log_probs, scores, lengths = sample(worlds, sampling, 4)
    assert (np.diff(scores, axis=1) <= 0).all() and (np.diff(scores, axis=1) < 0).any()
    for b, world in enumerate(worlds):
        for n in range(4):
            end = 1 + lengths[b, n]
            tokens = tuple(token_ids[b, n, :end].tolist())
            each = [world.log_probs(tokens[:i])[tokens[i]] for i in range(1, end)]
            np.testing.assert_allclose(token_log_probs[b, n, 1:end], each, atol=1e-5)
            np.testing.assert_allclose(log_probs[b, n], sum(each), atol=1e-5)
            assert (token_ids[b, n, end:] == 3).all()


@pytest.mark.parametrize(
    "values",
    [
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"top_k": -1},
        {"temperature": 0.0},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_refused(values):
    [(name, value)] = values.items()
    with pytest.raises(ValueError, match=f"`{name}` must.*received {name}={value}"):
        NucleusSampling(**values)
