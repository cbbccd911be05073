"""Answers that are given again: what clients see of them, and how often real servers compute the same."""

import concurrent.futures
import json
import sys
from dataclasses import replace

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
import yaml
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb

from harness import compare, fronts, http1, oip, rest, rpc, servers, tfs
from harness.kept import arms, caching, flush, flushes, known, rows, word
from harness.outrigger import Outrigger, command
from harness.process import SERVERS, eventually
from harness.route import route
from harness.stubs import classification_pb2, predict_pb2, regression_pb2

sys.path.insert(0, str(SERVERS))
import linear  # noqa: E402

pytestmark = pytest.mark.proxy
RANDOM = np.random.default_rng(83)
IMAGES = RANDOM.integers(0, 17, (300, 64)).astype(np.float32)
TEXTS = np.array([[each] for each in (b"", b"caf\xc3\xa9 \xf0\x9f\x98\x80\n", b"x" * 6000, b"", b"0")], np.object_)
ASKED = {"digits_svm": {"x": IMAGES[:3]}, "linear": {"x": IMAGES[:4]}, "words": {"text": TEXTS}}
TRITON_MODELS = ("digits_svm", "linear", "noisy", "numbers", "sequence", "unbatched", "words")
TENSORFLOW_MODELS = ("half_plus_two", "linear", "pair", "scaled", "total", "types", "words")
# A server may answer typed contents typed: they are kept apart.
ALIKE = [front for front in fronts.ALL if front is not fronts.OIP_GRPC_TYPED]
OF_CALL = compare.ADDED + compare.PER_ANSWER + ("age", "content-length")


def cached(server, logs, name, models, protocols=(("grpc", "oip-grpc"), ("rest", "oip-rest"))):
    """A server through a proxy that keeps the answers of these models."""
    for way in route(server, logs, name, models, False, protocols):
        known(way.outrigger, *models)
        yield way


@pytest.fixture(scope="module")
def triton_cached(triton, logs):
    yield from cached(triton, logs, "triton-cached", caching(TRITON_MODELS))


@pytest.fixture(scope="module")
def triton_both(triton, logs):
    """Answers are kept, and what is not there is batched."""
    models = caching(TRITON_MODELS, batch={})
    yield from cached(triton, logs, "triton-both", models)


@pytest.fixture(params=["cached", "both"])
def via(request):
    made = request.getfixturevalue(f"triton_{request.param}")
    flush(made.outrigger)
    return made


@pytest.fixture(scope="module")
def tensorflow_cached(tensorflow, logs):
    models = caching(TENSORFLOW_MODELS)
    yield from cached(tensorflow, logs, "tensorflow-cached", models, (("grpc", "tfserving-grpc"),))


@pytest.fixture
def executed(triton):
    """The rows that Triton has computed of a model since."""

    def start(model):
        before = oip.statistics(triton.grpc, model)
        return lambda: (oip.statistics(triton.grpc, model) - before).rows

    return start


def meaning(front, reply):
    """All that an answer says, whichever way its maps are written."""
    message = reply.answer.messages[0]
    if front in fronts.TFS_GRPC:
        return tfs.answer(message)
    if front in (fronts.OIP_GRPC_RAW, fronts.OIP_GRPC_TYPED):
        return oip.response(message)
    return rest.decoded(reply.answer)


def assert_same(front, one, other):
    """Two answers that nobody can tell from each other, but by what the proxy says of itself."""
    assert meaning(front, one) == meaning(front, other)
    assert one.answer.code == other.answer.code
    for part in ("headers", "trailers"):
        first, second = (compare.headers(getattr(each.answer, part), OF_CALL) for each in (one, other))
        assert first == second, part


@pytest.mark.parametrize("model", ASKED)
@pytest.mark.parametrize("front", fronts.ALL, ids=str)
@pytest.mark.parametrize("attribute", ["grpc", "rest"])
def test_a_client_cannot_tell_a_hit_from_a_miss(via, attribute, front, model):
    address, inputs = getattr(via, attribute), ASKED[model]
    miss, hit = (front.ask(address, model, inputs) for _ in range(2))
    assert miss.ok and hit.ok, (miss, hit)
    assert (word(miss.answer), word(hit.answer)) == ("miss", "hit")
    assert_same(front, hit, miss)
    assert "age" in hit.headers and "age" not in miss.headers
    own = fronts.OIP_GRPC_RAW.ask(via.server.grpc, model, inputs)
    for name, expected in own.outputs.items():
        fronts.agree(front, hit.output(name), expected)
    # Put together of what was known and what was not, and of rows in another order.
    more = {name: np.concatenate([array[::-1], array[:1]]) for name, array in inputs.items()}
    other = {name: np.concatenate([array[1:], fresh(array), array[:1]]) for name, array in inputs.items()}
    for asked, said in ((more, "hit"), (other, "partial")):
        found = front.ask(address, model, asked)
        assert word(found.answer) == said, found
        for name, expected in fronts.OIP_GRPC_RAW.ask(via.server.grpc, model, asked).outputs.items():
            fronts.agree(front, found.output(name), expected)


def fresh(array):
    """A row that nobody has asked for."""
    if array.dtype == np.object_:
        return np.array([[b"nobody asked for %d" % RANDOM.integers(1 << 60)]], np.object_)
    return RANDOM.integers(0, 17, (1, *array.shape[1:])).astype(array.dtype)


def test_what_one_protocol_asked_is_known_to_all(via, executed):
    count = executed("linear")
    for number, first in enumerate(ALIKE):
        inputs = {"x": IMAGES[100 + number : 101 + number]}
        assert word(first.ask(via.grpc, "linear", inputs).answer) == "miss", first
        for front in ALIKE:
            reply = front.ask(via.grpc, "linear", inputs)
            assert word(reply.answer) == "hit", (first, front)
            fronts.agree(front, reply.output("scores"), linear.scores(inputs["x"]))
    eventually(lambda: count() == len(ALIKE), what="each row was computed once")


def test_every_datatype(via):
    given = {f"IN_{name}": array for name, array in datatypes()}
    for front in (*fronts.OIP, *fronts.TFS_REST):
        flush(via.outrigger)
        for said in ("miss", "hit"):
            reply = front.ask(via.grpc, "numbers", given)
            assert reply.ok and word(reply.answer) == said, reply
            for name, array in given.items():
                fronts.agree(front, reply.output(name.replace("IN_", "OUT_")), array)


def datatypes():
    for name, dtype in oip.NUMPY.items():
        if name == "BOOL":
            yield name, np.array([[True, False], [False, False]])
        elif name.startswith(("INT", "UINT")):
            yield name, np.array([[np.iinfo(dtype).min, 0], [1, np.iinfo(dtype).max]], dtype)
        elif name in ("FP32", "FP64"):
            yield name, np.array([[0.1, -0.0], [1e-7, -3.4e38]], dtype)
    yield "BYTES", np.array([[b"", b"0"], [b"\xc3\xa9", b"x" * 5000]], np.object_)


def test_the_client_libraries(via, executed):
    def run(library, address, request_id):
        with library.InferenceServerClient(address) as client:
            tensor = library.InferInput("x", [3, 64], "FP32")
            tensor.set_data_from_numpy(IMAGES[200:203])
            result = client.infer("digits_svm", [tensor], request_id=request_id)
            told = result.get_response()
            told = told if isinstance(told, dict) else grpc_json(told)
            return told.pop("id"), told, result.as_numpy("label"), result.as_numpy("proba")

    count = executed("digits_svm")
    for library, address in ((grpc_client, via.grpc), (http_client, via.rest)):
        first, *miss = run(library, address, "a")
        second, *hit = run(library, address, "another")
        assert (first, second) == ("a", "another")
        np.testing.assert_equal(hit, miss)
        np.testing.assert_equal(hit, run(library, getattr(via.server, "grpc" if library is grpc_client else "rest"), "b")[1:])
    # Each listener has a server of its own as far as the proxy knows; the other six are the test's own.
    eventually(lambda: count() == 12, what="each row was computed once for each listener")


def grpc_json(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def test_callers_at_once_share_one_computation(triton, triton_cached, triton_both, gates, executed):
    for way in (triton_cached, triton_both):
        flush(way.outrigger)
        count = executed("linear")
        inputs = {"x": IMAGES[250:251]}
        before = waiting(way.outrigger)
        with concurrent.futures.ThreadPoolExecutor(56) as pool, gates.closed("linear") as release:
            callers = [(front, pool.submit(front.ask, way.grpc, "linear", inputs)) for front in ALIKE for _ in range(7)]
            eventually(lambda w=way, b=before: waiting(w.outrigger) - b == 56, what="all wait")
            release()
            replies = [(front, caller.result(60)) for front, caller in callers]
        for front, reply in replies:
            fronts.agree(front, reply.output("scores"), linear.scores(inputs["x"]))
        said = sorted(word(reply.answer) for _, reply in replies)
        assert said == ["hit"] * 55 + ["miss"], said
        eventually(lambda c=count: c() == 1, what="the row was computed once")


def waiting(outrigger):
    """Rows of `linear` that have come so far and were not there; all listeners count together."""
    return max(arm["cache"]["misses"] + arm["cache"]["joined"] for arm in arms(outrigger, "linear"))


def test_sequences_and_models_without_batches(via):
    def add(value, start=False, sequence=7):
        made = oip.request("sequence", [("X", "INT32", np.array([[value]], np.int32))])
        made.parameters["sequence_id"].int64_param = sequence
        made.parameters["sequence_start"].bool_param = start
        answer = oip.infer(via.grpc, made)
        assert word(answer) in (None, "bypass"), answer
        return oip.array(answer, "SUM", "INT32").item()

    for sequence in (7, 8):
        sums = [add(1, True, sequence), *(add(1, sequence=sequence) for _ in range(3))]
        assert sums == [1, 2, 3, 4]
    # Without a first dimension of rows a request is kept as a whole.
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for asked, said in ((array, "miss"), (array, "hit"), (array[::-1].copy(), "miss"), (array[:2].copy(), "miss")):
        made = oip.request("unbatched", [("X", "FP32", asked)])
        answer = oip.infer(via.grpc, made)
        assert answer.code == grpc.StatusCode.OK and word(answer) == said, answer
        compare.assert_same(oip.infer(via.server.grpc, made), without_age(answer), oip.response, True)


def without_age(answer):
    return replace(answer, headers=tuple(pair for pair in answer.headers if pair[0] != "age"))


def test_a_random_model_stands_still_unless_its_callers_say_otherwise(via):
    def ask(*control):
        made = oip.request("noisy", [("X", "FP32", np.ones((1, 4), np.float32))])
        answer = rpc.call(
            via.grpc,
            oip.SERVICE + "ModelInfer",
            made.SerializeToString(),
            metadata=[("cache-control", each) for each in control],
        )
        assert answer.code == grpc.StatusCode.OK, answer
        return word(answer), oip.array(answer, "Y", "FP32").tobytes()

    (miss, first), (hit, second) = ask(), ask()
    assert (miss, hit) == ("miss", "hit") and first == second
    assert len({first, ask("no-store")[1], ask("no-store")[1]}) == 3
    said, third = ask("no-cache")
    assert said == "miss" and third != first
    assert ask() == ("hit", third)


def test_faulty_requests_get_the_servers_own_words_each_time(via):
    made = oip.request("digits_svm", [("x", "FP32", IMAGES[:1, :5].copy())], id="fixed")
    straight = oip.infer(via.server.grpc, made)
    assert straight.code == grpc.StatusCode.INVALID_ARGUMENT
    for _ in range(2):
        found = oip.infer(via.grpc, made)
        assert (found.code, found.details) == (straight.code, straight.details)
    assert rows(via.outrigger, "digits_svm") == 0


def test_callers_with_other_names_are_told_nothing_of_each_other(via, executed):
    count = executed("digits_svm")
    made = oip.request("digits_svm", [("x", "FP32", IMAGES[:2])]).SerializeToString()

    def ask(**metadata):
        named = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        return word(rpc.call(via.grpc, oip.SERVICE + "ModelInfer", made, metadata=named))

    assert [ask(authorization=name) for name in ("one", "two", "one", "two")] == ["miss", "miss", "hit", "hit"]
    assert ask() == "miss"
    assert ask(x_request_id="7") == "hit"
    eventually(lambda: count() == 6, what="each was computed for each")


def test_what_is_forgotten_is_computed_again(via, executed):
    count = executed("linear")

    def ask(model, inputs):
        return word(fronts.OIP_GRPC_RAW.ask(via.grpc, model, inputs).answer)

    for said in ("miss", "hit"):
        assert ask("linear", {"x": IMAGES[:3]}) == said
        assert ask("words", {"text": TEXTS[:2]}) == said
    status, page = flush(via.outrigger, "linear")
    assert status == 200 and sum(page["flushed"]["linear"].values()) == 3, page
    assert (ask("linear", {"x": IMAGES[:3]}), ask("words", {"text": TEXTS[:2]})) == ("miss", "hit")
    eventually(lambda: count() == 6, what="it was computed again")
    status, page = flush(via.outrigger, "nobody")
    assert status == 404 and "nobody" in page["error"], page


# Models that change


STAMP = '''
import pathlib

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.number = float((pathlib.Path(__file__).parent / "number").read_text())

    def execute(self, requests):
        inputs = (pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", (x + self.number).astype(np.float32))]) for x in inputs]
'''
STAMP_CONFIG = """name: "stamp"
backend: "python"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


class Stamp:
    """A Triton of its own, whose only model adds a number that its version brings."""

    def __init__(self, folder, logs):
        self.folder = folder / "stamp"
        self.folder.mkdir()
        (self.folder / "config.pbtxt").write_text(STAMP_CONFIG)
        self.write(1, 10)
        self.server = servers.triton(logs, name="triton-stamp", env={"TRITON_MODELS": str(folder)})

    def write(self, version, number):
        """Puts a version there, or changes the one that is there."""
        version = self.folder / str(version)
        version.mkdir(exist_ok=True)
        (version / "number").write_text(str(number))
        (version / "model.py").write_text(STAMP + f"# {number}\n")

    def load(self, address):
        asked = pb.RepositoryModelLoadRequest(model_name="stamp").SerializeToString()
        answer = rpc.call(address, oip.SERVICE + "RepositoryModelLoad", asked)
        assert answer.code == grpc.StatusCode.OK, answer

    def ask(self, address):
        """What is said of the cache, and the number."""
        answer = oip.infer(address, oip.request("stamp", [("X", "FP32", np.zeros((1, 1), np.float32))]))
        assert answer.code == grpc.StatusCode.OK, answer
        return word(answer), oip.array(answer, "Y", "FP32").item()


@pytest.fixture
def stamp(tmp_path, logs):
    made = Stamp(tmp_path, logs)
    yield made
    made.server.stop()


def test_a_model_that_was_loaded_anew_answers_itself(stamp, logs):
    for way in cached(stamp.server, logs, "triton-stamp", caching(["stamp"])):
        assert [stamp.ask(way.grpc) for _ in range(2)][1] == ("hit", 10)
        # Loaded through the proxy, which sees it: at once.
        stamp.write(2, 20)
        stamp.load(way.grpc)
        assert stamp.ask(way.grpc) == ("miss", 20)
        assert flushes(way.outrigger, "stamp", "control") >= 1
        # Until it has been looked at, and found to be another one, too.
        eventually(lambda: flushes(way.outrigger, "stamp", "version") > 0, what="the proxy has looked")
        assert [stamp.ask(way.grpc) for _ in range(2)][1] == ("hit", 20)
        # Behind its back: soon.
        stamp.write(3, 30)
        stamp.load(stamp.server.grpc)
        eventually(lambda: stamp.ask(way.grpc)[1] == 30, what="the third version answers")
        eventually(lambda: stamp.ask(way.grpc) == ("hit", 30), what="its answers are kept")
        # The same version with other contents.
        stamp.write(3, 40)
        stamp.load(stamp.server.grpc)
        eventually(lambda: stamp.ask(way.grpc)[1] == 40, what="the changed version answers")
        eventually(lambda: stamp.ask(way.grpc) == ("hit", 40), what="its answers are kept")


@pytest.mark.parametrize("how", ["grpc", "rest"])
def test_a_model_that_is_unloaded_through_the_proxy_has_no_answers(triton, triton_cached, how):
    address = getattr(triton_cached, how)
    front = fronts.OIP_GRPC_RAW if how == "grpc" else fronts.OIP_REST_JSON

    def command(verb):
        if how == "rest":
            assert http1.ask(address, "POST", f"/v2/repository/models/words/{verb}", b"{}").code == 200
            return
        asked = getattr(pb, f"RepositoryModel{verb.title()}Request")(model_name="words")
        answer = rpc.call(address, f"{oip.SERVICE}RepositoryModel{verb.title()}", asked.SerializeToString())
        assert answer.code == grpc.StatusCode.OK, answer

    def ask():
        return front.ask(address, "words", {"text": TEXTS[:2]})

    try:
        ask()
        assert word(ask().answer) == "hit"
        before = flushes(triton_cached.outrigger, "words", "control")
        command("unload")
        assert flushes(triton_cached.outrigger, "words", "control") > before
        eventually(lambda: not ask().ok, what="nobody answers")
        assert rows(triton_cached.outrigger, "words") == 0
    finally:
        command("load")
    eventually(lambda: ask().ok, what="it is there again")
    eventually(lambda: word(ask().answer) == "hit", what="answers are kept")


# Other makers' servers


@pytest.mark.parametrize("unit", [None, "row"])
def test_mlserver(mlserver, logs, unit):
    """Its metadata speaks of rows where they are declared; where not, requests are kept as a whole."""
    names = ("digits", "digits_undeclared", "linear")
    settings = {} if unit is None else {"unit": unit}
    for way in cached(mlserver, logs, f"mlserver-{unit}", caching(names, **settings)):
        for attribute in ("grpc", "rest"):
            for model in names:
                check_mlserver(way, attribute, model, by_row=unit == "row")


def check_mlserver(way, attribute, model, by_row):
    address = getattr(way, attribute)
    name = "x" if model == "linear" else "predict"
    asked = [fronts.OIP_GRPC_RAW, fronts.OIP_GRPC_TYPED] if attribute == "grpc" else [fronts.OIP_REST_JSON]
    for front in asked:
        flush(way.outrigger)
        miss, hit = (front.ask(address, model, {name: IMAGES[:3]}, id=each) for each in ("first", "second"))
        assert (word(miss.answer), word(hit.answer)) == ("miss", "hit"), (miss, hit)
        # Who asks second is told nothing of who asked first.
        told = repr((hit.answer.headers, hit.answer.trailers))
        assert "first" not in told, told
        own = front.ask(getattr(way.server, attribute), model, {name: IMAGES[:3]}, id="second")
        assert hit.outputs.keys() == own.outputs.keys()
        for output, expected in own.outputs.items():
            assert oip.bits(hit.output(output)) == oip.bits(expected)
        other = front.ask(address, model, {name: IMAGES[2:5]})
        declared = model != "digits_undeclared"
        assert word(other.answer) in (("partial",) if by_row else ("miss", "partial") if declared else ("miss",)), other
        own = front.ask(getattr(way.server, attribute), model, {name: IMAGES[2:5]})
        for output, expected in own.outputs.items():
            assert oip.bits(other.output(output)) == oip.bits(expected)


@pytest.mark.parametrize("attribute, protocol", [("grpc", "oip-grpc"), ("rest", "oip-rest"), ("rest", "tfserving-rest")])
def test_kserve(kserve, logs, attribute, protocol):
    asked = fronts.TFS_REST if protocol == "tfserving-rest" else fronts.OIP
    for way in cached(kserve, logs, f"kserve-{protocol}", caching(["linear"], unit="row"), ((attribute, protocol),)):
        for front in asked:
            flush(way.outrigger)
            if front is fronts.TFS_REST_COLUMN:
                continue  # V1 knows no columns
            for first, said in ((0, "miss"), (0, "hit"), (2, "partial")):
                images = IMAGES[first : first + 4]
                reply = front.ask(getattr(way, attribute), "linear", {"x": images})
                assert reply.ok and word(reply.answer) == said, reply
                if protocol == "tfserving-rest":
                    assert reply.outputs["scores"] == linear.scores(images).tolist()
                else:
                    found = reply.output("scores")
                    assert np.asarray(found, np.float32).tobytes() == linear.scores(images).tobytes()


def counted(server, model):
    before = tfs.executed(server, model)
    return lambda: sum(rows * calls for rows, calls in tfs.since(tfs.executed(server, model), before).items())


@pytest.mark.parametrize("typed", [False, True], ids=["content", "typed"])
def test_tensorflow_serving(tensorflow_cached, typed):
    flush(tensorflow_cached.outrigger)
    count = counted(tensorflow_cached.server, "linear")
    answers = []
    for first, rows_, said in ((0, 3, "miss"), (0, 3, "hit"), (1, 4, "partial"), (0, 1, "hit")):
        made = tfs.predict_request("linear", {"x": IMAGES[first : first + rows_]}, typed=typed)
        answers.append(tfs.call(tensorflow_cached.grpc, made))
        assert answers[-1].code == grpc.StatusCode.OK and word(answers[-1]) == said, answers[-1]
        straight = tfs.call(tensorflow_cached.server.grpc, made)
        assert tfs.answer(answers[-1].messages[0]) == tfs.answer(straight.messages[0])
    assert tfs.answer(answers[0].messages[0]) == tfs.answer(answers[1].messages[0])
    # Eleven were the test's own.
    assert count() == 5 + 11


def test_versions_labels_and_signatures_of_tensorflow_are_kept_apart(tensorflow_cached):
    flush(tensorflow_cached.outrigger)
    x = {"x": np.array([[8.0]], np.float32)}
    kinds = [{}, {"version": 1}, {"version": 2}, {"label": "canary"}, {"label": "stable"}, {"signature": "serving_default"}]
    for _ in range(3):
        for kind in kinds:
            made = tfs.predict_request("half_plus_two", x, **kind)
            straight, found = (tfs.call(each.grpc, made) for each in (tensorflow_cached.server, tensorflow_cached))
            assert found.code == grpc.StatusCode.OK, found
            assert tfs.answer(found.messages[0]) == tfs.answer(straight.messages[0]), kind
    assert word(found) == "hit"


def test_examples_of_tensorflow(tensorflow_cached):
    flush(tensorflow_cached.outrigger)
    several = [tfs.example(x=[float(number)]) for number in (1, 2, 3, 2)]
    for made, message in (
        (tfs.classify_request("half_plus_two", several, signature="classify_both"), classification_pb2.ClassificationResponse),
        (tfs.regress_request("half_plus_two", several, signature="regress_x_to_y"), regression_pb2.RegressionResponse),
    ):
        straight = message.FromString(tfs.call(tensorflow_cached.server.grpc, made).messages[0])
        for said in ("miss", "hit"):
            answer = tfs.call(tensorflow_cached.grpc, made)
            assert word(answer) == said, answer
            assert message.FromString(answer.messages[0]) == straight


def test_what_is_odd_of_tensorflow_is_as_it_is_without_a_cache(tensorflow_cached):
    """Lists shorter than their shape, filters, an input without rows, and an output without the rows that were sent."""
    flush(tensorflow_cached.outrigger)
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([10, 2**40])
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    made = [
        tfs.predict_request("types", {"x": tfs.tensor(np.zeros((3, 2), np.float32), values=np.array([1, 2, 6], np.float32))}),
        tfs.predict_request("types", {"x": tfs.tensor(np.zeros((3, 2), np.float32), values=np.array([], np.float32))}),
        tfs.predict_request("types", {"x": np.zeros((3, 2), np.float32)}),
        tfs.predict_request("types", {"x": np.zeros((0, 2), np.float32)}),
        *(tfs.predict_request("pair", {"a": a, "b": b}, outputs) for outputs in ((), ("sum",), ("outer", "b"))),
        tfs.predict_request("pair", {"a": a[::-1].copy(), "b": b}),
        tfs.predict_request("scaled", {"x": x, "factor": np.array(3, np.float32)}),
        tfs.predict_request("scaled", {"x": x, "factor": np.array(4, np.float32)}),
        tfs.predict_request("total", {"x": x}),
        tfs.predict_request("total", {"x": x[:2]}),
        tfs.predict_request("total", {"x": x[:1]}),
        tfs.predict_request("words", {"text": TEXTS}),
        tfs.predict_request("words", {"text": TEXTS[::-1].copy()}),
    ]
    for _ in range(3):
        for number in RANDOM.permutation(len(made)):
            straight = tfs.call(tensorflow_cached.server.grpc, made[number])
            found = tfs.call(tensorflow_cached.grpc, made[number])
            assert (found.code, found.details) == (straight.code, straight.details), number
            assert tfs.answer(found.messages[0]) == tfs.answer(straight.messages[0]), number


def test_the_numbers_of_tensorflow_are_those_of_triton_and_caches_do_not_mix_them(triton, tensorflow, logs):
    """Two arms of other servers behind one listener each, under one name."""
    outrigger = Outrigger(
        logs,
        {"triton": ("oip-grpc", triton.grpc), "tensorflow": ("tfserving-grpc", tensorflow.grpc)},
        caching(["linear"]),
        "outrigger-two-servers",
    )
    known(outrigger, "linear")
    try:
        for upstream in ("triton", "tensorflow"):
            for front in ALIKE:
                reply = front.ask(outrigger.address[upstream], "linear", {"x": IMAGES[:2]})
                assert reply.ok, reply
                wanted = "miss" if front is ALIKE[0] else "hit"
                assert word(reply.answer) == wanted, (upstream, front)
                fronts.agree(front, reply.output("scores"), linear.scores(IMAGES[:2]))
    finally:
        outrigger.stop()


def test_who_speaks_predict_to_triton_is_told_its_version(triton_cached):
    flush(triton_cached.outrigger)
    made = tfs.predict_request("linear", {"x": IMAGES[:1]})
    told = [
        predict_pb2.PredictResponse.FromString(tfs.call(triton_cached.grpc, made).messages[0]).model_spec for _ in range(2)
    ]
    assert told[0] == told[1] and told[0].version.value == 1, told


def test_what_is_kept_is_told(triton_cached):
    flush(triton_cached.outrigger)
    for _ in range(3):
        fronts.OIP_GRPC_RAW.ask(triton_cached.grpc, "linear", {"x": IMAGES[:5]})
    assert rows(triton_cached.outrigger, "linear") == 5
    told = [arm["cache"] for arm in arms(triton_cached.outrigger, "linear")]
    assert all(0 < each["max_bytes"] and each["bytes"] <= each["max_bytes"] for each in told), told
    assert any(each["bytes"] > 5 * 256 for each in told), json.dumps(told)


@pytest.mark.parametrize(
    "model, cache, status, verdict, words",
    [
        ("digits_svm", {}, 0, "safe", "Caching is safe: "),
        ("noisy", {}, 1, "unsafe", "Caching is UNSAFE, and configured: answers differ when repeated"),
        ("noisy", {"unit": "request"}, 1, "unsafe", "Caching is UNSAFE, and configured: "),
        ("noisy", None, 0, "unsafe", "Caching would be unsafe: "),
        # It tells each row how many came with it.
        ("witness", {}, 1, "safe", "Caching by row is UNSAFE, and configured, "),
        ("witness", {"unit": "request"}, 0, "safe", "Caching is safe with `unit: request`: "),
    ],
)
def test_the_probe_says_whether_a_model_may_be_cached(triton, tmp_path, model, cache, status, verdict, words):
    config = {
        "listeners": [{"address": "127.0.0.1:1", "upstream": "triton"}],
        "upstreams": {"triton": {"protocol": "oip-grpc", "endpoints": [f"http://{triton.grpc}"]}},
        "models": {model: {} if cache is None else {"cache": cache}},
    }
    file = tmp_path / "probe.yaml"
    file.write_text(yaml.safe_dump(config))
    asked = []
    if model == "witness":
        told = {"name": "SLEEP_MS", "datatype": "FP32", "shape": [3, 1], "data": [[0], [1], [2]]}
        brought = tmp_path / "rows.json"
        brought.write_text(json.dumps({"inputs": [told]}))
        asked = ["--input", brought]
    done = command("probe", "--config", file, *asked, model)
    assert (done.returncode, done.stderr) == (status, ""), done
    assert words in done.stdout, done.stdout
    done = command("probe", "--config", file, "--json", *asked, model)
    (report,) = json.loads(done.stdout)["endpoints"]
    assert report["caching"]["verdict"] == verdict and report["caching"]["configured"] == (cache is not None), report
    assert report["caching"]["by_row"] == (cache == {}), report
