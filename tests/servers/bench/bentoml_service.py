"""Digits behind BentoML's adaptive batching: rows of JSON in, labels out."""

import os

import bentoml
import digits
import numpy as np


@bentoml.service(
    workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}}, traffic={"timeout": 10}
)
class Digits:
    def __init__(self):
        self.model = digits.load()

    @bentoml.api(
        batchable=True,
        max_batch_size=int(os.environ["MAX_BATCH_SIZE"]),
        max_latency_ms=int(os.environ["MAX_LATENCY_MS"]),
    )
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return digits.answer(self.model, rows)[0][:, None]
