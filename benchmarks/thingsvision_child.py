"""The thingsvision half of thingsvision_side.py, run by the Python of a separate environment.

thingsvision takes an image folder's root, a torch model and the name of a module, whose outputs it hooks and flattens;
the network is ours, wrapped so that one module's output is g_a, or one of torchvision. Prints JSON on its last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torchvision.models as zoo
from safetensors.torch import load_file
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset
from thingsvision.utils.storing import save_features

from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import PRETRAINED, read_card


class Wrapped(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.g_a = network, torch.nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.g_a(self.network.attend(images).features)


def ours(model: str) -> tuple[torch.nn.Module, Callable[[Any], torch.Tensor], str]:
    """One of the bundled networks, its transform from a picture to the input, and the module whose output is the
    feature."""
    # thingsvision asks for torch 2.0, which our own loader is too new for.
    path = PRETRAINED / f"{model}.safetensors"
    card = read_card(path)
    network = build_model(card.config)
    state = {key: value.float() for key, value in load_file(path).items()}
    missing, unknown = network.load_state_dict(state, strict=False)
    assert not unknown, unknown
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.preprocess.mean, card.preprocess.std))

    def transform(image: Any) -> torch.Tensor:
        return (torch.from_numpy(card.preprocess.pixels(image)).float() / 255 - mean) / std

    return Wrapped(network.eval()), transform, "g_a"


def torchvisions(model: str, weights: str) -> tuple[torch.nn.Module, Callable[[Any], torch.Tensor], str]:
    """A residual network of torchvision with weights from a file, and torchvision's own transforms."""
    name = model.removeprefix("torchvision:")
    network = zoo.get_model(name, weights=None)
    network.load_state_dict(load_file(weights))
    return network.eval(), zoo.get_model_weights(name).DEFAULT.transforms(), "avgpool"


def main(model: str, images: str, out: str, batch_size: int, weights: str, file_format: str) -> None:
    network, transform, module = torchvisions(model, weights) if ":" in model else ours(model)
    began = time.perf_counter()
    extractor = get_extractor_from_model(model=network, device="cpu", backend="pt")
    dataset = ImageDataset(root=images, out_path=out, backend="pt", transforms=transform)
    batches = DataLoader(dataset=dataset, batch_size=batch_size, backend="pt")
    features = extractor.extract_features(batches=batches, module_name=module, flatten_acts=True, output_type="ndarray")
    save_features(features, out_path=out, file_format=file_format)
    seconds = time.perf_counter() - began
    names = ("thingsvision", "torch", "torchvision", "numpy", "Pillow")
    versions = {name: version(name) for name in names}
    print(json.dumps({"rows": len(features), "dim": features.shape[1], "extract_s": seconds, "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6])
