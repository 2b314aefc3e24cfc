"""The card and the name of a run's weights."""

from __future__ import annotations

import json
import platform
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from l2a_transfer.devices import device_name
from l2a_transfer.features.extraction.partners import SEED
from l2a_transfer.models.config import ModelConfig, attention_name
from l2a_transfer.models.weights import Card, count_parameters
from l2a_transfer.training.data import TEST_SPLITS
from l2a_transfer.training.groups import TESTED_AGAIN_WITH, TESTED_WITH, TRAINED_WITH
from l2a_transfer.training.recipe import TrainConfig, scaled_rate

if TYPE_CHECKING:
    from l2a_transfer.training.trainer import Trainer


def training_card(trainer: Trainer, name: str) -> Card:
    """The card of the network in its current state, without metrics."""
    test = trainer.data.test_name
    training: dict[str, Any] = {
        "data": trainer.data.name,
        "split": "train" if test in (*TEST_SPLITS, "train") else f"train without {test}",
        "n": len(trainer.data.train),
        "data_sha256": trainer.data_sha256,
        "recipe": trainer.recipe.to_json(),
        "seed": trainer.seed,
        "device": device_name(trainer.device),
        "processes": trainer.placement.process.size,
        "precision": trainer.precision,
        "compile": trainer.placement.compile,
        "sync_batch_norm": trainer.placement.sync_batch_norm,
        "seconds": round(trainer.seconds, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": trainer.commit,
    }
    if (scaled := scaled_rate(trainer.recipe)) is not None:
        training["lr"] = f"{trainer.recipe.lr:g} = {scaled}, scaled with the batch size"
    if trainer.data.permuted_labels is not None:
        training["permuted_labels"] = trainer.data.permuted_labels
    if trainer.config.partners:
        training["partners"] = {
            "each": trainer.config.partners,
            "train": TRAINED_WITH,
            "test": TESTED_WITH,
            "test_set_partners": TESTED_AGAIN_WITH,
            "seed": SEED,
        }
    if trainer.start:
        training["init_from"] = {
            "name": trainer.start.name,
            "sha256": trainer.start.sha256,
            "not_loaded": list(trainer.start.kept_random),
        }
    return Card(
        name=name,
        config=trainer.config,
        preprocess=trainer.preprocess,
        classes=trainer.data.classes,
        parameters=count_parameters(trainer.result),
        training=training,
    )


def part_of_fingerprint(card: Card) -> dict[str, Any]:
    """The part of a run's fingerprint that the card of its weights contains, with the same keys."""
    of, start = card.training, card.training.get("init_from")
    recipe: Any = of.get("recipe")
    with suppress(TypeError, ValueError, LookupError, AttributeError):
        recipe = TrainConfig.from_json(recipe).to_json()  # adds fields that are newer than the card
    kept = {
        "model": json.dumps(card.config.to_json(), sort_keys=True),
        "preprocess": json.dumps(card.preprocess.to_json(), sort_keys=True),
        "recipe": json.dumps(recipe, sort_keys=True),
        "data": of.get("data_sha256"),
        "init_from": start.get("sha256") if isinstance(start, dict) else "",
    }
    before = {"seed": None, "precision": None, "processes": 1, "sync_batch_norm": False, "compile": False}
    return kept | {key: of.get(key, value) for key, value in before.items()}


def weights_name(config: ModelConfig, data: str) -> str:
    """`ARCH.TAG`, such as vgg-att2-concat-pc.cifar10-w025 or vgg-att2-concat-pc-hard.cifar10-w025."""
    name = attention_name(config.architecture, config.normalizer, config.selection)
    return f"{name}.{file_part(data)}-w{round(config.width * 100):03d}"


def file_part(data: str) -> str:
    """A data set's name as part of a file name, such as `birds` for `imagefolder:birds`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", data.rpartition(":")[2]).strip("-") or "data"
