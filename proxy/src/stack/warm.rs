use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use outrigger_filters::{cache::Store, inference::Request};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle, time::timeout};
use tracing::{debug, info};

use super::ways::Ways;

/// Asks a model again, after its cache was flushed, for what was asked for last.
///
/// ```text
///        flushed            no flush for a while            all was asked
/// idle ----------> pausing ----------------------> asking ----------------> idle
///                  ^  '-flushed-^                    |
///                  '------------- flushed -----------'
/// ```
///
/// The task ends with the handle.
#[derive(Debug)]
pub(super) struct Warming {
    due: Arc<Due>,
    task: AbortHandle,
}

/// What is to be asked, the newest first.
#[derive(Debug, Default)]
struct Due {
    rows: Mutex<Vec<Request>>,
    flushed: Notify,
}

impl Warming {
    /// Begins to wait for flushes, on the runtime that this is called on.
    pub(super) fn begin(store: &Store, ways: Ways) -> Self {
        let due = Arc::new(Due::default());
        let most = store.config().warm;
        let warming = warm(due.clone(), most, move |request| {
            let ways = ways.clone();
            async move { ways.ask(request).await }
        });
        Self {
            due,
            task: tokio::spawn(warming).abort_handle(),
        }
    }

    /// Is told of a store's flushes from now on, in place of who was told before.
    pub(super) fn follow(&self, store: &Store) {
        let most = store.config().warm;
        let due = self.due.clone();
        store.warm_by(move |rows| {
            due.add(rows, most);
            due.flushed.notify_one();
        });
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Due {
    /// Puts rows before those that are due already: two flushes one after the other leave the
    /// second with nothing to tell.
    fn add(&self, mut rows: Vec<Request>, most: usize) {
        let mut due = self.rows.lock();
        rows.append(&mut due);
        rows.truncate(most);
        *due = rows;
    }

    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.rows.lock())
    }
}

async fn warm<F>(due: Arc<Due>, most: usize, ask: impl Fn(Request) -> F)
where
    F: Future<Output = ()>,
{
    loop {
        due.flushed.notified().await;
        loop {
            while timeout(PAUSE, due.flushed.notified()).await.is_ok() {}
            let rows = due.take();
            let count = rows.len();
            debug!(rows = count, "asking again for what was asked for last");
            let asked = stream::iter(rows.clone()).for_each_concurrent(AT_A_TIME, &ask);
            tokio::select! {
                () = asked => {
                    info!(rows = count, "warmed the prediction cache");
                    break;
                }
                () = due.flushed.notified() => {
                    // What was asked by now is forgotten again.
                    let newer = due.take();
                    due.add(rows, most);
                    due.add(newer, most);
                }
            }
        }
    }
}

/// From a flush to the first row that is asked again: a server that has loaded another version
/// begins to serve it, and flushes for one cause seldom come alone.
const PAUSE: Duration = Duration::from_millis(250);
/// Rows under way at a time; callers come first, and a batch is worth having.
const AT_A_TIME: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use outrigger_filters::inference::RequestParts;
    use tokio::time::{advance, sleep};

    use super::*;

    fn rows(ids: &[&'static str]) -> Vec<Request> {
        let row = |id: &&'static str| {
            let mut parts = RequestParts::default();
            parts.head.id = (*id).into();
            Request::from(parts)
        };
        ids.iter().map(row).collect()
    }

    /// A model that takes 100 ms for each row.
    #[derive(Clone, Debug, Default)]
    struct Model {
        asked: Arc<Mutex<Vec<String>>>,
        busy: Arc<AtomicUsize>,
        most_busy: Arc<AtomicUsize>,
    }

    impl Model {
        async fn ask(self, request: Request) {
            self.asked.lock().push(request.head.id.to_string());
            let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_busy.fetch_max(busy, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.asked.lock())
        }
    }

    /// Begins to warm a model up, with at most twenty rows.
    fn begin() -> (Model, Arc<Due>) {
        let (model, due) = (Model::default(), Arc::new(Due::default()));
        let asked = model.clone();
        tokio::spawn(warm(due.clone(), 20, move |request| {
            asked.clone().ask(request)
        }));
        (model, due)
    }

    fn flush(due: &Due, ids: &[&'static str]) {
        due.add(rows(ids), 20);
        due.flushed.notify_one();
    }

    #[tokio::test(start_paused = true)]
    async fn the_model_is_asked_again_once_it_had_a_moment() {
        let (model, due) = begin();
        flush(&due, &["a", "b"]);
        sleep(PAUSE / 2).await;
        assert_eq!(model.asked(), [""; 0]);
        sleep(PAUSE).await;
        assert_eq!(model.asked(), ["a", "b"]);
        sleep(PAUSE * 10).await;
        assert_eq!(model.asked(), [""; 0], "once is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_flush_loses_nothing_of_the_first() {
        let (model, due) = begin();
        flush(&due, &["a", "b"]);
        sleep(PAUSE / 2).await;
        flush(&due, &["c"]);
        sleep(PAUSE + Duration::from_millis(50)).await;
        assert_eq!(model.asked(), ["c", "a", "b"]);
        // While they are being asked, all is forgotten again.
        flush(&due, &["d"]);
        sleep(PAUSE * 4).await;
        assert_eq!(model.asked(), ["d", "c", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn eight_rows_are_under_way_at_most_and_twenty_are_asked() {
        let (model, due) = begin();
        flush(&due, &["a"; 30]);
        advance(PAUSE).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(model.asked().len(), 20);
        assert_eq!(model.most_busy.load(Ordering::Relaxed), AT_A_TIME);
    }
}
