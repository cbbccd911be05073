"""KServe's Python server with three models: `digits` (scikit-learn), `linear` and `same`, which gives back what came."""

import pathlib
import sys

import grpc.aio
import numpy as np
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from sklearn.datasets import load_digits
from sklearn.svm import SVC

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import linear  # noqa: E402

DATATYPES = {"float32": "FP32", "int64": "INT64"}


def on_loopback():
    """KServe binds every interface and has no setting for it."""
    configure, add_port = uvicorn.Config.__init__, grpc.aio._server.Server.add_insecure_port
    uvicorn.Config.__init__ = lambda self, *rest, **named: configure(self, *rest, **{**named, "host": "127.0.0.1"})
    grpc.aio._server.Server.add_insecure_port = lambda self, address: add_port(self, address.replace("[::]", "127.0.0.1"))


def tensor(name, array):
    made = InferOutput(name, list(array.shape), DATATYPES[array.dtype.name])
    made.set_data_from_numpy(array, binary_data=False)
    return made


class Numeric(Model):
    """Rows of 64 numbers in; V1 as plain rows, V2 as one tensor of any name."""

    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    async def get_input_types(self):
        return [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]

    async def get_output_types(self):
        return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in self.OUTPUTS]

    async def predict(self, payload, headers=None, response_headers=None):
        first = isinstance(payload, InferRequest)
        try:
            x = payload.inputs[0].as_numpy() if first else np.array(self.rows(payload), np.float32)
            if x.ndim != 2 or x.shape[1] != 64:
                raise ValueError(f"expected rows of 64 numbers, got shape {list(x.shape)}")
            found = self.answer(x.astype(np.float32))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"{self.name}: {error}") from error
        if first:
            wanted = [each.name for each in payload.request_outputs or []] or list(found)
            unknown = set(wanted) - set(found)
            if unknown:
                raise InvalidInput(f"{self.name}: no output {sorted(unknown)}")
            outputs = [tensor(name, found[name]) for name in wanted]
            return InferResponse(payload.id or "", self.name, outputs)
        return {"predictions": self.predictions(found)}

    @staticmethod
    def rows(payload):
        """`instances` hold plain rows, or objects with one entry."""
        return [each["x"] if isinstance(each, dict) else each for each in payload["instances"]]


class Digits(Numeric):
    OUTPUTS = [("label", "INT64", [-1, 1])]

    def load(self):
        images, labels = load_digits(return_X_y=True)
        self.svm = SVC(gamma=0.001, C=10.0).fit(images, labels)
        return True

    def answer(self, x):
        return {"label": self.svm.predict(x).astype(np.int64)[:, None]}

    def predictions(self, found):
        return found["label"].reshape(-1).tolist()


class Linear(Numeric):
    OUTPUTS = [("label", "INT64", [-1, 1]), ("scores", "FP32", [-1, 10])]

    def answer(self, x):
        scores = linear.scores(x)
        return {"label": linear.labels(scores), "scores": scores}

    def predictions(self, found):
        rows = zip(found["label"].tolist(), found["scores"].tolist(), strict=True)
        return [{"label": label, "scores": scores} for label, scores in rows]


class Same(Model):
    """Gives each input back, and each instance."""

    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        if not isinstance(payload, InferRequest):
            return {"predictions": payload["instances"]}
        outputs = []
        for each in payload.inputs:
            made = InferOutput(each.name, each.shape, each.datatype)
            made.set_data_from_numpy(each.as_numpy(), binary_data=False)
            outputs.append(made)
        return InferResponse(payload.id or "", self.name, outputs)


if __name__ == "__main__":
    on_loopback()
    digits = Digits("digits")
    digits.load()
    ModelServer(
        http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), workers=1, enable_latency_logging=False, grace_period=1
    ).start([digits, Linear("linear"), Same("same")])
