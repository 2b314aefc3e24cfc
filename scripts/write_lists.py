"""Write the contents of the registries into README.md and docs/: `python scripts/write_lists.py [--check]`.

A list is between `<!-- list: NAME -->` and `<!-- end -->`; NAME is a key of LISTS. With `--check` nothing is written,
and the exit code is 1 if a page does not list what is registered.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from l2a_transfer.data.registry import DATASETS, FORMATS
from l2a_transfer.evaluation.probes.registry import PROBES
from l2a_transfer.evaluation.protocols import PROTOCOLS
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.features.backends.registry import REGISTERED_BACKENDS
from l2a_transfer.models.config import COMPATIBILITIES, FAMILIES
from l2a_transfer.models.normalizers import NORMALIZERS
from l2a_transfer.models.selection import SELECTIONS

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- list: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def said(thing: object) -> str:
    """The first line of a docstring, without the part about errors."""
    line = (thing.__doc__ or "").strip().split("\n")[0]
    return line.partition(" Raises:")[0]


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headings)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def families() -> str:
    return table(
        ("family", "what it is", "architectures"),
        (
            (name, said(type(family)), ", ".join(f"`{one.name}`" for one in family.architectures))
            for name, family in sorted(FAMILIES.items())
        ),
    )


def compatibilities() -> str:
    return table(
        ("compatibility", "scores"),
        (
            (f"`{name}`", said(one.scores) if one.scores else "None: every position has the same weight.")
            for name, one in COMPATIBILITIES.items()
        ),
    )


def normalizers() -> str:
    return table(
        ("normalizer", "weights", "sum to 1", "g acts under `pc`", "ONNX", "needs"),
        (
            (
                f"`{name}`",
                said(one.function),
                yes_or_no(one.sums_to_1),
                yes_or_no(not one.shift_invariant),
                yes_or_no(one.exports),
                f"the extra `{one.extra}`" if one.extra else "–",
            )
            for name, one in NORMALIZERS.items()
        ),
    )


def selections() -> str:
    return table(
        ("selection", "what is attended to", "samplers that train it", "ONNX"),
        (
            (
                f"`{name}`",
                one.about,
                ", ".join(f"`{sampler}`" for sampler in one.samplers) or "–",
                yes_or_no(one.needs != "noise"),
            )
            for name, one in SELECTIONS.items()
        ),
    )


def yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def methods() -> str:
    return table(("method", "maps"), ((f"`{name}`", said(one.compute)) for name, one in METHODS.items()))


def backends() -> str:
    return table(
        ("backend", "models that it takes", "what it computes"),
        ((f"`{name}`", one.models, said(one.open)) for name, one in REGISTERED_BACKENDS.items()),
    )


def formats() -> str:
    return table(
        ("format", "what it reads", "needs"),
        (
            (f"`{one.prefix}:{one.takes}`", said(one.read), f"the extra `{one.extra}`" if one.extra else "–")
            for one in FORMATS.values()
        ),
    )


def datasets() -> str:
    return table(
        ("name", "what it is", "images", "classes", "splits"),
        (
            (f"`{name}`", one.title, f"{one.images:,}" if one.images else "–", str(one.classes), ", ".join(one.splits))
            for name, one in DATASETS.items()
        ),
    )


def protocols() -> str:
    return table(
        ("protocol", "splits"), ((f"`{name}`", said(one.settings or one.deal)) for name, one in PROTOCOLS.items())
    )


def probes() -> str:
    return table(("probe", "what it is"), ((f"`{name}`", said(one.fit)) for name, one in PROBES.items()))


LISTS: dict[str, Callable[[], str]] = {
    "families": families,
    "compatibilities": compatibilities,
    "normalizers": normalizers,
    "selections": selections,
    "methods": methods,
    "backends": backends,
    "formats": formats,
    "datasets": datasets,
    "protocols": protocols,
    "probes": probes,
}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewritten(text: str) -> str:
    """The text of a page with up-to-date lists."""
    return BLOCK.sub(lambda found: found[1] + LISTS[found[2]]() + found[3], text)


def stale() -> list[Path]:
    """The pages with outdated lists. Exits 1 if a list is on no page."""
    texts = {path: path.read_text(encoding="utf-8") for path in pages()}
    there = {found[2] for text in texts.values() for found in BLOCK.finditer(text)}
    if missing := sorted(LISTS.keys() - there):
        sys.exit(f"no page has the list of {', '.join(missing)}")
    return [path for path, text in texts.items() if rewritten(text) != text]


def main() -> None:
    found = stale()
    if "--check" in sys.argv[1:]:
        if found:
            names = ", ".join(str(path.relative_to(ROOT)) for path in found)
            sys.exit(f"{names}: a list is not what is registered; run: python scripts/write_lists.py")
    else:
        for path in found:
            path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
