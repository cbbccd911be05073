"""KServe's inference clients, REST and gRPC, with `requests` for V1. Prints what each pair of addresses answered.

usage: kserve_client.py V1_ADDRESS V2_ADDRESS GRPC_ADDRESS [...]
"""

import asyncio
import json
import sys

import httpx
import numpy as np
import requests
from grpc import RpcError
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

IMAGES = (np.arange(3 * 64).reshape(3, 64) % 17).astype(np.float32)


def request(model, array=IMAGES, name="x", binary=False, **more):
    tensor = InferInput(name, list(array.shape), {"float32": "FP32", "int64": "INT64"}[array.dtype.name])
    tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="17", **more)


def told(response):
    return [
        response.id,
        response.model_name,
        [[output.name, output.datatype, list(output.shape), output.as_numpy().tolist()] for output in response.outputs],
    ]


async def failure(call):
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, error.response.json()]
    except RpcError as error:
        return [error.code().name, error.details()]
    return "no failure"


async def version_2(address):
    base = f"http://{address}"
    found = []
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        for binary in (False, True):
            for model in ("digits", "linear"):
                found.append(told(await client.infer(base, request(model, binary=binary), model_name=model)))
        wanted = [RequestedOutput("scores", parameters={"binary_data": True})]
        found.append(told(await client.infer(base, request("linear", request_outputs=wanted), model_name="linear")))
        found.append(await failure(client.infer(base, request("nobody"), model_name="nobody")))
        found.append(await failure(client.infer(base, request("linear", IMAGES[:, :3].copy()), model_name="linear")))
        found.append([await client.is_server_ready(base), await client.is_server_live(base)])
        found.append(await client.is_model_ready(base, "linear"))
    return found


async def version_1(address):
    base = f"http://{address}"
    found = []
    async with InferenceRESTClient(RESTConfig(protocol="v1", retries=0)) as client:
        for model in ("digits", "linear", "same"):
            found.append(await client.infer(base, {"instances": IMAGES.tolist()}, model_name=model))
        found.append(await failure(client.infer(base, {"instances": [[1.0]]}, model_name="linear")))
        found.append(await failure(client.infer(base, {"instances": [[1.0]]}, model_name="nobody")))
        found.append(await client.is_model_ready(base, "linear"))
    with requests.Session() as session:
        for body in ({"instances": IMAGES[:1].tolist()}, {"instances": []}, {}):
            answer = session.post(f"{base}/v1/models/digits:predict", json=body, timeout=30)
            found.append([answer.status_code, answer.json()])
        found.append(session.get(f"{base}/v1/models/digits", timeout=30).json())
        found.append(session.get(f"{base}/v1/models", timeout=30).json())
    return found


async def remote_procedure_calls(address):
    found = []
    async with InferenceGRPCClient(address, retries=0) as client:
        for model in ("digits", "linear"):
            found.append(told(await client.infer(request(model))))
        found.append(await failure(client.infer(request("nobody"))))
        found.append(await failure(client.infer(request("linear", IMAGES[:, :3].copy()))))
        found.append([await client.is_server_ready(), await client.is_server_live()])
        found.append(await client.is_model_ready("linear"))
    return found


async def main(addresses):
    for first, second, third in zip(*[iter(addresses)] * 3, strict=True):
        yield [await version_1(first), await version_2(second), await remote_procedure_calls(third)]


async def collect(addresses):
    return [found async for found in main(addresses)]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(collect(sys.argv[1:]))))
