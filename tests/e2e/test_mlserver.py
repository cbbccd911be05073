"""MLServer, another maker's server of the same protocol: equal answers, and batching where its metadata says little."""

import concurrent.futures
import json
from dataclasses import replace

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.grpc import service_pb2 as pb

from harness import http1, oip, rest, rpc
from harness.compare import assert_same, differences

RANDOM = np.random.default_rng(29)
IMAGES = RANDOM.integers(0, 17, (96, 64)).astype(np.float32)
MODELS = ("digits", "digits_undeclared")


def image(number, model="digits", rows=1, **options):
    return oip.request(model, [("predict", "FP32", IMAGES[number : number + rows])], **options)


def test_server_and_models_describe_themselves(mlserver_via):
    for method, message in [
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="digits")),
        ("ModelReady", pb.ModelReadyRequest(name="nobody")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="digits")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="digits_undeclared")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="nobody")),
        ("ModelConfig", pb.ModelConfigRequest(name="digits")),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
    ]:
        body = message.SerializeToString()
        mlserver_via.same(lambda address, m=method, b=body: rpc.call(address, oip.SERVICE + m, b))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("typed", [False, True])
def test_inference(mlserver_via, model, typed):
    for options in ({}, {"rows": 7}, {"id": "seventeen"}, {"version": "v1"}, {"outputs": ("predict",)}):
        made = image(0, model, typed=typed, id=options.pop("id", "fixed"), **options)
        found = mlserver_via.same_inference(lambda address, made=made: oip.infer(address, made))
        assert found.code == grpc.StatusCode.OK, found


@pytest.mark.parametrize(
    "made",
    [
        image(0, "nobody"),
        image(0, version="v9"),
        oip.request("digits", [("predict", "FP32", IMAGES[:1, :5].copy())], id="fixed"),
        pb.ModelInferRequest(model_name="digits", id="fixed"),
        b"\xff\xff",
    ],
)
def test_faulty_requests_get_the_servers_own_words(mlserver_via, made):
    assert mlserver_via.same_inference(lambda address: oip.infer(address, made)).code != grpc.StatusCode.OK


def test_the_client_library(mlserver_via):
    def run(address):
        with grpc_client.InferenceServerClient(address) as client:
            tensor = grpc_client.InferInput("predict", [3, 64], "FP32")
            tensor.set_data_from_numpy(IMAGES[:3])
            result = client.infer("digits", [tensor], request_id="fixed")
            return result.as_numpy("predict").tolist(), client.get_model_metadata("digits", as_json=True)

    assert run(mlserver_via.server.grpc) == run(mlserver_via.grpc)


@pytest.mark.parametrize("target", ["/v2", "/v2/health/ready", "/v2/models/digits", "/v2/models/nobody", "/nowhere"])
def test_pages(mlserver_via, target):
    straight, proxied = (http1.ask(address, "GET", target) for address in (mlserver_via.server.rest, mlserver_via.rest))
    assert_same(straight, proxied)


def test_inference_in_json(mlserver_via):
    tensor = {"name": "predict", "shape": [2, 64], "datatype": "FP32", "data": IMAGES[:2].tolist()}
    body = json.dumps({"id": "fixed", "inputs": [tensor]}).encode()
    for target, body in [("digits", body), ("nobody", body), ("digits", b"{}"), ("digits", b"no json")]:
        mlserver_via.same_rest(lambda address, t=target, b=body: rest.post(address, f"/v2/models/{t}/infer", b))


@pytest.mark.proxy
@pytest.mark.parametrize("model", MODELS)
def test_callers_at_once_share_batches_and_each_gets_its_own_answer(mlserver_batched, model):
    made = [image(number, model, id=str(number)) for number in range(len(IMAGES))]
    straight = [oip.infer(mlserver_batched.server.grpc, each) for each in made]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        proxied = list(pool.map(lambda each: oip.infer(mlserver_batched.grpc, each), made))
    for one, other in zip(straight, proxied, strict=True):
        assert one.code == grpc.StatusCode.OK
        # Its trailers name the id of the request that it saw, which is that of the batch.
        assert not differences(replace(one, trailers=()), replace(other, trailers=()), oip.response, True)
    sizes = [int(dict(answer.headers)["outrigger-batch-size"]) for answer in proxied]
    assert 1 < max(sizes) <= 32, sizes
