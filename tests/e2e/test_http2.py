"""HTTP/2 through the pass-through, against a server that answers by frames: resets, missing trailers, GOAWAY."""

import socket

import grpc
import pytest
from hyperframe.frame import PingFrame

from harness import http2, rpc, servers
from harness.compare import assert_same
from harness.outrigger import Outrigger


@pytest.fixture(scope="module")
def crude(logs):
    server = servers.peer(logs, "http2_peer.py")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxied(crude, logs, direct):
    if direct:
        yield crude.grpc
        return
    outrigger = Outrigger(logs, {"crude": ("oip-grpc", crude.grpc)}, name="outrigger-http2")
    yield outrigger.address["crude"]
    assert outrigger.process.alive(), outrigger.process.tail()
    outrigger.stop()


@pytest.fixture
def same(crude, proxied):
    def check(path, body=b"body", method="POST", fields=http2.GRPC):
        straight, through = (http2.ask(address, method, path, body, fields) for address in (crude.grpc, proxied))
        assert_same(straight, through)
        return through

    return check


FORMS = [
    "/echo", "/no-trailers", "/headers-only", "/empty-end", "/padded", "/bytes", "/unknown-frames", "/status/404",
    "/status/502", "/status/418", "/long-headers",
]  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
def test_every_form_of_answer(same, path):
    same(path)


def test_the_final_answer_is_found_behind_interim_ones(same):
    same("/interim")


@pytest.mark.parametrize("code", range(1, 14))
@pytest.mark.parametrize("kind", ["begun", "begun-message"])
def test_a_reset_within_an_answer_reaches_the_caller_as_it_is(crude, proxied, kind, code):
    """The server answers before the request has ended, and resets when it has."""

    def ask(address):
        with http2.Connection(address) as connection:
            number = connection.request(http2.pairs("POST", f"/{kind}/{code}", http2.GRPC))
            stream = connection.streams[number]
            connection.until(lambda: stream.headers and (stream.data or kind == "begun"))
            connection.data(number, b"", end=True)
            return connection.answer(number)

    straight, through = ask(crude.grpc), ask(proxied)
    assert straight.details == f"reset {http2.ERRORS[code]}"
    assert_same(straight, through)


@pytest.mark.parametrize("kind", ["reset-after-headers", "reset-after-message"])
def test_a_reset_may_overtake_what_was_sent_with_it(crude, proxied, kind):
    """HTTP/2 lets a reset drop what is still queued: the caller sees a beginning of the answer, and the same reset."""
    straight, through = (http2.ask(address, "POST", f"/{kind}/2", b"body", http2.GRPC) for address in (crude.grpc, proxied))
    assert through.details == straight.details == "reset INTERNAL_ERROR"
    assert through.code in (None, straight.code)
    assert straight.messages[0].startswith(through.messages[0])


@pytest.mark.parametrize("code", [1, 2, 8, 11])
@pytest.mark.parametrize("kind", ["reset", "at-once"])
def test_a_reset_instead_of_an_answer_means_the_same_to_a_grpc_caller(crude, proxied, kind, code):
    """The stock client's reading of the reset is what must not change; REFUSED_STREAM may be tried again."""
    straight, through = (rpc.call(address, f"/{kind}/{code}", b"m") for address in (crude.grpc, proxied))
    assert straight.code != grpc.StatusCode.OK
    assert through.code == straight.code, (straight, through)


@pytest.mark.parametrize("path", ["/hang-up", "/hang-up-after-message"])
def test_a_connection_that_breaks_is_unavailable(crude, proxied, path):
    for address in (crude.grpc, proxied):
        found = rpc.call(address, path, b"m", streaming=True)
        assert found.code == grpc.StatusCode.UNAVAILABLE, found


def test_goaway_is_no_callers_business(proxied):
    """Each call ends the connection to the server; none of them fails."""
    for _ in range(50):
        found = http2.unary(proxied, "/goaway", b"m")
        assert dict(found.trailers)["grpc-status"] == "0", found


FIELDS = [
    ("content-type", "application/grpc+proto"),
    ("te", "trailers"),
    ("user-agent", "test/1"),
    ("x-twice", "1"),
    ("x-twice", "2"),
    ("x-empty", ""),
    ("x-latin", "a%b"),
    ("x-some-bin", "AAEC"),
    ("cookie", "a=b"),
    ("grpc-accept-encoding", "gzip, br"),
    ("authorization", "Bearer x"),
]


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "PURGE"])
@pytest.mark.parametrize("path", ["/seen", "/seen/%2F..//a?b=c&d", "/seen/" + "long" * 2000])
def test_method_path_and_fields_reach_the_server(same, method, path):
    """No via, no x-forwarded-for, no user-agent of ours; te is kept, for gRPC demands it."""
    found = same(path, b"12345" if method == "POST" else b"", method, FIELDS)
    assert b"body 5" in found.messages[0] or method != "POST"


def test_trailers_of_a_request_reach_the_server(crude, proxied):
    def ask(address):
        with http2.Connection(address) as connection:
            number = connection.request(http2.pairs("POST", "/echo", http2.GRPC))
            connection.data(number, b"body")
            connection.trailers(number, [("x-request-trailer", "1")])
            return connection.answer(number)

    straight, through = ask(crude.grpc), ask(proxied)
    assert_same(straight, through)
    assert ("x-request-trailer", "1") in through.trailers


def test_a_reset_of_the_caller_harms_no_other_stream(proxied):
    with http2.Connection(proxied) as connection:
        for code in (0, 1, 5, 8, 11):
            gone = connection.request(http2.pairs("POST", "/echo", http2.GRPC))
            connection.data(gone, b"part")
            connection.reset(gone, code)
            number = connection.request(http2.pairs("POST", "/echo", http2.GRPC))
            connection.data(number, b"whole", end=True)
            assert connection.answer(number).messages == (b"whole",)


def test_pings_are_answered(proxied):
    with http2.Connection(proxied) as connection:
        connection.send(PingFrame(0, b"12345678"))
        assert connection.until(lambda: connection.pongs == [b"12345678"])


@pytest.mark.proxy
@pytest.mark.parametrize(
    "rubbish",
    [
        b"\0" * 100,
        http2.PREFACE + b"\xff" * 100,
        http2.PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\1\0\0\0\0\0\0x",
        http2.PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\4\1\4\0\0\0\1\xff\xff\xff\xff",
        http2.PREFACE[:10],
        b"PRI * HTTP/2.0\r\n\r\nXX",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    ],
)
def test_rubbish_harms_nobody(proxied, rubbish):
    host, port = proxied.split(":")
    with http2.Connection(proxied) as neighbour, socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(rubbish)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass
        number = neighbour.request(http2.pairs("POST", "/echo", http2.GRPC))
        neighbour.data(number, b"whole", end=True)
        assert neighbour.answer(number).messages == (b"whole",)
