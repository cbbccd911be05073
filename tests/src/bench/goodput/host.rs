//! A server that can be started again where it stood.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use crate::bench::Result;
use crate::bench::process::Process;
use crate::bench::triton::BROKEN;
use crate::bench::usage::Usage;

/// The process of a server, and how another takes its place.
///
/// Triton's Python backend is known to break its heap now and then under load. It then answers
/// nobody, says that it is ready, and does not end.
pub(in crate::bench) struct Host {
    process: RefCell<Option<Process>>,
    start: Box<dyn Fn() -> Result<Process>>,
    restarts: Cell<u32>,
}

impl Host {
    /// Starts it; the closure returns when it is ready.
    pub(in crate::bench) fn start(
        start: impl Fn() -> Result<Process> + 'static,
    ) -> Result<Rc<Self>> {
        Ok(Rc::new(Self {
            process: RefCell::new(Some(start()?)),
            start: Box::new(start),
            restarts: Cell::new(0),
        }))
    }

    /// Ends it and starts it again.
    pub(in crate::bench) fn restart(&self) -> Result<()> {
        self.restarts.set(self.restarts() + 1);
        // The old one gives its ports back before the new one asks for them.
        self.process.replace(None);
        self.process.replace(Some((self.start)()?));
        Ok(())
    }

    /// How many times it had to be started again.
    pub(in crate::bench) fn restarts(&self) -> u32 {
        self.restarts.get()
    }

    /// Whether it has said that it broke.
    pub(in crate::bench) fn is_broken(&self) -> bool {
        self.process
            .borrow()
            .as_ref()
            .is_none_or(|process| process.output().contains(BROKEN))
    }

    pub(in crate::bench) fn usage(&self) -> Result<Usage> {
        match self.process.borrow().as_ref() {
            Some(process) => process.usage(),
            None => Err("the server could not be started again".into()),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("process", &self.process)
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}
