"""Contrastive search. Axes: B images, K candidates, L text positions, D width, V vocabulary."""

from keras import ops

from captioner.sampling.decoded import Decoded
from captioner.sampling.logit_processors import IMPOSSIBLE
from captioner.sampling.settings import CONTRASTIVE_CANDIDATES, DecodingSettings
from captioner.sampling.task import Task, merge_rows, repeat_rows, take_rows, write
from captioner.sampling.top_k import top_k


def num_candidates(settings: DecodingSettings) -> int:
    """Candidates K of each step."""
    return settings.top_k or CONTRASTIVE_CANDIDATES


class ContrastiveSearch:
    """Of the likeliest tokens, takes the one that is likely and unlike what the caption already says.

    A candidate's score is `(1 - penalty_alpha)` times its probability, less `penalty_alpha` times the largest cosine
    between its hidden state and that of an earlier token. The hidden state of a candidate is there when the model has read
    it: so the K rows of an image hold one candidate each at the last position, and a step chooses among them before it
    finds the next ones. The last token of a caption is read too. Tokens before the first step count as unlike all others.

    References:
        - [Su et al., 2022](https://arxiv.org/abs/2202.06417), section 3.2
    """

    def __init__(self, task: Task):
        self.task = task
        self.num_candidates = num_candidates(task.settings)

    def start(self, next, cache):
        """The state before the first step: K times the prompt."""
        task, shape = self.task, (self.task.num_images, self.num_candidates)
        blank = task.blank()
        token_ids = repeat_rows(blank, shape[1])
        # Only the width of the hidden states is of use; a compiler leaves the rest out.
        _, hidden, _ = next(merge_rows(token_ids), cache, task.first_index)
        state = {
            "token_ids": token_ids,
            "token_log_probs": ops.zeros_like(blank, dtype="float32"),
            "lengths": ops.zeros_like(blank[:, 0]),
            "ended": ops.zeros_like(blank[:, 0], dtype="bool"),
            "possible": ops.ones_like(blank[:, 0], dtype="bool"),
            "directions": ops.zeros((shape[0], task.length, hidden.shape[-1]), dtype="float32"),
            "candidates": {
                "log_probs": ops.zeros(shape, dtype="float32"),
                "probs": ops.ones(shape, dtype="float32"),
                "possible": ops.ones(shape, dtype="bool"),
            },
        }
        if task.words is not None:
            state["word_states"] = task.words.start((shape[0],))
        return state

    def rows(self, state):
        """int `(B*K, L)`: the captions, each with a candidate at its last position."""
        return merge_rows(state["token_ids"])

    def settled(self, index, state):
        """bool `(B,)`: the images whose caption has ended."""
        return state["ended"]

    def advance(self, index, logits, hidden, state):
        """Chooses the tokens before `index`, and finds candidates for it; also the rows `(B, K)` they come from."""
        shape = (self.task.num_images, self.num_candidates)
        best, directions = self._choose(index, ops.reshape(hidden, (*shape, hidden.shape[-1])), state)
        rows = ops.arange(shape[0]) * shape[1] + ops.cast(best, "int32")
        state = self._commit(index, best, state | {"directions": directions})
        logits = ops.take(logits, rows, axis=0)
        tokens, state["candidates"] = self._candidates(index, logits, state)
        state["token_ids"] = write(state["token_ids"], index, tokens)
        return state, repeat_rows(best, shape[1])

    def result(self, state) -> Decoded:
        """The caption of each image."""
        log_probs = ops.sum(state["token_log_probs"], axis=1)
        scores = log_probs / ops.cast(ops.maximum(state["lengths"], 1), "float32")
        return Decoded(
            token_ids=state["token_ids"][:, :1],
            token_log_probs=state["token_log_probs"][:, None],
            log_probs=log_probs[:, None],
            scores=ops.where(state["possible"], scores, IMPOSSIBLE)[:, None],
            lengths=state["lengths"][:, None],
        )

    def _choose(self, index, hidden, state):
        """The best candidate `(B,)`, and the directions of hidden states `(B, L, D)` with its own."""
        alpha, directions = self.task.settings.penalty_alpha, state["directions"]
        hidden = ops.cast(hidden, "float32")
        hidden = hidden / ops.maximum(ops.sqrt(ops.sum(hidden**2, axis=-1, keepdims=True)), 1e-12)
        positions = ops.arange(self.task.length)
        cosines = ops.matmul(hidden, ops.transpose(directions, (0, 2, 1)))
        nearest = ops.max(ops.where(positions < index - 1, cosines, -1.0), axis=-1)
        candidates = state["candidates"]
        scores = (1.0 - alpha) * candidates["probs"] - alpha * nearest
        best = ops.argmax(ops.where(candidates["possible"], scores, IMPOSSIBLE), axis=1)
        chosen = take_rows(hidden, best[:, None])
        return best, ops.where((positions == index - 1)[:, None], chosen, directions)

    def _commit(self, index, best, state):
        """The state with the chosen token, which stands before `index`."""
        task = self.task
        place = index - 1
        token_ids = take_rows(state["token_ids"], best[:, None])
        log_prob, possible = (
            ops.take_along_axis(state["candidates"][key], best[:, None], axis=1)[:, 0]
            for key in ("log_probs", "possible")
        )
        tokens, (_, given) = ops.take(token_ids[:, 0], place, axis=1), task.given(place)
        scored = ops.logical_and(place >= task.num_unscored(), ops.logical_not(state["ended"]))
        free = ops.logical_or(given, state["ended"])
        is_end = ops.logical_and(task.is_end(tokens), ops.logical_not(given))
        state = state | {
            "token_ids": ops.repeat(token_ids, self.num_candidates, axis=1),
            "token_log_probs": write(state["token_log_probs"], place, ops.where(scored, log_prob, 0.0)),
            "lengths": state["lengths"] + ops.cast(scored, state["lengths"].dtype),
            "possible": ops.logical_and(state["possible"], ops.logical_or(free, possible)),
            "ended": ops.logical_or(state["ended"], is_end),
        }
        if task.words is not None:
            word_states = task.words.advance(state["word_states"], tokens, free)
            state["word_states"] = ops.where(place >= task.first_index, word_states, state["word_states"])
        return state

    def _candidates(self, index, logits, state):
        """The K likeliest tokens for `index`, `(B, K)`, and what is known of them."""
        task = self.task
        scores = task.control(logits, state["token_ids"][:, 0], index, state.get("word_states"))
        likeliest, tokens = top_k(scores, self.num_candidates)
        given_tokens, given = task.given(index)
        tokens = ops.where(given[:, None], given_tokens[:, None], tokens)
        tokens = ops.where(state["ended"][:, None], task.pad_token_id, tokens)
        return tokens, {
            "log_probs": ops.take_along_axis(ops.log_softmax(logits, axis=-1), tokens, axis=1),
            "probs": ops.take_along_axis(ops.softmax(scores, axis=-1), tokens, axis=1),
            "possible": ops.logical_or(given[:, None], likeliest > IMPOSSIBLE / 2),
        }
