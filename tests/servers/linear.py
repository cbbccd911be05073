"""The one model that every server of the suite serves: a linear classifier whose numbers are small integers.

Sums of such numbers are exact in FP32 in whatever order they are added, so that servers built on different libraries
give the same bits. Input `x` FP32 [-1, 64], whole numbers of 0 to 16; outputs `label` INT64 [-1, 1] and `scores` FP32
[-1, 10].
"""

import numpy as np

WEIGHTS = np.fromfunction(lambda row, column: (7 * row * (column + 1) + 3 * column) % 11 - 5, (64, 10)).astype(np.float32)
BIAS = ((np.arange(10) * 17) % 10).astype(np.float32) / 16


def scores(x):
    return x.astype(np.float32) @ WEIGHTS + BIAS


def labels(found):
    return found.argmax(axis=1).astype(np.int64)[:, None]
