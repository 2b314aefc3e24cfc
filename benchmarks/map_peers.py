"""The map methods of captum and torch-cam, with the same signature as ours: network, images and classes → maps (B, h,
w)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from captum.attr import (
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor

from l2a_transfer.models.interface import Network

ATTENTION = "vgg-att2-concat-pc.cifar10-w025"
AVERAGED = str(Path(__file__).parent / "zoo" / "vgg-gap.cifar10-w025.fast.seed-0.safetensors")


@dataclass(frozen=True)
class Peer:
    """The same method in another library.

    Parameters
    ----------
    library : str
        Name of the library.
    maps : callable
        Network, images, classes and one of `settings` as a keyword → maps.
    setting : str, optional
        Name of the setting that determines how much is computed at once.
    settings : tuple
        Values of this setting to try.
    model : str
        The network for the comparison.
    """

    library: str
    maps: Callable[..., Tensor]
    setting: str = ""
    settings: tuple[Any, ...] = ()
    model: str = ATTENTION


def captum_saliency(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    return Saliency(network).attribute(images, target=targets).amax(dim=1)


def captum_smoothgrad(samples: int, noise: float) -> Callable[..., Tensor]:
    def maps(network: Network, images: Tensor, targets: Tensor, at_once: int | None) -> Tensor:
        spread = float((images.flatten(1).amax(dim=1) - images.flatten(1).amin(dim=1)).mean())
        mean = NoiseTunnel(Saliency(network)).attribute(
            images, nt_samples=samples, nt_samples_batch_size=at_once, stdevs=noise * spread, target=targets, abs=False
        )
        return mean.abs().amax(dim=1)

    return maps


def captum_integrated(steps: int) -> Callable[..., Tensor]:
    def maps(network: Network, images: Tensor, targets: Tensor, at_once: int | None) -> Tensor:
        found = IntegratedGradients(network).attribute(
            images, target=targets, n_steps=steps, internal_batch_size=at_once
        )
        return found.sum(dim=1)

    return maps


def captum_occlusion(window: int, stride: int) -> Callable[..., Tensor]:
    def maps(network: Network, images: Tensor, targets: Tensor, at_once: int) -> Tensor:
        with torch.no_grad():
            found = Occlusion(network).attribute(
                images, (3, window, window), (3, stride, stride), target=targets, perturbations_per_eval=at_once
            )
        return found[:, 0]

    return maps


def captum_grad_cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    return LayerGradCam(network, network.trunk[4]).attribute(images, target=targets, relu_attributions=True)[:, 0]


def captum_guided(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    return GuidedBackprop(network).attribute(images, target=targets).abs().amax(dim=1)


def captum_guided_grad_cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    found = GuidedGradCam(network, network.trunk[4]).attribute(images, target=targets, interpolate_mode="bilinear")
    return found.abs().amax(dim=1)


def torchcam_cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    from torchcam.methods import CAM

    with CAM(network, "trunk.4", "classifier") as extractor, torch.inference_mode():
        network(images)
        (maps,) = extractor(targets.tolist(), normalized=False)
    return maps


def torchcam_grad_cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(network, "trunk.4") as extractor:
        (maps,) = extractor(targets.tolist(), network(images), normalized=False)
    return maps
