"""Documents written and read again by evaluations of maps and networks, such as sanity.json and localization.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.cards import l2a
from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import damaged_json, mutate_file, pick, special_file
from fuzzing.sets import put
from l2a_transfer.evaluation.faithfulness_results import read_faithfulness
from l2a_transfer.evaluation.robustness_results import read_robustness
from l2a_transfer.explain.checks.results import read_sanity
from l2a_transfer.localization.results import read_localization
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights

READERS: dict[str, Callable[[Path], Any]] = {
    "faithfulness.json": read_faithfulness,
    "localization.json": read_localization,
    "robustness.json": read_robustness,
    "sanity.json": read_sanity,
}


def seeds(folder: Path) -> None:
    """The document of each command, for a tiny network and two pictures of two classes."""
    work = folder.parent / "documents-made"
    names = [f"{label}/{k}.png" for label in ("airplane", "bird") for k in range(2)]
    for k, name in enumerate(names):
        put(work / "pictures" / name, k)
    (work / "boxes.csv").write_text("".join(f"{name},2,2,12,12\n" for name in names))
    network, card = load_model("untrained:vgg-att2-concat-pc@0.0625")
    classes = ("airplane", "bird", *map(str, range(8)))
    save_weights(network, type(card)(**{**vars(card), "classes": classes, "name": "net"}), work / "w.safetensors")
    of, data = ("--model", work / "w.safetensors"), ("--data", f"imagefolder:{work / 'pictures'}")
    commands = {
        "faithfulness": (*of, *data, "--steps", 1, "--orders", 1, "--resamples", 1000),
        "localize": (*of, *data, "--side", 16, "--masks", f"csv:{work / 'boxes.csv'}"),
        "robustness": (*of, *data, "--epsilon", 1, "--attack", "fgsm"),
        "sanity": (*of, *data, "--side", 16, "--seeds", 1, "--method", "evidence"),
    }
    for verb, arguments in commands.items():
        l2a("--quiet", verb, *arguments, "--out", work / verb)
    for name in READERS:
        (found,) = work.glob(f"*/{name}")
        (folder / name).write_bytes(found.read_bytes())


def answer(path: Path) -> str:
    return sha256(READERS[path.name](path))


def _changed(path: Path, rng: Random) -> str:
    try:
        text = damaged_json(json.loads(path.read_text()), rng)
    except RecursionError:  # nested several times
        text = "[" * 100_000
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return "json"


KIND = Kind(seeds, pick((8, _changed), (2, mutate_file), (1, special_file)), answer, share=2)
