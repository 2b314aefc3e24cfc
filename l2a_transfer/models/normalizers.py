"""Normalizers: compatibility scores → attention weights. Declared here without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from l2a_transfer.errors import MissingExtraError
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Normalizer:
    """One way to turn scores into weights, and what the rest of the package needs to know of it.

    Parameters
    ----------
    name : str
        Its name in configs, cards and on the command line.
    function : callable
        Scores (B, H, W), float32, to weights (B, H, W) between 0 and 1. Images are independent of each other.
    sums_to_1 : bool
        Whether the weights of an image sum to 1. If so its maps are distributions, else gates.
    shift_invariant : bool
        Whether a constant added to all scores of an image leaves its weights as they are. If so, a global feature that
        only adds such a constant is inert, and the layers behind it are left out.
    package, extra : str
        A package that it needs besides the package's own dependencies, and the extra that installs it.
    """

    name: str
    function: Function
    sums_to_1: bool = True
    shift_invariant: bool = True
    package: str = ""
    extra: str = ""

    def require_package(self) -> None:
        """Raises: MissingExtraError where the package that it needs is not installed."""
        if not self.package:
            return
        try:
            import_module(self.package)
        except ImportError as error:
            raise MissingExtraError(f"normalizer {self.name!r}", self.package, self.extra) from error


NORMALIZERS: Registry[Normalizer] = Registry("normalizer")


def normalizer(
    name: str, *, sums_to_1: bool = True, shift_invariant: bool = True, package: str = "", extra: str = ""
) -> Callable[[Function], Function]:
    """Register the decorated function as the normalizer `name`.

    Parameters
    ----------
    name : str
        Lower case, digits and hyphens.
    sums_to_1, shift_invariant, package, extra
        As in :class:`Normalizer`.

    Returns
    -------
    callable
        A decorator that gives the function back as it is.

    Raises
    ------
    PluginError
        For a name that is taken or cannot be one.

    Examples
    --------
    >>> @normalizer("linear", shift_invariant=False)
    ... def linear(scores):
    ...     positive = scores.clamp(min=0) + 1e-6
    ...     return positive / positive.sum(dim=(1, 2), keepdim=True)
    >>> NORMALIZERS["linear"].sums_to_1
    True
    >>> NORMALIZERS.remove("linear")
    """

    def register(function: Function) -> Function:
        NORMALIZERS.add(name, Normalizer(name, function, sums_to_1, shift_invariant, package, extra))
        return function

    return register


@normalizer("softmax")
def softmax(scores: Tensor) -> Tensor:
    """`a_i = exp(c_i) / Σ_j exp(c_j)` over the positions of an image."""
    return scores.flatten(1).softmax(dim=1).view_as(scores)


@normalizer("sparsemax", package="entmax", extra="entmax")
def sparsemax(scores: Tensor) -> Tensor:
    """The Euclidean projection of the scores onto the simplex (Martins & Astudillo 2016)."""
    from entmax import sparsemax

    weights: Tensor = sparsemax(scores.flatten(1), dim=1)
    return weights.view_as(scores)


@normalizer("entmax15", package="entmax", extra="entmax")
def entmax15(scores: Tensor) -> Tensor:
    """Entmax with α = 1.5, between softmax and sparsemax (Peters et al. 2019)."""
    from entmax import entmax15

    weights: Tensor = entmax15(scores.flatten(1), dim=1)
    return weights.view_as(scores)
