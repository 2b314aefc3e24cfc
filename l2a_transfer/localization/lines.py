"""The rows of the table: a map of a network, or a control, with its measures; and their maps for a batch of
pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from l2a_transfer.evaluation.groups import Source
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.localization.metrics import Map
from l2a_transfer.localization.networks import CONTROLS, EVERYTHING, PREDICTED, MapName, Opened, available, maps_of
from l2a_transfer.localization.pictures import Pictured
from l2a_transfer.localization.results import LocalizationConfig
from l2a_transfer.localization.tally import IN_MEMORY, Fold, Tally

PIXELS_CARD = {"name": "pixels"}
"""Card of controls, which depend only on the pixels of the images."""


@dataclass(frozen=True)
class Line:
    """A row of the table, before and after measuring. `opened` is None for a control."""

    name: MapName
    opened: Opened | None
    tally: Tally

    @property
    def is_signed(self) -> bool:
        return self.name.kind == "signed"

    @property
    def label(self) -> str:
        if self.opened is None:
            return self.name.method
        return f"{self.name.method} {self.name.map} of {self.opened.label}"

    def source(self, data: str) -> Source:
        """The origin of the row."""
        if self.opened is not None:
            return self.opened.source(self.name, data)
        return Source(self.label, data, PIXELS_CARD, self.label)


def lines_of(networks: Sequence[Opened], config: LocalizationConfig, fold: Fold, stack: ExitStack) -> Iterator[Line]:
    """All rows of the table: the maps of each network, then the controls."""

    def tally() -> Tally:
        return Tally(fold, config.seed, stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY)))

    for opened in networks:
        for method, found in available(opened, config):
            if method not in CONTROLS:
                for name in found.maps:
                    yield Line(MapName(method, name, found.kinds[name]), opened, tally())
    for control in (*CONTROLS, EVERYTHING):
        yield Line(MapName(control, "pixels", "non-negative"), None, tally())


def maps_of_lines(
    lines: Sequence[Line], pictures: Sequence[Pictured], config: LocalizationConfig, classes: Sequence[str]
) -> Iterator[tuple[Line, Sequence[Map]]]:
    """Each row with its map (h, w) of each picture; each method of a network is computed only once."""
    networks = list(dict.fromkeys(line.opened.label for line in lines if line.opened is not None))
    first = next((line.opened for line in lines if line.opened is not None), None)
    for label in networks:
        own = [line for line in lines if line.opened is not None and line.opened.label == label]
        opened = own[0].opened
        assert opened is not None
        images = opened.pixels(pictures, config.side)
        about = any(METHODS[line.name.method].class_specific for line in own)
        targets = opened.targets(pictures, config, classes) if about and config.target != PREDICTED else None
        for method in dict.fromkeys(line.name.method for line in own):
            maps = maps_of(opened.network, images, method, config, targets).maps
            yield from ((line, list(maps[line.name.map])) for line in own if line.name.method == method)
    for line in (line for line in lines if line.opened is None):
        if line.name.method == EVERYTHING:
            yield line, [np.zeros((1, 1), dtype=np.float32)] * len(pictures)
        elif first is not None:
            maps = maps_of(first.network, first.pixels(pictures, config.side), line.name.method, config, None).maps
            yield line, list(maps[line.name.map])
