"""Bodies of the REST protocols: built, and read for what they mean."""

import base64
import gzip
import json
import zlib

import numpy as np
from tritonclient.utils import serialize_byte_tensor

from harness import compare, http1, oip

JSON = ("content-type", "application/json")
BINARY = ("content-type", "application/octet-stream")
DATATYPES = {np.dtype(dtype): name for name, dtype in oip.NUMPY.items()} | {np.dtype(np.object_): "BYTES"}


def post(address, target, body, fields=(JSON,)):
    """A POST; a body that is no bytes becomes JSON."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http1.ask(address, "POST", target, body, fields)


def plain(array):
    """An array as JSON holds it: bytes as text, or as `b64` where they are none."""
    if array.dtype != np.object_:
        return array.tolist()
    return np.array([text_or_b64(each) for each in array.reshape(-1)], np.object_).reshape(array.shape).tolist()


def text_or_b64(value):
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64(value)


def b64(value):
    return {"b64": base64.b64encode(value).decode()}


def infer_body(inputs, binary=(), outputs=None, **more):
    """A body of V2: (bytes, header fields). Inputs named in `binary` go behind the JSON."""
    told, tail = {"inputs": [], **more}, []
    for name, array in inputs.items():
        tensor = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype]}
        if name in binary:
            raw = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            tensor["data"] = plain(array)
        told["inputs"].append(tensor)
    if outputs is not None:
        told["outputs"] = outputs
    head = json.dumps(told).encode()
    if not tail:
        return head, [JSON]
    return head + b"".join(tail), [BINARY, ("inference-header-content-length", str(len(head)))]


def decoded(answer):
    """The body of an answer without its content coding."""
    coding = dict(answer.headers).get("content-encoding", "identity")
    (body,) = answer.messages
    return {"identity": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[coding](body)


def flat(data):
    """The elements of nested or flat data."""
    return [each for part in data for each in flat(part)] if isinstance(data, list) else [data]


def tensors(answer):
    """The outputs of an answer of V2: {name: array}."""
    body = decoded(answer)
    length = dict(answer.headers).get("inference-header-content-length")
    told = json.loads(body if length is None else body[: int(length)])
    tail = b"" if length is None else body[int(length) :]
    found = {}
    for output in told["outputs"]:
        datatype, parameters = output["datatype"], output.get("parameters") or {}
        if "binary_data_size" in parameters:
            size = parameters["binary_data_size"]
            array, tail = oip.raw_elements(datatype, tail[:size]), tail[size:]
        elif datatype == "BYTES":
            array = np.array([each.encode() for each in flat(output["data"])], np.object_)
        else:
            array = np.array(flat(output["data"]), oip.NUMPY[datatype])
        found[output["name"]] = array.reshape(output["shape"])
    assert not tail, f"{len(tail)} bytes behind the last tensor"
    return found


def meaning(answer):
    """What a body says: tensors bit for bit, numbers of JSON as FP32 holds them, and without what says nothing."""
    body = decoded(answer)
    length = dict(answer.headers).get("inference-header-content-length")
    try:
        told = json.loads(body if length is None else body[: int(length)])
    except ValueError:
        return body
    if answer.code == 200 and isinstance(told, dict) and "outputs" in told and "model_name" in told:
        arrays = tensors(answer)
        told["outputs"] = [
            [output["name"], output["datatype"], oip.bits(arrays[output["name"]]), rest_of(output)] for output in told["outputs"]
        ]
    return numbers(told)


def rest_of(output):
    parameters = {name: value for name, value in (output.get("parameters") or {}).items() if name != "binary_data_size"}
    return {name: value for name, value in output.items() if name not in ("data", "parameters", "shape")} | parameters


def numbers(told):
    """JSON whose floats are rounded to FP32, and from which explicit nulls are gone."""
    if isinstance(told, dict):
        return {name: numbers(value) for name, value in told.items() if value is not None}
    if isinstance(told, (list, tuple)):
        return [numbers(each) for each in told]
    return repr(np.float32(told)) if isinstance(told, float) else told


def assert_same(direct, proxied, claimed):
    """The same answer of HTTP: to the last byte, or, of a model that the proxy knows, the same status, type and meaning.

    What a filter takes apart it may write anew: other white space, another length, and its own headers beside.
    """
    if not claimed:
        return compare.assert_same(direct, proxied)
    assert proxied.code == direct.code, f"direct {direct}, through the proxy {proxied}"
    one, other = dict(direct.headers), dict(proxied.headers)
    assert other.get("content-type") == one.get("content-type"), (one, other)
    assert ("inference-header-content-length" in other) == ("inference-header-content-length" in one), (one, other)
    straight, through = meaning(direct), meaning(proxied)
    assert through == straight, f"direct {straight!r}\nthrough the proxy {through!r}"
