"""ReLUs that pass only positive gradients, however a network calls them, without changing the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

RELUS: tuple[Callable[..., Any], ...] = (
    F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_,
)  # fmt: skip


class GuidedReLU(torch.autograd.Function):
    """ReLU that passes a gradient only if both its input and the gradient are positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        output = x.relu()
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (output,), (gradient,) = ctx.saved_tensors, gradients
        # One pass over memory; a comparison and a product would need two.
        passed: Tensor = torch.ops.aten.threshold_backward(gradient, output, 0)
        return passed.clamp_(min=0)


class guided_relus(TorchFunctionMode):  # noqa: N801 - a context manager
    """While active, every call of a ReLU, as a module or function, in place or not, is a `GuidedReLU`.

    An in-place call returns a new tensor, which its callers continue with; nothing else reads the input again.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in RELUS:
            x = args[0] if args else (kwargs or {})["input"]
            return GuidedReLU.apply(x)
        return func(*args, **(kwargs or {}))
