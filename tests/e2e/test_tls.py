"""TLS by real clients: curl and tritonclient over mutual TLS, through two proxies that verify each other, to Triton."""

import concurrent.futures
import functools
import json
import os
import signal
import socket
import ssl
import subprocess
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
import yaml

from harness import oip, rpc
from harness.certificates import Authority, Mounted, expired
from harness.outrigger import command, get, samples, start
from harness.process import eventually, free_ports
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.proxy

ROWS = np.arange(32, dtype=np.float32).reshape(2, 16)


class Proxy:
    """A proxy whose configuration is given whole."""

    def __init__(self, folder, name, config, env=None):
        self.admin = f"127.0.0.1:{free_ports(1)[0]}"
        self.file = folder / f"{name}.yaml"
        self.write(config)
        self.process = start(["run", "--config", self.file], self.admin, folder, name, env)

    def write(self, config):
        self.config = {**config, "admin": {"address": self.admin}}
        fresh = self.file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(self.config, sort_keys=False))
        fresh.rename(self.file)

    def get(self, path):
        return get(self.admin, path)

    def metric(self, name, **labels):
        matching = (value for found, of, value in samples(self) if found == name and labels.items() <= of.items())
        return sum(matching)

    def applied(self):
        return self.metric("outrigger_tls_reloads_total", result="applied")


@pytest.fixture
def proxies(tmp_path):
    """Starts proxies that end with the test."""
    running = []

    def make(config, env=None):
        running.append(Proxy(tmp_path, f"outrigger-{len(running)}", config, env))
        return running[-1]

    yield make
    for each in running:
        each.process.stop(signal.SIGKILL)


class Chain:
    """client -- mutual TLS -- outer proxy -- mutual TLS -- inner proxy -- Triton, for gRPC and REST."""

    def __init__(self, proxies, folder, triton):
        self.authority = Authority("first")
        self.issued = self.authority.issue()
        self.files = {side: Mounted(folder / side, self.issued, self.authority.pem) for side in ("outer", "inner")}
        ports = free_ports(4)
        self.grpc, self.rest, grpc_between, rest_between = (f"127.0.0.1:{port}" for port in ports)
        self.inner = proxies(
            {
                "listeners": [
                    {"address": grpc_between, "upstream": "triton", "tls": self.server("inner")},
                    {"address": rest_between, "upstream": "triton-rest", "tls": self.server("inner")},
                ],
                "upstreams": {
                    "triton": {"protocol": "oip-grpc", "endpoints": [f"http://{triton.grpc}"]},
                    "triton-rest": {"protocol": "oip-rest", "endpoints": [f"http://{triton.rest}"]},
                },
            }
        )
        # Named by its path relative to the configuration, as a mounted secret is.
        between = {"ca": "outer/ca.crt", "certificate": "outer/tls.crt", "key": "outer/tls.key"}
        self.outer = proxies(
            {
                "listeners": [
                    {"address": self.grpc, "upstream": "inner", "tls": self.server("outer")},
                    {"address": self.rest, "upstream": "inner-rest", "tls": self.server("outer")},
                ],
                "upstreams": {
                    "inner": {
                        "protocol": "oip-grpc",
                        "endpoints": [f"https://localhost:{ports[2]}"],
                        "tls": between,
                    },
                    "inner-rest": {
                        "protocol": "oip-rest",
                        "endpoints": [f"https://{rest_between}"],
                        "tls": {**between, "server_name": "localhost"},
                    },
                },
            }
        )

    def server(self, side):
        files = self.files[side]
        return {"certificate": files.certificate, "key": files.key, "client_ca": files.ca}


@pytest.fixture
def chain(proxies, tmp_path, triton):
    return Chain(proxies, tmp_path, triton)


def credentials(authority, issued):
    return grpc.ssl_channel_credentials(authority.pem, issued.key, issued.certificate)


def client_files(folder, authority, issued):
    for name, text in (("ca", authority.pem), ("crt", issued.certificate), ("key", issued.key)):
        (folder / f"client.{name}").write_bytes(text)
    return {name: str(folder / f"client.{name}") for name in ("ca", "crt", "key")}


def tensor(library, array):
    made = library.InferInput("INPUT0", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


def rest_client(address, files, **options):
    # gevent's own context takes the files by these names.
    make = functools.partial(ssl.create_default_context, cafile=files["ca"])
    if "crt" not in files:
        return http_client.InferenceServerClient(address, ssl=True, ssl_context_factory=make, **options)

    def context():
        made = make()
        made.load_cert_chain(files["crt"], files["key"])
        return made

    return http_client.InferenceServerClient(address, ssl=True, ssl_context_factory=context, **options)


def test_the_client_library_over_mutual_tls_gets_the_servers_answers(chain, triton, tmp_path):
    files = client_files(tmp_path, chain.authority, chain.authority.issue())

    def by_grpc(address, **options):
        with grpc_client.InferenceServerClient(address, **options) as client:
            result = client.infer("echo", [tensor(grpc_client, ROWS)], request_id="17")
            return (
                client.is_server_ready(),
                client.get_server_metadata(as_json=True),
                result.get_response(as_json=True),
                result.as_numpy("OUTPUT0"),
            )

    def by_rest(client):
        with client:
            result = client.infer("echo", [tensor(http_client, ROWS)], request_id="17")
            return client.is_server_ready(), client.get_server_metadata(), result.get_response(), result.as_numpy("OUTPUT0")

    secured = by_grpc(
        chain.grpc, ssl=True, root_certificates=files["ca"], private_key=files["key"], certificate_chain=files["crt"]
    )
    np.testing.assert_equal(secured, by_grpc(triton.grpc))
    straight = by_rest(http_client.InferenceServerClient(triton.rest))
    np.testing.assert_equal(by_rest(rest_client(chain.rest, files)), straight)
    assert chain.outer.get("/ready")[0] == 200, "the proxies' own questions pass, too"


def test_the_client_library_without_a_certificate_is_refused(chain, tmp_path):
    files = client_files(tmp_path, chain.authority, Authority("stranger").issue())
    with grpc_client.InferenceServerClient(chain.grpc, ssl=True, root_certificates=files["ca"]) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.is_server_live(client_timeout=10)
        assert caught.value.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")
    for shown in ({"ca": files["ca"]}, files):
        with rest_client(chain.rest, shown) as client, pytest.raises((OSError, InferenceServerException)):
            client.is_server_live()


def curl(url, *arguments):
    made = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments, url], capture_output=True, text=True
    )
    return made.returncode, made.stdout, made.stderr


def test_curl_speaks_both_versions_over_mutual_tls(chain, triton, tmp_path):
    files = client_files(tmp_path, chain.authority, chain.authority.issue())
    trusting = ["--cacert", files["ca"]]
    own = [*trusting, "--cert", files["crt"], "--key", files["key"]]
    body = json.dumps({"inputs": [{"name": "INPUT0", "shape": [1, 16], "datatype": "FP32", "data": list(range(16))}]})
    post = ["-H", "content-type: application/json", "--data-binary", body]
    direct = curl(f"http://{triton.rest}/v2/models/echo/infer", *post)[1]
    for host in ("localhost", "127.0.0.1"):
        for version, spoken in (("--http2", "2"), ("--http1.1", "1.1")):
            url = f"https://{host}:{chain.rest.split(':')[1]}/v2/models/echo/infer"
            code, answer, error = curl(url, *own, version, *post, "-w", "\n%{http_version} %{http_code}")
            assert code == 0, error
            answer, told = answer.rsplit("\n", 1)
            assert told == f"{spoken} 200"
            assert json.loads(answer) == json.loads(direct)
    url = f"https://{chain.rest}/v2/health/live"
    assert curl(url, *trusting)[0] in (35, 52, 55, 56), "no certificate"
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    other = client_files(stranger, Authority("stranger"), Authority("stranger").issue())
    assert curl(url, *trusting, "--cert", other["crt"], "--key", other["key"])[0] in (35, 52, 55, 56), "a stranger's"
    assert curl(url, *own[2:], "--cacert", other["ca"])[0] == 60, "the client does not trust us"
    code, page, _ = curl(f"http://{chain.rest}/v2/health/live", "--write-out", "%{http_code}")
    assert code == 0 and "this port speaks TLS" in page and page.endswith("400"), "no TLS at all"


def shown(address, authority, issued, folder):
    """The serial number of the certificate that a listener shows."""
    from cryptography import x509

    files = client_files(folder, authority, issued)
    context = ssl.create_default_context(cafile=files["ca"])
    context.load_cert_chain(files["crt"], files["key"])
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain, server_hostname="localhost") as tls:
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).serial_number


def test_no_request_fails_while_all_certificates_change(chain, tmp_path):
    over = threading.Event()
    current = {"authority": chain.authority, "issued": chain.authority.issue(), "trusted": chain.authority.pem}
    codes, statuses = [], []
    message = oip.request("echo", [("INPUT0", "FP32", ROWS)]).SerializeToString()

    def by_grpc(keeps):
        """Calls on one channel for all its life, or on a new one each time."""
        def opened():
            made = grpc.ssl_channel_credentials(current["trusted"], current["issued"].key, current["issued"].certificate)
            return grpc.secure_channel(
                chain.grpc, made, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            )

        channel = opened()
        while not over.is_set():
            try:
                channel.unary_unary(oip.SERVICE + "ModelInfer")(message, timeout=rpc.PATIENCE)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append((error.code(), error.details()))
            if not keeps:
                channel.close()
                channel = opened()
        channel.close()

    def by_curl(number):
        folder = tmp_path / f"curl-{number}"
        folder.mkdir()
        while not over.is_set():
            (folder / "client.ca").write_bytes(current["trusted"])
            issued = current["issued"]
            (folder / "client.pem").write_bytes(issued.certificate + issued.key)
            made = curl(
                f"https://{chain.rest}/v2/health/live", "--cacert", folder / "client.ca", "--cert", folder / "client.pem",
                "-w", "%{http_code}",
            )
            statuses.append(made[1] if made[0] == 0 else made)

    def swap(side, issued, ca):
        """Changes one proxy's files, and waits until both its sides have them and some requests have passed."""
        proxy = getattr(chain, side)
        before, calls = proxy.applied(), len(codes)
        chain.files[side].swap(issued, ca)
        sets = len(proxy.config["listeners"]) + sum("tls" in each for each in proxy.config["upstreams"].values())
        eventually(lambda: proxy.applied() >= before + sets, what=f"the files of {side} to be applied")
        eventually(lambda: len(codes) > calls + 10, what="requests to go on")

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(by_grpc, number % 2 == 0) for number in range(4)] + [pool.submit(by_curl, n) for n in range(2)]
        try:
            for round in range(3):
                old, new = chain.authority, Authority(f"round {round}")
                both = old.pem + new.pem
                # Whom to trust comes first, everywhere; then what to show; last, whom to trust no more.
                for side in ("outer", "inner"):
                    swap(side, chain.issued, both)
                current["trusted"] = both
                eventually(lambda n=len(statuses): len(statuses) > n + 4, what="clients to trust both")
                fresh = new.issue()
                for side in ("outer", "inner"):
                    swap(side, fresh, both)
                current["issued"] = new.issue()
                eventually(lambda n=len(statuses), m=len(codes): len(statuses) > n + 4 and len(codes) > m + 20)
                for side in ("outer", "inner"):
                    swap(side, fresh, new.pem)
                current["trusted"] = new.pem
                for address in (chain.grpc, chain.rest):
                    assert shown(address, new, new.issue(), tmp_path) == fresh.serial
                chain.authority, chain.issued = new, fresh
        finally:
            over.set()
        for each in loads:
            each.result()
    assert set(codes) == {"OK"}, [each for each in codes if each != "OK"][:5]
    assert set(statuses) == {"200"}, [each for each in statuses if each != "200"][:5]
    assert len(codes) > 200 and len(statuses) > 20, (len(codes), len(statuses))
    print(f"{len(codes)} calls over gRPC, {len(statuses)} over REST")
    for proxy in (chain.outer, chain.inner):
        assert proxy.metric("outrigger_tls_reloads_total", result="refused") == 0


def test_files_that_do_not_fit_keep_the_last_good_ones_and_are_named_in_the_log(chain, tmp_path):
    client = chain.authority.issue()
    ask = lambda: shown(chain.grpc, chain.authority, client, tmp_path)  # noqa: E731
    late, stranger = expired(chain.authority), chain.authority.issue()
    stranger.key = client.key
    for issued, complaint in ((late, "tls.crt: the certificate has expired on"), (stranger, "tls.key: the key does not belong")):
        refused = chain.outer.metric("outrigger_tls_reloads_total", result="refused")
        chain.files["outer"].swap(issued, chain.authority.pem)
        eventually(lambda n=refused: chain.outer.metric("outrigger_tls_reloads_total", result="refused") > n)
        eventually(lambda text=complaint: text in chain.outer.process.log.read_text())
        assert ask() == chain.issued.serial
    expiry = chain.outer.metric("outrigger_tls_certificate_expiry_seconds", listener=chain.grpc, file="certificate")
    assert expiry > 1.7e9


def test_check_and_start_name_every_faulty_file(tmp_path):
    authority = Authority("first")
    late = expired(authority)
    (tmp_path / "late.crt").write_bytes(late.certificate)
    (tmp_path / "other.key").write_bytes(authority.issue().key)
    (tmp_path / "words").write_text("no certificate at all\n")
    file = tmp_path / "outrigger.yaml"
    config = {
        "listeners": [
            {
                "address": "127.0.0.1:1",
                "upstream": "u",
                "tls": {"certificate": "late.crt", "key": "other.key", "client_ca": "words"},
            }
        ],
        "upstreams": {"u": {"protocol": "oip-grpc", "endpoints": ["https://h"], "tls": {"ca": "missing.crt"}}},
    }
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    for made in (command("check", file), command("run", "--config", file)):
        assert made.returncode == 1
        for complaint in (
            "late.crt: the certificate has expired on",
            "other.key: the key does not belong to the certificate in",
            "words: is not in PEM form",
            "missing.crt: cannot be read: there is no such file",
        ):
            assert f"{tmp_path}/{complaint}" in made.stderr, made.stderr
        assert "outrigger.yaml:5:18: listeners[0].tls.certificate: " in made.stderr, made.stderr


def test_a_configuration_waits_for_certificates_that_come_after_it(chain, tmp_path):
    fresh = Authority("fresh")
    config = {**chain.outer.config}
    ports = free_ports(1)
    tls = {"certificate": "late/tls.crt", "key": "late/tls.key"}
    late = {"address": f"127.0.0.1:{ports[0]}", "upstream": "inner", "tls": tls}
    chain.outer.write({**config, "listeners": [*config["listeners"], late]})
    refused = lambda: chain.outer.metric("outrigger_config_reloads_total", result="refused")  # noqa: E731
    eventually(lambda: refused() == 1, what="the configuration to be refused")
    Mounted(tmp_path / "late", fresh.issue(), fresh.pem)
    eventually(lambda: ports[0] in listening(chain.outer), what="the configuration to be applied")
    assert refused() == 1


def listening(proxy):
    return [int(each["address"].split(":")[1]) for each in json.loads(proxy.get("/config")[1])["listeners"]]


def test_a_drop_in_trusts_the_systems_roots(chain, proxies, tmp_path, triton):
    authority = Authority("system")
    files = Mounted(tmp_path / "system", authority.issue(), authority.pem)
    front = f"127.0.0.1:{free_ports(1)[0]}"
    proxies(
        {
            "listeners": [
                {"address": front, "upstream": "u", "tls": {"certificate": files.certificate, "key": files.key}}
            ],
            "upstreams": {"u": {"protocol": "oip-grpc", "endpoints": [f"http://{triton.grpc}"]}},
        }
    )
    admin, plain = (f"127.0.0.1:{port}" for port in free_ports(2))
    for roots, code in ((files.ca, grpc.StatusCode.OK), (chain.files["outer"].ca, grpc.StatusCode.UNAVAILABLE)):
        arguments = ["run", "--listen", plain, "--upstream", f"https://{front}", "--admin", admin]
        env = {"SSL_CERT_FILE": roots, "SSL_CERT_DIR": ""}
        process = start(arguments, admin, tmp_path, f"drop-in-{os.path.basename(os.path.dirname(roots))}", env)
        try:
            answer = oip.infer(plain, oip.request("echo", [("INPUT0", "FP32", ROWS)]))
            assert answer.code == code, answer
            if code != grpc.StatusCode.OK:
                assert f"endpoint {front}: no connection: no TLS: the server's certificate comes from no" in answer.details
        finally:
            process.stop(signal.SIGKILL)
