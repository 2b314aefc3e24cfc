"""Selections: which positions of a level get weights. Declared here without importing torch.

With soft selection every position has a weight. Hard selections choose positions, and only the features of these are
used (Mnih et al. 2014, arXiv:1406.6247; Xu et al. 2015, arXiv:1502.03044). In evaluation the choice
is a function of the image; in training it is drawn (`models.sampling`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from l2a_transfer.errors import ArgumentError
from l2a_transfer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    Choose = Callable[..., Tensor]

Needs = Literal["scores", "noise", "nothing"]
SAMPLERS = ("reinforce", "gumbel-st", "exact")


@dataclass(frozen=True)
class Selection:
    """One way to choose positions, and the properties that the rest of the package needs.

    Parameters
    ----------
    name : str
        Its name in configs and cards, including its number, as in ``"top:4"``.
    choose : callable or None
        Scores (B, P) or noise (B, P), see `needs`, to weights (B, P): equal weights that sum to 1 at the chosen
        positions, and 0 elsewhere. None if all positions have weights.
    needs : {"scores", "noise", "nothing"}
        The input of `choose`. Noise is a function of the image's pixels.
    samplers : tuple of str
        The `SAMPLERS` that can train it.
    count : int
        Number of positions chosen at each level; 0 for all.
    takes_count : bool
        Whether its name includes a number.
    about : str
        Description in one sentence.
    """

    name: str
    choose: Choose | None
    needs: Needs = "scores"
    samplers: tuple[str, ...] = ()
    count: int = 1
    takes_count: bool = False
    about: str = ""


SELECTIONS: Registry[Selection] = Registry("selection")


def find_selection(text: str) -> Selection:
    """The selection that a config names.

    Parameters
    ----------
    text : str
        A registered name, with the number of positions if it takes one, as in ``"top:4"``.

    Returns
    -------
    Selection

    Raises
    ------
    UnknownNameError
        If the name is not registered.
    ValueError
        If a number is missing, not an integer, below 1 or above 999,999, or if the selection takes none.

    Examples
    --------
    >>> find_selection("top:4").count
    4
    """
    name, colon, value = text.partition(":")
    found = SELECTIONS.find(name)
    if not found.takes_count:
        if colon:
            raise ArgumentError(f"the selection {name!r} takes no number; got {text!r}", f"write just {name!r}")
        return found
    if not (value.isascii() and value.isdecimal() and len(value) <= 6 and int(value) >= 1):
        raise ArgumentError(
            f"the selection {name!r} needs a number of positions, 1 to 999,999; got {text!r}",
            f"write it as {name}:4",
        )
    count = int(value)
    assert found.choose is not None
    choose = partial(found.choose, count=count)
    return dataclasses.replace(found, name=f"{name}:{count}", choose=choose, count=count)


def check_selection(
    text: str, architecture: str, *, allowed: tuple[str, ...], has_scores: bool, normalizer: str
) -> None:
    """Check that a selection suits the rest of a config. Raises: UnknownNameError; ValueError.

    Parameters
    ----------
    text : str
        A selection, as for `find_selection`.
    architecture, normalizer : str
        Those of the config.
    allowed : tuple of str
        Names of the selections that the architecture's family supports.
    has_scores : bool
        Whether the architecture scores positions.
    """
    found = find_selection(text)
    if found.choose is None:
        return
    if text.partition(":")[0] not in allowed:
        raise ArgumentError(f"selection must be 'soft' for {architecture}; got {text!r}")
    if found.needs == "scores" and not has_scores:
        raise ArgumentError(
            f"selection {text!r} needs scores, but {architecture} has none", "use selection 'random', its control"
        )
    if found.needs == "noise" and has_scores:
        raise ArgumentError(
            f"selection {text!r} uses no scores, but {architecture} has scores",
            "use an architecture whose compatibility is 'uniform'",
        )
    if normalizer != "softmax":
        raise ArgumentError(
            f"normalizer must be 'softmax' with selection {text!r}, which draws positions from it; got {normalizer!r}"
        )


def highest(values: Tensor, count: int = 1) -> Tensor:
    """Equal weights at the `count` highest values of each row (B, P), and 0 elsewhere.

    If `count` is 1, the first of equal values is chosen; otherwise all values that equal the lowest chosen one are
    chosen too. If there are fewer values than `count`, all are chosen.
    """
    import torch

    P = values.shape[1]
    if count == 1:
        chosen = torch.arange(P, device=values.device) == values.argmax(dim=1, keepdim=True)
        return chosen.to(values)
    lowest = -1 * (-1 * values.topk(min(count, P), dim=1).values).amax(dim=1, keepdim=True)
    weights = (lowest <= values).to(values)
    return weights / weights.sum(dim=1, keepdim=True)


SELECTIONS.add("soft", Selection("soft", None, "nothing", count=0, about="Every position, by its weight."))
SELECTIONS.add("hard", Selection("hard", highest, samplers=SAMPLERS, about="The position with the highest score."))
SELECTIONS.add(
    "top",
    Selection(
        "top",
        highest,
        samplers=("gumbel-st",),
        takes_count=True,
        about="The mean of the K positions with the highest scores; `top:K`.",
    ),
)
SELECTIONS.add(
    "random",
    Selection(
        "random",
        highest,
        "noise",
        about="A position that the pixels decide as noise would: the control of hard selection, without scores.",
    ),
)


@dataclass(frozen=True)
class Sampling:
    """How a hard selection is trained. These are also fields of a recipe.

    Parameters
    ----------
    sampler : {"reinforce", "gumbel-st", "exact"}
        "reinforce" draws positions, and weights the logarithm of their probability by the draw's loss minus the
        baseline (Williams 1992). "gumbel-st" draws them with Gumbel noise, and passes the gradient through as if the
        choice were soft (Jang et al. 2017). "exact" computes the expectation over all positions, if they are few.
    samples : int
        Draws per image and step, with "reinforce".
    baseline : {"others", "soft", "none"}
        What is subtracted from a draw's loss: the mean loss of the image's other draws (which needs at least two), the
        loss with soft weights, or nothing.
    entropy_weight : float
        Weight of the reward for entropy of the weights, in nats, at the start.
    entropy_until : float
        The fraction of the steps over which this reward falls linearly to 0.
    temperature : float
        Above 0. Scores are divided by it before positions are drawn. With "gumbel-st" the draws do not depend on it; it
        is the temperature of the soft choice that the gradient sees.
    """

    sampler: str = "reinforce"
    samples: int = 16
    baseline: str = "others"
    entropy_weight: float = 0.01
    entropy_until: float = 1.0
    temperature: float = 1.0

    @property
    def of_scores(self) -> float:
        """Divisor of the scores before positions are drawn."""
        return 1.0 if self.sampler == "gumbel-st" else self.temperature
