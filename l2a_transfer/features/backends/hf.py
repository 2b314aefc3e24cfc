"""Vision models of transformers, from a folder, from its cache, or downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import BackendError
from l2a_transfer.features.backends.interface import Layer
from l2a_transfer.features.backends.registry import BACKBONE_OPTIONS, register_backend
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.registry import require_package
from l2a_transfer.wording import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from l2a_transfer.features.backends.backbone import Built, ModuleBackend

PREFIX = "hf:"
FILTERS = {0: "", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""Pillow's numbers of its filters, which image processors use → their names."""
POOLER = "pooler"
"""The module after the class token; weights of classifiers lack it."""


@register_backend(
    "hf",
    models="hf:NAME or hf:FOLDER",
    prefixes=(PREFIX, f"untrained:{PREFIX}"),
    options=BACKBONE_OPTIONS,
    package="transformers",
    extra="hf",
    layers=lambda model, size: list_layers(model, size),
)
def open_hf(model: str, **options: Any) -> ModuleBackend:
    """A vision model of transformers. Raises: BackendError; WeightsError."""
    from l2a_transfer.features.backends.backbone import ModuleBackend, is_untrained, with_checkpoint

    fresh, weights = is_untrained(model, options["weights"]), options["weights"]
    trained = not fresh and weights is None
    built = build(model, seed=options["seed"], trained=trained, download=options["download"])
    return ModuleBackend("hf", model, with_checkpoint(built, weights), options)


def list_layers(model: str, image_size: int | None) -> Sequence[Layer]:
    """The layers of a model, from its configuration only. Raises: BackendError; MissingExtraError."""
    require_package(model, "transformers", "hf")
    from l2a_transfer.features.backends.hooks import layer_list

    built = build(model, seed=0, trained=False, download=False)
    own = built.preprocess.size if built.preprocess else getattr(built.network.config, "image_size", 224)
    return layer_list(built.network.eval(), built.call, image_size or int(own), [built.default])


def build(model: str, *, seed: int, trained: bool, download: bool) -> Built:
    """Build a network of transformers. Only safetensors are read, and no code that comes with weights is run.

    Raises: BackendError if the model is not on this machine, or is not a vision model.
    """
    import transformers

    from l2a_transfer.features.backends.backbone import UNTRAINED, Built, seeded

    given = model.removeprefix(UNTRAINED).removeprefix(PREFIX)
    name = str(Path(given).expanduser())
    architecture = f"{PREFIX}{Path(name).name if Path(name).is_dir() else name}"
    if given.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise BackendError(f"{model}: the folder {name} does not exist")
    here: dict[str, Any] = {"local_files_only": not download, "trust_remote_code": False}
    absent: list[str] = []
    try:
        config = transformers.AutoConfig.from_pretrained(name, **here)
        config = getattr(config, "vision_config", config)
        with seeded(seed), _quiet(transformers):
            if trained:
                kind = transformers.AutoModel._model_mapping[type(config)]
                network, report = kind.from_pretrained(
                    name, config=config, use_safetensors=True, output_loading_info=True, **here
                )
                absent = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
            else:
                network = transformers.AutoModel.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        where = "" if Path(name).is_dir() or download else "use `download=True`, or give a folder"
        raise BackendError(f"{model}: transformers cannot open it here: {first_line(error)}", where) from error
    if getattr(network, "main_input_name", "") != "pixel_values":
        raise BackendError(f"{model}: {type(network).__name__} does not accept pictures; choose a vision model")
    if any(key.startswith(f"{POOLER}.") for key in absent):  # the model then returns its tokens
        network.pooler = None
        absent = [key for key in absent if not key.startswith(f"{POOLER}.")]
    return Built(
        architecture if trained else f"{UNTRAINED}{architecture}",
        architecture,
        network.float(),
        _preprocess(transformers, name, here),
        "output",
        default_pool="cls",
        call=_features,
        absent=tuple(absent),
        training={"weights": architecture.removeprefix(PREFIX)} if trained else {"untrained": True, "seed": seed},
        identity={"transformers": transformers.__version__},
        headless="create the classifier in your own function, as module:FILE.py:FUNCTION",
    )


def _features(network: nn.Module, images: Tensor) -> object:
    """The model's pooled output, or all tokens or positions if it has none."""
    given = network(pixel_values=images)
    found = getattr(given, "pooler_output", None)
    return getattr(given, "last_hidden_state", given) if found is None else found.flatten(1)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' progress bars and its reports of missing weights, which are checked here."""
    own = transformers.utils.logging
    level, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity_error()
    own.disable_progress_bar()
    try:
        yield
    finally:
        own.set_verbosity(level)
        if bars:
            own.enable_progress_bar()


def _preprocess(transformers: Any, name: str, here: dict[str, Any]) -> Preprocess | None:
    """The preprocess of the model's image processor; None if it has none, or an unsupported one."""
    try:
        own = transformers.AutoImageProcessor.from_pretrained(name, **here)
    except (OSError, ValueError, KeyError, ImportError):
        return None

    def side(values: Any, *keys: str) -> int | None:
        """The number under the keys, which must all have the same one."""
        found = {values.get(key) for key in keys} if hasattr(values, "get") else {None}
        only = found.pop()
        return None if found or only is None else int(only)

    try:
        if not (own.do_resize and own.do_rescale and own.do_normalize) or abs(own.rescale_factor * 255 - 1) > 1e-6:
            return None
        how: dict[str, Any] = {
            "filter": FILTERS[int(own.resample)],
            "mean": tuple(own.image_mean),
            "std": tuple(own.image_std),
        }
        square, short = side(own.size, "height", "width"), side(own.size, "shortest_edge")
        if share := getattr(own, "crop_pct", None):  # ConvNeXt's, which crops small sizes
            if short and short < 384:
                return Preprocess(short, "crop", **how, resize=int(short / share))
            return Preprocess(short, **how) if short else None
        if not getattr(own, "do_center_crop", False):
            return Preprocess(square, **how) if square else None
        cut = side(own.crop_size, "height", "width")
        return Preprocess(cut, "crop", **how, resize=short) if cut and short else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
