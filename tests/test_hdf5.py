"""The HDF5 files that Keras writes: arrays, attributes, groups, and what is refused."""

import struct

import numpy as np
import pytest
from keras_builders import h5py

import clstm
from clstm.interop.hdf5 import open_hdf5


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "<i4", ">u2"])
def test_hdf5_arrays(tmp_path, rng, version, dtype):
    arrays = {
        f"a{i}": rng.integers(0, 100, shape).astype(dtype) for i, shape in enumerate([(), (3,), (2, 0), (2, 3, 4)])
    }
    with h5py.File(tmp_path / "m.h5", "w", libver=version) as file:
        for name, array in arrays.items():
            file[f"deep/er/{name}"] = array
    root = open_hdf5((tmp_path / "m.h5").read_bytes())
    for name, array in arrays.items():
        found = root[f"deep/er/{name}"].read()
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_hdf5_attributes(tmp_path, version):
    values = {"text": "åß∂" * 3000, "bytes": b"plain", "list": ["one", "two", ""], "fixed": np.array([b"ab", b"c"])}
    with h5py.File(tmp_path / "m.h5", "w", libver=version) as file:
        file.attrs.update(values | {"number": 3, "numbers": np.arange(4)})
    expected = {"text": values["text"], "bytes": "plain", "list": ["one", "two", ""], "fixed": ["ab", "c"]}
    assert open_hdf5((tmp_path / "m.h5").read_bytes()).attributes == expected


def test_hdf5_groups_with_many_members(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for i in range(1000):
            file[f"group/{i}"] = np.float32(i)
    group = open_hdf5((tmp_path / "m.h5").read_bytes()).group("group")
    assert set(group) == {str(i) for i in range(1000)}
    assert [float(group[str(i)].read()) for i in (0, 500, 999)] == [0, 500, 999]


def hostile(kind, file):
    if kind == "compressed":
        file.create_dataset("a", data=np.zeros((100, 100)), compression="gzip")
    elif kind == "in pieces":
        file.create_dataset("a", shape=(2**20, 2**20), dtype="f", chunks=(64, 64))
    elif kind == "never written":
        file.create_dataset("a", shape=(2**20, 2**20), dtype="f")
    elif kind == "in another file":
        file.create_dataset("a", shape=(2,), dtype="f", external="/etc/passwd")
    elif kind == "link to another file":
        file["a"] = h5py.ExternalLink("/etc/passwd", "/")
    elif kind == "link":
        file["a"] = h5py.SoftLink("/b")
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape=(4,), dtype="f")
        layout[:] = h5py.VirtualSource("other.h5", "x", shape=(4,))
        file.create_virtual_dataset("a", layout)
    elif kind == "complex":
        file["a"] = np.zeros(3, complex)
    elif kind == "text":
        file["a"] = "text"


REFUSED = {
    "compressed": "arrays that are compressed",
    "in pieces": "only arrays in one piece",
    "never written": "lie outside",
    "in another file": "or in other files",
    "link to another file": "there is no 'a'",
    "link": "there is no 'a'",
    "virtual": "only arrays in one piece",
    "complex": "only arrays of integers",
    "text": "only arrays of integers",
    "absent": "there is no 'a'",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_hdf5_arrays_that_are_not_in_the_file_are_refused(tmp_path, kind):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hostile(kind, file)
    with pytest.raises((ValueError, NotImplementedError), match=f"HDF5: .*({REFUSED[kind]})"):
        open_hdf5((tmp_path / "m.h5").read_bytes())["a"].read()


def test_a_group_inside_itself_ends(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("layers/a")
        group["b"] = file["layers"]
    with pytest.raises(ValueError, match="more than 12 deep"):
        clstm.from_keras(tmp_path / "m.h5")


def test_a_text_that_is_pointed_to_again_and_again_is_refused(tmp_path):
    """A thousand attributes of one long text: a small file that asks for gigabytes."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(["x" * 10**6] + ["short"] * 1000, h5py.string_dtype())
    content = path.read_bytes()
    start = content.index(struct.pack("<I", 10**6))  # length, address and index of the first text
    path.write_bytes(content.replace(content[start + 16 : start + 1001 * 16], content[start : start + 16] * 1000, 1))
    with pytest.raises(ValueError, match="attributes hold more than 16 times the file"):
        clstm.from_keras(path)
