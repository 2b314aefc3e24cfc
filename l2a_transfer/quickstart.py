"""The main experiment on bundled data: pretrained attention network → features → SVM on unseen photographs."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2a_transfer.data.masks import open_masks
from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import Interrupted
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from l2a_transfer.explain.draw import SHEET, sheet_png
from l2a_transfer.explain.maps import attention_maps
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.localization.localize import Localization, localize
from l2a_transfer.localization.results import RESULTS as LOCALIZATION
from l2a_transfer.localization.results import LocalizationConfig, LocalizationResults
from l2a_transfer.localization.sheet import outlined, sheet_of
from l2a_transfer.lock import output_lock
from l2a_transfer.report import lookup
from l2a_transfer.report.localization import localization_json, localization_page
from l2a_transfer.report.markdown import markdown_table
from l2a_transfer.report.write import report_folder, write_report
from l2a_transfer.threads import usable_cores
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
DATA = "caltech-mini"
MODELS = {
    "attention": "vgg-att2-concat-pc.cifar10-w025",
    "uniform": "vgg-att2-concat-uniform.cifar10-w025",
    "untrained": "untrained:vgg-att2-concat-pc@0.25",
    "pixels": "pixels",
}
PICTURES = 4
"""Images in the figure of attention maps."""
AIRPLANES = "airplanes-mini"
MEASURED = ("attention", "uniform")
"""The networks in `MODELS` whose maps are compared with masks."""
PAGE = "localization.html"
BESIDE = (SHEET, LOCALIZATION, PAGE)
"""Output files in addition to the report."""
MAPS = LocalizationConfig(methods=("attention", "evidence"), target="true", levels=("L3",))


@dataclass(frozen=True)
class QuickstartResult:
    """The results and files of a quickstart.

    Attributes
    ----------
    table : str
        The results as a Markdown table.
    verdicts : tuple of str
        One sentence per comparison of the attention network with a control.
    files : tuple of Path
        All files that were written.
    results : EvalResults
        The results themselves.
    localization : LocalizationResults
        How well maps of the attention network and its uniform control find airplanes.
    """

    table: str
    verdicts: tuple[str, ...]
    files: tuple[Path, ...]
    results: EvalResults
    localization: LocalizationResults


def quickstart(out: Path, *, overwrite: bool = False, progress: bool = True) -> QuickstartResult:
    """Run the main experiment on bundled data: features, SVMs, and a comparison of maps with masks.

    Features of caltech-mini are extracted with the bundled attention network, its uniform control, an untrained network
    and as raw pixels, and an SVM is fitted to each; all four rows of the table share one split and one protocol. Then
    maps of the two bundled networks are compared with the masks of airplanes-mini.

    Writes `features-NAME.h5`, the report (`report.html`, Markdown, CSV, JSON, plots), `localization.html` and
    `localization.json`, and `attention.png` into `out`.

    Parameters
    ----------
    out : Path
        The folder of the results; it is created if it is missing.
    overwrite : bool
        Replace an earlier quickstart in `out`.
    progress : bool
        Show progress bars on stderr.

    Returns
    -------
    QuickstartResult

    Raises
    ------
    OutputExistsError
        If `out` contains a quickstart and `overwrite` is not given.
    Interrupted
        After Ctrl-C; the message says which files are complete.
    """
    with ExitStack() as stack:
        earlier = stack.enter_context(report_folder(out, overwrite=overwrite, beside=BESIDE))
        for name in MODELS:
            stack.enter_context(output_lock(_features(out, name)))
        return _quickstart(out, earlier, overwrite=overwrite, progress=progress)


def _features(out: Path, name: str) -> Path:
    return out / f"features-{name}.h5"


def _quickstart(out: Path, earlier: set[str], *, overwrite: bool, progress: bool) -> QuickstartResult:
    source = open_source(DATA)
    files: list[Path] = []
    try:
        for name, model in MODELS.items():
            path = _features(out, name)
            log.info("extracting features of %s of %s with %s", counted(len(source), "image"), DATA, model)
            # Complete files of an interrupted quickstart are verified and used. Other files are left alone.
            extract(source, open_backend(model), path, resume=not overwrite, overwrite=overwrite, progress=progress)
            files.append(path)
        log.info("fitting linear SVMs: C is chosen by cross-validation on the training images; one test at the end")
        results = evaluate_files(files, EvalConfig(jobs=usable_cores()), progress=progress)
        log.info("comparing the maps of %s with the masks of %s", " and ".join(MEASURED), AIRPLANES)
        found = localize(
            [MODELS[name] for name in MEASURED if name in MODELS],
            open_source(AIRPLANES),
            open_masks(AIRPLANES),
            MAPS,
            progress=progress,
        )
        beside = {
            SHEET: _attention_picture(found),
            LOCALIZATION: localization_json(found.results, [LOCALIZATION, PAGE]),
            PAGE: localization_page(found.results, sheet_of(found)).encode("utf-8", "backslashreplace"),
        }
        files += write_report(results, out, overwrite=overwrite, beside=beside, earlier=earlier)
    except KeyboardInterrupt as stop:
        kept = f"{min(len(files), len(MODELS))} of {len(MODELS)} feature files in {out} are complete and are kept"
        remedy = "" if overwrite else "run it again to reuse them"
        raise Interrupted(f"{kept}; {stop.problem}" if isinstance(stop, Interrupted) else kept, remedy) from stop
    attention = results.rows[list(MODELS).index("attention")].file_sha256
    verdicts = tuple(lookup.verdict(c) for c in results.comparisons if c.files[0] == (attention,))
    return QuickstartResult(markdown_table(results), verdicts, tuple(files), results, found.results)


def _attention_picture(found: Localization) -> bytes:
    """A PNG of attention maps over `PICTURES` airplanes, evenly chosen from all; white lines are the outlines."""
    source = found.source
    rows = np.linspace(0, len(source) - 1, PICTURES).round().astype(int)
    pictures = [outlined(source.image(row), found.masks, source.ids[row]) for row in rows]
    names = [Path(source.ids[row]).stem for row in rows]
    results = attention_maps(MODELS["attention"], pictures, names=names)
    title = f"Attention of {MODELS['attention']} on photographs that it has never seen; white: outline of the object"
    return sheet_png(results, title=title)
