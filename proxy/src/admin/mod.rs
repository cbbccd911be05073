//! The pages for operators and machines that watch the proxy.

use std::{future::Future, sync::Arc};

use bytestring::ByteString;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;

use crate::{
    app::{NotFlushed, State},
    body::Body,
    detect::unescaped,
    server::{Handler, Outcome},
};

/// Answers on the admin listener.
#[derive(Clone, Debug)]
pub struct Admin(Arc<State>);

/// What there is, one name for each path.
#[derive(Clone, Copy, Debug)]
enum Page {
    Live,
    Ready,
    Metrics,
    Config,
    Models,
    State,
    Flush,
}

impl Admin {
    /// Makes the pages of a process.
    pub fn new(state: Arc<State>) -> Self {
        Self(state)
    }

    /// `/ready`: 200 when this process takes requests, and of every upstream an endpoint says
    /// that it is ready: for each model with filters that it serves, or for itself where there is
    /// none; else 503 with what is not. A model without filters is passed through like one that
    /// is not named, and nobody asks after it.
    async fn ready(&self) -> Response<Body> {
        let missing = self.0.unready().await;
        let ready = missing.is_empty();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json_page(status, &json!({ "ready": ready, "missing": missing }))
    }

    /// `/cache/flush`: forgets the stored answers of the model that the query names, or of all.
    fn flush(&self, method: &Method, query: Option<&str>) -> Response<Body> {
        if *method != Method::POST {
            return not_allowed("only POST", "POST");
        }
        let model = match named(query.unwrap_or_default()) {
            Ok(model) => model,
            Err(fault) => return json_page(StatusCode::BAD_REQUEST, &json!({ "error": fault })),
        };
        match self.0.flush(model.as_deref()) {
            Ok(flushed) => json_page(StatusCode::OK, &json!({ "flushed": flushed })),
            Err(error @ (NotFlushed::NotConfigured(_) | NotFlushed::NoCache(_))) => {
                let error = json!({ "error": error.to_string() });
                json_page(StatusCode::NOT_FOUND, &error)
            }
        }
    }

    async fn page(&self, method: &Method, path: &str, query: Option<&str>) -> Response<Body> {
        let Some((_, page)) = PAGES.iter().find(|(known, _)| *known == path) else {
            let pages = PAGES.map(|(path, _)| path);
            let error = json!({ "error": "no such page", "pages": pages });
            return json_page(StatusCode::NOT_FOUND, &error);
        };
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match page {
            Page::Flush => self.flush(method, query),
            _ if !reads => not_allowed("only GET and HEAD", "GET, HEAD"),
            Page::Live => json_page(StatusCode::OK, &json!({ "live": true })),
            Page::Ready => self.ready().await,
            Page::Metrics => self::page(StatusCode::OK, METRICS, self.0.metrics_text()),
            Page::Config => json_page(StatusCode::OK, &self.0.effective()),
            Page::Models => json_page(StatusCode::OK, &self.0.models()),
            Page::State => json_page(StatusCode::OK, &self.0.kept()),
        }
    }
}

impl Handler for Admin {
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Outcome> + Send + 'static {
        let admin = self.clone();
        async move {
            let uri = request.uri();
            let page = admin.page(request.method(), uri.path(), uri.query());
            Outcome::Answer(page.await)
        }
    }
}

/// Reads which model a query names, if any; what else it says is a slip that must not do more than
/// was meant.
fn named(query: &str) -> Result<Option<ByteString>, String> {
    let mut model = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key != "model" {
            return Err(format!("unknown parameter `{key}`; known is `model`"));
        }
        let name = unescaped(value).ok_or("model: the name is no text")?;
        if model.replace(name).is_some() {
            return Err("model: name one, or none for all".to_owned());
        }
    }
    Ok(model)
}

fn not_allowed(words: &str, allowed: &'static str) -> Response<Body> {
    let mut page = json_page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": words }));
    page.headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    page
}

fn json_page(status: StatusCode, json: &serde_json::Value) -> Response<Body> {
    page(status, "application/json", format!("{json:#}\n"))
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut page = Response::new(Body::from(text));
    *page.status_mut() = status;
    page.headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PAGES: [(&str, Page); 7] = [
    ("/live", Page::Live),
    ("/ready", Page::Ready),
    ("/metrics", Page::Metrics),
    ("/config", Page::Config),
    ("/models", Page::Models),
    ("/state", Page::State),
    (FLUSH, Page::Flush),
];

/// Where stored answers are forgotten.
const FLUSH: &str = "/cache/flush";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        body::Piece, config::Config, stack::Table, telemetry::Metrics, upstream::Connector,
    };

    #[test]
    fn a_flush_of_one_model_is_never_one_of_all_by_a_slip() {
        for (query, named) in [
            ("", None),
            ("&", None),
            ("model=digits", Some("digits")),
            ("model=a%2Fb%20c", Some("a/b c")),
            ("model=", Some("")),
            ("model", Some("")),
        ] {
            assert_eq!(super::named(query).unwrap().as_deref(), named, "{query}");
        }
        for query in [
            "modle=digits",
            "Model=digits",
            "model=a&model=b",
            "model=%ff",
            "model=%2",
        ] {
            assert!(super::named(query).is_err(), "{query}");
        }
    }

    fn admin() -> Admin {
        let config = "{listeners: [{address: '127.0.0.1:0', upstream: u}],
                       upstreams: {u: {protocol: oip-grpc, endpoints: ['http://u:1']}},
                       models: {m: {cache: {}}}}";
        let (config, metrics) = (Config::read(config).unwrap(), Metrics::new());
        let connector = Connector::new(|_| std::future::pending());
        let table = Table::build(config, None, &metrics, &connector);
        Admin::new(Arc::new(State::new(table, metrics)))
    }

    #[tokio::test]
    async fn who_asks_for_no_page_is_told_which_there_are() {
        let page = admin().page(&Method::GET, "/", None).await;
        let (head, mut body) = page.into_parts();
        assert_eq!(head.status, 404);
        let piece = std::future::poll_fn(|cx| body.poll_piece(cx)).await;
        let Some(Ok(Piece::Data(text))) = piece else {
            panic!("no body");
        };
        let told: serde_json::Value = serde_json::from_slice(&text.to_bytes()).unwrap();
        let pages = [
            "/live", "/ready", "/metrics", "/config", "/models", "/state", FLUSH,
        ];
        assert_eq!(told["pages"], json!(pages));
    }

    #[tokio::test]
    async fn only_a_post_flushes() {
        let admin = admin();
        let status = async |method: Method, path: &str, query: Option<&str>| {
            let page = admin.page(&method, path, query).await;
            let allowed = page.headers().get(header::ALLOW);
            let allowed = allowed.map(|allowed| allowed.to_str().unwrap().to_owned());
            (page.status().as_u16(), allowed.unwrap_or_default())
        };
        let (post, get) = (Method::POST, Method::GET);
        for (method, path, query, expected) in [
            (&post, FLUSH, None, (200, "")),
            (&post, FLUSH, Some("model=m"), (200, "")),
            (&post, FLUSH, Some("model=n"), (404, "")),
            (&post, FLUSH, Some("models=m"), (400, "")),
            (&get, FLUSH, None, (405, "POST")),
            (&Method::HEAD, FLUSH, None, (405, "POST")),
            (&post, "/models", None, (405, "GET, HEAD")),
            (&get, "/models", Some("x=y"), (200, "")),
            (&get, "/cache", None, (404, "")),
            (&post, "/cache", None, (404, "")),
            (&post, "/cache/flush/", None, (404, "")),
        ] {
            let (code, allowed) = status(method.clone(), path, query).await;
            assert_eq!((code, &*allowed), expected, "{method} {path} {query:?}");
        }
    }
}
