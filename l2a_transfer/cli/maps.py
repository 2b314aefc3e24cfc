"""`l2a-transfer maps`: attention maps over images."""

from __future__ import annotations

from pathlib import Path

import click

from l2a_transfer.cli.options import FOLDER, PATH, SEED, NameChoice, Verb
from l2a_transfer.cli.output import echo


@click.command("maps", cls=Verb)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE|FOLDER…")
@click.option("--model", required=True, help="Bundled name, .safetensors or untrained:ARCH[@WIDTH].")
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="Folder of the drawings.")
@click.option("--side", type=int, default=128, show_default=True, help="Shorter side of the network's input in pixels.")
@click.option(
    "--method",
    type=NameChoice("l2a_transfer.explain.registry:METHODS"),
    default="attention",
    show_default=True,
    help="The map method.",
)
@click.option("--seed", metavar="N", type=SEED, default=0, show_default=True, help="Random seed of untrained weights.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace the drawings in --out.")
def command(
    images: tuple[Path, ...], model: str, out: Path, side: int, method: str, seed: int, overwrite: bool
) -> None:
    """Draw maps of what a network looks at over images.

    With --method attention there is one map for each level.

    Images may have any size. There is one overlay per level, and one contact sheet. For a folder, all images below it
    are drawn.

    \b
    Example:
      l2a-transfer maps --model vgg-att2-concat-pc.cifar10-w025 --out maps photo.jpg
    """
    from l2a_transfer.data.decode import decode_file
    from l2a_transfer.explain.dispatch import compute_maps
    from l2a_transfer.explain.draw import SHEET, maps_folder, write_maps
    from l2a_transfer.explain.registry import METHODS
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.models.config import LEVELS
    from l2a_transfer.models.loading import load_model

    images = tuple(picture for path in images for picture in _pictures(path))
    spec = METHODS.find(method)
    network, card = load_model(model, seed=seed)
    # Images in two folders can have the same name, so the names of overlays contain a number.
    stems = [f"{number:03d}-{path.stem}" for number, path in enumerate(images)]
    names = [path.name for path in images]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in images]
    with said_if_complete(out / SHEET, f"the set of pictures in {out}"):
        with maps_folder(out, stems, overwrite=overwrite, maps=spec.maps or tuple(LEVELS)):
            results = [
                compute_maps(network, card.preprocess, decode_file(path), name, method=method, side=side)
                for path, name in zip(images, names, strict=True)
            ]
            written = write_maps(results, stems, out, title=f"{spec.name.capitalize()} of {card.name}")
        for path in written:
            echo(path)


def _pictures(path: Path) -> list[Path]:
    """The path itself, or the images below a folder. Raises: DataError if a folder has none."""
    from l2a_transfer.data.folders import find_pictures
    from l2a_transfer.errors import DataError

    if not path.is_dir():
        return [path]
    found = [path / name for name in sorted(find_pictures(path)[0])]
    if not found:
        raise DataError(f"{path}: a folder without pictures; name another, or a picture")
    return found
