"""Servers once a session, proxies once a module; logs are kept and named where a test failed."""

import os
import pathlib
import sys
from dataclasses import dataclass

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from harness import compare, oip, servers  # noqa: E402
from harness.outrigger import Outrigger, binary  # noqa: E402

TRITON_MODELS = (
    "big", "digits_forest", "digits_svm", "echo", "echo_alone", "marked", "sequence", "stream", "types", "unbatched",
    "witness",
)  # fmt: skip


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
def triton(logs):
    server = servers.triton(logs)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mlserver(logs):
    server = servers.mlserver(logs)
    yield server
    server.stop()


@dataclass
class Route:
    """A server, and the way to it through the proxy. With `batched`, its models are named in the configuration."""

    server: servers.Server
    grpc: str
    rest: str
    batched: bool
    outrigger: Outrigger | None

    def same(self, call):
        """Makes the same call direct and through the proxy, demands the same answer byte for byte, and returns it."""
        straight, proxied = call(self.server.grpc), call(self.grpc)
        compare.assert_same(straight, proxied)
        return proxied

    def same_meaning(self, call, parse):
        """As `same`, but messages are parsed: for those that hold maps, which a server writes in any order."""
        straight, proxied = call(self.server.grpc), call(self.grpc)
        compare.assert_same(straight, proxied, parse)
        return proxied

    def same_inference(self, call):
        """As `same` where nothing is batched; batched, the same meaning, and a filter may add its headers."""
        straight, proxied = call(self.server.grpc), call(self.grpc)
        compare.assert_same(straight, proxied, oip.response if self.batched else None, self.batched)
        return proxied


def route(server, folder, name, models, direct):
    if direct:
        yield Route(server, server.grpc, server.rest, bool(models), None)
        return
    upstreams = {name: ("oip-grpc", server.grpc), f"{name}-rest": ("oip-rest", server.rest)}
    label = f"outrigger-{name}-{'batched' if models else 'untouched'}"
    outrigger = Outrigger(folder, upstreams, models, label)
    yield Route(server, outrigger.address[name], outrigger.address[f"{name}-rest"], bool(models), outrigger)
    assert outrigger.process.alive(), f"the proxy died:\n{outrigger.process.tail()}"
    outrigger.stop()


@pytest.fixture(scope="session")
def triton_untouched(triton, logs, direct):
    yield from route(triton, logs, "triton", None, direct)


@pytest.fixture(scope="session")
def triton_batched(triton, logs, direct):
    models = {name: {"latency_objective": "200ms", "batch": {}} for name in TRITON_MODELS}
    yield from route(triton, logs, "triton", models, direct)


@pytest.fixture(params=["untouched", "batched"])
def via(request):
    """Triton through a proxy that names no model, and through one that batches them all."""
    return request.getfixturevalue(f"triton_{request.param}")


@pytest.fixture(scope="session")
def mlserver_untouched(mlserver, logs, direct):
    yield from route(mlserver, logs, "mlserver", None, direct)


@pytest.fixture(scope="session")
def mlserver_batched(mlserver, logs, direct):
    models = {name: {"latency_objective": "500ms", "batch": {"max_batch_size": 32}} for name in ("digits", "digits_undeclared")}
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
