"""The upstreams: real Triton, MLServer, KServe and TensorFlow, and peers of our own on stock stacks."""

import signal
import sys
from dataclasses import dataclass

from harness.process import SERVERS, Process, free_ports, http_status

PEERS = SERVERS.parent / "e2e" / "peers"


@dataclass
class Server:
    """A running upstream: where it listens, and how it is ended."""

    process: Process
    rest: str = ""
    grpc: str = ""
    metrics: str = ""
    stop_signal: int = signal.SIGTERM

    def stop(self):
        return self.process.stop(self.stop_signal)


def triton(folder, models="*", name="triton", env=None):
    """Triton with `models` of our repository loaded; models can be loaded and unloaded over its API."""
    http, grpc, metrics = free_ports(3)
    command = [SERVERS / "triton", http, grpc, metrics, "--model-control-mode=explicit", f"--load-model={models}"]
    process = Process(name, command, folder, env)
    try:
        process.await_ready(lambda: http_status(f"http://127.0.0.1:{http}/v2/health/ready") == 200, 120)
    except RuntimeError:
        process.stop(signal.SIGINT)
        raise
    return Server(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}", signal.SIGINT)


def mlserver(folder):
    """MLServer with the digits SVM, once with declared metadata and once without, and the linear model."""
    http, grpc, metrics = free_ports(3)
    process = Process("mlserver", [SERVERS / "mlserver", http, grpc, metrics, folder / "mlserver-models"], folder)
    try:
        process.await_ready(lambda: http_status(f"http://127.0.0.1:{http}/v2/health/ready") == 200, 120)
    except RuntimeError:
        process.stop()
        raise
    return Server(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")


def tensorflow(folder, env=None):
    """TensorFlow's runtime behind TensorFlow Serving's gRPC API; `rest` has the page of what was executed."""
    grpc, pages = free_ports(2)
    process = Process("tensorflow", [SERVERS / "tensorflow", grpc, pages, folder / "tensorflow-models"], folder, env)
    try:
        process.await_ready(lambda: http_status(f"http://127.0.0.1:{pages}/ready") == 200, 120)
    except RuntimeError:
        process.stop()
        raise
    return Server(process, f"127.0.0.1:{pages}", f"127.0.0.1:{grpc}")


def kserve(folder):
    """KServe's Python server: V1 and V2 on the REST port, V2 on the gRPC port."""
    http, grpc = free_ports(2)
    process = Process("kserve", [SERVERS / "kserve", http, grpc], folder)
    try:
        process.await_ready(lambda: http_status(f"http://127.0.0.1:{http}/v2/health/ready") == 200, 120)
    except RuntimeError:
        process.stop()
        raise
    return Server(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")


def peer(folder, script, name=None, env=None):
    """A peer of our own: it binds port 0 and prints where."""
    process = Process(name or script.removesuffix(".py"), [sys.executable, "-u", PEERS / script], folder, env)
    process.await_ready(lambda: "listening on " in process.tail(), 30)
    address = process.tail().split("listening on ")[1].split()[0]
    return Server(process, address, address)
