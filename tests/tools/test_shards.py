"""`captioner shards`: from a table to indexed shards, with the exit codes that scripts rely on."""

import json
import signal
import subprocess
import sys
import time

import loopback
import pytest
from bad_shards import CAPTION, entries, good_sample, jpeg, tar

from tools.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five photos, a table of six rows of which one has no photo, and a shard with a bad sample."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg(number))
    rows = [f"{number}.jpg,caption {number}" for number in range(6)]
    (tmp_path / "train.csv").write_text("\n".join(["image,caption", *rows]))
    bad = entries(("bad.jpg", b"<html>"), ("bad.txt", CAPTION))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "00000.tar").write_bytes(tar([*good_sample("000000000"), *bad]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_becomes_indexed_shards(folder, capsys):
    words = ["shards", "write", "--csv", "train.csv", "--images", "photos", "--output", "out"]
    assert main([*words, "--samples-per-shard", "3"]) == 1  # the sixth photo is not there
    captured = capsys.readouterr()
    assert "2 shards in out: 5 images with 5 captions" in captured.out
    assert "5.jpg: missing file" in captured.err
    assert main(["shards", "check", "out"]) == 1
    assert "2  no index" in capsys.readouterr().out
    assert main(["shards", "index", "out", "--num-processes", "1"]) == 0
    assert "2 shards: 5 of 5 samples are good, with 5 captions" in capsys.readouterr().out
    assert main(["shards", "check", "out/{00000..00001}.tar"]) == 0


def test_a_folder_with_txt_beside_each_image_is_enough(folder, capsys):
    for number in range(5):
        (folder / "photos" / f"{number}.txt").write_text(f"a dog\nphoto {number}\n")
    assert main(["shards", "write", "--images", "photos", "--output", "out"]) == 0
    assert "1 shards in out: 5 images with 10 captions" in capsys.readouterr().out
    assert main(["shards", "write", "--images", "photos", "--output", "out"]) == 0
    assert "1 shards (1 were there already) in out" in capsys.readouterr().out


def test_check_names_what_is_rejected_and_exits_with_1(folder, capsys):
    assert main(["shards", "index", "old", "--report", "report.json"]) == 0
    assert "Every one of them is named in report.json" in capsys.readouterr().out
    assert json.loads((folder / "report.json").read_text())["counts"] == {"undecodable image": 1}
    assert main(["shards", "check", "old"]) == 1
    out = capsys.readouterr().out
    assert "1 of 2 samples are good, with 2 captions" in out
    assert "1  undecodable image" in out and "old/00000.tar/bad: undecodable image: not a readable" in out
    assert main(["shards", "check", "old", "--num-names", "0", "--report", "all.json"]) == 1
    assert "and 1 more" in capsys.readouterr().out
    assert (
        json.loads((folder / "all.json").read_text())["shards"][0]["problems"][0]["item"] == "00000.tar/bad"
    )


def test_a_changed_shard_is_told_of(folder, capsys):
    assert main(["shards", "index", "old"]) == 0
    (folder / "old" / "00000.tar").write_bytes(tar(good_sample("000000000")))
    assert main(["shards", "check", "old"]) == 1
    assert "outdated index: its first 64 KiB changed" in capsys.readouterr().out
    assert main(["shards", "index", "old"]) == 0
    assert "indexed anew: its first 64 KiB changed" in capsys.readouterr().err
    assert main(["shards", "check", "old"]) == 0


def test_filters_are_flags(folder, capsys):
    assert main(["shards", "index", "old", "--min-caption-words", "5", "--drop-duplicates"]) == 0
    assert "caption has few words" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["write", "--output", "x"], "--csv TABLE"),
        (["write", "--images", "photos", "--output", "x", "--samples-per-shard", "0"], "samples_per_shard"),
        (["write", "--images", "photos", "--output", "x", "--split", "train"], "--split is for tables"),
        (["index", "gone/{0..3}.tar"], "gone/0.tar"),
        (["index", "gone/{0..3.tar"], "Write ranges as in"),
        (["check", "old", "--num-names", "-1"], "--num-names must be"),
        (["missing", "old", "--num-names", "-1"], "--num-names must be"),
        (["missing", "http://user:secret@host/{0..3}.tar"], "download 'http://host/0.tar' and that first"),
        (["check", "http://host/{0..3}.tar", "--shard-cache-gb", "0"], "--shard-cache-gb must be above 0"),
        (["index", "old", "--num-processes", "0"], "--num-processes"),
        (["index", "old", "--min-similarity", "0.3"], "similarity_column"),
        (["index", "old", "--tags", "forget"], "forget"),
        (["check"], "shard"),
    ],
    ids=str,
)
def test_a_wrong_call_exits_with_2(folder, words, says, capsys):
    assert main(["shards", *words]) == 2
    assert says in capsys.readouterr().err


def test_indexing_in_processes_imports_no_tensorflow(folder):
    code = (
        "import sys; from tools.main import main\n"
        "if __name__ == '__main__':\n"
        "    code = main(['shards', 'index', 'old'])\n"
        "    sys.exit(code or 3 * any(name in sys.modules for name in ('tensorflow', 'keras', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_tells_what_img2dataset_left_out_and_what_is_unfinished(folder, capsys):
    stats = {"count": 4, "successes": 1, "status_dict": {"success": 1, "timed out": 2, "no": 1}}
    (folder / "old" / "00000_stats.json").write_text(json.dumps(stats))
    assert main(["shards", "missing", "old", "--num-names", "1"]) == 0
    out = capsys.readouterr().out
    assert "1 shards: 1 of 4 images are there, 3 (75.0%) are missing" in out
    assert "2  timed out" in out and "and 1 more messages" in out
    (folder / "old" / "00001.tar").touch()
    assert main(["shards", "missing", "old"]) == 1
    assert "old/00001.tar: not finished" in capsys.readouterr().err


def test_the_report_lies_where_img2dataset_does_not_look(folder):
    assert main(["shards", "index", "old"]) == 0
    assert [path.name for path in (folder / "old").glob("*.json")] == []
    assert json.loads((folder / "old" / "reports" / "shards.json").read_text())["num_read"] == 2


@pytest.fixture
def server(folder):
    """The bad shard, and one that is gone."""
    with loopback.serving({"/a/00000.tar": (folder / "old" / "00000.tar").read_bytes()}) as running:
        yield running


def test_remote_shards_are_indexed_and_checked_as_local_ones(folder, server, capsys):
    address, cache = f"{server.address}/a/00000.tar", ["--cache-dir", "cache"]
    assert main(["shards", "check", address, *cache]) == 1
    out = capsys.readouterr().out
    assert "1  no index" in out and f"{server.address}/a/00000.tar: no index" in out
    assert "`captioner shards index`" in out
    assert server.requests == [("/a/00000.index.npz", server.requests[0][1])]  # the shard was not fetched
    assert main(["shards", "index", address, *cache, "--min-side-px", "2"]) == 0
    out = capsys.readouterr().out
    assert "1 shards: 1 of 2 samples are good" in out and "1  undecodable image" in out
    report = json.loads(next((folder / "cache" / "shards").rglob("reports/shards.json")).read_text())
    assert report["shards"][0]["shard"] == address and (folder / report["shards"][0]["index"]).exists()
    assert main(["shards", "check", address, *cache]) == 1
    assert f"  {address}/bad: undecodable image" in capsys.readouterr().out
    server.files["/a/00000.tar"] = tar(good_sample("000000000"))
    assert main(["shards", "check", address, *cache]) == 1
    assert "outdated index: its" in capsys.readouterr().out
    assert main(["shards", "index", address, *cache]) == 0
    assert f"{address}: indexed anew: its" in capsys.readouterr().err
    assert main(["shards", "check", address, *cache]) == 0


def test_a_remote_shard_that_cannot_be_fetched_fails_the_command_and_no_password_is_shown(
    folder, server, capsys
):
    shards = server.address.replace("://", "://user:secret@") + "/a/{00000..00001}.tar?key=secret"
    server.files["/a/00000.tar?key=secret"] = server.files["/a/00000.tar"]
    words = [shards, "--cache-dir", "cache", "--num-processes", "1", "--report", "report.json"]
    assert main(["shards", "index", *words]) == 1
    captured = capsys.readouterr()
    assert "2 shards: 1 of 2 samples are good" in captured.out and "1  shard not fetched" in captured.out
    assert f"{server.address}/a/00001.tar?...: shard not fetched: " in captured.err
    assert "the server answered 404" in captured.err
    assert main(["shards", "check", shards, "--cache-dir", "cache"]) == 1
    shown = captured.out + captured.err + str(capsys.readouterr()) + (folder / "report.json").read_text()
    assert "secret" not in shown and "shard not fetched" in (folder / "report.json").read_text()


def test_ctrl_c_waits_for_no_server_and_the_next_command_goes_on(folder, server):
    address = f"{server.address}/a/00000.tar"
    server.ways["/a/00001.tar"] = loopback.stalled(after=0)
    server.files["/a/00001.tar"] = server.files["/a/00000.tar"]
    server.head = loopback.whole
    words = [
        sys.executable,
        "-m",
        "tools.main",
        "shards",
        "index",
        f"{server.address}/a/{{00000..00001}}.tar",
    ]
    process = subprocess.Popen([*words, "--cache-dir", "cache"], stderr=subprocess.PIPE, text=True)
    place = None
    while place is None:  # until the first is indexed, and the second is waited for
        assert process.poll() is None
        time.sleep(0.01)
        place = next((folder / "cache").rglob("00000.index.npz"), None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "captioner: stopped by Ctrl-C.\n")
    server.requests.clear()
    assert main(["shards", "index", address, "--cache-dir", "cache"]) == 0
    assert server.requests == []
