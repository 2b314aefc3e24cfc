"""Where every number of a report comes from: the run, the feature files, the models' cards; and how to repeat it."""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

from l2a_transfer.evaluation.evaluate import EvalConfig, EvalResults, EvalRow
from l2a_transfer.evaluation.families import TRAINED, Source
from l2a_transfer.wording import counted

FIRST = ("name", "weights_sha256", "config", "training", "metrics", "preprocess", "parameters")
TITLES = {
    "name": "weights",
    "weights_sha256": "SHA-256 of the weights",
    "config": "network",
    "metrics": "measured",
    "training": "trained",
}
MOST = 700
"""Letters of one fact; results.json has what is longer."""


def command(results: EvalResults) -> str:
    """The `svm-eval` command of this report; the folder names itself."""
    config = results.config
    arguments = [source.file for source in dict.fromkeys(map(source_of, results.rows))]
    arguments += ["--out", "report", "--protocol", config.protocol, "--c-grid", _numbers(config.c_grid)]
    arguments += ["--decades", str(config.decades), "--folds", str(config.folds)]
    if config.draws is not None:
        arguments += ["--draws", str(config.draws)]
    if config.protocol == "low-shot":
        arguments += ["--shots", _numbers(config.shots)]
    if config.ablate:
        arguments += ["--ablate", ",".join(config.ablate)]
    if config.widths:
        arguments += ["--widths", _numbers(config.widths)]
    for pair in config.compare:
        arguments += ["--compare", ",".join(pair)]
    if config.reference is not None:
        arguments += ["--reference", config.reference]
    arguments += ["--solver", config.solver, "--seed", str(config.seed)]
    if config.device != "auto":
        arguments += ["--device", config.device]
    if config.max_memory is not None:
        arguments += ["--max-memory", f"{config.max_memory / 2**20:g}M"]
    return shlex.join(["l2a-transfer", "svm-eval", *arguments])


def run(results: EvalResults) -> list[tuple[str, str]]:
    """(what, value) of the run: versions, and the settings that a command line does not show."""
    config = results.config
    facts = [("versions", ", ".join(f"{name} {version}" for name, version in results.versions.items()))]
    facts.append(("seed", f"{config.seed}, of splits, folds, PCA and drawn permutations"))
    facts.append(("choice of C", choice(config)))
    if config.tol is not None or config.max_iter is not None:
        facts.append(
            ("stopping", f"tol {config.tol or 'of the solver'}, max_iter {config.max_iter or 'of the solver'}")
        )
    return facts


def choice(config: EvalConfig) -> str:
    """How C came about."""
    if len(config.c_grid) == 1:
        return f"C = {config.c_grid[0]:g}, not chosen"
    grid = ", ".join(f"{C:g}" for C in config.c_grid)
    folds = f"min({config.folds}, k)" if config.protocol == "low-shot" else str(config.folds)
    grown = (
        f"; the grid grows by at most {counted(config.decades, 'decade')} where the best C is at its edge and better "
        "than its neighbour"
        if config.decades
        else ""
    )
    return (
        f"C chosen among {grid} by {folds}-fold stratified cross-validation on the training rows only, among equals "
        f"the smallest{grown}"
    )


class Origin(NamedTuple):
    """A feature file as the results know it; files of different folders can have one name."""

    file: str
    label: str
    data: str


def source_of(row: EvalRow) -> Origin:
    return Origin(row.file, row.label, row.data)


def cards(results: EvalResults) -> list[tuple[dict[str, Any], list[Origin]]]:
    """Every card once, in the order of the rows, with the feature files that its model made.

    The results keep cards by the names of files. Where a card is another model's, because a file of another folder has
    the same name, it is left out rather than shown where it does not belong.
    """
    found: dict[str, tuple[dict[str, Any], list[Origin]]] = {}
    for source, row in {source_of(row): row for row in results.rows}.items():
        card = results.cards.get(row.file, {})
        if card.get("name", row.model) != row.model:
            card = {"name": row.model, "card": f"not kept, because several feature files are called {row.file}"}
        found.setdefault(json.dumps(card, sort_keys=True), (card, []))[1].append(source)
    return list(found.values())


def card_facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """A model's card as (what, value), everything in it but the class names; nested values are written out."""
    of_weights = Source("", "", card).kind == TRAINED
    keys = [key for key in FIRST if key in card] + [key for key in card if key not in FIRST and key != "schema"]
    facts = []
    for key in keys:
        value = card[key]
        if key == "classes" and isinstance(value, list):
            facts.append(("its classes", f"{len(value)}"))
        elif key == "metrics" and isinstance(value, dict):
            facts += [(_title(key), f"{name}: {_metric(metric)}") for name, metric in value.items()]
        elif key == "training" and isinstance(value, dict):
            rest = {name: part for name, part in value.items() if name not in ("recipe", "untrained")}
            how = "none; random weights, " if value.get("untrained") is True else ""
            facts.append(("training" if how else _title(key), f"{how}{_written(rest)}"))
            if "recipe" in value:
                facts.append(("recipe", _written(value["recipe"])))
        else:
            facts.append(("model" if key == "name" and not of_weights else _title(key), _written(value)))
    return [
        (name, text if len(text) <= MOST else f"{text[:MOST]}… (all in results.json)") for name, text in facts if text
    ]


def _title(key: str) -> str:
    return TITLES.get(key, key)


def _metric(metric: Any) -> str:
    """{"value": 0.9191, "n": 10000, …} → 91.91 % (n 10,000, …); an accuracy is a fraction."""
    if not isinstance(metric, dict) or not isinstance(metric.get("value"), float):
        return _written(metric)
    rest = {key: f"{part:,}" if isinstance(part, int) else part for key, part in metric.items() if key != "value"}
    return f"{100 * metric['value']:.2f} %" + (f" ({_written(rest)})" if rest else "")


def _written(value: Any) -> str:
    """Nested JSON without its brackets where that stays clear: `size 32, fit stretch, mean (0.49, 0.48, 0.45)`."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({_written(part)})" if isinstance(part, dict) else f"{key} {_written(part)}"
            for key, part in value.items()
        )
    if isinstance(value, list):
        return "(" + ", ".join(_written(part) for part in value) + ")"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return str(value)


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" if float(f"{value:g}") == value else repr(value) for value in values)
