"""Sleeps for the longest of a request's SLEEP_MS, then tells each row how many came with it and with which parameters."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    @staticmethod
    def answer(request):
        sleep = pb_utils.get_input_tensor_by_name(request, "SLEEP_MS").as_numpy()
        # Sorted: Triton hands parameters over in any order.
        parameters = json.dumps(json.loads(request.parameters()), sort_keys=True)
        time.sleep(max(0.0, float(sleep.max())) / 1000.0)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("SLEPT_MS", sleep),
                pb_utils.Tensor("ROWS", np.full(sleep.shape, len(sleep), np.int32)),
                pb_utils.Tensor("PARAMETERS", np.full(sleep.shape, parameters, np.object_)),
            ]
        )
