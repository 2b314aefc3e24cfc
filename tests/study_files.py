"""A study that is small enough to be done in a test: generated pictures, networks of width 1/32, one epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from l2a_transfer.study.children import Child
from tests.conftest import l2a

STUDY = """
name = "tiny"
seeds = [0, 1]

[sources.patterns]
data = "npz:patterns.npz"

[targets.near]
data = "npz:patterns.npz"
protocols = ["fixed", "few"]

[targets.far]
data = "npz:others.npz"
protocols = ["fixed"]

[protocols.fixed]
protocol = "official"
c_grid = [0.01]

[protocols.few]
protocol = "low-shot"
shots = [1, 2]
draws = 2
c_grid = [0.01]

[networks.attention]
architecture = "vgg-att2-concat-pc"
width = 0.03125
set = { epochs = 1, batch_size = 16 }

[networks.plain]
architecture = "vgg"
width = 0.03125
set = { epochs = 1, batch_size = 16 }

[networks.pixels]
weights = "pixels"
targets = ["near"]

[[comparisons]]
name = "A-V"
minuend = "attention"
subtrahend = "plain"
matched = true
support = "above 0"
refute = "below 1.0"

[[hypotheses]]
name = "H1"
says = "A − V is above 0"
support = "A-V"
"""


def pictures(path: Path, *, classes: int = 4, train: int = 48, test: int = 32, seed: int = 0) -> Path:
    """An array file of coarse patterns, one a class, with noise."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (classes, 4, 4, 3))
    arrays = {}
    for split, rows in (("train", train), ("test", test)):
        labels = np.arange(rows) % classes
        small = np.clip(patterns[labels] + rng.normal(0, 60, (rows, 4, 4, 3)), 0, 255).astype(np.uint8)
        arrays[f"{split}_images"] = np.stack([np.asarray(Image.fromarray(one).resize((32, 32))) for one in small])
        arrays[f"{split}_labels"] = labels
    np.savez(path, **arrays)
    return path


def study_file(folder: Path, text: str = STUDY) -> Path:
    """The study's file in `folder`, beside the pictures that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures(folder / "patterns.npz")
    pictures(folder / "others.npz", seed=1)
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


class Ended:
    """A command that has ended already."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def ask_to_stop(self) -> None:
        pass

    def end(self) -> None:
        pass


class InThisProcess:
    """Runs each command at once, here, and remembers which; the current folder must be the study's."""

    def __init__(self) -> None:
        self.verbs: list[str] = []

    def start(self, arguments: Sequence[str], log: Path) -> Child:
        self.verbs.append(arguments[0])
        result = l2a("-q", *arguments)
        log.write_text(result.output)
        return Ended(result.exit_code)
