"""`l2a-transfer inspect`: print the content of a weights, ONNX or feature file, or of a file of maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    PATH,
    Verb,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import KEY_WIDTH, pair_lines, terminal_width
from l2a_transfer.errors import StoreError, WeightsError


@click.command("inspect", cls=Verb)
@click.argument("file", type=PATH)
@click.option("--json/--text", "as_json", default=False, help="Print JSON instead of text.")
@click.option("--verify/--no-verify", default=False, help="Read every value; exit with 1 if any is not finite.")
def command(file: Path, as_json: bool, verify: bool) -> None:
    """Describe a weights, ONNX, feature or map file.

    The SHA-256 of the file is always recomputed, and no code in it is run. weights_sha256 identifies the network. It is
    the same in the weights, feature and ONNX files of a network.

    --verify also reads every value. For a feature file it verifies the checksum of each chunk and reports values that
    are not finite, constant columns and duplicate rows. For weights and ONNX files it checks that the tensors match the
    model card and are finite.

    \b
    Example:
      l2a-transfer inspect features.h5 --verify --json
    """
    found = _describe(file, verify)
    if as_json:
        echo_json(found, indent=1)
    else:
        echo(*_lines(found, terminal_width()))
    verified = found.get("verify", {})
    wrong = ["features that are not finite"] if verified.get("rows_not_finite") else []
    outside = verified.get("maps_outside_0_1", {}).items()
    wrong += [f"/maps/{level} has weights that are not between 0 and 1" for level, images in outside if images]
    if wrong:
        raise StoreError(f"{file}: {'; '.join(wrong)}", AGAIN)
    if verified.get("partners_wrong"):
        first = verified["partners_wrong"][0]
        raise StoreError(f"{file}: /partners: those of {first!r} do not match its data set", "extract it again")


LONGEST_KEY = 40
"""Columns for keys if the output is a pipe; the value of a longer key follows it directly."""
PIXELS = "pixels"
AGAIN = "extract it again (`overwrite=True`) with `precision='fp32'`"


def _describe(path: Path, verify: bool) -> dict[str, Any]:
    """The card and the shape of a file as JSON. Its first bytes determine its type. Raises: L2AError."""
    from l2a_transfer.explain.store import is_maps_file
    from l2a_transfer.features.backends.onnx import described_tensors, read_exported
    from l2a_transfer.features.store.reader import is_feature_file
    from l2a_transfer.features.store.verify import verify_onnx
    from l2a_transfer.models.digest import network_sha256, read_described
    from l2a_transfer.models.weights import load_weights

    if is_maps_file(path):
        return {"file": str(path), **_describe_maps(path, verify)}
    if is_feature_file(path) or path.suffix in (".h5", ".hdf5"):
        return {"file": str(path), **_describe_features(path, verify)}
    if path.suffix == ".onnx":
        content, card, weights = read_exported(path)
        if verify:
            verify_onnx(path, content)
        kind, size, tensors = "onnx", len(content), described_tensors(content)
    else:
        kind, tensors, (card, weights, size) = "weights", {}, read_described(path)
        if verify and network_sha256(load_weights(path)[0]) != weights:
            raise WeightsError(f"{path}: was replaced by another file while it was read; start again")
    found = {"file": str(path), "kind": kind, "bytes": size, "weights_sha256": weights or None, **tensors}
    found["card"] = card.to_json()
    return {**found, "verify": {"tensors": "ok"}} if verify else found


def _describe_maps(path: Path, verify: bool) -> dict[str, Any]:
    from l2a_transfer.explain.store import open_maps

    with open_maps(path) as found:
        described = found.describe()
        return {**described, "verify": {"values": found.verify()}} if verify else described


def _describe_features(path: Path, verify: bool) -> dict[str, Any]:
    import numpy as np

    from l2a_transfer.features.store.schema import weights_sha256
    from l2a_transfer.features.store.verify import verify_features
    from l2a_transfer.features.store.views import open_features

    with open_features(path, finite=not verify) as found:
        for _ in found.blocks() if not verify else ():
            pass  # raises if a value is not finite; --verify lists them all
        counts = np.bincount(found.split, minlength=len(found.meta.splits))
        domains = np.bincount(found.domain, minlength=len(found.meta.domains)) if found.domain is not None else None
        described = {
            "kind": "features",
            "bytes": path.stat().st_size,
            "sha256": found.sha256,
            "weights_sha256": weights_sha256(found.meta),
            "rows": len(found),
            "dim": found.features.shape[1],
            "dtype": str(found.features.dtype),
            "data": found.meta.data,
            "classes": list(found.meta.classes),
            "rows_per_split": dict(zip(found.meta.splits, counts.tolist(), strict=True)),
            **(
                {}
                if domains is None
                else {"rows_per_domain": dict(zip(found.meta.domains, domains.tolist(), strict=True))}
            ),
            "maps": {level: list(shape) for level, shape in found.maps.items()},
            **({"partners": len(found.partners[0])} if found.partners else {}),
            "source": found.meta.source,
            "skipped": [list(pair) for pair in found.meta.skipped],
            "unlabelled": int((found.labels < 0).sum()),
            "levels": [list(level) for level in found.meta.levels],
            "tap": found.meta.tap,
            "precision": found.meta.precision,
            "backend": found.meta.backend,
            "preprocess": found.meta.preprocess,
            "card": found.meta.card,
            "fingerprint": found.meta.fingerprint,
        }
    if not verify:
        return described
    findings = verify_features(path)
    if findings.sha256 != found.sha256:
        raise StoreError(f"{path}: was replaced by another file while it was read; start again")
    return {**described, "verify": findings.to_json()}


def _lines(found: dict[str, Any], width: int | None) -> list[str]:
    """The description as lines of keys and values, in a terminal of `width` columns or in a pipe."""
    shown = dict(found)
    if shown.get("backend") == PIXELS:
        shown["tap"] = None  # the file has a name for it, but no network computed the values
        shown["fingerprint"] = {key: value for key, value in shown["fingerprint"].items() if key != "tap"}
    if "levels" in shown:
        shown["levels"] = [f"{name} (columns {start} to {stop - 1})" for name, start, stop in shown["levels"]]
    pairs = _flat(shown)
    most = LONGEST_KEY if width is None else max(KEY_WIDTH, width // 3)
    return pair_lines(pairs, key_width=min(max(len(key) for key, _ in pairs), most) + 1, width=width)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(key, text) of each value; nested keys are joined by dots, and long lists are cut."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and key == "kinds":  # of files, by suffix
            lines.append((name, ", ".join(f"{count} {kind}" for kind, count in value.items())))
        elif isinstance(value, dict) and value:
            lines += _flat(value, f"{name}.")
        elif isinstance(value, list) and value:
            shown = ", ".join(map(_shown, value[:8])) + (f", … ({len(value)} in all)" if len(value) > 8 else "")
            lines.append((name, shown))
        else:
            lines.append((name, _shown(value)))
    return lines


def _shown(value: Any) -> str:
    """A value as text: `none` if it is empty, `yes` or `no`, and a list in a list as `first: second`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, list):
        return ": ".join([_shown(value[0]), ", ".join(map(_shown, value[1:]))]) if len(value) > 1 else _shown(value[0])
    return str(value)
