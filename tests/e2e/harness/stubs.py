"""The generated stubs of TensorFlow Serving's API, out of the TensorFlow environment but without TensorFlow.

The package `tensorflow-serving-api` imports messages from the package `tensorflow`, whose own import loads a gigabyte of
library. The messages need none of it: here both packages are folders to look modules up in, and nothing of them runs.
"""

import functools
import pathlib
import subprocess
import sys
import types

from harness.process import SERVERS


@functools.cache
def environment(name):
    """The folder of a pinned environment, made at first use."""
    return pathlib.Path(subprocess.check_output([SERVERS / "environment", name], text=True).strip())


def lend(package):
    """Makes a package's modules importable without running what the package runs at its import."""
    (found,) = environment("tensorflow").glob(f"lib/python3*/site-packages/{package}")
    module = types.ModuleType(package)
    module.__path__ = [str(found)]
    sys.modules[package] = module


for name in ("tensorflow", "tensorflow_serving"):
    lend(name)

from tensorflow.core.example import example_pb2  # noqa: E402
from tensorflow.core.framework import tensor_pb2, types_pb2  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

__all__ = [
    "classification_pb2",
    "environment",
    "example_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "input_pb2",
    "model_management_pb2",
    "model_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
    "regression_pb2",
    "tensor_pb2",
    "types_pb2",
]
