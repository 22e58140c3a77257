"""The memory that is left: the machine's, or that of the tightest control group above the process."""

from pathlib import Path

from hemalens.data.reading.memory import available_memory

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal:  4096 kB\nMemFree:  512 kB\nMemAvailable:  2048 kB\nHugePages_Total:   0\n"}


def group(folder: str, limit: str, used: int, cached: int = 0) -> dict[str, str]:
    facts = {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 1\ninactive_file {cached}\n",
    }
    return {f"sys/fs/cgroup/{folder}/{name}": text for name, text in facts.items()}


def old_group(folder: str, limit: int, used: int, cached: int = 0) -> dict[str, str]:
    facts = {"limit_in_bytes": f"{limit}\n", "usage_in_bytes": f"{used}\n", "stat": f"total_inactive_file {cached}\n"}
    return {f"sys/fs/cgroup/memory/{folder}/memory.{name}": text for name, text in facts.items()}


def test_a_machine_without_groups_leaves_what_it_says_is_available(tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, MACHINE)) == 2 * MIB


def test_old_kernels_say_only_what_is_free(tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemFree: 3 kB\n"})) == 3072


def test_a_group_above_the_process_may_leave_less_and_its_file_cache_does_not_count(tmp_path: Path) -> None:
    files = MACHINE | {"proc/self/cgroup": "0::/jobs/mine\n"}
    files |= group("jobs/mine", "max", 7) | group("jobs", str(MIB), MIB // 2, MIB // 8)
    assert available_memory(write(tmp_path, files)) == MIB // 2 + MIB // 8


def test_groups_of_the_first_version_count_and_a_path_of_the_host_leads_to_the_mount(tmp_path: Path) -> None:
    files = MACHINE | {"proc/self/cgroup": "4:memory:/docker/0123\n1:cpu,cpuacct:/x\n0::/\n"}
    files |= old_group(".", MIB, MIB // 4)
    assert available_memory(write(tmp_path, files)) == 3 * MIB // 4


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = MACHINE | {"proc/self/cgroup": "0::/\n"} | group(".", "100", 150)
    assert available_memory(write(tmp_path, files)) == 0


def test_where_nothing_is_told_half_of_the_machine_is_taken(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > 64 * MIB


def test_this_machine_leaves_something() -> None:
    assert available_memory() > 0
