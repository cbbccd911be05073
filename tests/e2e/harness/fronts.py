"""The protocols that a client may speak, each as one way to ask a model: arrays in, arrays or a refusal out."""

import base64
import json
from dataclasses import dataclass, field

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from harness import oip, rest, tfs
from harness.stubs import predict_pb2

GRPC_OF_HTTP = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE"}


@dataclass
class Reply:
    """What came back. `code` is gRPC's name for the status, whichever way it was told."""

    code: str
    words: str = ""
    outputs: dict = field(default_factory=dict)
    headers: dict = field(default_factory=dict)
    answer: object = None

    @property
    def ok(self):
        return self.code == "OK"

    def output(self, name):
        """An output by its name; where a protocol leaves the name of the only one out, that one."""
        assert self.ok, self
        return self.outputs[name] if name in self.outputs else self.outputs[None]


@dataclass(frozen=True)
class Front:
    """One protocol in one form. `ask` takes (address, model, inputs, outputs or None)."""

    name: str
    ask: object
    tells_datatypes: bool = True

    def __str__(self):
        return self.name


def of_rpc(answer, read):
    ok = answer.code == grpc.StatusCode.OK
    return Reply(answer.code.name, answer.details or "", read(answer) if ok else {}, dict(answer.headers), answer)


def of_http(answer, read):
    if answer.code == 200:
        return Reply("OK", "", read(answer), dict(answer.headers), answer)
    try:
        words = json.loads(rest.decoded(answer))["error"]
    except (ValueError, KeyError, TypeError):
        words = f"no JSON with an error: {answer.messages[0][:200]!r}"
    return Reply(GRPC_OF_HTTP.get(answer.code, str(answer.code)), words, {}, dict(answer.headers), answer)


def oip_grpc(typed):
    def ask(address, model, inputs, outputs=None, **more):
        tensors = [(name, rest.DATATYPES[array.dtype], array) for name, array in inputs.items()]
        made = oip.request(model, tensors, typed=typed, outputs=outputs or (), **more)
        return of_rpc(oip.infer(address, made), read)

    def read(answer):
        found = pb.ModelInferResponse.FromString(answer.messages[0])
        if not typed:  # who came raw is answered raw: its client may read nothing else
            assert len(found.raw_output_contents) == len(found.outputs)
        return oip.tensors(oip.response(answer.messages[0]))

    return ask


def oip_rest(binary):
    def ask(address, model, inputs, outputs=None, version="", **more):
        told = {"parameters": {"binary_data": True}} if binary else {}
        wanted = None if outputs is None else [{"name": name, **told} for name in outputs]
        if binary:
            more["parameters"] = {**more.get("parameters", {}), "binary_data_output": True}
        body, fields = rest.infer_body(inputs, list(inputs) if binary else (), wanted, **more)
        path = f"/versions/{version}" if version else ""
        return of_http(rest.post(address, f"/v2/models/{model}{path}/infer", body, fields), rest.tensors)

    return ask


def tfs_grpc(typed):
    def ask(address, model, inputs, outputs=None, **chosen):
        made = tfs.predict_request(model, inputs, outputs or (), typed=typed, **chosen)
        return of_rpc(tfs.call(address, made), tfs.outputs)

    return ask


def path(model, verb="predict", version=None, label=None):
    """A path of TensorFlow Serving's REST API."""
    chosen = f"/versions/{version}" if version is not None else f"/labels/{label}" if label is not None else ""
    return f"/v1/models/{model}{chosen}:{verb}"


def tfs_rest_row(named):
    """Rows: bare where there is one input and no need to name it. There is no filter of outputs in this protocol."""

    def ask(address, model, inputs, outputs=None, version=None, label=None, **more):
        columns = {name: rest.plain(array) for name, array in inputs.items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if len(inputs) == 1 and not named:
            rows = [next(iter(row.values())) for row in rows]
        answer = rest.post(address, path(model, version=version, label=label), {"instances": rows, **more})
        return of_http(answer, read)

    def read(answer):
        found = json.loads(rest.decoded(answer))["predictions"]
        if found and isinstance(found[0], dict) and set(found[0]) != {"b64"}:
            return {name: [row[name] for row in found] for name in found[0]}
        return {None: found}

    return ask


def tfs_rest_column(address, model, inputs, outputs=None, version=None, label=None, **more):
    columns = {name: rest.plain(array) for name, array in inputs.items()}
    body = {"inputs": columns if len(columns) > 1 else next(iter(columns.values())), **more}
    return of_http(rest.post(address, path(model, version=version, label=label), body), column_outputs)


def column_outputs(answer):
    found = json.loads(rest.decoded(answer))["outputs"]
    return found if isinstance(found, dict) and set(found) != {"b64"} else {None: found}


OIP_GRPC_RAW = Front("oip-grpc-raw", oip_grpc(typed=False))
OIP_GRPC_TYPED = Front("oip-grpc-typed", oip_grpc(typed=True))
OIP_REST_JSON = Front("oip-rest-json", oip_rest(binary=False))
OIP_REST_BINARY = Front("oip-rest-binary", oip_rest(binary=True))
TFS_GRPC_CONTENT = Front("tfs-grpc-content", tfs_grpc(typed=False))
TFS_GRPC_TYPED = Front("tfs-grpc-typed", tfs_grpc(typed=True))
TFS_REST_ROW = Front("tfs-rest-row", tfs_rest_row(named=False), tells_datatypes=False)
TFS_REST_NAMED_ROW = Front("tfs-rest-named-row", tfs_rest_row(named=True), tells_datatypes=False)
TFS_REST_COLUMN = Front("tfs-rest-column", tfs_rest_column, tells_datatypes=False)
OIP = [OIP_GRPC_RAW, OIP_GRPC_TYPED, OIP_REST_JSON, OIP_REST_BINARY]
TFS_GRPC = [TFS_GRPC_CONTENT, TFS_GRPC_TYPED]
TFS_REST = [TFS_REST_ROW, TFS_REST_NAMED_ROW, TFS_REST_COLUMN]
ALL = [*OIP, *TFS_GRPC, *TFS_REST]


def agree(front, found, expected, typed_by_upstream=True):
    """Fails unless an output holds just the expected array; numbers without a datatype are read as the expected one."""
    if front.tells_datatypes:
        if typed_by_upstream:
            assert oip.bits(found) == oip.bits(expected), (found, expected)
        else:
            assert found.shape == expected.shape and found.astype(expected.dtype).tobytes() == expected.tobytes(), (found, expected)
        return
    assert shape(found) == expected.shape, (found, expected)
    values = [value.encode() if isinstance(value, str) else unwrapped(value) for value in rest.flat(found)]
    if expected.dtype != np.object_:
        assert not any(isinstance(value, bool) != (expected.dtype == np.bool_) for value in values), found
        if expected.dtype.kind in "iu":
            assert all(isinstance(value, int) for value in values), found
    made = np.array(values, expected.dtype).reshape(expected.shape)
    assert oip.bits(made) == oip.bits(expected), (found, expected)


def shape(nested):
    made = []
    while isinstance(nested, list):
        made.append(len(nested))
        if not nested:
            break
        nested = nested[0]
    return tuple(made)


def unwrapped(value):
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def predicted(reply):
    """The message of a reply to Predict."""
    return predict_pb2.PredictResponse.FromString(reply.answer.messages[0])


def inferred(reply):
    """The message of a reply to ModelInfer."""
    return pb.ModelInferResponse.FromString(reply.answer.messages[0])
