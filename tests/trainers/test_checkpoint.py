"""Checkpoints: whole, of the right model, or refused."""

import contextlib
import errno

import h5py
import keras
import numpy as np
import pytest

from trainers.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

STATE = {"epoch": 3, "best_score": [0.5, -1.25]}


def model(units=5, dtype=None, name="dense"):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(units, dtype=dtype, name=name),
            keras.layers.Dropout(0.5, dtype=dtype),
            keras.layers.Dense(2, dtype=dtype, name="head"),
        ]
    )


def trained(**changes):
    network = model(**changes)
    network.compile(keras.optimizers.AdamW(0.01, use_ema=True), "mse")
    network.fit(np.ones((4, 3), "float32"), np.ones((4, 2), "float32"), verbose=0)
    return network


def values(network):
    return [
        np.array(keras.ops.cast(v.value, "float32"))
        for v in (*network.variables, *network.optimizer.variables)
    ]


@pytest.fixture
def saved(tmp_path):
    network = trained()
    path = tmp_path / "last.h5"
    save_checkpoint(path, network, network.optimizer, STATE)
    return path, network


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_gives_back_weights_optimizer_random_state_and_state(tmp_path, dtype):
    first, second = trained(dtype=dtype), trained(dtype=dtype)
    assert any("seed_generator" in v.path and np.array(v.value)[1] > 0 for v in first.variables)
    assert any((a != b).any() for a, b in zip(values(first), values(second), strict=True))
    save_checkpoint(tmp_path / "a.h5", first, first.optimizer, STATE)
    assert load_checkpoint(tmp_path / "a.h5", second, second.optimizer) == STATE
    for a, b in zip(values(first), values(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_any_flipped_byte_of_the_data_is_noticed(saved):
    path, network = saved
    whole = bytearray(path.read_bytes())
    kernel = np.array(network.layers[0].kernel).tobytes()
    position = bytes(whole).index(kernel) + 7
    whole[position] ^= 4
    path.write_bytes(whole)
    before = values(network)
    with pytest.raises(CheckpointError, match="is damaged: its content does not have the checksum"):
        load_checkpoint(path, network, network.optimizer)
    for a, b in zip(before, values(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_flipped_bit_of_the_structure_is_noticed_or_changes_nothing(saved):
    path, network = saved
    whole = path.read_bytes()
    for offset in range(220):
        for bit in (0, 3, 7):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << bit]) + whole[offset + 1 :])
            with contextlib.suppress(CheckpointError):
                assert load_checkpoint(path, network, network.optimizer) == STATE


def test_a_changed_state_is_noticed(saved):
    path, network = saved
    with h5py.File(path, "r+") as file:
        file.attrs["state"] = file.attrs["state"].replace("3", "4")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path, network, network.optimizer)


@pytest.mark.parametrize("content", [b"", b"no HDF5", None], ids=["empty", "text", "half"])
def test_a_file_that_is_not_whole_is_refused_by_name(saved, content):
    path, network = saved
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"last\.h5 is not a whole checkpoint"):
        load_checkpoint(path, network, network.optimizer)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"units": 6}, r"holds .*kernel of shape \(3, 5\) where the model has .*kernel of shape \(3, 6\)"),
        ({"name": "other"}, r"holds \S*dense/kernel .* where the model has \S*other/kernel"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_before_anything_is_assigned(saved, other, message):
    network = trained(**other)
    before = values(network)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved[0], network, network.optimizer)
    for a, b in zip(before, values(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_without_optimizer_cannot_be_resumed_from(saved):
    path, network = saved
    save_checkpoint(path, network, None, STATE)
    assert load_checkpoint(path, network) == STATE
    with pytest.raises(CheckpointError, match="holds 0 variables of the optimizer"):
        load_checkpoint(path, network, network.optimizer)


def test_a_full_disk_keeps_the_checkpoint_before(saved, monkeypatch):
    path, network = saved
    whole, create = path.read_bytes(), h5py.Group.create_dataset

    def fail_at_the_fifth(self, name, *arguments, **keywords):
        if name.endswith("5"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(self, name, *arguments, **keywords)

    monkeypatch.setattr(h5py.Group, "create_dataset", fail_at_the_fifth)
    with pytest.raises(
        OSError, match=r"cannot write the checkpoint .*No space left on device\. The one before is intact"
    ):
        save_checkpoint(path, network, network.optimizer, {"epoch": 4})
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == ["last.h5"]


def test_a_missing_file_is_said_to_be_missing(saved):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(saved[0].with_name("none.h5"), saved[1])
