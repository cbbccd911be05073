use std::{sync::Arc, time::Duration};

use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tower::ServiceExt as _;

use super::{difference, metrics::ShadowHandles};
use crate::inference::{Infer, Request, Response};

/// An arm that gets copies of requests, and whose answers nobody gets.
#[derive(Debug)]
pub(super) struct Shadow<S> {
    name: ByteString,
    /// The share of requests that it gets a copy of.
    share: f64,
    service: S,
    /// How many copies may be under way, and how many kilobytes of messages in them.
    room: Arc<Semaphore>,
    kilobytes: Arc<Semaphore>,
    seen: Arc<Mutex<Seen>>,
    metrics: ShadowHandles,
}

#[derive(Debug, Default)]
struct Seen {
    copies: u64,
    failed: u64,
    skipped: u64,
    rows: u64,
    agree: u64,
    max_difference: Option<f64>,
}

/// What a shadow has answered, compared with the answers that were given.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowView {
    /// The arm's name.
    pub arm: ByteString,
    /// The share of requests that it gets a copy of.
    pub share: f64,
    /// Copies that it was sent.
    pub copies: u64,
    /// Copies to which it gave no answer.
    pub failed: u64,
    /// Copies that it was not sent, because too many were under way.
    pub skipped: u64,
    /// Rows of which there are both answers.
    pub rows: u64,
    /// Those of them of which both say the same.
    pub agree: u64,
    /// The greatest distance of two numbers at the same place; `None` where there are none.
    pub max_difference: Option<f64>,
}

/// The copies of one request, which wait for the answer to compare theirs with.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<oneshot::Sender<Response>>);

impl Copies {
    /// Tells the shadows what was answered; those that are never told compare nothing.
    pub(super) fn compare(self, response: &Response) {
        for copy in self.0 {
            // A shadow that has failed already does not wait.
            let _ = copy.send(response.clone());
        }
    }

    pub(super) fn push(&mut self, told: oneshot::Sender<Response>) {
        self.0.push(told);
    }
}

impl<S> Shadow<S> {
    pub(super) fn new(name: ByteString, share: f64, service: S, metrics: ShadowHandles) -> Self {
        Self {
            name,
            share,
            service,
            room: Arc::new(Semaphore::new(MOST_COPIES)),
            kilobytes: Arc::new(Semaphore::new(MOST_KILOBYTES)),
            seen: Arc::default(),
            metrics,
        }
    }

    pub(super) fn view(&self) -> ShadowView {
        let seen = self.seen.lock();
        ShadowView {
            arm: self.name.clone(),
            share: self.share,
            copies: seen.copies,
            failed: seen.failed,
            skipped: seen.skipped,
            rows: seen.rows,
            agree: seen.agree,
            max_difference: seen.max_difference,
        }
    }

    /// Finds room for a copy, if this request is one of which there is to be one.
    fn room(&self, uniform: f64, held: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        if uniform >= self.share {
            return None;
        }
        let kilobytes = u32::try_from(held >> 10).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_owned().ok();
        let bytes = self
            .kilobytes
            .clone()
            .try_acquire_many_owned(kilobytes)
            .ok();
        let mut seen = self.seen.lock();
        match room.zip(bytes) {
            Some((room, bytes)) => {
                seen.copies += 1;
                Some([room, bytes])
            }
            None => {
                seen.skipped += 1;
                self.metrics.skipped.inc();
                None
            }
        }
    }
}

impl<S> Shadow<S>
where
    S: Infer + 'static,
    S::Future: 'static,
{
    /// Sends a copy of a request, in a task that ends with the shadow's answer, or with that which
    /// it is compared with; returns where the latter is told.
    pub(super) fn copy(
        &self,
        request: &Request,
        uniform: f64,
        label: Option<ByteString>,
    ) -> Option<oneshot::Sender<Response>> {
        let runtime = Handle::try_current().ok()?;
        let permit = self.room(uniform, request.held_len())?;
        let (told, answered) = oneshot::channel();
        let call = self.service.clone().oneshot(request.clone());
        let (seen, metrics) = (self.seen.clone(), self.metrics.clone());
        runtime.spawn(async move {
            let _permit = permit;
            let own = match timeout(PATIENCE, call).await {
                Ok(Ok(own)) => own,
                Ok(Err(_)) | Err(_) => {
                    seen.lock().failed += 1;
                    metrics.failed.inc();
                    return;
                }
            };
            // Without an answer there is nothing to compare.
            let Ok(answer) = answered.await else {
                return;
            };
            let difference = difference::of(&answer, &own, label.as_deref());
            let (rows, agree) = (difference.rows as u64, difference.agree as u64);
            metrics.agree.inc_by(agree);
            metrics.differ.inc_by(rows - agree);
            let mut seen = seen.lock();
            seen.rows += rows;
            seen.agree += agree;
            let numbers = [seen.max_difference, difference.max_abs];
            seen.max_difference = numbers.into_iter().flatten().reduce(f64::max);
        });
        Some(told)
    }
}

/// Copies of an arm that may be under way: what is slow must not gather what nobody waits for.
const MOST_COPIES: usize = 64;
/// Kilobytes of their messages: a quarter of what may wait for a model.
const MOST_KILOBYTES: usize = 16 << 10;
/// How long a copy may take: whoever is slower would hold its place for ever.
const PATIENCE: Duration = Duration::from_secs(10);
