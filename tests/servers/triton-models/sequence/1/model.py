"""Answers with the running sum of its sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        value, start, sequence = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy().flat[0] for name in ("X", "START", "CORRID")
        )
        self.sums[sequence] = (0 if start else self.sums.get(sequence, 0)) + value
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", np.array([[self.sums[sequence]]], np.int32))])
