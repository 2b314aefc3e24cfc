"""The Ray engine: every range is written once more than needed rather than once too few, and always the same."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from l2a_transfer.errors import BackendError, DataError, L2AError, MissingExtraError, StoreError, UnknownNameError
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction import plan as plan_module
from l2a_transfer.features.extraction import ray_engine
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.ray_engine import ATTEMPTS, RESTARTS, Extractor, _dispatch
from l2a_transfer.features.extraction.shard_folder import RowShard, ShardFolder
from tests.conftest import MemorySource, assert_fails, l2a, memory_source

ROOT = Path(__file__).parents[1]
RANGES = [range(0, 2), range(2, 4), range(4, 6)]


class AbsentError(Exception):
    """Stands for ray.exceptions.RayActorError."""


class DiedError(AbsentError):
    """Stands for ray.exceptions.ActorDiedError, which Ray raises when it will not start an actor again."""


class FakeRay:
    """Calls finish in the order of `script`, an actor's number for each; without one, in the order of their start."""

    exceptions = SimpleNamespace(RayActorError=AbsentError, ActorDiedError=DiedError)

    def __init__(self, script: list[int] | None = None) -> None:
        self.script = deque(script or [])

    def wait(self, calls: list[Call], num_returns: int, timeout: float | None) -> tuple[list[Call], list[Call]]:
        assert num_returns == 1
        assert calls
        number = self.script.popleft() if self.script else calls[0].actor.number
        first = next(call for call in calls if call.actor.number == number)
        return [first], [call for call in calls if call is not first]

    def get(self, call: Call) -> L2AError | None:
        return call.actor.run(call.rows)


class Call:
    def __init__(self, actor: FakeActor, rows: range) -> None:
        self.actor, self.rows = actor, rows


class FakeActor:
    """Writes shards like an actor; dies, lies or fails as told, once for each entry of `fate`."""

    def __init__(self, number: int, shards: ShardFolder, fate: list[str] | None = None) -> None:
        self.number, self.shards, self.fate = number, shards, deque(fate or [])
        self.work = SimpleNamespace(remote=lambda start, stop: Call(self, range(start, stop)))
        self.ran: list[range] = []

    def run(self, rows: range) -> L2AError | None:
        self.ran.append(rows)
        fate = self.fate.popleft() if self.fate else ""
        if fate == "absent":
            raise AbsentError("killed\nand a trace")
        if fate == "died":
            raise DiedError("killed too often\nand a trace")
        if fate == "fail":
            return DataError("x.jpg: damaged")
        if fate != "lie":
            self.shards.write(rows, RowShard(np.array(rows), np.full((len(rows), 1), rows.start, np.float32)))
        return None


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "REST_S", 0.0)


@pytest.fixture
def shards(tmp_path: Path) -> ShardFolder:
    found = ShardFolder(tmp_path / "s", {"a": 1})
    found.open(overwrite=False)
    return found


def dispatched(ray: FakeRay, pool: list[FakeActor], shards: ShardFolder) -> list[range]:
    counted: list[int] = []
    done = [rows for rows, _ in _dispatch(ray, pool, shards, RANGES, counted.append)]
    assert sum(counted) == 2 * len(done)
    return done


def test_every_range_is_done_once(shards: ShardFolder) -> None:
    pool = [FakeActor(0, shards), FakeActor(1, shards)]
    assert sorted(dispatched(FakeRay(), pool, shards), key=lambda rows: rows.start) == RANGES
    assert all(shards.read(rows) for rows in RANGES)


def test_an_idle_actor_repeats_what_a_lost_one_has(shards: ShardFolder) -> None:
    # Actor 0 never comes back with its first range; actor 1 does its own two and then that one.
    pool = [FakeActor(0, shards), FakeActor(1, shards)]
    assert dispatched(FakeRay([1, 1, 1]), pool, shards) == [RANGES[1], RANGES[2], RANGES[0]]
    assert pool[0].ran == []


def test_a_range_that_comes_twice_counts_once(shards: ShardFolder) -> None:
    # Actor 1 repeats range 0, and actor 0 finishes it first.
    pool = [FakeActor(0, shards), FakeActor(1, shards)]
    assert dispatched(FakeRay([1, 1, 0]), pool, shards) == [RANGES[1], RANGES[2], RANGES[0]]


def test_an_actor_that_is_started_again_gets_its_range_again(shards: ShardFolder) -> None:
    pool = [FakeActor(0, shards, ["absent"] * 20)]
    assert dispatched(FakeRay(), pool, shards) == RANGES
    assert pool[0].ran == [RANGES[0]] * 20 + RANGES


def test_the_range_of_an_actor_that_is_gone_goes_to_another(shards: ShardFolder) -> None:
    pool = [FakeActor(0, shards, ["died"]), FakeActor(1, shards)]
    assert sorted(dispatched(FakeRay(), pool, shards), key=lambda rows: rows.start) == RANGES
    assert pool[0].ran == [RANGES[0]]
    assert RANGES[0] in pool[1].ran


@pytest.mark.parametrize("fate", [["absent"] * 999, ["", "died"]])
def test_actors_that_do_not_come_back_end_the_extraction(shards: ShardFolder, fate: list[str]) -> None:
    pool = [FakeActor(0, shards, fate)]
    with pytest.raises(BackendError, match=f"every Ray actor died more than {RESTARTS} times"):
        dispatched(FakeRay(), pool, shards)
    assert len(pool[0].ran) == (2 if fate[0] == "" else ray_engine.ABSENCES)


def test_a_shard_that_is_not_there_is_asked_for_again_and_then_named(shards: ShardFolder) -> None:
    assert dispatched(FakeRay(), [FakeActor(0, shards, ["lie"])], shards)[-1] == RANGES[0]
    shards.remove()
    shards.open(overwrite=False)
    with pytest.raises(StoreError, match=r"rows-000000000-000000002\.safetensors: .* is the folder shared\?"):
        dispatched(FakeRay(), [FakeActor(0, shards, ["lie"] * 3 * ATTEMPTS)], shards)


def test_an_error_of_an_actor_keeps_its_type(shards: ShardFolder) -> None:
    with pytest.raises(DataError, match=r"x\.jpg: damaged"):
        dispatched(FakeRay(), [FakeActor(0, shards, ["", "fail"])], shards)
    assert shards.read(RANGES[0]) is not None


def test_an_actor_that_would_compute_other_bytes_refuses(source: MemorySource, tmp_path: Path) -> None:
    options = {"batch_size": 4, "attention": False, "partners": None, "on_error": "fail", "workers": 0}
    identity = plan_module.fingerprint(source, PixelsBackend(), 4, attention=False)
    actor = Extractor(memory_source(seed=1), PixelsBackend(), tmp_path / "s", identity, **options)
    error = actor.work(0, 8)
    assert isinstance(error, BackendError)
    assert "would compute other bytes than the driver (data: " in str(error)
    error = Extractor(source, PixelsBackend(), tmp_path / "s", identity, **options).work(0, 8)
    assert isinstance(error, StoreError)
    assert "must be in a shared folder" in str(error)
    shards = ShardFolder(tmp_path / "s", identity)
    shards.open(overwrite=False)
    actor = Extractor(source, PixelsBackend(), tmp_path / "s", identity, **options)
    assert actor.work(0, 8) is None
    before = shards.path(range(8)).stat().st_ino
    assert actor.work(0, 8) is None  # there already
    assert shards.path(range(8)).stat().st_ino == before


def test_without_ray_the_extra_is_named(source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"engine 'ray' needs the package ray.*l2a-transfer\[ray\]"):
        extract(source, PixelsBackend(), tmp_path / "f.h5", engine="ray", progress=False)
    with pytest.raises(UnknownNameError, match="engine must be one of local, ray"):
        extract(source, PixelsBackend(), tmp_path / "f.h5", engine="dask", progress=False)
    ray_options = ("--actors", "2", "--data", "digits", "--model", "pixels", "--out", tmp_path / "f.h5")
    assert_fails(l2a("extract", *ray_options), 2, "--actors need --engine ray")
    assert ray_engine.os.environ.get("RAY_USAGE_STATS_ENABLED") is None


@pytest.mark.slow
def test_two_actors_give_the_bytes_of_this_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [
        sys.executable,
        "-m",
        "l2a_transfer",
        "-q",
        "extract",
        "--model",
        "untrained:vgg-att2-concat-pc@0.0625",
        "--data",
        "digits",
        "--threads",
        "1",
        "--attention",
        "--device",
        "cpu",
        "--out",
    ]
    for name, more in (("local", []), ("ray", ["--engine", "ray", "--actors", "2"])):
        subprocess.run([*command, str(tmp_path / f"{name}.h5"), *more], check=True, cwd=ROOT, timeout=300)
    assert (tmp_path / "ray.h5").read_bytes() == (tmp_path / "local.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["local.h5", "ray.h5"]
