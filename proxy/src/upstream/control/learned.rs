use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use outrigger_filters::batch::{Batchable, Capability};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use tracing::{debug, info};

use super::{Description, Served, describe};
use crate::{config::Name, upstream::Upstream};

/// What a model's server says of it: asked for again and again as long as the handle is there,
/// because a model may be loaded anew with another configuration.
///
/// ```text
/// unasked --begin--> asking --every endpoint failed--> asking, with pauses from 100 ms to 1 s
///                      '--an endpoint answered--> known, asked again every 10 s
/// ```
///
/// A clone shares what was learned. An asking that fails keeps what the last one brought.
#[derive(Clone, Debug)]
pub struct Learned(Arc<Owner>);

/// Ends the task with the last handle.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    runtime: Handle,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct Shared {
    upstream: Arc<Upstream>,
    model: Name,
    version: Option<Name>,
    capability: Capability,
    description: ArcSwapOption<Description>,
    /// Whether every endpoint has been asked once, or one of them has answered.
    asked: watch::Sender<bool>,
}

impl Learned {
    /// Makes a handle of a model by the name that it has on its server; nobody is asked before
    /// [`begin`](Self::begin) or [`wait`](Self::wait). The asking runs on the given runtime.
    pub fn new(
        runtime: Handle,
        upstream: Arc<Upstream>,
        model: Name,
        version: Option<Name>,
        capability: Capability,
    ) -> Self {
        Self(Arc::new(Owner {
            shared: Arc::new(Shared {
                upstream,
                model,
                version,
                capability,
                description: ArcSwapOption::empty(),
                asked: watch::Sender::new(false),
            }),
            runtime,
            task: Mutex::default(),
        }))
    }

    /// Begins to ask, unless that was done before.
    pub fn begin(&self) {
        let mut task = self.0.task.lock();
        if task.is_none() {
            let asking = learn(self.0.shared.clone());
            *task = Some(self.0.runtime.spawn(asking).abort_handle());
        }
    }

    /// Returns what is known by now.
    pub fn description(&self) -> Option<Arc<Description>> {
        self.0.shared.description.load_full()
    }

    /// Returns what is known, at once if anything is, and otherwise as soon as all endpoints have
    /// been asked for the first time; `None` where none of them answered, or not within two
    /// seconds.
    pub async fn wait(&self) -> Option<Arc<Description>> {
        if let Some(description) = self.description() {
            return Some(description);
        }
        self.begin();
        let mut asked = self.0.shared.asked.subscribe();
        // It cannot be closed: the sender stands in what this handle shares.
        let _ = tokio::time::timeout(PATIENCE, asked.wait_for(|asked| *asked)).await;
        self.description()
    }

    /// Returns the handle that the batch filter reads.
    pub fn capability(&self) -> &Capability {
        &self.0.shared.capability
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

async fn learn(shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let model = &*shared.model;
        let served = Served {
            model,
            version: shared.version.as_deref().unwrap_or_default(),
            label: "",
        };
        match describe(&shared.upstream, served).await {
            Ok(description) => {
                shared.take(description);
                pause = LATER_PAUSE;
            }
            Err(error) => debug!(model, %error, "the server does not say what the model takes"),
        }
        shared.asked.send_replace(true);
        tokio::time::sleep(pause).await;
        if pause < LATER_PAUSE {
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Shared {
    fn take(&self, description: Description) {
        let model = &*self.model;
        let batchable = description.batchable;
        // Before it is said, so that who waits for the description finds both.
        if self.capability.learn(batchable) {
            info!(model, ?batchable, "learned from the server");
            if batchable == Batchable::Unknown {
                info!(
                    model,
                    "the server does not say whether the model takes batches: \
                     batch.max_batch_size would"
                );
            }
        }
        let same = self.description.load();
        if same.as_deref() != Some(&description) {
            self.description.store(Some(Arc::new(description)));
        }
    }
}

/// The first wait for a server that does not answer yet; a laptop's server takes seconds to load.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait for a server that does not answer, or does not have the model yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The wait between looks at a model that is known.
const LATER_PAUSE: Duration = Duration::from_secs(10);
/// How long a request waits for a description that it needs.
const PATIENCE: Duration = Duration::from_secs(2);
