"""A gRPC server on the stock Python stack, with a method for each thing that a proxy can get wrong."""

import collections
import json
import os
import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

COUNTS = collections.Counter()
LOCK = threading.Lock()
GATES = collections.defaultdict(threading.Event)


def count(name, by=1):
    with LOCK:
        COUNTS[name] += by


def told(context):
    """The caller's metadata, sent back as trailers so that the test sees what arrived."""
    kept = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
    context.send_initial_metadata([("x-initial", "yes"), ("x-initial-bin", b"\0\1\xff")])
    context.set_trailing_metadata([*kept, ("x-trailer", "end"), ("x-trailer-bin", bytes(range(64)))])


def unary(request, context):
    told(context)
    return request


def collect(requests, context):
    """Client streaming: answers with the number and the sum of lengths of what came."""
    told(context)
    sizes = [len(each) for each in requests]
    return f"{len(sizes)} {sum(sizes)}".encode()


def spread(request, context):
    """Server streaming: N messages of SIZE bytes."""
    told(context)
    number, size = map(int, request.split())
    for index in range(number):
        yield str(index).encode().ljust(size, b".")


def chat(requests, context):
    """Bidirectional: each message back at once."""
    told(context)
    yield from requests


def fail(request, context):
    """Fails with CODE, the rest of the message as details, and trailers of its own."""
    code, details = request.decode().split(" ", 1)
    context.set_trailing_metadata([("grpc-status-details-bin", b"\x08\x05\x12\x03why\xff"), ("x-trailer", "end")])
    context.abort(next(each for each in grpc.StatusCode if each.value[0] == int(code)), details)


def fail_late(request, context):
    """Two messages, then RESOURCE_EXHAUSTED."""
    yield b"one"
    yield b"two"
    context.set_trailing_metadata([("grpc-status-details-bin", b"\x08\x08")])
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more: 100% used")


def early(requests, context):
    """Answers after the first message, whatever else would come."""
    first = next(requests)
    context.set_trailing_metadata([("x-trailer", "early")])
    return b"enough of " + first[:10]


def early_failure(requests, context):
    """Refuses before anything was read."""
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")


def wait(request, context):
    """Waits until it is cancelled, and counts it."""
    name = request.decode()
    gone = threading.Event()
    if not context.add_callback(gone.set):
        gone.set()  # it was over before
    count(f"{name} started")
    gone.wait(60)
    count(f"{name} cancelled" if not context.is_active() else f"{name} left")
    return b""


def wait_streaming(requests, context):
    """Echoes one message, then waits for the caller to leave."""
    name = next(requests)
    gone = threading.Event()

    def left():
        count(f"{name.decode()} cancelled")
        gone.set()

    # Before the first answer: a caller may leave as soon as it has that, and then nobody resumes this generator.
    context.add_callback(left)
    yield name
    gone.wait(60)


def deadline(request, context):
    """How much time the caller gave, in seconds."""
    left = context.time_remaining()
    return b"none" if left is None else str(left).encode()


def produce(request, context):
    """Sends messages of 64 KiB for as long as they are taken, up to N; counts what was accepted."""
    name, number = request.decode().split()
    for _ in range(int(number)):
        count(f"{name} produced", 65536)
        yield b"p" * 65536


def take_late(requests, context):
    """Reads nothing until the gate of that name is open."""
    name = dict(context.invocation_metadata())["x-gate"]
    GATES[name].wait(60)
    total = sum(len(each) for each in requests)
    return str(total).encode()


def held(request, context):
    """Answers when the gate of that name is open."""
    name = request.decode()
    count(f"{name} started")
    GATES[name].wait(60)
    return b"answered " + request


def open_gate(request, context):
    GATES[request.decode()].set()
    return b""


def counts(request, context):
    with LOCK:
        return json.dumps(COUNTS).encode()


def die(request, context):
    """Two messages, then the process is gone."""
    yield b"one"
    yield b"two"
    time.sleep(0.05)
    os._exit(9)


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Spread": grpc.unary_stream_rpc_method_handler(spread),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Early": grpc.stream_unary_rpc_method_handler(early),
    "EarlyFailure": grpc.stream_unary_rpc_method_handler(early_failure),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
    "WaitStreaming": grpc.stream_stream_rpc_method_handler(wait_streaming),
    "Deadline": grpc.unary_unary_rpc_method_handler(deadline),
    "Produce": grpc.unary_stream_rpc_method_handler(produce),
    "TakeLate": grpc.stream_unary_rpc_method_handler(take_late),
    "Held": grpc.unary_unary_rpc_method_handler(held),
    "OpenGate": grpc.unary_unary_rpc_method_handler(open_gate),
    "Counts": grpc.unary_unary_rpc_method_handler(counts),
    "Die": grpc.unary_stream_rpc_method_handler(die),
}


def main():
    server = grpc.server(
        futures.ThreadPoolExecutor(64),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 16384),
            ("grpc.absolute_max_metadata_size", 32768),
        ],
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", METHODS),))
    status = health.HealthServicer()
    status.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_insecure_port(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0")
    server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
