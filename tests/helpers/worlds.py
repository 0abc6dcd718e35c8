"""Random language models over tiny vocabularies, and decoding in plain Python. Axes: R rows, L positions, V tokens."""

import itertools

import keras
import numpy as np

END = 2


class World:
    """A next-token distribution that depends on the whole prefix, so that no shortcut gives the right answer."""

    def __init__(self, seed: int, vocabulary_size: int):
        self.seed, self.vocabulary_size, self._logits = seed, vocabulary_size, {}

    def logits(self, prefix: tuple[int, ...]) -> np.ndarray:
        if prefix not in self._logits:
            generator = np.random.default_rng([self.seed, len(prefix), *prefix])
            self._logits[prefix] = generator.normal(0, 2, self.vocabulary_size).astype("float32")
        return self._logits[prefix]

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
        logits = [worlds[r // num_rows].logits(tuple(row[:index].tolist())) for r, row in enumerate(rows)]
        return keras.ops.convert_to_tensor(np.stack(logits)), None, keras.ops.convert_to_tensor(read)

    return next


def score(log_prob: float, length: int, alpha: float) -> float:
    return log_prob / max(length, 1) ** alpha


def best_captions(world: World, prompt: tuple[int, ...], length: int, alpha: float, count: int):
    """The best of all captions there are: `(score, tokens)`, those that the last position cuts included."""
    others = [t for t in range(world.vocabulary_size) if t != END]
    captions = []
    for num_words in range(length - len(prompt) + 1):
        for words in itertools.product(others, repeat=num_words):
            tokens = prompt + words
            captions += [(*tokens, END)] if len(tokens) < length else [tokens]
    scored = [(score(world.log_prob(t, len(prompt)), len(t) - len(prompt), alpha), t) for t in captions]
    return sorted(scored, reverse=True)[:count]


def reference_beam_search(world: World, prompt, length: int, alpha: float, num_beams: int, count: int):
    """Beam search by its rules, without an early end: `(score, tokens)`, best first."""
    live, finished = [(0.0, prompt)], []
    for index in range(len(prompt), length):
        extended = [
            (log_prob + float(more), (*tokens, token))
            for log_prob, tokens in live
            for token, more in enumerate(world.log_probs(tokens))
        ]
        candidates = sorted(extended, reverse=True)[: 2 * num_beams]
        ended = [c for c in candidates if c[1][-1] == END or index == length - 1]
        finished += [(score(log_prob, len(t) - len(prompt), alpha), t) for log_prob, t in ended]
        finished = sorted(finished, reverse=True)[:count]
        live = [c for c in candidates if c[1][-1] != END][:num_beams]
    return finished
