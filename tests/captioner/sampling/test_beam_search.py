"""Beam search against every caption there is, and against a plain Python search, in random tiny worlds."""

import numpy as np
import pytest
from worlds import END, World, best_captions, decode_worlds, reference_beam_search

from captioner.sampling import DecodingSettings

START = (0,)
CONTROLS = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 1.0},
    {"min_length": 3},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"min_length": 2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "length_penalty": 1.5},
]


def assert_same(found, expected):
    assert [caption.tokens for caption in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([f.score for f in found], [e[0] for e in expected], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
@pytest.mark.parametrize(("vocabulary_size", "num_words", "num_beams"), [(3, 4, 24), (5, 2, 20)])
def test_an_exhaustive_beam_finds_exactly_the_best_captions(controls, vocabulary_size, num_words, num_beams):
    worlds = [World(seed, vocabulary_size) for seed in range(5)]
    settings = DecodingSettings(num_beams=num_beams, **controls)
    length = 1 + num_words
    expected = [best_captions(world, START, length, settings, 5) for world in worlds]
    count = min(len(e) for e in expected)  # `no_repeat_ngram_size` leaves few captions of three words
    for found, e in zip(decode_worlds(worlds, settings, count, length=length), expected, strict=True):
        assert_same(found, e[:count])


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
@pytest.mark.parametrize(("num_beams", "num_captions"), [(1, 1), (3, 2)])
def test_a_narrow_beam_follows_the_rules(controls, num_beams, num_captions):
    worlds = [World(seed, 5) for seed in range(100, 106)]
    for early_stopping in ("exact", "likely", "first"):
        settings = DecodingSettings(num_beams=num_beams, early_stopping=early_stopping, **controls)
        found = decode_worlds(worlds, settings, num_captions, length=5)
        for f, world in zip(found, worlds, strict=True):
            assert_same(f, reference_beam_search(world, START, 5, settings, num_captions))


@pytest.mark.parametrize("controls", [CONTROLS[0], CONTROLS[-1]], ids=str)
@pytest.mark.parametrize(("num_beams", "num_groups", "num_captions"), [(4, 2, 3), (3, 3, 3), (6, 2, 1)])
def test_groups_of_beams_follow_the_rules(controls, num_beams, num_groups, num_captions):
    worlds = [World(seed, 6) for seed in range(200, 205)]
    settings = DecodingSettings(
        num_beams=num_beams, num_beam_groups=num_groups, diversity_penalty=0.8, **controls
    )
    found = decode_worlds(worlds, settings, num_captions, length=5)
    for f, world in zip(found, worlds, strict=True):
        assert_same(f, reference_beam_search(world, START, 5, settings, num_captions))


def test_groups_say_different_things_where_a_beam_search_does_not():
    worlds = [World(seed, 6) for seed in range(10)]
    together = DecodingSettings(num_beams=3)
    apart = DecodingSettings(num_beams=3, num_beam_groups=3, diversity_penalty=50.0)
    first_words = [
        [{caption.tokens[1] for caption in captions} for captions in decode_worlds(worlds, settings, 3)]
        for settings in (together, apart)
    ]
    assert {len(words) for words in first_words[1]} == {3}
    assert min(len(words) for words in first_words[0]) == 1


def test_the_first_group_is_a_beam_search_of_its_own():
    worlds = [World(seed, 6) for seed in range(6)]
    alone = decode_worlds(worlds, DecodingSettings(num_beams=2))
    apart = DecodingSettings(num_beams=4, num_beam_groups=2, diversity_penalty=0.5)
    for [best], captions in zip(alone, decode_worlds(worlds, apart, 2), strict=True):
        assert best.tokens in [caption.tokens for caption in captions]


def test_prompts_of_different_lengths_are_kept_and_not_scored():
    # The second prompt holds an end token, which ends nothing; the last leaves nothing to say.
    prompts = [(0,), (1, END, 3), (4, 4), (1, 3, 0, 1, 4)]
    worlds = [World(seed, 5) for seed in range(4)]
    settings = DecodingSettings(num_beams=80)
    found = decode_worlds(worlds, settings, 3, length=5, prompts=prompts)
    for f, world, prompt in zip(found[:3], worlds, prompts, strict=False):
        assert_same(f, best_captions(world, prompt, 5, settings, 3))
    assert found[3][0][:3] == (0.0, prompts[3], 0.0)


def test_a_scored_prompt_counts_in_log_probability_and_length():
    prompts, worlds = [(0, 3, 1), (0, 1, 4)], [World(seed, 5) for seed in range(2)]
    settings = DecodingSettings(num_beams=3, length_penalty=1.0, score_prompt=True)
    unscored = DecodingSettings(num_beams=3, length_penalty=1.0)
    for sampler, without in (
        (settings, unscored),
        (DecodingSettings(sampler="greedy", score_prompt=True), DecodingSettings(sampler="greedy")),
        (
            DecodingSettings(sampler="contrastive", top_k=3, score_prompt=True),
            DecodingSettings(sampler="contrastive", top_k=3),
        ),
    ):
        # In a longer batch, so that the loop goes through the prompts.
        found = decode_worlds([*worlds, World(9, 5)], sampler, prompts=[*prompts, (0,)])
        other = decode_worlds([*worlds, World(9, 5)], without, prompts=[*prompts, (0,)])
        for [caption], [plain], world in zip(found[:2], other, worlds, strict=False):
            assert caption.tokens == plain.tokens
            assert caption.log_prob == pytest.approx(world.log_prob(caption.tokens, 1), abs=1e-5)
            assert plain.log_prob == pytest.approx(world.log_prob(caption.tokens, 3), abs=1e-5)
            assert caption.score == pytest.approx(caption.log_prob / (len(caption.tokens) - 1), abs=1e-5)


def test_a_batch_gives_what_its_images_give_one_by_one():
    worlds, prompts = (
        [World(seed, 4) for seed in range(6)],
        [(0,), (1,), (0, 3), (3,), (1, 1, 0), (0,)],
    )
    for changes in (
        {"num_beams": 3},
        {"num_beams": 3, "early_stopping": "likely"},
        {"num_beams": 3, "early_stopping": "first"},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    ):
        settings = DecodingSettings(**changes)
        together = decode_worlds(worlds, settings, 3, prompts=prompts)
        order = [3, 5, 0, 2, 4, 1]
        shuffled = decode_worlds([worlds[i] for i in order], settings, 3, prompts=[prompts[i] for i in order])
        for place, i in enumerate(order):
            assert_same(shuffled[place], [row[:2] for row in together[i]])
        for i in (4,):
            [alone] = decode_worlds([worlds[i]], settings, 3, prompts=[prompts[i]])
            assert_same(together[i], [row[:2] for row in alone])


def test_captions_come_best_first_with_the_log_probabilities_of_the_model():
    worlds = [World(seed, 5) for seed in range(10)]
    settings = DecodingSettings(num_beams=4, repetition_penalty=1.5)
    for world, rows in zip(worlds, decode_worlds(worlds, settings, 4), strict=True):
        assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
        assert len({row.tokens for row in rows}) == 4
        for _, tokens, log_prob, token_log_probs in rows:
            each = [world.log_probs(tokens[:i])[tokens[i]] for i in range(1, len(tokens))]
            np.testing.assert_allclose(token_log_probs, each, atol=1e-5)
            np.testing.assert_allclose(log_prob, sum(each), atol=1e-5)


class ByHand(World):
    """An early end of probability 0.6; whatever comes after anything else is nearly certain."""

    def logits(self, prefix):
        probabilities = [0.3, 0.1, 0.6] if len(prefix) == 1 else [0.998, 0.001, 0.001]
        return np.log(probabilities).astype("float32")


@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_a_finished_beam_keeps_its_score(num_beams):
    """A search that goes on extending finished beams loses the best caption here."""
    settings = DecodingSettings(num_beams=num_beams, length_penalty=0.0)
    [[best]] = decode_worlds([ByHand(0, 3)], settings, length=8)
    assert best.tokens == (0, END)
    np.testing.assert_allclose(best.score, np.log(0.6), rtol=1e-6)


def test_the_length_penalty_lets_a_longer_caption_win():
    [[best]] = decode_worlds([ByHand(0, 3)], DecodingSettings(num_beams=3, length_penalty=1.0), length=8)
    assert best.tokens == (0,) * 8


@pytest.mark.parametrize(
    ("early_stopping", "best"), [("exact", (0,) * 8), ("likely", (0, END)), ("first", (0, END))]
)
def test_stopping_early_misses_the_longer_caption(early_stopping, best):
    settings = DecodingSettings(num_beams=1, length_penalty=1.0, early_stopping=early_stopping)
    [[found]] = decode_worlds([ByHand(0, 3)], settings, length=8)
    assert found.tokens == best


def test_a_search_that_is_over_stays_over_while_other_images_go_on():
    """The longer caption did not seem likely; at its present length it comes to do so."""

    class Endless(World):
        def logits(self, prefix):
            return np.log([0.998, 0.001, 0.001]).astype("float32")

    settings = DecodingSettings(num_beams=1, length_penalty=1.0, early_stopping="likely")
    [[best], [endless]] = decode_worlds([ByHand(0, 3), Endless(0, 3)], settings, length=8)
    assert best.tokens == (0, END) and endless.tokens == (0,) * 8


def test_the_search_stops_when_every_image_is_done():
    """Nothing can beat an end of probability 0.6 without a length penalty: two steps, not seven."""
    world, calls = ByHand(0, 3), []
    logits = world.logits
    world.logits = lambda prefix: calls.append(len(prefix)) or logits(prefix)
    decode_worlds([world], DecodingSettings(num_beams=1, length_penalty=0.0), length=8)
    assert max(calls) == 1


def test_the_pad_token_may_be_the_end_token():
    worlds = [World(seed, 4) for seed in range(6)]
    settings = DecodingSettings(num_beams=36)
    for f, world in zip(decode_worlds(worlds, settings, 3, length=4, pad=END), worlds, strict=True):
        assert_same(f, best_captions(world, START, 4, settings, 3))


def test_each_of_several_end_tokens_ends_a_caption():
    worlds = [World(seed, 5) for seed in range(6)]
    settings = DecodingSettings(num_beams=2, length_penalty=0.0)
    found = decode_worlds(worlds, settings, length=4, ends=(1, END, 4))
    for [caption] in found:
        assert not set(caption.tokens[1:-1]) & {1, END, 4}
        assert len(caption.tokens) == 4 or caption.tokens[-1] in (1, END, 4)
    assert any(len(caption.tokens) < 4 for [caption] in found)
