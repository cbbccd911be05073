"""gRPC's four kinds of calls through the pass-through, with the stock stack at both ends."""

import itertools
import json
import sys
import threading
import time

import grpc
import pytest

from harness import http2, rpc, servers
from harness.outrigger import Outrigger
from harness.process import Process, eventually

PEER = "/test.Peer/"
METADATA = [("x-one", "1"), ("x-two", "a"), ("x-two", "b"), ("x-some-bin", bytes(range(256))), ("x-empty", "")]
NAMES = (f"call-{number}-{time.time_ns()}" for number in itertools.count())


def counted(peer, name):
    """What the peer counted under `name`; asked of the peer itself, never through the proxy."""
    return json.loads(rpc.call(peer.grpc, PEER + "Counts", b"").messages[0]).get(name, 0)


@pytest.mark.parametrize("size", [0, 1, 16384, 70000, 5_000_000])
def test_unary_calls(peer_route, size):
    found = peer_route.same(lambda address: rpc.call(address, PEER + "Unary", b"m" * size, metadata=METADATA))
    assert found.messages == (b"m" * size,)
    # What is sent reaches the server, in order and to the last byte.
    assert set(METADATA) <= set(found.trailers)
    assert [value for name, value in found.trailers if name == "x-two"] == ["a", "b"]
    assert ("x-initial-bin", b"\0\1\xff") in found.headers


@pytest.mark.parametrize("sizes", [[], [0], [10, 0, 70000], [1000] * 500])
def test_client_streaming_calls(peer_route, sizes):
    messages = [b"m" * size for size in sizes]
    found = peer_route.same(lambda address: rpc.call(address, PEER + "Collect", *messages, metadata=METADATA, streaming=True))
    assert found.messages == (f"{len(sizes)} {sum(sizes)}".encode(),)


@pytest.mark.parametrize("number, size", [(0, 0), (1, 0), (3, 100_000), (2000, 10)])
def test_server_streaming_calls(peer_route, number, size):
    asked = f"{number} {size}".encode()
    found = peer_route.same(lambda address: rpc.call(address, PEER + "Spread", asked, metadata=METADATA, streaming=True))
    assert len(found.messages) == number


@pytest.mark.parametrize("sizes", [[], [5], [0, 100_000, 1], [20] * 1000])
def test_bidirectional_calls(peer_route, sizes):
    messages = [b"m" * size for size in sizes]
    found = peer_route.same(lambda address: rpc.call(address, PEER + "Chat", *messages, metadata=METADATA, streaming=True))
    assert found.messages == tuple(messages)


def test_a_thousand_turns_of_question_and_answer(peer_route):
    with rpc.channel(peer_route.grpc) as opened:
        answered = threading.Semaphore(1)

        def ask():
            for number in range(1000):
                assert answered.acquire(timeout=rpc.PATIENCE), "no answer before the next question"
                yield str(number).encode()

        found = []
        for message in opened.stream_stream(PEER + "Chat")(ask(), timeout=90):
            found.append(message)
            answered.release()
    assert found == [str(number).encode() for number in range(1000)]


@pytest.mark.parametrize("code", range(1, 17))
def test_every_status_with_its_details(peer_route, code):
    words = f"{code} caf\u00e9 100% of\tit\nand more"
    found = peer_route.same(lambda address: rpc.call(address, PEER + "Fail", words.encode()))
    assert found.code.value[0] == code
    assert found.details == words.split(" ", 1)[1]
    assert ("grpc-status-details-bin", b"\x08\x05\x12\x03why\xff") in found.trailers


def test_an_error_after_messages(peer_route):
    found = peer_route.same(lambda address: rpc.call(address, PEER + "FailLate", b"", streaming=True))
    assert found.messages == (b"one", b"two")
    assert (found.code, found.details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no more: 100% used")


def test_every_header_and_trailer_of_an_answer(peer_route):
    for path, body in [("Unary", b"x"), ("Fail", b"5 gone"), ("FailLate", b""), ("Spread", b"2 3"), ("Nothing", b"")]:
        peer_route.same(lambda address, p=path, b=body: http2.unary(address, PEER + p, b, [("x-k", "v")]))


def test_an_answer_before_the_request_has_ended(peer_route):
    def forever():
        yield b"the first"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.01)
            yield b"another"

    def call(method):
        def made(address):
            with rpc.channel(address) as opened:
                pending = opened.stream_stream(PEER + method)(forever(), timeout=rpc.PATIENCE)
                received = []
                try:
                    received.extend(pending)
                except grpc.RpcError:
                    pass
                return rpc.answer(pending, received)

        return made

    assert peer_route.same(call("Early")).messages == (b"enough of the first",)
    assert peer_route.same(call("EarlyFailure")).code == grpc.StatusCode.PERMISSION_DENIED


def test_an_answer_before_the_request_has_ended_frame_by_frame(peer_route):
    def ask(address):
        with http2.Connection(address) as connection:
            number = connection.request(http2.pairs("POST", PEER + "Early", http2.GRPC))
            connection.data(number, http2.message(b"the first"))
            return connection.answer(number)

    assert dict(peer_route.same(ask).trailers)["grpc-status"] == "0"


def test_the_first_message_does_not_wait_for_the_second(peer_route):
    with rpc.channel(peer_route.grpc) as opened:
        over = threading.Event()

        def ask():
            yield b"first"
            over.wait(60)

        pending = opened.stream_stream(PEER + "Chat")(ask(), timeout=rpc.PATIENCE)
        # Initial metadata and the first answer come while the request is still open.
        assert ("x-initial", "yes") in tuple(pending.initial_metadata())
        assert next(pending) == b"first"
        over.set()
        assert list(pending) == []
        assert pending.code() == grpc.StatusCode.OK


def test_a_cancelled_call_is_cancelled_at_the_server(peer_route):
    name = next(NAMES)
    with rpc.channel(peer_route.grpc) as opened:
        pending = opened.unary_unary(PEER + "Wait").future(name.encode(), timeout=rpc.PATIENCE)
        eventually(lambda: counted(peer_route.server, f"{name} started") == 1)
        pending.cancel()
        eventually(lambda: counted(peer_route.server, f"{name} cancelled") == 1, what="the server to see the cancellation")
        # The connection goes on.
        assert rpc.call_on(opened, PEER + "Unary", b"x").messages == (b"x",)


def test_a_cancelled_stream_is_cancelled_at_the_server(peer_route):
    name = next(NAMES)
    over = threading.Event()

    def ask():
        yield name.encode()
        over.wait(60)

    with rpc.channel(peer_route.grpc) as opened:
        pending = opened.stream_stream(PEER + "WaitStreaming")(ask(), timeout=rpc.PATIENCE)
        assert next(pending) == name.encode()
        pending.cancel()
        eventually(lambda: counted(peer_route.server, f"{name} cancelled") == 1, what="the server to see the cancellation")
        over.set()


def test_a_caller_that_is_gone_is_cancelled_at_the_server(peer_route):
    name = next(NAMES)
    with http2.Connection(peer_route.grpc) as connection:
        number = connection.request(http2.pairs("POST", PEER + "Wait", http2.GRPC))
        connection.data(number, http2.message(name.encode()), end=True)
        eventually(lambda: counted(peer_route.server, f"{name} started") == 1)
    eventually(lambda: counted(peer_route.server, f"{name} cancelled") == 1, what="the server to see the cancellation")


def test_a_deadline_reaches_the_server_and_ends_the_call(peer_route):
    for address in (peer_route.server.grpc, peer_route.grpc):
        given = float(rpc.call(address, PEER + "Deadline", b"", timeout=20).messages[0])
        assert 10 < given < 21, given  # it is sent rounded
    name = next(NAMES)
    found = rpc.call(peer_route.grpc, PEER + "Wait", name.encode(), timeout=0.5)
    assert found.code == grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: counted(peer_route.server, f"{name} cancelled") == 1, what="the server to see the end")


def test_no_deadline_stays_none(peer_route):
    assert peer_route.same(lambda address: rpc.call(address, PEER + "Deadline", b"", timeout=None)).messages[0] != b""


def test_large_metadata(peer_route):
    metadata = [("x-large", "v" * 12000)]
    found = peer_route.same(lambda address: rpc.call(address, PEER + "Unary", b"", metadata=metadata))
    assert found.code == grpc.StatusCode.OK, found


def test_too_large_metadata_is_refused_alike(peer_route):
    metadata = [("x-large", "v" * 60000)]
    codes = [
        rpc.call(address, PEER + "Unary", b"", metadata=metadata).code
        for address in (peer_route.server.grpc, peer_route.grpc)
    ]
    assert codes[0] == codes[1] != grpc.StatusCode.OK


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_pass(peer_route, compression):
    message = b"compressible " * 10000
    found = peer_route.same(lambda address: rpc.call(address, PEER + "Unary", message, compression=compression))
    assert found.messages == (message,)
    messages = [message] * 5
    peer_route.same(lambda address: rpc.call(address, PEER + "Chat", *messages, compression=compression))


def test_health_by_the_standard_service(peer_route):
    for body in (b"", b"\x0a\x06nobody"):
        peer_route.same(lambda address, b=body: rpc.call(address, "/grpc.health.v1.Health/Check", b))


def test_an_endless_watch_ends_with_its_caller(peer_route):
    with rpc.channel(peer_route.grpc) as opened:
        watch = opened.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=rpc.PATIENCE)
        assert next(watch) == b"\x08\x01"
        watch.cancel()
        assert watch.code() == grpc.StatusCode.CANCELLED


UNREAD = 24 * 2**20
"""More than every buffer on the way may hold together: two stacks of 4 to 8 MiB, the proxy's windows, the sockets."""
OFFERED = 128 * 2**20


def settled(value, seconds=30):
    """Polls until the value has stopped to change for a second."""
    last, since = value(), time.monotonic()
    end = since + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 1:
            return now
    raise AssertionError(f"still growing after {seconds} s: {last}")


def test_a_slow_reader_stops_the_server(peer_route):
    name = next(NAMES)
    with rpc.channel(peer_route.grpc, ("grpc.http2.bdp_probe", 0)) as opened:
        pending = opened.unary_stream(PEER + "Produce")(f"{name} {OFFERED // 65536}".encode(), timeout=100)
        assert len(next(pending)) == 65536
        produced = settled(lambda: counted(peer_route.server, f"{name} produced"))
        assert produced < UNREAD, f"{produced >> 20} MiB were taken from the server that nobody reads"
        # Others are not held up by it.
        assert rpc.call_on(opened, PEER + "Unary", b"x").messages == (b"x",)
        assert sum(len(message) for message in pending) == OFFERED - 65536
        assert pending.code() == grpc.StatusCode.OK


def test_a_slow_server_stops_the_caller(peer_route):
    name = next(NAMES)
    sent = [0]

    def offer():
        for _ in range(OFFERED // 65536):
            sent[0] += 65536
            yield b"p" * 65536

    with rpc.channel(peer_route.grpc) as opened:
        pending = opened.stream_unary(PEER + "TakeLate").future(offer(), metadata=[("x-gate", name)], timeout=100)
        accepted = settled(lambda: sent[0])
        assert accepted < UNREAD, f"{accepted >> 20} MiB were taken from the caller that nobody reads"
        assert rpc.call(peer_route.grpc, PEER + "Unary", b"x").messages == (b"x",)
        rpc.call(peer_route.server.grpc, PEER + "OpenGate", name.encode())
        assert pending.result() == str(OFFERED).encode()


def test_a_reader_with_a_closed_window_bounds_what_is_taken(peer_route):
    """By frames: with a window of 64 KiB, no more than that comes."""
    name = next(NAMES)
    with http2.Connection(peer_route.grpc, window=65536) as connection:
        number = connection.request(http2.pairs("POST", PEER + "Produce", http2.GRPC))
        connection.data(number, http2.message(f"{name} 2000".encode()), end=True)
        stream = connection.streams[number]
        connection.until(lambda: len(stream.data) == 65536)
        produced = settled(lambda: counted(peer_route.server, f"{name} produced"))
        assert produced < UNREAD
        connection.open_window(number, 10 * 65536)
        connection.until(lambda: len(stream.data) == 11 * 65536)
        connection.reset(number)


def test_many_streams_on_one_connection(peer_route):
    with rpc.channel(peer_route.grpc) as opened:
        method = opened.unary_unary(PEER + "Unary")
        # From about a thousand at once the stock server cancels some of them itself.
        for _ in range(4):
            pending = [method.future(str(number).encode(), timeout=rpc.PATIENCE) for number in range(500)]
            assert [each.result() for each in pending] == [str(number).encode() for number in range(500)]


def behind(logs, direct, server, name):
    """A proxy of its own in front of a peer that is about to be harmed."""
    if direct:
        return None, server.grpc
    outrigger = Outrigger(logs, {"peer": ("oip-grpc", server.grpc)}, name=name)
    return outrigger, outrigger.address["peer"]


def test_a_server_that_dies_within_a_stream_is_unavailable(logs, direct):
    server = servers.peer(logs, "grpc_peer.py", "mortal")
    outrigger, address = behind(logs, direct, server, "outrigger-mortal")
    try:
        found = rpc.call(address, PEER + "Die", b"", streaming=True)
        assert found.messages == (b"one", b"two")
        assert found.code == grpc.StatusCode.UNAVAILABLE, found
        server.process.child.wait(10)
        assert rpc.call(address, PEER + "Unary", b"x").code == grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop()
        if outrigger:
            outrigger.stop()


@pytest.mark.proxy
def test_a_server_that_comes_back_is_found_again(logs, direct):
    server = servers.peer(logs, "grpc_peer.py", "returning")
    outrigger, address = behind(logs, direct, server, "outrigger-returning")
    try:
        assert rpc.call(address, PEER + "Unary", b"x").messages == (b"x",)
        server.process.child.kill()
        server.process.child.wait(10)
        assert rpc.call(address, PEER + "Unary", b"x").code == grpc.StatusCode.UNAVAILABLE
        again = Process("returned", [sys.executable, "-u", servers.PEERS / "grpc_peer.py", server.grpc], logs)
        again.await_ready(lambda: "listening on" in again.tail(), 30)
        try:
            eventually(lambda: rpc.call(address, PEER + "Unary", b"y").messages == (b"y",), what="the new connection")
        finally:
            again.stop()
    finally:
        server.stop()
        outrigger.stop()
