"""Every kind of bad data: each good sample is found, each bad one is named with its reason."""

import pytest
from bad_shards import all_kinds, write_kind

from trainers.shards.check import check_shard

KINDS = all_kinds()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_good_sample_is_found_and_each_bad_one_is_named(kind, tmp_path):
    expected = write_kind(kind, tmp_path / "00000.tar")
    checked = check_shard(tmp_path / "00000.tar")
    assert [sample.key for sample in checked.samples] == list(expected.good)
    named = [(problem.item, problem.reason) for problem in checked.summary.problems]
    assert sorted(named) == sorted(expected.rejected.items())


def test_the_corpus_is_large_and_its_names_are_unique():
    assert len(KINDS) >= 40
    assert len({kind.name for kind in KINDS}) == len(KINDS)
