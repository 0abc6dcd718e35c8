"""The run folder keeps runs apart and survives what interrupts them."""

import contextlib
import errno
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from captioner.files import atomic_path
from trainers.data_report import write_data_report
from trainers.run_folder import RunFolder, plot_metrics


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def finish_an_epoch(run):
    run.checkpoint(3).parent.mkdir(parents=True)
    run.checkpoint(3).write_bytes(b"")


def test_another_process_in_the_folder_is_refused_until_the_first_ends(run):
    code = (
        "import sys; from pathlib import Path; from trainers.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).opened({'epochs': 2}, False): pass"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with run.opened({"epochs": 1}, False):
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "is in use by another training. Wait for it, or give another folder." in other.stderr
        assert '"epochs": 1' in run.config.read_text()
    assert subprocess.run(command, check=False).returncode == 0
    assert '"epochs": 2' in run.config.read_text()


def test_a_folder_without_a_finished_epoch_is_begun_anew(run):
    with run.opened({"epochs": 1}, False):
        run.append_metrics({"epoch": 1})
    with run.opened({"epochs": 2}, False):
        assert run.read_metrics() == []
    assert '"epochs": 2' in run.config.read_text()


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(run):
    with run.opened({"epochs": 1}, False):
        finish_an_epoch(run)
        with contextlib.suppress(BlockingIOError), atomic_path(run.checkpoint(4)) as temporary:
            half = temporary
            raise BlockingIOError
    half.write_bytes(b"half")
    kept = run.checkpoints
    with run.opened({"epochs": 1}, True):
        assert not half.exists() and run.checkpoints == kept


def test_a_folder_with_a_finished_epoch_is_not_begun_anew(run):
    with run.opened({"epochs": 1}, False):
        finish_an_epoch(run)
    with pytest.raises(FileExistsError, match="holds a run already"), run.opened({"epochs": 2}, False):
        pass
    assert '"epochs": 1' in run.config.read_text()


def test_resuming_ignores_where_the_run_and_its_cache_lie_and_that_it_is_resumed(run):
    with run.opened({"epochs": 1, "run_dir": "a", "cache_dir": "b", "resume": False}, False):
        finish_an_epoch(run)
    with run.opened({"epochs": 1, "run_dir": "c", "cache_dir": "d", "resume": True}, True):
        pass


@pytest.mark.parametrize("content", ["", "[1", "3"])
def test_a_damaged_config_cannot_be_resumed_and_says_so(run, content):
    with run.opened({"epochs": 1}, False):
        finish_an_epoch(run)
    run.config.write_text(content)
    with pytest.raises(ValueError, match=r"config\.json cannot be read"), run.opened({"epochs": 1}, True):
        pass


def test_a_file_in_the_way_of_the_folder_is_explained(tmp_path):
    (tmp_path / "run").write_text("")
    with (
        pytest.raises(OSError, match=r"part of the path is a file. Choose another folder with `run_dir`"),
        RunFolder(tmp_path / "run").opened({}, False),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_at_the_end_of_an_epoch_is_explained(run):
    run.path.mkdir()
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write to \S*metrics\.jsonl: the disk is full") as raised:
        run.append_metrics({"epoch": 1})
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EACCES, "the folder may not be written"), (errno.EROFS, "the disk is read-only")],
)
@pytest.mark.parametrize("name", ["config.json", "data_report.json", "metrics.jsonl"])
def test_a_folder_that_may_not_be_written_is_explained(run, monkeypatch, number, reason, name):
    run.path.mkdir()
    run.metrics.write_text("")
    open_file = Path.open

    def refuse(path, mode="r", *arguments, **keywords):
        if mode != "r":
            raise OSError(number, "as a real one")  # modes of a folder do not stop root
        return open_file(path, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    write = {
        "config.json": lambda: run.write_json(run.config, {}),
        "data_report.json": lambda: write_data_report(run.data_report, {}),
        "metrics.jsonl": lambda: run.keep_metrics_until(1),
    }[name]
    message = rf"cannot write to \S*{name}: {reason}\. Choose another folder with `run_dir`"
    with pytest.raises(OSError, match=message):
        write()
    assert [path.name for path in run.path.iterdir()] == ["metrics.jsonl"]


def test_a_half_written_line_of_metrics_is_dropped_with_the_epochs_to_do_again(run):
    run.path.mkdir()
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
    with run.metrics.open("a") as file:
        file.write('{"epoch": 4, "lo')
    run.keep_metrics_until(2)
    run.append_metrics({"epoch": 3})
    assert run.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n'


def test_the_plot_draws_the_curves_that_are_there(tmp_path):
    def draw(lines):
        plot_metrics({"": lines}, tmp_path / "metrics.png")
        with Image.open(tmp_path / "metrics.png") as image:
            return image.convert("RGB").tobytes()

    losses = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}]
    scored = [line | {"val_cider": 0.1 * line["epoch"]} for line in losses]
    assert len({draw([]), draw(losses), draw(scored)}) == 3
