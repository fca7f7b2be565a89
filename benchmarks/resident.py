"""A process that has imported what takes long, and forks whoever is to run: what a launcher starts hands over to it.

The one that is forked has the environment, the folder, the streams and the process group of who handed over, which ends as it ends: by its
exit code, or by the signal that killed it. So a launcher sees, and signals, what it would if it had started it. This file imports
nothing but the standard library, as it is also the program that hands over: ``python -I -S resident.py SOCKET [argument ...]``.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys

_STREAMS = (0, 1, 2)


def serve(path: str) -> list[str]:
    """Fork for each that comes to this socket, without end. Returns in those that are forked only, with their arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        came, _ = listener.accept()
        if os.fork():
            came.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, streams, _, _ = socket.recv_fds(came, 1, len(_STREAMS))
        with came.makefile("rb") as file:
            given = json.load(file)
        worker = os.fork()
        if worker == 0:
            came.close()
            _become(given, streams)
            return given["arguments"]
        status = os.waitpid(worker, 0)[1]
        with contextlib.suppress(BrokenPipeError):  # who handed over may have been killed
            came.sendall(struct.pack("i", status))
        os._exit(0)


def _become(given: dict, streams: list[int]) -> None:
    os.setpgid(0, given["group"])
    for stream, mine in zip(streams, _STREAMS, strict=True):
        os.dup2(stream, mine)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(given["environment"])
    os.chdir(given["folder"])


def hand_over(path: str, arguments: list[str]) -> None:
    """Have this run there, and end as it ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    given = {"environment": dict(os.environ), "folder": os.getcwd(), "group": os.getpgid(0), "arguments": arguments}
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(path)
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
    hand_over(sys.argv[1], sys.argv[2:])
