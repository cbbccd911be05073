//! Triton with its own dynamic batcher, in many settings, and without.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use outrigger::demo::load::{Target, frame, unary};
use tokio::time::Instant;

use super::host::Host;
use super::servers::Place;
use crate::bench::process::{Process, free_address, pause};
use crate::bench::{Result, message};

/// A setting of Triton's `dynamic_batching`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batcher {
    /// `preferred_batch_size`; left out where there is none.
    pub preferred: Option<u32>,
    /// `max_queue_delay_microseconds`.
    pub delay: u32,
}

/// A Triton whose models are loaded when they are measured.
#[derive(Debug)]
pub(super) struct Triton {
    pub(super) host: Rc<Host>,
    pub(super) address: SocketAddr,
    repository: PathBuf,
    source: PathBuf,
    /// What is to be there again after a new start.
    loaded: Rc<RefCell<BTreeSet<String>>>,
}

impl Batcher {
    /// All that are compared.
    pub fn all() -> impl Iterator<Item = Self> {
        let sizes = [None, Some(8), Some(16), Some(32), Some(64)];
        let delays = [0, 500, 2000, 5000, 10_000];
        sizes
            .into_iter()
            .flat_map(move |preferred| delays.map(|delay| Self { preferred, delay }))
    }

    fn text(self) -> String {
        let preferred = self.preferred.map_or(String::new(), |size| {
            format!("preferred_batch_size: [ {size} ] ")
        });
        let delay = self.delay;
        format!("dynamic_batching {{ {preferred}max_queue_delay_microseconds: {delay} }}\n")
    }
}

impl fmt::Display for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.preferred {
            Some(size) => write!(f, "{size}/{}", self.delay),
            None => write!(f, "none/{}", self.delay),
        }
    }
}

impl std::str::FromStr for Batcher {
    type Err = String;

    /// Reads `SIZE/MICROSECONDS`, with `none` for no size.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text} is not SIZE/MICROSECONDS or none/MICROSECONDS");
        let (size, delay) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            preferred: match size {
                "none" => None,
                size => Some(size.parse().map_err(|_| wrong())?),
            },
            delay: delay.parse().map_err(|_| wrong())?,
        })
    }
}

impl Triton {
    pub(super) fn start(place: &Place) -> Result<Self> {
        let repository = place.folder.join("triton");
        std::fs::create_dir_all(&repository)?;
        let ports = [free_address()?, free_address()?, free_address()?];
        let mut arguments = vec![
            format!("TRITON_MODELS={}", repository.display()),
            format!("DIGITS={}", place.pickle().display()),
            place.script("triton")?.display().to_string(),
        ];
        arguments.extend(ports.map(|address| address.port().to_string()));
        arguments.push("--model-control-mode=explicit".into());
        let (address, folder) = (ports[1], place.folder.clone());
        let loaded = Rc::new(RefCell::new(BTreeSet::<String>::new()));
        let again = Rc::clone(&loaded);
        let host = Host::start(move || {
            let process = Process::start("triton", None, &folder, "env", &arguments)?;
            wait_until_live(address, &process)?;
            for name in again.borrow().iter() {
                control(address, LOAD, name)?;
            }
            Ok(process)
        })?;
        Ok(Self {
            host,
            address,
            repository,
            source: place.scripts.join("bench"),
            loaded,
        })
    }

    /// What the model with a batcher, or with none, is called.
    pub(super) fn name(batcher: Option<Batcher>) -> String {
        match batcher {
            Some(batcher) => format!("digits_{batcher}").replace('/', "_"),
            None => "digits_alone".to_owned(),
        }
    }

    /// Loads the model with a batcher, or with none, and returns its name.
    pub(super) fn load(&self, batcher: Option<Batcher>) -> Result<String> {
        let name = Self::name(batcher);
        write_model(&self.repository, &self.source, &name, batcher)?;
        control(self.address, LOAD, &name)?;
        self.loaded.borrow_mut().insert(name.clone());
        Ok(name)
    }

    pub(super) fn unload(&self, name: &str) -> Result<()> {
        self.loaded.borrow_mut().remove(name);
        control(self.address, UNLOAD, name)?;
        // The process that served it ends by and by; it shall not do so while another is measured.
        let ready = Target::new(self.address, message::READY)?;
        let give_up = Instant::now() + STARTING;
        while unary(&ready, frame(&message::name(name)), STARTING)
            .is_ok_and(|answer| !answer.is_empty())
        {
            if Instant::now() > give_up {
                return Err(format!("{name} was not unloaded").into());
            }
            pause(Duration::from_millis(50));
        }
        Ok(())
    }
}

pub(in crate::bench) fn control(address: SocketAddr, path: &str, name: &str) -> Result<()> {
    let mut body = BytesMut::new();
    // `model_name = 2`; the names here are shorter than 128 bytes.
    body.put_u8(0x12);
    body.put_u8(u8::try_from(name.len())?);
    body.put_slice(name.as_bytes());
    unary(&Target::new(address, path)?, frame(&body), STARTING)
        .map_err(|error| format!("{path} of {name}: {error}"))?;
    Ok(())
}

pub(in crate::bench) fn wait_until_live(address: SocketAddr, process: &Process) -> Result<()> {
    let target = Target::new(address, LIVE)?;
    let give_up = Instant::now() + STARTING;
    // `live = true`
    while unary(&target, frame(&Bytes::new()), Duration::from_secs(5))
        .map_or(true, |answer| answer != b"\x08\x01"[..])
    {
        if Instant::now() > give_up {
            return Err(format!("Triton did not start:\n{}", process.output()).into());
        }
        pause(Duration::from_millis(200));
    }
    Ok(())
}

/// Writes a model of the repository: the same code and the same pickle for all.
fn write_model(
    repository: &Path,
    source: &Path,
    name: &str,
    batcher: Option<Batcher>,
) -> Result<()> {
    let version = repository.join(name).join("1");
    std::fs::create_dir_all(&version)?;
    std::fs::copy(source.join("triton_model.py"), version.join("model.py"))?;
    std::fs::copy(source.join("digits.py"), version.join("digits.py"))?;
    let batching = batcher.map_or(String::new(), Batcher::text);
    std::fs::write(
        repository.join(name).join("config.pbtxt"),
        format!(
            "name: \"{name}\"
backend: \"python\"
max_batch_size: {MAX_BATCH_SIZE}
input [ {{ name: \"x\" data_type: TYPE_FP32 dims: [ 64 ] }} ]
output [ {{ name: \"label\" data_type: TYPE_INT64 dims: [ 1 ] }}, {{ name: \"proba\" data_type: TYPE_FP32 dims: [ 10 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{batching}"
        ),
    )?;
    Ok(())
}

pub(in crate::bench) const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";
pub(in crate::bench) const UNLOAD: &str = "/inference.GRPCInferenceService/RepositoryModelUnload";
const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
/// What the model takes; more than any objective here allows.
const MAX_BATCH_SIZE: u32 = 128;
/// The first start makes a Python environment.
const STARTING: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batchers_are_read_as_they_are_written() {
        for batcher in Batcher::all() {
            assert_eq!(batcher.to_string().parse(), Ok(batcher));
        }
        assert_eq!(Batcher::all().count(), 25);
        assert!("16".parse::<Batcher>().is_err());
        assert!("many/5".parse::<Batcher>().is_err());
    }

    #[test]
    fn a_setting_without_preference_names_none() {
        let of = |preferred| {
            Batcher {
                preferred,
                delay: 500,
            }
            .text()
        };
        assert_eq!(
            of(None),
            "dynamic_batching { max_queue_delay_microseconds: 500 }\n"
        );
        assert!(of(Some(8)).contains("preferred_batch_size: [ 8 ]"));
    }
}
