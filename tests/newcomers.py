"""The files that CONTRIBUTING.md shows, imported as modules or installed as plugins."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def shown_file(title: str) -> str:
    """The Python file below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return section.split("```python\n")[1].split("```")[0]


def import_file(folder: Path, module: str, code: str) -> None:
    """Write a module outside of the package, and run it as an import does."""
    path = folder / f"{module}.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def install(folder: Path, module: str, code: str) -> Path:
    """A distribution as pip leaves it, whose entry point is the module; returns the folder for the search path."""
    (folder / f"{module}-1.0.dist-info").mkdir(parents=True)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    about = folder / f"{module}-1.0.dist-info"
    about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    about.joinpath("entry_points.txt").write_text(f"[l2a_transfer.plugins]\n{module} = {module}\n")
    return folder


def run_with(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a new process, where what lies in `site` is installed."""
    search = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "l2a_transfer", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=300,
    )
