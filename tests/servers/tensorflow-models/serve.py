"""A gRPC server of TensorFlow Serving's API over SavedModels: PredictionService, ModelService.GetModelStatus.

It serves GET /counters too: what was executed, as {model: {rows of a call: calls}}. A file of a model's name in the
folder $OUTRIGGER_GATES holds its calls up for as long as somebody has it locked.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import http.server
import json
import os
import pathlib
import signal
import sys
import threading

import grpc
import models
from servable import INVALID, Fault, Servable
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata
from tensorflow_serving.apis import get_model_status_pb2 as status
from tensorflow_serving.apis import classification_pb2, inference_pb2, predict_pb2, regression_pb2
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

NOT_FOUND = 5
LONGEST_WORDS = 1024
GATES = pathlib.Path(os.environ.get("OUTRIGGER_GATES", "/nonexistent"))


class Counters:
    """Executions of each model by their rows."""

    def __init__(self):
        self.seen, self.lock = collections.defaultdict(collections.Counter), threading.Lock()

    def of(self, model):
        def count(rows):
            with self.lock:
                self.seen[model][rows] += 1

        return count

    def told(self):
        with self.lock:
            return json.dumps(self.seen).encode()


class Models:
    """All versions of all models."""

    def __init__(self, root, counters):
        self.versions = {
            name: {
                version: Servable(name, version, root / name / str(version), counters.of(name), name == "types_content")
                for version in versions
            }
            for name, versions in models.MODELS.items()
        }

    def find(self, request):
        """The servable that a request means, or the words of the server that has none such."""
        if not request.HasField("model_spec"):
            raise Fault(INVALID, "Missing ModelSpec")
        spec = request.model_spec
        if not spec.name:
            raise Fault(INVALID, "ModelSpec has no name specified.")
        versions = self.versions.get(spec.name, {})
        kind = spec.WhichOneof("version_choice")
        if kind is None:
            if not versions:
                raise Fault(NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
            return versions[max(versions)]
        version = spec.version.value
        if kind == "version_label":
            version = models.LABELS.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise Fault(INVALID, f"Unrecognized servable version label: {spec.version_label}")
        if version not in versions:
            raise Fault(NOT_FOUND, f"Servable not found for request: Specific({spec.name}, {version})")
        return versions[version]


@contextlib.contextmanager
def told(context):
    """Ends the call with a fault's status, cut as the real server cuts it."""
    try:
        yield
    except Fault as fault:
        words = fault.words if len(fault.words) <= LONGEST_WORDS else fault.words[:LONGEST_WORDS] + "...TRUNCATED"
        context.abort(next(code for code in grpc.StatusCode if code.value[0] == fault.code), words)


def pass_gate(model):
    try:
        with open(GATES / model) as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
    except FileNotFoundError:
        pass


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served):
        self.served = served

    def answer(self, request, context, response, method, model=None):
        with told(context):
            servable = self.served.find(model or request)
            pass_gate(servable.name)
            getattr(servable, method)(request, response)
            return response

    def Predict(self, request, context):
        return self.answer(request, context, predict_pb2.PredictResponse(), "predict")

    def Classify(self, request, context):
        return self.answer(request, context, classification_pb2.ClassificationResponse(), "classify")

    def Regress(self, request, context):
        return self.answer(request, context, regression_pb2.RegressionResponse(), "regress")

    def MultiInference(self, request, context):
        if not request.tasks:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Inference request should have at least one task")
        return self.answer(request, context, inference_pb2.MultiInferenceResponse(), "multi_inference", request.tasks[0])

    def GetModelMetadata(self, request, context):
        response = metadata.GetModelMetadataResponse()
        with told(context):
            if not request.HasField("model_spec"):
                raise Fault(INVALID, "Missing ModelSpec")
            if not request.metadata_field:
                raise Fault(INVALID, "GetModelMetadataRequest must specify at least one metadata_field")
            for field in request.metadata_field:
                if field != "signature_def":
                    raise Fault(INVALID, f"Metadata field {field} is not supported")
            servable = self.served.find(request)
            known = metadata.SignatureDefMap()
            for name, signature in sorted(servable.signatures.items()):
                known.signature_def[name].CopyFrom(signature)
            response.model_spec.name, response.model_spec.version.value = servable.name, servable.version
            response.metadata["signature_def"].Pack(known, deterministic=True)
        return response


class Model(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, served):
        self.served = served

    def GetModelStatus(self, request, context):
        response = status.GetModelStatusResponse()
        with told(context):
            if not request.HasField("model_spec"):
                raise Fault(INVALID, "Missing ModelSpec")
            spec = request.model_spec
            versions = self.served.versions.get(spec.name, {})
            if spec.HasField("version"):
                if spec.version.value not in versions:
                    raise Fault(NOT_FOUND, f"Could not find version {spec.version.value} of model {spec.name}")
                versions = [spec.version.value]
            if not versions:
                raise Fault(NOT_FOUND, f"Could not find any versions of model {spec.name}")
            for version in sorted(versions, reverse=True):
                made = response.model_version_status.add(version=version, state=status.ModelVersionStatus.AVAILABLE)
                made.status.SetInParent()
        return response


def pages(port, counters):
    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = {"/counters": counters.told, "/ready": lambda: b"{}"}.get(self.path)
            body = found() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Pages)


def main():
    port, page_port, work = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
    models.write(work)
    counters = Counters()
    served = Models(work, counters)
    # No reuse of ports: a second server on the same one is an error, not a neighbour.
    options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(served), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Model(served), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    page = pages(page_port, counters)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(grace=None).wait()
    os._exit(0)  # threads that wait at a gate shall not keep the process


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
