"""Robustness → robustness.json, CSV, Markdown, one HTML page and a figure. Only renders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from l2a_transfer.evaluation.robustness import setting_name
from l2a_transfer.evaluation.robustness_results import DOCUMENT, SCHEMA, RobustnessResults, RobustnessRow
from l2a_transfer.evaluation.verdict import p_text, with_interval
from l2a_transfer.explain.checks.attacks import ATTACKS, NOISE
from l2a_transfer.explain.checks.robustness import CLEAN
from l2a_transfer.report import charts, lookup
from l2a_transfer.report.charts import Line, Scale
from l2a_transfer.report.document import Block, Grid, Listing, Section, document_markdown, document_page
from l2a_transfer.report.folder import csv_lines, documents_folder, json_lines, write_documents
from l2a_transfer.report.legend import side_by_side
from l2a_transfer.report.svg import Figure
from l2a_transfer.wording import counted, with_minus

RESULTS, ROWS, COMPARISONS = "robustness.json", "robustness.csv", "robustness-comparisons.csv"
PAGE, MARKDOWN, FIGURE = "robustness.html", "robustness.md", "robustness.svg"
FILES = (RESULTS, ROWS, COMPARISONS, PAGE, MARKDOWN, FIGURE)
TITLE = "Accuracy under attack"
PERCENT = Scale(0, 100, tuple((float(value), f"{value}") for value in range(0, 101, 20)))
MOST_TICKS = 8


def robustness_folder(out: Path, *, overwrite: bool) -> AbstractContextManager[None]:
    """Lock the folder from before the attacks until the report is written. Raises: like `documents_folder`."""
    return documents_folder(out, FILES, overwrite=overwrite, what="the report")


def write_robustness(results: RobustnessResults, out: Path) -> list[Path]:
    """Write the report into a folder that the caller has locked with `robustness_folder`.

    Returns
    -------
    list of Path
        `robustness.json`, which is written last, and the others.

    Raises
    ------
    OSError
        If a file cannot be written; the error names it.
    """
    document, sections = results.document(), sections_of(results)
    DOCUMENT.check(document, "robustness")
    rows = [(r.model, r.attack, f"{r.epsilon:g}", r.n, r.right, r.accuracy, *r.accuracy_ci95) for r in results.rows]
    compared = [
        (c.a, c.b, c.attack, f"{c.epsilon:g}", c.difference, *c.ci95_simultaneous, c.p, c.p_mcnemar, c.p_adjusted)
        + (c.only_a, c.only_b, c.comparisons, c.verdict)
        for c in results.comparisons
    ]
    return write_documents(
        out,
        {
            RESULTS: json_lines(document),
            ROWS: csv_lines(
                ("model", "attack", "epsilon", "n", "right", "accuracy", "accuracy_ci95_low", "accuracy_ci95_high"),
                rows,
            ),
            COMPARISONS: csv_lines(
                ("a", "b", "attack", "epsilon", "difference", "ci95_simultaneous_low", "ci95_simultaneous_high", "p")
                + ("p_mcnemar", "p_adjusted", "only_a", "only_b", "comparisons", "verdict"),
                compared,
            ),
            PAGE: document_page(TITLE, sections, schema=SCHEMA, source=RESULTS),
            MARKDOWN: document_markdown(TITLE, sections),
            FIGURE: figure(results).file(),
        },
    )


def sections_of(results: RobustnessResults) -> list[Section]:
    """The whole report, without empty sections."""
    found = [
        Section("Accuracy", (accuracy_grid(results), figure(results), _reading(results))),
        Section("Checks for gradient masking", _masking(results)),
        Section("Differences between networks", tuple(_differences(results))),
        Section("How it was measured", (Listing(tuple(_facts(results))),)),
    ]
    return [section for section in found if section.blocks]


def accuracy_grid(results: RobustnessResults) -> Grid:
    """Networks × settings: accuracy in percent with its interval."""
    settings = list(dict.fromkeys((row.attack, row.epsilon) for row in results.rows))
    cells = {(row.model, row.attack, row.epsilon): row for row in results.rows}
    lines = [
        (model["name"], *(_cell(cells[model["name"], attack, epsilon]) for attack, epsilon in settings))
        for model in results.models
    ]
    caption = (
        f"Accuracy on {results.data['name']}, % [95 %], {counted(results.data['images'], 'image')}; "
        "ε is the largest change of a pixel."
    )
    names = ((_heading(attack, epsilon), True) for attack, epsilon in settings)
    return Grid(caption, (("network", False), *names), tuple(lines))


def _cell(row: RobustnessRow) -> str:
    low, high = row.accuracy_ci95
    return f"{100 * row.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _heading(attack: str, epsilon: float) -> str:
    if attack == CLEAN:
        return "no attack"
    return f"{attack.upper() if attack in ATTACKS else attack}, {epsilon:g}/255"


def figure(results: RobustnessResults) -> Figure:
    """Accuracy over ε: one chart per attack and one for the noise, with one line per network."""
    epsilons = results.config.epsilon
    every = -(-len(epsilons) // MOST_TICKS)
    ticks = tuple((epsilon, f"{epsilon:g}") for epsilon in epsilons[::every])
    x = Scale(-0.03 * epsilons[-1], 1.03 * epsilons[-1], ((0.0, "0"), *ticks))
    drawn = []
    for attack in (*results.config.attack, NOISE):
        name = attack.upper() if attack in ATTACKS else attack
        lines = []
        for series, model in enumerate(results.models):
            own = sorted(
                (r for r in results.rows if r.model == model["name"] and r.attack in (CLEAN, attack)),
                key=lambda row: row.epsilon,
            )
            ends = tuple((100 * low, 100 * high) for low, high in (row.accuracy_ci95 for row in own))
            points_of = tuple((row.epsilon, 100 * row.accuracy) for row in own)
            lines.append(Line(series, model["name"], points_of, ends))
        label = f"Accuracy over ε under {name}"
        drawn.append(
            charts.curves(lines, x, PERCENT, x_label=f"{name}: ε, in 1/255", y_label="accuracy, %", label=label)
        )
    names = [model["name"] for model in results.models]
    label = "Accuracy of every network over ε, with 95 % intervals; the table has the numbers"
    return side_by_side(drawn, names, label=label, name=FIGURE, title=(f"{TITLE} on {results.data['name']}",))


def _reading(results: RobustnessResults) -> Listing:
    config = results.config
    lines = [
        "An attack knows the network and the true class. It changes each pixel value (0 to 255, before normalisation) "
        "by at most ε. FGSM takes one step; PGD takes several steps from a random start.",
        "Noise adds or subtracts ε at random from each value. It is the control: errors that noise causes as well are "
        "not an effect of the attack.",
        "Accuracy under attack is an upper bound on robustness: a stronger attack may find more errors.",
    ]
    if "pgd" in config.attack:
        length = "2.5 ε / steps" if config.step is None else f"{config.step:g}/255"
        lines[0] += f" Here PGD takes {counted(config.steps, 'step')} of {length}."
    return Listing(tuple(lines))


def _masking(results: RobustnessResults) -> tuple[Block, ...]:
    checks = (
        "If gradients are not masked, PGD finds at least as many errors as FGSM, each attack finds at least as many as "
        "noise of its size and as itself at a smaller ε, and every image has a gradient."
    )
    found = results.warnings or ("No sign of gradient masking was found.",)
    return (checks, Listing(tuple(found)))


def _differences(results: RobustnessResults) -> Iterator[Block]:
    if not results.comparisons:
        return
    columns = (
        ("networks", False),
        ("setting", False),
        ("difference, points [95 %, adjusted]", True),
        ("adjusted p", True),
        ("only first / only second right", True),
    )
    rows = tuple(
        (
            f"{c.a} − {c.b}",
            setting_name(c.attack, c.epsilon),
            with_minus(with_interval(c.difference, c.ci95_simultaneous, apart=False)),
            p_text(c.p_adjusted).removeprefix("= "),
            f"{c.only_a} / {c.only_b}",
        )
        for c in results.comparisons
    )
    n = results.comparisons[0].comparisons
    yield Grid(
        f"Accuracy of the first network minus that of the second, on the same images, adjusted for {n} tests.",
        columns,
        rows,
    )
    yield Listing(tuple(lookup.verdict(c) for c in results.comparisons))
    yield (
        "The p value is the larger of those of McNemar's exact test and the score test, adjusted by Bonferroni. Each "
        "network is attacked separately, so the attacked images differ between networks."
    )


def _facts(results: RobustnessResults) -> Iterator[str]:
    config, data = results.config, results.data
    yield f"Data: {data['name']}, {', '.join(data['splits'])}, {counted(data['images'], 'image')} of " + (
        f"{counted(len(data['classes']), 'class', 'classes')}; fingerprint {data['fingerprint']}."
    )
    yield "Images are resized to the input size of each network and then attacked. Intervals are Wilson's, over images."
    yield f"Seed {config.seed}; every network in evaluation mode, float32, on {results.run['device']}."
    versions = ", ".join(f"{name} {version}" for name, version in results.run["versions"].items())
    yield f"Versions: {versions}; commit {results.run['commit'] or 'unknown'}."
    for model in results.models:
        side = model["side"]
        yield f"{model['name']}: {model['architecture']}, {side} × {side} pixels, weights {model['weights_sha256']}."
