"""`l2a-transfer maps`: attention over pictures."""

from __future__ import annotations

from pathlib import Path

import click

from l2a_transfer.cli.output import echo
from l2a_transfer.cli.paths import FOLDER, PATH


@click.command("maps")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE|FOLDER…")
@click.option("--model", required=True, help="Bundled name, .safetensors or untrained:ARCH[@WIDTH].")
@click.option("--out", type=FOLDER, required=True, metavar="DIR")
@click.option(
    "--side", type=int, default=128, show_default=True, help="Shorter side, in pixels, that the network sees."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of untrained weights.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace the pictures in --out.")
def command(images: tuple[Path, ...], model: str, out: Path, side: int, seed: int, overwrite: bool) -> None:
    """Draw each level's attention over pictures of any size: an overlay a level, and one contact sheet.

    Of a folder, all pictures below it are drawn.

    \b
    Example:
      l2a-transfer maps --model vgg-att2-concat-pc.cifar10-w025 --out maps photo.jpg
    """
    from l2a_transfer.data.decode import decode_file
    from l2a_transfer.explain.draw import SHEET, maps_folder, write_maps
    from l2a_transfer.explain.methods.attention import attention
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.models.loading import load_model

    images = tuple(picture for path in images for picture in _pictures(path))
    network, card = load_model(model, seed=seed)
    # Two folders can hold pictures of one name, so the number is part of the overlay's.
    stems = [f"{number:03d}-{path.stem}" for number, path in enumerate(images)]
    names = [path.name for path in images]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in images]
    with said_if_complete(out / SHEET, f"the set of pictures in {out}"):
        with maps_folder(out, stems, overwrite=overwrite):
            results = [
                attention(network, card.preprocess, decode_file(path), name, side=side)
                for path, name in zip(images, names, strict=True)
            ]
            written = write_maps(results, stems, out, title=f"Attention of {card.name}")
        for path in written:
            echo(path)


def _pictures(path: Path) -> list[Path]:
    """The path itself, or the pictures below a folder. Raises: DataError where a folder has none."""
    from l2a_transfer.data.folders import find_pictures
    from l2a_transfer.errors import DataError

    if not path.is_dir():
        return [path]
    found = [path / name for name in sorted(find_pictures(path)[0])]
    if not found:
        raise DataError(f"{path}: a folder without pictures; name another, or a picture")
    return found
