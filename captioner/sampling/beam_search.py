"""Beam search with frozen finished beams. Axes: B images, G groups, K beams of a group, M candidates, F finished
captions of a group, L text positions, V vocabulary."""

import keras
from keras import ops

from captioner.sampling.decoded import Decoded
from captioner.sampling.logit_processors import IMPOSSIBLE, count_tokens
from captioner.sampling.task import Task, merge_rows, repeat_rows, take_rows, write
from captioner.sampling.top_k import top_k


class BeamSearch:
    """Finds the captions of the highest length-normalised log-probability.

    Unfinished ("live") and finished beams are kept apart. A finished beam keeps its score for good; it leaves only for a
    better finished one. A caption is finished by an end token, or by the last position, if it is then among the K
    best candidates. With `early_stopping="exact"` the search of an image is over when no live beam can still beat its
    worst finished one: log-probabilities only fall, so this loses nothing. The other rules wait for K finished captions:
    "first" for no more, "likely" until no live beam, were it over at its present length, beats the worst of them.

    Groups (Vijayakumar et al., 2018) take turns at each step: what a token loses for being chosen by an earlier group
    changes which beams go on, and no score. The captions returned are those of all groups in turn.

    Required words divide candidates into banks by the tokens that they still need, and beams go on from all banks in turn
    (Post & Vilar, 2018): else captions with a required word would have to compete with those that put it off.
    """

    def __init__(self, task: Task):
        settings = task.settings
        self.task = task
        self.num_groups = settings.num_beam_groups
        self.num_beams = settings.num_beams // self.num_groups
        is_exact = settings.early_stopping == "exact"
        self.num_finished = min(task.num_captions, self.num_beams) if is_exact else self.num_beams
        self.num_banks = 1
        if task.words is not None and task.words.has_required:
            self.num_banks = min(task.words.needed_behind() + 1, self.num_beams)

    def start(self, next, cache):
        """The state before the first step."""
        task, shape = self.task, (self.task.num_images, self.num_groups * self.num_beams)
        blank = task.blank()
        live = {
            "token_ids": repeat_rows(blank, shape[1]),
            "token_log_probs": repeat_rows(ops.zeros_like(blank, dtype="float32"), shape[1]),
            # All beams start alike: only the first of a group may be extended, or the search would hold copies.
            "totals": ops.broadcast_to(
                ops.where(ops.arange(shape[1]) % self.num_beams == 0, 0.0, IMPOSSIBLE), shape
            ),
        }
        if task.words is not None:
            live["word_states"] = task.words.start(shape)
        num_finished = self.num_groups * self.num_finished
        finished = {
            "token_ids": repeat_rows(blank, num_finished),
            "token_log_probs": repeat_rows(ops.zeros_like(blank, dtype="float32"), num_finished),
            "scores": ops.full((shape[0], num_finished), IMPOSSIBLE, dtype="float32"),
            "lengths": ops.zeros((shape[0], num_finished), dtype="int32"),
        }
        return {"live": live, "finished": finished}

    def rows(self, state):
        """int `(B*G*K, L)`: the tokens that the next step reads."""
        return merge_rows(state["live"]["token_ids"])

    def settled(self, index, state):
        """bool `(B,)`: the images whose captions cannot change any more."""
        return ops.all(self._is_settled(index, state), axis=1)

    def advance(self, index, logits, hidden, state):
        """One position more: the new state, and the rows `(B, G*K)` of each image that it came from."""
        task, live = self.task, state["live"]
        shape = (task.num_images, self.num_groups * self.num_beams, logits.shape[-1])
        log_probs = ops.log_softmax(logits, axis=-1)
        word_states = merge_rows(live["word_states"]) if task.words is not None else None
        ranked = task.control(log_probs, self.rows(state), index, word_states)
        banks = self._banks(word_states) if self.num_banks > 1 else None
        log_probs, ranked = ops.reshape(log_probs, shape), ops.reshape(ranked, shape)
        given = ops.zeros((shape[0],), dtype="bool")
        if task.may_be_given:
            given_tokens, given = task.given(index)
            here = ops.logical_and(given[:, None], ops.arange(shape[2]) == given_tokens[:, None])[:, None]
            if not task.settings.score_prompt:
                log_probs = ops.where(here, 0.0, log_probs)
            ranked = ops.where(given[:, None, None], ops.where(here, log_probs, IMPOSSIBLE), ranked)
        is_settled = self._is_settled(index, state)
        taken, lives, finished, origins = None, [], [], []
        for group in range(self.num_groups):
            beams = slice(group * self.num_beams, (group + 1) * self.num_beams)
            kept = slice(group * self.num_finished, (group + 1) * self.num_finished)
            group_live, group_finished, rows, chosen = self._advance_group(
                index,
                {key: value[:, beams] for key, value in live.items()},
                {key: value[:, kept] for key, value in state["finished"].items()},
                (log_probs[:, beams], ranked[:, beams], banks),
                is_settled[:, group],
                taken,
                given,
            )
            lives.append(group_live)
            finished.append(group_finished)
            origins.append(rows + group * self.num_beams)
            if group + 1 < self.num_groups:
                counts = count_tokens(*chosen, shape[2])
                taken = counts if taken is None else taken + counts
        return {"live": _join(lives), "finished": _join(finished)}, ops.concatenate(origins, axis=1)

    def result(self, state) -> Decoded:
        """The best captions; of several groups, the best of each, the second best of each, and so on."""
        finished = state["finished"]
        if self.num_groups > 1:
            ranks = ops.arange(self.num_groups * self.num_finished) % self.num_finished
            keys = -ops.cast(ranks, "float32")[None] - 1e3 * _repeats_earlier(finished["token_ids"])
            keys = ops.where(finished["scores"] > IMPOSSIBLE / 2, keys, -1e6)
            _, chosen = ops.top_k(keys, self.task.num_captions)
            finished = _take(finished, chosen)
            _, order = ops.top_k(finished["scores"], self.task.num_captions)
            finished = _take(finished, order)
        finished = {key: value[:, : self.task.num_captions] for key, value in finished.items()}
        return Decoded(log_probs=ops.sum(finished["token_log_probs"], axis=-1), **finished)

    def _advance_group(self, index, live, finished, scores, is_settled, taken, given):
        task, num_beams = self.task, self.num_beams
        log_probs, ranked, banks = scores
        vocabulary_size = ranked.shape[-1]
        flat = (task.num_images, num_beams * vocabulary_size)
        if taken is not None:
            ranked = ranked - task.settings.diversity_penalty * taken[:, None]
        wanted, choices, ranks = self._best_candidates(live["totals"], ranked, banks)
        beams, tokens = choices // vocabulary_size, choices % vocabulary_size
        step_log_probs = ops.take_along_axis(ops.reshape(log_probs, flat), choices, axis=1)
        totals = wanted
        if taken is not None:
            totals = wanted + task.settings.diversity_penalty * ops.take_along_axis(taken, tokens, axis=1)
        candidates = {
            "token_ids": write(take_rows(live["token_ids"], beams), index, tokens),
            "token_log_probs": write(take_rows(live["token_log_probs"], beams), index, step_log_probs),
            "totals": totals,
        }
        if task.words is not None:
            states = ops.take_along_axis(live["word_states"], beams, axis=1)
            candidates["word_states"] = task.words.advance(states, tokens, given[:, None])
        is_end = ops.logical_and(task.is_end(tokens), ops.logical_not(given)[:, None])

        # At the last position every candidate is a caption.
        is_finished = ops.logical_or(is_end, index == task.length - 1)
        is_finished = ops.logical_and(
            is_finished, ops.logical_and(ranks < num_beams, totals > IMPOSSIBLE / 2)
        )
        is_finished = ops.logical_and(is_finished, ops.logical_not(is_settled)[:, None])
        lengths = index + 1 - task.num_unscored()[:, None]
        values = ops.where(is_finished, self._normalised(totals, lengths), IMPOSSIBLE)
        new = candidates | {"scores": values, "lengths": ops.broadcast_to(lengths, ops.shape(values))}
        # Finished beams come first, so that a tie keeps them.
        both = _join([finished, {key: new[key] for key in finished}])
        _, kept = ops.top_k(both["scores"], self.num_finished)

        going_on = self._beams_that_go_on(ops.where(is_end, IMPOSSIBLE, wanted))
        live = _take(candidates, going_on)
        is_over = ops.logical_or(ops.take_along_axis(is_end, going_on, axis=1), is_settled[:, None])
        live["totals"] = ops.where(is_over, IMPOSSIBLE, live["totals"])
        rows = ops.take_along_axis(beams, going_on, axis=1)
        chosen = (tokens[:, :num_beams], wanted[:, :num_beams] > IMPOSSIBLE / 2)  # ends are choices too
        return live, _take(both, kept), rows, chosen

    def _best_candidates(self, totals, ranked, banks):
        """The best of each bank: their value, place in `(K*V)` and rank in the bank, each `(B, M)`; bank by bank."""
        # 2K candidates hold at least K that do not end, as each beam has one end token; several need as many more.
        count = self.num_beams * (1 + max(len(self.task.end_token_ids), 1))
        rows = merge_rows(ranked)
        if banks is None:
            found = [self._best_of_bank(totals, rows, count)]
        else:
            found = [
                self._best_of_bank(totals, ops.where(banks == bank, rows, IMPOSSIBLE), count)
                for bank in range(self.num_banks)
            ]
        count = found[0][0].shape[1]
        values, choices = (ops.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return values, choices, (ops.arange(self.num_banks * count) % count)[None]

    def _best_of_bank(self, totals, rows, count):
        """Values and places in `(K*V)` of the best candidates, `(B, M)`: they are among the best of each beam."""
        vocabulary_size = rows.shape[1]
        values, tokens = top_k(rows, min(count, vocabulary_size))
        by_image = (self.task.num_images, self.num_beams, values.shape[1])
        values = ops.reshape(values, by_image) + totals[:, :, None]
        places = (
            ops.reshape(tokens, by_image)
            + vocabulary_size * ops.arange(self.num_beams, dtype="int32")[:, None]
        )
        flat = (by_image[0], by_image[1] * by_image[2])
        values, kept = ops.top_k(ops.reshape(values, flat), min(count, flat[1]))
        return values, ops.take_along_axis(ops.reshape(places, flat), kept, axis=1)

    def _beams_that_go_on(self, wanted):
        """The K candidates to extend: int `(B, K)`."""
        if self.num_banks == 1:
            return ops.top_k(wanted, self.num_beams)[1]
        # The best of each bank, those that need least first; then the second best of each, and so on.
        by_bank = ops.reshape(wanted, (self.task.num_images, self.num_banks, -1))
        possible = ops.cast(by_bank > IMPOSSIBLE / 2, "float32")
        turns = ops.cumsum(possible, axis=2) * self.num_banks
        turns = turns + ops.cast(ops.arange(self.num_banks), "float32")[:, None]
        keys = ops.where(possible > 0, -turns, IMPOSSIBLE)
        return ops.top_k(ops.reshape(keys, ops.shape(wanted)), self.num_beams)[1]

    def _banks(self, word_states):
        """What each candidate would still need, counted up to the number of banks: int `(B*K, V)`."""
        words = self.task.words
        banks = ops.minimum(words.needed_after(word_states), self.num_banks - 1)
        return ops.take(banks, words.token_classes, axis=1)

    def _is_settled(self, index, state):
        """Whether the captions of a group are not to change any more: bool `(B, G)`."""
        task = self.task
        by_group = (task.num_images, self.num_groups, -1)
        worst = ops.min(ops.reshape(state["finished"]["scores"], by_group), axis=2)
        is_full = worst > IMPOSSIBLE / 2
        if task.settings.early_stopping == "first":
            return is_full
        likeliest = ops.max(ops.reshape(state["live"]["totals"], by_group), axis=2)
        if task.settings.early_stopping == "likely":
            present = index - task.num_unscored()[:, None]
            return ops.logical_and(is_full, self._normalised(likeliest, present) <= worst)
        # The largest divisor is the kindest to a negative number.
        longest = task.length - task.num_unscored()[:, None]
        return self._normalised(likeliest, longest) <= worst

    def _normalised(self, totals, lengths):
        lengths = ops.cast(ops.maximum(lengths, 1), "float32")
        return totals / lengths**self.task.settings.length_penalty


def _join(parts):
    return {key: ops.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}


def _take(parts, rows):
    return keras.tree.map_structure(lambda x: take_rows(x, rows), parts)


def _repeats_earlier(token_ids):
    """Whether a text came before: float `(B, M, L)` -> `(B, M)`."""
    same = ops.all(token_ids[:, :, None] == token_ids[:, None], axis=-1)
    places = ops.arange(token_ids.shape[1])
    same = ops.logical_and(same, places[None, :] < places[:, None])
    return ops.cast(ops.any(same, axis=-1), "float32")
