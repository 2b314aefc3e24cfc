"""`l2a-transfer export`: write the feature extractor as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from l2a_transfer.cli.options import (
    PATH,
    SEED,
    Verb,
)
from l2a_transfer.cli.output import echo


@click.command("export", cls=Verb)
@click.option("--model", required=True, help="Bundled name, .safetensors file or untrained:ARCH[@WIDTH].")
@click.option("--out", type=PATH, required=True, metavar="FILE.onnx", help="ONNX file to write.")
@click.option("--seed", metavar="N", type=SEED, default=0, show_default=True, help="Random seed of untrained weights.")
@click.option("--overwrite/--no-overwrite", default=False, help="Overwrite --out.")
def command(model: str, out: Path, seed: int, overwrite: bool) -> None:
    """Export the feature extractor to ONNX.

    The exported network takes uint8 pixels and returns features and attention maps. The file is kept only if ONNX
    Runtime and PyTorch agree within 1e-4 at batch sizes 1 and 7.

    \b
    Example:
      l2a-transfer export --model vgg-att2-concat-pc.cifar10-w025 --out extractor.onnx
    """
    from l2a_transfer.export import export_onnx

    result = export_onnx(model, out, overwrite=overwrite, seed=seed)
    echo(
        f"{result.path}: {result.bytes / 1e6:.1f} MB, outputs {', '.join(result.outputs)}, "
        f"largest difference to PyTorch {result.max_relative_error:.1e} relative"
    )
