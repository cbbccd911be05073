"""Digits behind mosec: 64 little-endian floats in, a label and ten probabilities out."""

import os

import digits
import numpy as np
from mosec import Server, Worker


class Digits(Worker):
    def __init__(self):
        super().__init__()
        self.model = digits.load()

    def deserialize(self, data):
        return np.frombuffer(data, "<f4")

    def serialize(self, data):
        return data

    def forward(self, data):
        labels, scores = digits.answer(self.model, np.stack(data))
        return [label.tobytes() + row.tobytes() for label, row in zip(labels.astype("<i8"), scores, strict=True)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Digits,
        num=1,
        max_batch_size=int(os.environ["MAX_BATCH_SIZE"]),
        max_wait_time=int(os.environ["MAX_WAIT_MS"]),
    )
    server.run()
