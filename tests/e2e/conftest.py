"""Servers once a session, proxies once a module; logs are kept and named where a test failed."""

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from harness import servers  # noqa: E402
from harness.bridges import Bridges  # noqa: E402
from harness.gate import Gates  # noqa: E402
from harness.outrigger import binary  # noqa: E402
from harness.route import batching, route  # noqa: E402

TRITON_MODELS = (
    "big", "digits_forest", "digits_svm", "echo", "echo_alone", "linear", "marked", "noisy", "numbers", "sequence", "stream", "types",
    "unbatched", "witness", "words",
)  # fmt: skip
TENSORFLOW_MODELS = ("half_plus_two", "linear", "types", "types_content", "words", "pair", "scaled", "total", "marked")


def pytest_addoption(parser):
    parser.addoption("--direct", action="store_true", help="compare the servers with themselves: no proxy between")


def pytest_configure(config):
    config.addinivalue_line("markers", "proxy: says something about the proxy itself; nothing to see with --direct")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--direct"):
        skip = pytest.mark.skip(reason="no proxy with --direct")
        for item in items:
            if item.get_closest_marker("proxy"):
                item.add_marker(skip)
    elif not binary().exists():
        raise pytest.UsageError(f"no binary at {binary()}: build it, or say $OUTRIGGER")


@pytest.fixture(scope="session")
def logs(tmp_path_factory, request):
    """The folder of all logs and configurations. It stays behind after a failure."""
    folder = tmp_path_factory.mktemp("outrigger")
    yield folder
    if request.session.testsfailed:
        print(f"\nlogs: {folder}")


@pytest.fixture(scope="session")
def direct(request):
    return request.config.getoption("--direct")


@pytest.fixture(scope="session")
def gates(logs):
    """Stops models of Triton and TensorFlow for as long as a test wants."""
    return Gates(logs / "gates")


@pytest.fixture(scope="session")
def triton(logs, gates):
    server = servers.triton(logs, env=gates.env)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mlserver(logs):
    server = servers.mlserver(logs)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tensorflow(logs, gates):
    server = servers.tensorflow(logs, env=gates.env)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kserve(logs):
    server = servers.kserve(logs)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def triton_untouched(triton, logs, direct):
    yield from route(triton, logs, "triton", None, direct)


@pytest.fixture(scope="session")
def triton_batched(triton, logs, direct):
    yield from route(triton, logs, "triton", batching(TRITON_MODELS, "200ms"), direct)


@pytest.fixture(params=["untouched", "batched"])
def via(request):
    """Triton through a proxy that names no model, and through one that batches them all."""
    return request.getfixturevalue(f"triton_{request.param}")


@pytest.fixture(scope="session")
def mlserver_untouched(mlserver, logs, direct):
    yield from route(mlserver, logs, "mlserver", None, direct)


@pytest.fixture(scope="session")
def mlserver_batched(mlserver, logs, direct):
    models = batching(("digits", "digits_undeclared", "linear"), max_batch_size=32)
    yield from route(mlserver, logs, "mlserver", models, direct)


@pytest.fixture(params=["untouched", "batched"])
def mlserver_via(request):
    return request.getfixturevalue(f"mlserver_{request.param}")


@pytest.fixture(scope="session")
def peer(logs):
    server = servers.peer(logs, "grpc_peer.py")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def peer_route(peer, logs, direct):
    """The gRPC peer direct, and through a proxy that knows nothing of it."""
    yield from route(peer, logs, "peer", None, direct)


@pytest.fixture(scope="session")
def tensorflow_untouched(tensorflow, logs, direct):
    yield from route(tensorflow, logs, "tensorflow", None, direct, (("grpc", "tfserving-grpc"),))


@pytest.fixture(scope="session")
def tensorflow_batched(tensorflow, logs, direct):
    # What is not said of `fixed` its metadata tell.
    models = batching(TENSORFLOW_MODELS, max_batch_size=32, controller="fixed") | batching(["fixed"])
    yield from route(tensorflow, logs, "tensorflow", models, direct, (("grpc", "tfserving-grpc"),))


@pytest.fixture(params=["untouched", "batched"])
def tensorflow_via(request):
    return request.getfixturevalue(f"tensorflow_{request.param}")


@pytest.fixture(scope="session")
def kserve_untouched(kserve, logs, direct):
    yield from route(kserve, logs, "kserve", None, direct)


@pytest.fixture(scope="session")
def kserve_batched(kserve, logs, direct):
    yield from route(kserve, logs, "kserve", batching(("digits", "linear", "same"), max_batch_size=32), direct)


@pytest.fixture(params=["untouched", "batched"])
def kserve_via(request):
    """KServe's server by V2, in gRPC and REST."""
    return request.getfixturevalue(f"kserve_{request.param}")


@pytest.fixture(scope="session")
def kserve_v1_untouched(kserve, logs, direct):
    yield from route(kserve, logs, "kserve-v1", None, direct, (("rest", "tfserving-rest"),))


@pytest.fixture(scope="session")
def kserve_v1_batched(kserve, logs, direct):
    models = batching(("digits", "linear", "same"), max_batch_size=32)
    yield from route(kserve, logs, "kserve-v1", models, direct, (("rest", "tfserving-rest"),))


@pytest.fixture(params=["untouched", "batched"])
def kserve_v1_via(request):
    """KServe's server by V1, the row form of TensorFlow Serving."""
    return request.getfixturevalue(f"kserve_v1_{request.param}")


@pytest.fixture(scope="session")
def bridges(logs, request):
    """Proxies in front of one upstream each, which know its models in every protocol."""
    made = Bridges(logs, request.getfixturevalue)
    yield made
    made.stop()
