"""Do intervals cover, and are false verdicts as rare as claimed? Simulations of the statistics of `svm-eval`.

For one split, draws and training seeds, balanced and 45:1 classes, 20 to 5,000 images: how often a verdict names a
better model if there is none, and how often a 95 % interval contains the truth. The truth is drawn again in every
repeat, since the coverage at a single one fluctuates with the few possible values of a count. Finally, random reports
check that estimate, interval, p and sentence agree.

    python benchmarks/statistics_check.py --out benchmarks/results/statistics-check.json
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from provenance import provenance
from scipy.special import ndtr

from l2a_transfer.evaluation import statistics
from l2a_transfer.evaluation.compare import Answers, compare
from l2a_transfer.evaluation.groups import Source
from l2a_transfer.evaluation.paired import VALUES, outcomes_of, permutation_p
from l2a_transfer.evaluation.score import Outcomes

ALPHA = 0.05
SIZES = (20, 50, 200, 1000, 5000)
RIGHT_OR_WRONG = np.array([1.0, 0.0])
Array = NDArray[np.float64]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--repeats", type=click.IntRange(min=10), default=2000, show_default=True, help="Of each scenario.")
@click.option("--cases", type=click.IntRange(min=10), default=10_000, show_default=True, help="Random verdicts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
def main(out: Path, repeats: int, cases: int, seed: int) -> None:
    started = time.process_time()
    found = check(repeats=repeats, cases=cases, seed=seed)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "false verdicts under a true null hypothesis and coverage of 95 % intervals, by simulation",
        **provenance(
            f"python benchmarks/statistics_check.py --out {out.as_posix()} --repeats {repeats} --cases {cases}"
        ),
        "repeats": repeats,
        "cpu_seconds": round(time.process_time() - started, 1),
        **found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [f' "{key}": {_lines(value)}' for key, value in document.items()]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(json.dumps(found["summary"], indent=1))


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"


def check(*, repeats: int, cases: int, seed: int) -> dict[str, Any]:
    """All scenarios, and the extreme results among them."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for name, run in (("rows", rows), ("one_split", one_split), ("draws", draws), ("seeds", seeds)):
        parts[name] = list(run(repeats, np.random.default_rng([seed, len(parts)])))
    verdicts = agreement(cases, np.random.default_rng([seed, 9]))
    every = [line for part in parts.values() for line in part]
    false = [line for line in every if "false_verdicts" in line]
    covered = [line for line in every if "coverage" in line]
    ample = [line["coverage"] for line in covered if line["fewest_a_class"] >= 10]
    summary = {
        "most_false_verdicts": max(line["false_verdicts"] for line in false),
        "allowed_with_monte_carlo_error": limit(repeats),
        "scenarios_above_it": sum(line["false_verdicts"] > limit(line.get("repeats", repeats)) for line in false),
        "least_coverage": min(line["coverage"] for line in covered),
        "least_coverage_from_10_images_a_class": min(ample),
        "most_coverage_from_10_images_a_class": max(ample),
        **verdicts,
    }
    return {"summary": summary, **parts}


def limit(repeats: int) -> float:
    """A rate of 5 % plus three standard errors of the simulation."""
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / repeats)


def class_sizes(kind: str, images: int, classes: int, *, least: int = 1) -> NDArray[np.int64]:
    """Balanced, or decreasing geometrically from the largest class to one 45 times smaller."""
    shares = np.ones(classes) if kind == "balanced" else np.geomspace(45, 1, classes)
    return np.maximum(least, np.round(images * shares / shares.sum())).astype(np.int64)


def scenarios() -> Iterator[tuple[str, int, int]]:
    for kind in ("balanced", "45:1"):
        for images in SIZES:
            for classes in (2, 10):
                yield kind, images, classes


def rows(repeats: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Accuracy and mean class accuracy of one model on one split; class accuracies arbitrary, equal, or near 1."""
    truths: dict[str, Callable[[int], Array]] = {
        "anywhere": lambda K: rng.uniform(0, 1, (repeats, K)),
        "alike": lambda K: np.repeat(rng.uniform(0.02, 0.98, (repeats, 1)), K, axis=1),
        "near 1": lambda K: rng.beta(9, 0.6, (repeats, K)),
        "near 0": lambda K: rng.beta(0.6, 9, (repeats, K)),
    }
    for kind, images, classes in scenarios():
        sizes = class_sizes(kind, images, classes)
        for name, draw in truths.items():
            truth = draw(classes)
            right = rng.binomial(sizes, truth)
            low, high = Outcomes(np.stack([right, sizes - right], axis=2).astype(float), RIGHT_OR_WRONG).interval(0.95)
            inside = (low <= truth.mean(axis=1)) & (truth.mean(axis=1) <= high)
            # Accuracy: which class a test image has is random too.
            share = truth @ (sizes / sizes.sum())
            hits = rng.binomial(sizes.sum(), share)
            counts = np.stack([hits, sizes.sum() - hits], axis=1)[:, None].astype(float)
            low, high = Outcomes(counts, RIGHT_OR_WRONG).interval(0.95)
            place = {"classes": kind, "n": int(sizes.sum()), "K": classes, "fewest_a_class": int(sizes.min())}
            yield {"what": "mean class accuracy", **place, "truth": name, "coverage": float(inside.mean())}
            inside = (low <= share) & (share <= high)
            yield {
                "what": "accuracy",
                **place,
                "fewest_a_class": int(sizes.sum()),
                "truth": name,
                "coverage": float(inside.mean()),
            }


def one_split(repeats: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Two models on one split. Null hypotheses: exchangeable; and class differences that cancel only on average."""
    for kind, images, classes in scenarios():
        sizes = class_sizes(kind, images, classes)
        place = {"classes": kind, "n": int(sizes.sum()), "K": classes, "fewest_a_class": int(sizes.min())}
        for truth in ("exchangeable", "cancelling", "cancelling, large", "different"):
            disagree = np.repeat(rng.uniform(0.02, 0.6, (repeats, 1)), classes, axis=1)
            difference = _differences(truth, disagree, rng)
            shares = np.stack([(disagree + difference) / 2, (disagree - difference) / 2, 1 - disagree], axis=2)
            counts = rng.multinomial(sizes, shares.clip(0, 1)).astype(float)  # (R, K, 3)
            outcomes = Outcomes(counts, VALUES)
            rejected = 2 * ndtr(-np.abs(outcomes.statistic(0.0))) < ALPHA
            for k in np.flatnonzero(rejected):  # p is the larger of the two
                only_a, only_b = counts[k, :, 0].astype(np.int64), counts[k, :, 1].astype(np.int64)
                rejected[k] = permutation_p(only_a, only_b, sizes, rng=rng) < ALPHA
            low, high = outcomes.interval(1 - ALPHA)
            low, high = np.where(rejected, low, np.minimum(low, 0)), np.where(rejected, high, np.maximum(high, 0))
            mean = difference.mean(axis=1)
            line = {
                "what": "difference, one split",
                **place,
                "truth": truth,
                "coverage": float(((low <= mean + 1e-12) & (mean - 1e-12 <= high)).mean()),
            }
            yield line | ({} if truth == "different" else {"false_verdicts": float(rejected.mean())})


def _differences(truth: str, disagree: Array, rng: np.random.Generator) -> Array:
    """Class differences (R, K), at most as large as the rates of disagreement."""
    if truth == "exchangeable":
        return np.zeros_like(disagree)
    if truth == "different":
        return rng.uniform(-1, 1, (len(disagree), 1)) * disagree
    if truth == "cancelling":
        made = rng.uniform(-1, 1, disagree.shape)
    else:
        made = np.where(np.arange(disagree.shape[1]) % 2 == 0, 1.0, -1.0)[None].repeat(len(disagree), axis=0)
    made = made - made.mean(axis=1, keepdims=True)
    return 0.9 * disagree * made / np.abs(made).max(axis=1, keepdims=True)


def draws(repeats: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Nearest class means on features of two equally good models, with 70 % of each class for fitting, drawn
    repeatedly."""
    fewer = max(10, repeats // 4)
    for kind in ("balanced", "45:1"):
        for images in (20, 200, 1000, 5000):
            for number in (3, 10):
                sizes = class_sizes(kind, images, 2, least=4)
                shared = float(_tested(sizes).sum() / sizes.sum())
                found = [_drawn(sizes, number, rng) for _ in range(fewer)]
                truth = float(np.mean([values for values, _, _ in found]))
                false = undefined = inside = 0
                for values, counts, different in found:
                    one = statistics.pooled(counts[0], RIGHT_OR_WRONG, different, draws=number, shared=shared)
                    own = statistics.interval_over_draws(values[0].tolist(), one, shared=shared)
                    inside += own.low <= truth <= own.high
                    both = statistics.pooled(counts[1], VALUES, different, draws=number, shared=shared)
                    test = statistics.over_draws((values[0] - values[1]).tolist(), both, shared=shared)
                    undefined += test is None
                    false += test is not None and test.p < ALPHA
                line = {
                    "classes": kind,
                    "n": int(sizes.sum()),
                    "K": 2,
                    "draws": number,
                    "fewest_a_class": int(_tested(sizes).min()),
                    "repeats": fewer,
                }
                yield {
                    "what": "difference, draws",
                    **line,
                    "truth": "exchangeable",
                    "false_verdicts": false / fewer,
                    "not_defined": undefined / fewer,
                }
                yield {"what": "mean class accuracy, draws", **line, "coverage": inside / fewer}


def _tested(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Test images of each class per draw."""
    return np.maximum(1, np.round(0.3 * sizes)).astype(np.int64)


def _drawn(
    sizes: NDArray[np.int64], number: int, rng: np.random.Generator
) -> tuple[Array, tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """For one set of images: mean class accuracy (2 models, J draws); the counts over all draws, (K, 2) of the first
    model and (K, 3) of both; and the number of distinct test images of each class (K,)."""
    K = len(sizes)
    labels = np.repeat(np.arange(K), sizes)
    features = rng.normal(size=(2, len(labels), 4)) + 0.5 * labels[:, None]  # (2, N, 4)
    values, ever = np.empty((2, number)), np.zeros(len(labels), dtype=bool)
    one, both = np.zeros((K, 2), dtype=np.int64), np.zeros((K, 3), dtype=np.int64)
    for draw in range(number):
        test = np.zeros(len(labels), dtype=bool)
        for label, count in enumerate(_tested(sizes)):
            test[rng.choice(np.flatnonzero(labels == label), count, replace=False)] = True
        ever |= test
        truth, right = labels[test], []
        for model in features:
            means = np.stack([model[~test & (labels == k)].mean(axis=0) for k in range(K)])
            far = ((model[test][:, None] - means) ** 2).sum(axis=2)  # (n, K)
            right.append(far.argmin(axis=1) == truth)
        values[:, draw] = [np.mean([own[truth == k].mean() for k in range(K)]) for own in right]
        hits = np.bincount(truth[right[0]], minlength=K)
        one += np.stack([hits, np.bincount(truth, minlength=K) - hits], axis=1)
        both += outcomes_of(truth.astype(np.int32), right[0], right[1], K)
    return values, (one, both), np.bincount(labels[ever], minlength=K)


def seeds(repeats: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Two architectures that are equal on average over seeds and images. Each is better on some images, and seeds
    differ either little (test images dominate) or a lot."""
    for kind, images, classes in scenarios():
        if classes == 2:
            continue
        sizes = class_sizes(kind, images, classes)
        truth = np.repeat(np.arange(classes), sizes).astype(np.int32)
        for number in (3, 5):
            for spread in (0.05, 0.3):
                false = undefined = 0
                for _ in range(max(10, repeats // 2)):
                    right = _seeds_right(truth, number, spread, rng)  # (2, seeds, N)
                    weight = 1 / (sizes[truth] * classes)
                    means = right @ weight
                    shares = right.mean(axis=1)
                    error, freedom = statistics.images_error(truth, shares[0] - shares[1])
                    test = statistics.over_seeds(means[0].tolist(), means[1].tolist(), images=error, freedom=freedom)
                    undefined += test is None
                    false += test is not None and test.p < ALPHA
                count = max(10, repeats // 2)
                yield {
                    "what": "difference, seeds",
                    "classes": kind,
                    "n": len(truth),
                    "K": classes,
                    "seeds": number,
                    "spread_over_seeds": spread,
                    "fewest_a_class": int(sizes.min()),
                    "repeats": count,
                    "false_verdicts": false / count,
                    "not_defined": undefined / count,
                }


def _seeds_right(truth: NDArray[np.int32], number: int, spread: float, rng: np.random.Generator) -> Array:
    """(2, seeds, N): an image is right depending on the sum of its ease and the effects of the architecture and of the
    seed."""
    N = len(truth)
    latent = 0.7 + rng.normal(size=N) + 0.5 * rng.normal(size=(2, 1, N)) + 0.5 * rng.normal(size=(2, number, N))
    return (latent + spread * rng.normal(size=(2, number, 1)) > 0).astype(np.float64)


def agreement(cases: int, rng: np.random.Generator) -> dict[str, int]:
    """Random reports: the sentence names the model favoured by the estimate if and only if the interval excludes 0 and
    the adjusted p is below 0.05."""
    seen = significant = signs = intervals = 0
    while seen < cases:
        classes, models = int(rng.integers(2, 11)), int(rng.integers(2, 4))
        sizes = class_sizes("45:1" if rng.random() < 0.5 else "balanced", int(np.exp(rng.uniform(3, 8.5))), classes)
        truth = np.repeat(np.arange(classes), sizes).astype(np.int32)
        base = rng.uniform(0, 1, classes)
        answers = []
        for k in range(models):
            rates = (base + rng.normal(scale=0.15, size=classes)).clip(0, 1)
            right = rng.random(len(truth)) < rates[truth]
            mean = float((right / (sizes[truth] * classes)).sum())
            source = Source(f"model {k}", "simulated", {"name": f"model {k}"}, f"{k:064x}")
            answers.append(Answers(source, "official", None, "", ("",), (truth,), (right,), mean, 0.0, sizes))
        for found in compare(answers, seed=0):
            assert found.ci95_simultaneous is not None
            assert found.p_adjusted is not None
            low, high = found.ci95_simultaneous
            said = "is better than" in found.verdict
            seen, significant = seen + 1, significant + said
            better = found.a if found.difference > 0 else found.b
            signs += said and not found.verdict.startswith(f"{better} is better than ")
            intervals += said != (low > 0 or high < 0) or said != (found.p_adjusted < ALPHA)
    return {
        "verdicts": seen,
        "significant_verdicts": significant,
        "verdicts_of_the_wrong_sign": signs,
        "verdicts_at_odds_with_their_interval_or_p": intervals,
    }


if __name__ == "__main__":
    main()
