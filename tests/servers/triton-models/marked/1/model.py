"""Doubles its rows, but fails every request that holds a row which starts with a negative number."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()) for request in requests]

    @staticmethod
    def answer(rows):
        time.sleep(0.005)  # long enough that callers queue behind it
        if (rows[:, 0] < 0).any():
            error = pb_utils.TritonError("a marked row: 50% of it \u00fcber\tthe limit", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", rows * 2)])
