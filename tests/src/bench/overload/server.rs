//! The servers whose capacity is fixed: Triton with a model that sleeps, and our native container.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::haproxy::SHARES;
use super::questions::ROW;
use crate::bench::Result;
use crate::bench::goodput::host::Host;
use crate::bench::goodput::triton::{LOAD, UNLOAD, control, wait_until_live};
use crate::bench::process::{Process, beside, free_address, pause};
use crate::bench::triton::wait_until_ready;

/// What Triton is told of the queue before a model (`default_queue_policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `max_queue_size`; 0 is no bound.
    pub size: u32,
    /// `default_timeout_microseconds`, with `timeout_action: REJECT`; here in milliseconds.
    pub timeout: u32,
}

/// The queue before a model in Triton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// As it comes: without bounds, first come, first served.
    Plain,
    /// With a policy.
    Policy(Policy),
    /// With a policy, and two classes of urgency.
    Ranked(Policy),
}

/// A server that is up.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) host: Rc<Host>,
    pub(super) address: SocketAddr,
    /// The name of the model without anything.
    pub(super) plain: String,
    /// Only Triton has queues to choose from.
    triton: Option<Repository>,
}

#[derive(Debug)]
struct Repository {
    folder: PathBuf,
    code: PathBuf,
    call: Duration,
    /// What is to be there again after a new start.
    loaded: Rc<RefCell<BTreeSet<String>>>,
}

impl Policy {
    /// All that are compared for calls that take this long and have this deadline.
    pub(super) fn all(call: Duration, deadline: Duration) -> impl Iterator<Item = Self> {
        let fits = deadline.div_duration_f64(call) as u32;
        SHARES.into_iter().flat_map(move |share| {
            let timeout = deadline.mul_f64(share).as_millis() as u32;
            [0, fits.saturating_sub(2)].map(|size| Self { size, timeout })
        })
    }
}

impl Queue {
    /// What its model is called.
    pub(super) fn name(self) -> String {
        match self {
            Self::Plain => "slow".into(),
            Self::Policy(policy) => format!("slow_{policy}").replace('/', "_"),
            Self::Ranked(policy) => format!("slow_ranked_{policy}").replace('/', "_"),
        }
    }

    fn text(self) -> String {
        let (policy, levels) = match self {
            Self::Plain => return String::new(),
            Self::Policy(policy) => (policy, ""),
            Self::Ranked(policy) => (policy, "priority_levels: 2 default_priority_level: 2 "),
        };
        let Policy { size, timeout } = policy;
        format!(
            "dynamic_batching {{ {levels}default_queue_policy {{ timeout_action: REJECT \
             default_timeout_microseconds: {timeout}000 max_queue_size: {size} }} }}\n"
        )
    }
}

impl Server {
    /// Starts Triton, whose model takes this long for each call.
    pub(super) fn triton(scripts: &Path, folder: &Path, call: Duration) -> Result<Self> {
        let repository = folder.join("models");
        std::fs::create_dir_all(&repository)?;
        let script = scripts.join("triton");
        let script = script.canonicalize().map_err(|error| {
            format!("{}: {error}; --servers names its folder", script.display())
        })?;
        let ports = [free_address()?, free_address()?, free_address()?];
        let mut arguments = vec![
            format!("TRITON_MODELS={}", repository.display()),
            script.display().to_string(),
        ];
        arguments.extend(ports.map(|address| address.port().to_string()));
        arguments.push("--model-control-mode=explicit".into());
        let address = ports[1];
        let loaded = Rc::new(RefCell::new(BTreeSet::<String>::new()));
        let again = Rc::clone(&loaded);
        let logs = folder.to_owned();
        let host = Host::start(move || {
            let process = Process::start("triton", None, &logs, "env", &arguments)?;
            wait_until_live(address, &process)?;
            for name in again.borrow().iter() {
                control(address, LOAD, name)?;
            }
            Ok(process)
        })?;
        let server = Self {
            host,
            address,
            plain: Queue::Plain.name(),
            triton: Some(Repository {
                folder: repository,
                code: scripts.join("bench/slow_model.py"),
                call,
                loaded,
            }),
        };
        server.load(Queue::Plain)?;
        Ok(server)
    }

    /// Starts the native container, whose model takes this long for each call.
    pub(super) fn native(program: Option<PathBuf>, folder: &Path, call: Duration) -> Result<Self> {
        let program = beside(program, "outrigger-native")?;
        let address = free_address()?;
        let plain = Queue::Plain.name();
        let micros = call.as_micros();
        let arguments = [
            "--listen".to_owned(),
            address.to_string(),
            "--synthetic".to_owned(),
            format!("echo,name={plain},beta={micros},max_batch_size=1"),
        ];
        let logs = folder.to_owned();
        let host = Host::start(move || {
            let mut process = Process::start("native", None, &logs, &program, &arguments)?;
            process.wait_for(address)?;
            Ok(process)
        })?;
        Ok(Self {
            host,
            address,
            plain,
            triton: None,
        })
    }

    /// Whether there are queues to choose from.
    pub(super) fn has_queues(&self) -> bool {
        self.triton.is_some()
    }

    /// Loads the model with a queue, and returns its name.
    pub(super) fn load(&self, queue: Queue) -> Result<String> {
        let repository = self.repository()?;
        let name = queue.name();
        repository.write(&name, queue)?;
        control(self.address, LOAD, &name)?;
        wait_until_ready(self.address, &name)?;
        repository.loaded.borrow_mut().insert(name.clone());
        Ok(name)
    }

    /// Unloads a model that will not be asked for any more.
    pub(super) fn unload(&self, name: &str) -> Result<()> {
        self.repository()?.loaded.borrow_mut().remove(name);
        control(self.address, UNLOAD, name)?;
        // The process that served it ends by and by.
        pause(SETTLING);
        Ok(())
    }

    fn repository(&self) -> Result<&Repository> {
        let repository = self.triton.as_ref();
        repository.ok_or_else(|| "this server has no queues to choose from".into())
    }
}

impl Repository {
    fn write(&self, name: &str, queue: Queue) -> Result<()> {
        let model = self.folder.join(name);
        std::fs::create_dir_all(model.join("1"))?;
        std::fs::copy(&self.code, model.join("1/model.py"))?;
        let (call, queue) = (self.call.as_secs_f64() * 1e3, queue.text());
        std::fs::write(
            model.join("config.pbtxt"),
            format!(
                "name: \"{name}\"
backend: \"python\"
max_batch_size: 1
input [ {{ name: \"input0\" data_type: TYPE_FP32 dims: [ {ROW} ] }} ]
output [ {{ name: \"output0\" data_type: TYPE_FP32 dims: [ {ROW} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
parameters [ {{ key: \"call_ms\" value: {{ string_value: \"{call}\" }} }} ]
{queue}"
            ),
        )?;
        Ok(())
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("Triton alone"),
            Self::Policy(policy) => write!(f, "Triton policy {policy}"),
            Self::Ranked(policy) => write!(f, "Triton policy {policy}, 2 levels"),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.size, self.timeout)
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    /// Reads `SIZE/MILLISECONDS`; a size of 0 is no bound.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text} is not SIZE/MILLISECONDS");
        let (size, timeout) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            size: size.parse().map_err(|_| wrong())?,
            timeout: timeout.parse().map_err(|_| wrong())?,
        })
    }
}

const SETTLING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        let (call, deadline) = (Duration::from_millis(4), Duration::from_millis(50));
        for policy in Policy::all(call, deadline) {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!(Policy::all(call, deadline).count(), 8);
        assert!("16".parse::<Policy>().is_err());
    }

    #[test]
    fn a_policy_rejects_and_the_plain_queue_says_nothing() {
        let policy = Policy {
            size: 9,
            timeout: 40,
        };
        assert_eq!(Queue::Plain.text(), "");
        let text = Queue::Policy(policy).text();
        assert!(text.contains("REJECT default_timeout_microseconds: 40000 max_queue_size: 9"));
        assert!(Queue::Ranked(policy).text().contains("priority_levels: 2"));
    }
}
