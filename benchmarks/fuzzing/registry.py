"""All formats for fuzzing."""

from __future__ import annotations

from fuzzing import (
    cards,
    cifar,
    documents,
    hdf5,
    maps_files,
    masks,
    npz,
    onnx_graphs,
    parquets,
    pictures,
    sets,
    tars,
    weights,
)
from fuzzing.kinds import Kind

KINDS: dict[str, Kind] = {
    **hdf5.KINDS,
    **maps_files.KINDS,
    **weights.KINDS,
    **onnx_graphs.KINDS,
    "pictures": pictures.KIND,
    "masks": masks.KIND,
    "cifar": cifar.KIND,
    **sets.KINDS,
    "npz": npz.KIND,
    "tar": tars.KIND,
    "parquet": parquets.KIND,
    **cards.KINDS,
    "documents": documents.KIND,
}
