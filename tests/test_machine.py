"""Cores, kinds of cores, nodes and limits, read from trees that look like /sys and /proc of other machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from octuor.machine import Machine, available_bytes, cpu_quota, parse_cpus, read_machine

CPU = "sys/devices/system/cpu/cpu"
NODE = "sys/devices/system/node/"
Files = dict[str, str]


def tree(root: Path, *parts: Mapping[str, str]) -> Path:
    for part in parts:
        for name, text in part.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    return root


def siblings(*groups: str) -> Files:
    """Hardware threads of each core, as "0,4" or "0-1"."""
    return {f"{CPU}{cpu}/topology/thread_siblings_list": group for group in groups for cpu in parse_cpus(group)}


def speeds(name: str, values: Mapping[str, int]) -> Files:
    return {f"{CPU}{cpu}/{name}": str(value) for cpus, value in values.items() for cpu in parse_cpus(cpus)}


def in_group(path: str, *, version: int = 2) -> Files:
    return {"proc/self/cgroup": f"0::{path}" if version == 2 else f"7:memory:{path}\n4:cpu,cpuacct:{path}\n0::/"}


DESKTOP = siblings(*(f"{n},{n + 8}" for n in range(8)))  # 8 cores, their second threads numbered last
# 6 performance cores of two threads, 8 efficiency cores, as Intel numbers and names them
HYBRID = {
    **siblings(*(f"{n}-{n + 1}" for n in range(0, 12, 2)), *map(str, range(12, 20))),
    "sys/devices/cpu_core/cpus": "0-11",
    "sys/devices/cpu_atom/cpus": "12-19",
}
# 2 sockets of 4 cores of two threads
SERVER = {
    **siblings(*(f"{n},{n + 8}" for n in range(8))),
    NODE + "online": "0-1",
    NODE + "node0/cpulist": "0-3,8-11",
    NODE + "node1/cpulist": "4-7,12-15",
}


def test_a_desktop_has_one_thread_for_each_physical_core(tmp_path: Path) -> None:
    found = read_machine(tree(tmp_path, DESKTOP), range(16))
    every = tuple(range(8))
    assert found == Machine(
        tuple(range(16)), every, every, (tuple(range(16)),), None, 8, "one a physical core"
    )  # fmt: skip


def test_an_affinity_mask_may_leave_only_second_threads(tmp_path: Path) -> None:
    found = read_machine(tree(tmp_path, DESKTOP), [1, 9, 10, 11])
    assert found.cores == (1, 10, 11)
    assert found.threads == 3


def test_a_hybrid_laptop_runs_on_its_performance_cores(tmp_path: Path) -> None:
    found = read_machine(tree(tmp_path, HYBRID), range(20))
    assert found.cores == (0, 2, 4, 6, 8, 10, *range(12, 20))
    assert found.performance == (0, 2, 4, 6, 8, 10)
    assert (found.threads, found.reason) == (6, "one a performance core")


def test_a_mask_of_efficiency_cores_alone_uses_them(tmp_path: Path) -> None:
    found = read_machine(tree(tmp_path, HYBRID), range(12, 16))
    assert found.performance == found.cores == (12, 13, 14, 15)


@pytest.mark.parametrize(
    "speeds_of_kinds",
    [
        speeds("cpu_capacity", {"0-3": 446, "4-6": 871, "7": 1024}),  # a phone's three kinds: the middle one counts
        speeds("cpufreq/cpuinfo_max_freq", {"0-3": 3_300_000, "4-7": 5_100_000}),  # compact cores
        {
            **speeds("cpu_capacity", {"0-7": 1024}),  # says nothing: the clocks do
            **speeds("cpufreq/cpuinfo_max_freq", {"0-3": 2_000_000, "4-7": 4_000_000}),
        },
    ],
    ids=["capacity", "clock", "both"],
)
def test_kinds_of_cores_by_capacity_or_clock(tmp_path: Path, speeds_of_kinds: Files) -> None:
    found = read_machine(tree(tmp_path, siblings(*map(str, range(8))), speeds_of_kinds), range(8))
    assert found.performance == (4, 5, 6, 7)


def test_favoured_cores_are_no_kind_of_their_own(tmp_path: Path) -> None:
    clocks = speeds("cpufreq/cpuinfo_max_freq", {"0-5": 5_200_000, "6-7": 5_700_000})
    found = read_machine(tree(tmp_path, DESKTOP, clocks), range(8))
    assert found.performance == tuple(range(8))
    assert found.reason == "one a core"


def test_a_server_of_two_sockets(tmp_path: Path) -> None:
    root = tree(tmp_path, SERVER)
    found = read_machine(root, range(16))
    assert found.nodes == ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
    assert found.threads == 8
    assert read_machine(root, [0, 1, 2]).nodes == ((0, 1, 2),)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = read_machine(tmp_path, [0, 1, 5])
    assert found == Machine((0, 1, 5), (0, 1, 5), (0, 1, 5), ((0, 1, 5),), None, 3, "one a core")


def test_nonsense_is_no_limit(tmp_path: Path) -> None:
    nonsense = {
        f"{CPU}0/topology/thread_siblings_list": "zero",
        f"{CPU}0/cpu_capacity": "-",
        NODE + "online": "0-",
        "sys/fs/cgroup/cpu.max": "much",
        "sys/fs/cgroup/a/cpu.max": "0 0",
        "proc/self/cgroup": "nothing\n0::/a\n::",
    }
    found = read_machine(tree(tmp_path, nonsense), [0, 1])
    assert (found.threads, found.quota) == (2, None)


def test_this_machine() -> None:
    found = read_machine()
    assert set(found.cpus) == os.sched_getaffinity(0)
    assert set(found.performance) <= set(found.cores) <= set(found.cpus)
    assert sorted(cpu for node in found.nodes for cpu in node) == list(found.cpus)
    assert 1 <= found.threads <= len(found.performance)


# Containers


@pytest.mark.parametrize(
    ("quota", "threads"), [(0.25, 1), (1.0, 1), (1.4, 1), (1.5, 2), (2.5, 3), (6.0, 6), (7.9, 8), (64.0, 8)]
)
def test_a_quota_is_rounded_to_the_nearest(tmp_path: Path, quota: float, threads: int) -> None:
    limit = {"sys/fs/cgroup/cpu.max": f"{int(quota * 100_000)} 100000"}
    found = read_machine(tree(tmp_path, DESKTOP, in_group("/"), limit), range(16))
    assert (found.quota, found.threads) == (quota, threads)
    assert ("quota" in found.reason) == (threads < 8)


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/kube/pod/cpu.max": "max 100000",
        "sys/fs/cgroup/kube/cpu.max": "150000 50000",
        "sys/fs/cgroup/cpu.max": "800000 100000",
        "sys/fs/cgroup/other/cpu.max": "10000 100000",  # not ours
    }
    assert cpu_quota(tree(tmp_path, in_group("/kube/pod"), limits)) == 3.0


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_version_1_of_control_groups(tmp_path: Path, folder: str) -> None:
    at = f"sys/fs/cgroup/{folder}/job/"
    root = tree(tmp_path, in_group("/job", version=1), {at + "cpu.cfs_quota_us": "400000"})
    assert cpu_quota(root) is None  # no period
    assert cpu_quota(tree(root, {at + "cpu.cfs_period_us": "200000"})) == 2.0
    assert cpu_quota(tree(root, {at + "cpu.cfs_quota_us": "-1"})) is None


def test_inside_a_container_the_top_is_its_own_group(tmp_path: Path) -> None:
    """/proc names the host's path there, which is not mounted."""
    v2 = {"sys/fs/cgroup/cpu.max": "200000 100000"}
    assert cpu_quota(tree(tmp_path / "2", in_group("/docker/0123"), v2)) == 2.0
    v1 = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
    assert cpu_quota(tree(tmp_path / "1", in_group("/docker/0123", version=1), v1)) == 1.0


def test_memory_is_what_is_free_within_the_containers_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1000000 kB"}, in_group("/a"))
    assert available_bytes(root) == 1_024_000_000
    assert available_bytes(tree(root, {"sys/fs/cgroup/memory.max": "max"})) == 1_024_000_000
    assert available_bytes(tree(root, {"sys/fs/cgroup/a/memory.max": "5000000"})) == 5_000_000
    v1 = tree(root, in_group("/a", version=1), {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4000000"})
    assert available_bytes(v1) == 4_000_000


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("", set()), ("a-b", set()), ("1,,2", set())]
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus
