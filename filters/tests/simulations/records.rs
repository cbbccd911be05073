use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What became of every request and of every call of a run.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requests: Vec<Record>,
    calls: Vec<Call>,
    wrong: usize,
    sent_late: usize,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The stream and the caller that it is of.
    pub(crate) stream: usize,
    pub(crate) caller: usize,
    pub(crate) rows: usize,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Whether the model refuses a call that it is in.
    pub(crate) bad: bool,
    pub(crate) ended: Option<(Instant, End)>,
    /// What the answer says of the queue.
    pub(crate) queue: Option<Duration>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    Refused,
    Expired,
    Failed,
    Left,
}

/// One call to the model.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) rows: usize,
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
    /// What it took of an executor.
    pub(crate) busy: Duration,
    /// Rows whose callers were gone or out of time when the answer came.
    pub(crate) for_nobody: usize,
}

impl Records {
    /// Takes note of a request, and returns its number.
    pub(crate) fn arrived(&self, record: Record) -> u64 {
        let mut inner = self.0.lock();
        inner.requests.push(record);
        inner.requests.len() as u64 - 1
    }

    pub(crate) fn ended(&self, number: u64, end: End, queue: Option<Duration>) {
        let mut inner = self.0.lock();
        let record = &mut inner.requests[number as usize];
        assert!(record.ended.is_none(), "ends once");
        record.ended = Some((Instant::now(), end));
        record.queue = queue;
    }

    /// Takes note of an answer with rows of somebody else.
    pub(crate) fn was_wrong(&self) {
        self.0.lock().wrong += 1;
    }

    /// Takes note of rows, by the numbers of their requests, that are sent to the model; tells
    /// whether it will refuse them.
    pub(crate) fn sent(&self, rows: &[u64]) -> bool {
        let mut inner = self.0.lock();
        let now = Instant::now();
        let mut bad = false;
        let mut late = 0;
        for number in rows {
            let record = &inner.requests[*number as usize];
            bad |= record.bad;
            late += usize::from(record.deadline.is_some_and(|at| at <= now));
        }
        inner.sent_late += late;
        bad
    }

    /// Takes note of a call that ends now, with what it took.
    pub(crate) fn called(&self, rows: &[u64], sent: Instant, busy: Duration) {
        let mut inner = self.0.lock();
        let ended = Instant::now();
        let nobody = |number: &&u64| {
            let record = &inner.requests[**number as usize];
            record.ended.is_some() || record.deadline.is_some_and(|at| at < ended)
        };
        let for_nobody = rows.iter().filter(nobody).count();
        inner.calls.push(Call {
            rows: rows.len(),
            sent,
            ended,
            busy,
            for_nobody,
        });
    }

    pub(crate) fn waiting(&self) -> usize {
        let inner = self.0.lock();
        let waits = |record: &&Record| record.ended.is_none();
        inner.requests.iter().filter(waits).count()
    }

    pub(crate) fn wrong(&self) -> usize {
        self.0.lock().wrong
    }

    pub(crate) fn sent_late(&self) -> usize {
        self.0.lock().sent_late
    }

    pub(crate) fn take(&self) -> (Vec<Record>, Vec<Call>) {
        let mut inner = self.0.lock();
        (
            std::mem::take(&mut inner.requests),
            std::mem::take(&mut inner.calls),
        )
    }
}
