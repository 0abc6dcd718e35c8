"""Indexing many shards: in parallel, once, and again only what has changed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from bad_shards import CAPTION, encoded, entries, good_sample, jpeg, picture, tar

from trainers.shards import build_index, check_many
from trainers.shards.build_index import build_indexes
from trainers.shards.filters import ShardFilters
from trainers.shards.index import index_path, read_index, read_summary
from trainers.shards.inspection import inspect_shards
from trainers.shards.report import write_report

BAD = entries(("bad.jpg", b"no image"), ("bad.txt", CAPTION))


@pytest.fixture
def shards(tmp_path):
    """Three shards of two good samples, the second with a bad one."""
    paths = []
    for number in range(3):
        members = [entry for place in range(2) for entry in good_sample(f"{number:05d}{place:04d}")]
        path = tmp_path / f"{number:05d}.tar"
        path.write_bytes(tar(members + (BAD if number == 1 else [])))
        paths.append(str(path))
    return paths


@pytest.fixture
def read(monkeypatch):
    """The names of the shards that were read."""
    names = []
    check = check_many.check_shard

    def counting(shard, *args):
        names.append(os.path.basename(shard)[4])
        return check(shard, *args)

    monkeypatch.setattr(check_many, "check_shard", counting)
    return names


def build(shards, num_processes=1, **filters):
    return build_indexes(shards, filters=ShardFilters(**filters), num_processes=num_processes, progress=False)


def keys(shard):
    index = read_index(index_path(shard))
    return [index.sample_key(row) for row in range(index.num_samples)]


def test_processes_give_the_same_indexes_as_one(shards):
    build(shards)
    alone = [(keys(shard), read_summary(index_path(shard))) for shard in shards]
    for shard in shards:
        os.remove(index_path(shard))
    report = build(shards, num_processes=2)
    assert [(keys(shard), read_summary(index_path(shard))) for shard in shards] == alone
    assert alone[1][0] == ["000010000", "000010001"]
    assert (report.num_read, report.num_samples, report.num_captions) == (7, 6, 12)
    assert report.counts == {"undecodable image": 1}


def test_an_interrupted_run_goes_on_and_a_whole_one_reads_nothing(shards, read):
    build(shards[:2])
    report = build(shards)
    assert read == ["0", "1", "2"]
    assert [status.note for status in report.statuses] == ["up to date", "up to date", "indexed"]
    assert report.num_samples == 6
    build(shards)
    assert read == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: os.truncate(path, os.path.getsize(path) + 512), "its size changed"),
        (lambda path: os.utime(path, ns=(5, 5)), "its time of change is another"),
        (lambda path: replace_byte(path, 520), "its first 64 KiB changed"),
        (lambda path: replace_byte(index_path(path), 300), "not a whole index"),
    ],
    ids=["size", "time", "head", "index"],
)
def test_a_changed_shard_is_indexed_anew_and_told_of(shards, read, change, says):
    build(shards)
    read.clear()
    change(shards[1])
    assert says in inspect_shards(shards).statuses[1].note
    report = build(shards)
    assert read == ["1"]
    assert says in report.statuses[1].note and "indexed anew" in report.statuses[1].note
    assert inspect_shards(shards).statuses[1].problem is None


def test_an_index_whose_entries_are_damaged_is_made_anew(shards, read):
    build(shards)
    with np.load(index_path(shards[1])) as file:
        arrays = dict(file)
    np.savez(index_path(shards[1]), **arrays | {"height": arrays["height"][:1]})
    assert inspect_shards(shards).counts["damaged index"] == 1
    read.clear()
    assert "its columns differ in length" in build(shards).statuses[1].note and read == ["1"]
    assert read_index(index_path(shards[1])).num_samples == 2


def replace_byte(path, position):
    """Changes a byte and nothing else, the time of change included."""
    time = os.stat(path).st_mtime_ns
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(b"\xaa\xbb\xcc")
    os.utime(path, ns=(time, time))


def test_other_filters_are_other_indexes(shards, read):
    build(shards)
    report = build(shards, min_caption_words=99)
    assert read == ["0", "1", "2"] * 2
    assert report.num_samples == 0
    assert all("other filters" in status.note for status in report.statuses)


def test_a_shard_that_cannot_be_read_keeps_no_one_waiting(shards):
    missing = [shards[0], shards[0] + ".gone", shards[2]]
    for num_processes in (1, 2):
        report = build(missing, num_processes=num_processes)
        assert [status.num_samples for status in report.statuses] == [2, 0, 2]
        assert report.counts == {"unreadable shard": 1}
        assert report.statuses[1].problem.item == "00000.tar.gone"


def duplicates_of(tmp_path):
    """Shards of images by letter: AAB, BCA, CDE."""
    paths = []
    for number, letters in enumerate(("AAB", "BCA", "CDE")):
        files = [
            (f"{number}{place}.{end}", data)
            for place, letter in enumerate(letters)
            for end, data in (("jpg", jpeg(ord(letter))), ("txt", CAPTION))
        ]
        paths.append(str(tmp_path / f"0000{number}.tar"))
        (tmp_path / f"0000{number}.tar").write_bytes(tar(entries(*files)))
    return paths


def test_of_equal_images_the_first_is_kept_over_all_shards_also_after_a_break(tmp_path, read):
    shards = duplicates_of(tmp_path)
    build(shards[:1], drop_duplicates=True)
    report = build(shards, drop_duplicates=True, num_processes=1)
    assert [keys(shard) for shard in shards] == [["00", "02"], ["11"], ["21", "22"]]
    assert report.counts == {"duplicate image": 4}
    assert [problem.item for _, problem in report.problems()] == [
        "00000.tar/01",
        "00001.tar/10",
        "00001.tar/12",
        "00002.tar/20",
    ]
    assert read == ["0", "1", "2"]
    build(shards, drop_duplicates=True)
    assert read == ["0", "1", "2"]


def test_what_is_a_duplicate_is_decided_anew_behind_a_changed_shard(tmp_path, read):
    shards = duplicates_of(tmp_path)
    build(shards, drop_duplicates=True)
    read.clear()
    replaced = entries(("10.jpg", jpeg(ord("F"))), ("10.txt", CAPTION))
    (tmp_path / "00001.tar").write_bytes(tar(replaced))
    report = build(shards, drop_duplicates=True)
    assert read == ["1", "2"]
    assert [keys(shard) for shard in shards] == [["00", "02"], ["10"], ["20", "21", "22"]]
    assert report.statuses[2].note == "indexed anew: a shard before it was"
    read.clear()
    assert build(shards[1:], drop_duplicates=True).num_samples == 4  # the first of them is another shard now
    assert read == ["1", "2"]


def test_the_report_names_every_rejected_sample(shards, tmp_path):
    report = build([*shards, str(tmp_path / "gone.tar")])
    path = tmp_path / "report.json"
    write_report(path, report)
    content = json.loads(path.read_text())
    assert (content["num_shards"], content["num_read"], content["num_samples"]) == (4, 7, 6)
    assert content["counts"] == report.counts == {"undecodable image": 1, "unreadable shard": 1}
    named = [problem["item"] for shard in content["shards"] for problem in shard["problems"]]
    assert named == ["00001.tar/bad", "gone.tar"]


def test_ctrl_c_keeps_what_was_finished(shards, monkeypatch):
    check = check_many.check_shard

    def interrupted(shard, *args):
        if shard == shards[1]:
            raise KeyboardInterrupt
        return check(shard, *args)

    monkeypatch.setattr(check_many, "check_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(shards)
    assert [index_path(shard).exists() for shard in shards] == [True, False, False]
    assert not [name for name in os.listdir(os.path.dirname(shards[0])) if name.startswith(".")]


def test_ctrl_c_stops_all_processes_without_a_word_from_them(tmp_path):
    image = encoded(picture(1, 900, 900), "PNG")
    data = tar(
        [entry for key in range(10) for entry in entries((f"{key}.png", image), (f"{key}.txt", CAPTION))]
    )
    # So many that a busy machine cannot finish them before the signal comes.
    shards = [tmp_path / f"{number:05d}.tar" for number in range(600)]
    shards[0].write_bytes(data)
    for shard in shards[1:]:
        os.link(shards[0], shard)
    command = ["-m", "tools.main", "shards", "index", str(tmp_path), "--num-processes", "2"]
    process = subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not index_path(shards[0]).exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "captioner: stopped by Ctrl-C.\n")
    finished = [index_path(shard).exists() for shard in shards]
    assert finished == sorted(finished, reverse=True) and not all(finished)


def test_a_process_that_starts_is_deaf_to_ctrl_c_from_the_first_moment():
    blocked = "import signal, sys; sys.exit(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with check_many._interrupts_blocked():
        assert subprocess.run([sys.executable, "-c", blocked], check=False).returncode == 1
    assert subprocess.run([sys.executable, "-c", blocked], check=False).returncode == 0


def test_a_process_that_dies_is_an_error_that_keeps_what_was_finished(shards, monkeypatch):
    write = build_index._write

    def killing(*args):
        status = write(*args)
        for process in multiprocessing.active_children():
            process.kill()
        return status

    monkeypatch.setattr(build_index, "_write", killing)
    many = []
    for number in range(20):
        many.append(shards[0].replace("00000.tar", f"1{number:04d}.tar"))
        os.link(shards[0], many[-1])
    with pytest.raises(ChildProcessError, match="with fewer processes"):
        build(many, num_processes=2)
    assert index_path(many[0]).exists() and not index_path(many[-1]).exists()
