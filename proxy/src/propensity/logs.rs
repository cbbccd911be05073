use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
};

use bytestring::ByteString;
use parking_lot::Mutex;
use tracing::warn;

use super::{
    log::Log,
    queue::Queue,
    writer::{Bounds, Writer},
};
use crate::config::SelectionLog;

/// The logs of a process: one thread for each file, whichever handles there are of it.
#[derive(Debug, Default)]
pub struct Logs(Mutex<HashMap<PathBuf, Weak<Open>>>);

/// A file that is written to; its thread ends when all handles are gone and all is written.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) queue: Arc<Queue>,
    bounds: Arc<Mutex<Bounds>>,
}

impl Logs {
    /// Opens a log for the arms of a model, in the order in which they will be told of. Where the
    /// file is open already it is the same one, with these bounds from now on.
    pub fn open(
        &self,
        settings: &SelectionLog,
        model: impl Into<ByteString>,
        arms: impl IntoIterator<Item = ByteString>,
    ) -> Log {
        let bounds = Bounds {
            max_bytes: settings.max_bytes,
            files: settings.files,
        };
        let mut logs = self.0.lock();
        logs.retain(|_, open| open.strong_count() > 0);
        let open = logs.get(&settings.path).and_then(Weak::upgrade);
        let open = match open {
            Some(open) => {
                *open.bounds.lock() = bounds;
                open
            }
            None => {
                let open = Arc::new(Open::new(settings.path.clone(), bounds));
                logs.insert(settings.path.clone(), Arc::downgrade(&open));
                open
            }
        };
        Log::new(open, model.into(), arms, settings.sample)
    }
}

impl Open {
    fn new(path: PathBuf, bounds: Bounds) -> Self {
        let queue = Arc::new(Queue::new(MOST));
        let bounds = Arc::new(Mutex::new(bounds));
        let writer = Writer::new(queue.clone(), bounds.clone(), path);
        let thread = thread::Builder::new().name("propensity-log".to_owned());
        if let Err(error) = thread.spawn(|| writer.run()) {
            // The queue fills up, and what does not go in is counted.
            warn!(%error, "the log of choices cannot be written");
        }
        Self { queue, bounds }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Lines that may wait: some megabytes, and what 50 000 predictions a second bring in a third of a
/// second.
const MOST: usize = 16_384;
