"""Proxies that stand in front of one upstream of one protocol, and know its models: whoever asks may speak another."""

from dataclasses import dataclass

from harness.outrigger import Outrigger
from harness.route import batching

SAME = tuple(
    f"same_{name}"
    for name in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "half", "bfloat16",
                 "float", "double", "string")
)  # fmt: skip
TRITON = ("linear", "words", "types", "echo", "numbers", "witness", "absent")
UPSTREAMS = {
    # name: (fixture of the server, its port, protocol, models)
    "triton-grpc": ("triton", "grpc", "oip-grpc", TRITON),
    "triton-rest": ("triton", "rest", "oip-rest", TRITON),
    "mlserver-grpc": ("mlserver", "grpc", "oip-grpc", ("linear",)),
    "mlserver-rest": ("mlserver", "rest", "oip-rest", ("linear",)),
    "kserve-grpc": ("kserve", "grpc", "oip-grpc", ("linear",)),
    "kserve-rest": ("kserve", "rest", "oip-rest", ("linear",)),
    "kserve-v1": ("kserve", "rest", "tfserving-rest", ("linear", "same", "absent")),
    "tensorflow": ("tensorflow", "grpc", "tfserving-grpc", ("linear", "words", "pair", "half_plus_two", "absent", *SAME)),
}


@dataclass
class Bridge:
    """One listener for every protocol, with one server behind it."""

    name: str
    server: object
    protocol: str
    outrigger: Outrigger

    @property
    def address(self):
        return self.outrigger.address[self.name]

    def __repr__(self):
        return self.name


class Bridges:
    """Starts each bridge at its first use."""

    def __init__(self, folder, fixture):
        self.folder, self.fixture, self.built = folder, fixture, {}

    def __getitem__(self, name):
        if name not in self.built:
            server, port, protocol, models = UPSTREAMS[name]
            server = self.fixture(server)
            named = batching(models, max_batch_size=32, controller="fixed")
            outrigger = Outrigger(
                self.folder, {name: (protocol, getattr(server, port))}, named, f"outrigger-bridge-{name}"
            )
            self.built[name] = Bridge(name, server, protocol, outrigger)
        return self.built[name]

    def stop(self):
        for bridge in self.built.values():
            alive = bridge.outrigger.process.alive()
            bridge.outrigger.stop()
            assert alive, f"the proxy died:\n{bridge.outrigger.process.tail()}"
