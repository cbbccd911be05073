"""What a client asks about a model before it asks the model: answered in its own protocol, whatever the server speaks.

And client libraries as people use them, in front of servers of another protocol.
"""

import json

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.grpc import service_pb2 as pb

from harness import fronts, http1, oip, rpc, tfs
from harness.process import eventually
from harness.stubs import get_model_metadata_pb2, get_model_status_pb2, prediction_service_pb2_grpc, types_pb2
from test_bridge import IMAGES, linear

pytestmark = pytest.mark.proxy
OTHERS = ["triton-grpc", "triton-rest", "mlserver-rest", "kserve-grpc"]
TENSORS = {"x": ("FP32", [-1, 64]), "label": ("INT64", [-1, 1]), "scores": ("FP32", [-1, 10])}


def known(bridge):
    """Waits until the proxy has asked the server about the model."""
    ask = fronts.TFS_GRPC_CONTENT.ask
    eventually(lambda: "outrigger-batch-size" in ask(bridge.address, "linear", {"x": IMAGES[:1]}).headers)
    return bridge


def page(bridge, target):
    answer = http1.ask(bridge.address, "GET", target)
    return answer.code, json.loads(answer.messages[0]) if answer.messages[0] else None


def test_a_model_of_tensorflow_describes_itself_to_clients_of_the_open_inference_protocol(bridges):
    bridge = known(bridges["tensorflow"])
    message = pb.ModelMetadataRequest(name="linear").SerializeToString()
    found = pb.ModelMetadataResponse.FromString(
        rpc.call(bridge.address, oip.SERVICE + "ModelMetadata", message).messages[0]
    )
    told = {each.name: (each.datatype, list(each.shape)) for each in (*found.inputs, *found.outputs)}
    assert found.name == "linear" and told == TENSORS
    code, found = page(bridge, "/v2/models/linear")
    told = {each["name"]: (each["datatype"], each["shape"]) for each in (*found["inputs"], *found["outputs"])}
    assert code == 200 and found["name"] == "linear" and told == TENSORS


def test_a_model_of_tensorflow_is_ready_for_clients_of_the_open_inference_protocol(bridges):
    bridge = known(bridges["tensorflow"])
    message = pb.ModelReadyRequest(name="linear").SerializeToString()
    answer = rpc.call(bridge.address, oip.SERVICE + "ModelReady", message)
    assert pb.ModelReadyResponse.FromString(answer.messages[0]).ready
    assert page(bridge, "/v2/models/linear/ready")[0] == 200


@pytest.mark.parametrize("upstream", OTHERS)
def test_a_model_of_another_server_describes_itself_to_clients_of_tensorflow_serving(bridges, upstream):
    bridge = known(bridges[upstream])
    made = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=tfs.spec("linear"), metadata_field=["signature_def"])
    answer = tfs.call(bridge.address, made, "GetModelMetadata")
    assert answer.code == grpc.StatusCode.OK, answer
    found = get_model_metadata_pb2.GetModelMetadataResponse.FromString(answer.messages[0])
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert found.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    told = {
        name: (types_pb2.DataType.Name(each.dtype), [dim.size for dim in each.tensor_shape.dim])
        for name, each in (*signature.inputs.items(), *signature.outputs.items())
    }
    numbers = {"FP32": "DT_FLOAT", "INT64": "DT_INT64"}
    assert told == {name: (numbers[datatype], shape) for name, (datatype, shape) in TENSORS.items()}
    assert signature.method_name == "tensorflow/serving/predict"
    code, found = page(bridge, "/v1/models/linear/metadata")
    assert code == 200
    inputs = found["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["x"]["dtype"] == "DT_FLOAT"
    assert [int(each["size"]) for each in inputs["x"]["tensor_shape"]["dim"]] == [-1, 64]


@pytest.mark.parametrize("upstream", OTHERS)
def test_a_model_of_another_server_is_available_for_clients_of_tensorflow_serving(bridges, upstream):
    bridge = known(bridges[upstream])
    made = get_model_status_pb2.GetModelStatusRequest(model_spec=tfs.spec("linear"))
    answer = tfs.call(bridge.address, made, tfs.MODEL + "GetModelStatus")
    assert answer.code == grpc.StatusCode.OK, answer
    (status,) = get_model_status_pb2.GetModelStatusResponse.FromString(answer.messages[0]).model_version_status
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    code, found = page(bridge, "/v1/models/linear")
    assert code == 200
    (version,) = found["model_version_status"]
    assert version["state"] == "AVAILABLE" and version["status"]["error_code"] == "OK"


@pytest.mark.parametrize("upstream", ["tensorflow", "kserve-v1"])
@pytest.mark.parametrize("library", [grpc_client, http_client], ids=["grpc", "http"])
def test_the_clients_of_triton_are_served_by_tensorflow_and_by_v1(bridges, upstream, library):
    bridge = bridges[upstream]
    with library.InferenceServerClient(bridge.address) as client:
        tensor = library.InferInput("x", [5, 64], "FP32")
        tensor.set_data_from_numpy(IMAGES[:5])
        result = client.infer("linear", [tensor], request_id="17")
        scores = linear.scores(IMAGES[:5])
        np.testing.assert_array_equal(result.as_numpy("scores").astype(np.float32), scores)
        np.testing.assert_array_equal(result.as_numpy("label"), linear.labels(scores))
        response = result.get_response(as_json=True) if library is grpc_client else result.get_response()
        assert response["id"] == "17" and response["model_name"] == "linear"


@pytest.mark.parametrize("upstream", OTHERS)
def test_the_stubs_of_tensorflow_serving_are_served_by_other_servers(bridges, upstream):
    with grpc.insecure_channel(bridges[upstream].address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        found = stub.Predict(tfs.predict_request("linear", {"x": IMAGES[:5]}), timeout=30)
        scores = linear.scores(IMAGES[:5])
        np.testing.assert_array_equal(tfs.array(found.outputs["scores"]), scores)
        np.testing.assert_array_equal(tfs.array(found.outputs["label"]), linear.labels(scores))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(tfs.predict_request("linear", {"x": IMAGES[:5, :3].copy()}), timeout=30)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
