"""The Open Inference Protocol over REST, in JSON and with binary tensors, against Triton: by its client library and by hand."""

import asyncio
import gzip
import json
import zlib

import numpy as np
import pytest
import tritonclient.http as http_client
import tritonclient.http.aio as aio_client
from tritonclient.utils import InferenceServerException

from harness import oip, rest

RANDOM = np.random.default_rng(41)
IMAGES = RANDOM.integers(0, 17, (5, 64)).astype(np.float32)
SAMPLES = {
    "BOOL": np.array([[True, False, True], [False, False, True]]),
    "FP16": RANDOM.standard_normal((2, 3)).astype(np.float16),
    "BF16": RANDOM.standard_normal((2, 3)).astype(oip.NUMPY["BF16"]),
    "FP32": np.array([[0.1, -0.0, 1e-45], [3.4e38, 16777217, -1e-7]], np.float32),
    "FP64": np.array([[0.1, -0.0, 5e-324], [1.7e308, 2**53 + 2, -1e-7]]),
    "BYTES": np.array([[b"", b"label", b"x" * 1000], ["\u00fcber".encode(), b"\"quoted\\\n", b"\t\x01"]], np.object_),
} | {
    name: np.array([[np.iinfo(oip.NUMPY[name]).min, 0, 1], [2, 3, np.iinfo(oip.NUMPY[name]).max]], oip.NUMPY[name])
    for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
}
HALF = ("FP16", "BF16")  # JSON has no way to say these


def both(via, run):
    """Runs the same script against both addresses and demands equal results."""
    straight, proxied = run(via.server.rest), run(via.rest)
    np.testing.assert_equal(proxied, straight)
    return proxied


def tensor(name, array, datatype, **options):
    made = http_client.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, **options)
    return made


def failure(call):
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


def ask(via, model, inputs, binary=(), outputs=None, fields=(), version="", **more):
    """The same body direct and through the proxy; the answer."""
    body, told = rest.infer_body(inputs, binary, outputs, **more)
    target = f"/v2/models/{model}{version}/infer"
    return via.same_rest(lambda address: rest.post(address, target, body, [*told, *fields]))


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("datatype", SAMPLES)
def test_every_datatype_by_the_client_library(via, datatype, binary_in, binary_out):
    given = SAMPLES[datatype]

    def run(address):
        with http_client.InferenceServerClient(address) as client:
            if datatype in HALF and not binary_in:
                with pytest.raises((InferenceServerException, TypeError)) as caught:
                    client.infer("types", [tensor(f"IN_{datatype}", given, datatype, binary_data=False)])
                return str(caught.value)
            inputs = [tensor(f"IN_{datatype}", given, datatype, binary_data=binary_in)]
            wanted = [http_client.InferRequestedOutput(f"OUT_{datatype}", binary_data=binary_out)]
            if datatype in HALF and not binary_out:
                return failure(lambda: client.infer("types", inputs, outputs=wanted))
            return client.infer("types", inputs, outputs=wanted, request_id="a-b.c/1").as_numpy(f"OUT_{datatype}")

    both(via, run)


@pytest.mark.parametrize("datatype", [name for name in SAMPLES if name not in HALF])
@pytest.mark.parametrize("nested", [True, False])
def test_every_datatype_in_json_by_hand(via, datatype, nested):
    body, fields = rest.infer_body({f"IN_{datatype}": SAMPLES[datatype]})
    if not nested:
        told = json.loads(body)
        told["inputs"][0]["data"] = rest.flat(told["inputs"][0]["data"])
        body = json.dumps(told).encode()
    answer = via.same_rest(lambda address: rest.post(address, "/v2/models/types/infer", body, fields))
    assert answer.code == 200, answer
    assert oip.bits(rest.tensors(answer)[f"OUT_{datatype}"]) == oip.bits(SAMPLES[datatype])


@pytest.mark.parametrize("datatype", SAMPLES)
@pytest.mark.parametrize("all_binary", [True, False])
def test_every_datatype_in_binary_by_hand(via, datatype, all_binary):
    name = f"IN_{datatype}"
    inputs = {name: SAMPLES[datatype]}
    if all_binary:
        answer = ask(via, "types", inputs, [name], parameters={"binary_data_output": True}, id="17")
    else:
        wanted = [{"name": f"OUT_{datatype}", "parameters": {"binary_data": True}}]
        answer = ask(via, "types", inputs, [name], wanted, id="17")
    assert answer.code == 200, answer
    assert oip.bits(rest.tensors(answer)[f"OUT_{datatype}"]) == oip.bits(SAMPLES[datatype])


def test_numbers_survive_json_bit_for_bit(via):
    """Any finite FP32, and whole numbers of 64 bits. (Triton itself reads FP64 with an error in the last bit.)"""
    patterns = RANDOM.integers(0, 2**32, 900, np.uint32).view(np.float32)
    given = {
        "IN_FP32": patterns[np.isfinite(patterns)][None],
        "IN_INT64": RANDOM.integers(-(2**63), 2**63 - 1, (1, 300)),
        "IN_UINT64": RANDOM.integers(0, 2**64 - 1, (1, 300), np.uint64),
    }
    found = rest.tensors(ask(via, "types", given))
    for name, array in given.items():
        assert oip.bits(found[name.replace("IN_", "OUT_")]) == oip.bits(array), name


def test_json_and_binary_mixed(via):
    inputs = {"IN_FP32": SAMPLES["FP32"], "IN_INT64": SAMPLES["INT64"], "IN_BYTES": SAMPLES["BYTES"], "IN_UINT8": SAMPLES["UINT8"]}
    for binary in (["IN_INT64"], ["IN_FP32", "IN_BYTES"], ["IN_UINT8", "IN_BYTES"], list(inputs)):
        for wanted in (["OUT_BYTES"], ["OUT_FP32", "OUT_UINT8"], []):
            outputs = [
                {"name": name.replace("IN_", "OUT_"), "parameters": {"binary_data": name.replace("IN_", "OUT_") in wanted}}
                for name in reversed(inputs)
            ]
            answer = ask(via, "types", inputs, binary, outputs)
            assert answer.code == 200, answer
            found = rest.tensors(answer)
            for name, array in inputs.items():
                assert oip.bits(found[name.replace("IN_", "OUT_")]) == oip.bits(array)


def test_requested_outputs(via):
    for outputs in (
        [{"name": "label"}],
        [{"name": "scores"}, {"name": "label"}],
        [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}],
        [],
        None,
    ):
        for more in ({}, {"parameters": {"binary_data_output": True}}, {"id": "seventeen"}):
            assert ask(via, "linear", {"x": IMAGES}, (), outputs, **more).code == 200


def test_a_requested_output_may_overrule_what_the_request_says_of_all(via):
    outputs = [{"name": "scores", "parameters": {"binary_data": False}}, {"name": "label"}]
    answer = ask(via, "linear", {"x": IMAGES}, ["x"], outputs, parameters={"binary_data_output": True})
    assert answer.code == 200


def test_classification(via):
    def run(address):
        with http_client.InferenceServerClient(address) as client:
            found = []
            for binary in (True, False):
                wanted = [http_client.InferRequestedOutput("scores", binary_data=binary, class_count=3)]
                result = client.infer("linear", [tensor("x", IMAGES, "FP32")], outputs=wanted)
                found.append((result.get_response(), result.as_numpy("scores").tolist()))
            return found

    both(via, run)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_compression(via, binary, request_coding, response_coding):
    def run(address):
        with http_client.InferenceServerClient(address) as client:
            result = client.infer(
                "linear",
                [tensor("x", IMAGES, "FP32", binary_data=binary)],
                outputs=[http_client.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")],
                request_compression_algorithm=request_coding,
                response_compression_algorithm=response_coding,
            )
            return result.as_numpy("label"), result.as_numpy("scores")

    both(via, run)


def test_compressed_bodies_that_are_broken(via):
    body, fields = rest.infer_body({"x": IMAGES})
    packed, zipped = gzip.compress(body), zlib.compress(body)
    for coding, sent in [
        ("gzip", packed[:-9]),
        ("gzip", b"no gzip"),
        ("gzip", zipped),
        ("deflate", zipped[: len(zipped) // 2]),
        ("identity", body),
    ]:
        coded = [*fields, ("content-encoding", coding)]
        via.same_rest(lambda address, s=sent, c=coded: rest.post(address, "/v2/models/linear/infer", s, c))


def test_parameters(via):
    """The model tells with which it was executed."""
    sleep = np.zeros((2, 1), np.float32)
    for parameters in ({}, {"who": "a"}, {"who": "b", "flag": True, "number": 7}, {"timeout": 5_000_000}, {"ratio": 0.5}):
        answer = ask(via, "witness", {"SLEEP_MS": sleep}, [], [{"name": "PARAMETERS"}, {"name": "ROWS"}], parameters=parameters)
        assert answer.code == 200, answer
        found = rest.tensors(answer)
        told = {name: value for name, value in parameters.items() if name != "timeout"}
        assert [json.loads(each) for each in found["PARAMETERS"].reshape(-1)] == [told] * 2
        assert found["ROWS"].tolist() == [[2], [2]]


def test_sequences(via):
    def run(address):
        found = []
        number = 2**40 + hash(address) % 1000
        with http_client.InferenceServerClient(address) as client:
            for step in range(4):
                result = client.infer(
                    "sequence",
                    [tensor("X", np.array([[5]], np.int32), "INT32")],
                    sequence_id=number,
                    sequence_start=step == 0,
                    sequence_end=step == 3,
                )
                found.append(result.as_numpy("SUM").item())
        return found

    assert both(via, run) == [5, 10, 15, 20]


@pytest.mark.parametrize("version", ["", "/versions/1", "/versions/2", "/versions/x", "/versions/-1"])
def test_version_paths(via, version):
    for binary in ([], ["x"]):
        ask(via, "linear", {"x": IMAGES}, binary, version=version)


def test_raw_binary_requests(via):
    """A header of 0: the body is the tensor, and nothing else is said of it."""
    fields = [("inference-header-content-length", "0"), rest.BINARY]
    for model, body in [
        ("linear", IMAGES[0].tobytes()),
        ("linear", IMAGES[0].tobytes()[:-4]),
        ("linear", b""),
        ("linear", IMAGES[:2].tobytes()),
        ("words", (5).to_bytes(4, "little") + b"hello"),
        ("nobody", b"abcd"),
    ]:
        via.same_rest(lambda address, m=model, b=body: rest.post(address, f"/v2/models/{m}/infer", b, fields))


def test_bytes_that_are_no_text_in_json_answers(via):
    given = {"IN_BYTES": np.array([[b"\xff\xfe\0", b"ok"]], np.object_)}
    body, fields = rest.infer_body(given, ["IN_BYTES"])
    straight, proxied = (rest.post(each, "/v2/models/types/infer", body, fields) for each in (via.server.rest, via.rest))
    assert straight.code == proxied.code


def test_the_asyncio_client(via):
    async def script(address):
        async with aio_client.InferenceServerClient(address) as client:
            made = aio_client.InferInput("x", list(IMAGES.shape), "FP32")
            made.set_data_from_numpy(IMAGES)
            result = await client.infer("linear", [made], request_id="17")
            return result.get_response(), result.as_numpy("scores"), await client.is_model_ready("linear")

    both(via, lambda address: asyncio.run(script(address)))


def test_headers_and_queries_of_the_client_library(via):
    def run(address):
        with http_client.InferenceServerClient(address) as client:
            result = client.infer(
                "linear", [tensor("x", IMAGES, "FP32")], headers={"x-user": "u"}, query_params={"a": "b c", "n": [1, 2]}
            )
            return result.as_numpy("label")

    both(via, run)
