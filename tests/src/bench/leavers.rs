//! Clients who ask and leave before they are answered, and others beside them who stay.
//!
//! ```text
//!  connection 0 .. n, HTTP/2: leavers who reset their streams, until all hang up at once; again
//!  connections, HTTP/1.1:     leavers who hang up, one request each
//!  connection, HTTP/2:        those who stay, and want their own row back
//! ```

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::message;
use crate::wire::{Reply, framed, gather, grpc};

/// A storm of requests that are given up, for a model that answers `input0` with itself.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Where requests go, over HTTP/2 and HTTP/1.1.
    pub address: SocketAddr,
    /// The model.
    pub model: &'static str,
    /// How many are to be given up.
    pub cancels: u64,
    /// Connections of those who leave over HTTP/2.
    pub connections: usize,
    /// So many of them at a time on each.
    pub at_once: usize,
    /// So many at a time over HTTP/1.1.
    pub http1: usize,
    /// So many stay.
    pub staying: usize,
    /// The mean time after which somebody leaves.
    pub patience: Duration,
    /// The share of requests for rows that were asked for before.
    pub known: f64,
    /// Equal seeds draw equal moments.
    pub seed: u64,
}

/// How far a storm has come; a clone is a handle of the same.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Streams reset by their client: with half of the message sent,
    pub half_asked: u64,
    /// as soon as it was sent,
    pub at_once: u64,
    /// or later.
    pub later: u64,
    /// Streams whose client's connection ended.
    pub hung_up: u64,
    /// Connections of HTTP/1.1 that ended before the answer.
    pub http1: u64,
    /// Answered sooner than their client left, or to those who stay; all were right.
    pub answered: u64,
    /// Of which so many were for those who stay.
    pub stayed: u64,
    /// Client connections that the other side ended.
    pub lost: u64,
    /// Not answered, or not rightly, though their client was still there.
    pub wrong: u64,
}

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    half_asked: AtomicU64,
    at_once: AtomicU64,
    later: AtomicU64,
    hung_up: AtomicU64,
    http1: AtomicU64,
    answered: AtomicU64,
    stayed: AtomicU64,
    lost: AtomicU64,
    wrong: AtomicU64,
    over: AtomicBool,
    first_wrong: OnceLock<String>,
    first_lost: OnceLock<String>,
}

/// When somebody leaves.
#[derive(Clone, Copy, Debug)]
enum Moment {
    HalfAsked,
    AtOnce,
    After(Duration),
}

impl Storm {
    /// Asks and leaves until enough were given up; must be within a runtime.
    pub async fn rage(&self, progress: &Progress) -> Count {
        let counts = &progress.0;
        let storm = Arc::new(self.clone());
        let mut leaving = JoinSet::new();
        for number in 0..self.connections {
            leaving.spawn(storm.clone().leave_http2(counts.clone(), number as u64));
        }
        for number in 0..self.http1 {
            leaving.spawn(storm.clone().leave_http1(counts.clone(), number as u64));
        }
        let mut staying = JoinSet::new();
        for number in 0..self.staying {
            staying.spawn(storm.clone().stay(counts.clone(), number as u64));
        }
        leaving.join_all().await;
        counts.over.store(true, Relaxed);
        staying.join_all().await;
        progress.count()
    }

    /// Holds a connection for some time, and hangs up while requests are under way.
    async fn leave_http2(self: Arc<Self>, counts: Arc<Counts>, number: u64) {
        let mut random = SmallRng::seed_from_u64(self.seed ^ (number << 8));
        while !counts.are_enough(self.cancels) {
            let Some((sender, drive)) = connect(self.address, &counts).await else {
                counts.wrong(|| "no connection".to_owned());
                return;
            };
            let requests = random.random_range(FEWEST..=MOST);
            let left = Arc::new(AtomicU64::new(requests));
            let mut leavers = JoinSet::new();
            for _ in 0..self.at_once {
                let random = SmallRng::seed_from_u64(random.random());
                let (storm, counts, left) = (self.clone(), counts.clone(), left.clone());
                leavers.spawn(storm.leave_streams(counts, sender.clone(), left, random));
            }
            drop(sender);
            // The first who finds nothing left hangs up for all.
            let lost = !matches!(leavers.join_next().await, Some(Ok(true)));
            drive.abort();
            if lost {
                counts.lost.fetch_add(1, Relaxed);
            }
            while let Some(ended) = leavers.join_next().await {
                if !matches!(ended, Ok(true)) && !lost {
                    counts.hung_up.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Asks and leaves, stream by stream; tells whether the connection still stood at the end.
    async fn leave_streams(
        self: Arc<Self>,
        counts: Arc<Counts>,
        sender: SendRequest<Bytes>,
        left: Arc<AtomicU64>,
        mut random: SmallRng,
    ) -> bool {
        loop {
            let more = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            if more.is_err() || counts.are_enough(self.cancels) {
                return true;
            }
            let (row, body) = self.ask(&counts, &mut random);
            let Ok(mut sender) = sender.clone().ready().await else {
                return false;
            };
            let Ok((answer, mut stream)) = sender.send_request(grpc(message::INFER), false) else {
                return false;
            };
            let moment = Moment::draw(&mut random, self.patience);
            let message = match moment {
                Moment::HalfAsked => body.slice(..body.len() / 2),
                _ => body,
            };
            let ends = !matches!(moment, Moment::HalfAsked);
            if stream.send_data(message, ends).is_err() {
                return false;
            }
            let counted = match moment {
                Moment::HalfAsked | Moment::AtOnce => {
                    // So that it is written before it is taken back.
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                    match moment {
                        Moment::AtOnce => &counts.at_once,
                        _ => &counts.half_asked,
                    }
                }
                Moment::After(time) => {
                    match timeout(time, async { gather(answer.await?).await }).await {
                        Ok(Ok(reply)) => {
                            counts.judge(&reply, row);
                            continue;
                        }
                        Ok(Err(error)) if error.is_reset() => {
                            counts.wrong(|| format!("a reset: {error}"));
                            continue;
                        }
                        Ok(Err(_)) => return false,
                        Err(_) => &counts.later,
                    }
                }
            };
            counted.fetch_add(1, Relaxed);
        }
    }

    /// Asks over HTTP/1.1, one connection a request, and mostly hangs up.
    async fn leave_http1(self: Arc<Self>, counts: Arc<Counts>, number: u64) {
        let mut random = SmallRng::seed_from_u64(self.seed ^ (number << 8) ^ 1);
        while !counts.are_enough(self.cancels) {
            let Ok(mut socket) = TcpStream::connect(self.address).await else {
                counts.wrong(|| "no connection".to_owned());
                return;
            };
            let (row, _) = self.ask(&counts, &mut random);
            let body = format!(
                r#"{{"inputs":[{{"name":"input0","datatype":"FP32","shape":[1,2],"data":[{},{}]}}]}}"#,
                row[0], row[1]
            );
            let asked = format!(
                "POST /v2/models/{}/infer HTTP/1.1\r\nhost: model.test\r\ncontent-type: \
                 application/json\r\ncontent-length: {}\r\n\r\n{body}",
                self.model,
                body.len()
            );
            let moment = Moment::draw(&mut random, self.patience);
            let part = match moment {
                Moment::HalfAsked => &asked[..asked.len() - body.len() / 2],
                _ => &asked,
            };
            if socket.write_all(part.as_bytes()).await.is_err() {
                counts.wrong(|| "HTTP/1.1 cannot be written".to_owned());
                continue;
            }
            let time = match moment {
                Moment::After(time) => time,
                _ => Duration::ZERO,
            };
            let mut answer = [0; 2048];
            match timeout(time, socket.read(&mut answer)).await {
                Ok(Ok(len)) => {
                    let answer = String::from_utf8_lossy(&answer[..len]);
                    let right = answer.starts_with("HTTP/1.1 200") && numbers(&answer) == row;
                    match right {
                        true => _ = counts.answered.fetch_add(1, Relaxed),
                        false => counts.wrong(|| answer.into_owned()),
                    }
                }
                Ok(Err(error)) => counts.wrong(|| format!("HTTP/1.1: {error}")),
                Err(_) => _ = counts.http1.fetch_add(1, Relaxed),
            }
            // A connection that ends politely keeps its port for a minute, and there are not so many.
            if random.random_range(0..POLITE) != 0 {
                let _ = socket.set_zero_linger();
            }
        }
    }

    /// Asks one after the other, and waits for each.
    async fn stay(self: Arc<Self>, counts: Arc<Counts>, number: u64) {
        let mut random = SmallRng::seed_from_u64(self.seed ^ (number << 8) ^ 2);
        let Some((sender, _drive)) = connect(self.address, &counts).await else {
            counts.wrong(|| "no connection".to_owned());
            return;
        };
        while !counts.over.load(Relaxed) {
            let (row, body) = self.ask(&counts, &mut random);
            let exchange = async {
                let (answer, mut stream) = sender
                    .clone()
                    .ready()
                    .await?
                    .send_request(grpc(message::INFER), false)?;
                stream.send_data(body, true)?;
                gather(answer.await?).await
            };
            match timeout(FAITHFUL, exchange).await {
                Ok(Ok(reply)) => {
                    counts.judge(&reply, row);
                    counts.stayed.fetch_add(1, Relaxed);
                }
                Ok(Err(error)) => {
                    counts.wrong(|| format!("who stayed: {error}"));
                    return;
                }
                Err(_) => counts.wrong(|| "who stayed was not answered".to_owned()),
            }
        }
    }

    /// Makes a request, and tells its row, which no other request has, or one that many have.
    fn ask(&self, counts: &Counts, random: &mut SmallRng) -> ([f32; 2], Bytes) {
        let n = counts.begun.fetch_add(1, Relaxed);
        let row = match random.random::<f64>() < self.known {
            true => [-1.0, random.random_range(0..KNOWN) as f32],
            // Two floats, of which both hold their part exactly.
            false => [(n >> 16) as f32, (n & 0xffff) as f32],
        };
        (row, framed(&message::infer(self.model, "input0", &row)))
    }
}

impl Progress {
    /// Returns what became of requests so far.
    pub fn count(&self) -> Count {
        let of = |count: &AtomicU64| count.load(Relaxed);
        let counts = &*self.0;
        Count {
            half_asked: of(&counts.half_asked),
            at_once: of(&counts.at_once),
            later: of(&counts.later),
            hung_up: of(&counts.hung_up),
            http1: of(&counts.http1),
            answered: of(&counts.answered),
            stayed: of(&counts.stayed),
            lost: of(&counts.lost),
            wrong: of(&counts.wrong),
        }
    }

    /// Returns why the first connection was lost that was.
    pub fn first_lost(&self) -> Option<&str> {
        self.0.first_lost.get().map(String::as_str)
    }

    /// Returns what was the first that went wrong.
    pub fn first_wrong(&self) -> Option<&str> {
        self.0.first_wrong.get().map(String::as_str)
    }
}

impl Count {
    /// How many were given up.
    pub fn cancelled(&self) -> u64 {
        self.half_asked + self.at_once + self.later + self.hung_up + self.http1
    }
}

impl Counts {
    fn are_enough(&self, cancels: u64) -> bool {
        let sum = [
            &self.half_asked,
            &self.at_once,
            &self.later,
            &self.hung_up,
            &self.http1,
        ];
        sum.iter().map(|count| count.load(Relaxed)).sum::<u64>() >= cancels
            || self.wrong.load(Relaxed) > TOO_WRONG
    }

    fn judge(&self, reply: &Reply, row: [f32; 2]) {
        let wanted: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        let said = reply.body.get(PREFIX..).and_then(|message| {
            let message = reply.body.slice_ref(message);
            message::output(&message, 0)
        });
        match said {
            Some(said) if said == wanted => _ = self.answered.fetch_add(1, Relaxed),
            _ => self.wrong(|| format!("{reply:?}")),
        }
    }

    fn wrong(&self, what: impl FnOnce() -> String) {
        self.wrong.fetch_add(1, Relaxed);
        self.first_wrong.get_or_init(what);
    }
}

impl Moment {
    fn draw(random: &mut SmallRng, patience: Duration) -> Self {
        match random.random_range(0..10) {
            0 => Self::HalfAsked,
            1 | 2 => Self::AtOnce,
            _ => Self::After(patience.mul_f64(-(1.0 - random.random::<f64>()).ln())),
        }
    }
}

/// Reads the numbers of an answer in JSON.
fn numbers(answer: &str) -> Vec<f32> {
    let data = answer.split_once("\"data\":[");
    let data = data.and_then(|(_, rest)| rest.split_once(']'));
    let numbers = data.into_iter().flat_map(|(data, _)| data.split(','));
    numbers
        .filter_map(|number| number.trim().parse().ok())
        .collect()
}

/// Connects; the connection ends with the task that drives it.
async fn connect(
    address: SocketAddr,
    counts: &Arc<Counts>,
) -> Option<(SendRequest<Bytes>, tokio::task::JoinHandle<()>)> {
    for _ in 0..ATTEMPTS {
        let connecting = async {
            let socket = TcpStream::connect(address).await.ok()?;
            socket.set_nodelay(true).ok()?;
            let mut builder = h2::client::Builder::new();
            builder
                .initial_max_send_streams(4096)
                .max_concurrent_reset_streams(4096)
                // Many small answers may have come before this runtime's one thread reads any of them.
                .data_frame_budget(1 << 24);
            builder.handshake(socket).await.ok()
        };
        if let Some((sender, connection)) = connecting.await {
            let counts = counts.clone();
            let drive = tokio::spawn(async move {
                // A client that hangs up does not come so far.
                if let Err(error) = connection.await {
                    counts.first_lost.get_or_init(|| error.to_string());
                }
            });
            return Some((sender, drive));
        }
        sleep(Duration::from_millis(10)).await;
    }
    None
}

/// Requests of a connection before its client hangs up.
const FEWEST: u64 = 500;
const MOST: u64 = 4000;
/// One of so many hangs up politely over HTTP/1.1.
const POLITE: u32 = 20;
/// How long those wait who stay.
const FAITHFUL: Duration = Duration::from_secs(20);
/// Rows that many ask for.
const KNOWN: u32 = 100;
/// Of more than that nothing is to be learned.
const TOO_WRONG: u64 = 1000;
/// Bytes of gRPC's prefix.
const PREFIX: usize = 5;
const ATTEMPTS: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_row_of_its_own_unless_it_is_a_known_one() {
        let storm = Storm {
            address: ([127, 0, 0, 1], 1).into(),
            model: "m",
            cancels: 1,
            connections: 1,
            at_once: 1,
            http1: 0,
            staying: 0,
            patience: Duration::from_millis(1),
            known: 0.0,
            seed: 1,
        };
        let counts = Counts::default();
        let mut random = SmallRng::seed_from_u64(1);
        counts.begun.store((1 << 24) - 1, Relaxed);
        let (first, _) = storm.ask(&counts, &mut random);
        let (second, _) = storm.ask(&counts, &mut random);
        assert_eq!((first, second), ([255.0, 65535.0], [256.0, 0.0]));
        let known = Storm {
            known: 1.0,
            ..storm
        };
        assert_eq!(known.ask(&counts, &mut random).0[0], -1.0);
    }

    #[test]
    fn numbers_are_found_in_json() {
        assert_eq!(
            numbers(r#"{"outputs":[{"data":[-1.0, 64]}]}"#),
            [-1.0, 64.0]
        );
        assert!(numbers("HTTP/1.1 503 no").is_empty());
    }

    #[test]
    fn what_was_given_up_is_the_sum_of_all_ways() {
        let progress = Progress::default();
        progress.0.later.store(3, Relaxed);
        progress.0.hung_up.store(2, Relaxed);
        progress.0.answered.store(9, Relaxed);
        assert_eq!(progress.count().cancelled(), 5);
        assert!(progress.0.are_enough(5) && !progress.0.are_enough(6));
    }
}
