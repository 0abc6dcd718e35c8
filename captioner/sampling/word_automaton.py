"""Words that captions must and must not have, as a finite automaton over tokens. Axes: R rows, V vocabulary, C token
classes.

A state is a node, which says how far into words the last tokens are, and the set of required words met so far. The
automaton knows from each state how many tokens are still needed at least, so a decoder that keeps to `allowed` always ends
with every required word said, and none that is forbidden.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from keras import ops

NEVER = 10**6
"""Tokens needed where the words cannot be said any more."""
_BOUNDARY, _CONTINUATION, _END = range(3)  # classes of the tokens that no word holds
_DEAD = "dead"


class WordAutomaton:
    """Follows rows of tokens, token by token, and says what may come next.

    A required word is met when its tokens are followed by a token that does not continue the word, or by the end of the
    caption. A forbidden word is refused with its last token, also where a longer word would follow.

    Args:
        required: for each word the sequences of tokens that say it: pairs of tokens and whether they say it only at
            the start of a caption.
        forbidden: sequences of tokens. A text that other tokens spell is another sequence.
        continues: bool array `(V,)`. Tokens that continue a word.
        end_token_ids: tokens that end a caption; allowed when nothing is needed.
    """

    def __init__(
        self,
        required: Sequence[Sequence[tuple[tuple[int, ...], bool]]],
        forbidden: Sequence[tuple[int, ...]],
        continues: np.ndarray,
        end_token_ids: Iterable[int] = (),
    ):
        sequences = [(s, word, start) for word, says in enumerate(required) for s, start in says]
        sequences += [(s, None, False) for s in forbidden]
        tokens = sorted({token for s, *_ in sequences for token in s} - set(end_token_ids))
        self.token_classes = np.where(continues, _CONTINUATION, _BOUNDARY).astype("int32")
        self.token_classes[tokens] = np.arange(len(tokens)) + 3
        self.token_classes[list(end_token_ids)] = _END
        symbols = [(None, False), (None, True), (None, False)]
        symbols += [(token, bool(continues[token])) for token in tokens]
        self._num_sets = 2 ** len(required)
        self._next_node, self._met, pending, dead = _nodes(sequences, symbols)
        self._needed = _tokens_needed(self._next_node, self._met, pending, dead, self._num_sets)
        self.has_required = bool(required)

    def needed_behind(self, token_ids: Iterable[int] = ()) -> int:
        """Tokens that a caption needs at least behind these, or `NEVER`."""
        node = words = 0
        for token_id in token_ids:
            token_class = self.token_classes[token_id]
            node, words = self._next_node[node, token_class], words | self._met[node, token_class]
        return int(self._needed[node * self._num_sets + words])

    def start(self, shape):
        """States of rows without a token."""
        return ops.zeros(shape, dtype="int32")

    def advance(self, states, tokens, given):
        """States after one token more.

        Args:
            states: int tensor of any shape.
            tokens: int tensor of the same shape.
            given: bool tensor that broadcasts; a given token that says what is forbidden is forgotten.
        """
        classes = ops.take(self.token_classes, tokens)[..., None]
        states = ops.take_along_axis(self._next_states(states), classes, axis=-1)[..., 0]
        return ops.where(ops.logical_and(given, self.needed(states) >= NEVER), 0, states)

    def needed(self, states):
        """Tokens that a row needs at least to say what it must, or `NEVER`."""
        return ops.take(self._needed, states)

    def needed_after(self, states):
        """The same after a token of each class: int `(..., C)`."""
        needed = self.needed(self._next_states(states))
        at_end = ops.where(self.needed(states) == 0, 0, NEVER)[..., None]
        return ops.where(ops.arange(needed.shape[-1]) == _END, at_end, needed)

    def allowed(self, states, positions_left):
        """Classes after which what is needed fits into the positions that are then left: bool `(R, C)`."""
        return self.needed_after(states) <= positions_left

    def _next_states(self, states):
        nodes, sets = states // self._num_sets, states % self._num_sets
        sets = ops.bitwise_or(sets[..., None], ops.take(self._met, nodes, axis=0))
        return ops.take(self._next_node, nodes, axis=0) * self._num_sets + sets


def automaton_of_words(required: Sequence[str], forbidden: Sequence[str], tokenizer) -> WordAutomaton:
    """The automaton of words or phrases: as written, in lower and upper case, and capitalised.

    Args:
        required: words that captions must have.
        forbidden: words that they must not have.
        tokenizer: with `encode_batch`, `get_vocabulary` and `end_token_id`, a byte-level BPE.

    Raises:
        ValueError: If a required word holds a forbidden one.
    """
    words = []
    for word in required:
        spellings = _spellings(word)
        behind_space = tokenizer.encode_batch([f" {text}" for text in spellings])
        at_start = tokenizer.encode_batch(spellings)
        words.append([(tuple(s), False) for s in behind_space] + [(tuple(s), True) for s in at_start])
    texts = [space + text for word in forbidden for text in _spellings(word) for space in (" ", "")]
    sequences = list(dict.fromkeys(map(tuple, tokenizer.encode_batch(texts))))
    continues = np.array([_continues_a_word(token) for token in tokenizer.get_vocabulary()])
    automaton = WordAutomaton(words, sequences, continues, (tokenizer.end_token_id,))
    if automaton.needed_behind() >= NEVER:
        raise ValueError(
            f"`required_words` must not hold what is forbidden; received required_words={tuple(required)!r} and "
            f"forbidden_words={tuple(forbidden)!r}."
        )
    return automaton


def _spellings(word: str) -> list[str]:
    word = word.strip()
    return list(dict.fromkeys([word, word.lower(), word[:1].upper() + word[1:], word.upper()]))


def _continues_a_word(token: str) -> bool:
    # Byte-level BPE writes spaces and control bytes as letters from U+0100 on.
    return token[:1].isalnum() and not 0x100 <= ord(token[0]) <= 0x120


def _nodes(sequences, symbols):
    """The reachable nodes: next node `(N, C)`, sets of words met on the way `(N, C)`, met if the caption ends `(N,)`,
    and which node is dead.

    A node is a set of `(sequence, tokens matched)`, the words complete but for what follows, and whether nothing was said.
    """

    begun_by: dict[int, list[int]] = {}
    for s, (tokens, _, _) in enumerate(sequences):
        begun_by.setdefault(tokens[0], []).append(s)

    def step(node, token, continues):
        items, pending, at_start = node
        met = 0 if continues else pending
        grown = {(s, p + 1) for s, p in items if sequences[s][0][p] == token}
        grown |= {(s, 1) for s in begun_by.get(token, ()) if at_start or not sequences[s][2]}
        complete = {sequences[s][1] for s, p in grown if p == len(sequences[s][0])}
        if None in complete:
            return _DEAD, 0
        items = frozenset((s, p) for s, p in grown if p < len(sequences[s][0]))
        return (items, sum(1 << word for word in complete), False), met

    initial = (frozenset(), 0, True)
    numbers, order, rows = {initial: 0}, [initial], []
    for node in order:  # grows while it is read
        row = []
        for token, continues in symbols:
            following, met = (_DEAD, 0) if node == _DEAD else step(node, token, continues)
            if following not in numbers:
                numbers[following] = len(order)
                order.append(following)
            row.append((numbers[following], met))
        rows.append(row)
    table = np.array(rows, "int32")
    pending = np.array([0 if node == _DEAD else node[1] for node in order])
    return table[:, :, 0], table[:, :, 1], pending, np.array([node == _DEAD for node in order])


def _tokens_needed(next_node, met, pending, dead, num_sets: int) -> np.ndarray:
    """Tokens from each state to one where a caption may end: int32 `(N * num_sets,)`."""
    sets = np.arange(num_sets)
    ends = ((pending[:, None] | sets) == num_sets - 1) & ~dead[:, None]
    needed = np.where(ends, 0, NEVER)
    words = np.arange(next_node.shape[1]) != _END
    sets_after = met[:, words, None] | sets
    while True:
        after = needed[next_node[:, words, None], sets_after].min(axis=1)
        closer = np.minimum(needed, np.minimum(after + 1, NEVER))
        closer[dead] = NEVER
        if (closer == needed).all():
            return needed.reshape(-1).astype("int32")
        needed = closer
