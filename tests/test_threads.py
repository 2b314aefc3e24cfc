"""How many threads arithmetic takes, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from l2a_transfer import threads
from l2a_transfer.features.extraction import ray_engine
from l2a_transfer.features.extraction.ray_engine import RayConfig
from l2a_transfer.threads import DECIDED, WAITING, prepare_threads, usable_cores, visible_cores, waiting
from tests.test_memory import Machine

ROOT = Path(__file__).parents[1]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One with eight cores."""
    monkeypatch.setattr(threads, "visible_cores", lambda: 8)
    return Machine(tmp_path)


def test_without_a_quota_all_visible_cores_are_usable(machine: Machine) -> None:
    assert usable_cores(machine.proc) == 8


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("max 100000", 8), ("9900000 100000", 8)]
    + [(text, 8) for text in ("", "nonsense", "0 100000", "100000 0", "-1 100000", "1e5 100000", "9" * 400 + " 1")],
)
def test_a_quota_of_version_2_limits_them(machine: Machine, quota: str, cores: int) -> None:
    machine.in_v2("/jobs/one")
    machine.write("cg/jobs/one/cpu.max", quota + "\n")
    assert usable_cores(machine.proc) == cores


def test_the_tightest_quota_of_a_group_and_its_parents_counts(machine: Machine) -> None:
    machine.in_v2("/jobs/one")
    machine.write("cg/jobs/one/cpu.max", "600000 100000\n")
    machine.write("cg/jobs/cpu.max", "300000 100000\n")
    assert usable_cores(machine.proc) == 3


@pytest.mark.parametrize(("quota", "period", "cores"), [("250000", "100000", 3), ("-1", "100000", 8), ("1", "0", 8)])
def test_a_quota_of_version_1_limits_them(machine: Machine, quota: str, period: str, cores: int) -> None:
    machine.in_v1("/jobs")
    machine.write("cg/cpu/elsewhere/cpu.cfs_quota_us", quota + "\n")
    machine.write("cg/cpu/elsewhere/cpu.cfs_period_us", period + "\n")
    assert usable_cores(machine.proc) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_limits_them() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert visible_cores() == usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_waiting_is_decided_where_the_user_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"PATH": "/bin"}
    prepare_threads(environment)
    assert environment == {"PATH": "/bin", **WAITING}
    assert waiting(environment) == WAITING
    for name in DECIDED:
        own = {name: "7"}
        prepare_threads(own)
        assert own == waiting(own) == {name: "7"}


def test_threads_are_no_more_than_the_quota_where_the_user_has_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "visible_cores", lambda: 8)
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)
    environment: dict[str, str] = {}
    prepare_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "3"
    environment["OMP_NUM_THREADS"] = "5"
    prepare_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "5"
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    prepare_threads(empty := {"GOMP_SPINCOUNT": "1"})
    assert empty == {"GOMP_SPINCOUNT": "1"}


def test_a_cluster_on_this_machine_has_no_more_cores_than_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "usable_cores", lambda: 3)
    assert ray_engine._cores(RayConfig(), 2) == 3
    assert ray_engine._cores(RayConfig(actors=4), 2) == 8


def ran(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name not in (*DECIDED, "OMP_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**own, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux")
def test_the_command_line_decides_before_torch_is_loaded() -> None:
    """The runtime that torch loads prints what it has read."""
    code = "import sys; sys.argv = ['l2a-transfer', 'models']\nfrom l2a_transfer.__main__ import run\n"
    code += "try:\n    run()\nexcept SystemExit:\n    pass\nimport torch"
    found = ran(code, OMP_DISPLAY_ENV="VERBOSE").stderr
    assert f"GOMP_SPINCOUNT = '{WAITING['GOMP_SPINCOUNT']}'" in found
    own = ran(code, OMP_DISPLAY_ENV="VERBOSE", OMP_WAIT_POLICY="ACTIVE").stderr
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in own
    assert f"GOMP_SPINCOUNT = '{WAITING['GOMP_SPINCOUNT']}'" not in own


def test_python_is_told_when_it_is_too_late() -> None:
    code = "from l2a_transfer.threads import prepare_threads; print(prepare_threads())"
    assert ran(f"{code}; import sklearn; print(prepare_threads())").stdout == "True\nFalse\n"
