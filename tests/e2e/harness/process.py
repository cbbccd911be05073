"""Servers of other makers as child processes: started on free ports, awaited, stopped by their pid."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
SERVERS = REPOSITORY / "tests" / "servers"


def free_ports(count):
    """Ports that nobody listens on, from below the range that the kernel lends to outgoing connections."""
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def eventually(condition, seconds=30, what=None):
    """Polls until `condition` holds and returns what it gave; fails after a generous while."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what or condition}; last seen: {value!r}")
        time.sleep(0.02)


def http_status(url, timeout=5):
    """The status of a GET, or None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


class Process:
    """One child with its log in a file."""

    def __init__(self, name, command, folder, env=None):
        self.name = name
        self.log = pathlib.Path(folder) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def await_ready(self, condition, seconds):
        """Polls `condition` for as long as the child lives."""
        end = time.monotonic() + seconds
        while not condition():
            if not self.alive():
                raise RuntimeError(f"{self.name} ended with {self.child.returncode}:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} was not ready within {seconds} s:\n{self.tail()}")
            time.sleep(0.05)
        return self

    def stop(self, how=signal.SIGTERM, seconds=20):
        """Asks once, then insists; returns the exit status."""
        if self.alive():
            self.child.send_signal(how)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait(10)
