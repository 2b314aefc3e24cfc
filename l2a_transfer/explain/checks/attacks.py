"""Attacks on a network's input: small changes, at most ε per pixel, made to change the prediction.

Input and output are pixels between 0 and 1, before normalisation. Both attacks follow the sign of the gradient of the
cross entropy, `log(1 + exp(m))` with m the log-sum-exp of the other classes' logits minus the own class's logit. Its
gradient is that of m times a positive factor, which rounds to 0 in float32 if the network is certain. So the gradient
of m is used instead; it has the same sign.

References
----------
.. [1] I. Goodfellow, J. Shlens, C. Szegedy: Explaining and Harnessing Adversarial Examples. ICLR 2015.
.. [2] A. Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks. ICLR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError, BackendError, unknown_name
from l2a_transfer.preprocess import Preprocess, normalize

if TYPE_CHECKING:
    from torch import Tensor, nn

FGSM, PGD, NOISE = "fgsm", "pgd", "noise"
ATTACKS = (FGSM, PGD)
LEVELS = 255.0
"""ε is in units of one level of 8-bit pixels, 1/255."""
MAX_STEPS = 10_000
STEP_SCALE = 2.5
"""Total length of all PGD steps, in units of ε, as in Madry et al.'s code."""


@dataclass(frozen=True)
class AttackConfig:
    """Settings of an attack, apart from ε.

    Parameters
    ----------
    steps : int, default=10
        Gradient steps of PGD.
    step : float, optional
        Step size, in 1/255; `2.5 ε / steps` by default.
    seed : int, default=0
        Random seed of the starts of PGD and of the noise. The random numbers of an image depend only on the seed and
        the image's pixels, not on the rest of the batch.

    Raises
    ------
    ArgumentError
        For a number out of range.
    """

    steps: int = 10
    step: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise ArgumentError(f"steps must be between 1 and {MAX_STEPS:,}, got {self.steps}")
        if self.step is not None and not 0 < self.step <= LEVELS:
            raise ArgumentError(f"step must be above 0 and at most 255, got {self.step}")
        if not 0 <= self.seed < 2**32:
            raise ArgumentError(f"seed must be between 0 and {2**32 - 1}, got {self.seed}")

    def step_for(self, epsilon: float) -> float:
        """Step size of PGD, in 1/255."""
        return STEP_SCALE * epsilon / self.steps if self.step is None else self.step


def attack(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    method: str = FGSM,
    preprocess: Preprocess | None = None,
    config: AttackConfig | None = None,
) -> Tensor:
    """Change images by at most ε per pixel so that the network misclassifies them.

    Parameters
    ----------
    model : nn.Module
        Any module that returns logits (B, K) for normalised images. It is attacked in evaluation mode, and not changed.
    pixels : Tensor (B, 3, H, W)
        Floating point from 0 to 1, on the device of the model.
    labels : Tensor (B,)
        The true class of each image, int64.
    epsilon : float
        The largest change, in 1/255.
    method : {"fgsm", "pgd", "noise"}
        ``"fgsm"`` [1]_ takes one step of ε. ``"pgd"`` [2]_ takes `config.steps` steps from a random point within ε.
        ``"noise"`` is the control: each value is moved by ε up or down, at random.
    preprocess : Preprocess, optional
        Preprocessing of the network, for its mean and standard deviation; by default that of CIFAR-10.
    config : AttackConfig, optional
        Settings of the attack.

    Returns
    -------
    Tensor (B, 3, H, W)
        Between 0 and 1.

    Raises
    ------
    UnknownNameError
        For an unknown method.
    ArgumentError
        For an ε out of range, and labels that do not fit the images or the network.
    BackendError
        For a network with fewer than two classes, or if its gradient is not finite.

    Examples
    --------
    >>> import torch
    >>> from l2a_transfer.models.loading import load_model
    >>> network, card = load_model("untrained:vgg-att2-concat-pc@0.0625")
    >>> images = torch.full((2, 3, 32, 32), 0.5)
    >>> changed = attack(network, images, torch.tensor([0, 1]), epsilon=2, preprocess=card.preprocess)
    >>> round(float((changed - images).abs().max()) * 255, 3)
    2.0
    """
    import torch

    from l2a_transfer.models.copies import in_evaluation

    preprocess, config = preprocess or Preprocess(), config or AttackConfig()
    if method not in (*ATTACKS, NOISE):
        raise unknown_name("method", method, (*ATTACKS, NOISE))
    if not 0 <= epsilon <= LEVELS:
        raise ArgumentError(f"epsilon must be between 0 and 255, in units of 1/255; got {epsilon}")
    if labels.shape != (len(pixels),):
        raise ArgumentError(f"labels must have one entry per image, {len(pixels)}; got {tuple(labels.shape)}")
    model = in_evaluation(model)
    pixels = pixels.detach()
    if method == NOISE:
        return one_step(pixels, _uniform(pixels, config.seed), epsilon=epsilon)
    if method == FGSM:
        return one_step(pixels, gradient(model, pixels, labels, preprocess=preprocess), epsilon=epsilon)
    size, step = epsilon / LEVELS, config.step_for(epsilon) / LEVELS
    low, high = (pixels - size).clamp(min=0), (pixels + size).clamp(max=1)
    found = torch.minimum(torch.maximum(pixels + size * _uniform(pixels, config.seed), low), high)
    for _ in range(config.steps):
        found = found + step * gradient(model, found, labels, preprocess=preprocess).sign()
        found = torch.minimum(torch.maximum(found, low), high)
    return found


def one_step(pixels: Tensor, direction: Tensor, *, epsilon: float) -> Tensor:
    """Move each value by ε, in 1/255, in the direction of the sign of `direction`, and clip to [0, 1]."""
    return (pixels + epsilon / LEVELS * direction.sign()).clamp(0, 1)


def gradient(model: nn.Module, pixels: Tensor, labels: Tensor, *, preprocess: Preprocess) -> Tensor:
    """The gradient (B, 3, H, W) of each image's margin m (see the module) with respect to its pixels. Raises: as
    `attack`."""
    import torch

    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(normalize(pixels, *preprocess.statistics(pixels.device)))
        (found,) = torch.autograd.grad(margin(logits, labels).sum(), pixels)
    if not bool(found.isfinite().all()):
        raise BackendError("the network's gradient is not finite", "use other weights as `model`")
    return found


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-sum-exp of the other classes' logits minus the own class's logit, (B,). Raises: as `attack`."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise BackendError(f"the network must give logits of at least two classes (B, K), got {tuple(logits.shape)}")
    K = logits.shape[1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < K:
        raise ArgumentError(f"labels must be between 0 and {K - 1}, got {int(labels.min())} to {int(labels.max())}")
    own = logits.gather(1, labels[:, None])  # (B, 1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.logsumexp(dim=1) - own[:, 0]


def _uniform(pixels: Tensor, seed: int) -> Tensor:
    """Noise between −1 and 1 with the shape of the images, determined by the seed and each image's pixels."""
    import torch

    from l2a_transfer.explain.methods.controls import generators

    own = generators(pixels, seed)
    return torch.stack([2 * torch.rand(pixels.shape[1:], generator=one) - 1 for one in own]).to(pixels)
