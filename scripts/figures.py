"""The headline figures, and their n, of each file in benchmarks/results; `write_figures.py` puts them in a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """The entry of one result file.

    Parameters
    ----------
    headline : callable
        Document → its main figures as text.
    n : callable or str
        What the figures were computed from, such as "5,000 images, 3 rounds".
    command : str
        The command of the measurement; by default, that of the document.
    """

    headline: Callable[[Document], str]
    n: Callable[[Document], str] | str
    command: str = ""


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def of(rows: list[Document], **wanted: Any) -> Document:
    """The first row with these values."""
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def svm_rows(document: Document) -> str:
    """Mean class accuracy of the first two rows of a report."""
    rows = document["rows"][:2]
    return ", ".join(f"`{row['model']}` {percent(row['mean_class_accuracy'])}" for row in rows)


def svm_eval(document: Document) -> str:
    """Median seconds of each tree, or that it was ended."""
    found = []
    for tree in dict.fromkeys(sample["tree"] for sample in document["samples"]):
        seconds = [sample["seconds"] for sample in document["samples"] if sample["tree"] == tree]
        said = f"over {document['limit']:.0f} s" if None in seconds else f"{statistics.median(seconds):.0f} s"
        found.append(f"{tree} {said}")
    return ", ".join(found)


def tested(document: Document) -> str:
    row = document["rows"][0]
    draws = f", {row['draws']} draws" if row["draws"] > 1 else ""
    return f"{row['n_test']:,} test images{draws}"


def best_candidates(document: Document) -> str:
    """The two most accurate candidates of a recipe search."""
    best = sorted(document["runs"], key=lambda run: -run["accuracy"])[:2]
    return "best: " + ", ".join(f"{run['candidate']} {percent(run['accuracy'])}" for run in best)


def held_out_runs(document: Document) -> str:
    return f"{len(document['runs'])} runs, {document['runs'][0]['n']:,} held-out images"


def attacked(document: Document) -> str:
    rows = [row for row in document["rows"] if row["model"] == document["models"][0]["name"]]
    clean, weak = of(rows, attack="clean"), of(rows, attack="fgsm", epsilon=1.0)
    return f"`{clean['model']}` {percent(clean['accuracy'])}, under FGSM of 1/255 {percent(weak['accuracy'])}"


def first_to_change(document: Document) -> str:
    """The last statement about the first map, and the time for all states."""
    statement = document["networks"][0]["statements"][0].split(". ")[-1].rstrip(".")
    return f"{statement}; {document['speed']['median_seconds']:.0f} s for all states"


def kills(document: Document) -> str:
    return f"all equal: {'yes' if document['all_equal'] else 'no'}"


def over_uniform(document: Document, *names: str) -> str:
    return ", ".join(f"{name} {of(document['rows'], attention=name)['over_uniform']:.2f}" for name in names)


def beside(document: Document) -> str:
    rows = {(row["case"], row["policy"]): row["share_beside"] for row in document["rows"]}
    return "; ".join(
        f"{case}: {rows[case, 'as the runtime does by itself']:.2f} of its speed on idle cores, "
        f"{rows[case, '1000 turns']:.2f} if waiting threads sleep early"
        for case in ("forward", "step")
    )


def speeds(document: Document, key: str) -> str:
    """The value of each tool for the largest number of rows."""
    most = max(sample["rows"] for sample in document["samples"])
    return ", ".join(f"{s['tool']} {s[key]:.0f}" for s in document["samples"] if s["rows"] == most)


def study_verdicts(document: Document) -> str:
    """Hypotheses that have a verdict."""
    hypotheses = document["results"]["hypotheses"]
    ended = [f"{own['name']} {own['verdict']}" for own in hypotheses if own["verdict"] != "incomplete"]
    return ", ".join([*ended, f"{len(hypotheses) - len(ended)} of {len(hypotheses)} hypotheses incomplete"])


def study_size(document: Document) -> str:
    ended = sum(not own["missing"] for own in document["results"]["comparisons"])
    return f"{ended} comparisons, {max(len(row['seeds']) for row in document['results']['rows'])} seeds"


FIGURES: dict[str, Figure] = {
    "attention-cost": Figure(
        lambda d: (
            f"time relative to a step with uniform weights: {over_uniform(d, 'pc', 'tvmax:0.1', 'hard, exact', 'dsna')}"
        ),
        lambda d: f"{d['rounds']} rounds",
    ),
    "backbones": Figure(svm_rows, tested),
    "busy": Figure(beside, lambda d: f"{d['rounds']} round"),
    "components": Figure(
        lambda d: "; ".join(f"{name}: {own['seconds']:.2f} s" for name, own in d["ways"].items()),
        lambda d: f"{d['rows']:,} rows, {len(d['ways']['scikit-learn']['all_seconds'])} rounds",
    ),
    "controls": Figure(
        lambda d: ", ".join(
            f"`{one['architecture']}` {percent(sum(run['accuracy'] for run in one['runs']) / len(one['runs']))}"
            for one in d["networks"][:2]
        ),
        lambda d: f"{d['n_test']:,} test images, {len(d['networks'][0]['runs'])} seeds",
    ),
    "data-path": Figure(
        lambda d: (
            f"shared memory {d['mib_per_s']['shared memory']['median']:.0f} MiB/s, a pipe "
            f"{d['mib_per_s']['pipe']['median']:.0f}"
        ),
        lambda d: f"{d['images']:,} images, {len(d['mib_per_s']['pipe']['all'])} pairs",
    ),
    "domains": Figure(
        lambda d: "; ".join(
            f"{drop['data']}: drop {100 * drop['drop']:.1f} points"
            for drop in d["cases"]["cifar10 and caltech101"]["drops"][:2]
        ),
        lambda d: f"{len(d['cases'])} cases",
    ),
    "faults": Figure(
        lambda d: f"all faults named, and the same bytes afterwards: {'yes' if d['all_passed'] else 'no'}",
        lambda d: f"{len(d['faults'])} faults",
    ),
    "forward-forms": Figure(
        lambda d: "; ".join(
            f"width {width['width']:g}: folded {width['forms'][1]['over_as_trained']:.2f} times as fast, folded "
            f"and compiled {width['forms'][2]['over_as_trained']:.2f} times"
            for width in d["widths"]
        ),
        lambda d: f"{d['rounds']} rounds",
    ),
    "fuzz": Figure(lambda d: f"{d['bad']} crashed, hung or misread", lambda d: f"{d['cases']:,} files"),
    "gpu": Figure(
        lambda d: (
            f"training steps at width 1, bf16: {d['steps']['training_steps'][0]['median']:,.0f} images/s, "
            f"{percent(d['steps']['training_steps'][0]['share_of_matrix_peak'])} of the matrix peak"
        ),
        lambda d: f"{len(d['steps']['runs'])} training runs",
    ),
    "gpu-width-1": Figure(
        lambda d: (
            f"extraction at width 0.25: {d['steps']['extraction'][0]['images_per_s']:,.0f} images/s; "
            f"`{d['steps']['runs'][0]['run']}` {percent(d['steps']['runs'][0]['metrics']['test_accuracy']['value'])}"
        ),
        lambda d: f"{d['steps']['extraction'][0]['n']:,} images; {len(d['steps']['runs'])} training runs",
    ),
    "image-sizes": Figure(
        lambda d: ", ".join(f"{row['image_size']} px {percent(row['mean_class_accuracy'])}" for row in d["rows"]),
        tested,
    ),
    "kill": Figure(kills, lambda d: f"{d['kills_total']} kills of {d['n']:,} images"),
    "localization": Figure(
        lambda d: (
            f"{d['sets']['voc-coseg']['rows'][0]['label']}: foreground IoU "
            f"{d['sets']['voc-coseg']['rows'][0]['measures']['jaccard']['mean']:.3f}"
        ),
        lambda d: f"{d['sets']['voc-coseg']['images']} images of the first set",
    ),
    "map-speed": Figure(
        lambda d: f"from {min(compared(d)):.2f} to {max(compared(d)):.2f} times as fast as the peer",
        lambda d: f"{len(compared(d))} comparisons, {d['repeats']} repeats of {d['images']} images",
    ),
    "map-speed-64": Figure(
        lambda d: f"{d['rows'][0]['method']}: {compared(d)[0]:.2f} times as fast as {d['rows'][0]['peer']}",
        lambda d: f"{d['repeats']} repeats of {d['images']} images",
    ),
    "memory": Figure(
        lambda d: f"peak memory from 2,000 to 20,000 images: {d['difference_percent']['peak_own_mib']:+.1f} %",
        lambda d: f"{len(d['samples'])} runs",
    ),
    "memory-resnet18": Figure(
        lambda d: f"peak memory from 600 to 2,400 images: {d['difference_percent']['peak_own_mib']:+.1f} %",
        lambda d: f"{len(d['samples'])} runs",
    ),
    "parquet-shuffled": Figure(
        lambda d: (
            f"images/s: {d['ways']['read ahead']['images_per_second']:.0f} with read-ahead, "
            f"{d['ways']['again and again']['images_per_second']:.0f} if each image reads its row group, "
            f"{d['ways']['in order']['images_per_second']:.0f} in file order"
        ),
        lambda d: f"{d['images']:,} images, {len(d['ways']['in order']['all'])} rounds",
    ),
    "partner-rules": Figure(
        lambda d: (
            f"live trunk: {percent(d['rows'][2]['mean'])} with each image as its own partner, "
            f"{percent(d['rows'][1]['mean'])} with partners from the set"
        ),
        lambda d: f"{d['n']} images, {d['seeds']} seeds",
    ),
    "peer-step": Figure(
        lambda d: ", ".join(f"{row['name']} {row['images_per_second']:.1f} images/s" for row in d["rows"]),
        lambda d: f"{d['rounds']} rounds",
    ),
    "quickstart": Figure(
        lambda d: f"{sorted(d['seconds'])[len(d['seconds']) // 2]:.0f} s", lambda d: f"{len(d['seconds'])} runs"
    ),
    "ray-kill": Figure(kills, lambda d: f"{len(d['runs'])} runs"),
    "recipe-search": Figure(
        lambda d: (
            "best of `vgg-att2-concat-pc`: "
            + max((run["accuracy"], run["candidate"]) for run in d["runs"] if run["model"] == "vgg-att2-concat-pc")[1]
        ),
        held_out_runs,
    ),
    "attention-localization": Figure(
        lambda d: (
            "J of attention L3 of `pc` on voc-coseg "
            + percent(
                of(d["sets"]["voc-coseg"]["rows"], attention="pc", method="attention", map="L3")["measures"]["jaccard"][
                    "class_mean"
                ]
            )
        ),
        lambda d: f"{d['sets']['voc-coseg']['images']} images",
    ),
    "attention-transfer": Figure(svm_rows, tested),
    "recipe-search-hard": Figure(best_candidates, held_out_runs),
    "recipe-search-random": Figure(best_candidates, held_out_runs),
    "robustness": Figure(
        attacked,
        lambda d: f"{d['data']['images']} images",
        "python benchmarks/robustness.py --data-dir data --limit 300 --out benchmarks/results/robustness.json",
    ),
    "robustness-fgsm": Figure(
        attacked,
        lambda d: f"{d['data']['images']} images",
        "python benchmarks/robustness.py --data-dir data --attack fgsm --out benchmarks/results/robustness-fgsm.json",
    ),
    "sanity": Figure(
        first_to_change,
        lambda d: f"{d['images']} images, {d['seeds']} seeds",
    ),
    "scaled-decoding": Figure(
        lambda d: (
            f"{d['times_faster']['median']:.1f} times as fast; features differ by "
            f"{percent(d['relative_feature_difference']['median'])}"
        ),
        lambda d: f"{d['images']:,} images, {len(d['ms_per_image']['exact']['all'])} rounds",
    ),
    "small-machine": Figure(lambda d: f"{d['bad']} commands ended badly", lambda d: f"{len(d['cases'])} commands"),
    "statistics-check": Figure(
        lambda d: (
            f"at most {percent(d['summary']['most_false_verdicts'])} false verdicts in any scenario, coverage at "
            f"least {percent(d['summary']['least_coverage'])}"
        ),
        lambda d: f"{d['repeats']:,} repeats",
    ),
    "study": Figure(study_verdicts, study_size),
    "study-kill": Figure(kills, lambda d: f"{d['kills_total']} kills"),
    "svm-eval-draws": Figure(svm_eval, lambda d: f"{len(d['samples'])} runs"),
    "svm_complexity": Figure(
        lambda d: (
            "seconds grow with "
            + ", ".join(
                f"{name}^{own['exponent']:.1f}" for name, own in d["series"].items() if own["exponent"] is not None
            )
        ),
        lambda d: f"{sum(len(own['points']) for own in d['series'].values())} problems",
    ),
    "svm_parity": Figure(
        lambda d: (
            f"{sum(not record['passes'] for own in d['problems'].values() for record in own['records'])} fits "
            "differ from LinearSVC"
        ),
        lambda d: f"{sum(len(own['records']) for own in d['problems'].values())} fits",
    ),
    "svm_speed": Figure(
        lambda d: ", ".join(
            f"{name} {own['runs'][0]['comparison']['times_faster']['seconds']:.1f} times as fast"
            for name, own in d["problems"].items()
        ),
        lambda d: f"{len(d['problems'])} problems",
    ),
    "svm_streaming": Figure(
        lambda d: (
            f"memory growth at most {max(own['growth_over_cap'] or 0 for own in d['cases'].values()):.2f} "
            "of `max_memory`"
        ),
        lambda d: f"{len(d['cases'])} cases",
    ),
    "thingsvision": Figure(
        lambda d: f"images/s: {speeds(d, 'images_per_s')}",
        lambda d: f"{max(sample['rows'] for sample in d['samples']):,} images",
    ),
    "thingsvision-resnet18": Figure(
        lambda d: f"images/s: {speeds(d, 'images_per_s')}",
        lambda d: f"{max(sample['rows'] for sample in d['samples']):,} images",
    ),
    "throughput-w025": Figure(
        lambda d: f"{d['images_per_s_median']:.0f} images/s, {d['ratio_median']:.2f} of the network alone",
        lambda d: f"{d['n']:,} images, {len(d['rounds'])} rounds",
    ),
    "throughput-w100": Figure(
        lambda d: f"{d['images_per_s_median']:.0f} images/s, {d['ratio_median']:.2f} of the network alone",
        lambda d: f"{d['n']:,} images, {len(d['rounds'])} round",
    ),
    "time-to-accuracy": Figure(
        lambda d: f"{percent(d['runs'][0]['test_accuracy'])} in {d['runs'][0]['seconds']:,.0f} s",
        lambda d: f"{d['runs'][0]['n']:,} test images, {len(d['runs'])} run",
    ),
    "train-kill": Figure(kills, lambda d: f"{d['kills_total']} kills"),
    "train-precision": Figure(
        lambda d: (
            "bf16 "
            + ", ".join(
                f"{row['over_fp32']:.2f} times as fast at width {row['width']:g}"
                for row in d["rows"]
                if row["precision"] == "bf16"
            )
        ),
        lambda d: f"{len(d['rows'][0]['all'])} pairs",
    ),
    "train-step": Figure(
        lambda d: (
            f"{d['rows'][0]['median']:.1f} images/s at width {d['width']:g}, {percent(d['rows'][0]['share'])} of "
            "the matrix peak"
        ),
        lambda d: f"{len(d['rows'][0]['images_per_s'])} samples",
    ),
    "transfer": Figure(svm_rows, tested),
    "tvmax": Figure(
        lambda d: (
            f"from {min(own['times_as_fast'] for own in d['batch']):.1f} to "
            f"{max(own['times_as_fast'] for own in d['batch']):.1f} times as fast"
        ),
        lambda d: f"{d['rounds']} rounds",
    ),
    "two-at-once": Figure(
        lambda d: f"all passed: {'yes' if d['all_passed'] else 'no'}", lambda d: f"{d['tries_total']:,} tries"
    ),
}


def compared(document: Document) -> list[float]:
    """For each method that other libraries have: how many times as fast as each of them it is."""
    return [row["times_faster"]["median"] for row in document["rows"] if "times_faster" in row]
