"""Triton over gRPC: whatever is asked, the answer through the proxy is the answer without it."""

import concurrent.futures
import time
from dataclasses import replace

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2  # noqa: F401  (its messages are in the answers)
from tritonclient.grpc import service_pb2 as pb

from harness import oip, rpc
from harness.compare import differences, headers
from harness.process import eventually

RANDOM = np.random.default_rng(7)
SAMPLES = {
    "BOOL": np.array([[True, False, True], [False, False, True]]),
    "FP16": RANDOM.standard_normal((2, 3)).astype(np.float16),
    "FP32": np.array([[0.0, -0.0, np.inf], [-np.inf, 1e-45, 3.4e38]], np.float32),
    "FP64": np.array([[0.1, -0.0, np.inf], [-np.inf, 5e-324, 1.7e308]]),
    "BYTES": np.array([[b"", b"\0\xff", b"x" * 1000], [b"label", "\u00fcber".encode(), b"\n"]], np.object_),
} | {
    name: np.array([[np.iinfo(oip.NUMPY[name]).min, 0, 1], [2, 3, np.iinfo(oip.NUMPY[name]).max]], oip.NUMPY[name])
    for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
}
FP32 = np.arange(16, dtype=np.float32)[None]


def echo(rows=1, model="echo", **options):
    return oip.request(model, [("INPUT0", "FP32", FP32.repeat(rows, axis=0))], **options)


def encoded(message):
    return message.SerializeToString()


def test_servers_and_models_describe_themselves(via):
    for method, message in [
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="echo")),
        ("ModelReady", pb.ModelReadyRequest(name="echo", version="1")),
        ("ModelReady", pb.ModelReadyRequest(name="nobody")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="types")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="nobody")),
        ("ModelConfig", pb.ModelConfigRequest(name="types", version="9")),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
    ]:
        via.same(lambda address, m=method, x=message: rpc.call(address, oip.SERVICE + m, encoded(x)))
    for method, message, answer in [
        ("ModelConfig", pb.ModelConfigRequest(name="types"), pb.ModelConfigResponse),
        ("LogSettings", pb.LogSettingsRequest(), pb.LogSettingsResponse),
        ("TraceSetting", pb.TraceSettingRequest(), pb.TraceSettingResponse),
    ]:
        via.same_meaning(
            lambda address, m=method, x=message: rpc.call(address, oip.SERVICE + m, encoded(x)), answer.FromString
        )


def test_statistics_have_the_same_shape(via):
    def shape(address):
        message = encoded(pb.ModelStatisticsRequest())
        found = rpc.call(address, oip.SERVICE + "ModelStatistics", message)
        stats = pb.ModelStatisticsResponse.FromString(found.messages[0])
        return found.code, found.headers, found.trailers, sorted((each.name, each.version) for each in stats.model_stats)

    assert shape(via.server.grpc) == shape(via.grpc)


def test_health_by_the_standard_service(via):
    for service in (b"", b"\x0a\x00", b"\x0a\x06nobody"):
        via.same(lambda address, s=service: rpc.call(address, "/grpc.health.v1.Health/Check", s))


@pytest.mark.parametrize("path", ["/nobody.Service/Call", oip.SERVICE + "Nothing", "/", "/inference.GRPCInferenceService"])
def test_unknown_services_and_methods(via, path):
    assert via.same(lambda address: rpc.call(address, path, b"")).code == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("datatype, form", [*((name, "raw") for name in SAMPLES), *((name, "typed") for name in oip.TYPED)])
def test_every_datatype(via, datatype, form):
    made = oip.request("types", [(f"IN_{datatype}", datatype, SAMPLES[datatype])], typed=form == "typed", id="a-b.c/1")
    answer = via.same_inference(lambda address: oip.infer(address, made))
    assert answer.code == grpc.StatusCode.OK, answer
    found = oip.response(answer.messages[0])
    assert found.id == "a-b.c/1"
    raw = oip.request("types", [(f"IN_{datatype}", datatype, SAMPLES[datatype])]).raw_input_contents
    assert list(found.raw_output_contents) == list(raw)


def test_brain_floats_of_sixteen_bits(via):
    made = pb.ModelInferRequest(model_name="types", raw_input_contents=[b"\x80\x3f\x00\xc0"])
    made.inputs.add(name="IN_BF16", datatype="BF16", shape=[1, 2])
    assert via.same_inference(lambda address: oip.infer(address, made)).code == grpc.StatusCode.OK


def test_several_inputs_and_chosen_outputs(via):
    tensors = [(f"IN_{name}", name, SAMPLES[name]) for name in ("INT64", "BYTES", "FP16", "BOOL")]
    for outputs in ((), ("OUT_BYTES",), ("OUT_BOOL", "OUT_INT64")):
        made = oip.request("types", tensors, outputs=outputs)
        answer = via.same_inference(lambda address, made=made: oip.infer(address, made))
        assert answer.code == grpc.StatusCode.OK, answer


def test_versions_ids_and_parameters(via):
    for options in (
        {"version": "1"},
        {"id": "\u00e9" * 50},
        {"parameters": {"flag": True, "number": -5, "text": "\u00fc", "ratio": 0.5}},
        {"parameters": {"priority": 1, "timeout": 1_000_000}},
        {"outputs": ("ROWS", "PARAMETERS")},
        {"parameters": {"key": "value"}, "outputs": ("PARAMETERS",)},
    ):
        made = oip.request("witness", [("SLEEP_MS", "FP32", np.zeros((2, 1), np.float32))], **options)
        assert via.same_inference(lambda address, made=made: oip.infer(address, made)).code == grpc.StatusCode.OK


def test_classification_of_an_output(via):
    image = RANDOM.integers(0, 17, (3, 64)).astype(np.float32)
    made = oip.request("digits_svm", [("x", "FP32", image)], outputs=("proba",))
    made.outputs[0].parameters["classification"].int64_param = 2
    assert via.same_inference(lambda address: oip.infer(address, made)).code == grpc.StatusCode.OK


def test_fields_that_nobody_knows_yet(via):
    unknown = encoded(echo()) + b"\xfa\x3f\x03abc" + b"\xf8\x3f\x05"
    assert via.same_inference(lambda address: oip.infer(address, unknown)).code == grpc.StatusCode.OK


FAULTY = {
    "unknown model": echo(model="nobody"),
    "no model": echo(model=""),
    "unknown version": echo(version="7"),
    "version that is no number": echo(version="latest"),
    "too many rows": echo(rows=65),
    "wrong shape": oip.request("echo", [("INPUT0", "FP32", np.zeros((1, 15), np.float32))]),
    "wrong rank": oip.request("echo", [("INPUT0", "FP32", np.zeros((16,), np.float32))]),
    "wrong datatype": oip.request("echo", [("INPUT0", "FP64", np.zeros((1, 16)))]),
    "unknown datatype": pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="FP33", shape=[1, 16])],
        raw_input_contents=[bytes(64)],
    ),
    "data too short": pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="FP32", shape=[1, 16])],
        raw_input_contents=[bytes(60)],
    ),
    "data too long": pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="FP32", shape=[1, 16])],
        raw_input_contents=[bytes(68)],
    ),
    "more data than inputs": pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="FP32", shape=[1, 16])],
        raw_input_contents=[bytes(64), bytes(64)],
    ),
    "negative shape": pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="FP32", shape=[-1, 16])],
        raw_input_contents=[bytes(64)],
    ),
    "huge shape": pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="FP32", shape=[2**62, 16])],
        raw_input_contents=[bytes(64)],
    ),
    "no rows": pb.ModelInferRequest(
        model_name="echo",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="FP32", shape=[0, 16])],
        raw_input_contents=[b""],
    ),
    "broken BYTES": pb.ModelInferRequest(
        model_name="types",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="IN_BYTES", datatype="BYTES", shape=[1, 2])],
        raw_input_contents=[b"\x01\0\0\0a\xff\xff\xff\x7fb"],
    ),
    "no inputs": pb.ModelInferRequest(model_name="echo"),
    "unknown input": oip.request("echo", [("OTHER", "FP32", FP32)]),
    "an input twice": oip.request("echo", [("INPUT0", "FP32", FP32), ("INPUT0", "FP32", FP32)]),
    "unknown output": echo(outputs=("OTHER",)),
    "raw and typed at once": pb.ModelInferRequest(
        model_name="echo",
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="INPUT0", datatype="FP32", shape=[1, 16], contents=pb.InferTensorContents(fp32_contents=FP32[0])
            )
        ],
        raw_input_contents=[bytes(64)],
    ),
    "decoupled model": oip.request("stream", [("COUNT", "INT32", np.ones((1,), np.int32))]),
    "sequence without an id": oip.request("sequence", [("X", "INT32", np.ones((1, 1), np.int32))]),
    "marked row": oip.request("marked", [("X", "FP32", np.full((2, 4), -1, np.float32))]),
    "reserved parameter": echo(parameters={"triton_unheard_of": "x"}),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faulty_requests_get_the_servers_own_words(via, fault):
    answer = via.same_inference(lambda address: oip.infer(address, FAULTY[fault]))
    if fault not in ("no rows", "an input twice", "more data than inputs", "huge shape"):
        assert answer.code != grpc.StatusCode.OK, answer


GARBAGE = {
    "nothing": b"",
    "no protobuf": b"\xff" * 40,
    "cut short": encoded(echo())[:-5],
    "cut within a name": encoded(echo())[:3],
    "length beyond the end": b"\x0a\xff\xff\xff\xff\x0f",
    "name that is no text": b"\x0a\x02\xff\xfe",
    "known name, then rubbish": b"\x0a\x04echo\x2a\x05\xff\xff\xff\xff\xff",
    "groups": b"\x0b" * 64,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_gets_the_servers_own_words(via, kind):
    assert via.same_inference(lambda address: oip.infer(address, GARBAGE[kind])).code != grpc.StatusCode.OK


def test_a_unary_call_of_no_or_two_messages(via):
    message = encoded(echo())
    for messages in ((), (message, message)):
        found = via.same(lambda address, m=messages: rpc.call(address, oip.SERVICE + "ModelInfer", *m, streaming=True))
        assert found.code is not None


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(via, compression):
    made = oip.request("big", [("X", "FP32", np.zeros((2, 5000), np.float32))])
    answer = via.same_inference(lambda address: oip.infer(address, made, compression=compression))
    assert answer.code == grpc.StatusCode.OK
    assert (oip.array(answer, "Y", "FP32") == 1).all()


@pytest.mark.parametrize("megabytes", [1, 8, 40])
def test_big_tensors(via, megabytes):
    numbers = RANDOM.integers(0, 1000, (1, megabytes * 2**18)).astype(np.float32)
    answer = via.same_inference(lambda address: oip.infer(address, oip.request("big", [("X", "FP32", numbers)]), timeout=100))
    assert answer.code == grpc.StatusCode.OK, answer.details
    assert (oip.array(answer, "Y", "FP32") == numbers + 1).all()


def test_metadata_of_the_caller_changes_nothing(via):
    metadata = [("x-long", "v" * 6000), ("x-twice", "1"), ("x-twice", "2"), ("x-raw-bin", bytes(range(256)))]
    assert via.same_inference(lambda address: oip.infer(address, echo(), metadata=metadata)).code == grpc.StatusCode.OK


def test_a_deadline_that_passes(via):
    made = oip.request("witness", [("SLEEP_MS", "FP32", np.full((1, 1), 600, np.float32))])
    for address in (via.server.grpc, via.grpc):
        found = oip.infer(address, made, timeout=0.1)
        assert found.code == grpc.StatusCode.DEADLINE_EXCEEDED, found
        # What was given up is over before the next is measured.
        assert oip.infer(address, oip.request("witness", [("SLEEP_MS", "FP32", np.zeros((1, 1), np.float32))])).messages


def test_a_cancelled_call_leaves_the_connection_usable(via):
    slow = encoded(oip.request("witness", [("SLEEP_MS", "FP32", np.full((1, 1), 300, np.float32))]))
    for address in (via.server.grpc, via.grpc):
        with rpc.channel(address) as opened:
            method = opened.unary_unary(oip.SERVICE + "ModelInfer")
            pending = method.future(slow, timeout=rpc.PATIENCE)
            pending.cancel()
            assert pending.code() == grpc.StatusCode.CANCELLED
            found = rpc.call_on(opened, oip.SERVICE + "ModelInfer", encoded(echo()))
            assert found.code == grpc.StatusCode.OK


def stream(*requests):
    """One ModelStreamInfer. Triton answers several requests of a stream in any order, so answers are sorted."""

    def call(address):
        messages = [encoded(each) for each in requests]
        answer = rpc.call(address, oip.SERVICE + "ModelStreamInfer", *messages, streaming=True)
        return replace(answer, messages=tuple(sorted(answer.messages))) if len(requests) > 1 else answer

    return call


def test_streams_of_ordinary_models(via):
    found = via.same(stream(*(echo(id=str(number)) for number in range(20))))
    assert len(found.messages) == 20


def test_streams_of_a_decoupled_model(via):
    asked = [oip.request("stream", [("COUNT", "INT32", np.array([n], np.int32))], id=str(n)) for n in (3, 0, 5)]
    asked[1].parameters["triton_enable_empty_final_response"].bool_param = True
    found = via.same(stream(*asked))
    assert len(found.messages) == 9
    found = via.same(stream(oip.request("stream", [("COUNT", "INT32", np.array([500], np.int32))])))
    assert len(found.messages) == 500


def test_errors_within_a_stream(via):
    found = via.same(stream(echo(model="nobody"), echo()))
    assert len(found.messages) == 2
    via.same(stream())
    via.same(lambda address: rpc.call(address, oip.SERVICE + "ModelStreamInfer", b"\xff\xff", streaming=True))
    status = [("triton_grpc_error", "true")]
    via.same(
        lambda address: rpc.call(
            address, oip.SERVICE + "ModelStreamInfer", encoded(echo(model="nobody")), streaming=True, metadata=status
        )
    )


def test_a_stream_answers_while_it_is_still_asked(via):
    for address in (via.server.grpc, via.grpc):
        with rpc.channel(address) as opened:
            turns = iter(range(50))
            answers = []

            def ask():
                for number in turns:
                    eventually(lambda n=number: len(answers) == n, what="the answer before the next question")
                    yield encoded(echo(id=str(number)))

            pending = opened.stream_stream(oip.SERVICE + "ModelStreamInfer")(ask(), timeout=60)
            for message in pending:
                answers.append(pb.ModelStreamInferResponse.FromString(message).infer_response.id)
            assert answers == [str(number) for number in range(50)]


def test_sequences_keep_their_order_and_state(via):
    def run(address, base):
        found = []
        for step, value in enumerate((5, 7, 11)):
            made = oip.request(
                "sequence",
                [("X", "INT32", np.array([[value]], np.int32))],
                parameters={"sequence_id": base, "sequence_start": step == 0, "sequence_end": step == 2},
            )
            found.append(oip.infer(address, made))
        return found

    base = int(time.time_ns() % 2**40)
    for straight, proxied in zip(run(via.server.grpc, base), run(via.grpc, base), strict=True):
        assert not differences(straight, proxied, oip.response if via.batched else None, via.batched)
    assert oip.array(proxied, "SUM", "INT32").item() == 23


def test_repository_calls_pass(via):
    unload = encoded(pb.RepositoryModelUnloadRequest(model_name="echo_alone"))
    load = encoded(pb.RepositoryModelLoadRequest(model_name="echo_alone"))
    ready = encoded(pb.ModelReadyRequest(name="echo_alone"))

    def is_ready(address):
        found = rpc.call(address, oip.SERVICE + "ModelReady", ready)
        return pb.ModelReadyResponse.FromString(found.messages[0]).ready

    try:
        via.same(lambda address: rpc.call(address, oip.SERVICE + "RepositoryModelUnload", unload))
        eventually(lambda: not is_ready(via.server.grpc))
        assert not is_ready(via.grpc)
        gone = via.same_inference(lambda address: oip.infer(address, echo(model="echo_alone")))
        assert gone.code == grpc.StatusCode.NOT_FOUND, gone
    finally:
        via.same(lambda address: rpc.call(address, oip.SERVICE + "RepositoryModelLoad", load))
        eventually(lambda: is_ready(via.grpc))
    assert via.same_inference(lambda address: oip.infer(address, echo(model="echo_alone"))).code == grpc.StatusCode.OK


def test_many_connections_at_once(via):
    """What one caller is answered never reaches another."""

    def one(number):
        rows = np.full((1 + number % 3, 16), number, np.float32)
        answer = oip.infer(via.grpc, oip.request("echo", [("INPUT0", "FP32", rows)], id=str(number)))
        assert answer.code == grpc.StatusCode.OK, answer
        assert oip.response(answer.messages[0]).id == str(number)
        return (oip.array(answer, "OUTPUT0", "FP32") == rows).all()

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert all(pool.map(one, range(200)))


def test_headers_are_what_the_server_sent(triton_untouched):
    found = triton_untouched.same(lambda address: oip.infer(address, echo()))
    assert found.headers == headers(found.headers)
    assert not [name for name, _ in found.headers if name.startswith(("outrigger-", "server-timing", "via"))]
