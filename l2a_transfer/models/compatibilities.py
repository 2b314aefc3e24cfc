"""Compatibilities: local features and the global feature → scores (Jetley et al., ICLR 2018, section 3).

Shapes: B images, C channels, P = H·W positions. Declared here without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from l2a_transfer.models.normalizers import Normalizer
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    Scores = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]

RoleOfG = Literal["acts", "shifts", "unused"]
"""Effect of the global feature on the scores of an image: it changes each one differently, adds the same constant to
all, or has no effect."""


@dataclass(frozen=True)
class Compatibility:
    """One way to score positions, and the properties that the rest of the package needs.

    Parameters
    ----------
    name : str
        Its name in configs and architectures.
    scores : callable or None
        ``scores(local, u, g)``: local (B, P, C), u (C,) or None, g (B, C) or None, all float32, to scores (B, P). None
        for a compatibility without scores: every position has the weight 1 / P.
    learns_u : bool
        Whether it has a parameter u (C,).
    role_of_g : {"acts", "shifts", "unused"}
        See `RoleOfG`. With "acts", g is never None.
    """

    name: str
    scores: Scores | None
    learns_u: bool
    role_of_g: RoleOfG

    def g_is_inert(self, normalizer: Normalizer) -> bool:
        """Whether g cannot change the weights that `normalizer` computes from the scores."""
        return self.role_of_g == "unused" or (self.role_of_g == "shifts" and normalizer.shift_invariant)


COMPATIBILITIES: Registry[Compatibility] = Registry("compatibility")


def compatibility(name: str, *, learns_u: bool, role_of_g: RoleOfG) -> Callable[[Scores], Scores]:
    """Register the decorated function as the compatibility `name`.

    Parameters
    ----------
    name : str
        Lower case, digits and hyphens.
    learns_u, role_of_g
        As in :class:`Compatibility`.

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
    >>> @compatibility("norm", learns_u=False, role_of_g="unused")
    ... def norm(local, u, g):
    ...     return local.norm(dim=2)
    >>> COMPATIBILITIES["norm"].role_of_g
    'unused'
    >>> COMPATIBILITIES.remove("norm")
    """

    def register(scores: Scores) -> Scores:
        COMPATIBILITIES.add(name, Compatibility(name, scores, learns_u, role_of_g))
        return scores

    return register


@compatibility("pc", learns_u=True, role_of_g="shifts")
def parametrised(local: Tensor, u: Tensor | None, g: Tensor | None) -> Tensor:
    """`c_i = <u, l_i + g>`, the parametrised compatibility. local (B, P, C), u (C,), g (B, C) → (B, P)."""
    assert u is not None
    scores = local @ u  # (B, P)
    return scores if g is None else scores + (g @ u)[:, None]


@compatibility("dp", learns_u=False, role_of_g="acts")
def dot_product(local: Tensor, u: Tensor | None, g: Tensor | None) -> Tensor:
    """`c_i = <l_i, g>`, unscaled as in the paper. local (B, P, C), g (B, C) → (B, P)."""
    assert g is not None
    return (local @ g[:, :, None]).squeeze(2)


@compatibility("add", learns_u=True, role_of_g="acts")
def additive(local: Tensor, u: Tensor | None, g: Tensor | None) -> Tensor:
    """`c_i = <u, tanh(l_i + g)>` (Bahdanau et al. 2015). local (B, P, C), u (C,), g (B, C) → (B, P)."""
    assert u is not None
    assert g is not None
    return (local + g[:, None, :]).tanh() @ u


COMPATIBILITIES.add("uniform", Compatibility("uniform", scores=None, learns_u=False, role_of_g="unused"))
