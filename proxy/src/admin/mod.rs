//! The pages for operators and machines that watch the proxy.

use std::{future::Future, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;

use crate::{
    app::State,
    body::Body,
    server::{Handler, Outcome},
};

/// Answers on the admin listener.
#[derive(Clone, Debug)]
pub struct Admin(Arc<State>);

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

    async fn page(&self, method: &Method, path: &str) -> Response<Body> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return json_page(
                StatusCode::METHOD_NOT_ALLOWED,
                &json!({ "error": "only GET and HEAD" }),
            );
        }
        match path {
            "/live" => json_page(StatusCode::OK, &json!({ "live": true })),
            "/ready" => self.ready().await,
            "/metrics" => page(StatusCode::OK, METRICS, self.0.metrics_text()),
            "/config" => json_page(StatusCode::OK, &self.0.effective()),
            "/models" => json_page(StatusCode::OK, &self.0.models()),
            _ => json_page(
                StatusCode::NOT_FOUND,
                &json!({ "error": "no such page", "pages": PAGES }),
            ),
        }
    }
}

impl Handler for Admin {
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Outcome> + Send + 'static {
        let admin = self.clone();
        async move { Outcome::Answer(admin.page(request.method(), request.uri().path()).await) }
    }
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

const PAGES: [&str; 5] = ["/live", "/ready", "/metrics", "/config", "/models"];
