"""Normalizers: compatibility scores → attention weights. Declared here without importing torch.

A normalizer with a parameter includes the value in its name, as in ``"tvmax:0.1"``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError, MissingExtraError
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Parameter:
    """The parameter of a normalizer, a number of at least 0: its name and its default."""

    name: str
    default: float


@dataclass(frozen=True)
class Normalizer:
    """One way to turn scores into weights, and the properties that the rest of the package needs.

    Parameters
    ----------
    name : str
        Its name in configs, cards and on the command line.
    function : callable
        Scores (B, H, W), float32, to weights (B, H, W) between 0 and 1. Images are independent of each other. With a
        parameter, `function(scores, value)`.
    sums_to_1 : bool
        Whether the weights of an image sum to 1. If so, its maps are distributions, otherwise gates.
    shift_invariant : bool
        Whether adding a constant to all scores of an image does not change its weights. If so, a global feature that
        only adds such a constant is inert, and the layers behind it are not built.
    package, extra : str
        An optional package that it needs, and the extra that installs it.
    parameter : Parameter, optional
        The number that `function` takes; `find_normalizer` fills it in.
    exports : bool
        Whether ONNX has operators for it.
    """

    name: str
    function: Function
    sums_to_1: bool = True
    shift_invariant: bool = True
    package: str = ""
    extra: str = ""
    parameter: Parameter | None = None
    exports: bool = True

    def require_package(self) -> None:
        """Raises: MissingExtraError if the package that it needs is not installed."""
        if not self.package:
            return
        try:
            import_module(self.package)
        except ImportError as error:
            raise MissingExtraError(f"normalizer {self.name!r}", self.package, self.extra) from error


NORMALIZERS: Registry[Normalizer] = Registry("normalizer")


def find_normalizer(text: str) -> Normalizer:
    """The normalizer that a config names.

    Parameters
    ----------
    text : str
        A registered name; if the normalizer has a parameter, NAME or NAME:VALUE.

    Returns
    -------
    Normalizer
        Its function takes only scores. With a parameter, its name includes the value in its shortest form.

    Raises
    ------
    UnknownNameError
        If the name is not registered.
    ValueError
        If the value is negative or not finite, or the normalizer takes none.

    Examples
    --------
    >>> find_normalizer("tvmax:0.10").name
    'tvmax:0.1'
    """
    name, colon, value = text.partition(":")
    found = NORMALIZERS.find(name)
    if found.parameter is None:
        if colon:
            raise ArgumentError(f"the normalizer {name!r} takes no number; got {text!r}", f"write just {name!r}")
        return found
    try:
        number = float(value) if colon else found.parameter.default
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ArgumentError(
            f"the {found.parameter.name} of {name!r} must be a number of at least 0; got {text!r}",
            f"write it as {name}:{found.parameter.default:g}",
        )
    return dataclasses.replace(
        found, name=f"{name}:{repr(abs(number)).removesuffix('.0')}", function=_with(found.function, abs(number))
    )


def _with(function: Function, value: float) -> Function:
    """The function with its parameter bound, keeping its docstring."""
    bound = partial(function, value=value)
    bound.__doc__ = function.__doc__
    return bound


def normalizer(
    name: str,
    *,
    sums_to_1: bool = True,
    shift_invariant: bool = True,
    package: str = "",
    extra: str = "",
    parameter: Parameter | None = None,
    exports: bool = True,
) -> Callable[[Function], Function]:
    """Register the decorated function as the normalizer `name`.

    Parameters
    ----------
    name : str
        Lower case, digits and hyphens.
    sums_to_1, shift_invariant, package, extra, parameter, exports
        As in :class:`Normalizer`.

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is invalid or already taken.

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
        entry = Normalizer(name, function, sums_to_1, shift_invariant, package, extra, parameter, exports)
        NORMALIZERS.add(name, entry)
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


@normalizer("sigmoid", sums_to_1=False, shift_invariant=False)
def sigmoid(scores: Tensor) -> Tensor:
    """`a_i = σ(c_i)`: each position on its own, so all weights can be large or small at once."""
    return scores.sigmoid()


@normalizer("sigmoid-sum", shift_invariant=False)
def sigmoid_sum(scores: Tensor) -> Tensor:
    """`a_i = σ(c_i) / Σ_j σ(c_j)`: like softmax for low scores, and nearly uniform for high ones."""
    from torch.nn.functional import softplus

    # log σ(c) = −log(1 + exp(−c)), also where every score is so low that its sigmoid is 0
    return softmax(-1 * softplus(-1 * scores))


@normalizer("tvmax", parameter=Parameter("λ", 0.1), exports=False)
def tvmax(scores: Tensor, value: float) -> Tensor:
    """Sparse and constant within regions: sparsemax with a total variation penalty (Martins et al. 2020); `tvmax:λ`."""
    from l2a_transfer.models.total_variation import tvmax

    return tvmax(scores, value)
