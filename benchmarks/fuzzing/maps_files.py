"""Files of maps: changed anywhere, or changed in their structure with a renewed seal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from fuzzing import hdf5
from fuzzing.kinds import Damage, Kind, sha256
from fuzzing.mutate import NAMES, damaged_json, mutate_file, pick, special_file
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.store import JSON, KIND, MapsMeta, open_maps, writing_maps
from l2a_transfer.features.store.container import seal
from l2a_transfer.preprocess import Preprocess

SIZES = ((3, 4), (2, 2), (5, 1))
DATASETS = ("values", "shapes", "ids", "targets", "predicted", "probabilities")


def write_whole(path: Path, rows: int) -> None:
    """Maps of two methods for `rows` pictures of different sizes."""
    rng = np.random.default_rng(0)
    meta = MapsMeta("photos", ("ant", "bée"), {"name": "net"}, Preprocess().to_json(), {"side": 32})
    with writing_maps(path, meta, lambda method: {"window": 8} if method == "occlusion" else {}) as add:
        for k in range(rows):
            values = rng.normal(size=SIZES[k % len(SIZES)]).astype(np.float32)
            about: dict[str, Any] = {"predicted": 1, "predicted_probability": 0.75}
            about |= {"target": k % 2, "probability": 0.25, "image": np.zeros((8, 8, 3), np.uint8)}
            evidence = {"maps": {"L3": np.abs(values)}, "kinds": {"L3": "non-negative"}, "method": "evidence"}
            occlusion = {"maps": {"pixels": values.T}, "kinds": {"pixels": "signed"}, "method": "occlusion"}
            add([ImageMaps(f"a/{k}.jpg", **about, **own) for own in (evidence, occlusion)])


def seeds(folder: Path) -> None:
    for rows in (1, 3, 40):
        write_whole(folder / f"maps-{rows}.h5", rows)


def answer(path: Path) -> str:
    with open_maps(path) as file:
        file.verify()
        described = {**file.describe(), "sha256": "", "bytes": 0}
        maps = [file.read(row, own.method, own.name) for row in range(min(len(file), 50)) for own in file.columns]
        assert all(np.isfinite(values).all() and values.ndim == 2 for values in maps), "no maps"
        K = max(len(file.meta.classes), 1)
        assert ((file.targets >= -1) & (file.targets < K) & (file.predicted < K)).all(), "no such class"
        return sha256(json.dumps(described), file.ids, file.targets, file.predicted, file.probabilities, *maps)


def _sealed_again(way: Damage) -> Damage:
    """The damage, followed by this format's seal."""

    def damage(path: Path, rng: Random) -> str:
        done = way(path, rng)
        with open(path, "r+b", buffering=0) as file:
            seal(file, KIND)
        return done

    return damage


def _attribute(path: Path, rng: Random) -> str:
    key = rng.choice(("schema", "data", *JSON))
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        changed = damaged_json(json.loads(file.attrs[key]), rng) if key in JSON else rng.choice(NAMES)
        file.attrs[key] = changed.replace("\0", "").encode(errors="replace").decode()
    return key


def _dataset(path: Path, rng: Random) -> str:
    """A dataset with other numbers, or of another length, type or shape."""
    name = rng.choice(DATASETS)
    special: dict[str, tuple[Any, ...]] = {
        "f": (np.nan, np.inf, -np.inf, -1, 1e-45, 2),
        "i": (-(2**31), 2**31 - 1, 2**30, 1 << 16, 0, -1, -2, 2, 12),
        "S": (b"", b"\xff", b"a/1.jpg", b"..", b"\x1b[2J", b"a\nb"),
    }
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        own = file[name][:]
        ways: tuple[Callable[[], Any], ...] = (
            lambda: own[:-1],
            lambda: np.concatenate([own, own]),
            lambda: own[..., None],
            lambda: own.astype("S9") if own.dtype.kind != "S" else np.zeros(len(own), "f4"),
            lambda: own.astype(own.dtype.newbyteorder(">")) if own.dtype.kind != "S" else own.astype("S5000"),
        )
        if rng.random() < 0.6:
            values = own.reshape(-1)
            for _ in range(rng.choice((1, 1, 4, 8))):
                values[rng.randrange(len(values))] = rng.choice(special[own.dtype.kind])
            if rng.random() < 0.3:
                values[:] = rng.choice(special[own.dtype.kind])
            file[name][...] = values.reshape(own.shape)
            return f"{name} numbers"
        del file[name]
        changed = rng.choice(ways)()
        file.create_dataset(
            name, data=changed, chunks=changed.shape if changed.size else None, fletcher32=changed.size > 0
        )
    return f"{name} shape"


KINDS = {
    "maps-file": Kind(seeds, pick((12, mutate_file), (1, special_file)), answer, sealed=True, share=2),
    "maps-file-resealed": Kind(
        seeds,
        pick(
            (6, _sealed_again(hdf5.structure)),
            (2, _sealed_again(hdf5.larger)),
            (8, _sealed_again(_dataset)),
            (5, _sealed_again(_attribute)),
        ),
        answer,
        share=4,
    ),
}
