"""Gives text back with its length in bytes; the TensorFlow server has the same model."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "text").as_numpy()) for request in requests]

    @staticmethod
    def answer(text):
        length = np.array([len(each) for each in text.flat], np.int32).reshape(text.shape)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("same", text), pb_utils.Tensor("length", length), pb_utils.Tensor("raw_bytes", text)]
        )
