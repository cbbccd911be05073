"""The model that every server of the suite serves (`tests/servers/linear.py`).

While somebody has the file `linear` in the folder $OUTRIGGER_GATES locked, its calls are held up.
"""

import fcntl
import os
import pathlib
import sys

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3]))
import linear  # noqa: E402

GATE = pathlib.Path(os.environ.get("OUTRIGGER_GATES", "/nonexistent")) / "linear"


class TritonPythonModel:
    def execute(self, requests):
        if GATE.exists():
            with open(GATE) as gate:
                fcntl.flock(gate, fcntl.LOCK_SH)
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()) for request in requests]

    @staticmethod
    def answer(x):
        scores = linear.scores(x)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("label", linear.labels(scores)), pb_utils.Tensor("scores", scores)]
        )
