"""The comparison can fail: what the other files call the same is the same."""

from dataclasses import replace

import grpc
import numpy as np
import pytest

from harness import oip
from harness.compare import Answer, assert_same, differences, headers

ANSWER = Answer(
    code=grpc.StatusCode.OK,
    details="",
    headers=headers([("a", "1"), ("a", "2")]),
    messages=(b"x", b"y"),
    trailers=headers([("t-bin", b"\0")]),
)


@pytest.mark.parametrize(
    "change",
    [
        {"code": grpc.StatusCode.INTERNAL},
        {"details": "other"},
        {"headers": headers([("a", "2"), ("a", "1")])},
        {"headers": headers([("a", "1"), ("a", "2"), ("outrigger-batch-size", "1")])},
        {"messages": (b"x",)},
        {"messages": (b"x", b"z")},
        {"trailers": ()},
    ],
)
def test_any_change_of_an_answer_is_a_difference(change):
    assert differences(ANSWER, replace(ANSWER, **change))
    assert not differences(ANSWER, replace(ANSWER))


def test_a_filter_may_add_its_own_headers_and_no_others():
    theirs = replace(ANSWER, messages=())
    added = replace(theirs, headers=theirs.headers + (("outrigger-batch-size", "2"), ("server-timing", "total;dur=1")))
    assert not differences(theirs, added, additions=True)
    foreign = replace(theirs, headers=theirs.headers + (("via", "2 proxy"),))
    assert differences(theirs, foreign, additions=True)


def test_two_answers_of_a_real_server_to_different_rows_differ(triton):
    one, two = (
        oip.infer(triton.grpc, oip.request("echo", [("INPUT0", "FP32", np.full((1, 16), value, np.float32))]))
        for value in (1, 2)
    )
    assert one.code == two.code == grpc.StatusCode.OK
    with pytest.raises(AssertionError, match="message 0"):
        assert_same(one, two)
    with pytest.raises(AssertionError, match="message 0"):
        assert_same(one, two, parse=oip.response)
