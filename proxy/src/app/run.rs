use std::{io, process::ExitCode, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::Proxy;
use crate::{
    config::{Config, Faults, Source, Watch},
    tls,
    upstream::Connector,
};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It served, and drained.
    Served,
    /// The configuration has faults, or an address could not be bound.
    Failed,
    /// The configuration cannot be read at all.
    Misused,
}

/// Serves what a source configures, until SIGTERM or SIGINT has drained it.
///
/// SIGHUP and changes of the file reload; a faulty file is reported and changes nothing.
pub fn run(source: &Source) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "no runtime");
            return Exit::Failed;
        }
    };
    runtime.block_on(async {
        // Watched before it is read: what changes in between is then found.
        let watch = source.path().map(|path| Watch::new(path, None));
        let config = match source.read_whole() {
            Ok(config) => config,
            Err(error) => return unread(&error),
        };
        match serve(source, config, watch).await {
            Ok(()) => Exit::Served,
            Err(error) => {
                eprintln!("cannot serve: {error}");
                Exit::Failed
            }
        }
    })
}

fn unread(error: &crate::config::Error) -> Exit {
    eprintln!("{error}");
    match error {
        crate::config::Error::Faulty(_) => Exit::Failed,
        crate::config::Error::Unreadable { source, .. } => {
            eprintln!("{source}");
            Exit::Misused
        }
    }
}

async fn serve(source: &Source, config: Config, mut watch: Option<Watch>) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let mut proxy = Proxy::start(config, Connector::tcp())?;
    if let Some(address) = proxy.admin_address() {
        info!(%address, "admin pages");
    }
    // A configuration that is good, but for certificates or keys that are not there yet.
    let mut waiting: Option<Config> = None;
    loop {
        tokio::select! {
            () = signals.end.wait() => break,
            _ = signals.reload.recv() => waiting = match source.read() {
                Ok(config) => {
                    proxy.refresh_certificates();
                    apply(&mut proxy, config)
                }
                Err(error) => refuse(&proxy, &error),
            },
            contents = changed(&mut watch) => waiting = match source.parse(contents) {
                Ok(config) => apply(&mut proxy, config),
                Err(faults) => refuse_faults(&proxy, &faults),
            },
            () = tokio::time::sleep(AGAIN), if waiting.is_some() => {
                if let Some(config) = waiting.take_if(|config| proxy.can_secure(config)) {
                    waiting = apply(&mut proxy, config);
                }
            }
        }
    }
    tokio::select! {
        () = proxy.drain() => {}
        () = signals.end.wait() => warn!("ended at once by a second signal"),
    }
    Ok(())
}

/// Goes over to a configuration; returns one whose certificates or keys are faulty, because time
/// may mend that: whoever changes both writes one after the other.
fn apply(proxy: &mut Proxy, config: Config) -> Option<Config> {
    let table = proxy.state().table();
    if *table.config().as_ref() == config && table.learning().is_current(&config) {
        proxy.reloaded();
        info!("the configuration says what it said before");
        return None;
    }
    let error = match proxy.reload(config.clone()) {
        Ok(()) => {
            info!("configuration applied");
            return None;
        }
        Err(error) => error,
    };
    error!(%error, "configuration refused: the last one stays in force");
    let may_mend = error
        .get_ref()
        .is_some_and(|error| error.is::<tls::Faults>());
    may_mend.then_some(config)
}

fn refuse(proxy: &Proxy, error: &crate::config::Error) -> Option<Config> {
    match error {
        crate::config::Error::Faulty(faults) => refuse_faults(proxy, faults),
        unreadable @ crate::config::Error::Unreadable { .. } => {
            proxy.refused();
            error!(error = %unreadable, "configuration refused: the last one stays in force");
            None
        }
    }
}

fn refuse_faults(proxy: &Proxy, faults: &Faults) -> Option<Config> {
    proxy.refused();
    error!(%faults, "configuration refused: the last one stays in force");
    None
}

async fn changed(watch: &mut Option<Watch>) -> Vec<u8> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

struct Signals {
    end: End,
    reload: Signal,
}

struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let end = End {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        Ok(Self {
            end,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

impl End {
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Served => Self::SUCCESS,
            Exit::Failed => Self::FAILURE,
            Exit::Misused => Self::from(2),
        }
    }
}

/// Between two looks at certificates and keys that a new configuration waits for.
const AGAIN: Duration = Duration::from_secs(5);
