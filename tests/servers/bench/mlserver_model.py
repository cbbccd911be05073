"""Digits as a runtime of MLServer."""

import digits
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Digits(MLModel):
    async def load(self):
        self.model = digits.load()
        return True

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0])
        labels, scores = digits.answer(self.model, rows)
        outputs = [
            NumpyCodec.encode_output("label", labels.astype(np.int64)[:, None]),
            NumpyCodec.encode_output("proba", scores),
        ]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)
