use std::{collections::HashMap, path::PathBuf, sync::Arc};

use tokio::task::{self, JoinHandle};

use super::{Acceptor, Dialer, Faults, Metrics};
use crate::config::{Changes, Config, Name};

/// Keeps the certificates of a proxy as good as their files.
///
/// It lives on the control runtime; dropping it ends the watch.
#[derive(Debug)]
pub struct Keeper {
    sets: Sets,
    metrics: Metrics,
    watching: Option<JoinHandle<()>>,
}

/// What the listeners and upstreams of one configuration need to speak TLS.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    acceptors: Vec<Option<Arc<Acceptor>>>,
    dialers: Arc<Dialers>,
}

/// The upstreams that TLS is spoken to.
pub type Dialers = HashMap<Name, Arc<Dialer>>;

impl Keeper {
    /// Makes a keeper of nothing.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            sets: Sets::default(),
            metrics,
            watching: None,
        }
    }

    /// Reads the files of a configuration. What is kept already under the same settings stays,
    /// faulty files or not: its last good ones are in use.
    ///
    /// # Errors
    ///
    /// Fails with everything that is wrong with the files of the others.
    pub fn prepare(&self, config: &Config) -> Result<Sets, Faults> {
        let mut faults = Faults::default();
        let mut take = |more| faults.extend(more);
        let mut acceptors = Vec::new();
        for listener in &config.listeners {
            let Some(tls) = &listener.tls else {
                acceptors.push(None);
                continue;
            };
            let mut known = self.sets.acceptors.iter().flatten();
            let kept = known.find(|known| known.is_of(listener.address, tls));
            let acceptor = match kept {
                Some(kept) => Some(kept.clone()),
                None => Acceptor::load(listener.address, tls.clone(), &self.metrics)
                    .map_err(&mut take)
                    .ok()
                    .map(Arc::new),
            };
            acceptors.push(acceptor);
        }
        let mut dialers = Dialers::new();
        for (name, upstream) in &config.upstreams {
            let Some(tls) = &upstream.tls else {
                continue;
            };
            let kept = self.sets.dialers.get(name);
            let kept = kept.filter(|kept| kept.is_of(name, tls, upstream.http));
            let dialer = match kept {
                Some(kept) => Some(kept.clone()),
                None => Dialer::load(name, tls.clone(), upstream.http, &self.metrics)
                    .map_err(&mut take)
                    .ok()
                    .map(Arc::new),
            };
            dialers.extend(dialer.map(|dialer| (name.clone(), dialer)));
        }
        match faults.is_empty() {
            true => Ok(Sets {
                acceptors,
                dialers: Arc::new(dialers),
            }),
            false => Err(faults),
        }
    }

    /// Goes over to what was prepared, and watches its files.
    ///
    /// Needs a runtime with time, on which the watch is spawned.
    pub fn commit(&mut self, sets: Sets) {
        self.end();
        self.sets = sets;
        self.metrics.forget_expiries();
        self.sets
            .each(Acceptor::tell_expiries, Dialer::tell_expiries);
        let files = self.sets.files();
        if files.is_empty() {
            return;
        }
        let sets = self.sets.clone();
        self.watching = Some(tokio::spawn(async move {
            let mut changes = Changes::near(files.iter().map(PathBuf::as_path));
            loop {
                changes.due().await;
                let sets = sets.clone();
                // It is read on another thread; that one ends by itself.
                let _ = task::spawn_blocking(move || sets.refresh(false)).await;
                changes.looked();
            }
        }));
    }

    /// Reads all files again, and the system's roots with them.
    pub fn refresh(&self) {
        self.sets.refresh(true);
    }

    fn end(&mut self) {
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sets {
    /// Returns what each listener needs, in the order of the configuration.
    pub fn acceptors(&self) -> &[Option<Arc<Acceptor>>] {
        &self.acceptors
    }

    /// Returns what each upstream needs.
    pub fn dialers(&self) -> &Arc<Dialers> {
        &self.dialers
    }

    fn refresh(&self, asked: bool) {
        self.each(
            |acceptor| acceptor.refresh(asked),
            |dialer| dialer.refresh(asked),
        );
    }

    fn each(&self, acceptor: impl Fn(&Acceptor), dialer: impl Fn(&Dialer)) {
        self.acceptors
            .iter()
            .flatten()
            .for_each(|each| acceptor(each));
        self.dialers.values().for_each(|each| dialer(each));
    }

    fn files(&self) -> Vec<PathBuf> {
        let acceptors = self.acceptors.iter().flatten();
        let acceptors = acceptors.flat_map(|acceptor| acceptor.files());
        let dialers = self.dialers.values().flat_map(|dialer| dialer.files());
        acceptors
            .chain(dialers)
            .map(std::path::Path::to_owned)
            .collect()
    }
}
