"""The networks of "Learn to Pay Attention": soft attention at one to three levels (Jetley et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from l2a_transfer.models.config import DEFAULT_SELECTION, Architecture, Family, ModelConfig, family
from l2a_transfer.models.selection import Sampling, find_selection

if TYPE_CHECKING:
    from torch import nn

    from l2a_transfer.models.objectives import Objective

COMPATIBILITY_NAMES = ("pc", "dp", "add", "uniform")


def _architectures() -> Iterator[Architecture]:
    for n, levels in ((1, ("L3",)), (2, ("L2", "L3")), (3, ("L1", "L2", "L3"))):
        # With one level there is nothing to concatenate or average, so att1 has no head in its name.
        for head in ("",) if n == 1 else ("concat", "indep"):
            for compatibility in COMPATIBILITY_NAMES:
                middle = f"-{head}" if head else ""
                yield Architecture(f"vgg-att{n}{middle}-{compatibility}", levels, head or "concat", compatibility)


@family("attention")
class SoftFamily(Family):
    """Attention at one to three levels, with one classifier over all levels or one per level."""

    architectures = tuple(_architectures())
    selections: ClassVar[tuple[str, ...]] = ("soft", "hard", "top", "random")

    def network(self, config: ModelConfig) -> nn.Module:
        from l2a_transfer.models.networks.soft import AttentionVGG

        return AttentionVGG(config)

    def objective(self, config: ModelConfig, *, label_smoothing: float, sampling: Sampling | None = None) -> Objective:
        if config.selection == DEFAULT_SELECTION:
            return super().objective(config, label_smoothing=label_smoothing)
        from l2a_transfer.models.sampling import SelectionLoss

        return SelectionLoss(find_selection(config.selection), sampling or Sampling(), label_smoothing)

    def readouts(self, network: nn.Module, sampling: Sampling) -> dict[str, nn.Module]:
        """For hard selection: one draw, the mean class probability of 16 draws, and soft weights instead."""
        config: ModelConfig = network.config  # type: ignore[assignment]
        if find_selection(config.selection).name != "hard":
            return {}
        from l2a_transfer.models.sampling import Readout

        draws = {"sampled": 1, "expected": 16, "soft": 0}
        return {name: Readout(network, n, sampling.of_scores) for name, n in draws.items()}  # type: ignore[arg-type]

    def min_size(self, config: ModelConfig) -> int:
        return 16 if config.builds_global_branch else 4
