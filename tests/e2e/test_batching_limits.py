"""What batching bounds, refuses, divides and explains, with Triton's own statistics as the witness."""

import concurrent.futures
import sys

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.grpc import service_pb2_grpc

from harness import fronts, http1, oip, rest, rpc
from harness.held import in_flight, queued, warm
from harness.outrigger import Outrigger, get, learned, samples
from harness.process import SERVERS, eventually

sys.path.insert(0, str(SERVERS))
import linear  # noqa: E402

pytestmark = pytest.mark.proxy
RANDOM = np.random.default_rng(71)
IMAGES = RANDOM.integers(0, 17, (150, 64)).astype(np.float32)
MOST = 64
FOUR = [fronts.OIP_GRPC_RAW, fronts.OIP_REST_BINARY, fronts.TFS_GRPC_CONTENT, fronts.TFS_REST_ROW]
WAYS = {
    # name: what the configuration says of batching
    "plain": {},
    "split": {"split": True},
    "abandoned": {"cancel": "abandoned"},
    "measured": {"holdout": 0.5},
}


class Ways:
    """A proxy for each way to batch, started at its first use."""

    def __init__(self, server, folder):
        self.server, self.folder, self.built = server, folder, {}

    def __getitem__(self, name):
        if name not in self.built:
            batch = {"controller": "fixed", "max_batch_size": MOST, **WAYS[name]}
            models = {"linear": {"latency_objective": "200ms", "batch": batch}}
            upstreams = {"triton": ("oip-grpc", self.server.grpc)}
            self.built[name] = Outrigger(self.folder, upstreams, models, f"outrigger-limits-{name}")
            for front in FOUR:
                warm(lambda f=front: f.ask(self.built[name].address["triton"], "linear", {"x": IMAGES[:1]}))
        return self.built[name]

    def stop(self):
        for outrigger in self.built.values():
            assert outrigger.process.alive(), f"the proxy died:\n{outrigger.process.tail()}"
            outrigger.stop()


@pytest.fixture(scope="module")
def ways(triton, logs, direct):
    made = Ways(triton, logs)
    yield made
    made.stop()


@pytest.fixture
def executed(triton):
    """What Triton executed of the model since the test began."""
    before = oip.statistics(triton.grpc, "linear")
    return lambda: oip.statistics(triton.grpc, "linear") - before


def image(first, rows=1, **options):
    return oip.request("linear", [("x", "FP32", IMAGES[first : first + rows])], **options)


def scores(answer):
    assert answer.code == grpc.StatusCode.OK, answer
    return oip.array(answer, "scores", "FP32")


def counted(outrigger, name, **wanted):
    return sum(value for sample, labels, value in samples(outrigger) if sample == name and wanted.items() <= labels.items())


def test_a_request_of_more_rows_than_the_model_takes_is_answered_in_parts(triton, ways, executed):
    refused = oip.infer(triton.grpc, image(0, 150))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT and "batch-size must be <= 64" in refused.details, refused
    whole = oip.infer(ways["plain"].address["triton"], image(0, 150))
    assert (whole.code, whole.details) == (refused.code, refused.details)
    address = ways["split"].address["triton"]
    singly = np.concatenate([scores(oip.infer(address, image(number))) for number in range(150)])
    before = executed()
    for front in FOUR:
        reply = front.ask(address, "linear", {"x": IMAGES})
        assert reply.ok, reply
        fronts.agree(front, reply.output("scores"), singly)
        fronts.agree(front, reply.output("label"), linear.labels(singly))
    seen = executed()
    # Of each, two full calls and what is left: nothing was sent twice.
    assert seen.rows - before.rows == 4 * 150, seen
    assert seen.batches.get(MOST, 0) - before.batches.get(MOST, 0) == 8 and seen.batches.get(22) == 4, seen


@pytest.fixture
def told_of(triton):
    """How many cancelled calls Triton has been told of since the test began: it says so in its log, if it is asked to."""

    def verbose(level):
        assert rest.post(triton.rest, "/v2/logging", {"log_verbose_level": level}).code == 200

    def count():
        return triton.process.log.read_text(errors="replace").count("Cancellation notification received")

    verbose(1)
    before = count()
    yield lambda: count() - before
    verbose(0)


@pytest.mark.parametrize("way, told", [("plain", 0), ("abandoned", 1)])
def test_triton_is_told_of_a_caller_that_left_only_if_so_configured(triton, ways, gates, executed, told_of, way, told):
    outrigger = ways[way]
    address, before = outrigger.address["triton"], executed().rows
    with concurrent.futures.ThreadPoolExecutor(2) as pool, gates.closed("linear") as release:
        held = [pool.submit(oip.infer, triton.grpc, image(0)) for _ in range(2)]
        eventually(lambda: pending(triton) == 1, what="one is executed, and one waits")
        with rpc.channel(address) as opened:
            leaves = opened.unary_unary(oip.SERVICE + "ModelInfer").future(
                image(1).SerializeToString(), timeout=rpc.PATIENCE
            )
            eventually(lambda: pending(triton) == 2, what="the call waits in Triton")
            leaves.cancel()
            assert leaves.code() == grpc.StatusCode.CANCELLED
            eventually(
                lambda: counted(outrigger, "outrigger_requests_total", code="CANCELLED") == 1, what="the caller has left"
            )
            # Its place is held for as long as Triton is busy with it.
            assert in_flight(outrigger, "linear") == 1 - told
            eventually(lambda: told_of() == told, what="Triton is told")
        release()
        for call in held:
            scores(call.result(60))
    eventually(lambda: in_flight(outrigger, "linear") == 0, what="nothing is under way")
    assert (scores(oip.infer(address, image(2))) == linear.scores(IMAGES[2:3])).all()
    # This model computes what it has taken in, for whomever; what it says of that comes a little later.
    eventually(lambda: executed().rows - before == 4, what="all four are executed")
    assert told_of() == told


def pending(server):
    """How many requests wait in Triton for the model, by its own metrics."""
    _, text = get(server.metrics, "/metrics")
    (line,) = [line for line in text.splitlines() if line.startswith('nv_inference_pending_request_count{model="linear"')]
    return int(float(line.rsplit(" ", 1)[1]))


def test_who_cannot_be_in_time_never_reaches_triton(ways, gates, executed):
    outrigger = ways["plain"]
    address, before = outrigger.address["triton"], executed().rows

    def gone():
        """Who was told so by the proxy, and whose own library was faster."""
        return sum(counted(outrigger, f"outrigger_batch_{what}_total") for what in ("expired", "cancelled"))

    already = gone()
    with concurrent.futures.ThreadPoolExecutor(13) as pool, gates.closed("linear") as release:
        first = pool.submit(oip.infer, address, image(0))
        eventually(lambda: in_flight(outrigger, "linear") == 1, what="the first call is under way")
        near = [pool.submit(oip.infer, address, image(number), timeout=0.2) for number in range(1, 11)]
        for call in near:
            assert call.result(60).code == grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: gone() - already == 10 and queued(outrigger, "linear") == 0, what="nobody waits")
        far = pool.submit(oip.infer, address, image(11))
        eventually(lambda: queued(outrigger, "linear") == 1, what="the last one waits")
        release()
        scores(first.result(60))
        scores(far.result(60))
    assert executed().rows - before == 2, executed()


def test_triton_clients_see_why(ways):
    address = ways["plain"].address["triton"]
    wanted = 'batch;reason=idle;rows=1;members=1;limit=64;note="the endpoint was free and nothing else waited to be merged"'
    with rpc.channel(address) as opened:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(opened).ModelInfer
        _, call = infer.with_call(image(0), metadata=[("outrigger-explain", "1")])
        assert dict(call.initial_metadata())["outrigger-explain"] == wanted
        _, call = infer.with_call(image(0))
        assert "outrigger-explain" not in dict(call.initial_metadata())
    tensor = http_client.InferInput("x", [1, 64], "FP32")
    tensor.set_data_from_numpy(IMAGES[:1])
    body, length = http_client.InferenceServerClient.generate_request_body([tensor])
    fields = [("inference-header-content-length", str(length)), ("outrigger-explain", "1")]
    answer = http1.ask(address, "POST", "/v2/models/linear/infer", body, fields)
    assert dict(answer.headers)["outrigger-explain"] == wanted
    # The libraries' own calls take the header and give the same.
    asked = {"outrigger-explain": "1"}
    for library in (grpc_client, http_client):
        with library.InferenceServerClient(address) as client:
            tensor = library.InferInput("x", [1, 64], "FP32")
            tensor.set_data_from_numpy(IMAGES[:1])
            found = client.infer("linear", [tensor], headers=asked).as_numpy("scores")
            assert (found == linear.scores(IMAGES[:1])).all()


def test_what_batching_brings_is_told(ways):
    outrigger = ways["measured"]
    address = outrigger.address["triton"]

    def benefit():
        (arm,) = learned(outrigger)["linear"]["arms"].values()
        return arm["benefit"], arm["endpoints"][0]

    def caller(number):
        while benefit()[0]["speed_up"] is None:
            with rpc.channel(address) as opened:
                for _ in range(40):
                    rpc.call_on(opened, oip.SERVICE + "ModelInfer", image(number).SerializeToString())

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(caller, range(12)))
    told, endpoint = benefit()
    assert told["held_out"] >= 5 and told["speed_up"] > 0 and told["standard_error"] >= 0, told
    assert told["with"]["seconds_per_row"] > 0 and told["without"]["p99"] > 0, told
    assert told["pays"] == endpoint["batching"] and told["says"], told
    assert 0 < endpoint["p50"] <= endpoint["p99"], endpoint
    assert counted(outrigger, "outrigger_batch_speedup_ratio") == pytest.approx(told["speed_up"], rel=1e-3)
    assert counted(outrigger, "outrigger_batch_endpoints", pays=told["pays"]) == 1
    assert counted(outrigger, "outrigger_batch_model_requests_total", mode="held-out") == told["held_out"]
