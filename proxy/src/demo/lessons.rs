//! Callers who ask about an image, and tell what it shows.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use outrigger_native::digits::Digits;
use prost::Message as _;

use super::{
    error::{Error, Spoiled},
    images,
    load::{self, Answer, Caller, Outcome, Target},
};

/// Questions under way; they end when this is dropped.
///
/// Each image is asked of all names at once, and what it shows is told under those prediction ids
/// that came with the answers, before the same caller asks again.
#[derive(Debug)]
pub(super) struct Lessons {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

/// What came of some questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Score {
    /// Images that were asked about.
    pub(super) asked: u64,
    /// For each name, answers that were wrong.
    pub(super) wrong: Vec<u64>,
    /// For each name, how often each arm answered.
    pub(super) by_arm: Vec<Vec<u64>>,
}

/// The questions, and of whom they are asked.
#[derive(Debug)]
struct Asked {
    arms: Vec<String>,
    /// For each image, a body for each name, and what it shows.
    images: Vec<(Vec<Bytes>, u8)>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    phase: AtomicUsize,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    moment: Score,
    phases: Vec<Score>,
}

impl Lessons {
    /// Begins to ask models of these names, whose arms have those.
    pub(super) fn start(target: Target, names: &[&str], arms: &[String]) -> io::Result<Self> {
        let asked = Arc::new(Asked::new(names, arms));
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            phase: AtomicUsize::new(0),
            tally: Mutex::default(),
        });
        let thread = std::thread::Builder::new().name("lessons".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(ask(target, asked, shared))
            }
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What is asked from here on counts to another phase, from 0.
    pub(super) fn enter(&self, phase: usize) {
        self.shared.phase.store(phase, Ordering::Relaxed);
    }

    /// Returns what has happened since this was asked last.
    pub(super) fn moment(&self) -> Score {
        std::mem::take(&mut self.shared.tally().moment)
    }

    /// Whether it has ended by itself: something went wrong.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, and returns what came of each phase.
    pub(super) fn end(mut self) -> Result<Vec<Score>, Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the callers have failed").into()))?;
        }
        Ok(std::mem::take(&mut self.shared.tally().phases))
    }
}

impl Drop for Lessons {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What went wrong does not matter to somebody who leaves.
            let _ = thread.join();
        }
    }
}

impl Score {
    fn add(&mut self, wrong: &[bool], arms: &[Option<usize>], of: usize) {
        self.asked += 1;
        self.wrong.resize(wrong.len(), 0);
        self.by_arm.resize(arms.len(), vec![0; of]);
        for (sum, wrong) in self.wrong.iter_mut().zip(wrong) {
            *sum += u64::from(*wrong);
        }
        for (counts, arm) in self.by_arm.iter_mut().zip(arms) {
            if let Some(count) = arm.and_then(|arm| counts.get_mut(arm)) {
                *count += 1;
            }
        }
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally
            .lock()
            .expect("nothing panics while it holds the tally")
    }

    fn count(&self, phase: usize, wrong: &[bool], arms: &[Option<usize>], of: usize) {
        let mut tally = self.tally();
        tally.moment.add(wrong, arms, of);
        if tally.phases.len() <= phase {
            tally.phases.resize_with(phase + 1, Score::default);
        }
        tally.phases[phase].add(wrong, arms, of);
    }
}

impl Asked {
    fn new(names: &[&str], arms: &[String]) -> Self {
        let held_out = Digits::load().held_out();
        let images = held_out.images.iter().zip(held_out.labels);
        let images = images.map(|(image, truth)| {
            let body = |name: &&str| load::frame(&images::question(name, image).encode_to_vec());
            (names.iter().map(body).collect(), *truth)
        });
        Self {
            images: images.collect(),
            arms: arms.to_vec(),
        }
    }
}

async fn ask(target: Target, asked: Arc<Asked>, shared: Arc<Shared>) -> Result<(), Error> {
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let caller = Caller::connect(&target, PATIENCE).await?;
        let (asked, shared) = (Arc::clone(&asked), Arc::clone(&shared));
        callers.spawn(async move {
            let mut at = number;
            while !shared.stop.load(Ordering::Relaxed) {
                lesson(&caller, &asked, at % asked.images.len(), &shared).await?;
                at += CALLERS;
            }
            Ok::<_, Error>(())
        });
    }
    // The first that fails takes the others along.
    while let Some(ended) = callers.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Asks about an image, and tells what it shows.
async fn lesson(caller: &Caller, asked: &Asked, at: usize, shared: &Shared) -> Result<(), Error> {
    let (bodies, truth) = &asked.images[at];
    let phase = shared.phase.load(Ordering::Relaxed);
    let answers = bodies.iter().map(|body| caller.call(body.clone(), &[]));
    let answers = futures_util::future::try_join_all(answers).await?;
    let mut wrong = Vec::with_capacity(answers.len());
    let mut arms = Vec::with_capacity(answers.len());
    let mut items = Vec::new();
    for answer in &answers {
        let label = match answer.outcome {
            Outcome::Grpc(0) => images::label(&answer.body),
            outcome => return Err(spoiled(Spoiled::Failed { outcome, count: 1 })),
        };
        wrong.push(label != Some(i64::from(*truth)));
        let arm = answer.header("outrigger-arm");
        arms.push(asked.arms.iter().position(|one| arm == Some(one)));
        if let Some(id) = answer.header("outrigger-prediction-id") {
            items.push(format!(r#"{{"prediction_id":"{id}","label":{truth}}}"#));
        }
    }
    shared.count(phase, &wrong, &arms, asked.arms.len());
    if items.is_empty() {
        return Ok(());
    }
    let told = format!(r#"{{"feedback":[{}]}}"#, items.join(","));
    let answer = caller.post(FEEDBACK, told).await?;
    match is_applied(&answer, items.len()) {
        true => Ok(()),
        false => Err(spoiled(Spoiled::Untaught(
            String::from_utf8_lossy(&answer.body).into_owned(),
        ))),
    }
}

fn is_applied(answer: &Answer, items: usize) -> bool {
    let body: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let applied = body.and_then(|body| body.get("applied")?.as_u64());
    answer.outcome == Outcome::NoStatus && applied == Some(items as u64)
}

fn spoiled(cause: Spoiled) -> Error {
    Error::Spoiled {
        scene: "selection",
        cause,
    }
}

const FEEDBACK: &str = "/outrigger/v1/feedback";

/// Enough that the proxy always has something to do, and few enough that what was told is known
/// when the next image is asked.
const CALLERS: usize = 4;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_counts_for_each_name_what_was_wrong_and_whose_it_was() {
        let mut score = Score::default();
        score.add(&[true, false], &[None, Some(2)], 3);
        score.add(&[true, true], &[None, Some(0)], 3);
        assert_eq!(score.asked, 2);
        assert_eq!(score.wrong, [2, 1]);
        assert_eq!(score.by_arm, [[0, 0, 0], [1, 0, 1]]);
    }
}
