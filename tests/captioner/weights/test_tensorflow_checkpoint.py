"""TensorFlow checkpoints: variables are read; damaged and misleading files are refused."""

import numpy as np
import pytest

from captioner.weights import WeightsError, read_tensorflow_checkpoint

ARRAYS = {"model/a": np.arange(6, dtype="float32").reshape(2, 3), "model/b": np.ones(5, "float16")}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "gpt2", ARRAYS)


def write(folder, arrays, name="model.ckpt"):
    import tensorflow as tf

    folder.mkdir(exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(folder / name), tensor_names=list(arrays), shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(array) for array in arrays.values()],
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["", "model.ckpt"])
def test_a_folder_and_a_prefix_name_the_same_checkpoint(name, folder):
    tensors = read_tensorflow_checkpoint(folder / name)
    assert tensors.shapes == {"model/a": (2, 3), "model/b": (5,)}
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[key], array)


def test_the_state_file_chooses_among_several_by_name_only(folder):
    write(folder, {"model/c": np.ones(2, "float32")}, "newer.ckpt")
    with pytest.raises(WeightsError, match="it holds 2"):
        read_tensorflow_checkpoint(folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/another/machine/newer.ckpt"\n')
    assert list(read_tensorflow_checkpoint(folder)) == ["model/c"]


def test_an_integer_variable_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="global_step is of dtype int64"):
        read_tensorflow_checkpoint(write(tmp_path / "gpt2", {"global_step": np.int64(3)}))


@pytest.mark.parametrize("part", ["model.ckpt.index", "model.ckpt.data-00000-of-00001"])
def test_every_cut_and_a_missing_part_are_errors_of_one_line(part, folder):
    whole = (folder / part).read_bytes()
    for size in range(0, len(whole), 7):
        (folder / part).write_bytes(whole[:size])
        with pytest.raises(WeightsError) as error:
            read_all(folder)
        assert "\n" not in str(error.value)
    (folder / part).unlink()
    with pytest.raises(WeightsError):
        read_all(folder)


def test_a_changed_number_is_found_by_its_checksum(folder):
    path = folder / "model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="model/a cannot be read"):
        read_all(folder)


def test_a_changed_byte_of_the_index_is_read_or_an_error_of_one_line(folder):
    path, generator = folder / "model.ckpt.index", np.random.default_rng(0)
    whole = path.read_bytes()
    for _ in range(100):
        data = bytearray(whole)
        data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(data)
        try:
            assert {name: array.shape for name, array in read_all(folder).items()} == {
                name: array.shape for name, array in ARRAYS.items()
            }
        except WeightsError as error:
            assert "\n" not in str(error)


def test_data_outside_the_folder_is_refused(folder, tmp_path):
    part = folder / "model.ckpt.data-00000-of-00001"
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="link out of its folder"):
        read_tensorflow_checkpoint(folder)


def read_all(folder):
    tensors = read_tensorflow_checkpoint(folder)
    return {name: tensors[name] for name in tensors}
