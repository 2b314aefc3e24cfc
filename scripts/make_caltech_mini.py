"""Make `caltech-mini`, the photographs that ship in the package: 20 classes of Caltech-101, 30 + 30 of each.

    python scripts/make_caltech_mini.py --data-dir data --out l2a_transfer/data/bundled/caltech-mini.zip

`--data-dir` holds `caltech101/101_ObjectCategories/`. Classes with fewer than 60 pictures, the background class, and
Faces_easy (crops of the photographs in Faces) are left out; 20 of the others, and 60 pictures of each, are drawn with a
fixed seed; the first 30 drawn are for training. A picture with a shorter side of 48 px is copied byte for byte (the
bundled file was made from such a copy of the set); a larger one is resized to this size and saved as JPEG, quality 85.
The same folder gives the same zip.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import click
import numpy as np
from PIL import Image

from l2a_transfer.data.decode import decode_file
from l2a_transfer.data.folders import read_folder
from l2a_transfer.data.sources import FileSource

LEFT_OUT = ("BACKGROUND_Google", "Faces_easy")
SEED, CLASSES, PER_SPLIT, SIDE = 0, 20, 30, 48
ATTRIBUTION = """caltech-mini: 1,200 photographs of 20 classes of Caltech-101, shorter side 48 pixels.

Fei-Fei Li, Marco Andreeto, Marc'Aurelio Ranzato, Pietro Perona: Caltech 101 (1.0). CaltechDATA, 2022.
https://doi.org/10.22002/D1.20086
Licensed under Creative Commons Attribution 4.0 International, https://creativecommons.org/licenses/by/4.0/
Changes: a selection (scripts/make_caltech_mini.py), reduced to a shorter side of 48 pixels, JPEG quality 85.
"""


def choose(source: FileSource) -> dict[str, int]:
    """Zip member → row of the picture, in the order of the zip."""
    rng = np.random.default_rng(SEED)
    large = [k for k in range(len(source.classes)) if np.sum(source.labels == k) >= 2 * PER_SPLIT]
    members = {}
    for label in np.sort(rng.choice(large, CLASSES, replace=False)):
        rows = rng.permutation(np.flatnonzero(source.labels == label))[: 2 * PER_SPLIT]
        for split, own in (("train", rows[:PER_SPLIT]), ("test", rows[PER_SPLIT:])):
            members |= {f"{split}/{source.ids[row]}": int(row) for row in np.sort(own)}
    return dict(sorted(members.items(), key=lambda item: (not item[0].startswith("train/"), item[0])))


def small_jpeg(path: Path) -> bytes:
    """The picture with a shorter side of 48 px; its original bytes if it already has that size."""
    image = decode_file(path)
    if min(image.size) == SIDE:
        return path.read_bytes()
    scale = SIDE / min(image.size)
    size = (max(SIDE, round(image.width * scale)), max(SIDE, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def make(data_dir: Path, out: Path) -> int:
    """Write the zip; returns its size in bytes."""
    root = data_dir / "caltech101" / "101_ObjectCategories"
    source = read_folder(root, "caltech101", without=LEFT_OUT)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo("ATTRIBUTION.txt"), ATTRIBUTION)
        for member, row in choose(source).items():
            file.writestr(zipfile.ZipInfo(member), small_jpeg(root / source.ids[row]))
    return out.stat().st_size


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(data_dir: Path, out: Path) -> None:
    click.echo(f"{out}: {make(data_dir, out):,} bytes")


if __name__ == "__main__":
    main()
