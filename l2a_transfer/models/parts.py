"""The parts of a network from the logits down. The tensors of a part are randomised together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from l2a_transfer.errors import PluginError

Parts = dict[str, tuple[str, ...]]
"""Name → names of the modules, parameters and buffers that belong to a part."""


def default_parts(module: nn.Module) -> Parts:
    """The children of a module, last one first, after the module's own tensors, each of which is a part.

    A list or dict of modules computes nothing itself, so each of its modules is a part.

    Examples
    --------
    >>> from torch import nn
    >>> blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    >>> list(default_parts(nn.ModuleDict({"blocks": blocks, "classifier": nn.Linear(2, 3)})))
    ['classifier', 'blocks.1', 'blocks.0']
    """
    own = [*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))]
    parts: Parts = {name: (name,) for name in own}
    for name, child in reversed(list(module.named_children())):
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            parts |= {
                f"{name}.{inner}": tuple(f"{name}.{one}" for one in of) for inner, of in default_parts(child).items()
            }
        else:
            parts[name] = (name,)
    return parts


def trunk_parts(trunk: str = "trunk") -> Parts:
    """The five blocks of convolutions, the last one first."""
    return {f"block {number}": (f"{trunk}.{number - 1}",) for number in (5, 4, 3, 2, 1)}


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, including non-persistent buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def tensors_of_parts(module: nn.Module, parts: Mapping[str, Sequence[str]]) -> Parts:
    """The tensors of each part; parts without a tensor are left out.

    Parameters
    ----------
    module : nn.Module
        The network.
    parts : mapping of str to sequence of str
        The result of `Network.parts`.

    Returns
    -------
    dict of str to tuple of str
        Part → names of its parameters and buffers.

    Raises
    ------
    PluginError
        If a tensor belongs to no part, or to several.
    """
    found: dict[str, list[str]] = {part: [] for part in parts}
    for name in tensors(module):
        owners = [
            part
            for part, prefixes in parts.items()
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
        ]
        if len(owners) != 1:
            raise PluginError(
                f"the tensor {name!r} of {type(module).__name__} belongs to {' and '.join(owners) or 'none'} of its "
                "parts, and must belong to one",
                "correct `parts()` of the network",
            )
        found[owners[0]].append(name)
    return {part: tuple(names) for part, names in found.items() if names}
