"""What this machine lends us: cores, how fast they are, the container's limits, memory; from Linux's /sys and /proc.

Paths are below a root that tests replace. A file that is missing or says nothing sensible is no limit: the fallback is
every CPU that this process may run on. Knows nothing of kernels or models.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"
# A core below this share of the fastest one's capacity is of a slower kind. Efficiency and compact cores have 0.3 to
# 0.7; cores of one kind whose top clocks differ a little ("favoured" ones) stay above 0.9.
SLOW_KIND = 0.75


@dataclass(frozen=True)
class Machine:
    """CPUs by their numbers.

    cpus         those this process may run on
    cores        one of them for each physical core
    performance  one for each core of the fastest kind: all of `cores` but on hybrid CPUs
    nodes        by NUMA node, those of `cpus`; a single node where the system tells of none
    quota        CPUs' worth of time that the control group may use, None: no limit
    threads      how many to run by default
    reason       why as many
    """

    cpus: tuple[int, ...]
    cores: tuple[int, ...]
    performance: tuple[int, ...]
    nodes: tuple[tuple[int, ...], ...]
    quota: float | None
    threads: int
    reason: str


def read_machine(root: Path = ROOT, affinity: Collection[int] | None = None) -> Machine:
    """Look at the machine below `root`.

    affinity  CPUs this process may run on; None: as the system says
    """
    cpus = tuple(sorted(_affinity() if affinity is None else affinity))
    cores = _one_a_core(root, cpus)
    performance = _fastest_kind(root, cores)
    quota = cpu_quota(root)
    threads, reason = _choose_threads(cpus, cores, performance, quota)
    return Machine(cpus, cores, performance, _nodes(root, cpus), quota, threads, reason)


def _choose_threads(
    cpus: Collection[int], cores: Collection[int], performance: Collection[int], quota: float | None
) -> tuple[int, str]:
    """One thread a performance core, capped by the quota rounded to the nearest.

    Two threads of a core share its arithmetic and its way to memory, and a slow core keeps the others waiting, so
    neither adds. A quota of q between n and n + 1: n + 1 threads do q cores' work but all stand still for a part of
    each period, n threads never stop but leave q - n unused. Prompts gain by more threads, answers, which n threads'
    reads may saturate already, by fewer; nearest loses least at worst (a third of prompts, a quarter of answers).
    """
    threads, reason = len(performance), "one a core"
    if len(performance) < len(cores):
        reason = "one a performance core"
    elif len(cores) < len(cpus):
        reason = "one a physical core"
    if quota is not None and (allowed := max(int(quota + 0.5), 1)) < threads:
        threads, reason = allowed, f"the container's quota of {quota:g} CPUs"
    return max(threads, 1), reason


def _affinity() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _one_a_core(root: Path, cpus: Collection[int]) -> tuple[int, ...]:
    """The first CPU of each core's hardware threads, of those we have."""
    chosen: dict[frozenset[int], int] = {}
    for cpu in cpus:
        siblings = parse_cpus(_text(root / CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"))
        chosen.setdefault(siblings | {cpu}, cpu)
    return tuple(chosen.values())


def _fastest_kind(root: Path, cores: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the fastest kind among `cores`, by whatever the system tells: all where it tells nothing."""
    intel = parse_cpus(_text(root / "sys/devices/cpu_core/cpus"))
    if intel.intersection(cores):
        return tuple(cpu for cpu in cores if cpu in intel)
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = [_number(root / CPUS / f"cpu{cpu}" / name) for cpu in cores]
        known = [speed for speed in speeds if speed is not None]
        if known and len(known) == len(cores) and min(known) < SLOW_KIND * max(known):
            return tuple(cpu for cpu, speed in zip(cores, known, strict=True) if speed >= SLOW_KIND * max(known))
    return cores


def _nodes(root: Path, cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    folder = root / "sys/devices/system/node"
    nodes = []
    for number in sorted(parse_cpus(_text(folder / "online"))):
        ours = parse_cpus(_text(folder / f"node{number}" / "cpulist")).intersection(cpus)
        if ours:
            nodes.append(tuple(sorted(ours)))
    return tuple(nodes) or (cpus,)


# ---- control groups ------------------------------------------------------------------------------


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that this process's control groups allow, the least of all levels; None: no limit."""
    least = inf
    for folder in _groups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")  # version 2: "max 100000" or "150000 100000"
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):  # version 1: -1 is no limit
            least = min(least, int(quota) / int(period))
    return None if least == inf else least


def available_bytes(root: Path = ROOT) -> int:
    """Bytes of memory that can be had without swapping, the file cache included, within the control group's limit."""
    least = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            least = float(line.split()[1]) * 1024
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None:
                least = min(least, limit)
    return int(least)


def resident_bytes(root: Path = ROOT) -> int:
    """Bytes of memory that this process has, libraries and files that it looks at included; 0 where it is not told."""
    words = _text(root / "proc/self/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """This process's control groups of a controller and all above them, in both versions.

    In a container the path in /proc may be the host's, which is not mounted here: then only the top is found, and
    that is the container's own group.
    """
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            mounts = [top, top / "unified"]
        elif controller in controllers.split(","):
            mounts = [top / controller, top / controllers]
        else:
            continue
        parts = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / parent for parent in (parts, *parts.parents))


# ---- files ---------------------------------------------------------------------------------------


def parse_cpus(text: str) -> frozenset[int]:
    """CPUs of a list such as "0-3,8"; none for a text that is no such list."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return frozenset()
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text.isdecimal() else None
