"""Answers with its input after a fixed time for each request, in Triton's Python backend: what it can do a second is known."""

import json
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.seconds = float(parameters["call_ms"]["string_value"]) / 1000

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        time.sleep(self.seconds)
        row = pb_utils.get_input_tensor_by_name(request, "input0").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("output0", row)])
