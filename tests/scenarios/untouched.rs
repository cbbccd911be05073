//! A call through the proxy gives the same status, headers, body bytes and trailers as one
//! without.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use outrigger_tests::{
    gateway::Gateway,
    http1::Http1,
    origin::{Origin, mirror, mirror_http1},
    patience::within,
    wire::{Reply, Wire, framed, grpc},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One request as it is sent to the server directly and through the proxy.
struct Case {
    head: Request<()>,
    body: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Case {
    fn of(head: http::request::Builder) -> Self {
        Self {
            head: head.version(http::Version::HTTP_2).body(()).unwrap(),
            body: Vec::new(),
            trailers: None,
        }
    }

    fn with_body(mut self, body: impl IntoIterator<Item = Bytes>) -> Self {
        self.body = body.into_iter().collect();
        self
    }

    fn with_trailers(mut self, fields: &[(&'static str, &'static str)]) -> Self {
        self.trailers = Some(
            fields
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect(),
        );
        self
    }

    async fn send(&self, wire: &Wire) -> Reply {
        let mut head = Request::new(());
        *head.method_mut() = self.head.method().clone();
        *head.uri_mut() = self.head.uri().clone();
        *head.version_mut() = self.head.version();
        *head.headers_mut() = self.head.headers().clone();
        within(
            "an answer",
            wire.exchange(head, &self.body, self.trailers.clone()),
        )
        .await
        .unwrap()
    }
}

/// Sends each case directly and through the proxy, and demands the same answers.
async fn same(origin: &Origin, gateway: &Gateway, cases: impl IntoIterator<Item = Case>) {
    let direct = Wire::connect(origin.address()).await;
    let through = Wire::connect(gateway.address()).await;
    for case in cases {
        let (direct, through) = (case.send(&direct).await, case.send(&through).await);
        assert_eq!(
            through,
            direct,
            "{} {}",
            case.head.method(),
            case.head.uri()
        );
    }
}

fn uri(path: &str) -> String {
    format!("http://model.test{path}")
}

fn random_bytes(len: usize) -> Bytes {
    use rand::{RngExt as _, SeedableRng as _};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(7).fill(&mut bytes[..]);
    bytes.into()
}

#[tokio::test]
async fn calls_of_every_kind_are_the_same_through_the_proxy() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-grpc", "");
    let large = random_bytes(8 << 20);
    let messages = |count: usize| (0..count).map(|n| framed(&[n as u8; 100]));
    let call = |path: &str| {
        Request::post(uri(path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    };
    let mut many = call("/p.S/Headers");
    for n in 0..200 {
        many = many.header(format!("x-{n}"), format!("value {n}"));
    }
    same(
        &origin,
        &gateway,
        [
            Case::of(call("/inference.GRPCInferenceService/ModelInfer"))
                .with_body([framed(b"no such message")]),
            Case::of(call("/p.S/Unary")).with_body(messages(1)),
            Case::of(call("/p.S/Streaming?x=1&y=%20")).with_body(messages(50)),
            Case::of(call("/p.S/Empty")).with_body([framed(b"")]),
            Case::of(call("/p.S/Nothing")),
            Case::of(call("/p.S/Large")).with_body([framed(&large)]),
            Case::of(call("/p.S/Trailers"))
                .with_body(messages(2))
                .with_trailers(&[("x-end", "1"), ("x-sum-bin", "AAEC")]),
            Case::of(call("/p.S/TrailersAlone")).with_trailers(&[("x-end", "1")]),
            Case::of(
                call("/p.S/Metadata")
                    .header("x-user-bin", "AAEC/w==")
                    .header("x-user-bin", "AQ")
                    .header("x-repeated", "a, b")
                    .header("x-repeated", "c")
                    .header("grpc-timeout", "10S")
                    .header("grpc-encoding", "identity")
                    .header("user-agent", "grpc-test/1.0"),
            )
            .with_body(messages(1)),
            Case::of(many).with_body(messages(1)),
            Case::of(Request::get(uri("/v2/health/ready"))),
            Case::of(Request::get(uri("/?"))),
            Case::of(Request::head(uri("/v2"))),
            Case::of(Request::put(uri("/x"))).with_body([random_bytes(3)]),
            Case::of(Request::delete(uri("/x"))),
            Case::of(Request::patch(uri("/x"))).with_body([random_bytes(100_000)]),
            Case::of(Request::options(uri("/x"))),
            Case::of(Request::builder().method("FROBNICATE").uri(uri("/x"))),
            Case::of(Request::post(uri("/length")).header("content-length", "5"))
                .with_body([Bytes::from_static(b"12345")]),
            Case::of(Request::post(uri("/expect")).header("expect", "100-continue"))
                .with_body([random_bytes(10)]),
            Case::of(
                Request::get(uri("/cookies"))
                    .header("cookie", "a=1")
                    .header("cookie", "b=2"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn both_sides_of_a_stream_go_on_at_the_same_time() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-grpc", "");
    let wire = Wire::connect(gateway.address()).await;
    let (answer, mut stream) = wire.open(grpc("/p.S/Talk"), false).await.unwrap();
    let mut answer = within("headers before the first message", answer)
        .await
        .unwrap();
    for n in 0..20_u8 {
        let message = framed(&[n; 1000]);
        stream.send_data(message.clone(), false).unwrap();
        let mut came = Vec::new();
        while came.len() < message.len() {
            let data = within("an echo", answer.body_mut().data()).await;
            came.extend_from_slice(&data.unwrap().unwrap());
        }
        assert_eq!(came, message);
    }
    stream.send_data(Bytes::new(), true).unwrap();
    let trailers = within("the end", answer.body_mut().trailers()).await;
    assert_eq!(trailers.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn http_1_clients_are_told_what_an_http_1_server_says() {
    let origin = Origin::http1(mirror_http1).await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-rest", "");
    let mut direct = Http1::connect(origin.address()).await;
    let mut through = Http1::connect(gateway.address()).await;
    let large = "x".repeat(8 << 20);
    for request in [
        "GET /v2 HTTP/1.1\r\nhost: model.test\r\n\r\n".to_owned(),
        "HEAD /v2?a=%20b HTTP/1.1\r\nhost: model.test\r\n\r\n".to_owned(),
        "POST /v2 HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n\r\n12345".to_owned(),
        "POST /teapot HTTP/1.1\r\nhost: m\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
        "POST /v2 HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
            .to_owned(),
        "FROBNICATE /v2 HTTP/1.1\r\nhost: m\r\n\r\n".to_owned(),
        "DELETE /v2 HTTP/1.1\r\nhost: m\r\ncookie: a=1; b=2\r\n\r\n".to_owned(),
        format!(
            "PUT /v2 HTTP/1.1\r\nhost: m\r\ncontent-length: {}\r\n\r\n{large}",
            large.len()
        ),
    ] {
        let line = request.lines().next().unwrap().to_owned();
        let direct = within(&line, direct.exchange(&request)).await.unwrap();
        let through = within(&line, through.exchange(&request)).await.unwrap();
        assert_eq!(through, direct, "{line}");
    }
    assert_eq!(origin.accepted(), 2, "connections are kept on both sides");
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_continue() {
    let origin = Origin::http1(mirror_http1).await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-rest", "");
    for address in [origin.address(), gateway.address()] {
        let mut client = Http1::connect(address).await;
        let head =
            "POST /v2 HTTP/1.1\r\nhost: m\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        let told = within("100", client.exchange(head)).await.unwrap();
        assert_eq!(told.status, 100);
        let answer = within("200", client.exchange("ok")).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"ok"[..])
        );
    }
}

#[tokio::test]
async fn fields_of_the_servers_connection_end_with_it() {
    let origin = Origin::sockets(|mut socket| async move {
        let _ = socket.read(&mut [0; 4096]).await;
        let answer = "HTTP/1.1 200 OK\r\nconnection: x-hop, keep-alive\r\nx-hop: 1\r\n\
            keep-alive: timeout=5\r\ntrailer: x-sum\r\nserver: test\r\n\
            transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
        let _ = socket.write_all(answer.as_bytes()).await;
        let _ = socket.read(&mut [0; 1]).await;
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-rest", "");
    let wire = Wire::connect(gateway.address()).await;
    let get = Request::get(uri("/v2")).body(()).unwrap();
    let reply = within("an answer", wire.exchange(get, &[], None))
        .await
        .unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"ok"[..]));
    assert_eq!(reply.headers["server"], "test");
    assert_eq!(reply.trailers.unwrap()["x-sum"], "7");
    for hop in ["connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert!(!reply.headers.contains_key(hop), "{hop}");
    }
    let mut client = Http1::connect(gateway.address()).await;
    let get = "GET /v2 HTTP/1.1\r\nhost: m\r\nte: trailers\r\n\r\n";
    let reply = within("an answer", client.exchange(get)).await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"ok"[..]));
    for hop in ["connection", "x-hop", "keep-alive"] {
        assert!(!reply.headers.contains_key(hop), "{hop}");
    }
    assert_eq!(reply.trailers.unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn versions_of_http_translate_into_each_other() {
    let old = Origin::http1(mirror_http1).await;
    let new = Origin::http2(mirror).await;
    let to_old = Gateway::before(&[old.address()], "protocol: oip-rest", "");
    let to_new = Gateway::before(&[new.address()], "protocol: oip-grpc", "");

    // HTTP/2 in front of HTTP/1.1.
    let wire = Wire::connect(to_old.address()).await;
    let head = Request::post(uri("/v2/models/m/infer?x=1"))
        .version(http::Version::HTTP_2)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    let body = random_bytes(300_000);
    let reply = within(
        "an answer",
        wire.exchange(head, std::slice::from_ref(&body), None),
    )
    .await
    .unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, body);
    assert_eq!(reply.headers["seen-method"], "POST");
    assert_eq!(reply.headers["seen-target"], "/v2/models/m/infer?x=1");
    assert_eq!(reply.headers["seen-host"], "model.test");
    assert_eq!(reply.headers["seen-cookie"], "a=1; b=2");
    assert_eq!(reply.headers["seen-transfer-encoding"], "chunked");

    // HTTP/1.1 in front of HTTP/2.
    let mut client = Http1::connect(to_new.address()).await;
    for request in [
        "POST /v2?x=1 HTTP/1.1\r\nhost: model.test\r\ncontent-length: 5\r\n\r\n12345",
        "POST /v2?x=1 HTTP/1.1\r\nhost: model.test\r\nconnection: x-hop\r\nx-hop: 1\r\n\
         keep-alive: timeout=5\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
    ] {
        let reply = within("an answer", client.exchange(request)).await.unwrap();
        assert_eq!(
            (reply.status.as_u16(), &reply.body[..]),
            (200, &b"12345"[..])
        );
        assert_eq!(reply.headers["seen-method"], "POST");
        assert_eq!(reply.headers["seen-target"], "http://model.test/v2?x=1");
        for hop in [
            "host",
            "connection",
            "x-hop",
            "keep-alive",
            "transfer-encoding",
        ] {
            assert!(!reply.headers.contains_key(format!("seen-{hop}")), "{hop}");
        }
    }
    let head = within(
        "an answer",
        client.exchange("HEAD /v2 HTTP/1.1\r\nhost: m\r\n\r\n"),
    )
    .await;
    assert_eq!(head.unwrap().headers["seen-method"], Method::HEAD.as_str());
}
