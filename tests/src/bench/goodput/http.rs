//! An open loop over HTTP/1.1, for servers that speak nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use outrigger::demo::load::{Calls, Pace};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::images::Questions;
use super::seen::Seen;
use crate::bench::Result;
use crate::bench::process::pause;

/// A load of POSTs, one image each, on connections that are kept.
#[derive(Clone, Debug)]
pub(super) struct HttpLoad {
    pub(super) address: SocketAddr,
    pub(super) path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) questions: Questions,
    pub(super) pace: Pace,
    pub(super) warm_up: Duration,
    pub(super) lasting: Duration,
    pub(super) patience: Duration,
}

/// Connections without a call.
#[derive(Debug)]
struct Pool {
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    /// HTTP/1.1 carries one call on a connection at a time: further calls wait for a connection,
    /// and their latency runs meanwhile.
    places: Semaphore,
}

/// What is known of a call that has ended.
#[derive(Debug)]
struct Ended {
    latency: Duration,
    /// Nothing if the answer was right.
    failure: Option<String>,
}

impl HttpLoad {
    /// Sends, waits for the last answers, and reports.
    pub(super) fn run(self, objective: Duration) -> Result<Seen> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.generate(objective))
    }

    /// Makes one call on a connection of its own and returns how long it took.
    pub(super) fn once(&self) -> Result<Duration> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let begin = Instant::now();
        let pool = Pool::new();
        let call = self.call(&pool, 0);
        runtime.block_on(async { tokio::time::timeout(self.patience, call).await })??;
        Ok(begin.elapsed())
    }

    async fn generate(self, objective: Duration) -> Result<Seen> {
        let arrivals = self.pace.arrivals().ok_or("an open loop has arrivals")?;
        let begin = Instant::now();
        let counted_from = begin + self.warm_up;
        let end = counted_from + self.lasting;
        let (pacer, mut due) = mpsc::unbounded_channel();
        let pacing = std::thread::spawn(move || {
            // The runtime's timers are 1 ms coarse.
            for at in arrivals.map(|at| begin + at).take_while(|at| *at < end) {
                pause(at.saturating_duration_since(Instant::now()));
                if pacer.send(at).is_err() {
                    return;
                }
            }
        });
        let patience = self.patience;
        let (load, pool) = (Arc::new(self), Arc::new(Pool::new()));
        let (mut calls, mut lags) = (JoinSet::new(), Vec::new());
        let mut n = 0;
        while let Some(intended) = due.recv().await {
            let counted = intended >= counted_from;
            if counted {
                lags.push(intended.elapsed());
            }
            let (load, pool) = (Arc::clone(&load), Arc::clone(&pool));
            calls.spawn(async move {
                let answered = tokio::time::timeout(load.patience, load.call(&pool, n)).await;
                let failure = match answered {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("no answer".into()),
                };
                let latency = intended.elapsed();
                counted.then_some(Ended { latency, failure })
            });
            n += 1;
        }
        let _ = pacing.join();
        let mut ended = Vec::new();
        let all = async {
            while let Some(call) = calls.join_next().await {
                ended.extend(call.ok().flatten());
            }
        };
        // Each has the patience of its own.
        let _ = tokio::time::timeout(patience * 2, all).await;
        Ok(seen(ended, lags, load.lasting, objective))
    }

    /// Makes a call and judges its answer.
    async fn call(&self, pool: &Pool, n: u64) -> Result<()> {
        let _place = pool.places.acquire().await?;
        let mut sender = match pool.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request = Request::post(self.path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, self.content_type)
            .body(Full::new(self.questions.body(n)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if sender.ready().await.is_ok() {
            pool.idle().push(sender);
        }
        match status {
            StatusCode::OK if self.questions.accept(n, &body) => Ok(()),
            StatusCode::OK => Err("a wrong answer".into()),
            status => Err(format!("HTTP status {}", status.as_u16()).into()),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the connection: when the sender is dropped, or the server leaves.
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Pool {
    fn new() -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            places: Semaphore::new(MAX_CONNECTIONS),
        }
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle
            .lock()
            .expect("nothing panics while it holds a connection")
    }
}

/// Counts calls that have ended; those that have not are no answers.
fn seen(
    ended: Vec<Ended>,
    mut lags: Vec<Duration>,
    lasting: Duration,
    objective: Duration,
) -> Seen {
    let sent = lags.len() as u64;
    let good = |each: &&Ended| each.failure.is_none() && each.latency <= objective;
    let goodput = ended.iter().filter(good).count() as f64 / lasting.as_secs_f64();
    let answered = ended.iter().filter(|each| each.failure.is_none()).count() as u64;
    let mut latencies: Vec<_> = ended.iter().map(|each| each.latency).collect();
    latencies.sort_unstable();
    lags.sort_unstable();
    let mut failures = BTreeMap::new();
    for failure in ended.into_iter().filter_map(|each| each.failure) {
        *failures.entry(failure).or_default() += 1;
    }
    Seen {
        sent,
        answered,
        goodput,
        p50: quantile(&latencies, 0.5),
        p99: quantile(&latencies, 0.99),
        lag: quantile(&lags, 0.99),
        failures,
        ..Seen::default()
    }
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(at.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// As many callers as a server meets before it is far beyond any objective.
const MAX_CONNECTIONS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(latencies: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        latencies.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_quantile_is_what_that_share_did_not_exceed() {
        let sorted = millis(1..=100);
        assert_eq!(quantile(&sorted, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&sorted, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&[], 0.99), Duration::ZERO);
    }

    #[test]
    fn only_right_answers_in_time_are_good() {
        let ended = |latency, failure: Option<&str>| Ended {
            latency: Duration::from_millis(latency),
            failure: failure.map(str::to_owned),
        };
        let ended = vec![
            ended(5, None),
            ended(25, None),
            ended(1, Some("HTTP status 503")),
        ];
        // The fourth was sent and has not ended.
        let lags = millis([0, 0, 0, 0]);
        let (second, objective) = (Duration::from_secs(1), Duration::from_millis(20));
        let seen = seen(ended, lags, second, objective);
        assert_eq!((seen.sent, seen.answered, seen.goodput), (4, 2, 1.0));
        assert_eq!(seen.failures["HTTP status 503"], 1);
    }
}
