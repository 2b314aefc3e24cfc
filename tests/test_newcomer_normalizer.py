"""A normalizer from outside the package takes one file, and nothing of the package changes: see CONTRIBUTING.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from l2a_transfer.errors import PluginError, UnknownNameError
from l2a_transfer.features.store.reader import read_features, read_maps
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.normalizers import NORMALIZERS, normalizer
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import read_card
from tests.conftest import l2a
from tests.test_training import CPU, RECIPE, colours

OWN = ["softmax", "sparsemax", "entmax15", "sigmoid", "sigmoid-sum", "tvmax"]
GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"


@pytest.fixture
def linear() -> Iterator[None]:
    """The file that the guide shows."""
    section = GUIDE.read_text().split("\n## A new normalizer\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    exec(compile(code, str(GUIDE), "exec"), {})
    yield
    NORMALIZERS.remove("linear")


@pytest.mark.usefixtures("linear")
def test_it_decides_what_is_built_and_trains_and_is_extracted(tmp_path: Path) -> None:
    from l2a_transfer.training.runs import run_training
    from l2a_transfer.training.trainer import Trainer

    config = ModelConfig("vgg-att1-pc", num_classes=4, width=1 / 32, normalizer="linear")
    # A constant changes its weights, so that g acts through `<u, l + g>` and its layers are part of the network.
    assert (config.g_is_inert, config.builds_global_branch) == (False, True)
    assert [spec.kind for spec in config.maps] == ["distribution"]
    trained = run_training(Trainer(config, RECIPE, colours(8), placement=CPU), tmp_path / "run", progress=False)
    assert read_card(trained.weights).config == config

    out = tmp_path / "features.h5"
    result = l2a("extract", "--model", str(trained.weights), "--data", "caltech-mini", "--attention", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert read_features(out).features.shape[1] == 16
    (weights,) = (torch.from_numpy(values).float() for values in read_maps(out).values())
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(len(weights)), atol=1e-2, rtol=0)


@pytest.mark.usefixtures("linear")
def test_it_is_listed_and_its_weights_need_it() -> None:
    assert list(NORMALIZERS) == [*OWN, "linear"]
    with pytest.raises(UnknownNameError, match=f"{', '.join(OWN)}, linear; got 'linea'"):
        ModelConfig("vgg", normalizer="linea")
    with pytest.raises(PluginError, match="'linear' is declared twice"):
        normalizer("linear")(lambda scores: scores)


def test_a_normalizer_that_does_not_sum_to_1_gives_gates() -> None:
    normalizer("gates", sums_to_1=False, shift_invariant=False)(lambda scores: scores.sigmoid())
    try:
        config = ModelConfig("vgg-att2-concat-dp", width=1 / 32, normalizer="gates")
        assert [spec.kind for spec in config.maps] == ["gate", "gate"]
        maps = build_model(config, seed=0).eval().attend(torch.zeros(2, 3, 32, 32)).maps
        assert maps["L2"].sum((1, 2)).min() > 2
        uniform = ModelConfig("vgg-att2-concat-uniform", normalizer="gates")
        assert [spec.kind for spec in uniform.maps] == ["distribution", "distribution"]
    finally:
        NORMALIZERS.remove("gates")
    with pytest.raises(UnknownNameError, match=f"normalizer must be one of {', '.join(OWN)}; got 'gates'"):
        ModelConfig("vgg", normalizer="gates")
