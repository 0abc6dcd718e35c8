"""Finds the shards that words mean: files, folders, globs, and ranges in braces."""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import braceexpand

from captioner.fetch import public_address
from trainers.shards.index import index_path

SUFFIX = ".tar"
MAX_SHARDS = 1_000_000
"""No word may mean more shards; a range with a digit too many would fill the memory."""
_REMOTE = "://"
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")


def find_shards(patterns: Sequence[str | os.PathLike]) -> list[str]:
    """Finds shards, each once, in the order of the words.

    Args:
        patterns: list of strings or paths. Each is a tar, a folder (its `.tar` files, by name), a glob, or any
            of them with braces, as `cc3m/{00000..00331}.tar`. Of what a glob matches, only `.tar` files are meant. A word
            with `://` is an address: its braces are expanded, and it is not looked for.

    Returns:
        List of strings. At least one shard; every one that is no address is a file.

    Raises:
        FileNotFoundError: If a word means no shard, or a shard that it names is not there.
        ValueError: If braces are not closed, there are too many shards, or no words, or two files would have the same index.
    """
    if isinstance(patterns, str | os.PathLike):
        raise TypeError(f"`patterns` must be a list of words; received {patterns!r}. Write [{patterns!r}].")
    if not patterns:
        raise ValueError("`patterns` must name at least one shard; received none.")
    found: dict[str, str] = {}
    for pattern in map(os.fspath, patterns):
        for shard in _expand(pattern):
            found.setdefault(shard if is_remote(shard) else os.path.abspath(shard), shard)
    indexes: dict[Path, str] = {}
    for path, shard in found.items():
        if not is_remote(shard) and (other := indexes.setdefault(index_path(path), shard)) != shard:
            raise ValueError(f"{other!r} and {shard!r} would have the same index; name one of them.")
    return list(found.values())


def is_remote(shard: str) -> bool:
    """Whether a shard is an address, as `http://host/00000.tar`, and not a path."""
    return _REMOTE in shard


def shown(shard: str) -> str:
    """A shard for people: an address without what is secret in it."""
    return public_address(shard) if is_remote(shard) else shard


def _expand(pattern: str) -> Iterator[str]:
    words = [pattern] if os.path.exists(pattern) else _words(pattern)
    missing = []
    for word in words:
        shards = list(_meant(word))
        missing += [] if shards else [word]
        yield from shards
    if missing:
        one = f"{pattern!r} is no shard that could be found. "
        several = f"{pattern!r}: {len(missing):,} of its {len(words):,} shards cannot be found, the first is {missing[0]!r}. "
        raise FileNotFoundError(
            f"{several if len(words) > 1 else one}"
            "Name tar files, folders that hold *.tar, globs, or ranges such as 'cc3m/{00000..00331}.tar'."
        )


def _words(pattern: str) -> list[str]:
    too_many = ValueError(f"{pattern!r} means more than {MAX_SHARDS:,} shards.")
    if any(abs(int(first) - int(last)) > MAX_SHARDS for first, last in _RANGE.findall(pattern)):
        raise too_many  # the range would be a list in memory before its first word is seen
    try:
        words = list(itertools.islice(braceexpand.braceexpand(pattern, escape=False), MAX_SHARDS + 1))
    except braceexpand.UnbalancedBracesError as error:
        raise ValueError(f"{pattern!r}: {error}. Write ranges as in '{{00000..00331}}.tar'.") from None
    if len(words) > MAX_SHARDS:
        raise too_many
    return words


def _meant(word: str) -> list[str]:
    if is_remote(word) or os.path.isfile(word):
        return [word]
    if os.path.isdir(word):
        word = os.path.join(glob.escape(word), f"*{SUFFIX}")
    found = glob.glob(word, recursive=True)
    return sorted(path for path in found if path.endswith(SUFFIX) and os.path.isfile(path))
