//! Where servers find what they need, and the start of those that need little.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Model;
use super::host::Host;
use crate::bench::Result;
use crate::bench::process::{Process, free_address, pause};
use crate::bench::proxy::Proxy;

/// Files of a run.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `tests/servers`.
    pub(super) scripts: PathBuf,
    /// Where everything is written.
    pub(super) folder: PathBuf,
    pub(super) model: Model,
}

/// A setting of MLServer's batching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// `max_batch_size`.
    pub size: u32,
    /// `max_batch_time`, in microseconds.
    pub time: u32,
}

impl Place {
    /// Has the model trained, pickled and asked, once for all servers.
    pub(super) fn prepare(&self) -> Result<()> {
        let environment = Command::new(self.script("environment")?)
            .arg("triton")
            .output()?;
        if !environment.status.success() {
            return Err(String::from_utf8_lossy(&environment.stderr).into());
        }
        // The oldest numpy of all servers pickles, so that each can read it.
        let python = Path::new(String::from_utf8(environment.stdout)?.trim()).join("bin/python");
        let trained = Command::new(python)
            .arg(self.scripts.join("bench/digits.py"))
            .arg(self.data())
            .status()?;
        trained
            .success()
            .then_some(())
            .ok_or_else(|| "digits.py failed".into())
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("digits")
    }

    pub(super) fn pickle(&self) -> PathBuf {
        self.data().join(format!("{}.joblib", self.model.name()))
    }

    pub(super) fn script(&self, name: &str) -> Result<PathBuf> {
        let script = self.scripts.join(name);
        match script.is_file() {
            true => Ok(script.canonicalize()?),
            false => Err(format!(
                "{} is not there; --servers names its folder",
                script.display()
            )
            .into()),
        }
    }

    /// Starts Outrigger before one model, with nothing said of batching but that it is wanted.
    pub(super) fn outrigger(
        &self,
        program: Option<PathBuf>,
        upstream: SocketAddr,
        model: &str,
        objective: Duration,
        batch: &str,
    ) -> Result<Rc<Proxy>> {
        let models = format!(
            "models:\n  {model}:\n    latency_objective: {}ms\n    batch: {{ {batch} }}\n",
            objective.as_millis()
        );
        let name = format!("outrigger-{model}");
        Ok(Proxy::start(&name, program, &self.folder, &[upstream], &models)?.into())
    }

    /// Starts MLServer with the model in these settings, and once without any.
    pub(super) fn mlserver(&self, settings: &[Adaptive]) -> Result<(SocketAddr, Rc<Host>)> {
        let work = self.folder.join("mlserver");
        let write = |name: &str, setting: Option<Adaptive>| -> Result<()> {
            let folder = work.join(name);
            std::fs::create_dir_all(&folder)?;
            let mut text = json!({
                "name": name,
                "implementation": "mlserver_model.Digits",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
            });
            if let Some(Adaptive { size, time }) = setting {
                text["max_batch_size"] = size.into();
                text["max_batch_time"] = (f64::from(time) * 1e-6).into();
            }
            std::fs::write(folder.join("model-settings.json"), text.to_string())?;
            for file in ["mlserver_model.py", "digits.py"] {
                std::fs::copy(self.scripts.join("bench").join(file), folder.join(file))?;
            }
            Ok(())
        };
        write(MLSERVER_ALONE, None)?;
        for setting in settings {
            write(&setting.model(), Some(*setting))?;
        }
        let ports = [free_address()?, free_address()?, free_address()?];
        let mut arguments = vec![
            format!("DIGITS={}", self.pickle().display()),
            self.script("mlserver")?.display().to_string(),
        ];
        arguments.extend(ports.map(|address| address.port().to_string()));
        arguments.push(work.display().to_string());
        Ok((ports[1], self.host("mlserver", arguments, ports[1])?))
    }

    /// Starts mosec or BentoML with a largest batch and the milliseconds that go with it.
    pub(super) fn http(
        &self,
        script: &str,
        size: u32,
        millis: u32,
    ) -> Result<(SocketAddr, Rc<Host>)> {
        let address = free_address()?;
        let work = self.folder.join(script);
        std::fs::create_dir_all(&work)?;
        let arguments = vec![
            format!("DIGITS={}", self.pickle().display()),
            self.script(script)?.display().to_string(),
            address.port().to_string(),
            size.to_string(),
            millis.to_string(),
            work.display().to_string(),
        ];
        Ok((address, self.host(script, arguments, address)?))
    }

    /// Runs `env` with these arguments until something listens at the address.
    fn host(&self, name: &str, arguments: Vec<String>, address: SocketAddr) -> Result<Rc<Host>> {
        let (name, folder) = (name.to_owned(), self.folder.clone());
        Host::start(move || {
            let process = Process::start(&name, None, &folder, "env", &arguments)?;
            wait_for(address, &process)?;
            Ok(process)
        })
    }
}

impl Adaptive {
    /// All that are compared.
    pub fn all() -> Vec<Self> {
        let sizes = [8, 16, 32, 64, 128];
        let times = [500, 2000, 5000, 10_000];
        sizes
            .into_iter()
            .flat_map(|size| times.map(|time| Self { size, time }))
            .collect()
    }

    pub(super) fn model(self) -> String {
        format!("digits_{}_{}", self.size, self.time)
    }
}

impl std::fmt::Display for Adaptive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.size, self.time)
    }
}

impl std::str::FromStr for Adaptive {
    type Err = String;

    /// Reads `SIZE/MICROSECONDS`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text} is not SIZE/MICROSECONDS");
        let (size, time) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            size: size.parse().map_err(|_| wrong())?,
            time: time.parse().map_err(|_| wrong())?,
        })
    }
}

/// Waits until something listens; the first start makes a Python environment.
fn wait_for(address: SocketAddr, process: &Process) -> Result<()> {
    let give_up = Instant::now() + STARTING;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > give_up {
            return Err(format!("nothing listens at {address}:\n{}", process.output()).into());
        }
        pause(Duration::from_millis(200));
    }
    Ok(())
}

/// The model without batching.
pub(super) const MLSERVER_ALONE: &str = "digits_alone";
const STARTING: Duration = Duration::from_secs(600);
