"""HTTP/1.1 by hand over a socket: what goes over the wire is what the test says, and everything that comes is seen."""

import socket

from harness.compare import Answer, headers


class Connection:
    """One connection; requests go out as bytes, answers come back whole."""

    def __init__(self, address, timeout=30):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def ask(self, method, target, body=None, fields=()):
        """Sends one request with a content-length if there is a body, and reads the final answer."""
        self.send(head(method, target, fields, body) + (body or b""))
        return self.answer(method)

    def _fill(self):
        chunk = self.socket.recv(65536)
        if not chunk:
            raise EOFError(f"closed within an answer, after {self.buffer[-200:]!r}")
        self.buffer += chunk

    def _until(self, mark):
        while mark not in self.buffer:
            self._fill()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def _exactly(self, count):
        parts = []
        while count:
            if not self.buffer:
                self._fill()
            part, self.buffer = self.buffer[:count], self.buffer[count:]
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def head(self):
        """The next head: (status, reason, fields). It may be an interim one."""
        status, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        _, code, reason = (status + " ").split(" ", 2)
        return int(code), reason.strip(), [tuple(part.strip() for part in line.split(":", 1)) for line in lines]

    def answer(self, method="GET"):
        """The next final answer, with the interim ones before it in `extra`."""
        interim = []
        code, reason, fields = self.head()
        while code < 200:
            interim.append(code)
            code, reason, fields = self.head()
        named = {name.lower(): value for name, value in fields}
        trailers = ()
        if method == "HEAD" or code in (204, 304):
            body = b""
        elif "chunked" in named.get("transfer-encoding", ""):
            parts = []
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                parts.append(self._exactly(size))
                self._until(b"\r\n")
            while line := self._until(b"\r\n"):
                trailers += (tuple(part.strip() for part in line.decode("latin-1").split(":", 1)),)
            body = b"".join(parts)
        elif "content-length" in named:
            body = self._exactly(int(named["content-length"]))
        else:
            body = b""
            try:
                while True:
                    self._fill()
            except EOFError:
                body, self.buffer = self.buffer, b""
        return Answer(code, reason, headers(fields), (body,), headers(trailers), {"interim": interim})


def head(method, target, fields=(), body=None):
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if not any(name.lower() == "host" for name, _ in fields):
        lines.insert(1, "host: model.test")
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def ask(address, method, target, body=None, fields=()):
    """One request on a connection of its own."""
    with Connection(address) as connection:
        return connection.ask(method, target, body, fields)
