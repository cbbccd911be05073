"""An HTTP/2 server by frames: each path is a way to answer that a well-behaved stack would not let a test choose."""

import socket
import sys
import threading
from dataclasses import dataclass, field

import hpack
from hyperframe import frame as frames

OK = [(":status", "200"), ("content-type", "application/grpc"), ("x-kind", "crude")]
DONE = [("grpc-status", "0"), ("x-last", "1")]
MESSAGE = b"\0\0\0\0\5hello"


@dataclass
class Request:
    headers: list
    body: bytearray = field(default_factory=bytearray)
    trailers: list = field(default_factory=list)

    @property
    def path(self):
        return dict(self.headers)[":path"]


class Connection:
    def __init__(self, accepted):
        self.socket = accepted
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.requests = {}
        self.block = b""

    def send(self, *sent):
        self.socket.sendall(b"".join(each.serialize() for each in sent))

    def headers(self, stream, pairs, end=False):
        self.send(frames.HeadersFrame(stream, self.encoder.encode(pairs), flags=["END_HEADERS"] + ["END_STREAM"] * end))

    def data(self, stream, data, end=False, **options):
        flags = ["END_STREAM"] * end + ["PADDED"] * bool(options)
        self.send(frames.DataFrame(stream, data, flags=flags, **options))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            received = self.socket.recv(count - len(data))
            if not received:
                raise EOFError
            data += received
        return data

    def run(self):
        try:
            self.exactly(24)
            self.send(frames.SettingsFrame(0, {frames.SettingsFrame.MAX_CONCURRENT_STREAMS: 1000}))
            while True:
                made, length = frames.Frame.parse_frame_header(memoryview(self.exactly(9)))
                made.parse_body(memoryview(self.exactly(length)))
                self.take(made)
        except (EOFError, OSError):
            pass
        finally:
            self.socket.close()

    def take(self, made):
        stream = made.stream_id
        if isinstance(made, frames.SettingsFrame) and "ACK" not in made.flags:
            self.send(frames.SettingsFrame(0, flags=["ACK"]))
        elif isinstance(made, frames.PingFrame) and "ACK" not in made.flags:
            self.send(frames.PingFrame(0, made.opaque_data, flags=["ACK"]))
        elif isinstance(made, frames.HeadersFrame | frames.ContinuationFrame):
            if isinstance(made, frames.HeadersFrame):
                self.block, self.ends = b"", "END_STREAM" in made.flags
            self.block += made.data
            if "END_HEADERS" not in made.flags:
                return
            pairs = self.decoder.decode(self.block)
            if stream in self.requests:
                self.requests[stream].trailers = pairs
            else:
                self.requests[stream] = Request(pairs)
                if self.requests[stream].path.startswith("/at-once"):
                    self.answer(stream, self.requests.pop(stream))
                    return
                if self.requests[stream].path.startswith("/begun"):
                    self.headers(stream, OK)
                if self.requests[stream].path.startswith("/begun-message"):
                    self.data(stream, MESSAGE)
            if self.ends:
                self.answer(stream, self.requests.pop(stream))
        elif isinstance(made, frames.DataFrame):
            if made.data:
                self.send(frames.WindowUpdateFrame(0, len(made.data)), frames.WindowUpdateFrame(stream, len(made.data)))
            if stream in self.requests:
                self.requests[stream].body += made.data
                if "END_STREAM" in made.flags:
                    self.answer(stream, self.requests.pop(stream))
        elif isinstance(made, frames.RstStreamFrame):
            self.requests.pop(stream, None)

    def answer(self, stream, request):
        kind, _, rest = request.path.removeprefix("/").partition("/")
        if kind == "seen":
            lines = [f"{name}: {value}" for name, value in (*request.headers, *request.trailers)]
            self.headers(stream, [(":status", "200"), ("content-type", "text/plain")])
            self.data(stream, "\n".join([*lines, f"body {len(request.body)}"]).encode(), end=True)
        elif kind in ("reset", "at-once", "begun", "begun-message"):
            self.send(frames.RstStreamFrame(stream, error_code=int(rest)))
        elif kind == "reset-after-headers":
            self.headers(stream, OK)
            self.send(frames.RstStreamFrame(stream, error_code=int(rest)))
        elif kind == "reset-after-message":
            self.headers(stream, OK)
            self.data(stream, MESSAGE)
            self.send(frames.RstStreamFrame(stream, error_code=int(rest)))
        elif kind == "no-trailers":
            self.headers(stream, OK)
            self.data(stream, MESSAGE, end=True)
        elif kind == "headers-only":
            self.headers(stream, [*OK, ("grpc-status", "5"), ("grpc-message", "not%20here%25")], end=True)
        elif kind == "empty-end":
            self.headers(stream, OK)
            self.data(stream, MESSAGE)
            self.data(stream, b"", end=True)
        elif kind == "padded":
            self.headers(stream, OK)
            self.data(stream, MESSAGE[:4], pad_length=100)
            self.data(stream, MESSAGE[4:], pad_length=0)
            self.headers(stream, DONE, end=True)
        elif kind == "bytes":
            self.headers(stream, OK)
            for each in MESSAGE:
                self.data(stream, bytes([each]))
            self.headers(stream, DONE, end=True)
        elif kind == "unknown-frames":
            self.socket.sendall(b"\0\0\3\xfa\0" + stream.to_bytes(4, "big") + b"abc")
            self.headers(stream, OK)
            self.socket.sendall(b"\0\0\0\xfb\0\0\0\0\0")
            self.data(stream, MESSAGE)
            self.headers(stream, DONE, end=True)
        elif kind == "interim":
            self.headers(stream, [(":status", "103"), ("link", "</a>")])
            self.headers(stream, OK)
            self.data(stream, MESSAGE)
            self.headers(stream, DONE, end=True)
        elif kind == "status":
            self.headers(stream, [(":status", rest), ("content-type", "text/html")])
            self.data(stream, b"<html>", end=True)
        elif kind == "long-headers":
            self.headers(stream, [*OK, *((f"x-{number}", "v" * 100) for number in range(100))])
            self.headers(stream, DONE, end=True)
        elif kind == "goaway":
            # The last answer of this connection: whatever comes later must go to another.
            self.send(frames.GoAwayFrame(0, last_stream_id=stream, error_code=0))
            self.headers(stream, OK)
            self.data(stream, MESSAGE)
            self.headers(stream, DONE, end=True)
        elif kind == "hang-up":
            raise EOFError
        elif kind == "hang-up-after-message":
            self.headers(stream, OK)
            self.data(stream, MESSAGE)
            raise EOFError
        else:
            self.headers(stream, OK)
            self.data(stream, bytes(request.body))
            self.headers(stream, [*DONE, *request.trailers], end=True)


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Connection(accepted).run, daemon=True).start()


if __name__ == "__main__":
    main()
