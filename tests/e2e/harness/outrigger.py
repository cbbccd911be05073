"""The proxy under test as a child process."""

import json
import os
import pathlib
import signal
import subprocess
import urllib.error
import urllib.request

import yaml

from harness.process import REPOSITORY, Process, eventually, free_ports, http_status


def binary():
    """The binary under test: $OUTRIGGER, or the one that cargo built in the dev profile."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return pathlib.Path(os.environ.get("OUTRIGGER", target / "debug" / "outrigger"))


def command(*arguments, **options):
    """Runs one short call of the binary to its end."""
    return subprocess.run(
        [binary(), *arguments], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, **options
    )


class Outrigger:
    """A running proxy: one listener for each upstream, in the order they are named."""

    def __init__(self, folder, upstreams, models=None, name="outrigger", **more):
        """`upstreams` is {name: (protocol, address, ...)}; `more` goes into the configuration as it is."""
        ports = free_ports(len(upstreams) + 1)
        self.admin = f"127.0.0.1:{ports.pop()}"
        self.address = {}
        self.config = {"listeners": [], "admin": {"address": self.admin}, "upstreams": {}}
        for upstream, (protocol, *addresses) in upstreams.items():
            self.address[upstream] = f"127.0.0.1:{ports.pop()}"
            self.config["listeners"].append({"address": self.address[upstream], "upstream": upstream})
            self.config["upstreams"][upstream] = {"protocol": protocol, "endpoints": [f"http://{each}" for each in addresses]}
        if models:
            self.config["models"] = models
        self.config.update(more)
        self.file = pathlib.Path(folder) / f"{name}.yaml"
        self.file.write_text(yaml.safe_dump(self.config, sort_keys=False))
        self.process = start(["run", "--config", self.file], self.admin, folder, name)

    def get(self, path):
        """Status and body of a page of the admin listener."""
        return get(self.admin, path)

    def stop(self):
        return self.process.stop(signal.SIGTERM)


def get(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def start(arguments, admin, folder, name="outrigger", env=None):
    """Starts `outrigger ARGUMENTS` and waits until its admin listener lives."""
    process = Process(name, [binary(), *arguments], folder, {"RUST_BACKTRACE": "1", **(env or {})})
    try:
        return process.await_ready(lambda: http_status(f"http://{admin}/live") == 200, 20)
    except RuntimeError:
        process.stop(signal.SIGKILL)
        raise


def reloads(outrigger):
    """How often the configuration was reloaded: {result: count}."""
    counts = {}
    for name, labels, value in samples(outrigger):
        if name == "outrigger_config_reloads_total":
            counts[labels["result"]] = counts.get(labels["result"], 0) + int(value)
    return counts


def samples(outrigger):
    """Every sample of /metrics as (name, labels, value)."""
    from prometheus_client.parser import text_string_to_metric_families

    status, text = outrigger.get("/metrics")
    assert status == 200, status
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def learned(outrigger):
    """What /models tells."""
    status, text = outrigger.get("/models")
    assert status == 200, status
    return json.loads(text)


__all__ = ["Outrigger", "binary", "command", "eventually", "get", "learned", "reloads", "samples", "start"]
