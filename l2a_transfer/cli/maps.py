"""`l2a-transfer maps`: attention maps over images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from l2a_transfer.cli.options import (
    FOLDER,
    PATH,
    SEED,
    Verb,
)
from l2a_transfer.cli.output import echo


@click.command("maps", cls=Verb)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE|FOLDER…")
@click.option("--model", required=True, help="Bundled name, .safetensors file or untrained:ARCH[@WIDTH].")
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="Output folder of the drawings.")
@click.option("--side", type=int, default=128, show_default=True, help="Shorter side of the network's input in pixels.")
@click.option("--seed", metavar="N", type=SEED, default=0, show_default=True, help="Random seed of untrained weights.")
@click.option("--overwrite/--no-overwrite", default=False, help="Overwrite the drawings in --out.")
def command(images: tuple[Path, ...], model: str, out: Path, side: int, seed: int, overwrite: bool) -> None:
    """Draw the attention maps of a network over images.

    Images may have any size. Folders are searched for images recursively. The output is an overlay per image and level,
    and one contact sheet. For other methods, data sets and formats, use explain.

    \b
    Example:
      l2a-transfer maps --model vgg-att2-concat-pc.cifar10-w025 --out maps photo.jpg
    """
    from l2a_transfer.data.decode import decode_file
    from l2a_transfer.explain.dispatch import compute_maps
    from l2a_transfer.explain.draw import SHEET, maps_folder, write_maps
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.models.loading import load_model

    images = tuple(picture for path in images for picture in pictures_below(path))
    network, card = load_model(model, seed=seed)
    # Images in two folders can have the same name, so the names of overlays contain a number.
    stems = [f"{number:03d}-{path.stem}" for number, path in enumerate(images)]
    with said_if_complete(out / SHEET, f"the set of pictures in {out}"):
        with maps_folder(out, stems, overwrite=overwrite):
            results = [
                compute_maps(network, card.preprocess, decode_file(path), name, side=side)
                for path, name in zip(images, called(images), strict=True)
            ]
            written = write_maps(results, stems, out, title=f"Attention of {card.name}")
        for path in written:
            echo(path)


def called(images: Sequence[Path]) -> list[str]:
    """Names of images on sheets: the file name, with the folder if two have the same name."""
    names = [path.name for path in images]
    return names if len(set(names)) == len(names) else [f"{path.parent.name}/{path.name}" for path in images]


def pictures_below(path: Path) -> list[Path]:
    """The path itself, or the images below a folder. Raises: DataError if a folder has none."""
    from l2a_transfer.data.folders import find_pictures
    from l2a_transfer.errors import DataError

    if not path.is_dir():
        return [path]
    found = [path / name for name in sorted(find_pictures(path)[0])]
    if not found:
        raise DataError(f"{path}: the folder has no pictures; use another folder, or a picture")
    return found
