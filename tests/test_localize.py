"""`localize` from pictures to a report: rows, controls, comparisons, masks that are written, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from l2a_transfer.data.masks import open_masks
from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import (
    ArgumentError,
    BackendError,
    DataError,
    EvaluationError,
    OutputExistsError,
    UnknownNameError,
)
from l2a_transfer.evaluation.groups import Source
from l2a_transfer.explain.registry import METHODS, register_map_method
from l2a_transfer.localization import pictures
from l2a_transfer.localization.compare import Measured, compare
from l2a_transfer.localization.localize import Localization, localize
from l2a_transfer.localization.mask_files import _names, masks_folder, writing_masks
from l2a_transfer.localization.results import LocalizationConfig, LocalizationResults, Row, read_localization
from l2a_transfer.localization.sheet import outline, sheet_of
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights
from l2a_transfer.report.localization import localization_markdown, localization_page
from tests.conftest import TINY, assert_fails, l2a

TRAINED = "vgg-att2-concat-pc.cifar10-w025"
EACH = 4


def bright_pictures(root: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """`root/images/CLASS/k.png` of dark noise with a bright rectangle, and `root/masks` with the rectangles."""
    rng = np.random.default_rng(0)
    for label in classes:
        for k in range(EACH):
            size = (48, 40) if k % 2 else (40, 56)  # (H, W)
            pixels = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
            top, left = rng.integers(4, 16, 2)
            mask = np.zeros(size, dtype=np.uint8)
            mask[top : top + 16, left : left + 12 + 4 * k] = 255
            pixels[mask > 0] += 180
            for folder, own in (("images", pixels), ("masks", mask)):
                path = root / folder / label / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(own).save(path)
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_pictures(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", autouse=True)
def bright() -> Iterator[None]:
    """Two map methods: one finds what is bright, the other what is dark, with evidence against the rest."""

    @register_map_method("bright", kind="non-negative", maps=("pixels",))
    def bright(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        return {"pixels": (images.mean(dim=1) > 0).float()}

    @register_map_method("dark", kind="signed", maps=("pixels",), class_specific=True)
    def dark(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"pixels": -images.mean(dim=1) * (1 + targets[:, None, None])}

    yield
    METHODS.remove("bright")
    METHODS.remove("dark")


def run(world: Path, *models: str, masks: str = "png:masks", **given: Any) -> Localization:
    kind, _, path = masks.partition(":")
    config = LocalizationConfig(**{"side": 40, **given})
    source = open_source(f"imagefolder:{world / 'images'}")
    return localize(models or (TINY,), source, open_masks(f"{kind}:{world / path}"), config, progress=False)


@pytest.fixture(scope="module")
def found(world: Path) -> Localization:
    return run(world, methods=("bright", "attention", "dark"))


def by_label(results: LocalizationResults) -> dict[str, Row]:
    return {row.label: row for row in results.rows}


def test_every_row_and_the_controls_are_measured(found: Localization) -> None:
    rows = by_label(found.results)
    own = [f"{what} of {TINY}" for what in ("bright pixels", "attention L2", "attention L3", "dark pixels")]
    assert list(rows) == [*own, "centre", "sobel", "random", "everything"]
    assert [row.control for row in rows.values()] == [False] * 4 + [True] * 4
    assert {row.images for row in rows.values()} == {2 * EACH}
    assert found.results.classes == ("cat", "dog")
    assert [row.target for row in rows.values()] == ["", "", "", "predicted", "", "", "", ""]


def test_a_map_that_is_the_mask_is_right_and_its_opposite_wrong(found: Localization) -> None:
    rows = by_label(found.results)
    right, wrong = rows[f"bright pixels of {TINY}"].measures, rows[f"dark pixels of {TINY}"].measures
    # The network takes pictures at another size, so that borders are a little off.
    assert right["jaccard"].mean > 0.9
    assert right["pixel_accuracy"].mean > 0.97
    assert right["pointing"].mean == 1
    assert right["energy"].mean > 0.9
    assert wrong["pointing"].mean == 0
    assert wrong["average_precision"].mean < found.results.foreground
    assert right["jaccard"].mean <= (rows[f"bright pixels of {TINY}"].oracle_jaccard or 0) + 1e-6


def test_everything_is_the_base_rate_exactly(found: Localization) -> None:
    row = by_label(found.results)["everything"]
    masks = [np.asarray(Image.open(path)) > 0 for path in Path(found.masks.name).rglob("*.png")]
    rate = float(np.mean([mask.mean() for mask in masks]))
    assert found.results.foreground == pytest.approx(rate)
    for name in ("jaccard", "pixel_accuracy", "average_precision", "energy", "jaccard_otsu", "jaccard_mass"):
        assert row.measures[name].mean == pytest.approx(rate, abs=1e-6), name
    pooled = sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)
    assert row.pooled_average_precision == pytest.approx(pooled)
    assert row.levels == (0.0, 0.0)


def test_comparisons_are_of_pairs_that_were_planned(found: Localization) -> None:
    families = [own.family for own in found.results.comparisons]
    assert families == ["controls"] * 4 + ["methods"] * 6
    best = next(own for own in found.results.comparisons if own.a.startswith("bright") and own.b == "centre")
    rows = by_label(found.results)
    expected = (
        rows[f"bright pixels of {TINY}"].measures["jaccard"].class_mean - rows["centre"].measures["jaccard"].class_mean
    )
    assert best.difference == pytest.approx(expected)
    assert "is better than centre on" in best.verdict
    assert "by foreground IoU" in best.verdict
    assert "This holds for this random initialization only." in best.verdict
    assert best.ci95_simultaneous is not None
    assert best.ci95_simultaneous[0] > 0
    assert best.p_adjusted == pytest.approx(min(1.0, 4 * (best.p or 0)))


def test_the_same_run_gives_the_same_numbers_and_batches_do_not_matter(
    world: Path, found: Localization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "BATCH", 1)
    again = run(world, methods=("bright", "attention", "dark"))
    for first, second in zip(found.results.rows, again.results.rows, strict=True):
        assert second.levels == first.levels
        for name, own in first.measures.items():
            assert second.measures[name].mean == pytest.approx(own.mean, abs=1e-4), (first.label, name)


def test_what_waits_for_thresholds_goes_to_a_file_and_a_full_disk_is_named(
    world: Path, found: Localization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2a_transfer.localization.lines.IN_MEMORY", 1)
    assert run(world, methods=("bright", "attention", "dark")).results.rows == found.results.rows

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with pytest.raises(OSError, match=re.escape(tempfile.gettempdir())):
        run(world, methods=("bright",))


def test_pictures_wait_for_their_size_within_limits(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "BATCH", 3)
    source, masks = open_source(f"imagefolder:{world / 'images'}"), open_masks(f"png:{world / 'masks'}")
    config = LocalizationConfig()
    chosen = pictures.selected(source, masks, config, None)
    sizes = [len(own) for own in pictures.batches(source, masks, chosen, config, 16)]
    assert sizes == [3, 3, 1, 1]
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1)
    sizes = [len(own) for own in pictures.batches(source, masks, chosen, config, 16)]
    assert sizes == [1] * 8


def test_the_class_that_maps_are_about(world: Path) -> None:
    same = {"cat": "frog"}
    for target, expected in (("true", {"cat": 6, "dog": 5}), ("truck", {"cat": 9, "dog": 9})):
        given = run(world, TRAINED, methods=("dark",), target=target, same_class=same)
        assert given.results.rows[0].target == target
        opened = given.lines[0].opened
        assert opened is not None
        asked = [pictures.Pictured(k, "", k, None, None) for k in range(2)]  # type: ignore[arg-type]
        assert opened.targets(asked, given.results.config, ("cat", "dog")) == list(expected.values())


def test_an_untrained_network_takes_the_class_names_of_the_others(world: Path) -> None:
    given = run(world, TRAINED, TINY, methods=("dark",), target="true")
    assert [row.model for row in given.results.rows[:2]] == [TRAINED, TINY]
    (pair,) = [own for own in given.results.comparisons if own.family == "models"]
    assert pair.population == "this weight file and this random initialization"


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"methods": ("cam",)}, BackendError, "no class activation map"),
        ({"methods": ("attenshun",)}, UnknownNameError, "did you mean 'attention'"),
        ({"methods": ()}, ArgumentError, "one or more distinct names"),
        ({"target": "cat"}, UnknownNameError, "class of untrained"),
        ({"same_class": {"cow": "cat"}}, UnknownNameError, "cow"),
        ({"side": 3}, ArgumentError, "side must be between 4"),
        ({"folds": 1}, ArgumentError, "folds must be at least 2"),
        ({"folds": 9}, DataError, "8 image"),
        ({"measure": "max_box_accuracy"}, ArgumentError, "needs boxes"),
        ({"measure": "jacard"}, UnknownNameError, "did you mean 'jaccard'"),
        ({"levels": ("L9",)}, UnknownNameError, "L9"),
        ({"methods": ("occlusion",), "options": {"occlusion": {"window": 99}}}, ArgumentError, "window"),
        ({"mask_class": "cat"}, UnknownNameError, "mask_class"),
        ({"mask_class": "7"}, DataError, "without foreground of class '7'"),
        ({"methods": ("dark",), "target": "true"}, DataError, "skip_unknown"),
    ],
)
def test_what_cannot_be_measured_is_said(world: Path, given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(world, **given)


def test_the_same_network_twice_is_refused(world: Path) -> None:
    with pytest.raises(ArgumentError, match="has the weights of"):
        run(world, TRAINED, str(Path(__file__).parents[1] / f"l2a_transfer/models/pretrained/{TRAINED}.safetensors"))


def test_a_method_that_only_some_networks_have_is_left_out_there(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = run(world, TINY, "untrained:vgg-gap@0.0625", methods=("attention", "cam"))
    own = [(row.model, row.method) for row in given.results.rows if not row.control]
    assert own == [(TINY, "attention"), (TINY, "attention"), ("untrained:vgg-gap@0.0625", "cam")]
    assert "vgg-gap has no attention" in caplog.text


def test_pictures_without_a_mask_or_an_object(tmp_path: Path) -> None:
    world = bright_pictures(tmp_path)
    (world / "masks" / "cat" / "0.png").unlink()
    Image.new("L", (56, 40)).save(world / "masks" / "dog" / "0.png")
    with pytest.raises(DataError, match=r"cat/0\.png has no mask"):
        run(world)
    (world / "images" / "cat" / "0.png").rename(world / "cat-0.png")
    with pytest.raises(DataError, match=r"dog/0\.png: a mask without foreground; `skip_unmasked=True`"):
        run(world)
    (world / "cat-0.png").rename(world / "images" / "cat" / "0.png")
    results = run(world, skip_unmasked=True).results
    assert results.images == 6
    assert results.skipped == {"without a mask": 1, "without an object in the mask": 1}
    Image.new("L", (40, 56), 255).save(world / "masks" / "dog" / "0.png")
    with pytest.raises(DataError, match="40 × 56 pixels, but its picture has 56 × 40"):
        run(world, skip_unmasked=True)  # a mask of another size is never left out


def test_too_few_with_an_object_for_a_threshold(tmp_path: Path) -> None:
    world = bright_pictures(tmp_path, ("cat",))
    for k in range(1, EACH):
        Image.fromarray(np.zeros_like(Image.open(world / f"masks/cat/{k}.png"))).save(world / f"masks/cat/{k}.png")
    with pytest.raises(DataError, match="too few"):
        run(world, skip_unmasked=True)


def test_boxes_alone_give_pointing_energy_and_boxes(world: Path, tmp_path: Path) -> None:
    lines = ["name,x1,y1,x2,y2"]
    for path in sorted((world / "masks").rglob("*.png")):
        rows, columns = np.nonzero(np.asarray(Image.open(path)))
        name = path.relative_to(world / "masks").as_posix()
        lines.append(f"{name},{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    source = open_source(f"imagefolder:{world / 'images'}")
    config = LocalizationConfig(methods=("bright",), side=40)
    results = localize([TINY], source, open_masks(f"csv:{tmp_path / 'boxes.csv'}"), config, progress=False).results
    row = results.rows[0]
    assert set(row.measures) == {"pointing", "pointing_near", "energy", "max_box_accuracy"}
    assert row.measures["max_box_accuracy"].mean == 1
    assert (row.oracle_jaccard, row.pooled_average_precision, row.levels) == (None, None, ())
    assert results.config.measure == "max_box_accuracy"
    assert "MaxBoxAccV2" in localization_markdown(results)


def test_a_validation_list_chooses_and_is_not_measured(world: Path) -> None:
    source, masks = open_source(f"imagefolder:{world / 'images'}"), open_masks(f"png:{world / 'masks'}")
    config = LocalizationConfig(methods=("bright",), side=40)
    listed = [name for name in source.ids if name.endswith("0.png")]
    found = localize([TINY], source, masks, config, validation=listed, progress=False)
    assert (found.results.images, found.results.choosing) == (6, 2)
    assert len(found.results.rows[0].levels) == 1
    with pytest.raises(DataError, match="no image with a mask has the name 'x'"):
        localize([TINY], source, masks, config, validation=["x"], progress=False)


# Seeds ----------------------------------------------------------------------------------------------------------------


def measured(architecture: str, seed: int, values: Any) -> Measured:
    card = {
        "name": f"{architecture}-{seed}",
        "config": {"architecture": architecture, "width": 0.25},
        "training": {"seed": seed, "recipe": {"epochs": 1}, "data": "x"},
    }
    label = f"attention L3 of {architecture}-{seed}"
    row = Row(
        label, f"{architecture}-{seed}", "attention", "L3", "signed", "", False, label, 8, {}, (), None, None, None
    )
    return Measured(row, Source(label, "x", card, label, tap="attention L3"), np.asarray(values, dtype=float))


def test_architectures_are_compared_over_their_seeds() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2, dtype=np.int32), 20)
    rows = [measured("pc", seed, 0.5 + 0.02 * seed + 0.05 * rng.random(40)) for seed in range(3)]
    rows += [measured("uniform", seed, 0.2 + 0.02 * seed + 0.05 * rng.random(40)) for seed in range(3)]
    found = compare(rows, labels, measure="jaccard", data="x")
    (over,) = [own for own in found if own.family == "seeds"]
    assert (over.a, over.b, over.n) == ("attention L3 of pc@0.25", "attention L3 of uniform@0.25", (3, 3))
    assert over.difference == pytest.approx(0.3, abs=0.01)
    assert "these two architectures as trained here (3 and 3 training seeds)" in over.verdict
    assert len([own for own in found if own.family == "models"]) == 15
    two = compare([row for row in rows if not row.row.model.endswith("2")], labels, measure="jaccard", data="x")
    assert not [own for own in two if own.family == "seeds"]  # two seeds say nothing of an architecture


def test_equal_maps_have_no_test() -> None:
    labels = np.zeros(4, dtype=np.int32)
    rows = [measured("pc", seed, [0.1, 0.2, 0.3, 0.4]) for seed in range(2)]
    (pair,) = compare(rows, labels, measure="jaccard", data="x")
    assert (pair.p, pair.ci95, pair.difference) == (None, None, 0)
    assert "no test, because the two are equal on every image" in pair.verdict


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written")
    arguments = ["--model", TINY, "--method", "bright,dark", "--side", "40", "--data", str(world / "images")]
    arguments += ["--masks", f"png:{world / 'masks'}", "--out", str(out / "r"), "--write-masks", str(out / "m")]
    result = l2a("-q", "localize", *arguments)
    assert result.exit_code == 0, result.output
    assert "bright pixels of" in result.stdout
    assert result.stdout.splitlines()[-1] == str(out / "r" / "report.md")
    return out


def test_the_document_is_read_as_it_was_written(written: Path, found: Localization, tmp_path: Path) -> None:
    results = read_localization(written / "r" / "localization.json")
    path = tmp_path / "again.json"
    path.write_text(json.dumps(results.document()))
    assert read_localization(path) == results
    path.write_text(json.dumps(found.results.document()))
    assert read_localization(path) == found.results


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema="l2a-results/1"), "schema"),
        (lambda d: d.pop("rows"), "'rows'"),
        (lambda d: d["rows"][0].update(images="many"), r"rows\[0\].images"),
        (lambda d: d["rows"][0]["measures"].update(beauty=1), "beauty"),
        (lambda d: d["rows"][0]["measures"]["jaccard"].update(ci95=[1]), "ci95"),
        (lambda d: d["comparisons"][0].update(p="small"), "p must be"),
        (lambda d: d["config"].pop("seed"), "seed"),
        (lambda d: d.update(extra=1), "extra"),
    ],
)
def test_another_document_is_refused_by_its_field(found: Localization, tmp_path: Path, change: Any, said: str) -> None:
    document = json.loads(json.dumps(found.results.document()))
    change(document)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    with pytest.raises(EvaluationError, match=said):
        read_localization(path)
    with pytest.raises(EvaluationError, match="nowhere"):
        read_localization(tmp_path / "nowhere.json")


def test_tables_of_rows_and_pictures(written: Path) -> None:
    results = read_localization(written / "r" / "localization.json")
    with open(written / "r" / "localization.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [row.label for row in results.rows]
    assert float(rows[0]["jaccard_class_mean"]) == results.rows[0].measures["jaccard"].class_mean
    assert rows[0]["max_box_accuracy"] == ""
    with open(written / "r" / "pictures.csv", newline="", encoding="utf-8") as file:
        own = [row for row in csv.DictReader(file) if row["row"] == results.rows[0].label]
    assert len(own) == 2 * EACH
    assert np.mean([float(row["jaccard"]) for row in own]) == pytest.approx(results.rows[0].measures["jaccard"].mean)
    with open(written / "r" / "comparisons.csv", newline="", encoding="utf-8") as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == [own.verdict for own in results.comparisons]


def test_the_page_shows_pictures_and_loads_nothing(written: Path) -> None:
    text = (written / "r" / "report.html").read_text(encoding="utf-8")
    assert text.count('<img src="data:image/png;base64,') == 6  # two each of eight pictures: best, median, worst
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert "Rendered from <code>localization.json</code>" in text
    assert "This is an upper bound, not a result" in text


def test_hostile_names_stay_text(world: Path, tmp_path: Path) -> None:
    odd = "<script>alert(1)</script>|`x`"
    rng = np.random.default_rng(0)
    images = {"all": (rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8), [odd, odd, "b", "b"])}
    source = open_source(images, name="<b>data</b>")
    for name in source.ids:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tri(32, dtype=np.uint8) * 255).save(path)
    given = localize([TINY], source, open_masks(f"png:{tmp_path}"), LocalizationConfig(side=32), progress=False)
    page, markdown = localization_page(given.results, sheet_of(given)), localization_markdown(given.results)
    assert "<script>" not in page + markdown
    assert "<b>data" not in page + markdown


STEERING = "a\x1b[2J\nb"


@pytest.mark.parametrize("kind", ["png", "voc", "yolo", "caltech", "csv", "coco"])
def test_hostile_names_of_masks_are_shown_as_text(kind: str, world: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    where = masks
    if kind == "csv":
        where = masks / "b.csv"
        where.write_text(f'cat/0.png,1,2,3,4\n"{STEERING}",1,2,3\n')
    elif kind == "coco":
        where = masks / "c.json"
        image = {"id": 1, "file_name": STEERING, "width": 1, "height": 1}
        where.write_text(json.dumps({"images": [image, image], "annotations": []}))
    else:
        ending = {"yolo": "txt", "caltech": "mat"}.get(kind, "png")
        for name in (f"x/{STEERING}", f"y/{STEERING}"):
            (masks / f"{name}.{ending}").parent.mkdir(exist_ok=True)
            (masks / f"{name}.{ending}").touch()
        for folder in ("x", "y"):
            save = tmp_path / "images" / folder / f"{STEERING}.png"
            save.parent.mkdir(parents=True)
            Image.new("L", (40, 40)).save(save)
    images = tmp_path / "images" if kind not in ("csv", "coco") else world / "images"
    run = ("--model", TINY, "--data", f"imagefolder:{images}", "--masks", f"{kind}:{where}", "--out", tmp_path / "r")
    result = l2a("-q", "localize", *run)
    assert_fails(result, 1, "line" if kind == "csv" else r"a\x1b[2J\nb")
    assert "\x1b" not in result.output
    assert result.stderr.count("\n") == 1


def test_masks_are_written_with_their_class(written: Path, world: Path) -> None:
    with open(written / "m" / "masks.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * EACH
    for row in rows:
        values = np.asarray(Image.open(written / "m" / row["file"]))
        truth = np.asarray(Image.open(world / "masks" / row["picture"])) > 0
        assert values.shape == truth.shape
        assert set(np.unique(values)) <= {0, int(row["index"])}
        assert 1 <= int(row["index"]) <= 10
        if row["row"].startswith("bright"):
            assert (truth == (values > 0)).mean() > 0.95
    again = open_masks(f"png:{written / 'm' / rows[0]['file'].split('/')[0]}")
    assert len(again.keys) == 2 * EACH


def test_masks_of_odd_names_stay_in_their_folder() -> None:
    assert _names(["../../x.png", "/etc/x", "a/b.jpg", "a/B.png", "..", "", "é/ä b.jpg"]) == [
        "x",
        "etc/x",
        "a/b",
        "a/B+2",
        "picture",
        "picture+2",
        "é/ä_b",
    ]


def test_masks_have_names_that_every_file_system_takes(tmp_path: Path) -> None:
    ids = ["鳥" * 400, "/".join(["é" * 90] * 40), "x.png/b", "x", "a/b", *(["!"] * 5000)]
    names = _names(ids)
    assert len({name.casefold() for name in names}) == len(ids)
    for name in names[:50]:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert len(str(tmp_path / names[1])) < 1200
    assert names[2:4] == ["x.png_/b", "x"]


def test_masks_of_networks_whose_names_are_folders_are_apart(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one's `x/` and the other's `x/cat/` would be one folder."""
    for k, name in enumerate(("x", "x/cat")):
        network, card = load_model(TINY, seed=k)
        own = dataclasses.replace(card, name=name, training={"seed": k})
        save_weights(network, own, tmp_path / f"{k}.safetensors")
    found = run(world, str(tmp_path / "0.safetensors"), str(tmp_path / "1.safetensors"), methods=("bright",))
    with masks_folder(tmp_path / "m", overwrite=False), writing_masks(found, tmp_path / "m"):
        pass
    assert len({path.relative_to(tmp_path / "m").parts[0] for path in tmp_path.glob("m/*/*/*.png")}) == 2
    assert len(list(tmp_path.glob("m/*/*/*.png"))) == 2 * 2 * EACH


@pytest.mark.parametrize("plant", ["row", "class", "file", "pipe"])
def test_masks_are_not_written_through_a_planted_link(
    plant: str, found: Localization, written: Path, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "m", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0.png").write_bytes(b"precious")
    row, label, name = next((written / "m").glob("*/*/0.png")).relative_to(written / "m").parts
    place = {"row": out / row, "class": out / row / label}.get(plant, out / row / label / name)
    place.parent.mkdir(parents=True)
    if plant == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(elsewhere / "0.png" if plant == "file" else elsewhere)
    with (
        masks_folder(out, overwrite=True),
        pytest.raises(OutputExistsError, match=r"is a (symbolic link|pipe), but (only a regular file|a folder)"),
        writing_masks(found, out),
    ):
        pass
    assert [path.name for path in elsewhere.iterdir()] == ["0.png"]
    assert (elsewhere / "0.png").read_bytes() == b"precious"
    assert [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()] == []


def test_masks_that_ctrl_c_stopped_leave_nothing_and_those_of_before_stay(
    found: Localization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m"

    def write(*, overwrite: bool = False) -> None:
        with masks_folder(out, overwrite=overwrite), writing_masks(found, out):
            pass

    drawn = list[int]()

    def third(*_: Any) -> bytes:
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return b"another"

    for before in (set[Path](), None):
        with monkeypatch.context() as patch:
            patch.setattr("l2a_transfer.localization.mask_files.mask_png", third)
            drawn.clear()
            with pytest.raises(KeyboardInterrupt):
                write(overwrite=before is None)
        if before is not None:
            assert not out.exists()
            write()
    assert len(list(out.rglob("*.png"))) == 3 * 2 * EACH + 2 * EACH
    assert b"another" not in {path.read_bytes() for path in out.rglob("*.png")}
    assert (out / "masks.csv").is_file()


def test_outputs_are_kept_unless_replaced(written: Path, world: Path, tmp_path: Path) -> None:
    arguments = ["--model", TINY, "--method", "bright", "--side", "40", "--data", str(world / "images")]
    arguments += ["--masks", f"png:{world / 'masks'}"]
    assert_fails(
        l2a("-q", "localize", *arguments, "--out", written / "r"), 1, "localization.json: exists", "--overwrite"
    )
    other = ("--out", tmp_path / "new", "--write-masks", written / "m")
    assert_fails(l2a("-q", "localize", *arguments, *other), 1, "masks.csv: exists", "--overwrite")
    assert not (tmp_path / "new").exists()
    done = l2a("-q", "localize", *arguments, "--out", tmp_path / "json", "--json")
    assert json.loads(done.stdout) == {
        key: value
        for key, value in json.loads((tmp_path / "json" / "localization.json").read_text()).items()
        if key != "files"
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--option", "window=3"], "METHOD.NAME=VALUE"),
        (["--same-class", "cat"], "LABEL=CLASS"),
        (["--masks", "pgn:x"], "--masks must be one of png:FOLDER"),
        (["--side", "3"], "--side must be between"),
        (["--measure", "jacard"], "--measure must be one of"),
        (["--method", "occlusion", "--option", "occlusion.windw=3"], "did you mean 'window'"),
    ],
)
def test_misuse_exits_with_2_and_names_the_option(world: Path, tmp_path: Path, options: list[str], said: str) -> None:
    arguments = ["--model", TINY, "--data", str(world / "images"), "--masks", f"png:{world / 'masks'}", *options]
    assert_fails(l2a("-q", "localize", *arguments, "--out", tmp_path / "r"), 2, said)
    assert not (tmp_path / "r").exists()


def test_an_outline_is_the_edge_of_the_mask() -> None:
    mask = np.zeros((5, 5), dtype=bool)
    mask[1:4, 1:4] = True
    expected = mask.copy()
    expected[2, 2] = False
    assert np.array_equal(outline(mask), expected)
    assert np.array_equal(outline(np.ones((2, 2), dtype=bool)), np.ones((2, 2), dtype=bool))


def test_nothing_here_imports_torch_before_maps_are_computed() -> None:
    code = """
import sys
import l2a_transfer.localization.localize, l2a_transfer.localization.mask_files, l2a_transfer.report.localization
import l2a_transfer.data.masks as masks
list(masks.MASKS)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_network_is_left_as_it_was(world: Path) -> None:
    random = torch.random.get_rng_state()
    run(world, methods=("bright", "grad-cam"))
    assert torch.equal(torch.random.get_rng_state(), random)
