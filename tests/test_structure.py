"""What libhdf5 is given of a feature file: the layout that the writer writes, and no more to read than is stored."""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.reader import open_store, read_features, read_maps
from l2a_transfer.features.store.schema import DATASETS, USER_BLOCK
from l2a_transfer.features.store.structure import check_structure
from l2a_transfer.features.store.verify import verify_features
from l2a_transfer.features.store.views import open_features
from l2a_transfer.features.store.writer import write_features
from tests.conftest import assert_fails, l2a
from tests.feature_files import feature_set, labels_of
from tests.hostile_h5 import (
    WRITTEN,
    blocks_of,
    lookup3,
    mutated_metadata,
    relist_array,
    resealed,
    save_feature_file,
    save_in_layout,
    save_one_chunk_many_times,
    with_checksum,
)

ROOT = Path(__file__).parents[1]
CRASH = ROOT / "tests" / "data" / "old-layout-crash.h5"
"""A file of HDF5's oldest layout with one byte changed and the seal renewed: libhdf5 2.0.0 dies of it."""
LIMITED = """
import resource, sys
from l2a_transfer.errors import StoreError
from l2a_transfer.features.store.reader import read_features
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (48 << 20),) * 2)
try:
    read_features(sys.argv[1])
except StoreError as error:
    print(error)
"""


def test_what_the_hash_of_hdf5_gives() -> None:
    # From the comment of `driver5` in Bob Jenkins's lookup3.c.
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


@pytest.mark.parametrize("of", ["features", "ids"])
@pytest.mark.parametrize("libver", ["earliest", WRITTEN])
def test_one_stored_chunk_that_is_listed_a_thousand_times_is_not_read(tmp_path: Path, libver: object, of: str) -> None:
    path = save_one_chunk_many_times(tmp_path / "f.h5", 1024, libver, of=of)
    with h5py.File(path) as file:
        assert file[of].size * file[of].dtype.itemsize > 50 * path.stat().st_size
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    said = "its superblock has version 0" if libver == "earliest" else f"/{of} declares"
    assert said in child.stdout


def test_two_chunks_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = save_in_layout(tmp_path / "f.h5", WRITTEN)
    with h5py.File(path) as file:
        first = file["features"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    relist_array(content, first.byte_offset - USER_BLOCK, first.size, chunks=5)
    path.write_bytes(resealed(bytes(content)))
    with h5py.File(path) as file:  # libhdf5 finds nothing wrong
        np.testing.assert_array_equal(file["features"][:5], file["features"][5:10])
    with pytest.raises(StoreError, match=r"f\.h5: corrupt .* belong to two blocks"):
        read_features(path)


def test_files_with_many_chunks_are_read(tmp_path: Path) -> None:
    found = read_features(save_in_layout(tmp_path / "f.h5", WRITTEN, rows=6000))  # more than 1,024: listed in pages
    assert found.features.shape == (6000, 6)
    assert len(set(found.ids)) == 6000


@pytest.mark.parametrize("libver", ["earliest", "v108"])
def test_layouts_that_the_writer_never_writes_are_refused(tmp_path: Path, libver: str) -> None:
    path = save_in_layout(tmp_path / "f.h5", libver)
    for read in (read_features, read_maps, open_features, verify_features, open_store):
        with pytest.raises(
            StoreError, match=r"f\.h5: corrupt or written by another program: its superblock has version"
        ):
            read(path)  # type: ignore[operator]


def test_a_changed_byte_of_an_old_layout_does_not_crash(tmp_path: Path) -> None:
    for command in (("inspect",), ("inspect", "--verify"), ("svm-eval", "--out", tmp_path / "out")):
        assert_fails(l2a(*command, CRASH), 1, f"{CRASH}: corrupt or written by another program")


@pytest.mark.parametrize("name", ["GCOL\x01", "GCOL\x01\x02", "OHDR\x02", "\x89HDF", "FADB"])
def test_an_id_that_looks_like_a_part_of_the_file_is_an_id(tmp_path: Path, name: str) -> None:
    found = feature_set(labels_of(2, 8))
    ids = tuple(f"{name}{k}"[:8] if k else name for k in range(9)) + tuple(f"long name {k}" for k in range(9, 16))
    write_features(
        tmp_path / "f.h5", found.meta, labels=found.labels, ids=ids, split=found.split, blocks=[found.features], dim=6
    )
    assert read_features(tmp_path / "f.h5").ids == ids


def two_texts_in_one_place(content: bytearray) -> None:
    """The attribute `tap` refers to the text that `precision` is."""
    at = content.index(b"tap\0")
    other = content.index(b"precision\0")
    place, source = (k + len(name) + 24 for k, name in ((at, b"tap\0"), (other, b"precision\0")))
    content[place : place + 16] = content[source : source + 16]


def a_link_to_the_root(content: bytearray) -> None:
    at = content.index(b"\x04maps") + 5
    content[at : at + 8] = struct.pack("<Q", 48)


def an_end_beyond_the_file(content: bytearray) -> None:
    content[USER_BLOCK + 28 : USER_BLOCK + 36] = struct.pack("<Q", len(content) + 8)


def an_extension(content: bytearray) -> None:
    content[USER_BLOCK + 20 : USER_BLOCK + 28] = struct.pack("<Q", 48)


def an_attribute_beyond_its_heap(content: bytearray) -> None:
    at = content.index(b"BTLF") + 6
    content[at + 1 : at + 6] = (1 << 20).to_bytes(5, "little")


def a_heap_of_many_rows(content: bytearray) -> None:
    at = content.index(b"FRHP")
    content[at + 140 : at + 142] = struct.pack("<H", 40)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (two_texts_in_one_place, "a string is missing from its heap"),
        (a_link_to_the_root, "the bytes at 48 belong to two blocks"),
        (an_end_beyond_the_file, "the sizes in its superblock do not match the file"),
        (an_extension, "the sizes in its superblock do not match the file"),
        (an_attribute_beyond_its_heap, "an attribute is missing from its heap"),
        (a_heap_of_many_rows, "the heap of attributes is larger than expected"),
    ],
)
def test_metadata_with_renewed_checksums(tmp_path: Path, change: Callable[[bytearray], None], words: str) -> None:
    path = save_feature_file(tmp_path / "f.h5")
    blocks = blocks_of(path)
    content = bytearray(path.read_bytes())
    change(content)
    for at, size in blocks:
        with_checksum(content, at, size)
    path.write_bytes(resealed(bytes(content)))
    with pytest.raises(StoreError, match=rf"f\.h5: corrupt or written by another program: .*{words}"):
        check_structure(path)


def test_checksums_are_renewed_as_libhdf5_computes_them(tmp_path: Path) -> None:
    path = save_in_layout(tmp_path / "f.h5", WRITTEN)
    content = bytearray(path.read_bytes())
    for at, size in blocks_of(path):
        with_checksum(content, at, size)
    assert bytes(content) == path.read_bytes()


def read_in_child(path: Path) -> str:
    """What reading everything of a file comes to, in a process with 20 s and 1 GiB more than this one."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), held + (1 << 30)))
        said = "read"
        try:
            read_features(path)
            read_maps(path)
            verify_features(path)
        except StoreError:
            said = "refused"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(send, said.encode()[:1000])
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said or f"ended with status {status}"


def outcomes(folder: Path, cases: int) -> set[str]:
    path, case = save_in_layout(folder / "f.h5", WRITTEN), folder / "case.h5"
    content, blocks = path.read_bytes(), blocks_of(path)
    found = set()
    for k in range(cases):
        case.write_bytes(mutated_metadata(content, blocks, random.Random(k)))
        found.add(read_in_child(case))
    return found


OUTCOMES = """
import sys
from pathlib import Path
from tests.test_structure import outcomes
print(sorted(outcomes(Path(sys.argv[1]), 60)))
"""


def test_mutated_metadata_with_renewed_checksums_end_in_a_named_error_or_are_read(tmp_path: Path) -> None:
    # In a process of its own: a fork of one in which torch has started threads could hang.
    child = subprocess.run(
        [sys.executable, "-c", OUTCOMES, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert (child.stdout, child.stderr) == ("['read', 'refused']\n", "")


def test_a_file_of_another_program_that_keeps_to_the_layout_is_read(tmp_path: Path) -> None:
    """Numbers and texts of fixed length as further attributes, a further data set, a root group with time stamps."""
    path = save_feature_file(tmp_path / "f.h5", maps=False)
    with h5py.File(path, "r+", libver=WRITTEN) as file:
        file.attrs["more"] = [1.5, 2.5]
        file.attrs["text"] = np.bytes_(b"abc")
        file.attrs["many"] = ["a", "", "c"]
        file.create_dataset("other", data=np.arange(3))
    path.write_bytes(resealed(path.read_bytes()))
    assert len(read_features(path).ids) == 24


def external(file: h5py.File, name: str) -> None:
    file.create_dataset(name, shape=(24,), dtype="u1", external=[("/etc/hostname", 0, 24)])


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((24,), "u1")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (24,))
    file.create_virtual_dataset(name, layout)


def compressed(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=np.zeros(24, "u1"), chunks=(24,), compression="gzip")


@pytest.mark.parametrize("name", [*DATASETS, "maps/L3"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external, "stores its values in other files"),
        (virtual, "stores its values in other files"),
        (compressed, "fletcher32 as its only filter"),
    ],
)
def test_no_data_set_that_is_read_may_be_stored_in_another_way(
    tmp_path: Path, name: str, change: Callable[[h5py.File, str], None], words: str
) -> None:
    path = save_feature_file(tmp_path / "f.h5")
    with h5py.File(path, "r+", libver=WRITTEN) as file:
        if name in file:
            del file[name]
        change(file, name)
    path.write_bytes(resealed(path.read_bytes()))
    with pytest.raises(StoreError, match=words):
        read_features(path)
