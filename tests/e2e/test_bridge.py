"""The bridge: any protocol in front, a server of any protocol behind, one and the same model.

What both sides can say arrives exact, to the last bit. What one of them cannot say is an error that names it
(`test_bridge_limits.py`).
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from harness import fronts, oip, rest
from harness.bridges import UPSTREAMS
from harness.process import SERVERS

sys.path.insert(0, str(pathlib.Path(SERVERS)))
import linear  # noqa: E402

RANDOM = np.random.default_rng(47)
IMAGES = RANDOM.integers(0, 17, (40, 64)).astype(np.float32)
WHOLE = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
TEXT = np.array([[b"plain"], [b""], ["caf\u00e9 \U0001f600".encode()], [b"\"quoted\\\n\x01"]], np.object_)
BYTES = np.array([[b"\xff\xfe\0"], [b"text"], [b""], [bytes(range(256))]], np.object_)
NATIVE = [
    ("triton", "grpc", fronts.OIP_GRPC_RAW), ("triton", "grpc", fronts.OIP_GRPC_TYPED),
    ("triton", "rest", fronts.OIP_REST_JSON), ("triton", "rest", fronts.OIP_REST_BINARY),
    ("mlserver", "grpc", fronts.OIP_GRPC_RAW), ("mlserver", "rest", fronts.OIP_REST_JSON),
    ("kserve", "grpc", fronts.OIP_GRPC_TYPED), ("kserve", "rest", fronts.OIP_REST_JSON),
    ("kserve", "rest", fronts.TFS_REST_ROW), ("kserve", "rest", fronts.TFS_REST_NAMED_ROW),
    ("tensorflow", "grpc", fronts.TFS_GRPC_CONTENT), ("tensorflow", "grpc", fronts.TFS_GRPC_TYPED),
]  # fmt: skip


def samples(datatype, rows=2):
    """Numbers at the ends of a datatype, in two columns."""
    dtype = oip.NUMPY[datatype]
    if datatype == "BOOL":
        ends = [True, False, False, True]
    elif datatype in WHOLE:
        ends = [np.iinfo(dtype).min, np.iinfo(dtype).max, 1, 0]
    else:
        ends = {"FP16": [65504, -0.0, 6e-8, 0.5], "BF16": [3e38, -0.0, 1e-40, 0.5]}.get(datatype)
        ends = ends or {"FP32": [3.4028235e38, -0.0, 1e-45, 0.1], "FP64": [1.7976931348623157e308, -0.0, 5e-324, 0.1]}[datatype]
    return np.resize(np.array(ends, dtype), (rows, 2))


def check(front, reply, x, upstream=""):
    """A reply of the linear model is right, bit for bit."""
    scores = linear.scores(x)
    for name, expected in (("scores", scores), ("label", linear.labels(scores))):
        # V1 says no datatypes: what its numbers are becomes in another protocol is the proxy's choice.
        fronts.agree(front, reply.output(name), expected, upstream != "kserve-v1")


def pairs(upstreams, forms):
    """Who is asked in which form. A request of the server's own protocol goes as it came: V1 of KServe has no columns, and
    MLServer's REST no binary tensors."""
    lacking = {("kserve-v1", fronts.TFS_REST_COLUMN), ("mlserver-rest", fronts.OIP_REST_BINARY)}
    return [(upstream, front) for upstream in upstreams for front in forms if (upstream, front) not in lacking]


def datatypes(forms):
    """What can be said in which form: JSON and typed contents have no half precision."""
    halves = (fronts.OIP_GRPC_RAW, fronts.OIP_REST_BINARY, *fronts.TFS_GRPC)
    return [(datatype, front) for datatype in oip.NUMPY for front in forms if datatype not in ("FP16", "BF16") or front in halves]


@pytest.mark.parametrize("server, port, front", NATIVE, ids=lambda value: str(value))
def test_each_server_answers_its_own_protocol_with_the_same_numbers(request, server, port, front):
    """What the others are measured by: without a proxy."""
    address = getattr(request.getfixturevalue(server), port)
    for rows in (1, 5):
        check(front, front.ask(address, "linear", {"x": IMAGES[:rows]}), IMAGES[:rows])


@pytest.mark.proxy
@pytest.mark.parametrize("upstream, front", pairs(UPSTREAMS, fronts.ALL), ids=str)
def test_every_protocol_in_front_of_every_server_gives_the_same_numbers(bridges, upstream, front):
    for rows in (1, 5, 32, 1):
        check(front, front.ask(bridges[upstream].address, "linear", {"x": IMAGES[:rows]}), IMAGES[:rows], upstream)


@pytest.mark.proxy
@pytest.mark.parametrize(
    "upstream, front",
    pairs([name for name in UPSTREAMS if name != "kserve-v1"], [*fronts.OIP, *fronts.TFS_GRPC]),
    ids=str,
)
def test_one_output_of_two_can_be_asked_for(bridges, upstream, front):
    for name in ("label", "scores"):
        reply = front.ask(bridges[upstream].address, "linear", {"x": IMAGES[:3]}, [name])
        assert reply.ok and set(reply.outputs) == {name}, reply


@pytest.mark.proxy
@pytest.mark.parametrize("datatype, front", datatypes([*fronts.OIP, *fronts.TFS_GRPC]), ids=str)
@pytest.mark.parametrize("upstream", ["triton-grpc", "triton-rest"])
def test_every_datatype_reaches_triton_and_comes_back(bridges, upstream, front, datatype):
    x = samples(datatype)
    reply = front.ask(bridges[upstream].address, "types", {f"IN_{datatype}": x}, [f"OUT_{datatype}"])
    fronts.agree(front, reply.output(f"OUT_{datatype}"), x)


@pytest.mark.proxy
@pytest.mark.parametrize("front", fronts.ALL, ids=str)
@pytest.mark.parametrize("upstream", ["triton-grpc", "triton-rest"])
def test_many_inputs_of_as_many_datatypes_at_once(bridges, upstream, front):
    """What JSON of TensorFlow Serving holds is told by the model alone: every input has its own datatype."""
    inputs = {f"IN_{datatype}": samples(datatype) for datatype in oip.NUMPY if datatype not in ("FP16", "BF16")}
    inputs["IN_BYTES"] = np.array([[b"a", b""], ["\u00fc".encode(), b"x" * 300]], np.object_)
    reply = front.ask(bridges[upstream].address, "numbers", inputs)
    for name, expected in inputs.items():
        fronts.agree(front, reply.output(name.replace("IN_", "OUT_")), expected)


@pytest.mark.proxy
@pytest.mark.parametrize("datatype, front", datatypes(fronts.ALL), ids=str)
def test_every_datatype_reaches_tensorflow_and_comes_back(bridges, front, datatype):
    x = samples(datatype)
    name = {"FP16": "half", "BF16": "bfloat16", "FP32": "float", "FP64": "double"}.get(datatype, datatype.lower())
    fronts.agree(front, front.ask(bridges["tensorflow"].address, f"same_{name}", {"x": x}).output("y"), x)


@pytest.mark.proxy
@pytest.mark.parametrize("front", fronts.ALL, ids=str)
@pytest.mark.parametrize("upstream", ["triton-grpc", "triton-rest", "tensorflow"])
def test_text_is_text_in_every_protocol(bridges, upstream, front):
    reply = front.ask(bridges[upstream].address, "words", {"text": TEXT})
    for name, expected in (("same", TEXT), ("raw_bytes", TEXT), ("length", np.vectorize(len)(TEXT).astype(np.int32))):
        fronts.agree(front, reply.output(name), expected)


@pytest.mark.proxy
@pytest.mark.parametrize("front", [fronts.OIP_GRPC_RAW, fronts.OIP_GRPC_TYPED, fronts.OIP_REST_BINARY, *fronts.TFS_GRPC], ids=str)
@pytest.mark.parametrize("upstream", ["triton-grpc", "tensorflow"])
def test_bytes_are_bytes_in_every_protocol_that_has_them(bridges, upstream, front):
    reply = front.ask(bridges[upstream].address, "words", {"text": BYTES})
    for name in ("same", "raw_bytes"):
        fronts.agree(front, reply.output(name), BYTES)


@pytest.mark.proxy
@pytest.mark.parametrize("form", ["row", "column"])
@pytest.mark.parametrize("upstream", ["triton-grpc", "triton-rest", "tensorflow"])
def test_bytes_in_json_are_base64_both_ways(bridges, upstream, form):
    """An output whose name ends in `_bytes` is told as base64, whatever it holds; one that does not, as text."""
    given = [[rest.b64(value)] for value in (b"plain", b"caf\xc3\xa9", b"")]
    body = {"instances": given} if form == "row" else {"inputs": given}
    answer = rest.post(bridges[upstream].address, fronts.path("words"), body)
    assert answer.code == 200, answer
    told = json.loads(rest.decoded(answer))
    columns = told["outputs"] if form == "column" else {name: [row[name] for row in told["predictions"]] for name in told["predictions"][0]}
    assert columns["same"] == [["plain"], ["caf\u00e9"], [""]]
    assert columns["raw_bytes"] == given
    assert columns["length"] == [[5], [5], [0]]


@pytest.mark.proxy
@pytest.mark.parametrize("front", fronts.ALL, ids=str)
def test_several_inputs_and_outputs_of_several_dimensions(bridges, front):
    a, b = RANDOM.standard_normal((3, 2)).astype(np.float32), RANDOM.integers(-(2**20), 2**20, 3)
    reply = front.ask(bridges["tensorflow"].address, "pair", {"a": a, "b": b})
    wide = b.astype(np.float32)[:, None]
    for name, expected in (("sum", a + wide), ("difference", a - wide), ("outer", a[:, :, None] * a[:, None, :]), ("b", b)):
        fronts.agree(front, reply.output(name), expected)


@pytest.mark.proxy
@pytest.mark.parametrize("front", [fronts.OIP_REST_JSON, *fronts.TFS_REST], ids=str)
def test_numbers_in_json_are_exact(bridges, front):
    """Any finite FP32 and FP64 by its bits; behind stands a server that gives back what it got."""
    for name, patterns in (
        ("float", RANDOM.integers(0, 2**32, 2000, np.uint32).view(np.float32)),
        ("double", RANDOM.integers(0, 2**63, 2000).view(np.float64)),
    ):
        finite = patterns[np.isfinite(patterns)]
        x = finite[: len(finite) // 64 * 64].reshape(-1, 2)
        fronts.agree(front, front.ask(bridges["tensorflow"].address, f"same_{name}", {"x": x}).output("y"), x)
    x = RANDOM.integers(-(2**63), 2**63 - 1, (32, 2))
    fronts.agree(front, front.ask(bridges["tensorflow"].address, "same_int64", {"x": x}).output("y"), x)


@pytest.mark.proxy
@pytest.mark.parametrize("form", ["row", "column"])
@pytest.mark.parametrize("upstream, model, width", [("tensorflow", "same_float", 2), ("triton-grpc", "echo", 16), ("triton-rest", "echo", 16)])
def test_numbers_that_json_does_not_have(bridges, upstream, model, width, form):
    """NaN and the infinities are tokens of their own in TensorFlow Serving's JSON, in both directions."""
    rest_of = ", 0" * (width - 2)
    rows = f"[[NaN, Infinity{rest_of}], [-Infinity, -0.0{rest_of}]]"
    body = '{"%s": %s}' % ("instances" if form == "row" else "inputs", rows)
    answer = rest.post(bridges[upstream].address, fronts.path(model), body.encode())
    assert answer.code == 200, answer
    found = np.array(json.loads(rest.decoded(answer))["predictions" if form == "row" else "outputs"], np.float32)
    assert np.isnan(found[0, 0]) and found[0, 1] == np.inf and found[1, 0] == -np.inf
    assert found[1, 1] == 0 and np.signbit(found[1, 1])
    assert b"NaN" in answer.messages[0] and b"-Infinity" in answer.messages[0]


@pytest.mark.proxy
@pytest.mark.parametrize("upstream", ["tensorflow", "triton-rest", "kserve-rest"])
def test_an_id_comes_back_to_the_caller_that_sent_it(bridges, upstream):
    for front in fronts.OIP:
        reply = front.ask(bridges[upstream].address, "linear", {"x": IMAGES[:1]}, id="a-b.c/1")
        assert reply.ok, reply
        if front in (fronts.OIP_GRPC_RAW, fronts.OIP_GRPC_TYPED):
            found = fronts.inferred(reply)
            told = found.id, found.model_name
        else:
            body = rest.decoded(reply.answer)
            length = reply.headers.get("inference-header-content-length")
            head = json.loads(body if length is None else body[: int(length)])
            told = head["id"], head["model_name"]
        assert told == ("a-b.c/1", "linear")


@pytest.mark.proxy
def test_versions_mean_the_same_on_both_sides(bridges):
    x = {"x": np.array([[8.0]], np.float32)}
    address = bridges["tensorflow"].address
    for front in fronts.OIP:
        for version, expected in (("", 7.0), ("1", 6.0), ("2", 7.0)):
            reply = front.ask(address, "half_plus_two", x, version=version)
            assert reply.output("y").tolist() == [[expected]], reply
    raw = fronts.OIP_GRPC_RAW.ask(address, "half_plus_two", x, version="1")
    assert fronts.inferred(raw).model_version == "1"
    for front in fronts.TFS_GRPC:
        reply = front.ask(bridges["triton-grpc"].address, "linear", {"x": IMAGES[:1]}, version=1)
        found = fronts.predicted(reply)
        assert (found.model_spec.name, found.model_spec.version.value) == ("linear", 1)
    for front in fronts.TFS_REST:
        assert front.ask(bridges["triton-grpc"].address, "linear", {"x": IMAGES[:1]}, version=1).ok
        assert front.ask(address, "half_plus_two", x, version=1).output("y") == [[6.0]]
        assert front.ask(address, "half_plus_two", x, label="stable").output("y") == [[6.0]]


@pytest.mark.proxy
@pytest.mark.parametrize("body", ['{"instances": [%s]}', '{"signature_name": "serving_default", "inputs": [%s]}'])
def test_curl_gets_a_prediction_of_triton(bridges, body):
    """As TensorFlow Serving's tutorial asks: `curl -d ... -X POST .../v1/models/m:predict`, which says no JSON is coming."""
    row = json.dumps(IMAGES[0].tolist())
    url = f"http://{bridges['triton-grpc'].address}/v1/models/linear:predict"
    done = subprocess.run(["curl", "-sS", "-m", "30", "-d", body % row, "-X", "POST", url], capture_output=True, check=True)
    told = json.loads(done.stdout)
    scores = linear.scores(IMAGES[:1])
    found = told["predictions"][0] if "predictions" in told else {name: rows[0] for name, rows in told["outputs"].items()}
    assert found == {"label": linear.labels(scores)[0].tolist(), "scores": scores[0].tolist()}
