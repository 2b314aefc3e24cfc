"""What memory this process may take, on made-up machines, and what asks for it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from l2a_transfer.data import loader
from l2a_transfer.errors import MemoryLimitError
from l2a_transfer.memory import mebibytes, require_memory, usable_memory
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.training.step_memory import kept_bytes
from tests.conftest import assert_fails, l2a

MIB = 1 << 20
UNLIMITED = "9223372036854771712"
"""What version 1 says where there is no limit."""


class Machine:
    """A made-up /proc and control groups below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.proc = root, root / "proc"
        self.write("proc/meminfo", "MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:   4194304 kB\n")
        self.write("proc/self/status", "Name:\tpython3\nVmSize:\t  204800 kB\nVmData:\t  102400 kB\n")

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def mount(self, *lines: str) -> None:
        """Mounts as `ROOT MOUNT TYPE OPTIONS`, MOUNT below this machine's root."""
        found = []
        for line in lines:
            root, mount, kind, options = line.split(" ")
            found.append(f"35 31 0:32 {root} {self.root}/{mount} rw,relatime - {kind} {kind} {options}")
        self.write("proc/self/mountinfo", "\n".join(["23 1 8:1 / / rw - ext4 /dev/a rw", *found]) + "\n")

    def v2(self, group: str, limit: str, used: int = 0, cache: int = 0, high: str = "max") -> None:
        self.write(f"cg/{group}/memory.max", limit + "\n")
        self.write(f"cg/{group}/memory.high", high + "\n")
        self.write(f"cg/{group}/memory.current", f"{used}\n")
        self.write(
            f"cg/{group}/memory.stat",
            f"anon 5\nfile {cache}\ninactive_file {cache // 2}\nactive_file {cache - cache // 2}\n",
        )

    def v1(self, group: str, limit: str, used: int = 0, cache: int = 0, parents: str = UNLIMITED) -> None:
        self.write(f"cg/memory/{group}/memory.limit_in_bytes", limit + "\n")
        self.write(f"cg/memory/{group}/memory.usage_in_bytes", f"{used}\n")
        self.write(
            f"cg/memory/{group}/memory.stat",
            f"cache 1\ninactive_file 1\nhierarchical_memory_limit {parents}\n"
            f"total_inactive_file {cache}\ntotal_active_file 0\n",
        )

    def in_v2(self, path: str, *, root: str = "/") -> None:
        self.mount(f"{root} cg cgroup2 rw,nsdelegate")
        self.write("proc/self/cgroup", f"0::{path}\n")

    def in_v1(self, path: str, *, root: str = "/") -> None:
        self.mount(f"{root} cg/cpu cgroup rw,cpu", f"{root} cg/memory cgroup rw,memory", "/ cg/unified cgroup2 rw")
        self.write("proc/self/cgroup", f"9:name=systemd:/\n4:memory:{path}\n1:cpu,cpuacct:/elsewhere\n0::/\n")

    def usable(self) -> int:
        return usable_memory(self.proc)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    set_limits(monkeypatch)
    return Machine(tmp_path)


def set_limits(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    def found(limit: int) -> tuple[int, int]:
        names = {resource.RLIMIT_AS: "AS", resource.RLIMIT_DATA: "DATA"}
        return limits.get(names[limit], resource.RLIM_INFINITY), resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", found)


def test_without_limits_it_is_what_the_machine_has_available(machine: Machine) -> None:
    assert machine.usable() == 4096 * MIB


def test_version_2_is_the_limit_less_what_is_used_and_does_not_give_way(machine: Machine) -> None:
    machine.in_v2("/")
    machine.v2("", str(1600 * MIB), used=700 * MIB, cache=300 * MIB)
    assert machine.usable() == 1200 * MIB


def test_version_1_is_the_limit_less_what_is_used_and_does_not_give_way(machine: Machine) -> None:
    machine.in_v1("/app")
    machine.v1("app", str(1600 * MIB), used=700 * MIB, cache=300 * MIB)
    assert machine.usable() == 1200 * MIB


def test_the_tightest_of_a_group_and_its_parents_counts(machine: Machine) -> None:
    machine.in_v2("/slice/pod/app")
    machine.v2("slice/pod/app", "max", used=100 * MIB)
    machine.v2("slice/pod", str(1024 * MIB), used=600 * MIB)
    machine.v2("slice", str(2048 * MIB), used=1800 * MIB, cache=200 * MIB)
    assert machine.usable() == 424 * MIB
    machine.v2("slice", str(2048 * MIB), used=1800 * MIB)
    assert machine.usable() == 248 * MIB
    machine.in_v1("/slice/app")
    machine.v1("slice/app", UNLIMITED, used=100 * MIB)
    machine.v1("slice", str(512 * MIB), used=200 * MIB)
    assert machine.usable() == 312 * MIB


def test_the_limit_from_which_processes_are_slowed_counts_too(machine: Machine) -> None:
    machine.in_v2("/")
    machine.v2("", str(1600 * MIB), high=str(900 * MIB))
    assert machine.usable() == 900 * MIB


def test_no_limit_is_no_limit(machine: Machine) -> None:
    machine.in_v2("/app")
    machine.v2("app", "max", used=3000 * MIB)
    assert machine.usable() == 4096 * MIB
    machine.in_v1("/app")
    machine.v1("app", UNLIMITED, used=3000 * MIB)
    assert machine.usable() == 4096 * MIB


@pytest.mark.parametrize("path", ["/docker/0a1b", "/", "/../../elsewhere", "/kubepods/other"])
def test_a_container_sees_its_own_group_where_groups_are_mounted(machine: Machine, path: str) -> None:
    machine.in_v2(path, root="/docker/0a1b")
    machine.v2("", str(1600 * MIB))
    machine.v2("elsewhere", str(1 * MIB))
    assert machine.usable() == 1600 * MIB
    machine.in_v1(path, root="/docker/0a1b")
    machine.v1("", str(800 * MIB))
    assert machine.usable() == 800 * MIB


def test_a_group_below_the_container_s_own_is_found(machine: Machine) -> None:
    machine.in_v2("/docker/0a1b/job", root="/docker/0a1b")
    machine.v2("", str(1600 * MIB))
    machine.v2("job", str(300 * MIB))
    assert machine.usable() == 300 * MIB


def test_version_1_names_the_limit_of_parents_that_a_container_does_not_see(machine: Machine) -> None:
    machine.in_v1("/docker/0a1b", root="/docker/0a1b")
    machine.v1("", UNLIMITED, used=100 * MIB, parents=str(500 * MIB))
    assert machine.usable() == 400 * MIB


def test_a_path_with_a_space_is_read(machine: Machine) -> None:
    machine.mount("/ c\\040g cgroup2 rw")
    machine.write("proc/self/cgroup", "0::/\n")
    machine.write("c g/memory.max", str(700 * MIB))
    assert machine.usable() == 700 * MIB


@pytest.mark.parametrize("garbage", ["", "-1", "lots", "\0\xff", "1e9", "9" * 400, "10 20"])
def test_what_cannot_be_read_sets_no_limit(machine: Machine, garbage: str) -> None:
    machine.in_v2("/app")
    machine.v2("app", garbage)
    machine.write("cg/app/memory.stat", garbage)
    assert machine.usable() == 4096 * MIB
    machine.v2("app", str(1600 * MIB))
    machine.write("cg/app/memory.current", garbage)
    assert machine.usable() == 1600 * MIB
    for name in ("meminfo", "self/cgroup", "self/mountinfo", "self/status"):
        machine.write(f"proc/{name}", garbage)
    assert machine.usable() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_without_proc_it_is_the_machine_s_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(monkeypatch)
    assert usable_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    set_limits(monkeypatch, AS=300 * MIB)
    assert usable_memory(tmp_path) == 300 * MIB


def test_own_limits_count_what_is_mapped_already(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(monkeypatch, AS=1000 * MIB)
    assert machine.usable() == 800 * MIB
    set_limits(monkeypatch, AS=1000 * MIB, DATA=600 * MIB)
    assert machine.usable() == 500 * MIB


def test_a_limit_that_is_passed_leaves_nothing(machine: Machine) -> None:
    machine.in_v2("/")
    machine.v2("", str(100 * MIB), used=120 * MIB)
    assert machine.usable() == 0


def test_a_process_with_less_address_space_knows() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from l2a_transfer.memory import usable_memory; found = usable_memory();"
        "assert 0 < found < 1 << 30, found; block = bytearray(found // 2)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(("method", "each"), [("fork", 128), ("forkserver", 448), ("spawn", 448)])
def test_decoding_processes_are_as_many_as_memory_has_room_for(
    method: str, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(loader.multiprocessing, "get_start_method", lambda **_: method)
    found = []
    for usable in (100 * each, 8 * each, 6 * each - 1, 2 * each - 1):
        monkeypatch.setattr(loader, "usable_memory", lambda usable=usable: usable * MIB)
        found.append(loader.choose_workers(1000, None))
    assert found == [4, 4, 2, 0]
    assert loader.choose_workers(1000, 3) == 3


def test_a_step_keeps_what_its_layers_put_out() -> None:
    """Per image of 32 × 32 pixels and width 1/16: at least each layer's input, 4 bytes a number."""
    config = ModelConfig("vgg", num_classes=3, width=0.0625)
    two, four, eight = (kept_bytes(config, images, 32, "fp32") for images in (2, 4, 8))
    assert eight - four == 2 * (four - two)
    first_layer = 4 * 32 * 32 * 4
    assert (four - two) / 2 > 4 * first_layer
    assert kept_bytes(config, 4, 64, "fp32") > 3 * four


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "--model", "vgg", "--width", "0.0625", "--data", "digits", "--holdout", "1200", "--epochs", "1"]
    command += ["--device", "cpu", "--batch-size", "512", "--out", str(tmp_path / "run")]
    monkeypatch.setattr("l2a_transfer.memory.usable_memory", lambda: 16 * MIB)
    result = l2a(*command)
    assert_fails(result, 1, "a training step on 512 images of 32 × 32 pixels needs about ")
    assert "this process may use 16 MiB more; use a smaller --batch-size or --width" in result.stderr
    monkeypatch.undo()
    assert l2a(*command, "--overwrite").exit_code == 0


def test_what_takes_too_much_is_refused_with_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2a_transfer.memory.usable_memory", lambda: 300 * MIB)
    require_memory(300 * MIB, "a step", "`batch_size` takes less")
    with pytest.raises(MemoryLimitError) as caught:
        require_memory(2000 * MIB + 1, "a step of 512 images", "a smaller `batch_size` takes less")
    assert str(caught.value) == (
        "a step of 512 images needs about 2,001 MiB, and this process may use 300 MiB more; a smaller `batch_size` "
        "takes less"
    )
    assert mebibytes(1) == "1 MiB"
