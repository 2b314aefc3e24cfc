"""Names in figures: whatever letters they have, they are shown as they are, and nothing is printed beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from l2a_transfer import drawing
from l2a_transfer.drawing import legible, plain_texts
from l2a_transfer.explain.draw import contact_sheet
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.training.curve import learning_curve
from tests.conftest import TINY, save_picture

NAMES = ("Ba$$in", "$5 and $6", "_x_^2^", r"\frac{1}{", "100 % & {~#}", "$\\notacommand$")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """(text, whether it is read as mathematics) of every text of every figure that is saved."""
    found: list[tuple[str, bool]] = []
    save = Figure.savefig

    def spy(figure: Figure, *arguments: object, **options: object) -> None:
        save(figure, *arguments, **options)
        found.extend((text.get_text(), text.get_parse_math() or text.get_usetex()) for text in figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", spy)
    monkeypatch.setattr(drawing, "_installed", lambda: ())  # no more fonts here than elsewhere
    drawing._letters.cache_clear()
    yield found
    drawing._letters.cache_clear()


def draw_everything(name: str, folder: Path) -> None:
    weights = np.eye(4, dtype=np.float32)
    contact_sheet(
        [ImageMaps(name, np.zeros((8, 8, 3), np.uint8), {"L2": weights}, {"L2": "distribution"})],
        folder / "s.png",
        title=name,
    )
    epoch = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "resolution": 32, f"{name}_accuracy": 0.5}
    learning_curve([epoch], name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_never_markup(name: str, drawn: list[tuple[str, bool]], tmp_path: Path) -> None:
    draw_everything(name, tmp_path)
    assert sum(name in text for text, _ in drawn) >= 3
    assert not [text for text, is_math in drawn if is_math]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("猫 cat", r"\u732b cat"), ("🦙", r"\U0001f999"), ("a\x1b[31m\nb", r"a\x1b[31m\nb"), ("Ærø ± −5", "Ærø ± −5")],
)
def test_letters_that_no_font_has_are_shown_as_their_code(
    name: str, shown: str, drawn: list[tuple[str, bool]], tmp_path: Path
) -> None:
    assert legible(name) == shown
    draw_everything(name, tmp_path)  # a warning of a missing glyph would be an error here
    assert sum(shown in text for text, _ in drawn) >= 3


def test_settings_come_back() -> None:
    before = dict(matplotlib.rcParams)
    with plain_texts():
        assert matplotlib.rcParams["text.parse_math"] is False
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_maps_of_a_picture_called_like_a_formula_print_no_warning(tmp_path: Path) -> None:
    names = ["Ba$$in.jpg", "$5 and $6.jpg", "猫.jpg", "$x.jpg"]
    for k, name in enumerate(names):
        save_picture(tmp_path / name, seed=k)
    done = subprocess.run(
        [sys.executable, "-m", "l2a_transfer", "maps", "--model", TINY, "--out", "maps", *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "maps" / "000-Ba$$in-L2.png").is_file()
