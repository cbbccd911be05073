"""The rest of TensorFlow Serving's gRPC API: Classify and Regress on lists of examples, and the calls that only pass."""

import grpc
import pytest

from harness import rpc, tfs
from harness.stubs import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    regression_pb2,
)

ROWS = [tfs.example(x=[value]) for value in (1.0, 2.0, -7.5, 0.25)]
CODE = grpc.StatusCode


def same(via, request, parse, code=CODE.OK, method=None):
    answer = via.same_inference(lambda address: tfs.call(address, request, method), parse)
    assert answer.code == code, answer
    return parse(answer.messages[0]) if answer.messages else answer


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("signature", ["regress_x_to_y", "regress_flat"])
@pytest.mark.parametrize("chosen", [{}, {"version": 1}, {"label": "stable"}])
def test_regress(tensorflow_via, rows, signature, chosen):
    made = tfs.regress_request("half_plus_two", ROWS[:rows], signature=signature, **chosen)
    found = same(tensorflow_via, made, regression_pb2.RegressionResponse.FromString)
    plus = 2 if chosen else 3
    assert [each.value for each in found.result.regressions] == [value / 2 + plus for value in (1, 2, -7.5, 0.25)][:rows]
    assert found.model_spec.version.value == (1 if chosen else 2)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("signature", ["classify_x_to_y", "classify_names", "classify_both"])
def test_classify(tensorflow_via, rows, signature):
    made = tfs.classify_request("half_plus_two", ROWS[:rows], signature=signature)
    found = same(tensorflow_via, made, classification_pb2.ClassificationResponse.FromString)
    assert len(found.result.classifications) == rows
    first = found.result.classifications[0].classes
    assert [(each.label, each.score) for each in first] == {
        "classify_x_to_y": [("", 3.5)],
        "classify_names": [("3.50", 0.0), ("4.50", 0.0)],
        "classify_both": [("3.50", 3.5), ("4.50", 7.0)],
    }[signature]


@pytest.mark.parametrize("context", [tfs.example(weight=[4.0]), tfs.example(weight=[0.5], x=[100.0]), tfs.example()])
def test_examples_with_a_context(tensorflow_via, context):
    regress = tfs.regress_request("half_plus_two", ROWS, context, signature="regress_x_to_y")
    found = same(tensorflow_via, regress, regression_pb2.RegressionResponse.FromString)
    assert len(found.result.regressions) == len(ROWS)
    classify = tfs.classify_request("half_plus_two", ROWS, context, signature="classify_both")
    same(tensorflow_via, classify, classification_pb2.ClassificationResponse.FromString)


def test_examples_with_features_that_the_model_does_not_know(tensorflow_via):
    rows = [tfs.example(x=[1.0], y=[3], name=[b"n", b"\xff"]), tfs.example(), tfs.example(x=[2.0])]
    made = tfs.regress_request("half_plus_two", rows, signature="regress_x_to_y")
    found = same(tensorflow_via, made, regression_pb2.RegressionResponse.FromString)
    assert [each.value for each in found.result.regressions] == [3.5, 3.0, 4.0]


@pytest.mark.parametrize("method", ["Classify", "Regress"])
def test_faulty_requests_get_the_servers_own_words(tensorflow_via, method):
    make = {"Classify": tfs.classify_request, "Regress": tfs.regress_request}[method]
    right = {"Classify": "classify_both", "Regress": "regress_x_to_y"}[method]
    for made, code in [
        (make("nobody", ROWS, signature=right), CODE.NOT_FOUND),
        (make("half_plus_two", ROWS, signature=right, version=9), CODE.NOT_FOUND),
        (make("half_plus_two", ROWS, signature=right, label="none"), CODE.INVALID_ARGUMENT),
        (make("half_plus_two", ROWS, signature="none"), CODE.INVALID_ARGUMENT),
        (make("half_plus_two", ROWS), CODE.INVALID_ARGUMENT),
        (make("half_plus_two", [], signature=right), CODE.INVALID_ARGUMENT),
        (make("half_plus_two", [], tfs.example(x=[1.0]), signature=right), CODE.INVALID_ARGUMENT),
        (make("half_plus_two", [tfs.example(x=[7])], signature=right), CODE.INVALID_ARGUMENT),
        (make("half_plus_two", [tfs.example(x=[1.0, 2.0])], signature=right), CODE.INVALID_ARGUMENT),
        (type(make("half_plus_two", ROWS))(), CODE.INVALID_ARGUMENT),
    ]:
        same(tensorflow_via, made, bytes, code)
    same(tensorflow_via, b"\xff", bytes, CODE.INTERNAL, method)


def test_multi_inference_passes(tensorflow_via):
    regress = (tfs.spec("half_plus_two", "regress_x_to_y"), "regress")
    classify = (tfs.spec("half_plus_two", "classify_both"), "classify")
    parse = inference_pb2.MultiInferenceResponse.FromString
    found = same(tensorflow_via, tfs.multi_inference_request(ROWS, regress, classify), parse)
    assert [each.WhichOneof("result") for each in found.results] == ["regression_result", "classification_result"]
    other = (tfs.spec("linear", "serving_default"), "regress")
    for tasks, code in [
        ((), CODE.INVALID_ARGUMENT),
        ((regress, regress), CODE.INVALID_ARGUMENT),
        ((regress, other), CODE.INVALID_ARGUMENT),
        (((tfs.spec("half_plus_two", "regress_x_to_y"), "predict"),), CODE.UNIMPLEMENTED),
        (((tfs.spec("nobody", "x"), "regress"),), CODE.NOT_FOUND),
    ]:
        same(tensorflow_via, tfs.multi_inference_request(ROWS, *tasks), parse, code)


def test_metadata_passes(tensorflow_via):
    parse = get_model_metadata_pb2.GetModelMetadataResponse.FromString
    for chosen, fields, code in [
        (tfs.spec("half_plus_two"), ["signature_def"], CODE.OK),
        (tfs.spec("half_plus_two", version=1), ["signature_def"], CODE.OK),
        (tfs.spec("half_plus_two", label="canary"), ["signature_def"], CODE.OK),
        (tfs.spec("types"), ["signature_def"], CODE.OK),
        (tfs.spec("types"), [], CODE.INVALID_ARGUMENT),
        (tfs.spec("types"), ["other"], CODE.INVALID_ARGUMENT),
        (tfs.spec("nobody"), ["signature_def"], CODE.NOT_FOUND),
        (None, ["signature_def"], CODE.INVALID_ARGUMENT),
    ]:
        made = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=chosen, metadata_field=fields)
        answer = tensorflow_via.same_meaning(lambda address: tfs.call(address, made, "GetModelMetadata"), parse)
        assert answer.code == code, answer


def test_the_state_of_models_passes(tensorflow_via):
    for chosen, code in [
        (tfs.spec("half_plus_two"), CODE.OK),
        (tfs.spec("half_plus_two", version=2), CODE.OK),
        (tfs.spec("half_plus_two", version=3), CODE.NOT_FOUND),
        (tfs.spec("nobody"), CODE.NOT_FOUND),
        (None, CODE.INVALID_ARGUMENT),
    ]:
        made = get_model_status_pb2.GetModelStatusRequest(model_spec=chosen)
        answer = tensorflow_via.same(lambda address: tfs.call(address, made, tfs.MODEL + "GetModelStatus"))
        assert answer.code == code, answer


def test_methods_that_the_server_lacks_are_its_own_to_refuse(tensorflow_via):
    reload = model_management_pb2.ReloadConfigRequest().SerializeToString()
    for method, message in [
        (tfs.MODEL + "HandleReloadConfigRequest", reload),
        (tfs.MODEL + "Nothing", b""),
        (tfs.PREDICTION + "PredictStreamed", b""),
        ("/tensorflow.serving.SessionService/SessionRun", b""),
    ]:
        answer = tensorflow_via.same(lambda address, m=method, b=message: rpc.call(address, m, b))
        assert answer.code == CODE.UNIMPLEMENTED


def test_a_specification_with_both_a_version_and_a_label_means_the_later(tensorflow_via):
    """A oneof that is on the wire twice: the last one counts."""
    both = tfs.spec("half_plus_two", version=1).SerializeToString() + model_pb2.ModelSpec(version_label="canary").SerializeToString()
    made = tfs.regress_request("half_plus_two", ROWS, signature="regress_x_to_y")
    made.model_spec.ParseFromString(both)
    made.model_spec.signature_name = "regress_x_to_y"
    found = same(tensorflow_via, made, regression_pb2.RegressionResponse.FromString)
    assert found.model_spec.version.value == 2
