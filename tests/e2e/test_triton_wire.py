"""Triton's answers header by header: HTTP/2 frames under gRPC, and HTTP/1.1 under REST."""

import json
import subprocess

import numpy as np
import pytest

from harness import compare, http1, http2, oip, rest
from harness.compare import assert_same

INFER = oip.SERVICE + "ModelInfer"
ROW = oip.request("echo", [("INPUT0", "FP32", np.ones((1, 16), np.float32))]).SerializeToString()


def same(via, ask, protocol="rest"):
    """As `Route.same`, for answers of HTTP; batched REST inferences may be told anew."""
    straight, proxied = ask(getattr(via.server, protocol)), ask(getattr(via, protocol))
    if protocol == "rest":
        rest.assert_same(straight, proxied, via.batched)
    else:
        assert_same(straight, proxied, None, via.batched)
    assert straight.extra == proxied.extra
    return proxied


@pytest.mark.parametrize("encoding", [(), [("grpc-encoding", "identity")], [("grpc-accept-encoding", "identity,gzip")]])
def test_every_header_of_an_answer(triton_untouched, encoding):
    found = same(triton_untouched, lambda address: http2.unary(address, INFER, ROW, encoding), "grpc")
    assert found.code == "200" and dict(found.trailers)["grpc-status"] == "0"


def test_every_header_of_a_batched_answer(triton_batched):
    straight = http2.unary(triton_batched.server.grpc, INFER, ROW)
    proxied = http2.unary(triton_batched.grpc, INFER, ROW)
    assert_same(straight, proxied, lambda body: oip.response(body[5:]), True)


def test_every_header_of_an_error(via):
    for body in (oip.request("nobody", []).SerializeToString(), oip.request("marked", []).SerializeToString(), b"\xff"):
        found = same(via, lambda address, b=body: http2.unary(address, INFER, b), "grpc")
        assert dict(found.headers + found.trailers)["grpc-status"] != "0"


def test_requests_that_are_no_grpc(triton_untouched):
    """The server's own refusals pass. Where it refuses by a reset, a caller that speaks no gRPC may be told in words."""
    for method, path, fields in [
        ("GET", INFER, ()),
        ("POST", INFER, [("content-type", "text/plain"), ("te", "trailers")]),
        ("POST", INFER, [("content-type", "application/grpc")]),
        ("OPTIONS", "*", ()),
    ]:
        straight, through = (
            http2.ask(address, method, path, b"", fields)
            for address in (triton_untouched.server.grpc, triton_untouched.grpc)
        )
        if straight.code is None and through.code is not None:
            assert through.code == "502", through
        else:
            assert_same(straight, through)


def test_a_body_that_ends_within_a_message(via):
    cut = http2.message(ROW)[:-3]
    same(via, lambda address: http2.ask(address, "POST", INFER, cut, http2.GRPC), "grpc")


def test_a_message_in_many_small_frames(via):
    def ask(address):
        with http2.Connection(address) as connection:
            stream = connection.request(http2.pairs("POST", INFER, http2.GRPC))
            body = http2.message(ROW)
            for start in range(0, len(body), 3):
                connection.data(stream, body[start : start + 3])
            connection.data(stream, b"", end=True)
            return connection.answer(stream)

    straight, proxied = ask(via.server.grpc), ask(via.grpc)
    assert_same(straight, proxied, None if not via.batched else lambda body: oip.response(body[5:]), via.batched)


def rest_infer(model="echo", rows=1, **more):
    return json.dumps(
        {"inputs": [{"name": "INPUT0", "shape": [rows, 16], "datatype": "FP32", "data": [0.5] * 16 * rows}], **more}
    ).encode()


@pytest.mark.parametrize(
    "method, target",
    [
        ("GET", "/v2"),
        ("GET", "/v2/"),
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        ("HEAD", "/v2/health/ready"),
        ("GET", "/v2/models/echo"),
        ("GET", "/v2/models/echo/versions/1"),
        ("GET", "/v2/models/echo/ready"),
        ("GET", "/v2/models/nobody"),
        ("GET", "/v2/models/echo/infer"),
        ("POST", "/v2/repository/index"),
        ("GET", "/nowhere"),
        ("GET", "/v2/models/echo%2Finfer?x=%20y&&z"),
        ("DELETE", "/v2"),
        ("OPTIONS", "/v2"),
        ("PUT", "/v2/health/live"),
        ("GET", "//v2//health/live"),
    ],
)
def test_pages(via, method, target):
    same(via, lambda address: http1.ask(address, method, target, b"" if method == "POST" else None))


def test_configuration_page(via):
    same(via, lambda address: http1.ask(address, "GET", "/v2/models/echo/config"))


@pytest.mark.parametrize(
    "body",
    [
        rest_infer(),
        rest_infer(rows=3, id="seventeen"),
        rest_infer(outputs=[{"name": "OUTPUT0"}]),
        rest_infer(rows=65),
        rest_infer(outputs=[{"name": "OTHER"}]),
        b"{}",
        b"",
        b"no json",
        b'{"inputs":' * 1000,
    ],
)
def test_inference_in_json(via, body):
    fields = [("content-type", "application/json"), ("accept", "*/*")]
    found = same(via, lambda address: http1.ask(address, "POST", "/v2/models/echo/infer", body, fields))
    assert found.code in (200, 400, 500)


def test_inference_in_binary(via):
    numbers = np.arange(32, dtype=np.float32).reshape(2, 16)
    told = {"inputs": [{"name": "INPUT0", "shape": [2, 16], "datatype": "FP32", "parameters": {"binary_data_size": 128}}]}
    told["parameters"] = {"binary_data_output": True}
    head = json.dumps(told).encode()
    fields = [("inference-header-content-length", len(head)), ("content-type", "application/octet-stream")]
    body = head + numbers.tobytes()
    found = same(via, lambda address: http1.ask(address, "POST", "/v2/models/echo/infer", body, fields))
    assert found.messages[0].endswith(numbers.tobytes())


def test_an_unknown_model_and_version(via):
    for target in ("/v2/models/nobody/infer", "/v2/models/echo/versions/7/infer", "/v2/models/echo/versions/x/infer"):
        same(via, lambda address, t=target: http1.ask(address, "POST", t, rest_infer()))


def test_a_body_in_chunks(via):
    body = rest_infer(rows=2)

    def ask(address):
        with http1.Connection(address) as connection:
            connection.send(http1.head("POST", "/v2/models/echo/infer", [("transfer-encoding", "chunked")]))
            for start in range(0, len(body), 100):
                part = body[start : start + 100]
                connection.send(b"%x\r\n%s\r\n" % (len(part), part))
            connection.send(b"0\r\n\r\n")
            return connection.answer()

    same(via, ask)


def test_many_requests_on_one_connection(via):
    def ask(address):
        with http1.Connection(address) as connection:
            answers = [connection.ask("POST", "/v2/models/echo/infer", rest_infer(rows=n)) for n in (1, 2, 65, 3)]
            answers += [connection.ask("GET", "/v2/health/ready")]
            return answers

    for straight, proxied in zip(ask(via.server.rest), ask(via.rest), strict=True):
        rest.assert_same(straight, proxied, via.batched)


def test_waiting_for_100_continue(via):
    """The body is sent only when the server asked for it."""
    body = rest_infer()

    def ask(address):
        with http1.Connection(address) as connection:
            connection.send(http1.head("POST", "/v2/models/echo/infer", [("expect", "100-continue")], body))
            code, _, _ = connection.head()
            assert code == 100
            connection.send(body)
            return connection.answer()

    assert same(via, ask).code == 200


def test_curl_sends_a_large_body_and_waits_for_100_continue(via, tmp_path):
    numbers = np.arange(2**20, dtype=np.float32)
    told = {"inputs": [{"name": "X", "shape": [1, 2**20], "datatype": "FP32", "parameters": {"binary_data_size": 2**22}}]}
    told["parameters"] = {"binary_data_output": True}
    head = json.dumps(told).encode()
    (tmp_path / "body").write_bytes(head + numbers.tobytes())

    def run(address, output):
        command = ["curl", "-sS", "-m", "60", "-D", tmp_path / f"{output}.head", "-o", tmp_path / output]
        command += ["--data-binary", f"@{tmp_path / 'body'}", "-H", "expect: 100-continue"]
        # With curl's own content type Triton takes the body for a form, and dies of it.
        command += ["-H", "content-type: application/octet-stream"]
        command += ["-H", f"inference-header-content-length: {len(head)}", f"http://{address}/v2/models/big/infer"]
        subprocess.run(command, check=True, timeout=90)
        return (tmp_path / f"{output}.head").read_text().lower(), (tmp_path / output).read_bytes()

    straight, proxied = run(via.server.rest, "direct"), run(via.rest, "proxied")
    assert via.batched or straight == proxied
    for headers, body in (straight, proxied):
        assert headers.startswith("http/1.1 100")
        assert body.endswith((numbers + 1).tobytes())


def test_headers_of_batched_rest_answers_are_the_servers(triton_batched):
    found = http1.ask(triton_batched.rest, "GET", "/v2/health/ready")
    assert not [name for name, _ in found.headers if name.startswith(compare.ADDED)]
