"""The layers of a network that can give features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from l2a_transfer.features.backends.interface import Layer
from l2a_transfer.features.backends.registry import backend_for, open_backend


def list_layers(model: str | Path, image_size: int | None = None) -> Sequence[Layer]:
    """List what the option `layer` of `open_backend` can name.

    Parameters
    ----------
    model : str or Path
        A model's name, as for `open_backend`. Its weights are neither loaded nor downloaded.
    image_size : int, optional
        Side of the image for which shapes are shown, in pixels; the model's own by default.

    Returns
    -------
    sequence of Layer
        The layers, those that are used by default first. If the network has levels instead, its levels.

    Raises
    ------
    UnknownNameError, BackendError
        In the same cases as `open_backend`.
    """
    model = os.path.expanduser(model)
    spec = backend_for(model)
    if spec.layers is None:
        backend = open_backend(model, device="cpu")
        return [Layer(name, "level", (stop - start,), 0, True) for name, start, stop in backend.levels]
    return spec.layers(model, image_size)
