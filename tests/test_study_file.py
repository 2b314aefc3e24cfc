"""The study's file: what it means, and that nothing wrong in it gets as far as any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2a_transfer.errors import StudyError
from l2a_transfer.models.weights import PRETRAINED
from l2a_transfer.study.config import Bound
from l2a_transfer.study.read import read_study
from l2a_transfer.study.steps import plan_steps
from l2a_transfer.study.weights import runs_of
from tests.conftest import assert_fails, l2a
from tests.study_files import STUDY, study_file

ROOT = Path(__file__).parents[1]


def written(folder: Path, *changes: tuple[str, str], text: str = STUDY) -> Path:
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return study_file(folder, text)


def test_the_steps_of_a_study(tmp_path: Path) -> None:
    work = plan_steps(read_study(study_file(tmp_path)))
    assert len(work.steps) == 2 * 2 * (1 + 2 + 3) + 1 + 2
    train = work.steps["train/attention@patterns/seed-1"]
    assert train.command == (
        "l2a-transfer train --model vgg-att2-concat-pc --width 0.03125 --normalizer softmax --recipe fast "
        "--set epochs=1 --set batch_size=16 --data npz:patterns.npz --device auto --seed 1 "
        "--out OUT/runs/attention@patterns/seed-1 --resume"
    )
    extract = work.steps["extract/attention@patterns/seed-1/far"]
    assert (extract.needs, extract.output) == (train.name, "features/attention@patterns/seed-1/far.h5")
    few = work.steps["evaluate/pixels/fixed/near/few"]
    assert few.arguments[2:10] == (
        "--protocol",
        "low-shot",
        "--draws",
        "2",
        "--shots",
        "1,2",
        "--c-grid",
        "0.01",
    )
    # att2 has 2 · 512/32 columns and VGG 512/32, so that attention alone is reduced, where it is compared.
    widths = {step.name: step.arguments for step in work.steps.values() if "--widths" in step.arguments}
    assert set(widths) == {
        f"evaluate/attention@patterns/seed-{seed}/{target}/fixed" for seed in (0, 1) for target in ("near", "far")
    }
    assert "--widths 16 --out" in " ".join(widths["evaluate/attention@patterns/seed-0/far/fixed"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = [0, 1]", "sedes = [0, 1]", "sedes is an unknown key; did you mean 'seeds'?"),
        ('name = "tiny"', "", "the file needs 'name', a text"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds must be a list of whole numbers, none of them twice"),
        ("seeds = [0, 1]", "seeds = [true]", "seeds must be a list of whole numbers"),
        ("width = 0.03125", 'width = "small"', "networks.attention.width must be a number above 0, got 'small'"),
        ("width = 0.03125", "width = 99", "networks.attention.width is refused: width must be between 1/64 and 8"),
        (
            "vgg-att2-concat-pc",
            "vgg-att2-concat-pq",
            "networks.attention.architecture names 'vgg-att2-concat-pq', which"
            " is an unknown architecture; did you mean 'vgg-att2-concat-pc'?",
        ),
        *(
            ('architecture = "vgg-att2-concat-pc"', f'architecture = "vgg-att2-concat-pc"\n{line}', words)
            for line, words in (
                ('normalizer = "tvmx"', "networks.attention.normalizer is refused: .* did you mean 'tvmax'?"),
                ('normalizer = "tvmax:-1"', "networks.attention.normalizer is refused: the λ of 'tvmax' must be"),
                ('selection = "hrad"', "networks.attention.selection is refused: .* did you mean 'hard'?"),
                ('selection = "random"', "networks.attention.selection is refused: selection 'random' uses no scores"),
                ('selection = "top:4"', "networks.attention.set is refused: .* set sampler=gumbel-st in the recipe"),
            )
        ),
        ("epochs = 1", "sampler = 'exact'", "networks.attention.set is refused: the recipe's sampler has no effect"),
        ("epochs = 1", "epocs = 1", "networks.attention.set is refused: field of a recipe .* did you mean 'epochs'"),
        ("epochs = 1", "epochs = [1]", "networks.attention.set.epochs must be a text, a number, true or false"),
        ("npz:patterns.npz", "npy:patterns", "sources.patterns.data is refused: data set must be one of"),
        (
            'protocols = ["fixed", "few"]',
            'protocols = ["fixt"]',
            "targets.near.protocols names 'fixt', which is an unknown protocol; did you mean 'fixed'?",
        ),
        ('protocol = "official"', 'protocol = "official"\ndraws = 3', "protocols.fixed.protocol is refused: draws"),
        (
            'protocol = "official"',
            'protocol = "official"\nprobes = ["svm", "kn"]',
            "protocols.fixed.probes names 'kn', which is an unknown probe; did you mean 'knn'?",
        ),
        ('protocol = "official"', 'protocol = "official"\nprobes = []', "protocols.fixed"),
        ("shots = [1, 2]", "shot = [1, 2]", "protocols.few.shot is an unknown key; did you mean 'shots'?"),
        (
            'minuend = "attention"',
            'minuend = "atention"',
            r"comparisons\[0\].minuend names 'atention', which is an"
            " unknown network; did you mean 'attention'?",
        ),
        ('minuend = "attention"', 'minuend = "plain"', r"comparisons\[0\].subtrahend names 'plain@patterns', which is"),
        ('minuend = "attention"', 'minuend = "pixels"', r"comparisons\[0\].targets names 'far', on which pixels"),
        ('support = "above 0"', 'support = "over 0"', r"comparisons\[0\].support must be a side and points, such as"),
        ('support = "A-V"', 'support = "A-U"', r"hypotheses\[0\].support names 'A-U', which is an unknown comparison"),
        ("[networks.plain]", '[networks."a/b"]', "networks: 'a/b' cannot be a name"),
        ("[networks.plain]", "[networks.plain", "study.toml: not a TOML file"),
        ('weights = "pixels"', "", "networks.pixels needs 'architecture' to be trained, or existing 'weights'"),
        ('weights = "pixels"', 'weights = "pixels"\nwidth = 1', "networks.pixels.width is an unknown key"),
        (
            'name = "A-V"',
            'name = "A-V"\nprotocol = "few"',
            r"comparisons\[0\].targets names 'near', which is not"
            " evaluated by few, or not without 'shots'",
        ),
        ('name = "A-V"', 'name = "A-V"\nshots = 2', r"comparisons\[0\].targets names 'far', which is not evaluated by"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused_by_file_key_and_nearest_name(
    old: str, new: str, words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, (old, new))
    with pytest.raises(StudyError, match=words) as caught:
        read_study(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert_fails(l2a("study", path, "--out", tmp_path / "out"), 1, str(path))
    assert not (tmp_path / "out").exists()


def test_a_network_has_its_own_way_to_attend(tmp_path: Path) -> None:
    lines = 'architecture = "vgg-att2-concat-pc"\nselection = "top:04"\nnormalizer = "softmax"'
    sampler = "set = { epochs = 1, sampler = 'gumbel-st', batch_size = 16 }\n\n[networks.plain]"
    found = read_study(
        written(
            tmp_path,
            ('architecture = "vgg-att2-concat-pc"', lines),
            ("set = { epochs = 1, batch_size = 16 }\n\n[networks.plain]", sampler),
        )
    ).networks["attention"]
    assert found.selection == "top:4"
    assert ("selection", "top:4") in found.train
    smooth = 'architecture = "vgg-att2-concat-pc"\nnormalizer = "tvmax:0.10"'
    found = read_study(written(tmp_path, ('architecture = "vgg-att2-concat-pc"', smooth))).networks["attention"]
    assert ("normalizer", "tvmax:0.1") in found.train
    assert "selection" not in dict(found.train)


def test_a_network_of_pairs_has_its_own_rule_of_partners(tmp_path: Path) -> None:
    old = 'architecture = "vgg-att2-concat-pc"\n'
    new = 'architecture = "vgg-att2-concat-pc-co"\npartners = "set"\n'
    steps = plan_steps(read_study(written(tmp_path, (old, new)))).steps
    rules = {name: " --partners set " in step.command for name, step in steps.items() if name.startswith("extract/")}
    assert rules == {name: name.startswith("extract/attention") for name in rules}


def with_weights(folder: Path, *lines: str) -> Path:
    return written(folder, ('weights = "pixels"\n', "\n".join(lines) + "\n"))


def test_weights_that_are_there_are_named_by_bundle_glob_or_template(tmp_path: Path) -> None:
    bundled = "vgg-att2-concat-pc.cifar10-w025"
    for seed in (0, 5):
        (tmp_path / f"zoo-{seed}.safetensors").write_bytes((PRETRAINED / f"{bundled}.safetensors").read_bytes())
    study = read_study(with_weights(tmp_path, f'weights = ["{bundled}", "untrained:vgg@0.03125"]', "seeds = [3, 4]"))
    found = [(run.seed, run.given, run.width) for run in runs_of(study) if run.model == "pixels"]
    # The bundled network is of seed 0, which is not asked for.
    assert found == [(3, "untrained:vgg@0.03125", 16), (4, "untrained:vgg@0.03125", 16)]
    for item in ("zoo-0*.safetensors", "zoo-{seed}.safetensors", "zoo-0.safetensors", bundled):
        study = read_study(with_weights(tmp_path, f'weights = "{item}"', "seeds = [0]"))
        (run,) = [run for run in runs_of(study) if run.model == "pixels"]
        assert (run.seed, run.width) == (0, 256)


def test_a_tap_decides_levels_and_width(tmp_path: Path) -> None:
    plain = 'architecture = "vgg"\n'
    assert STUDY.count(plain) == 1
    study = read_study(written(tmp_path, (plain, f'{plain}tap = "local"\nlevels = ["L1"]\n')))
    assert {run.width for run in runs_of(study) if run.model == "plain@patterns"} == {256 // 32}
    work = plan_steps(study)
    assert "--levels L1 --tap local" in work.steps["extract/plain@patterns/seed-0/near"].command
    # att2 has 32 columns, and is reduced to the 8 of L1.
    assert "--widths 8" in work.steps["evaluate/attention@patterns/seed-0/near/fixed"].command
    study = read_study(written(tmp_path, (plain, f'{plain}tap = "local"\nlevels = ["head"]\n')))
    with pytest.raises(StudyError, match="levels names 'head'; the network has L1, L2, L3"):
        runs_of(study)
    with pytest.raises(StudyError, match="tap names 'locl', which is an unknown tap; did you mean 'local'"):
        read_study(written(tmp_path, (plain, f'{plain}tap = "locl"\n')))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['weights = "zoo-{seed}.safetensors"', "seeds = [5]"], "its card says seed 0, but its name says seed 5"),
        (['weights = "zoo-*.safetensors"'], "zoo-0.safetensors and zoo-5.safetensors are both of seed 0"),
        (['weights = "zoo-{seed}.safetensors"', "seeds = [1]"], "zoo-1.safetensors: no such file"),
        (['weights = "zu-*.safetensors"'], r"weights: no such file: zu-\*.safetensors"),
        (
            ['weights = ["pixels", "untrained:vgg@0.03125"]', "seeds = [0]"],
            "features of different widths; split them into two",
        ),
        (['weights = "study.toml.safetensors"'], "study.toml.safetensors: no such file"),
        (['weights = "broken.safetensors"'], "broken.safetensors: not an l2a-transfer weights file"),
        (['weights = "vgg-att2-concat-pc.cifar10-w0255"'], "did you mean 'vgg-att2-concat-pc.cifar10-w025'"),
        (['weights = "untrained:vgq"'], "weights: 'untrained:vgq' is refused"),
        (
            ['weights = "zoo-0.safetensors"', 'architecture = "vgg"'],
            "is vgg-att2-concat-pc of width 0.25 with softmax, not vgg of width 0.25 with softmax",
        ),
        (['weights = "zoo-0.safetensors"', 'sources = ["cifar100"]'], "was trained on cifar10, not on cifar100"),
    ],
)
def test_weights_that_are_not_what_the_file_says_are_refused(lines: list[str], words: str, tmp_path: Path) -> None:
    for seed in (0, 5):
        content = (PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors").read_bytes()
        (tmp_path / f"zoo-{seed}.safetensors").write_bytes(content)
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    text = STUDY + '\n[sources.cifar100]\ndata_dir = "data"\n'
    text = text.replace("width = 0.03125", 'width = 0.03125\nsources = ["patterns"]')
    path = written(tmp_path, ('weights = "pixels"\n', "\n".join(lines) + "\n"), text=text)
    with pytest.raises(StudyError, match=words):
        runs_of(read_study(path))


def test_a_network_of_several_sources_is_named_with_its_source(tmp_path: Path) -> None:
    more = '\n[sources.more]\ndata = "npz:others.npz"\n'
    with pytest.raises(StudyError, match="'attention', which has several sources; write attention@patterns or"):
        read_study(written(tmp_path, text=STUDY + more))
    changes = [
        ('minuend = "attention"', 'minuend = ["attention@patterns", "plain@patterns"]'),
        ('subtrahend = "plain"', 'subtrahend = ["attention@more", "plain@more"]'),
    ]
    (comparison,) = read_study(written(tmp_path, *changes, text=STUDY + more)).comparisons
    assert comparison.weights == {
        "attention@patterns": 0.5,
        "plain@patterns": 0.5,
        "attention@more": -0.5,
        "plain@more": -0.5,
    }
    assert comparison.title == "(attention@patterns + plain@patterns) / 2 − (attention@more + plain@more) / 2"


@pytest.mark.parametrize(
    ("bound", "low", "high", "holds"),
    [
        ("above 0", 0.001, 0.02, True),
        ("above 0", 0.0, 0.02, False),
        ("above -1.5", -0.01, 0.2, True),
        ("below 1", -0.3, 0.009, True),
        ("below 1", -0.3, 0.01, False),
    ],
)
def test_a_rule_holds_for_the_whole_interval(bound: str, low: float, high: float, holds: bool, tmp_path: Path) -> None:
    path = written(tmp_path, ('support = "above 0"', f'support = "{bound}"'))
    found = read_study(path).comparisons[0].support
    assert isinstance(found, Bound)
    assert found.holds((low, high)) is holds


def test_the_project_s_own_study_can_be_planned() -> None:
    study = read_study(ROOT / "benchmarks" / "study.toml")
    work = plan_steps(study)
    assert {run.given for run in work.runs if run.model == "attention@cifar10"} == {
        "vgg-att2-concat-pc.cifar10-w025",
        "zoo/vgg-att2-concat-pc.cifar10-w025.fast.seed-1.safetensors",
        "zoo/vgg-att2-concat-pc.cifar10-w025.fast.seed-2.safetensors",
    }
    plan = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for hypothesis in study.hypotheses:
        assert f"| {hypothesis.name.partition(',')[0]} |" in plan
    (h5,) = [comparison for comparison in study.comparisons if comparison.name == "H5-w050"]
    assert sorted(h5.weights.values()) == [-1, -1, 1, 1]
    assert h5.title == "(attention-w050@cifar10 + uniform@cifar10) − (uniform-w050@cifar10 + attention@cifar10)"


def test_the_example_of_the_documentation_can_be_planned(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    assert len(plan_steps(read_study(path)).steps) == 2 * 3 * (1 + 2 + 3) + 2 + 3


def test_the_documentation_has_every_key(tmp_path: Path) -> None:
    """Each table, asked for a key that it does not have, lists those that it has."""
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    for place in (
        "[sources.patterns]",
        "[targets.near]",
        "[protocols.few]",
        "[networks.plain]",
        "[[comparisons]]",
        "[[hypotheses]]",
    ):
        path = written(tmp_path, (place, f"{place}\nnothing = 1"))
        with pytest.raises(StudyError) as caught:
            read_study(path)
        keys = str(caught.value).partition("there are ")[2].split(", ")
        assert len(keys) > 3
        for key in keys:
            assert f"`{key}`" in page or f"`{key} = " in page, (place, key)
