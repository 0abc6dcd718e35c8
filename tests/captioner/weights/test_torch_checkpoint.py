"""PyTorch checkpoints without PyTorch: both layouts are read; whatever could run or overwhelm is refused."""

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from captioner.weights import WeightsError, read_torch_checkpoint
from captioner.weights.state_dict_pickle import read_pickle

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint16": "BFloat16Storage",
}


class FakeTensor:
    """Pickles as PyTorch's tensors do: a call of `_rebuild_tensor_v2` on a storage reference."""

    def __init__(self, array, key, *, offset=0, shape=None, strides=None, numel=None):
        self.array, self.key = array, key
        self.numel = array.size if numel is None else numel
        strides = strides or tuple(s // array.itemsize for s in array.strides)
        self.arguments = (offset, shape or array.shape, strides, False, collections.OrderedDict())


class FakeTorchPickler(pickle.Pickler):
    def __init__(self, file, torch):
        super().__init__(file, protocol=2)
        self.torch = torch

    def persistent_id(self, item):
        if isinstance(item, tuple) and item[:1] == ("a storage",):
            tensor = item[1]
            kind = getattr(self.torch, STORAGES[tensor.array.dtype.name])
            return ("storage", kind, tensor.key, "cpu", tensor.numel)
        return None

    def reducer_override(self, item):
        if isinstance(item, FakeTensor):
            return self.torch._utils._rebuild_tensor_v2, (("a storage", item), *item.arguments)
        return NotImplemented


@pytest.fixture
def pickled(monkeypatch):
    """Pickles with stand-ins for PyTorch's names, as no PyTorch is needed here."""

    def rebuild(*arguments):
        raise AssertionError("the stand-in is only named, never called")

    def dump(item):
        torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = (
            utils.__name__,
            *["_rebuild_tensor_v2"] * 2,
        )
        torch._utils, utils._rebuild_tensor_v2 = utils, rebuild
        for name in STORAGES.values():
            setattr(torch, name, type(name, (), {"__module__": "torch"}))
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", torch)
            patch.setitem(sys.modules, "torch._utils", utils)
            file = io.BytesIO()
            FakeTorchPickler(file, torch).dump(item)
        return file.getvalue()

    return dump


def legacy_header():
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))


def write_legacy(path, state_pickle, storages):
    data = legacy_header() + state_pickle + pickle.dumps(sorted(storages), 2)
    for key in sorted(storages):
        data += struct.pack("<q", storages[key].size) + storages[key].tobytes()
    path.write_bytes(data)


def write_zip(path, state_pickle, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", state_pickle)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


WRITERS = pytest.mark.parametrize("write", [write_legacy, write_zip])
WEIGHT = np.arange(6, dtype="float32").reshape(2, 3)
STEPS = np.array(7, dtype="int64")


@WRITERS
def test_a_state_dict_comes_back_by_name_in_its_order(write, pickled, tmp_path):
    state = collections.OrderedDict(weight=FakeTensor(WEIGHT, "1"), steps=FakeTensor(STEPS, "0"))
    write(tmp_path / "model.pth", pickled(state), {"1": WEIGHT, "0": STEPS})
    tensors = read_torch_checkpoint(tmp_path / "model.pth")
    assert list(tensors) == ["weight", "steps"]
    np.testing.assert_array_equal(tensors["weight"], WEIGHT)
    assert (tensors["steps"].dtype, tensors["steps"].shape, tensors["steps"][()]) == (np.int64, (), 7)


@WRITERS
def test_views_into_one_storage_follow_offset_and_strides(write, pickled, tmp_path):
    row = FakeTensor(WEIGHT, "0", offset=3, shape=(3,), strides=(1,))
    turned = FakeTensor(WEIGHT, "0", shape=(3, 2), strides=(1, 3))
    write(tmp_path / "model.pth", pickled({"row": row, "turned": turned}), {"0": WEIGHT})
    tensors = read_torch_checkpoint(tmp_path / "model.pth")
    np.testing.assert_array_equal(tensors["row"], WEIGHT[1])
    np.testing.assert_array_equal(tensors["turned"], WEIGHT.T)


@WRITERS
def test_bfloat16_comes_as_float32(write, pickled, tmp_path):
    bits = np.array([0x3FC0, 0xC000], dtype="uint16")  # 1.5 and -2
    write(tmp_path / "model.pth", pickled({"x": FakeTensor(bits, "0")}), {"0": bits})
    x = read_torch_checkpoint(tmp_path / "model.pth")["x"]
    assert x.dtype == np.float32
    assert x.tolist() == [1.5, -2.0]


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@WRITERS
@pytest.mark.parametrize("call", [(os.system, "touch {}"), (eval, "open({!r}, 'w')"), (getattr, {}, "clear")])
def test_a_pickle_that_calls_anything_is_refused_and_nothing_runs(write, call, tmp_path):
    proof = tmp_path / "it_ran"
    function, *arguments = call
    arguments = [a.format(str(proof)) if isinstance(a, str) else a for a in arguments]
    write(tmp_path / "model.pth", pickle.dumps({"w": Malicious(function, *arguments)}, 2), {})
    with pytest.raises(
        WeightsError, match=r"model.pth: the file asks for .*(system|eval|getattr).*refused"
    ) as error:
        read_torch_checkpoint(tmp_path / "model.pth")
    assert "\n" not in str(error.value)
    assert not proof.exists()


def test_a_file_cut_anywhere_is_refused(pickled, tmp_path):
    path = tmp_path / "model.pth"
    write_legacy(path, pickled({"weight": FakeTensor(WEIGHT, "0")}), {"0": WEIGHT})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_torch_checkpoint(path)


def test_a_cut_zip_file_is_refused(pickled, tmp_path):
    path = tmp_path / "model.pth"
    write_zip(path, pickled({"weight": FakeTensor(WEIGHT, "0")}), {"0": WEIGHT})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(WeightsError, match=r"model\.pth"):
        read_torch_checkpoint(path)


def test_a_compressed_zip_file_is_refused_as_it_may_be_a_bomb(pickled, tmp_path):
    zeros = np.zeros(10**6, dtype="float32")
    state = pickled({"zeros": FakeTensor(zeros, "0")})
    write_zip(tmp_path / "bomb.pth", state, {"0": zeros}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed"):
        read_torch_checkpoint(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "shape, strides, offset",
    [
        ((10**6, 10**6), (0, 0), 0),
        ((3, 3), (3, 1), 0),
        ((2, 3), (3, 1), 1),
        ((2,), (-1,), 3),
        ((2, 3), (1,), 0),
    ],
)
@WRITERS
def test_a_tensor_that_is_not_inside_its_storage_is_refused(write, shape, strides, offset, pickled, tmp_path):
    tensor = FakeTensor(WEIGHT, "0", shape=shape, strides=strides, offset=offset)
    write(tmp_path / "model.pth", pickled({"w": tensor}), {"0": WEIGHT})
    with pytest.raises(WeightsError, match="'w' does not lie inside its storage"):
        read_torch_checkpoint(tmp_path / "model.pth")


@WRITERS
def test_a_storage_that_claims_more_than_the_file_holds_is_refused(write, pickled, tmp_path):
    tensor = FakeTensor(WEIGHT, "0", shape=(10**10,), strides=(1,), numel=10**10)
    write(tmp_path / "model.pth", pickled({"w": tensor}), {"0": WEIGHT})
    with pytest.raises(WeightsError, match="10000000000"):
        read_torch_checkpoint(tmp_path / "model.pth")["w"]


def test_one_storage_under_types_of_two_sizes_is_refused(pickled, tmp_path):
    path, halves = tmp_path / "model.pth", np.arange(6, dtype="float16")
    state = collections.OrderedDict(
        wide=FakeTensor(halves.astype("int64"), "0"), narrow=FakeTensor(halves, "0")
    )
    write_legacy(path, pickled(state), {"0": halves})
    tensors = read_torch_checkpoint(path)
    np.testing.assert_array_equal(tensors["narrow"], halves)
    with pytest.raises(WeightsError, match="'wide' wants 6 elements of its storage; 1 are there"):
        tensors["wide"]


def test_a_file_that_is_cut_after_it_was_opened_is_refused(pickled, tmp_path):
    path = tmp_path / "model.pth"
    write_legacy(path, pickled({"weight": FakeTensor(WEIGHT, "0")}), {"0": WEIGHT})
    tensors = read_torch_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(
        WeightsError, match=r"model\.pth: tensor 'weight' wants 6 elements of its storage; 4 are"
    ):
        tensors["weight"]


def test_a_flipped_byte_of_a_zip_file_is_refused(pickled, tmp_path):
    path = tmp_path / "model.pth"
    write_zip(path, pickled({"weight": FakeTensor(WEIGHT, "0")}), {"0": WEIGHT})
    path.write_bytes(path.read_bytes().replace(WEIGHT.tobytes(), (WEIGHT + 1).tobytes()))
    with pytest.raises(WeightsError, match=r"model\.pth: storage archive/data/0 is damaged"):
        read_torch_checkpoint(path)["weight"]


def test_a_storage_that_says_to_be_encrypted_is_refused(pickled, tmp_path):
    path = tmp_path / "model.pth"
    write_zip(path, pickled({"weight": FakeTensor(WEIGHT, "0")}), {"0": WEIGHT})
    data = bytearray(path.read_bytes())
    entry = data.index(
        b"PK\x01\x02", data.index(b"PK\x01\x02") + 1
    )  # of the central directory, the storage's
    while not data[entry + 46 :].startswith(b"archive/data/0"):
        entry = data.index(b"PK\x01\x02", entry + 1)
    data[entry + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.pth: storage archive/data/0 is damaged: .*encrypted"):
        read_torch_checkpoint(path)["weight"]


SHARED = b"))\x86q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple of 2^61 empty ones
NESTED = b"(" * 10**6 + b"t" * 10**6
COLLIDING = b"".join(b"\x8a\x10" + (n * (2**61 - 1)).to_bytes(16, "little") + b"N" for n in range(1, 10**5))
"""Keys of dictionaries: one whose hash takes forever, one whose hash ends the process, and many with one hash."""


@WRITERS
@pytest.mark.parametrize(
    "keys", [b"(" + SHARED + b"Nu", b"(" + NESTED + b"Nu", b"(" + COLLIDING + b"u", SHARED + b"Ns"]
)
def test_keys_that_would_take_forever_are_refused(write, keys, tmp_path):
    write(tmp_path / "model.pth", b"\x80\x02}" + keys + b".", {})
    with pytest.raises(WeightsError, match=r"model\.pth: a dictionary in the pickle whose keys"):
        read_torch_checkpoint(tmp_path / "model.pth")


@WRITERS
@pytest.mark.parametrize("what", [{"a set"}, frozenset(), b"bytes", complex(1, 2)])
def test_what_no_state_dict_holds_is_refused(write, what, tmp_path):
    write(tmp_path / "model.pth", pickle.dumps({"w": what}, 4), {})
    with pytest.raises(WeightsError, match=r"model\.pth: .*(instruction|the file asks for)"):
        read_torch_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "item",
    [
        {"epoch": 3, "rates": [0.5, 1e-3], "shape": (1, 2, 3, 4), "done": (True, False, None), 0: {}},
        ["x" * 300, "\u00e9", -1, 255, 70_000, 2**62, -(2**62), (), (1,), (1, 2), (1, 2, 3), [], {}],
        (shared := ["one list"], shared, [[shared]]),
        collections.OrderedDict(a=1, b=collections.OrderedDict()),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_read_as_by_python(item, protocol):
    data = pickle.dumps(item, protocol)
    assert read_pickle(data + b"more") == (item, len(data))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps([1, 2]), pickle.dumps({"w": 1})])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.pth"):
        read_torch_checkpoint(tmp_path / "model.pth")


@WRITERS
def test_a_checkpoint_of_other_things_than_tensors_is_refused(write, tmp_path):
    write(tmp_path / "model.pth", pickle.dumps({"epoch": 3}, 2), {})
    with pytest.raises(WeightsError, match="'epoch' is not a named tensor"):
        read_torch_checkpoint(tmp_path / "model.pth")
