"""What Triton refuses over REST it refuses in its own words, whether the proxy knows the model or not."""

import json

import numpy as np
import pytest

from harness import rest

X = np.ones((2, 64), np.float32)


def tensor(**changes):
    """One input in JSON, with parts of it changed, or gone where the change is None."""
    made = {"name": "x", "shape": [2, 64], "datatype": "FP32", "data": X.tolist(), **changes}
    return {name: value for name, value in made.items() if value is not None}


def body(*inputs, **more):
    return json.dumps({"inputs": list(inputs), **more}).encode()


@pytest.mark.parametrize("model", ["linear", "nobody"])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"no json",
        b'{"inputs": [',
        b'{"inputs": 1}',
        b'{"inputs": {}}',
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        b"\xff\xfe\xfd",
        body(tensor())[:-1],
        body(tensor()) + b"trailing",
        body(tensor(name=None)),
        body(tensor(shape=None)),
        body(tensor(datatype=None)),
        body(tensor(data=None)),
        body(tensor(name="y")),
        body(tensor(name=7)),
        body(tensor(shape=[2, 3], data=[[1, 2, 3]] * 2)),
        body(tensor(shape=[2, 65])),
        body(tensor(shape=[-2, 64])),
        body(tensor(shape="x")),
        body(tensor(shape=[])),
        body(tensor(shape=[2**40, 2**40])),
        body(tensor(datatype="FP64")),
        body(tensor(datatype="INT32")),
        body(tensor(datatype="FP8")),
        body(tensor(data=[[1.0] * 64])),
        body(tensor(data=["one"] * 128)),
        body(tensor(data=[[None] * 64] * 2)),
        body(tensor(data=[[True] * 64] * 2)),
        body(tensor(), tensor()),
        body(tensor(), tensor(name="y")),
        body(tensor(shape=[65, 64], data=[[0.0] * 64] * 65)),
        body(tensor(), outputs=[{"name": "nothing"}]),
        body(tensor(), outputs=[{}]),
        body(tensor(), outputs="label"),
        body(tensor(), id=7),
        body(tensor(), parameters=7),
        body(tensor(), parameters={"deep": {"er": 1}}),
        body(tensor(), unknown={"a": [1, None]}),
    ],
)
def test_json_that_is_wrong(via, model, sent):
    via.same_rest(lambda address: rest.post(address, f"/v2/models/{model}/infer", sent))


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "1.", ".5", "+1", "01", "1e", "--1", "0x1"])
def test_numbers_that_json_does_not_have(via, number):
    data = ",".join(["1"] * 63 + [number])
    sent = b'{"inputs":[{"name":"x","shape":[1,64],"datatype":"FP32","data":[%s]}]}' % data.encode()
    via.same_rest(lambda address: rest.post(address, "/v2/models/linear/infer", sent))


@pytest.mark.parametrize("name, number", [("INT8", 128), ("UINT8", -1), ("INT32", 2**31), ("INT64", 2**63), ("INT32", 1.5), ("BOOL", 2)])
def test_numbers_that_their_datatype_does_not_have(via, name, number):
    sent = body({"name": f"IN_{name}", "shape": [1, 1], "datatype": name, "data": [number]})
    straight, proxied = (rest.post(each, "/v2/models/types/infer", sent) for each in (via.server.rest, via.rest))
    # Triton lets some of these pass and wraps them; whoever knows better may refuse.
    assert proxied.code == straight.code or (via.batched and proxied.code == 400), proxied


@pytest.mark.parametrize(
    "size, length, tail",
    [
        (512, None, X.tobytes()[:-4]),
        (512, None, X.tobytes() + b"more"),
        (508, None, X.tobytes()),
        (2**40, None, X.tobytes()),
        (-1, None, X.tobytes()),
        ("512", None, X.tobytes()),
        (512, "-1", X.tobytes()),
        (512, "x", X.tobytes()),
        (512, "", X.tobytes()),
        (512, "99999999", X.tobytes()),
        (512, "10", X.tobytes()),
    ],
)
def test_binary_sizes_that_are_wrong(via, size, length, tail):
    head = body(tensor(data=None, parameters={"binary_data_size": size}))
    fields = [rest.BINARY, ("inference-header-content-length", str(len(head)) if length is None else length)]
    answer = via.same_rest(lambda address: rest.post(address, "/v2/models/linear/infer", head + tail, fields))
    assert answer.code >= 400


def test_both_data_and_a_binary_size(via):
    head = body(tensor(parameters={"binary_data_size": 512}))
    fields = [rest.BINARY, ("inference-header-content-length", str(len(head)))]
    via.same_rest(lambda address: rest.post(address, "/v2/models/linear/infer", head + X.tobytes(), fields))


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", "application/octet-stream", None])
def test_content_types(via, content_type):
    fields = [("content-type", content_type)] if content_type else []
    via.same_rest(lambda address: rest.post(address, "/v2/models/linear/infer", body(tensor()), fields))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods_on_the_path_of_an_inference(via, method):
    from harness import http1

    sent = body(tensor()) if method == "PUT" else None
    via.same_rest(lambda address: http1.ask(address, method, "/v2/models/linear/infer", sent))
