"""One version of a model: a SavedModel in a session, run as TensorFlow Serving runs it, with its words for what is wrong."""

import threading

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

v1 = tf.compat.v1

INVALID, PRECONDITION = 3, 9
DEFAULT = "serving_default"
FIELDS = {
    tf.bool: "bool_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.int8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.int64: "int64_val",
    tf.float16: "half_val",
    tf.bfloat16: "half_val",
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.string: "string_val",
}


class Fault(Exception):
    """A call that ends with a status."""

    def __init__(self, code, words):
        super().__init__(words)
        self.code, self.words = code, words


def of(message, *aliases):
    return message + "{" + ",".join(sorted(aliases)) + "}"


def as_field(array, dtype):
    """A TensorProto with a typed list, as the real server answers."""
    made = tf.make_tensor_proto(array.reshape(-1)[:0], dtype)
    made.Clear()
    made.dtype = dtype.as_datatype_enum
    for size in array.shape:
        made.tensor_shape.dim.add(size=size)
    values = array.reshape(-1)
    if dtype in (tf.float16, tf.bfloat16):
        values = values.view("uint16")
    getattr(made, FIELDS[dtype]).extend(values.tolist())
    return made


def as_content(array, dtype):
    made = as_field(array, dtype)
    if dtype != tf.string:
        made.ClearField(FIELDS[dtype])
        made.tensor_content = array.tobytes()
    return made


class Servable:
    """A loaded SavedModel. `count` is told the rows of each execution."""

    def __init__(self, name, version, folder, count, content=False):
        self.name, self.version, self.count = name, version, count
        self.encode = as_content if content else as_field
        self.session = v1.Session(
            graph=tf.Graph(), config=v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        )
        with self.session.graph.as_default():
            self.signatures = dict(v1.saved_model.load(self.session, ["serve"], str(folder)).signature_def)
        self.callables, self.lock = {}, threading.Lock()

    def execute(self, feeds, fetches):
        """Runs the graph: no check of Python's comes before the runtime's own."""
        key = (tuple(feeds), tuple(fetches))
        with self.lock:
            if key not in self.callables:
                options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
                self.callables[key] = self.session._make_callable_from_options(options)
        self.count(next((each.shape[0] for each in feeds.values() if each.ndim), 0))
        try:
            return dict(zip(fetches, self.callables[key](*feeds.values()), strict=True))
        except tf.errors.OpError as error:
            raise Fault(error.error_code, error.message) from None

    def predict(self, request, response):
        name = request.model_spec.signature_name or DEFAULT
        if name not in self.signatures:
            raise Fault(PRECONDITION, f'Serving signature key "{name}" not found.')
        signature = self.signatures[name]
        self.spec(name, response.model_spec)
        sent, expected = set(request.inputs), set(signature.inputs)
        if len(sent) != len(expected):
            words = f"input size does not match signature: {len(sent)}!={len(expected)} len("
            words += of("", *sent) + ") != len(" + of("", *expected) + "). "
            words += of("Sent extra: ", *(sent - expected)) + ". " + of("Missing but required: ", *(expected - sent)) + "."
            raise Fault(INVALID, words)
        feeds = {}
        for alias, proto in request.inputs.items():
            if alias not in signature.inputs:
                words = of(f"input tensor alias not found in signature: {alias}. Inputs expected to be in the set ", *expected)
                raise Fault(INVALID, words + ".")
            feeds[signature.inputs[alias].name] = self.tensor(alias, proto)
        aliases = []
        for alias in request.output_filter:
            if alias not in signature.outputs:
                words = f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                raise Fault(INVALID, of(words, *signature.outputs) + ".")
            if alias in aliases:
                raise Fault(INVALID, f"duplicate output tensor alias: {alias}")
            aliases.append(alias)
        aliases = aliases or sorted(signature.outputs)
        found = self.execute(feeds, [signature.outputs[alias].name for alias in aliases])
        for alias in aliases:
            told = signature.outputs[alias]
            response.outputs[alias].CopyFrom(self.encode(found[told.name], tf.as_dtype(told.dtype)))

    @staticmethod
    def tensor(alias, proto):
        """Parsed by the runtime: short lists are filled up, and long ones cut."""
        try:
            return tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
        except (tf.errors.OpError, TypeError, ValueError):
            raise Fault(INVALID, f"tensor parsing error: {alias}") from None

    def spec(self, signature, spec):
        spec.name, spec.signature_name, spec.version.value = self.name, signature or DEFAULT, self.version

    def examples(self, given):
        """The input of signatures over tf.Example. A context stands before each example: so are messages merged."""
        kind = given.WhichOneof("kind")
        told = getattr(given, kind) if kind else None
        if not told or not told.examples:
            raise Fault(INVALID, "Input is empty.")
        context = told.context.SerializeToString() if kind == "example_list_with_context" else b""
        return tf.constant([context + each.SerializeToString() for each in told.examples]).numpy()

    def example_signature(self, name, kind, unknown):
        name = name or DEFAULT
        if name not in self.signatures:
            raise Fault(INVALID, f"{unknown}{name}")
        signature = self.signatures[name]
        if len(signature.inputs) != 1:
            raise Fault(INVALID, "Expected one input Tensor.")
        outputs = len(signature.outputs)
        if kind == "classify" and outputs not in (1, 2):
            raise Fault(INVALID, f"Expected one or two output Tensors, found {outputs}")
        if kind == "regress" and outputs != 1:
            raise Fault(INVALID, "Expected one output Tensor.")
        word = {"classify": "classification", "regress": "regression"}[kind]
        if "inputs" not in signature.inputs:
            raise Fault(INVALID, f"No {word} inputs found in SignatureDef: {signature}")
        wanted = {"classify": ("classes", "scores"), "regress": ("outputs",)}[kind]
        if not set(wanted) & set(signature.outputs):
            raise Fault(INVALID, f"No {word} outputs found in SignatureDef: {signature}")
        return signature, {alias: info.name for alias, info in signature.outputs.items() if alias in wanted}

    def classify(self, request, response):
        unknown = "No signature was found with the name: "
        signature, outputs = self.example_signature(request.model_spec.signature_name, "classify", unknown)
        feeds = {signature.inputs["inputs"].name: self.examples(request.input)}
        found = self.execute(feeds, sorted(outputs.values()))
        self.classifications(outputs, found, response.result)
        self.spec(request.model_spec.signature_name, response.model_spec)

    def regress(self, request, response):
        unknown = "No signature was found with the name: "
        signature, outputs = self.example_signature(request.model_spec.signature_name, "regress", unknown)
        feeds = {signature.inputs["inputs"].name: self.examples(request.input)}
        found = self.execute(feeds, sorted(outputs.values()))
        self.regressions(outputs, found, response.result)
        self.spec(request.model_spec.signature_name, response.model_spec)

    def multi_inference(self, request, response):
        tasks, names = [], set()
        for task in request.tasks:
            spec, kind = task.model_spec, task.method_name.removeprefix("tensorflow/serving/")
            if not spec.name:
                raise Fault(INVALID, "Found ModelSpec with an empty model name.")
            if spec.name != request.tasks[0].model_spec.name:
                raise Fault(INVALID, "All ModelSpecs in a MultiInferenceRequest must access the same model name.")
            if (spec.signature_name or DEFAULT) in names:
                raise Fault(INVALID, f"Duplicate evaluation of signature: {spec.signature_name or DEFAULT}")
            names.add(spec.signature_name or DEFAULT)
            if kind not in ("classify", "regress"):
                raise Fault(12, f"Unsupported signature method_name: {task.method_name}")
            unknown = "Requested signature not found in model graph: "
            tasks.append((task, kind, *self.example_signature(spec.signature_name, kind, unknown)))
        rows = self.examples(request.input)
        feeds = {signature.inputs["inputs"].name: rows for _, _, signature, _ in tasks}
        found = self.execute(feeds, sorted({name for *_, outputs in tasks for name in outputs.values()}))
        for task, kind, _, outputs in tasks:
            result = response.results.add()
            self.spec(task.model_spec.signature_name, result.model_spec)
            if kind == "classify":
                result.classification_result.CopyFrom(classification_pb2.ClassificationResult())
                self.classifications(outputs, found, result.classification_result)
            else:
                result.regression_result.CopyFrom(regression_pb2.RegressionResult())
                self.regressions(outputs, found, result.regression_result)

    @staticmethod
    def classifications(outputs, found, result):
        classes, scores = (found[outputs[alias]] if alias in outputs else None for alias in ("classes", "scores"))
        rows, columns = (classes if classes is not None else scores).shape
        for row in range(rows):
            made = result.classifications.add()
            for column in range(columns):
                each = made.classes.add()
                if classes is not None:
                    each.label = classes[row, column].decode()
                if scores is not None:
                    each.score = scores[row, column]

    @staticmethod
    def regressions(outputs, found, result):
        for value in found[outputs["outputs"]].reshape(-1).tolist():
            result.regressions.add(value=value)
