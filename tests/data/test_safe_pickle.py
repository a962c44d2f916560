"""The restricted unpickler: what CIFAR needs comes out, everything else is refused before it runs."""

import io
import os
import pickle
import struct

import numpy as np
import pytest

from pliant.data import CorruptDataError, UnsafePickleError
from pliant.data.safe_pickle import read_pickle


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / "batch"
        path.write_bytes(content)
        return path

    return write_file


class Shell:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, ">i4", bool])
def test_arrays_survive_every_protocol(write, protocol, order, dtype):
    array = np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    content = {"data": array, "labels": [1, 2, 3], "name": "x"}
    read = read_pickle(write(pickle.dumps(content, protocol=protocol)))
    assert read["labels"] == [1, 2, 3]
    assert read["name"] == "x"
    assert read["data"].dtype == array.dtype
    np.testing.assert_array_equal(read["data"], array)


def test_a_file_of_python_2_has_bytes_for_keys(write):
    """The opcodes that Python 2 wrote for ``{"data": array([[1, 2]], uint8), "labels": [7]}``."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\nI2\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x01\\x02'\ntb"
    )
    read = read_pickle(write(b"(dS'data'\n" + array + b"sS'labels'\n(lI7\nas."))
    np.testing.assert_array_equal(read[b"data"], np.array([[1, 2]], dtype=np.uint8))
    assert read[b"labels"] == [7]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_a_command_is_refused_before_it_runs(write, tmp_path, protocol):
    path = write(pickle.dumps({"data": Shell(tmp_path / "mark")}, protocol=protocol))
    with pytest.raises(UnsafePickleError, match=r"batch: refused, it asks for (posix|nt)\.mkdir"):
        read_pickle(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "numpy load", "numpy.core.multiarray fromfile", "numpy ndarray.tofile", "os system"],
)
def test_names_beside_the_allowed_ones_are_refused(write, name):
    module, attribute = name.split()
    with pytest.raises(UnsafePickleError, match="refused, it asks for"):
        read_pickle(write(f"c{module}\n{attribute}\n.".encode()))


def test_arrays_of_objects_are_refused(write):
    content = pickle.dumps({"data": np.array([object, None], dtype=object)}, protocol=2)
    with pytest.raises(UnsafePickleError, match="refused"):
        read_pickle(write(content))


def test_a_foreign_codec_is_refused(write):
    with pytest.raises(UnsafePickleError, match="codec"):
        read_pickle(write(b"c_codecs\nencode\n(Vx\nVzlib\ntR."))


def test_a_builder_cannot_be_tampered_with(write):
    with pytest.raises(UnsafePickleError, match="sets the state"):
        read_pickle(write(b"c_codecs\nencode\n(N(dV__defaults__\n(tstb."))


def test_a_memo_slot_beyond_the_file_is_refused_before_memory_is_taken(write):
    with pytest.raises(CorruptDataError, match="memo slot"):
        read_pickle(write(b"]r" + struct.pack("<I", 2**31) + b"."))


def test_a_length_beyond_the_file_is_refused(write):
    with pytest.raises(CorruptDataError, match="not a readable pickle"):
        read_pickle(write(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc."))


def test_every_truncation_is_a_named_error(write):
    content = pickle.dumps({"data": np.zeros((2, 3), np.uint8), "labels": [0, 1]}, protocol=2)
    for length in range(len(content)):
        with pytest.raises(CorruptDataError, match="batch"):
            read_pickle(write(content[:length]))


def test_every_changed_byte_is_a_named_error_or_harmless(write):
    content = bytearray(pickle.dumps({"data": np.zeros((2, 3), np.uint8), "labels": [0, 1]}, protocol=2))
    generator = np.random.default_rng(0)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] = generator.integers(256)
        try:
            read_pickle(write(bytes(changed)))
        except CorruptDataError as error:
            assert "batch" in str(error)  # noqa: PT017 - either outcome is right, a foreign exception is not


def test_something_other_than_a_dictionary_is_refused(write):
    with pytest.raises(CorruptDataError, match="a dictionary is needed, found a list"):
        read_pickle(write(pickle.dumps([1, 2])))


def test_nested_containers_do_not_grow(write):
    deep = []
    for _ in range(60):
        deep = [deep, deep]
    buffer = io.BytesIO()
    pickle.dump({"x": deep}, buffer)
    assert list(read_pickle(write(buffer.getvalue()))) == ["x"]
