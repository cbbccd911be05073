"""Holds a model's calls up while the test arranges what comes next: no sleep, and no guess how long things take."""

import contextlib
import fcntl
import os
import pathlib


class Gates:
    """A folder in which a locked file of a model's name stops the model. Servers get it as $OUTRIGGER_GATES."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def env(self):
        return {"OUTRIGGER_GATES": str(self.folder)}

    @contextlib.contextmanager
    def closed(self, model):
        """Within it, calls of the model that reach the server wait; the value opens the gate before the end."""
        path = self.folder / model
        with open(path, "w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            try:
                yield lambda: fcntl.flock(gate, fcntl.LOCK_UN)
            finally:
                os.unlink(path)
                fcntl.flock(gate, fcntl.LOCK_UN)
