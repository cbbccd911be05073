"""Scripts of client libraries that need an environment of their own: run there, their findings come back as JSON."""

import json
import os
import pathlib
import subprocess

from harness.stubs import environment

CLIENTS = pathlib.Path(__file__).resolve().parents[1] / "clients"


def run(name, script, *arguments):
    """Runs `clients/SCRIPT` with the interpreter of the environment NAME; gives what it printed, read as JSON.

    Results are bare text, numbers and lists, in which NaN equals NaN: they are compared as they were printed.
    """
    command = [environment(name) / "bin" / "python", CLIENTS / script, *arguments]
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env={**os.environ, **quiet})
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
