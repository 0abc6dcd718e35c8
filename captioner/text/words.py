"""The tokens of a caption as people read them: each one's text, and the words that they make up."""

from collections.abc import Sequence

from captioner.text.tokenizer import CaptionTokenizer

_WORD_START = ("Ġ", "Ċ", "ĉ")  # how byte-level BPE writes a space, a line feed and a tab


def token_texts(tokenizer: CaptionTokenizer, token_ids: Sequence[int]) -> list[str]:
    """The text of each token, with the space in front that it may have; a special token by its name.

    A letter that is spread over several tokens shows as U+FFFD in each of them.
    """
    return [tokenizer.decode([i]) or tokenizer.id_to_token(i) for i in token_ids]


def caption_words(tokenizer: CaptionTokenizer, token_ids: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
    """The words of a caption, each with the positions of the tokens that it is made of.

    Words are what white space separates: punctuation belongs to the word before it. Start, end and special tokens belong to
    none.

    Args:
        tokenizer: `CaptionTokenizer`.
        token_ids: the tokens of a caption.
    """
    words: list[list[int]] = []
    for position, token_id in enumerate(token_ids):
        if not tokenizer.decode([token_id]):
            continue
        if not words or tokenizer.id_to_token(token_id).startswith(_WORD_START):
            words.append([])
        words[-1].append(position)
    texts = (tokenizer.decode([token_ids[position] for position in word]).strip() for word in words)
    return [(text, tuple(word)) for text, word in zip(texts, words, strict=True) if text]
