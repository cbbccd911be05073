"""HTTP/2 by hand, frame by frame: every header, trailer and reset that an answer consists of, in whatever order."""

import socket
from dataclasses import dataclass, field

import hpack
from hyperframe import frame as frames

from harness.compare import Answer, headers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1
ERRORS = [
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
]  # fmt: skip


@dataclass
class Stream:
    """What came on one stream so far."""

    room: int
    interim: list = field(default_factory=list)
    headers: list = None
    data: bytearray = field(default_factory=bytearray)
    trailers: list = ()
    over: str = None


class Connection:
    """A client's connection with prior knowledge, driven by the test. `window` bounds what may come unread."""

    def __init__(self, address, timeout=30, window=LARGEST_WINDOW):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.buffer, self.block = b"", None
        self.streams, self.next_stream = {}, 1
        self.room, self.initial_room, self.max_frame = 65535, 65535, 16384
        self.settings, self.goaways, self.pongs, self.closed = {}, [], [], False
        settings = frames.SettingsFrame(0, {frames.SettingsFrame.INITIAL_WINDOW_SIZE: window})
        self.socket.sendall(PREFACE)
        self.send(settings, frames.WindowUpdateFrame(0, LARGEST_WINDOW - 65535))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *sent):
        self.socket.sendall(b"".join(each.serialize() for each in sent))

    def request(self, pairs, end=False):
        number, self.next_stream = self.next_stream, self.next_stream + 2
        block = self.encoder.encode(pairs)
        parts = [block[start : start + self.max_frame] for start in range(0, len(block), self.max_frame)]
        sent = [frames.HeadersFrame(number, parts[0])]
        sent += [frames.ContinuationFrame(number, part) for part in parts[1:]]
        sent[-1].flags.add("END_HEADERS")
        if end:
            sent[0].flags.add("END_STREAM")
        self.streams[number] = Stream(self.initial_room)
        self.send(*sent)
        return number

    def data(self, number, data, end=False):
        """Sends all of `data`, as fast as the peer's windows let it; stops if the stream is over."""
        stream = self.streams[number]
        left = memoryview(data)
        while True:
            part = left[: max(0, min(self.room, stream.room, self.max_frame))]
            left = left[len(part) :]
            last = end and not left
            if part or last:
                made = frames.DataFrame(number, bytes(part), flags=["END_STREAM"] if last else [])
                self.room -= len(part)
                stream.room -= len(part)
                self.send(made)
            if not left:
                return
            if not part and (not self.step() or stream.over):
                return

    def trailers(self, number, pairs):
        self.send(frames.HeadersFrame(number, self.encoder.encode(pairs), flags=["END_HEADERS", "END_STREAM"]))

    def reset(self, number, code=8):
        self.send(frames.RstStreamFrame(number, error_code=code))

    def open_window(self, number, size):
        self.send(frames.WindowUpdateFrame(number, size))

    def step(self):
        """Takes in the next frame; False when the peer closed the connection."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            try:
                received = self.socket.recv(2**18)
            except ConnectionResetError:
                received = b""
            if not received:
                self.closed = True
                for stream in self.streams.values():
                    stream.over = stream.over or "closed"
                return False
            self.buffer += received
        made, length = frames.Frame.parse_frame_header(memoryview(self.buffer[:9]))
        made.parse_body(memoryview(self.buffer[9 : 9 + length]))
        self.buffer = self.buffer[9 + length :]
        self._take(made)
        return True

    def _take(self, made):
        stream = self.streams.get(made.stream_id)
        if isinstance(made, frames.SettingsFrame) and "ACK" not in made.flags:
            self.settings.update(made.settings)
            room = made.settings.get(frames.SettingsFrame.INITIAL_WINDOW_SIZE, self.initial_room)
            for each in self.streams.values():
                each.room += room - self.initial_room
            self.initial_room = room
            self.max_frame = made.settings.get(frames.SettingsFrame.MAX_FRAME_SIZE, self.max_frame)
            self.send(frames.SettingsFrame(0, flags=["ACK"]))
        elif isinstance(made, frames.PingFrame):
            if "ACK" in made.flags:
                self.pongs.append(made.opaque_data)
            else:
                self.send(frames.PingFrame(0, made.opaque_data, flags=["ACK"]))
        elif isinstance(made, frames.WindowUpdateFrame):
            if made.stream_id == 0:
                self.room += made.window_increment
            elif stream:
                stream.room += made.window_increment
        elif isinstance(made, frames.GoAwayFrame):
            self.goaways.append((made.last_stream_id, made.error_code))
        elif isinstance(made, frames.HeadersFrame | frames.ContinuationFrame):
            if isinstance(made, frames.HeadersFrame):
                self.block, self.ends = b"", "END_STREAM" in made.flags
            self.block += made.data
            if "END_HEADERS" in made.flags:
                pairs = self.decoder.decode(self.block, raw=True)
                self._headers(stream, [(name.decode(), value.decode("latin-1")) for name, value in pairs])
        elif isinstance(made, frames.DataFrame) and stream:
            stream.data += made.data
            if "END_STREAM" in made.flags:
                stream.over = stream.over or "ended"
        elif isinstance(made, frames.RstStreamFrame) and stream:
            stream.over = stream.over or f"reset {ERRORS[made.error_code]}"

    def _headers(self, stream, pairs):
        if stream is None:
            return
        status = dict(pairs).get(":status", "")
        if status.startswith("1"):
            stream.interim.append(int(status))
        elif stream.headers is None:
            stream.headers = pairs
        else:
            stream.trailers = pairs
        if self.ends:
            stream.over = stream.over or "ended"

    def until(self, condition):
        """Takes in frames until `condition` holds, or the peer closed."""
        while not condition():
            if not self.step():
                return condition()
        return True

    def answer(self, number):
        """Waits for the end of the stream and gives all that came."""
        stream = self.streams[number]
        self.until(lambda: stream.over)
        pairs = stream.headers or []
        return Answer(
            code=dict(pairs).get(":status"),
            details=stream.over,
            headers=headers(pairs),
            messages=(bytes(stream.data),),
            trailers=headers(stream.trailers),
            extra={"interim": stream.interim},
        )


def pairs(method, path, fields=(), authority="model.test"):
    return [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *fields]


def ask(address, method, path, body=b"", fields=()):
    """One request on a connection of its own."""
    with Connection(address) as connection:
        number = connection.request(pairs(method, path, fields), end=not body)
        if body:
            connection.data(number, body, end=True)
        return connection.answer(number)


GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


def message(body):
    """A gRPC message with its prefix."""
    return b"\0" + len(body).to_bytes(4, "big") + body


def unary(address, path, body, fields=()):
    """A unary gRPC call, with every header of the answer to be seen."""
    return ask(address, "POST", path, message(body), [*GRPC, *fields])
