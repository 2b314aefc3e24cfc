"""`l2a-transfer inspect`: what a weights, ONNX or feature file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--json/--text", "as_json", default=False, help="One JSON document.")
def command(file: Path, as_json: bool) -> None:
    """Print what a weights file (.safetensors), an exported ONNX file or a feature file (.h5) holds.

    The file is verified as far as its format allows, and nothing in it is run.

    \b
    Example:
      l2a-transfer inspect features.h5 --json
    """
    found = _describe(file)
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for key, value in _lines(found):
        click.echo(f"{key:<24} {value}")


def _describe(path: Path) -> dict[str, Any]:
    """The file's card and shape as JSON, by what it starts with and not by its name. Raises: L2AError."""
    from l2a_transfer.features.backends import read_onnx
    from l2a_transfer.features.store import is_feature_file
    from l2a_transfer.models.weights import read_card

    if is_feature_file(path) or path.suffix in (".h5", ".hdf5"):
        return {"file": str(path), **_describe_features(path)}
    if path.suffix == ".onnx":
        content, card = read_onnx(path)
        return {"file": str(path), "kind": "onnx", "bytes": len(content), "card": card.to_json()}
    return {"file": str(path), "kind": "weights", "bytes": path.stat().st_size, "card": read_card(path).to_json()}


def _describe_features(path: Path) -> dict[str, Any]:
    import numpy as np

    from l2a_transfer.features.store import read_features

    found = read_features(path)
    counts = np.bincount(found.split, minlength=len(found.meta.splits))
    return {
        "kind": "features",
        "rows": len(found.labels),
        "dim": int(found.features.shape[1]),
        "dtype": str(found.features.dtype),
        "data": found.meta.data,
        "classes": list(found.meta.classes),
        "rows_per_split": dict(zip(found.meta.splits, counts.tolist(), strict=True)),
        "unlabelled": int((found.labels < 0).sum()),
        "levels": [list(level) for level in found.meta.levels],
        "tap": found.meta.tap,
        "precision": found.meta.precision,
        "backend": found.meta.backend,
        "preprocess": found.meta.preprocess,
        "card": found.meta.card,
        "fingerprint": found.meta.fingerprint,
    }


def _lines(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """One (key, text) for each value, nested keys joined by dots, long lists cut."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            lines += _lines(value, f"{name}.")
        elif isinstance(value, list):
            shown = ", ".join(map(str, value[:8])) + (f", … ({len(value)} in all)" if len(value) > 8 else "")
            lines.append((name, shown))
        else:
            lines.append((name, str(value)))
    return lines
