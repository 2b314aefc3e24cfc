"""Variants of one feature file for ablations: some of its columns, another normalization, precision or width."""

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
    """Columns `start` to `stop` of a file, as the SVM gets them; `name` is "" for the model as it is.

    `dtype` None leaves the features as they are stored; `components` is a PCA, fitted on training rows.
    """

    name: str
    levels: tuple[str, ...]
    start: int
    stop: int
    normalization: str = "standardize"
    dtype: str | None = None
    components: int | None = None

    def values(self, features: NDArray[Any]) -> NDArray[Any]:
        """(N, D) of the file → (N, stop − start). Raises: EvaluationError where float16 overflows."""
        own = features[:, self.start : self.stop]
        if self.dtype is None:
            return own
        with np.errstate(over="ignore"):
            rounded = own.astype(self.dtype)
        if not np.isfinite(rounded).all():
            raise EvaluationError(
                f"features above {np.finfo(self.dtype).max:g} overflow {self.dtype}",
                "leave precision out of `ablate`",
            )
        return rounded


def variants_of(
    meta: FeatureMeta, ablate: Sequence[str], *, narrowest: int, widths: Sequence[int] = ()
) -> tuple[Variant, ...]:
    """The model as it is, then what `ablate` asks for and the file can give.

    `levels`: each level alone, where there are several. `normalization`: rows to length 1, and none, instead of
    standardised columns. `precision`: float32 features rounded to float16. `width`: a PCA to `narrowest` columns, the
    width of the narrowest model on this data set, where this one is wider; and to each of `widths`, likewise.
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
