"""`python` as a caller of the warm process: hands over what makes a process, waits for its end.

Starts in a fortieth of a second, since it imports nothing but what it needs.
"""

import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["-m"] and arguments[1].partition(".")[0] in (
        "dvc", "protodl", "stages", "studies",
    ):  # fmt: skip
        run_warm(arguments[1:])
    python = os.environ["PROTODL_TESTS_PYTHON"]
    os.execv(python, [python, *arguments])


def run_warm(arguments: list[str]) -> None:
    """Run a module and end as it ended; returns where the warm process is of another kind."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["PROTODL_TESTS_SOCKET"])
        request = {
            "arguments": arguments,
            "folder": os.getcwd(),
            "variables": dict(os.environ),
            "executable": os.path.abspath(sys.argv[0]),
            "ignored": [n for n in SIGNALS if signal.getsignal(n) == signal.SIG_IGN],
        }
        text = json.dumps(request).encode()
        socket.send_fds(server, [len(text).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(text)
        for number in SIGNALS:
            signal.signal(number, lambda number, _frame: server.send(bytes([number])))
        answer = server.recv(4)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if not answer:
        sys.exit("the warm process has gone")
    status = int.from_bytes(answer, "big", signed=True)
    if status == 256:  # of no process
        return
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
