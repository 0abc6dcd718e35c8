"""The plan of epochs: nothing twice, nothing left out, all processes in step, and a function of the seed alone."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.shards.plan import NOTHING, ShardPlan, Source

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any).map(tuple)


def plan(*counts, weights=None, **changes):
    weights = weights or [1.0] * len(counts)
    sources = tuple(Source(num_samples=c, weight=w) for c, w in zip(counts, weights, strict=True))
    return ShardPlan(**{"sources": sources, "seed": 0, "shuffle_buffer": 4} | changes)


def shown(plan, epoch, start=0, stop=10**9):
    samples = plan.samples(epoch, start, stop)
    return list(zip(samples.shard.tolist(), samples.row.tolist(), samples.image_seed.tolist(), strict=True))


def places(plan, epoch):
    return [sample[:2] for sample in shown(plan, epoch) if sample[0] != NOTHING]


@given(counts=COUNTS, buffer=st.integers(1, 12), num_processes=st.integers(1, 5), seed=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_over_all_processes_each_sample_comes_once_in_as_many_places(counts, buffer, num_processes, seed):
    processes = [
        plan(counts, shuffle_buffer=buffer, num_processes=num_processes, process_index=index, seed=seed)
        for index in range(num_processes)
    ]
    for epoch in (0, 3):
        seen = Counter(place for process in processes for place in places(process, epoch))
        assert seen == {(shard, row): 1 for shard, count in enumerate(counts) for row in range(count)}
        lengths = {len(shown(process, epoch)) for process in processes}
        assert lengths == {processes[0].num_places}
        left_over = [len(shown(process, epoch)) - len(places(process, epoch)) for process in processes]
        assert max(left_over) <= 1


@given(
    counts=COUNTS,
    other=COUNTS,
    weight=st.floats(0.1, 5),
    start=st.integers(0, 60),
    length=st.integers(0, 20),
    epoch=st.integers(0, 4),
)
@settings(max_examples=150, deadline=None)
def test_a_piece_of_an_epoch_is_that_piece_of_the_whole(counts, other, weight, start, length, epoch):
    mixed = plan(counts, other, weights=(1.0, weight), num_processes=2, process_index=1)
    whole = shown(mixed, epoch)
    start = min(start, len(whole))
    assert shown(mixed, epoch, start, start + length) == whole[start : start + length]


@given(counts=COUNTS, others=st.lists(COUNTS, min_size=1, max_size=2), weight=st.floats(0.1, 4))
@settings(max_examples=100, deadline=None)
def test_in_a_mix_the_first_source_comes_once_an_epoch_and_each_other_once_in_its_own(counts, others, weight):
    mixed = plan(counts, *others, weights=(2.0, *[2.0 * weight] * len(others)))
    epochs = [places(mixed, epoch) for epoch in range(12)]
    for epoch in epochs:
        assert len(epoch) == mixed.num_places
        first = Counter(place for place in epoch if place[0] < len(counts))
        assert first == {(shard, row): 1 for shard, count in enumerate(counts) for row in range(count)}
    before = len(counts)
    for other in others:
        total = sum(other)
        stream = [p for epoch in epochs for p in epoch if before <= p[0] < before + len(other)]
        assert len(stream) == 12 * max(1, round(sum(counts) * weight))
        for start in range(0, len(stream) - total + 1, total):
            assert len(set(stream[start : start + total])) == total
        before += len(other)


def test_epochs_seeds_and_processes_differ_in_order_and_in_the_seeds_of_images():
    first = shown(plan((50, 50)), 0)
    for other in (shown(plan((50, 50)), 1), shown(plan((50, 50), seed=1), 0)):
        assert sorted(other) != sorted(first) and [s[:2] for s in other] != [s[:2] for s in first]
    halves = [shown(plan((50, 50), num_processes=2, process_index=i), 0) for i in range(2)]
    assert not {str(s[2]) for s in halves[0]} & {str(s[2]) for s in halves[1]}


def test_a_block_reaches_beyond_its_shard_and_no_further_than_its_length():
    counts = (10,) * 30
    order = [shard * 10 + row for shard, row in places(plan(counts, shuffle_buffer=40), 0)]
    shards = [position // 10 for position in order]
    laid_out = {shard: number for number, shard in enumerate(dict.fromkeys(shards))}
    assert len(set(shards[:40])) >= 4  # a block mixes shards
    displacement = [abs(laid_out[shard] * 10 - place) for place, shard in enumerate(shards)]
    assert max(displacement) < 120  # a process holds few shards open
    assert shards != sorted(shards)


def test_the_first_cut_moves_from_epoch_to_epoch_so_that_blocks_do_not_repeat():
    unshuffled = plan((1,) * 64, shuffle_buffer=16)
    cuts = set()
    for epoch in range(20):
        order = places(unshuffled, epoch)
        cuts.add(tuple(sorted(order[:16])))
    assert len(cuts) > 15


def test_a_process_reads_few_shards():
    counts = (100,) * 64
    for index in range(8):
        process = plan(counts, shuffle_buffer=500, num_processes=8, process_index=index)
        assert len({shard for shard, _ in places(process, 0)}) == 8


def test_more_processes_than_samples_have_a_place_each():
    processes = [plan((2, 1), num_processes=5, process_index=index) for index in range(5)]
    assert sorted(place for process in processes for place in places(process, 0)) == [(0, 0), (0, 1), (1, 0)]
    assert [len(shown(process, 0)) for process in processes] == [1] * 5


def test_seeds_are_int32_and_not_negative():
    samples = plan((500,)).samples(0, 0, 500)
    assert samples.image_seed.dtype == np.int32 and samples.image_seed.min() >= 0
    assert len(np.unique(samples.image_seed, axis=0)) == 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "`seed` must be at least 0; received seed=-1"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be at least 1"),
        (
            {"process_index": 2, "num_processes": 2},
            "`process_index` must be below num_processes=2; received 2",
        ),
        ({"sources": (Source(num_samples=(0, 0)),)}, "`sources` must hold samples"),
        ({"sources": (Source(num_samples=(1,), weight=0.0),)}, "`weight` of each source must be above 0"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(plan((1,)), **changes)
