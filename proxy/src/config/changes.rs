use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{self, MissedTickBehavior};
use tracing::warn;

/// Says when files are worth reading again.
///
/// Kubernetes mounts ConfigMaps and secrets as links through `..data`, which is swapped for another,
/// and editors rename a new file over the old one: a watch on a file goes stale. So the directories
/// are watched, and whatever happens there is a reason to look; beyond that a look is due every few
/// seconds, because links may lead out of the directory, and because the system may lose events
/// or have no watch to give.
#[derive(Debug)]
pub(crate) struct Changes {
    events: mpsc::Receiver<()>,
    poll: time::Interval,
    /// Whether a look is due, although the call that began with it is gone.
    due: bool,
    /// Held for its end: without it no events come.
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Begins to watch the directories of files.
    ///
    /// Needs a runtime with time.
    pub(crate) fn near<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let mut poll = time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            events,
            poll,
            due: false,
            _watcher: watch(files, sender),
        }
    }

    /// Waits until it is time to look, which it stays until [`looked`](Self::looked) is called:
    /// nothing is lost when the future is dropped.
    pub(crate) async fn due(&mut self) {
        if !self.due {
            tokio::select! {
                Some(()) = self.events.recv() => {}
                _ = self.poll.tick() => {}
            }
            self.due = true;
        }
        // Writers need a moment from the first event to the last.
        time::sleep(SETTLE).await;
        let _ = self.events.try_recv();
    }

    /// Says that what was due is done.
    pub(crate) fn looked(&mut self) {
        self.due = false;
    }

    /// As on a system that has no events to give.
    #[cfg(test)]
    pub(crate) async fn lose_events(&mut self) {
        self._watcher = None;
        while self.events.recv().await.is_some() {}
    }
}

/// Starts the system's watch on the files' directories.
fn watch<'a>(
    files: impl IntoIterator<Item = &'a Path>,
    events: mpsc::Sender<()>,
) -> Option<RecommendedWatcher> {
    let directories: BTreeSet<&Path> = files
        .into_iter()
        .map(|file| match file.parent() {
            Some(parent) if parent.components().next().is_some() => parent,
            Some(_) | None => Path::new("."),
        })
        .collect();
    let told = move |event: notify::Result<notify::Event>| {
        // Our own reading is no change; anything else may be.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // Full means that a look is due already.
            let _ = events.try_send(());
        }
    };
    let failed = |path: &Path, error: notify::Error| {
        warn!(
            path = %path.display(),
            error = &error as &dyn Error,
            "no watch on the directory; its files are read every {POLL:?}"
        );
    };
    let mut watcher = match notify::recommended_watcher(told) {
        Ok(watcher) => watcher,
        Err(error) => {
            failed(Path::new(""), error);
            return None;
        }
    };
    for directory in directories {
        if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
            failed(directory, error);
        }
    }
    Some(watcher)
}

/// From the first event to the look: longer than an editor's write, shorter than patience.
const SETTLE: Duration = Duration::from_millis(50);

/// Between two looks when no event comes.
const POLL: Duration = Duration::from_secs(5);
