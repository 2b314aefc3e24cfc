"""Variants of one feature file for ablations: a subset of columns, or another normalization, precision or width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import EvaluationError
from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.svm.config import PIXEL_COMPONENTS

ABLATIONS = ("levels", "normalization", "precision", "width")


@dataclass(frozen=True)
class Variant:
    """Columns `start` to `stop` of a file as input of the SVM; `name` is "" for the unchanged model.

    With `dtype` None, features stay as stored; `components`: of a PCA fitted on training rows.
    """

    name: str
    levels: tuple[str, ...]
    start: int
    stop: int
    normalization: str = "standardize"
    dtype: str | None = None
    components: int | None = None

    def values(self, features: NDArray[Any]) -> NDArray[Any]:
        """(N, D) of the file → (N, stop − start). Raises: EvaluationError if float16 overflows."""
        own = features[:, self.start : self.stop]
        if self.dtype is None:
            return own
        with np.errstate(over="ignore"):
            rounded = own.astype(self.dtype)
        if not np.isfinite(rounded).all():
            raise EvaluationError(
                f"features above {np.finfo(self.dtype).max:g} overflow {self.dtype}",
                "remove precision from `ablate`",
            )
        return rounded


def variants_of(
    meta: FeatureMeta, ablate: Sequence[str], *, narrowest: int, widths: Sequence[int] = ()
) -> tuple[Variant, ...]:
    """The unchanged model, then the variants in `ablate` that are possible with the file.

    `levels`: each level alone, if there are several. `normalization`: rows scaled to length 1, and none, instead of
    standardised columns. `precision`: float32 features rounded to float16. `width`: PCA to `narrowest` columns, the
    width of the narrowest model on this data set, if this one is wider; and likewise to each of `widths`.
    """
    levels, width = tuple(name for name, _, _ in meta.levels), meta.levels[-1][2]
    if meta.card.get("name") == "pixels":
        return (Variant("", levels, 0, width, components=PIXEL_COMPONENTS),)
    found = [Variant("", levels, 0, width)]
    if "levels" in ablate and len(levels) > 1:
        found += [Variant(f"{name} alone", (name,), start, stop) for name, start, stop in meta.levels]
    if "normalization" in ablate:
        found.append(Variant("rows to length 1", levels, 0, width, normalization="l2"))
        found.append(Variant("not normalised", levels, 0, width, normalization="none"))
    if "precision" in ablate:
        found.append(Variant("float16", levels, 0, width, dtype="float16"))
    reduced = {narrowest, *widths} if "width" in ablate else set(widths)
    for n in sorted(reduced, reverse=True):
        found += [Variant(f"PCA to {n}", levels, 0, width, components=n)] if n < width else []
    return tuple(found)
