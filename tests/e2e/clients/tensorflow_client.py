"""TensorFlow's own helpers and the API's stubs, as the tutorials use them. Prints what each address answered."""

import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)


def images(rows):
    return (np.arange(rows * 64).reshape(rows, 64) % 17).astype(np.float32)


def told(response):
    """The outputs of a PredictResponse, by the library's own reading."""
    arrays = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
    return [[name, str(arrays[name].dtype), repr(arrays[name].tolist())] for name in sorted(arrays)]


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return "no failure"


def request(kind, model, signature=""):
    made = kind()
    made.model_spec.name, made.model_spec.signature_name = model, signature
    return made


def predict(stub, model, inputs, signature=""):
    made = request(predict_pb2.PredictRequest, model, signature)
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(value)
    return stub.Predict(made, timeout=30)


def example(value):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature={"x": feature}))


def script(address):
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        found = [told(predict(stub, "linear", {"x": tf.make_tensor_proto(images(rows))})) for rows in (1, 5)]
        found.append(told(predict(stub, "linear", {"x": tf.make_tensor_proto(3.0, shape=[2, 64])})))
        found.append(told(predict(stub, "words", {"text": tf.make_tensor_proto([[b"a"], [b"\xff"], ["\u00fc".encode()]])})))
        for signature, dtype in (("half", tf.float16), ("bfloat16", tf.bfloat16), ("uint64", tf.uint64), ("bool", tf.bool)):
            tensor = tf.make_tensor_proto(np.array([[1, 0]]).astype(dtype.as_numpy_dtype))
            found.append(told(predict(stub, "types", {"x": tensor}, signature)))
        pair = {"a": tf.make_tensor_proto([[1.0, 2.0]]), "b": tf.make_tensor_proto([7], dtype=tf.int64)}
        found.append(told(predict(stub, "pair", pair)))
        for method, kind, signature in (
            (stub.Classify, classification_pb2.ClassificationRequest, "classify_both"),
            (stub.Regress, regression_pb2.RegressionRequest, "regress_x_to_y"),
        ):
            made = request(kind, "half_plus_two", signature)
            made.input.example_list.examples.extend([example(1.0), example(-2.5)])
            found.append(str(method(made, timeout=30)))
        made = request(get_model_metadata_pb2.GetModelMetadataRequest, "linear")
        made.metadata_field.append("signature_def")
        metadata = stub.GetModelMetadata(made, timeout=30)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        metadata.metadata["signature_def"].Unpack(signatures)
        found.append(sorted(signatures.signature_def["serving_default"].outputs))
        found.append(str(models.GetModelStatus(request(get_model_status_pb2.GetModelStatusRequest, "half_plus_two"), timeout=30)))
        found.append(failure(lambda: predict(stub, "nobody", {})))
        found.append(failure(lambda: predict(stub, "linear", {"x": tf.make_tensor_proto([[1.0, 2.0]])})))
        found.append(failure(lambda: predict(stub, "linear", {"x": tf.make_tensor_proto(["text"])})))
        return found


if __name__ == "__main__":
    print(json.dumps([script(address) for address in sys.argv[1:]]))
