"""`l2a-transfer datasets`: the named data sets."""

from __future__ import annotations

import click

from l2a_transfer.cli.output import echo, echo_json


@click.command("datasets")
@click.option("--json/--text", "as_json", default=False, help="One JSON document with licences and citations.")
def command(as_json: bool) -> None:
    """List the data sets that --data takes by name: images, classes, splits, terms, and what --data-dir must hold.

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
    for spec in DATASETS.values():
        where = "in the package" if not spec.needs_data_dir else "--download" if spec.downloads else "fetch it yourself"
        echo(f"{spec.name:<14} {spec.images:>7,} images {spec.classes:>4} classes  {where:<18} {spec.title}")
    echo("", f"Your own pictures: {' or '.join(format_usages())}. Licences, citations and layouts: --json.")
