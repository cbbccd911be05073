"""KServe's Python server: V1, V2 over REST and over gRPC, by its own clients, by Triton's, and by hand."""

import concurrent.futures
import json

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.grpc import service_pb2 as pb

from harness import elsewhere, http1, oip, rest, rpc
from harness.compare import differences

RANDOM = np.random.default_rng(43)
IMAGES = RANDOM.integers(0, 17, (96, 64)).astype(np.float32)


def predict(via, model, body, fields=(rest.JSON,)):
    """A prediction by V1, direct and through the proxy."""
    return via.same_rest(lambda address: rest.post(address, f"/v1/models/{model}:predict", body, fields))


@pytest.mark.parametrize("mode", ["untouched", "batched"])
def test_the_clients_of_kserve(request, mode):
    v1, v2 = (request.getfixturevalue(f"{name}_{mode}") for name in ("kserve_v1", "kserve"))
    straight, proxied = elsewhere.run(
        "kserve", "kserve_client.py", v2.server.rest, v2.server.rest, v2.server.grpc, v1.rest, v2.rest, v2.grpc
    )
    assert proxied == straight


@pytest.mark.parametrize("model", ["digits", "linear", "same"])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_rows_by_v1(kserve_v1_via, model, rows):
    answer = predict(kserve_v1_via, model, {"instances": IMAGES[:rows].tolist()})
    assert answer.code == 200, answer
    assert len(json.loads(answer.messages[0])["predictions"]) == rows


def test_rows_that_are_objects(kserve_v1_via):
    for model in ("digits", "linear", "same"):
        assert predict(kserve_v1_via, model, {"instances": [{"x": row} for row in IMAGES[:3].tolist()]}).code == 200


def test_more_than_instances(kserve_v1_via):
    body = {"instances": IMAGES[:2].tolist(), "signature_name": "serving_default"}
    assert predict(kserve_v1_via, "digits", body).code == 200


def test_rows_of_any_json(kserve_v1_via):
    """Rows that are no tensor: text, nothing, mixtures, objects with objects, and numbers that only text can keep."""
    body = b'{"instances": [ "\\u00fcber \\ud83d\\ude00", {"b64": "AP8="}, [1, [2, 3]], {"a": {"b": [true, false]}}, 1e-7, 0.1 ]}'
    answer = predict(kserve_v1_via, "same", body)
    assert json.loads(answer.messages[0])["predictions"] == json.loads(body)["instances"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"no json", b"{", b"[]", b"null", b"{}", b'{"instances": 1}', b'{"instances": [[1, 2]]}',
        b'{"instances": [[1], [1, 2]]}', b'{"instances": [NaN]}', b'{"instances": [["a"]]}', b'{"inputs": [[1]]}',
        b'{"instances": [[1]], "inputs": [[1]]}', b'{"instances": []}', b'{"instances": [null]}', b'\xff',
    ],
)  # fmt: skip
def test_faulty_bodies_get_the_servers_own_words(kserve_v1_via, body):
    answer = predict(kserve_v1_via, "digits", body)
    assert answer.code >= 400 and "error" in json.loads(answer.messages[0])


def test_an_unknown_model_and_other_content_types(kserve_v1_via):
    body = json.dumps({"instances": IMAGES[:1].tolist()}).encode()
    assert predict(kserve_v1_via, "nobody", body).code == 404
    for content_type in ("application/json; charset=utf-8", "text/plain", "application/octet-stream"):
        predict(kserve_v1_via, "digits", body, [("content-type", content_type)])


@pytest.mark.parametrize(
    "method, target",
    [
        ("GET", "/v1/models"), ("GET", "/v1/models/digits"), ("GET", "/v1/models/nobody"), ("GET", "/"),
        ("GET", "/v1/models/digits:predict"), ("POST", "/v1/models/digits:explain"), ("POST", "/v1/models/digits:other"),
        ("GET", "/v1/models/digits/versions/1"), ("GET", "/nowhere"), ("OPTIONS", "/v1/models/digits:predict"),
    ],
)  # fmt: skip
def test_pages_beside_predictions(kserve_v1_via, method, target):
    body = b"{}" if method == "POST" else None
    kserve_v1_via.same_rest(lambda address: http1.ask(address, method, target, body, [rest.JSON]))


@pytest.mark.parametrize("model", ["digits", "linear"])
@pytest.mark.parametrize("binary", [(), ("x",)])
def test_v2_over_rest(kserve_via, model, binary):
    body, fields = rest.infer_body({"x": IMAGES[:3]}, binary, id="17")
    answer = kserve_via.same_rest(lambda address: rest.post(address, f"/v2/models/{model}/infer", body, fields))
    assert answer.code == 200, answer


@pytest.mark.parametrize("datatype", sorted(set(oip.NUMPY) - {"FP16", "BF16"}))
@pytest.mark.parametrize("binary", [(), ("x",)])
def test_every_datatype_over_rest(kserve_via, datatype, binary):
    body, fields = rest.infer_body({"x": np.array([[0, 1], [1, 1]], oip.NUMPY[datatype])}, binary, id="17")
    kserve_via.same_rest(lambda address: rest.post(address, "/v2/models/same/infer", body, fields))


def test_faulty_requests_of_v2(kserve_via):
    good, fields = rest.infer_body({"x": IMAGES[:1]}, id="17")
    for model, body in [
        ("nobody", good),
        ("linear", rest.infer_body({"x": IMAGES[:1, :3].copy()}, id="17")[0]),
        ("linear", b""),
        ("linear", b"{}"),
        ("linear", good[:-1]),
        ("linear", good.replace(b"FP32", b"FP99")),
    ]:
        kserve_via.same_rest(lambda address, m=model, b=body: rest.post(address, f"/v2/models/{m}/infer", b, fields))


def test_v2_over_grpc(kserve_via):
    """KServe answers with typed contents, whatever it was asked with."""
    for model in ("digits", "linear"):
        for typed in (False, True):
            made = oip.request(model, [("x", "FP32", IMAGES[:3])], typed=typed, id="17")
            # Batched, whoever came raw is answered raw.
            answer = kserve_via.same_inference(lambda address, made=made: oip.infer(address, made), oip.meaning)
            assert answer.code == grpc.StatusCode.OK, answer
    for made in (
        oip.request("nobody", [("x", "FP32", IMAGES[:1])], id="17"),
        oip.request("linear", [("x", "FP32", IMAGES[:1, :3].copy())], id="17"),
        b"\xff\xff",
    ):
        kserve_via.same_inference(lambda address, made=made: oip.infer(address, made))


def test_what_the_server_tells_of_itself(kserve_via):
    for method, message in [
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="digits")),
        ("ModelReady", pb.ModelReadyRequest(name="nobody")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="linear")),
        ("ModelConfig", pb.ModelConfigRequest(name="linear")),
    ]:
        body = message.SerializeToString()
        kserve_via.same(lambda address, m=method, b=body: rpc.call(address, oip.SERVICE + m, b))


def test_the_clients_of_triton(kserve_via):
    def over_rest(address):
        with http_client.InferenceServerClient(address) as client:
            tensor = http_client.InferInput("x", [3, 64], "FP32")
            # In binary: KServe does not take JSON without a content type for JSON.
            tensor.set_data_from_numpy(IMAGES[:3], binary_data=True)
            wanted = [http_client.InferRequestedOutput(name, binary_data=name == "label") for name in ("label", "scores")]
            result = client.infer("linear", [tensor], outputs=wanted, request_id="17")
            return result.as_numpy("label").tolist(), result.as_numpy("scores").tolist()

    assert over_rest(kserve_via.server.rest) == over_rest(kserve_via.rest)


@pytest.mark.proxy
def test_a_caller_that_came_raw_is_answered_raw(kserve_batched):
    """Triton's client reads numbers from raw contents only; KServe answers with typed ones."""
    with grpc_client.InferenceServerClient(kserve_batched.grpc) as client:
        tensor = grpc_client.InferInput("x", [3, 64], "FP32")
        tensor.set_data_from_numpy(IMAGES[:3])
        result = client.infer("linear", [tensor], request_id="17")
        assert result.as_numpy("scores").shape == (3, 10)


@pytest.mark.proxy
@pytest.mark.parametrize("model", ["digits", "linear"])
def test_callers_at_once_share_batches_and_each_gets_its_own_answer(kserve_batched, model):
    made = [oip.request(model, [("x", "FP32", image[None])], typed=True, id=str(n)) for n, image in enumerate(IMAGES)]
    straight = [oip.infer(kserve_batched.server.grpc, each) for each in made]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        proxied = list(pool.map(lambda each: oip.infer(kserve_batched.grpc, each), made))
    for one, other in zip(straight, proxied, strict=True):
        assert not differences(one, other, oip.response, True)
    sizes = [int(dict(answer.headers)["outrigger-batch-size"]) for answer in proxied]
    assert 1 < max(sizes) <= 32, sizes


@pytest.mark.proxy
@pytest.mark.parametrize("model", ["digits", "linear", "same"])
def test_rows_of_v1_share_batches_and_each_caller_gets_its_own(kserve_v1_batched, model):
    bodies = [json.dumps({"instances": IMAGES[n : n + 1 + n % 3].tolist()}).encode() for n in range(90)]
    straight = [rest.post(kserve_v1_batched.server.rest, f"/v1/models/{model}:predict", each) for each in bodies]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        proxied = list(pool.map(lambda b: rest.post(kserve_v1_batched.rest, f"/v1/models/{model}:predict", b), bodies))
    for one, other in zip(straight, proxied, strict=True):
        rest.assert_same(one, other, True)
    sizes = [int(dict(answer.headers)["outrigger-batch-size"]) for answer in proxied]
    assert 3 < max(sizes) <= 32, sizes
