"""Callers of different protocols share one batch: the server itself tells what it executed."""

import itertools
import json
import sys

import numpy as np
import pytest

from harness import fronts, http1, oip, rest, servers, tfs
from harness.held import behind, warm
from harness.outrigger import Outrigger
from harness.process import SERVERS
from harness.route import batching

sys.path.insert(0, str(SERVERS))
import linear  # noqa: E402

pytestmark = pytest.mark.proxy
RANDOM = np.random.default_rng(53)
IMAGES = RANDOM.integers(0, 17, (20, 64)).astype(np.float32)
FOUR = {
    # name: (fronts, the most calls that may be made of them)
    "four protocols": ([fronts.OIP_GRPC_RAW, fronts.OIP_REST_BINARY, fronts.TFS_GRPC_CONTENT, fronts.TFS_REST_ROW], 1),
    # Typed contents and raw ones may be kept apart.
    "every form of every protocol": (fronts.ALL, 2),
    "one protocol": ([fronts.OIP_GRPC_RAW] * 4, 1),
}


class Witness:
    """What a server itself says of its executions."""

    def __init__(self, bridge):
        self.bridge = bridge
        self.before = self.now()

    def now(self):
        server = self.bridge.server
        if self.bridge.name == "tensorflow":
            return tfs.executed(server, "linear")
        return oip.statistics(server.grpc, "linear").batches

    def since(self):
        return tfs.since(self.now(), self.before)


@pytest.mark.parametrize("which", FOUR)
@pytest.mark.parametrize("upstream", ["triton-grpc", "triton-rest", "tensorflow"])
def test_callers_of_four_protocols_ask_at_once_and_the_server_sees_one_batch(bridges, gates, upstream, which):
    bridge, (chosen, most) = bridges[upstream], FOUR[which]
    rows = [IMAGES[number : number + 1] for number in range(len(chosen))]
    first = fronts.TFS_GRPC_CONTENT if upstream == "tensorflow" else fronts.OIP_GRPC_RAW
    warm(lambda: first.ask(bridge.address, "linear", {"x": IMAGES[:1]}))
    witness = Witness(bridge)
    busy, replies = behind(
        gates,
        bridge.outrigger,
        "linear",
        lambda: first.ask(bridge.address, "linear", {"x": IMAGES[-1:]}),
        [lambda f=front, x=row: f.ask(bridge.address, "linear", {"x": x}) for front, row in zip(chosen, rows, strict=True)],
    )
    assert busy.ok, busy
    seen = witness.since()
    assert sum(size * calls for size, calls in seen.items()) == 1 + len(chosen), seen
    assert sum(seen.values()) <= 1 + most, seen
    for front, row, reply in zip(chosen, rows, replies, strict=True):
        scores = linear.scores(row)
        fronts.agree(front, reply.output("scores"), scores)
        fronts.agree(front, reply.output("label"), linear.labels(scores))
        if most == 1:
            assert reply.headers["outrigger-batch-size"] == str(len(chosen)), reply


@pytest.mark.parametrize("upstream", ["triton-grpc", "tensorflow"])
def test_callers_of_several_rows_and_other_outputs_get_their_own(bridges, gates, upstream):
    """What is asked for differs, so they need not meet: none may get a neighbour's rows or outputs."""
    bridge = bridges[upstream]
    wanted = [None, ["scores"], ["label"]]
    calls, expected, start = [], [], 0
    for number, (front, outputs) in enumerate(itertools.product([*fronts.OIP, *fronts.TFS_GRPC], wanted)):
        x = IMAGES[start : start + 1 + number % 2]
        calls.append(lambda f=front, x=x, o=outputs: f.ask(bridge.address, "linear", {"x": x}, o))
        expected.append((front, x, outputs or ["scores", "label"]))
        start = (start + 1) % 18
    warm(calls[0])
    witness = Witness(bridge)
    rows = sum(len(x) for _, x, _ in expected)
    _, replies = behind(gates, bridge.outrigger, "linear", calls[0], calls, rows)
    for (front, x, outputs), reply in zip(expected, replies, strict=True):
        scores = linear.scores(x)
        assert reply.ok and set(reply.outputs) == set(outputs), reply
        for name in outputs:
            fronts.agree(front, reply.outputs[name], scores if name == "scores" else linear.labels(scores))
    seen = witness.since()
    assert sum(size * calls for size, calls in seen.items()) == rows + 1, seen
    # At most one call for each set of outputs in each of two forms, and the first one.
    assert sum(seen.values()) <= 1 + 2 * 3, seen


def test_text_of_four_protocols_shares_a_batch(bridges, gates):
    bridge = bridges["tensorflow"]
    chosen = [fronts.OIP_GRPC_RAW, fronts.OIP_REST_JSON, fronts.TFS_GRPC_CONTENT, fronts.TFS_REST_NAMED_ROW, fronts.OIP_REST_BINARY]
    texts = [np.array([[text.encode()]], np.object_) for text in ("", "caf\u00e9", "x" * 3000, "\"\\", "end")]
    warm(lambda: chosen[0].ask(bridge.address, "words", {"text": texts[0]}))
    before = tfs.executed(bridge.server, "words")
    _, replies = behind(
        gates,
        bridge.outrigger,
        "words",
        lambda: chosen[0].ask(bridge.address, "words", {"text": texts[0]}),
        [lambda f=front, t=text: f.ask(bridge.address, "words", {"text": t}) for front, text in zip(chosen, texts, strict=True)],
    )
    for front, text, reply in zip(chosen, texts, replies, strict=True):
        fronts.agree(front, reply.output("same"), text)
    seen = tfs.since(tfs.executed(bridge.server, "words"), before)
    assert sum(size * calls for size, calls in seen.items()) == 6 and sum(seen.values()) <= 3, seen


@pytest.fixture(scope="module")
def letters(logs, gates):
    """A server of V1 that keeps every letter, behind a proxy that batches."""
    peer = servers.peer(logs, "v1_peer.py", env=gates.env)
    outrigger = Outrigger(
        logs, {"peer": ("tfserving-rest", peer.rest)}, batching(["text"], max_batch_size=32, controller="fixed"), "outrigger-letters"
    )
    yield peer, outrigger
    outrigger.stop()
    peer.stop()


NUMBERS = ["1.50", "1e-7", "0.1000000000000000055511151231257827", "-0.0", "1E+2", "100.0e-2", "NaN", "-Infinity"]
OTHERS = [
    "123456789012345678901234567890", '"\\u00e9\\/\\ud83d\\ude00"', "[1.0,[2,3.00]]", '{"b64":"AP8="}',
    '{"a": [ 1 , 2 ], "b": "]}"}', "null", "true",
]  # fmt: skip


def posted(address, text):
    return rest.post(address, "/v1/models/text:predict", b'{ "instances" : [ %s ] }' % text.encode())


def row(answer):
    """The one row of an answer, as it stands in the text."""
    body = rest.decoded(answer).decode()
    start, end = body.index("[") + 1, body.rindex("]")
    assert body[:start].replace(" ", "") == '{"predictions":[' and body[end:].replace(" ", "") == "]}", body
    return body[start:end].strip()


def bodies(peer):
    return json.loads(http1.ask(peer.rest, "GET", "/bodies").messages[0])


def test_numbers_that_share_a_call_are_handed_on_letter_by_letter(letters, gates):
    """Both ways: 1.50 is not 1.5 to everybody, and no digit of a long number is lost."""
    peer, outrigger = letters
    address = outrigger.address["peer"]
    warm(lambda: posted(address, "0.5"))
    before = len(bodies(peer))
    calls = [lambda t=text: posted(address, t) for text in NUMBERS]
    _, answers = behind(gates, outrigger, "text", lambda: posted(address, "0.5"), calls)
    assert [row(answer) for answer in answers] == NUMBERS
    sent = bodies(peer)[before:]
    assert len(sent) < 1 + len(NUMBERS), sent
    assert all(any(text in body for body in sent) for text in NUMBERS), sent


def test_rows_that_are_no_numbers_are_handed_on_letter_by_letter(letters):
    peer, outrigger = letters
    for text in OTHERS:
        assert row(posted(outrigger.address["peer"], text)) == text
        assert text in bodies(peer)[-1]
