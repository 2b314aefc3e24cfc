"""How fast each map method is, against the same method of captum and torch-cam: same network, pictures and options.

Both compute the maps of one batch in one process, in turns, so that drift of the machine affects both. First their maps
are compared: if they differ, the run ends without timing. If the other has a setting that only determines how much is
computed at once, each sensible value is tried and the fastest is used. Methods that no other library has are timed
alone.

    python benchmarks/map_speed.py --torchcam site --out benchmarks/results/map-speed.json

torch-cam is not a dependency. `--torchcam` names a folder with torch-cam, created by:

    python -m pip install --no-deps --target site torchcam

Without `--torchcam`, its rows are skipped.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from map_peers import (
    ATTENTION,
    AVERAGED,
    Peer,
    captum_grad_cam,
    captum_guided,
    captum_guided_grad_cam,
    captum_integrated,
    captum_occlusion,
    captum_saliency,
    captum_smoothgrad,
    torchcam_cam,
    torchcam_grad_cam,
)
from provenance import provenance
from torch import Tensor

from l2a_transfer.data.readers import open_source
from l2a_transfer.explain.checks.pictures import pictures_of
from l2a_transfer.explain.compute import map_batch
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import load_model
from l2a_transfer.preprocess import normalize

TOLERANCE = 1e-4
"""Largest allowed difference between two maps of an image, relative to the largest absolute value of the map."""

Maps = Callable[[Network, Tensor, Tensor], Tensor]
"""Network, images (B, 3, H, W) and classes (B,) → maps (B, h, w)."""


@dataclass(frozen=True)
class Row:
    """One of our methods with its options, and its peers.

    Parameters
    ----------
    method : str
        A name in `METHODS`.
    options : dict
        Options of the method.
    compared : dict, optional
        Options for comparing the maps, if those in `options` are random.
    peers : tuple of Peer
        Other libraries that have the method.
    model : str
        The network for timing a method without peers.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, Any] | None = None
    peers: tuple[Peer, ...] = ()
    model: str = ATTENTION


def ours(row: Row, options: Mapping[str, Any]) -> Maps:
    """Our maps of a row's method: of level L3, if it has one map per level."""

    def maps(network: Network, images: Tensor, targets: Tensor) -> Tensor:
        spec = METHODS.find(row.method)
        found = map_batch(
            network,
            images,
            method=row.method,
            targets=targets if spec.class_specific else None,
            levels=["L3"] if spec.per_level else (),
            options=options,
        )
        (values,) = found.maps.values()
        return torch.from_numpy(values)

    return maps


SAMPLES, NOISE, STEPS, WINDOW, STRIDE = 25, 0.15, 50, 8, 4
IMAGES_AT_ONCE = (None, 128, 32)


def rows() -> list[Row]:
    """All timed rows: each of our methods once per network, with all other libraries that have it."""
    grad_cam = [Peer("captum", captum_grad_cam, model=ATTENTION)]
    grad_cam += [Peer("captum", captum_grad_cam, model=AVERAGED), Peer("torch-cam", torchcam_grad_cam, model=AVERAGED)]
    smooth = {"samples": SAMPLES, "noise": NOISE}
    tunnel = Peer("captum", captum_smoothgrad(SAMPLES, NOISE), "nt_samples_batch_size", (None, 5, 1))
    integrated = Peer("captum", captum_integrated(STEPS), "internal_batch_size", IMAGES_AT_ONCE)
    occlusion = Peer("captum", captum_occlusion(WINDOW, STRIDE), "perturbations_per_eval", (1, 4, 16, 49))
    return [
        Row("saliency", peers=(Peer("captum", captum_saliency),)),
        Row("smoothgrad", smooth, {"samples": 1, "noise": 0.0}, (tunnel,)),
        Row("integrated-gradients", {"steps": STEPS}, peers=(integrated,)),
        Row("occlusion", {"window": WINDOW, "stride": STRIDE}, peers=(occlusion,)),
        Row("grad-cam", peers=tuple(grad_cam)),
        Row("guided-backprop", peers=(Peer("captum", captum_guided),)),
        Row("guided-grad-cam", peers=(Peer("captum", captum_guided_grad_cam),)),
        Row("cam", peers=(Peer("torch-cam", torchcam_cam, model=AVERAGED),), model=AVERAGED),
        *(Row(method) for method in ("attention", "evidence", "activation", "centre", "sobel", "random")),
    ]


def captum_one_gradient(network: Network, images: Tensor, targets: Tensor, _: object) -> Tensor:
    """captum's SmoothGrad without noise; its noise is always float32."""
    return captum_saliency(network, images, targets)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference between an image's maps, relative to the largest absolute value, for the worst
    image."""
    apart = (found - expected).abs().flatten(1).amax(dim=1)  # (B,)
    return float((apart / expected.abs().flatten(1).amax(dim=1).clamp(min=1e-30)).max())


def sample(maps: Callable[[], Any], calls: int) -> float:
    """Mean seconds per call over `calls`."""
    started = time.perf_counter()
    for _ in range(calls):
        maps()
    return (time.perf_counter() - started) / calls


def calls_of(maps: Callable[[], Any], seconds: float) -> int:
    """How many calls take `seconds`, after one as a warm-up."""
    if sample(maps, 1) > 2 * seconds:
        return 1
    return max(1, math.ceil(seconds / sample(maps, 1)))


def spread(samples: list[float]) -> dict[str, float]:
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def in_turns(
    own: Callable[[], Any], theirs: Callable[[], Any], repeats: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Seconds per call of both, in `repeats` pairs; the order alternates between pairs."""
    times: dict[int, list[float]] = {0: [], 1: []}
    counted = [(who, maps, calls_of(maps, seconds)) for who, maps in enumerate((own, theirs))]
    for repeat in range(repeats):
        for who, maps, calls in counted if repeat % 2 == 0 else reversed(counted):
            times[who].append(sample(maps, calls))
    return times[0], times[1]


def fastest(peer: Peer, network: Network, images: Tensor, targets: Tensor) -> tuple[dict[str, Any], dict[str, float]]:
    """The fastest setting of the peer, and the images per second for each: the best of two calls."""
    tried: dict[Any, float] = {}
    for value in peer.settings:

        def maps(value: Any = value) -> Tensor:
            return peer.maps(network, images, targets, value)

        tried[value] = len(images) / min(sample(maps, 1) for _ in range(2))
    if not tried:
        return {}, {}
    return {peer.setting: max(tried, key=lambda value: tried[value])}, {str(key): of for key, of in tried.items()}


def compared(
    row: Row, peer: Peer, network: Network, images: Tensor, targets: Tensor, repeats: int, seconds: float
) -> dict[str, Any]:
    """A row of the document: the difference between the two maps, and both speeds.

    Raises: ClickException if the maps differ by more than TOLERANCE.
    """
    setting, tried = fastest(peer, network, images, targets)
    given = tuple(setting.values())
    if row.compared is None:
        own, theirs = ours(row, row.options), peer.maps
        what = "the maps that are timed"
    else:
        own, theirs = ours(row, row.compared), captum_one_gradient
        what = f"maps with {', '.join(f'{name}={value}' for name, value in row.compared.items())}, without random draws"
        what += ", in float64, because ours takes another memory layout, in which a ReLU near zero may switch"
    exact, inputs = (network, images) if row.compared is None else (copy.deepcopy(network).double(), images.double())
    apart = difference(own(exact, inputs, targets), theirs(exact, inputs, targets, *given).detach().float())
    if not apart <= TOLERANCE:
        raise click.ClickException(f"{row.method}: ours and {peer.library}'s differ by {apart:.1e} of the map")
    timed = ours(row, row.options)
    mine, other = in_turns(
        lambda: timed(network, images, targets), lambda: peer.maps(network, images, targets, *given), repeats, seconds
    )
    B = len(images)
    return {
        "peer": peer.library,
        "peer_setting": setting,
        "peer_images_per_s_by_setting": tried,
        "compared": what,
        "largest_relative_difference": apart,
        "images_per_s": spread([B / one for one in mine]),
        "peer_images_per_s": spread([B / one for one in other]),
        "times_faster": spread([b / a for a, b in zip(mine, other, strict=True)]),
        "seconds": mine,
        "peer_seconds": other,
    }


@click.command()
@click.option("--data", default="caltech-mini", show_default=True, help="Its pictures are explained.")
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), help="Holds the data set.")
@click.option("--limit", type=click.IntRange(min=1), default=16, show_default=True, help="Images, one batch.")
@click.option("--side", type=click.IntRange(min=16), help="Pixels of a side. [default: the network's own, 32]")
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Pairs of samples.")
@click.option("--seconds", default=0.5, show_default=True, help="A sample is as many calls as take this long.")
@click.option("--method", multiple=True, type=click.Choice(sorted(METHODS)), help="Only this one. Repeatable.")
@click.option("--torchcam", type=click.Path(path_type=Path, exists=True), help="Folder that holds torch-cam.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    data: str,
    data_dir: Path | None,
    limit: int,
    side: int | None,
    repeats: int,
    seconds: float,
    method: tuple[str, ...],
    torchcam: Path | None,
    out: Path,
) -> None:
    warnings.filterwarnings("ignore", module="captum")
    warnings.filterwarnings("ignore", "Full backward hook is firing")
    left_out = []
    versions = {"captum": version("captum")}
    if torchcam is not None:
        sys.path.insert(0, str(torchcam))
        versions["torchcam"] = version("torchcam")
    load = os.getloadavg()
    source = open_source(data, data_dir=data_dir)
    opened: dict[str, tuple[Network, Tensor, Tensor]] = {}
    for name in (ATTENTION, AVERAGED):
        network, card = load_model(name)
        preprocess = card.preprocess.changed(side, None)
        pixels = torch.from_numpy(pictures_of(source, preprocess, limit=limit).images_u8)
        images = normalize(pixels, *card.preprocess.statistics())
        with torch.no_grad():
            opened[name] = network, images, network(images).argmax(dim=1)
    found: list[dict[str, Any]] = []
    for row in rows():
        if method and row.method not in method:
            continue
        names = {peer.model for peer in row.peers} or {row.model}
        for name in sorted(names, key=[ATTENTION, AVERAGED].index):
            network, images, targets = opened[name]
            about = {"method": row.method, "network": Path(name).name, "options": dict(row.options)}
            peers = [peer for peer in row.peers if peer.model == name]
            there = [peer for peer in peers if torchcam is not None or peer.library != "torch-cam"]
            left_out += [f"{row.method} of torch-cam" for peer in peers if peer not in there]
            for peer in there:
                found.append({**about, **compared(row, peer, network, images, targets, repeats, seconds)})
            if not there:
                timed = ours(row, row.options)

                def alone(timed: Maps = timed, given: Any = (network, images, targets)) -> Tensor:
                    return timed(*given)

                calls = calls_of(alone, seconds)
                times = [sample(alone, calls) for _ in range(repeats)]
                speeds = spread([len(images) / one for one in times])
                found.append({**about, "peer": None, "images_per_s": speeds, "seconds": times})
            for one in found[-max(1, len(there)) :]:
                print(line(one), flush=True)
    network, images, _ = opened[ATTENTION]
    with torch.inference_mode():
        calls = calls_of(lambda: network(images), seconds)
        forward = [sample(lambda: network(images), calls) for _ in range(repeats)]
    begun = provenance(shlex.join(["python", "benchmarks/map_speed.py", *sys.argv[1:]]))
    document = {
        "schema": "l2a-benchmark/1",
        "what": "map methods against the same of captum and torch-cam, in turns, on one batch of pictures",
        **begun,
        "versions": {**begun["versions"], **versions},
        "load_average_at_start": load,
        "threads": torch.get_num_threads(),
        "precision": "fp32",
        "data": data,
        "images": limit,
        "size": list(images.shape[2:]),
        "repeats": repeats,
        "forward": {"network": ATTENTION, "images_per_s": spread([len(images) / one for one in forward])},
        "left_out": left_out,
        "rows": found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))
    if left_out:
        print(f"Left out, without --torchcam: {', '.join(left_out)}.")


def table(document: dict[str, Any]) -> str:
    """The rows in Markdown, as in `docs/explain.md`."""
    lines = [
        "| method | network | images/s | the other | its images/s | times faster |",
        "|---|---|---:|---|---:|---:|",
    ]
    for row in document["rows"]:
        cells = [f"`{row['method']}`", f"`{row['network'].split('.')[0]}`", f"{row['images_per_s']['median']:.4g}"]
        if row["peer"] is None:
            cells += ["–", "–", "–"]
        else:
            times = row["times_faster"]
            cells += [row["peer"], f"{row['peer_images_per_s']['median']:.4g}"]
            cells += [f"{times['median']:.2f} ({times['min']:.2f} to {times['max']:.2f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    text = f"{row['method']:21} {row['network'].split('.')[0]:19} {row['images_per_s']['median']:9.1f} images/s"
    if row["peer"] is None:
        return text
    times = row["times_faster"]
    return (
        f"{text}; {row['peer']} {row['peer_images_per_s']['median']:9.1f} {row['peer_setting'] or ''}: "
        f"{times['median']:.2f} times ({times['min']:.2f} to {times['max']:.2f}), "
        f"maps apart by {row['largest_relative_difference']:.0e}"
    )


if __name__ == "__main__":
    main()
