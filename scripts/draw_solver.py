"""Draws docs/images/svm-complexity.svg from benchmarks/results/svm_complexity.json: time of the SVM grid by its sizes.

python scripts/draw_solver.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "svm_complexity.json"
PICTURE = ROOT / "docs" / "images" / "svm-complexity.svg"
FEW = 5
TITLES = {"rows": "rows n", "columns": "columns d", "classes": "classes K", "folds": "folds", "C": "C, one candidate"}


def main() -> None:
    series = json.loads(RESULT.read_text())["series"]
    with matplotlib.rc_context({"svg.hashsalt": "svm", "font.size": 9}):
        figure = Figure(figsize=(11, 2.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, len(series), sharey=True)
        for axis, (name, own) in zip(axes, series.items(), strict=True):
            points = own["points"]
            axis.loglog([p["value"] for p in points], [p["seconds"] for p in points], marker="o", markersize=3)
            axis.set_xlabel(TITLES[name])
            if len(points) <= FEW:  # a short axis has no powers of ten to label
                axis.set_xticks([p["value"] for p in points], [str(p["value"]) for p in points])
                axis.set_xticks([], minor=True)
            if own["exponent"] is not None:
                axis.set_title(f"∝ {TITLES[name].split()[-1]}^{own['exponent']:.1f}", fontsize=9)
            axis.grid(visible=True, which="major", alpha=0.3)
        axes[0].set_ylabel("seconds")
        figure.savefig(PICTURE, metadata={"Date": None})
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
