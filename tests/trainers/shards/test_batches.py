"""Batches from shards against what was written into them.

Sizes: 3 shards of 7, 1 and 4 samples, B=5, G=2, T=5, 31 x 37 pixels.
"""

import os
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from shards import encoded, plan_of, reader_of, write_shard
from streams import assert_batches_equal, collect

from captioner.images import Augmentation, ImageTransform, decode_image
from trainers.shards.batches import decode_batches, training_batches, validation_batches
from trainers.shards.index import index_path, read_index
from trainers.shards.plan import PlannedSamples

TRANSFORM = ImageTransform(image_size=(31, 37))
VARIED = Augmentation(min_crop_area=0.5, horizontal_flip=True, color_jitter=0.3)
COUNTS = (7, 1, 4)
KINDS = [("JPEG", {}), ("PNG", {}), ("JPEG", {"subsampling": 0}), ("WEBP", {"lossless": True})]


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), dtype="uint8")


def captions(number):
    """1 to 3 captions; the first word of each tells sample and caption."""
    return [f"{100 + 10 * number + index} 7 8"[: 3 + 2 * index] for index in range(1 + number % 3)]


@pytest.fixture
def shards(tmp_path):
    paths, number = [], 0
    for shard, count in enumerate(COUNTS):
        samples = []
        for _ in range(count):
            kind, options = KINDS[number % len(KINDS)]
            samples.append((f"{number:04d}", encoded(picture(number), kind, **options), captions(number)))
            number += 1
        paths.append(write_shard(tmp_path / f"{shard:05d}.tar", samples))
    return paths


def batches(shards, augmentation=VARIED, reader=None, num_epochs=1, plan=None, **changes):
    given = {"batch_size": 5, "transform": TRANSFORM} | changes
    reader = reader or reader_of(shards)[0]
    return training_batches(
        plan or plan_of(shards),
        reader,
        decode_batches,
        augmentation=augmentation,
        num_epochs=num_epochs,
        **given,
    )


def numbers_in(batch):
    """The sample that each place of a batch shows, by its first caption; None for a place that weighs nothing."""
    _, targets, weight = batch
    return [
        (int(rows[0, 0]) - 100) // 10 if weights.any() else None
        for rows, weights in zip(targets, weight, strict=True)
    ]


def test_each_sample_comes_once_with_its_own_pixels_and_captions(shards):
    seen = Counter()
    for x, y, weight in collect(batches(shards, augmentation=None, reader=reader_of(shards, 3)[0])):
        for image, targets, weights in zip(x["images"], y, weight, strict=True):
            shown = [int(row[0]) for row, w in zip(targets, weights, strict=True) if w.any()]
            seen.update(shown)
            (number,) = {(word - 100) // 10 for word in shown}
            kind, options = KINDS[number % len(KINDS)]
            expected = TRANSFORM(decode_image(encoded(picture(number), kind, **options)))
            np.testing.assert_array_equal(image, expected)
    assert seen == {100 + 10 * n + i: 1 for n in range(12) for i in range(1 + n % 3)}


def test_batches_have_the_shapes_and_types_of_the_loop(shards):
    dataset = batches(shards)
    x, y, weight = dataset.element_spec
    assert x["images"].shape.as_list() == [None, 31, 37, 3]
    assert [spec.shape.as_list() for spec in (x["token_ids"], x["padding_mask"], y, weight)] == [
        [None, 2, 5]
    ] * 4
    dtypes = [x["images"].dtype, x["token_ids"].dtype, x["padding_mask"].dtype, y.dtype, weight.dtype]
    assert dtypes == ["float32", "int32", "bool", "int32", "float32"]
    assert [len(y) for _, y, _ in collect(dataset)] == [5, 5, 2]
    assert int(batches(shards, num_epochs=3).cardinality()) == 9


def test_started_at_any_step_the_stream_is_that_of_an_uninterrupted_run(shards):
    whole = collect(batches(shards, num_epochs=3))
    assert len(whole) == 9
    for number in (1, 3, 5, 8):
        epoch, step = divmod(number, 3)
        assert_batches_equal(
            collect(batches(shards, num_epochs=3, first_epoch=epoch, first_step=step)), whole[number:]
        )


def test_epochs_differ_in_order_and_pixels(shards):
    first, second = (
        collect(batches(shards, num_epochs=e + 1, first_epoch=e, batch_size=12))[0] for e in (0, 1)
    )
    assert numbers_in(first) != numbers_in(second) and sorted(numbers_in(first)) == sorted(numbers_in(second))
    assert not np.isin(second[0]["images"], first[0]["images"]).all()


def test_pixels_depend_on_data_and_seed_and_not_on_the_batch(shards):
    small, large = (collect(batches(shards, batch_size=size)) for size in (1, 12))
    np.testing.assert_array_equal(np.concatenate([x["images"] for x, _, _ in small]), large[0][0]["images"])


def test_three_processes_show_each_sample_once_in_as_many_steps(shards):
    shown = []
    for index in range(3):
        plan = plan_of(shards, num_processes=3, process_index=index)
        shown.append([numbers_in(batch) for batch in collect(batches(shards, plan=plan, batch_size=3))])
    assert [[len(batch) for batch in process] for process in shown] == [[3, 1]] * 3
    assert sorted(n for process in shown for batch in process for n in batch) == list(range(12))


def test_a_process_that_has_nothing_left_shows_a_place_that_weighs_nothing(shards):
    plan = plan_of(shards, num_processes=11, process_index=0)
    (_, _, weight), *more = collect(batches(shards, plan=plan, batch_size=1))
    assert len(more) == 1 and not more[0][2].any() and weight.any()
    np.testing.assert_array_equal(more[0][0]["padding_mask"].sum(-1), 1)  # no softmax is empty


def test_a_short_batch_is_filled_with_places_that_weigh_nothing(shards):
    short = collect(batches(shards))
    *whole, last = collect(batches(shards, fill_batches=True))
    assert numbers_in(last) == [*numbers_in(short[-1]), None, None, None]
    np.testing.assert_array_equal(last[0]["padding_mask"][2:].sum(-1), 1)  # no softmax is empty
    assert_batches_equal([*whole, tf.nest.map_structure(lambda array: array[:2], last)], short)


def test_a_draw_of_fewer_captions_repeats_none_and_reaches_all(shards):
    drawn = Counter()
    for _, y, weight in collect(batches(shards, num_epochs=40)):
        for targets, weights in zip(y, weight, strict=True):
            words = [int(row[0]) for row, w in zip(targets, weights, strict=True) if w.any()]
            assert len(set(words)) == len(words)
            drawn.update(word for word in words if word // 10 == 12)  # sample 2 has three captions
    assert set(drawn) == {120, 121, 122} and min(drawn.values()) > 15


def test_captions_that_name_a_side_forbid_the_flip(tmp_path):
    class NoWords:
        start_token_id, end_token_id, pad_token_id = 1, 2, 0

        def encode_batch(self, texts):
            return [[5] for _ in texts]

    samples = [(str(i), encoded(picture(i)), [text]) for i, text in enumerate(["a dog", "a dog on the left"])]
    shards = [write_shard(tmp_path / "0.tar", samples)]
    planned = PlannedSamples(
        shard=np.zeros(2, "int32"), row=np.arange(2), image_seed=np.zeros((2, 2), "int32")
    )
    read, _ = reader_of(shards, tokenizer=NoWords())[0].read(planned)
    assert read["allow_flip"].tolist() == [True, False]
    freely, _ = reader_of(shards, tokenizer=NoWords(), flip_captions_with_sides=True)[0].read(planned)
    assert freely["allow_flip"].tolist() == [True, True]


def test_validation_is_in_order_and_decoded_wholly(shards):
    order = PlannedSamples(
        shard=np.repeat(np.arange(3, dtype="int32"), COUNTS),
        row=np.concatenate([np.arange(count) for count in COUNTS]),
        image_seed=np.zeros((12, 2), "int32"),
    )
    reader = reader_of(shards, 3)[0]
    result = collect(validation_batches(reader, order, batch_size=5, transform=TRANSFORM))
    assert [n for batch in result for n in numbers_in(batch)] == list(range(12))
    assert [len(y) for _, y, _ in result] == [5, 5, 2]
    kind, options = KINDS[3]
    np.testing.assert_array_equal(
        result[0][0]["images"][3], TRANSFORM(decode_image(encoded(picture(3), kind, **options)))
    )


def name_of(problem):
    """What was left out, without the folder of its shard, which pytest has named."""
    return problem.item.partition("/")[2]


def damaged(shards, reader, damage):
    """Numbers that training shows once `damage` was done to the first shard, and the problems named."""
    plan = plan_of(shards)
    list(batches(shards, reader=reader, plan=plan).as_numpy_iterator())  # everything is open now
    damage(shards[0])
    result = collect(batches(shards, reader=reader, plan=plan, num_epochs=2, first_epoch=1))
    assert [len(y) for _, y, _ in result] == [5, 5, 2]
    assert all(np.isfinite(x["images"]).all() for x, _, _ in result)
    shown = [n for batch in result for n in numbers_in(batch)]
    assert len(shown) == 12
    return sorted(n for n in shown if n is not None), {(name_of(p), p.reason) for p in reader.problems}


def overwrite(path):
    """Garbage over the image of sample 2, in place."""
    index = read_index(index_path(path))
    with open(path, "r+b") as file:
        file.seek(int(index.image_offset[2]))
        file.write(b"\xff\xd8" + b"garbage!" * 20)


def truncate(path):
    """Samples 4 to 6 are gone."""
    os.truncate(path, int(read_index(index_path(path)).image_offset[4]) + 10)


def replace(path):
    """Another file in its place, of the same length."""
    length = os.path.getsize(path)
    with open(path + ".new", "wb") as file:
        file.write(b"\0" * length)
    os.replace(path + ".new", path)


OTHERS = [7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("damage", "shown", "named"),
    [
        (overwrite, [0, 1, 3, 4, 5, 6], {("00000.tar/0002", "changed image")}),
        (truncate, [0, 1, 2, 3], {(f"00000.tar/000{n}", "truncated shard") for n in (4, 5, 6)}),
        (
            lambda path: open(path, "w").close(),
            [],
            {(f"00000.tar/000{n}", "truncated shard") for n in range(7)},
        ),
    ],
    ids=["overwritten", "truncated", "emptied"],
)
def test_a_shard_damaged_while_training_loses_what_is_damaged_and_names_it(shards, damage, shown, named):
    reader, written = reader_of(shards)
    assert damaged(shards, reader, damage) == (shown + OTHERS, named)
    reader.problems.close()
    assert {(name_of(p), p.reason) for p in written[-1]} == named


def test_a_store_that_is_gone_stops_the_run(shards):
    for path in shards:
        open(path, "w").close()
    with pytest.raises(tf.errors.OpError, match="12 samples of 3 shards could not be read"):
        collect(batches(shards))


def test_a_shard_that_is_replaced_or_removed_is_read_to_its_end_where_it_is_open_and_named_where_it_is_not(
    shards,
):
    assert damaged(shards, reader_of(shards)[0], replace) == ([*range(7), *OTHERS], set())
    shown, named = damaged(shards, reader_of(shards)[0], lambda path: None)
    assert shown == OTHERS and named == {(f"00000.tar/000{n}", "changed image") for n in range(7)}
    os.remove(shards[0])
    shown, named = damaged(shards, reader_of(shards)[0], lambda path: None)
    assert shown == OTHERS and named == {(f"00000.tar/000{n}", "unreadable shard") for n in range(7)}


def test_an_index_that_is_lost_or_made_anew_while_training_is_named(shards):
    lost = reader_of(shards)[0]
    lost.shards._read_index.cache_clear()
    plan = plan_of(shards)
    first = PlannedSamples(
        shard=np.zeros(1, "int32"), row=np.zeros(1, int), image_seed=np.zeros((1, 2), "int32")
    )
    os.rename(index_path(shards[0]), index_path(shards[0] + "x.tar"))
    _, rest = lost.read(first)
    assert not rest["sample_weight"].any()
    folder = os.path.basename(os.path.dirname(shards[0]))
    named = [(p.item, p.reason) for p in lost.problems]
    assert named == [(f"{folder}/00000.tar, sample 0", "unreadable index")]
    anew = reader_of(shards[1:] * 2)[0]
    write_shard(shards[1], [(str(i), encoded(picture(0)), ["100"]) for i in range(2)])
    anew.read(plan.samples(0, 0, 0))
    _, rest = anew.read(first)
    assert not rest["sample_weight"].any() and [p.reason for p in anew.problems] == ["changed index"]


def test_a_copied_shard_of_another_time_is_checked_by_its_checksums(shards):
    os.utime(shards[0], ns=(1, 1))
    assert damaged(shards, reader_of(shards)[0], lambda path: None) == (list(range(12)), set())
    overwrite(shards[0])
    os.utime(shards[0], ns=(1, 1))
    assert damaged(shards, reader_of(shards)[0], lambda path: None)[0] == [0, 1, 3, 4, 5, 6, *OTHERS]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_step": 3}, "`first_step` below the 3 steps of an epoch; received 0 and 3"),
        ({"first_epoch": -1}, "`first_epoch` must not be negative"),
    ],
)
def test_impossible_starts_are_refused(shards, changes, message):
    with pytest.raises(ValueError, match=message):
        batches(shards, **changes)
