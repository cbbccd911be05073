"""The ways that a call can take to a server: straight, and through a proxy."""

from dataclasses import dataclass

from harness import compare, oip, rest
from harness.outrigger import Outrigger
from harness.servers import Server


@dataclass
class Route:
    """A server, and the way to it through the proxy. With `batched`, its models are named in the configuration."""

    server: Server
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

    def same_inference(self, call, parse=oip.response):
        """As `same` where nothing is batched; batched, the same meaning, and a filter may add its headers."""
        straight, proxied = call(self.server.grpc), call(self.grpc)
        compare.assert_same(straight, proxied, parse if self.batched else None, self.batched)
        return proxied

    def same_rest(self, call):
        """As `same_inference`, over HTTP/1.1."""
        straight, proxied = call(self.server.rest), call(self.rest)
        rest.assert_same(straight, proxied, self.batched)
        return proxied


def route(server, folder, name, models, direct, protocols=(("grpc", "oip-grpc"), ("rest", "oip-rest"))):
    """A proxy in front of a server, with a listener for each of its protocols; none of it where all goes `direct`.

    `protocols` are (attribute of the server, protocol of the upstream).
    """
    if direct:
        yield Route(server, server.grpc, server.rest, bool(models), None)
        return
    upstreams = {f"{name}-{attribute}": (protocol, getattr(server, attribute)) for attribute, protocol in protocols}
    label = f"outrigger-{name}-{'batched' if models else 'untouched'}"
    outrigger = Outrigger(folder, upstreams, models, label)
    address = {attribute: outrigger.address[f"{name}-{attribute}"] for attribute, _ in protocols}
    yield Route(server, address.get("grpc", ""), address.get("rest", ""), bool(models), outrigger)
    assert outrigger.process.alive(), f"the proxy died:\n{outrigger.process.tail()}"
    outrigger.stop()


def batching(names, objective="500ms", **settings):
    """The configuration that names these models, and batches them."""
    return {name: {"latency_objective": objective, "batch": settings} for name in names}
