"""Memory and processors that this process may use: what its control groups (Linux) and its CPU
affinity allow.

Docker, Slurm and systemd limit a process by putting it into control groups. The parent groups limit
it too. /proc/self/cgroup lists the groups of the process, and /proc/self/mountinfo the folders that
hold their files. Version 2 has one tree of groups; version 1 has one for each controller. A machine
may have both (cgroups(7); kernel documentation, admin-guide/cgroup-v1/memory.rst and
cgroup-v2.rst)."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

PROC = Path("/proc")
V2 = ""  # the version 2 tree has all controllers, so /proc/self/cgroup lists none for it


class Mount(NamedTuple):
    """A mounted tree of control groups: its folder, the group that this folder stands for, and the
    tree's controllers."""

    point: Path
    root: str
    controllers: frozenset[str]


def total_memory_bytes(proc: Path = PROC) -> int:
    """The machine's memory, or the smallest group limit if that is lower."""
    machine = psutil.virtual_memory().total
    limits = _memory_limits(proc).values()
    return int(min([machine, *limits]))


def available_memory_bytes(proc: Path = PROC) -> int:
    """Bytes that could be allocated now: what is free on the machine, or in the group with the
    least free memory. File cache that the kernel would drop (`inactive_file`) counts as free."""
    left: list[float] = [psutil.virtual_memory().available]
    for group, limit in _memory_limits(proc).items():
        left.append(limit - _used_bytes(group))
    return int(max(0, min(left)))


def processors(proc: Path = PROC) -> int:
    """Processors that this process may run on, limited by the quotas of its groups, rounded up."""
    own = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        own = len(os.sched_getaffinity(0))
    fewest = min([own, *_processor_limits(proc)])
    return max(1, math.ceil(fewest))


def _memory_limits(proc: Path) -> dict[Path, float]:
    """Bytes that each group allows. Version 1 writes "no limit" as a number larger than any
    machine's memory."""
    found = {}
    for group in _groups("memory", proc):
        limits: list[float] = [math.inf]
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _number(group / name)
            if limit is not None:
                limits.append(limit)
        # Version 1 also reports the limits of parent groups that a container cannot see.
        above = _memory_stat(group).get("hierarchical_memory_limit")
        if above is not None:
            limits.append(above)
        found[group] = min(limits)
    return found


def _used_bytes(group: Path) -> int:
    version_2 = _number(group / "memory.current")
    used = version_2 or _number(group / "memory.usage_in_bytes") or 0
    counted = _memory_stat(group)
    # In version 1, the plain name counts only the group's own cache. `total_` includes child
    # groups, as the usage does.
    own_cache = counted.get("inactive_file", 0)
    return used - counted.get("total_inactive_file", own_cache)


def _memory_stat(group: Path) -> dict[str, int]:
    found = {}
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def _processor_limits(proc: Path) -> list[float]:
    """Processors that each group with a quota allows, as a fraction: its time quota per period."""
    found = []
    for group in _groups("cpu", proc):
        quota = _number(group / "cpu.cfs_quota_us")
        period = _number(group / "cpu.cfs_period_us")
        for line in _lines(group / "cpu.max"):
            words = line.split()  # `max 100000` means no limit
            if all(word.isdigit() for word in words):
                quota, period = map(int, words)
        if quota and period and quota > 0:
            found.append(quota / period)
    return found


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Folders of this process's groups that `controller` limits, each followed by its parent
    groups."""
    own = _own_groups(proc)
    for mount in _mounts(proc):
        for tree in (controller, V2):
            if tree in mount.controllers and tree in own:
                group = _folder(mount, own[tree])
                yield group
                for above in group.parents:
                    if above.is_relative_to(mount.point):
                        yield above


def _own_groups(proc: Path) -> dict[str, str]:
    """The path of this process's group in each tree, by controller. Parses lines such as
    `4:memory:/docker/1f` and `0::/user.slice`."""
    found: dict[str, str] = {}
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _mounts(proc: Path) -> list[Mount]:
    """The mounted trees. Parses lines such as `31 23 0:27 /docker/1f /sys/fs/cgroup/memory ro -
    cgroup cgroup rw,memory` (proc(5))."""
    found = []
    for line in _lines(proc / "self" / "mountinfo"):
        place, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = place.split(" ")[3:5]
            controllers = [V2] if kind == "cgroup2" else options.split(",")
            folder = Path(_unescaped(point))
            found.append(Mount(folder, _unescaped(root), frozenset(controllers)))
    return found


def _folder(mount: Mount, path: str) -> Path:
    """The folder of a group. In a container the path may be outside the mounted tree. Then the
    mounted folder is the container's own group."""
    inside = PurePosixPath(path)
    if ".." not in inside.parts and inside.is_relative_to(mount.root):
        folder = mount.point / inside.relative_to(mount.root)
        if folder.is_dir():
            return folder
    return mount.point


def _unescaped(word: str) -> str:
    """A word of mountinfo without escapes; a space is written as \\040 there."""

    def character(match: re.Match[str]) -> str:
        return chr(int(match[1], 8))

    return re.sub(r"\\([0-7]{3})", character, word)


def _number(path: Path) -> int | None:
    """The number in a file. None if the file is missing or contains `max`."""
    lines = _lines(path)
    if lines and re.fullmatch(r"-?\d+", lines[0]):
        return int(lines[0])
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
