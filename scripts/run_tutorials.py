"""Run the tutorials in docs/tutorials and write their outputs and pictures.

    python scripts/run_tutorials.py [--check] [NAME ...]

A tutorial runs from top to bottom in an empty folder. In a block ```console, a line after `$ ` is a command, and the
lines up to the next one are its standard output. A block ```python is a program, and a block ```text after it is its
output. A comment `<!-- file: NAME -->` before a block makes it a file. A comment `<!-- picture: FILE -->` before an
image is the file that the image shows.

With `--check` nothing is written, and the exit code is 1 if an output differs in more than its digits, or a picture is
not made. Digits may differ, because processors round differently.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```\n", re.DOTALL)
PICTURE = re.compile(r"<!-- picture: (\S+) -->\n!\[[^\]]*\]\((\S+)\)")


class TutorialError(Exception):
    """A command or program of a tutorial failed, or its output is not the one on the page."""


def run(command: list[str] | str, folder: Path, text: str | None = None) -> str:
    """The standard output of a command, without spaces at the ends of lines."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
    }
    done = subprocess.run(
        command, shell=isinstance(command, str), cwd=folder, env=environment, input=text, capture_output=True, text=True
    )
    if done.returncode:
        raise TutorialError(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def console(block: str, folder: Path) -> str:
    """The block with the output of its commands."""
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)\n", block, flags=re.MULTILINE)
    return "".join(f"$ {command}\n{run(command, folder)}" for command in commands)


def executed(page: str, folder: Path, images: Path) -> str:
    """The page with the outputs of its blocks, after running them in a folder and copying its pictures."""
    parts, end, output = [], 0, ""
    for block in BLOCK.finditer(page):
        file, kind, content = block.groups()
        parts.append(page[end : block.start(3)])
        if file:
            (folder / file).write_text(content, encoding="utf-8")
        elif kind == "console":
            content = console(content, folder)
        elif kind == "python":
            output = run([sys.executable, "-"], folder, content)
        elif kind == "text":
            content = output
        parts.append(content)
        end = block.end(3)
    parts.append(page[end:])
    for made, shown in PICTURE.findall(page):
        if not (folder / made).is_file():
            raise TutorialError(f"no picture {made}; there are {sorted(str(path) for path in folder.rglob('*.png'))}")
        shutil.copyfile(folder / made, images / Path(shown).name)
    return "".join(parts)


def without_digits(text: str) -> str:
    """The text without numbers and padding, which may differ between processors."""
    return re.sub(r"[ ─-]+", " ", re.sub(r"[-+−]?\d[\d.,]*", "0", text))


def check(path: Path) -> str:
    """The problem with a tutorial, or nothing."""
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as images:
        try:
            found = executed(page, Path(folder), Path(images))
        except TutorialError as error:
            return f"{path.name}: {error}"
    lines = (without_digits(text).split("\n") for text in (page, found))
    for was, now in zip_longest(*lines, fillvalue=""):
        if was != now:
            return f"{path.name}: is {was!r}, should be {now!r}; run: python scripts/run_tutorials.py"
    return ""


def main(arguments: list[str]) -> int:
    names = [name for name in arguments if name != "--check"]
    paths = [PAGES / f"{name}.md" for name in names] or sorted(PAGES.glob("*.md"))
    if "--check" in arguments:
        wrong = [fault for fault in map(check, paths) if fault]
        print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
        return bool(wrong)
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            page = executed(path.read_text(encoding="utf-8"), Path(folder), ROOT / "docs" / "images")
        path.write_text(page, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
