"""Filters: where each limit lies, and which settings are refused."""

import pytest

from trainers.shards.filters import ShardFilters


def test_tags_are_kept_removed_or_a_reason():
    caption = "<PERSON> and <DATE_OF> sat;  x<y>z <person>"
    assert ShardFilters().cleaned(caption) == "<PERSON> and <DATE_OF> sat; x<y>z <person>"
    assert ShardFilters(tags="remove").cleaned(caption) == "and sat; x<y>z <person>"
    assert ShardFilters(tags="drop").caption_problem("a", caption).reason == "tag in the caption"
    assert ShardFilters(tags="drop").caption_problem("a", "x<y>z") is None


def test_limits_are_inclusive():
    filters = ShardFilters(
        min_side_px=10,
        max_aspect_ratio=2.0,
        min_caption_words=2,
        max_caption_words=3,
        similarity_column="s",
        min_similarity=0.5,
    )
    assert filters.image_problem("a", 10, 20) is None
    assert filters.image_problem("a", 9, 9).reason == "image too small"
    assert filters.image_problem("a", 21, 10).reason == "image too narrow"
    assert filters.caption_problem("a", "two words") is None
    assert filters.caption_problem("a", "one").reason == "caption has few words"
    assert filters.caption_problem("a", "now these are four").reason == "caption has many words"
    assert filters.similarity_problem("a", 0.5) is filters.similarity_problem("a", "0.50") is None
    assert filters.similarity_problem("a", 0.49).reason == "similarity too low"
    for no_number in (None, "high", float("nan"), [1]):
        assert filters.similarity_problem("a", no_number).reason == "no similarity"


@pytest.mark.parametrize(
    "settings",
    [
        {"min_side_px": 0},
        {"max_aspect_ratio": 0.5},
        {"max_aspect_ratio": float("nan")},
        {"min_caption_words": 0},
        {"min_caption_words": 3, "max_caption_words": 2},
        {"tags": "forget"},
        {"min_similarity": 0.3},
        {"similarity_column": "clip"},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`|`max_caption_words`|`similarity_column`"):
        ShardFilters(**settings)
