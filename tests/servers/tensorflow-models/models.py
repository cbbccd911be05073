"""Writes the SavedModels: a folder for each model, in it one for each version."""

import pathlib
import sys

import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import linear  # noqa: E402

v1 = tf.compat.v1
saved_model = v1.saved_model

METHODS = {kind: f"tensorflow/serving/{kind}" for kind in ("predict", "classify", "regress")}
TYPES = {
    "bool": tf.bool,
    "uint8": tf.uint8,
    "uint16": tf.uint16,
    "uint32": tf.uint32,
    "uint64": tf.uint64,
    "int8": tf.int8,
    "int16": tf.int16,
    "int32": tf.int32,
    "int64": tf.int64,
    "half": tf.float16,
    "bfloat16": tf.bfloat16,
    "float": tf.float32,
    "double": tf.float64,
    "string": tf.string,
}
DEFAULT = "serving_default"


def placeholder(dtype, shape, name=None):
    return v1.placeholder(dtype, shape, name)


def signature(inputs, outputs, kind="predict"):
    """A signature over tensors of the current graph."""
    told = ({name: saved_model.build_tensor_info(tensor) for name, tensor in each.items()} for each in (inputs, outputs))
    return saved_model.build_signature_def(*told, METHODS[kind])


def examples(features):
    """A list of serialized tf.Example, and its features: {name: (datatype, how many, default)}."""
    serialized = placeholder(tf.string, [None])
    told = {name: tf.io.FixedLenFeature([size], dtype, [default] * size) for name, (dtype, size, default) in features.items()}
    return serialized, tf.io.parse_example(serialized, told)


def half_plus(number):
    """y = x/2 + number, in every way that a model can be asked."""
    x = placeholder(tf.float32, [None, 1])
    serialized, found = examples({"x": (tf.float32, 1, 0.0), "weight": (tf.float32, 1, 1.0)})
    y = found["x"] * 0.5 * found["weight"] + number
    names = tf.as_string(tf.concat([y, y + 1], axis=1), precision=2)
    return {
        DEFAULT: signature({"x": x}, {"y": x * 0.5 + number}),
        "regress_x_to_y": signature({"inputs": serialized}, {"outputs": y}, "regress"),
        "regress_flat": signature({"inputs": serialized}, {"outputs": tf.reshape(y, [-1])}, "regress"),
        "classify_x_to_y": signature({"inputs": serialized}, {"scores": y}, "classify"),
        "classify_names": signature({"inputs": serialized}, {"classes": names}, "classify"),
        "classify_both": signature(
            {"inputs": serialized}, {"classes": names, "scores": tf.concat([y, y * 2], axis=1)}, "classify"
        ),
    }


def linear_model():
    x = placeholder(tf.float32, [None, 64])
    scores = tf.matmul(x, tf.constant(linear.WEIGHTS)) + tf.constant(linear.BIAS)
    label = tf.argmax(scores, axis=1)[:, tf.newaxis]
    return {DEFAULT: signature({"x": x}, {"label": label, "scores": scores})}


def types():
    """Gives back what came; a signature for each datatype, the default is that of FP32."""
    made = {}
    for name, dtype in TYPES.items():
        x = placeholder(dtype, [None, 2])
        made[name] = signature({"x": x}, {"y": tf.identity(x)})
    made[DEFAULT] = made["float"]
    return made


def same(dtype):
    """Gives back what came, of one datatype, for callers whose protocol has no signatures."""

    def build():
        x = placeholder(dtype, [None, 2])
        return {DEFAULT: signature({"x": x}, {"y": tf.identity(x)})}

    return build


def words():
    text = placeholder(tf.string, [None, 1])
    return {
        DEFAULT: signature(
            {"text": text},
            # By its name the last one is of bytes, and JSON carries it as base64.
            {"same": tf.identity(text), "length": tf.strings.length(text), "raw_bytes": tf.identity(text)},
        )
    }


def pair():
    """Two inputs, and outputs of one, two and three dimensions."""
    a, b = placeholder(tf.float32, [None, 2]), placeholder(tf.int64, [None])
    wide = tf.cast(b, tf.float32)[:, tf.newaxis]
    outputs = {"sum": a + wide, "difference": a - wide, "outer": a[:, :, tf.newaxis] * a[:, tf.newaxis, :], "b": tf.identity(b)}
    return {
        DEFAULT: signature({"a": a, "b": b}, outputs),
        "sum_only": signature({"a": a, "b": b}, {"sum": outputs["sum"]}),
    }


def fixed():
    """Takes four rows, neither more nor fewer."""
    x = placeholder(tf.float32, [4, 2])
    # The runtime does not hold callers to the shape of a placeholder, but to that of an operation.
    return {DEFAULT: signature({"x": x}, {"y": tf.reshape(x, [4, 2]) * 2})}


def scaled():
    """Has an input without a dimension of rows: two requests that differ in it must never meet."""
    x, factor = placeholder(tf.float32, [None, 2]), placeholder(tf.float32, [])
    return {DEFAULT: signature({"x": x, "factor": factor}, {"y": x * factor})}


def total():
    """Adds up all rows: no output has as many rows as came."""
    x = placeholder(tf.float32, [None, 2])
    return {DEFAULT: signature({"x": x}, {"y": tf.reduce_sum(x, axis=0, keepdims=True)})}


def marked():
    """Doubles its rows, but fails every call that holds a row which starts with a negative number."""
    x = placeholder(tf.float32, [None, 4])
    check = v1.assert_non_negative(x[:, 0], message="a marked row")
    with tf.control_dependencies([check]):
        return {DEFAULT: signature({"x": x}, {"y": x * 2})}


MODELS = {
    "half_plus_two": {1: lambda: half_plus(2.0), 2: lambda: half_plus(3.0)},
    "linear": {1: linear_model},
    "types": {1: types},
    # The same, answered with `tensor_content` where others are answered with typed lists.
    "types_content": {1: types},
    **{f"same_{name}": {1: same(dtype)} for name, dtype in TYPES.items()},
    "words": {1: words},
    "pair": {1: pair},
    "fixed": {1: fixed},
    "scaled": {1: scaled},
    "total": {1: total},
    "marked": {1: marked},
}
LABELS = {"half_plus_two": {"stable": 1, "canary": 2}}


def write(root):
    for model, versions in MODELS.items():
        for version, build in versions.items():
            with tf.Graph().as_default(), v1.Session() as session:
                builder = saved_model.Builder(str(root / model / str(version)))
                builder.add_meta_graph_and_variables(session, [saved_model.tag_constants.SERVING], build())
                builder.save()
