"""Group maps of pictures: by brute force from the network's features, and the control that is said and stored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from l2a_transfer import explain_images
from l2a_transfer.errors import ArgumentError, BackendError, DataError
from l2a_transfer.explain.dispatch import AT_ONCE
from l2a_transfer.explain.figures import overlay_file, sheet_row
from l2a_transfer.explain.painting import Style
from l2a_transfer.explain.store import open_maps
from l2a_transfer.models.loading import load_model
from l2a_transfer.preprocess import normalize
from tests.conftest import TINY, assert_fails, l2a, save_picture

MODEL = "vgg-att2-concat-pc.cifar10-w025"
SIZES = ((40, 32), (32, 40), (40, 32), (32, 32))


def noise(seed: int) -> Image.Image:
    W, H = SIZES[seed % len(SIZES)]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8))


def brute_force(model: str, pictures: list[Image.Image], n: int, members: list[int], level: str) -> np.ndarray:
    """The cosines of a picture's features with the mean direction of the members, picture by picture."""
    network, card = load_model(model)

    def features(k: int) -> tuple[np.ndarray, np.ndarray]:
        images_u8 = torch.from_numpy(np.asarray(pictures[k]).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found = network.attend(normalize(images_u8, *card.preprocess.statistics()))
        return found.local[level][0].double().numpy(), found.g_a[level][0].double().numpy()

    def unit(x: np.ndarray) -> np.ndarray:
        return np.asarray(x / np.linalg.norm(x, axis=0))

    template = np.mean([unit(g_a) - unit(local.mean(axis=(1, 2))) for local, g_a in map(features, members)], axis=0)
    return np.einsum("chw,c->hw", unit(features(n)[0]), unit(template))


def class_folders(root: Path, *classes: str, each: int = 2) -> Path:
    for c, name in enumerate(classes):
        for k in range(each):
            save_picture(root / name / f"{k}.png", 10 * c + k, SIZES[k % 2])
    return root


@pytest.mark.slow
def test_the_maps_are_those_of_the_other_pictures_of_the_class_whatever_their_sizes() -> None:
    pictures = [noise(k) for k in range(7)]
    groups = ["cat", "dog", "cat", "dog", "bus", "bus", "cat"]
    found = explain_images(MODEL, pictures, method="centre", side=32, groups=groups, control_seed=1)
    assert [(maps.name, maps.method) for maps in found] == [
        (f"image {k}", method) for k in range(7) for method in ("centre", "group", "group-control")
    ]
    for n in range(7):
        plain, own, control = found[3 * n : 3 * n + 3]
        assert (plain.template, own.template) == (None, groups[n])
        assert control.template in set(groups) - {groups[n]}
        for maps in (own, control):
            members = [k for k in range(7) if groups[k] == maps.template and k != n]
            assert maps.template_images == len(members)
            assert (maps.target, maps.predicted) == (None, plain.predicted)
            assert maps.kinds == {"L2": "signed", "L3": "signed"}
            for level, values in maps.maps.items():
                expected = brute_force(MODEL, pictures, n, members, level)
                np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)


def test_more_pictures_than_fit_into_a_batch_are_one_group() -> None:
    pictures = [noise(4 * k) for k in range(2 * AT_ONCE + 1)]
    groups = ["a", "b", "a"] * (len(pictures) // 3)
    found = explain_images(TINY, pictures, method="centre", side=32, levels=["L3"], groups=groups)
    assert len(found) == 3 * len(pictures)
    for n in (0, AT_ONCE, 2 * AT_ONCE):
        members = [k for k, name in enumerate(groups) if name == groups[n] and k != n]
        expected = brute_force(TINY, pictures, n, members, "L3")
        assert list(found[3 * n + 1].maps) == ["L3"]
        np.testing.assert_allclose(found[3 * n + 1].maps["L3"], expected, rtol=1e-3, atol=1e-4)


def test_the_seed_chooses_the_control() -> None:
    pictures, groups = [noise(k) for k in range(8)], list("aabbccdd")

    def controls(seed: int) -> list[str | None]:
        found = explain_images(TINY, pictures, method="centre", side=32, groups=groups, control_seed=seed)
        return [maps.template for maps in found if maps.method == "group-control"]

    assert len({tuple(controls(seed)) for seed in range(6)}) > 1
    assert controls(3) == controls(3)


def test_uniform_attention_has_no_group_maps_to_admire() -> None:
    found = explain_images(
        "untrained:vgg-att2-concat-uniform@0.0625", [noise(k) for k in range(4)], side=32, groups=["a", "a", "b", "b"]
    )
    assert all((values == 0).all() for maps in found if maps.template for values in maps.maps.values())


def test_what_cannot_be_asked_for() -> None:
    pictures = [noise(k) for k in range(4)]
    for groups, words in (
        (["a", "a", "a", "b"], "needs the other pictures of a class, but 'b' has one picture"),
        (["a"] * 4, "needs another class, but all pictures are of 'a'; add pictures of other classes"),
    ):
        with pytest.raises(DataError, match=words):
            explain_images(TINY, pictures, side=32, groups=groups)
    with pytest.raises(DataError, match="a group map needs pictures, but there are none"):
        explain_images(TINY, [], side=32, groups=[])
    with pytest.raises(ArgumentError, match="groups must have one entry per picture, 4; got 3"):
        explain_images(TINY, pictures, groups=["a", "a", "b"])
    for wrong in ("aabb", [0, 0, 1, 1]):
        with pytest.raises(TypeError, match="groups must be a list with the name of the class of each picture"):
            explain_images(TINY, pictures, groups=wrong)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="vgg-gap has no attention, so it has no group maps; use a vgg-att"):
        explain_images("untrained:vgg-gap@0.0625", pictures, side=32, groups=["a", "a", "b", "b"])


def test_features_that_are_not_finite_are_refused() -> None:
    network, card = load_model(TINY)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(BackendError, match="group maps that are not finite; use other weights"):
        explain_images((network, card), [noise(0)] * 4, method="centre", side=32, groups=["a", "a", "b", "b"])


def test_a_batch_that_does_not_fit_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    network, card = load_model(TINY)
    pictures, groups = [noise(4 * k) for k in range(5)], ["a", "b", "a", "b", "b"]
    whole = explain_images((network, card), pictures, method="centre", side=32, groups=groups)
    attend = type(network).attend

    def small(self: Any, images: torch.Tensor, partners: Any = None) -> Any:
        if len(images) > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
        return attend(self, images, partners)

    monkeypatch.setattr(type(network), "attend", small)
    parts = explain_images((network, card), pictures, method="centre", side=32, groups=groups)
    for one, other in zip(whole, parts, strict=True):
        assert (one.method, one.template) == (other.method, other.template)
        for name, values in one.maps.items():
            np.testing.assert_allclose(other.maps[name], values, rtol=1e-3, atol=1e-5)


# Drawing --------------------------------------------------------------------------------------------------------------


def test_drawings_name_the_class_of_each_template_literally() -> None:
    evil = "$x_{2}$ <b>\u202e"
    found = explain_images(
        TINY, [noise(k) for k in range(4)], method="centre", side=32, levels=["L3"], groups=[evil, evil, "dog", "dog"]
    )
    centre, own, control = sheet_row(found[0].image, found[:3], Style()).cells
    assert own[1:3] != control[1:3]
    assert (own[1], control[1]) == ("group L3", "group-control L3")
    assert control[2].startswith("dog ±")
    assert "\u202e" not in own[2]
    assert "dog" not in centre[2]
    content = overlay_file(found[2].image, found[2], "L3", Style(), "png")
    assert b"group-control L3 of 2 pictures of dog; strongest colour" in content
    assert b"<b>" not in overlay_file(found[1].image, found[1], "L3", Style(), "svg")


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_groups_by_folder_and_says_and_stores_both_maps(tmp_path: Path) -> None:
    pictures = class_folders(tmp_path / "in", "bus", "cat", "dog")
    out, store = tmp_path / "out", tmp_path / "maps.h5"
    run = ("-q", "explain", "--model", MODEL, "--method", "grad-cam", "--levels", "L3", "--side", "32", "--group")
    result = l2a(*run, "--control-seed", "7", "--out", out, "--store", store, pictures)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "explain.json").read_text())
    controls = {name: own["control"] for name, own in found["group"]["classes"].items()}
    assert found["group"]["control_seed"] == 7
    assert set(controls) == set(controls.values()) == {"bus", "cat", "dog"}
    assert all(own["images"] == 2 and own["control"] != name for name, own in found["group"]["classes"].items())
    paths = sorted(pictures.glob("*/*.png"))
    expected = explain_images(
        MODEL, paths, method="grad-cam", levels=["L3"], side=32, groups=[p.parent.name for p in paths], control_seed=7
    )
    with open_maps(store) as stored:
        assert stored.verify() > 0
        assert [(c.method, c.name, c.kind, c.options) for c in stored.columns] == [
            ("grad-cam", "L3", "non-negative", {}),
            ("group", "L3", "signed", {}),
            ("group-control", "L3", "signed", {"control_seed": 7}),
        ]
        assert json.loads(stored.meta.fingerprint["group"]) == found["group"]
        for k, image in enumerate(found["images"]):
            cam, own, control = image["methods"]
            name = paths[k].parent.name
            assert "template" not in cam
            assert own["template"] == {"class": name, "images": 1}
            assert control["template"] == {"class": controls[name], "images": 2}
            for maps, written in zip(expected[3 * k : 3 * k + 3], image["methods"], strict=True):
                assert maps.method == written["method"]
                values = stored.read(k, maps.method, "L3")
                np.testing.assert_allclose(values, maps.maps["L3"], rtol=1e-3, atol=1e-5)
                assert written["maps"][0]["max"] == float(values.max())
                (file,) = written["maps"][0]["files"]
                assert (out / file).is_file()
    assert len(list(out.iterdir())) == 3 * 6 + 2
    (out / "explain.json").unlink()
    (out / "sheet.png").unlink()
    for path in out.glob("*-grad-cam-*"):
        path.unlink()
    assert_fails(l2a(*run, "--out", out, pictures), 1, "group-L3.png: exists", "--overwrite")


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    pictures = class_folders(tmp_path / "in", "cat", "dog")
    for name in "xy":
        run = ("-q", "explain", "--model", TINY, "--side", "32", "--group", "--out", tmp_path / name)
        result = l2a(*run, "--format", "png,svg", "--store", tmp_path / f"{name}.h5", pictures)
        assert result.exit_code == 0, result.output
    for path in [*(tmp_path / "x").iterdir(), tmp_path / "x.h5"]:
        other = Path(str(path).replace(f"{os.sep}x", f"{os.sep}y"))
        assert path.read_bytes() == other.read_bytes(), path.name


def test_the_class_is_the_label_of_a_data_set_and_the_network_need_not_know_it(tmp_path: Path) -> None:
    pictures = class_folders(tmp_path / "in", "teapot", "violin")
    run = ("-q", "explain", "--model", TINY, "--side", "32", "--no-overlays", "--sheet", "0", "--group", "--json")
    result = l2a(*run, "--data", f"imagefolder:{pictures}", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    templates = [[own["template"]["class"] for own in image["methods"][1:]] for image in found["images"]]
    assert templates == [["teapot", "violin"]] * 2 + [["violin", "teapot"]] * 2
    result = l2a(*run[:-1], "--data", f"imagefolder:{pictures}", "--out", tmp_path / "table")
    assert "1 image of teapot" in result.stdout
    assert "2 images of violin" in result.stdout
    mixed = l2a(*run, "--data", f"imagefolder:{pictures}", "--out", tmp_path / "mixed", pictures / "violin" / "0.png")
    assert json.loads(mixed.stdout)["group"]["classes"]["violin"]["images"] == 3
    plain = l2a(*[word for word in run if word != "--group"], "--out", tmp_path / "plain", pictures)
    assert "group" not in json.loads(plain.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{in}/cat"], 1, ("needs another class, but all pictures are of 'cat'", "add pictures of other classes")),
        (["{in}/cat", "{in}/dog/0.png"], 1, ("'dog' has one picture", "add pictures of it, or remove it")),
        (["--data", "imagefolder:{in}/cat"], 1, ("has no label", "use --data with labels", "omit --group")),
        (["{in}", "--levels", "L1"], 2, ("level must be one of L2, L3; got 'L1'",)),
        (["{in}", "--side", "2"], 2, ("--side must be between 4 and 1024 pixels, got 2",)),
        (["{in}", "--control-seed", "-1"], 2, ("--control-seed",)),
        (["{in}", "--model", "untrained:vgg-gap@0.0625"], 1, ("vgg-gap has no attention, so it has no group maps",)),
    ],
)
def test_what_the_command_refuses_before_it_writes(
    arguments: list[str], code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    pictures = class_folders(tmp_path / "in", "cat", "dog")
    given = [argument.replace("{in}", str(pictures)) for argument in arguments]
    run = ("-q", "explain", "--model", MODEL, "--side", "32", "--group", "--out", tmp_path / "out")
    assert_fails(l2a(*run, "--store", tmp_path / "m.h5", *given), code, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
