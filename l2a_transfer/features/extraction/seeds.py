"""The output folder of `train --seeds` as a model: the weights and the feature file of each training seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from l2a_transfer.documents import ANYTHING, Kind, integer, list_of, parse, table, text
from l2a_transfer.errors import OutputExistsError, WeightsError
from l2a_transfer.inputs import read_input
from l2a_transfer.models.weights import read_card
from l2a_transfer.text import terminal

SUMMARY, SCHEMA = "seeds.json", "l2a-seeds/1"
MAX_BYTES = 16 << 20
CONTENT = table(
    {
        "schema": Kind(repr(SCHEMA), lambda value: value == SCHEMA),
        "name": text(),
        "runs": list_of(table({"seed": integer(0)}, others=ANYTHING)),
    },
    others=ANYTHING,
)
FINISH = "train with the same `seeds` again, which completes the missing ones"


def seed_weights(model: str | Path) -> dict[int, Path]:
    """Training seed → its weights, all of which are read and checked.

    Parameters
    ----------
    model : str or Path
        A folder written by `train_seeds`. For anything else, the result is empty.

    Returns
    -------
    dict of int to Path

    Raises
    ------
    WeightsError
        If the training is not finished, `seeds.json` is corrupt, or weights are missing or have another seed.
    """
    folder = Path(model).expanduser()
    summary = folder / SUMMARY
    if not folder.is_dir() or not (summary.exists() or any(folder.glob("seed-*/"))):
        return {}
    try:
        document = parse(read_input(summary, MAX_BYTES))
        CONTENT.check(document, "seeds")
    except FileNotFoundError as error:
        raise WeightsError(f"{folder}: has no {SUMMARY}, so not all of its seeds are trained", FINISH) from error
    except OSError as error:
        raise WeightsError(f"{summary}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise WeightsError(f"{summary}: not a summary of training seeds: {error}", FINISH) from error
    name, seeds = document["name"], [run["seed"] for run in document["runs"]]
    if not seeds or len(set(seeds)) < len(seeds) or Path(name).name != name:
        raise WeightsError(f"{summary}: not a summary of training seeds", FINISH)
    found = {}
    for seed in seeds:
        path = folder / f"seed-{seed}" / f"{name}.safetensors"
        if not path.is_file():
            raise WeightsError(f"{path}: no such file, but {summary} lists the seed {seed}", FINISH)
        own = read_card(path).training.get("seed")
        if own != seed:
            raise WeightsError(f"{path}: trained with the seed {terminal(str(own))}, not {seed}")
        found[seed] = path
    return found


def seed_outputs(out: Path, weights: Mapping[int, Path], *, may_exist: bool) -> dict[int, Path]:
    """Training seed → its feature file: `features.h5` → `features-seed-0.h5`, ….

    Raises: OutputExistsError if one of them exists and `may_exist` is False.
    """
    found = {seed: out.with_name(f"{out.stem}-seed-{seed}{out.suffix}") for seed in weights}
    for path in found.values() if not may_exist else ():
        if path.exists():
            raise OutputExistsError(f"{path}: exists", "`resume=True` verifies it, `overwrite=True` replaces it")
    return found
