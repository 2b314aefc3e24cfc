"""`l2a-transfer export`: the extractor as one ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from l2a_transfer.cli.output import echo
from l2a_transfer.cli.paths import PATH


@click.command("export")
@click.option("--model", required=True, help="Bundled name, .safetensors or untrained:ARCH[@WIDTH].")
@click.option("--out", type=PATH, required=True, metavar="FILE.onnx")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of untrained weights.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace --out.")
def command(model: str, out: Path, seed: int, overwrite: bool) -> None:
    """Write the feature extractor as ONNX: uint8 pixels in, features and attention maps out.

    The file is run in ONNX Runtime against PyTorch at batch 1 and 7 and kept only if they agree within 1e-4.

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
