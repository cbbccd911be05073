"""One answer in full, and what it means that two answers are the same."""

from dataclasses import dataclass, field, replace

ADDED = ("outrigger-", "server-timing")
"""What the proxy may add to an answer, and only where a filter acted."""

PER_ANSWER = ("date",)
"""What a server says anew with every answer."""


@dataclass(frozen=True)
class Answer:
    """Everything that a caller can see of one answer."""

    code: object
    details: str = ""
    headers: tuple = ()
    messages: tuple = ()
    trailers: tuple = ()
    extra: dict = field(default_factory=dict)


def headers(pairs, drop=PER_ANSWER):
    """Header pairs in an order that does not matter across names, but does within one."""
    kept = [(name.lower(), value) for name, value in pairs if not name.lower().startswith(tuple(drop))]
    return tuple(sorted(kept, key=lambda pair: pair[0]))


def without_additions(answer):
    """The answer without the headers that a filter is allowed to add."""
    return replace(answer, headers=headers(answer.headers, ADDED + PER_ANSWER))


def differences(direct, proxied, parse=None, additions=False):
    """What differs between two answers, in words; empty if nothing does.

    With `parse`, messages are compared by what they mean; with `additions`, a filter may have added its headers.
    """
    if additions:
        direct, proxied = without_additions(direct), without_additions(proxied)
    found = []
    for name in ("code", "details", "headers", "trailers"):
        left, right = getattr(direct, name), getattr(proxied, name)
        if left != right:
            found.append(f"{name}: direct {left!r}, through the proxy {right!r}")
    if len(direct.messages) != len(proxied.messages):
        found.append(f"messages: direct {len(direct.messages)}, through the proxy {len(proxied.messages)}")
    for index, (left, right) in enumerate(zip(direct.messages, proxied.messages, strict=False)):
        if (parse(left) != parse(right)) if parse else (left != right):
            found.append(f"message {index}: direct {left[:200]!r}, through the proxy {right[:200]!r}")
    return found


def assert_same(direct, proxied, parse=None, additions=False):
    found = differences(direct, proxied, parse, additions)
    assert not found, "\n".join(found)
