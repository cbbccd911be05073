"""Messages of the Open Inference Protocol, built from the client library's own definitions."""

import ml_dtypes
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import serialize_byte_tensor

from harness import rpc

SERVICE = "/inference.GRPCInferenceService/"
TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
NUMPY = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def infer(address, request, **options):
    """ModelInfer, raw."""
    if not isinstance(request, bytes):
        request = request.SerializeToString(deterministic=True)
    return rpc.call(address, SERVICE + "ModelInfer", request, **options)


def request(model, tensors, typed=False, outputs=(), id="", version="", parameters=None):
    """A ModelInferRequest; `tensors` is [(name, datatype, array)]."""
    made = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, datatype, array in tensors:
        tensor = made.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(tensor.contents, TYPED[datatype]).extend(array.reshape(-1).tolist())
        elif datatype == "BYTES":
            made.raw_input_contents.append(serialize_byte_tensor(array).item())
        else:
            made.raw_input_contents.append(array.tobytes())
    for name in outputs:
        made.outputs.add(name=name)
    for key, value in (parameters or {}).items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(made.parameters[key], kind, value)
    return made


def response(message):
    """What an answer means: typed contents that hold nothing, which MLServer sends beside raw ones, are none."""
    found = pb.ModelInferResponse.FromString(message)
    for output in found.outputs:
        if not output.contents.ByteSize():
            output.ClearField("contents")
    return found


def meaning(message):
    """What an answer means, whether its contents are raw or typed: its head, and the tensors bit for bit."""
    found = response(message)
    values = tensors(found)
    told = [(name, each.datatype, each.shape, bits(values[name])) for name, each in ((o.name, o) for o in found.outputs)]
    for output in found.outputs:
        output.ClearField("contents")
    del found.raw_output_contents[:]
    return found, told


def tensors(found):
    """The outputs of a ModelInferResponse: {name: array}, bytes as objects."""
    made = {}
    for index, tensor in enumerate(found.outputs):
        if found.raw_output_contents:
            flat = raw_elements(tensor.datatype, found.raw_output_contents[index])
        else:
            listed = list(getattr(tensor.contents, TYPED[tensor.datatype]))
            flat = np.array(listed, NUMPY.get(tensor.datatype, np.object_))
        made[tensor.name] = flat.reshape(tuple(tensor.shape))
    return made


def raw_elements(datatype, raw):
    """The elements of raw contents."""
    if datatype != "BYTES":
        return np.frombuffer(raw, NUMPY[datatype])
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return np.array(found, np.object_)


def bits(array):
    """Shape and elements, equal only where every bit is."""
    return array.shape, tuple(array.reshape(-1)) if array.dtype == np.object_ else (array.dtype.name, array.tobytes())


def array(answer, output, datatype):
    """One raw output of an answer as an array."""
    found = response(answer.messages[0])
    for tensor, raw in zip(found.outputs, found.raw_output_contents, strict=True):
        if tensor.name == output:
            assert tensor.datatype == datatype, tensor.datatype
            return np.frombuffer(raw, NUMPY[datatype]).reshape(tuple(tensor.shape))
    raise AssertionError(f"no output {output} in {found}")


def statistics(address, model):
    """What Triton executed of `model` so far: requests, rows, and {batch size: executions}."""
    message = pb.ModelStatisticsRequest(name=model).SerializeToString()
    stats = pb.ModelStatisticsResponse.FromString(rpc.call(address, SERVICE + "ModelStatistics", message).messages[0])
    (model,) = stats.model_stats
    return Statistics(
        requests=model.inference_stats.success.count + model.inference_stats.fail.count,
        rows=model.inference_count,
        batches={each.batch_size: each.compute_infer.count for each in model.batch_stats},
    )


class Statistics:
    """Counters that can be subtracted from later ones."""

    def __init__(self, requests, rows, batches):
        self.requests, self.rows, self.batches = requests, rows, batches

    def __sub__(self, before):
        batches = {size: count - before.batches.get(size, 0) for size, count in self.batches.items()}
        batches = {size: count for size, count in batches.items() if count}
        return Statistics(self.requests - before.requests, self.rows - before.rows, batches)

    def __repr__(self):
        return f"requests={self.requests} rows={self.rows} batches={self.batches}"
