"""What a run must have to go on."""

import keras
import numpy as np
import pytest

from trainers.checkpoint import CheckpointError, save_checkpoint
from trainers.run_folder import RunFolder
from trainers.stage_progress import first_state, require_resumable

DATA = {"training": "a", "validation": "b"}


@pytest.fixture
def begun(tmp_path):
    """Function `(**state)` that gives the folder of a run in the first of several stages, with the second prepared."""

    def begin(**state) -> RunFolder:
        run, model = RunFolder(tmp_path), keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
        model.layers[0].set_weights([np.full((3, 5), 0.7), np.zeros(5)])
        state = {"epoch": 2, "step": 0, "stage": 1, "best_epoch": 1, "data": DATA} | state
        for path in (run.checkpoint(6), run.best_checkpoint, run.stage_checkpoint(2)):
            save_checkpoint(path, model, None, state)
        return run

    return begin


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[bytes(content).index(np.full(15, 0.7, "float32").tobytes()) + 7] ^= 4
    path.write_bytes(content)


def test_a_run_whose_files_are_whole_can_go_on(begun):
    require_resumable(begun(), DATA)


@pytest.mark.parametrize("name", ["best.h5", "stage-2.h5"])
def test_a_flipped_byte_in_weights_that_are_needed_later_is_refused_at_once(begun, name):
    run = begun()
    flip_a_byte(run.path / "checkpoints" / name)
    with pytest.raises(CheckpointError, match=rf"`resume` will need \S*{name}, .* Bring it back from a copy"):
        require_resumable(run, DATA)


def test_missing_weights_of_the_best_epoch_are_refused_at_once(begun):
    run = begun()
    run.best_checkpoint.unlink()
    with pytest.raises(CheckpointError, match=r"`resume` will need \S*best\.h5"):
        require_resumable(run, DATA)


def test_damaged_weights_of_a_stage_that_has_saved_since_are_not_needed(begun):
    run = begun(stage=2)
    flip_a_byte(run.stage_checkpoint(2))
    require_resumable(run, DATA)


def test_the_data_of_a_run_of_an_earlier_version_are_not_compared_and_that_is_said(begun, caplog):
    require_resumable(begun(data="c"), DATA)
    assert "begun by an earlier version" in caplog.text


def test_a_run_of_another_backend_is_refused_and_one_that_does_not_say_it_is_not(begun):
    require_resumable(begun(), DATA)
    require_resumable(begun(backend=keras.config.backend()), DATA)
    with pytest.raises(ValueError, match=r"began with numpy, and this is .* Set KERAS_BACKEND=numpy"):
        require_resumable(begun(backend="numpy"), DATA)


def test_a_run_that_begins_notes_its_backend(settings, tmp_path):
    assert first_state(settings(tmp_path))["backend"] == keras.config.backend()
