"""The package's interface: what it lists is documented, changes nothing of its caller's, and takes what it says."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import l2a_transfer
from l2a_transfer.data.sources import SourceBase
from l2a_transfer.errors import (
    ArgumentError,
    DataError,
    MissingExtraError,
    UnknownNameError,
    names_keywords,
    similar,
)
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.features.store.reader import read_features
from l2a_transfer.models.interface import Network
from l2a_transfer.training.recipe import TrainConfig
from tests.conftest import TINY, memory_source, save_picture
from tests.made_results import results as made_results
from tests.made_results import row

ROOT = Path(__file__).parents[1]
PUBLIC = [name for name in l2a_transfer.__all__ if name != "__version__"]
HEADING = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}$", flags=re.MULTILINE)
WEIGHTS = "vgg-att2-concat-pc.cifar10-w025"


def sections(thing: Any) -> dict[str, str]:
    """Heading → text of a docstring in numpydoc's form."""
    parts = HEADING.split(inspect.getdoc(thing) or "")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(text: str) -> list[str]:
    """The names of numpydoc's `name : kind` and `a, b : kind` lines, and of `**name`."""
    lines = re.findall(r"^(\*{0,2}\w+(?:, \w+)*)(?: : .+)?$", text, flags=re.MULTILINE)
    return [name.lstrip("*") for line in lines for name in line.split(", ")]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_takes_gives_and_raises(name: str) -> None:
    thing = getattr(l2a_transfer, name)
    found = sections(thing)
    assert {"Parameters", "Examples"} <= set(found), f"{name} has {list(found)}"
    assert documented(found["Parameters"]) == list(inspect.signature(thing).parameters)
    assert ">>> " in found["Examples"]
    if not inspect.isclass(thing):
        assert "Returns" in found
        assert "Raises" in found or name == "list_models"


def test_the_page_lists_every_public_name() -> None:
    table = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = {name for line in table for name in re.findall(r"`(\w+)", line)}
    assert listed == set(PUBLIC)


def test_every_listed_name_is_there_and_others_are_not() -> None:
    assert sorted(dir(l2a_transfer)) == sorted(l2a_transfer.__all__)
    assert l2a_transfer.__version__ == "0.1.0"
    with pytest.raises(AttributeError):
        _ = l2a_transfer.build_model  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("extrac", "; did you mean 'extract'?"),
        ("extracts", "; did you mean 'extract'?"),
        ("create", "; did you mean 'create_model'?"),
        ("open", "; did you mean 'open_backend', 'open_features' or 'open_source'?"),
        ("zzz", "no attribute 'zzz'"),
        ("__wrapped__", "no attribute '__wrapped__'"),
    ],
)
def test_an_unknown_attribute_names_the_nearest(name: str, end: str) -> None:
    assert not hasattr(l2a_transfer, name)
    with pytest.raises(AttributeError, match=re.escape(end) + "$"):
        getattr(l2a_transfer, name)


def test_the_traceback_of_an_unknown_attribute_has_one_suggestion() -> None:
    code = "import l2a_transfer; l2a_transfer.extrac"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.lower().count("did you mean") == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: l2a_transfer.create_model("vgg", num_class=3),
            r"create_model\(\) .*'num_class'; did you mean 'num_classes'",
        ),
        (lambda: l2a_transfer.extract("digits", TINY, "f.h5", batchsize=3), "'batchsize'; did you mean 'batch_size'"),
        (lambda: l2a_transfer.train("vgg", "digits", "run", epoch=3), "'epoch'; did you mean 'epochs'"),
        (lambda: l2a_transfer.open_source("digits", limits=3), "'limits'; did you mean 'limit'"),
        (lambda: l2a_transfer.open_backend(TINY, prec="fp32"), "'prec'; did you mean 'precision'"),
        (lambda: l2a_transfer.attention_maps(TINY, pictures()[0], size=32), "'size'; did you mean 'side'"),
        (lambda: l2a_transfer.ModelConfig("vgg", widht=0.5), r"ModelConfig\(\) .*'widht'; did you mean 'width'"),
        (lambda: l2a_transfer.EvalConfig(C=[1e-3]), "'C'; did you mean 'c_grid', 'compare' or 'class_map'"),
        (lambda: dataclasses.replace(TrainConfig(), epoch=3), "'epoch'; did you mean 'epochs'"),
        (lambda: l2a_transfer.EvalConfig(zzz=1), "'zzz'; it takes protocol, c_grid, "),
    ],
)
def test_an_unknown_keyword_names_the_nearest(call: Callable[[], object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


def test_functions_that_check_keywords_keep_their_signature() -> None:
    @names_keywords
    def scale(rows: list[int], by: int = 2, *, offset: int = 0) -> list[int]:
        return [row * by + offset for row in rows]

    assert str(inspect.signature(scale)) == "(rows: 'list[int]', by: 'int' = 2, *, offset: 'int' = 0) -> 'list[int]'"
    assert scale([1, 2], by=3, offset=1) == [4, 7]
    assert scale(rows=[1]) == [2]
    with pytest.raises(TypeError, match="it takes rows, by, offset"):
        scale([1], xyz=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'rows'"):
        scale()  # type: ignore[call-arg]
    config = l2a_transfer.ModelConfig("vgg", 5, width=0.5)
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301
    assert pickle.loads(pickle.dumps(l2a_transfer.extract)) is l2a_transfer.extract  # noqa: S301


def test_names_that_begin_so_come_before_names_that_are_near() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'vgg-att2-concat-pc', 'vgg-att2-concat-dp', .*…\?"):
        l2a_transfer.ModelConfig("vgg-att2")
    with pytest.raises(UnknownNameError, match=r"did you mean 'vgg-att2-concat-pc\.cifar10-w025', "):
        l2a_transfer.load_model("vgg-att2")
    assert similar("vgg-att1", ["vgg-att2", "vgg-att1-pc", "vgg-att1-dp"]) == ["vgg-att1-pc", "vgg-att1-dp"]
    assert similar("CIFAR10", ["cifar100", "cifar10"]) == ["cifar10"]
    assert similar("", ["softmax"]) == similar("zzz", ["softmax"]) == []


def test_weights_that_are_named_and_not_loaded_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"names weights, but they are not loaded.* pretrained=True") as caught:
        network = l2a_transfer.create_model(WEIGHTS, seed=0)
    assert caught[0].filename == __file__
    random = l2a_transfer.create_model(WEIGHTS, pretrained=False, seed=0)  # a warning would be an error here
    key = "classifiers.0.weight"
    assert torch.equal(network.state_dict()[key], random.state_dict()[key])
    assert not torch.equal(network.state_dict()[key], l2a_transfer.load_model(WEIGHTS)[0].state_dict()[key])


@pytest.mark.parametrize(
    ("call", "order"),
    [
        (lambda: l2a_transfer.extract(WEIGHTS, pictures(), "f.h5"), "extract(data, model, out)"),
        (lambda: l2a_transfer.extract(Path("a.safetensors"), "digits", "f.h5"), "extract(data, model, out)"),
        (
            lambda: l2a_transfer.extract(l2a_transfer.load_model(WEIGHTS), memory_source(), "f.h5"),  # type: ignore[arg-type]
            "extract(data, model, out)",
        ),
        (
            lambda: l2a_transfer.extract(l2a_transfer.open_backend("pixels"), "digits", "f.h5"),  # type: ignore[arg-type]
            "extract(data, model, out)",
        ),
        (lambda: l2a_transfer.evaluate(l2a_transfer.EvalConfig(), "f.h5"), "evaluate(files, config)"),  # type: ignore[arg-type]
        (lambda: l2a_transfer.train("digits", "vgg-att1-pc", "run"), "train(architecture, data, out)"),
        (lambda: l2a_transfer.attention_maps("cat.jpg", TINY), "attention_maps(model, images)"),
        (
            lambda: l2a_transfer.attention_maps(pictures(), l2a_transfer.create_model("vgg", width=1 / 32)),  # type: ignore[call-overload]
            "attention_maps(model, images)",
        ),
        (lambda: l2a_transfer.export_onnx("n.onnx", TINY), "export_onnx(model, out)"),
        (lambda: l2a_transfer.export_onnx("n.onnx", l2a_transfer.create_model("vgg")), "export_onnx(model, out)"),  # type: ignore[arg-type]
    ],
)
def test_swapped_arguments_are_said_to_be_swapped(call: Callable[[], object], order: str) -> None:
    with pytest.raises(ArgumentError, match=f"swapped; the order is {re.escape(order)}"):
        call()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: l2a_transfer.extract("digits", "vgg-att", "f.h5"), "unknown model 'vgg-att'"),
        (lambda: l2a_transfer.extract(TINY, TINY, "f.h5"), "data set must be one of"),
        (lambda: l2a_transfer.export_onnx("vgg-att", "n.onnx"), "unknown model 'vgg-att'"),
        (lambda: l2a_transfer.attention_maps(TINY, "cat.onnx"), "cat.onnx"),
    ],
)
def test_other_mistakes_are_not_called_swapped(call: Callable[[], object], error: str) -> None:
    with pytest.raises(Exception, match=re.escape(error)) as caught:
        call()
    assert "swapped" not in str(caught.value)


def test_what_is_returned_shows_itself_in_a_line(tmp_path: Path) -> None:
    source = l2a_transfer.open_source("digits", limit=60)
    assert repr(source) == "<Subset digits: 60 images, 10 classes, split all>"
    assert repr(l2a_transfer.open_source("digits")) == "<ArraySource digits: 1,797 images, 10 classes, split all>"
    result = l2a_transfer.extract(source, TINY, tmp_path / "f.h5", progress=False)
    assert re.fullmatch(r"<ExtractResult .*f\.h5: 60 rows × 64 columns, 60 computed in [\d.]+ s>", repr(result))
    backend = l2a_transfer.open_backend(TINY, device="cpu")
    assert repr(backend) == f"<TorchBackend {TINY}: 64 features (L2 32, L3 32) of 32 × 32 pixels, tap ga, fp32 on cpu>"
    maps = l2a_transfer.attention_maps(TINY, pictures()[0], side=32, names="cat.jpg")
    assert repr(maps) == "<ImageMaps cat.jpg: image (32, 32, 3), maps L2 (16, 16), L3 (8, 8)>"
    network, card = l2a_transfer.load_model(WEIGHTS)
    assert repr(card) == f"<Card {WEIGHTS}: 925,178 parameters, 10 classes, trained on cifar10>"
    attended = network.attend(torch.zeros(2, 3, 32, 32))
    assert repr(attended).startswith("<Attended: logits (2, 10); g_a L2 (2, 128), L3 (2, 128); maps L2 (2, 16, 16), ")
    (computed,) = backend.stream([pictures().transpose(0, 3, 1, 2)], attention=True)
    assert repr(computed) == "<Computed: features (6, 64); maps L2 (6, 16, 16), L3 (6, 8, 8)>"


def test_results_show_a_line_for_each_row() -> None:
    found = made_results([row("good", 0.75), row("bad", 0.25, variant="L3")])
    head, *lines = repr(found).splitlines()
    assert head.startswith("<EvalResults: 2 rows, ")
    assert lines == ["  toy, official: good 75.0 [65.0, 85.0] %", "  toy, official: bad (L3) 25.0 [15.0, 35.0] %"]
    many = made_results([row(f"m{k}") for k in range(40)])
    assert len(repr(many).splitlines()) == 14
    assert repr(many).endswith("  … and 28 more in .rows")
    assert all(len(repr(part)) < 200 for part in (*found.details, *found.splits))


def test_names_in_a_repr_are_one_line_of_visible_text() -> None:
    source = l2a_transfer.open_source(pictures(), name="a\x1b[2J\n\u202e" + "b" * 500)
    assert repr(source).isprintable()
    assert "\\x1b" in repr(source)
    assert len(repr(source)) < 250


def test_a_source_of_others_shows_itself_in_a_line() -> None:
    @dataclasses.dataclass(frozen=True, eq=False)
    class Drawn(SourceBase):
        sizes: tuple[int, ...]

    @dataclasses.dataclass(frozen=True, eq=False)
    class Named(SourceBase):
        def __repr__(self) -> str:
            return "mine"

    own = ("drawn", ("cat",), ("train", "test"), tuple("abc"), np.zeros(3, np.int32), np.zeros(3, np.uint8))
    assert repr(Drawn(*own, sizes=(8, 8, 8))) == "<Drawn drawn: 3 images, 1 class, splits train, test>"
    assert repr(Named(*own)) == "mine"


def pictures(n: int = 6, side: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def state_of(network: Network) -> dict[str, Any]:
    """Everything of a network that library code could change."""
    return {
        "mode": [module.training for module in network.modules()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in network.modules()],
        "tensors": {
            name: (id(value), value.data_ptr(), value.stride(), value.dtype, value.device.type, value.requires_grad)
            for name, value in (*network.named_parameters(), *network.named_buffers())
        },
        "bytes": {name: value.detach().numpy().tobytes() for name, value in network.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.numpy().tobytes() for p in network.parameters()],
        "preprocess": network.preprocess,
        "config": network.config,
    }


def state_of_the_process() -> tuple[Any, ...]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),  # type: ignore[union-attr,index]
        random.getstate(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cuda.matmul.allow_tf32,
    )


USES: dict[str, Callable[[Network], object]] = {
    "open_backend": lambda network: l2a_transfer.open_backend(network, device="cpu").features(
        pictures().transpose(0, 3, 1, 2).copy()
    ),
    "open_backend in bf16": lambda network: l2a_transfer.open_backend(network, precision="bf16", device="cpu").features(
        pictures().transpose(0, 3, 1, 2).copy()
    ),
    "extract": lambda network: l2a_transfer.extract(pictures(), network, "f.h5", attention=True, progress=False),
    "attention_maps": lambda network: l2a_transfer.attention_maps(network, pictures()[0], side=32),
    "export_onnx": lambda network: l2a_transfer.export_onnx(network, "n.onnx"),
}


@pytest.mark.parametrize("use", USES)
def test_a_network_stays_as_it_was(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = l2a_transfer.create_model("vgg-att2-concat-pc", width=1 / 32, seed=0)
    network(torch.randn(2, 3, 32, 32)).sum().backward()  # type: ignore[no-untyped-call]
    network.eval()
    next(module for module in network.modules() if isinstance(module, torch.nn.Dropout)).train()
    next(network.parameters()).requires_grad_(False)
    network.register_forward_hook(lambda *_: None)
    before, process = state_of(network), state_of_the_process()
    USES[use](network)
    assert state_of(network) == before
    assert state_of_the_process() == process


def test_nothing_of_the_process_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = state_of_the_process()
    l2a_transfer.create_model("vgg", width=1 / 32, seed=3)
    l2a_transfer.load_model(WEIGHTS)
    source = l2a_transfer.open_source("digits", limit=60)
    features = l2a_transfer.extract(source, "untrained:vgg-gap@0.03125", "f.h5", progress=False)
    found = l2a_transfer.evaluate(features, c_grid=[1e-3], draws=2)
    l2a_transfer.write_report(found, "report")
    l2a_transfer.train("vgg-att1-pc", source, "run", holdout=20, epochs=1, width=1 / 32, image_size=8, dropout=1.0)
    assert state_of_the_process() == process


def test_a_network_that_is_changed_later_does_not_change_its_backend() -> None:
    network = l2a_transfer.create_model("vgg-att2-concat-pc", width=1 / 32, seed=0)
    images = pictures().transpose(0, 3, 1, 2).copy()
    backend = l2a_transfer.open_backend(network, device="cpu")
    before = backend.features(images)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(backend.features(images), before)


def test_a_network_gives_the_features_of_its_name(tmp_path: Path) -> None:
    source = memory_source(8)
    ways = {
        "name": WEIGHTS,
        "pair": l2a_transfer.load_model(WEIGHTS),
        "network": l2a_transfer.create_model(WEIGHTS, pretrained=True),
    }
    found = {}
    for way, model in ways.items():
        path = l2a_transfer.extract(source, model, tmp_path / f"{way}.h5", progress=False).path
        found[way] = read_features(path)
    for way in ("pair", "network"):
        np.testing.assert_array_equal(found[way].features, found["name"].features)
        assert found[way].meta.preprocess == found["name"].meta.preprocess
    assert found["pair"].meta == found["name"].meta
    card = found["network"].meta.card
    assert card["name"] == "memory:vgg-att2-concat-pc@0.25"
    assert (card["training"], card["metrics"], card["parameters"]) == ({}, {}, 925_178)
    weights = {features.meta.fingerprint["weights"] for features in found.values()}
    assert len(weights) == 1


def test_features_of_a_network_in_memory_are_evaluated_and_reported(tmp_path: Path) -> None:
    source = l2a_transfer.open_source("digits", limit=60)
    network = l2a_transfer.create_model("vgg-gap", width=1 / 32, seed=0)
    files = [
        l2a_transfer.extract(source, model, tmp_path / f"{k}.h5", progress=False)
        for k, model in enumerate((network, "untrained:vgg-gap@0.03125"))
    ]
    found = l2a_transfer.evaluate(files, c_grid=[1e-3], draws=2)
    assert [line.model for line in found.rows] == ["memory:vgg-gap@0.03125", "untrained:vgg-gap@0.03125"]
    assert found.rows[0].accuracy_draws == found.rows[1].accuracy_draws  # both have the weights of seed 0
    page = next(path for path in l2a_transfer.write_report(found, str(tmp_path / "report")) if path.suffix == ".html")
    assert "memory:vgg-gap@" in page.read_text(encoding="utf-8").replace("<wbr>", "")


def test_pretrained_networks_have_the_weights_and_a_new_head_where_classes_differ() -> None:
    named, _ = l2a_transfer.load_model(WEIGHTS)
    whole = l2a_transfer.create_model(WEIGHTS, pretrained=True)
    assert whole.training
    for key, value in named.state_dict().items():
        assert torch.equal(whole.state_dict()[key], value), key
    other = l2a_transfer.create_model(WEIGHTS, pretrained=True, num_classes=3, normalizer="softmax", seed=0)
    differing = {key for key, value in named.state_dict().items() if value.shape != other.state_dict()[key].shape}
    assert differing == {"classifiers.0.weight", "classifiers.0.bias"}
    assert all(torch.equal(other.state_dict()[k], v) for k, v in named.state_dict().items() if k not in differing)
    assert other(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_a_network_without_weights_is_a_function_of_the_seed() -> None:
    one, same, other = (l2a_transfer.create_model("vgg", width=1 / 32, seed=seed) for seed in (1, 1, 2))
    key = "classifier.weight"
    assert torch.equal(one.state_dict()[key], same.state_dict()[key])
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])
    as_tagged = l2a_transfer.create_model("vgg-att2-concat-pc.cifar10-w050", pretrained=False, seed=0)
    assert (as_tagged.config.width, as_tagged.config.num_classes) == (0.5, 10)
    assert l2a_transfer.create_model("vgg", width=1, seed=0).config.to_json()["width"] == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: l2a_transfer.create_model("vgg-att2-concat-pc", pretrained=True),
            "is an architecture; its weights are",
        ),
        (lambda: l2a_transfer.create_model("vgg", pretrained=True), "is an architecture without bundled weights"),
        (lambda: l2a_transfer.create_model("vgg-att2-concat-cp"), "did you mean 'vgg-att2-concat-pc'"),
        (lambda: l2a_transfer.create_model(WEIGHTS, True, width=0.5), r"width must be 0\.25, as in the weights"),
        (
            lambda: l2a_transfer.create_model(WEIGHTS, True, normalizer="sigmoid"),
            "normalizer must be 'softmax', as in the weights .* or one with the same effect on the global feature g",
        ),
        (lambda: l2a_transfer.create_model(WEIGHTS, True, global_branch="always"), "global_branch must be 'auto'"),
        (lambda: l2a_transfer.create_model("vgg", num_classes=0), "num_classes must be between"),
        (lambda: l2a_transfer.open_backend("vgg-att2-concat-pc"), "is an architecture; its weights are"),
        (lambda: l2a_transfer.train(WEIGHTS, "digits", "run"), f"names weights; train .* `init_from='{WEIGHTS}'`"),
        (lambda: l2a_transfer.evaluate("f.h5", fold=3), "setting must be one of .*did you mean 'folds'"),
        (lambda: l2a_transfer.open_backend(l2a_transfer.open_backend("pixels"), tap="ga-bn-relu"), "is already open"),
        (
            lambda: l2a_transfer.attention_maps(TINY, [pictures()[0]], names=["a", "b"]),
            "names must have one entry per picture",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_models_are_listed_by_pattern() -> None:
    architectures = l2a_transfer.list_models(pretrained=False)
    weights = l2a_transfer.list_models(pretrained=True)
    assert l2a_transfer.list_models() == architectures + weights
    assert "vgg" in architectures
    assert WEIGHTS in weights
    assert l2a_transfer.list_models("nothing*") == []
    for name in weights:
        assert l2a_transfer.load_model(name)[1].name == name


def test_maps_take_one_picture_or_many_of_any_kind(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "cat.jpg", size=(40, 40))
    array = np.asarray(Image.open(path).convert("RGB"))
    one = l2a_transfer.attention_maps(TINY, path, side=32)
    assert isinstance(one, ImageMaps)
    assert one.name == "cat.jpg"
    many = l2a_transfer.attention_maps(TINY, [path, str(path), array, Image.fromarray(array), array[..., 0]], side=32)
    assert [found.name for found in many] == ["cat.jpg", "cat.jpg", "image 2", "image 3", "image 4"]
    for found in many[:4]:
        np.testing.assert_array_equal(found.maps["L3"], one.maps["L3"])
    batch = l2a_transfer.attention_maps(TINY, pictures(3), side=32, names=["a", "b", "c"])
    assert [found.name for found in batch] == ["a", "b", "c"]
    alone = l2a_transfer.attention_maps(TINY, pictures(3)[2], side=32)
    np.testing.assert_array_equal(batch[2].maps["L2"], alone.maps["L2"])


def test_training_takes_arrays_and_measures_on_their_test_split(tmp_path: Path) -> None:
    labels = np.arange(40) % 2
    images = np.where(labels[:, None, None, None] == 1, 220, 30).astype(np.uint8).repeat(8, 1).repeat(8, 2).repeat(3, 3)
    data = {"train": (images[:32], labels[:32]), "test": (images[32:], labels[32:])}
    result = l2a_transfer.train(
        "vgg-att1-pc", data, tmp_path / "run", epochs=1, batch_size=8, width=1 / 32, image_size=8, workers=0
    )
    assert result.metrics["test_accuracy"]["n"] == 8
    network, card = l2a_transfer.load_model(result.weights)
    assert (card.classes, card.training["data"], network.config.num_classes) == (("0", "1"), "memory", 2)
    recipe = card.training["recipe"]
    assert (recipe["batch_size"], recipe["lr"], recipe["epochs"]) == (8, 0.2 * 8 / 128, 1)
    with pytest.raises(DataError):
        l2a_transfer.train("vgg", {"train": (images, ["a"] * 39)}, tmp_path / "other")


def test_results_become_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    found = made_results([row("good", 0.75), row("bad", 0.25)])
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["label"].tolist() == ["good", "bad"]
    assert frame["accuracy"].tolist() == [0.75, 0.25]
    assert frame["accuracy_ci95_low"].tolist() == [found.rows[0].accuracy_ci95[0], found.rows[1].accuracy_ci95[0]]
    assert frame["C"].tolist() == [(0.01,), (0.01,)]


def test_a_frame_without_pandas_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"l2a-transfer\[pandas\]"):
        made_results([row()]).to_pandas()


def test_results_show_themselves_in_a_notebook_and_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\u202e"
    shown = made_results([row("good", 0.75), row(evil, 0.25)])._repr_html_()
    assert shown.count("<tr>") == 3
    assert "<script" not in shown
    assert "\u202e" not in shown
    assert "&lt;script&gt;" in shown
    assert "75.0 [65.0, 85.0]" in shown
    drawn = l2a_transfer.attention_maps(TINY, pictures()[0], side=32, names=evil)._repr_html_()
    assert drawn.count('src="data:image/png;base64,') == 2
    assert "<script" not in drawn
    extracted = l2a_transfer.extract(pictures(), "pixels", tmp_path / "<b>.h5", progress=False)._repr_html_()
    assert "&lt;b&gt;.h5" in extracted
    assert "3,072" in extracted


def test_an_unknown_name_of_the_command_line_is_the_librarys(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="is an architecture"):
        l2a_transfer.export_onnx("vgg-att2-concat-uniform", tmp_path / "n.onnx")
