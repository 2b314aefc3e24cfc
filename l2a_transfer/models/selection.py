"""Selections: which positions the weights of a level are given to. Declared here without importing torch.

With soft selection every position has its weight. Hard selections choose positions, and their features are those of
the chosen ones alone (Mnih et al. 2014, arXiv:1406.6247; Xu et al. 2015, arXiv:1502.03044). In evaluation the choice
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
    """One way to choose positions, and what the rest of the package needs to know of it.

    Parameters
    ----------
    name : str
        Its name in configs and cards; with its number, as ``"top:4"``.
    choose : callable or None
        What it needs, (B, P) scores or (B, P) noise, to weights (B, P): equal ones that sum to 1 at the chosen
        positions, and 0 elsewhere. None where all positions have weights.
    needs : {"scores", "noise", "nothing"}
        What `choose` takes. Noise is a function of the image's pixels.
    samplers : tuple of str
        Of `SAMPLERS`, those that train it.
    count : int
        How many positions are chosen at each level; 0 for all.
    takes_count : bool
        Whether its name has a number.
    about : str
        What is attended to, in a sentence.
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
        A registered name, with the number of positions where it takes one, as ``"top:4"``.

    Returns
    -------
    Selection

    Raises
    ------
    UnknownNameError
        For a name that is not registered.
    ValueError
        For a number that is missing, not whole, below 1 or above 999,999, and one that is not taken.

    Examples
    --------
    >>> find_selection("top:4").count
    4
    """
    name, colon, value = text.partition(":")
    found = SELECTIONS.find(name)
    if not found.takes_count:
        if colon:
            raise ArgumentError(f"the selection {name!r} takes no number; got {text!r}", f"write {name!r} alone")
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
    """Whether a selection goes with the rest of a config. Raises: UnknownNameError; ValueError.

    Parameters
    ----------
    text : str
        As `find_selection` takes it.
    architecture, normalizer : str
        Of the config.
    allowed : tuple of str
        Names of the selections that the architecture's family can have.
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
            f"selection {text!r} needs scores, and {architecture} has none", "use selection 'random', its control"
        )
    if found.needs == "noise" and has_scores:
        raise ArgumentError(
            f"selection {text!r} uses no scores, and {architecture} has some",
            "use an architecture whose compatibility is 'uniform'",
        )
    if normalizer != "softmax":
        raise ArgumentError(
            f"normalizer must be 'softmax' with selection {text!r}, which draws positions from it; got {normalizer!r}"
        )


def highest(values: Tensor, count: int = 1) -> Tensor:
    """Equal weights at the `count` highest values of each row (B, P), and 0 elsewhere.

    Of equal values the first is chosen where `count` is 1, and otherwise all that equal the lowest of those chosen.
    Where there are fewer values than `count`, all are chosen.
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
    """How a hard selection is trained. A recipe has these fields.

    Parameters
    ----------
    sampler : {"reinforce", "gumbel-st", "exact"}
        "reinforce" draws positions, and weighs the logarithm of their probability by what the draw costs more than the
        baseline (Williams 1992). "gumbel-st" draws them by Gumbel noise, and lets the gradient pass as if the choice
        were soft (Jang et al. 2017). "exact" takes the expectation over all positions, where they are few.
    samples : int
        Draws an image and step, with "reinforce".
    baseline : {"soft", "others", "none"}
        What a draw's loss is compared with: the loss of the weights' mean, the mean of the image's other draws (which
        needs two), or nothing.
    entropy_weight : float
        By which the entropy of the weights, in nats, is rewarded at the start.
    entropy_until : float
        The share of the steps after which that reward has fallen to 0, linearly.
    temperature : float
        Above 0. Scores are divided by it before positions are drawn; with "gumbel-st" they are drawn as they are, and
        it is the temperature of the soft choice that the gradient sees.
    """

    sampler: str = "reinforce"
    samples: int = 1
    baseline: str = "soft"
    entropy_weight: float = 0.01
    entropy_until: float = 1.0
    temperature: float = 1.0

    @property
    def of_scores(self) -> float:
        """By which scores are divided before positions are drawn."""
        return 1.0 if self.sampler == "gumbel-st" else self.temperature
