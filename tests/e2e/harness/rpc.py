"""gRPC calls in raw bytes, so that answers can be compared to the last one."""

import grpc

from harness.compare import Answer, headers

OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Between grpc's soft and hard bound a call is refused at random: no test shall stand there.
    ("grpc.max_metadata_size", 65536),
    ("grpc.absolute_max_metadata_size", 131072),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.default_authority", "model.test"),
]
PATIENCE = 30


def channel(address, *options):
    return grpc.insecure_channel(address, options=[*OPTIONS, *options])


def call(address, method, *messages, metadata=(), timeout=PATIENCE, compression=None, streaming=None):
    """One call to its end. Unary if there is one message, unless `streaming` says otherwise."""
    with channel(address) as opened:
        return call_on(opened, method, *messages, metadata=metadata, timeout=timeout, compression=compression, streaming=streaming)


def call_on(opened, method, *messages, metadata=(), timeout=PATIENCE, compression=None, streaming=None):
    options = {"metadata": metadata, "timeout": timeout, "compression": compression}
    if streaming is None:
        streaming = len(messages) != 1
    received = []
    if streaming:
        pending = opened.stream_stream(method)(iter(messages), **options)
        try:
            received.extend(pending)
        except grpc.RpcError:
            pass
    else:
        try:
            message, pending = opened.unary_unary(method).with_call(messages[0], **options)
            received.append(message)
        except grpc.RpcError as error:
            pending = error
    return answer(pending, received)


def answer(pending, received):
    return Answer(
        code=pending.code(),
        details=pending.details(),
        headers=headers(pending.initial_metadata() or ()),
        messages=tuple(received),
        trailers=headers(pending.trailing_metadata() or ()),
    )
