"""A process that has imported what takes long, and forks whoever is to run: what a launcher starts hands over to it.

The one that is forked has the environment, the folder, the streams and the process group of who handed over. That one ends as it ends, by
its exit code or by the signal that killed it, and it ends with that one. So a launcher sees, and kills, what it would if it had started
it. Unlike processes that are started, all have the same seed of hashes. This file imports nothing but the standard library at first, as
it is also the program that hands over: ``python -I -S resident.py NAME [argument ...]``.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module

_STREAMS = (0, 1, 2)
_LOADED = ("spmd.testing", "tests.test_programs", "tests.collectives.suite")
"""What the programs of tests import; nothing of it may start MPI."""
NAMED = "SPMD_TEST"
"""The variable whose value, of at most 15 bytes, a forked process is called by: the environment that the system shows of it is another."""


def start(module: str, name: str, *more: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the resident process, ``python -m module --serve NAME ...``, and wait until it is there. It ends when this one does."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # which those who are forked no longer choose
    command = [sys.executable, "-m", module, "--serve", name, *more]
    made = subprocess.Popen(command, env={**environment, **one}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.stdout is not None
    if not made.stdout.readline():
        raise RuntimeError(f"{command} does not start")
    return made


def client(name: str) -> list[str]:
    """The arguments of Python for what hands over; those of the one that is forked come after them."""
    return ["-I", "-S", __file__, name]


def serve(name: str) -> list[str]:
    """Fork for each that comes, until standard input ends. Returns in those that are forked only, with their arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # who is forked does not go through all that is imported, of which it would copy each page
    print("ready", flush=True)
    while True:
        if 0 in select.select([listener, 0], [], [])[0]:
            sys.exit()
        came, _ = listener.accept()
        if os.fork():
            came.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, streams, _, _ = socket.recv_fds(came, 1, len(_STREAMS))
        with came.makefile("rb") as file:
            given = json.load(file)
        _be_called(given["environment"].get(NAMED, ""))
        worker = os.fork()
        if worker == 0:
            came.close()
            _become(given, streams)
            return given["arguments"]
        ends, there = select.poll(), os.pidfd_open(worker)
        ends.register(there, select.POLLIN)
        ends.register(came, 0)  # its end alone: nothing more is written there
        if there not in dict(ends.poll()):
            os.kill(worker, signal.SIGKILL)  # its launcher has killed who handed over
        status = os.waitpid(worker, 0)[1]
        with contextlib.suppress(BrokenPipeError):  # who handed over may have been killed
            came.sendall(struct.pack("i", status))
        os._exit(0)


def _be_called(name: str) -> None:
    with open("/proc/self/comm", "w") as file:
        file.write(name)


def _become(given: dict, streams: list[int]) -> None:
    os.setpgid(0, given["group"])
    for stream, mine in zip(streams, _STREAMS, strict=True):
        os.dup2(stream, mine)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(given["environment"])
    os.chdir(given["folder"])


def hand_over(name: str, arguments: list[str]) -> None:
    """Have this run there, and end as it ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    given = {"environment": dict(os.environ), "folder": os.getcwd(), "group": os.getpgid(0), "arguments": arguments}
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(f"\0{name}")
        socket.send_fds(there, [b"."], _STREAMS)
        there.sendall(json.dumps(given).encode())
        there.shutdown(socket.SHUT_WR)
        answer = there.recv(4)
    if len(answer) < 4:
        sys.exit("the resident process has gone")
    (status,) = struct.unpack("i", answer)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    if sys.argv[1] != "--serve":
        hand_over(sys.argv[1], sys.argv[2:])
    for module in _LOADED:
        import_module(module)
    sys.argv[1:] = serve(sys.argv[2])
    started = import_module("spmd.run.started")
    started.begin()
    started.main()
