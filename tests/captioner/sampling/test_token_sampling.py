"""Greedy and nucleus sampling: frequencies against the truncated distribution, seeds, batches."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from worlds import END, World, decode_worlds, ranked_log_probs

from captioner.sampling import DecodingSettings
from captioner.sampling.token_sampling import draw_token

NUM_DRAWS = 2000


def frequencies(logits, sampling):
    """How often each token is drawn when the random number runs evenly through [0, 1)."""
    uniforms = ((np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS).astype("float32")
    tiled = np.repeat(np.asarray([logits], "float32"), NUM_DRAWS, axis=0)
    return np.bincount(np.asarray(draw_token(tiled, uniforms, sampling)), minlength=len(logits)) / NUM_DRAWS


def truncated(logits, sampling):
    """The distribution to draw from, by its definition, in float64; and its cumulative sums."""
    probs = np.exp((np.asarray(logits) - np.max(logits)) / sampling.temperature)
    order = np.argsort(-probs, kind="stable")[: sampling.top_k]
    cumulative = np.cumsum(probs[order]) / probs[order].sum()
    kept = order[: int(np.searchsorted(cumulative, sampling.top_p)) + 1]
    result = np.zeros_like(probs)
    result[kept] = probs[kept] / probs[kept].sum()
    return result, cumulative


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=7, unique=True),
    st.floats(0.05, 1.0),
    st.none() | st.integers(1, 8),
    st.floats(0.3, 3.0),
)
def test_tokens_are_as_frequent_as_the_truncated_distribution_says(tenths, top_p, top_k, temperature):
    sampling = DecodingSettings(sampler="nucleus", top_p=top_p, top_k=top_k, temperature=temperature)
    logits = np.array(tenths) / 10
    expected, cumulative = truncated(logits, sampling)
    assume(np.abs(cumulative - top_p).min() > 1e-4 or top_p == 1)
    np.testing.assert_allclose(frequencies(logits, sampling), expected, atol=3 / NUM_DRAWS)


def test_the_token_that_crosses_top_p_belongs_to_the_nucleus():
    logits = np.log([0.13, 0.5, 0.25, 0.12])
    np.testing.assert_array_equal(
        frequencies(logits, DecodingSettings(sampler="nucleus", top_p=0.49)) > 0, [0, 1, 0, 0]
    )
    np.testing.assert_array_equal(
        frequencies(logits, DecodingSettings(sampler="nucleus", top_p=0.51)) > 0, [0, 1, 1, 0]
    )
    np.testing.assert_array_equal(
        frequencies(logits, DecodingSettings(sampler="nucleus", top_p=0.76)) > 0, [1, 1, 1, 0]
    )
    np.testing.assert_allclose(
        frequencies(logits, DecodingSettings(sampler="nucleus", top_p=1.0)), np.exp(logits), atol=1e-3
    )


def test_tokens_that_tie_with_the_last_one_of_the_nucleus_are_kept():
    logits = np.log([0.125, 0.5, 0.25, 0.125])
    np.testing.assert_array_equal(
        frequencies(logits, DecodingSettings(sampler="nucleus", top_p=0.76)) > 0, [1, 1, 1, 1]
    )


def test_draws_do_not_depend_on_which_of_two_all_but_equal_tokens_is_likelier():
    logits = np.zeros((1, 5), "float32")
    nudged = logits + np.array([[0, 1e-6, 0, 1e-6, 0]], "float32")
    for uniform in np.array([0.1, 0.3, 0.5, 0.7, 0.9], "float32"):  # the middles of the five shares
        uniforms, sampling = np.array([uniform]), DecodingSettings(sampler="nucleus", top_p=1.0)
        assert draw_token(logits, uniforms, sampling) == draw_token(nudged, uniforms, sampling)


def test_the_largest_random_number_draws_a_token_of_the_nucleus():
    largest = np.full(1, 1 - 2.0**-24, "float32")
    logits = np.random.default_rng(0).normal(0, 1, (1, 3001)).astype("float32")
    sampling = DecodingSettings(sampler="nucleus", top_p=0.5)
    assert truncated(logits[0], sampling)[0][int(draw_token(logits, largest, sampling)[0])] > 0


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=7, unique=True),
    st.floats(0.01, 0.9),
    st.floats(0.3, 3.0),
)
def test_min_p_leaves_out_what_is_much_less_likely_than_the_likeliest_token(tenths, min_p, temperature):
    sampling = DecodingSettings(sampler="nucleus", top_p=1.0, min_p=min_p, temperature=temperature)
    weights = np.exp((np.array(tenths) - max(tenths)) / 10 / temperature)
    assume(np.abs(weights - min_p).min() > 1e-4)
    expected = np.where(weights >= min_p, weights, 0)
    found = frequencies(np.array(tenths) / 10, sampling)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=3 / NUM_DRAWS)


def test_no_token_is_sorted_where_none_is_left_out(monkeypatch):
    """Self-critical training draws from all of the softmax at each step."""

    def refuse(*arguments, **options):
        raise AssertionError("sorted")

    for name in ("top_k", "sort", "argsort"):
        monkeypatch.setattr(f"keras.ops.{name}", refuse)
    frequencies(np.zeros(5), DecodingSettings(sampler="nucleus", top_p=1.0))
    with pytest.raises(AssertionError, match="sorted"):
        frequencies(np.zeros(5), DecodingSettings(sampler="nucleus", top_p=0.9))


def by_hand(world, prompt, length, choose):
    tokens = tuple(prompt)
    while len(tokens) < length and (tokens[-1] != END or len(tokens) == len(prompt)):
        tokens += (choose(world, tokens),)
    return tokens


def likeliest(controls):
    return lambda world, tokens: int(np.argmax(ranked_log_probs(world, tokens, controls)))


@pytest.mark.parametrize("controls", [{}, {"min_length": 4, "no_repeat_ngram_size": 2}])
def test_greedy_takes_the_most_likely_token_until_the_end(controls):
    worlds = [World(seed, 5) for seed in range(8)]
    prompts = [(0,), (1, END), (3,), (4, 0, 1)] * 2
    greedy = DecodingSettings(sampler="greedy", **controls)
    for [caption], world, prompt in zip(
        decode_worlds(worlds, greedy, prompts=prompts), worlds, prompts, strict=True
    ):
        assert caption.tokens == by_hand(world, prompt, 7, likeliest(greedy))
        expected = world.log_prob(caption.tokens, len(prompt))
        assert caption.log_prob == pytest.approx(expected, abs=1e-5)
        assert caption.score == pytest.approx(expected / (len(caption.tokens) - len(prompt)), abs=1e-5)


@pytest.mark.parametrize("narrow", [{"top_p": 1e-6}, {"top_p": 1.0, "top_k": 1}, {"temperature": 1e-3}])
def test_sampling_from_one_token_is_greedy(narrow):
    worlds = [World(seed, 5) for seed in range(6)]
    drawn = decode_worlds(worlds, DecodingSettings(sampler="nucleus", **narrow))
    for [d], [e] in zip(drawn, decode_worlds(worlds, DecodingSettings(sampler="greedy")), strict=True):
        assert d.tokens == e.tokens and d.score == pytest.approx(e.score, rel=1e-6)


def drawn(worlds, num_captions=3, **changes):
    captions = decode_worlds(worlds, DecodingSettings(sampler="nucleus", **changes), num_captions)
    return [[caption.tokens for caption in row] for row in captions]


def test_the_same_seed_gives_the_same_captions_and_another_gives_others():
    worlds = [World(seed, 5) for seed in range(6)]
    first, again, other = (drawn(worlds, top_p=1.0, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_a_caption_does_not_depend_on_the_batch_around_its_image():
    worlds = [World(seed, 5) for seed in range(4)]
    together = drawn(worlds, top_p=0.95)
    assert together == [drawn([world], top_p=0.95)[0] for world in worlds]
    assert together[::-1] == drawn(worlds[::-1], top_p=0.95)


def test_captions_come_best_first_with_the_models_own_log_probabilities():
    worlds = [World(seed, 5) for seed in range(5)]
    sampling = DecodingSettings(
        sampler="nucleus", top_p=0.8, top_k=3, temperature=1.7, repetition_penalty=2.0
    )
    found = decode_worlds(worlds, sampling, 4)
    assert any(row[0].score > row[3].score for row in found)
    for world, row in zip(worlds, found, strict=True):
        for score, tokens, log_prob, token_log_probs in row:
            each = [world.log_probs(tokens[:i])[tokens[i]] for i in range(1, len(tokens))]
            np.testing.assert_allclose(token_log_probs, each, atol=1e-5)
            assert log_prob == pytest.approx(sum(each), abs=1e-5)
            assert score == pytest.approx(np.mean(each), abs=1e-5)


def test_draws_follow_the_distribution_of_whole_captions():
    """What comes after a drawn token is drawn from the distribution behind it."""
    world, count = World(1, 3), 4000
    found = drawn([world], num_captions=count, top_p=1.0)[0]
    for caption in [(0, END), *((0, word, END) for word in (0, 1))]:
        share = sum(tokens == caption for tokens in found) / count
        assert share == pytest.approx(np.exp(world.log_prob(caption, 1)), abs=0.03)
