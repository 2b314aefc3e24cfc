"""Losses of hard selections: REINFORCE, straight-through Gumbel, and the exact expectation.

Shapes: B images, S draws, P positions of a level, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError
from l2a_transfer.models.attention import Scored
from l2a_transfer.models.blocks import LevelHead
from l2a_transfer.models.networks.soft import AttentionVGG
from l2a_transfer.models.objectives import StepLoss
from l2a_transfer.models.selection import Sampling, Selection

MAX_EXACT = 1 << 26
"""Largest number of logits of all positions of a batch, B · P of each level · K, for the exact sampler."""


@dataclass(frozen=True)
class SelectionLoss:
    """Expected cross-entropy over the positions that a hard selection draws, in nats.

    Parameters
    ----------
    selection : Selection
        How positions are chosen.
    sampling : Sampling
        How its gradient is estimated.
    label_smoothing : float
        As for `CrossEntropy`.
    """

    selection: Selection
    sampling: Sampling
    label_smoothing: float = 0.0

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator, progress: Tensor
    ) -> StepLoss:
        net = cast("AttentionVGG", network)
        local = net.local_features(images)
        if self.selection.needs == "noise":
            return self._random(net, local, labels, generator)
        levels = net.scored(local)
        with torch.autocast(images.device.type, enabled=False):
            scores = {level: one.scores / self.sampling.of_scores for level, one in levels.items()}
            entropy = _entropy(scores)
            estimate = {"reinforce": self._reinforce, "gumbel-st": self._gumbel, "exact": self._exact}
            loss, logits, metrics = estimate[self.sampling.sampler](net, levels, scores, labels, generator)
            until = self.sampling.entropy_until
            left = (1 - progress / until).clamp(min=0) if until else 0 * progress  # on the device: a copy would wait
            loss = loss - self.sampling.entropy_weight * left * entropy
        return StepLoss(loss, logits, {"entropy": entropy, **metrics})

    def _random(
        self, net: AttentionVGG, local: dict[str, Tensor], labels: Tensor, generator: torch.Generator
    ) -> StepLoss:
        """The loss with uniformly random positions, of which nothing is learned."""
        with torch.autocast(labels.device.type, enabled=False):
            g_a = {}
            for level in net.attention:
                flat = local[level].flatten(2).float()  # (B, C, P)
                at = torch.randint(flat.shape[2], (len(flat), 1, 1), generator=generator, device=flat.device)
                g_a[level] = flat.gather(2, at.expand(-1, flat.shape[1], 1)).squeeze(2)
            logits = net.classified(g_a).logits
        return StepLoss(self._cross_entropy(logits, labels).mean(), logits)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each image, (B,)."""
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing, reduction="none")

    def _reinforce(
        self,
        net: AttentionVGG,
        levels: dict[str, Scored],
        scores: dict[str, Tensor],
        labels: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        S, B = self.sampling.samples, len(labels)
        log_p = {level: values.log_softmax(dim=1) for level, values in scores.items()}
        drawn = {level: _drawn(values.detach().exp(), S, generator) for level, values in log_p.items()}  # (B, S)
        seen = []
        for level, one in levels.items():
            head = cast("LevelHead", net.heads[level])
            of_all = _statistics(head.bn, one.local, log_p[level].exp())
            seen.append(_normalized(head, _at(one.local, drawn[level]), *of_all).flatten(0, 1))  # (B · S, C)
        logits = net.logits_of(seen)
        cost = self._cross_entropy(logits, labels.repeat_interleave(S)).view(B, S)
        compared = cost.detach() - self._baseline(net, levels, scores, labels, cost.detach())
        chosen = sum(log_p[level].gather(1, drawn[level]) for level in levels)  # (B, S)
        loss = cost.mean() + (compared * chosen).mean()
        # Add the gradient of the second term but not its value, so that the logged loss is the cost.
        loss = loss + (cost.detach().mean() - loss.detach())
        return loss, logits.view(B, S, -1)[:, 0], {"advantage_std": compared.std()}

    def _baseline(
        self, net: AttentionVGG, levels: dict[str, Scored], scores: dict[str, Tensor], labels: Tensor, cost: Tensor
    ) -> Tensor:
        """The baseline of each draw, (B, 1) or (B, S)."""
        if self.sampling.baseline == "none":
            return torch.zeros_like(cost)
        if self.sampling.baseline == "others":
            return (cost.sum(dim=1, keepdim=True) - cost) / (cost.shape[1] - 1)
        with torch.no_grad(), unchanged_statistics(net):
            means = {level: _mean(one.local, scores[level].softmax(dim=1)) for level, one in levels.items()}
            return self._cross_entropy(net.classified(means).logits, labels)[:, None]

    def _gumbel(
        self,
        net: AttentionVGG,
        levels: dict[str, Scored],
        scores: dict[str, Tensor],
        labels: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        g_a = {}
        for level, one in levels.items():
            noisy = (scores[level] + _gumbel_noise(one.scores, generator)) / self.sampling.temperature
            soft = noisy.softmax(dim=1)
            assert self.selection.choose is not None
            g_a[level] = _mean(one.local, self.selection.choose(noisy.detach()) + soft - soft.detach())
        logits = net.classified(g_a).logits
        return self._cross_entropy(logits, labels).mean(), logits, {}

    def _exact(
        self,
        net: AttentionVGG,
        levels: dict[str, Scored],
        scores: dict[str, Tensor],
        labels: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        p = {level: values.softmax(dim=1) for level, values in scores.items()}
        check_exact(len(labels), [values.shape[1] for values in p.values()], net.config.num_classes)
        seen = [
            _seen_everywhere(cast("LevelHead", net.heads[level]), one.local, p[level]) for level, one in levels.items()
        ]
        logits = net.logits_of_all(seen)  # (B, P of the first level, …, K)
        K = logits.shape[-1]
        flat = logits.reshape(-1, K)
        cost = self._cross_entropy(flat, labels.repeat_interleave(len(flat) // len(labels))).view(len(labels), -1)
        together = _joint(list(p.values()))  # (B, P · P …)
        expected = torch.einsum("bp,bpk->bk", together.detach(), logits.detach().reshape(len(labels), -1, K).softmax(2))
        return (cost * together).sum(dim=1).mean(), expected.log(), {}


def check_exact(images: int, positions: list[int], classes: int) -> None:
    """Raises: ArgumentError if the exact sampler would need too much memory."""
    if images * math.prod(positions) * classes > MAX_EXACT:
        raise ArgumentError(
            f"the exact sampler computes the logits of all positions, here {images} images × "
            f"{' × '.join(map(str, positions))} positions × {classes} classes; the limit is {MAX_EXACT:,} numbers",
            "use another sampler in the recipe, or a smaller `batch_size` or image size",
        )


def _drawn(p: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Draw positions (B, draws) with the probabilities p (B, P).

    For an image whose p is not finite, they are drawn uniformly, because `multinomial` would raise its own error. The
    loss is not finite then, which the trainer reports.
    """
    finite = p.isfinite().all(dim=1, keepdim=True)
    return torch.multinomial(p.where(finite, 1.0), draws, replacement=True, generator=generator)


def _at(local: Tensor, positions: Tensor) -> Tensor:
    """The local features (B, P, C) at positions (B, S): (B, S, C)."""
    return local.gather(1, positions[:, :, None].expand(-1, -1, local.shape[2]))


def _mean(local: Tensor, weights: Tensor) -> Tensor:
    """Σ_i a_i l_i: local (B, P, C), weights (B, P) → (B, C)."""
    return (weights[:, None] @ local).squeeze(1)


def _entropy(scores: dict[str, Tensor]) -> Tensor:
    """The entropy of the weights in nats, summed over levels, as a mean over images."""
    log_p = [values.log_softmax(dim=1) for values in scores.values()]
    return torch.stack([-(values.exp() * values).sum(dim=1).mean() for values in log_p]).sum()


def _gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return -(-uniform.clamp(min=torch.finfo(like.dtype).tiny).log()).log()


def _joint(p: list[Tensor]) -> Tensor:
    """Probabilities of each level's positions → those of all pairs (triples), flattened: (B, P · P …)."""
    together = p[0]
    for other in p[1:]:
        together = (together[:, :, None] * other[:, None]).flatten(1)
    return together


def _statistics(bn: nn.BatchNorm1d, local: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a batch norm's input (C,): in training mode, those of infinitely many draws.

    The statistics of the draws at hand would make the loss of one image depend on the positions of the others. No
    estimate that weighs each draw with its own loss sees that, so its mean would not be the gradient.
    """
    assert bn.running_mean is not None
    assert bn.running_var is not None
    if not bn.training:
        return bn.running_mean, bn.running_var
    mean = _mean(local, p).mean(dim=0)
    variance = _mean((local - mean).square(), p).mean(dim=0)
    with torch.no_grad():
        assert bn.momentum is not None
        assert bn.num_batches_tracked is not None
        n = len(local)
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), bn.momentum)
        bn.running_var.lerp_((variance * n / max(1, n - 1)).to(bn.running_var.dtype), bn.momentum)
        bn.num_batches_tracked.add_(1)
    return mean, variance


def _normalized(head: LevelHead, values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """What the classifier reads of features (…, C), normalised with these statistics."""
    bn = head.bn
    normal = (values - mean) * (bn.weight * (variance + bn.eps).rsqrt()) + bn.bias
    seen: Tensor = head.dropout(head.relu(normal))
    return seen


def _seen_everywhere(head: LevelHead, local: Tensor, p: Tensor) -> Tensor:
    """What the classifier would read at each position, (B, P, C)."""
    return _normalized(head, local, *_statistics(head.bn, local, p))


@contextmanager
def unchanged_statistics(net: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode use the batch's statistics without updating their running ones."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class Readout(nn.Module):
    """A readout of a hard network that does not use its best positions. An image's draws depend on the batch.

    Parameters
    ----------
    network : AttentionVGG
        In evaluation mode.
    draws : int
        As for `drawn_log_probabilities`. With 0, the local features are averaged with the weights from which positions
        are drawn, as in soft attention.
    temperature : float
        Divisor of the scores.
    """

    def __init__(self, network: AttentionVGG, draws: int, temperature: float) -> None:
        super().__init__()
        self.network, self.draws, self.temperature = network, draws, temperature
        self.generator: torch.Generator | None = None
        self.train(network.training)  # an evaluation restores this mode afterwards

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to log probabilities or logits (B, K)."""
        if self.draws == 0:
            levels = self.network.scored(self.network.local_features(images))
            means = {
                level: _mean(one.local, (one.scores / self.temperature).softmax(dim=1)) for level, one in levels.items()
            }
            return self.network.classified(means).logits
        if self.generator is None:
            self.generator = torch.Generator(images.device).manual_seed(0)
        return drawn_log_probabilities(self.network, images, self.draws, self.generator, temperature=self.temperature)


@torch.no_grad()
def drawn_log_probabilities(
    network: AttentionVGG, images: Tensor, draws: int, generator: torch.Generator, *, temperature: float = 1.0
) -> Tensor:
    """Log of the mean class probability over `draws` draws of positions, (B, K): evaluation by sampling.

    Parameters
    ----------
    network : AttentionVGG
        In evaluation mode.
    images : Tensor (B, 3, H, W)
        Normalised.
    draws : int
        1 for a single draw; many to approximate the expectation.
    generator : torch.Generator
        On the device of the images.
    temperature : float
        Divisor of the scores, as in training.
    """
    levels = network.scored(network.local_features(images))
    total = None
    for _ in range(draws):
        g_a = {}
        for level, one in levels.items():
            at = torch.multinomial((one.scores / temperature).softmax(dim=1), 1, generator=generator)  # (B, 1)
            g_a[level] = _at(one.local, at).squeeze(1)
        p = network.classified(g_a).logits.float().softmax(dim=1)
        total = p if total is None else total + p
    assert total is not None
    return (total / draws).log()
