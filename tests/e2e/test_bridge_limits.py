"""Where one side of the bridge cannot say what the other said: refused, and the field is named. And errors in general."""

import re

import grpc
import numpy as np
import pytest

from harness import fronts, http1, oip, rest, tfs
from harness.bridges import UPSTREAMS
from harness.stubs import tensor_pb2, types_pb2

pytestmark = pytest.mark.proxy
X = np.ones((1, 64), np.float32)


def shared_memory():
    made = oip.request("linear", [], id="17")
    tensor = made.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    tensor.parameters["shared_memory_region"].string_param = "rows"
    tensor.parameters["shared_memory_byte_size"].int64_param = 256
    return made


def classification():
    made = oip.request("linear", [("x", "FP32", X)], outputs=["scores"])
    made.outputs[0].parameters["classification"].int64_param = 3
    return made


def complex_numbers():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_COMPLEX64, tensor_content=bytes(8 * 64))
    for size in (1, 64):
        proto.tensor_shape.dim.add(size=size)
    return tfs.predict_request("linear", {"x": proto})


def rest_classification():
    return rest.infer_body({"x": X}, (), [{"name": "scores", "parameters": {"classification": 3}}])[0]


def raw(request):
    return lambda address: fronts.of_rpc(
        (oip.infer if hasattr(request, "raw_input_contents") else tfs.call)(address, request), lambda answer: {}
    )


def posted(target, body):
    return lambda address: fronts.of_http(rest.post(address, target, body), lambda answer: {})


def front(which, *rest_of, **more):
    return lambda address: which.ask(address, *rest_of, **more)


UNSAYABLE = {
    # what: (upstream, the call, what the error must name)
    "a signature, to a server without signatures": (
        "triton-grpc", front(fronts.TFS_GRPC_CONTENT, "linear", {"x": X}, signature="other"), "signature_name"),
    "a signature in JSON": (
        "triton-grpc", front(fronts.TFS_REST_ROW, "linear", {"x": X}, signature_name="other"), "signature_name"),
    "a label, to a server without labels": (
        "triton-grpc", front(fronts.TFS_GRPC_CONTENT, "linear", {"x": X}, label="canary"), "label"),
    "a label in a path": ("triton-rest", front(fronts.TFS_REST_ROW, "linear", {"x": X}, label="canary"), "label"),
    "a datatype that the other side lacks": ("triton-grpc", raw(complex_numbers()), "DT_COMPLEX64|datatype|dtype"),
    "a parameter": (
        "tensorflow", front(fronts.OIP_GRPC_RAW, "linear", {"x": X}, parameters={"temperature": 1}), "temperature"),
    "a parameter in JSON": (
        "tensorflow", front(fronts.OIP_REST_JSON, "linear", {"x": X}, parameters={"temperature": 1}), "temperature"),
    "a sequence": (
        "tensorflow", front(fronts.OIP_GRPC_RAW, "linear", {"x": X}, parameters={"sequence_id": 7}), "sequence_id"),
    "shared memory": ("tensorflow", raw(shared_memory()), "shared_memory"),
    "shared memory, to a server of JSON": ("kserve-v1", raw(shared_memory()), "shared_memory"),
    "Triton's classification": ("tensorflow", raw(classification()), "classification"),
    "Triton's classification in JSON": (
        "tensorflow", posted("/v2/models/linear/infer", rest_classification()), "classification"),
    "a version that is no number": (
        "tensorflow", front(fronts.OIP_GRPC_RAW, "half_plus_two", {"x": X[:, :1].copy()}, version="v1"), "version"),
    "a version that is no number, in a path": (
        "tensorflow", front(fronts.OIP_REST_JSON, "half_plus_two", {"x": X[:, :1].copy()}, version="v1"), "version"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNSAYABLE)
def test_what_cannot_be_said_is_refused_by_its_name(bridges, what):
    upstream, call, word = UNSAYABLE[what]
    reply = call(bridges[upstream].address)
    assert reply.code == "INVALID_ARGUMENT", reply
    assert re.search(word, reply.words), reply


@pytest.mark.parametrize("upstream", ["triton-grpc", "triton-rest", "kserve-v1"])
@pytest.mark.parametrize("method", ["Classify", "Regress"])
def test_calls_on_examples_go_to_tensorflow_only(bridges, upstream, method):
    make = {"Classify": tfs.classify_request, "Regress": tfs.regress_request}[method]
    answer = tfs.call(bridges[upstream].address, make("linear", [tfs.example(x=[1.0])]))
    assert answer.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED), answer
    # V1 shares the paths of TensorFlow Serving's REST, so that the server itself refuses the verb.
    words = "method not allowed" if upstream == "kserve-v1" else f"{method}|example"
    assert re.search(words, answer.details, re.IGNORECASE), answer


@pytest.mark.parametrize("verb, key", [("classify", "classifications"), ("regress", "regressions")])
def test_calls_on_examples_in_json(bridges, verb, key):
    """TensorFlow answers them; the other servers have nothing like them."""
    address = bridges["tensorflow"].address
    signature = {"classify": "classify_both", "regress": "regress_x_to_y"}[verb]
    body = {"signature_name": signature, "examples": [{"x": 8.0}, {"x": 1.0}]}
    answer = rest.post(address, fronts.path("half_plus_two", verb), body)
    assert answer.code == 200, answer
    expected = {"classify": [[["7.00", 7.0], ["8.00", 14.0]], [["3.50", 3.5], ["4.50", 7.0]]], "regress": [7.0, 3.5]}[verb]
    told = rest.numbers({"results": expected})
    assert rest.meaning(answer) == told
    body["context"] = {"weight": 2.0}
    found = rest.meaning(rest.post(address, fronts.path("half_plus_two", verb), body))["results"]
    assert len(found) == 2 and found != told["results"]
    other = rest.post(bridges["triton-grpc"].address, fronts.path("linear", verb), body)
    assert other.code in (400, 501) and verb in rest.meaning(other)["error"].lower(), other


FAULTS = {
    # what: (model, inputs, outputs, codes)
    "a model that the server lacks": ("absent", {"x": X}, None, {"NOT_FOUND"}),
    "too few columns": ("linear", {"x": X[:, :5].copy()}, None, {"INVALID_ARGUMENT"}),
    "an input that the model lacks": ("linear", {"y": X}, None, {"INVALID_ARGUMENT"}),
    "an output that the model lacks": ("linear", {"x": X}, ["nothing"], {"INVALID_ARGUMENT", "NOT_FOUND"}),
}


def sayable(what, front):
    """Rows and a single column name no input, and TensorFlow Serving's JSON names no outputs."""
    _, inputs, outputs, _ = FAULTS[what]
    unnamed = front in (fronts.TFS_REST_ROW, fronts.TFS_REST_COLUMN)
    return not (outputs and front in fronts.TFS_REST) and not ("y" in inputs and unnamed)


@pytest.mark.parametrize(
    "what, front", [(what, front) for what in FAULTS for front in fronts.ALL if sayable(what, front)], ids=str
)
@pytest.mark.parametrize("upstream", ["triton-grpc", "triton-rest", "tensorflow"])
def test_errors_keep_their_kind_and_say_something(bridges, upstream, what, front):
    model, inputs, outputs, codes = FAULTS[what]
    reply = front.ask(bridges[upstream].address, model, inputs, outputs)
    assert reply.code in codes, reply
    assert reply.words, reply


@pytest.mark.parametrize("front", [*fronts.OIP, *fronts.TFS_GRPC], ids=str)
@pytest.mark.parametrize("upstream", ["triton-grpc", "tensorflow"])
def test_a_wrong_datatype_is_refused_as_the_server_refuses_it(bridges, upstream, front):
    reply = front.ask(bridges[upstream].address, "linear", {"x": X.astype(np.float64)})
    assert reply.code == "INVALID_ARGUMENT", reply


@pytest.mark.parametrize("front", fronts.ALL, ids=str)
def test_more_rows_than_the_server_takes_are_refused_by_the_server(bridges, front):
    reply = front.ask(bridges["triton-grpc"].address, "linear", {"x": np.ones((65, 64), np.float32)})
    assert reply.code == "INVALID_ARGUMENT" and "64" in reply.words, reply


@pytest.mark.parametrize("upstream", [name for name, (*_, protocol, _) in UPSTREAMS.items() if protocol != "tfserving-rest"])
@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"{", b"[]", b"{}", b'{"instances": 1}', b'{"instances": []}', b'{"instances": [[1], [1, 2]]}',
     b'{"instances": [["a"]]}', b'{"instances": [[1]], "inputs": [[1]]}', b'{"instances": [{"b64": "AP8="}]}',
     b'{"instances": [[{"b64": "*"}]]}', b'{"instances": [null]}', b'{"inputs": {}}', b'\xff', b'{"instances": ' + b"[" * 5000],
)  # fmt: skip
def test_bodies_of_tensorflow_servings_json_that_are_wrong(bridges, upstream, body):
    reply = fronts.of_http(rest.post(bridges[upstream].address, fronts.path("linear"), body), lambda answer: {})
    assert reply.code == "INVALID_ARGUMENT" and reply.words, reply


@pytest.mark.parametrize("upstream", ["triton-grpc", "tensorflow", "kserve-v1"])
@pytest.mark.parametrize(
    "body", [b"", b"no json", b"{", b"[]", b"{}", b'{"inputs": 1}', b'{"inputs": [{"name": "x"}]}', b'{"inputs": []}', b"\xff"]
)
def test_bodies_of_the_open_inference_protocol_that_are_wrong(bridges, upstream, body):
    reply = fronts.of_http(rest.post(bridges[upstream].address, "/v2/models/linear/infer", body), lambda answer: {})
    assert reply.code == "INVALID_ARGUMENT" and reply.words, reply


@pytest.mark.parametrize("message", [b"\xff\xff", b"\x0a\x7f"])
@pytest.mark.parametrize("upstream, method", [("tensorflow", oip.SERVICE + "ModelInfer"), ("triton-grpc", tfs.PREDICTION + "Predict")])
def test_messages_that_are_none(bridges, upstream, method, message):
    assert tfs.call(bridges[upstream].address, message, method).code != grpc.StatusCode.OK


def test_a_connection_serves_all_protocols_of_http_1_in_turn(bridges):
    """Refused or not, what follows on the same connection is answered."""
    v1, v2 = b'{"instances": [[%s]]}' % b",".join([b"1"] * 64), rest.infer_body({"x": X})[0]
    for upstream in ("triton-grpc", "tensorflow"):
        with http1.Connection(bridges[upstream].address) as connection:
            for target, body, code in [
                ("/v1/models/linear:predict", v1, 200),
                ("/v2/models/linear/infer", v2, 200),
                ("/v1/models/linear:predict", b"no json", 400),
                ("/v2/models/linear/infer", b"no json", 400),
                ("/v1/models/absent:predict", v1, 404),
                ("/v2/models/linear/infer", v2, 200),
                ("/v1/models/linear:predict", v1, 200),
            ]:
                answer = connection.ask("POST", target, body, [rest.JSON])
                assert answer.code == code, (target, body[:20], answer)
