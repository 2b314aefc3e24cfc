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
@click.option(
    "--method", default="attention", show_default=True, help="A map method: attention, or one of an installed plugin."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of untrained weights.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace the pictures in --out.")
def command(
    images: tuple[Path, ...], model: str, out: Path, side: int, method: str, seed: int, overwrite: bool
) -> None:
    """Draw where a network looks over pictures of any size: an overlay a map, and one contact sheet.

    With --method attention there is a map for each level.

    Of a folder, all pictures below it are drawn.

    \b
    Example:
      l2a-transfer maps --model vgg-att2-concat-pc --out maps photo.jpg
    """
    from l2a_transfer.data.decode import decode_file
    from l2a_transfer.explain.dispatch import compute_maps
    from l2a_transfer.explain.draw import SHEET, maps_folder, write_maps
    from l2a_transfer.explain.registry import METHODS
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.models.weights import resolve_model

    images = tuple(picture for path in images for picture in _pictures(path))
    spec = METHODS.find(method)
    network, card = resolve_model(model, seed=seed)
    # Two folders can hold pictures of one name, so the number is part of the overlay's.
    stems = [f"{number:03d}-{path.stem}" for number, path in enumerate(images)]
    names = [path.name for path in images]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in images]
    with said_if_complete(out / SHEET, f"the set of pictures in {out}"):
        with maps_folder(out, stems, overwrite=overwrite, maps=spec.maps):
            results = [
                compute_maps(network, card.preprocess, decode_file(path), name, method=method, side=side)
                for path, name in zip(images, names, strict=True)
            ]
            written = write_maps(results, stems, out, title=f"{spec.name.capitalize()} of {card.name}")
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
