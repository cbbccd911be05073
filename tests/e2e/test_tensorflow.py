"""TensorFlow Serving's Predict in all its forms: what the stubs send gets the answer that it gets without the proxy."""

from dataclasses import replace

import grpc
import numpy as np
import pytest

from harness import elsewhere, http2, tfs
from harness.compare import assert_same
from harness.stubs import predict_pb2, prediction_service_pb2_grpc, tensor_pb2

RANDOM = np.random.default_rng(31)
SAMPLES = {
    "bool": np.array([[True, False], [False, False]]),
    "half": np.array([[0.5, -0.0], [np.inf, 6e-8]], np.float16),
    "bfloat16": np.array([[0.5, -0.0], [np.inf, 1e-40]], tfs.FIELDS["bfloat16"][1]),
    "float": np.array([[1e-45, -0.0], [np.inf, 3.4e38]], np.float32),
    "double": np.array([[5e-324, -0.0], [-np.inf, 1.7e308]]),
    "string": np.array([[b"", b"\0\xff"], [b"label", b"x" * 5000]], np.object_),
} | {
    name: np.array([[np.iinfo(tfs.FIELDS[name][1]).min, 0], [1, np.iinfo(tfs.FIELDS[name][1]).max]], tfs.FIELDS[name][1])
    for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
}
IMAGES = RANDOM.integers(0, 17, (6, 64)).astype(np.float32)
ROWS = np.array([[1.5], [2.0], [-4.0]], np.float32)


def predict(via, request, code=grpc.StatusCode.OK):
    """The same request direct and through the proxy; the answer."""
    answer = via.same_inference(lambda address: tfs.call(address, request), tfs.answer)
    assert answer.code == code, answer
    return answer


@pytest.mark.parametrize("typed", [False, True], ids=["content", "typed"])
@pytest.mark.parametrize("datatype", SAMPLES)
def test_every_datatype(tensorflow_via, datatype, typed):
    given = SAMPLES[datatype]
    answer = predict(tensorflow_via, tfs.predict_request("types", {"x": given}, typed=typed, signature=datatype))
    assert tfs.bits(tfs.outputs(answer)["y"]) == tfs.bits(given)


@pytest.mark.parametrize("datatype", SAMPLES)
def test_answers_in_the_form_of_content(tensorflow_via, datatype):
    given = SAMPLES[datatype]
    answer = predict(tensorflow_via, tfs.predict_request("types_content", {"x": given}, signature=datatype))
    assert tfs.bits(tfs.outputs(answer)["y"]) == tfs.bits(given)


@pytest.mark.parametrize("values", [[], [7], [7, 8], [7, 8, 9], [7, 8, 9, 10, 11, 12, 13]])
@pytest.mark.parametrize("datatype", ["float", "int64", "half", "bfloat16", "uint8", "bool", "string"])
def test_a_typed_list_shorter_than_its_shape_repeats_its_last_value(tensorflow_via, datatype, values):
    dtype = tfs.FIELDS[datatype][1]
    values = [str(each).encode() for each in values] if datatype == "string" else values
    given = tfs.tensor(np.zeros((3, 2), dtype), values=np.array(values, dtype))
    answer = predict(tensorflow_via, tfs.predict_request("types", {"x": given}, signature=datatype))
    filled = (values + [values[-1]] * 6 if values else [b"" if datatype == "string" else 0] * 6)[:6]
    assert tfs.bits(tfs.outputs(answer)["y"]) == tfs.bits(np.array(filled, dtype).reshape(3, 2))


def test_an_empty_tensor(tensorflow_via):
    for typed in (False, True):
        made = tfs.predict_request("types", {"x": np.zeros((0, 2), np.float32)}, typed=typed)
        assert tfs.outputs(predict(tensorflow_via, made))["y"].shape == (0, 2)


@pytest.mark.parametrize("chosen", [{}, {"version": 1}, {"version": 2}, {"label": "stable"}, {"label": "canary"}])
def test_versions_and_labels(tensorflow_via, chosen):
    answer = predict(tensorflow_via, tfs.predict_request("half_plus_two", {"x": ROWS}, **chosen))
    first = chosen in ({"version": 1}, {"label": "stable"})
    found = predict_pb2.PredictResponse.FromString(answer.messages[0])
    assert found.model_spec.version.value == (1 if first else 2)
    assert found.model_spec.signature_name == "serving_default"
    assert tfs.outputs(answer)["y"].tolist() == (ROWS / 2 + (2 if first else 3)).tolist()


@pytest.mark.parametrize(
    "outputs", [(), ("sum",), ("outer", "b"), ("difference", "sum"), ("b", "difference", "outer", "sum")]
)
def test_output_filters(tensorflow_via, outputs):
    a, b = np.array([[1, 2], [3, 4], [5, 6]], np.float32), np.array([10, 20, 2**40])
    for typed in (False, True):
        made = tfs.predict_request("pair", {"a": a, "b": b}, outputs, typed=typed)
        found = tfs.outputs(predict(tensorflow_via, made))
        assert set(found) == set(outputs or ("sum", "difference", "outer", "b"))
        if "outer" in found:
            assert found["outer"].tolist() == np.einsum("ni,nj->nij", a, a).tolist()
        if "b" in found:
            assert found["b"].tolist() == b.tolist()


def test_signature_names(tensorflow_via):
    inputs = {"a": np.ones((1, 2), np.float32), "b": np.ones(1, np.int64)}
    for signature in ("", "serving_default", "sum_only"):
        answer = predict(tensorflow_via, tfs.predict_request("pair", inputs, signature=signature))
        found = predict_pb2.PredictResponse.FromString(answer.messages[0])
        assert found.model_spec.signature_name == (signature or "serving_default")


def test_text(tensorflow_via):
    words = np.array([[b""], ["caf\u00e9".encode()], [b"\0\1\2\xff"], [b"x" * 100_000]], np.object_)
    found = tfs.outputs(predict(tensorflow_via, tfs.predict_request("words", {"text": words})))
    assert found["same"].tolist() == found["raw_bytes"].tolist() == words.tolist()
    assert found["length"].tolist() == [[len(each)] for each in words[:, 0]]


def test_models_that_take_no_batch(tensorflow_via):
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert tfs.outputs(predict(tensorflow_via, tfs.predict_request("fixed", {"x": x})))["y"].tolist() == (x * 2).tolist()
    found = predict(tensorflow_via, tfs.predict_request("scaled", {"x": x, "factor": np.array(3, np.float32)}))
    assert tfs.outputs(found)["y"].tolist() == (x * 3).tolist()
    found = predict(tensorflow_via, tfs.predict_request("total", {"x": x}))
    assert tfs.outputs(found)["y"].tolist() == [[12.0, 16.0]]


def wrong(name):
    """Requests that the server refuses: (request, code, a part of its words)."""
    x = {"x": IMAGES[:1]}
    code = grpc.StatusCode
    cut = tfs.tensor(IMAGES[:1])
    cut.tensor_content = cut.tensor_content[:-4]
    odd = tfs.tensor(IMAGES[:1])
    odd.dtype = 99
    return {
        "unknown model": (tfs.predict_request("nobody", x), code.NOT_FOUND, "Latest(nobody)"),
        "unknown version": (tfs.predict_request("linear", x, version=7), code.NOT_FOUND, "Specific(linear, 7)"),
        "unknown label": (tfs.predict_request("linear", x, label="x"), code.INVALID_ARGUMENT, "label: x"),
        "unknown signature": (tfs.predict_request("linear", x, signature="no"), code.FAILED_PRECONDITION, '"no" not found'),
        "unknown input": (tfs.predict_request("linear", {"z": IMAGES[:1]}), code.INVALID_ARGUMENT, "in the set {x}"),
        "too many inputs": (tfs.predict_request("linear", {**x, "z": IMAGES}), code.INVALID_ARGUMENT, "Sent extra: {z}"),
        "no inputs": (tfs.predict_request("linear", {}), code.INVALID_ARGUMENT, "Missing but required: {x}"),
        "unknown output": (tfs.predict_request("linear", x, ["no"]), code.INVALID_ARGUMENT, "{label,scores}"),
        "an output twice": (tfs.predict_request("linear", x, ["label"] * 2), code.INVALID_ARGUMENT, "duplicate output"),
        "wrong shape": (tfs.predict_request("linear", {"x": IMAGES[:2, :3].copy()}), code.INVALID_ARGUMENT, "[2,3]"),
        "wrong rank": (tfs.predict_request("linear", {"x": IMAGES[0]}), code.INVALID_ARGUMENT, "different ndims"),
        "wrong datatype": (tfs.predict_request("linear", {"x": IMAGES.astype(np.float64)}), code.INVALID_ARGUMENT, "double"),
        "content too short": (tfs.predict_request("linear", {"x": cut}), code.INVALID_ARGUMENT, "parsing error: x"),
        "unknown datatype": (tfs.predict_request("linear", {"x": odd}), code.INVALID_ARGUMENT, "parsing error: x"),
        "an empty tensor message": (
            tfs.predict_request("linear", {"x": tensor_pb2.TensorProto()}), code.INVALID_ARGUMENT, "parsing error: x",
        ),
        "rows for a fixed batch": (tfs.predict_request("fixed", {"x": IMAGES[:3, :2].copy()}), code.INVALID_ARGUMENT, ""),
        "a marked row": (tfs.predict_request("marked", {"x": -IMAGES[:2, :4] - 1}), code.INVALID_ARGUMENT, "a marked row"),
        "no model": (predict_pb2.PredictRequest(), code.INVALID_ARGUMENT, "Missing ModelSpec"),
        "no name": (tfs.predict_request("", x), code.INVALID_ARGUMENT, "no name specified"),
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["unknown model", "unknown version", "unknown label", "unknown signature", "unknown input", "too many inputs",
     "no inputs", "unknown output", "an output twice", "wrong shape", "wrong rank", "wrong datatype",
     "content too short", "unknown datatype", "an empty tensor message", "rows for a fixed batch", "a marked row",
     "no model", "no name"],
)  # fmt: skip
def test_faulty_requests_get_the_servers_own_words(tensorflow_via, name):
    request, code, words = wrong(name)
    assert words in predict(tensorflow_via, request, code).details


@pytest.mark.parametrize("message", [b"", b"\xff\xff", b"\x0a\x7f"])
def test_messages_that_are_none(tensorflow_via, message):
    answer = tensorflow_via.same(lambda address: tfs.call(address, message, "Predict"))
    assert answer.code != grpc.StatusCode.OK


def test_large_tensors_and_compression(tensorflow_via):
    large = RANDOM.standard_normal((300_000, 2)).astype(np.float32)
    for typed in (False, True):
        made = tfs.predict_request("types", {"x": large}, typed=typed)
        for how in (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate):
            answer = tensorflow_via.same_inference(lambda address: tfs.call(address, made, compression=how), tfs.answer)
            assert tfs.bits(tfs.outputs(answer)["y"]) == tfs.bits(large)


def test_metadata_of_a_call_does_no_harm(tensorflow_via):
    made = tfs.predict_request("linear", {"x": IMAGES})
    fields = [("x-user", "u"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("k-bin", b"\0")]
    answer = tensorflow_via.same_inference(lambda address: tfs.call(address, made, metadata=fields), tfs.answer)
    assert answer.code == grpc.StatusCode.OK


def without_empty_message(answer):
    """Python's server ends a good answer with a `grpc-message` of nothing, which is what none means."""
    return replace(answer, trailers=tuple(pair for pair in answer.trailers if pair != ("grpc-message", "")))


def test_every_header_of_an_answer(tensorflow_via):
    for request in (tfs.predict_request("linear", {"x": IMAGES[:1]}), tfs.predict_request("nobody", {"x": IMAGES[:1]})):
        straight, proxied = (
            without_empty_message(http2.unary(address, tfs.PREDICTION + "Predict", request.SerializeToString()))
            for address in (tensorflow_via.server.grpc, tensorflow_via.grpc)
        )
        assert_same(straight, proxied, lambda body: tfs.answer(body[5:]), tensorflow_via.batched)


def test_the_stubs_as_people_use_them(tensorflow_via):
    """A channel and a stub, blocking, with a future, with a deadline; errors are caught as exceptions."""

    def run(address):
        with grpc.insecure_channel(address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            made = tfs.predict_request("linear", {"x": IMAGES})
            whole = stub.Predict(made, timeout=30)
            pending = [
                stub.Predict.future(tfs.predict_request("linear", {"x": row[None]}), timeout=30) for row in IMAGES
            ]
            rows = [tfs.array(each.result().outputs["label"]).item() for each in pending]
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(tfs.predict_request("nobody", {"x": IMAGES}), timeout=30)
            return (
                tfs.array(whole.outputs["label"]).tolist(),
                tfs.array(whole.outputs["scores"]).tolist(),
                rows,
                caught.value.code(),
                caught.value.details(),
            )

    assert run(tensorflow_via.server.grpc) == run(tensorflow_via.grpc)


def test_the_helpers_of_tensorflow(tensorflow_via):
    """`tf.make_tensor_proto`, `tf.train.Example` and the stubs, where TensorFlow itself is installed."""
    straight, proxied = elsewhere.run("tensorflow", "tensorflow_client.py", tensorflow_via.server.grpc, tensorflow_via.grpc)
    assert proxied == straight
