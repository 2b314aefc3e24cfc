"""The provenance of a figure: command, device, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("l2a-transfer", "torch", "onnxruntime-gpu", "scikit-learn", "numpy", "h5py", "Pillow")


def provenance(command: str) -> dict[str, Any]:
    """Values for JSON: the command, the processor and its thread count, package versions and the commit that ran."""
    return {
        "command": command,
        "device": f"{_processor()}, {os.cpu_count()} threads",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """The commit of this checkout, with "+changes" if tracked files other than results differ; otherwise "unknown"."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    status = [*git, "status", "--porcelain", "-uno", "--", ":/", ":/!benchmarks/results"]
    changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    return commit + ("+changes" if changed.strip() else "")
