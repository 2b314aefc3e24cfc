"""Train a VGG that pays attention, freeze it, and measure how well its attended features generalize.

The names below are loaded when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from l2a_transfer.version import __version__

if TYPE_CHECKING:
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.evaluation.evaluate import evaluate_files
    from l2a_transfer.evaluation.results import EvalConfig
    from l2a_transfer.explain.methods.attention import attention_maps
    from l2a_transfer.export import export_onnx
    from l2a_transfer.features.backends.registry import open_backend
    from l2a_transfer.features.extraction.extract import extract
    from l2a_transfer.features.store.reader import read_features
    from l2a_transfer.features.store.views import open_features
    from l2a_transfer.models.config import ModelConfig
    from l2a_transfer.models.loading import load_model
    from l2a_transfer.models.registry import build_model
    from l2a_transfer.models.weights import load_weights
    from l2a_transfer.svm.estimators import BatchedLinearSVC, LinearSVCPath

_HOME = {
    "BatchedLinearSVC": "svm.estimators",
    "EvalConfig": "evaluation.results",
    "LinearSVCPath": "svm.estimators",
    "ModelConfig": "models.config",
    "attention_maps": "explain.methods.attention",
    "build_model": "models.registry",
    "evaluate_files": "evaluation.evaluate",
    "export_onnx": "export",
    "extract": "features.extraction.extract",
    "load_weights": "models.weights",
    "open_backend": "features.backends.registry",
    "open_features": "features.store.views",
    "open_source": "data.readers",
    "read_features": "features.store.reader",
    "load_model": "models.weights",
}

__all__ = [
    "BatchedLinearSVC",
    "EvalConfig",
    "LinearSVCPath",
    "ModelConfig",
    "__version__",
    "attention_maps",
    "build_model",
    "evaluate_files",
    "export_onnx",
    "extract",
    "load_model",
    "load_weights",
    "open_backend",
    "open_features",
    "open_source",
    "read_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'l2a_transfer' has no attribute {name!r}")
    return getattr(import_module(f"l2a_transfer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
