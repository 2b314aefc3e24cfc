"""Networks over groups of images: who is attended with whom, in extraction, in the file and where it is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from l2a_transfer.data.readers import open_source
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import (
    ArgumentError,
    BackendError,
    DataError,
    OutputExistsError,
    StoreError,
    TrainingError,
    UnknownNameError,
)
from l2a_transfer.evaluation.groups import groups_of
from l2a_transfer.evaluation.measure_row import source_of
from l2a_transfer.evaluation.naming import name_files
from l2a_transfer.features.backends.interface import Computed
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.features.extraction import plan as plan_module
from l2a_transfer.features.extraction import ray_engine
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.partners import partner_rows
from l2a_transfer.features.store.reader import read_meta
from l2a_transfer.features.store.verify import verify_features
from l2a_transfer.features.store.views import FeatureFile, open_features
from l2a_transfer.features.store.writer import write_features
from l2a_transfer.models.config import Architecture, Family, ModelConfig, family, remove_family
from l2a_transfer.models.interface import Attended, Network
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import Card, count_parameters, read_card
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.trainer import Trainer
from tests.conftest import TINY, MemorySource, assert_fails, l2a, memory_source, save_picture
from tests.test_store import FEATURES, META, ROWS, reseal
from tests.test_training import CPU, RECIPE, colours

C, K, SIZE = 4, 2, 16


class Gated(Network):
    """Attends to where an image resembles its partners; the first partner counts twice, so that their order matters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv2d(3, C, 4, stride=4)
        self.classifier = nn.Linear(C, config.num_classes)

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        partners = self.check_partners(images, partners)
        assert partners is not None
        B, k = partners.shape[:2]
        l = self.conv(images)  # noqa: E741 - (B, C, H/4, W/4)
        seen = self.conv(partners.flatten(0, 1)).mean(dim=(2, 3)).unflatten(0, (B, k))  # (B, k, C)
        query = seen.sum(dim=1) + seen[:, 0]  # (B, C)
        scores = (l * query[:, :, None, None]).sum(dim=1)  # (B, H/4, W/4)
        weights = torch.softmax(scores.flatten(1), dim=1).reshape(scores.shape)
        g_a = (l * weights[:, None]).sum(dim=(2, 3))  # (B, C)
        return Attended(self.classifier(g_a), {"L3": g_a}, {"L3": g_a}, {"L3": weights})


@pytest.fixture(autouse=True)
def gated() -> Iterator[None]:
    @family("gated")
    class GatedFamily(Family):
        architectures = (Architecture("gated-toy", levels=("L3",)),)
        partners = K

        def network(self, config: ModelConfig) -> nn.Module:
            return Gated(config)

        def feature_levels(self, config: ModelConfig) -> dict[str, int]:
            return {"L3": C}

    yield
    remove_family("gated")


def network_and_card() -> tuple[Network, Card]:
    config = ModelConfig("gated-toy", num_classes=4)
    model = build_model(config, seed=0).eval()
    return model, Card("gated", config, Preprocess(size=SIZE), (), count_parameters(model), {"untrained": True})


def backend() -> TorchBackend:
    return TorchBackend(*network_and_card(), device="cpu")


def run(source: ImageSource, out: Path, model: TorchBackend | None = None, **options: Any) -> FeatureFile:
    """The open file of an extraction with partners from the set, and batches of 3 pictures."""
    extract(source, model or backend(), out, **{"batch_size": 3, "partners": "set", "progress": False, **options})
    return open_features(out)


def features_by_hand(source: ImageSource, name: str, partners: Iterable[str]) -> NDArray[np.float32]:
    """What the network says of one image of a source and its partners, (C,)."""
    model, card = network_and_card()
    pixels = [card.preprocess.pixels(source.image(source.ids.index(one))) for one in (name, *partners)]
    mean, std = card.preprocess.statistics()
    images = (torch.from_numpy(np.stack(pixels)).float() / 255 - mean) / std
    with torch.inference_mode():
        found: NDArray[np.float32] = model.attend(images[:1], images[None, 1:]).features[0].numpy()
    return found


def stopped() -> TorchBackend:
    """A backend that is interrupted in its sixth batch."""

    class Stopped(TorchBackend):
        def stream(self, batches: Iterable[NDArray[np.uint8]], *, attention: bool = False) -> Iterator[Computed]:
            for number, computed in enumerate(super().stream(batches, attention=attention)):
                if number == 5:
                    raise KeyboardInterrupt
                yield computed

    return Stopped(*network_and_card(), device="cpu")


@pytest.fixture
def digits() -> ImageSource:
    return open_source("digits", limit=20)


# Who is whose partner ------------------------------------------------------------------------------------------------


def test_partners_of_four_images() -> None:
    """The SHA-256 of "0 a" begins with cf, "0 b" 84, "0 c" ed, "0 d" f3: b, a, c, d. With seed 1: c, a, b, d."""
    ids = ["a", "b", "c", "d"]
    assert partner_rows(ids, 1).tolist() == [[2], [0], [3], [1]]
    assert partner_rows(ids, 3).tolist() == [[2, 3, 1], [0, 2, 3], [3, 1, 0], [1, 0, 2]]
    assert partner_rows(ids, 2, seed=1).tolist() == [[1, 3], [3, 2], [0, 1], [2, 0]]
    assert partner_rows(ids, 2).dtype == np.int64


@pytest.mark.parametrize(("rows", "partners"), [(2, 1), (50, 1), (50, 7), (8, 7)])
def test_partners_are_others_and_differ_whatever_the_order_of_the_rows(rows: int, partners: int) -> None:
    ids = [f"class/ü{k}.jpg" for k in range(rows)]
    found = partner_rows(ids, partners, seed=3)
    assert found.shape == (rows, partners)
    assert all(len({row, *own}) == 1 + partners for row, own in enumerate(found.tolist()))
    np.testing.assert_array_equal(np.bincount(found.reshape(-1)), partners)  # each image is used as often

    order = np.random.default_rng(0).permutation(rows)
    shuffled = [ids[row] for row in order]
    named = {shuffled[row]: [shuffled[k] for k in own] for row, own in enumerate(partner_rows(shuffled, partners, 3))}
    assert named == {ids[row]: [ids[k] for k in own] for row, own in enumerate(found)}


def test_another_seed_gives_other_partners() -> None:
    ids = [str(k) for k in range(50)]
    assert (partner_rows(ids, 1, seed=0) != partner_rows(ids, 1, seed=1)).any()


@pytest.mark.parametrize("partners", [4, 5, -1])
def test_too_few_images_for_so_many_partners(partners: int) -> None:
    with pytest.raises(ArgumentError, match="partners must be at least 0 and less than the number of images, 4"):
        partner_rows(["a", "b", "c", "d"], partners)


# Networks and the backend --------------------------------------------------------------------------------------------


def test_a_network_takes_as_many_partners_as_its_family_says() -> None:
    model, _ = network_and_card()
    images, partners = torch.randn(3, 3, SIZE, SIZE), torch.randn(3, K, 3, SIZE, SIZE)
    assert (model.config.partners, ModelConfig("vgg-gap").partners) == (K, 0)
    assert torch.equal(model(images, partners), model.attend(images, partners).logits)
    assert torch.equal(model(images), model(images, torch.stack([images, images], dim=1)))
    assert torch.equal(model.attend(images).logits, model(images))
    assert (model(images) - model(images, partners)).abs().max() > 1e-6
    for wrong in (partners[:, :1], partners[:2], partners[..., :8], images):
        for call in (model, model.attend):
            with pytest.raises(ArgumentError, match=r"partners must have the shape \(3, 2, 3, 16, 16\): gated-toy"):
                call(images, wrong)


@pytest.mark.parametrize("name", ["vgg", "vgg-gap", "vgg-pan", "vgg-dsna", "vgg-att2-concat-pc"])
def test_a_network_of_single_images_refuses_partners(name: str) -> None:
    model = build_model(ModelConfig(name, width=1 / 32), seed=0).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), model.attend(images).logits)
    for call in (model, model.attend):
        with pytest.raises(ArgumentError, match=f"partners must be None: {name} attends each image alone"):
            call(images, images[:, None])


def test_the_backend_takes_groups() -> None:
    groups = np.random.default_rng(0).integers(0, 256, (5, 1 + K, 3, SIZE, SIZE), dtype=np.uint8)
    opened = backend()
    found = opened.features(groups)
    assert found.shape == (5, C)
    assert opened.features(groups[:0]).shape == (0, C)
    streamed = list(opened.stream([groups[:2], groups[2:]], attention=True))
    np.testing.assert_allclose(np.concatenate([one.features for one in streamed]), found, rtol=1e-5)
    assert [one.maps["L3"].shape for one in streamed] == [(2, 4, 4), (3, 4, 4)]
    assert pickle.loads(pickle.dumps(opened)).features(groups).tobytes() == found.tobytes()  # noqa: S301
    for swap in ([0, 2, 1], [1, 0, 2]):
        assert np.abs(opened.features(groups[:, swap]) - found).max() > 1e-3
    with pytest.raises(ValueError, match=r"\(B, 3, 3, 16, 16\), each .* its partners; got \(5, 2, 3, 16, 16\)"):
        opened.features(groups[:, :2])
    alone = opened.features(groups[:, 0])
    np.testing.assert_allclose(alone, opened.features(groups[:, [0, 0, 0]]), rtol=1e-6)
    (streamed,) = opened.stream([groups[:, 0]])
    np.testing.assert_array_equal(streamed.features, alone)
    with pytest.raises(TypeError, match="uint8"):
        opened.features(groups.astype(np.float32))


# Extraction ----------------------------------------------------------------------------------------------------------


def test_batches_decide_neither_partners_nor_features(digits: ImageSource, tmp_path: Path) -> None:
    few, many = run(digits, tmp_path / "3.h5"), run(digits, tmp_path / "7.h5", batch_size=7)
    rows = partner_rows(digits.ids, K)
    assert few.partners == many.partners == tuple(tuple(digits.ids[k] for k in own) for own in rows)
    np.testing.assert_allclose(few.features[:], many.features[:], rtol=1e-5, atol=1e-6)
    expected = [features_by_hand(digits, name, own) for name, own in zip(few.ids, few.partners, strict=True)]
    np.testing.assert_allclose(few.features[:], expected, rtol=1e-5, atol=1e-6)
    assert (few.meta.fingerprint["partners"], few.meta.fingerprint["partners_seed"]) == (K, 0)
    assert pickle.loads(pickle.dumps(few)).partners == few.partners  # noqa: S301


def test_a_network_of_single_images_writes_no_partners(digits: ImageSource, tmp_path: Path) -> None:
    extract(digits, TINY, tmp_path / "f.h5", progress=False)
    with h5py.File(tmp_path / "f.h5") as file:
        assert sorted(file) == ["features", "ids", "labels", "split"]
    assert not {"partners", "partners_seed"} & set(read_meta(tmp_path / "f.h5")[0].fingerprint)
    with open_features(tmp_path / "f.h5") as found:
        assert found.partners == ()
    described = json.loads(l2a("inspect", tmp_path / "f.h5", "--verify", "--json").stdout)
    assert "partners" not in described
    assert "partners_wrong" not in described["verify"]


def test_a_resumed_extraction_ends_with_the_same_bytes(
    digits: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "SHARD_ROWS", 6)
    run(digits, tmp_path / "whole.h5")

    with pytest.raises(KeyboardInterrupt):
        run(digits, tmp_path / "f.h5", stopped())
    assert len(list((tmp_path / "f.h5.shards").glob("rows-*"))) == 2
    monkeypatch.setattr(plan_module, "SEED", 1)
    with pytest.raises(OutputExistsError, match="partners_seed: 0 there, 1 here"):
        run(digits, tmp_path / "f.h5")
    monkeypatch.setattr(plan_module, "SEED", 0)
    run(digits, tmp_path / "f.h5")
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


class LocalRay:
    """What the engine uses of Ray, in this process; what goes to an actor is pickled, as Ray does."""

    exceptions = SimpleNamespace(RayActorError=ConnectionError, ActorDiedError=ConnectionError)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 64.0}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **options: Any) -> Callable[[type], Any]:
        def actor(kind: type) -> Any:
            def start(*arguments: Any, **named: Any) -> Any:
                given, options = pickle.loads(pickle.dumps((arguments, named)))  # noqa: S301
                made = kind(*given, **options)
                return Actor(work=SimpleNamespace(remote=lambda a, b: Call(made.work(a, b))))

            return SimpleNamespace(remote=start)

        return actor

    def wait(self, calls: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return calls[:1], calls[1:]

    def get(self, call: Call) -> Any:
        return call.result

    def kill(self, actor: Any) -> None:
        pass


class Actor(SimpleNamespace):
    __hash__ = object.__hash__


class Call:
    def __init__(self, result: Any) -> None:
        self.result = result


@pytest.mark.parametrize("rule", ["self", "set"])
def test_the_ray_engine_gives_the_bytes_of_this_process(
    digits: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    @contextmanager
    def connected(*arguments: Any) -> Iterator[LocalRay]:
        yield LocalRay()

    monkeypatch.setattr(plan_module, "SHARD_ROWS", 6)
    monkeypatch.setattr(ray_engine, "connected", connected)
    run(digits, tmp_path / "local.h5", partners=rule)
    run(digits, tmp_path / "ray.h5", engine="ray", partners=rule)
    assert (tmp_path / "ray.h5").read_bytes() == (tmp_path / "local.h5").read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_faulty_image_takes_those_along_that_it_is_a_partner_of(tmp_path: Path, workers: int) -> None:
    for k in range(9):
        save_picture(tmp_path / "in" / "ant" / f"{k}.jpg", seed=k)
    source = open_source(f"imagefolder:{tmp_path / 'in'}")
    whole = run(source, tmp_path / "whole.h5")
    bad = "ant/4.jpg"
    with_bad = [name for name, own in zip(whole.ids, whole.partners, strict=True) if bad in own]
    assert len(with_bad) == K
    (tmp_path / "in" / bad).write_bytes(b"no picture")

    source = open_source(f"imagefolder:{tmp_path / 'in'}")
    with pytest.raises(DataError, match=r"ant/4\.jpg: "):
        run(source, tmp_path / "f.h5", workers=workers)
    found = run(source, tmp_path / "f.h5", on_error="skip", workers=workers)
    reasons = dict(found.meta.skipped)
    assert sorted(reasons) == sorted([bad, *with_bad])
    assert {reasons[name] for name in with_bad} == {f"its partner {bad!r}: {reasons[bad]}"}
    kept = [row for row, name in enumerate(whole.ids) if name not in reasons]
    assert found.ids == tuple(whole.ids[row] for row in kept)
    assert found.partners == tuple(whole.partners[row] for row in kept)
    np.testing.assert_array_equal(found.features[:], whole.features[kept])
    assert verify_features(tmp_path / "f.h5").partners_wrong == ()


def test_a_set_of_too_few_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="less than the number of images, 2; got 2"):
        run(open_source("digits", limit=2), tmp_path / "sub" / "f.h5")
    assert list(tmp_path.iterdir()) == []


# Each image as its own partner ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part(MemorySource):
    """Some images of a memory source, with the ids that they have there."""

    rows: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"{row:05d}" for row in self.rows)


def part_of(whole: MemorySource, rows: list[int]) -> Part:
    return Part(whole.pictures[rows], whole.labels[rows], whole.classes, rows=tuple(rows))


def test_features_depend_on_no_other_image_of_the_set(tmp_path: Path) -> None:
    whole, rows = memory_source(rows=20, side=SIZE), [17, 2, 9, 4, 0, 11]
    own = run(whole, tmp_path / "whole.h5", partners="self", batch_size=2, attention=True)
    part = run(part_of(whole, rows), tmp_path / "part.h5", partners="self", batch_size=2, attention=True)
    assert part.ids == tuple(own.ids[row] for row in rows)
    np.testing.assert_array_equal(part.features[:], own.features[:][rows])
    maps = (np.concatenate(list(one.map_blocks("L3"))) for one in (part, own))
    np.testing.assert_array_equal(next(maps), next(maps)[rows])
    drawn = [run(one, tmp_path / f"{k}.h5", batch_size=2) for k, one in enumerate((whole, part_of(whole, rows)))]
    assert (drawn[1].features[:] != drawn[0].features[:][rows]).any()


def test_co_attention_gives_an_image_the_same_features_in_any_set(tmp_path: Path) -> None:
    whole, rows = memory_source(rows=8, side=SIZE), [5, 0, 6, 3]
    model = f"untrained:vgg-att2-concat-pc-co@{1 / 32}"
    found = []
    for k, source in enumerate((whole, part_of(whole, rows))):
        extract(source, open_backend(model, image_size=SIZE), tmp_path / f"{k}.h5", batch_size=2, progress=False)
        found.append(open_features(tmp_path / f"{k}.h5").features[:])
    np.testing.assert_array_equal(found[1], found[0][rows])


def test_each_image_is_its_own_partner_by_default_in_any_batch(digits: ImageSource, tmp_path: Path) -> None:
    extract(digits, backend(), tmp_path / "f.h5", progress=False)
    found = open_features(tmp_path / "f.h5")
    many = run(digits, tmp_path / "7.h5", partners="self", batch_size=7)
    np.testing.assert_allclose(found.features[:], many.features[:], rtol=1e-5, atol=1e-6)
    expected = [features_by_hand(digits, name, [name] * K) for name in found.ids]
    np.testing.assert_allclose(found.features[:], expected, rtol=1e-5, atol=1e-6)


def test_the_rule_is_in_the_fingerprint_and_the_file_lists_no_partners(digits: ImageSource, tmp_path: Path) -> None:
    own, drawn = run(digits, tmp_path / "self.h5", partners="self"), run(digits, tmp_path / "set.h5")
    assert (own.meta.partners, drawn.meta.partners) == ("self", "set")
    assert (own.partners, len(drawn.partners)) == ((), 20)
    differ = {key: own.meta.fingerprint.get(key) for key in ("partners", "partners_seed")}
    assert differ == {"partners": "self", "partners_seed": None}
    assert {**own.meta.fingerprint, "partners": K, "partners_seed": 0} == drawn.meta.fingerprint
    with h5py.File(tmp_path / "self.h5") as file:
        assert "partners" not in file
    described = json.loads(l2a("inspect", tmp_path / "self.h5", "--verify", "--json").stdout)
    assert described["fingerprint"]["partners"] == "self"
    assert not {"partners", "partners_wrong"} & {*described, *described["verify"]}


def test_one_image_is_enough_and_a_faulty_one_takes_no_other_along(tmp_path: Path) -> None:
    assert run(open_source("digits", limit=1), tmp_path / "one.h5", partners="self").features.shape == (1, C)
    for k in range(5):
        save_picture(tmp_path / "in" / "ant" / f"{k}.jpg", seed=k)
    (tmp_path / "in" / "ant" / "2.jpg").write_bytes(b"no picture")
    source = open_source(f"imagefolder:{tmp_path / 'in'}")
    found = run(source, tmp_path / "f.h5", partners="self", on_error="skip")
    assert [name for name, _ in found.meta.skipped] == ["ant/2.jpg"]


@pytest.mark.parametrize(("there", "here"), [("self", "set"), ("set", "self")])
def test_a_file_by_the_other_rule_is_not_continued(
    digits: ImageSource, tmp_path: Path, there: str, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(digits, tmp_path / "f.h5", partners=there).close()
    said = rf"with other options \(partners: '{there}' there, '{here}' here\)"
    with pytest.raises(OutputExistsError, match=said):
        run(digits, tmp_path / "f.h5", partners=here, resume=True)
    run(digits, tmp_path / "f.h5", partners=there, resume=True).close()
    assert run(digits, tmp_path / "f.h5", partners=here, resume=True, overwrite=True).meta.partners == here

    monkeypatch.setattr(plan_module, "SHARD_ROWS", 6)
    with pytest.raises(KeyboardInterrupt):
        run(digits, tmp_path / "g.h5", stopped(), partners=there)
    with pytest.raises(OutputExistsError, match=f"partners: '{there}' there, '{here}' here"):
        run(digits, tmp_path / "g.h5", partners=here)


def test_a_rule_that_does_not_exist_and_one_for_networks_of_pairs(digits: ImageSource, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="partners must be one of self, set; got 'sets'; did you mean 'set'"):
        run(digits, tmp_path / "f.h5", partners="sets")
    with pytest.raises(BackendError, match=f"{TINY} attends each image alone, .*; leave `partners` out"):
        extract(digits, TINY, tmp_path / "f.h5", partners="set", progress=False)
    command = ["extract", "--model", TINY, "--data", "digits", "--limit", "3", "--out", tmp_path / "f.h5"]
    assert_fails(l2a(*command, "--partners", "set"), 1, "so no partners can be drawn", "--partners")
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_the_rule(tmp_path: Path) -> None:
    model = f"untrained:vgg-att2-concat-pc-co@{1 / 64}"
    command = ["extract", "--model", model, "--data", "digits", "--limit", "3", "--image-size", "16"]
    for rule, options in (("self", []), ("set", ["--partners", "set"])):
        done = l2a(*command, *options, "--out", tmp_path / f"{rule}.h5")
        assert done.exit_code == 0, (done.output, done.exception)
        assert read_meta(tmp_path / f"{rule}.h5")[0].partners == rule


def test_partners_that_are_listed_although_each_image_is_its_own_are_found(digits: ImageSource, tmp_path: Path) -> None:
    with run(digits, tmp_path / "f.h5") as found:
        meta = dataclasses.replace(found.meta, fingerprint={**found.meta.fingerprint, "partners": "self"})
        del meta.fingerprint["partners_seed"]
        rows = {"labels": found.labels, "ids": found.ids, "split": found.split, "partners": found.partners}
        write_features(tmp_path / "g.h5", meta, **rows, blocks=[found.features[:]], dim=C)
    assert verify_features(tmp_path / "g.h5").partners_wrong == found.ids


def test_rows_by_different_rules_are_different_lines_and_groups(digits: ImageSource, tmp_path: Path) -> None:
    files = [run(digits, tmp_path / f"{rule}.h5", partners=rule) for rule in ("self", "set")]
    assert [one.line for one in name_files(files)] == [0, 1]
    trained = {"name": "g", "config": {"architecture": "gated-toy"}, "training": {"seed": 0, "data": "d"}}
    rows = [SimpleNamespace(source=source_of(one, one.meta.partners, ("L3",))) for one in files]
    rows = [SimpleNamespace(source=dataclasses.replace(row.source, card=trained)) for row in rows]
    groups = groups_of(rows, [row.source for row in rows])
    assert [group.name for group in groups] == ["gated-toy (partners self)", "gated-toy (partners set)"]
    assert len({group.recipe_sha256 for group in groups}) == 2
    extract(digits, TINY, tmp_path / "alone.h5", progress=False)
    with open_features(tmp_path / "alone.h5") as found:
        assert list(source_of(found, "", ("L3",)).view) == ["tap", "levels", "precision", "backend"]


# The file ------------------------------------------------------------------------------------------------------------


def change_partners(path: Path, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Other partners, sealed again as a hostile program would."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        values = change(file["partners"][:])
        del file["partners"]
        file.create_dataset("partners", data=values, chunks=values.shape, fletcher32=True)
    reseal(path)


def test_inspect_shows_partners_and_verify_finds_changed_ones(digits: ImageSource, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    written = run(digits, out)
    written.close()
    described = json.loads(l2a("inspect", out, "--verify", "--json").stdout)
    assert (described["partners"], described["verify"]["partners_wrong"]) == (K, [])

    change_partners(out, lambda values: np.concatenate([values[:3], values[3:4, ::-1], values[4:]]))
    with open_features(out) as found:
        assert found.partners[3] == written.partners[3][::-1]
    assert verify_features(out).partners_wrong == (written.ids[3],)
    assert_fails(l2a("inspect", out), 0)
    assert_fails(l2a("inspect", out, "--verify"), 1, f"/partners: those of {written.ids[3]!r} do not match its data")

    with h5py.File(out, "r+", libver=("v110", "v110")) as file:
        del file["partners"]
    reseal(out)
    assert verify_features(out).partners_wrong == written.ids


def test_a_flipped_bit_of_a_partner_is_found(digits: ImageSource, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    with run(digits, out) as found:
        stored = "".join(found.partners[0]).encode()  # the names have one length
    content = bytearray(out.read_bytes())
    content[content.index(stored)] ^= 1
    out.write_bytes(content)
    with pytest.raises(StoreError, match="its SHA-256 does not match"):
        verify_features(out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values[:, :1].repeat(2, axis=1), "/partners: the partners of '.*' must be unique other images"),
        (lambda values: np.full_like(values, b"nobody"), "/partners: the partners of '.*' must be unique other images"),
        (lambda values: values[:-1], "/partners must have the same number of ids for each of 20 rows"),
        (lambda values: values[:, 0], "/partners must have 2 axes and kind 'S'"),
        (lambda values: np.ones(values.shape), "/partners must have 2 axes and kind 'S'"),
        (lambda values: np.full_like(values, b"\xff"), "corrupt or written by another program"),
    ],
)
def test_partners_that_no_file_has_are_refused(
    digits: ImageSource, tmp_path: Path, change: Callable[[NDArray[Any]], NDArray[Any]], said: str
) -> None:
    out = tmp_path / "f.h5"
    run(digits, out).close()
    change_partners(out, change)
    with pytest.raises(StoreError, match=said):
        open_features(out)


@pytest.mark.parametrize(
    "partners",
    [
        [["c"], ["c"], ["d"]],
        [["c"], ["c"], ["d"], ["d"]],
        [["b/ü.jpg", "c"], ["c"], ["d"], ["c"]],
        [["c"], ["c"], ["d"], ["e"]],
        [[], [], [], []],
    ],
)
def test_partners_that_do_not_fit_are_not_written(tmp_path: Path, partners: list[list[str]]) -> None:
    with pytest.raises(StoreError, match="/partners"):
        write_features(tmp_path / "f.h5", META, **ROWS, blocks=[FEATURES], dim=3, partners=partners)
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_letters_come_back(tmp_path: Path) -> None:
    partners = (("b/ü.jpg", "d"), ("c", "a/1.jpg"), ("d", "b/ü.jpg"), ("c", "b/ü.jpg"))
    for _ in range(2):
        write_features(tmp_path / "f.h5", META, **ROWS, blocks=[FEATURES], dim=3, partners=partners)
    with open_features(tmp_path / "f.h5") as found:
        assert found.partners == partners
    assert verify_features(tmp_path / "f.h5").partners_wrong is None  # by no rule that its fingerprint says


# Training ------------------------------------------------------------------------------------------------------------


def test_a_family_of_two_partners_is_trained_on_three_images_of_a_class(tmp_path: Path) -> None:
    config, recipe = ModelConfig("gated-toy", num_classes=4), dataclasses.replace(RECIPE, batch_size=12)
    run = Trainer(config, recipe, colours(36), placement=CPU)
    groups = torch.randn(6, 3, SIZE, SIZE)
    order = [[1, 2], [2, 0], [0, 1], [4, 5], [5, 3], [3, 4]]
    assert torch.equal(run.model.attend_group(groups).logits, run.model(groups, groups[torch.tensor(order)]))
    with pytest.raises(ArgumentError, match="images must be consecutive groups of 3; got 5 images"):
        run.model.attend_group(groups[:5])
    result = run_training(run, tmp_path, progress=False)
    assert read_card(result.weights).training["partners"]["each"] == K
    with pytest.raises(TrainingError, match=r"batch_size 8 is not a multiple of 3: gated-toy needs whole groups of 3"):
        Trainer(config, RECIPE, colours(36), placement=CPU)
