"""Check that the built site has everything a user can name: `python scripts/check_site.py site`.

Commands with all their options, public names, error classes, and whatever is registered (architectures,
compatibilities, normalizers, selections, map methods, formats, data sets, protocols, probes), each on the page where a
reader would look. The exit code is 1 if something is missing.
"""

from __future__ import annotations

import html
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import l2a_transfer
from l2a_transfer import errors
from l2a_transfer.cli.main import VERBS, main
from l2a_transfer.data.registry import DATASETS, FORMATS
from l2a_transfer.evaluation.probes.registry import PROBES
from l2a_transfer.evaluation.protocols import PROTOCOLS
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.features.backends.interface import TAPS
from l2a_transfer.features.backends.registry import REGISTERED_BACKENDS
from l2a_transfer.models.config import COMPATIBILITIES, FAMILIES, LEVELS
from l2a_transfer.models.normalizers import NORMALIZERS
from l2a_transfer.models.selection import SELECTIONS


def options() -> Iterator[str]:
    """Every option of every command, and the commands themselves."""
    for verb in VERBS:
        command = main.get_command(click.Context(main), verb)
        assert command is not None
        yield f"l2a-transfer {verb}"
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                yield from parameter.opts + parameter.secondary_opts


def error_classes() -> list[str]:
    """Every exception that the package defines."""
    found = inspect.getmembers(errors, inspect.isclass)
    return [name for name, one in found if one.__module__ == errors.__name__ and name != "Explained"]


def expected() -> dict[str, list[str]]:
    """Page → what it must name."""
    architectures = [one.name for family in FAMILIES.values() for one in family.architectures]
    return {
        "reference/cli": list(options()),
        "reference/python": [name for name in l2a_transfer.__all__ if not name.startswith("__")],
        "reference/errors": error_classes(),
        "concepts/choices": [*LEVELS, *TAPS, *COMPATIBILITIES, *NORMALIZERS, *SELECTIONS],
        "registries": [*architectures, *METHODS, *REGISTERED_BACKENDS, *PROTOCOLS, *PROBES],
        "data": [*FORMATS, *DATASETS],
        "protocols": [*PROTOCOLS, *PROBES],
        "glossary": ["Level", "Tap", "Probe", "Protocol", "Normalizer", "Compatibility", "Fingerprint", "Partner"],
    }


def missing(site: Path) -> list[str]:
    """Page and name of everything that is missing on its page."""
    found = []
    for page, names in expected().items():
        content = (site / f"{page}.html").read_text(encoding="utf-8")
        text = html.unescape(re.sub(r"<[^>]+>", "", content))
        found += [f"{page}: {name}" for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]
    return found


if __name__ == "__main__":
    lacking = missing(Path(sys.argv[1]))
    print(*(f"not on the page: {one}" for one in lacking), sep="\n", end="\n" if lacking else "", file=sys.stderr)
    sys.exit(bool(lacking))
