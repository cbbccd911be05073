"""HTTP/1.1 through the pass-through, against a server that tells what reached it."""

import base64
import hashlib
import json
import time
from dataclasses import replace

import pytest

from harness import http1, servers
from harness.compare import assert_same
from harness.outrigger import Outrigger
from harness.process import free_ports

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
"""Fields that speak of one connection: either side of a proxy has its own."""


@pytest.fixture(scope="module")
def crude(logs):
    server = servers.peer(logs, "http1_peer.py")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxied(crude, logs, direct):
    if direct:
        yield crude.rest
        return
    outrigger = Outrigger(logs, {"crude": ("oip-rest", crude.rest)}, name="outrigger-http1")
    yield outrigger.address["crude"]
    assert outrigger.process.alive(), outrigger.process.tail()
    outrigger.stop()


def end_to_end(answer):
    """The answer without what belongs to one connection."""
    named = {token.strip().lower() for name, value in answer.headers if name == "connection" for token in value.split(",")}
    return replace(
        answer, headers=tuple(pair for pair in answer.headers if pair[0] not in HOP_BY_HOP and pair[0] not in named)
    )


@pytest.fixture
def same(crude, proxied):
    def check(*arguments, **options):
        straight, through = (http1.ask(address, *arguments, **options) for address in (crude.rest, proxied))
        assert_same(end_to_end(straight), end_to_end(through))
        assert straight.extra == through.extra
        return through

    return check


def arrived(answer):
    """Request line and fields that the server saw."""
    told = json.loads(answer.messages[0])
    line, *lines = base64.b64decode(told["head"]).decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    return line, [(each.split(":", 1)[0].lower(), each.split(":", 1)[1].strip()) for each in lines], told


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE", "X-ODD"])
@pytest.mark.parametrize("target", ["/", "/a/b?c=d&&e", "/%2F%00%ff/../x;y=1", "/" + "long" * 1000, "//double//"])
def test_method_target_and_fields_reach_the_server(proxied, method, target):
    fields = [
        ("host", "some.host:123"),
        ("x-twice", "1"),
        ("X-Twice", "2"),
        ("user-agent", "test/1"),
        ("accept", "*/*"),
        ("cookie", "a=b; c=d"),
        ("x-empty", ""),
        ("authorization", "Bearer x"),
        ("x-latin", "caf\u00e9"),
    ]
    body = b"the body" if method in ("POST", "PUT", "PATCH", "X-ODD") else None
    line, found, told = arrived(http1.ask(proxied, method, target, body, fields))
    assert line == f"{method} {target} HTTP/1.1"
    expected = [(name.lower(), value) for name, value in fields]
    if body:
        expected.append(("content-length", str(len(body))))
        assert told["sha256"] == hashlib.sha256(body).hexdigest()
    # Nothing is lost, and nothing is added: no via, no x-forwarded-for.
    kept = [pair for pair in found if pair[0] not in HOP_BY_HOP]
    assert sorted(kept) == sorted(expected)


@pytest.mark.proxy
def test_fields_of_one_connection_stay_on_it(proxied):
    fields = [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "secret"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("x-kept", "1"),
    ]
    _, found, _ = arrived(http1.ask(proxied, "GET", "/", None, fields))
    names = [name for name, _ in found]
    assert "x-kept" in names
    assert not {"x-mine", "keep-alive", "proxy-connection"} & set(names)


@pytest.mark.parametrize("size", [0, 1, 65536, 50_000_000])
def test_request_bodies(proxied, size):
    body = b"b" * size
    _, found, told = arrived(http1.ask(proxied, "POST", "/", body))
    assert (told["length"], told["sha256"]) == (size, hashlib.sha256(body).hexdigest())
    assert ("content-length", str(size)) in found


def test_a_request_body_in_chunks_stays_one(proxied):
    with http1.Connection(proxied) as connection:
        connection.send(http1.head("POST", "/", [("transfer-encoding", "chunked")]))
        for part in (b"one", b"two" * 30000, b"three"):
            connection.send(b"%x;name=value\r\n%s\r\n" % (len(part), part))
        connection.send(b"0\r\n\r\n")
        _, found, told = arrived(connection.answer())
        assert told["length"] == 90008
        assert "content-length" not in dict(found)
        # The connection goes on.
        assert connection.ask("GET", "/").code == 200


@pytest.mark.parametrize("size", [0, 1, 65536, 50_000_000])
def test_answer_bodies(same, size):
    found = same("GET", f"/large/{size}")
    assert len(found.messages[0]) == size


@pytest.mark.parametrize(
    "path", ["/until-close", "/no-content", "/not-modified", "/close", "/fields", "/status/299", "/status/599"]
)
def test_every_form_of_answer(same, path):
    same("GET", path)


def test_chunks_and_trailers_reach_a_caller_that_takes_them(same):
    """Trailers of HTTP/1.1 may be dropped on the way, but for callers that say that they take them."""
    found = same("GET", "/chunked", fields=[("te", "trailers"), ("connection", "te")])
    assert found.trailers == (("x-sum", "70006"),)
    assert found.messages == (b"onetwo" + b"x" * 70000,)


def test_the_final_answer_is_found_behind_interim_ones(crude, proxied):
    straight, through = (http1.ask(address, "GET", "/hints") for address in (crude.rest, proxied))
    assert_same(end_to_end(straight), end_to_end(through))
    assert through.messages == (b"hinted",)


def test_head_keeps_the_length_of_what_is_not_sent(same, proxied):
    assert dict(same("HEAD", "/").headers)["content-length"] == "12345"
    with http1.Connection(proxied) as connection:
        connection.ask("HEAD", "/")
        assert connection.ask("GET", "/").code == 200


def test_events_arrive_one_by_one(proxied):
    name = f"{time.time_ns()}"
    with http1.Connection(proxied) as connection:
        connection.send(http1.head("GET", f"/events/{name}"))
        code, _, fields = connection.head()
        assert code == 200 and ("text/event-stream" in dict((k.lower(), v) for k, v in fields)["content-type"])
        while b"data: first\n\n" not in connection.buffer:
            connection._fill()
        assert b"second" not in connection.buffer
        assert http1.ask(proxied, "GET", f"/open/{name}").code == 200
        while not connection.buffer.endswith(b"0\r\n\r\n"):
            connection._fill()
        assert b"data: second\n\n" in connection.buffer


def test_a_body_is_awaited_until_the_server_asks_for_it(proxied):
    with http1.Connection(proxied) as connection:
        connection.send(http1.head("POST", "/", [("expect", "100-continue")], b"body"))
        assert connection.head()[0] == 100
        connection.send(b"body")
        _, found, told = arrived(connection.answer())
        assert told["length"] == 4
        assert ("expect", "100-continue") in found


def test_a_body_that_the_server_refuses_is_never_asked_for(proxied):
    with http1.Connection(proxied) as connection:
        connection.send(http1.head("POST", "/refuse", [("expect", "100-continue"), ("content-length", "1000000")]))
        code, _, _ = connection.head()
        assert code == 413


def test_a_refusal_before_the_body_has_ended_reaches_the_caller(proxied):
    with http1.Connection(proxied) as connection:
        connection.send(http1.head("POST", "/early", [("content-length", "1000000")]) + b"x" * 1000)
        assert connection.answer().code == 403


def test_many_requests_on_one_connection(proxied):
    with http1.Connection(proxied) as connection:
        for number in range(200):
            line, _, told = arrived(connection.ask("POST", f"/{number}", b"x" * number))
            assert line == f"POST /{number} HTTP/1.1" and told["length"] == number


def test_requests_sent_ahead_are_answered_in_order(proxied):
    with http1.Connection(proxied) as connection:
        connection.send(b"".join(http1.head("POST", f"/{number}", (), b"xy") + b"xy" for number in range(20)))
        for number in range(20):
            assert arrived(connection.answer())[0] == f"POST /{number} HTTP/1.1"


def test_http_1_0_is_answered_and_closed(proxied):
    with http1.Connection(proxied) as connection:
        connection.send(b"GET /large/10 HTTP/1.0\r\nhost: a\r\n\r\n")
        found = connection.answer()
        assert found.code == 200 and found.messages[0] == b"l" * 10


@pytest.mark.proxy
def test_servers_that_close_idle_connections_are_not_the_callers_business(proxied):
    for _ in range(50):
        assert http1.ask(proxied, "GET", "/idle-close").messages[0] == b"kept?"
        assert http1.ask(proxied, "GET", "/").code == 200


@pytest.mark.proxy
def test_servers_that_break_off_are_told_as_such(proxied):
    for path in ("/hang-up", "/rubbish"):
        found = http1.ask(proxied, "POST", path, b"once")
        assert found.code in (502, 503), (path, found)
        assert "error" in json.loads(found.messages[0])


def test_an_answer_that_is_cut_is_seen_to_be_cut(proxied):
    with pytest.raises((EOFError, ConnectionError)):
        http1.ask(proxied, "GET", "/cut")


@pytest.mark.proxy
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nbad name: x\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
        b"\0\1\2\3\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
def test_requests_that_are_no_requests_are_refused_and_harm_nobody(proxied, request_bytes):
    with http1.Connection(proxied) as connection:
        try:
            connection.send(request_bytes)
            found = connection.answer()
            assert 400 <= found.code < 600, found
        except (EOFError, ConnectionError):
            pass  # closing says it too
    assert http1.ask(proxied, "GET", "/").code == 200


@pytest.mark.proxy
def test_a_request_with_two_lengths_is_never_forwarded_ambiguously(proxied):
    """Smuggling: with both forms of length either the request is refused, or only the chunked form goes on."""
    with http1.Connection(proxied) as connection:
        connection.send(
            b"POST /first HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        found = connection.answer()
        if found.code == 200:
            _, fields, told = arrived(found)
            assert told["length"] == 0
            assert not ("content-length" in dict(fields) and "transfer-encoding" in dict(fields))
        else:
            assert found.code == 400


@pytest.mark.proxy
def test_nobody_there_is_a_503_or_502(logs):
    (port,) = free_ports(1)
    outrigger = Outrigger(logs, {"nobody": ("oip-rest", f"127.0.0.1:{port}")}, name="outrigger-nobody")
    try:
        found = http1.ask(outrigger.address["nobody"], "GET", "/v2/health/ready")
        assert found.code in (502, 503), found
    finally:
        outrigger.stop()
