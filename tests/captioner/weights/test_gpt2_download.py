"""OpenAI's checkpoints: seven files, fetched once, and known to be unchanged afterwards."""

import json

import loopback
import pytest

from captioner.fetch import DownloadError
from captioner.weights import WeightsError
from captioner.weights.gpt2_download import GPT2_FILES, MANIFEST, download_gpt2, require_unchanged

FILES = {f"/models/124M/{name}": f"content of {name}".encode() * 50 for name in GPT2_FILES}


@pytest.fixture
def server():
    with loopback.serving(dict(FILES)) as running:
        yield running


def download(server, folder, **kwargs):
    kwargs = {"num_retries": 0, "timeout_s": 5.0, "sleep": lambda delay: None} | kwargs
    return download_gpt2("124M", folder, base_url=f"{server.address}/models/", **kwargs)


def test_all_seven_files_come_and_are_recorded(server, tmp_path):
    shown = set()
    result = download(server, tmp_path, on_progress=lambda name, done, total: shown.add((name, done)))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*GPT2_FILES, MANIFEST])
    assert all((tmp_path / name).read_bytes() == FILES[f"/models/124M/{name}"] for name in GPT2_FILES)
    assert list(result.fetched) == list(GPT2_FILES) and result.kept == ()
    assert {(name, len(FILES[f"/models/124M/{name}"])) for name in GPT2_FILES} <= shown
    assert require_unchanged(tmp_path)


def test_what_is_there_unchanged_is_not_fetched_again(server, tmp_path):
    download(server, tmp_path)
    (tmp_path / "encoder.json").write_bytes(b"x" * len(FILES["/models/124M/encoder.json"]))  # same length
    (tmp_path / "vocab.bpe").unlink()
    server.requests.clear()
    result = download(server, tmp_path)
    assert sorted(result.fetched) == ["encoder.json", "vocab.bpe"] and len(result.kept) == 5
    assert len(server.requests) == 2
    assert require_unchanged(tmp_path)


def test_a_folder_of_another_size_is_refused(server, tmp_path):
    download(server, tmp_path)
    with pytest.raises(ValueError, match=r"holds files of http.*/models/124M; take another folder for 355M"):
        download_gpt2("355M", tmp_path, base_url=f"{server.address}/models/")
    download_gpt2("124M", tmp_path, base_url=f"{server.address}/mirror/")  # nothing is asked for


def test_files_that_were_whole_before_a_break_are_kept(server, tmp_path):
    del server.files["/models/124M/vocab.bpe"]
    with pytest.raises(DownloadError, match=r"vocab\.bpe.*404"):
        download(server, tmp_path)
    server.files |= FILES
    result = download(server, tmp_path)
    assert result.kept == GPT2_FILES[: GPT2_FILES.index("vocab.bpe")]


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_later_damage_is_named(server, tmp_path, damage):
    download(server, tmp_path)
    path = tmp_path / "hparams.json"
    path.write_bytes(b"y" * path.stat().st_size) if damage == "change" else path.unlink()
    with pytest.raises(WeightsError, match=r"is not what was downloaded: hparams\.json differ"):
        require_unchanged(tmp_path)


def test_a_folder_from_elsewhere_has_no_record(tmp_path):
    assert not require_unchanged(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": {"a": {}}}'])
def test_a_damaged_record_is_refused_with_the_way_out(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(WeightsError, match=r"download\.json is damaged .* Remove it"):
        require_unchanged(tmp_path)


def test_the_record_tells_which_checksums_the_server_gave(server, tmp_path):
    server.md5 = False
    download(server, tmp_path)
    record = json.loads((tmp_path / MANIFEST).read_text())
    assert record["source"] == f"{server.address}/models/124M"
    assert {file["server_md5"] for file in record["files"].values()} == {None}


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`size` must be one of 124M"):
        download_gpt2("117M", tmp_path)
