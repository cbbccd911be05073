"""What the proxy keeps of answers: how that is configured, what is told of it, and how it is made to forget."""

import json
import urllib.error
import urllib.request

from harness.outrigger import learned, samples
from harness.process import eventually


def caching(names, batch=None, **settings):
    """The configuration that names these models, and keeps their answers."""
    filters = {"cache": {"bypass": "never", **settings}} | ({} if batch is None else {"batch": batch})
    return {name: filters for name in names}


def arms(outrigger, model):
    """What is told of a model's arms, over all listeners."""
    return learned(outrigger)[model]["arms"].values()


def known(outrigger, *models):
    """Waits until the servers have said which of these models take rows."""
    eventually(
        lambda: all(arm["batchable"] != "unasked" for model in models for arm in arms(outrigger, model)),
        what=f"it is known whether {models} take rows",
    )


def word(answer):
    """What an answer says of the cache, or nothing where it says nothing."""
    return dict(answer.headers).get("outrigger-cache")


def flush(outrigger, model=None):
    """Makes the proxy forget: (status, page)."""
    query = "" if model is None else f"?model={model}"
    try:
        with urllib.request.urlopen(f"http://{outrigger.admin}/cache/flush{query}", b"", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def rows(outrigger, model):
    """How many answers to rows of a model are kept."""
    return sum(arm["cache"]["rows"] for arm in arms(outrigger, model))


def flushes(outrigger, model, reason):
    """How often a model's answers were forgotten for a reason."""
    return sum(
        value
        for name, labels, value in samples(outrigger)
        if name == "outrigger_cache_flushes_total" and (labels["model"], labels["reason"]) == (model, reason)
    )
