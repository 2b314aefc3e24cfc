"""CIFAR's pickles are read by a parser of their own opcodes: the same arrays as by pickle, and nothing else."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2a_transfer.data.cifar import MAX_FILE_BYTES, read_cifar
from l2a_transfer.data.cifar_pickle import read_plain
from l2a_transfer.errors import DataError
from l2a_transfer.pickles import MAX_STEPS, NotPlainError
from tests.hostile import PICKLES, forged_cifar_batch

BATCH = {
    b"batch_label": b"training batch 1 of 5",
    b"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072),
    b"labels": [3, 300],
    b"filenames": [b"a.png", "ü.png"],
    b"more": (1, -2, None, True),
    b"none": (),
}
READ = """
import pathlib, sys
from l2a_transfer.data.cifar import read_cifar

read_cifar("cifar10", pathlib.Path(sys.argv[1]), "test")
"""


def folder_with(root: Path, batch: bytes) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(batch)
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat"] * 10}, 2))
    return folder


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_each_protocol_gives_what_pickle_gives(protocol: int, order: Any) -> None:
    batch = {**BATCH, b"data": np.array(BATCH[b"data"], order=order)}
    content = pickle.dumps(batch, protocol)
    found, expected = read_plain(content), pickle.loads(content, encoding="bytes")  # noqa: S301 - our own bytes
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found.pop(b"data"), expected.pop(b"data"), strict=True)
    assert found == expected


def test_the_opcodes_of_python_2_are_read() -> None:
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T\x06\x00\x00\x00abcdeftb"
    )
    found = read_plain(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x07M\x00\x01eu.")
    assert found[b"data"].tolist() == [[97, 98, 99], [100, 101, 102]]
    assert found[b"labels"] == [7, 256]


def test_a_forged_dtype_cannot_make_numpy_follow_an_address(tmp_path: Path) -> None:
    folder_with(tmp_path, forged_cifar_batch())
    # In a process of its own, because what it guards against ends the process.
    child = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=False)
    assert child.returncode == 1, child
    assert "test_batch: not a CIFAR file, or corrupt: it calls dtype" in child.stderr


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("memo", "'data' must be uint8 rows"),
        ("string", "ends after 13 bytes"),
        ("key", "text or bytes as its keys"),
        ("encoded", "encodes to more bytes than its own size"),
    ],
)
def test_a_small_pickle_that_asks_for_much_is_refused(tmp_path: Path, kind: str, words: str) -> None:
    folder_with(tmp_path, PICKLES[kind]())
    with pytest.raises(DataError, match=rf"test_batch: .*{words}"):
        read_cifar("cifar10", tmp_path, "test")


def _twice(levels: int) -> bytes:
    """A dictionary that holds the one below two times, and so on."""
    if not levels:
        return b"}q\x00"
    return b"}(U\x01a" + _twice(levels - 1) + b"U\x01bh" + bytes([levels - 1]) + b"uq" + bytes([levels])


@pytest.mark.parametrize(
    "content",
    [
        b"}U\x01a" * 100_000 + b"}" + b"s" * 100_000,
        b"}q\x00U\x01ah\x00s",
        b"}U\x01a]q\x00h\x00as",
        b"}U\x01a(" + b")" + b"\x85" * 100_000 + b"ts",
        b"}U\x01a}s",
        b"]",
        _twice(60),
    ],
    ids=["deep", "itself", "list in itself", "deep tuples", "one in another", "no dictionary", "each twice"],
)
def test_containers_in_each_other_are_refused(tmp_path: Path, content: bytes) -> None:
    folder_with(tmp_path, b"\x80\x02" + content + b".")
    # In a process of its own, with little time: what it guards against does not end.
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n{READ}"
    child = subprocess.run([sys.executable, "-c", limited, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "DataError" in child.stderr
    assert "test_batch: not a CIFAR file, or corrupt: expected a dictionary" in child.stderr


class Called:
    def __reduce__(self) -> Any:
        return dict, ()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": Called()}),
        pickle.dumps({b"data": np.zeros(3, dtype=np.float32)}, 4),
        pickle.dumps({b"data": np.zeros(3, dtype=[("a", "u1")])}, 4),
        pickle.dumps({b"data": np.array([{}])}, 4),
        pickle.dumps({b"data": np.uint8(3)}, 4),
        pickle.dumps({b"data": 1.5}, 4),
        pickle.dumps({b"data": 1 << 40}, 4),
        pickle.dumps({b"data": {1}}, 4),
        pickle.dumps({b"data": b""}, 1),
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\nndarray\n}b.",
        b"\x80\x02ccollections\nOrderedDict\n.",
        b"\x80\x02h\x00.",
        b"\x80\x02e.",
        b"\x80\x02(.",
        b"\x80\x02NN.",
        b"\x80\x02N",
        b"\x80\x02c" + b"x" * 1000,
        b"\x80\x02X\x01\x00\x00\x00\xff.",
    ],
)
def test_what_no_cifar_file_has_is_refused(content: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"opcode|ends|asks for|calls|missing|used before|array|left over|decode|begin|name"
    ):
        read_plain(content)


def test_the_bytes_of_an_array_are_as_many_as_its_shape_says() -> None:
    content = pickle.dumps({b"data": np.zeros((2, 3), dtype=np.uint8)}, 2)
    assert content.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(NotPlainError, match="another size than its 6 bytes"):
        read_plain(content.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))
    with pytest.raises(NotPlainError, match="another size"):
        read_plain(content.replace(b"K\x02K\x03\x86", b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86"))


def test_the_steps_of_a_file_are_counted() -> None:
    with pytest.raises(NotPlainError, match="opcodes"):
        read_plain(b"\x80\x02" + b"N" * MAX_STEPS)


def test_a_file_larger_than_any_of_cifar_is_not_read(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, b"")
    with (folder / "test_batch").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + (1 << 20))
    with pytest.raises(DataError, match=r"test_batch: .* at most 1,073,741,824 are read"):
        read_cifar("cifar10", tmp_path, "test")


@pytest.mark.parametrize("labels", [[True, 1], [1, b"2"], [None, 1]])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, labels: list[Any]) -> None:
    batch = {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": labels}
    folder_with(tmp_path, pickle.dumps(batch, 2))
    with pytest.raises(DataError, match="test_batch: labels must be whole numbers"):
        read_cifar("cifar10", tmp_path, "test")


@given(st.data())
def test_a_mutated_pickle_is_a_value_error_or_plain(data: st.DataObject) -> None:
    base = bytearray(pickle.dumps(BATCH, data.draw(st.sampled_from([2, 4]))))
    for _ in range(data.draw(st.integers(1, 6))):
        base[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        assert not callable(read_plain(bytes(base)))
