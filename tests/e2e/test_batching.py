"""Adaptive batching with Triton as the witness: what it executed is in its own statistics."""

import concurrent.futures
import json
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from harness import http1, oip, rpc
from harness.compare import differences, without_additions
from harness.outrigger import learned, samples

RANDOM = np.random.default_rng(23)
IMAGES = RANDOM.integers(0, 17, (256, 64)).astype(np.float32)


def together(calls, callers=32):
    """Runs the calls on that many threads; the answers in order."""
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        return list(pool.map(lambda call: call(), calls))


def image(number, rows=1, **options):
    return oip.request("digits_svm", [("x", "FP32", IMAGES[number : number + rows])], id=f"image {number}", **options)


@pytest.fixture
def executed(triton_batched):
    """Starts to count what Triton executes of a model; the value gives what it was since."""

    def start(model):
        before = oip.statistics(triton_batched.server.grpc, model)
        return lambda: oip.statistics(triton_batched.server.grpc, model) - before

    return start


def ask(address, made):
    return lambda: oip.infer(address, made)


def size(answer):
    """How many rows shared the caller's batch, as the proxy tells."""
    return int(dict(answer.headers)["outrigger-batch-size"])


@pytest.mark.proxy
def test_callers_at_once_share_batches_and_each_gets_its_own_answer(triton_batched, executed):
    made = [image(number) for number in range(len(IMAGES))]
    straight = together([ask(triton_batched.server.grpc, each) for each in made])
    count = executed("digits_svm")
    proxied = together([ask(triton_batched.grpc, each) for each in made])
    for one, other in zip(straight, proxied, strict=True):
        assert not differences(one, other, oip.response, True)
    seen = count()
    # Every row once, in fewer executions than there were callers.
    assert seen.rows == len(IMAGES), seen
    assert sum(rows * times for rows, times in seen.batches.items()) == len(IMAGES), seen
    assert max(seen.batches) > 1, seen
    assert seen.requests < len(IMAGES) / 2, seen
    # What the callers were told is what was executed.
    told = {rows: [size(answer) for answer in proxied].count(rows) // rows for rows in set(map(size, proxied))}
    assert told == seen.batches


@pytest.mark.proxy
def test_one_caller_in_turn_is_never_batched_and_never_delayed(triton_batched, executed):
    count = executed("digits_svm")
    answers = [oip.infer(triton_batched.grpc, image(number)) for number in range(40)]
    assert {size(answer) for answer in answers} == {1}
    seen = count()
    assert seen.batches == {1: 40} and seen.requests == 40, seen


@pytest.mark.proxy
def test_requests_of_several_rows_share_batches_too(triton_batched, executed):
    made = [image(number, rows=1 + number % 5) for number in range(200)]
    count = executed("digits_svm")
    answers = together([ask(triton_batched.grpc, each) for each in made])
    for each, answer in zip(made, answers, strict=True):
        found = oip.response(answer.messages[0])
        assert found.id == each.id
        rows = each.inputs[0].shape[0]
        assert all(output.shape[0] == rows for output in found.outputs)
    expected = [oip.infer(triton_batched.server.grpc, image(number, rows=1 + number % 5)) for number in range(0, 200, 9)]
    for one, other in zip(expected, answers[::9], strict=True):
        assert not differences(one, other, oip.response, True)
    seen = count()
    assert seen.rows - sum(1 + n % 5 for n in range(0, 200, 9)) == sum(1 + n % 5 for n in range(200)), seen
    assert max(seen.batches) > 5, seen


@pytest.mark.proxy
def test_no_batch_is_larger_than_the_model_allows(triton_batched, executed):
    made = [image(number % 200, rows=50) for number in range(60)]
    count = executed("digits_svm")
    answers = together([ask(triton_batched.grpc, each) for each in made])
    assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
    seen = count()
    assert seen.rows == 60 * 50 and max(seen.batches) <= 128, seen


@pytest.mark.proxy
def test_raw_and_typed_and_compressed_callers_each_get_their_own(triton_batched):
    forms = [{}, {"typed": True}]
    compressions = [None, grpc.Compression.Gzip, grpc.Compression.Deflate]
    made = [(image(number, **forms[number % 2]), compressions[number % 3]) for number in range(120)]
    straight = [oip.infer(triton_batched.server.grpc, each, compression=how) for each, how in made]
    proxied = together([lambda e=each, h=how: oip.infer(triton_batched.grpc, e, compression=h) for each, how in made])
    for one, other in zip(straight, proxied, strict=True):
        assert not differences(one, other, oip.response, True)


@pytest.mark.proxy
def test_different_parameters_and_outputs_never_meet(triton_batched, executed):
    """The model tells each row with which parameters it was executed, and how many rows came with it."""
    kinds = [
        {},
        {"parameters": {"who": "a"}},
        {"parameters": {"who": "b"}},
        {"parameters": {"who": "a", "flag": True}},
        {"outputs": ("PARAMETERS", "SLEPT_MS", "ROWS")},
        {"outputs": ("PARAMETERS",)},
        {"version": "1"},
    ]
    row = np.full((1, 1), 3, np.float32)
    made = [
        (kinds[number % len(kinds)], oip.request("witness", [("SLEEP_MS", "FP32", row)], id=str(number), **kinds[number % len(kinds)]))
        for number in range(140)
    ]
    count = executed("witness")
    answers = together([ask(triton_batched.grpc, each) for _, each in made])
    for (kind, each), answer in zip(made, answers, strict=True):
        assert answer.code == grpc.StatusCode.OK, answer
        found = oip.response(answer.messages[0])
        assert found.id == each.id
        names = [output.name for output in found.outputs]
        assert set(names) == set(kind.get("outputs", ("PARAMETERS", "ROWS", "SLEPT_MS")))
        told = json.loads(found.raw_output_contents[names.index("PARAMETERS")][4:])
        assert told == kind.get("parameters", {})
    seen = count()
    assert seen.rows == 140 and max(seen.batches) > 1, seen


@pytest.mark.proxy
def test_sequences_are_never_merged(triton_batched, executed):
    base = int(time.time_ns() % 2**40)
    count = executed("sequence")

    def run(number):
        found = []
        for step in range(5):
            made = oip.request(
                "sequence",
                [("X", "INT32", np.array([[number]], np.int32))],
                parameters={"sequence_id": base + number, "sequence_start": step == 0, "sequence_end": step == 4},
            )
            answer = oip.infer(triton_batched.grpc, made)
            assert answer.code == grpc.StatusCode.OK, answer
            found.append(oip.array(answer, "SUM", "INT32").item())
        return found

    found = together([lambda n=number: run(n) for number in range(1, 9)], callers=8)
    assert found == [[number * step for step in range(1, 6)] for number in range(1, 9)]
    assert count().requests == 40


@pytest.mark.proxy
def test_a_model_without_a_batch_dimension_is_never_merged(triton_batched, executed):
    """Its metadata shows a leading -1 all the same; only its configuration tells."""
    rows = [np.full((1 + number % 3, 4), number, np.float32) for number in range(60)]
    count = executed("unbatched")
    answers = together([ask(triton_batched.grpc, oip.request("unbatched", [("X", "FP32", each)])) for each in rows])
    assert [oip.array(answer, "SUM", "FP32").item() for answer in answers] == [float(each.sum()) for each in rows]
    assert count().requests == 60


@pytest.mark.proxy
def test_requests_in_shared_memory_are_never_merged(triton_batched, executed):
    import tritonclient.utils.shared_memory as memory

    key = f"/outrigger_batching_{triton_batched.server.process.pid}"
    rows = np.arange(16 * 16, dtype=np.float32).reshape(16, 16)
    region = memory.create_shared_memory_region("many", key, rows.nbytes)
    register = pb.SystemSharedMemoryRegisterRequest(name="many", key=key, byte_size=rows.nbytes)
    try:
        memory.set_shared_memory_region(region, [rows])
        done = rpc.call(triton_batched.grpc, oip.SERVICE + "SystemSharedMemoryRegister", register.SerializeToString())
        assert done.code == grpc.StatusCode.OK, done
        made = []
        for number in range(64):
            request = pb.ModelInferRequest(model_name="echo_alone", id=str(number))
            tensor = request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 16])
            tensor.parameters["shared_memory_region"].string_param = "many"
            tensor.parameters["shared_memory_byte_size"].int64_param = 64
            tensor.parameters["shared_memory_offset"].int64_param = 64 * (number % 16)
            made.append(request)
        count = executed("echo_alone")
        answers = together([ask(triton_batched.grpc, each) for each in made])
        for number, answer in enumerate(answers):
            assert (oip.array(answer, "OUTPUT0", "FP32") == rows[number % 16]).all()
        assert count().requests == 64
    finally:
        gone = pb.SystemSharedMemoryUnregisterRequest(name="many")
        rpc.call(triton_batched.server.grpc, oip.SERVICE + "SystemSharedMemoryUnregister", gone.SerializeToString())
        memory.destroy_shared_memory_region(region)


@pytest.mark.proxy
def test_streams_beside_batches(triton_batched, executed):
    count = executed("stream")

    def stream(number):
        made = oip.request("stream", [("COUNT", "INT32", np.array([number], np.int32))], id=str(number))
        answer = rpc.call(
            triton_batched.grpc, oip.SERVICE + "ModelStreamInfer", made.SerializeToString(), streaming=True
        )
        found = [pb.ModelStreamInferResponse.FromString(message).infer_response for message in answer.messages]
        assert [each.id for each in found] == [str(number)] * number
        return [int.from_bytes(each.raw_output_contents[0], "little") for each in found]

    calls = [lambda n=number: stream(n) for number in range(1, 17)]
    calls += [lambda n=number: oip.infer(triton_batched.grpc, image(n)).code for number in range(32)]
    found = together(calls)
    assert found[:16] == [list(range(number)) for number in range(1, 17)]
    assert set(found[16:]) == {grpc.StatusCode.OK}
    assert count().requests == 16


@pytest.mark.proxy
def test_a_bad_row_spoils_its_own_request_only(triton_batched):
    def made(number):
        mark = -1 if number == 77 else 1
        return oip.request("marked", [("X", "FP32", np.full((1, 4), mark * (1 + number), np.float32))], id=str(number))

    failing = without_additions(oip.infer(triton_batched.server.grpc, made(77)))
    assert failing.code == grpc.StatusCode.INVALID_ARGUMENT
    answers = together([ask(triton_batched.grpc, made(number)) for number in range(160)])
    for number, answer in enumerate(answers):
        if number == 77:
            assert not differences(failing, answer, additions=True)
        else:
            assert answer.code == grpc.StatusCode.OK, answer
            assert oip.response(answer.messages[0]).id == str(number)
            assert (oip.array(answer, "Y", "FP32") == 2 * (1 + number)).all()
    # Afterwards nothing of it is left.
    for number in range(1, 8):
        assert oip.infer(triton_batched.grpc, made(number)).code == grpc.StatusCode.OK


@pytest.mark.proxy
def test_callers_that_leave_take_nothing_from_their_neighbours(triton_batched):
    row = np.full((1, 1), 20, np.float32)
    message = oip.request("witness", [("SLEEP_MS", "FP32", row)]).SerializeToString()

    def call(number):
        with rpc.channel(triton_batched.grpc) as opened:
            pending = opened.unary_unary(oip.SERVICE + "ModelInfer").future(message, timeout=rpc.PATIENCE)
            if number % 3 == 0:
                time.sleep(0.002 * (number % 11))
                pending.cancel()
            return pending.code()

    codes = together([lambda n=number: call(n) for number in range(150)])
    for number, code in enumerate(codes):
        assert code == grpc.StatusCode.OK or (number % 3 == 0 and code == grpc.StatusCode.CANCELLED), (number, code)


@pytest.mark.proxy
def test_a_deadline_within_the_queue_is_kept(triton_batched):
    """A caller with little time is answered in it, whatever stands before it."""
    slow = oip.request("witness", [("SLEEP_MS", "FP32", np.full((1, 1), 1500, np.float32))])
    quick = oip.request("witness", [("SLEEP_MS", "FP32", np.zeros((1, 1), np.float32))])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = pool.submit(oip.infer, triton_batched.grpc, slow)
        time.sleep(0.1)  # the slow one is with the model
        start = time.monotonic()
        late = oip.infer(triton_batched.grpc, quick, timeout=0.3)
        took = time.monotonic() - start
        assert late.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert took < 1.2, took
        assert first.result().code == grpc.StatusCode.OK
    assert oip.infer(triton_batched.grpc, quick).code == grpc.StatusCode.OK


@pytest.mark.proxy
def test_what_was_learned_is_told(triton_batched):
    together([ask(triton_batched.grpc, image(number)) for number in range(64)])
    model = learned(triton_batched.outrigger)["digits_svm"]
    # The model has an arm at the server of each listener, and the second one is told apart by its server.
    (endpoint,) = model["arms"]["digits_svm"]["endpoints"]
    assert endpoint["address"].endswith(triton_batched.server.grpc)
    assert endpoint["batch_limit"] >= 1 and endpoint["queue_rows"] == 0 and endpoint["in_flight"] == 0
    found = {(name, labels.get("model")): value for name, labels, value in samples(triton_batched.outrigger)}
    assert found["outrigger_batch_rows_count", "digits_svm"] > 0
    assert found["outrigger_batch_rows_sum", "digits_svm"] > found["outrigger_batch_rows_count", "digits_svm"]
    assert found["outrigger_batch_limit_rows", "digits_svm"] >= 1


@pytest.mark.proxy
def test_without_a_model_in_the_configuration_nothing_is_merged(triton_untouched):
    before = oip.statistics(triton_untouched.server.grpc, "digits_svm")
    answers = together([ask(triton_untouched.grpc, image(number)) for number in range(64)])
    assert not [name for answer in answers for name, _ in answer.headers if name.startswith("outrigger-")]
    seen = oip.statistics(triton_untouched.server.grpc, "digits_svm") - before
    assert seen.requests == 64 and seen.batches == {1: 64}, seen


def test_rest_callers_beside_grpc_callers(via):
    """Whether REST is merged is the proxy's business; that every caller gets its own is ours."""

    def rest(number):
        told = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": IMAGES[number].tolist()}
        body = json.dumps({"id": str(number), "inputs": [told]}).encode()
        found = http1.ask(via.rest, "POST", "/v2/models/digits_svm/infer", body, [("content-type", "application/json")])
        answer = json.loads(found.messages[0])
        assert answer["id"] == str(number)
        return next(output["data"][0] for output in answer["outputs"] if output["name"] == "label")

    def raw(number):
        return oip.array(oip.infer(via.grpc, image(number)), "label", "INT64").item()

    calls = [lambda n=number: (raw if n % 2 else rest)(n) for number in range(120)]
    found = together(calls)
    whole = oip.request("digits_svm", [("x", "FP32", IMAGES[:120])])
    assert found == oip.array(oip.infer(via.server.grpc, whole), "label", "INT64").reshape(-1).tolist()
