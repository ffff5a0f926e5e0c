"""Limits of containers, batch systems and services, read from trees of files as those make them."""

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hybrid_core import limits
from hybrid_core.live.profiling import device
from hybrid_core.runs import devices

GIB = 2**30
UNLIMITED_V1 = 9223372036854771712
Files = dict[str, str | int]


def v2(
    limit: str | int = "max",
    used: int = 0,
    inactive: int = 0,
    cpu: str = "max 100000",
    high: str | int = "max",
) -> Files:
    """A group of version 2."""
    stat = f"anon 1000\nfile 2000\ninactive_anon 5\ninactive_file {inactive}\nactive_file 7"
    return {
        "memory.max": limit,
        "memory.high": high,
        "memory.current": used,
        "memory.stat": stat,
        "cpu.max": cpu,
    }


def v1_memory(
    limit: int = UNLIMITED_V1, used: int = 0, inactive: int = 0, above: int = UNLIMITED_V1
) -> Files:
    """A group of version 1's memory tree; `above`: the least limit of it and of those above it."""
    stat = (
        f"cache 9\ninactive_file 1\nhierarchical_memory_limit {above}\ntotal_cache "
        f"9\ntotal_inactive_file {inactive}"
    )
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def v1_cpu(quota: int = -1) -> Files:
    return {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": 100000}


class Machine:
    """/proc and /sys under a folder, of a machine with 64 GiB, 60 of them free, and 16
    processors."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.proc = folder, folder / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "mountinfo").write_text(
            "22 1 0:21 / /proc rw,nosuid - proc proc rw\n24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        )

    def group(self, place: str, *files: Files) -> None:
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        for name, content in (item for each in files for item in each.items()):
            (self.folder / place / name).write_text(f"{content}\n")

    def process(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def mount(self, root: str, point: str, kind: str, options: str) -> None:
        """A line of mountinfo, with the optional field that systemd leaves there, and spaces as the
        kernel writes them."""
        place = str(self.folder / point).replace(" ", "\\040")
        with (self.proc / "self" / "mountinfo").open("a") as file:
            file.write(
                f"35 24 0:30 {root} {place} rw,nosuid,nodev,noexec,relatime shared:9 "
                f"- {kind} cgroup {options}\n"
            )

    def mount_v2(self, root: str = "/", point: str = "sys/fs/cgroup") -> None:
        self.mount(root, point, "cgroup2", "rw,nsdelegate,memory_recursiveprot")

    @property
    def offered(self) -> tuple[float, float, int]:
        """GiB in all, GiB that are left, processors."""
        total, left = limits.total_memory_bytes(self.proc), limits.available_memory_bytes(self.proc)
        return total / GIB, left / GIB, limits.processors(self.proc)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    memory = psutil.virtual_memory()._replace(total=64 * GIB, available=60 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    return Machine(tmp_path)


def test_a_machine_without_groups_has_all_of_itself(machine: Machine) -> None:
    assert machine.offered == (64, 60, 16)  # no /proc/self/cgroup, as on a kernel without them
    machine.process("0::/")
    machine.mount_v2()
    machine.group(
        "sys/fs/cgroup", {"cgroup.controllers": "cpuset cpu io memory pids"}
    )  # the true root has no limits
    assert machine.offered == (64, 60, 16)


def test_docker_with_a_namespace_of_its_own(machine: Machine) -> None:
    machine.process("0::/")
    machine.mount_v2()
    machine.group("sys/fs/cgroup", v2(2 * GIB, GIB, inactive=GIB // 4, cpu="150000 100000"))
    assert machine.offered == (
        2,
        1.25,
        2,
    )  # a quarter of the used is cache that the kernel gives up


def test_docker_with_the_machines_namespace(machine: Machine) -> None:
    """`--cgroupns host`: the path is the machine's, and only the container's own group is
    mounted."""
    machine.process("0::/system.slice/docker-1f2e.scope")
    machine.mount_v2(root="/system.slice/docker-1f2e.scope")
    machine.group("sys/fs/cgroup", v2(4 * GIB, 3 * GIB, cpu="400000 100000"))
    assert machine.offered == (4, 1, 4)


def test_a_path_that_is_not_mounted_means_what_is_mounted(machine: Machine) -> None:
    machine.group("sys/fs/cgroup", v2(4 * GIB, 3 * GIB))
    machine.mount_v2()
    for path in ("/kubepods.slice/pod7/cri-9.scope", "/../../outside"):
        machine.process(f"0::{path}")
        assert machine.offered[:2] == (4, 1)


def test_every_slice_of_systemd_counts(machine: Machine) -> None:
    machine.process("0::/user.slice/user-1000.slice/session-3.scope")
    machine.mount_v2()
    machine.group("sys/fs/cgroup", {"cgroup.controllers": "cpu memory"})
    machine.group("sys/fs/cgroup/user.slice", v2("max", 30 * GIB))
    machine.group(
        "sys/fs/cgroup/user.slice/user-1000.slice", v2(8 * GIB, 7 * GIB, cpu="200000 100000")
    )
    machine.group("sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope", v2(16 * GIB, GIB))
    assert machine.offered == (
        8,
        1,
        2,
    )  # of the user's slice, which another session has nearly filled
    machine.group(
        "sys/fs/cgroup/user.slice", v2("max", 30 * GIB, high=6 * GIB)
    )  # MemoryHigh=: what is over it is taken back
    assert machine.offered == (6, 0, 2)


def test_a_step_of_a_slurm_job(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """cgroup/v2 of Slurm: the job's group has the memory, its steps and tasks none; processors are
    given by cpuset."""
    job = "system.slice/slurmstepd.scope/job_4711"
    machine.process(f"0::/{job}/step_0/user/task_0")
    machine.mount_v2()
    machine.group("sys/fs/cgroup/system.slice/slurmstepd.scope", v2())
    machine.group(f"sys/fs/cgroup/{job}", v2(16 * GIB, 4 * GIB))
    for below in ("step_0", "step_0/user", "step_0/user/task_0"):
        machine.group(f"sys/fs/cgroup/{job}/{below}", v2("max", 4 * GIB))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 4, 5})
    assert machine.offered == (16, 12, 3)


def v1(machine: Machine, memory_root: str = "/", cpu_root: str = "/") -> None:
    """The mounts of version 1: a tree for memory, one for processors."""
    machine.mount(cpu_root, "sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    machine.mount(memory_root, "sys/fs/cgroup/memory", "cgroup", "rw,memory")


def test_docker_on_version_1(machine: Machine) -> None:
    machine.process(
        "11:memory:/docker/1f2e", "5:cpu,cpuacct:/docker/1f2e", "1:name=systemd:/docker/1f2e"
    )
    v1(machine, "/docker/1f2e", "/docker/1f2e")
    machine.group("sys/fs/cgroup/memory", v1_memory(2 * GIB, GIB, inactive=GIB // 2))
    machine.group("sys/fs/cgroup/cpu,cpuacct", v1_cpu(50000))
    assert machine.offered == (2, 1.5, 1)  # half a processor is one thread


def test_slurm_on_version_1_and_no_limit_is_a_huge_number(machine: Machine) -> None:
    job = "slurm/uid_1000/job_12"
    machine.process(f"9:memory:/{job}/step_0", f"4:cpu,cpuacct:/{job}/step_0")
    v1(machine)
    for place in ("", "/slurm", "/slurm/uid_1000"):
        machine.group(f"sys/fs/cgroup/memory{place}", v1_memory(used=50 * GIB))
        machine.group(f"sys/fs/cgroup/cpu,cpuacct{place}", v1_cpu())
    assert machine.offered == (64, 60, 16)
    machine.group(f"sys/fs/cgroup/memory/{job}", v1_memory(10 * GIB, 4 * GIB))
    machine.group(f"sys/fs/cgroup/memory/{job}/step_0", v1_memory(12 * GIB, GIB))
    machine.group(f"sys/fs/cgroup/cpu,cpuacct/{job}", v1_cpu(300000))
    machine.group(f"sys/fs/cgroup/cpu,cpuacct/{job}/step_0", v1_cpu())
    assert machine.offered == (10, 6, 3)


def test_a_pod_that_limits_a_container_which_does_not_see_it(machine: Machine) -> None:
    machine.process("3:memory:/kubepods/pod7/c1")
    v1(machine, "/kubepods/pod7/c1")
    machine.group("sys/fs/cgroup/memory", v1_memory(used=GIB, above=3 * GIB))
    assert machine.offered[:2] == (3, 2)


def test_both_versions_at_once(machine: Machine) -> None:
    """systemd's hybrid: controllers in trees of version 1, version 2 without any."""
    machine.process("8:memory:/app", "3:cpu,cpuacct:/app", "0::/system.slice/app.service")
    v1(machine)
    machine.mount_v2(point="sys/fs/cgroup/unified")
    machine.group("sys/fs/cgroup/unified/system.slice/app.service", {"cgroup.procs": "1"})
    machine.group("sys/fs/cgroup/memory/app", v1_memory(5 * GIB, GIB))
    machine.group("sys/fs/cgroup/cpu,cpuacct/app", v1_cpu(250000))
    assert machine.offered == (5, 4, 3)


def test_a_tree_may_be_mounted_anywhere(machine: Machine) -> None:
    machine.process("0::/a")
    machine.mount_v2(point="other place")
    machine.group("other place/a", v2(3 * GIB, GIB))
    assert machine.offered[:2] == (3, 2)


def test_a_group_over_its_limit_leaves_nothing(machine: Machine) -> None:
    machine.process("0::/")
    machine.mount_v2()
    machine.group("sys/fs/cgroup", v2(GIB, 2 * GIB))
    assert machine.offered[:2] == (1, 0)


def test_what_is_offered_on_a_cpu_is_what_the_groups_allow(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.process("0::/")
    machine.mount_v2()
    machine.group("sys/fs/cgroup", v2(2 * GIB, GIB, cpu="200000 100000"))
    for name in ("total_memory_bytes", "available_memory_bytes", "processors"):
        inside = getattr(limits, name)
        for module in (device, devices):
            monkeypatch.setattr(
                module, name, lambda inside=inside: inside(machine.proc), raising=False
            )
    set_to: list[Any] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cpu = device.resolve("cpu")
    assert set_to == [2]
    assert device.available_bytes(cpu) == GIB and device.describe(cpu)["memory_bytes"] == 2 * GIB
    assert device.describe(cpu)["name"].endswith(", 2 cores")
    monkeypatch.setattr("hybrid_core.runs.devices.version", lambda _: "2.13.0+cpu")
    assert devices.devices() == (devices.Device("cpu", "CPU", 2 * GIB),)
    monkeypatch.setenv("OMP_NUM_THREADS", "16")  # the user's own word
    device.resolve("cpu")
    assert set_to == [2]
