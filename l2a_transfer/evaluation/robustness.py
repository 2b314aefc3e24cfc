"""How robust networks are: accuracy under attack with its interval, and paired tests between networks.

Nothing is fitted or chosen: every image is attacked and classified once per setting. The attacks are white-box: they
know the true classes and use the attacked network itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import unknown_name
from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.groups import TRAINED, UNTRAINED
from l2a_transfer.evaluation.paired import paired_test
from l2a_transfer.evaluation.robustness_results import (
    RobustnessComparison,
    RobustnessConfig,
    RobustnessResults,
    RobustnessRow,
)
from l2a_transfer.evaluation.tested import OpenNetwork, SharedImages, class_numbers, open_networks, run_facts
from l2a_transfer.evaluation.verdict import THINGS, sentence
from l2a_transfer.explain.checks.attacks import ATTACKS, FGSM, NOISE, PGD
from l2a_transfer.explain.checks.robustness import CLEAN, Attacked, Setting, under_attack
from l2a_transfer.text import terminal
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card


def evaluate_robustness(
    models: Sequence[str | Path | tuple[Network, Card]],
    source: ImageSource,
    config: RobustnessConfig | None = None,
    *,
    progress: bool = False,
) -> RobustnessResults:
    """Attack networks, and compare them on the same images.

    Parameters
    ----------
    models : sequence of str, Path or (Network, Card)
        Names accepted by `load_model`, or its return values.
    source : ImageSource
        The images, each with a class that every network knows. They are attacked after each network's resizing.
    config : RobustnessConfig, optional
        The settings; all defaults if omitted.
    progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    RobustnessResults

    Raises
    ------
    ArgumentError, UnknownNameError, WeightsError, DataError, BackendError, DeviceError
        For unusable models, classes or settings; all are checked before anything is computed.
    """
    from l2a_transfer.devices import choose_device

    config = config or RobustnessConfig()
    device = choose_device(config.device)
    networks = open_networks(models, device=device, seed=config.seed)
    names = [one.name for one in networks]
    if config.reference is not None and config.reference not in names:
        raise unknown_name("reference", config.reference, names)
    truths = {one.name: class_numbers(source, one) for one in networks}
    images, found = SharedImages(source, [one.card.preprocess for one in networks]), {}
    with tqdm(total=len(networks) * len(source), unit="image", file=sys.stderr, disable=not progress) as bar:
        for one in networks:
            bar.set_postfix_str(terminal(one.name))
            found[one.name] = _attacked(one, images, truths[one.name], config, device=device, bar=bar)
    rows = tuple(_row(name, setting, right) for name, own in found.items() for setting, right in own.right.items())
    reference = config.reference or names[0]
    untrained = any(one.card.training.get("untrained") for one in networks)
    population = "these networks" if untrained and len(networks) > 2 else THINGS[UNTRAINED if untrained else TRAINED][1]
    return RobustnessResults(
        config,
        tuple(one.document() for one in networks),
        {
            "name": source.name,
            "fingerprint": source.fingerprint(),
            "splits": [source.splits[k] for k in np.unique(source.split)],
            "images": len(source),
            "classes": [source.classes[k] for k in np.unique(source.labels)],
        },
        run_facts(device),
        rows,
        _comparisons(found, reference, source.name, population, seed=config.seed),
        {name: int(own.flat.sum()) for name, own in found.items()},
        tuple(masking_warnings(rows, {name: int(own.flat.sum()) for name, own in found.items()})),
        tuple(source.ids),
        {(name, *setting): right for name, own in found.items() for setting, right in own.right.items()},
    )


def _attacked(
    one: OpenNetwork,
    images: SharedImages,
    truth: NDArray[np.int64],
    config: RobustnessConfig,
    *,
    device: Any,
    bar: Any,
) -> Attacked:
    import torch

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        preprocess = one.card.preprocess
        for images_u8, rows in images.batches(preprocess, device=device, batch_size=config.batch_size):
            yield images_u8, torch.from_numpy(truth[rows]).to(device)
            bar.update(len(images_u8))

    return under_attack(
        one.network,
        batches(),
        epsilons=config.epsilon,
        attacks=config.attack,
        preprocess=one.card.preprocess,
        config=config.attacks(),
    )


def _row(model: str, setting: Setting, right: NDArray[np.bool_]) -> RobustnessRow:
    interval = statistics.share_interval(int(right.sum()), len(right))
    return RobustnessRow(model, *setting, len(right), int(right.sum()), interval.value, (interval.low, interval.high))


def _comparisons(
    found: dict[str, Attacked], reference: str, data: str, population: str, *, seed: int
) -> tuple[RobustnessComparison, ...]:
    """Compare each other network with the reference at every setting except noise, which is a control."""
    others = [name for name in found if name != reference]
    wanted = [setting for setting in found[reference].right if setting[0] != NOISE]
    size = len(others) * len(wanted)
    rng = np.random.default_rng(seed)
    made = []
    for other in others:
        for attack, epsilon in wanted:
            a, b = found[other].right[attack, epsilon], found[reference].right[attack, epsilon]
            # One stratum: every image has the same weight, and the permutation test is McNemar's.
            test = paired_test(np.zeros(len(a), dtype=np.int32), a, b, rng=rng)
            adjusted, interval = (
                statistics.bonferroni(test.p, size),
                test.interval(1 - (1 - statistics.CONFIDENCE) / size),
            )
            verdict = sentence(
                other,
                reference,
                f"{data}, {setting_name(attack, epsilon)}",
                difference=test.difference,
                interval=interval,
                p_adjusted=adjusted,
                comparisons=size,
                population=population,
                not_defined="",
            )
            made.append(
                RobustnessComparison(
                    other,
                    reference,
                    attack,
                    epsilon,
                    test.difference,
                    interval,
                    test.p,
                    test.p_permutation,
                    adjusted,
                    int((a & ~b).sum()),
                    int((b & ~a).sum()),
                    size,
                    verdict,
                )
            )
    return tuple(made)


def setting_name(attack: str, epsilon: float) -> str:
    """A setting in words.

    Examples
    --------
    >>> setting_name("fgsm", 2.0), setting_name("clean", 0.0)
    ('FGSM at ε = 2/255', 'not attacked')
    """
    if attack == CLEAN:
        return "not attacked"
    return f"{attack.upper() if attack in ATTACKS else attack} at ε = {epsilon:g}/255"


def masking_warnings(rows: Sequence[RobustnessRow], flat: dict[str, int]) -> Iterator[str]:
    """Warnings about signs that gradients are masked, so that attacks by gradients are too weak.

    PGD, with random starts and many steps, must find at least as many errors as FGSM. An attack must find at least as
    many as noise of its size and as the same attack at a smaller ε. Every image must have a nonzero gradient.
    """
    accuracy = {(row.model, row.attack, row.epsilon): row.accuracy for row in rows}
    for (model, attack, epsilon), value in accuracy.items():
        if attack not in ATTACKS:
            continue
        at, under = f"{model} at ε = {epsilon:g}/255", f"accuracy under {attack.upper()}, {_percent(value)},"
        fgsm, noise = accuracy.get((model, FGSM, epsilon)), accuracy.get((model, NOISE, epsilon))
        if attack == PGD and fgsm is not None and value > fgsm:
            yield (
                f"{at}: {under} is above that under FGSM, {_percent(fgsm)}. Gradients may be masked, or PGD has too "
                "few steps; its figure is too high."
            )
        if noise is not None and value > noise:
            yield (
                f"{at}: {under} is above that with noise of the same size, {_percent(noise)}. Gradients may be masked; "
                "the attack does not work."
            )
        smaller = max((e for m, a, e in accuracy if (m, a) == (model, attack) and e < epsilon), default=None)
        if smaller is not None and value > (before := accuracy[model, attack, smaller]):
            yield (
                f"{at}: {under} is above that at ε = {smaller:g}/255, {_percent(before)}. The larger ε allows the same "
                "changes, so its figure is too high."
            )
    for model, count in flat.items():
        if count:
            yield (
                f"{model}: {counted(count, 'image')} with a gradient of 0 in every pixel, where an attack by gradients "
                "cannot begin."
            )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
