"""What a damaged or hostile file does: mutated files of every kind that is read, each in a process of its own.

The libraries are loaded once; each case is a fork with five seconds and 4 GiB. A case is good where the file is refused
by a named error of this package, or read as what it was before. Where a format has no checksum (pictures, tar, the
values inside Parquet) a mutation can make another valid file: those are "other", and the same is true where the
mutation renews the seal of a feature file, which is counted apart. A crash, a hang, an exception of another kind, and a
sealed file that is read as something else are bad.

    python benchmarks/fuzz.py --cases 2000 --out benchmarks/results/fuzz.json

With --kinds, a part at a time; each kind names the commit that it ran on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import onnxruntime
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import torch
from PIL import Image
from provenance import provenance

from l2a_transfer.data.decode import FORMATS, decode_file
from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import L2AError, UnknownNameError
from l2a_transfer.export import export_onnx
from l2a_transfer.features.backends import OnnxBackend
from l2a_transfer.features.schema import SEAL, USER_BLOCK, FeatureMeta
from l2a_transfer.features.store import read_features, read_maps
from l2a_transfer.features.views import open_features
from l2a_transfer.features.writer import write_features
from l2a_transfer.models.digest import network_sha256
from l2a_transfer.models.weights import load_weights, resolve_model, save_weights
from l2a_transfer.preprocess import Preprocess

LIMIT_S = 5
LIMIT_BYTES = 4 << 30
NETWORK = "untrained:vgg-att2-concat-pc@0.0625"
SHARES = {"hdf5": 5, "safetensors": 4, "onnx": 4, "image": 7}
"""How the cases are dealt out; tar, Parquet and sealed-again HDF5 come on top, as many as HDF5 each."""
CHECKSUMS = ("hdf5", "safetensors", "onnx")
"""Formats in which every changed value is noticed."""


@dataclass(frozen=True)
class Outcome:
    """`kind`: refused, right, other (another valid file), or bad: wrong, exception, crash, hang."""

    kind: str
    detail: str = ""


def sha256(*parts: Any) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return sha.hexdigest()


def answer_hdf5(path: Path) -> str:
    found = read_features(path)
    with open_features(path) as file:
        blocks = [*file.blocks(50), *(block for level in file.maps for block in file.map_blocks(level, 50))]
    maps = read_maps(path)
    return sha256(found.meta, found.features, found.labels, found.ids, found.split, *maps.values(), *blocks)


def answer_safetensors(path: Path) -> str:
    network, card = load_weights(path)
    return sha256(network_sha256(network), card)


def answer_onnx(path: Path) -> str:
    backend = OnnxBackend(path, device="cpu")
    pixels = np.arange(3 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(1, 3, 32, 32)
    return sha256(backend.features(pixels), backend.card)


def answer_image(path: Path) -> str:
    image = decode_file(path)
    assert image.mode == "RGB"
    return sha256(image.size, Preprocess().pixels(image))


def answer_source(kind: str) -> Callable[[Path], str]:
    def answer(path: Path) -> str:
        source = open_source(f"{kind}:{path}")
        pictures = [np.asarray(source.image(row)) for row in range(len(source))]
        return sha256(source.ids, source.labels, source.classes, *pictures)

    return answer


ANSWERS: dict[str, Callable[[Path], str]] = {
    "hdf5": answer_hdf5,
    "hdf5-resealed": answer_hdf5,
    "safetensors": answer_safetensors,
    "onnx": answer_onnx,
    "image": answer_image,
    "tar": answer_source("wds"),
    "parquet": answer_source("parquet"),
}


def make_seeds(folder: Path, kinds: list[str]) -> None:
    """The whole files of which each case is a mutation: one or more a kind."""
    import tarfile

    rng = np.random.default_rng(0)
    for kind in kinds:
        (folder / kind).mkdir()
    for kind in {"hdf5", "hdf5-resealed"} & set(kinds):
        write_feature_files(folder / kind, rng)
    picture = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(
        (40, 32), Image.Resampling.BICUBIC
    )
    for name in FORMATS if "image" in kinds else ():
        picture.save(folder / "image" / f"rgb.{name.lower()}", name)
    if "image" in kinds:
        picture.convert("L").save(folder / "image" / "progressive.jpeg", progressive=True)
        picture.convert("P").save(folder / "image" / "palette.png", transparency=3)
        picture.save(folder / "image" / "deflate.tiff", compression="tiff_adobe_deflate")
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG")
    picture.save(png, "PNG")
    contents = [jpeg.getvalue(), png.getvalue()]
    if "tar" in kinds:
        for name, form in (("ustar", tarfile.USTAR_FORMAT), ("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
            with tarfile.open(folder / "tar" / f"{name}.tar", "w", format=form) as tar:
                for row in range(6):
                    long = "" if form == tarfile.USTAR_FORMAT else "ü" * 90
                    members = {("jpg", "png")[row % 2]: contents[row % 2], "cls": str(row % 3).encode()}
                    for extension, content in members.items():
                        info = tarfile.TarInfo(f"{long}{row}.{extension}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    if "parquet" in kinds:
        table = pa.table({
            "image": pa.array([{"bytes": contents[row % 2], "path": None} for row in range(12)]),
            "label": pa.array([row % 3 for row in range(12)], "int64"),
        })  # fmt: skip
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        for name, options in (("snappy", {}), ("zstd", {"compression": "zstd", "write_page_checksum": True})):
            pq.write_table(table, folder / "parquet" / f"{name}.parquet", row_group_size=5, **options)
    if {"safetensors", "onnx"} & set(kinds):
        network, card = resolve_model(NETWORK)
        if "safetensors" in kinds:
            save_weights(network, card, folder / "safetensors" / "tiny.safetensors")
        if "onnx" in kinds:
            export_onnx(network, card, folder / "onnx" / "tiny.onnx")


def write_feature_files(folder: Path, rng: np.random.Generator) -> None:
    features = rng.normal(size=(120, 24)).astype(np.float32)
    meta = FeatureMeta(
        data="toy", classes=("ant", "bée"), splits=("train", "test"), levels=(("L2", 0, 8), ("L3", 8, 24)),
        card={"name": "toy"}, preprocess={"size": 32}, tap="ga", precision="fp32", backend="torch",
        fingerprint={"data": "abc"},
    )  # fmt: skip
    for name, options in (("plain", {}), ("maps", {"maps": {"L2": [rng.random((120, 4, 4)).astype(np.float16)]}})):
        write_features(
            folder / f"{name}.h5", meta, labels=rng.integers(-1, 2, 120), ids=[f"a/{k}.jpg" for k in range(120)],
            split=rng.integers(0, 2, 120), blocks=[features], dim=24, **options,
        )  # fmt: skip


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One to four changes: flipped bits, overwritten numbers, ranges cut out, doubled, blanked or put in, a cut end."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        N = max(1, len(data))
        # Structure lies at the beginning and at the end of most formats.
        places = (rng.randrange(N), rng.randrange(min(N, 1024)), N - 1 - rng.randrange(min(N, 1024)))
        at = rng.choice(places)
        length = rng.choice((1, 2, 4, 8, 64, 512))
        kind = rng.randrange(8)
        if kind <= 1:
            for place in range(at, min(N, at + rng.choice((1, 1, 3)))):
                data[place : place + 1] = bytes([data[place] ^ 1 << rng.randrange(8)]) if data else b""
        elif kind == 2:
            number = rng.choice(
                (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
            )
            form = rng.choice(("<Q", ">Q", "<I", ">I", "<H", "B"))
            packed = struct.pack(form, number & ((1 << 8 * struct.calcsize(form)) - 1))
            data[at : at + len(packed)] = packed
        elif kind == 3:
            data[at : at + length] = bytes([rng.choice((0, 255))]) * len(data[at : at + length])
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length]
        elif kind == 6:
            data[at:at] = rng.randbytes(length)
        else:
            del data[at:]
    return bytes(data)


def reseal(content: bytes) -> bytes:
    """The file with length and hash renewed, as a hostile program would."""
    body = content[USER_BLOCK:]
    return SEAL.pack(b"L2AFEAT\n", 1, len(body), hashlib.sha256(body).digest()).ljust(USER_BLOCK, b"\0") + body


def in_child(task: Callable[[], str], *, limited: bool = True) -> tuple[int, str]:
    """(wait status, what `task` gave) of a fork that cannot outlive the limits."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limited:
            signal.alarm(LIMIT_S)
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + LIMIT_BYTES, held + LIMIT_BYTES))
        code = 1
        with contextlib.suppress(BaseException):
            os.write(send, task().encode()[:4000])
            code = 0
        os._exit(code)
    os.close(send)
    with open(receive, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    return os.waitpid(child, 0)[1], text


def judge(kind: str, path: Path, expected: str) -> Outcome:
    """What reading a mutated file did, in a process of its own."""

    def task() -> str:
        try:
            found = ANSWERS[kind](path)
        except (L2AError, UnknownNameError) as error:
            return f"refused\n{type(error).__name__}: {error}"
        except BaseException as error:
            return f"exception\n{type(error).__name__}: {error}"
        if found == expected:
            return "right\n"
        return "wrong\n" if kind in CHECKSUMS else "other\n"

    status, text = in_child(task)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return Outcome("hang" if number == signal.SIGALRM else "crash", signal.Signals(number).name)
    outcome, _, detail = text.partition("\n")
    return Outcome(outcome or "exception", detail.replace(str(path), path.name))


def plan(cases: int, kinds: list[str]) -> dict[str, int]:
    """How many cases a kind: `cases` over the four of the promise, the extras as many as HDF5 has."""
    total = sum(SHARES.values())
    counts = {kind: round(cases * share / total) for kind, share in SHARES.items()}
    return {kind: counts.get(kind, counts["hdf5"]) for kind in kinds}


@click.command()
@click.option("--cases", type=click.IntRange(min=20), default=2000, show_default=True, help="Without the extras.")
@click.option("--kinds", default=",".join(ANSWERS), show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the files of bad cases.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(cases: int, kinds: str, seed: int, keep: Path | None, out: Path) -> None:
    torch.set_num_threads(1)
    chosen = kinds.split(",")
    found = kinds_of(out, cases, seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a child, like every answer: threads that torch has started here would not survive a fork.
        status, text = in_child(lambda: make_seeds(folder, chosen) or "done", limited=False)
        if text != "done":
            raise click.ClickException(f"the seeds could not be made (status {status})")
        for kind, count in plan(cases, chosen).items():
            found[kind] = {"commit": provenance("")["commit"], **run(kind, count, folder, seed, keep)}
            write(out, found, cases, seed)
            print(f"{kind:<14} {json.dumps(found[kind]['outcomes'])}", file=sys.stderr)
    print(f"{out}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print(out)


def kinds_of(out: Path, cases: int, seed: int) -> dict[str, Any]:
    """What an earlier call with the same cases and seed has found, kind by kind: a long run can be done in parts."""
    if not out.exists():
        return {}
    document = json.loads(out.read_text())
    kinds: dict[str, Any] = document["kinds"] if (document["asked"], document["seed"]) == (cases, seed) else {}
    return kinds


def write(out: Path, found: dict[str, Any], cases: int, seed: int) -> None:
    """Keep the kinds that are done so far."""
    promised = [result for kind, result in found.items() if kind in SHARES]
    extras = [result for kind, result in found.items() if kind not in SHARES]
    document = {
        "schema": "l2a-benchmark/1",
        "what": "mutated files, each read in a process of its own with 5 s and 4 GiB",
        **provenance(f"python benchmarks/fuzz.py --cases {cases} --seed {seed} --out benchmarks/results/{out.name}"),
        "libraries": {
            "libhdf5": h5py.version.hdf5_version, "h5py": h5py.__version__, "safetensors": safetensors.__version__,
            "onnxruntime": onnxruntime.__version__, "Pillow": PIL.__version__, "pyarrow": pa.__version__,
        },
        "asked": cases,
        "seed": seed,
        "cases": sum(result["cases"] for result in promised),
        "bad": sum(result["bad"] for result in promised),
        "extra_cases": sum(result["cases"] for result in extras),
        "extra_bad": sum(result["bad"] for result in extras),
        "kinds": found,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def run(kind: str, count: int, folder: Path, seed: int, keep: Path | None) -> dict[str, Any]:
    """The outcomes of `count` mutations of the seeds of one kind."""
    seeds = sorted((folder / kind).iterdir())
    expected = {}
    for path in seeds:
        status, expected[path] = in_child(lambda path=path: ANSWERS[kind](path))  # type: ignore[misc]
        if status or len(expected[path]) != 64:
            raise click.ClickException(f"{path.name}: the whole file cannot be read (status {status})")
    outcomes, errors, bad = Counter[str](), Counter[str](), []
    slowest = 0.0
    for case in range(count):
        rng = random.Random(f"{seed} {kind} {case}")
        whole = seeds[case % len(seeds)]
        content = mutate(whole.read_bytes(), rng)
        path = folder / f"case{whole.suffix}"
        path.write_bytes(reseal(content) if kind == "hdf5-resealed" else content)
        begun = time.perf_counter()
        outcome = judge(kind, path, expected[whole])
        slowest = max(slowest, time.perf_counter() - begun)
        outcomes[outcome.kind] += 1
        errors[outcome.detail.split(":")[0] if outcome.kind == "refused" else ""] += outcome.kind == "refused"
        if outcome.kind not in ("refused", "right", "other"):
            bad.append({"case": case, "seed_file": whole.name, "outcome": outcome.kind, "detail": outcome.detail[:300]})
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{kind}-{case}{whole.suffix}").write_bytes(path.read_bytes())
    return {
        "cases": count,
        "bad": len(bad),
        "outcomes": dict(sorted(outcomes.items())),
        "refused_by": {name: n for name, n in sorted(errors.items()) if name},
        "slowest_seconds": round(slowest, 2),
        "bad_cases": bad,
    }


if __name__ == "__main__":
    main()
