"""Masks of every format: pictures of indices, COCO's JSON, YOLO's lines, CSV boxes and MATLAB's contours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, VALUES, damaged_json, mutate_file, mutate_text, one_of, pick, special_file
from fuzzing.pictures import damage as damage_picture
from fuzzing.pictures import encoded
from l2a_transfer.data.masks import NoObjectError, match, open_masks
from l2a_transfer.errors import UnknownNameError

W, H = SIZE = (24, 20)
IDS = ("train/cat/0.jpg", "train/cat/1.jpg", "test/dog/2.jpg")
NAMED = [name.partition("/")[2] for name in IDS]
FILES = {"coco": "coco.json", "csv": "boxes.csv"}
CLASSES = {"png": "2", "voc": "cat", "coco": "cat", "yolo": "2", "csv": "cat"}
"""Classes requested in addition to all objects; contours have no classes."""
READ = 40
"""Maximum number of masks read per case."""
MANY = 200_000
PACKED = "X1l1l;"
"""W · H pixels in COCO's packed run lengths: 40 of the background, 60 of an object, 380 of the background."""


def seeds(folder: Path) -> None:
    for kind in ("png", "voc", "coco", "yolo", "csv", "caltech"):
        SEEDS[kind](folder / kind)


def _indices(place: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    values = np.zeros((H, W), dtype=np.uint8)
    values[4 : 12 + place, 5:18], values[13:15, 2:9], values[0] = 8, 2, 255
    return values


def _pictures(root: Path, *, palette: bool) -> None:
    for k, name in enumerate(NAMED):
        path = root / Path(name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(_indices(k))
        if palette:
            image = image.convert("P")
            image.putpalette([x for j in range(256) for x in (j, 255 - j if j else 0, j * 3 % 256)])
        image.save(path)


def _coco(root: Path) -> None:
    root.mkdir()
    box = {"bbox": [5, 4, 13, 8], "category_id": 3}
    shapes: tuple[dict[str, Any], ...] = (
        {"segmentation": [[5, 4, 18, 4, 18, 12, 5, 12]], **box},
        {"segmentation": {"size": [H, W], "counts": [40, 60, W * H - 100]}, **box},
        {"segmentation": {"size": [H, W], "counts": PACKED}, "category_id": 5, "iscrowd": 1},
        box,
    )
    images = [{"id": k, "file_name": name, "width": W, "height": H} for k, name in enumerate(NAMED)]
    objects = [{"id": 9 * k + j, "image_id": k, **own} for k in range(len(images)) for j, own in enumerate(shapes)]
    names = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    (root / FILES["coco"]).write_text(json.dumps({"images": images, "annotations": objects, "categories": names}))


def _yolo(root: Path) -> None:
    for name in NAMED:
        path = root / Path(name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("2 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.9 0.1 0.9 0.9\n")


def _csv(root: Path) -> None:
    root.mkdir()
    lines = [f"{name},{x},2,{x + 8},11,{label}" for name in NAMED for x, label in ((1, "cat"), (9, "dog"))]
    (root / FILES["csv"]).write_text("\n".join(["name,x1,y1,x2,y2,class", *lines]) + "\n")


def _caltech(root: Path) -> None:
    for name in NAMED:
        path = root / Path(name).with_suffix(".mat")
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, _contour(), do_compression=True)


def _contour() -> dict[str, Any]:
    outline = np.array([[0, 12, 12, 0.0], [0, 0, 7, 7.5]])
    return {"box_coord": np.array([[5, 12, 6, 18.0]]), "obj_contour": outline}


SEEDS: dict[str, Callable[[Path], None]] = {
    "png": lambda root: _pictures(root, palette=False),
    "voc": lambda root: _pictures(root, palette=True),
    "coco": _coco,
    "yolo": _yolo,
    "csv": _csv,
    "caltech": _caltech,
}


def answer(path: Path) -> str:
    """A digest for all objects, and for those of one class. Masks must fit the picture."""
    masks = open_masks(f"{path.name}:{path / FILES.get(path.name, '')}")
    keys = [*match(IDS, masks).values(), *list(masks.keys)[:READ]]
    found = []
    for key in dict.fromkeys(keys):
        for wanted in dict.fromkeys((None, CLASSES.get(path.name))):
            try:
                own = masks.read(key, SIZE, wanted)
            except NoObjectError as error:
                if str(path) not in str(error):
                    raise
                found.append("no object")
                continue
            except UnknownNameError:  # about the class that is asked for, which the file may not have
                assert wanted
                found.append("no such class")
                continue
            assert own.foreground.shape == own.ignored.shape == (H, W), "another size"
            assert not (own.foreground & own.ignored).any(), "ignored foreground"
            assert own.foreground.any(), "no object"
            assert own.boxes.shape == (len(own.boxes), 4), "no boxes"
            assert ((own.boxes >= 0) & (own.boxes <= [W, H, W, H])).all(), "boxes outside"
            found.append(sha256(own.foreground, own.ignored, own.boxes, own.outlined))
    return sha256(keys, found)


def damage(path: Path, rng: Random) -> str:
    way = pick((8, DAMAGES[path.name]), (1, _name), (1, one_of(special_file)))
    return f"{path.name} {way(path, rng)}"


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _name(path: Path, rng: Random) -> str:
    """Rename a mask, or add a second one with the same name."""
    chosen = rng.choice(_files(path))
    name = (
        rng.choice(NAMES).replace("\0", "").replace("/", "_").encode("utf-8", "replace")[:60].decode("utf-8", "ignore")
    )
    target = chosen.with_name(f"{name or 'x'}{chosen.suffix}")
    if rng.random() < 0.5:
        chosen.rename(target)
        return "renamed"
    target.write_bytes(chosen.read_bytes())
    return "doubled"


def _picture(path: Path, rng: Random) -> str:
    file = rng.choice(_files(path))
    how = rng.randrange(4)
    if how < 2:
        return damage_picture(file, rng)
    if how == 2:
        mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
        image = Image.fromarray(_indices(0))
        wide = Image.fromarray(_indices(0).astype(np.uint16) * 255)
        file.write_bytes(encoded("PNG", wide if mode == "I;16" else image.convert(mode)))
        return mode
    name = rng.choice(("PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG", "PPM"))
    size = rng.choice(((1, 1), (16_000, 400), SIZE))
    file.write_bytes(encoded(name, Image.new("RGB" if name in ("WEBP", "JPEG") else rng.choice(("1", "L")), size, 1)))
    return name


def _json(path: Path, rng: Random) -> str:
    file = path / FILES["coco"]
    if rng.random() < 0.2:
        return mutate_file(file, rng)
    document = json.loads(file.read_text())
    if rng.random() < 0.5:
        try:
            text = damaged_json(document, rng)
        except RecursionError:  # nested several times
            text = "[" * 100_000
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        return "json"
    how, (own,) = rng.randrange(6), rng.sample(document["annotations"], 1)
    if how == 0:
        document["annotations"] += [dict(own) for _ in range(MANY)]
    elif how == 1:
        own["segmentation"] = [rng.choice(([0, 0, 1, 1, 2, 2], [0, 0, W, 0, W, H])) for _ in range(MANY)]
    elif how == 2:
        own["segmentation"] = [[rng.choice((0, W, H, -1, 1e-300, 1e9, 20.5)) for _ in range(rng.choice((5, 6, MANY)))]]
    elif how == 3:
        counts = rng.choice(([0] * MANY, [W * H], [1] * (W * H), [2**62, 2**62], [-1, W * H + 1], []))
        own["segmentation"] = {"size": rng.choice(([H, W], [W, H], [2**62, 2**62])), "counts": counts}
    elif how == 4:
        letters = "".join(chr(rng.randrange(48, 113)) for _ in range(rng.choice((1, 9, MANY))))
        own["segmentation"] = {"size": [H, W], "counts": rng.choice((letters, "", "P" * MANY, "\x00", "é"))}
    else:
        own["bbox"] = [rng.choice((0, -1, 1e308, -1e308, 5e-324, W, H)) for _ in range(4)]
        own.pop("segmentation", None)
    file.write_text(json.dumps(document))
    return f"objects {how}"


def _lines(path: Path, rng: Random) -> str:
    """Text with another number, or very many lines."""
    file = rng.choice(_files(path))
    if rng.random() < 0.6:
        return mutate_text(file, rng)
    lines = file.read_text().splitlines()
    at, separator = rng.randrange(len(lines)), "," if path.name == "csv" else " "
    numbers = ("nan", "inf", "-0", "1e308", "1_0", "٣", "0x1", "-1e-300", "1" * 400, "1e9", "", "1e-400")
    if rng.random() < 0.5:
        fields = lines[at].split(separator)
        fields[rng.randrange(len(fields))] = rng.choice(numbers)
        lines[at] = separator.join(fields)
    else:
        most = (15 << 20) // (len(lines[at]) + 1)
        lines[at:at] = [rng.choice((lines[at], '"', ",,,,", separator * 40, "\0"))] * rng.choice((2, 5000, most))
    file.write_text("\n".join(lines))
    return "lines"


def _mat(path: Path, rng: Random) -> str:
    """Contours of other kinds, sizes and numbers."""
    file = rng.choice(_files(path))
    if rng.random() < 0.3:
        return mutate_file(file, rng)
    own = _contour()
    numbers = [float(value) for value in VALUES if isinstance(value, (int, float)) and abs(value) < 1e308]
    odd: tuple[Callable[[], Any], ...] = (
        lambda: np.array([[rng.choice(numbers) for _ in range(4)]]),
        lambda: np.full((2, 5), rng.choice((np.nan, np.inf, 1e308, -1e308, 0, 1e-300))),
        lambda: np.zeros((2, 1 << 20)),
        lambda: np.zeros((2, 400_000)) + np.arange(400_000) % 2 * 18,
        lambda: own["obj_contour"] * 1j,
        lambda: own["obj_contour"].astype(rng.choice(("u1", "i2", "i8", "f4", "?"))),
        lambda: "text",
        lambda: "a" * 4,
        lambda: np.array([[_contour(), "x"]], dtype=object),
        lambda: {"a": {"b": _contour()}},
        lambda: np.zeros((2, 0)),
        lambda: scipy.sparse.csc_matrix(own["obj_contour"]),
        lambda: np.zeros((1, 1, 1, 1, 8)),
    )
    own[rng.choice(sorted(own))] = rng.choice(odd)()
    if rng.random() < 0.2:
        del own[rng.choice(sorted(own))]
    scipy.io.savemat(file, own, do_compression=rng.random() < 0.5)
    return "contour"


DAMAGES: dict[str, Callable[[Path, Random], str]] = {
    "png": _picture,
    "voc": _picture,
    "coco": _json,
    "yolo": _lines,
    "csv": _lines,
    "caltech": _mat,
}
KIND = Kind(seeds, damage, answer, share=6)
