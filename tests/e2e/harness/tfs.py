"""Messages of TensorFlow Serving's gRPC API, built from its own stubs."""

import json
import urllib.request

import ml_dtypes
import numpy as np

from harness import rpc
from harness.stubs import (
    classification_pb2,
    example_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
    tensor_pb2,
    types_pb2,
)

PREDICTION = "/tensorflow.serving.PredictionService/"
MODEL = "/tensorflow.serving.ModelService/"
FIELDS = {
    "bool": ("DT_BOOL", np.bool_, "bool_val"),
    "uint8": ("DT_UINT8", np.uint8, "int_val"),
    "uint16": ("DT_UINT16", np.uint16, "int_val"),
    "uint32": ("DT_UINT32", np.uint32, "uint32_val"),
    "uint64": ("DT_UINT64", np.uint64, "uint64_val"),
    "int8": ("DT_INT8", np.int8, "int_val"),
    "int16": ("DT_INT16", np.int16, "int_val"),
    "int32": ("DT_INT32", np.int32, "int_val"),
    "int64": ("DT_INT64", np.int64, "int64_val"),
    "half": ("DT_HALF", np.float16, "half_val"),
    "bfloat16": ("DT_BFLOAT16", ml_dtypes.bfloat16, "half_val"),
    "float": ("DT_FLOAT", np.float32, "float_val"),
    "double": ("DT_DOUBLE", np.float64, "double_val"),
    "string": ("DT_STRING", np.object_, "string_val"),
}
BY_NUMPY = {np.dtype(dtype): name for name, (_, dtype, _) in FIELDS.items()}
BY_NUMBER = {types_pb2.DataType.Value(number): name for name, (number, _, _) in FIELDS.items()}


def tensor(array, typed=False, values=None):
    """A TensorProto; with `values`, a typed list of just these, which may be shorter than the shape."""
    number, _, field = FIELDS[BY_NUMPY[array.dtype]]
    made = tensor_pb2.TensorProto(dtype=types_pb2.DataType.Value(number))
    made.tensor_shape.SetInParent()
    for size in array.shape:
        made.tensor_shape.dim.add(size=size)
    if typed or values is not None or array.dtype == np.object_:
        listed = np.asarray(array if values is None else values, array.dtype).reshape(-1)
        if field == "half_val":
            listed = listed.view(np.uint16)
        getattr(made, field).extend(listed.tolist())
    else:
        made.tensor_content = array.tobytes()
    return made


def array(proto):
    """What a TensorProto means, whichever form it has."""
    _, dtype, field = FIELDS[BY_NUMBER[proto.dtype]]
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    listed, count = list(getattr(proto, field)), int(np.prod(shape))
    assert len(listed) <= count, (len(listed), shape)
    if len(listed) < count:
        listed += [listed[-1] if listed else 0] * (count - len(listed))
    if field == "half_val":
        return np.array(listed, np.uint16).view(dtype).reshape(shape)
    return np.array(listed, dtype).reshape(shape)


def spec(model, signature="", version=None, label=None):
    made = model_pb2.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        made.version.value = version
    if label is not None:
        made.version_label = label
    return made


def predict_request(model, inputs, outputs=(), typed=False, **chosen):
    """A PredictRequest; `inputs` is {name: array or TensorProto}."""
    made = predict_pb2.PredictRequest(model_spec=spec(model, **chosen), output_filter=outputs)
    for name, given in inputs.items():
        made.inputs[name].CopyFrom(tensor(given, typed) if isinstance(given, np.ndarray) else given)
    return made


def example(**features):
    """A tf.Example: floats, whole numbers and bytes, each a list of any length."""
    made = example_pb2.Example()
    for name, values in features.items():
        kind = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(values[0])]
        getattr(made.features.feature[name], kind).value.extend(values)
    return made


def examples(rows, context=None):
    """The `Input` of Classify and Regress."""
    made = input_pb2.Input()
    if context is None:
        made.example_list.examples.extend(rows)
    else:
        made.example_list_with_context.examples.extend(rows)
        made.example_list_with_context.context.CopyFrom(context)
    return made


def classify_request(model, rows, context=None, **chosen):
    return classification_pb2.ClassificationRequest(model_spec=spec(model, **chosen), input=examples(rows, context))


def regress_request(model, rows, context=None, **chosen):
    return regression_pb2.RegressionRequest(model_spec=spec(model, **chosen), input=examples(rows, context))


def multi_inference_request(rows, *tasks):
    """`tasks` are (specification, method)."""
    made = inference_pb2.MultiInferenceRequest(input=examples(rows))
    for chosen, method in tasks:
        made.tasks.add(model_spec=chosen, method_name=f"tensorflow/serving/{method}")
    return made


METHODS = {
    predict_pb2.PredictRequest: ("Predict", predict_pb2.PredictResponse),
    classification_pb2.ClassificationRequest: ("Classify", classification_pb2.ClassificationResponse),
    regression_pb2.RegressionRequest: ("Regress", regression_pb2.RegressionResponse),
    inference_pb2.MultiInferenceRequest: ("MultiInference", inference_pb2.MultiInferenceResponse),
}


def call(address, request, method=None, **options):
    """One call, raw. The method follows from the kind of the request."""
    method = method or METHODS[type(request)][0]
    message = request if isinstance(request, bytes) else request.SerializeToString(deterministic=True)
    return rpc.call(address, method if method.startswith("/") else PREDICTION + method, message, **options)


def answer(message):
    """What a PredictResponse means: its specification, and the outputs bit for bit."""
    found = predict_pb2.PredictResponse.FromString(message)
    return found.model_spec, {name: bits(array(proto)) for name, proto in found.outputs.items()}


def bits(found):
    if found.dtype == np.object_:
        return "string", found.shape, tuple(found.reshape(-1))
    return BY_NUMPY[found.dtype], found.shape, found.tobytes()


def outputs(answer):
    """The outputs of an answer: {name: array}."""
    found = predict_pb2.PredictResponse.FromString(answer.messages[0])
    return {name: array(proto) for name, proto in found.outputs.items()}


def executed(server, model):
    """What the server executed of a model so far: {rows: calls}."""
    with urllib.request.urlopen(f"http://{server.rest}/counters", timeout=10) as page:
        return {int(rows): calls for rows, calls in json.load(page).get(model, {}).items()}


def since(now, before):
    """The difference of two counts."""
    found = {rows: calls - before.get(rows, 0) for rows, calls in now.items()}
    return {rows: calls for rows, calls in found.items() if calls}
