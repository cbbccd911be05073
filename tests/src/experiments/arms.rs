//! Digit models as the arms of names that clients send, and a client who tells what was right.
//!
//! ```text
//!  client --HTTP/2--> Outrigger (a process of its own) --HTTP/2--> native container (threads here)
//!         <-- label, outrigger-prediction-id, -arm, -confidence
//!         --> POST /outrigger/v1/feedback {prediction_id, label}
//! ```

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use outrigger::demo::load::{Caller, Outcome, Target, frame};
use outrigger_native::digits::{Classifier, Image};
use outrigger_native::{Handle, Server};

use super::Options;
use super::admin::wait_until_ready;
use crate::bench::proxy::Proxy;
use crate::bench::{Result, message};

/// Models under way behind a proxy of their own; all ends when this is dropped.
#[derive(Debug)]
pub struct Arms {
    caller: Caller,
    server: Server,
    _proxy: Proxy,
}

/// What was answered to a question.
#[derive(Clone, Debug)]
pub struct Said {
    /// The digit.
    pub digit: u8,
    /// Under which what was right can be told.
    pub id: Option<String>,
    /// Whose answer it is.
    pub arm: Option<String>,
    /// The share of the weights whose arms agree with it.
    pub confidence: Option<f64>,
}

impl Arms {
    /// Serves models, and starts Outrigger before them with these models in its configuration; must
    /// be within a runtime, which it blocks meanwhile. No two may have the same name at a time.
    pub async fn start(
        name: &str,
        models: Vec<Classifier>,
        configuration: &str,
        options: &Options,
    ) -> Result<Self> {
        let (server, proxy) = {
            // A port that is free may be taken by another who starts at the same time.
            static STARTING: Mutex<()> = Mutex::new(());
            let _alone = STARTING
                .lock()
                .map_err(|_| "another run has failed to start")?;
            let server = Server::builder().models(models).threads(1);
            let server = futures_util::FutureExt::now_or_never(server.bind("127.0.0.1:0"))
                .ok_or("an address of the loopback needs no resolving")??;
            let proxy = Proxy::start(
                name,
                options.outrigger.clone(),
                &options.folder,
                &[server.address()],
                configuration,
            )?;
            wait_until_ready(proxy.admin)?;
            (server, proxy)
        };
        let target = Target::new(proxy.address, message::INFER)?;
        Ok(Self {
            caller: Caller::connect(&target, PATIENCE).await?,
            server,
            _proxy: proxy,
        })
    }

    /// The reins of a model.
    pub fn handle(&self, model: &str) -> Result<Handle> {
        self.server
            .handle(model)
            .ok_or_else(|| format!("the container has no model {model}").into())
    }

    /// Asks which digit an image shows.
    pub async fn ask(
        &self,
        question: Bytes,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Said> {
        let answer = self.caller.call(question, headers).await?;
        if answer.outcome != Outcome::Grpc(0) {
            let why = answer.header("grpc-message").unwrap_or_default();
            return Err(format!("a question ended with {}: {why}", answer.outcome).into());
        }
        let text = |name| answer.header(name).map(str::to_owned);
        Ok(Said {
            digit: digit(&answer.body).ok_or("an answer has no label")?,
            id: text("outrigger-prediction-id"),
            arm: text("outrigger-arm"),
            confidence: answer
                .header("outrigger-confidence")
                .and_then(|confidence| confidence.parse().ok()),
        })
    }

    /// Tells what would have been the right answer.
    pub async fn teach(&self, said: &Said, label: u8) -> Result<()> {
        let id = said.id.as_deref().ok_or("an answer has no prediction id")?;
        let told = format!(r#"{{"prediction_id":"{id}","label":{label}}}"#);
        let answer = self.caller.post(FEEDBACK, told).await?;
        let body = String::from_utf8_lossy(&answer.body);
        if answer.outcome != Outcome::NoStatus || !body.contains(r#""applied":1"#) {
            return Err(format!("feedback ended with {}: {body}", answer.outcome).into());
        }
        Ok(())
    }
}

/// The digit that an answer names, with gRPC's prefix before it; none where it names something else.
pub fn digit(answer: &Bytes) -> Option<u8> {
    let label = message::output(&answer.slice_ref(answer.get(PREFIX..)?), 0)?;
    u8::try_from(i64::from_le_bytes(label.as_ref().try_into().ok()?)).ok()
}

/// Asks a model about an image.
pub fn question(model: &str, image: &Image) -> Bytes {
    frame(&message::infer(model, "x", image))
}

/// Writes a model of a configuration: its arms, which are models of the container, and how one of them is selected.
pub fn model<'a>(name: &str, arms: impl IntoIterator<Item = &'a str>, selection: &str) -> String {
    let arms: Vec<_> = arms
        .into_iter()
        .map(|arm| format!("{arm}: {{ upstream: model, model: {arm} }}"))
        .collect();
    format!(
        "  {name}:\n    arms: {{ {} }}\n    selection: {{ {selection} }}\n",
        arms.join(", ")
    )
}

/// Does all jobs on as many threads as there are cores, and returns what came of them in their
/// order.
pub fn each<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<R>)>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                while let Some((at, job)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(at).map(|job| (at, job))
                } {
                    let result = work(job);
                    if result.is_err() {
                        // The others need not begin.
                        next.store(jobs.len(), Ordering::Relaxed);
                    }
                    done.lock()
                        .expect("nothing panics while it holds the results")
                        .push((at, result));
                }
            });
        }
    });
    let mut done = done
        .into_inner()
        .expect("nothing panics while it holds the results");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs a future on a runtime of this thread.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// Where feedback goes.
pub const FEEDBACK: &str = "/outrigger/v1/feedback";
/// Bytes of gRPC's prefix: whether it is compressed, and the length.
const PREFIX: usize = 5;
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_written_with_its_arms() {
        assert_eq!(
            model("digits", ["a", "b"], "policy: exp3"),
            "  digits:\n    arms: { a: { upstream: model, model: a }, \
             b: { upstream: model, model: b } }\n    selection: { policy: exp3 }\n"
        );
    }

    #[test]
    fn jobs_keep_their_order_and_one_that_fails_fails_all() {
        let jobs: Vec<u64> = (0..50).collect();
        let squares = each(&jobs, |job| Ok(job * job)).expect("none fails");
        assert_eq!(
            squares,
            jobs.iter().map(|job| job * job).collect::<Vec<_>>()
        );
        let failed = each(&jobs, |job| match job {
            7 => Err("seven".into()),
            job => Ok(*job),
        });
        assert!(failed.is_err());
    }
}
