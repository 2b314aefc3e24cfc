"""Our networks in timm. Importing this module registers them, for example `l2a_vgg_att2_concat_pc`. Needs the extra
`timm`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, MissingExtraError, names_keywords
from l2a_transfer.models.config import ARCHITECTURES
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import create_model
from l2a_transfer.models.weights import PRETRAINED, pretrained_names, read_card
from l2a_transfer.preprocess import Preprocess

try:
    from timm.models import generate_default_cfgs, register_model, resolve_pretrained_cfg
except ImportError as error:
    raise MissingExtraError("a network in timm", "timm", "timm") from error

__all__: list[str] = []
PREFIX = "l2a_"


class Features(nn.Module):
    """A network without its classifier, for timm's `num_classes=0`: images (B, 3, H, W) → features (B, D)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The concatenated g_a, (B, D)."""
        found: Tensor = self.network.attend(images).features
        return found


def timm_name(name: str) -> str:
    """The name of an architecture or weights in timm: `l2a_vgg_att2_concat_pc.cifar10_w025`."""
    return PREFIX + name.replace("-", "_")


def _cfg(preprocess: Preprocess, classes: int) -> dict[str, Any]:
    return {
        "input_size": (3, preprocess.size, preprocess.size),
        "interpolation": preprocess.filter,
        "crop_pct": 1.0,
        "crop_mode": "squash" if preprocess.fit == "stretch" else "center",
        "mean": preprocess.mean,
        "std": preprocess.std,
        "num_classes": classes,
        "license": "mit",
        "custom_load": True,
    }


def _default_cfgs() -> dict[str, Any]:
    """The default configs by name, for all bundled weights, and for architectures without any."""
    weights = {name: read_card(PRETRAINED / f"{name}.safetensors") for name in pretrained_names()}
    cfgs = {
        timm_name(name): {
            **_cfg(card.preprocess, card.config.num_classes),
            "file": str(PRETRAINED / f"{name}.safetensors"),
        }
        for name, card in weights.items()
    }
    named = {name.partition(".")[0] for name in weights}
    return {**cfgs, **{timm_name(name): _cfg(Preprocess(), 10) for name in ARCHITECTURES if name not in named}}


default_cfgs: dict[str, Any] = generate_default_cfgs(_default_cfgs())


def _entry(architecture: str) -> Callable[..., nn.Module]:
    weights = {
        timm_name(name).partition(".")[2]: name for name in pretrained_names() if name.partition(".")[0] == architecture
    }

    @names_keywords
    def create(
        pretrained: bool = False,
        *,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        num_classes: int | None = None,
        width: float | None = None,
        normalizer: str | None = None,
        dropout: float | None = None,
        global_branch: str | None = None,
        selection: str | None = None,
        seed: int | None = None,
        in_chans: int = 3,
        scriptable: bool | None = None,
    ) -> nn.Module:
        if in_chans != 3:
            raise ArgumentError(f"in_chans must be 3, got {in_chans}")
        cfg = resolve_pretrained_cfg(
            timm_name(architecture), pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=pretrained_cfg_overlay
        )
        name = weights.get(cfg.tag or "", architecture)
        network = create_model(
            name,
            pretrained=pretrained,
            num_classes=num_classes or None,
            width=width,
            normalizer=normalizer,
            dropout=dropout,
            global_branch=global_branch,
            selection=selection,
            seed=seed,
        )
        found: Any = Features(network) if num_classes == 0 else network
        found.num_classes = 0 if num_classes == 0 else network.config.num_classes
        found.num_features = sum(network.config.feature_levels.values())
        found.pretrained_cfg = found.default_cfg = cfg.to_dict()
        return found  # type: ignore[no-any-return]

    create.__name__ = create.__qualname__ = timm_name(architecture)
    create.__doc__ = f"{architecture} of l2a_transfer, with the options of create_model."
    return create


for _name in ARCHITECTURES:
    globals()[timm_name(_name)] = register_model(_entry(_name))
