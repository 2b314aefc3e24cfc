"""Figures as SVG, with one drawing for both the page and a separate file."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from importlib.resources import files

from l2a_transfer.report.markup import Markup, element, joined

NOT_IN_XML = re.compile("[\ufffe\uffff]")
TITLE_LINE, TITLE_SIZE = 18.0, 13.0


@dataclass(frozen=True)
class Figure:
    """A drawing without a style sheet.

    Parameters
    ----------
    label : str
        Description for screen readers.
    drawing : Markup
        SVG elements.
    width, height : float
        Its size in CSS pixels.
    kind : str
        Its CSS class: ``"chart"`` or ``"matrix"``.
    title : tuple of str
        Lines above the drawing in a separate file.
    name : str
        Name of that file; empty if the caller chooses it.
    """

    label: str
    drawing: Markup
    width: float
    height: float
    kind: str = "chart"
    title: tuple[str, ...] = ()
    name: str = ""

    def inline(self) -> Markup:
        """The SVG for a page with the style sheet. Charts fill the space up to their width; a matrix is not scaled."""
        is_matrix = self.kind == "matrix"
        return element(
            "svg",
            self.drawing,
            class_=self.kind,
            viewBox=f"0 0 {self.width:.0f} {self.height:.0f}",
            width=self.width if is_matrix else None,
            height=self.height if is_matrix else None,
            role="img",
            aria_label=self.label,
            style=None if is_matrix else f"max-width: {self.width:g}px",
        )

    def file(self) -> str:
        """The SVG file, which follows the reader's light or dark mode."""
        above = TITLE_LINE * len(self.title)
        lines = [
            element("text", line, x=8, y=TITLE_LINE * (k + 0.75) - above, class_="title")
            for k, line in enumerate(self.title)
        ]
        width = max(self.width, *(16 + TITLE_SIZE * width_in_ems(line) for line in self.title), 0.0)
        height = self.height + above
        whole = element(
            "svg",
            element("style", style_of("colours", "figure", "standalone")),
            *lines,
            self.drawing,
            xmlns="http://www.w3.org/2000/svg",
            class_=self.kind,
            viewBox=f"0 {-above:.0f} {width:.0f} {height:.0f}",
            width=width,
            height=height,
            role="img",
            aria_label=self.label,
        )
        return NOT_IN_XML.sub("\ufffd", whole) + "\n"


def style_of(*names: str) -> Markup:
    """The style sheets `NAME.css`, concatenated."""
    folder = files("l2a_transfer.report")
    return joined(Markup(folder.joinpath(f"{name}.css").read_text(encoding="utf-8")) for name in names)


def width_in_ems(text: str) -> float:
    """The approximate width of a text, in units of its font size."""
    return sum(1.05 if unicodedata.east_asian_width(letter) in "WF" else 0.57 for letter in text)
