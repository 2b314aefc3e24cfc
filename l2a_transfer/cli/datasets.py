"""`l2a-transfer datasets`: the named data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from l2a_transfer.cli.options import (
    Verb,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import table_lines, terminal_width

if TYPE_CHECKING:
    from l2a_transfer.data.registry import DatasetSpec


@click.command("datasets", cls=Verb)
@click.option(
    "--json/--text", "as_json", default=False, help="Print JSON, with licences and citations, instead of the table."
)
def command(as_json: bool) -> None:
    """List the named data sets.

    --json adds splits, licences, citations, and what --data-dir must contain.

    \b
    Example:
      l2a-transfer datasets --json
    """
    from l2a_transfer.data.registry import DATASETS, format_usages

    if as_json:
        rows = [
            {
                "name": spec.name,
                "title": spec.title,
                "images": spec.images,
                "classes": spec.classes,
                "splits": list(spec.splits),
                "licence": spec.licence,
                "citation": spec.citation,
                "data_dir_holds": spec.folder or None,
                "downloads": spec.downloads,
            }
            for spec in DATASETS.values()
        ]
        echo_json(rows, indent=1)
        return
    listed = [
        [spec.name, f"{spec.images:,}", str(spec.classes), _how_to_get(spec), spec.title] for spec in DATASETS.values()
    ]
    headings = ["name", "images", "classes", "how to get it", "title"]
    echo(*table_lines(headings, listed, numbers=[False, True, True, False, False], width=terminal_width()))
    echo("", f"Your own images: {' or '.join(format_usages())}. Licences, citations and layouts: --json.")


def _how_to_get(spec: DatasetSpec) -> str:
    if not spec.needs_data_dir:
        return "in the package"
    return "--download" if spec.downloads else "by hand"
