"""Submissions that mean harm, and honest ones that need much: the code of their model.py, by what they try.

An attack raises where it is held back. ``OUT`` is a directory of the machine with a file ``secret``, ``PORT`` a port of
it on which something listens.
"""

_ATTACKS = {
    "relative path": "open('../' * 20 + OUT[1:] + '/secret').read()",
    "absolute path": "open(OUT + '/secret').read()",
    "list a directory": "os.listdir(OUT)",
    "home": "1 / (len(os.listdir(HOME)) > 1)",
    "passwords": "open('/etc/passwd').read()",
    "database": "import sqlite3; sqlite3.connect(OUT + '/made').execute('create table a(b)')",
    "node": "os.mknod(OUT + '/made')",
    "system's own open": "import ctypes; held(ctypes.CDLL(None).open((OUT + '/secret').encode(), 0))",
    "memory map": "np.memmap(OUT + '/secret', mode='r')",
    "root of the first process": "open('/proc/1/root' + OUT + '/secret').read()",
    "directory of the first process": "open('/proc/1/cwd/' + '../' * 20 + OUT[1:] + '/secret').read()",
    "old root": "os.listdir('/.old/etc')",
    "link": "os.symlink(OUT + '/secret', '/tmp/link'); open('/tmp/link').read()",
    "packages by path": "import sys; sys.path.append(SITE); import scipy",
    "packages by hook": "import sys; sys.meta_path.pop(0); sys.path.append(SITE); import scipy",
    "packages by site": "import site; site.main(); import scipy",
    "packages of the system": "import sys; sys.path.append('/usr/lib/python3/dist-packages'); import apt_pkg",
    "hemalens itself": "import hemalens",
    "labels": "np.load(OUT + '/cells.npz')['labels']",
    "environment": "1 / sum(b'HEMALENS_SECRET' in open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/environ'))",
    "processes": "1 / sum(b'pytest' in open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline'))",
    "descriptors": "1 / sum(os.path.isfile(p) or os.path.isdir(p) for p in glob.glob('/proc/self/fd/*'))",
    "disks": "1 / sum(stat.S_ISBLK(os.stat(p).st_mode) for p in glob.glob('/dev/*'))",
    "disk by number": "os.mknod('/tmp/disk', stat.S_IFBLK | 0o600, os.makedev(254, 0)); open('/tmp/disk', 'rb')",
    "own code": "open(__file__, 'w')",
    "packages' code": "open(np.__file__, 'a')",
    "library's code": "open(os.__file__, 'a')",
    "own directory": "open(os.path.dirname(__file__) + '/made', 'w')",
    "root directory": "open('/made', 'w')",
    "program of core dumps": "open('/proc/sys/kernel/core_pattern', 'w')",
    "cores": "open('/sys/devices/system/cpu/cpu1/online', 'w')",
    "remount": "import ctypes; held(ctypes.CDLL(None).mount(None, b'/', None, 32 | 4096, None))",
    "unmount": "import ctypes; held(ctypes.CDLL(None).umount2(b'/packages/numpy', 2))",
    "another root": "os.chroot('/tmp')",
    "user namespace": "import ctypes; held(ctypes.CDLL(None).unshare(0x10000000))",
    "trace the first process": "import ctypes; held(ctypes.CDLL(None).ptrace(16, 1, 0, 0))",
    "memory of the first process": "open('/proc/1/mem', 'r+b')",
    "limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
    "another user": "os.setuid(12345)",
    "port": "import socket; socket.create_connection(('127.0.0.1', PORT), 2)",
    "abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0hemalens-' + str(PORT))",
    "names": "import socket; socket.getaddrinfo('localhost.example', 80)",
    "kill the parent": "os.kill(os.getppid(), 9); time.sleep(0.1); 1 / (os.getppid() != 1)",
    "kill everything": "os.kill(-1, 9); 1 / 0",
}
_HEAD = """
import glob, os, stat, time
import numpy as np
OUT, PORT, SITE, HOME = {facts!r}
def held(code):
    if code < 0:
        raise OSError
"""
_TRIES = """
class Model:
    def __init__(self):
        self.through = []
        for name, attack in ATTACKS.items():
            try:
                attack()
                self.through.append(name)
            except Exception:
                pass
        if self.through:
            raise RuntimeError("through: " + ", ".join(self.through))
    def predict(self, X):
        return np.zeros(len(X), int)
"""
QUIET = tuple(_ATTACKS)


def quiet(names: tuple[str, ...], facts: tuple[str, int, str, str]) -> str:
    """Return the code of a submission that tries the named attacks and fails with those that got through."""
    lines = ["ATTACKS = {}"]
    for number, name in enumerate(names):
        lines += [f"def attack_{number}():", f"    {_ATTACKS[name]}", f"ATTACKS[{name!r}] = attack_{number}"]
    return _HEAD.format(facts=facts) + "\n".join(lines) + _TRIES


_PREDICT = "import os, sys, time\nimport numpy as np\nclass Model:\n    def predict(self, X):\n        "
_FORGE = """
import os, struct, sys
import numpy as np
def forge(token):
    answer = struct.pack("<8sc16sB4Q240s", token, b"l", b"|u1", 1, 8, 0, 0, 0, b"") + bytes(range(8))
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, answer)
        except OSError:
            pass
class Model:
    def predict(self, X):
        frame = sys._getframe()
        while "token" not in frame.f_locals:
            frame = frame.f_back
        forge({token})
        {then}
        return np.zeros(len(X), int)
"""
_SLEEPER = (
    "import subprocess; words = [sys.executable, '-c', 'import time; time.sleep(900) #MARK']\n"
    "        subprocess.Popen(words, start_new_session=True)"
)
_CHANNEL = "writes into the channel of answers"
# Those of them that are about processes and pipes, and not the same in any sandbox.
PROCESSES = (
    "answer and leave",
    "orphan",
    "orphan of a dead leader",
    "twice forked",
    "holds the pipe open",
    "fork bomb",
)
# What is refused aloud: the code, and words of the refusal.
LOUD = {
    "score on every descriptor": (
        _PREDICT + "\n        for k in range(3, 64):\n            try: os.write(k, b'{\"accuracy\": 1}')\n"
        "            except OSError: pass\n        return np.zeros(len(X), int)",
        _CHANNEL,
    ),
    "answer with a guessed token": (_FORGE.format(token="bytes(8)", then=""), _CHANNEL),
    "answer with the token": (_FORGE.format(token="frame.f_locals['token']", then=""), _CHANNEL),
    "answer and leave": (
        _FORGE.format(token="frame.f_locals['token']", then="os._exit(0)"),
        _CHANNEL + "|ends the process with exit code 0",
    ),
    "answer and close": (_PREDICT + "os.closerange(1, 64)\n        time.sleep(900)", _CHANNEL + "|is too slow"),
    "orphan": (
        _PREDICT + _SLEEPER + "\n        raise KeyError(1)",
        r"fails while predicting 8 pictures \(KeyError: 1\)",
    ),
    "orphan of a dead leader": (_PREDICT + _SLEEPER + "\n        os.kill(os.getpid(), 9)", "by signal SIGKILL"),
    "twice forked": (
        _PREDICT + "\n        if not os.fork():\n            os.setsid()\n            os.fork()\n"
        "            os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(900) #MARK'])\n"
        "        os._exit(3)",
        "ends the process with exit code 3",
    ),
    "holds the pipe open": (
        _PREDICT + "\n        if os.fork():\n            os._exit(4)\n        time.sleep(900)",
        "ends the process with exit code 4",
    ),
    "fork bomb": (
        _PREDICT + "\n        while True:\n            try: os.fork()\n            except OSError: time.sleep(1)",
        "starts more than|is too slow|needs more than",
    ),
    "memory of helpers": (
        _PREDICT + "\n        for k in range(6):\n            if not os.fork():\n                x = np.ones(1 << 25)\n"
        "                time.sleep(900)\n        time.sleep(900)",
        "needs more than 1 GB of memory while predicting 8 pictures",
    ),
    "flood": (_PREDICT + "\n        while True: print('x' * 100_000)", "prints more than 64 MB while predicting"),
    "endless": (_PREDICT + "\n        while True: pass", "is too slow: stopped after 4 s while predicting 8 pictures"),
    "stopped": (_PREDICT + "os.kill(os.getpid(), 19)", "is too slow: stopped after 4 s"),
    "words of its own": (
        _PREDICT + "raise ValueError('\\x1b[2J{doing}{0}\\n ok')",
        r"fails while predicting 8 pictures \(",
    ),
}

# What must be scored: the code, or a method body.
HONEST = {
    "list": "return [0] * len(X)",
    "small integers": "return np.zeros(len(X), np.uint8)",
    "other byte order": "return np.zeros(len(X), '>i4')",
    "strided": "return np.zeros((len(X), 3), int)[:, 1]",
    "prints": "print('working'); print('hm', file=sys.stderr); return np.zeros(len(X), int)",
    "warns and logs": "import logging, warnings; warnings.warn('x'); logging.error('y'); return np.zeros(len(X), int)",
    "threads": "from concurrent.futures import ThreadPoolExecutor as P\n"
    "        with P(4) as pool: return list(pool.map(lambda x: int(x.sum() * 0), X))",
    "forked workers": "import multiprocessing as m\n"
    "        with m.get_context('fork').Pool(2) as pool: return pool.map(len, [()] * len(X))",
    "spawned workers": "import multiprocessing as m, work\n"
    "        if not hasattr(self, 'pool'): self.pool = m.get_context('spawn').Pool(2)\n"
    "        return self.pool.map(work.zero, list(X))",
    "process executor": "from concurrent.futures import ProcessPoolExecutor as P\n        import work\n"
    "        with P(2) as pool: return list(pool.map(work.zero, X))",
    "shared memory": "from multiprocessing.shared_memory import SharedMemory\n"
    "        memory = SharedMemory(create=True, size=X.nbytes); memory.close(); memory.unlink()\n"
    "        return np.zeros(len(X), int)",
    "another interpreter": "import subprocess\n"
    "        words = [sys.executable, '-c', 'import numpy; print(numpy.zeros(1)[0])']\n"
    "        if not hasattr(self, 'said'):\n"
    "            self.said = subprocess.run(words, capture_output=True, check=True).stdout\n"
    "        return [int(float(self.said))] * len(X)",
    "scratch files": "import tempfile\n        with tempfile.NamedTemporaryFile() as f: np.save(f, X); f.flush()\n"
    "        open('cache.txt', 'w').close(); os.makedirs(os.path.expanduser('~/.cache/x'), exist_ok=True)\n"
    "        return np.zeros(len(X), int)",
    "database of its own": "import sqlite3; sqlite3.connect('/tmp/own.db').execute('create table if not exists a(b)')\n"
    "        return np.zeros(len(X), int)",
    "package with data": "from mine.names import LABEL; return np.full(len(X), LABEL)",
    "resources": "import importlib.resources as r\n"
    "        return [int(r.files('mine').joinpath('label.txt').read_text())] * len(X)",
    "mapped weights": "here = os.path.dirname(os.path.abspath(__file__))\n"
    "        return np.memmap(here + '/mine/label.txt', mode='r')[:1].astype(int).repeat(len(X)) - 48",
    "draws with a seed": "return np.random.default_rng(3).integers(0, 1, len(X))",
    "asks the machine": "import platform, getpass\n        platform.uname(); getpass.getuser()\n"
    "        return [0 * (os.cpu_count() + len(os.sched_getaffinity(0)))] * len(X)",
    "event loop": "import asyncio\n        async def zero(): return 0\n        return [asyncio.run(zero())] * len(X)",
    "onnxruntime": "import onnxruntime as o; o.get_available_providers(); o.SessionOptions()\n"
    "        return np.zeros(len(X), int)",
    "torch": "import torch, work\n        workers = 0 if hasattr(self, 'net') else 1\n"
    "        if workers: self.net = torch.nn.Conv2d(3, 1, 3).eval()\n"
    "        loader = torch.utils.data.DataLoader(work.Set(X), 4, num_workers=workers)\n"
    "        with torch.no_grad(): found = [self.net(x).flatten(1).sum(1).long() * 0 for x in loader]\n"
    "        return torch.cat(found).numpy()",
}
NEEDING = ("forked workers", "spawned workers", "shared memory", "another interpreter", "scratch files", "torch")
RUNTIMES = {"onnxruntime": "onnx", "torch": "torch"}
WORK = """
class Set:
    def __init__(self, X): self.X = X
    def __len__(self): return len(self.X)
    def __getitem__(self, k): return self.X[k].transpose(2, 0, 1).astype("float32")
def zero(picture): return int(picture.sum() * 0)
"""


def honest(name: str) -> dict[str, str]:
    """Return the members of an honest submission, all of whose labels are 0."""
    members = {"model.py": _PREDICT + HONEST[name], "work.py": WORK, "mine/__init__.py": ""}
    return members | {"mine/names.py": "LABEL = 0", "mine/label.txt": "0"}
