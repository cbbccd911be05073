use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use outrigger_filters::{
    batch::{Batchable, Capability},
    inference::Error,
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, info};

use super::{Description, Served, describe};
use crate::{
    config::{Name, Protocol},
    upstream::Upstream,
};

/// What a model's server says of it: asked for again and again as long as the handle is there,
/// because a model may be loaded anew with another configuration.
///
/// ```text
/// unasked --begin--> asking --every endpoint failed--> asking, with pauses from 100 ms to 1 s
///                      '--an endpoint answered--> known, asked again every 10 s, or when told to
/// ```
///
/// A clone shares what was learned. An asking that fails keeps what the last one brought.
///
/// Besides the version that requests are served where they name none, others are learned by the
/// version or label that requests name, and forgotten when none names them any more.
#[derive(Clone, Debug)]
pub struct Learned(Arc<Owner>);

/// Ends the tasks with the last handle.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    runtime: Handle,
}

#[derive(Debug)]
struct Shared {
    upstream: Arc<Upstream>,
    model: Name,
    /// The version that the configuration names: no other is ever asked.
    pinned: bool,
    capability: Capability,
    usual: Arc<Known>,
    /// What was named last stands last.
    others: Mutex<Vec<Arc<Known>>>,
    /// Tells those who ask to do it again at once.
    again: watch::Sender<()>,
}

/// One version of the model, as far as it is known.
#[derive(Debug)]
struct Known {
    version: String,
    label: String,
    description: ArcSwapOption<Description>,
    progress: watch::Sender<Progress>,
    task: Mutex<Option<Task>>,
    /// Whether a request named it since it was last asked for.
    named: AtomicBool,
}

#[derive(Debug)]
struct Task {
    began: Instant,
    handle: AbortHandle,
}

/// How the first asking went, or the last one that failed.
#[derive(Clone, Debug, Default)]
enum Progress {
    #[default]
    Asking,
    Answered,
    Failed(NotDescribed),
}

/// The server does not describe the model. The source says why.
#[derive(Clone, Debug)]
pub struct NotDescribed(Arc<Error>);

impl std::fmt::Display for NotDescribed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server does not describe the model")
    }
}

impl std::error::Error for NotDescribed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref().as_ref())
    }
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
        let usual = Known::new(version.as_deref().unwrap_or_default(), "");
        Self(Arc::new(Owner {
            shared: Arc::new(Shared {
                upstream,
                model,
                pinned: version.is_some(),
                capability,
                usual: Arc::new(usual),
                others: Mutex::default(),
                again: watch::Sender::default(),
            }),
            runtime,
        }))
    }

    /// Begins to ask, unless that was done before.
    pub fn begin(&self) {
        self.ask(&self.0.shared.usual);
    }

    /// Asks again at once, where anything was asked before: the model may be another one.
    pub fn ask_again(&self) {
        self.0.shared.again.send_replace(());
    }

    /// Returns what is known by now of the version that a request is served which names none.
    pub fn description(&self) -> Option<Arc<Description>> {
        self.0.shared.usual.description.load_full()
    }

    /// Waits until anything is known of the version that a request is served which names none, for as
    /// long as that takes.
    pub(crate) async fn described(&self) -> Arc<Description> {
        let mut progress = self.0.shared.usual.progress.subscribe();
        loop {
            if let Some(description) = self.description() {
                return description;
            }
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns what is known by now of the version that a request is served which names this one,
    /// and begins to ask for it if nothing is.
    pub fn of(&self, version: &str, label: &str) -> Option<Arc<Description>> {
        let known = self.named(version, label);
        let description = known.description.load_full();
        if description.is_none() {
            self.ask(&known);
        }
        description
    }

    /// Returns what is known, at once if anything is, and otherwise as soon as all endpoints have
    /// been asked for the first time. Where nothing is known since, nobody waits: the server is
    /// asked again without.
    ///
    /// # Errors
    ///
    /// Fails where none of them answered, with the last one's reason, or not within two seconds.
    pub async fn wait(&self) -> Result<Arc<Description>, NotDescribed> {
        self.wait_until_known(self.0.shared.usual.clone()).await
    }

    /// Like [`wait`](Self::wait), for the version that a request is served which names this one.
    ///
    /// # Errors
    ///
    /// Fails as `wait` does.
    pub async fn wait_of(
        &self,
        version: &str,
        label: &str,
    ) -> Result<Arc<Description>, NotDescribed> {
        self.wait_until_known(self.named(version, label)).await
    }

    /// Tells whether a request that names this version is served the one that is served where none
    /// is named, as far as is known.
    pub fn is_usual(&self, version: &str, label: &str) -> bool {
        let shared = &*self.0.shared;
        let label = shared.label(label);
        if shared.pinned || version.is_empty() && label.is_empty() {
            return true;
        }
        let only = |known: &Description| known.versions.len() == 1 && known.versions[0] == version;
        label.is_empty() && shared.usual.description.load().as_deref().is_some_and(only)
    }

    /// Returns the handle that the batch filter reads.
    pub fn capability(&self) -> &Capability {
        &self.0.shared.capability
    }

    fn named(&self, version: &str, label: &str) -> Arc<Known> {
        let shared = &self.0.shared;
        if self.is_usual(version, label) {
            return shared.usual.clone();
        }
        let label = shared.label(label);
        let mut others = shared.others.lock();
        let found = others
            .iter()
            .position(|known| known.version == version && known.label == label);
        let known = match found {
            Some(index) => others.remove(index),
            None => {
                // Its task ends when it sees that it is forgotten.
                if others.len() >= MOST_OTHERS {
                    others.remove(0);
                }
                Arc::new(Known::new(version, label))
            }
        };
        known.named.store(true, Ordering::Relaxed);
        others.push(known.clone());
        known
    }

    fn ask(&self, known: &Arc<Known>) {
        let mut task = known.task.lock();
        if task.is_none() {
            let asking = learn(self.0.shared.clone(), known.clone());
            *task = Some(Task {
                began: Instant::now(),
                handle: self.0.runtime.spawn(asking).abort_handle(),
            });
        }
    }

    async fn wait_until_known(&self, known: Arc<Known>) -> Result<Arc<Description>, NotDescribed> {
        if let Some(description) = known.description.load_full() {
            return Ok(description);
        }
        self.ask(&known);
        let began = known.task.lock().as_ref().map(|task| task.began);
        let mut progress = known.progress.subscribe();
        let asked = progress.wait_for(|progress| !matches!(progress, Progress::Asking));
        let until = began.unwrap_or_else(Instant::now) + PATIENCE;
        let failed = match timeout_at(until, asked).await {
            Ok(Ok(progress)) => match &*progress {
                Progress::Failed(failed) => Some(failed.clone()),
                Progress::Asking | Progress::Answered => None,
            },
            // It cannot be closed: the sender stands in what is known.
            Ok(Err(closed)) => Some(NotDescribed(Arc::new(closed.into()))),
            Err(elapsed) => Some(NotDescribed(Arc::new(elapsed.into()))),
        };
        match (known.description.load_full(), failed) {
            (Some(description), _) => Ok(description),
            (None, Some(failed)) => Err(failed),
            (None, None) => Err(NotDescribed(Arc::new("nothing was said".into()))),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let others = std::mem::take(&mut *self.shared.others.lock());
        for known in others.iter().chain([&self.shared.usual]) {
            if let Some(task) = known.task.lock().take() {
                task.handle.abort();
            }
        }
    }
}

async fn learn(shared: Arc<Shared>, known: Arc<Known>) {
    let mut pause = FIRST_PAUSE;
    let mut again = shared.again.subscribe();
    let model = &*shared.model;
    let served = Served {
        model,
        version: &known.version,
        label: &known.label,
    };
    loop {
        match describe(&shared.upstream, served).await {
            Ok(description) => {
                shared.take(&known, description);
                known.progress.send_replace(Progress::Answered);
                pause = LATER_PAUSE;
            }
            Err(error) => {
                debug!(model, %error, "the server does not say what the model takes");
                let failed = NotDescribed(Arc::new(error));
                known.progress.send_replace(Progress::Failed(failed));
            }
        }
        if !shared.has(&known) {
            return;
        }
        // What is asked for while an answer is on its way is not forgotten.
        match timeout(pause, again.changed()).await {
            Ok(_) => continue,
            Err(_) if pause < LATER_PAUSE => pause = (pause * 2).min(LONGEST_PAUSE),
            Err(_) => {}
        }
        if shared.forgets(&known) {
            return;
        }
    }
}

impl Known {
    fn new(version: &str, label: &str) -> Self {
        Self {
            version: version.to_owned(),
            label: label.to_owned(),
            description: ArcSwapOption::empty(),
            progress: watch::Sender::default(),
            task: Mutex::default(),
            named: AtomicBool::new(true),
        }
    }
}

impl Shared {
    fn take(&self, known: &Arc<Known>, description: Description) {
        if Arc::ptr_eq(known, &self.usual) {
            self.learn(description.batchable);
        }
        let same = known.description.load();
        if same.as_deref() != Some(&description) {
            known.description.store(Some(Arc::new(description)));
        }
    }

    /// Tells the batch filter, before it is said, so that who waits for the description finds both.
    fn learn(&self, batchable: Batchable) {
        let model = &*self.model;
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
    }

    /// Returns the label where the server knows of labels.
    fn label<'a>(&self, label: &'a str) -> &'a str {
        match self.upstream.protocol() {
            Protocol::TfservingGrpc | Protocol::TfservingRest => label,
            Protocol::OipGrpc | Protocol::OipRest => "",
        }
    }

    /// Tells whether requests can still find it.
    fn has(&self, known: &Arc<Known>) -> bool {
        let others = self.others.lock();
        let mut found = others.iter().chain([&self.usual]);
        found.any(|other| Arc::ptr_eq(other, known))
    }

    /// Forgets it if no request named it since it was last asked for, and tells whether it is
    /// forgotten.
    fn forgets(&self, known: &Arc<Known>) -> bool {
        if Arc::ptr_eq(known, &self.usual) {
            return false;
        }
        let mut others = self.others.lock();
        if !known.named.swap(false, Ordering::Relaxed) {
            others.retain(|other| !Arc::ptr_eq(other, known));
        }
        !others.iter().any(|other| Arc::ptr_eq(other, known))
    }
}

/// The first wait for a server that does not answer yet; a laptop's server takes seconds to load.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait for a server that does not answer, or does not have the model yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The wait between looks at a model that is known.
const LATER_PAUSE: Duration = Duration::from_secs(10);
/// How many versions of a model are known at a time besides the usual one.
const MOST_OTHERS: usize = 16;
/// How long a request waits for a description that it needs.
const PATIENCE: Duration = Duration::from_secs(2);
