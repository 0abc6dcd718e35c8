"""Beam search against every caption there is, and against a plain Python search, in random tiny worlds."""

import numpy as np
import pytest
from worlds import END, World, best_captions, next_function, reference_beam_search

from captioner.sampling import BeamSearch
from captioner.sampling.beam_search import beam_search

PAD = 9  # no token of any world
START = (0,)


def search(worlds, prompts, length, settings, num_captions, pad=PAD):
    """Runs our search; for each image a list of `(score, tokens, log_prob, token_log_probs)`."""
    prompt = np.full((len(worlds), length), pad, "int32")
    for row, given in zip(prompt, prompts, strict=True):
        row[: len(given)] = given
    num_given = np.array([len(given) for given in prompts])
    mask = np.arange(length)[None, :] < num_given[:, None]
    cache = np.zeros((len(worlds) * settings.num_beams, length), "int32")
    cache[:, : num_given.min()] = np.repeat(prompt, settings.num_beams, axis=0)[:, : num_given.min()]
    decoded = beam_search(
        next_function(worlds), prompt, cache, int(num_given.min()), mask, (END,), pad, settings, num_captions
    )
    token_ids, token_log_probs, log_probs, scores, lengths = (np.asarray(x) for x in decoded)
    found = []
    for b, given in enumerate(num_given):
        rows = []
        for n in range(num_captions):
            end = given + lengths[b, n]
            assert (token_ids[b, n, end:] == pad).all() and (token_log_probs[b, n, end:] == 0).all()
            assert (token_log_probs[b, n, :given] == 0).all()
            tokens = tuple(token_ids[b, n, :end].tolist())
            rows.append((scores[b, n], tokens, log_probs[b, n], token_log_probs[b, n, given:end]))
        found.append(rows)
    return found


def assert_same(found, expected):
    assert [tokens for _, tokens, *_ in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("vocabulary_size", "num_words", "num_beams"), [(3, 4, 8), (4, 3, 9), (5, 2, 5)])
def test_an_exhaustive_beam_finds_exactly_the_best_captions(alpha, vocabulary_size, num_words, num_beams):
    worlds = [World(seed, vocabulary_size) for seed in range(8)]
    settings = BeamSearch(num_beams=num_beams, length_penalty=alpha)
    found = search(worlds, [START] * 8, 1 + num_words, settings, 5)
    expected = [best_captions(world, START, 1 + num_words, alpha, 5) for world in worlds]
    for f, e in zip(found, expected, strict=True):
        assert_same(f, e)
    cut = [tokens for e in expected for _, tokens in e if tokens[-1] != END]
    assert cut, "no caption without an end token among the best: the test would not see them"


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("num_beams", "num_captions"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_a_narrow_beam_follows_the_rules(alpha, num_beams, num_captions):
    worlds = [World(seed, 5) for seed in range(100, 110)]
    settings = BeamSearch(num_beams=num_beams, length_penalty=alpha)
    found = search(worlds, [START] * 10, 6, settings, num_captions)
    for f, world in zip(found, worlds, strict=True):
        assert_same(f, reference_beam_search(world, START, 6, alpha, num_beams, num_captions))


def test_prompts_of_different_lengths_are_kept_and_not_scored():
    # The second prompt holds an end token, which ends nothing; the last leaves nothing to say.
    prompts = [(0,), (1, END, 3), (4, 4), (1, 3, 0, 1, 4)]
    worlds = [World(seed, 5) for seed in range(4)]
    found = search(worlds, prompts, 5, BeamSearch(num_beams=16, length_penalty=0.7), 3)
    for f, world, prompt in zip(found[:3], worlds, prompts, strict=False):
        assert_same(f, best_captions(world, prompt, 5, 0.7, 3))
    assert found[3][0][:3] == (0.0, prompts[3], 0.0)


def test_a_batch_gives_what_its_images_give_one_by_one():
    worlds, prompts = [World(seed, 4) for seed in range(6)], [(0,), (1,), (0, 3), (3,), (1, 1, 0), (0,)]
    settings = BeamSearch(num_beams=3, length_penalty=0.7)
    together = search(worlds, prompts, 7, settings, 3)
    alone = [search([w], [p], 7, settings, 3)[0] for w, p in zip(worlds, prompts, strict=True)]
    for t, a in zip(together, alone, strict=True):
        assert_same(t, [row[:2] for row in a])


def test_captions_come_best_first_with_the_log_probabilities_of_the_model():
    worlds = [World(seed, 5) for seed in range(10)]
    for world, rows in zip(worlds, search(worlds, [START] * 10, 6, BeamSearch(num_beams=4), 4), strict=True):
        assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)
        assert len({tokens for _, tokens, *_ in rows}) == 4
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
    [[best, *_]] = search([ByHand(0, 3)], [START], 8, BeamSearch(num_beams=num_beams, length_penalty=0.0), 1)
    assert best[1] == (0, END)
    np.testing.assert_allclose(best[0], np.log(0.6), rtol=1e-6)


def test_the_length_penalty_lets_a_longer_caption_win():
    [[best]] = search([ByHand(0, 3)], [START], 8, BeamSearch(num_beams=3, length_penalty=1.0), 1)
    assert best[1] == (0,) * 8


def test_the_pad_token_may_be_the_end_token():
    worlds = [World(seed, 4) for seed in range(6)]
    found = search(worlds, [START] * 6, 4, BeamSearch(num_beams=9), 3, pad=END)
    for f, world in zip(found, worlds, strict=True):
        assert_same(f, best_captions(world, START, 4, 0.7, 3))


def test_each_of_several_end_tokens_ends_a_caption():
    worlds = [World(seed, 5) for seed in range(6)]
    prompt = np.zeros((6, 4), "int32")
    mask = np.arange(4)[None, :] < np.ones((6, 1))
    settings = BeamSearch(num_beams=2, length_penalty=0.0)
    cache = np.zeros((12, 4), "int32")
    decoded = beam_search(next_function(worlds), prompt, cache, 1, mask, (1, END, 4), 0, settings, 1)
    token_ids, lengths = np.asarray(decoded.token_ids)[:, 0], np.asarray(decoded.lengths)[:, 0]
    for row, length in zip(token_ids, lengths, strict=True):
        assert not set(row[1:length].tolist()) & {1, END, 4}
        assert length == 3 or row[length] in (1, END, 4)
    assert (lengths < 3).any()


@pytest.mark.parametrize(
    "values",
    [{"num_beams": 0}, {"length_penalty": -0.1}, {"length_penalty": float("nan")}, {"max_length": 0}],
)
def test_impossible_settings_are_refused(values):
    [(name, value)] = values.items()
    with pytest.raises(ValueError, match=f"`{name}` must.*received {name}={value}"):
        BeamSearch(**values)
