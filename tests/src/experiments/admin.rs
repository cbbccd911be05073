//! What Outrigger's pages say: whether it is ready, and what it has learned of a model's endpoints.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::bench::Result;
use crate::bench::process::pause;
use crate::metrics::Metrics;

/// What was learned of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// Host and port.
    pub address: String,
    /// The most rows that the next call may have.
    pub limit: f64,
    /// Seconds that 99 of 100 requests kept to, queue and model together.
    pub p99: Option<f64>,
}

/// Waits until Outrigger has asked the model's server what the model can take: what comes before
/// goes one by one, and the server would be busy with it for long.
pub fn wait_until_ready(admin: SocketAddr) -> Result<()> {
    let give_up = Instant::now() + STARTING;
    loop {
        // It may listen for calls before it shows its pages.
        let answer = match get(admin, "/ready") {
            Ok(answer) => answer,
            Err(error) => error.to_string(),
        };
        if answer.starts_with(OK) {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(format!("it does not become ready: {answer}").into());
        }
        pause(Duration::from_millis(20));
    }
}

/// Asks what was learned of the endpoints of a model with one arm.
pub fn learned(admin: SocketAddr, model: &str) -> Result<Vec<Learned>> {
    let answer = get(admin, "/models")?;
    read(&answer, model).ok_or_else(|| format!("no endpoints of {model} in: {answer}").into())
}

/// Asks what is known of all models.
pub fn models(admin: SocketAddr) -> Result<Value> {
    let answer = get(admin, "/models")?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}

/// Reads the metrics.
pub fn metrics(admin: SocketAddr) -> Result<Metrics> {
    let answer = get(admin, "/metrics")?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(Metrics::read(body)?)
}

fn get(admin: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(admin)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

fn read(answer: &str, model: &str) -> Option<Vec<Learned>> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with(OK) {
        return None;
    }
    let models: Value = serde_json::from_str(body).ok()?;
    let arms = models.get(model)?.get("arms")?.as_object()?;
    let (_, arm) = arms.iter().next()?;
    let endpoints = arm.get("endpoints")?.as_array()?;
    let learned = |endpoint: &Value| {
        Some(Learned {
            address: endpoint.get("address")?.as_str()?.to_owned(),
            limit: endpoint.get("batch_limit")?.as_f64()?,
            p99: endpoint.get("p99").and_then(Value::as_f64),
        })
    };
    endpoints.iter().map(learned).collect()
}

const OK: &str = "HTTP/1.1 200";
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the first question to a server may take.
const STARTING: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_what_is_not_a_page_is_not() {
        let body = r#"{"m":{"arms":{"m":{"endpoints":[
            {"address":"h:1","batch_limit":32,"p99":null},{"address":"h:2","batch_limit":7,"p99":0.5}]}}}}"#;
        let read = |status| read(&format!("HTTP/1.1 {status}\r\na: b\r\n\r\n{body}"), "m");
        let learned = read("200 OK").expect("it is a page");
        assert_eq!(learned.len(), 2);
        assert_eq!((learned[0].limit, learned[0].p99), (32.0, None));
        assert_eq!((learned[1].limit, learned[1].p99), (7.0, Some(0.5)));
        assert_eq!(read("503 no"), None);
    }
}
