"""Masks and boxes of every format: what is read, how it is matched with pictures, and what is refused by name."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from l2a_transfer.data.masks import MASKS, NoObjectError, match, open_masks, without_ending
from l2a_transfer.data.polygons import filled, from_runs, unpacked
from l2a_transfer.data.readers import open_source
from l2a_transfer.documents import memory_of, parse
from l2a_transfer.errors import ArgumentError, DataError, L2AError, MemoryLimitError, UnknownNameError
from l2a_transfer.localization.boxes import best_overlaps, overlaps

SIZE = (6, 4)
W, H = SIZE
SQUARE = np.zeros((H, W), dtype=bool)
SQUARE[1:3, 2:5] = True


def save(path: Path, values: NDArray[Any], mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8) if values.dtype != bool else values)
    (image.convert(mode) if mode else image).save(path)
    return path


def in_palette(path: Path, values: NDArray[Any]) -> Path:
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([x for k in range(256) for x in (k * 7 % 256, 255 - k, k * 3 % 256)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def fails(masks: Any, *said: str, key: str = "", size: tuple[int, int] = SIZE, wanted: str | None = None) -> None:
    with pytest.raises(L2AError) as caught:
        masks.read(key or masks.keys[0], size, wanted)
    for text in said:
        assert text in str(caught.value)


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "gif"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_everything_but_black_is_the_object(tmp_path: Path, ending: str, mode: str) -> None:
    save(tmp_path / f"a.{ending}", SQUARE * np.uint8(255), mode)
    masks = open_masks(f"png:{tmp_path}")
    found = masks.read(f"a.{ending}", SIZE, None)
    assert np.array_equal(found.foreground, SQUARE)
    assert not found.ignored.any()
    assert found.outlined
    assert found.boxes.shape == (0, 4)


def test_small_values_and_16_bits_are_objects_too(tmp_path: Path) -> None:
    save(tmp_path / "low.png", SQUARE * np.uint8(1))
    Image.fromarray(SQUARE.astype(np.uint16) * 300).save(tmp_path / "wide.png")
    masks = open_masks(f"png:{tmp_path}")
    for key, wanted in (("low.png", "1"), ("wide.png", "300"), ("wide.png", None)):
        assert np.array_equal(masks.read(key, SIZE, wanted).foreground, SQUARE)
    fails(masks, "wide.png", "without foreground of class '1'", key="wide.png", wanted="1")


def test_the_masks_that_ship_fit_their_pictures(tmp_path: Path) -> None:
    source, masks = open_source("airplanes-mini", limit=4), open_masks("airplanes-mini")
    keys = match(source.ids, masks)
    for row, name in enumerate(source.ids):
        key = keys[name]
        width, height = source.image(row).size
        found = masks.read(key, (width, height), None)
        assert 0.05 < found.foreground.mean() < 0.6
        fails(masks, f"{key}: the mask has {width} × {height} pixels", key=key, size=(width, height + 1))
    for wrong in ("airplanes-mini:", f"airplanes-mini:{tmp_path}", "airplanes"):
        with pytest.raises(ArgumentError, match=r"caltech:FOLDER, airplanes-mini; got"):
            open_masks(wrong)


def test_voc_palettes_with_classes_and_what_is_ignored(tmp_path: Path) -> None:
    values = np.zeros((H, W), dtype=np.uint8)
    values[1:3, 2:5], values[0, 0], values[3] = 8, 15, 255
    in_palette(tmp_path / "a.png", values)
    masks = open_masks(f"voc:{tmp_path}")
    whole = masks.read("a.png", SIZE, None)
    assert np.array_equal(whole.foreground, (values == 8) | (values == 15))
    assert np.array_equal(whole.ignored, values == 255)
    assert np.array_equal(masks.read("a.png", SIZE, "cat").foreground, SQUARE)
    assert np.array_equal(masks.read("a.png", SIZE, "8").foreground, SQUARE)
    fails(masks, "a.png", "class 'dog'", wanted="dog")
    with pytest.raises(UnknownNameError, match="did you mean 'cat'"):
        masks.read("a.png", SIZE, "cta")
    assert open_masks(f"png:{tmp_path}").read("a.png", SIZE, None).foreground[3].all()  # there 255 is an object


@pytest.mark.parametrize("size", [(4, 6), (12, 8), (6, 5)])
def test_a_mask_of_another_size_names_both(tmp_path: Path, size: tuple[int, int]) -> None:
    save(tmp_path / "a.png", SQUARE)
    fails(open_masks(f"png:{tmp_path}"), str(tmp_path / "a.png"), "6 × 4", f"{size[0]} × {size[1]}", size=size)


def test_no_foreground_is_told_from_damage(tmp_path: Path) -> None:
    save(tmp_path / "empty.png", SQUARE & False)
    (tmp_path / "text.png").write_text("no picture")
    whole = save(tmp_path / "cut.png", SQUARE).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    Image.fromarray(SQUARE * np.uint8(255)).save(tmp_path / "lossy.png", format="JPEG")
    masks = open_masks(f"png:{tmp_path}")
    with pytest.raises(NoObjectError, match=r"empty\.png: a mask without foreground"):
        masks.read("empty.png", SIZE, None)
    for key, said in (("text.png", "not a mask"), ("cut.png", "corrupt"), ("lossy.png", "save it as PNG")):
        with pytest.raises(DataError, match=said) as caught:
            masks.read(key, SIZE, None)
        assert not isinstance(caught.value, NoObjectError)
        assert key in str(caught.value)


def test_a_mask_that_could_take_long_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (30_000, 10_000)).save(tmp_path / "a.png")
    fails(open_masks(f"png:{tmp_path}"), "a.png", "32 million")


# Matching -------------------------------------------------------------------------------------------------------------


class Named:
    name = "masks"

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def read(self, key: str, size: tuple[int, int], wanted: str | None) -> Any:
        raise NotImplementedError


def test_masks_are_found_by_the_ends_of_names() -> None:
    ids = ["train/bird/1.jpg", "train/cat/1.jpg", "test/dog/2.jpeg", "no.jpg"]
    found = match(ids, Named("bird/1.png", "cat/1.png", "2.png"))
    assert found == {ids[0]: "bird/1.png", ids[1]: "cat/1.png", ids[2]: "2.png"}
    assert match(["test/00012"], Named("test/00012.png", "train/00012.png")) == {"test/00012": "test/00012.png"}
    assert match(["1.jpg", "cat/2.jpg"], Named("bird/1.png", "dog/2.png")) == {"1.jpg": "bird/1.png"}
    assert match(["v1.2"], Named("v1.png", "v1.2.png")) == {"v1.2": "v1.2.png"}


@pytest.mark.parametrize(
    ("ids", "keys", "said"),
    [
        (["1.jpg"], ["a/1.png", "b/1.png"], "1.jpg may have the mask a/1.png or b/1.png"),
        (["a/1.jpg", "b/1.jpg"], ["1.png"], "1.png may be the mask of a/1.jpg or of b/1.jpg"),
        (["1.jpg"], ["1.png", "1.gif"], "may have the mask"),
    ],
)
def test_what_may_be_two_masks_is_refused(ids: Sequence[str], keys: Sequence[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        match(ids, Named(*keys))


def test_endings_are_those_of_files() -> None:
    assert [without_ending(name) for name in ("a/b.JPG", "a.b/c", "x.1", ".png")] == ["a/b", "a.b/c", "x.1", ""]


def test_kinds_and_paths(tmp_path: Path) -> None:
    assert set(MASKS) == {"png", "voc", "coco", "yolo", "csv", "caltech", "airplanes-mini"}
    for text in ("png", "pgn:x", "png:", str(tmp_path)):
        with pytest.raises(ArgumentError, match="png:FOLDER, voc:FOLDER, coco:FILE"):
            open_masks(text)
    for text, said in ((f"png:{tmp_path}/no", "no such"), (f"csv:{tmp_path}", "a folder"), (f"png:{tmp_path}", "no ")):
        with pytest.raises(DataError, match=said):
            open_masks(text)


# Polygons and run lengths ---------------------------------------------------------------------------------------------


def test_polygons_fill_pixels_whose_centres_are_inside() -> None:
    square = np.array([[2, 1], [5, 1], [5, 3], [2, 3]], dtype=float)
    assert np.array_equal(filled(square, SIZE, "x"), SQUARE)
    assert np.array_equal(filled(square[::-1], SIZE, "x"), SQUARE)
    assert np.array_equal(filled(square + 0.4, SIZE, "x"), SQUARE)
    assert not np.array_equal(filled(square + 0.6, SIZE, "x"), SQUARE)
    triangle = np.array([[0, 0], [4, 0], [0, 4]], dtype=float)
    expected = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert filled(triangle, (4, 4), "x").astype(int).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_polygons_agree_with_another_implementation(seed: int) -> None:
    from matplotlib.path import Path as Outline

    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(9)) * 2 * np.pi
    points = 20 + rng.uniform(5, 18, (9, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows, columns = np.mgrid[:40, :40] + 0.5
    inside = Outline(points).contains_points(np.stack([columns.ravel(), rows.ravel()], axis=1)).reshape(40, 40)
    assert np.array_equal(filled(points, (40, 40), "x"), inside)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([[0, 0], [1, 1]], "at least 3 corners, got 2"),
        ([[0, 0], [8, 0], [8, 3]], "outside"),
        ([[-2, 0], [1, 0], [1, 3]], "outside"),
        ([[0, 0], [float("nan"), 0], [1, 3]], "outside"),
    ],
)
def test_polygons_that_are_none(points: list[list[float]], said: str) -> None:
    with pytest.raises(DataError, match=f"x: .*{said}"):
        filled(np.array(points, dtype=float), SIZE, "x")


def test_a_polygon_that_takes_hours_is_refused() -> None:
    zigzag = np.array([[k % 2, k % 2 * 9_999] for k in range(5000)], dtype=float)
    with pytest.raises(DataError, match="5,000 corners"):
        filled(zigzag, (10, 10_000), "x")


def packed(runs: Sequence[int]) -> str:
    """COCO's packing, from its description."""
    text = ""
    for k, run in enumerate(runs):
        value, more = (run - runs[k - 2] if k > 2 else run), True
        while more:
            code = value & 0x1F
            value >>= 5
            more = value != (-1 if code & 0x10 else 0)
            text += chr(48 + (code | 0x20 if more else code))
    return text


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_plain_and_packed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((31, 57)) < 0.1 + 0.2 * seed
    column_by_column = mask.T.ravel()
    ends = np.flatnonzero(np.diff(column_by_column)) + 1
    runs = np.diff([0, *ends, mask.size]).tolist()
    runs = [0, *runs] if column_by_column[0] else runs
    assert np.array_equal(from_runs(runs, (57, 31), "x"), mask)
    assert unpacked(packed(runs), "x") == runs
    assert np.array_equal(from_runs(packed(runs), (57, 31), "x"), mask)


@pytest.mark.parametrize("counts", [[1, 2], [10**12], [-1, 25], "é", "P" * 40, "0o"])
def test_run_lengths_that_are_none(counts: Any) -> None:
    with pytest.raises(DataError, match="x: run lengths"):
        from_runs(counts, SIZE, "x")


# What would take long -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most three shapes, of at most 30 pixels together."""
    monkeypatch.setattr("l2a_transfer.data.masks.MAX_SHAPES", 3)
    monkeypatch.setattr("l2a_transfer.data.masks.MAX_PAINTED", 30)
    monkeypatch.setattr("l2a_transfer.data.polygons.CROSSING", 0)


@pytest.mark.parametrize(("shape", "most"), [([0, 0, 1, 1], 3), ([0, 0, 5, 3], 2)])
def test_objects_without_end_are_refused_in_every_format(
    shape: list[int], most: int, small_limits: None, tmp_path: Path
) -> None:
    x1, y1, x2, y2 = shape
    corners = [x1, y1, x2, y1, x2, y2, x1, y2]
    line = " ".join(str(value / side) for value, side in zip(corners, [W, H] * 4, strict=True))
    box = f"0 {(x1 + x2) / 2 / W} {(y1 + y2) / 2 / H} {(x2 - x1) / W} {(y2 - y1) / H}"
    runs = {"size": [H, W], "counts": [1, W * H - 1]}
    for n in (most, most + 1):
        coco(tmp_path / "boxes.json", *[{"bbox": [x1, y1, x2 - x1, y2 - y1]}] * n)
        coco(tmp_path / "polygons.json", {"segmentation": [corners] * n})
        coco(tmp_path / "crowds.json", {"bbox": [0, 0, 1, 1]}, *[{"segmentation": [corners], "iscrowd": 1}] * n)
        (tmp_path / "boxes.csv").write_text(f"a.jpg,{x1},{y1},{x2},{y2}\n" * n)
        (tmp_path / "yolo").mkdir(exist_ok=True)
        (tmp_path / "yolo" / "a.txt").write_text(f"0 {line}\n" * (n - 1) + f"{box}\n")
        for masks in ("coco:boxes.json", "coco:polygons.json", "coco:crowds.json", "csv:boxes.csv", "yolo:yolo"):
            kind, _, name = masks.partition(":")
            opened = open_masks(f"{kind}:{tmp_path / name}")
            if n > most:
                fails(opened, str(tmp_path / name), "in one picture")
            else:
                assert opened.read(opened.keys[0], SIZE, None).foreground.any()
    coco(tmp_path / "runs.json", {"segmentation": runs}, {"segmentation": runs})
    fails(open_masks(f"coco:{tmp_path / 'runs.json'}"), "runs.json", "objects with more than 30 pixels in total")


def test_a_small_polygon_in_a_large_picture_takes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2a_transfer.data.masks.MAX_PAINTED", 1000)
    found = filled(np.array([[4000, 3000], [4004, 3000], [4004, 3002], [4000, 3002]], dtype=float), (5000, 4000), "x")
    assert np.argwhere(found).tolist() == [[y, x] for y in (3000, 3001) for x in range(4000, 4004)]


def test_boxes_are_compared_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 20, (50, 2))
    boxes, unit = np.hstack([low, low + rng.uniform(1, 12, (50, 2))]), rng.random((32, 32)).astype(np.float32)
    at_once, pairs = best_overlaps(unit, boxes), list[int]()
    monkeypatch.setattr("l2a_transfer.localization.boxes.AT_ONCE", 40)

    def counted(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs.append(len(a) * len(b))
        assert len(a) * len(b) <= max(40, len(a))
        return overlaps(a, b)

    monkeypatch.setattr("l2a_transfer.localization.boxes.overlaps", counted)
    assert np.array_equal(best_overlaps(unit, boxes), at_once)
    assert max(pairs) > 1


@pytest.mark.parametrize("item", ["[]", "{}", '{"a":1}', "0", "1.5", '"ab"', "[[[]]]", "-1234567", '"é€"'])
def test_what_a_document_takes_in_memory_is_not_underestimated(item: str) -> None:
    content = f"[{','.join([item] * 20_000)}]".encode()
    tracemalloc.start()
    try:
        parse(content)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken <= memory_of(content) < 12 * taken


def test_a_coco_file_that_does_not_fit_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2a_transfer.memory.usable_memory", lambda: 1 << 20)
    path = tmp_path / "a.json"
    path.write_text(f"[{'{},' * 10_000}1]")
    with pytest.raises(MemoryLimitError, match=r"a\.json: a JSON document of 1 MiB needs about 4 MiB"):
        open_masks(f"coco:{path}")


@pytest.mark.parametrize("wanted", ["²", "٣", "1" * 5000, "-1", "1.0"])
def test_a_class_that_only_looks_like_a_number_is_a_name(wanted: str, tmp_path: Path) -> None:
    in_palette(tmp_path / "a.png", SQUARE * np.uint8(8))
    for masks in (f"png:{tmp_path}", f"voc:{tmp_path}", f"coco:{coco(tmp_path / 'a.json', {'bbox': [0, 0, 1, 1]})}"):
        opened = open_masks(masks)
        with pytest.raises(UnknownNameError):
            opened.read(opened.keys[0], SIZE, wanted)


# COCO -----------------------------------------------------------------------------------------------------------------

POLYGON = [2, 1, 5, 1, 5, 3, 2, 3]


def coco(path: Path, *objects: dict[str, Any], **others: Any) -> Path:
    document = {
        "images": [{"id": 7, "file_name": "bird/1.jpg", "width": W, "height": H, "licence": 1}],
        "annotations": [{"id": k, "image_id": 7, "category_id": 3, **own} for k, own in enumerate(objects)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        **others,
    }
    path.write_text(json.dumps(document))
    return path


def test_coco_polygons_runs_boxes_and_crowds(tmp_path: Path) -> None:
    path = coco(
        tmp_path / "a.json",
        {"segmentation": [POLYGON], "bbox": [2, 1, 3, 2]},
        {"segmentation": {"size": [H, W], "counts": [0, 1, 23]}, "category_id": 5, "bbox": [0, 0, 1, 1]},
        {"segmentation": {"size": [H, W], "counts": [20, 4]}, "iscrowd": 1},
    )
    masks = open_masks(f"coco:{path}")
    assert match(["train/bird/1.png"], masks) == {"train/bird/1.png": "bird/1.jpg"}
    found = masks.read("bird/1.jpg", SIZE, None)
    corner = np.zeros_like(SQUARE)
    corner[0, 0] = True
    assert np.array_equal(found.foreground, SQUARE | corner)
    assert found.ignored[:, 5].all()
    assert found.boxes.tolist() == [[2, 1, 5, 3], [0, 0, 1, 1]]
    assert np.array_equal(masks.read("bird/1.jpg", SIZE, "dog").foreground, corner)
    assert np.array_equal(masks.read("bird/1.jpg", SIZE, "5").foreground, corner)
    with pytest.raises(UnknownNameError, match="cat, dog"):
        masks.read("bird/1.jpg", SIZE, "cow")


def test_coco_boxes_alone_are_no_outlines(tmp_path: Path) -> None:
    found = open_masks(f"coco:{coco(tmp_path / 'a.json', {'bbox': [2, 1, 3, 2]})}").read("bird/1.jpg", SIZE, None)
    assert np.array_equal(found.foreground, SQUARE)
    assert not found.outlined


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"bbox": [2, 1, 30, 2]}, "outside"),
        ({"bbox": [2, 1, 0, 2]}, "no area"),
        ({"segmentation": [[1, 2, 3]]}, "must have an even number"),
        ({"segmentation": [[0, 0, 60, 0, 60, 3]]}, "outside"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "3 × 3"),
        ({"segmentation": []}, "without a box"),
        ({"bbox": [0, 0, 1, 1], "iscrowd": 1}, "no object"),
    ],
)
def test_coco_objects_that_do_not_fit(tmp_path: Path, own: dict[str, Any], said: str) -> None:
    masks = open_masks(f"coco:{coco(tmp_path / 'a.json', own)}")
    fails(masks, "a.json: bird/1.jpg", said)


@pytest.mark.parametrize(
    "others",
    [
        {"images": []},
        {"images": [{"id": 7, "file_name": "a.jpg", "width": 0, "height": 2}]},
        {"images": [{"id": 7, "file_name": "a.jpg", "width": 1, "height": 2}] * 2},
        {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2]}]},
        {"annotations": [{"image_id": 7, "category_id": 3, "segmentation": [["x"]]}]},
        {"annotations": {}},
        {"categories": [{"id": "x"}]},
    ],
)
def test_coco_files_that_are_none(tmp_path: Path, others: dict[str, Any]) -> None:
    path = coco(tmp_path / "a.json", {"bbox": [0, 0, 1, 1]}, **others)
    with pytest.raises(DataError, match=r"a\.json"):
        open_masks(f"coco:{path}")
    for content in ("[1", "[]", "[" * 100_000, '{"images": NaN}'):
        path.write_text(content)
        with pytest.raises(DataError, match="not a COCO file"):
            open_masks(f"coco:{path}")


def test_coco_of_another_size(tmp_path: Path) -> None:
    masks = open_masks(f"coco:{coco(tmp_path / 'a.json', {'bbox': [0, 0, 1, 1]})}")
    fails(masks, "annotated at 6 × 4", "12 × 8", size=(12, 8))


# Text -----------------------------------------------------------------------------------------------------------------


def test_csv_boxes_with_and_without_a_heading(tmp_path: Path) -> None:
    lines = "bird/1.jpg,2,1,5,3,cat\nbird/1.jpg,0,0,1,1,dog\n\n"
    for head in ("", "name,x1,y1,x2,y2,class\n", "\ufeffname,x1,y1,x2,y2,class\n"):
        (tmp_path / "b.csv").write_text(head + lines, encoding="utf-8")
        masks = open_masks(f"csv:{tmp_path / 'b.csv'}")
        assert np.array_equal(masks.read("bird/1.jpg", SIZE, "cat").foreground, SQUARE)
        found = masks.read("bird/1.jpg", SIZE, None)
        assert found.boxes.tolist() == [[2, 1, 5, 3], [0, 0, 1, 1]]
        assert not found.outlined
        fails(masks, "no box of class 'cow'", wanted="cow")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg,1,2,3", "line 2 is not name,x1,y1,x2,y2"),
        ("a.jpg,1,2,3,x", "line 2: 'x' is not a number"),
        ("a.jpg,1,2,3,nan", "not a number"),
        ("a.jpg,1,2,3,1e12", "not a number"),
        (",1,2,3,4", "line 2 is not"),
        ('a.jpg,1,2,3,"4', "line 2"),
    ],
)
def test_csv_lines_that_are_none(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "b.csv"
    path.write_text(f"a.jpg,0,0,1,1\n{line}\n")
    with pytest.raises(DataError, match=said):
        open_masks(f"csv:{path}")


@pytest.mark.parametrize(("box", "said"), [("0,0,9,3", "outside"), ("3,0,1,3", "no area"), ("-3,0,1,3", "outside")])
def test_csv_boxes_outside_of_the_picture(tmp_path: Path, box: str, said: str) -> None:
    (tmp_path / "b.csv").write_text(f"a.jpg,{box}\n")
    fails(open_masks(f"csv:{tmp_path / 'b.csv'}"), "b.csv: line 1", said, key="a.jpg")


def test_a_box_that_is_rounded_over_the_edge_is_cut(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("a.jpg,-0.5,0,6.9,3\n")
    found = open_masks(f"csv:{tmp_path / 'b.csv'}").read("a.jpg", SIZE, None)
    assert found.boxes.tolist() == [[0, 0, 6, 3]]


def test_a_box_smaller_than_a_pixel_has_one(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("a.jpg,5.6,3.6,5.9,3.9\n")
    found = open_masks(f"csv:{tmp_path / 'b.csv'}").read("a.jpg", SIZE, None)
    assert np.argwhere(found.foreground).tolist() == [[3, 5]]


def test_yolo_boxes_and_polygons(tmp_path: Path) -> None:
    box = f"2 {3.5 / W} {2 / H} {3 / W} {2 / H}"
    polygon = "0 " + " ".join(f"{x / W} {y / H}" for x, y in ((2, 1), (5, 1), (5, 3), (2, 3)))
    (tmp_path / "labels").mkdir()
    for name, text in (("box", box), ("polygon", polygon), ("both", f"{box}\n{polygon}\n"), ("none", "")):
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    masks = open_masks(f"yolo:{tmp_path / 'labels'}")
    for name, outlined in (("box", False), ("polygon", True), ("both", False)):
        found = masks.read(f"{name}.txt", SIZE, None)
        assert np.array_equal(found.foreground, SQUARE)
        assert found.outlined == outlined
        assert np.allclose(found.boxes[0], [2, 1, 5, 3])
    assert masks.read("both.txt", SIZE, "0").outlined
    with pytest.raises(NoObjectError, match=r"none\.txt: no object"):
        masks.read("none.txt", SIZE, None)


@pytest.mark.parametrize("line", ["0 .5 .5", "0 .5 .5 .5 .5 .5", "0 .5 .5 2 2", "0 a b c d", "0 .1 .1 .9 .1 1.9 1.9"])
def test_yolo_lines_that_are_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(f"0 .5 .5 .2 .2\n{line}\n")
    fails(open_masks(f"yolo:{tmp_path}"), f"{tmp_path / 'a.txt'}: line 2")


# Contours -------------------------------------------------------------------------------------------------------------


def contour(path: Path, **others: Any) -> Path:
    """As MATLAB has it: the object covers the pixels of rows 2 to 3 and columns 3 to 5, counted from 1."""
    outline = np.array([[-0.5, 2.5, 2.5, -0.5], [-0.5, -0.5, 1.5, 1.5]])
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"box_coord": np.array([[2, 3, 3, 5]], dtype=float), "obj_contour": outline, **others})
    return path


def test_caltech_contours(tmp_path: Path) -> None:
    contour(tmp_path / "Annotations" / "Airplanes_Side_2" / "annotation_0001.mat")
    contour(tmp_path / "Annotations" / "cup" / "annotation_0002.mat")
    masks = open_masks(f"caltech:{tmp_path / 'Annotations'}")
    ids = ["airplanes/image_0001.jpg", "cup/image_0002.jpg"]
    found = match(ids, masks)
    assert set(found) == set(ids)
    annotation = masks.read(found[ids[0]], SIZE, None)
    assert np.array_equal(annotation.foreground, SQUARE)
    assert annotation.boxes.tolist() == [[2, 1, 5, 3]]
    alone = open_masks(f"caltech:{tmp_path / 'Annotations' / 'Airplanes_Side_2'}")
    assert match(ids[:1], alone)
    with pytest.raises(ArgumentError, match="mask_class"):
        masks.read(found[ids[0]], SIZE, "cup")


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"box_coord": np.array([[2.0, 3.0]])}, "box_coord"),
        ({"obj_contour": "text"}, "obj_contour"),
        ({"obj_contour": np.array([[0.0, np.nan, 1], [0, 1, 2]])}, "not finite"),
        ({"obj_contour": np.array([[0.0, 90, 1], [0, 1, 2]])}, "beyond the picture of 6 × 4 pixels"),
        ({"box_coord": np.array([[200, 300, 300, 500]], dtype=float)}, "beyond the picture of 6 × 4 pixels"),
    ],
)
def test_contours_that_are_none(tmp_path: Path, others: dict[str, Any], said: str) -> None:
    path = contour(tmp_path / "annotation_0001.mat", **others)
    fails(open_masks(f"caltech:{tmp_path}"), str(path), said)


def test_damaged_contours_name_the_file(tmp_path: Path) -> None:
    whole = contour(tmp_path / "annotation_0001.mat").read_bytes()
    masks = open_masks(f"caltech:{tmp_path}")
    for content in (b"", whole[:200], whole[:126] + b"XX" + whole[128:], whole[:128] + zlib.compress(b"x" * 99)):
        (tmp_path / "annotation_0001.mat").write_bytes(content)
        fails(masks, "annotation_0001.mat")
