"""The captions of a sample, from its .txt and its .json.

Several captions in the .json come first, because the .txt holds only one of them; then the .txt; then a single
caption in the .json.
"""

import json

from trainers.records import Problem, caption_problem
from trainers.shards.filters import ShardFilters

CAPTION_KEYS = ("captions", "caption", "text")
"""Keys of the .json whose value is a caption or a list of captions; the first one that is there counts."""


def read_metadata(data: bytes) -> dict | None:
    """The object in a .json, or None if it holds none. Bytes that are not UTF-8 are surrogates."""
    try:
        content = json.loads(data.decode("utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def sample_captions(
    item: str, text: bytes | None, metadata: dict | None, filters: ShardFilters
) -> tuple[tuple[str, ...], list[Problem]]:
    """Chooses the captions of a sample and leaves out the unusable ones.

    Args:
        item: string. Name of the sample, for the problems.
        text: bytes. Content of the .txt: one caption. None if there is none.
        metadata: dict. Content of the .json, or None.
        filters: `ShardFilters`. Cleans captions, and refuses the unwanted.

    Returns:
        The captions, each once, with single spaces; and what was left out of them. If there are no captions,
        the problems say why, at least one.
    """
    listed = _listed(metadata or {})
    from_text = (
        [] if text is None else [text.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")]
    )
    problems: list[Problem] = []
    for candidates in [listed, from_text] if len(listed) > 1 else [from_text, listed]:
        captions, found = _usable(item, candidates, filters)
        if captions:
            return captions, found
        problems += found
    return (), problems[:1] or [Problem("no caption", item)]


def _listed(metadata: dict) -> list[str]:
    value = next((metadata[key] for key in CAPTION_KEYS if metadata.get(key)), [])
    values = value if isinstance(value, list) else [value]
    return [caption for caption in values if isinstance(caption, str)]


def _usable(item: str, candidates: list[str], filters: ShardFilters) -> tuple[tuple[str, ...], list[Problem]]:
    captions: dict[str, None] = {}
    problems = []
    for candidate in candidates:
        caption = filters.cleaned(candidate)
        problem = caption_problem(item, caption) or filters.caption_problem(item, caption)
        if problem is None:
            captions[caption] = None
        else:
            problems.append(problem)
    return tuple(captions), problems
