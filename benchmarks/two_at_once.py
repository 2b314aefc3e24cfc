"""Two commands write the same output at once: does one complete, and is the other rejected?

Every pair of commands that can write the same file or folder runs as two processes, forked from one that has loaded
everything. In about half of the tries, both start at the same moment; in the others, the second starts at a random
moment of the first. The output must be that of the winner alone: the same files, with the same content wherever two
runs alone agree. Nothing else may be left, such as locks and partial files. Two commands with different file names can
both succeed if one starts after the other has ended; then both outputs must be complete, and the try is repeated at
another moment. Inputs are tiny, and quickstart uses a part of its pictures and two of its models.

    python benchmarks/two_at_once.py --tries 20 --out benchmarks/results/two-at-once.json
"""

from __future__ import annotations

import hashlib
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process has none of the threads that the first one started

import random
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from provenance import provenance
from safetensors.numpy import load

from l2a_transfer import quickstart
from l2a_transfer.cli.main import VERBS
from l2a_transfer.cli.main import main as l2a_transfer_main
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights

PRELOADED = (
    "h5py",
    "l2a_transfer.evaluation.evaluate",
    "l2a_transfer.evaluation.faithfulness",
    "l2a_transfer.evaluation.robustness",
    "l2a_transfer.report.faithfulness",
    "l2a_transfer.report.localization",
    "l2a_transfer.report.robustness",
    "l2a_transfer.report.sanity",
    "l2a_transfer.report.write",
    "l2a_transfer.explain.checks.sanity",
    "l2a_transfer.explain.dispatch",
    "l2a_transfer.explain.draw",
    "l2a_transfer.explain.write",
    "l2a_transfer.export",
    "l2a_transfer.features.extraction.extract",
    "l2a_transfer.localization.localize",
    "l2a_transfer.localization.mask_files",
    "l2a_transfer.localization.sheet",
    "l2a_transfer.training.runs",
    "matplotlib.figure",
    "onnxruntime",
    "onnxscript",
    "sklearn.svm",
    "torch.onnx",
    *(f"l2a_transfer.cli.{verb}" for verb in VERBS.values()),
)
TINY = "untrained:vgg-att2-concat-pc@0.0625"
FOLDERS = (
    "svm-eval",
    "maps",
    "train",
    "train --seeds",
    "quickstart",
    "explain",
    "explain --group",
    "localize",
    "localize --write-masks",
    "sanity",
    "faithfulness",
    "robustness",
)
"""Commands whose output is a folder. `extract` and `explain --store` can write a file of any such name."""
SECOND = {"explain --store": "--store", "localize --write-masks": "--write-masks"}
"""Command → the option of its contested output, if this is not --out."""
ATTEMPTS = 40
NAMES = {"export": "out.onnx", "extract": "out.h5", "explain --store": "out.h5"}
REFUSED = {
    "locked": r"is being written by (process \d+|another process)",
    "there already": (
        r"exists|is a folder|a run already exists|made by another run|[Nn]ot a (directory|folder)|is a file, (and|but)"
    ),
}
PASSES = re.compile(r"seconds|images_per_second|mfu|_s$")
"""Keys of JSON whose values are durations."""
NUMBER = re.compile(r"\d[\d.e+-]*")
"""Numbers in reports, some of which are durations."""
WORDS = {"x": 0, "y": 1}
"""The two variants of every command; they write different files, so that a mixture is detected."""


def command(verb: str, variant: str, inputs: Path) -> list[str]:
    k = WORDS[variant]
    train = ["train", "--model", "vgg-att2-concat-pc", "--data", f"imagefolder:{inputs}/{variant}/pictures"]
    train += ["--width", "0.0625", "--epochs", "2", "--batch-size", "4", "--device", "cpu", "--workers", "0"]
    features = f"{inputs}/{variant}/features.h5"
    tested = f"{inputs}/{variant}/pictures/test"
    of = ["--model", TINY, "--seed", f"{k}", "--device", "cpu", "--data", f"imagefolder:{tested}"]
    localize = ["localize", *of, "--side", "16", "--masks", f"csv:{inputs}/boxes.csv"]
    weights = ["--model", f"{inputs}/{variant}/weights.safetensors", "--device", "cpu"]
    return {
        "svm-eval": ["svm-eval", features, "--c-grid", "0.01", "--folds", "2", "--device", "cpu"],
        "maps": ["maps", "--model", TINY, "--seed", f"{k}", f"{inputs}/{variant}/pictures/test/a/0.jpg"],
        "train": [*train, "--seed", f"{k}"],
        "train --seeds": [*train, "--seeds", f"{k},{k + 1}"],
        "quickstart": ["quickstart"],
        "export": ["export", "--model", TINY, "--seed", f"{k}"],
        "extract": extract(variant, inputs),
        "explain": ["explain", *of, "--side", "16", "--dpi", "50"],
        "explain --store": ["explain", *of, "--side", "16", "--dpi", "50", "--no-overlays", "--sheet", "0"],
        "explain --group": ["explain", *of, "--side", "16", "--dpi", "50", "--group", "--method", "attention"],
        "localize": localize,
        "localize --write-masks": localize,
        "sanity": [
            *("sanity", "--model", TINY, "--seed", f"{k}", "--seeds", "1", "--side", "16", "--no-independent"),
            *("--method", "evidence", f"{tested}/a/0.jpg"),
        ],
        "faithfulness": ["faithfulness", *of, "--steps", "1", "--orders", "1", "--resamples", "1000"],
        "robustness": ["robustness", *weights, "--data", f"imagefolder:{tested}", "--epsilon", "1", "--attack", "fgsm"],
    }[verb]


def outputs(verb: str, output: Path, own: Path) -> list[str]:
    """The options for what a command writes: the contested output, and its own folder if it needs another."""
    return [SECOND[verb], str(output), "--out", str(own)] if verb in SECOND else ["--out", str(output)]


def extract(variant: str, inputs: Path) -> list[str]:
    data = f"imagefolder:{inputs}/{variant}/pictures"
    return ["extract", "--model", "pixels", "--data", data, "--device", "cpu", "--workers", "0"]


def pairs(verbs: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """(one command, the other, the name of their output); with `verbs`, only pairs with one of them."""
    found = [(one, other, "out") for one, other in combinations_with_replacement(FOLDERS, 2)]
    found += [(file, other, "out") for file in ("extract", "explain --store") for other in FOLDERS]
    found += [("extract", "explain --store", NAMES["extract"])]
    found += [(verb, verb, name) for verb, name in NAMES.items()]
    return [pair for pair in found if not verbs or {*pair[:2]} & {*verbs}]


@click.command()
@click.option("--tries", type=click.IntRange(min=1), default=20, show_default=True, help="Of every pair.")
@click.option("--minutes", type=float, help="Begin no further round of tries after so long.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--verbs", default="", help="Only pairs with one of these, with commas between. [default: all pairs]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(tries: int, minutes: float | None, seed: int, verbs: str, out: Path) -> None:
    for module in PRELOADED:
        import_module(module)
    make_quickstart_small()
    chosen = pairs([verb for verb in verbs.split(",") if verb])
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    in_turn: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        scene, began = Scene(Path(name)), time.monotonic()
        for k in range(tries):
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            for one, other, output in chosen:
                for attempt in range(ATTEMPTS):
                    first, second = ((one, "x"), (other, "y"))[:: rng.choice((1, -1))]
                    delay = 0.0 if attempt == 0 and rng.random() < 0.5 else rng.uniform(0, scene.seconds[first[0]])
                    row = {"pair": f"{one} + {other}", **scene.compete(first, second, output, delay)}
                    if row["winner"] != "both, in turn":
                        break
                    in_turn.append(row)
                row["passed"] &= row["winner"] != "both, in turn"  # they never met, so nothing was shown
                rows.append(row)
                if not row["passed"]:
                    print(row, file=sys.stderr)
            print(f"round {k + 1}: {sum(row['passed'] for row in rows)} of {len(rows)} passed", file=sys.stderr)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "two commands write one output at once: does one end whole, and is the other refused?",
        **provenance(shlex.join(["python", "benchmarks/two_at_once.py", *sys.argv[1:]])),
        "pairs": summary(rows),
        "tries_each": len(rows) // len(chosen),
        "tries_total": len(rows),
        "repeated_because_one_began_after_the_other": len(in_turn),
        "compared_by_content": {verb: sorted(names) for verb, names in scene.stable.items()},
        "failures": [row for row in rows if not row["passed"]],
        "all_passed": all(row["passed"] for row in rows),
        "seconds": round(time.monotonic() - began),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, len(rows), "tries, all passed:", document["all_passed"])


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each pair: its tries, who won, and why the other was rejected."""
    found = {}
    for pair in dict.fromkeys(row["pair"] for row in rows):
        own = [row for row in rows if row["pair"] == pair]
        found[pair] = {
            "tries": len(own),
            "passed": sum(row["passed"] for row in own),
            "winner": dict(Counter(row["winner"] for row in own)),
            "refused": dict(Counter(row["refused"] for row in own)),
        }
    return found


def make_quickstart_small() -> None:
    """A quickstart that takes seconds: two of its models, five of its pictures per class and split, one of them
    drawn."""
    open_source = quickstart.open_source
    quickstart.open_source = lambda name: open_source(name, limit=20 if name == quickstart.AIRPLANES else 100)  # type: ignore[attr-defined, assignment]
    quickstart.MODELS = {key: quickstart.MODELS[key] for key in ("attention", "pixels")}
    quickstart.MEASURED = ("attention",)
    quickstart.PICTURES = 1


@dataclass(frozen=True)
class Ended:
    code: int
    said: str


class Child:
    """`l2a-transfer ARGUMENTS` in a forked process, which waits for a signal to start."""

    def __init__(self, arguments: list[str], said: Path, delay: float = 0.0) -> None:
        self.said = said
        self.waiting, self.start = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            os.read(self.waiting, 1)
            time.sleep(delay)
            try:
                l2a_transfer_main(arguments)
            except SystemExit as end:
                os._exit(int(end.code or 0))
            finally:
                os._exit(70)

    def go(self) -> None:
        os.write(self.start, b"1")

    def ended(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        for end in (self.waiting, self.start):
            os.close(end)
        return Ended(os.waitstatus_to_exitcode(status), self.said.read_text(errors="replace"))


class Scene:
    """Inputs, and the output of every command when it runs alone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.inputs = folder, folder / "inputs"
        for variant, k in WORDS.items():
            make_pictures(self.inputs / variant / "pictures", k)
            features = self.inputs / variant / "features.h5"
            assert self.alone([*extract(variant, self.inputs), "--out", str(features)]).code == 0
            network, card = load_model(TINY, seed=k)
            card = replace(card, classes=tuple("abcdefghij"), name=variant)  # robustness needs the classes' names
            save_weights(network, card, self.inputs / variant / "weights.safetensors")
        (self.inputs / "boxes.csv").write_text("".join(f"{c}/{k}.jpg,5,5,20,20\n" for c in "ab" for k in range(4)))
        self.alone_leaves: dict[tuple[str, str], dict[str, str]] = {}
        self.own: dict[tuple[str, str], dict[str, str]] = {}  # what a verb of SECOND leaves in its own folder
        self.stable: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}
        for verb in (*FOLDERS, *NAMES):
            begun = time.monotonic()
            self.alone_leaves[verb, "x"] = self.left_by(verb, "x")
            self.seconds[verb] = time.monotonic() - begun
            again = self.left_by(verb, "x")
            same = command(verb, "x", self.inputs) == command(verb, "y", self.inputs)
            self.alone_leaves[verb, "y"] = again if same else self.left_by(verb, "y")
            self.stable[verb] = {name for name, digest in self.alone_leaves[verb, "x"].items() if again[name] == digest}
            print(f"{verb}: {self.seconds[verb]:.1f} s alone", file=sys.stderr)

    def alone(self, arguments: list[str]) -> Ended:
        child = Child(["-q", *arguments], self.folder / "said")
        child.go()
        return child.ended()

    def left_by(self, verb: str, variant: str) -> dict[str, str]:
        where = Path(tempfile.mkdtemp(dir=self.folder))
        output, own = where / NAMES.get(verb, "out"), where / variant
        ended = self.alone([*command(verb, variant, self.inputs), *outputs(verb, output, own)])
        assert ended.code == 0, ended
        assert {path.name for path in where.iterdir()} == {output.name, *([variant] if verb in SECOND else [])}
        self.own[verb, variant] = content(own) if verb in SECOND else {}
        found = content(output)
        shutil.rmtree(where)
        return found

    def compete(self, first: tuple[str, str], second: tuple[str, str], name: str, delay: float) -> dict[str, Any]:
        """Run both commands on one output; who won, why the other was rejected, and what is wrong with the output."""
        where = Path(tempfile.mkdtemp(dir=self.folder))
        both = (first, second)
        children = [
            Child(
                ["-q", *command(verb, variant, self.inputs), *outputs(verb, where / name, where / variant)],
                self.folder / f"said-{k}",
                delay * k,
            )
            for k, (verb, variant) in enumerate(both)
        ]
        for child in children:
            child.go()
        ended = [child.ended() for child in children]
        codes = [end.code for end in ended]
        found: dict[str, Any] = {"delay_s": round(delay, 3), "codes": codes, "winner": "none", "refused": "none"}
        problems = []
        if sorted(codes) == [0, 1]:
            winner, loser = both[codes.index(0)], ended[codes.index(1)]
            found["winner"] = "first" if codes[0] == 0 else "second"
            won = [winner]
            last = loser.said.strip().splitlines()[-1] if loser.said.strip() else ""
            found["refused"] = next((why for why, words in REFUSED.items() if re.search(words, last)), "otherwise")
            problems += [f"refused otherwise: {last}"] if found["refused"] == "otherwise" else []
            problems += self.wrong(winner, content(where / name))
        elif codes == [0, 0] and not {*self.alone_leaves[first]} & {*self.alone_leaves[second]}:
            found["winner"] = "both, in turn"
            won = [first, second]
            there = content(where / name)
            problems += self.wrong(first, {k: v for k, v in there.items() if k not in self.alone_leaves[second]})
            problems += self.wrong(second, {k: v for k, v in there.items() if k not in self.alone_leaves[first]})
        else:
            won = []
            problems += [f"exit codes {codes}: {[end.said[-300:] for end in ended]}"]
        beside = {variant: self.own[verb, variant] for verb, variant in won if verb in SECOND}
        problems += [f"left beside it: {path.name}" for path in where.iterdir() if path.name not in (name, *beside)]
        for variant, expected in beside.items():
            there = content(where / variant) if (where / variant).is_dir() else {}
            problems += [f"files beside it differ: {sorted({*expected} ^ {*there})}"] if {*expected} != {*there} else []
        shutil.rmtree(where)
        return {
            **found,
            "problems": [problem.replace(str(self.folder), "…") for problem in problems],
            "passed": not problems,
        }

    def wrong(self, winner: tuple[str, str], there: dict[str, str]) -> list[str]:
        """How `there` differs from the output of the winner alone."""
        verb = winner[0]
        expected = self.alone_leaves[winner]
        # A file is called as its folder is in the other tries.
        if len(expected) == 1 and verb in NAMES:
            expected, stable = dict.fromkeys(there, next(iter(expected.values()))), set(there)
        else:
            stable = self.stable[verb]
        problems = [f"files differ: {sorted({*expected} ^ {*there})}"] if {*expected} != {*there} else []
        return problems + [f"{name} is another" for name in stable & {*there} if there[name] != expected.get(name)]


def content(out: Path) -> dict[str, str]:
    """Name → digest of every file of an output, including hidden ones, without durations."""
    files = [out] if out.is_file() else [path for path in out.rglob("*") if not path.is_dir()]
    return {str(path.relative_to(out.parent)): digest(path) for path in files}


def digest(path: Path) -> str:
    if path.suffix in (".json", ".jsonl"):
        documents = (
            [json.loads(path.read_text())]
            if path.suffix == ".json"
            else [json.loads(line) for line in path.read_text().splitlines()]
        )
        return hashlib.sha256(json.dumps([timeless(document) for document in documents]).encode()).hexdigest()
    if path.suffix == ".safetensors":  # its card says how long the training took
        sha = hashlib.sha256()
        for name, values in sorted(load(path.read_bytes()).items()):
            sha.update(f"{name} {values.dtype} {values.shape} ".encode() + np.ascontiguousarray(values).tobytes())
        return sha.hexdigest()
    if path.suffix in (".md", ".html", ".csv"):
        return hashlib.sha256(NUMBER.sub("", path.read_text()).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not PASSES.search(key)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def make_pictures(folder: Path, seed: int) -> None:
    """Two classes of four JPEG files in each of two splits."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for label in "ab":
            (folder / split / label).mkdir(parents=True)
            for k in range(4):
                small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                small.resize((40, 48), Image.Resampling.BICUBIC).save(folder / split / label / f"{k}.jpg", quality=90)


if __name__ == "__main__":
    main()
