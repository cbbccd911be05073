"""What the person who runs it relies on: check, reload, readiness, metrics and the way out."""

import concurrent.futures
import itertools
import json
import os
import signal
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import yaml

from harness import http2, oip, rpc, servers
from harness.outrigger import Outrigger, command, get, learned, reloads, samples, start
from harness.process import Process, eventually, free_ports, http_status
from tritonclient.grpc import service_pb2 as pb

pytestmark = pytest.mark.proxy

PEER = "/test.Peer/"
NAMES = (f"operation-{number}" for number in itertools.count())
ROW = np.arange(16, dtype=np.float32)[None]
BATCH = {"latency_objective": "100ms", "batch": {}}


def echo(address, model="echo"):
    return oip.infer(address, oip.request(model, [("INPUT0", "FP32", ROW)]))


def batched(answer):
    assert answer.code == grpc.StatusCode.OK, answer
    return "outrigger-batch-size" in dict(answer.headers)


@pytest.fixture
def outriggers(tmp_path):
    """Starts proxies that end with the test."""
    running = []

    def make(upstreams, models=None, **more):
        running.append(Outrigger(tmp_path, upstreams, models, f"outrigger-{len(running)}", **more))
        return running[-1]

    yield make
    for each in running:
        each.process.stop(signal.SIGKILL)


@pytest.fixture
def mounted(tmp_path, triton):
    """A proxy whose configuration is mounted the way Kubernetes mounts a ConfigMap, and the swap of it."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    versions = itertools.count()
    port, admin = free_ports(2)
    config = {
        "listeners": [{"address": f"127.0.0.1:{port}", "upstream": "triton"}],
        "admin": {"address": f"127.0.0.1:{admin}"},
        "upstreams": {"triton": {"protocol": "oip-grpc", "endpoints": [f"http://{triton.grpc}"]}},
    }

    class Mounted:
        address, admin_address = f"127.0.0.1:{port}", f"127.0.0.1:{admin}"

        def get(self, path):
            return get(self.admin_address, path)

        def swap(self, models=None, text=None):
            version = folder / f"..2026_{next(versions)}"
            version.mkdir()
            content = text or yaml.safe_dump({**config, **({"models": models} if models else {})}, sort_keys=False)
            (version / "outrigger.yaml").write_text(content)
            (folder / "..data_tmp").symlink_to(version.name)
            (folder / "..data_tmp").rename(folder / "..data")

    made = Mounted()
    made.swap()
    (folder / "outrigger.yaml").symlink_to("..data/outrigger.yaml")
    made.process = start(["run", "--config", folder / "outrigger.yaml"], made.admin_address, tmp_path, "outrigger-mounted")
    yield made
    made.process.stop(signal.SIGKILL)


def test_a_swapped_configuration_takes_effect(mounted):
    assert not batched(echo(mounted.address))
    mounted.swap({"echo": BATCH})
    eventually(lambda: batched(echo(mounted.address)), what="the model to be batched")
    assert "echo" in mounted.get("/config")[1]
    # And again: the watch survived the first swap.
    mounted.swap({"echo_alone": BATCH})
    eventually(lambda: not batched(echo(mounted.address)), what="the model to be passed through again")
    assert batched(echo(mounted.address, "echo_alone"))


def test_a_faulty_configuration_changes_nothing_and_says_why(mounted):
    mounted.swap({"echo": BATCH})
    eventually(lambda: batched(echo(mounted.address)))
    before, config = reloads(mounted), mounted.get("/config")
    mounted.swap(text="listeners: []\nmodels:\n  echo: { batch: { max_batch_sise: 3 }, latency_objective: 5 parsecs }\n")
    eventually(lambda: sum(reloads(mounted).values()) > sum(before.values()), what="the reload to be counted")
    after = reloads(mounted)
    assert after.get("success", after.get("ok", 0)) == before.get("success", before.get("ok", 0)), (before, after)
    assert mounted.get("/config") == config
    assert batched(echo(mounted.address))
    assert mounted.get("/ready")[0] == 200
    log = mounted.process.log.read_text()
    assert "max_batch_sise" in log and "latency_objective" in log, "every fault is told at once"
    mounted.swap({"echo_alone": BATCH})
    eventually(lambda: not batched(echo(mounted.address)), what="the next good configuration")


def test_no_call_is_lost_over_reloads(mounted):
    over = threading.Event()
    codes = []

    def load():
        with rpc.channel(mounted.address) as opened:
            method = opened.unary_unary(oip.SERVICE + "ModelInfer")
            message = oip.request("echo", [("INPUT0", "FP32", ROW)]).SerializeToString()
            while not over.is_set():
                try:
                    method(message, timeout=rpc.PATIENCE)
                    codes.append(grpc.StatusCode.OK)
                except grpc.RpcError as error:
                    codes.append((error.code(), error.details()))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load) for _ in range(8)]
        try:
            for number in range(10):
                before = sum(reloads(mounted).values())
                mounted.swap({"echo": {**BATCH, "batch": {"max_batch_size": 8 + number}}} if number % 3 != 1 else None)
                eventually(lambda b=before: sum(reloads(mounted).values()) > b, what="the reload to be counted")
        finally:
            over.set()
        for each in loads:
            each.result()
    assert set(codes) == {grpc.StatusCode.OK}
    assert len(codes) > 50


def test_what_was_learned_survives_a_reload(mounted):
    mounted.swap({"echo_alone": BATCH})
    eventually(lambda: batched(echo(mounted.address, "echo_alone")))

    def limit():
        (arm,) = learned(mounted)["echo_alone"]["arms"].values()
        return arm["endpoints"][0]["batch_limit"]

    fresh = limit()

    def grown():
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: echo(mounted.address, "echo_alone"), range(200)))
        return limit() > fresh

    eventually(grown, what="the batch limit to grow under load")
    before = limit()
    mounted.swap({"echo_alone": BATCH, "echo": BATCH})
    eventually(lambda: batched(echo(mounted.address)))
    assert limit() == before


def test_sighup_reloads(outriggers, triton, tmp_path):
    """Told so, it reads a file anew whose change it cannot have seen: behind a link, in another folder."""
    outrigger = outriggers({"triton": ("oip-grpc", triton.grpc)})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outrigger.file.rename(elsewhere / "real.yaml")
    outrigger.file.symlink_to(elsewhere / "real.yaml")
    outrigger.config["models"] = {"echo": BATCH}
    (elsewhere / "real.yaml").write_text(yaml.safe_dump(outrigger.config, sort_keys=False))
    outrigger.process.child.send_signal(signal.SIGHUP)
    eventually(lambda: batched(echo(outrigger.address["triton"])))
    # A second one without a change harms nobody.
    outrigger.process.child.send_signal(signal.SIGHUP)
    assert batched(echo(outrigger.address["triton"]))
    assert outrigger.get("/ready")[0] == 200


GOOD = """\
listeners:
  - { address: 127.0.0.1:9001, upstream: triton }
admin: { address: 127.0.0.1:9900 }
upstreams:
  triton: { protocol: oip-grpc, endpoints: ["http://127.0.0.1:8001"] }
models:
  digits:
    latency_objective: 20ms
    batch: { max_batch_size: 512, max_delay: 0ms, controller: aimd, max_in_flight: 1 }
"""


def test_check_accepts_a_good_file(tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    done = command("check", tmp_path / "good.yaml")
    assert done.returncode == 0, done
    as_json = json.dumps(yaml.safe_load(GOOD))
    (tmp_path / "good.json").write_text(as_json)
    assert command("check", tmp_path / "good.json").returncode == 0


def test_check_tells_every_fault_with_its_place(tmp_path):
    faulty = GOOD.replace("upstream: triton", "upstream: tritn").replace("20ms", "20 bananas").replace("aimd", "guess")
    faulty += "surprise: true\n"
    (tmp_path / "faulty.yaml").write_text(faulty)
    done = command("check", tmp_path / "faulty.yaml")
    assert done.returncode == 1, done
    told = done.stdout + done.stderr
    # line:column of each, and its path
    for line, path in [(2, "listeners"), (8, "latency_objective"), (9, "controller"), (10, "surprise")]:
        assert any(f"{line}:" in each and path in each for each in told.splitlines()), f"no {path} at {line} in:\n{told}"


def test_check_of_no_file_and_misuse(tmp_path):
    for arguments in (("check",), ("chekc", "x"), ("check", "a", "b"), ("run", "--listen"), ("run", "--no-such-flag")):
        assert command(*arguments).returncode == 2, arguments
    assert command("check", tmp_path / "absent.yaml").returncode in (1, 2)


def test_filters_that_do_not_exist_yet_are_refused(tmp_path):
    (tmp_path / "early.yaml").write_text(GOOD + "    cache: { max_bytes: 64MiB }\n")
    done = command("check", tmp_path / "early.yaml")
    if done.returncode:
        assert done.returncode == 1 and "cache" in done.stdout + done.stderr, done


def test_schema_is_json(tmp_path):
    done = command("schema")
    assert done.returncode == 0
    assert "listeners" in json.dumps(json.loads(done.stdout))


def test_a_faulty_file_is_not_started_with(tmp_path):
    (tmp_path / "faulty.yaml").write_text("listeners: 7\n")
    done = command("run", "--config", tmp_path / "faulty.yaml")
    assert done.returncode != 0
    assert "listeners" in done.stdout + done.stderr


def test_without_a_file_it_is_a_drop_in(triton, tmp_path):
    port, admin = free_ports(2)
    arguments = ["run", "--listen", f"127.0.0.1:{port}", "--upstream", f"http://{triton.grpc}"]
    arguments += ["--protocol", "oip-grpc", "--admin", f"127.0.0.1:{admin}"]
    process = start(arguments, f"127.0.0.1:{admin}", tmp_path)
    try:
        assert echo(f"127.0.0.1:{port}") == echo(triton.grpc)
        eventually(lambda: http_status(f"http://127.0.0.1:{admin}/ready") == 200)
    finally:
        assert process.stop(signal.SIGTERM) == 0


def test_ready_follows_the_models_of_the_upstream(outriggers, triton):
    outrigger = outriggers({"triton": ("oip-grpc", triton.grpc)}, {"echo_alone": BATCH})
    unload = pb.RepositoryModelUnloadRequest(model_name="echo_alone").SerializeToString()
    load = pb.RepositoryModelLoadRequest(model_name="echo_alone").SerializeToString()
    eventually(lambda: outrigger.get("/ready")[0] == 200)
    try:
        rpc.call(triton.grpc, oip.SERVICE + "RepositoryModelUnload", unload)
        eventually(lambda: outrigger.get("/ready")[0] == 503, what="the model's absence to show")
        assert outrigger.get("/live")[0] == 200
    finally:
        rpc.call(triton.grpc, oip.SERVICE + "RepositoryModelLoad", load)
    eventually(lambda: outrigger.get("/ready")[0] == 200, what="the model's return to show")
    assert echo(outrigger.address["triton"], "echo_alone").code == grpc.StatusCode.OK


def test_ready_follows_the_server(outriggers, logs):
    server = servers.triton(logs, "echo", "triton-mortal")
    try:
        outrigger = outriggers({"triton": ("oip-grpc", server.grpc)}, {"echo": BATCH})
        eventually(lambda: outrigger.get("/ready")[0] == 200)
        assert batched(echo(outrigger.address["triton"]))
    finally:
        server.stop()
    eventually(lambda: outrigger.get("/ready")[0] == 503, what="the server's absence to show")
    assert outrigger.get("/live")[0] == 200
    gone = echo(outrigger.address["triton"])
    assert gone.code == grpc.StatusCode.UNAVAILABLE, gone


def test_an_upstream_may_come_later_than_the_proxy(outriggers, logs, tmp_path):
    (port,) = free_ports(1)
    outrigger = outriggers({"peer": ("oip-grpc", f"127.0.0.1:{port}")})
    assert outrigger.get("/live")[0] == 200
    assert outrigger.get("/ready")[0] == 503
    early = rpc.call(outrigger.address["peer"], PEER + "Unary", b"x")
    assert early.code == grpc.StatusCode.UNAVAILABLE, early
    late = Process("late", [sys.executable, "-u", servers.PEERS / "grpc_peer.py", f"127.0.0.1:{port}"], tmp_path)
    try:
        late.await_ready(lambda: "listening on" in late.tail(), 30)
        eventually(lambda: rpc.call(outrigger.address["peer"], PEER + "Unary", b"x").messages == (b"x",))
    finally:
        late.stop()


def test_metrics_keep_their_names(outriggers, triton):
    outrigger = outriggers({"triton": ("oip-grpc", triton.grpc)}, {"echo": BATCH})
    assert batched(echo(outrigger.address["triton"]))
    echo(outrigger.address["triton"], "nobody")
    found = {}
    for name, labels, _ in samples(outrigger):
        found.setdefault(name, set()).update(labels)
    for name, labels in {
        "outrigger_requests_total": {"model", "protocol", "code"},
        "outrigger_request_duration_seconds_bucket": {"model", "le"},
        "outrigger_batch_rows_bucket": {"model", "arm", "le"},
        "outrigger_batch_limit_rows": {"model"},
        "outrigger_batch_queue_duration_seconds_bucket": {"le"},
        "outrigger_batch_closed_total": {"reason"},
        "outrigger_upstream_duration_seconds_bucket": {"upstream", "le"},
    }.items():
        assert name in found, f"no {name} in {sorted(found)}"
        assert labels <= found[name], (name, found[name])
    # A name that only a caller said is no label: it would be a way to fill the memory.
    assert "nobody" not in outrigger.get("/metrics")[1]


def test_admin_pages(outriggers, triton):
    outrigger = outriggers({"triton": ("oip-grpc", triton.grpc)}, {"echo": BATCH})
    echo(outrigger.address["triton"])
    assert outrigger.get("/nowhere")[0] == 404
    assert "echo" in learned(outrigger)
    assert triton.grpc in outrigger.get("/config")[1]


def counted(peer, name):
    return json.loads(rpc.call(peer.grpc, PEER + "Counts", b"").messages[0]).get(name, 0)


def test_sigterm_answers_what_is_in_flight_and_leaves(outriggers, peer):
    outrigger = outriggers({"peer": ("oip-grpc", peer.grpc)})
    name = next(NAMES)
    with rpc.channel(outrigger.address["peer"]) as opened:
        pending = opened.unary_unary(PEER + "Held").future(name.encode(), timeout=rpc.PATIENCE)
        eventually(lambda: counted(peer, f"{name} started") == 1)
        outrigger.process.child.send_signal(signal.SIGTERM)
        eventually(lambda: http_status(f"http://{outrigger.admin}/ready") in (503, None), what="readiness to go off")
        assert outrigger.process.alive()
        rpc.call(peer.grpc, PEER + "OpenGate", name.encode())
        assert pending.result() == b"answered " + name.encode()
        start = time.monotonic()
        assert outrigger.process.child.wait(20) == 0
        assert time.monotonic() - start < 10, "it waited although nothing was left"


def test_sigterm_answers_what_is_in_a_batch(outriggers, triton):
    outrigger = outriggers({"triton": ("oip-grpc", triton.grpc)}, {"witness": BATCH})
    slow = oip.request("witness", [("SLEEP_MS", "FP32", np.full((1, 1), 700, np.float32))])
    before = oip.statistics(triton.grpc, "witness")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(oip.infer, outrigger.address["triton"], slow) for _ in range(4)]

        def in_flight():
            (arm,) = learned(outrigger)["witness"]["arms"].values()
            return arm["endpoints"][0]["in_flight"] and arm["endpoints"][0]["queue_rows"] == 3

        eventually(in_flight, seconds=10, what="one in flight and three waiting behind it")
        outrigger.process.child.send_signal(signal.SIGTERM)
        assert [call.result().code for call in calls] == [grpc.StatusCode.OK] * 4
    assert outrigger.process.child.wait(20) == 0
    assert (oip.statistics(triton.grpc, "witness") - before).rows == 4


def test_sigterm_says_goaway_in_two_steps(outriggers, peer):
    outrigger = outriggers({"peer": ("oip-grpc", peer.grpc)})
    with http2.Connection(outrigger.address["peer"]) as connection:
        number = connection.request(http2.pairs("POST", PEER + "Chat", http2.GRPC))
        connection.data(number, http2.message(b"before"))
        stream = connection.streams[number]
        connection.until(lambda: bytes(stream.data) == http2.message(b"before"))
        outrigger.process.child.send_signal(signal.SIGTERM)
        connection.until(lambda: connection.goaways)
        assert connection.goaways[0] == (2**31 - 1, 0)
        # A stream that crosses the first GOAWAY may still be served; the one in flight must be.
        connection.data(number, http2.message(b"after"), end=True)
        answer = connection.answer(number)
        assert answer.messages == (http2.message(b"before") + http2.message(b"after"),)
        assert dict(answer.trailers)["grpc-status"] == "0"
        connection.until(lambda: connection.closed)
        assert len(connection.goaways) >= 2 and connection.goaways[-1] == (number, 0), connection.goaways
    assert outrigger.process.child.wait(20) == 0


def test_sigterm_without_calls_ends_at_once_despite_idle_connections(outriggers, peer):
    outrigger = outriggers({"peer": ("oip-grpc", peer.grpc)})
    with rpc.channel(outrigger.address["peer"]) as opened:
        assert rpc.call_on(opened, PEER + "Unary", b"x").messages == (b"x",)
        start = time.monotonic()
        assert outrigger.process.stop(signal.SIGTERM) == 0
        assert time.monotonic() - start < 10


def test_draining_has_an_end(outriggers, peer):
    outrigger = outriggers({"peer": ("oip-grpc", peer.grpc)}, limits={"drain": "1s"})
    name = next(NAMES)
    with rpc.channel(outrigger.address["peer"]) as opened:
        pending = opened.unary_unary(PEER + "Held").future(name.encode(), timeout=rpc.PATIENCE)
        eventually(lambda: counted(peer, f"{name} started") == 1)
        outrigger.process.child.send_signal(signal.SIGTERM)
        outrigger.process.child.wait(20)
        assert pending.code() == grpc.StatusCode.UNAVAILABLE, pending.code()
        rpc.call(peer.grpc, PEER + "OpenGate", name.encode())


def test_a_port_that_is_taken_is_told(triton, tmp_path):
    """Another's port is an error at start, not a proxy that nobody reaches."""
    (admin,) = free_ports(1)
    arguments = ["run", "--listen", triton.rest, "--upstream", f"http://{triton.grpc}", "--protocol", "oip-grpc"]
    done = command(*arguments, "--admin", f"127.0.0.1:{admin}", env={**os.environ, "RUST_BACKTRACE": "0"})
    assert done.returncode != 0
    assert triton.rest in done.stdout + done.stderr


def test_several_endpoints_share_the_calls_of_one_connection(logs, tmp_path):
    """Calls are balanced one by one, and a server that is gone takes none of the others with it."""
    peers = [servers.peer(logs, "grpc_peer.py", f"shared-{number}") for number in range(3)]
    outrigger = None
    try:
        outrigger = Outrigger(tmp_path, {"peers": ("oip-grpc", *(each.grpc for each in peers))}, name="outrigger-shared")
        with rpc.channel(outrigger.address["peers"]) as opened:

            def warm():
                rpc.call_on(opened, PEER + "Held", b"warm")
                return all(counted(each, "warm started") for each in peers)

            for each in peers:
                rpc.call(each.grpc, PEER + "OpenGate", b"warm")
            eventually(warm, what="a call at each endpoint")
            names = [f"shared-{number}" for number in range(60)]
            pending = [opened.unary_unary(PEER + "Held").future(name.encode(), timeout=rpc.PATIENCE) for name in names]

            def shares_of_peers():
                tables = [json.loads(rpc.call(each.grpc, PEER + "Counts", b"").messages[0]) for each in peers]
                return [sum(table.get(f"{name} started", 0) for name in names) for table in tables]

            eventually(lambda: sum(shares_of_peers()) == 60)
            shares = shares_of_peers()
            assert min(shares) >= 10, shares
            for each in peers:
                with rpc.channel(each.grpc) as gates:
                    for name in names:
                        rpc.call_on(gates, PEER + "OpenGate", name.encode())
            assert [each.result() for each in pending] == [b"answered " + name.encode() for name in names]
            peers[1].process.child.kill()
            peers[1].process.child.wait(10)

            def all_answered():
                return all(rpc.call_on(opened, PEER + "Unary", b"x").code == grpc.StatusCode.OK for _ in range(20))

            eventually(all_answered, what="the calls to go where somebody is")
    finally:
        if outrigger:
            outrigger.process.stop(signal.SIGKILL)
        for each in peers:
            each.stop()


def test_a_message_over_the_limit_is_refused_by_name(outriggers, triton):
    """The bound is on what the proxy holds: a model that it does not know passes at any size."""
    outrigger = outriggers({"triton": ("oip-grpc", triton.grpc)}, {"big": BATCH}, limits={"max_message": "1MiB"})
    address = outrigger.address["triton"]
    large = oip.request("big", [("X", "FP32", np.zeros((1, 2**19), np.float32))])
    found = oip.infer(address, large)
    assert found.code == grpc.StatusCode.RESOURCE_EXHAUSTED, found
    assert "max_message" in found.details
    small = oip.request("big", [("X", "FP32", np.zeros((1, 1000), np.float32))])
    assert oip.infer(address, small).code == grpc.StatusCode.OK
    # Compressed it may pass, for then it need not be held.
    found = oip.infer(address, large, compression=grpc.Compression.Gzip)
    assert found.code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED), found
    assert not found.messages or (oip.array(found, "Y", "FP32") == 1).all()


def test_a_pass_through_knows_no_limit_of_size(outriggers, triton):
    outrigger = outriggers({"triton": ("oip-grpc", triton.grpc)}, limits={"max_message": "1MiB"})
    large = oip.request("big", [("X", "FP32", np.zeros((1, 2**20), np.float32))])
    assert oip.infer(outrigger.address["triton"], large).code == grpc.StatusCode.OK
