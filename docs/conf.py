"""The site: `make docs` builds it, without a network and with warnings as errors.

The Markdown files link to each other as files of the repository, so that they can be read there too. Here, links to
files outside docs/ become links to the pages that show them, or downloads.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

from l2a_transfer.version import __version__

ROOT = Path(__file__).parents[1]

project = "l2a-transfer"
author = "The l2a-transfer developers"
copyright = "The l2a-transfer developers, MIT licence"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
templates_path: list[str] = []
default_role = "code"  # of single backticks in docstrings
smartquotes = False  # it would turn the dashes of options into typographic ones
html_theme = "furo"
html_title = "l2a-transfer"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

numpydoc_show_class_members = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88

FROM_ROOT = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md", "benchmarks": "benchmarks/README.md"}
"""Page → the file outside docs/ that it shows."""
PAGES = {"README.md": "index.md", "benchmarks": "benchmarks.md", "benchmarks/results": "benchmarks.md"}
PAGES |= {file: f"{page}.md" for page, file in FROM_ROOT.items()}
LINK = re.compile(r"\]\(([^):#\s]+)(#[\w-]+)?\)")
OPTION = re.compile(r"(?<![\w`-])(--[a-z][\w-]*)")
MERMAID = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)


def on_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill the pages that show files outside docs/, and point links at pages instead of files."""
    file = ROOT / FROM_ROOT.get(page, f"docs/{page}.md")
    if page in FROM_ROOT:
        app.env.note_dependency(str(file))
        source[0] = file.read_text(encoding="utf-8")
    here = ROOT / "docs" / f"{page}.md"

    def link(match: re.Match[str]) -> str:
        target, anchor = (file.parent / match[1]).resolve(), match[2] or ""
        name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        if name == "README.md":
            anchor = ""
        shown = ROOT / "docs" / PAGES[name] if name in PAGES else target
        return f"]({os.path.relpath(shown, here.parent)}{anchor})"

    source[0] = MERMAID.sub("", LINK.sub(link, source[0]))


def skip(app: Sphinx, what: str, name: str, thing: object, skipped: bool, options: object) -> bool | None:
    """Leave out what scikit-learn adds to every estimator for metadata routing."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


REQUIRED = "**Required** "


def escape(app: Sphinx, context: object, lines: list[str]) -> None:
    """Help texts of the command line are plain text, not reStructuredText; their options are code."""

    def escaped(line: str) -> str:
        line = re.sub(r"PosixPath\('(.*?)'\)", r"\1", line)
        if "``" in line or line.strip().startswith((".. ", ":")):
            return line
        before, required, text = line.rpartition(REQUIRED)
        return before + required + OPTION.sub(r"``\1``", text.replace("*", r"\*"))

    lines[:] = map(escaped, lines)


def example(app: Sphinx, context: object, lines: list[str]) -> None:
    """An example of a command's help is a block of code."""
    text = "\n".join(lines)
    found = re.search(r"^(\| )?Examples?:\n((?:(?:\| )? +\S.*\n?)+)", text, flags=re.MULTILINE)
    if found:
        commands = [line.removeprefix("|").replace("``", "").strip() for line in found[2].splitlines()]
        block = "**Example**\n\n.. code-block:: console\n\n" + "".join(f"   $ {line}\n" for line in commands)
        lines[:] = (text[: found.start()] + block + text[found.end() :]).split("\n")


def setup(app: Sphinx) -> None:
    for part in ("description", "options", "epilog"):
        app.connect(f"sphinx-click-process-{part}", escape)
    app.connect("sphinx-click-process-description", example)  # after `escape`
    app.connect("source-read", on_source)
    app.connect("autodoc-skip-member", skip)
