"""The file of maps: what was written is read, and what somebody changed is refused by name, seal renewed or not."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from l2a_transfer.errors import StoreError, UnknownNameError
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.store import MapsMeta, is_maps_file, open_maps, writing_maps
from l2a_transfer.features.store.reader import SEAL, USER_BLOCK, read_features
from l2a_transfer.preprocess import Preprocess
from tests.conftest import assert_fails, l2a
from tests.hostile_h5 import WRITTEN

SIZES = [(3, 4), (2, 2), (5, 1)]
META = MapsMeta("photos", ("ant", "bée"), {"name": "net"}, Preprocess().to_json(), {"side": 32, "class": "predicted"})
OPTIONS = {"evidence": {}, "occlusion": {"window": 8, "stride": 4, "baseline": 0.0}}


def pictures(n: int = 3) -> list[list[ImageMaps]]:
    rng = np.random.default_rng(0)
    found = []
    for k in range(n):
        h, w = SIZES[k % 3]
        signed = rng.normal(size=(h, w)).astype(np.float32)
        about: Any = {"target": k % 2, "probability": 0.25, "predicted": 1, "predicted_probability": 0.75}
        image = np.zeros((8, 8, 3), np.uint8)
        found.append(
            [
                ImageMaps(
                    f"{k}.jpg", image, {"L3": np.abs(signed)}, {"L3": "non-negative"}, method="evidence", **about
                ),
                ImageMaps(f"{k}.jpg", image, {"pixels": signed.T}, {"pixels": "signed"}, method="occlusion", **about),
            ]
        )
    return found


def save(path: Path, found: Iterable[list[ImageMaps]] | None = None) -> Path:
    with writing_maps(path, META, OPTIONS.__getitem__) as add:
        for maps in pictures() if found is None else found:
            add(maps)
    return path


def resealed(path: Path, content: bytes | None = None) -> Path:
    body = (path.read_bytes() if content is None else content)[USER_BLOCK:]
    seal = SEAL.pack(b"L2AMAPS\n", 1, len(body), hashlib.sha256(body).digest()).ljust(USER_BLOCK, b"\0")
    path.write_bytes(seal + body)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = pictures()
    with open_maps(save(tmp_path / "m.h5", found)) as file:
        assert file.meta == META
        assert (len(file), file.ids) == (3, ("0.jpg", "1.jpg", "2.jpg"))
        assert [(c.method, c.name, c.kind, c.options) for c in file.columns] == [
            ("evidence", "L3", "non-negative", {}),
            ("occlusion", "pixels", "signed", OPTIONS["occlusion"]),
        ]
        assert file.targets.tolist() == [0, 1, 0]
        assert file.predicted.tolist() == [1, 1, 1]
        assert file.probabilities.tolist() == [[0.25, 0.75]] * 3
        for row, maps in enumerate(found):
            np.testing.assert_array_equal(file.read(row, "evidence", "L3"), maps[0].maps["L3"])
            np.testing.assert_array_equal(file.read(row, "occlusion", "pixels"), maps[1].maps["pixels"])
        assert file.verify() == 2 * (12 + 4 + 5)
        with pytest.raises(
            UnknownNameError, match="map must be one of evidence/L3, occlusion/pixels; got 'evidence/L2'"
        ):
            file.read(0, "evidence", "L2")
        assert file.sha256 == hashlib.sha256((tmp_path / "m.h5").read_bytes()[512:]).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]


def test_plain_h5py_reads_it_as_the_format_says(tmp_path: Path) -> None:
    with h5py.File(save(tmp_path / "m.h5")) as file:
        assert file.attrs["schema"] == "l2a-maps/1"
        assert json.loads(file.attrs["maps"])[1]["kind"] == "signed"
        sizes = file["shapes"][:].prod(axis=2).ravel()
        values = file["values"][:]
        start = sizes[:3].sum()  # the second picture's second map
        np.testing.assert_array_equal(values[start : start + 4].reshape(2, 2), pictures()[1][1].maps["pixels"])


def test_the_example_of_the_format_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    *_, example = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    save(tmp_path / "maps.h5")
    monkeypatch.chdir(tmp_path)
    for n, m in ((0, 0), (0, 1), (2, 1)):
        found: dict[str, Any] = {}
        exec(compile(example.replace("n, m = 0, 0", f"n, m = {n}, {m}"), "format.md", "exec"), found)
        (expected,) = pictures()[n][m].maps.values()
        np.testing.assert_array_equal(found["values"], expected)


def test_many_pictures_take_several_chunks(tmp_path: Path) -> None:
    found = pictures(3)
    large = [
        [
            ImageMaps(
                f"{k}",
                maps.image,
                {name: np.full((700, 800), k, np.float32) for name in maps.maps},
                maps.kinds,
                maps.method,
            )
            for maps in found[0]
        ]
        for k in range(3)
    ]
    with open_maps(save(tmp_path / "m.h5", large)) as file:
        assert all((file.read(k, "occlusion", "pixels") == k).all() for k in range(3))
        assert file.targets.tolist() == [-1, -1, -1]
        assert np.isnan(file.probabilities).all()


@pytest.mark.parametrize("bad", ["two of one name", "another map", "nothing"])
def test_pictures_that_do_not_fit_together_leave_no_file(bad: str, tmp_path: Path) -> None:
    found = pictures(2)
    given = {"nothing": [], "another map": [found[0], found[1][:1]]}.get(bad, [found[0], found[0]])
    with pytest.raises(StoreError, match=r"m\.h5: "):
        save(tmp_path / "m.h5", given)
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_the_earlier_file(tmp_path: Path) -> None:
    before = save(tmp_path / "m.h5").read_bytes()

    def broken() -> Iterator[list[ImageMaps]]:
        yield pictures()[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save(tmp_path / "m.h5", broken())
    assert (tmp_path / "m.h5").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]


def test_files_of_another_kind_say_which(tmp_path: Path) -> None:
    path = save(tmp_path / "m.h5")
    assert is_maps_file(path)
    with pytest.raises(StoreError, match="not a feature file"):
        read_features(path)
    other = Path(__file__).parent / "data" / "features-v1.h5"
    assert not is_maps_file(other)
    with pytest.raises(StoreError, match="not a file of maps of l2a-transfer; create one with 'l2a-transfer explain'"):
        open_maps(other)
    assert_fails(l2a("svm-eval", path, "--out", tmp_path / "out"), 1, "not a feature file")


def test_each_changed_byte_is_seen(tmp_path: Path) -> None:
    path = save(tmp_path / "m.h5")
    content = path.read_bytes()
    for at in [*range(60), *range(60, len(content), 211)]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(StoreError, match=r"m\.h5: "):
            open_maps(path)
    path.write_bytes(content[:-1])
    with pytest.raises(StoreError, match="truncated"):
        open_maps(path)


def _overflowing(file: h5py.File) -> None:
    """Sizes that are 2⁶⁴ too many, which in 64 bits are as many as the file has."""
    most = 2**31 - 1
    assert 4 * most**2 + 2**34 + 38 == 2**64 + len(file["values"])
    file["shapes"][...] = [[[most, most], [most, most]]] * 2 + [[[2**17, 2**17], [1, 38]]]


CHANGES: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "another schema": (lambda file: file.attrs.__setitem__("schema", "l2a-maps/2"), "its schema must be"),
    "no card": (lambda file: file.attrs.__delitem__("card"), "card"),
    "a card that is a list": (lambda file: file.attrs.__setitem__("card", "[]"), "card"),
    "maps of another kind": (
        lambda file: file.attrs.__setitem__("maps", file.attrs["maps"].replace("signed", "sined")),
        "the kind of a map must be one of",
    ),
    "fewer maps": (
        lambda file: file.attrs.__setitem__("maps", json.dumps(json.loads(file.attrs["maps"])[:1])),
        "do not fit 3 pictures × 1 maps",
    ),
    "a name twice": (lambda file: file["ids"].__setitem__(0, b"1.jpg"), "/ids must differ"),
    "sizes that do not add up": (
        lambda file: file["shapes"].__setitem__((0, 0, 0), 4),
        "/shapes do not match the size",
    ),
    "no size": (lambda file: file["shapes"].__setitem__((0, 0, 0), 0), "/shapes"),
    "a negative size": (lambda file: file["shapes"].__setitem__((0, 0), -3), "/shapes"),
    "sizes whose sum overflows": (_overflowing, "/shapes do not match the size"),
    "a class that is not there": (lambda file: file["targets"].__setitem__(1, 2), "/targets must be between -1 and 1"),
    "a prediction below none": (lambda file: file["predicted"].__setitem__(0, -2), "/predicted must be between"),
    "two maps of one name": (
        lambda file: file.attrs.__setitem__("maps", json.dumps([json.loads(file.attrs["maps"])[0]] * 2)),
        "two maps have the same name",
    ),
    "a huge size": (
        lambda file: file["shapes"].__setitem__((0, 0), 2**31 - 1),
        "/shapes do not match the size",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_renewed_seal_does_not_help(change: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.h5")
    work, message = CHANGES[change]
    with h5py.File(path, "r+", libver=WRITTEN) as file:
        work(file)
    with pytest.raises(StoreError, match=message):
        open_maps(resealed(path))


@pytest.mark.parametrize(("value", "row"), [(float("nan"), 1), (float("inf"), 1), (-1.0, 0)])
def test_values_that_its_kind_does_not_have_are_refused_when_they_are_read(
    value: float, row: int, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.h5")
    with h5py.File(path, "r+", libver=WRITTEN) as file:
        file["values"][0 if row == 0 else 12] = value
    with open_maps(resealed(path)) as found, pytest.raises(StoreError, match=r"of '0\.jpg' is not (signed|non-neg)"):
        found.verify()
    assert_fails(l2a("inspect", "--verify", path), 1, "m.h5: ", "of '0.jpg' is not")
    assert l2a("inspect", path).exit_code == 0


def test_links_to_other_files_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.h5")
    with h5py.File(path, "r+", libver=WRITTEN) as file:
        del file["ids"]
        file["ids"] = h5py.ExternalLink("/etc/passwd", "/x")
    with pytest.raises(StoreError, match="is a soft or external link"):
        open_maps(resealed(path))


def test_random_changes_under_a_renewed_seal_end_in_our_error_or_in_maps(tmp_path: Path) -> None:
    path = save(tmp_path / "m.h5")
    content, rng = path.read_bytes(), random.Random(0)
    said = []
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 4))):
            changed[rng.randrange(USER_BLOCK, len(content))] = rng.randrange(256)
        try:
            with open_maps(resealed(path, bytes(changed))) as file:
                file.verify()
        except StoreError as error:
            said.append(str(error))
    assert len(said) > 20
    assert all(message.startswith(f"{path}: ") for message in said)
