"""Real servers as arms of one model: who answers, what is learned of it, and what several say together."""

import json
import sys
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from harness import fronts, oip, published, rest, rpc
from harness.outrigger import Outrigger, learned, samples
from harness.process import SERVERS, eventually

sys.path.insert(0, str(SERVERS))
import linear  # noqa: E402

pytestmark = pytest.mark.proxy
IMAGES = np.random.default_rng(19).integers(0, 17, (400, 64)).astype(np.float32)
ARMS = ("digits_svm", "digits_forest")


def tell(address, report):
    """Posts feedback: (status, answer)."""
    request = urllib.request.Request(
        f"http://{address}/outrigger/v1/feedback", json.dumps(report).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def report(address, *items):
    """The same over gRPC."""
    answer = rpc.call(address, published.REPORT, published.ReportRequest(feedback=items).SerializeToString())
    assert answer.code == grpc.StatusCode.OK, answer
    return published.ReportResponse.FromString(answer.messages[0])


def standings(outrigger, model):
    """What is told of a model's arms: {arm: (observations, loss)}."""
    return {name: (arm["observations"], arm["loss"]) for name, arm in learned(outrigger)[model]["arms"].items()}


def metric(outrigger, name, **labels):
    return sum(value for found, of, value in samples(outrigger) if found == name and labels.items() <= of.items())


@pytest.fixture
def selecting(triton, logs, request):
    """Two models of Triton behind one name, one over gRPC and one over REST."""
    model = {
        "arms": {
            "svm": {"upstream": "triton", "model": "digits_svm", "version": "1"},
            "forest": {"upstream": "triton-rest", "model": "digits_forest"},
        },
        "selection": {"policy": "exp3", "seed": 3, "label": "label"},
    }
    upstreams = {"triton": ("oip-grpc", triton.grpc), "triton-rest": ("oip-rest", triton.rest)}
    outrigger = Outrigger(logs, upstreams, {"digits": model}, f"outrigger-selecting-{request.node.name.split('[')[0]}")
    yield outrigger
    assert outrigger.process.alive(), outrigger.process.tail()
    outrigger.stop()


def asked(triton):
    return {model: oip.statistics(triton.grpc, model) for model in ARMS}


def test_clients_of_triton_are_answered_by_either_model(selecting, triton):
    own = {model: fronts.OIP_GRPC_RAW.ask(triton.grpc, model, {"x": IMAGES[:40]}).output("label") for model in ARMS}
    before, seen = asked(triton), set()
    with grpc_client.InferenceServerClient(selecting.address["triton"]) as client:
        assert client.is_model_ready("digits")
        assert client.get_model_metadata("digits").name == "digits"
        for _ in range(20):
            tensor = grpc_client.InferInput("x", [40, 64], "FP32")
            tensor.set_data_from_numpy(IMAGES[:40])
            found = client.infer("digits", [tensor])
            assert found.get_response().model_name == "digits"
            seen |= {model for model in ARMS if np.array_equal(found.as_numpy("label"), own[model])}
            assert seen, found.as_numpy("label")
    assert seen == set(ARMS)
    with http_client.InferenceServerClient(selecting.address["triton-rest"]) as client:
        for _ in range(20):
            tensor = http_client.InferInput("x", [40, 64], "FP32")
            tensor.set_data_from_numpy(IMAGES[:40])
            found = client.infer("digits", [tensor]).as_numpy("label")
            assert any(np.array_equal(found, own[model]) for model in ARMS)
    calls = {model: (after - before[model]).requests for model, after in asked(triton).items()}
    told = {name: metric(selecting, "outrigger_select_total", model="digits", arm=name) for name in ("svm", "forest")}
    assert sum(calls.values()) == 40 == sum(told.values())
    assert (told["svm"], told["forest"]) == (calls["digits_svm"], calls["digits_forest"])


@pytest.mark.parametrize("front", fronts.ALL, ids=str)
@pytest.mark.parametrize("listener", ["triton", "triton-rest"])
def test_every_client_is_told_which_arm_answered_and_may_tell_how_good_it_was(selecting, triton, listener, front):
    address = selecting.address[listener]
    seen = {}
    while len(seen) < 2:
        reply = front.ask(address, "digits", {"x": IMAGES[:3]})
        assert reply.ok, reply
        arm = reply.headers["outrigger-arm"]
        own = fronts.OIP_GRPC_RAW.ask(triton.grpc, f"digits_{arm}", {"x": IMAGES[:3]})
        fronts.agree(front, reply.output("label"), own.output("label"), typed_by_upstream=False)
        seen[arm] = reply.headers["outrigger-prediction-id"], own.output("label").ravel().tolist()
    told = 0
    for arm, (identity, labels) in seen.items():
        # One right, one wrong, one unknown.
        status, answer = tell(address, {"prediction_id": identity, "label": [labels[0], labels[1] + 1, None]})
        assert (status, answer["applied"]) == (200, 1), answer
        assert standings(selecting, "digits")[arm] == (1, 0.5)
        again = report(address, {"prediction_id": identity, "loss": 1.0})
        assert (again.applied, again.duplicates) == (0, 1)
        assert again.models["digits"].arms[arm].observations == 1
        told += 1
    assert metric(selecting, "outrigger_feedback_total", model="digits", result="applied") == told
    assert metric(selecting, "outrigger_feedback_total", model="digits", result="duplicate") == told


def test_requests_move_to_the_better_model(selecting, triton):
    truth = fronts.OIP_GRPC_RAW.ask(triton.grpc, "digits_svm", {"x": IMAGES[:128]}).output("label").ravel().tolist()
    for image in range(100):
        reply = fronts.OIP_GRPC_RAW.ask(selecting.address["triton"], "digits", {"x": IMAGES[image : image + 1]})
        item = {"prediction_id": reply.headers["outrigger-prediction-id"]}
        if image % 2:
            status, answer = tell(selecting.address["triton-rest"], {**item, "label": truth[image]})
            assert (status, answer["applied"]) == (200, 1), answer
        else:
            assert report(selecting.address["triton"], {**item, "label": {"integer": truth[image]}}).applied == 1
    arms = learned(selecting)["digits"]["arms"]
    assert arms["svm"]["loss"] == 0 < arms["forest"]["loss"]
    assert arms["svm"]["probability"] > 0.9, arms
    shares = {name: metric(selecting, "outrigger_select_probability", model="digits", arm=name) for name in arms}
    assert shares == {name: pytest.approx(arm["probability"]) for name, arm in arms.items()}


def test_feedback_on_inputs_judges_both_models(selecting, triton):
    labels = {
        arm: fronts.OIP_GRPC_RAW.ask(triton.grpc, f"digits_{arm}", {"x": IMAGES[:50]}).output("label").ravel()
        for arm in ("svm", "forest")
    }
    tensor = {"name": "x", "datatype": "FP32", "shape": [50, 64], "data": IMAGES[:50].ravel().tolist()}
    question = {"model": "digits", "inputs": [tensor], "label": labels["svm"].tolist()}
    status, answer = tell(selecting.address["triton"], question)
    assert (status, answer["applied"]) == (200, 1), answer
    wrong = np.mean(labels["forest"] != labels["svm"])
    assert standings(selecting, "digits") == {"svm": (1, 0), "forest": (1, pytest.approx(wrong))}
    request = oip.request("digits", [("x", "FP32", IMAGES[:50])], typed=False).SerializeToString()
    rows = [{"integer": label} for label in labels["forest"].tolist()]
    answer = report(selecting.address["triton"], {"inputs": {"request": request}, "labels": {"rows": rows}})
    assert answer.applied == 1, answer
    assert standings(selecting, "digits") == {"svm": (2, pytest.approx(wrong / 2)), "forest": (2, pytest.approx(wrong / 2))}


def test_malformed_feedback_is_refused_by_name_and_changes_nothing(selecting):
    before = standings(selecting, "digits")
    for told, field in (
        ({"prediction_id": "x", "loss": 2}, "loss"),
        ({"prediction_id": "x", "lost": 0}, "lost"),
        ({"loss": 0}, "prediction_id"),
    ):
        status, answer = tell(selecting.address["triton"], told)
        assert status == 400 and answer["error"].startswith(f"{field}: "), answer
    status, answer = tell(selecting.address["triton"], {"prediction_id": "x", "loss": 0})
    assert (status, answer["rejected"][0]["code"]) == (422, "malformed")
    assert standings(selecting, "digits") == before


def test_a_model_that_is_unloaded_is_left_out_and_comes_back(selecting, triton):
    def ask():
        reply = fronts.OIP_GRPC_RAW.ask(selecting.address["triton"], "digits", {"x": IMAGES[:1]})
        return reply.headers.get("outrigger-arm", reply.code)

    with grpc_client.InferenceServerClient(triton.grpc) as client:
        client.unload_model("digits_forest")
        eventually(lambda: not client.is_model_ready("digits_forest"), what="it is unloaded")
        try:
            answers = [ask() for _ in range(60)]
            assert set(answers) == {"svm"}, answers
            assert metric(selecting, "outrigger_select_up", model="digits", arm="forest") == 0
            assert not learned(selecting)["digits"]["arms"]["forest"]["up"]
            with grpc_client.InferenceServerClient(selecting.address["triton"]) as proxied:
                assert proxied.is_model_ready("digits")
        finally:
            client.load_model("digits_forest")
    eventually(lambda: ask() == "forest", what="it is asked again")


@pytest.fixture(scope="module")
def voting(triton, mlserver, logs):
    """One model on three servers of two kinds, in three protocols."""
    arms = {
        "triton": {"upstream": "triton", "model": "linear"},
        "triton-rest": {"upstream": "triton-rest", "model": "linear"},
        "mlserver": {"upstream": "mlserver", "model": "linear", "weight": 2},
        "mlserver-rest": {"upstream": "mlserver-rest", "model": "linear"},
    }
    models = {
        "label": {"arms": arms, "selection": {"ensemble": True, "label": "label"}},
        "scores": {"arms": arms, "selection": {"ensemble": True, "label": "scores"}},
    }
    upstreams = {
        "triton": ("oip-grpc", triton.grpc),
        "triton-rest": ("oip-rest", triton.rest),
        "mlserver": ("oip-grpc", mlserver.grpc),
        "mlserver-rest": ("oip-rest", mlserver.rest),
    }
    outrigger = Outrigger(logs, upstreams, models, "outrigger-voting")
    yield outrigger
    assert outrigger.process.alive(), outrigger.process.tail()
    outrigger.stop()


@pytest.mark.parametrize("front", fronts.ALL, ids=str)
@pytest.mark.parametrize("model", ["label", "scores"])
def test_servers_that_agree_vote_as_one(voting, front, model):
    inputs = {"x": IMAGES[:5]}
    scores = linear.scores(inputs["x"])
    for listener in ("triton", "mlserver-rest"):
        reply = front.ask(voting.address[listener], model, inputs)
        assert reply.ok, reply
        fronts.agree(front, reply.output("scores"), scores, typed_by_upstream=False)
        fronts.agree(front, reply.output("label"), linear.labels(scores), typed_by_upstream=False)
        assert reply.headers["outrigger-arm"] == "mlserver"
        assert reply.headers["outrigger-confidence"] == "1.000"
        told = {"prediction_id": reply.headers["outrigger-prediction-id"], "label": linear.labels(scores).ravel().tolist()}
        status, answer = tell(voting.address["triton-rest"], told)
        assert (status, answer["applied"]) == (200, 1), answer
        assert {arm["loss"] for arm in answer["arms"].values()} == {0}


def test_all_servers_are_judged_by_inputs(voting):
    labels = linear.labels(linear.scores(IMAGES[:4])).ravel().tolist()
    before = standings(voting, "label")
    tensor = {"name": "x", "datatype": "FP32", "shape": [4, 64], "data": rest.plain(IMAGES[:4])}
    status, answer = tell(voting.address["mlserver-rest"], {"model": "label", "inputs": [tensor], "label": labels})
    assert (status, answer["applied"]) == (200, 1), answer
    request = oip.request("label", [("x", "FP32", IMAGES[:4])], typed=False).SerializeToString()
    rows = [{"integer": label} for label in labels]
    assert report(voting.address["triton"], {"inputs": {"request": request}, "labels": {"rows": rows}}).applied == 1
    for arm, (count, loss) in standings(voting, "label").items():
        assert (count, loss) == (before[arm][0] + 2, 0), arm
