"""What others may put into a study's file, its folder and its weights' cards: nothing leads out of the folder."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from l2a_transfer.errors import EvaluationError, StudyError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights
from l2a_transfer.study.answers import EvaluationReader
from l2a_transfer.study.children import Processes, import_environment
from l2a_transfer.study.data import DataSets
from l2a_transfer.study.paths import path_below
from l2a_transfer.study.read import read_study
from l2a_transfer.study.record import CONTINUE, RECORD_SCHEMA, REDO, State, StudyFolder, located
from l2a_transfer.study.results import StudyResults
from l2a_transfer.study.scheduler import FAILED, Scheduler
from l2a_transfer.study.steps import InOut, Step, plan_steps
from l2a_transfer.study.study_report import write_study_report
from l2a_transfer.study.verdicts import Judged
from l2a_transfer.study.weights import runs_of
from l2a_transfer.training.checkpoint import save_checkpoint
from l2a_transfer.version import __version__
from tests.conftest import assert_fails, l2a
from tests.feature_files import blobs, feature_set, labels_of, save
from tests.study_files import STUDY, InThisProcess, study_file

SECONDS = 6.0
"""Of processor time."""
TRAIN, EXTRACT = "train/plain@patterns/seed-0", "extract/plain@patterns/seed-0/near"


def weights_with_seed(path: Path, seed: object) -> Path:
    model, card = load_model("untrained:vgg@0.03125")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(model, dataclasses.replace(card, training={"seed": seed, "data": "x"}), path)
    return path


@pytest.mark.parametrize("seed", ["/../../../../../victim", "0", "x\x00y", "..", ""])
def test_a_card_s_seed_that_is_no_number_becomes_no_path(seed: str, tmp_path: Path) -> None:
    path = weights_with_seed(tmp_path / "w" / "a.safetensors", seed)
    weights_with_seed(tmp_path / "w" / "b.safetensors", 1)
    file = study_file(tmp_path, STUDY.replace('weights = "pixels"', 'weights = "w/*.safetensors"'))
    words = f"{path}: `training.seed` must be a whole number of at least 0, or null, got {seed!r}"
    with pytest.raises(StudyError) as caught:
        runs_of(read_study(file))
    assert str(caught.value) == words
    before = sorted(tmp_path.rglob("*"))
    assert_fails(l2a("study", file, "--out", tmp_path / "a" / "b" / "out"), 1, "`training.seed` must be a whole number")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "relative",
    [
        "runs/../../victim",
        "/etc/passwd",
        "runs//x",
        "runs/.",
        "runs/.hidden",
        "runs/a\x00b",
        "runs/a\nb",
        "",
        "runs/",
        "runs/*",
        "*.safetensors",
        "runs/*.safetensors/x",
        "runs/~",
        "runs/a\\b",
        "runs/" + "a" * 101,
        "runs/a@b@c",
    ],
)
def test_a_path_is_made_of_plain_names_only(relative: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is not a valid path in this folder, because of"):
        path_below(tmp_path, relative)


def test_a_plain_path_lies_below_the_folder(tmp_path: Path) -> None:
    assert path_below(tmp_path, "runs/a@b/seed-0/*.safetensors") == tmp_path / "runs/a@b/seed-0/*.safetensors"
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")  # the folder itself may be reached by one
    assert path_below(tmp_path / "link", "study.json") == tmp_path / "link" / "study.json"


@pytest.mark.parametrize("search_path", [None, "", ".", os.pathsep])
def test_a_command_of_a_study_imports_nothing_from_the_folder_of_its_file(
    search_path: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("l2a_transfer", "sitecustomize", "runpy", "click", "json"):
        (folder / f"{name}.py").write_text("from pathlib import Path; Path(__file__).with_suffix('.ran').touch()")
    environment = {**os.environ} | ({} if search_path is None else {"PYTHONPATH": search_path})
    child = Processes(folder, {**environment, **import_environment(environment)}).start(["--version"], tmp_path / "log")
    child.end()
    assert sorted(folder.glob("*.ran")) == []
    assert (child.poll(), (tmp_path / "log").read_text()) == (0, f"l2a-transfer, version {__version__}\n")


def test_a_folder_of_a_run_that_is_a_link_is_refused_by_its_path(tmp_path: Path) -> None:
    file = study_file(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "checkpoint.pt").write_bytes(b"mine")
    (tmp_path / "out/runs/plain@patterns").mkdir(parents=True)
    (tmp_path / "out/runs/plain@patterns/seed-0").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out/study.json").write_text(json.dumps({"schema": "l2a-study/1", "name": "tiny"}))
    assert_fails(l2a("study", file, "--out", tmp_path / "out"), 1, "runs/plain@patterns/seed-0")
    assert (tmp_path / "elsewhere" / "checkpoint.pt").read_bytes() == b"mine"


def folder_of(root: Path) -> tuple[StudyFolder, dict[str, Step]]:
    study = read_study(study_file(root))
    return StudyFolder(root / "out", DataSets(study)), plan_steps(study).steps


def run_folder(root: Path) -> Path:
    """A run's folder with finished weights and a file of the user's own."""
    folder = root / "out/runs/plain@patterns/seed-0"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    weights_with_seed(folder / "vgg.patterns-w003.safetensors", 0)
    return folder


def kept(folder: Path) -> bool:
    return {"notes.txt", "vgg.patterns-w003.safetensors"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nothing")])
def test_a_checkpoint_that_cannot_be_read_costs_nothing(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder, steps = folder_of(tmp_path)
    run = run_folder(tmp_path)
    make(run / "checkpoint.pt")
    with pytest.raises(StudyError, match=r"checkpoint\.pt: cannot be read: "):
        folder.clear(steps[TRAIN], State(CONTINUE))
    assert kept(run)


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), PermissionError(13, "Permission denied"), MemoryError()]
)
def test_a_disk_or_memory_that_fails_costs_no_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, steps = folder_of(tmp_path)
    run = run_folder(tmp_path)
    save_checkpoint(run / "checkpoint.pt", {"fingerprint": {"seed": 0}, "model": torch.zeros(3)})

    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr("l2a_transfer.training.checkpoint.read_saved", refuse)
    with pytest.raises((StudyError, MemoryError)):
        folder.clear(steps[TRAIN], State(CONTINUE))
    assert kept(run)
    assert (run / "checkpoint.pt").exists()


def test_of_a_run_with_a_damaged_checkpoint_the_checkpoint_alone_is_removed(tmp_path: Path) -> None:
    folder, steps = folder_of(tmp_path)
    run = run_folder(tmp_path)
    (run / "checkpoint.pt").write_bytes(b"no zip")
    said = folder.clear(steps[TRAIN], State(CONTINUE))
    assert said is not None
    assert said.endswith("; the run begins again")
    assert kept(run)
    assert not (run / "checkpoint.pt").exists()


def test_what_the_record_does_not_name_is_not_removed(tmp_path: Path) -> None:
    folder, steps = folder_of(tmp_path)
    run = run_folder(tmp_path)
    record = tmp_path / "out/records" / f"{TRAIN}.json"
    record.parent.mkdir(parents=True)
    content = {"schema": RECORD_SCHEMA, "step": TRAIN, "output": "runs/plain@patterns/seed-0/other.safetensors"}
    record.write_text(json.dumps(content))
    with pytest.raises(StudyError, match=r"vgg\.patterns-w003\.safetensors: not written by this study"):
        folder.clear(steps[TRAIN], State(REDO, damaged=True))
    assert kept(run)
    record.write_text(json.dumps(content | {"output": "runs/plain@patterns/seed-0/vgg.patterns-w003.safetensors"}))
    assert folder.clear(steps[TRAIN], State(REDO, damaged=True)) is None
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    record.write_text(json.dumps(content | {"step": EXTRACT}))
    assert folder.record(steps[TRAIN]) is None


def test_a_file_in_the_place_of_features_is_not_removed(tmp_path: Path) -> None:
    folder, steps = folder_of(tmp_path)
    path = tmp_path / "out" / steps[EXTRACT].output
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(StudyError, match=r"near\.h5: .*this study has no record of it; move it elsewhere"):
        folder.clear(steps[EXTRACT], State(CONTINUE))
    assert path.read_bytes() == b"mine"


def test_a_step_whose_place_is_taken_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, steps = folder_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    os.mkfifo(run_folder(tmp_path) / "checkpoint.pt")
    work, launcher = plan_steps(read_study(tmp_path / "study.toml")), InThisProcess()
    worker = Scheduler(work, folder, launcher, guess_s={"train": 1.0, "extract": 1.0, "evaluate": 1.0})
    outcome = worker.run([steps[TRAIN], steps["extract/pixels/fixed/near"]])
    assert outcome.names(FAILED) == [TRAIN]
    assert launcher.verbs == ["extract"]


def test_a_path_of_the_user_s_that_looks_like_the_study_s_is_left_alone(tmp_path: Path) -> None:
    assert located("OUT/mine.npz", tmp_path) == "OUT/mine.npz"
    assert located(InOut.of("runs/a"), tmp_path) == str(tmp_path / "runs/a")
    (tmp_path / "OUT").mkdir()
    file = study_file(tmp_path, STUDY.replace('weights = "pixels"', 'weights = "OUT/w.safetensors"'))
    weights_with_seed(tmp_path / "OUT" / "w.safetensors", 0)
    step = plan_steps(read_study(file)).steps["extract/pixels/seed-0/near"]
    found = [located(argument, tmp_path / "out") for argument in step.arguments]
    assert found[2] == "OUT/w.safetensors"
    assert str(tmp_path / "out/features/pixels/seed-0/near.h5") in found


BASE = 'name = "x"\n[targets.caltech-mini]\n[networks.p]\nweights = "pixels"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = " + "9" * 5000 + "\n" + BASE, "not a TOML file: .*integer|does not fit into 64 bits"),
        ("threads = 0x" + "f" * 5000 + "\n" + BASE, "an integer that does not fit into 64 bits"),
        ("guess.train = 0x" + "f" * 400 + "\n" + BASE, "an integer that does not fit into 64 bits"),
        (BASE + '[networks.q]\narchitecture = "vgg"\nset = { epochs = 0x' + "f" * 5000 + " }\n", "into 64 bits"),
        ("threads." + ".".join("a" * 3000) + " = 1\n" + BASE, "a key of more than 32 parts, 'threads.a.a"),
        ("threads." + ".".join("a" * 30000) + " = 1\n" + BASE, "a key of more than 32 parts"),
        ('threads = { "a" . ' + " . ".join(["'a'"] * 30000) + " = 1 }\n" + BASE, "a key of more than 32 parts"),
        ("x = { y = " + '"""a"""", ' + ".".join("a" * 30000) + " = 1 }\n" + BASE, "a key of more than 32 parts"),
        ("[" + ".".join("a" * 30000) + "]\n", "a key of more than 32 parts"),
        ("threads = " + "{a=" * 40 + "1" + "}" * 40 + "\n" + BASE, "lists nested more than 32 deep"),
        ("threads = " + "[" * 300 + "]" * 300 + "\n" + BASE, "lists nested more than 32 deep"),
        ("threads = " + "[" * 100_000 + "\n" + BASE, "not a TOML file"),
        ('x = "' + '\\"' * 400_000 + "\\\n" + BASE, "not a TOML file"),
        ('x = """' + '\\"""' * 200_000, "not a TOML file"),
        ("threads" * 140_000, "not a TOML file"),
        ("x" * (1 << 20) + "x", "cannot be read: 1,048,577 bytes; at most 1,048,576 are read"),
        (BASE + "[networks." + "n" * 101 + "]\n", "and at most 100 characters"),
        (STUDY.replace('"above 0"', f'"above {"9" * 5000}"'), "support must be a finite number of points"),
    ],
)
def test_a_file_without_an_end_is_refused_at_once(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(StudyError, match=words) as caught:
        read_study(path)
    assert time.process_time() - began < SECONDS
    assert len(str(caught.value)) < len(str(path)) + 500
    assert_fails(l2a("study", path, "--out", tmp_path / "out"), 1, str(path))


def test_dots_in_texts_and_comments_are_no_parts_of_a_key(tmp_path: Path) -> None:
    dots = "a." * 50
    text = f"# {dots}\nname = \"{dots}\"\ndata_dir = '{dots}'\n" + BASE.partition("\n")[2]
    text += f'[[hypotheses]]\nname = "h"\nsays = """\n{dots} ""{dots}"""  # {dots}\nsupport = ["c"]\n'
    text += '[[comparisons]]\nname = "c"\nminuend = "p"\nsubtrahend = "u"\n[networks.u]\nweights = "untrained:vgg"\n'
    path = tmp_path / "study.toml"
    path.write_text(text)
    assert read_study(path).name == dots


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A feature file, and the results of its evaluation."""
    folder = tmp_path_factory.mktemp("evaluated")
    labels = labels_of(4, 20)
    path = save(folder / "f.h5", feature_set(labels, blobs(labels, spread=1.5, seed=0), model="a"))
    document = evaluate_files([path], EvalConfig(protocol="official", c_grid=(0.01,))).document()
    return path, json.loads(json.dumps(document))


def at(*keys: Any) -> Callable[[dict[str, Any], Any], None]:
    def put(document: Any, value: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return put


@pytest.mark.parametrize(
    ("change", "value", "words"),
    [
        (at("schema"), "l2a-results/2", "results.schema must be 'l2a-results/1'"),
        (at("cards"), [1], "results.cards must be an object"),
        (at("cards"), {"a": [1]}, "results.cards.a must be an object"),
        (at("cards"), {}, "results.cards must have one card, got 0"),
        (at("cards"), {"a": {"weights_sha256": {"a": 1}}}, "weights_sha256 must be text"),
        (at("details", 0, "predictions", 0, 0), 2**40, r"predictions\[0\]\[0\] must be an integer"),
        (at("details", 0, "predictions", 0, 0), 4, "predictions must be of 4 classes"),
        (at("details", 0, "predictions", 0, 0), 0.5, r"predictions\[0\]\[0\] must be an integer"),
        (at("details", 0, "predictions", 0), [0], "one answer for each test image"),
        (at("details"), [], "results.details must have 1 entries"),
        (at("rows", 0), [1], r"results.rows\[0\] must be an object"),
        (at("rows", 0), {"variant": ""}, r"results.rows\[0\] has no"),
        (at("rows", 0, "shots"), [1], r"results.rows\[0\].shots must be an integer"),
        (at("rows", 0, "n_classes"), "\x1b[2J", r"results.rows\[0\].n_classes must be an integer"),
        (at("rows", 0, "dim"), None, r"results.rows\[0\].dim must be an integer"),
        (at("rows", 0, "chance"), "x", r"results.rows\[0\].chance must be a number, 0 to 1"),
        (at("rows", 0, "splits"), [], r"results.rows\[0\].splits must be one or more indices of the 1 splits"),
        (at("rows", 0, "splits"), [1], r"results.rows\[0\].splits must be one or more indices of the 1 splits"),
        (at("rows", 0, "splits"), [-1], r"results.rows\[0\].splits\[0\] must be an integer"),
        (at("splits", 0, "shared"), "nan", r"results.splits\[0\].shared must be a number, 0 to 1"),
        (at("splits", 0, "test", 0), -1, r"results.splits\[0\].test\[0\] must be an integer"),
        (at("splits", 0, "test", 0), 10**6, "is out of bounds"),
        (at("details", 0, "classes", 0), "elsewhere", "is not in the features"),
    ],
)
def test_results_that_are_none_are_refused_by_file_and_field(
    change: Callable[[Any, Any], None], value: Any, words: str, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    features, document = evaluated
    changed = json.loads(json.dumps(document))
    change(changed, value)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(EvaluationError, match=words) as caught:
        EvaluationReader().answers(path, features)
    assert str(caught.value).startswith(f"{path}: cannot be used: ")


def test_a_variant_that_only_looks_like_a_width_is_none(evaluated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    features, document = evaluated
    path = tmp_path / "results.json"
    found = {}
    for variant in ("PCA to 16", "PCA to ²", "PCA to 16\n", "PCA to " + "9" * 900):
        document["rows"][0]["variant"] = variant
        path.write_text(json.dumps(document))
        (answered,) = EvaluationReader().answers(path, features)
        found[variant] = answered.components
    assert list(found.values()) == [16, None, None, None]


def test_names_are_shown_as_they_are_in_a_study_s_markdown(tmp_path: Path) -> None:
    names = ("[H1](javascript:alert(1))", "![x](http://e.example/t.png)", "$x$ ~y~ ^z^ [^1] `c` <b>")
    judged = tuple(Judged(name, name, ("[c]",), (), "not decided", "not decided", "") for name in names)
    write_study_report(StudyResults("[n](x)", (), (), judged, {}, {}), tmp_path)
    for file in ("report.md", "table.md"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert r"| \[H1\](javascript:alert(1)) | \[H1\](javascript:alert(1)) | \[c\] | not decided |" in text
        assert r"| !\[x\](http://e.example/t.png) |" in text
        assert r"| \$x\$ \~y\~ \^z\^ \[\^1\] 'c' &lt;b&gt; |" in text
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith(r"# \[n\](x)" + "\n")


def test_each_valid_key_is_named_once(tmp_path: Path) -> None:
    path = study_file(tmp_path, STUDY.replace("[networks.plain]", "[networks.plain]\nnothing = 1"))
    with pytest.raises(StudyError, match="nothing is an unknown key") as caught:
        read_study(path)
    keys = str(caught.value).partition("there are ")[2].split(", ")
    assert keys.count("seeds") == 1
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("old", ['"npz:patterns.npz"', '"npz:others.npz"'])
def test_a_data_set_whose_path_has_a_nul_is_no_fault_of_ours(old: str, tmp_path: Path) -> None:
    path = study_file(tmp_path, STUDY.replace(old, '"npz:a\\u0000b"'))
    result = l2a("study", path, "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code in (0, 1), result.output
