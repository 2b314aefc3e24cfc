"""A training step of SaoYan/LearnToPayAttention and one of this package, in turns: images a second.

The peer is a checkout of https://github.com/SaoYan/LearnToPayAttention, which is not part of this project. Its network
with attention before pooling and softmax is the counterpart of `vgg-att3-concat-pc`. Its step is that of its own
`train.py`: forward pass, cross-entropy, backward pass and SGD with momentum, in float32, here on normalized noise. Our
step is the trainer's, augmentation included, in float32 and in bfloat16. Both have the same number of threads, images
and classes. `macs_an_image` compares the work: the peer computes g, which has no influence under softmax.

    python benchmarks/peer_step.py --peer LearnToPayAttention --out benchmarks/results/peer-step.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from provenance import provenance
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from train_step import trainer_on_noise

from l2a_transfer.devices import choose_device, device_name
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.flops import macs
from l2a_transfer.training.processes import Placement

MODEL, SIZE, CLASSES = "vgg-att3-concat-pc", 32, 10
PEER = "SaoYan/LearnToPayAttention"


@click.command()
@click.option("--peer", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--batch-size", type=click.IntRange(min=2), default=32, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=2, show_default=True, help="Of each side in a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="After one to warm up.")
@click.option("--device", default="auto", show_default=True)
def main(peer: Path, out: Path, batch_size: int, steps: int, rounds: int, device: str) -> None:
    place = choose_device(device)
    network = peer_network(peer).to(place)
    sides: dict[str, Callable[[], float]] = {PEER: peer_step(network, place, batch_size, steps)}
    for precision in ("fp32", "bf16"):
        sides[f"l2a-transfer, {precision}"] = own_step(batch_size, steps, rounds + 1, Placement(device, precision))
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            rates[name].append(side())
            print(f"{name:30} {rates[name][-1]:8.2f} images/s", file=sys.stderr)
    rows = [
        {
            "name": name,
            "images_per_second": round(statistics.median(values[1:]), 2),
            "over_peer": round(statistics.median(own / peers for own, peers in paired(values, rates[PEER])), 2),
            "all": [round(value, 2) for value in values[1:]],
        }
        for name, values in rates.items()
    ]
    document = {
        "schema": "l2a-benchmark/1",
        "what": "a training step of another implementation of the paper and one of this package, in turns: images a "
        "second (medians), and the ratio to the peer in the same round",
        **provenance(shlex.join(["python", "benchmarks/peer_step.py", *sys.argv[1:]])),
        "ran_on": device_name(place),
        "threads": torch.get_num_threads(),
        "model": MODEL,
        "batch_size": batch_size,
        "rounds": rounds,
        "macs_an_image": {PEER: peer_macs(network, place), "l2a-transfer": macs(ModelConfig(MODEL, width=1.0), SIZE)},
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


def peer_network(folder: Path) -> nn.Module:
    sys.path.insert(0, str(folder.resolve()))
    import model1  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network: nn.Module = model1.AttnVGG_before(im_size=SIZE, num_classes=CLASSES, attention=True, normalize_attn=True)
    return network


def peer_step(network: nn.Module, place: torch.device, B: int, steps: int) -> Callable[[], float]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(B, 3, SIZE, SIZE, device=place)
    labels = torch.randint(0, CLASSES, (B,), device=place)

    def run() -> float:
        finish(place)
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            logits, *_ = network(images)
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        finish(place)
        return B * steps / (time.perf_counter() - began)

    return run


def own_step(B: int, steps: int, epochs: int, placement: Placement) -> Callable[[], float]:
    trainer = trainer_on_noise(ModelConfig(MODEL, width=1.0, dropout=0.0), SIZE, B, steps, epochs, placement)

    def run() -> float:
        found = trainer.run_epoch(progress=False)
        assert found is not None
        rate: float = found["images_per_second"]
        return rate

    return run


def peer_macs(network: nn.Module, place: torch.device) -> int:
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, SIZE, SIZE, device=place))
    return counter.get_total_flops() // 2


def paired(own: list[float], other: list[float]) -> list[tuple[float, float]]:
    return list(zip(own[1:], other[1:], strict=True))


def finish(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


if __name__ == "__main__":
    main()
