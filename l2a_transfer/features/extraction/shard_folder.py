"""The folder `OUT.shards`: one verified file per finished range of rows, so that a kill loses only unfinished ones."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from l2a_transfer.documents import integer, list_of, parse, row_of, table, text
from l2a_transfer.errors import OutputExistsError, StoreError
from l2a_transfer.features.extraction.plan import STAMPS, comparison_hint, describe_differences, differences
from l2a_transfer.features.store.schema import FINGERPRINT
from l2a_transfer.files import check_own_folder, is_there, replacing
from l2a_transfer.inputs import check_input, read_input

log = logging.getLogger(__name__)
PLAN = "plan.json"
MAX_PLAN_BYTES = 16 << 20
ROWS = "rows-*.safetensors"
ABOUT = "l2a-shard"
MAP = "map_"
SAYS = table(
    {
        "plan": text(64),
        "sha256": table(others=text(64)),
        "skipped": list_of(row_of(integer(), text())),
    }
)
"""The schema of a shard's description."""


@dataclass(frozen=True)
class RowShard:
    """The results of one range of rows, of which K images could be used.

    Parameters
    ----------
    kept : ndarray
        (K,), int64: their row numbers in ascending order.
    features : ndarray
        (K, D), float32.
    maps : dict
        Level → float16 (K, H, W).
    skipped : dict
        Row number → reason why the image could not be used.
    """

    kept: NDArray[np.int64]
    features: NDArray[np.float32]
    maps: dict[str, NDArray[np.float16]] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)


class ShardFolder:
    """The finished ranges of one extraction, one file each.

    Several processes may write the same range. They all write the same bytes, each to its own partial file, and the
    last rename wins.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        deciding = {key: value for key, value in fingerprint.items() if key != STAMPS}
        self.digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def open(self, *, overwrite: bool) -> None:
        """Create the folder, or continue with the existing one. Partial files of killed writers are removed.

        Raises: OutputExistsError if it belongs to another extraction, naming the differences; StoreError if the folder
        cannot be written, is a link, or belongs to another user.
        """
        check_own_folder(self.folder)
        if overwrite:
            self.remove()
        # A plan without finished ranges protects nothing, for example after a picture that could not be decoded.
        elif any(self.folder.glob(ROWS)):
            theirs = _read_json(self.folder / PLAN)
            if named := describe_differences(theirs, self.fingerprint):
                raise OutputExistsError(
                    f"{self.folder}: contains an unfinished extraction {named}",
                    f"{comparison_hint(theirs, self.fingerprint)}`overwrite=True` starts again",
                )
        with self.removed_if_unused():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                for partial in self.folder.glob("*.partial"):
                    partial.unlink()
            except OSError as error:
                raise StoreError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
            _replace(self.folder / PLAN, json.dumps(self.fingerprint, sort_keys=True).encode())

    def exists(self) -> bool:
        """True if the folder contains a plan, of this extraction or another."""
        return is_there(self.folder / PLAN)

    def belongs_to(self, fingerprint: dict[str, Any]) -> bool:
        """True if the folder on disk belongs to the extraction with this fingerprint. Raises: StoreError."""
        return self.exists() and not differences(_read_json(self.folder / PLAN), fingerprint)

    def path(self, rows: range) -> Path:
        return self.folder / f"rows-{rows.start:09d}-{rows.stop:09d}.safetensors"

    def write(self, rows: range, shard: RowShard) -> None:
        """Write a shard to a partial file, sync it, read it back to verify it, and rename it. Raises: StoreError."""
        arrays: dict[str, NDArray[Any]] = {"kept": shard.kept, "features": shard.features}
        arrays |= {MAP + level: values for level, values in shard.maps.items()}
        about = {
            "plan": self.digest,
            "sha256": {name: _sha256(values) for name, values in arrays.items()},
            "skipped": sorted(shard.skipped.items()),
        }
        # A single entry, because safetensors writes several entries in random order.
        metadata = {ABOUT: json.dumps(about, sort_keys=True)}
        _replace(self.path(rows), save(arrays, metadata=metadata), check=lambda path: self._load(path, rows))

    def read(self, rows: range) -> RowShard | None:
        """A finished range, after verifying the checksum of every array; None if this plan has no complete shard."""
        path = self.path(rows)
        if not path.is_file():
            return None
        try:
            return self._load(path, rows)
        except StoreError as error:
            log.warning("%s; its rows are computed again", error)
            return None

    def _load(self, path: Path, rows: range) -> RowShard:
        """The content of a shard. Raises: StoreError naming the file and what is wrong with it."""
        try:
            check_input(path)
            with safe_open(path, framework="numpy") as file:
                about = parse((file.metadata() or {})[ABOUT])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            SAYS.check(about, "shard")
            plan, sums = about["plan"], about["sha256"]
            skipped = dict(about["skipped"])
            kept, features = arrays["kept"], arrays["features"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"{path}: corrupt ({error})") from error
        if plan != self.digest:
            raise StoreError(f"{path}: belongs to another extraction")
        if odd := _wrong_array(arrays):
            raise StoreError(f"{path}: {odd}")
        names = sorted({*sums, *arrays})
        wrong = [name for name in names if name not in arrays or _sha256(arrays[name]) != sums.get(name)]
        if wrong:
            raise StoreError(f"{path}: changed since it was written: the checksum of {', '.join(wrong)} does not match")
        maps = {name.removeprefix(MAP): values for name, values in arrays.items() if name.startswith(MAP)}
        lengths = {len(values) for values in (kept, features, *maps.values())}
        if len(lengths) > 1 or sorted([*kept.tolist(), *skipped]) != list(rows):
            raise StoreError(f"{path}: does not contain the rows {rows.start}…{rows.stop - 1}")
        return RowShard(kept, features, maps, skipped)

    @contextmanager
    def removed_if_unused(self) -> Iterator[None]:
        """Remove the folder if the body fails before any range is finished."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                if not any(self.folder.glob(ROWS)):
                    self.remove()
            raise

    def remove(self) -> None:
        """Delete this folder's own files, the plan last, and the folder if it is then empty."""
        for pattern in (ROWS, "*.partial", PLAN):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def shard_folder(out: Path) -> Path:
    """Where an extraction to `out` keeps its finished ranges."""
    return out.with_name(out.name + ".shards")


def blocks_of(
    shards: ShardFolder, ranges: Iterable[range], part: Callable[[RowShard], NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    """One part of each shard, in order. Raises: StoreError if a shard is no longer complete."""
    for rows in ranges:
        shard = shards.read(rows)
        if shard is None:
            raise StoreError(f"{shards.path(rows)}: changed or removed while it was merged; run the command again")
        yield part(shard)


def _wrong_array(arrays: dict[str, NDArray[Any]]) -> str:
    """The error for an array with another type or number of axes than in `RowShard`; empty if there is none."""
    for name, values in arrays.items():
        expected = {"kept": ("int64", 1), "features": ("float32", 2)}.get(name, ("float16", 3))
        if (values.dtype.name, values.ndim) != expected or not (name in ("kept", "features") or name.startswith(MAP)):
            return f"{name} must be {expected[0]} with {expected[1]} axes, got {values.dtype} with {values.ndim}"
    return ""


def _sha256(values: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{values.dtype} {values.shape} ".encode())
    digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _replace(path: Path, content: bytes, check: Any = None) -> None:
    """Replace `path` only after all of `content` is on disk and `check` has read it back."""
    try:
        with replacing(path) as file:
            file.write(content)
            if check is not None:
                file.flush()
                os.fsync(file.fileno())
                check(Path(file.name))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse(read_input(path, MAX_PLAN_BYTES))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error})", "`overwrite=True` starts again") from error
    try:
        FINGERPRINT.check(content, "plan")
    except ValueError as error:
        raise StoreError(f"{path}: not a plan: {error}", "`overwrite=True` starts again") from error
    found: dict[str, Any] = content
    return found
