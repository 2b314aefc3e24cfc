"""The origin of every number in a report: the run, the feature files, the models' cards, and the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from l2a_transfer.evaluation.groups import TRAINED, Source
from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.evaluation.protocols import PROTOCOLS
from l2a_transfer.evaluation.results import EvalResults
from l2a_transfer.text import shell_line
from l2a_transfer.wording import counted

FIRST = ("name", "weights_sha256", "config", "training", "metrics", "preprocess", "parameters")
TITLES = {
    "name": "weights",
    "weights_sha256": "SHA-256 of the weights",
    "config": "network",
    "metrics": "measured",
    "training": "trained",
    "imported": "imported features",
}
MOST = 700
"""Largest number of letters of a fact; results.json has longer ones in full."""


def command(results: EvalResults) -> str:
    """The `svm-eval` command of this report."""
    config = results.config
    # A name that begins with a dash would be an option, and ~ a home folder.
    files = [source.file for source in origins(results)]
    if results.domains:  # a model may have one file per domain
        files = list(dict.fromkeys(name for joined in files for name in joined.split(" + ")))
    arguments = [f"./{name}" if name[0] in "-~" else name for name in files]
    arguments += ["--out", "repeated", "--protocol", config.protocol, "--c-grid", _numbers(config.c_grid)]
    arguments += ["--decades", str(config.decades), "--folds", str(config.folds)]
    if config.draws is not None:
        arguments += ["--draws", str(config.draws)]
    if PROTOCOLS[config.protocol].has_shots:
        arguments += ["--shots", _numbers(config.shots)]
    for flag, names in (("--source", config.source), ("--target", config.target)):
        arguments += [part for name in names for part in (flag, name)]
    if config.class_map:
        arguments += ["--class-map", "class-map.csv"]
    if config.ablate:
        arguments += ["--ablate", ",".join(config.ablate)]
    if config.widths:
        arguments += ["--widths", _numbers(config.widths)]
    for pair in config.compare:
        arguments += ["--compare", pair if isinstance(pair, str) else ",".join(pair)]
    if config.reference is not None:
        arguments += ["--reference", config.reference]
    if config.probes != (SVM,):
        arguments += ["--probe", ",".join(config.probes)]
    if config.logme:
        arguments += ["--logme"]
    arguments += ["--solver", config.solver, "--seed", str(config.seed)]
    if config.device != "auto":
        arguments += ["--device", config.device]
    if config.max_memory is not None:
        arguments += ["--max-memory", f"{config.max_memory / 2**20:g}M"]
    return shell_line(["l2a-transfer", "svm-eval", *arguments])


def run(results: EvalResults) -> list[tuple[str, str]]:
    """Facts about the run as (name, value): versions, and settings that the command line does not show."""
    config = results.config
    facts = [("versions", ", ".join(f"{name} {version}" for name, version in results.versions.items()))]
    facts.append(("seed", f"{config.seed}, for splits, folds, PCA and random permutations"))
    facts.append(("choice of C", choice(results)))
    if config.class_map:
        facts.append(("class map", ", ".join(f"{one} → {other}" for one, other in dict(config.class_map).items())))
    if config.tol is not None or config.max_iter is not None:
        facts.append(("stopping", f"tol {config.tol or 'by default'}, max_iter {config.max_iter or 'by default'}"))
    return facts


def choice(results: EvalResults) -> str:
    """How C was chosen."""
    config = results.config
    if len(config.c_grid) == 1:
        return f"C = {config.c_grid[0]:g}, fixed"
    grid = ", ".join(f"{C:g}" for C in config.c_grid)
    folds = f"min({config.folds}, k)" if PROTOCOLS[config.protocol].has_shots else str(config.folds)
    grown = (
        f"; the grid is extended by at most {counted(config.decades, 'decade')} if the best C is at its edge and "
        "better than its neighbour"
        if config.decades
        else ""
    )
    how = f"{folds}-fold stratified cross-validation"
    if any(split.by_domain for split in results.splits):
        how = f"holding out one source domain at a time (within a domain by {how})"
    return f"C chosen from {grid} by {how} on the training rows only; ties go to the smallest C{grown}"


class Origin(NamedTuple):
    """A feature file as described in the results, and the indices of its rows."""

    file: str
    sha256: str
    label: str
    data: str
    rows: tuple[int, ...]


def origins(results: EvalResults) -> list[Origin]:
    """Every feature file once, in the order of the rows."""
    made: dict[str, list[int]] = {}
    for k, row in enumerate(results.rows):
        made.setdefault(row.file_sha256, []).append(k)
    first = {digest: results.rows[rows[0]] for digest, rows in made.items()}
    found = []
    for digest, row in first.items():
        data = list(dict.fromkeys(results.rows[k].data for k in made[digest]))  # can be several over domains
        found.append(
            Origin(
                row.file, digest, row.label, data[0] if len(data) == 1 else f"{len(data)} places", tuple(made[digest])
            )
        )
    return found


def cards(results: EvalResults) -> list[tuple[dict[str, Any], list[Origin]]]:
    """Every card once, in the order of the rows, with the feature files of its model."""
    found: dict[str, tuple[dict[str, Any], list[Origin]]] = {}
    for source in origins(results):
        card = results.cards.get(source.sha256, {})
        found.setdefault(json.dumps(card, sort_keys=True), (card, []))[1].append(source)
    return list(found.values())


def title(sources: Sequence[Origin]) -> str:
    """The names of a card's models in the report."""
    return ", ".join(dict.fromkeys(source.label for source in sources))


def card_facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """A model's card as (name, value), except for the class names. Nested values are written out."""
    of_weights = Source("", "", card, "").kind == TRAINED
    keys = [key for key in FIRST if key in card] + [key for key in card if key not in FIRST and key != "schema"]
    facts = []
    for key in keys:
        value = card[key]
        if key == "classes" and isinstance(value, list):
            facts.append(("classes trained on", f"{len(value)}"))
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
    """Nested JSON without brackets where that is clear: `size 32, fit stretch, mean (0.49, 0.48, 0.45)`."""
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
