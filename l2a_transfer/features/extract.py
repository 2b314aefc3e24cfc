"""Extraction: the plan (row ranges), shards that survive a kill, and the merge into one feature file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from l2a_transfer.data.loader import choose_workers, pixel_batches
from l2a_transfer.data.readers import ImageSource
from l2a_transfer.errors import DataError, OutputExistsError, StoreError
from l2a_transfer.features.backends import FeatureBackend, feature_width
from l2a_transfer.features.store import FeatureMeta, read_meta, write_features

log = logging.getLogger(__name__)
SHARD_ROWS = 1024
PLAN = "plan.json"


@dataclass(frozen=True)
class ExtractResult:
    """Where the features are: `rows` × `dim`, how many rows were computed now, and in how many seconds."""

    path: Path
    rows: int
    dim: int
    computed: int
    seconds: float


def plan_ranges(rows: int, batch_size: int) -> list[range]:
    """Row ranges of about SHARD_ROWS rows, each a multiple of the batch size but the last.

    A row's bytes depend on the batch that it is computed in, so every executor cuts batches at the same rows.
    """
    step = max(1, SHARD_ROWS // batch_size) * batch_size
    return [range(start, min(start + step, rows)) for start in range(0, rows, step)]


def batches_of(rows: range, batch_size: int) -> list[range]:
    """The batches of one row range, all of `batch_size` rows but the last."""
    return [range(start, min(start + batch_size, rows.stop)) for start in range(rows.start, rows.stop, batch_size)]


class Shards:
    """The folder `OUT.shards`: one checked file for each finished row range, and the plan that they belong to."""

    def __init__(self, out: Path, fingerprint: dict[str, Any]) -> None:
        self.folder = out.with_name(out.name + ".shards")
        self.fingerprint = fingerprint
        self.digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()

    def open(self, *, overwrite: bool) -> None:
        """Make the folder, or take up the one that is there.

        Raises: OutputExistsError where it belongs to another extraction, naming what differs.
        """
        plan = self.folder / PLAN
        # A plan of which no range is finished protects nothing, as after a picture that could not be decoded.
        if plan.exists() and any(self.folder.glob("rows-*.safetensors")):
            theirs = _read_json(plan)
            differing = sorted(k for k in {*theirs, *self.fingerprint} if theirs.get(k) != self.fingerprint.get(k))
            if differing and not overwrite:
                named = "; ".join(
                    f"{k}: {_shown(theirs.get(k))} there, {_shown(self.fingerprint.get(k))} here" for k in differing
                )
                raise OutputExistsError(
                    f"{self.folder}: holds an unfinished extraction with other options ({named}); "
                    "--overwrite starts again"
                )
            if overwrite:
                self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_atomically(plan, json.dumps(self.fingerprint, sort_keys=True).encode())

    def path(self, rows: range) -> Path:
        return self.folder / f"rows-{rows.start:09d}-{rows.stop:09d}.safetensors"

    def write(self, rows: range, features: NDArray[np.float32]) -> None:
        metadata = {"plan": self.digest, "sha256": hashlib.sha256(features.tobytes()).hexdigest()}
        _write_atomically(self.path(rows), save({"features": features}, metadata=metadata))

    def read(self, rows: range) -> NDArray[np.float32] | None:
        """The features of a finished range, or None where there is no shard of this plan that is whole."""
        path = self.path(rows)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                metadata, features = file.metadata() or {}, file.get_tensor("features")
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("%s: damaged (%s); its rows are computed again", path, error)
            return None
        whole = metadata.get("sha256") == hashlib.sha256(features.tobytes()).hexdigest()
        if metadata.get("plan") != self.digest or not whole or len(features) != len(rows):
            log.warning("%s: changed since it was written; its rows are computed again", path)
            return None
        array: NDArray[np.float32] = features
        return array

    @contextmanager
    def kept_if_used(self) -> Iterator[None]:
        """Where the body fails before a range is finished, there is nothing to keep, and the folder goes."""
        try:
            yield
        except BaseException:
            if not any(self.folder.glob("rows-*.safetensors")):
                self.remove()
            raise

    def remove(self) -> None:
        """Delete this folder's own files, and the folder if nothing else is in it."""
        for pattern in ("rows-*.safetensors", "*.partial", PLAN):
            for path in self.folder.glob(pattern):
                path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _shown(value: Any) -> str:
    """A fingerprint's value for a sentence: of a SHA-256 the first 12 digits."""
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:13]}…'"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); --overwrite starts again") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path}: not a plan; --overwrite starts again")
    return content


def fingerprint(source: ImageSource, backend: FeatureBackend, batch_size: int) -> dict[str, Any]:
    """Everything that decides the bytes of `/features`; flat JSON."""
    return {
        "format": "l2a-features/1",
        "data": source.fingerprint(),
        "backend": backend.name,
        "device": backend.device,
        "precision": backend.precision,
        "tap": backend.tap,
        "levels": ",".join(name for name, _, _ in backend.levels),
        "preprocess": json.dumps(backend.preprocess.to_json(), sort_keys=True),
        "batch_size": batch_size,
        **backend.identity(),
    }


def extract(
    source: ImageSource,
    backend: FeatureBackend,
    out: str | Path,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> ExtractResult:
    """Write the features of every picture of `source` to the feature file `out`.

    Memory does not grow with the number of pictures. A range of rows that is finished is on disk: after a kill the
    same call goes on from there and ends with the same bytes. Raises: OutputExistsError where `out` is complete and
    neither `resume` nor `overwrite` is given, or an unfinished extraction with other options is there; DataError
    for a picture that cannot be used; StoreError for features that are not finite.
    """
    out = Path(out)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(source) == 0:
        raise DataError(f"{source.name}: no images to extract")
    started = time.perf_counter()
    dim = feature_width(backend)
    identity = fingerprint(source, backend, batch_size)
    if out.is_dir():
        raise OutputExistsError(f"{out}: is a folder, and features are one file; name a file, as {out / 'features.h5'}")
    if out.exists() and not overwrite:
        if not resume:
            raise OutputExistsError(f"{out}: exists; --resume verifies it, --overwrite replaces it")
        _verify(out, identity)
        return ExtractResult(out, len(source), dim, 0, time.perf_counter() - started)
    if out.parent and not out.parent.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
    shards = Shards(out, identity)
    shards.open(overwrite=overwrite)
    ranges = plan_ranges(len(source), batch_size)
    todo = [rows for rows in ranges if shards.read(rows) is None]
    computed = sum(len(rows) for rows in todo)
    if computed < len(source):
        log.info("%s: %d of %d rows are there already", shards.folder, len(source) - computed, len(source))
    bar = tqdm(
        total=len(source),
        initial=len(source) - computed,
        unit="img",
        desc=f"{backend.card['name']} on {source.name}",
        disable=None if progress else True,
    )
    batches = [batch for rows in todo for batch in batches_of(rows, batch_size)]
    pixels = pixel_batches(source, backend.preprocess, batches, workers=choose_workers(computed, workers))
    with shards.kept_if_used(), bar, closing(pixels):  # type: ignore[type-var]
        for rows in todo:
            features = np.empty((len(rows), dim), dtype=np.float32)
            for batch in batches_of(rows, batch_size):
                features[batch.start - rows.start : batch.stop - rows.start] = backend.features(next(pixels))
                bar.update(len(batch))
            _check_finite(features, rows, source, backend)
            shards.write(rows, features)
    meta = FeatureMeta(
        data=source.name,
        classes=source.classes,
        splits=source.splits,
        levels=backend.levels,
        card=backend.card,
        preprocess=backend.preprocess.to_json(),
        tap=backend.tap,
        precision=backend.precision,
        backend=backend.name,
        fingerprint=identity,
    )
    write_features(
        out,
        meta,
        labels=source.labels,
        ids=source.ids,
        split=source.split,
        blocks=_blocks(shards, ranges),
        dim=dim,
    )
    shards.remove()
    return ExtractResult(out, len(source), dim, computed, time.perf_counter() - started)


def _check_finite(features: NDArray[np.float32], rows: range, source: ImageSource, backend: FeatureBackend) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise StoreError(
            f"{backend.card['name']} on {source.name}: features that are not finite in {len(bad)} rows, the first of "
            f"image {source.ids[rows.start + int(bad[0])]!r}; use --precision fp32, or other weights"
        )


def _blocks(shards: Shards, ranges: list[range]) -> Iterator[NDArray[np.float32]]:
    for rows in ranges:
        features = shards.read(rows)
        if features is None:
            raise StoreError(f"{shards.path(rows)}: changed or removed while it was merged; run the command again")
        yield features


def _verify(out: Path, identity: dict[str, Any]) -> None:
    meta, _, _ = read_meta(out)
    differing = sorted(k for k in {*meta.fingerprint, *identity} if meta.fingerprint.get(k) != identity.get(k))
    if differing:
        named = "; ".join(
            f"{k}: {_shown(meta.fingerprint.get(k))} there, {_shown(identity.get(k))} here" for k in differing
        )
        raise OutputExistsError(f"{out}: complete, with other options ({named}); --overwrite replaces it")
    log.info("%s: complete and unchanged", out)
