//! TLS on both sides: who is trusted, what is said where it fails, and that certificates change
//! under load without a failed request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, StatusCode};
use outrigger_native::Synthetic;
use outrigger_tests::{
    gateway::Gateway,
    http1::{Http1, get, get_json},
    metrics::Metrics,
    model::{connect as connect_model, rows, serve},
    origin::{self, Origin, mirror, mirror_http1},
    patience::{until, within},
    tls::{Authority, Folder, Issued, client, connect, server, shown},
    wire::{Reply, Wire},
};
use rand::RngExt as _;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const BOTH: &[&str] = &["h2", "http/1.1"];

/// The files that a listener names in these tests.
const SERVER: &str = "certificate: F/tls.crt, key: F/tls.key";

/// A proxy between what is said of its listener's TLS and of its upstream. `F` is the folder.
fn configuration(folder: &Folder, listener: &str, upstream: &str) -> String {
    let listener = match listener {
        "" => String::new(),
        tls => format!(", tls: {{ {tls} }}"),
    };
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:0\", upstream: server{listener} }}]\n\
         admin: {{ address: \"127.0.0.1:0\" }}\n\
         upstreams: {{ server: {{ {upstream} }} }}\n"
    );
    text.replace("F/", &format!("{}/", folder.path("").display()))
        .replace("//", "/")
        .replace("http:/", "http://")
        .replace("https:/", "https://")
}

fn plain(address: SocketAddr) -> String {
    format!("protocol: oip-grpc, endpoints: [\"http://{address}\"]")
}

/// A server that shakes hands as it is told at that moment, and answers by `mirror`.
async fn secure_origin(
    acceptor: impl Fn() -> TlsAcceptor + Clone + Send + Sync + 'static,
) -> Origin {
    Origin::sockets(move |socket| {
        let acceptor = acceptor();
        async move {
            if let Ok(stream) = acceptor.accept(socket).await {
                origin::serve_http2(stream, mirror).await;
            }
        }
    })
    .await
}

async fn ask_h2(client: &TlsConnector, address: SocketAddr) -> Result<Reply, String> {
    let stream = connect(client, address)
        .await
        .map_err(|error| error.to_string())?;
    let wire = Wire::over(stream).await;
    let called = wire.call("/p.S/Unary", b"x").await;
    called.map_err(|error| error.to_string())
}

async fn ask_http1(client: &TlsConnector, address: SocketAddr) -> Option<Reply> {
    let stream = connect(client, address).await.ok()?;
    let request = "POST /p.S/Unary HTTP/1.1\r\nhost: model.test\r\ncontent-length: 1\r\n\r\nx";
    Http1::over(stream).exchange(request).await
}

fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    metrics.sum(name, labels)
}

fn reloads(gateway: &Gateway, result: &str) -> f64 {
    metric(
        gateway,
        "outrigger_tls_reloads_total",
        &[("result", result)],
    )
}

#[tokio::test]
async fn clients_speak_what_alpn_agrees_on() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    folder.issue("tls", &authority.issue());
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::start(&configuration(&folder, SERVER, &plain(origin.address())));
    for (offered, agreed) in [
        (BOTH, Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let client = client(&authority.pem(), None, offered);
        let stream = connect(&client, gateway.address()).await.unwrap();
        let alpn = stream.get_ref().1.alpn_protocol();
        assert_eq!(alpn, agreed.map(str::as_bytes), "{offered:?}");
    }
    let client = client(&authority.pem(), None, BOTH);
    let answer = ask_h2(&client, gateway.address()).await.unwrap();
    assert_eq!(answer.headers["seen-target"], "http://model.test/p.S/Unary");
    assert_eq!(answer.grpc_status(), Some("0"));
    let answer = ask_http1(&client, gateway.address()).await.unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::OK, &b"x"[..])
    );
    let labels = [("listener", "127.0.0.1:0"), ("result", "completed")];
    until("each handshake is counted", || {
        metric(&gateway, "outrigger_tls_handshakes_total", &labels) == 6.
    })
    .await;
}

#[tokio::test]
async fn a_client_without_the_right_certificate_is_refused_where_one_is_required() {
    let (folder, authority, stranger) =
        (Folder::new(), Authority::new("one"), Authority::new("two"));
    folder.issue("tls", &authority.issue());
    folder.write("ca.crt", &authority.pem());
    let origin = Origin::http2(mirror).await;
    let upstream = plain(origin.address());
    let late = authority.issue_for("late", None, 2021);
    for (auth, none_is_served) in [
        ("", false),
        (", client_auth: required", false),
        (", client_auth: optional", true),
    ] {
        let tls = format!("{SERVER}, client_ca: F/ca.crt{auth}");
        let gateway = Gateway::start(&configuration(&folder, &tls, &upstream));
        for (what, shown, served) in [
            ("the right one", Some(authority.issue()), true),
            ("none", None, none_is_served),
            ("a stranger's", Some(stranger.issue()), false),
            ("one that has expired", Some(late.clone()), false),
        ] {
            let client = client(&authority.pem(), shown.as_ref(), &["http/1.1"]);
            let answer = within("an end", ask_http1(&client, gateway.address())).await;
            assert_eq!(answer.is_some(), served, "{auth}: {what}");
        }
        // A client is told before it is counted.
        until("those that were refused are counted", || {
            let failed = [("listener", "127.0.0.1:0"), ("result", "failed")];
            let failed = metric(&gateway, "outrigger_tls_handshakes_total", &failed);
            failed == if none_is_served { 2. } else { 3. }
        })
        .await;
    }
}

#[tokio::test]
async fn servers_are_trusted_by_their_authority_and_name() {
    let (folder, authority, stranger) =
        (Folder::new(), Authority::new("one"), Authority::new("two"));
    folder.write("ca.crt", &authority.pem());
    folder.write("stranger.crt", &stranger.pem());
    let good = authority.issue();
    let ca = folder.path("stranger.crt");
    let ca = ca.display();
    let named = authority.issue_for("models.example", None, 2100);
    for (tls, certificate, alpn, complaint) in [
        ("ca: F/ca.crt", &good, BOTH, String::new()),
        (
            "ca: F/ca.crt, server_name: localhost",
            &good,
            BOTH,
            String::new(),
        ),
        (
            "ca: F/ca.crt, server_name: models.example",
            &named,
            BOTH,
            String::new(),
        ),
        (
            "ca: F/stranger.crt",
            &good,
            BOTH,
            format!("no TLS: the server's certificate comes from no authority in {ca}"),
        ),
        (
            "ca: F/ca.crt, server_name: else.example",
            &good,
            BOTH,
            "no TLS: the server's certificate is not for else.example, but for \
             localhost, 127.0.0.1"
                .to_owned(),
        ),
        (
            "ca: F/ca.crt",
            &named,
            BOTH,
            "no TLS: the server's certificate is not for 127.0.0.1, but for \
             models.example"
                .to_owned(),
        ),
        (
            "ca: F/ca.crt",
            &authority.issue_for("localhost", Some([127, 0, 0, 1].into()), 2021),
            BOTH,
            "no TLS: the server's certificate has expired on Fri, 01 Jan 2021 00:00:00 GMT"
                .to_owned(),
        ),
        (
            "ca: F/ca.crt",
            &authority.itself(),
            BOTH,
            "no TLS: the server's certificate is that of an authority (CA:TRUE), which no server \
             may show"
                .to_owned(),
        ),
        (
            "ca: F/ca.crt",
            &good,
            &[],
            "no TLS: ALPN: h2 is needed, and the server does not offer it".to_owned(),
        ),
        (
            "ca: F/ca.crt",
            &good,
            &["http/1.1"],
            "no TLS: ALPN: h2 is needed, and the server does not offer it".to_owned(),
        ),
    ] {
        let acceptor = server(certificate, None, alpn);
        let origin = secure_origin(move || acceptor.clone()).await;
        let address = origin.address();
        let upstream =
            format!("protocol: oip-grpc, endpoints: [\"https://{address}\"], tls: {{ {tls} }}");
        let gateway = Gateway::start(&configuration(&folder, "", &upstream));
        let wire = Wire::connect(gateway.address()).await;
        let answer = within("an answer", wire.call("/p.S/Unary", b"x")).await;
        let answer = answer.unwrap();
        if complaint.is_empty() {
            assert_eq!(answer.grpc_status(), Some("0"), "{tls}: {answer:?}");
            assert_eq!(
                answer.headers["seen-target"],
                "https://model.test/p.S/Unary"
            );
            continue;
        }
        assert_eq!(answer.grpc_status(), Some("14"), "{answer:?}");
        assert_eq!(
            answer.grpc_message(),
            format!("endpoint {address}: no connection: {complaint}")
        );
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_from_one_that_is_gone() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    folder.write("ca.crt", &authority.pem());
    let origin = Origin::http1(mirror_http1).await;
    let upstream = format!(
        "protocol: oip-grpc, endpoints: [\"https://{}\"], tls: {{ ca: F/ca.crt }}",
        origin.address()
    );
    let gateway = Gateway::start(&configuration(&folder, "", &upstream));
    let wire = Wire::connect(gateway.address()).await;
    let answer = within("an answer", wire.call("/p.S/Unary", b"x")).await;
    let message = answer.unwrap().grpc_message();
    assert!(
        message.contains("the server does not speak TLS there"),
        "{message}"
    );
}

#[tokio::test]
async fn servers_see_our_certificate_and_say_so_where_it_is_wrong() {
    let (folder, authority, stranger) =
        (Folder::new(), Authority::new("one"), Authority::new("two"));
    folder.write("ca.crt", &authority.pem());
    folder.issue("own", &authority.issue());
    folder.issue("wrong", &stranger.issue());
    let acceptor = server(&authority.issue(), Some(&authority.pem()), BOTH);
    let again = acceptor.clone();
    let origin = secure_origin(move || acceptor.clone()).await;
    let rest = Origin::sockets(move |socket| {
        let acceptor = again.clone();
        async move {
            // It trusts nobody who comes here.
            acceptor.accept(socket).await.unwrap_err();
        }
    })
    .await;
    for (shown, alert) in [
        ("certificate: F/own.crt, key: F/own.key", ""),
        ("certificate: F/wrong.crt, key: F/wrong.key", "UnknownCA"),
        ("", "CertificateRequired"),
    ] {
        let upstream = format!(
            "protocol: oip-grpc, endpoints: [\"https://{}\"], tls: {{ ca: F/ca.crt{}{shown} }}",
            origin.address(),
            if shown.is_empty() { "" } else { ", " }
        );
        let gateway = Gateway::start(&configuration(&folder, "", &upstream));
        let wire = Wire::connect(gateway.address()).await;
        let answer = within("an answer", wire.call("/p.S/Unary", b"x")).await;
        let answer = answer.unwrap();
        if alert.is_empty() {
            assert_eq!(answer.grpc_status(), Some("0"));
            continue;
        }
        assert_eq!(answer.grpc_status(), Some("14"));
        let message = answer.grpc_message();
        assert!(
            message.contains(alert) && message.contains(&origin.address().to_string()),
            "{alert}: {message}"
        );
        // In HTTP/1.1 there is no greeting, so that it shows later.
        let upstream = upstream
            .replace("oip-grpc", "oip-rest")
            .replace(&origin.address().to_string(), &rest.address().to_string());
        let gateway = Gateway::start(&configuration(&folder, "", &upstream));
        let answer = within("an answer", get(gateway.address(), "/v2")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let message = String::from_utf8_lossy(&answer.body);
        assert!(
            message.contains(alert) && message.contains(&rest.address().to_string()),
            "{alert}: {message}"
        );
    }
}

/// What a proxy learns of a model, whether it is ready, and merging: all over TLS between two
/// proxies that show each other certificates.
#[tokio::test]
async fn models_are_served_over_tls_from_end_to_end() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    folder.write("ca.crt", &authority.pem());
    folder.issue("tls", &authority.issue());
    let served = serve(Synthetic::new("m")).await;
    let tls = format!("{SERVER}, client_ca: F/ca.crt");
    let inner = configuration(&folder, &tls, &plain(served.server.address()));
    let inner = Gateway::start(&inner);
    let outer = configuration(
        &folder,
        "",
        &format!(
            "protocol: oip-grpc, endpoints: [\"https://localhost:{}\"], \
             tls: {{ ca: F/ca.crt, {SERVER} }}",
            inner.address().port()
        ),
    );
    let outer = Gateway::start(&format!("{outer}models: {{ m: {{ batch: {{}} }} }}\n"));
    within("it is ready", async {
        while get_json(outer.admin(), "/ready").await.0 != StatusCode::OK {}
    })
    .await;
    let mut model = connect_model(outer.address()).await;
    let answer = model.model_infer(rows("m", &[1.])).await.unwrap();
    assert!(answer.metadata().contains_key("outrigger-batch-size"));
}

#[tokio::test]
async fn large_bodies_pass_through_tls_on_both_sides() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    folder.write("ca.crt", &authority.pem());
    folder.issue("tls", &authority.issue());
    let acceptor = server(&authority.issue(), None, BOTH);
    let origin = secure_origin(move || acceptor.clone()).await;
    let upstream = format!(
        "protocol: oip-grpc, endpoints: [\"https://{}\"], tls: {{ ca: F/ca.crt }}",
        origin.address()
    );
    let gateway = Gateway::start(&configuration(&folder, SERVER, &upstream));
    let body: Vec<u8> = (0..24 << 20).map(|n: u32| (n / 251) as u8).collect();
    let request = || {
        Request::post("https://model.test/p.S/Unary")
            .body(())
            .unwrap()
    };
    let stream = connect(&client(&authority.pem(), None, BOTH), gateway.address()).await;
    let wire = Wire::over(stream.unwrap()).await;
    let pieces: Vec<Bytes> = body.chunks(100_000).map(Bytes::copy_from_slice).collect();
    let answer = within("an answer", wire.exchange(request(), &pieces, None)).await;
    assert!(answer.unwrap().body == body);
    // And over HTTP/1.1, in one piece.
    let stream = connect(&client(&authority.pem(), None, &[]), gateway.address()).await;
    let mut http1 = Http1::over(stream.unwrap());
    let head = format!(
        "POST /p.S/Unary HTTP/1.1\r\nhost: model.test\r\ncontent-length: {}\r\n\r\n",
        1 << 20
    );
    let whole = [head.as_bytes(), &body[..1 << 20]].concat();
    let answer = within("an answer", http1.exchange(whole)).await.unwrap();
    assert!(answer.body == body[..1 << 20]);
}

#[tokio::test]
async fn a_drain_says_good_bye_over_tls_too() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    folder.issue("tls", &authority.issue());
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::start(&configuration(&folder, SERVER, &plain(origin.address())));
    let client = client(&authority.pem(), None, &[]);
    let mut silent = connect(&client, gateway.address()).await.unwrap();
    let mut idle = connect(&client, gateway.address()).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: model.test\r\n\r\n";
    idle.write_all(request.as_bytes()).await.unwrap();
    assert_ne!(idle.read(&mut [0; 4096]).await.unwrap(), 0);
    // One that never begins its handshake does not hold the drain up.
    let _mute = TcpStream::connect(gateway.address()).await.unwrap();
    let drained = gateway.drain();
    // Without TLS's own end, reading would fail.
    let mut rest = Vec::new();
    within("an end", silent.read_to_end(&mut rest))
        .await
        .unwrap();
    within("an end", idle.read_to_end(&mut rest)).await.unwrap();
    within("the drain is over", drained).await.unwrap();
}

#[tokio::test]
async fn plain_http_is_told_that_tls_is_spoken_here() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    folder.issue("tls", &authority.issue());
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::start(&configuration(&folder, SERVER, &plain(origin.address())));
    let answer = within("an answer", get(gateway.address(), "/v2")).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(&answer.body[..], b"this port speaks TLS\n");
    // HTTP/2 with prior knowledge; more follows than is looked at.
    let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0; 60_000]].concat();
    socket.write_all(&preface).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = String::new();
    within("an end", socket.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.ends_with("this port speaks TLS\n"), "{answer}");
    // What is neither is closed.
    let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
    socket.write_all(b"SSH").await.unwrap();
    let mut rest = Vec::new();
    let _ = within("an end", socket.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    let plaintext = [("listener", "127.0.0.1:0"), ("result", "plaintext")];
    let plaintext = || metric(&gateway, "outrigger_tls_handshakes_total", &plaintext);
    until("all are counted", || plaintext() == 3.).await;
}

#[tokio::test]
async fn garbage_in_place_of_a_handshake_ends_its_connection_and_no_other() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    folder.issue("tls", &authority.issue());
    folder.write("ca.crt", &authority.pem());
    let origin = Origin::http2(mirror).await;
    let tls = format!("{SERVER}, client_ca: F/ca.crt, client_auth: optional");
    let gateway = Gateway::start(&configuration(&folder, &tls, &plain(origin.address())));
    let client = client(&authority.pem(), None, BOTH);
    let beside = connect(&client, gateway.address()).await.unwrap();
    let beside = Wire::over(beside).await;
    let mut garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nhost: model.test\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 0xff, 0xff],
        vec![0x16, 3, 1, 0, 4, 1, 0, 0, 0],
        vec![0x15, 3, 3, 0, 2, 2, 40],
        vec![0x17, 3, 3, 0, 1, 0],
    ];
    let mut rng = rand::rng();
    for len in 0..200_usize {
        let mut bytes: Vec<u8> = (0..len * 7).map(|_| rng.random()).collect();
        if len % 2 == 0 {
            // What looks like a record of the handshake.
            let size = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes.splice(0..0, [0x16, 3, 1, size[0], size[1]]);
        }
        garbage.push(bytes);
    }
    for bytes in garbage {
        let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
        // It may be gone before all is said.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = within("an end", socket.read_to_end(&mut rest)).await;
    }
    assert_eq!(
        beside.call("/p.S/Unary", b"x").await.unwrap().grpc_status(),
        Some("0")
    );
    until("their places are free again", || {
        metric(&gateway, "outrigger_connections", &[]) == 1.
    })
    .await;
}

#[tokio::test]
async fn a_reload_of_the_configuration_changes_a_listeners_tls_and_keeps_its_connections() {
    let (folder, authority, next) = (Folder::new(), Authority::new("one"), Authority::new("two"));
    folder.issue("tls", &authority.issue());
    folder.issue("next", &next.issue());
    folder.write("ca.crt", &authority.pem());
    let origin = Origin::http2(mirror).await;
    let upstream = plain(origin.address());
    let written = |tls: &str| configuration(&folder, tls, &upstream);
    let mut gateway = Gateway::start(&written(""));
    let address = gateway.address();
    let plain = Wire::connect(address).await;
    // Answered, it is surely accepted.
    plain.call("/p.S/Unary", b"x").await.unwrap();
    gateway.reload(&written(SERVER)).await.unwrap();
    assert_eq!(gateway.address(), address);
    let trusting = client(&authority.pem(), None, BOTH);
    let stream = connect(&trusting, address).await.unwrap();
    let secured = Wire::over(stream).await;
    gateway
        .reload(&written("certificate: F/next.crt, key: F/next.key"))
        .await
        .unwrap();
    connect(&trusting, address)
        .await
        .expect_err("another authority's");
    ask_h2(&client(&next.pem(), None, BOTH), address)
        .await
        .unwrap();
    let required = format!("{SERVER}, client_ca: F/ca.crt");
    gateway.reload(&written(&required)).await.unwrap();
    assert!(ask_http1(&trusting, address).await.is_none());
    let own = client(&authority.pem(), Some(&authority.issue()), BOTH);
    ask_h2(&own, address).await.unwrap();
    // Files that nobody used before must be good.
    let error = gateway
        .reload(&written("certificate: F/none.crt, key: F/next.key"))
        .await
        .expect_err("there is no such file");
    let missing = folder.path("none.crt");
    assert_eq!(
        error.to_string(),
        format!(
            "listener 127.0.0.1:0: {}: cannot be read: there is no such file",
            missing.display()
        )
    );
    ask_h2(&own, address).await.unwrap();
    // Files that were in use may be bad in the meantime: the last good ones are.
    folder.write("tls.key", "half of a k");
    gateway
        .reload(&format!("{}limits: {{ drain: 1s }}\n", written(&required)))
        .await
        .unwrap();
    ask_h2(&own, address).await.unwrap();
    for open in [plain, secured] {
        let answer = within("an answer", open.call("/p.S/Unary", b"x")).await;
        assert_eq!(answer.unwrap().grpc_status(), Some("0"));
    }
}

#[tokio::test]
async fn files_that_do_not_fit_each_other_change_nothing_until_they_do() {
    let (folder, authority) = (Folder::new(), Authority::new("one"));
    let (first, second) = (authority.issue(), authority.issue());
    folder.issue("tls", &first);
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::start(&configuration(&folder, SERVER, &plain(origin.address())));
    let client = client(&authority.pem(), None, BOTH);
    let presented = || async { shown(&connect(&client, gateway.address()).await.unwrap()) };
    let expiry = [("listener", "127.0.0.1:0"), ("file", "certificate")];
    let expiry = || {
        metric(
            &gateway,
            "outrigger_tls_certificate_expiry_seconds",
            &expiry,
        )
    };
    assert_eq!(presented().await, first.der());
    assert_eq!(expiry(), 4_102_444_800.);

    let mut refused = 0.;
    let last_year = authority.issue_for("localhost", None, 2021);
    let for_clients = for_clients_alone();
    for (name, text) in [
        ("tls.crt", second.certificate.as_str()),
        ("tls.crt", ""),
        ("tls.crt", &second.certificate[..300]),
        ("tls.crt", &last_year.certificate),
        ("tls.key", &last_year.key),
        ("tls.crt", &for_clients.certificate),
        ("tls.key", &for_clients.key),
    ] {
        folder.write(name, text);
        refused += 1.;
        until("it is refused", || reloads(&gateway, "refused") >= refused).await;
        assert_eq!(presented().await, first.der());
    }
    assert_eq!(reloads(&gateway, "applied"), 0.);
    folder.issue("tls", &second);
    until("it is applied", || reloads(&gateway, "applied") >= 1.).await;
    assert_eq!(presented().await, second.der());
    let next = authority.issue_for("localhost", None, 2090);
    folder.issue("tls", &next);
    until("it is applied", || expiry() == 3_786_912_000.).await;
    assert_eq!(presented().await, next.der());
}

/// A certificate that no server may show.
fn for_clients_alone() -> Issued {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    Issued {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// What clients of a test did.
#[derive(Debug, Default)]
struct Load {
    over: AtomicBool,
    served: AtomicUsize,
    connections: AtomicUsize,
}

#[tokio::test]
async fn no_request_fails_while_certificates_of_clients_and_ours_change() {
    let folder = Folder::new();
    let mut authority = Authority::new("0");
    let mut issued = authority.issue();
    let files = |issued: &Issued, ca: &str| {
        folder.swap(&[
            ("tls.crt", &issued.certificate),
            ("tls.key", &issued.key),
            ("ca.crt", ca),
        ]);
    };
    files(&issued, &authority.pem());
    let origin = Origin::http2(mirror).await;
    let tls = format!("{SERVER}, client_ca: F/ca.crt");
    let gateway = Gateway::start(&configuration(&folder, &tls, &plain(origin.address())));
    let address = gateway.address();
    let load = Arc::new(Load::default());
    let current = Arc::new(std::sync::Mutex::new(client(
        &authority.pem(),
        Some(&authority.issue()),
        BOTH,
    )));
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (load, current) = (load.clone(), current.clone());
        clients.spawn(async move {
            let fresh = || {
                let client = current.lock().unwrap().clone();
                load.connections.fetch_add(1, Ordering::Relaxed);
                async move { connect(&client, address).await.unwrap() }
            };
            // Half of them keep their connection, the others make one for each request.
            let kept = Wire::over(fresh().await).await;
            while !load.over.load(Ordering::Relaxed) {
                let fresh = match n % 2 {
                    0 => None,
                    _ => Some(Wire::over(fresh().await).await),
                };
                let wire = fresh.as_ref().unwrap_or(&kept);
                let answer = wire.call("/p.S/Unary", b"x").await.unwrap();
                assert_eq!(answer.grpc_status(), Some("0"));
                load.served.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
    }
    let mut applied = 0.;
    let mut rotate = async |issued: &Issued, ca: &str| {
        let before = load.served.load(Ordering::Relaxed);
        files(issued, ca);
        applied += 1.;
        until("it is applied", || reloads(&gateway, "applied") >= applied).await;
        until("requests go on", || {
            load.served.load(Ordering::Relaxed) > before + 20
        })
        .await;
    };
    for round in 1..=5 {
        let next = Authority::new(&round.to_string());
        let fresh = next.issue();
        // Whom to trust comes first, then what to show, and last whom to trust no more.
        let both = format!("{}{}", authority.pem(), next.pem());
        *current.lock().unwrap() = client(&both, Some(&authority.issue()), BOTH);
        rotate(&issued, &both).await;
        rotate(&fresh, &both).await;
        let client = client(&next.pem(), Some(&next.issue()), BOTH);
        *current.lock().unwrap() = client.clone();
        let trusted = load.connections.load(Ordering::Relaxed);
        until("clients show the next", || {
            load.connections.load(Ordering::Relaxed) > trusted + 16
        })
        .await;
        rotate(&fresh, &next.pem()).await;
        let stream = connect(&client, address).await.unwrap();
        assert_eq!(shown(&stream), fresh.der());
        (authority, issued) = (next, fresh);
    }
    load.over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    assert!(load.served.load(Ordering::Relaxed) > 300);
    assert_eq!(reloads(&gateway, "refused"), 0.);
    let failed = [("result", "failed")];
    assert_eq!(
        metric(&gateway, "outrigger_tls_handshakes_total", &failed),
        0.
    );
}

#[tokio::test]
async fn no_request_fails_while_certificates_of_servers_and_ours_change() {
    let folder = Folder::new();
    let mut authority = Authority::new("0");
    folder.write("ca.crt", &authority.pem());
    folder.issue("tls", &authority.issue());
    let acceptor = |shown: &Issued, clients: &str| server(shown, Some(clients), &["http/1.1"]);
    let current = Arc::new(std::sync::Mutex::new(acceptor(
        &authority.issue(),
        &authority.pem(),
    )));
    let accepting = current.clone();
    let seen = Arc::new(std::sync::Mutex::new(None));
    let last = seen.clone();
    // Each answer is the last of its connection, so that each request makes a handshake.
    let origin = Origin::sockets(move |socket| {
        let (acceptor, last) = (accepting.lock().unwrap().clone(), last.clone());
        async move {
            let mut stream = acceptor.accept(socket).await.unwrap();
            let certificates = stream.get_ref().1.peer_certificates();
            *last.lock().unwrap() = certificates.map(|all| all[0].clone().into_owned());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    let upstream = format!(
        "protocol: oip-rest, endpoints: [\"https://{}\"], tls: {{ ca: F/ca.crt, {SERVER} }}",
        origin.address()
    );
    let gateway = Gateway::start(&configuration(&folder, "", &upstream));
    let address = gateway.address();
    let load = Arc::new(Load::default());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let load = load.clone();
        clients.spawn(async move {
            let mut client = Http1::connect(address).await;
            while !load.over.load(Ordering::Relaxed) {
                let request = "GET / HTTP/1.1\r\nhost: model.test\r\n\r\n";
                let answer = client.exchange(request).await.expect("an answer");
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                load.served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let some_more = async || {
        let before = load.served.load(Ordering::Relaxed);
        until("requests go on", || {
            load.served.load(Ordering::Relaxed) > before + 20
        })
        .await;
    };
    let mut applied = 0.;
    for round in 1..=4 {
        let next = Authority::new(&round.to_string());
        let both = format!("{}{}", authority.pem(), next.pem());
        let mut write = async |change: &dyn Fn()| {
            change();
            applied += 1.;
            until("it is applied", || reloads(&gateway, "applied") >= applied).await;
            some_more().await;
        };
        write(&|| folder.write("ca.crt", &both)).await;
        *current.lock().unwrap() = acceptor(&next.issue(), &both);
        some_more().await;
        // The certificate, and a while later its key: what lies between fits nothing.
        let own = next.issue();
        folder.write("tls.crt", &own.certificate);
        until("it is refused", || {
            reloads(&gateway, "refused") >= f64::from(round)
        })
        .await;
        some_more().await;
        write(&|| folder.write("tls.key", &own.key)).await;
        assert_eq!(*seen.lock().unwrap(), Some(own.der()));
        *current.lock().unwrap() = acceptor(&next.issue(), &next.pem());
        some_more().await;
        write(&|| folder.write("ca.crt", &next.pem())).await;
        authority = next;
    }
    load.over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    assert!(load.served.load(Ordering::Relaxed) > 300);
}
