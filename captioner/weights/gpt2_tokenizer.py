"""The tokenizer of a GPT-2 folder, in any of the three layouts that such folders have, and back."""

import json
from pathlib import Path
from typing import Any

from captioner.text.tokenizer import END_OF_TEXT, MERGES_FILE, VOCABULARY_FILE, CaptionTokenizer
from captioner.weights.assign import WeightsError
from captioner.weights.checkpoint_folder import checkpoint_file, read_json

_VOCABULARIES = ("vocab.json", "encoder.json", VOCABULARY_FILE)
_MERGES = (MERGES_FILE, "vocab.bpe")


def read_gpt2_tokenizer(folder: Path, config: dict[str, Any]) -> CaptionTokenizer:
    """Reads the tokenizer of a folder.

    Args:
        folder: holds vocab.json and merges.txt, encoder.json and vocab.bpe, or tokenizer.json. Tokens of
            added_tokens.json, with ids behind the vocabulary, become special tokens.
        config: the model's config; its `bos_token_id`, `eos_token_id` and `pad_token_id` choose the start, the end and the
            padding token.

    Raises:
        WeightsError: If there is none, or it is damaged.
    """
    try:
        vocabulary, merges, added = _read_files(folder)
        special = {token: i for token, i in added.items() if token not in vocabulary}
        if sorted(special.values()) != list(range(len(vocabulary), len(vocabulary) + len(special))):
            raise ValueError(f"added tokens must have the ids from {len(vocabulary)} on; received {special}")
        tokens = {i: token for token, i in (vocabulary | special).items()}
        return CaptionTokenizer(
            vocabulary,
            merges,
            special_tokens=sorted(special, key=special.get),
            start_token=_token(tokens, config, "bos_token_id"),
            end_token=_token(tokens, config, "eos_token_id"),
            pad_token=_token(tokens, config, "pad_token_id")
            if config.get("pad_token_id") is not None
            else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{folder}: the tokenizer cannot be used: {error}") from None


def write_gpt2_tokenizer(tokenizer: CaptionTokenizer, folder: Path) -> None:
    """Writes the files from which `transformers` makes the same tokenizer."""
    tokenizer.save_assets(folder)
    (folder / VOCABULARY_FILE).rename(folder / "vocab.json")
    size = tokenizer.vocabulary_size() - tokenizer.num_special_tokens
    added = {token: size + i for i, token in enumerate(tokenizer.special_token_names)}
    if added:
        _write_json(folder / "added_tokens.json", added)
    special = {"bos_token": tokenizer.start_token, "eos_token": tokenizer.end_token}
    special["unk_token"] = tokenizer.end_token
    if tokenizer.pad_token is not None:
        special["pad_token"] = tokenizer.pad_token
    _write_json(folder / "special_tokens_map.json", special)
    names = {tokenizer.token_to_id(name): name for name in [*added, *special.values()]}
    decoder = {
        str(i): {"content": name, "special": True, "lstrip": False, "rstrip": False, "normalized": False}
        | {"single_word": False}
        for i, name in sorted(names.items())
    }
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
    }
    _write_json(folder / "tokenizer_config.json", settings | special)


def _read_files(folder: Path) -> tuple[dict, list[str] | Path, dict[str, int]]:
    vocabulary, merges = checkpoint_file(folder, *_VOCABULARIES), checkpoint_file(folder, *_MERGES)
    if vocabulary is not None and merges is not None:
        added = checkpoint_file(folder, "added_tokens.json")
        return read_json(vocabulary), merges, {} if added is None else read_json(added)
    combined = checkpoint_file(folder, "tokenizer.json")
    if combined is None:
        raise WeightsError(
            f"{folder} must hold a tokenizer: vocab.json and merges.txt, encoder.json and vocab.bpe, or tokenizer.json."
        )
    content = read_json(combined)
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"it must be a byte-level BPE; received {model['type']!r}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return dict(model["vocab"]), merges, {token["content"]: token["id"] for token in content["added_tokens"]}


def _token(tokens: dict[int, str], config: dict[str, Any], name: str) -> str:
    token_id = config.get(name)
    if token_id is None:
        return END_OF_TEXT
    if type(token_id) is not int or token_id not in tokens:
        raise ValueError(f"`{name}` of the config must be a token's id; received {token_id!r}")
    return tokens[token_id]


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
