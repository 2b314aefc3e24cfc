"""Make `airplanes-mini`, photographs with object masks that ship in the package: 100 airplanes of Caltech-101.

    python scripts/make_airplanes_mini.py --data-dir data --out l2a_transfer/data/bundled/airplanes-mini.zip

`--data-dir` holds `caltech101-airplanes/{images,masks}/airplanes/`: pictures with a shorter side of at most 112 px, and
masks of the same size and name, one bit per pixel, filled from Caltech-101's own contours. 100 of them are drawn with a
fixed seed and copied byte for byte. The class is called "airplane", as in CIFAR-10. The same folder gives the same zip.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import click
import numpy as np

SEED, PICTURES = 0, 100
ATTRIBUTION = """airplanes-mini: 100 photographs of airplanes of Caltech-101 with object masks.

Fei-Fei Li, Marco Andreeto, Marc'Aurelio Ranzato, Pietro Perona: Caltech 101 (1.0). CaltechDATA, 2022.
https://doi.org/10.22002/D1.20086
Licensed under Creative Commons Attribution 4.0 International, https://creativecommons.org/licenses/by/4.0/
Changes: a selection (scripts/make_airplanes_mini.py), reduced to a shorter side of at most 112 pixels; masks filled
from the data set's own contours; the class renamed to "airplane".
"""


def make(data_dir: Path, out: Path) -> int:
    """Write the zip; returns its size in bytes."""
    images, masks = (data_dir / "caltech101-airplanes" / kind / "airplanes" for kind in ("images", "masks"))
    stems = np.array(sorted(path.stem for path in images.glob("*.jpg")))
    chosen = np.sort(np.random.default_rng(SEED).choice(stems, PICTURES, replace=False))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo("ATTRIBUTION.txt"), ATTRIBUTION)
        for kind, folder, suffix in (("images", images, ".jpg"), ("masks", masks, ".png")):
            for stem in chosen:
                content = (folder / f"{stem}{suffix}").read_bytes()
                file.writestr(zipfile.ZipInfo(f"{kind}/airplane/{stem}{suffix}"), content)
    return out.stat().st_size


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(data_dir: Path, out: Path) -> None:
    click.echo(f"{out}: {make(data_dir, out):,} bytes")


if __name__ == "__main__":
    main()
