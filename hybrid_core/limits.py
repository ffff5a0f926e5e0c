"""What this process may use of the machine: memory and processors, as its control groups (Linux)
and its affinity allow.

Docker, Slurm and systemd limit a process by putting it into groups, and every group above its own
limits it too. /proc/self/cgroup says in which groups it is, /proc/self/mountinfo where their files
are: version 2 has one tree for everything, version 1 one for each controller, and a machine may
have both (cgroups(7); kernel documentation, admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

PROC = Path("/proc")
V2 = ""  # how /proc/self/cgroup names the tree of version 2, which has all controllers


class Mount(NamedTuple):
    """A tree of control groups: where its files are, which group stands there, and whose tree it
    is."""

    point: Path
    root: str
    controllers: frozenset[str]


def total_memory_bytes(proc: Path = PROC) -> int:
    """The machine's memory, or the least that a group allows."""
    return int(min([psutil.virtual_memory().total, *_memory_limits(proc).values()]))


def available_memory_bytes(proc: Path = PROC) -> int:
    """What could be allocated now: what the machine has left, or the group with the least left.
    Cache that the kernel would give up for it (`inactive_file`) counts as left."""
    left = [limit - _used_bytes(group) for group, limit in _memory_limits(proc).items()]
    return int(max(0, min([psutil.virtual_memory().available, *left])))


def processors(proc: Path = PROC) -> int:
    """Processors that this process may run on, or the share of them that a group allows, rounded
    up."""
    own = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        own = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min([own, *_processor_limits(proc)])))


def _memory_limits(proc: Path) -> dict[Path, float]:
    """Bytes that each group allows; version 1 writes an unlimited group as a number beyond any
    machine."""
    found = {}
    for group in _groups("memory", proc):
        limits: list[float] = [math.inf]
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _number(group / name)
            if limit is not None:
                limits.append(limit)
        # Version 1: also the limits of groups above that a container does not see.
        above = _memory_stat(group).get("hierarchical_memory_limit")
        if above is not None:
            limits.append(above)
        found[group] = min(limits)
    return found


def _used_bytes(group: Path) -> int:
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    counted = _memory_stat(group)
    # Version 1 counts a group's own under the plain name, and everything below it, as its usage
    # does, under `total_`.
    return used - counted.get("total_inactive_file", counted.get("inactive_file", 0))


def _memory_stat(group: Path) -> dict[str, int]:
    found = {}
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def _processor_limits(proc: Path) -> list[float]:
    found = []
    for group in _groups("cpu", proc):
        quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        for line in _lines(group / "cpu.max"):
            words = line.split()  # `max 100000` where there is no limit
            if all(word.isdigit() for word in words):
                quota, period = map(int, words)
        if quota and period and quota > 0:
            found.append(quota / period)
    return found


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in and that have a say about `controller`, each
    followed by those above it."""
    own = _own_groups(proc)
    for mount in _mounts(proc):
        for tree in (controller, V2):
            if tree in mount.controllers and tree in own:
                group = _folder(mount, own[tree])
                yield group
                yield from (above for above in group.parents if above.is_relative_to(mount.point))


def _own_groups(proc: Path) -> dict[str, str]:
    """The path of this process's group in each tree, by controller: from lines such as
    `4:memory:/docker/1f` or `0::/user.slice`."""
    found: dict[str, str] = {}
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _mounts(proc: Path) -> list[Mount]:
    """Where trees are mounted: lines such as `31 23 0:27 /docker/1f /sys/fs/cgroup/memory ro -
    cgroup cgroup rw,memory` (proc(5))."""
    found = []
    for line in _lines(proc / "self" / "mountinfo"):
        place, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = (_unescaped(word) for word in place.split(" ")[3:5])
            controllers = [V2] if kind == "cgroup2" else options.split(",")
            found.append(Mount(Path(point), root, frozenset(controllers)))
    return found


def _folder(mount: Mount, path: str) -> Path:
    """The folder of a group. In a container it may lie outside of what is mounted there: then what
    is mounted is the container's own."""
    inside = PurePosixPath(path)
    if ".." not in inside.parts and inside.is_relative_to(mount.root):
        folder = mount.point / inside.relative_to(mount.root)
        if folder.is_dir():
            return folder
    return mount.point


def _unescaped(word: str) -> str:
    """mountinfo writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no such file, or it says `max`."""
    words = _lines(path)
    return int(words[0]) if words and re.fullmatch(r"-?\d+", words[0]) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
