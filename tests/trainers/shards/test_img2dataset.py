"""img2dataset itself, on a hundred addresses of which thirty are bad: what it writes is indexed, and what it lacks is told."""

import importlib.util
import os
import subprocess
import sys

import loopback
import pandas as pd
import pytest
from bad_shards import jpeg

from tools.main import main
from trainers.shards.index import index_path, read_index
from trainers.shards.paths import find_shards

pytestmark = [
    pytest.mark.img2dataset,
    pytest.mark.skipif(not importlib.util.find_spec("img2dataset"), reason="img2dataset is not installed"),
]
FLAGS = ["--image_size", "384", "--resize_mode", "keep_ratio", "--resize_only_if_bigger", "True"]
FLAGS += [
    "--processes_count",
    "2",
    "--thread_count",
    "16",
    "--number_sample_per_shard",
    "40",
    "--timeout",
    "1",
]


@pytest.fixture
def addresses():
    """Seventy good ones, ten dead links, ten pages called .jpg, four slow links, five cut photos, and no address."""
    names = [f"good{number}" for number in range(70)] + [f"dead{number}" for number in range(10)]
    names += [f"page{number}" for number in range(10)] + [f"slow{number}" for number in range(4)]
    names += [f"cut{number}" for number in range(5)]
    paths = [f"/{name}.jpg" for name in names]
    photos = {
        path: jpeg(number) for number, path in enumerate(paths) if path.startswith(("/good", "/cut", "/slow"))
    }
    pages = {path: b"<html>gone</html>" for path in paths if path.startswith("/page")}
    with loopback.serving(photos | pages, md5=False) as server:
        server.ways = {path: loopback.stalled(after=10) for path in paths if path.startswith("/slow")}
        server.ways |= {path: loopback.answering(limit=100) for path in paths if path.startswith("/cut")}
        yield [*(server.address + path for path in paths[::-1]), "no address"]


def img2dataset(url_list, folder):
    words = [
        "--url_list",
        url_list,
        "--input_format",
        "parquet",
        "--url_col",
        "url",
        "--caption_col",
        "caption",
    ]
    words += ["--output_format", "webdataset", "--output_folder", folder, *FLAGS]
    subprocess.run(
        [sys.executable, "-c", "from img2dataset.main import main; main()", *map(str, words)],
        env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},
        check=True,
        timeout=300,
    )


def test_a_list_with_bad_addresses_becomes_indexed_shards_and_a_report(
    addresses, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    captions = [f'" caption of {address[-10:]}' for address in addresses]
    pd.DataFrame({"caption": captions, "url": addresses}).to_parquet("list.parquet")
    img2dataset("list.parquet", "data")

    assert main(["shards", "index", "data", "--num-processes", "1"]) == 0
    assert main(["shards", "check", "data"]) == 0
    assert "3 shards: 70 of 70 samples are good, with 70 captions" in capsys.readouterr().out
    found = []
    for shard in find_shards(["data"]):
        index = read_index(index_path(shard))
        found += [text for row in range(index.num_samples) for text in index.captions(row)]
    good = [caption for caption, address in zip(captions, addresses, strict=True) if "good" in address]
    assert sorted(found) == sorted(good)

    assert main(["shards", "missing", "data", "--output", "missing.parquet"]) == 0
    out = capsys.readouterr().out
    assert "3 shards: 70 of 100 images are there, 30 (30.0%) are missing" in out
    for line in (
        "10  HTTP Error 404: Not Found",
        "10  Image decoding error",
        "4  timed out",
        "5  IncompleteRead(N",
    ):
        assert line in out
    missing = pd.read_parquet("missing.parquet")
    assert list(missing.columns) == ["caption", "url"] and set(missing["url"]) == {
        address for address in addresses if "good" not in address
    }

    before = os.stat("data/00000.tar").st_mtime_ns
    img2dataset("list.parquet", "data")  # goes on where nothing is left to do, beside our files
    assert os.stat("data/00000.tar").st_mtime_ns == before
    assert main(["shards", "check", "data"]) == 0
