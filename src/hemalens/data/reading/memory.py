"""How much memory a process may still take: of the machine, or of the control group (container) it runs in.

Standard library only.
"""

import os
from pathlib import Path

__all__ = ["available_memory"]

_CONTROLLERS = {
    # hierarchy's mount, limit, use, and the file's name for pages of files that can be let go at once
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes that can be taken without swapping: the least of what the machine and its groups leave.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    left = [_of_machine(root), *_of_groups(root)]
    return max(min(left), 0)


def _of_machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    facts = dict(line.split(":", 1) for line in lines)
    return int(facts.get("MemAvailable", facts["MemFree"]).split()[0]) * 1024


def _of_groups(root: Path) -> list[int]:
    """Return what each group above this process leaves, of both versions of control groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[int | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in set(controllers.split(",")) & _CONTROLLERS.keys():
            mount, limit, used, cached = _CONTROLLERS[name]
            group = Path(path.lstrip("/"))
            # In a container the path may be the host's: what is not there is passed over; the mount is its own group.
            folders = [root / mount / group, *(root / mount / parent for parent in group.parents)]
            found += [_left(folder, limit, used, cached) for folder in folders]
    return [left for left in found if left is not None]


def _left(folder: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else int(most) - now + int(facts.get(cached, 0))
