"""`outrigger probe` in front of real servers: which models may be batched and cached, and which may not."""

import json

import numpy as np
import pytest
import yaml

from harness.outrigger import command

pytestmark = pytest.mark.proxy


@pytest.fixture
def probe(tmp_path):
    """Probes a model at an address that speaks a protocol; the status and the report, or what was complained of."""

    def run(protocol, address, model, *arguments, settings=None):
        config = {
            "listeners": [{"address": "127.0.0.1:1", "upstream": "server"}],
            "upstreams": {"server": {"protocol": protocol, "endpoints": [f"http://{address}"]}},
            "models": {model: {"batch": settings or {}}},
        }
        file = tmp_path / "probe.yaml"
        file.write_text(yaml.safe_dump(config))
        done = command("probe", "--config", file, "--json", *arguments, model)
        assert not done.stderr, done.stderr
        report = json.loads(done.stdout)
        assert report["status"] == done.returncode
        return done.returncode, report["endpoints"][0]

    return run


@pytest.fixture
def rows(tmp_path):
    """Writes rows as a file that the command takes."""

    def write(name, array):
        array = np.asarray(array, np.float32)
        tensor = {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.tolist()}
        file = tmp_path / "rows.json"
        file.write_text(json.dumps({"inputs": [tensor]}))
        return "--input", file

    return write


def verdicts(report):
    assert "error" not in report, report
    return report["batching"]["verdict"], report["caching"]["verdict"]


@pytest.mark.parametrize("model", ["digits_svm", "digits_forest", "linear", "words", "echo"])
@pytest.mark.parametrize("protocol, attribute", [("oip-grpc", "grpc"), ("oip-rest", "rest")])
def test_deterministic_models_of_triton_are_safe(triton, probe, protocol, attribute, model):
    status, report = probe(protocol, getattr(triton, attribute), model)
    assert (status, verdicts(report)) == (0, ("safe", "safe")), report
    assert report["batching"]["configured"] and report["batching"]["rows"] == 16, report
    assert report["caching"]["bit_equal"], report
    assert report["speedup_per_row"] > 1, report


def test_a_random_model_is_not_cached_safely(triton, probe):
    status, report = probe("oip-grpc", triton.grpc, "noisy")
    assert (status, verdicts(report)) == (1, ("unknown", "unsafe")), report
    assert report["caching"]["reason"].startswith("answers differ when repeated: output `Y`"), report
    assert 1e-4 < report["caching"]["largest_difference"] < 1, report


def test_an_output_that_tells_of_the_neighbours_makes_batching_unsafe(triton, probe, rows):
    status, report = probe("oip-grpc", triton.grpc, "witness", *rows("SLEEP_MS", [[0], [1], [2]]))
    assert (status, verdicts(report)) == (1, ("unsafe", "safe")), report
    assert report["batching"]["reason"].startswith("output `ROWS`, row 0: 1 alone, 3 among 3;"), report


def test_a_row_that_is_refused_alone_is_told_with_the_servers_words(triton, probe, rows):
    status, report = probe("oip-grpc", triton.grpc, "marked")
    assert status == 2 and "a marked row" in report["error"] and "--input" in report["error"], report
    status, report = probe("oip-grpc", triton.grpc, "marked", *rows("X", [[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert (status, verdicts(report)) == (0, ("safe", "safe")), report


def test_what_cannot_be_asked_row_by_row_is_refused(triton, probe):
    for model, why in (("sequence", "keeps state"), ("stream", "none or several answers"), ("nobody", "not described")):
        status, report = probe("oip-grpc", triton.grpc, model)
        assert status == 2 and why in report["error"], report


def test_whole_requests_are_repeated_where_there_are_no_batches(triton, probe):
    status, report = probe("oip-grpc", triton.grpc, "unbatched")
    assert status == 2 and "`--dim X=N`" in report["error"], report
    status, report = probe("oip-grpc", triton.grpc, "unbatched", "--dim", "3")
    assert (status, verdicts(report)) == (0, ("idle", "safe")), report


@pytest.mark.parametrize(
    "server, protocol, attribute",
    [
        ("mlserver", "oip-grpc", "grpc"),
        ("mlserver", "oip-rest", "rest"),
        ("tensorflow", "tfserving-grpc", "grpc"),
        ("kserve", "oip-rest", "rest"),
        ("kserve", "tfserving-rest", "rest"),
    ],
)
def test_servers_of_other_makers_are_probed_too(request, probe, rows, server, protocol, attribute):
    address = getattr(request.getfixturevalue(server), attribute)
    # KServe V1 describes nothing.
    arguments = rows("x", np.random.default_rng(5).normal(size=(8, 64))) if protocol == "tfserving-rest" else ()
    status, report = probe(protocol, address, "linear", *arguments, settings={"max_batch_size": 8})
    assert (status, verdicts(report)) == (0, ("safe", "safe")), report
    assert report["batching"]["rows"] == 8, report


def test_people_get_a_table_and_sentences(triton, tmp_path):
    file = tmp_path / "probe.yaml"
    upstream = f'{{ protocol: oip-grpc, endpoints: ["http://{triton.grpc}"] }}'
    file.write_text(
        f"listeners: [{{ address: 127.0.0.1:1, upstream: triton }}]\nupstreams: {{ triton: {upstream} }}\n"
        "models: { digits_svm: { batch: {} } }\n"
    )
    done = command("probe", "--config", file, "digits_svm")
    assert done.returncode == 0 and not done.stderr, done
    for sentence in ("Batching is safe: ", "Caching is safe: ", "One call of 16 rows takes "):
        assert sentence in done.stdout, done.stdout
    for arguments in (["--config", file, "digits"], ["--config", tmp_path / "none", "digits_svm"], ["digits_svm"]):
        done = command("probe", *arguments)
        assert done.returncode == 2 and done.stderr and not done.stdout, done
