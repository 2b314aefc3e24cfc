"""The package's rooms and the imports between them, drawn from the code with grimp as a Mermaid diagram.

    python scripts/draw_rooms.py            # writes the diagram and the tables into docs/architecture.md
    python scripts/draw_rooms.py --check    # exits 1 if the page is out of date, or if there is a cycle

A room is a package or a module directly below `l2a_transfer`. Arrows implied by longer paths are omitted.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import grimp

PACKAGE = "l2a_transfer"
ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: made by scripts/draw_rooms.py -->", "<!-- /rooms -->"
PATHS = (
    ("`extract` to the HDF5 file", "cli.extract", "features.store.writer"),
    ("a feature row to a printed number", "cli.svm_eval", "features.store.views"),
)


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports, without those imported by the package's `__init__`."""
    modules = sorted(module for module in graph.modules if module != PACKAGE)
    return {
        module: {other for other in graph.find_modules_directly_imported_by(module) if other != PACKAGE}
        for module in modules
    }


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Names that can be reached from themselves."""

    def reached(start: str) -> set[str]:
        found, pending = set(), [start]
        while pending:
            for other in arrows[pending.pop()] - found:
                found.add(other)
                pending.append(other)
        return found

    return [name for name in arrows if name in reached(name)]


def longest_path(imports: dict[str, set[str]], start: str, end: str) -> list[str]:
    """The longest chain of imports from one module to another, including both; the graph must have no cycle."""

    @cache
    def chain(module: str) -> tuple[str, ...] | None:
        if module == end:
            return (module,)
        ways = [way for way in map(chain, sorted(imports[module])) if way is not None]
        return (module, *max(ways, key=len)) if ways else None

    return list(chain(start) or ())


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those implied by longer paths."""

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(arrows[room]).union(*map(below, arrows[room])) if arrows[room] else frozenset()

    return {
        room: {other for other in others if not any(other in below(middle) for middle in others - {other})}
        for room, others in arrows.items()
    }


def drawn() -> str:
    """The part of the page between BEGIN and END. Exits 1 if modules or rooms import each other in a cycle."""
    imports = imports_of(grimp.build_graph(PACKAGE, cache_dir=None))
    rooms: dict[str, set[str]] = {room_of(module): set() for module in imports}
    for module, others in imports.items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    for arrows in (imports, rooms):
        if found := circles(arrows):
            sys.exit(f"imports in a circle: {', '.join(found)}")
    lines = [BEGIN, "```mermaid", "flowchart TD"]
    lines += [f"  {room}[{room}]" for room in sorted(rooms)]
    lines += [f"  {room} --> {other}" for room, others in sorted(reduced(rooms).items()) for other in sorted(others)]
    lines += ["```", "", "| room | imports |", "|---|---|"]
    lines += [f"| {room} | {', '.join(sorted(others))} |" for room, others in sorted(rooms.items())]
    lines += ["", "| longest chain of imports | modules |", "|---|---:|"]
    lines += [
        f"| {title} | {len(longest_path(imports, f'{PACKAGE}.{start}', f'{PACKAGE}.{end}'))} |"
        for title, start, end in PATHS
    ]
    return "\n".join([*lines, END])


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    new = before + drawn() + rest.partition(END)[2]
    if "--check" in sys.argv[1:]:
        if new != text:
            sys.exit(f"{PAGE.relative_to(ROOT)} does not show the code as it is; run: python scripts/draw_rooms.py")
    else:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
