"""Which shards words mean."""

import pytest

from trainers.shards.paths import find_shards


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (
        "b/00000.tar",
        "b/00001.tar",
        "b/00010.tar",
        "b/00000.txt",
        "b/x{1}.tar",
        "b/00000.index.npz",
        "c/00000.tar",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "shards"),
    [
        (["b/00001.tar"], ["b/00001.tar"]),
        (["b/{00000..00001}.tar"], ["b/00000.tar", "b/00001.tar"]),
        (["{c,b}/00000.tar"], ["c/00000.tar", "b/00000.tar"]),
        (["b/000*.tar"], ["b/00000.tar", "b/00001.tar", "b/00010.tar"]),
        (["b/000*"], ["b/00000.tar", "b/00001.tar", "b/00010.tar"]),
        (["{c,b}/0000[01].tar"], ["c/00000.tar", "b/00000.tar", "b/00001.tar"]),
        (["b"], ["b/00000.tar", "b/00001.tar", "b/00010.tar", "b/x{1}.tar"]),
        (["b/x{1}.tar"], ["b/x{1}.tar"]),
        (["c", "c/00000.tar", "./c/00000.tar"], ["c/00000.tar"]),
        (["b/00000.txt"], ["b/00000.txt"]),
        (["http://host/{0..1}.tar?key=*"], ["http://host/0.tar?key=*", "http://host/1.tar?key=*"]),
    ],
    ids=str,
)
def test_words_mean_shards(folder, words, shards):
    assert find_shards(words) == shards


def test_paths_are_words_too(folder):
    assert find_shards([folder / "c"]) == [str(folder / "c" / "00000.tar")]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (
            ["b/{00000..00003}.tar"],
            FileNotFoundError,
            "2 of its 4 shards cannot be found, the first is 'b/00002.tar'",
        ),
        (["d.tar"], FileNotFoundError, "'d.tar' is no shard"),
        (["d/*.tar"], FileNotFoundError, "is no shard"),
        (["b/*.txt"], FileNotFoundError, "is no shard"),
        (["b/{00000..00001.tar"], ValueError, "'{00000..00331}.tar'"),
        (["b/{0..99999999}.tar"], ValueError, "more than 1,000,000"),
        (
            ["b/00000.tar", "b/00000.txt"],
            ValueError,
            "'b/00000.tar' and 'b/00000.txt' would have the same index",
        ),
        ([], ValueError, "at least one"),
        ("b", TypeError, r"\['b'\]"),
    ],
    ids=str,
)
def test_words_that_mean_no_shard_are_refused(folder, words, error, says):
    with pytest.raises(error, match=says):
        find_shards(words)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no shard"):
        find_shards([tmp_path])
