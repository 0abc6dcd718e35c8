"""HDF5 weights: plain float datasets are read; links and other tricks are refused."""

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioner.weights import WeightsError, read_hdf5

WEIGHT = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["model/h_._0/weight:0"] = WEIGHT
        file.create_group("empty")
    return tmp_path / "x.h5"


def test_datasets_are_read_by_their_path(path):
    tensors = read_hdf5(path)
    assert tensors.shapes == {"model/h_._0/weight:0": (2, 3)}
    np.testing.assert_array_equal(tensors["model/h_._0/weight:0"], WEIGHT)


def soft_link(file):
    file["alias"] = h5py.SoftLink("/model/h_._0/weight:0")


def external_link(file):
    file["alias"] = h5py.ExternalLink("other.h5", "/secret")


def external_storage(file):
    file.create_dataset("t", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "t", (2,))
    file.create_virtual_dataset("t", layout)


def bomb(file):
    file.create_dataset("t", (2**40,), "f4", chunks=(2**20,), compression="gzip")


def never_written(file):
    file.create_dataset("t", (2**40,), "f4")


def integers(file):
    file["t"] = np.arange(3)


def endless(file):
    file["model/again"] = file["/"]  # a hard link to its own parent


def two_names(file):
    file["alias"] = file["model/h_._0/weight:0"]


def countless_paths(file):
    """30 groups, two links from each to the next: a walk along all paths would take days."""
    group = file.create_group("start")
    for _ in range(30):
        group["a"] = group["b"] = file.create_group(None)
        group = group["a"]


def nested(file):
    file.create_group("/".join("a" * 40))


@pytest.mark.parametrize(
    ("trick", "message"),
    [
        (soft_link, "alias is a link"),
        (external_link, "alias is a link"),
        (external_storage, "stored elsewhere"),
        (virtual, "stored elsewhere"),
        (bomb, "compressed"),
        (never_written, "does not lie inside the file"),
        (integers, "dtype int64"),
        (endless, "model/again/ is there by another name too"),
        (two_names, "is there by another name too"),
        (countless_paths, "is there by another name too"),
        (nested, "nested too deeply"),
    ],
)
def test_what_no_writer_of_weights_makes_is_refused(trick, message, path):
    with h5py.File(path, "a") as file:
        trick(file)
    with pytest.raises(WeightsError, match=message) as error:
        read_hdf5(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x89HDF", b"PK" * 99])
def test_a_file_that_is_not_hdf5_is_refused(content, tmp_path):
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(WeightsError, match="not a whole HDF5 file"):
        read_hdf5(tmp_path / "x.h5")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 10**4))
def test_a_truncated_file_is_refused(size, path):
    data = path.read_bytes()
    cut = path.with_name("cut.h5")
    cut.write_bytes(data[: size % len(data)])
    with pytest.raises(WeightsError):
        read_hdf5(cut)["model/h_._0/weight:0"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.h5: there is no such file"):
        read_hdf5(tmp_path / "none.h5")
