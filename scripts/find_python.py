"""Print the interpreter of a Python version, such as 3.10, or the newest on this machine; exits 1 if there is none.

Looks for python3.N on the PATH and among pyenv's versions. A shim that only reports that its version is not active,
such as pyenv's, does not count.

    python scripts/find_python.py 3.10
    python scripts/find_python.py newest
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = 10
"""The oldest minor version in requires-python of pyproject.toml."""
ASK = "import sys; print(sys.implementation.name, sys.version_info.releaselevel, *sys.version_info[:3], sys.executable)"


def main() -> None:
    if len(sys.argv) != 2 or not re.fullmatch(r"3\.\d+|newest", sys.argv[1]):
        raise SystemExit("name a version, as 3.10, or newest")
    found = {version: path for path in candidates() for version, path in asked(path)}
    wanted = [version for version in found if sys.argv[1] in ("newest", f"3.{version[1]}")]
    if not wanted:
        raise SystemExit(f"no Python {sys.argv[1]} on this machine; looked on the PATH and among pyenv's versions")
    print(found[max(wanted)])


def candidates() -> Iterator[Path]:
    """Files that may be interpreters, by name."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield from sorted(path for path in Path(folder or ".").glob("python3.*") if path.name[8:].isdecimal())
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob("versions/3.*/bin/python3"))


def asked(path: Path) -> Iterator[tuple[tuple[int, int, int], str]]:
    """(version, interpreter) if `path` runs a released CPython that this project supports."""
    try:
        done = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return
    said = re.fullmatch(r"cpython final 3 (\d+) (\d+) (.+)\n", done.stdout)
    if done.returncode == 0 and said and int(said[1]) >= OLDEST:
        yield (3, int(said[1]), int(said[2])), said[3]


if __name__ == "__main__":
    main()
