"""Features through PyTorch."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.devices import choose_device, extraction_precision, ieee_float32
from l2a_transfer.errors import ArgumentError, unknown_name
from l2a_transfer.features.backends.interface import (
    LOCAL,
    TAPS,
    Computed,
    backend_repr,
    check_groups,
    level_columns,
    maps_wanted,
    tap_levels,
)
from l2a_transfer.features.backends.registry import BACKEND_OPTIONS, register_backend
from l2a_transfer.features.machine import arithmetic, gpu_name, torch_instructions
from l2a_transfer.preprocess import normalize

if TYPE_CHECKING:
    import torch

    from l2a_transfer.models.config import ModelConfig
    from l2a_transfer.models.interface import Attended, Network
    from l2a_transfer.models.weights import Card


FORM, COMPILED = "folded", "folded, compiled"
"""The form of the network: batch norms are folded into convolutions (`models.inference`); and then compiled."""


class TorchBackend:
    """A copy of a network in PyTorch, in evaluation mode, on one device. fp32 means IEEE float32: TF32 is off.

    Batch norms are folded into the convolutions, which is faster and changes features only by rounding.

    If the network attends each image with k `partners`, pixels may also be (B, 1 + k, 3, size, size), the image first.
    Without partners, each image is its own partner.

    With `compile_batch`, batches of that size run through torch.compile, and all others as before.
    """

    name: str = "torch"
    compile_batch: int = 0

    def __init__(
        self,
        model: Network,
        card: Card,
        *,
        device: str = "auto",
        precision: str = "auto",
        tap: str = "ga",
        levels: Sequence[str] | None = None,
        image_size: int | None = None,
        fit: str | None = None,
        decode: str | None = None,
        compile_batch: int = 0,
    ) -> None:
        import torch

        from l2a_transfer.models.copies import evaluation_copy
        from l2a_transfer.models.digest import network_sha256
        from l2a_transfer.models.inference import fold_batch_norms

        if tap not in TAPS:
            raise unknown_name("tap", tap, TAPS)
        self.device = choose_device(device).type
        self.precision = extraction_precision(precision, self.device)
        preprocess = card.preprocess.changed(image_size, fit, decode)
        if preprocess.size < model.config.min_size:
            raise ArgumentError(
                f"image_size must be at least {model.config.min_size} for {card.name}; got {image_size}"
            )
        card = dataclasses.replace(card, preprocess=preprocess)
        self.tap, self.card, self.preprocess = tap, card.to_json(), preprocess
        self.partners = model.config.partners
        widths = tap_levels(model.config, tap)
        self.levels = level_columns(widths, levels)
        self.map_levels = maps_wanted(model.config.map_levels, widths, levels)
        self._weights = network_sha256(model)
        self._original = evaluation_copy(model).cpu()  # sent to other processes
        folded = fold_batch_norms(evaluation_copy(self._original))
        self._model: Any = folded.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._statistics = self.preprocess.statistics(self.device)
        self.compile_batch = compile_batch
        self._run: Any = self._compute
        if compile_batch:
            from l2a_transfer.compiling import compiled

            self._run = compiled(self._compute, self.device, options={"freezing": True})

    def compiled(self, batch_size: int) -> TorchBackend:
        """This backend, with the network compiled for batches of a size. Raises: BackendError without a compiler."""
        reopen, (*network, options) = self.__reduce__()
        found: TorchBackend = reopen(*network, options | {"compile_batch": batch_size})
        return found

    def __repr__(self) -> str:
        return backend_repr(self)

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        check_groups(images_u8, self.preprocess, self.partners)
        found, _ = self._forward(torch.from_numpy(np.ascontiguousarray(images_u8)).to(self.device), attention=False)
        array: NDArray[np.float32] = found.cpu().numpy()
        return array

    def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
        import torch

        if self.device == "cuda":
            yield from self._stream_cuda(batches, attention=attention)
            return
        for images_u8 in batches:
            check_groups(images_u8, self.preprocess, self.partners)
            features, maps = self._forward(torch.from_numpy(np.ascontiguousarray(images_u8)), attention=attention)
            yield Computed(features.numpy(), {level: values.numpy() for level, values in maps.items()})

    def _forward(self, images_u8: torch.Tensor, *, attention: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pixels (uint8, on the device) → features (B, D) and level → float16 maps (B, H', W'), on the device."""
        import torch

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.bfloat16)
        with (
            torch.inference_mode(),
            ieee_float32(),
            torch.autocast(self.device, dtype, enabled=self.precision != "fp32"),
        ):
            images, partners = normalize(images_u8, *self._statistics), None
            if images.ndim == 5:
                images, partners = images[:, 0], images[:, 1:]
            images = images.contiguous(memory_format=torch.channels_last)
            run = self._run if len(images) == self.compile_batch else self._compute
            features, maps = run(images, partners, self.map_levels if attention else ())
        return features, maps

    def _compute(
        self, images: torch.Tensor, partners: torch.Tensor | None, map_levels: tuple[str, ...]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch

        attended = self._model.attend(images) if partners is None else self._model.attend(images, partners)
        values = self._tapped(attended)
        features = torch.cat([values[level].float() for level, _, _ in self.levels], dim=1)  # (B, D)
        return features, {level: attended.maps[level].half() for level in map_levels}

    def _tapped(self, attended: Attended) -> dict[str, torch.Tensor]:
        """Level → the values that leave the network at the tap, (B, D of the level)."""
        if self.tap != LOCAL:
            return attended.g_a if self.tap == "ga" else attended.g_a_bn_relu
        from l2a_transfer.models.blocks import at_least_float32

        if missing := [level for level, _, _ in self.levels if level not in attended.local]:
            raise ArgumentError(
                f"tap {LOCAL!r}: {self.card['name']} has no local features of level {missing[0]}; use tap 'ga'"
            )
        return {level: at_least_float32(attended.local[level]).mean(dim=(2, 3)) for level, _, _ in self.levels}

    def _stream_cuda(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool) -> Iterator[Computed]:
        """While batch k is computed, copy batch k + 1 to the GPU and the results of batch k − 1 back."""
        import torch

        computing, copying = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        pending: deque[tuple[torch.Tensor, dict[str, torch.Tensor], torch.cuda.Event]] = deque()

        def start(uploaded: tuple[torch.Tensor, torch.cuda.Event]) -> None:
            images_u8, arrived = uploaded
            computing.wait_event(arrived)
            images_u8.record_stream(computing)
            features, maps = self._forward(images_u8, attention=attention)
            host = _to_pinned(features), {level: _to_pinned(values) for level, values in maps.items()}
            pending.append((*host, computing.record_event()))

        def finish() -> Computed:
            features, maps, done = pending.popleft()
            done.synchronize()
            # Copied out of pinned memory, which is scarce and reused by the next batches.
            return Computed(features.numpy().copy(), {level: values.numpy().copy() for level, values in maps.items()})

        uploaded: tuple[torch.Tensor, torch.cuda.Event] | None = None
        for batch in batches:
            check_groups(batch, self.preprocess, self.partners)
            pinned = torch.from_numpy(np.ascontiguousarray(batch)).pin_memory()
            with torch.cuda.stream(copying):
                following = pinned.to(self.device, non_blocking=True), copying.record_event()
            if uploaded is not None:
                start(uploaded)
            uploaded = following
            if len(pending) > 1:
                yield finish()
        if uploaded is not None:
            start(uploaded)
        while pending:
            yield finish()

    def __reduce__(self) -> tuple[Any, ...]:
        # A network contains functions that cannot be pickled; its config and state define it completely.
        state = {key: value.cpu().numpy() for key, value in self._original.state_dict().items()}
        options: dict[str, Any] = {"device": self.device, "precision": self.precision, "tap": self.tap}
        options |= {"levels": [name for name, _, _ in self.levels], "compile_batch": self.compile_batch}
        return _reopen, (self.card, self._original.config, state, options)

    def identity(self) -> dict[str, Any]:
        import torch

        return {
            "model": self.card["name"],
            "weights": self._weights,
            "form": COMPILED if self.compile_batch else FORM,
            "runtime": f"torch {torch.__version__}",
            "threads": torch.get_num_threads() if self.device == "cpu" else 0,
            "instructions": torch_instructions(self.device, self.precision),
            "gpu": gpu_name(self.device),
            "arithmetic": arithmetic(self.device, self.preprocess.size, self._probed),
        }

    def _probed(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of images without partners, (B, 3, size, size): the following images serve as partners."""
        if self.partners:
            images_u8 = np.stack([np.roll(images_u8, -step, axis=0) for step in range(1 + self.partners)], axis=1)
        return self.features(images_u8)


@register_backend(
    "torch",
    models="a bundled name, FILE.safetensors or untrained:ARCH[@WIDTH]",
    prefixes=("untrained:",),
    suffixes=(".safetensors",),
    options=BACKEND_OPTIONS,
    wrap=TorchBackend,
)
def open_weights(
    model: str,
    *,
    device: str,
    precision: str,
    tap: str,
    levels: Sequence[str] | None,
    seed: int,
    image_size: int | None,
    fit: str | None,
    decode: str | None,
) -> TorchBackend:
    """A network of this package, in PyTorch. Raises: UnknownNameError; WeightsError."""
    from l2a_transfer.models.loading import load_model

    network, card = load_model(model, seed=seed)
    options: dict[str, Any] = {"device": device, "precision": precision, "tap": tap, "levels": levels}
    options |= {"image_size": image_size, "fit": fit, "decode": decode}
    return TorchBackend(network, card, **options)


def _to_pinned(values: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _reopen(
    card: dict[str, Any], config: ModelConfig, state: dict[str, NDArray[Any]], options: dict[str, Any]
) -> TorchBackend:
    import torch

    from l2a_transfer.models.registry import build_model
    from l2a_transfer.models.weights import Card

    model = build_model(config)
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    return TorchBackend(model, Card.from_json(card), **options)
