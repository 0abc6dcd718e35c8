"""`captioner download gpt2`: into the cache folder, with one line where something is wrong."""

import typing

import loopback
import pytest

from captioner.weights.gpt2_download import GPT2_FILES, GPT2_SIZES
from tools.download import DownloadGPT2Command, cache_folder
from tools.main import main


@pytest.fixture
def server():
    with loopback.serving({f"/124M/{name}": b"data" for name in GPT2_FILES}, md5=False) as running:
        yield running


def test_the_files_go_to_the_cache_folder_that_the_environment_names(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "cache"))
    assert main(["download", "gpt2", "124M", "--base-url", server.address]) == 0
    folder = tmp_path / "cache" / "gpt2" / "124M"
    assert all((folder / name).read_bytes() == b"data" for name in GPT2_FILES)
    captured = capsys.readouterr()
    assert captured.out == f"{folder}\n"
    assert "names no checksum of checkpoint, " in captured.err
    assert main(["download", "gpt2", "124M", "--base-url", server.address]) == 0
    assert "7 files were there already, unchanged" in capsys.readouterr().err


def test_output_names_another_folder(server, tmp_path):
    assert (
        main(["download", "gpt2", "124M", "--base-url", server.address, "--output", str(tmp_path / "x")]) == 0
    )
    assert (tmp_path / "x" / "hparams.json").is_file()


def test_a_refusal_is_one_line(server, tmp_path, capsys):
    words = ["download", "gpt2", "355M", "--base-url", server.address, "--output", str(tmp_path)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "/355M/checkpoint: the server answered 404" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [["117M"], ["124M", "--base-url", "mirror"], ["124M", "--timeout", "0"], ["124M", "--num-retries", "-1"]],
)
def test_impossible_flags_are_a_usage_error(words):
    assert main(["download", "gpt2", *words]) == 2


def test_the_cache_folder_is_in_the_home_folder_unless_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder({}) == tmp_path / ".cache" / "captioner"
    assert cache_folder({"CAPTIONER_CACHE": "~/other"}) == tmp_path / "other"


def test_the_command_offers_every_size():
    annotation = typing.get_type_hints(DownloadGPT2Command)["size"]
    assert typing.get_args(annotation) == GPT2_SIZES
