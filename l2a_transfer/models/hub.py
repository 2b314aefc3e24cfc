"""Networks as folders and repositories of the Hugging Face Hub. Needs the extra `hub`.

Importing this module imports huggingface_hub. Nothing is uploaded or downloaded except by explicit calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import MissingExtraError, WeightsError
from l2a_transfer.files import write_whole
from l2a_transfer.models.loading import as_network
from l2a_transfer.models.weights import Card, load_weights, save_weights
from l2a_transfer.text import markdown

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise MissingExtraError("a network on the Hugging Face Hub", "huggingface_hub", "hub") from error

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network

WEIGHTS = "model.safetensors"
LIBRARY = "l2a-transfer"


class HubModel(ModelHubMixin, library_name=LIBRARY, tags=["attention", "feature-extraction"], license="mit"):  # type: ignore[call-arg,misc]
    """A network and its card, with `save_pretrained`, `from_pretrained` and `push_to_hub` of huggingface_hub.

    The folder contains `model.safetensors`, a weights file like those of `train`, which works as `model` everywhere;
    `config.json`, the card as JSON; and `README.md`, the card for readers.

    Parameters
    ----------
    model : str, Path, Network or (Network, Card)
        A network, as for `open_backend`.

    Attributes
    ----------
    network : Network
    card : Card

    Notes
    -----
    `from_pretrained(FOLDER)` reads a folder; `from_pretrained("user/name")` fetches a repository, unless
    `local_files_only=True`. Downloaded files are never executed or unpickled.
    """

    def __init__(self, model: str | Path | Network | tuple[Network, Card]) -> None:
        self.network, self.card = as_network(model)

    def _save_pretrained(self, save_directory: Path) -> None:
        folder = Path(save_directory)
        save_weights(self.network, self.card, folder / WEIGHTS)
        write_whole(folder / "config.json", json.dumps(self.card.to_json(), indent=1, sort_keys=True).encode())

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **given: Any) -> HubModel:
        """Raises: WeightsError if the folder has no weights, or they are damaged or from another program."""
        folder = Path(model_id)
        if folder.is_dir():
            path = folder / WEIGHTS
            if not path.is_file():
                raise WeightsError(f"{folder}: contains no {WEIGHTS}", "use a folder that save_pretrained wrote")
        else:
            asked = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            options = {key: given[key] for key in asked if key in given}
            path = Path(hf_hub_download(repo_id=model_id, filename=WEIGHTS, library_name=LIBRARY, **options))
        return cls(load_weights(path))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        """The card for readers: Hub metadata, description, usage and measured accuracy."""
        from huggingface_hub import ModelCard

        return ModelCard(model_card(self.card))


def model_card(card: Card) -> str:
    """A card as the README.md of a repository: YAML metadata, then Markdown."""
    config, training = card.config, card.training
    metadata = ["---", "license: mit", f"library_name: {LIBRARY}", "pipeline_tag: image-feature-extraction"]
    metadata += ["tags:", "- attention", "- feature-extraction"]
    metadata += ["datasets:", f"- {json.dumps(str(training['data']))}"] if "data" in training else []
    lines = [*metadata, "---", "", f"# {markdown(card.name)}", ""]
    trained = "It was not trained: its weights are random." if training.get("untrained") else ""
    if "data" in training:
        trained = f"It was trained on {markdown(str(training['data']))}, {len(card.classes)} classes."
    lines.append(
        f"A {markdown(config.architecture)} of width {config.width:g} with {card.parameters:,} parameters, after "
        f'"Learn to Pay Attention" (Jetley, Lord, Lee, Torr, ICLR 2018). {trained}'.rstrip()
    )
    lines += [
        "",
        "```python",
        "from l2a_transfer.models.hub import HubModel",
        "",
        'model = HubModel.from_pretrained("REPOSITORY")  # or a folder',
        "found = model.network.attend(images)  # logits, features and maps of normalised images (B, 3, H, W)",
        "```",
        "",
    ]
    measured = [(name, one) for name, one in card.metrics.items() if isinstance(one, dict) and "value" in one]
    if measured:
        lines += ["| measured | value | n |", "|---|---:|---:|"]
        lines += [f"| {markdown(name)} | {one['value']:.4f} | {one.get('n', '–')} |" for name, one in measured]
        lines.append("")
    preprocess = card.preprocess
    lines += [
        f"Images are resized to {preprocess.size} × {preprocess.size} pixels ({preprocess.fit}, {preprocess.filter}), "
        f"then `(x / 255 − mean) / std` with mean {preprocess.mean} and std {preprocess.std}.",
        "",
        f"Everything that is known of its training is in the header of `{WEIGHTS}`: "
        f"`l2a-transfer inspect {WEIGHTS}` prints it.",
        "",
    ]
    return "\n".join(lines)
