"""Bad input, verb by verb: exit 1 with the path, what was wrong and what to do; every earlier file stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from l2a_transfer.errors import nearest
from l2a_transfer.models.weights import CARD_KEY, PRETRAINED, read_card
from tests.conftest import TINY, assert_fails, l2a, save_picture
from tests.feature_files import feature_set, labels_of, save
from tests.test_backends import foreign_model
from tests.test_cli import in_fresh_process
from tests.test_decode import png_header
from tests.test_store import changed

BUNDLED = PRETRAINED / "vgg-att2-concat-pc.cifar10-w025.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad input, and with outputs that earlier commands have left."""
    root = tmp_path_factory.mktemp("bad input")
    for number in range(4):
        save_picture(root / "photos" / "cat" / f"{number}.jpg", seed=number)
        save_picture(root / "photos" / "dog" / f"{number}.jpg", seed=10 + number)
    for name in ("corrupt", "truncated", "huge", "text", "lonely"):
        shutil.copytree(root / "photos", root / name)
    picture = (root / "photos/cat/1.jpg").read_bytes()
    (root / "corrupt/cat/1.jpg").write_bytes(picture[:20] + zlib.compress(picture))
    (root / "truncated/cat/1.jpg").write_bytes(picture[: len(picture) // 2])
    (root / "huge/cat/1.png").write_bytes(png_header(40_000, 40_000))
    (root / "text/cat/1.jpg").write_text("no picture")
    save_picture(root / "lonely/owl/1.jpg")
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("mine")
    _feature_files(root)
    _weights(root)
    (root / "foreign.onnx").write_bytes(foreign_model().SerializeToString())
    (root / "junk.onnx").write_bytes(b"junk" * 50)
    for name, files in {"report": "results.json", "sheet": "attention.png", "run": "checkpoint.pt"}.items():
        (root / name).mkdir()
        (root / name / files).write_text("an earlier output")
    (root / "network.onnx").write_bytes(b"an earlier output")
    return root


def _feature_files(root: Path) -> None:
    features = feature_set(labels_of(2, 12))
    good = save(root / "good.h5", features)
    content = bytearray(good.read_bytes())
    (root / "truncated.h5").write_bytes(content[:-100])
    (root / "incomplete.h5").write_bytes(bytes(512) + content[512:])
    content[len(content) // 2] ^= 1
    (root / "bit.h5").write_bytes(content)

    def schema(file: h5py.File) -> None:
        file.attrs["schema"] = "l2a-features/9"

    def link(file: h5py.File) -> None:
        del file["features"]
        file["features"] = h5py.ExternalLink(str(good), "/features")

    def nan(file: h5py.File) -> None:
        file["features"][3, 0] = np.nan

    for change in (schema, link, nan):
        changed(save(root / f"{change.__name__}.h5", features), change)


def _weights(root: Path) -> None:
    card = json.dumps(read_card(BUNDLED).to_json())
    for name, change in (
        ("missing", lambda tensors: tensors.pop("attention.L2.u")),
        ("extra", lambda tensors: tensors.update(spare=torch.zeros(3))),
    ):
        tensors = load_file(BUNDLED)
        change(tensors)
        save_file(tensors, root / f"{name}.safetensors", metadata={CARD_KEY: card})
    (root / "truncated.safetensors").write_bytes(BUNDLED.read_bytes()[:-10])
    save_file(load_file(BUNDLED), root / "foreign.safetensors")


def snapshot(root: Path) -> dict[str, str]:
    """Every path below `root` with the SHA-256 of its content."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in root.rglob("*")
    }


EXTRACT = f"extract --model {TINY} --data"
CASES = [
    # what there is to read
    (f"{EXTRACT} imagefolder:nowhere --out new.h5", "nowhere: no such folder", "one subfolder of pictures per class"),
    (f"{EXTRACT} imagefolder:notes.txt --out new.h5", "notes.txt: not a folder", "subfolder of pictures"),
    (f"{EXTRACT} imagefolder:empty --out new.h5", "empty: no pictures in it", "put some there"),
    (f"{EXTRACT} imagefolder:corrupt --out new.h5", "corrupt/cat/1.jpg: not a picture", "replace the file"),
    (f"{EXTRACT} imagefolder:truncated --out new.h5", "truncated/cat/1.jpg: corrupt or truncated", "replace the file"),
    (f"{EXTRACT} imagefolder:text --out new.h5", "text/cat/1.jpg: not a picture", "replace the file"),
    (f"{EXTRACT} imagefolder:huge --out new.h5", "huge/cat/1.png", "1600000000 pixels", "make it smaller"),
    (f"{EXTRACT} imagefolder:corrupt --out good.h5 --overwrite", "corrupt/cat/1.jpg", "replace the file"),
    ("extract --model pixels --data imagefolder:corrupt --out new.h5", "corrupt/cat/1.jpg", "replace the file"),
    (f"maps --model {TINY} --out new photos/cat/1.jpg corrupt/cat/1.jpg", "corrupt/cat/1.jpg", "replace the file"),
    (f"maps --model {TINY} --out new huge/cat/1.png", "huge/cat/1.png", "1600000000 pixels", "make it smaller"),
    (f"maps --model {TINY} --out new nowhere.jpg", "nowhere.jpg: cannot be read", "replace the file"),
    # feature files
    ("svm-eval lonely.h5 --out new", "lonely.h5: stratified needs at least 2 images", "'owl' (1)", "add images"),
    ("svm-eval nowhere.h5 --out new", "nowhere.h5: no such file", "l2a-transfer extract"),
    ("svm-eval photos --out new", "photos: is a folder", "name the feature files"),
    *[
        (f"{command} {name}.h5{rest}", f"{name}.h5: {words}", "extract it again")
        for command, rest in (("svm-eval good.h5", " --out new"), ("inspect", ""))
        for name, words in (
            ("truncated", "truncated"),
            ("incomplete", "incomplete"),
            ("bit", "changed since it was written"),
            ("schema", "its schema must be 'l2a-features/1', got 'l2a-features/9'"),
            ("link", "/features is a soft or external link"),
        )
    ],
    ("svm-eval good.h5 nan.h5 --out new", "nan.h5: /features: 1 of 24 rows is not finite", "extract it again"),
    ("inspect --verify nan.h5", "nan.h5: features that are not finite", "extract it again"),
    (f"{EXTRACT} imagefolder:photos --out bit.h5 --resume", "bit.h5: changed since it was written", "--overwrite"),
    ("svm-eval notes.txt --out new", "notes.txt: not a feature file", "l2a-transfer extract"),
    # weights and networks
    *[
        (command.format(f"{name}.safetensors"), f"{name}.safetensors: {words}", "use another copy")
        for command in (
            "extract --model {} --data digits --out new.h5",
            "export --model {} --out new.onnx",
            "maps --model {} --out new photos/cat/1.jpg",
        )
        for name, words in (
            ("missing", "the tensors do not fit the card's network: missing attention.L2.u"),
            ("extra", "the tensors do not fit the card's network: extra spare"),
            ("truncated", "damaged"),
            ("foreign", "not an l2a-transfer weights file"),
            ("nowhere", "cannot be read"),
        )
    ],
    *[
        (command, f"{name}.onnx: {words}", "l2a-transfer export")
        for name, words in (("foreign", "an ONNX file of another program"), ("junk", "not an ONNX file, or corrupt"))
        for command in (f"extract --model {name}.onnx --data digits --out new.h5", f"inspect {name}.onnx")
    ],
    (
        "maps --model foreign.onnx --out new photos/cat/1.jpg",
        "foreign.onnx: is an ONNX file",
        "use a weights file instead",
    ),
    # a device that is not there
    (f"{EXTRACT} digits --out new.h5 --device cuda", "'cuda' was requested", "use --device cpu"),
    ("extract --model pixels --data digits --out new.h5 --device cuda", "'cuda' was requested", "use --device cpu"),
    # an output that exists, or a path that cannot be one
    (f"{EXTRACT} imagefolder:photos --out good.h5", "good.h5: exists", "--overwrite replaces it"),
    (f"{EXTRACT} imagefolder:photos --out photos --overwrite", "photos: is a folder", "name a file"),
    (f"{EXTRACT} imagefolder:photos --out notes.txt/new.h5", "notes.txt", "choose another path"),
    ("svm-eval good.h5 --out report", "report/results.json: exists", "--overwrite replaces the report"),
    ("svm-eval good.h5 --out notes.txt/new", "notes.txt: Not a directory", "choose another path"),
    ("svm-eval good.h5 --out notes.txt", "notes.txt: is a file", "choose another --out"),
    (f"export --model {TINY} --out network.onnx", "network.onnx: exists", "--overwrite replaces it"),
    (f"maps --model {TINY} --out sheet photos/cat/1.jpg", "sheet/attention.png: exists", "--overwrite replaces it"),
    (f"maps --model {TINY} --out notes.txt photos/cat/1.jpg", "notes.txt: is a file", "choose another --out"),
    ("quickstart --out report", "report/results.json: exists", "--overwrite replaces"),
    ("quickstart --out sheet", "sheet/attention.png: exists", "--overwrite replaces"),
    ("quickstart --out notes.txt", "notes.txt: is a file", "choose another --out"),
    ("inspect nowhere.h5", "nowhere.h5: ", "check the spelling"),
    ("inspect photos", "photos: ", "name a file"),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_exits_1_with_path_reason_and_remedy_and_changes_nothing(
    case: tuple[str, ...], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if "lonely.h5" in case[0] and not Path("lonely.h5").exists():
        assert l2a(*f"{EXTRACT} imagefolder:lonely --out lonely.h5".split()).exit_code == 0
    before = snapshot(world)
    assert_fails(l2a(*case[0].split()), 1, *case[1:])
    assert snapshot(world) == before


def test_a_folder_in_the_place_of_an_onnx_file_is_refused_by_its_own_name(world: Path) -> None:
    (world / "folder.onnx").mkdir()
    assert_fails(l2a("export", "--model", TINY, "--out", world / "folder.onnx", "--overwrite"), 1, "is a folder")
    (world / "folder.onnx").rmdir()


def test_an_output_that_cannot_be_written_is_known_before_the_svms_are_fitted(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2a_transfer.evaluation.evaluate.evaluate_files", lambda *_, **__: pytest.fail("fitted"))
    assert_fails(l2a("svm-eval", world / "good.h5", "--out", world / "notes.txt" / "new"), 1, "notes.txt")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert_fails(l2a("svm-eval", world / "good.h5", "--out", world / "new"), 1, "Permission denied", "choose another")
    assert not (world / "new").exists()


def test_after_a_damaged_picture_is_taken_away_the_same_command_works(tmp_path: Path) -> None:
    for number in range(3):
        save_picture(tmp_path / "in" / "cat" / f"{number}.jpg", seed=number)
    bad = tmp_path / "in" / "cat" / "3.jpg"
    bad.write_text("no picture")
    command = ("extract", "--model", TINY, "--data", f"imagefolder:{tmp_path / 'in'}", "--out", tmp_path / "f.h5")
    assert_fails(l2a(*command), 1, "3.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    bad.unlink()
    assert l2a(*command).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("extract --model pixels --data digits --precision fp3 --out f.h5", "did you mean 'fp32'"),
        ("extract --model pixels --data digits --levels pixel --out f.h5", "did you mean 'pixels'"),
        ("extract --model pixels --data CIFAR10 --out f.h5", "did you mean 'cifar10'"),
        ("extract --model VGG-ATT2-CONCAT-PC --data digits --out f.h5", "did you mean 'vgg-att2-concat-pc'"),
        ("extract --model nothing.like.it --data digits --out f.h5", "unknown model 'nothing.like.it'. Models are"),
        (
            "extract --model mine.pth --data digits --out f.h5",
            "such as torchvision:resnet18, and pass the file as --weights",
        ),
        ("extract --model untrained:vgg@wide --data digits --out f.h5", "untrained:ARCH[@WIDTH]"),
        ("extract --model pixels --data imagefolder: --out f.h5", "needs a path after the colon"),
        ("extract --model pixels --data npz: --out f.h5", "for example npz:photos.npz"),
        ("extract --model pixels --data digits --seed -1 --out f.h5", "--seed"),
        ("svm-eval f.h5 --c-grid 1e300,1 --out s", "between 1e-10 and 1e10"),
    ],
)
def test_misuse_exits_2_and_says_what_is_valid(arguments: str, words: str) -> None:
    assert_fails(l2a(*arguments.split()), 2, words)


def test_the_nearest_name_does_not_depend_on_case() -> None:
    assert nearest("CIFAR10", ["mnist", "cifar10"]) == "cifar10"
    assert nearest("imagenette", ["Imagenette"]) == "Imagenette"
    assert nearest("zzz", ["cifar10"]) is None


@pytest.mark.parametrize("option", ["--precision bf16", "--tap ga-bn-relu", "--backend onnxruntime"])
def test_pixels_refuse_options_that_would_do_nothing(option: str, tmp_path: Path) -> None:
    arguments = f"extract --model pixels --data digits {option} --out".split()
    assert_fails(l2a(*arguments, tmp_path / "f.h5"), 1, "leave out")


def l2a_process(arguments: str, tmp_path: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m l2a_transfer {arguments}"
    return subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False, **options
    )  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    done = l2a_process("datasets | true", tmp_path, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps file names in UTF-8")
def test_a_file_name_that_is_not_utf8_stands_in_the_report_as_json_has_it(tmp_path: Path) -> None:
    save(tmp_path / os.fsdecode(b"f\xff.h5"), feature_set(labels_of(2, 12)))
    done = l2a_process("svm-eval *.h5 --out report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert '"file": "f\\udcff.h5"' in (tmp_path / "report" / "results.json").read_text(encoding="utf-8")


def test_only_our_own_log_is_shown() -> None:
    code = """
import logging
from click.testing import CliRunner
from l2a_transfer.cli.main import main
CliRunner().invoke(main, ["datasets"])
names = ("l2a_transfer.quickstart", "onnxscript", "torch")
print([logging.getLogger(name).isEnabledFor(logging.INFO) for name in names])
"""
    assert in_fresh_process(code).strip() == "[True, False, False]"


def test_foreign_model_is_a_valid_onnx_file() -> None:
    onnx.checker.check_model(foreign_model())
