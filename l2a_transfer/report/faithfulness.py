"""Faithfulness → faithfulness.json, CSV, Markdown, one HTML page and a figure. Only renders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from l2a_transfer.evaluation.faithfulness_results import (
    CONTROLS,
    DOCUMENT,
    PREDICTED,
    RANDOM,
    SCHEMA,
    TRUE,
    FaithfulnessResults,
    FaithfulnessRow,
)
from l2a_transfer.explain.checks.faithfulness import CURVES, MEAN
from l2a_transfer.report import charts
from l2a_transfer.report.charts import COLOURS, Line, Scale
from l2a_transfer.report.document import Grid, Listing, Section, document_markdown, document_page
from l2a_transfer.report.folder import csv_lines, documents_folder, json_lines, write_documents
from l2a_transfer.report.legend import side_by_side
from l2a_transfer.report.svg import Figure
from l2a_transfer.wording import counted, with_minus

RESULTS, ROWS = "faithfulness.json", "faithfulness.csv"
PAGE, MARKDOWN, FIGURE = "faithfulness.html", "faithfulness.md", "faithfulness.svg"
FILES = (RESULTS, ROWS, PAGE, MARKDOWN, FIGURE)
TITLE = "Faithfulness of maps"
PERCENT = Scale(0, 100, tuple((float(value), f"{value}") for value in range(0, 101, 20)))
FEW_IMAGES = 30
MARKS = 5
"""Number of markers on a curve, which tell lines apart without colours."""
COLUMNS = (
    *("model", "method", "map", "height", "width", "n", "deletion", "deletion_ci95_low", "deletion_ci95_high"),
    *("insertion", "insertion_ci95_low", "insertion_ci95_high"),
    *("deletion_gain", "deletion_gain_ci95_low", "deletion_gain_ci95_high"),
    *("insertion_gain", "insertion_gain_ci95_low", "insertion_gain_ci95_high", "completeness"),
)


def faithfulness_folder(out: Path, *, overwrite: bool) -> AbstractContextManager[None]:
    """Lock the folder from before the maps until the report is written. Raises: like `documents_folder`."""
    return documents_folder(out, FILES, overwrite=overwrite, what="the report")


def write_faithfulness(results: FaithfulnessResults, out: Path) -> list[Path]:
    """Write the report into a folder that the caller has locked with `faithfulness_folder`.

    Returns
    -------
    list of Path
        `faithfulness.json`, which is written last, and the others.

    Raises
    ------
    OSError
        If a file cannot be written; the error names it.
    """
    document, sections = results.document(), sections_of(results)
    DOCUMENT.check(document, "faithfulness")
    return write_documents(
        out,
        {
            RESULTS: json_lines(document),
            ROWS: csv_lines(COLUMNS, map(_csv_row, results.rows)),
            PAGE: document_page(TITLE, sections, schema=SCHEMA, source=RESULTS),
            MARKDOWN: document_markdown(TITLE, sections),
            FIGURE: figure(results).file(),
        },
    )


def _csv_row(row: FaithfulnessRow) -> tuple[object, ...]:
    none = ("", "")
    return (
        *(row.model, row.method, row.map, *row.grid, row.n),
        *(row.deletion, *row.deletion_ci95, row.insertion, *row.insertion_ci95),
        *("" if row.deletion_gain is None else row.deletion_gain, *(row.deletion_gain_ci95 or none)),
        *("" if row.insertion_gain is None else row.insertion_gain, *(row.insertion_gain_ci95 or none)),
        "" if row.completeness is None else row.completeness,
    )


def sections_of(results: FaithfulnessResults) -> list[Section]:
    """The whole report."""
    return [
        Section("Deletion and insertion", (areas_grid(results), figure(results), _reading(results))),
        Section("How it was measured", (Listing(tuple(_facts(results))),)),
    ]


def areas_grid(results: FaithfulnessResults) -> Grid:
    """Maps × measures. The controls come after the methods of their network."""
    several = len(results.models) > 1
    complete = any(row.completeness is not None for row in results.rows)
    lines = []
    for row in results.rows:
        cells = [_name(row, several=several), f"{row.grid[0]} × {row.grid[1]}"]
        cells += [_interval(row.deletion, row.deletion_ci95), _interval(row.insertion, row.insertion_ci95)]
        cells += [_gain(row.deletion_gain, row.deletion_gain_ci95), _gain(row.insertion_gain, row.insertion_gain_ci95)]
        cells += (["–" if row.completeness is None else f"{row.completeness:.1e}"]) if complete else []
        lines.append(tuple(cells))
    columns = [
        ("map", False),
        ("resolution", True),
        ("deletion, % [95\xa0%]", True),
        ("insertion, % [95\xa0%]", True),
        ("deletion: gain over random [95\xa0%]", True),
        ("insertion: gain over random [95\xa0%]", True),
        *([("largest completeness error", True)] if complete else []),
    ]
    caption = (
        f"Areas under the curves on {results.data['name']}, {counted(results.data['images'], 'image')}. Lower is "
        "better for deletion, higher for insertion; a positive gain is good for both. †: control."
    )
    return Grid(caption, tuple(columns), tuple(lines))


def _name(row: FaithfulnessRow, *, several: bool) -> str:
    control = " †" if row.method in (RANDOM, *CONTROLS) else ""
    return (f"{row.model}: {row.label}" if several else row.label) + control


def _interval(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _gain(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or interval is None:
        return "–"
    return with_minus(f"{100 * value:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]")


def figure(results: FaithfulnessResults) -> Figure:
    """The mean curves of deletion and insertion side by side, with one line per map."""
    several = len(results.models) > 1
    x = 100 * results.shares[0], 100 * results.shares[-1]
    across = Scale(*x, tuple((float(value), f"{value}") for value in range(0, 101, 20)))
    steps = len(results.shares)
    drawn = []
    for curve in CURVES:
        lines = []
        for series, row in enumerate(results.rows):
            points = tuple((100 * x, 100 * y) for x, y in zip(results.shares, row.curves[curve], strict=True))
            # The markers of two lines are at different steps.
            marked = tuple(range(series % COLOURS * steps // (COLOURS * MARKS), steps, max(1, steps // MARKS)))
            lines.append(Line(series, _name(row, several=several), points, marked=marked))
        word = "replaced" if curve == "deletion" else "restored"
        drawn.append(
            charts.curves(
                lines,
                across,
                PERCENT,
                x_label=f"{curve}: pixels {word}, %",
                y_label="probability of the class, %",
                label=f"Mean probability of the class over the share of pixels that are {word}",
            )
        )
    names = [_name(row, several=several) for row in results.rows]
    label = "Mean deletion and insertion curves of every map; the table has the areas"
    return side_by_side(drawn, names, label=label, name=FIGURE, title=(f"{TITLE} on {results.data['name']}",))


def _reading(results: FaithfulnessResults) -> Listing:
    config = results.config
    baseline = "the mean colour of the training images" if config.baseline == MEAN else "the image, blurred"
    lines = [
        f"Pixels are ordered by the map, the most important first. Deletion replaces them by {baseline}, step by step; "
        "insertion starts from there and restores them. Both record the probability of one class.",
        "Maps with fewer positions than pixels are interpolated linearly, and ties are ordered at random.",
        f"Random is the mean over {counted(config.orders, 'random map')} per image at the given resolution. A gain is "
        "the difference between the area of a map and that of the random maps of the same image and resolution. If the "
        "interval of a gain contains 0, there is no evidence that the map is faithful.",
        "Do not compare a map with random maps of another resolution: replacing scattered pixels disturbs a network "
        "more than covering a region.",
        "†: controls that do not depend on the network. The centre is where photographers place objects, and Sobel "
        "finds edges.",
        "Images with replaced pixels are unlike the training images, so a low probability can also come from that. "
        "Compare maps with each other and with the controls, on the same baseline.",
    ]
    if any(row.completeness is not None for row in results.rows):
        lines.append(
            "Completeness error: the largest difference between the sum of an image's map and the value that its "
            "method promises for that sum, in units of the logit."
        )
    return Listing(tuple(lines))


def _facts(results: FaithfulnessResults) -> Iterator[str]:
    config, data = results.config, results.data
    yield (
        f"Data: {data['name']}, {', '.join(data['splits'])}, {counted(data['images'], 'image')}; fingerprint "
        f"{data['fingerprint']}."
    )
    target = {PREDICTED: "the predicted class of each image", TRUE: "the true class of each image"}
    yield f"Class: {target.get(config.target, config.target)}. Steps: {len(results.shares) - 1}."
    for name, given in config.options.items():
        yield f"{name}: " + ", ".join(f"{key} = {value}" for key, value in given.items()) + "."
    yield (
        f"Intervals: 95 %, bootstrap over images with {config.resamples:,} resamples. They do not cover other training "
        "seeds."
    )
    if data["images"] < FEW_IMAGES:
        yield f"With fewer than {FEW_IMAGES} images, as here, bootstrap intervals are too narrow."
    yield f"Seed {config.seed}, for random maps, ties and the bootstrap; float32, on {results.run['device']}."
    versions = ", ".join(f"{name} {version}" for name, version in results.run["versions"].items())
    yield f"Versions: {versions}; commit {results.run['commit'] or 'unknown'}."
    for model in results.models:
        side = model["side"]
        yield f"{model['name']}: {model['architecture']}, {side} × {side} pixels, weights {model['weights_sha256']}."
