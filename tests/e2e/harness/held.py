"""Calls that are made to wait behind another, so that what then goes together is certain."""

import concurrent.futures

from harness.outrigger import learned
from harness.process import eventually


def endpoints(outrigger, model):
    """What the proxy tells of a model's endpoints, over all of its arms and listeners."""
    arms = learned(outrigger).get(model, {}).get("arms", {})
    return [endpoint for arm in arms.values() for endpoint in arm["endpoints"]]


def queued(outrigger, model):
    return sum(endpoint["queue_rows"] for endpoint in endpoints(outrigger, model))


def in_flight(outrigger, model):
    return sum(endpoint["in_flight"] for endpoint in endpoints(outrigger, model))


def warm(call):
    """Repeats a call until it is batched: the proxy first asks the server whether the model takes batches."""
    return eventually(lambda: "outrigger-batch-size" in dict(call().headers), what="the model is batched")


def behind(gates, outrigger, model, first, calls, rows=None):
    """Holds the model, makes the call `first`, then `calls`, and lets the model go when all their rows wait in the queue.

    Gives the answer of `first`, and those of `calls` in order.
    """
    with concurrent.futures.ThreadPoolExecutor(len(calls) + 1) as pool, gates.closed(model) as release:
        busy = pool.submit(first)
        eventually(lambda: busy.done() or in_flight(outrigger, model) == 1, what="the first call is under way")
        pending = [pool.submit(call) for call in calls]
        wanted = len(calls) if rows is None else rows
        eventually(
            lambda: any(each.done() for each in [busy, *pending]) or queued(outrigger, model) == wanted,
            what=f"{wanted} rows in the queue",
        )
        release()
        return busy.result(60), [each.result(60) for each in pending]
