"""Contrastive search against its definition, in random tiny worlds."""

import numpy as np
import pytest
from worlds import END, World, decode_worlds, ranked_log_probs

from captioner.sampling import DecodingSettings


def contrastive_by_hand(world, prompt, length, settings):
    tokens, alpha = tuple(prompt), settings.penalty_alpha
    while len(tokens) < length and (tokens[-1] != END or len(tokens) == len(prompt)):
        ranked = np.array(ranked_log_probs(world, tokens, settings))
        probs = np.exp(ranked) / np.exp(ranked).sum()
        said = [world.hidden(tokens[:i]) for i in range(1, len(tokens) + 1)]

        def value(token, tokens=tokens, probs=probs, said=said):
            hidden = world.hidden((*tokens, token))
            cosines = [hidden @ other / np.linalg.norm(hidden) / np.linalg.norm(other) for other in said]
            return (1 - alpha) * probs[token] - alpha * max(cosines)

        candidates = [t for t in np.argsort(-probs)[: settings.top_k or 4].tolist() if probs[t] > 0]
        tokens += (max(candidates, key=value),)
    return tokens


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"top_k": 2, "penalty_alpha": 0.3},
        {"top_k": 5, "penalty_alpha": 1.0},
        {"top_k": 3, "no_repeat_ngram_size": 1, "min_length": 3},
    ],
    ids=str,
)
def test_the_candidate_is_chosen_that_is_likely_and_new(changes):
    worlds = [World(seed, 6) for seed in range(8)]
    settings = DecodingSettings(sampler="contrastive", **changes)
    found = decode_worlds(worlds, settings)
    for [caption], world in zip(found, worlds, strict=True):
        assert caption.tokens == contrastive_by_hand(world, (0,), 7, settings)
        log_prob = world.log_prob(caption.tokens, 1)
        assert caption.log_prob == pytest.approx(log_prob, abs=1e-5)
        assert caption.score == pytest.approx(log_prob / (len(caption.tokens) - 1), abs=1e-5)
    assert len({len(caption.tokens) for [caption] in found}) > 1


def test_prompts_of_different_lengths_are_kept():
    worlds, prompts = [World(seed, 5) for seed in range(4)], [(0,), (1, END, 3), (4, 4), (1, 3, 0, 1, 4, 0)]
    settings = DecodingSettings(sampler="contrastive", top_k=3)
    found = decode_worlds(worlds, settings, prompts=prompts)
    for [caption], world, prompt in zip(found, worlds, prompts, strict=True):
        assert caption.tokens == contrastive_by_hand(world, prompt, 7, settings)
        [[other], _] = decode_worlds([world, worlds[0]], settings, prompts=[prompt, (0,)])
        assert other.tokens == caption.tokens


@pytest.mark.parametrize("changes", [{"penalty_alpha": 0.0}, {"top_k": 1}])
def test_without_a_choice_or_a_penalty_it_is_greedy(changes):
    worlds = [World(seed, 5) for seed in range(6)]
    found = decode_worlds(worlds, DecodingSettings(sampler="contrastive", **changes))
    for [f], [e] in zip(found, decode_worlds(worlds, DecodingSettings(sampler="greedy")), strict=True):
        assert f.tokens == e.tokens and f.score == pytest.approx(e.score, rel=1e-5)
