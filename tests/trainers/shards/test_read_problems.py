"""When samples that cannot be read stop a run."""

import pytest

from trainers.shards.read_problems import ReadProblems, UnreadableShardsError


@pytest.fixture
def problems():
    return ReadProblems(lambda problems: None)


def test_ten_shards_one_after_the_other_stop_a_run_and_fewer_of_many_do_not(problems):
    counts = [500] * 11
    problems.require_good(0, [0] * 500, counts)
    for shard in range(9):
        problems.require_good(0, [shard], counts)
    with pytest.raises(UnreadableShardsError, match="510 samples of 10 shards could not be read"):
        problems.require_good(0, [9], counts)


def test_a_good_sample_between_them_starts_the_count_anew(problems):
    for shard in range(20):
        problems.require_good(shard % 2, [shard], [500] * 20)


def test_of_fewer_shards_all_must_be_lost_with_a_hundred_samples_or_all(problems):
    problems.require_good(0, [0] * 98, [98, 500, 0])
    problems.require_good(0, [1], [98, 500, 0])
    with pytest.raises(UnreadableShardsError, match="100 samples of 2 shards"):
        problems.require_good(0, [1], [98, 500, 0])
    problems = ReadProblems(lambda problems: None)
    problems.require_good(0, [0, 0], [3])
    with pytest.raises(UnreadableShardsError, match="3 samples of 1 shards"):
        problems.require_good(0, [0], [3])
