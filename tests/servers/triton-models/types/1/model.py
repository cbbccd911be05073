"""Gives back each input that came, of every datatype, under the matching output's name."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([self.same(tensor) for tensor in request.inputs()])
            for request in requests
        ]

    @staticmethod
    def same(tensor):
        name = tensor.name().replace("IN_", "OUT_")
        if name == "OUT_BF16":  # numpy has no such type
            return pb_utils.Tensor.from_dlpack(name, tensor.to_dlpack())
        return pb_utils.Tensor(name, tensor.as_numpy())
