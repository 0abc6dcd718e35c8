"""Required and forbidden words: the automaton by itself, and decoding with it against every caption there is."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_captioner import CAPTIONS
from worlds import END, World, best_captions, decode_worlds, has_words

from captioner.sampling import DecodingSettings
from captioner.sampling.logit_processors import IMPOSSIBLE
from captioner.sampling.word_automaton import NEVER, WordAutomaton, automaton_of_words
from captioner.text import train_tokenizer

SIZE = 5


def automaton(required=(), forbidden=(), continuing=()):
    """Words of tokens of a world; `continuing` ones belong to the word before them."""
    continues = np.isin(np.arange(SIZE), continuing)
    return WordAutomaton([[(word, False)] for word in required], forbidden, continues, (END,))


def test_it_counts_the_tokens_that_are_still_needed():
    words = automaton(required=[(1, 3), (4,)])
    needed = [words.needed_behind(tokens) for tokens in [(), (1,), (1, 1), (1, 3), (1, 0), (4, 1), (4, 1, 3)]]
    assert needed == [3, 2, 2, 1, 3, 1, 0]


def test_words_that_overlap_may_share_tokens():
    words = automaton(required=[(1, 3), (3, 4)])
    assert [words.needed_behind(tokens) for tokens in [(), (1, 3), (1, 3, 4), (3, 4, 1)]] == [3, 1, 0, 1]


def test_a_word_that_goes_on_is_another_word():
    words = automaton(required=[(1,)], continuing=(3,))
    assert [words.needed_behind(tokens) for tokens in [(1,), (1, 3), (1, 3, 1), (1, 0, 3)]] == [0, 1, 0, 0]


def test_a_forbidden_word_is_dead_and_what_cannot_be_said_is_known():
    words = automaton(forbidden=[(1, 3), (4,)])
    assert [words.needed_behind(tokens) for tokens in [(), (1, 0, 3), (1, 1, 3), (4,)]] == [
        0,
        0,
        NEVER,
        NEVER,
    ]
    assert automaton(required=[(1, 3)], forbidden=[(3,)]).needed_behind() == NEVER


EXHAUSTIVE = DecodingSettings(num_beams=60)
WORDS = [
    ([(4,)], [], ()),
    ([(1, 3)], [], ()),
    ([(1,), (4,)], [], ()),
    ([(1, 3), (3, 4)], [], ()),
    ([(1, 3), (3, 0)], [(3, 3), (4,)], ()),
    ([(1,)], [(3,)], (0, 4)),
    ([], [(1,), (3, 0), (0, 3, 3)], ()),
]


@pytest.mark.parametrize(("required", "forbidden", "continuing"), WORDS, ids=str)
def test_an_exhaustive_beam_finds_the_best_of_all_captions_with_the_words(required, forbidden, continuing):
    worlds = [World(seed, SIZE) for seed in range(3)]
    words = automaton(required, forbidden, continuing)
    found = decode_worlds(worlds, EXHAUSTIVE, 3, length=4, words=words)

    def is_allowed(tokens):
        return has_words(tokens[1:], required, forbidden, continuing)

    for captions, world in zip(found, worlds, strict=True):
        expected = best_captions(world, (0,), 4, EXHAUSTIVE, 3, is_allowed)
        possible = [caption for caption in captions if caption.score > IMPOSSIBLE / 2]
        assert [caption.tokens for caption in possible] == [tokens for _, tokens in expected]
        np.testing.assert_allclose([c.score for c in possible], [score for score, _ in expected], atol=1e-5)


SEQUENCES = st.lists(
    st.lists(st.sampled_from([0, 1, 3, 4]), min_size=1, max_size=3).map(tuple), max_size=2, unique=True
)
SAMPLERS = [
    (DecodingSettings(num_beams=1), 1),
    (DecodingSettings(num_beams=3, early_stopping="first", length_penalty=0.0), 2),
    (DecodingSettings(sampler="greedy"), 1),
    (DecodingSettings(sampler="nucleus", top_p=0.5), 2),
    (DecodingSettings(sampler="contrastive", top_k=3), 1),
]


@pytest.mark.parametrize(
    ("sampler", "num_captions"), SAMPLERS, ids=lambda value: getattr(value, "sampler", value)
)
@settings(max_examples=4, deadline=None)
@given(SEQUENCES, SEQUENCES, st.integers(0, 99))
def test_required_words_are_said_and_forbidden_ones_are_not(sampler, num_captions, required, forbidden, seed):
    words, length = automaton(required, forbidden), 8
    assume(1 + words.needed_behind() <= length)
    for captions in decode_worlds([World(seed, SIZE)], sampler, num_captions, length=length, words=words):
        assert captions[0].score > IMPOSSIBLE / 2
        for caption in captions:  # where the words leave fewer captions, the rest is marked
            assert has_words(caption.tokens[1:], required, forbidden) or caption.score <= IMPOSSIBLE / 2


def test_a_required_word_is_said_in_time_but_not_at_once():
    """A search that only forces words at the end would say it last; one that wants it now, first."""

    class ByHand(World):
        """The word 3 is all but impossible, and after two of the likely 0 only unlikely: the third of all."""

        def logits(self, prefix):
            late = [0.5, 0.35, 0.01, 0.139, 0.001]
            return np.log(late if len(prefix) == 3 else [0.7, 0.15, 0.1, 0.001, 0.049])

    [[caption]] = decode_worlds(
        [ByHand(0, 5)], DecodingSettings(num_beams=2), length=8, words=automaton([(3,)])
    )
    assert caption.tokens[:5] == (0, 0, 0, 3, 0)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS * 2, 280)


def needed_behind(words, tokenizer, text):
    return words.needed_behind(tokenizer.encode_batch([text])[0])


def test_words_are_found_at_the_start_behind_spaces_and_in_capitals(tokenizer):
    words = automaton_of_words(["dog", "red sofa"], [], tokenizer)
    missing = words.needed_behind()
    assert missing == sum(len(tokenizer.encode_batch([text])[0]) for text in (" dog", " red sofa"))
    for text in ("dog, red sofa", "a Dog on a Red sofa", "RED SOFA and DOG", "the red sofa of a dog's"):
        assert needed_behind(words, tokenizer, text) == 0
    for text in ("dogs on a red sofa", "hotdog red sofa", "a red dog sofa"):
        assert needed_behind(words, tokenizer, text) > 0


def test_forbidden_words_are_refused_wherever_they_stand(tokenizer):
    words = automaton_of_words([], ["dog", "red sofa"], tokenizer)
    for text in ("dog", "a dog", "Dog", "the DOG.", "a red sofa"):
        assert needed_behind(words, tokenizer, text) == NEVER
    assert needed_behind(words, tokenizer, "a red bike and a sofa, do go") == 0


def test_a_required_word_that_holds_a_forbidden_one_is_refused(tokenizer):
    with pytest.raises(ValueError, match="`required_words` must not hold what is forbidden"):
        automaton_of_words(["a red sofa"], ["red"], tokenizer)
