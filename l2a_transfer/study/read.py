"""Reads study.toml. Every name, number and option is checked before any step runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from l2a_transfer.data.registry import find_dataset
from l2a_transfer.devices import DEVICES
from l2a_transfer.errors import StudyError, TrainingError
from l2a_transfer.evaluation.probes.registry import PROBES
from l2a_transfer.evaluation.protocols import PROTOCOLS
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.features.backends.interface import TAPS
from l2a_transfer.models.config import (
    ARCHITECTURES,
    DEFAULT_NORMALIZER,
    DEFAULT_SELECTION,
    DEFAULT_WIDTH,
    GLOBAL_BRANCH,
    ModelConfig,
)
from l2a_transfer.models.normalizers import find_normalizer
from l2a_transfer.study.config import (
    COMBINE,
    GUESS_S,
    METRICS,
    Bound,
    Comparison,
    Hypothesis,
    Images,
    Network,
    Protocol,
    Study,
    Target,
    as_option,
    models_of,
)
from l2a_transfer.study.table import TomlTable
from l2a_transfer.study.toml import read_toml
from l2a_transfer.training.recipe import find_recipe
from l2a_transfer.training.sampling import check_sampling

OF_PROTOCOL = ("draws", "folds", "decades", "seed")
Options = tuple[tuple[str, str], ...]


def read_study(path: Path) -> Study:
    """Read a study from a TOML file.

    Raises
    ------
    StudyError
        If anything in the file is wrong; the message names the file, the key and the nearest valid name.
    """
    top = TomlTable(path, "", read_toml(path))
    name = top.text("name")
    device = top.named("device", "device", DEVICES, "auto")
    threads = top.whole("threads", 1, least=1)
    data_dir = top.maybe_text("data_dir")
    seeds = top.wholes("seeds", [0])
    guess = top.table("guess")
    guess_s = {kind: guess.number(kind, default) for kind, default in GUESS_S.items()}
    guess.end()
    sources = {name: _images(name, table, data_dir, target=False) for name, table in top.children("sources")}
    protocols = {name: Protocol(name, EvalConfig(protocol=name)) for name in PROTOCOLS}
    protocols |= {name: _protocol(name, table) for name, table in top.children("protocols")}
    targets = {name: _target(name, table, data_dir, protocols, sources) for name, table in top.children("targets")}
    networks = {
        name: _network(name, table, seeds=seeds, sources=sources, targets=targets)
        for name, table in top.children("networks")
    }
    groups = top.table("summaries")
    summaries = {key: groups.all_named(key, "target", targets) for key in list(groups.keys())}
    known = _Known(networks, targets, protocols, summaries)
    comparisons = tuple(_comparison(table, known) for table in top.tables("comparisons"))
    hypotheses = tuple(
        _hypothesis(table, [comparison.name for comparison in comparisons]) for table in top.tables("hypotheses")
    )
    top.end()
    for key, found in (("networks", networks), ("targets", targets)):
        if not found:
            raise StudyError(f"{path}: needs a table [{key}.NAME]")
    for key, names in (("comparisons", [c.name for c in comparisons]), ("hypotheses", [h.name for h in hypotheses])):
        if twice := [name for name in names if names.count(name) > 1]:
            raise StudyError(f"{path}: {key}: duplicate name {twice[0]!r}")
    study = Study(
        name=name,
        file=path,
        device=device,
        threads=threads,
        sources=sources,
        targets=targets,
        protocols=protocols,
        networks=networks,
        comparisons=comparisons,
        hypotheses=hypotheses,
        guess_s=guess_s,
    )
    _check_evaluated(study)
    return study


def _check_evaluated(study: Study) -> None:
    """Raises: StudyError for a comparison on a target that one of its networks is not evaluated on."""
    for k, comparison in enumerate(study.comparisons):
        for model in comparison.weights:
            there = {target.name for target, _ in study.places(model)}
            if missing := [name for name in comparison.targets if name not in there]:
                raise StudyError(
                    f"{study.file}: comparisons[{k}].targets names {missing[0]!r}, on which {model} is not evaluated"
                )


def _images(name: str, table: TomlTable, data_dir: str | None, *, target: bool) -> Images:
    """A data set and its options. Checks for unknown keys of a source, but not of a target, which has more keys."""
    data = table.text("data", name)
    kind, colon, rest = data.partition(":")
    if not (colon and kind in ("imagefolder", "npz", "wds", "parquet") and rest):
        table.within("data", lambda: find_dataset(data))
    where = table.maybe_text("data_dir") or data_dir
    options = [] if where is None or colon else [("data-dir", where)]
    options += [(key.replace("_", "-"), table.text(key)) for key in ("split_from",) if table.has(key)]
    options += [("verify-source", "")] if table.flag("verify_source") else []
    for key in ("split", "limit") if target else ("holdout",):
        if table.has(key):
            options.append((key, table.text(key) if key == "split" else str(table.whole(key, least=1))))
    if not target:
        table.end()
    return Images(name, data, tuple(options))


def _target(
    name: str, table: TomlTable, data_dir: str | None, protocols: dict[str, Protocol], sources: dict[str, Images]
) -> Target:
    images = _images(name, table, data_dir, target=True)
    chosen = table.all_named("protocols", "protocol", protocols, ["auto"])
    own = table.all_named("sources", "source", sources, [])
    table.end()
    return Target(images, chosen, own)


def _protocol(name: str, table: TomlTable) -> Protocol:
    kind = table.named("protocol", "protocol", PROTOCOLS, name if name in PROTOCOLS else None)
    settings: dict[str, Any] = {}
    for key in OF_PROTOCOL:
        if table.has(key):
            settings[key] = table.whole(key)
    if table.has("shots"):
        settings["shots"] = table.wholes("shots")
    if table.has("c_grid"):
        settings["c_grid"] = table.numbers("c_grid")
    if table.has("probes"):
        settings["probes"] = table.all_named("probes", "probe", PROBES)
    if table.has("solver"):
        settings["solver"] = table.text("solver")
    table.end()
    config = table.within("protocol", lambda: EvalConfig(protocol=kind, **settings))
    flags = {"probes": "probe"}
    options = [(flags.get(key, key.replace("_", "-")), as_option(value)) for key, value in settings.items()]
    return Protocol(name, config, tuple(options))


def _network(
    name: str,
    table: TomlTable,
    *,
    seeds: tuple[int, ...],
    sources: dict[str, Images],
    targets: dict[str, Target],
) -> Network:
    weights = table.texts("weights", [], or_one=True)
    trained = table.has("architecture")
    architecture = table.named("architecture", "architecture", ARCHITECTURES) if trained else None
    if not trained and not weights:
        raise StudyError(f"{table.file}: {table.where} needs 'architecture' to be trained, or existing 'weights'")
    given = table.has("seeds")
    own_seeds = table.wholes("seeds", seeds)
    own_sources = table.all_named("sources", "source", sources, list(sources) if trained else [])
    if trained and not own_sources:
        raise StudyError(f"{table.file}: {table.where} needs training, but the file has no [sources.NAME]")
    width, normalizer, selection = DEFAULT_WIDTH, DEFAULT_NORMALIZER, DEFAULT_SELECTION
    train: Options = ()
    if architecture is not None:
        width = table.number("width", DEFAULT_WIDTH)
        text = table.text("normalizer", DEFAULT_NORMALIZER)
        normalizer = table.within("normalizer", lambda: find_normalizer(text)).name
        selection = table.text("selection", DEFAULT_SELECTION)
        make = partial(ModelConfig, architecture, normalizer=normalizer, selection=selection)
        selection = table.within("selection", make).selection
        train = _training(table, partial(make, width=width), [sources[name].data for name in own_sources])
    levels = table.texts("levels", [])
    extract = [("levels", ",".join(levels))] if levels else []
    extract += [("tap", table.named("tap", "tap", TAPS))] if table.has("tap") else []
    extract += [(key, table.text(key)) for key in ("precision", "backend", "partners") if table.has(key)]
    own_targets = table.all_named("targets", "target", targets, [])
    table.end()
    return Network(
        name=name,
        architecture=architecture,
        width=width,
        normalizer=normalizer,
        train=train,
        weights=weights,
        seeds=own_seeds,
        seeds_given=given,
        sources=own_sources,
        extract=tuple(extract),
        levels=levels,
        targets=own_targets,
        selection=selection,
    )


def _training(table: TomlTable, make: Callable[..., ModelConfig], data: list[str]) -> Options:
    """The options of `train`, checked by building the network's config and the recipe from them."""
    branch = table.named("global_branch", "kind of global branch", GLOBAL_BRANCH, "auto")
    config = table.within("width", partial(make, global_branch=branch))
    recipe = table.text("recipe", "fast")
    start = table.maybe_text("init_from")
    changes = table.table("set")
    settings = [f"{key}={as_option(changes.scalar(key))}" for key in list(changes.keys())]
    for one in data:
        table.within("recipe", lambda one=one: find_recipe(recipe, one))  # type: ignore[misc]
        chosen = table.within("set", lambda one=one: find_recipe(recipe, one).with_settings(settings))  # type: ignore[misc]
        try:
            check_sampling(config, chosen)
        except TrainingError as error:
            raise table.error("set", f"is refused: {error}") from error
    options = [
        ("model", config.architecture),
        ("width", as_option(config.width)),
        ("normalizer", config.normalizer),
        ("recipe", recipe),
    ]
    options += [("selection", config.selection)] if config.selection != DEFAULT_SELECTION else []
    options += [("global-branch", branch)] if branch != "auto" else []
    options += [("init-from", start)] if start else []
    precision = table.maybe_text("train_precision")
    options += [("precision", precision)] if precision else []
    return (*options, *(("set", setting) for setting in settings))


class _Known:
    """The names that a comparison can use."""

    def __init__(
        self,
        networks: dict[str, Network],
        targets: dict[str, Target],
        protocols: dict[str, Protocol],
        summaries: dict[str, tuple[str, ...]],
    ) -> None:
        self.targets, self.protocols, self.summaries = targets, protocols, summaries
        self.models: dict[str, str] = {}
        self.several: dict[str, list[str]] = {}
        for network in networks.values():
            own = [model for model, _ in models_of(network.name, network.sources)]
            self.models |= {model: model for model in own}
            if len(own) == 1:
                self.models[network.name] = own[0]
            else:
                self.several[network.name] = own


def _comparison(table: TomlTable, known: _Known) -> Comparison:
    name = table.text("name")
    table.check_name(name)
    minuend, subtrahend = (_models(table, key, known) for key in ("minuend", "subtrahend"))
    if both := [model for model in minuend if model in subtrahend]:
        raise table.error("subtrahend", f"names {both[0]!r}, which is also in minuend")
    combine = table.named("combine", "way to combine", COMBINE, "mean")
    targets = table.all_named("targets", "target", known.targets, list(known.targets))
    shots = table.maybe_whole("shots")
    protocols = _protocols(table, known, targets, shots)
    metric = table.named("metric", "metric", METRICS, METRICS[0])
    matched = table.flag("matched")
    family = table.text("family", name)
    asked = table.all_named("summaries", "summary", known.summaries, [])
    summaries = [(key, tuple(t for t in known.summaries[key] if t in targets)) for key in asked]
    for key, own in summaries:
        if len(own) < 2:
            raise table.error("summaries", f"names {key!r}, of which the comparison has fewer than two targets")
    support, refute = (_bound(table, key) for key in ("support", "refute"))
    table.end()
    return Comparison(
        name=name,
        minuend=minuend,
        subtrahend=subtrahend,
        combine=combine,
        targets=targets,
        protocols=protocols,
        shots=shots,
        metric=metric,
        matched=matched,
        family=family,
        summaries=tuple(summaries) or (("all targets", targets),),
        support=support,
        refute=refute,
    )


def _models(table: TomlTable, key: str, known: _Known) -> tuple[str, ...]:
    names = table.texts(key, or_one=True)
    for name in names:
        if own := known.several.get(name):
            raise table.error(key, f"names {name!r}, which has several sources; write {' or '.join(own)}")
        table.check(key, "network", name, known.models)
    found = tuple(known.models[name] for name in names)
    if len(set(found)) < len(found):
        raise table.error(key, "names a network twice")
    return found


def _protocols(table: TomlTable, known: _Known, targets: tuple[str, ...], shots: int | None) -> tuple[str, ...]:
    """The protocol for each target: the requested one, or the target's first one that fits (low-shot with `shots`)."""
    asked = table.named("protocol", "protocol", known.protocols) if table.has("protocol") else None
    found = []
    for name in targets:
        own = known.targets[name].protocols
        fitting = [p for p in own if known.protocols[p].is_low_shot == (shots is not None) and asked in (None, p)]
        if not fitting:
            wanted = asked or ("low-shot" if shots is not None else "protocol other than low-shot")
            why = "" if asked is None else f", or not {'with' if shots is not None else 'without'} 'shots'"
            raise table.error("targets", f"names {name!r}, which is not evaluated by {wanted}{why}")
        if shots is not None and shots not in known.protocols[fitting[0]].config.shots:
            raise table.error("shots", f"is {shots}, which protocol {fitting[0]} does not draw")
        found.append(fitting[0])
    return tuple(found)


def _bound(table: TomlTable, key: str) -> Bound | None:
    text = table.maybe_text(key)
    if text is None:
        return None
    try:
        return Bound.parse(text)
    except ValueError as error:
        raise table.error(key, str(error)) from error


def _hypothesis(table: TomlTable, comparisons: list[str]) -> Hypothesis:
    name, says = table.text("name"), table.text("says", " ")
    support = table.all_named("support", "comparison", comparisons, or_one=True)
    refute = table.all_named("refute", "comparison", comparisons, support, or_one=True)
    table.end()
    return Hypothesis(name, says.strip(), support, refute)
