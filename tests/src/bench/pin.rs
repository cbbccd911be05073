//! One core for what is measured, another for what makes the load.

use std::process::{Command, Stdio};

use crate::bench::Result;
use crate::bench::process::installed;

/// The cores of this process, which those that it starts inherit; all of them again when this is
/// dropped.
#[derive(Debug)]
pub struct Pin {
    cores: usize,
}

impl Pin {
    /// Begins to choose cores, or does not where there is but one or it is not wished.
    pub fn new(unpinned: bool) -> Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        if unpinned || cores < 2 {
            return Ok(Self { cores: 1 });
        }
        installed("taskset", "util-linux")?;
        Ok(Self { cores })
    }

    /// What is started from now on is what is measured.
    pub fn measured(&self) -> Result<()> {
        self.to("1")
    }

    /// From now on this process makes the load, and what is started serves it.
    pub fn load(&self) -> Result<()> {
        self.to("0")
    }

    /// Whether cores are chosen.
    pub fn is_on(&self) -> bool {
        self.cores > 1
    }

    fn to(&self, cores: &str) -> Result<()> {
        if !self.is_on() {
            return Ok(());
        }
        let done = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", cores])
            .arg(std::process::id().to_string())
            .stdout(Stdio::null())
            .status()?;
        done.success()
            .then_some(())
            .ok_or_else(|| "taskset cannot choose a core".into())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = self.to(&format!("0-{}", self.cores - 1));
    }
}
