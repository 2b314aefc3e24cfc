"""A whole study, tiny: what is made, what is reused, what is found damaged, and that the report stays the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from l2a_transfer.errors import ArgumentError, OutputExistsError, StudyError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.study.answers import EvaluationReader, RunAnswers
from l2a_transfer.study.contrasts import measure, value
from l2a_transfer.study.read import read_study
from l2a_transfer.study.record import BEGIN, BLOCKED, DONE, REDO, WAITING
from l2a_transfer.study.scheduler import FAILED, NOT_STARTED
from l2a_transfer.study.study import StudyOutcome, preview_study, run_study
from l2a_transfer.version import __version__
from tests.conftest import assert_fails, l2a
from tests.feature_files import blobs, feature_set, labels_of, save
from tests.study_files import STUDY, InThisProcess, pictures, study_file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study's file and, in `out`, all that it makes."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launcher = InThisProcess()
        found = run_study(read_study(study_file(folder)), folder / "out", launcher)
    assert found.is_complete, found.states
    assert (launcher.verbs.count("train"), launcher.verbs.count("extract"), launcher.verbs.count("svm-eval")) == (
        4,
        9,
        14,
    )
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished study, in the current folder."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def again(folder: Path, **how: object) -> tuple[StudyOutcome, list[str]]:
    """The same study once more, and the verbs that it ran."""
    launcher = InThisProcess()
    found = run_study(read_study(folder / "study.toml"), folder / "out", launcher, **how)  # type: ignore[arg-type]
    return found, launcher.verbs


def report(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out" / "report").iterdir()}


def test_the_report_says_what_the_evaluations_do(finished: Path) -> None:
    document = json.loads(report(finished)["results.json"])
    assert document["schema"] == "study-results/1"
    rows = {(r["model"], r["target"], r["protocol"], r["shots"], r["components"]): r for r in document["rows"]}
    assert len(rows) == 2 * (2 * 2 + 2) + 3 - 2
    row = rows["attention@patterns", "near", "fixed", None, 16]
    own = [
        next(r for r in json.loads(path.read_text())["rows"] if r["variant"] == "PCA to 16")
        for path in sorted((finished / "out/evaluations/attention@patterns").glob("seed-*/near/fixed/results.json"))
    ]
    assert row["values"] == pytest.approx([r["mean_class_accuracy"] for r in own])
    assert row["accuracy_mean"] == pytest.approx(sum(r["accuracy"] for r in own) / 2)
    assert (row["seeds"], row["n_test"], row["dim"]) == ([0, 1], 32, 16)
    raw, matched = document["comparisons"]
    assert [(one["features"], one["width"]) for one in (raw, matched)] == [("as they are", None), ("matched", 16)]
    plain = rows["plain@patterns", "near", "fixed", None, None]
    on = {one["target"]: one for one in matched["targets"]}
    assert on["near"]["estimate"]["difference"] == pytest.approx(row["mean"] - plain["mean"])
    assert on["near"]["seeds"] == {"attention@patterns": 2, "plain@patterns": 2}
    assert document["hypotheses"][0]["verdict"] in ("supported", "refuted", "not decided", "both rules hold")
    assert document["undone"] == {}


def test_the_report_has_tables_figures_and_commands(finished: Path) -> None:
    files = report(finished)
    assert {"results.json", "report.md", "report.html", "table.md", "low-shot-near-few.svg"} <= set(files)
    text = files["report.md"].decode()
    assert "| H1 | A − V is above 0 | A-V |" in text
    assert "l2a-transfer extract --model 'OUT/runs/plain@patterns/seed-0/*.safetensors'" in text
    page = files["report.html"].decode()
    assert page.count("<section") == text.count("\n## ")
    assert "<script" not in page
    assert files["low-shot-near-few.svg"].startswith(b'<svg xmlns="http://www.w3.org/2000/svg"')
    assert "training images a class; bars: lowest and highest seed" in files["low-shot-near-few.svg"].decode()


def test_what_is_there_is_reused_and_the_report_is_the_same(study: Path) -> None:
    before = report(study)
    found, verbs = again(study)
    assert (found.is_complete, verbs) == (True, [])
    assert report(study) == before
    result = l2a("study", "study.toml", "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(before["results.json"])


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FEATURES = "out/features/plain@patterns/seed-1/near.h5"
EVALUATION = "out/evaluations/plain@patterns/seed-1/near/fixed/results.json"


@pytest.mark.parametrize(
    ("harm", "step", "verbs"),
    [
        (lambda root: flip(root / FEATURES), "extract/plain@patterns/seed-1/near", ["extract"]),
        (lambda root: flip(root / EVALUATION), "evaluate/plain@patterns/seed-1/near/fixed", ["svm-eval"]),
        (lambda root: flip(weights_of(root)), "train/plain@patterns/seed-1", ["train"]),
        (
            lambda root: shutil.copy(root / FEATURES.replace("plain", "attention"), root / FEATURES),
            "extract/plain@patterns/seed-1/near",
            ["extract"],
        ),
        (lambda root: (root / FEATURES).unlink(), "extract/plain@patterns/seed-1/near", ["extract"]),
    ],
)
def test_a_corrupted_or_foreign_file_is_found_said_and_made_again(
    harm: Callable[[Path], object], step: str, verbs: list[str], study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = report(study)
    harm(study)
    plan = preview_study(read_study(study / "study.toml"), study / "out")
    assert plan[step].what == REDO
    found, ran = again(study)
    assert found.is_complete
    assert ran[: len(verbs)] == verbs
    assert ran.count("train") == verbs.count("train")
    assert any(
        record.message.startswith(f"{step}: ") and "running it again" in record.message for record in caplog.records
    )
    assert report(study) == before


def weights_of(root: Path) -> Path:
    (path,) = (root / "out/runs/plain@patterns/seed-1").glob("*.safetensors")
    return path


def test_files_that_a_killed_study_did_not_record_are_verified(study: Path) -> None:
    """As after a kill between the end of a command and its record; one of them is damaged too."""
    before = report(study)
    for name in ("train/plain@patterns/seed-1", "extract/plain@patterns/seed-1/near", "extract/pixels/fixed/near"):
        (study / "out/records" / f"{name}.json").unlink()
    flip(study / FEATURES)
    found, verbs = again(study)
    assert (found.is_complete, verbs.count("train"), verbs.count("extract")) == (True, 1, 2)
    assert report(study) == before


def test_a_run_whose_checkpoint_is_damaged_begins_again(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = report(study)
    (study / "out/records/train/plain@patterns/seed-1.json").unlink()
    weights_of(study).unlink()
    flip(study / "out/runs/plain@patterns/seed-1/checkpoint.pt")
    found, verbs = again(study)
    assert (found.is_complete, verbs.count("train")) == (True, 1)
    assert "begins again" in caplog.text
    assert report(study) == before


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    result = l2a("study", path, "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("begin    train/attention@patterns/seed-0: no output yet\n")
    assert "waits    evaluate/plain@patterns/seed-1/far/fixed: no output yet; extract/" in result.stdout
    assert not (tmp_path / "out").exists()
    document = json.loads(l2a("study", path, "--out", tmp_path / "out", "--dry-run", "--json").stdout)
    assert len(document["steps"]) == 2 * 2 * (1 + 2 + 3) + 1 + 2
    assert {step["state"] for step in document["steps"]} == {BEGIN, WAITING}


def test_only_what_is_asked_for_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study_file(tmp_path)
    found, verbs = again(tmp_path, only=["extract/pixels/*"])
    assert (verbs, found.results) == (["extract"], None)
    found, verbs = again(tmp_path, only=["evaluate/pixels/*", "evaluate/plain*"])
    assert verbs == ["svm-eval", "svm-eval"]
    blocked = found.states["evaluate/plain@patterns/seed-0/far/fixed"]
    assert (blocked.what, blocked.why) == (BLOCKED, "extract/plain@patterns/seed-0/far is neither done nor chosen")
    assert found.results is not None
    assert {row.model for row in found.results.rows} == {"pixels"}
    assert found.results.hypotheses[0].verdict == "incomplete"
    with pytest.raises(
        ArgumentError, match="only must match the name of a step, such as train/attention@patterns/seed-0"
    ):
        again(tmp_path, only=["trian/*"])


def test_what_can_never_run_with_only_is_blocked_and_the_end_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = study_file(tmp_path)
    command = ["study", path, "--out", tmp_path / "out"]
    only = ["--only", "e*/pixels/*", "--only", "extract/plain@*/near", "--only", "evaluate/plain@*/seed-0/near/fixed"]
    plan = l2a(*command, *only, "--dry-run").stdout.splitlines()
    needs = "train/plain@patterns/seed-0 is neither done nor chosen"
    assert f"blocked  extract/plain@patterns/seed-0/near: {needs}" in plan
    assert f"blocked  evaluate/plain@patterns/seed-0/near/fixed: {needs}" in plan
    assert "waits    evaluate/pixels/fixed/near/few: no output yet; extract/pixels/fixed/near comes first" in plan
    monkeypatch.setattr("l2a_transfer.study.launch.Processes", lambda *given: InThisProcess())
    without = "the same command without --only runs them, and trains 4 networks"
    done = l2a(*command, *only)
    assert done.exit_code == 0
    assert done.stderr.splitlines()[-1] == f"24 of 27 steps are not done; --only leaves them out; {without}"
    shutil.rmtree(tmp_path / "out")
    done = l2a(*command, *only, "--deadline", "0.001")
    assert done.stderr.splitlines()[-1] == (
        f"27 of 27 steps are not done; run the same command again to continue with 3 of them; --only leaves out the "
        f"others; {without}"
    )
    done = l2a(*command, "--deadline", "0.001")
    assert done.stderr.splitlines()[-1] == "27 of 27 steps are not done; run the same command again to continue"


def test_records_name_the_program_and_another_commit_repeats_no_step(study: Path) -> None:
    records = sorted((study / "out/records").rglob("*.json"))
    made = [json.loads(path.read_text())["program"] for path in records]
    assert all(one["version"] == __version__ and "commit" in one for one in made)
    ours, other = f"l2a-transfer {__version__}, commit {made[0]['commit'] or 'unknown'}", "0.0.1"
    assert json.loads(report(study)["results.json"])["programs"] == {ours: 27}
    for path, program in zip(records, [{"version": other, "commit": "abc"}, None, {"version": 3}], strict=False):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"program": program}))
    assert again(study)[1] == []
    said = json.loads(report(study)["results.json"])["programs"]
    assert said == {f"l2a-transfer {other}, commit abc": 1, "not recorded": 2, ours: 24}
    assert f"1 step: l2a-transfer {other}, commit abc" in report(study)["report.md"].decode()


def test_no_step_is_begun_that_cannot_end_in_time(study: Path) -> None:
    shutil.rmtree(study / "out/evaluations")
    shutil.rmtree(study / "out/runs/attention@patterns")
    records = study / "out/records"
    for path in records.rglob("*.json"):
        record = json.loads(path.read_text())
        seconds = 1.0 if "pixels" in record["step"] else 5000.0
        path.write_text(json.dumps(record | {"seconds": seconds}))
    found, verbs = again(study, deadline_s=600)
    assert verbs == ["svm-eval", "svm-eval"]  # those of the pixels
    why = found.states["evaluate/plain@patterns/seed-0/near/fixed"]
    too_long = "would take 5,000 s (like earlier steps), which is more than the time left"
    assert (why.what, why.why) == (NOT_STARTED, too_long)
    train = found.states["train/attention@patterns/seed-0"].why
    assert train == too_long


def test_before_anything_has_ended_a_guess_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study_file(tmp_path, STUDY + "\n[guess]\ntrain = 700\nextract = 800\n")
    found, verbs = again(tmp_path, deadline_s=600)
    assert verbs == []
    why = found.states["train/plain@patterns/seed-0"].why
    assert why == "would take 700 s (a guess), which is more than the time left"


def test_training_with_other_settings_is_never_thrown_away(study: Path) -> None:
    text = (study / "study.toml").read_text()
    (study / "study.toml").write_text(text.replace("epochs = 1", "epochs = 2", 1))
    with pytest.raises(StudyError, match=r"seed-0: trained with other settings: epochs=1 there, epochs=2 here; give"):
        again(study)


MORE = """
[[comparisons]]
name = "few"
minuend = "attention"
subtrahend = "plain"
targets = ["near"]
shots = 2
metric = "accuracy"
family = "both"
support = "above -10000"
refute = "below -9000"

[[comparisons]]
name = "pixels"
minuend = ["attention", "plain"]
subtrahend = "pixels"
targets = ["near"]
family = "both"

[[hypotheses]]
name = "few"
support = ["few"]
"""


def test_planned_comparisons_follow_the_file(study: Path) -> None:
    text = (study / "study.toml").read_text()
    (study / "study.toml").write_text(text + MORE)
    found, verbs = again(study)
    assert (found.is_complete, verbs) == (True, [])
    assert found.results is not None
    rows = {(r.model, r.target, r.shots): r for r in found.results.rows if r.components is None}
    few, pixels = found.results.comparisons[2:]
    (near,) = few.targets
    known = rows["attention@patterns", "near", 2].accuracy_mean - rows["plain@patterns", "near", 2].accuracy_mean
    assert (near.shots, near.draws, near.estimate.difference) == (2, 2, pytest.approx(known))
    assert near.estimate.comparisons == 2  # two comparisons of the family, each on one target
    assert near.estimate.ci95 is not None
    assert near.estimate.ci95_adjusted is not None
    assert near.estimate.ci95_adjusted[0] < near.estimate.ci95[0]
    assert near.estimate.p_adjusted == min(1.0, 2 * (near.estimate.p or 0.0))
    # One target alone is decided by its own interval, which two draws can make wider than 100 points.
    assert (few.summaries[0].estimate, few.verdict) == (None, "supported")
    assert found.results.hypotheses[1].verdict == "supported"
    mean = (rows["attention@patterns", "near", None].mean + rows["plain@patterns", "near", None].mean) / 2
    assert pixels.targets[0].estimate.difference == pytest.approx(mean - rows["pixels", "near", None].mean)
    assert (pixels.verdict, pixels.title) == ("", "(attention@patterns + plain@patterns) / 2 − pixels")


def test_a_study_that_was_killed_at_its_very_beginning_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study_file(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json.lock").write_text("l2a-transfer 1")
    assert again(tmp_path, only=["extract/pixels/*"])[1] == ["extract"]


def test_an_evaluation_with_other_settings_is_made_again(study: Path) -> None:
    text = (study / "study.toml").read_text()
    (study / "study.toml").write_text(text.replace("draws = 2", "draws = 3"))
    _, verbs = again(study)
    assert verbs == ["svm-eval"] * 5


@pytest.mark.slow
def test_a_study_measures_several_probes_and_compares_by_the_first(study: Path) -> None:
    """Rows of the probe that is not compared change no comparison."""
    before = json.loads(report(study)["results.json"])
    text = (study / "study.toml").read_text()
    few = 'protocol = "low-shot"\n'
    assert text.count(few) == 1
    for old in (few, 'protocol = "official"\n'):
        text = text.replace(old, f'{old}probes = ["svm", "ncm"]\n')
    (study / "study.toml").write_text(text)
    found, verbs = again(study)
    assert (found.is_complete, set(verbs)) == (True, {"svm-eval"})
    assert "--probe svm,ncm" in next(step for step in found.results.commands.values() if "svm-eval" in step)  # type: ignore[union-attr]
    after = json.loads(report(study)["results.json"])
    assert [row for row in after["rows"] if row["probe"] == "svm"] == before["rows"]
    assert len(after["rows"]) == 2 * len(before["rows"])
    assert after["comparisons"] == before["comparisons"]
    said = report(study)
    assert "near, fixed, probe ncm: " in said["report.md"].decode()
    assert {"low-shot-near-few.svg", "low-shot-near-few-ncm.svg"} <= set(said)
    (study / "study.toml").write_text(text.replace('"svm", "ncm"', '"ncm", "svm"'))
    first = again(study)[0].results
    assert first is not None
    rows = {(row.model, row.target, row.probe, row.shots, row.components): row.mean for row in first.rows}
    (near, _) = first.comparisons[0].targets
    own = [rows[f"{name}@patterns", "near", "ncm", None, None] for name in ("attention", "plain")]
    assert near.estimate.difference == pytest.approx(own[0] - own[1])


def test_a_data_set_that_changed_is_extracted_again(study: Path) -> None:
    pictures(study / "others.npz", seed=2)
    plan = preview_study(read_study(study / "study.toml"), study / "out")
    assert plan["extract/plain@patterns/seed-0/far"].why == "the data set far has changed"
    assert plan["extract/plain@patterns/seed-0/near"].what == DONE
    found, verbs = again(study)
    assert (found.is_complete, verbs.count("extract"), verbs.count("svm-eval")) == (True, 4, 4)


def test_features_are_used_where_the_data_set_is_gone(study: Path) -> None:
    (study / "others.npz").unlink()
    assert again(study)[1] == []


def test_a_step_that_fails_takes_no_other_with_it_but_those_that_need_it(study: Path) -> None:
    (study / "others.npz").write_bytes(b"no arrays")
    (study / "out" / FEATURES.removeprefix("out/").replace("near", "far")).unlink()
    result_before = report(study)["results.json"]
    found, verbs = again(study)
    assert verbs == ["extract"]
    assert found.failed == ["extract/plain@patterns/seed-1/far"]
    assert found.states[found.failed[0]].what == FAILED
    assert "others.npz" in found.states[found.failed[0]].why
    assert found.states["evaluate/plain@patterns/seed-1/far/fixed"].what == NOT_STARTED
    assert found.states["evaluate/plain@patterns/seed-1/near/fixed"].what == DONE
    assert found.results is not None
    assert {c.verdict for c in found.results.comparisons} == {"incomplete"}
    assert report(study)["results.json"] != result_before


def test_the_folder_of_another_study_is_left_alone(study: Path, tmp_path: Path) -> None:
    text = (study / "study.toml").read_text()
    (study / "study.toml").write_text(text.replace('name = "tiny"', 'name = "other"'))
    with pytest.raises(OutputExistsError, match="contains the study 'tiny', not 'other'; choose another `out`"):
        again(study)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert_fails(l2a("study", "study.toml", "--out", tmp_path / "mine"), 1, "is not empty and not a study's folder")
    assert_fails(l2a("study", "study.toml", "--out", study / "out", "--jobs", "0"), 2, "--jobs must be above 0, got 0")


def seeded(folder: Path, architecture: str, spreads: list[float], **given: object) -> list[Path]:
    """Feature files of training seeds 0, 1, …, each the more spread the harder."""
    labels = labels_of(4, 20)
    paths = []
    for seed, spread in enumerate(spreads):
        made = feature_set(labels, blobs(labels, spread=spread, seed=seed), model=f"{architecture}.{seed}")
        made.meta.card.update(
            config={"architecture": architecture, "width": 0.25}, training={"seed": seed, "data": "cifar10"}
        )
        paths.append(save(folder / f"{architecture}-{seed}.h5", made))
    return paths


@pytest.mark.parametrize("draws", [1, 3])
def test_a_contrast_of_two_networks_is_the_comparison_over_seeds(draws: int, tmp_path: Path) -> None:
    files = {
        name: seeded(tmp_path, name, spreads) for name, spreads in (("a", [1.0, 1.2, 1.5]), ("b", [1.8, 2.0, 2.6]))
    }
    config = EvalConfig(protocol="stratified", draws=draws, c_grid=(0.01,))
    together = evaluate_files([*files["a"], *files["b"]], config)
    (known,) = [c for c in together.comparisons if c.test == "seeds"]
    runs: dict[str, dict[int | None, RunAnswers]] = {name: {} for name in files}
    for name, paths in files.items():
        for seed, path in enumerate(paths):
            results = tmp_path / f"{path.stem}.json"
            results.write_text(json.dumps(evaluate_files([path], config).document()))
            (runs[name][seed],) = EvaluationReader().answers(results, path)
    measured = measure({"a": 1.0, "b": -1.0}, runs, "mean_class_accuracy")
    found = measured.test
    assert found is not None
    assert (found.difference, found.p) == pytest.approx((known.difference, known.p))
    assert measured.difference == found.difference
    assert found.interval(0.95) == pytest.approx(known.ci95)
    rows = {row.label: row for row in together.rows}
    assert value(runs["b"][2], "accuracy") == pytest.approx(rows["b.2"].accuracy)
    assert measured.values["b"][2] == pytest.approx(rows["b.2"].mean_class_accuracy)
    halves = measure({"a": 0.5, "b": -0.5}, runs, "mean_class_accuracy").test
    assert halves is not None
    assert (halves.difference, halves.error, halves.p) == pytest.approx(
        (found.difference / 2, found.error / 2, found.p)
    )


def test_sides_that_answer_alike_give_no_test(tmp_path: Path) -> None:
    (path,) = seeded(tmp_path, "a", [1.5])
    results = tmp_path / "a.json"
    results.write_text(json.dumps(evaluate_files([path], EvalConfig(protocol="official", c_grid=(0.01,))).document()))
    (one,) = EvaluationReader().answers(results, path)
    for a in ({0: one}, {0: one, 1: one}):
        found = measure({"a": 1.0, "b": -1.0}, {"a": a, "b": {0: one}}, "mean_class_accuracy")
        assert (found.test, found.not_defined) == (None, "the two sides answer alike on every image")
        assert found.estimate(2).not_defined == found.not_defined
