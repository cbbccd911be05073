"""The client library that people use, in all its forms, against Triton: equal answers direct and through the proxy."""

import asyncio
import queue
import threading

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as aio_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

RANDOM = np.random.default_rng(11)
IMAGES = RANDOM.integers(0, 17, (12, 64)).astype(np.float32)


def tensor(library, name, array, datatype, **options):
    made = library.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, **options)
    return made


def both(via, run, protocol="grpc"):
    """Runs the same script against both addresses and demands equal results."""
    straight = run(getattr(via.server, protocol))
    proxied = run(getattr(via, protocol))
    np.testing.assert_equal(proxied, straight)
    return proxied


def failure(call):
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


def test_the_synchronous_client(via):
    def run(address):
        with grpc_client.InferenceServerClient(address) as client:
            inputs = [tensor(grpc_client, "x", IMAGES, "FP32")]
            result = client.infer("digits_svm", inputs, request_id="17", headers={"x-user": "u"}, client_timeout=30)
            compressed = client.infer("digits_svm", inputs, compression_algorithm="gzip")
            return (
                client.is_server_live(),
                client.is_server_ready(),
                client.is_model_ready("digits_svm"),
                client.is_model_ready("nobody"),
                client.get_server_metadata(as_json=True),
                client.get_model_metadata("digits_svm", as_json=True),
                client.get_model_config("digits_svm", as_json=True),
                sorted(each["name"] for each in client.get_model_repository_index(as_json=True)["models"]),
                result.get_response(as_json=True),
                result.as_numpy("label"),
                result.as_numpy("proba"),
                compressed.as_numpy("label"),
                failure(lambda: client.infer("nobody", inputs)),
                failure(lambda: client.infer("digits_svm", [tensor(grpc_client, "x", IMAGES[:, :3].copy(), "FP32")])),
                failure(lambda: client.get_model_metadata("nobody")),
            )

    both(via, run)


def test_the_synchronous_client_calling_back(via):
    def run(address):
        answers = queue.Queue()
        with grpc_client.InferenceServerClient(address) as client:
            for number, image in enumerate(IMAGES):
                client.async_infer(
                    "digits_forest",
                    [tensor(grpc_client, "x", image[None], "FP32")],
                    callback=lambda result, error: answers.put((result, error)),
                    request_id=str(number),
                )
            found = [answers.get(timeout=60) for _ in IMAGES]
        assert not [error for _, error in found if error]
        return sorted((result.get_response().id, result.as_numpy("label").tolist()) for result, _ in found)

    both(via, run)


def test_the_asyncio_client(via):
    async def script(address):
        async with aio_client.InferenceServerClient(address) as client:
            results = await asyncio.gather(
                *(
                    client.infer("digits_svm", [tensor(aio_client, "x", image[None], "FP32")], request_id=str(number))
                    for number, image in enumerate(IMAGES)
                )
            )
            with pytest.raises(InferenceServerException) as caught:
                await client.infer("nobody", [tensor(aio_client, "x", IMAGES, "FP32")])
            return [
                (result.get_response().id, result.as_numpy("label").tolist(), result.as_numpy("proba").tolist())
                for result in results
            ], (caught.value.status(), caught.value.message())

    both(via, lambda address: asyncio.run(script(address)))


def test_the_streaming_client(via):
    def run(address):
        answers = queue.Queue()
        with grpc_client.InferenceServerClient(address) as client:
            client.start_stream(callback=lambda result, error: answers.put((result, error)))
            found = []
            for count in (4, 1):
                client.async_stream_infer("stream", [tensor(grpc_client, "COUNT", np.array([count], np.int32), "INT32")])
                found += [answers.get(timeout=60) for _ in range(count)]
            client.async_stream_infer("echo", [tensor(grpc_client, "INPUT0", np.ones((1, 16), np.float32), "FP32")])
            last, error = answers.get(timeout=60)
            client.stop_stream()
        assert error is None and not [error for _, error in found if error]
        return [result.as_numpy("INDEX").item() for result, _ in found], last.as_numpy("OUTPUT0").tolist()

    assert both(via, run)[0] == [0, 1, 2, 3, 0]


def test_the_asyncio_streaming_client(via):
    async def script(address):
        async with aio_client.InferenceServerClient(address) as client:

            async def requests():
                yield {"model_name": "stream", "inputs": [tensor(aio_client, "COUNT", np.array([3], np.int32), "INT32")]}

            return [result.as_numpy("INDEX").item() async for result, _ in client.stream_infer(requests())]

    assert both(via, lambda address: asyncio.run(script(address))) == [0, 1, 2]


def test_a_cancelled_asynchronous_call(via):
    def run(address):
        answers = queue.Queue()
        with grpc_client.InferenceServerClient(address) as client:
            slow = [tensor(grpc_client, "SLEEP_MS", np.full((1, 1), 300, np.float32), "FP32")]
            pending = client.async_infer("witness", slow, callback=lambda result, error: answers.put(error))
            pending.cancel()
            return answers.get(timeout=60).status()

    assert both(via, run) == "StatusCode.CANCELLED"


def test_text_in_and_out(via):
    words = np.array([[b"", b"caf\xc3\xa9", b"\0\1\2"]], np.object_)

    def run(address):
        with grpc_client.InferenceServerClient(address) as client:
            result = client.infer("types", [tensor(grpc_client, "IN_BYTES", words, "BYTES")])
            return result.as_numpy("OUT_BYTES").tolist()

    assert both(via, run) == words.tolist()


def test_tensors_in_shared_memory(via):
    import tritonclient.utils.shared_memory as memory

    rows = np.arange(64, dtype=np.float32).reshape(4, 16)

    def run(address):
        region = memory.create_shared_memory_region("rows", f"/outrigger_e2e_{via.server.process.pid}", 512)
        try:
            with grpc_client.InferenceServerClient(address) as client:
                memory.set_shared_memory_region(region, [rows])
                client.register_system_shared_memory("rows", f"/outrigger_e2e_{via.server.process.pid}", 512)
                try:
                    status = client.get_system_shared_memory_status(as_json=True)
                    made = grpc_client.InferInput("INPUT0", [4, 16], "FP32")
                    made.set_shared_memory("rows", rows.nbytes)
                    wanted = grpc_client.InferRequestedOutput("OUTPUT0")
                    wanted.set_shared_memory("rows", rows.nbytes, 256)
                    client.infer("echo", [made], outputs=[wanted])
                    plain = client.infer("echo", [made])
                    return (
                        status,
                        memory.get_contents_as_numpy(region, np.float32, [4, 16], 256).tolist(),
                        plain.as_numpy("OUTPUT0").tolist(),
                    )
                finally:
                    client.unregister_system_shared_memory("rows")
        finally:
            memory.destroy_shared_memory_region(region)

    assert both(via, run)[1] == rows.tolist()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_the_rest_client(via, binary, compression):
    def run(address):
        with http_client.InferenceServerClient(address, concurrency=4) as client:
            inputs = [tensor(http_client, "x", IMAGES, "FP32", binary_data=binary)]
            outputs = [http_client.InferRequestedOutput(name, binary_data=binary) for name in ("label", "proba")]
            result = client.infer(
                "digits_svm",
                inputs,
                outputs=outputs,
                request_id="17",
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            return (
                client.is_server_live(),
                client.is_model_ready("digits_svm"),
                client.get_server_metadata(),
                client.get_model_metadata("digits_svm"),
                client.get_model_config("digits_svm"),
                result.get_response(),
                result.as_numpy("label"),
                result.as_numpy("proba"),
                failure(lambda: client.infer("nobody", inputs)),
                failure(lambda: client.infer("digits_svm", [tensor(http_client, "x", IMAGES[:, :3].copy(), "FP32")])),
            )

    both(via, run, "rest")


def test_the_rest_client_with_many_at_once(via):
    def run(address):
        with http_client.InferenceServerClient(address, concurrency=8) as client:
            pending = [
                client.async_infer("digits_svm", [tensor(http_client, "x", image[None], "FP32")]) for image in IMAGES
            ]
            return [each.get_result().as_numpy("label").item() for each in pending]

    both(via, run, "rest")


def test_one_client_shared_by_threads(via):
    rows = [np.full((1, 16), number, np.float32) for number in range(64)]
    with grpc_client.InferenceServerClient(via.grpc) as client:
        wrong = []

        def work(part):
            for each in part:
                result = client.infer("echo_alone", [tensor(grpc_client, "INPUT0", each, "FP32")])
                if not (result.as_numpy("OUTPUT0") == each).all():
                    wrong.append(each)

        threads = [threading.Thread(target=work, args=(rows[start::8],)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong
