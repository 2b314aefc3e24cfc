"""Extraction: compute the plan's row ranges in this process or on Ray, and merge them into one feature file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from l2a_transfer.data.objects import InMemory
from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource, check_source, domains_of, reading_of
from l2a_transfer.errors import (
    ArgumentError,
    BackendError,
    DataError,
    Interrupted,
    OutputExistsError,
    names_keywords,
    unknown_name,
)
from l2a_transfer.features.backends.interface import FeatureBackend, feature_width, partners_of
from l2a_transfer.features.backends.order import check_order
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction.compute import compute_shards
from l2a_transfer.features.extraction.partners import SELF, drawn_partners
from l2a_transfer.features.extraction.plan import (
    comparable,
    comparison_hint,
    describe_differences,
    fingerprint,
    plan_ranges,
)
from l2a_transfer.features.extraction.ray_engine import RayConfig, compute_on_ray
from l2a_transfer.features.extraction.result import ExtractResult
from l2a_transfer.features.extraction.shard_folder import RowShard, ShardFolder, blocks_of, shard_folder
from l2a_transfer.features.store.reader import read_meta
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.writer import write_features
from l2a_transfer.files import check_own_folder, check_replaceable, names_a_format, output_path
from l2a_transfer.lock import output_lock
from l2a_transfer.text import terminal
from l2a_transfer.wording import are, counted

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

log = logging.getLogger(__name__)
SUFFIXES = (".h5", ".hdf5")
ON_ERROR = ("fail", "skip")
ENGINES = ("local", "ray")


@names_keywords
def extract(
    data: str | Path | ImageSource | InMemory,
    model: str | Path | Network | tuple[Network, Card] | FeatureBackend,
    out: str | Path,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    on_error: str = "fail",
    attention: bool = False,
    compile: bool = False,
    partners: str = SELF,
    engine: str = "local",
    ray: RayConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> ExtractResult:
    """Extract the features of a data set to an HDF5 file, with labels, ids, splits and the model card.

    Memory use does not grow with the number of images. Finished ranges of rows are kept on disk, so that after an
    interruption the same call continues from there and ends with the same bytes.

    Parameters
    ----------
    data : str, Path, ndarray, Dataset, tuple, mapping or ImageSource
        A data set, as for `open_source`, or what it returns.
    model : str, Path, Network, (Network, Card) or FeatureBackend
        A model, as for `open_backend`, or what it returns. Use `open_backend` to choose device, precision, tap and
        levels. A network is not changed.
    out : str or Path
        The feature file, `.h5` or `.hdf5`. Its folder is created if needed.
    batch_size : int, default=64
        Images per forward pass. It can change the last bits of a feature.
    workers : int, optional
        Number of decoding processes; 0 decodes in the main process.
    on_error : {"fail", "skip"}, default="fail"
        "skip" skips images that cannot be used, and lists them.
    attention : bool, default=False
        Also write the attention maps, float16 (N, H, W) per level.
    compile : bool, default=False
        Compile the network with `torch.compile`, which can change the last bits of features.
    partners : {"self", "set"}, default="self"
        In networks of pairs, an image is its own partner, or gets those that `partner_rows` draws from the set.
    engine : {"local", "ray"}, default="local"
        "ray" runs on the cluster that `ray` describes, with the same bytes as a result.
    ray : RayConfig, optional
        The cluster; by default, one is started on this machine.
    resume : bool, default=False
        If `out` is complete, verify and keep it.
    overwrite : bool, default=False
        Start from scratch; with `resume`, only if `out` is from another extraction.
    progress : bool, default=True
        Show a progress bar on stderr.

    Returns
    -------
    ExtractResult
        The file, its numbers of rows N and columns D, and the images that were skipped.

    Raises
    ------
    OutputExistsError
        If `out` is complete and neither `resume` nor `overwrite` is given, if there is an unfinished extraction with
        other options, or if another process is writing `out`.
    DataError
        For an image that cannot be used.
    StoreError
        If features are not finite, or if the file cannot be written.
    BackendError
        If the cluster cannot run the work, or if the network has no attention or no partners although they are wanted.
    Interrupted
        After Ctrl-C or SIGTERM: a KeyboardInterrupt whose message says what was kept.

    Examples
    --------
    >>> import numpy as np
    >>> import l2a_transfer
    >>> images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    >>> result = l2a_transfer.extract(images, "vgg-att2-concat-pc.cifar10-w025", "features.h5", progress=False)
    >>> result.rows, result.dim
    (20, 256)
    """
    check_order("extract(data, model, out)", ("model", model), ("data", data))
    source = open_source(data)
    backend = open_backend(model)
    out = output_path(out)
    if names_a_format(out) and out.suffix.lower() not in SUFFIXES:
        raise ArgumentError(
            f"out must be the name of an HDF5 file, such as {out.with_suffix('.h5').name}; got {out.name!r}"
        )
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
    if on_error not in ON_ERROR:
        raise unknown_name("on_error", on_error, ON_ERROR)
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if attention and not backend.map_levels:
        raise BackendError(f"{backend.card['name']} has no attention, so it has no maps", "leave `attention` out")
    if len(source) == 0:
        raise DataError(f"{source.name}: no images to extract")
    check_source(source)
    drawn = drawn_partners(partners, source.ids, partners_of(backend), backend.card["name"])
    started = time.perf_counter()
    if out.is_dir():
        raise OutputExistsError(f"{out}: is a folder; name a file, such as {out / 'features.h5'}")
    if compile:
        backend = _compiled(backend, batch_size)
    identity = fingerprint(source, backend, batch_size, attention=attention, partners=partners)
    out.parent.mkdir(parents=True, exist_ok=True)
    job = _Job(source, backend, out, identity, on_error)
    check_own_folder(job.shards.folder)
    if (found := job.complete(resume=resume, overwrite=overwrite)) and not job.shards.exists():
        return found
    check_replaceable(out)
    with output_lock(out):
        check_replaceable(out)
        # The previous owner of the lock may have finished in the meantime.
        if found := job.complete(resume=resume, overwrite=overwrite):
            if job.shards.belongs_to(identity):
                job.shards.remove()  # its writer was killed after the last rename
            return found
        job.shards.open(overwrite=overwrite and not (resume and job.shards.belongs_to(identity)))
        ranges = plan_ranges(len(source), batch_size)
        skipped = {rows: shard.skipped for rows in ranges if (shard := job.usable(rows))}
        todo = [rows for rows in ranges if rows not in skipped]
        computed = sum(map(len, todo))
        if todo != ranges:
            there = len(source) - computed
            log.info(
                "%s: %d of %s %s already computed", job.shards.folder, there, counted(len(source), "row"), are(there)
            )
        bar = tqdm(
            total=len(source),
            initial=len(source) - computed,
            unit="img",
            desc=terminal(f"{backend.card['name']} on {source.name}"),
            disable=None if progress else True,
        )
        compute = compute_shards if engine == "local" else partial(compute_on_ray, config=ray or RayConfig())
        try:
            with job.shards.removed_if_unused(), bar:
                for rows, bad in compute(
                    source,
                    backend,
                    job.shards,
                    todo,
                    batch_size=batch_size,
                    workers=workers,
                    on_error=on_error,
                    attention=attention,
                    partners=drawn,
                    advance=bar.update,
                ):
                    skipped[rows] = bad
                    for row, reason in bad.items():
                        log.warning("skipped %s: %s", source.ids[row], reason)
            left_out = {row: reason for rows in ranges for row, reason in sorted(skipped[rows].items())}
            job.merge(ranges, left_out, drawn, attention=attention)
        except KeyboardInterrupt as stop:
            raise job.interrupted(ranges, overwrite=overwrite and not resume) from stop
        job.shards.remove()
    named = tuple((source.ids[row], reason) for row, reason in left_out.items())
    seconds = time.perf_counter() - started
    return ExtractResult(out, len(source) - len(named), feature_width(backend), computed, seconds, named)


@dataclass(frozen=True)
class _Job:
    source: ImageSource
    backend: FeatureBackend
    out: Path
    identity: dict[str, Any]
    on_error: str

    @property
    def shards(self) -> ShardFolder:
        return ShardFolder(shard_folder(self.out), self.identity)

    def complete(self, *, resume: bool, overwrite: bool) -> ExtractResult | None:
        """The existing file, after verifying it; None if it has to be created. Raises: OutputExistsError."""
        if not self.out.is_file():
            check_replaceable(self.out)
            return None
        if overwrite and not resume:
            return None
        if not resume:
            raise OutputExistsError(f"{self.out}: exists", "`resume=True` verifies it, `overwrite=True` replaces it")
        started = time.perf_counter()
        meta, rows, dim = read_meta(self.out)
        theirs, missing = comparable(meta.fingerprint, self.identity)
        named = describe_differences(theirs, self.identity)
        if named and overwrite:
            return None
        if named:
            raise OutputExistsError(
                f"{self.out}: complete, {named}",
                f"{comparison_hint(theirs, self.identity)}`overwrite=True` replaces it",
            )
        if meta.skipped and self.on_error == "fail":
            (name, reason), more = meta.skipped[0], len(meta.skipped)
            raise OutputExistsError(
                f"{self.out}: complete, but {counted(more, 'image')} could not be used, first {name!r}: {reason}; "
                "`on_error='skip'` accepts this, `overwrite=True` tries them again",
            )
        if missing:
            log.warning(
                "%s: written by a version that did not record %s; this is not compared", self.out, ", ".join(missing)
            )
        log.info("%s: complete and unchanged", self.out)
        return ExtractResult(self.out, rows, dim, 0, time.perf_counter() - started, meta.skipped)

    def interrupted(self, ranges: Sequence[range], *, overwrite: bool) -> Interrupted:
        """The error for Ctrl-C: which rows are kept on disk, and how to continue."""
        rows = sum(len(rows) for rows in ranges if self.shards.path(rows).exists())
        if not rows:
            return Interrupted(f"no rows of {self.out} are kept, because they are saved {len(ranges[0]):,} at a time")
        return Interrupted(
            f"{rows:,} of {counted(len(self.source), 'row')} {are(rows)} kept in {self.shards.folder}",
            f"run it again {'with `resume=True` ' if overwrite else ''}to continue",
        )

    def usable(self, rows: range) -> RowShard | None:
        """The shard of a range, if it is complete, has this network's sizes, and skips nothing that this run may not
        skip."""
        shard = self.shards.read(rows)
        if shard is None or (shard.skipped and self.on_error == "fail"):
            return None
        maps = self.backend.map_levels if self.identity.get("attention") else ()
        if shard.features.shape[1] != feature_width(self.backend) or set(shard.maps) != set(maps):
            log.warning("%s: does not match this network; its rows are computed again", self.shards.path(rows))
            return None
        return shard

    def merge(
        self,
        ranges: Sequence[range],
        skipped: dict[int, str],
        partners: NDArray[np.int64] | None,
        *,
        attention: bool,
    ) -> None:
        """Merge all shards into the feature file. Raises: StoreError; DataError if no image could be used."""
        source, backend = self.source, self.backend
        kept = np.setdiff1d(np.arange(len(source)), np.fromiter(skipped, dtype=np.int64, count=len(skipped)))
        if len(kept) == 0:
            row, reason = next(iter(skipped.items()))
            raise DataError(f"{source.name}: no image could be used; first {source.ids[row]!r}: {reason}")
        domains, domain = domains_of(source)
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
            fingerprint=self.identity,
            source=reading_of(source).to_json(),
            skipped=tuple((source.ids[row], reason) for row, reason in skipped.items()),
            domains=domains,
        )
        maps = {
            level: blocks_of(self.shards, ranges, lambda shard, level=level: shard.maps[level])  # type: ignore[misc]
            for level in backend.map_levels
            if attention
        }
        write_features(
            self.out,
            meta,
            labels=source.labels[kept],
            ids=source.ids if len(kept) == len(source) else (source.ids[row] for row in kept),
            split=source.split[kept],
            domain=None if domain is None else domain[kept],
            partners=() if partners is None else ([source.ids[row] for row in rows] for rows in partners[kept]),
            blocks=blocks_of(self.shards, ranges, lambda shard: shard.features),
            dim=feature_width(backend),
            maps=maps,
        )


def _compiled(backend: FeatureBackend, batch_size: int) -> FeatureBackend:
    """The backend, compiled for whole batches. Raises: BackendError for a backend that is not compiled here."""
    make: Callable[[int], FeatureBackend] | None = getattr(backend, "compiled", None)
    if make is None:
        raise BackendError(f"{backend.card['name']}: {backend.name} networks are not compiled", "leave `compile` out")
    return make(batch_size)
