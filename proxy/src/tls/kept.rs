use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::UnixTime;
use tracing::{info, warn};

use super::{
    fault::{Fault, Faults, Setting},
    files::Files,
    material::{Built, Material},
    metrics::{Metrics, Owner},
};

/// What one listener's or upstream's handshakes need, kept as good as its files.
///
/// Files change one after the other, and whoever reads in between finds a certificate without its
/// key. So they are read and judged together, and only a whole that holds together is taken:
///
/// ```text
///             other files, faultless: new handshakes use them
///          .----------------------------------------------.
///          v                                              |
///      last good ----------------------------------> last good, files faulty
///                 other files, faulty: told once,         |   ^
///                 nothing changes                         '---' looked at again each time
/// ```
#[derive(Debug)]
pub(super) struct Kept<M: Material> {
    pub(super) owner: Owner,
    pub(super) material: M,
    current: ArcSwap<M::Config>,
    tried: Mutex<Tried>,
    metrics: Metrics,
}

/// The files as they were last looked at, and what was wrong with them.
#[derive(Debug)]
struct Tried {
    files: Files,
    faults: Vec<Fault>,
    expiries: Vec<(Setting, UnixTime)>,
}

impl<M: Material> Kept<M> {
    /// Reads the files for the first time.
    pub(super) fn load(owner: Owner, material: M, metrics: Metrics) -> Result<Self, Faults> {
        let files = Files::read(material.files());
        match material.build(&files, UnixTime::now()) {
            Ok(Built { config, expiries }) => Ok(Self {
                owner,
                material,
                current: ArcSwap::new(config),
                tried: Mutex::new(Tried {
                    files,
                    faults: Vec::new(),
                    expiries,
                }),
                metrics,
            }),
            Err(faults) => Err(Faults::of(&owner, faults)),
        }
    }

    /// Returns what a handshake needs now.
    pub(super) fn current(&self) -> Arc<M::Config> {
        self.current.load_full()
    }

    /// Returns the files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.material.files()
    }

    /// Says when the certificates in use expire.
    pub(super) fn tell_expiries(&self) {
        let tried = self.tried.lock();
        self.metrics.expires(&self.owner, &tried.expiries);
    }

    /// Looks at the files again, and goes over to them if they changed and have no fault.
    ///
    /// Where it was asked for, files that did not change are taken again too: the system's roots
    /// are not among them. Blocks while it reads.
    pub(super) fn refresh(&self, asked: bool) {
        let mut tried = self.tried.lock();
        let files = Files::read(self.material.files());
        let changed = files != tried.files;
        // Time alone mends a certificate that was not valid yet.
        if !changed && tried.faults.is_empty() && !asked {
            return;
        }
        let now = UnixTime::now();
        let (files, built) = match self.material.build(&files, now) {
            // Files may change between the reading of one and the other.
            Err(faults) => match Files::read(self.material.files()) {
                again if again != files => {
                    let built = self.material.build(&again, now);
                    (again, built)
                }
                _ => (files, Err(faults)),
            },
            built => (files, built),
        };
        match built {
            Ok(Built { config, expiries }) => {
                self.current.store(config);
                self.metrics.expires(&self.owner, &expiries);
                self.metrics.reloaded(true);
                info!(of = %self.owner, "certificates applied");
                *tried = Tried {
                    files,
                    faults: Vec::new(),
                    expiries,
                };
            }
            Err(faults) => {
                if changed || faults != tried.faults {
                    self.metrics.reloaded(false);
                    let told = Faults::of(&self.owner, faults.iter().cloned());
                    warn!(faults = %told, "certificates refused: the last good ones stay in use");
                }
                tried.files = files;
                tried.faults = faults;
            }
        }
    }
}
