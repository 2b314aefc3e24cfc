"""The verb explain: its maps are those of `map_batch`, drawn at the picture's resolution, stored and described."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from l2a_transfer import explain_images
from l2a_transfer.errors import ArgumentError, BackendError, UnknownNameError
from l2a_transfer.explain.compute import kept_bytes, map_batch
from l2a_transfer.explain.dispatch import AT_ONCE, explain_stream
from l2a_transfer.explain.figures import explain_sheet, overlay_file, sheet_row
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.painting import FORMATS, Style, blended, scale_of, state_of
from l2a_transfer.explain.question import Asked, Question
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.explain.store import open_maps
from l2a_transfer.explain.targets import class_index
from l2a_transfer.explain.write import file_stem, seen_region
from l2a_transfer.models.loading import load_model
from l2a_transfer.preprocess import Preprocess, normalize
from tests.conftest import TINY, assert_fails, l2a, save_picture

MODEL = "vgg-att2-concat-pc.cifar10-w025"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def noise(seed: int, W: int = 40, H: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8))


def maps_of(values: Any, kind: Any = "non-negative") -> ImageMaps:
    array = np.array(values, dtype=np.float32)
    return ImageMaps("p", np.zeros((8, 8, 3), np.uint8), {"L3": array}, {"L3": kind}, method="toy")


# Classes --------------------------------------------------------------------------------------------------------------


def test_a_class_is_a_name_before_it_is_a_number() -> None:
    assert class_index("predicted", CLASSES, 10) is None
    assert class_index("cat", CLASSES, 10) == class_index(3, CLASSES, 10) == class_index("3", CLASSES, 10) == 3
    assert class_index("1", ("0", "2", "1"), 3) == 2
    assert class_index("7", (), 10) == 7
    with pytest.raises(
        UnknownNameError, match=r"class must be one of airplane, .*; got 'aeroplane'; did you mean 'airpl"
    ):
        class_index("aeroplane", CLASSES, 10)
    with pytest.raises(ArgumentError, match="target must be between 0 and 9, got 10"):
        class_index(10, CLASSES, 10)
    with pytest.raises(ArgumentError, match="these weights do not name their classes; got 'cat'"):
        class_index("cat", (), 10)
    with pytest.raises(ArgumentError, match="target 'crane' is the name of the classes 0 and 2; give the number"):
        class_index("crane", ("crane", "cat", "crane"), 3)
    for wrong in (True, 1.5, None):
        with pytest.raises(TypeError, match="target must be 'predicted', the name of a class, or its number"):
            class_index(wrong, CLASSES, 10)  # type: ignore[arg-type]


# From Python ----------------------------------------------------------------------------------------------------------


def test_maps_are_those_of_the_normalised_images_whatever_else_is_in_the_batch() -> None:
    network, card = load_model(MODEL)
    pictures = [noise(0), noise(1, 32, 40), noise(2)]  # two sizes
    found = explain_images((network, card), pictures, method=["attention", "grad-cam"], target="cat", side=32)
    assert [(maps.name, maps.method) for maps in found] == [
        (f"image {k}", method) for k in range(3) for method in ("attention", "grad-cam")
    ]
    for k, picture in enumerate(pictures):
        images_u8 = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None]
        images = normalize(images_u8, *card.preprocess.statistics())
        probabilities = network(images).detach().softmax(dim=1)[0]
        attention, cam = found[2 * k], found[2 * k + 1]
        assert np.array_equal(attention.image, np.asarray(picture))
        for maps, method, targets in ((attention, "attention", None), (cam, "grad-cam", [3])):
            expected = map_batch(network, images, method=method, targets=targets)
            assert maps.kinds == expected.kinds
            for level, values in expected.maps.items():
                np.testing.assert_allclose(maps.maps[level], values[0], rtol=1e-3, atol=1e-7)
            assert maps.predicted == int(probabilities.argmax())
            assert maps.predicted_name == CLASSES[int(probabilities.argmax())]
            assert maps.predicted_probability == pytest.approx(float(probabilities.max()), rel=1e-4)
        assert (cam.target, cam.class_name) == (3, "cat")
        assert cam.probability == pytest.approx(float(probabilities[3]), rel=1e-4)
        assert (attention.target, attention.class_name, attention.probability) == (None, None, None)


def test_each_picture_has_its_own_class() -> None:
    pictures = [noise(k) for k in range(3)]
    given = explain_images(MODEL, pictures, target=["dog", 4, "predicted"], side=32)
    assert [maps.target for maps in given] == [5, 4, given[2].predicted]
    alone = explain_images(MODEL, pictures[1], target=4, side=32)[0]
    np.testing.assert_allclose(given[1].maps["L3"], alone.maps["L3"], rtol=1e-3, atol=1e-6)


def test_more_pictures_than_fit_into_a_batch_come_in_their_order() -> None:
    network, card = load_model(TINY)
    taken: list[int] = []

    def pictures() -> Any:
        for k in range(2 * AT_ONCE + 1):
            taken.append(k)
            yield Asked(str(k), noise(k, 16 + 16 * (k % 2), 16), None)

    stream = explain_stream(network, card.preprocess, (), pictures(), Question(("centre",), 16))
    first, (maps,) = next(stream)
    assert (first.name, maps.name, len(taken)) == ("0", "0", AT_ONCE)
    assert [one.name for one, _ in stream] == [str(k) for k in range(1, 2 * AT_ONCE + 1)]


def test_as_extracted_explains_the_pixels_of_an_extraction() -> None:
    network, card = load_model(TINY)
    for fit in ("stretch", "crop"):
        own = replace(card, preprocess=Preprocess(fit=fit))
        picture = noise(0, 90, 50)
        (maps,) = explain_images((network, own), picture, method="saliency", side=None)
        assert np.array_equal(maps.image, own.preprocess.pixels(picture).transpose(1, 2, 0))
        assert seen_region(picture, own.preprocess, None).shape == ((50, 90, 3) if fit == "stretch" else (50, 50, 3))
        assert seen_region(picture, own.preprocess, 32).shape == (50, 90, 3)
    assert np.array_equal(seen_region(picture, own.preprocess, None), np.asarray(picture)[:, 20:70])


@pytest.mark.parametrize(
    "architecture", ["vgg-att2-concat-dp", "vgg-att2-indep-pc", "vgg-att1-add", "vgg-gap", "vgg-dsna"]
)
def test_evidence_is_complete_and_says_so(architecture: str) -> None:
    (maps,) = explain_images(f"untrained:{architecture}@0.0625", noise(0), side=32)
    assert maps.completeness is not None
    assert maps.completeness < 1e-5
    if architecture == "vgg-att2-concat-dp":
        (some,) = explain_images(f"untrained:{architecture}@0.0625", noise(0), side=32, levels=["L3"])
        assert some.completeness is None  # one of two levels adds up to nothing that was promised


@pytest.mark.slow
def test_the_error_of_integrated_gradients_falls_with_the_steps() -> None:
    errors = [
        explain_images(
            MODEL, noise(0), method="integrated-gradients", side=32, options={"integrated-gradients": {"steps": steps}}
        )[0].completeness
        for steps in (1, 30)
    ]
    assert errors[0] > 2 * errors[1] > 0  # type: ignore[operator]
    network, card = load_model(MODEL)
    (maps,) = explain_images((network, card), noise(0), method="integrated-gradients", side=32)
    images = normalize(torch.from_numpy(maps.image.transpose(2, 0, 1).copy())[None], *card.preprocess.statistics())
    with torch.no_grad():
        change = (network(images) - network(torch.zeros_like(images)))[0, maps.target]
    assert maps.completeness == pytest.approx(abs(maps.maps["pixels"].sum() - float(change)), abs=1e-4)


def test_what_cannot_be_asked_for() -> None:
    picture = noise(0)
    with pytest.raises(
        UnknownNameError, match=r"method must be one of attention, .*; got 'gradcam'; did you mean 'grad-c"
    ):
        explain_images(TINY, picture, method="gradcam")
    with pytest.raises(ArgumentError, match="method must be one or more distinct methods; got saliency, saliency"):
        explain_images(TINY, picture, method=["saliency", "saliency"])
    with pytest.raises(ArgumentError, match="method must be one or more distinct methods; got none"):
        explain_images(TINY, picture, method=[])
    with pytest.raises(ArgumentError, match="target must be one class, or one per picture, 1; got 2"):
        explain_images(TINY, picture, target=[1, 2])
    with pytest.raises(ArgumentError, match="target is for methods that explain one class; attention, sobel does not"):
        explain_images(TINY, picture, method=["attention", "sobel"], target=3)
    with pytest.raises(ArgumentError, match="levels are for methods with a map per level"):
        explain_images(TINY, picture, method="saliency", levels=["L3"])
    with pytest.raises(ArgumentError, match="options of occlusion were given, but the method is not used"):
        explain_images(TINY, picture, options={"occlusion": {"window": 3}})
    with pytest.raises(UnknownNameError, match="option of occlusion must be one of window, stride, baseline"):
        explain_images(TINY, picture, method="occlusion", options={"occlusion": {"windows": 3}})
    with pytest.raises(BackendError, match=r"^image 0: vgg-att2-concat-pc has no class activation map"):
        explain_images(TINY, picture, method="cam", side=32)
    with pytest.raises(BackendError, match=r"^image 0 and 2 more pictures: vgg has no attention"):
        explain_images("untrained:vgg@0.0625", [noise(k) for k in range(3)], method="attention", side=32)


def test_logits_that_are_not_finite_are_refused() -> None:
    network, card = load_model("untrained:vgg@0.0625")
    with torch.no_grad():
        network.classifier.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(BackendError, match="logits that are not finite; use other weights"):
        explain_images((network, card), noise(0), method="centre", side=32)


# Drawing --------------------------------------------------------------------------------------------------------------


def test_a_map_that_says_nothing_is_called_so() -> None:
    flat = np.full((4, 4), 0.25, np.float32)
    assert state_of(np.zeros((2, 2), np.float32)) == "zero"
    assert state_of(flat) == state_of(-flat) == "uniform"
    flat[0, 0] *= 1.0009
    assert state_of(flat) == "uniform"
    flat[0, 0] = 0.2503 * 1.001
    assert state_of(flat) == ""
    assert state_of(np.array([[-1e-9, 1e-9]], np.float32)) == ""


def test_the_scale_says_what_the_strongest_colour_is() -> None:
    values = np.array([[0, 0, 0, 0.5]], np.float32)
    assert scale_of(values, "distribution") == "peak 4 × mean"
    assert scale_of(values, "non-negative") == "max 0.5"
    assert scale_of(np.array([[-0.75, 0.5]], np.float32), "signed") == "±0.75"
    assert scale_of(np.full((2, 2), 0.25, np.float32), "distribution") == "uniform, 0.25"
    assert scale_of(np.zeros((2, 2), np.float32), "signed") == "zero"


def test_colours_begin_at_the_grey_picture_and_are_as_strong_for_as_against() -> None:
    picture = np.full((1, 3, 3), 100, np.uint8)
    style = Style(smooth=False, alpha=1.0)
    against, nothing, favour = blended(picture, np.array([[-2, 0, 2]], np.float32), "signed", style)[0].astype(int)
    assert tuple(nothing) == (100, 100, 100)
    assert against[2] > against[0]  # blue
    assert favour[0] > favour[2]  # red
    half = blended(picture, np.array([[0, 0, 2]], np.float32), "non-negative", replace(style, alpha=0.5))[0, 2]
    whole = blended(picture, np.array([[0, 0, 2]], np.float32), "non-negative", style)[0, 2].astype(int)
    assert np.abs(half - (whole + 100) / 2).max() <= 0.5
    for values in (np.zeros((2, 2)), np.full((2, 2), 3.0)):
        assert (blended(picture, values.astype(np.float32), "non-negative", style) == 100).all()


def test_smooth_interpolates_and_otherwise_each_pixel_has_its_position() -> None:
    picture, values = np.zeros((8, 8, 3), np.uint8), np.array([[0, 1], [0, 0]], np.float32)
    blocks = blended(picture, values, "non-negative", Style(smooth=False))
    assert (blocks[:4, 4:] == blocks[0, 7]).all()
    assert (blocks[:, :4] == 0).all()
    smooth = blended(picture, values, "non-negative", Style(smooth=True))
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > 4


def test_a_png_has_the_pixels_of_the_picture_and_says_what_it_shows() -> None:
    picture = np.asarray(noise(0, 50, 30))
    maps = replace(maps_of([[0, 1], [0, 0]]), target=3, class_name="cat", probability=0.25)
    with Image.open(io.BytesIO(overlay_file(picture, maps, "L3", Style(), "png"))) as drawn:
        assert drawn.size == (50, 30)
        assert drawn.text["Description"] == "toy L3 of cat 25 %; strongest colour: max 1"  # type: ignore[attr-defined]
        assert drawn.info["dpi"][0] == pytest.approx(300, abs=0.1)
        assert np.array_equal(np.asarray(drawn), blended(picture, maps.maps["L3"], "non-negative", Style()))


@pytest.mark.parametrize(("value", "word"), [(0.0, "zero"), (1.0, "uniform")])
def test_an_overlay_of_nothing_says_so_in_the_picture(value: float, word: str) -> None:
    picture = np.full((60, 90, 3), 100, np.uint8)
    maps = maps_of(np.full((3, 3), value))
    content = overlay_file(picture, maps, "L3", Style(), "png")
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert drawn.shape == picture.shape
    assert (drawn[:5] == 100).all()
    assert (drawn[25:35].max(axis=2) > 200).any()  # the letters
    assert word.encode() in content


@pytest.mark.parametrize("format", FORMATS)
def test_figures_are_whole_the_same_again_and_literal(format: str) -> None:
    picture = np.asarray(noise(0))
    evil = "$x_{2}$ <script> \\frac & 猫 \u202e" + "long" * 40
    maps = [
        replace(maps_of([[0, 1], [0, 0]]), name=evil, predicted=1, predicted_name="$ox$", predicted_probability=0.5),
        replace(maps_of(np.zeros((2, 2)), "signed"), name=evil, method="other", target=2, probability=0.1),
    ]
    signs = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    drawn = [explain_sheet([sheet_row(picture, maps, Style())] * 2, Style(), format, title=evil) for _ in range(2)]
    assert drawn[0] == drawn[1]
    for content in (drawn[0], overlay_file(picture, maps[0], "L3", Style(), format)):
        assert content.startswith(signs[format])
        assert b"<script>" not in content or format == "png"


def test_a_sheet_is_as_wide_as_a_column_or_a_page() -> None:
    picture = np.asarray(noise(0))
    for methods, inches in ((3, 3.3), (4, 6.9), (12, 13 * 0.74 + 0.06)):
        maps = [replace(maps_of([[0, 1], [0, 0]]), method=f"m{k}") for k in range(methods)]
        content = explain_sheet([sheet_row(picture, maps, Style())], Style(dpi=100), "png", title="t")
        with Image.open(io.BytesIO(content)) as sheet:
            assert sheet.width == pytest.approx(100 * inches, abs=1)


def test_styles_that_cannot_be() -> None:
    with pytest.raises(UnknownNameError, match=r"cmap must be one of .*; got 'virdis'; did you mean 'viridis'"):
        Style(cmap="virdis")
    with pytest.raises(UnknownNameError, match="format must be one of png, pdf, svg; got 'jpg'"):
        Style(formats=("jpg",))
    with pytest.raises(ArgumentError, match=r"alpha must be above 0 and at most 1, got 1\.5"):
        Style(alpha=1.5)
    with pytest.raises(ArgumentError, match="dpi must be between 30 and 2400, got 3"):
        Style(dpi=3)
    assert Style(cmap="viridis_r").cmap == "viridis_r"


def test_a_name_that_could_leave_the_folder_stays_in_it() -> None:
    assert file_stem(1, "../../etc/pass\\wd\n\u202e.png", of=2) == "001-pass_wd__"
    assert file_stem(12345, "a", of=20000) == "12345-a"
    assert len(file_stem(0, "ä" * 300, of=1).encode()) <= 124


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_overlays_a_sheet_a_store_and_what_they_say(tmp_path: Path) -> None:
    paths = [save_picture(tmp_path / "in" / f"{k}.jpg", k, size) for k, size in enumerate([(40, 48), (70, 50)])]
    out, store = tmp_path / "out", tmp_path / "maps.h5"
    run = ("-q", "explain", "--model", MODEL, "--method", "attention,grad-cam", "--side", "32", "--class", "cat")
    result = l2a(*run, "--out", out, "--store", store, tmp_path / "in")
    assert result.exit_code == 0, result.output
    overlays = [
        f"00{k}-{k}-{m}-{level}.png" for k in range(2) for m in ("attention", "grad-cam") for level in ("L2", "L3")
    ]
    assert sorted(p.name for p in out.iterdir()) == sorted([*overlays, "sheet.png", "explain.json"])
    assert result.stdout.splitlines()[-4:] == [
        f"8 overlays in {out}",
        str(out / "sheet.png"),
        str(out / "explain.json"),
        str(store),
    ]
    found = json.loads((out / "explain.json").read_text())
    assert found["schema"] == "l2a-explain/1"
    assert (found["class"], found["side"], found["model"]) == ("cat", 32, MODEL)
    expected = explain_images(MODEL, paths, method=["attention", "grad-cam"], target="cat", side=32)
    with open_maps(store) as stored:
        assert stored.ids == ("0.jpg", "1.jpg")
        assert stored.targets.tolist() == [3, 3]
        assert [(c.method, c.name, c.kind) for c in stored.columns] == [
            ("attention", "L2", "distribution"),
            ("attention", "L3", "distribution"),
            ("grad-cam", "L2", "non-negative"),
            ("grad-cam", "L3", "non-negative"),
        ]
        for k, image in enumerate(found["images"]):
            with Image.open(paths[k]) as picture, Image.open(out / overlays[4 * k]) as overlay:
                assert picture.size == overlay.size == tuple(image["size"])
                assert image["sha256"] == hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()
            assert [m["method"] for m in image["methods"]] == ["attention", "grad-cam"]
            assert [m["class"] for m in image["methods"]] == [None, "cat"]
            assert [name for m in image["methods"] for own in m["maps"] for name in own["files"]] == overlays[
                4 * k : 4 * k + 4
            ]
            for maps in expected[2 * k : 2 * k + 2]:
                for level, values in maps.maps.items():
                    np.testing.assert_allclose(stored.read(k, maps.method, level), values, rtol=1e-3, atol=1e-7)
            np.testing.assert_allclose(
                stored.probabilities[k], [expected[2 * k + 1].probability, image["predicted_probability"]], rtol=1e-3
            )
    inspected = json.loads(l2a("inspect", "--json", "--verify", store).stdout)
    assert (inspected["kind"], inspected["images"], len(inspected["maps"])) == ("maps", 2, 4)
    for name in ("explain.json", "sheet.png", overlays[3]):
        for other in out.iterdir():
            other.unlink()
        (out / name).write_text("someone's own")
        assert_fails(l2a(*run, "--out", out, tmp_path / "in"), 1, f"{name}: exists", "--overwrite")
    assert_fails(l2a(*run, "--out", tmp_path / "new", "--store", store, paths[0]), 1, "maps.h5: exists", "--overwrite")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "a.jpg")
    run = ("-q", "explain", "--model", TINY, "--method", "evidence,random", "--side", "32", tmp_path / "in")
    for name in "xy":
        result = l2a(*run, "--format", "png,pdf,svg", "--out", tmp_path / name, "--store", tmp_path / f"{name}.h5")
        assert result.exit_code == 0, result.output
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()
    names = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert len(names) == 3 * 5 + 1
    for name in names:
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes(), name


def test_the_true_class_is_that_of_the_data_set(tmp_path: Path) -> None:
    for label in ("dog", "cat"):
        save_picture(tmp_path / "set" / label / "0.jpg", len(label))
    run = ("-q", "explain", "--model", MODEL, "--side", "32", "--no-overlays", "--sheet", "0", "--class", "true")
    result = l2a(*run, "--data", f"imagefolder:{tmp_path / 'set'}", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {image["name"]: image["methods"][0]["class"] for image in found["images"]} == {
        "cat/0.jpg": "cat",
        "dog/0.jpg": "dog",
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explain.json"]
    assert found == json.loads((tmp_path / "out" / "explain.json").read_text())
    result = l2a(*run, "--out", tmp_path / "new", tmp_path / "set" / "dog" / "0.jpg")
    assert_fails(result, 1, "0.jpg: has no label", "use --data with labels")
    (tmp_path / "set" / "cat").rename(tmp_path / "set" / "cats")
    result = l2a(*run, "--data", f"imagefolder:{tmp_path / 'set'}", "--out", tmp_path / "new")
    assert_fails(result, 2, "--class must be one of airplane", "got 'cats'; did you mean 'cat'?")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--method", "gradcam"], 2, ("--method must be one of attention", "did you mean 'grad-cam'?")),
        (["--method", "evidence,cam"], 1, ("has no class activation map", "use grad-cam or evidence")),
        (["--class", "ct"], 2, ("--class must be one of", "did you mean 'cat'?")),
        (["--class", "12"], 2, ("must be between 0 and 9, got 12",)),
        (["--side", "2"], 2, ("--side must be between 4 and 1024 pixels, got 2",)),
        (["--side", "0"], 2, ("--side must be between 4 and 1024 pixels, got 0",)),
        (["--side", "32", "--as-extracted"], 2, ("cannot be used together",)),
        (["--method", "occlusion", "--option", "occlusion.window=33"], 2, ("occlusion.window must be between 1 and",)),
        (["--method", "occlusion", "--option", "occlusion.widow=3"], 2, ("did you mean 'window'?",)),
        (["--method", "occlusion", "--option", "window=3"], 2, ("--option must be like occlusion.window=16",)),
        (["--method", "occlusion", "--option", "occlusion.window=x"], 2, ("must be of type int",)),
        (["--option", "occlusion.window=3"], 2, ("options of occlusion were given, but the method is not used",)),
        (["--levels", "L7"], 2, ("level must be one of L2, L3, all; got 'L7'",)),
        (["--cmap", "infernal"], 2, ("--cmap must be one of", "did you mean 'inferno'?")),
        (["--format", "png,tiff"], 2, ("--format must be one of png, pdf, svg; got 'tiff'",)),
        (["--alpha", "0"], 2, ("--alpha must be above 0",)),
        (["--store", "maps.npz"], 2, ("--store must be the name of an HDF5 file, such as maps.h5; got 'maps.npz'",)),
        (["--store", "{out}"], 1, ("is the folder of the drawings", "choose another --store")),
    ],
)
def test_what_the_command_refuses_before_it_writes(
    arguments: list[str], code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    picture, out = save_picture(tmp_path / "a.jpg"), tmp_path / "out"
    side = () if "--side" in arguments or "--as-extracted" in arguments else ("--side", "32")
    given = [argument.format(out=out) for argument in arguments]
    assert_fails(l2a("-q", "explain", "--model", MODEL, "--out", out, *side, *given, picture), code, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg"]


def test_pictures_are_needed_and_two_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert_fails(
        l2a("explain", "--model", TINY, "--out", tmp_path / "out"), 2, "name images, folders of images, or --data"
    )
    picture = save_picture(tmp_path / "x" / "a.jpg")
    run = ("-q", "explain", "--model", TINY, "--method", "sobel", "--side", "32", "--no-overlays", "--json")
    result = l2a(*run, "--out", tmp_path / "out", picture, picture, "--store", tmp_path / "m.h5")
    assert result.exit_code == 0, result.output
    assert [image["name"] for image in json.loads(result.stdout)["images"]] == ["x/a.jpg", "x/a.jpg (2)"]


def test_every_method_can_be_drawn(tmp_path: Path) -> None:
    picture, out = save_picture(tmp_path / "a.jpg"), tmp_path / "out"
    fewer = [
        "--option",
        "smoothgrad.samples=2",
        "--option",
        "integrated-gradients.steps=2",
        "--option",
        "occlusion.stride=8",
    ]
    run = ("-q", "explain", "--model", "untrained:vgg-gap@0.0625", "--side", "32", *fewer, "--out", out, picture)
    names = [name for name in METHODS if name != "attention"]
    result = l2a(*run, "--method", ",".join(names))
    assert result.exit_code == 0, result.output
    (image,) = json.loads((out / "explain.json").read_text())["images"]
    assert [own["method"] for own in image["methods"]] == names
    assert [own["method"] for own in image["methods"] if own["completeness_error"] is not None] == [
        "evidence",
        "integrated-gradients",
    ]


def test_a_batch_that_does_not_fit_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, card = load_model(TINY)
    pictures = [noise(k) for k in range(4)]
    whole = explain_images((network, card), pictures, method=["evidence", "saliency"], side=32)
    attend = type(network).attend

    def small(self: Any, images: torch.Tensor, partners: Any = None) -> Any:
        if len(images) > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
        return attend(self, images, partners)

    monkeypatch.setattr(type(network), "attend", small)
    parts = explain_images((network, card), pictures, method=["evidence", "saliency"], side=32)
    for one, other in zip(whole, parts, strict=True):
        assert (one.target, one.method) == (other.target, other.method)
        for name, values in one.maps.items():
            np.testing.assert_allclose(other.maps[name], values, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["grad-cam", "evidence"])
def test_a_batch_that_the_memory_does_not_suffice_for_is_split_before_the_kernel_ends_the_process(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = load_model(TINY)
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = map_batch(network, images, method=method, targets=[0] * 6).maps
    each = kept_bytes(network, images) // (1 if METHODS[method].gradients else 4)
    assert each > 1000
    monkeypatch.setattr("l2a_transfer.explain.compute.SMALL", 1)
    sizes = list[int]()
    network.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    monkeypatch.setattr("l2a_transfer.explain.compute.usable_memory", lambda: 2 * 2 * each)
    found = map_batch(network, images, method=method, targets=[0] * 6).maps
    assert max(sizes, default=0) <= 2
    for level, values in expected.items():
        np.testing.assert_allclose(found[level], values, atol=1e-5)
    monkeypatch.setattr("l2a_transfer.explain.compute.usable_memory", lambda: each - 1)
    with pytest.raises(BackendError, match="the maps of one image of 64 × 64 pixels do not fit into memory"):
        map_batch(network, images, method=method, targets=[0] * 6)
