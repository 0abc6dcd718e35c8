"""Safetensors: what is written is read; whatever else a file says is an error before memory is taken."""

import json
import struct

import numpy as np
import pytest
from gpt2_folders import write_arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioner.weights import WeightsError, read_safetensors, read_sharded_safetensors

ARRAYS = {
    "a.weight": np.arange(6, dtype="float32").reshape(2, 3),
    "scalar": np.float32(7).reshape(()),
    "empty": np.zeros((0, 5), "float32"),
    "b": np.arange(5, dtype="float32"),
}
fuzzing = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write_raw(path, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_was_written_is_read(tmp_path):
    write_arrays(tmp_path / "x.safetensors", ARRAYS)
    tensors = read_safetensors(tmp_path / "x.safetensors")
    assert tensors.shapes == {name: array.shape for name, array in ARRAYS.items()}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("F64", np.array([1.5, -2]), [1.5, -2]),
        ("F16", np.array([1.5, -2], "float16"), [1.5, -2]),
        ("BF16", np.array([0x3FC0, 0xC000], "uint16"), [1.5, -2]),
    ],
)
def test_every_float_dtype_is_read(kind, data, expected, tmp_path):
    path = write_raw(tmp_path / "x", {"t": entry(dtype=kind, offsets=(0, data.nbytes))}, data.tobytes())
    np.testing.assert_array_equal(read_safetensors(path)["t"], expected)


@pytest.mark.parametrize(("kind", "size"), [("I32", 8), ("F8_E4M3", 2), ("BOOL", 2)])
def test_other_tensors_may_lie_there_but_are_no_weights(kind, size, tmp_path):
    path = write_raw(tmp_path / "x", {"count": entry(dtype=kind, offsets=(0, size))}, bytes(size))
    tensors = read_safetensors(path)
    assert tensors.shapes == {"count": (2,)}
    with pytest.raises(WeightsError, match=f"count is of dtype {kind}"):
        tensors["count"]


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"t": entry(shape=(2**40, 2**40))}, 8, "overflow"),
        ({"t": entry(shape=(3,))}, 8, "invalid shape"),
        ({"t": entry(shape=(2**60,))}, 8, "overflow"),
        ({"t": entry(shape=(-2,))}, 8, "expected usize"),
        ({"t": entry(shape=(True, 2))}, 8, "expected usize"),
        ({"t": entry(shape=[1] * 99, offsets=(0, 4))}, 4, "'t' has 99 dimensions"),
        ({"t": entry(offsets=(0, 16))}, 8, "invalid shape"),
        ({"t": entry(offsets=(8, 0))}, 8, "invalid offset"),
        ({"t": entry(offsets=(0,))}, 8, "invalid length 1"),
        ({"t": entry(), "u": entry()}, 8, "invalid offset for tensor"),
        ({"t": entry(offsets=(4, 12))}, 12, "invalid offset"),
        ({"t": entry()}, 12, "file not fully covered"),
        ({"t": entry()}, 4, "file not fully covered"),
        ({"t": entry(dtype="F5")}, 8, "unknown variant `F5`"),
        ({"t": entry(dtype=["F32"])}, 8, "expected string or map"),
        ({"t": 1}, 0, "not a whole safetensors"),
        ([1], 0, "not a whole safetensors"),
        (b'{"t":1,"t":1}', 0, "not a whole safetensors"),
        (b"[" * 100_000, 0, "not a whole safetensors"),
        (b'{"t":' * 100_000, 0, "not a whole safetensors"),
        (b"\xff\xfe{}", 0, "not a whole safetensors"),
        (b"1" + b"0" * 10_000, 0, "not a whole safetensors"),
        (b"", 0, "not a whole safetensors"),
    ],
)
def test_a_hostile_header_is_refused_in_one_line(header, data, message, tmp_path):
    path = write_raw(tmp_path / "x", header, bytes(data))
    with pytest.raises(WeightsError, match=message) as error:
        read_safetensors(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_every_truncation_is_refused(tmp_path):
    write_arrays(tmp_path / "whole", ARRAYS)
    whole = (tmp_path / "whole").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(WeightsError):
            read_safetensors(tmp_path / "cut")


def test_a_header_longer_than_its_file_takes_no_memory(tmp_path):
    (tmp_path / "x").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(WeightsError, match="header too"):
        read_safetensors(tmp_path / "x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "F4"]) | json_values,
        "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=3) | json_values,
        "data_offsets": st.tuples(st.integers(0, 24), st.integers(0, 24)) | json_values,
    }
)


def assert_readable_or_refused(path, size):
    try:
        tensors = read_safetensors(path)
    except WeightsError as error:
        assert "\n" not in str(error)
        return
    for name in tensors:
        try:
            array = tensors[name]
        except WeightsError:
            continue
        assert array.dtype.kind == "f" and array.shape == tensors.shapes[name]
        assert array.nbytes <= 2 * size  # bfloat16 is widened


@fuzzing
@given(
    header=st.dictionaries(st.text(max_size=4), entries | json_values, max_size=3), size=st.integers(0, 24)
)
def test_a_random_header_is_read_within_its_bytes_or_refused(header, size, tmp_path):
    assert_readable_or_refused(write_raw(tmp_path / "x", header, bytes(size)), size)


@fuzzing
@given(position=st.integers(0, 10**4), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_within_the_file_or_refused(position, byte, tmp_path):
    write_arrays(tmp_path / "x", ARRAYS)
    data = bytearray((tmp_path / "x").read_bytes())
    data[position % len(data)] = byte
    (tmp_path / "x").write_bytes(data)
    assert_readable_or_refused(tmp_path / "x", len(data))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "one", "b": "two", "c": "one"}, "disagree on 1 tensors, such as c in one"),
        ({"a": "one", "b": "one"}, "disagree on 1 tensors, such as b in one"),
        ({"a": "two", "b": "one"}, "disagree"),
        ({"a": "one", "b": "three"}, "no file 'three'"),
        ({"a": "../outside", "b": "two"}, "no file '../outside'"),
        ({"a": "/etc/passwd", "b": "two"}, "no file '/etc/passwd'"),
        ({"a": ["one"], "b": "two"}, "must name a file"),
        (["a"], "must name a file"),
    ],
)
def test_an_index_that_does_not_match_its_files_is_refused(weight_map, message, tmp_path):
    (tmp_path / "folder").mkdir()
    for path, name in (("folder/one", "a"), ("folder/two", "b"), ("outside", "a")):
        write_arrays(tmp_path / path, {name: np.zeros(2, "float32")})
    index = tmp_path / "folder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match=message):
        read_sharded_safetensors(index)


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    write_arrays(tmp_path / "outside", {"a": np.zeros(2, "float32")})
    (tmp_path / "folder" / "one").symlink_to(tmp_path / "outside")
    index = tmp_path / "folder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one"}}))
    with pytest.raises(WeightsError, match="link out of its folder"):
        read_sharded_safetensors(index)
