"""A program to the command that runs it apart from this machine: bubblewrap, else util-linux' unshare.

Both give namespaces of its own (user, mount, pid, net, ipc, uts, cgroup), no capability, and no file but what is bound,
read-only, beside an empty /tmp and /dev/shm. Everything inside dies with the first process inside, and that with us.
Nothing is taken for granted: `check_process` looks at each property before it runs what it was given. Linux only.
"""

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import Popen

__all__ = ["NAMESPACES", "PYTHON", "SANDBOXES", "Shut", "end", "held", "python_binds"]

Shut = Callable[[Mapping[str, Path], Sequence[str]], list[str]]
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
_TMP_BYTES = 1 << 30  # of /tmp and of /dev/shm: both are memory
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
_SYSTEM = ("/etc/ld.so.cache", "/sys/devices/system/cpu")  # torch and onnxruntime count cores in the second
_DEVICES = ("null", "zero", "full", "random", "urandom")


def python_binds() -> dict[str, Path]:
    """Return the files that an interpreter without packages needs, by the path at which they are to be seen.

    A path that maps to /dev/null is to be an empty directory: packages that nobody asked for.
    """
    mapped = {line.split(" ")[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()}
    library = [path for path in mapped if "/libpython" in path]  # of a Python whose program is only a start
    standard = os.path.realpath(Path(os.__file__).parent)
    wanted = (*_LIBRARIES, *_SYSTEM, *library, standard, PYTHON)
    binds = {path: Path(path) for path in wanted if os.access(path, os.R_OK)}
    inside = [path for path in binds if binds.keys() & {str(parent) for parent in Path(path).parents}]
    for path in inside:  # seen already, and nothing can be made where it lies
        del binds[path]
    roots = [Path(path) for path in (*_LIBRARIES, standard) if not Path(path).is_symlink()]
    for pattern in ("site-packages", "dist-packages", "python3*/site-packages", "python3*/dist-packages"):
        binds |= {str(path): Path(os.devnull) for root in roots for path in root.glob(pattern)}
    return binds


def _bubblewrap(binds: Mapping[str, Path], words: Sequence[str]) -> list[str]:
    command = [
        shutil.which("bwrap") or "bwrap",
        "--die-with-parent",
        "--as-pid-1",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]
    command += [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup")]
    command += ["--disable-userns", "--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108  # inside
        command += ["--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs", folder]
    for target, source in binds.items():
        if source.is_symlink() and target in _LIBRARIES:
            command += ["--symlink", str(source.readlink()), target]
        elif source == Path(os.devnull):
            command += ["--tmpfs", target, "--remount-ro", target]
        else:
            command += ["--ro-bind", str(source), target]
    # /proc too: to the kernel a root without rights still owns /proc/sys, and its core_pattern runs programs.
    for folder in ("/proc", "/dev", "/"):
        command += ["--remount-ro", folder]
    return [*command, "--chdir", "/tmp", "--", *words]  # noqa: S108


def _unshare(binds: Mapping[str, Path], words: Sequence[str]) -> list[str]:
    """Return a command whose first process inside is a shell: it mounts, and waits for what has no rights any more.

    It must be started in an empty directory, where the root of what is seen inside is built.
    """
    lines = [
        "set -eu",
        "PATH=/usr/bin:/usr/sbin:/bin:/sbin",
        "root=$(pwd)",
        'mount -t tmpfs -o nosuid,nodev,mode=755 root "$root"',
        'cd "$root"',
    ]
    lines += ["mkdir proc dev tmp .old", "mount -t proc -o nosuid,nodev,noexec proc proc"]
    lines += ["echo 0 > proc/sys/user/max_user_namespaces", "mount -o remount,bind,ro proc", "mkdir dev/shm"]
    for name in _DEVICES:
        lines += [f": > dev/{name}", f"mount --bind /dev/{name} dev/{name}"]
    lines += [f"ln -s /proc/self/fd{end} dev/{name}" for name, end in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"))]
    lines += [f"mount -t tmpfs -o nosuid,nodev,mode=1777,size={_TMP_BYTES} tmp {name}" for name in ("tmp", "dev/shm")]
    for target, source in ({**binds, "/setpriv": Path(shutil.which("setpriv") or "setpriv")}).items():
        inside, outside = shlex.quote(target[1:]), shlex.quote(str(source))
        if source.is_symlink() and target in _LIBRARIES:
            lines.append(f"ln -s {shlex.quote(str(source.readlink()))} {inside}")
        elif source == Path(os.devnull):
            lines.append(f"mount -t tmpfs -o ro,nosuid,nodev hidden {inside}")
        else:
            made = f"mkdir -p {inside}" if source.is_dir() else f"mkdir -p $(dirname {inside}); : > {inside}"
            lines += [made, f"mount --bind {outside} {inside}"]
            lines.append(f"mount -o remount,bind,ro,nosuid,nodev {inside}")
    lines += ['mount -o remount,bind,ro,nosuid,nodev "$root"', "pivot_root . .old", "cd /tmp"]
    lines += [f"/.old{shutil.which('umount') or '/usr/bin/umount'} -l /.old"]
    rights = "--no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all"
    lines += ["set +e", f"/setpriv {rights} -- {shlex.join(words)}", "exit $?"]
    own = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup"]
    outside_words = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", shutil.which("unshare") or "unshare"]
    return [*outside_words, *own, "--propagation", "private", "--fork", "--kill-child", "sh", "-c", "\n".join(lines)]


SANDBOXES: dict[str, Shut] = {"bubblewrap": _bubblewrap, "unshare": _unshare}


def held(process: Popen[bytes]) -> tuple[list[int], int, int]:
    """Return the processes below and with one, the bytes that they hold, and the most that each held, summed up."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_bytes().rpartition(b")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    found = [process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    now = most = 0
    for pid in found:
        try:
            lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
        except OSError:
            continue
        sizes = {words[0]: int(words[1]) * 1024 for words in map(bytes.split, lines) if words[0].startswith(b"Vm")}
        now, most = now + sizes.get(b"VmRSS:", 0), most + sizes.get(b"VmHWM:", 0)
    return found, now, most


def end(process: Popen[bytes]) -> None:
    """Kill a program and all that it started.

    The first process inside is killed by us: nothing inside can be deaf to that, and the kernel takes all others along.
    """
    if process.poll() is None:
        for pid in held(process)[0][1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
