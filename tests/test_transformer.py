"""`AttentionFeatures` in scikit-learn: its own checks, pipelines, searches, and every kind of picture."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

import l2a_transfer
from l2a_transfer import AttentionFeatures
from l2a_transfer.errors import ArgumentError, DataError, UnknownNameError
from tests.conftest import TINY

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
IMAGES[::2] //= 4  # every other picture is dark
LABELS = np.array(["dark", "bright"] * 12)


def tiny(**given: Any) -> AttentionFeatures:
    return AttentionFeatures(TINY, device="cpu", **given)


class OfTables(AttentionFeatures):
    """Makes pictures of scikit-learn's tables of numbers, so that its checks reach what is behind the pictures."""

    def __init__(self, model: Any = TINY, *, levels: Any = None, device: str = "cpu", batch_size: int = 64) -> None:
        super().__init__(model, levels=levels, device=device, batch_size=batch_size)

    def fit(self, X: Any, y: Any = None) -> OfTables:
        super().fit(drawn(validate_data(self, X)))
        return self

    def transform(self, X: Any) -> Any:
        # Not `super().transform`, which would wrap its result by `set_output` once more, without the table's index.
        return AttentionFeatures.transform.__wrapped__(self, drawn(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags


def drawn(X: Any) -> Any:
    """Rows of numbers → uint8 (N, 32, 32, 3), each picture of its row alone."""
    grey = (1 + np.tanh(np.asarray(X, dtype=np.float64))) * 127.5
    return np.resize(np.repeat(grey, 3072 // X.shape[1] + 1, axis=1)[:, :3072], (len(X), 32, 32, 3)).astype(np.uint8)


def test_check_estimator_has_nothing_for_pictures() -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator AttentionFeatures which requires input"):
        check_estimator(tiny())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_check_estimator_with_pictures_for_tables() -> None:
    passed, failed = set(), {}

    def keep(*, check_name: str, status: str, exception: BaseException | None, **_: Any) -> None:
        if status == "passed":
            passed.add(check_name)
        elif status != "skipped":
            failed[check_name] = exception

    check_estimator(OfTables(), on_fail=None, on_skip=None, callback=keep)
    assert not failed
    assert len(passed) > 40
    assert {"check_estimators_pickle", "check_dict_unchanged", "check_transformer_general"} <= passed
    for check in (
        estimator_checks.check_set_output_transform,
        estimator_checks.check_set_output_transform_pandas,
        estimator_checks.check_global_output_transform_pandas,
    ):
        check("OfTables", OfTables())


def test_features_are_those_of_extract(tmp_path: Path) -> None:
    result = l2a_transfer.extract(IMAGES, l2a_transfer.open_backend(TINY, device="cpu"), tmp_path / "a.h5")
    expected = l2a_transfer.read_features(result.path).features
    np.testing.assert_array_equal(tiny().fit_transform(IMAGES), expected)
    np.testing.assert_array_equal(tiny().transform(IMAGES), expected)  # there is nothing to fit
    np.testing.assert_allclose(tiny(batch_size=7).transform(IMAGES), expected, rtol=1e-4, atol=1e-6)


def test_every_kind_of_picture(tmp_path: Path) -> None:
    pictures = [Image.fromarray(image) for image in IMAGES[:4]]
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = tiny().fit_transform(IMAGES[:4])
    some = [pictures[0], paths[1], str(paths[2]), IMAGES[3]]
    kinds = [pictures, tuple(pictures[:4]), paths, list(map(str, paths)), np.array(list(map(str, paths))), some]
    for X in kinds:
        np.testing.assert_array_equal(tiny().fit(X).transform(X), expected)
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in IMAGES[:4]]
    np.testing.assert_array_equal(tiny().transform(tensors), expected)
    two = tiny().transform((pictures[0], pictures[1]))  # not pictures and labels
    np.testing.assert_allclose(two, expected[:2], rtol=1e-4, atol=1e-6)


def test_grey_pictures_and_other_sizes() -> None:
    assert tiny().transform(IMAGES[:3, :20, :, 0]).shape == (3, 64)


def test_pipeline_search_and_cross_validation() -> None:
    pipeline = make_pipeline(tiny(), StandardScaler(), LinearSVC(C=1e-2))
    assert cross_val_score(pipeline, IMAGES, LABELS, cv=3).mean() > 0.9
    pictures = [Image.fromarray(image) for image in IMAGES]
    search = GridSearchCV(pipeline, {"attentionfeatures__levels": ["L2", "L3", ("L2", "L3"), None]}, cv=2)
    search.fit(pictures, LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    widths = {"L2": 32, "L3": 32, ("L2", "L3"): 64, None: 64}
    best = search.best_estimator_
    assert best[-1].coef_.shape[1] == widths[search.best_params_["attentionfeatures__levels"]]
    assert (search.predict(pictures) == LABELS).mean() > 0.9


def test_clones_and_pickles() -> None:
    first = tiny(levels=["L3"]).fit(IMAGES)
    again = clone(first)
    assert not hasattr(again, "backend_")
    assert again.get_params() == first.get_params()
    read = pickle.loads(pickle.dumps(first))  # noqa: S301
    np.testing.assert_array_equal(read.transform(IMAGES), first.transform(IMAGES))
    assert pickle.loads(pickle.dumps(again)).levels == ["L3"]  # noqa: S301


def test_a_network_in_memory_stays_as_it_is() -> None:
    network = l2a_transfer.create_model("vgg-att2-concat-pc", width=0.0625).train()
    copied = clone(AttentionFeatures(network, device="cpu"))
    np.testing.assert_array_equal(
        copied.fit_transform(IMAGES), AttentionFeatures(network, device="cpu").fit_transform(IMAGES)
    )
    assert network.training


def test_names_and_frames() -> None:
    pytest.importorskip("pandas")
    features = tiny().set_output(transform="pandas")
    frame = features.fit_transform(IMAGES)
    assert (
        list(frame.columns)
        == features.get_feature_names_out().tolist()
        == [f"{level}_{k}" for level in ("L2", "L3") for k in range(32)]
    )
    assert tiny(levels="L3").get_feature_names_out(["ignored"])[31] == "L3_31"
    pipeline = make_pipeline(tiny(levels="L2"), StandardScaler()).fit(IMAGES)
    assert pipeline.get_feature_names_out()[0] == "L2_0"


def test_transform_changes_nothing() -> None:
    features = tiny().fit(IMAGES)
    before = dict(vars(features))
    features.transform(IMAGES)
    assert vars(features) == before
    assert "backend_" not in vars(_transformed(tiny()))


def _transformed(features: AttentionFeatures) -> AttentionFeatures:
    features.transform(IMAGES[:2])
    return features


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (IMAGES.astype(np.float32), TypeError, "images must be uint8 .* got float32"),
        (np.zeros((5, 3)), TypeError, "images must be uint8"),
        (IMAGES.transpose(0, 3, 1, 2), ValueError, "channels come last"),
        (IMAGES[0], ValueError, r"for a single image, use x\[None\]"),
        (IMAGES[:0], ValueError, "got 0 pictures"),
        ([], ValueError, "got 0 pictures"),
        ("photo.jpg", TypeError, "X must be .* got str"),
        (None, TypeError, "X must be .* got NoneType"),
        ([[1, 2], [3, 4]], TypeError, "row 0 of X must be a path, a Pillow image"),
        ([IMAGES[0], 3], TypeError, "row 1 of X must be a path"),
    ],
)
def test_what_are_no_pictures(X: Any, error: type[Exception], words: str) -> None:
    for call in (tiny().fit, tiny().transform):
        with pytest.raises(error, match=words):
            call(X)


def test_what_cannot_be_computed(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="level must be one of L2, L3; got 'L4'"):
        tiny(levels="L4").fit(IMAGES)
    with pytest.raises(UnknownNameError):
        AttentionFeatures("resnet").fit(IMAGES)
    with pytest.raises(ArgumentError, match="batch_size must be at least 1, got 0"):
        tiny(batch_size=0).fit(IMAGES)
    with pytest.raises(DataError, match=r"none\.jpg"):
        tiny().transform([tmp_path / "none.jpg"])
    with pytest.raises(DataError, match="X: row 1: must be a Pillow image or uint8"):
        tiny().transform([IMAGES[0], IMAGES[0].astype(float)])


def test_a_network_of_pairs_attends_each_image_with_itself(tmp_path: Path) -> None:
    model = f"untrained:vgg-att2-concat-pc-co@{1 / 32}"
    found = AttentionFeatures(model, device="cpu").fit_transform(IMAGES)
    l2a_transfer.extract(IMAGES, model, tmp_path / "f.h5", progress=False)
    with l2a_transfer.open_features(tmp_path / "f.h5") as stored:
        np.testing.assert_array_equal(found, stored.features[:])
