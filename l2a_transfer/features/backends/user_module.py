"""A network created by a function in the user's own file. The file is run, because the user names it explicitly."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import BackendError, unknown_name
from l2a_transfer.features.backends.interface import Layer
from l2a_transfer.features.backends.registry import BACKBONE_OPTIONS, register_backend
from l2a_transfer.inputs import read_input
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.wording import first_line

if TYPE_CHECKING:
    from torch import nn

    from l2a_transfer.features.backends.backbone import Built, ModuleBackend

PREFIX = "module:"
MAX_BYTES = 1 << 24
SIZE = 224
"""Default image size for listing layers, in pixels."""


@register_backend(
    "module",
    models="module:FILE.py:FUNCTION",
    prefixes=(PREFIX, f"untrained:{PREFIX}"),
    options=BACKBONE_OPTIONS,
    wrap=lambda network, card, **options: open_in_memory(network, **options),
    layers=lambda model, size: list_layers(model, size),
)
def open_module(model: str, **options: Any) -> ModuleBackend:
    """A network that a function in your own Python file returns. Raises: BackendError; WeightsError."""
    from l2a_transfer.features.backends.backbone import ModuleBackend, is_untrained, with_checkpoint

    fresh = is_untrained(model, options["weights"])
    built = with_checkpoint(build(model, seed=options["seed"], fresh=fresh), options["weights"])
    return ModuleBackend("module", model, built, options)


def open_in_memory(network: nn.Module, **options: Any) -> ModuleBackend:
    """Open a network in memory, which is not changed. Raises: BackendError; WeightsError."""
    from l2a_transfer.features.backends.backbone import Built, ModuleBackend, with_checkpoint
    from l2a_transfer.features.backends.hooks import last_linear
    from l2a_transfer.models.copies import evaluation_copy

    own, name = getattr(network, "preprocess", None), f"memory:{type(network).__name__}"
    classifier = last_linear(network)
    built = Built(
        name,
        name,
        evaluation_copy(network).cpu(),
        own if isinstance(own, Preprocess) else None,
        "output",
        classifiers=(classifier,) if classifier else (),
    )
    return ModuleBackend("module", network, with_checkpoint(built, options["weights"]), options)


def list_layers(model: str, image_size: int | None) -> Sequence[Layer]:
    """The layers of a network. Raises: BackendError."""
    from l2a_transfer.features.backends.backbone import network_errors
    from l2a_transfer.features.backends.hooks import layer_list

    built = build(model, seed=0, fresh=False)
    size = image_size or (built.preprocess.size if built.preprocess else SIZE)
    with network_errors(built.name, size):
        return layer_list(built.network.eval(), built.call, size, [built.default])


def build(model: str, *, seed: int, fresh: bool) -> Built:
    """The network that the function returns; `seed` determines random weights.

    Raises: BackendError if the file or function is missing, fails, or does not return an nn.Module.
    """
    from torch import nn

    from l2a_transfer.features.backends.backbone import UNTRAINED, Built, seeded
    from l2a_transfer.features.backends.hooks import last_linear
    from l2a_transfer.models.copies import evaluation_copy

    file, colon, function = model.removeprefix(UNTRAINED).removeprefix(PREFIX).rpartition(":")
    if not colon or not file.endswith(".py") or not function:
        raise BackendError(f"{model}: must be module:FILE.py:FUNCTION, a file and a function in it")
    path = Path(file).expanduser()
    with seeded(seed):
        namespace, code = _run(path)
        if function not in namespace or not callable(namespace[function]):
            there = [name for name, value in namespace.items() if callable(value) and not name.startswith("_")]
            raise unknown_name(f"the function of {path}", function, there)
        try:
            made = namespace[function]()
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            raise _failed(f"{path}: its function {function} raised", error) from error
    if not isinstance(made, nn.Module):
        raise BackendError(f"{path}: its function {function} must return a torch.nn.Module, got {type(made).__name__}")
    try:
        own = getattr(made, "preprocess", None)
    except Exception as error:  # other people's code may raise anything
        raise _failed(
            f"{path}: the preprocess of the network that its function {function} returns raised", error
        ) from error
    classifier = last_linear(made)
    architecture = f"{PREFIX}{path.name}:{function}"
    sha256 = hashlib.sha256(code).hexdigest()
    return Built(
        f"{UNTRAINED}{architecture}" if fresh else architecture,
        architecture,
        evaluation_copy(made),
        own if isinstance(own, Preprocess) else None,
        "output",
        classifiers=(classifier,) if classifier else (),
        training={"untrained": True, "seed": seed} if fresh else {},
        card={"code_sha256": sha256},
        identity={"code": sha256},
    )


def _run(path: Path) -> tuple[dict[str, Any], bytes]:
    """Run a file and return the names that it defines, and its content. Raises: BackendError if reading or running it
    fails."""
    try:
        code = read_input(path, MAX_BYTES)
    except OSError as error:
        raise BackendError(f"{path}: cannot be read: {error.strerror or error}") from error
    name = f"l2a_transfer_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look up the module of a class there
    sys.path.insert(0, str(path.resolve().parent))  # files next to it can be imported, as for a script
    try:
        exec(compile(code, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        raise _failed(f"{path}: the file raised", error) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return vars(module), code


def _failed(what: str, error: BaseException) -> BackendError:
    return BackendError(f"{what} {type(error).__name__}: {first_line(error)}", "fix the file")
