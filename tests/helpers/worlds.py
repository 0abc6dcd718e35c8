"""Random language models over tiny vocabularies, and decoding in plain Python. Axes: R rows, L positions, V tokens."""

import itertools
from typing import NamedTuple

import keras
import numpy as np

from captioner.sampling import DecodingSettings
from captioner.sampling.decode import decode, rows_per_image
from captioner.sampling.task import Task
from captioner.sampling.token_sampling import uniform_draws

END = 2


class World:
    """A next-token distribution that depends on the whole prefix, so that no shortcut gives the right answer."""

    def __init__(self, seed: int, vocabulary_size: int):
        self.seed, self.vocabulary_size, self._logits, self._hidden = seed, vocabulary_size, {}, {}

    def logits(self, prefix: tuple[int, ...]) -> np.ndarray:
        if prefix not in self._logits:
            generator = np.random.default_rng([self.seed, len(prefix), *prefix])
            self._logits[prefix] = generator.normal(0, 2, self.vocabulary_size).astype("float32")
        return self._logits[prefix]

    def hidden(self, prefix: tuple[int, ...]) -> np.ndarray:
        """A hidden state of the last token."""
        if prefix not in self._hidden:
            generator = np.random.default_rng([self.seed, 1, *prefix])
            self._hidden[prefix] = generator.normal(0.3, 1, 3).astype("float32")
        return self._hidden[prefix]

    def log_probs(self, prefix: tuple[int, ...]) -> np.ndarray:
        logits = self.logits(prefix).astype("float64")
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    def log_prob(self, tokens: tuple[int, ...], num_given: int) -> float:
        return sum(self.log_probs(tokens[:i])[tokens[i]] for i in range(num_given, len(tokens)))


def next_function(worlds: list[World]):
    """The `next` of a sampler whose rows belong, as neighbours, to these worlds; its cache counts the prefix.

    The cache of a row is the token ids it has read: it must always be the row's own prefix.
    """

    def next(token_ids, cache, index):
        rows, index = keras.ops.convert_to_numpy(token_ids), int(index)
        read = keras.ops.convert_to_numpy(cache).copy()
        read[:, index - 1] = rows[:, index - 1]
        np.testing.assert_array_equal(read[:, :index], rows[:, :index])
        num_rows = len(rows) // len(worlds)
        prefixes = [(worlds[r // num_rows], tuple(row[:index].tolist())) for r, row in enumerate(rows)]
        logits = np.stack([world.logits(prefix) for world, prefix in prefixes])
        hidden = np.stack([world.hidden(prefix) for world, prefix in prefixes])
        return tuple(keras.ops.convert_to_tensor(x) for x in (logits, hidden, read))

    return next


class Found(NamedTuple):
    """A decoded caption: the prompt and what follows it, without padding."""

    score: float
    tokens: tuple[int, ...]
    log_prob: float
    token_log_probs: np.ndarray


def decode_worlds(
    worlds, settings, num_captions=1, *, length=7, prompts=None, pad=0, ends=(END,), words=None
):
    """Decodes with our loop: for each world a list of `Found`.

    Args:
        words: `WordAutomaton`.
    """
    prompts = prompts or [(0,)] * len(worlds)
    num_given = np.array([len(given) for given in prompts])
    prompt = np.full((len(worlds), length), pad, "int32")
    for row, given in zip(prompt, prompts, strict=True):
        row[: len(given)] = given
    task = Task(
        prompt=keras.ops.convert_to_tensor(prompt),
        prompt_mask=keras.ops.convert_to_tensor(np.arange(length)[None, :] < num_given[:, None]),
        first_index=int(num_given.min()) if words is None else 1,
        end_token_ids=ends,
        pad_token_id=pad,
        settings=settings,
        num_captions=num_captions,
        words=words,
        uniforms=uniform_draws(settings.seed, num_captions, length),
    )
    num_rows = rows_per_image(settings, num_captions)
    cache = np.zeros((len(worlds) * num_rows, length), "int32")
    cache[:, : num_given.min()] = np.repeat(prompt, num_rows, axis=0)[:, : num_given.min()]
    decoded = decode(next_function(worlds), keras.ops.convert_to_tensor(cache), task)
    token_ids, token_log_probs, log_probs, scores, lengths = (keras.ops.convert_to_numpy(x) for x in decoded)
    assert (np.diff(scores, axis=1) <= 0).all()
    first = np.full(len(worlds), 1) if settings.score_prompt else num_given
    found = []
    for b, start in enumerate(first):
        rows = []
        for n in range(num_captions):
            end = start + lengths[b, n]
            assert (token_ids[b, n, end:] == pad).all() and (token_log_probs[b, n, end:] == 0).all()
            assert (token_log_probs[b, n, :start] == 0).all()
            tokens = tuple(token_ids[b, n, :end].tolist())
            each = token_log_probs[b, n, start:end]
            rows.append(Found(float(scores[b, n]), tokens, float(log_probs[b, n]), each))
        found.append(rows)
    return found


def score(log_prob: float, length: int, alpha: float) -> float:
    return log_prob / max(length, 1) ** alpha


def ranked_log_probs(world: World, tokens: tuple[int, ...], settings: DecodingSettings) -> list[float]:
    """What ranks each next token, by the definition of the controls."""
    ranked = list(world.log_probs(tokens))
    size = settings.no_repeat_ngram_size
    for token in range(world.vocabulary_size):
        if token in tokens and token != END:
            ranked[token] *= settings.repetition_penalty
        ngram = (*tokens, token)[-size:]
        if size and token != END and ngram in [tokens[i : i + size] for i in range(len(tokens) - size + 1)]:
            ranked[token] = -np.inf
        if token == END and len(tokens) < settings.min_length:
            ranked[token] = -np.inf
    return ranked


def best_captions(world: World, prompt, length: int, settings: DecodingSettings, count: int, is_allowed=None):
    """The best of all captions there are: `(score, tokens)`, those that the last position cuts included."""
    others = [t for t in range(world.vocabulary_size) if t != END]
    captions = []
    for num_words in range(length - len(prompt) + 1):
        for words in itertools.product(others, repeat=num_words):
            tokens = prompt + words
            captions += [(*tokens, END)] if len(tokens) < length else [tokens]
    scored = []
    for tokens in captions:
        steps = range(len(prompt), len(tokens))
        total = sum(ranked_log_probs(world, tokens[:i], settings)[tokens[i]] for i in steps)
        if total > -np.inf and (is_allowed is None or is_allowed(tokens)):
            scored.append((score(total, len(steps), settings.length_penalty), tokens))
    return sorted(scored, reverse=True)[:count]


def has_words(tokens, required, forbidden=(), continuing=()) -> bool:
    """Whether a caption, without its start, has each required word as a whole, and no forbidden one."""

    def places(word):
        return [i + len(word) for i in range(len(tokens)) if tokens[i : i + len(word)] == word]

    def is_whole(end):
        return end == len(tokens) or tokens[end] not in continuing

    return all(any(map(is_whole, places(word))) for word in required) and not any(map(places, forbidden))


def reference_beam_search(world: World, prompt, length: int, settings: DecodingSettings, count: int):
    """Beam search by its rules, in groups, to the last position: `(score, tokens)`, best first."""
    num_groups = settings.num_beam_groups
    num_beams = settings.num_beams // num_groups
    live, finished = [[(0.0, prompt)]] * num_groups, [[]] * num_groups
    rule, is_over = settings.early_stopping, [False] * num_groups
    num_kept = min(count, num_beams) if rule == "exact" else num_beams
    for index in range(len(prompt), length):
        taken = []
        for group in range(num_groups):
            candidates = []
            for total, tokens in live[group]:
                for token, more in enumerate(ranked_log_probs(world, tokens, settings)):
                    wanted = total + more - settings.diversity_penalty * taken.count(token)
                    candidates.append((wanted, total + more, (*tokens, token)))
            candidates = [c for c in sorted(candidates, reverse=True) if c[0] > -np.inf]
            for _, total, tokens in candidates[: 0 if is_over[group] else num_beams]:
                if tokens[-1] == END or index == length - 1:
                    value = score(total, len(tokens) - len(prompt), settings.length_penalty)
                    finished[group] = sorted([*finished[group], (value, tokens)], reverse=True)
            finished[group] = finished[group][:num_kept]
            live[group] = [(total, t) for _, total, t in candidates if t[-1] != END][:num_beams]
            if rule != "exact" and len(finished[group]) == num_kept:
                present = index + 1 - len(prompt)
                hopes = [score(total, present, settings.length_penalty) for total, _ in live[group]]
                is_over[group] |= rule == "first" or all(hope <= finished[group][-1][0] for hope in hopes)
            taken += [tokens[-1] for _, _, tokens in candidates[:num_beams]]
    in_turn = [c for rank in itertools.zip_longest(*finished) for c in rank if c is not None]
    distinct = list(dict.fromkeys(in_turn))
    repeats = [c for i, c in enumerate(in_turn) if c in in_turn[:i]]
    return sorted((distinct + repeats)[:count], reverse=True)
