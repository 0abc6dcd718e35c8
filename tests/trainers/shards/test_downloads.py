"""What img2dataset could not download, from files like those it writes."""

import json

import pytest

from trainers.shards.downloads import read_downloads, write_missing


@pytest.fixture
def shards(tmp_path):
    """Two finished shards and one that is not."""
    stats = [
        {"success": 5, "IncompleteRead(812 bytes read, 19 more expected)": 1, "HTTP Error 404: Not Found": 1},
        {
            "success": 4,
            "HTTP Error 404: Not Found": 4,
            "IncompleteRead(9 bytes read, 12345 more expected)": 1,
        },
    ]
    for number, counts in enumerate(stats):
        content = {"count": sum(counts.values()), "successes": counts["success"], "status_dict": counts}
        (tmp_path / f"{number:05d}_stats.json").write_text(json.dumps(content))
    paths = [tmp_path / f"{number:05d}.tar" for number in range(3)]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


def test_failures_are_counted_by_message_without_their_numbers_of_bytes(shards):
    downloads = read_downloads(shards)
    assert (downloads.num_urls, downloads.num_succeeded, downloads.unfinished) == (16, 9, (shards[2],))
    assert list(downloads.errors.items()) == [
        ("HTTP Error 404: Not Found", 5),
        ("IncompleteRead(N bytes read, N more expected)", 2),
    ]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"count": 3}', '{"count": 1, "successes": 1, "status_dict": []}']
)
def test_a_damaged_count_is_no_finished_download(shards, tmp_path, content):
    (tmp_path / "00002_stats.json").write_text(content)
    assert read_downloads(shards[2:]).unfinished == (shards[2],)


def test_shards_of_our_own_are_counted_too(tmp_path):
    stats = {
        "count": 3,
        "successes": 2,
        "captions": 4,
        "problems": [{"reason": "missing file", "item": "a.jpg"}],
    }
    (tmp_path / "00000_stats.json").write_text(json.dumps(stats))
    assert read_downloads([str(tmp_path / "00000.tar")]).errors == {"missing file": 1}


@pytest.mark.img2dataset
def test_the_list_holds_the_rows_that_failed_with_the_columns_they_came_with(shards, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    for number, similarity in enumerate([[0.5, 0.25, None], [None, 0.75, 1.0]]):
        rows = {
            "url": [f"u{number}{row}" for row in range(3)],
            "caption": ['"', "a\tb", None],
            "similarity": similarity,
            "key": ["0", "1", "2"],
            "status": ["success", "failed_to_download", "failed_to_resize"],
            "sha256": ["", None, None],
        }
        parquet.write_table(pa.table(rows), tmp_path / f"{number:05d}.parquet")
    assert write_missing(tmp_path / "missing.parquet", shards[:2]) == 4
    assert parquet.read_table(tmp_path / "missing.parquet").to_pydict() == {
        "url": ["u01", "u02", "u11", "u12"],
        "caption": ["a\tb", None, "a\tb", None],
        "similarity": [0.25, None, 0.75, 1.0],
    }
    with pytest.raises(FileNotFoundError, match=r"00002.parquet is not there. img2dataset writes it when"):
        write_missing(tmp_path / "missing.parquet", shards)
    (tmp_path / "00002.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(OSError, match=r"00002.parquet is not a whole table of img2dataset"):
        write_missing(tmp_path / "missing.parquet", shards)


def test_without_pyarrow_the_error_names_the_fix(shards, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "captioner\[data\]"'):
        write_missing(tmp_path / "missing.parquet", shards)
