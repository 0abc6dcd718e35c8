"""Tokens as people read them, by a tokenizer that splits words."""

import pytest

from captioner.text import train_tokenizer
from captioner.text.words import caption_words, token_texts


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a dog runs", "a dog runs"], 265)  # 6 merges: too few for whole words


@pytest.mark.parametrize("text", ["a dog runs.", "two  caf\u00e9s, a dog's \U0001f600", " a\ndog ", "a"])
def test_words_are_what_white_space_separates_and_hold_each_token_once(tokenizer, text):
    token_ids = [tokenizer.start_token_id, *tokenizer.tokenize(text), tokenizer.end_token_id]
    words = caption_words(tokenizer, token_ids)
    assert [word for word, _ in words] == text.split()
    positions = [position for _, word in words for position in word]
    assert positions == sorted(set(positions)) and not {0, len(token_ids) - 1} & set(positions)
    assert (
        "".join(tokenizer.decode([token_ids[p] for p in word]) for _, word in words).split() == text.split()
    )


def test_a_word_of_several_tokens_holds_them_all(tokenizer):
    token_ids = tokenizer.tokenize("a dog runs")
    assert len(token_ids) > 3
    lengths = [len(word) for _, word in caption_words(tokenizer, token_ids)]
    assert sum(lengths) == len(token_ids) and max(lengths) > 1


def test_a_caption_without_words_has_none(tokenizer):
    assert caption_words(tokenizer, [tokenizer.end_token_id]) == []


def test_the_texts_of_tokens_join_to_the_caption_and_the_end_token_has_its_name(tokenizer):
    token_ids = [*tokenizer.tokenize("a dog runs"), tokenizer.end_token_id]
    texts = token_texts(tokenizer, token_ids)
    assert "".join(texts[:-1]) == "a dog runs" and texts[-1] == "<|endoftext|>"
