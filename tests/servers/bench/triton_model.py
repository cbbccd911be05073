"""Digits in Triton's Python backend: all requests of an execution are one call of the model."""

import digits
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.model = digits.load()

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        labels, scores = digits.answer(self.model, rows[0] if len(rows) == 1 else np.concatenate(rows))
        labels, at, responses = labels.astype(np.int64)[:, None], 0, []
        for each in rows:
            to = at + len(each)
            outputs = [pb_utils.Tensor("label", labels[at:to]), pb_utils.Tensor("proba", scores[at:to])]
            responses.append(pb_utils.InferenceResponse(outputs))
            at = to
        return responses
