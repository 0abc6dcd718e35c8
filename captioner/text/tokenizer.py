"""Byte-level BPE as GPT-2 does it, behind KerasHub's tokenizer contract."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import keras_hub
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from captioner.files import atomic_path

VOCABULARY_FILE = "vocabulary.json"
MERGES_FILE = "merges.txt"
END_OF_TEXT = "<|endoftext|>"


@keras.saving.register_keras_serializable("captioner")
class CaptionTokenizer(keras_hub.tokenizers.Tokenizer):
    """GPT-2's byte-level BPE: every text without lone surrogates has a tokenization, and comes back
    unchanged.

    Special tokens never arise from text, also not from text that spells their name.

    Args:
        vocabulary: optional path of a JSON file, or a mapping from token to id. None when `load_assets`
            follows.
        merges: optional path of a merges file, or its rules ("Ġ t"), first rule first.
        special_tokens: sequence of str. Tokens with ids behind the vocabulary, in this order.
        start_token: str. Begins each text that the decoder reads; of the vocabulary or special.
        end_token: str. Ends each caption; GPT-2 has one token for both.
        pad_token: optional str. None pads with id 0: the mask, not the id, says what is padding.

    Call arguments:
        inputs: str, or list or tensor of str.

    Returns:
        List of int, or list of them, without special tokens.

    Raises:
        ValueError: If a special token is missing, vocabulary and merges do not belong together, or a text cannot be
            UTF-8.

    References:
        - https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """

    def __init__(
        self,
        vocabulary=None,
        merges=None,
        special_tokens: Sequence[str] = (),
        start_token: str = END_OF_TEXT,
        end_token: str = END_OF_TEXT,
        pad_token: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.special_token_names = list(special_tokens)
        self.start_token = start_token
        self.end_token = end_token
        self.pad_token = pad_token
        self.file_assets = [VOCABULARY_FILE, MERGES_FILE]
        self._bpe = None
        if vocabulary is not None:
            self._set_vocabulary(_read_vocabulary(vocabulary), _read_merges(merges))

    def _set_vocabulary(self, vocabulary: dict[str, int], merges: list[str]) -> None:
        pairs = _require_sound(vocabulary, merges, self.special_token_names)
        self._vocabulary, self._merges = vocabulary, merges
        self._bpe = tokenizers.ByteLevelBPETokenizer(vocabulary, pairs, add_prefix_space=False)
        specials = {token: len(vocabulary) + i for i, token in enumerate(self.special_token_names)}
        self._ids = vocabulary | specials
        self._tokens = {token_id: token for token, token_id in self._ids.items()}
        self.start_token_id = self.token_to_id(self.start_token)
        self.end_token_id = self.token_to_id(self.end_token)
        self.pad_token_id = 0 if self.pad_token is None else self.token_to_id(self.pad_token)
        self._not_text = {self.start_token_id, self.end_token_id, *specials.values()}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenizes many texts at once, without special tokens.

        Raises:
            ValueError: If a text holds a lone surrogate, which no UTF-8 text can.
        """
        texts = list(texts)
        if self._bpe is None:
            raise ValueError(
                "The tokenizer has no vocabulary yet: give `vocabulary` and `merges`, or call `load_assets`."
            )
        try:
            return [encoding.ids for encoding in self._bpe.encode_batch(texts)]
        except (UnicodeEncodeError, TypeError):
            for text in texts:
                _require_text(text)
            raise

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of the ids; start, end and special tokens are left out."""
        return self._bpe.decode([int(i) for i in token_ids if int(i) not in self._not_text])

    def tokenize(self, inputs):
        if isinstance(inputs, str):
            return self.encode_batch([inputs])[0]
        return self.encode_batch([_as_str(text) for text in inputs])

    def detokenize(self, inputs):
        if len(inputs) and not hasattr(inputs[0], "__len__"):
            return self.decode(inputs)
        return [self.decode(token_ids) for token_ids in inputs]

    def call(self, inputs):
        return self.tokenize(inputs)

    @property
    def num_special_tokens(self) -> int:
        """Special tokens behind the vocabulary."""
        return len(self.special_token_names)

    def vocabulary_size(self) -> int:
        """Tokens in all, the special ones included: V."""
        return len(self._ids)

    def get_vocabulary(self) -> list[str]:
        return [self._tokens[i] for i in range(self.vocabulary_size())]

    def id_to_token(self, id: int) -> str:
        if id not in self._tokens:
            raise ValueError(f"`id` must be from 0 to {self.vocabulary_size() - 1}; received {id}.")
        return self._tokens[id]

    def token_to_id(self, token: str) -> int:
        if token not in self._ids:
            raise ValueError(
                f"`token` must be in the vocabulary or in `special_tokens`={self.special_token_names}; received {token!r}."
            )
        return self._ids[token]

    def save_assets(self, dir_path) -> None:
        """Writes vocabulary and merges in GPT-2's two-file format."""
        with atomic_path(Path(dir_path) / VOCABULARY_FILE) as path:
            path.write_text(json.dumps(self._vocabulary, ensure_ascii=False), encoding="utf-8")
        with atomic_path(Path(dir_path) / MERGES_FILE) as path:
            path.write_text("\n".join(["#version: 0.2", *self._merges, ""]), encoding="utf-8")

    def load_assets(self, dir_path) -> None:
        """Reads what `save_assets` wrote."""
        self._set_vocabulary(
            _read_vocabulary(Path(dir_path) / VOCABULARY_FILE), _read_merges(Path(dir_path) / MERGES_FILE)
        )

    def get_config(self):
        return super().get_config() | {
            "special_tokens": self.special_token_names,
            "start_token": self.start_token,
            "end_token": self.end_token,
            "pad_token": self.pad_token,
        }


def train_tokenizer(captions: Iterable[str], vocabulary_size: int) -> CaptionTokenizer:
    """Learns a byte-level BPE vocabulary from captions.

    Args:
        captions: texts to learn from.
        vocabulary_size: int. Tokens in all, the 256 bytes, start, end and padding token included.

    Returns:
        A `CaptionTokenizer` with a start, an end and a padding token of its own; it has fewer tokens than
        `vocabulary_size` where the captions do not repeat enough. The same captions give the same tokenizer.

    Raises:
        ValueError: If `vocabulary_size` leaves no room for the bytes and special tokens, or a caption holds a lone
            surrogate.
    """
    special_tokens = ["<|startoftext|>", END_OF_TEXT, "<|pad|>"]
    smallest = 256 + len(special_tokens)
    if vocabulary_size < smallest:
        raise ValueError(
            f"`vocabulary_size` must be at least {smallest} (256 bytes and {len(special_tokens)} special tokens); "
            f"received vocabulary_size={vocabulary_size}."
        )
    bpe = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    bpe.train_from_iterator(
        map(_require_text, captions),
        vocab_size=vocabulary_size - len(special_tokens),
        min_frequency=2,
        show_progress=False,
    )
    model = json.loads(bpe._tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return CaptionTokenizer(
        vocabulary=model["vocab"],
        merges=merges,
        special_tokens=special_tokens,
        start_token=special_tokens[0],
        end_token=special_tokens[1],
        pad_token=special_tokens[2],
    )


def _read_vocabulary(source) -> dict[str, int]:
    if isinstance(source, Mapping):
        return dict(source)
    try:
        vocabulary = json.loads(Path(source).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"`vocabulary` must be a JSON object from token to id; {source}: {error}."
        ) from error
    if not isinstance(vocabulary, dict):
        raise ValueError(f"`vocabulary` must be a JSON object from token to id; {source} is not.")
    return vocabulary


def _read_merges(source) -> list[str]:
    if source is None:
        raise ValueError("`merges` must be given with `vocabulary`; received None.")
    if isinstance(source, str | os.PathLike):
        try:
            source = Path(source).read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"`merges` must be a UTF-8 text file; {source}: {error}.") from error
        source = source[1:] if source[0].startswith("#version") else source
    return [line for line in source if line]


def _require_sound(vocabulary: dict, merges: list[str], special_tokens: list[str]) -> list[tuple[str, str]]:
    """Refuses what would lose text, or give two tokens one id; returns the merges as pairs."""
    size = len(vocabulary)
    if any(type(i) is not int for i in vocabulary.values()) or sorted(vocabulary.values()) != list(
        range(size)
    ):
        raise ValueError(f"`vocabulary` must give each id from 0 to {size - 1} once; it holds {size} tokens.")
    if missing := sorted(set(ByteLevel.alphabet()) - vocabulary.keys()):
        raise ValueError(
            f"`vocabulary` must hold a token for each of the 256 bytes, or text would be lost; {len(missing)} are missing, "
            f"the first is {missing[0]!r}."
        )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"`merges` must hold two tokens a line; received {' '.join(pair)!r}.")
        if unknown := [token for token in (*pair, "".join(pair)) if token not in vocabulary]:
            raise ValueError(
                f"`merges` must join tokens of `vocabulary`; {unknown[0]!r} in {' '.join(pair)!r} is not one."
            )
    names = set(special_tokens)
    if len(names) < len(special_tokens) or names & vocabulary.keys():
        raise ValueError(
            f"`special_tokens` must differ from each other and from the vocabulary; received {special_tokens}."
        )
    return pairs


def _require_text(text) -> str:
    """Refuses what has no UTF-8."""
    if not isinstance(text, str):
        raise ValueError(f"`texts` must be strings; received {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`texts` must be valid Unicode; {text[:40]!r} holds a lone surrogate. "
            'Decode the file with errors="replace", or drop the row.'
        ) from error
    return text


def _as_str(text) -> str:
    if hasattr(text, "numpy"):
        text = text.numpy()
    return text.decode() if isinstance(text, bytes) else text
