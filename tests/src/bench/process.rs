//! Processes that a bench starts, and ends.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::Result;
use super::usage::{self, Usage};

/// A process with a name; it and its children end when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program on one core, or on any, with its output in a file of `folder`.
    pub fn start(
        name: &str,
        core: Option<usize>,
        folder: &Path,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = std::fs::File::create(&log)?;
        let child = pinned(core, program)
            .args(arguments)
            // A pipe that nobody writes to: a child may take its end as the parent's.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Waits until something listens at the address.
    pub fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        self.wait_until(&address.to_string(), || TcpStream::connect(address).is_ok())
    }

    /// Waits until a line of the output starts with this, and returns what follows.
    pub fn wait_for_line(&mut self, prefix: &str) -> Result<String> {
        let mut found = None;
        let log = self.log.clone();
        self.wait_until(prefix, || {
            let Ok(output) = std::fs::File::open(&log) else {
                return false;
            };
            found = BufReader::new(output)
                .lines()
                .map_while(io::Result::ok)
                .find_map(|line| line.strip_prefix(prefix).map(|rest| rest.trim().to_owned()));
            found.is_some()
        })?;
        found.ok_or_else(|| "a line was found and lost".into())
    }

    fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        while !done() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended ({status}):\n{}", self.name, self.output()).into());
            }
            if Instant::now() > give_up {
                let output = self.output();
                return Err(format!("{}: waited in vain for {what}:\n{output}", self.name).into());
            }
            pause(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What the process and its children have used so far.
    pub fn usage(&self) -> Result<Usage> {
        usage::of_tree(self.child.id())
            .map_err(|error| format!("cannot read what {} uses: {error}", self.name).into())
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process has printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A polite end first: nginx's master takes its workers along only if asked.
        let asked = Command::new("kill")
            .arg("-TERM")
            .arg(self.child.id().to_string())
            .status();
        let give_up = Instant::now() + POLITE;
        while asked.is_ok() && Instant::now() < give_up {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a command that runs on one core, or on any.
pub fn pinned(core: Option<usize>, program: impl AsRef<OsStr>) -> Command {
    match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Returns a free port of the loopback; another process could take it before its user does.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Finds a binary of this workspace: as told, or beside the running one.
pub fn beside(told: Option<PathBuf>, name: &str) -> Result<PathBuf> {
    let path = match told {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name(name),
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "{} is not there; build it with: cargo build --release -p {}",
        path.display(),
        if name == "outrigger" {
            "outrigger"
        } else {
            "outrigger-native"
        },
    )
    .into())
}

/// Fails with advice if a program is not installed.
pub fn installed(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if found {
        return Ok(());
    }
    Err(format!("{program} is not installed; on Debian: apt-get install {package}").into())
}

/// Lets time pass for other processes.
#[expect(
    clippy::disallowed_methods,
    reason = "a bench's main thread has no runtime; it waits for other processes"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// How long a process may take to end when asked.
const POLITE: Duration = Duration::from_secs(10);
/// How long a process may take until it does what it was started for.
const PATIENCE: Duration = Duration::from_secs(60);
