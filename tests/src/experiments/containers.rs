//! Model containers within this process, and what they tell of each call.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use outrigger_native::{Batches, Container, Counters, Handle, Server};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::bench::Result;

/// A server of one model on threads of its own; it ends when this is dropped.
#[derive(Debug)]
pub struct Native {
    /// Where it listens.
    pub address: SocketAddr,
    /// The model's reins.
    pub handle: Handle,
    _server: Server,
}

/// A call that a container has executed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call {
    /// When it was over.
    pub at: Instant,
    /// Its rows.
    pub rows: f64,
    /// How long it took.
    pub took: Duration,
}

/// Writes down each call that a container executes.
#[derive(Debug)]
pub struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Native {
    /// Serves a model on a free port.
    pub fn start(name: &str, model: impl Into<Container>) -> Result<Self> {
        // Only the socket is bound here; the server has its own runtimes.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let server = Server::builder().model(model).threads(1);
        let server = runtime.block_on(server.bind("127.0.0.1:0"))?;
        let handle = server
            .handle(name)
            .ok_or_else(|| format!("the container has no model {name}"))?;
        Ok(Self {
            address: server.address(),
            handle,
            _server: server,
        })
    }
}

impl Recorder {
    /// Begins to write down.
    pub fn start(handle: Handle) -> Result<Self> {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let thread = std::thread::Builder::new().name("recorder".into()).spawn({
            let calls = Arc::clone(&calls);
            move || {
                let known = RefCell::new(handle.counters().batches);
                let record = |counters: &Counters| {
                    let new = since(&mut known.borrow_mut(), counters);
                    lock(&calls).extend(new);
                    false
                };
                runtime.block_on(async {
                    tokio::select! {
                        _ = handle.until(record) => {}
                        _ = stopped => {}
                    }
                });
            }
        })?;
        Ok(Self {
            calls,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// How many calls were executed so far.
    pub fn count(&self) -> usize {
        lock(&self.calls).len()
    }

    /// The calls so far, from the one with this number on.
    pub fn calls(&self, from: usize) -> Vec<Call> {
        lock(&self.calls).get(from..).unwrap_or_default().to_vec()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Nobody listens if the thread has ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The calls that the counters know and that were not known yet; now they are. Calls of one
/// size between two looks are given the same time.
fn since(known: &mut BTreeMap<usize, Batches>, counters: &Counters) -> Vec<Call> {
    let at = Instant::now();
    let mut new = Vec::new();
    for (rows, batches) in &counters.batches {
        let before = known.entry(*rows).or_default();
        let calls = batches.calls.saturating_sub(before.calls);
        if calls > 0 {
            let took = batches.time.saturating_sub(before.time);
            let took = took.div_f64(calls as f64);
            let call = Call {
                at,
                rows: *rows as f64,
                took,
            };
            new.extend(std::iter::repeat_n(call, calls as usize));
            *before = *batches;
        }
    }
    new
}

fn lock(calls: &Mutex<Vec<Call>>) -> MutexGuard<'_, Vec<Call>> {
    calls
        .lock()
        .expect("nothing panics while it holds the calls")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(batches: &[(usize, u64, u64)]) -> Counters {
        let batches = batches.iter().map(|(rows, calls, millis)| {
            let time = Duration::from_millis(*millis);
            (
                *rows,
                Batches {
                    calls: *calls,
                    time,
                },
            )
        });
        Counters {
            batches: batches.collect(),
            ..Counters::default()
        }
    }

    #[test]
    fn only_calls_that_are_new_are_written_down() {
        let mut known = BTreeMap::new();
        let first = since(&mut known, &counters(&[(1, 1, 4)]));
        assert_eq!((first.len(), first[0].rows), (1, 1.0));
        assert!(since(&mut known, &counters(&[(1, 1, 4)])).is_empty());
        let later = since(&mut known, &counters(&[(1, 1, 4), (32, 2, 20)]));
        let seen: Vec<_> = later.iter().map(|call| (call.rows, call.took)).collect();
        assert_eq!(seen, [(32.0, Duration::from_millis(10)); 2]);
    }
}
