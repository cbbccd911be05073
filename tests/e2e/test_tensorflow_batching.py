"""Batching in front of TensorFlow Serving's gRPC API; the server counts what it executes."""

import concurrent.futures

import grpc
import numpy as np
import pytest

from harness import tfs
from harness.held import behind, warm
from harness.stubs import classification_pb2, predict_pb2, regression_pb2

pytestmark = pytest.mark.proxy
RANDOM = np.random.default_rng(37)
IMAGES = RANDOM.integers(0, 17, (200, 64)).astype(np.float32)
PATIENCE = 60


def together(calls, callers=32):
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        return list(pool.map(lambda call: call(), calls))


def ask(address, request):
    return lambda: tfs.call(address, request, timeout=PATIENCE)


@pytest.fixture
def executed(tensorflow):
    """Starts to count what is executed of a model; the value gives {rows: calls} since then."""

    def start(model):
        before = tfs.executed(tensorflow, model)
        return lambda: tfs.since(tfs.executed(tensorflow, model), before)

    return start


@pytest.fixture
def held(gates, tensorflow_batched, executed):
    """Makes calls wait behind a first one, then go; gives their answers and what was executed."""

    def run(model, first, requests, rows=None):
        address = tensorflow_batched.grpc
        warm(ask(address, first))
        count = executed(model)
        calls = [ask(address, each) for each in requests]
        busy, answers = behind(gates, tensorflow_batched.outrigger, model, ask(address, first), calls, rows)
        assert busy.code == grpc.StatusCode.OK, busy
        return answers, count()

    return run


def linear(number, rows=1, **options):
    return tfs.predict_request("linear", {"x": IMAGES[number : number + rows]}, **options)


def rows_of(seen):
    return sum(rows * calls for rows, calls in seen.items())


def test_callers_at_once_share_batches_and_each_gets_its_own_answer(tensorflow_batched, executed):
    made = [linear(number % 190, rows=1 + number % 3, typed=number % 2 == 0) for number in range(192)]
    straight = together([ask(tensorflow_batched.server.grpc, each) for each in made])
    count = executed("linear")
    proxied = together([ask(tensorflow_batched.grpc, each) for each in made])
    for one, other in zip(straight, proxied, strict=True):
        assert one.code == other.code == grpc.StatusCode.OK, other
        assert tfs.answer(one.messages[0]) == tfs.answer(other.messages[0])
    seen = count()
    assert rows_of(seen) == sum(1 + number % 3 for number in range(192)), seen
    assert 3 < max(seen) <= 32, seen
    assert sum(seen.values()) < 192, seen


def test_one_caller_in_turn_is_never_batched(tensorflow_batched, executed):
    count = executed("linear")
    for number in range(20):
        assert tfs.call(tensorflow_batched.grpc, linear(number)).code == grpc.StatusCode.OK
    assert count() == {1: 20}


def test_content_and_typed_lists_and_short_ones_are_merged_by_what_they_mean(tensorflow_batched, held):
    """Joined as they stand, a short list would fill itself up with a neighbour's numbers. The two forms need not meet."""
    forms = [
        ({"x": np.full((1, 64), 3, np.float32)}, {}),
        ({"x": np.full((1, 64), 4, np.float32)}, {"typed": True}),
        ({"x": tfs.tensor(np.zeros((1, 64), np.float32), values=np.array([5], np.float32))}, {}),
        ({"x": tfs.tensor(np.zeros((2, 64), np.float32), values=np.array([1, 2, 6], np.float32))}, {}),
        ({"x": tfs.tensor(np.zeros((1, 64), np.float32), values=np.array([], np.float32))}, {}),
    ]
    made = [tfs.predict_request("linear", inputs, **options) for inputs, options in forms]
    straight = [tfs.call(tensorflow_batched.server.grpc, each) for each in made]
    answers, seen = held("linear", linear(0), made, rows=6)
    for one, other in zip(straight, answers, strict=True):
        assert other.code == grpc.StatusCode.OK, other
        assert tfs.answer(one.messages[0]) == tfs.answer(other.messages[0])
    assert rows_of(seen) == 7 and sum(seen.values()) <= 3, seen


def test_requests_that_differ_in_what_they_ask_never_meet(tensorflow_batched, held):
    """Signature, version, label and filter. A version and the label that means it may meet, or not."""
    x = {"x": np.array([[8.0]], np.float32)}
    kinds = [{}, {"version": 1}, {"version": 2}, {"label": "canary"}, {"signature": "serving_default"}]
    made = [tfs.predict_request("half_plus_two", x, **kind) for kind in kinds for _ in range(2)]
    straight = [tfs.call(tensorflow_batched.server.grpc, each) for each in made]
    answers, seen = held("half_plus_two", tfs.predict_request("half_plus_two", x), made)
    for one, other in zip(straight, answers, strict=True):
        assert other.code == grpc.StatusCode.OK, other
        assert tfs.answer(one.messages[0]) == tfs.answer(other.messages[0])
    assert rows_of(seen) == 11 and seen[2] >= 2, seen


def test_filters_of_outputs_are_kept(tensorflow_batched, held):
    inputs = {"a": np.ones((1, 2), np.float32), "b": np.ones(1, np.int64)}
    kinds = [(), ("sum",), ("outer", "b"), ("b",)]
    made = [tfs.predict_request("pair", inputs, kind) for kind in kinds for _ in range(2)]
    answers, seen = held("pair", tfs.predict_request("pair", inputs), made)
    for number, answer in enumerate(answers):
        assert set(tfs.outputs(answer)) == set(kinds[number // 2] or ("sum", "difference", "outer", "b"))
    assert rows_of(seen) == 9, seen


def test_several_inputs_and_outputs_of_several_dimensions_are_divided(tensorflow_batched, held):
    made = []
    for rows in (1, 2, 3):
        inputs = {"a": RANDOM.standard_normal((rows, 2)).astype(np.float32), "b": RANDOM.integers(-9, 9, rows)}
        made.append(tfs.predict_request("pair", inputs))
    straight = [tfs.call(tensorflow_batched.server.grpc, each) for each in made]
    answers, seen = held("pair", made[0], made, rows=6)
    for one, other in zip(straight, answers, strict=True):
        assert tfs.answer(one.messages[0]) == tfs.answer(other.messages[0])
    assert seen == {1: 1, 6: 1}


def test_text_is_divided(tensorflow_batched, held):
    made = [
        tfs.predict_request("words", {"text": np.array([[text.encode()] for text in texts], np.object_)})
        for texts in (["", "a"], ["caf\u00e9"], ["x" * 70_000, "", "end"])
    ]
    answers, seen = held("words", made[0], made, rows=6)
    for each, answer in zip(made, answers, strict=True):
        found = tfs.outputs(answer)
        assert found["same"].tolist() == found["raw_bytes"].tolist() == tfs.array(each.inputs["text"]).tolist()
    assert seen == {2: 1, 6: 1}


@pytest.mark.parametrize("datatype", ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "half", "bfloat16", "double"])
def test_every_datatype_is_divided(tensorflow_batched, held, datatype):
    dtype = tfs.FIELDS[datatype][1]
    made = [
        tfs.predict_request("types", {"x": np.array([[number % 2, number]], dtype)}, signature=datatype, typed=typed)
        for number in range(4)
        for typed in (False, True)
    ]
    answers, seen = held("types", made[0], made)
    for each, answer in zip(made, answers, strict=True):
        assert tfs.bits(tfs.outputs(answer)["y"]) == tfs.bits(tfs.array(each.inputs["x"]))
    assert rows_of(seen) == 9 and sum(seen.values()) <= 3, seen


def test_an_input_without_rows_keeps_requests_apart(tensorflow_batched, executed):
    x = np.ones((1, 2), np.float32)
    made = [
        tfs.predict_request("scaled", {"x": x, "factor": np.array(number, np.float32)}) for number in range(40)
    ]
    count = executed("scaled")
    for number, answer in enumerate(together([ask(tensorflow_batched.grpc, each) for each in made])):
        assert tfs.outputs(answer)["y"].tolist() == [[number, number]]
    assert count() == {1: 40}


def test_a_model_of_a_fixed_batch_is_never_merged(tensorflow_batched, executed):
    made = [tfs.predict_request("fixed", {"x": np.full((4, 2), number, np.float32)}) for number in range(40)]
    count = executed("fixed")
    for number, answer in enumerate(together([ask(tensorflow_batched.grpc, each) for each in made])):
        assert tfs.outputs(answer)["y"].tolist() == [[2 * number] * 2] * 4
    assert count() == {4: 40}


def test_an_answer_that_cannot_be_divided_is_asked_for_again_one_by_one(tensorflow_batched):
    """The model adds all rows up: whoever shared a call would get a neighbour's rows in its sum."""
    made = [tfs.predict_request("total", {"x": np.full((2, 2), number, np.float32)}) for number in range(60)]
    for number, answer in enumerate(together([ask(tensorflow_batched.grpc, each) for each in made])):
        assert answer.code == grpc.StatusCode.OK, answer
        assert tfs.outputs(answer)["y"].tolist() == [[2 * number] * 2]


def test_a_bad_row_spoils_its_own_request_only(tensorflow_batched):
    def made(number):
        return tfs.predict_request("marked", {"x": np.full((1, 4), -9 if number == 77 else number, np.float32)})

    failing = tfs.call(tensorflow_batched.server.grpc, made(77))
    assert failing.code == grpc.StatusCode.INVALID_ARGUMENT
    answers = together([ask(tensorflow_batched.grpc, made(number)) for number in range(120)])
    for number, answer in enumerate(answers):
        if number == 77:
            assert answer.code == failing.code and "a marked row" in answer.details
        else:
            assert answer.code == grpc.StatusCode.OK, answer
            assert tfs.outputs(answer)["y"].tolist() == [[2 * number] * 4]


@pytest.mark.parametrize("method", ["Classify", "Regress"])
def test_lists_of_examples_share_a_batch(tensorflow_batched, held, method):
    make, signature, parse = {
        "Classify": (tfs.classify_request, "classify_both", classification_pb2.ClassificationResponse.FromString),
        "Regress": (tfs.regress_request, "regress_x_to_y", regression_pb2.RegressionResponse.FromString),
    }[method]
    made = [
        make("half_plus_two", [tfs.example(x=[float(number + row)]) for row in range(rows)], signature=signature)
        for number, rows in ((1, 1), (10, 2), (100, 3))
    ]
    straight = [tfs.call(tensorflow_batched.server.grpc, each) for each in made]
    answers, seen = held("half_plus_two", made[0], made, rows=6)
    for one, other in zip(straight, answers, strict=True):
        assert other.code == grpc.StatusCode.OK, other
        assert parse(one.messages[0]) == parse(other.messages[0])
    assert seen == {1: 1, 6: 1}


def test_examples_meet_only_within_equal_contexts(tensorflow_batched, held):
    row = [tfs.example(x=[8.0])]
    contexts = [tfs.example(weight=[2.0]), tfs.example(weight=[3.0]), None]
    made = [
        tfs.regress_request("half_plus_two", row, context, signature="regress_x_to_y") for context in contexts for _ in range(2)
    ]
    answers, seen = held("half_plus_two", tfs.regress_request("half_plus_two", row, signature="regress_x_to_y"), made)
    found = [regression_pb2.RegressionResponse.FromString(answer.messages[0]) for answer in answers]
    assert [each.result.regressions[0].value for each in found] == [11.0, 11.0, 15.0, 15.0, 7.0, 7.0]
    assert rows_of(seen) == 7 and sum(seen.values()) >= 4, seen


def test_predict_and_the_calls_on_examples_never_meet(tensorflow_batched, held):
    row = [tfs.example(x=[8.0])]
    made = [
        tfs.predict_request("half_plus_two", {"x": np.array([[8.0]], np.float32)}),
        tfs.regress_request("half_plus_two", row, signature="regress_x_to_y"),
        tfs.classify_request("half_plus_two", row, signature="classify_both"),
    ]
    answers, seen = held("half_plus_two", made[0], made)
    predicted, regressed, classified = answers
    assert tfs.outputs(predicted)["y"].tolist() == [[7.0]]
    assert regression_pb2.RegressionResponse.FromString(regressed.messages[0]).result.regressions[0].value == 7.0
    found = classification_pb2.ClassificationResponse.FromString(classified.messages[0])
    assert found.result.classifications[0].classes[0].score == 7.0
    assert seen == {1: 4}


def test_each_caller_is_told_the_version_that_answered(tensorflow_batched):
    for chosen in ({}, {"version": 1}, {"label": "stable"}):
        made = tfs.predict_request("half_plus_two", {"x": np.ones((1, 1), np.float32)}, **chosen)
        for answer in together([ask(tensorflow_batched.grpc, made)] * 8, callers=8):
            found = predict_pb2.PredictResponse.FromString(answer.messages[0])
            assert found.model_spec.version.value == (1 if chosen else 2)
