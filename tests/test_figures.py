"""The figures as files: well-formed, with any name, and the same drawings as the page's."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from l2a_transfer.report import figures
from l2a_transfer.report.markup import element
from l2a_transfer.report.page import page
from l2a_transfer.report.svg import Figure
from tests.made_results import results, row
from tests.test_page import HOSTILE, full

SVG = "{http://www.w3.org/2000/svg}"


def texts(file: str) -> list[str]:
    return [found.text or "" for found in ElementTree.fromstring(file).iter(f"{SVG}text")]


def test_the_page_and_the_files_have_the_same_drawings() -> None:
    made = full()
    whole = page(made)
    accuracy = figures.accuracy(made.rows).file()
    for one in made.rows:
        if not one.variant:  # variants have a table of their own on the page
            assert figures.accuracy_bar(one) in whole
        assert figures.accuracy_bar(one) in accuracy
    drawing = figures.confusion(made.rows[0], made.details[0]).drawing
    assert drawing in whole
    assert drawing in figures.confusion(made.rows[0], made.details[0]).file()


def test_accuracies_stand_in_a_panel_a_place_with_their_numbers() -> None:
    rows = [row("a", 0.75), row("b", 0.5, variant="L2"), row("a", 0.5, data="few", shots=4, draws=2, interval="t")]
    found = texts(figures.accuracy(rows).file())
    assert [text for text in found if not re.fullmatch(r"\d+", text)] == [
        "toy, official, 4 test images; intervals over test images",
        "a",
        "75.0 [65.0, 85.0]",
        "b, L2",
        "50.0 [40.0, 60.0]",
        "few, k = 4, official, 4 test images; intervals over 2 draws",
        "a",
        "50.0 [40.0, 60.0]",
        "mean class accuracy, % [95 % interval]; dotted: chance level",
    ]


@pytest.mark.parametrize("name", [HOSTILE, "\ufffe\uffff", "]]><!--", "x" * 300, "猫🦆" * 100])
def test_a_file_is_well_formed_with_any_name(name: str) -> None:
    made = results([row(name, 0.5, data=name)], classes=(name, name + "b"))
    for figure in (figures.accuracy(made.rows), figures.confusion(made.rows[0], made.details[0])):
        tree = ElementTree.fromstring(figure.file())
        assert not {one.tag for one in tree.iter()} & {f"{SVG}script", f"{SVG}img", "script", "img"}
        assert not [key for one in tree.iter() for key in one.attrib if key.startswith("on")]
        links = [value for one in tree.iter() for key, value in one.attrib.items() if key.endswith("href")]
        assert all(link.startswith("data:image/png;base64,") for link in links)


def test_a_file_of_its_own_has_a_title_and_room_for_it() -> None:
    figure = Figure("label", element("rect", width=10, height=10), 20.0, 10.0, title=("x" * 40, "second"))
    tree = ElementTree.fromstring(figure.file())
    left, top, width, height = (float(part) for part in tree.attrib["viewBox"].split())
    assert (left, top, height) == (0, -36, 46)
    assert width > 40 * 7
    assert texts(figure.file()) == ["x" * 40, "second"]
    assert "second" not in figure.inline()


def test_names_that_become_the_same_are_numbered() -> None:
    long = "x" * 60
    made = results([row()], classes=(f"{long}a{long}", f"{long}b{long}"))
    found = texts(figures.confusion(made.rows[0], made.details[0]).file())
    assert {text[:3] for text in found if text.endswith("xxx")} == {"1: ", "2: "}


@pytest.mark.parametrize(("classes", "numbers", "names"), [(20, True, True), (21, False, True), (251, False, False)])
def test_a_matrix_has_numbers_up_to_20_classes_and_names_up_to_250(classes: int, numbers: bool, names: bool) -> None:
    cells = tuple(map(tuple, (2 * np.eye(classes, dtype=int)).tolist()))
    made = results([row()], classes=tuple(f"class{k}" for k in range(classes)), confusion=cells)
    figure = figures.confusion(made.rows[0], made.details[0])
    found = texts(figure.file())
    assert found.count("100") == (classes if numbers else 0)
    assert found.count("class0") == (2 if names else 0)
    assert any("in the order of results.json" in text for text in found) != names


def test_a_thousand_classes_still_make_a_picture_of_some_size() -> None:
    made = results([row()], classes=tuple(map(str, range(1000))), confusion=((1,),))
    assert 800 < figures.confusion(made.rows[0], made.details[0]).width < 1200
