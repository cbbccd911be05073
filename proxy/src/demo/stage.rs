//! What acts are played on.

use std::{io, sync::Arc, time::Duration};

use outrigger_native::{Handle, Server, digits::Classifier};
use tokio::time::{self, Instant, MissedTickBehavior};

use super::{
    error::Error,
    frame::Frame,
    interrupt::Interrupt,
    load::{Report, Running, Target},
    processor::Processor,
    screen::Screen,
};
use crate::{
    app::{Proxy, State},
    config::Config,
    upstream::Connector,
};

/// Models in their container, the proxy before them, and somebody who watches.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) screen: Screen,
    interrupt: Interrupt,
    containers: Server,
    proxy: Proxy,
}

/// What a watched load came to.
#[derive(Debug)]
pub(super) struct Watched {
    /// What the load saw.
    pub(super) report: Report,
    /// From its begin until nothing was waited for any more.
    pub(super) elapsed: Duration,
    /// What the process used meanwhile.
    pub(super) processor: Processor,
}

impl Stage {
    /// Starts the container and the proxy, whose configuration is made for the container's port;
    /// must run within the runtime that is to control them.
    pub(super) async fn set(
        models: Vec<Classifier>,
        configuration: impl FnOnce(u16) -> String,
        (screen, interrupt): (Screen, Interrupt),
    ) -> Result<Self, Error> {
        let containers = Server::builder()
            .models(models)
            .threads(1)
            .bind("127.0.0.1:0")
            .await?;
        let config =
            Config::read(configuration(containers.address().port())).map_err(io::Error::other)?;
        let proxy = Proxy::start(config, Connector::tcp())?;
        Ok(Self {
            screen,
            interrupt,
            containers,
            proxy,
        })
    }

    /// The reins of a model.
    pub(super) fn model(&self, name: &str) -> io::Result<Handle> {
        self.containers
            .handle(name)
            .ok_or_else(|| io::Error::other("the container has lost its model"))
    }

    /// Waits until the proxy takes requests.
    pub(super) async fn ready(&mut self) -> Result<(), Error> {
        let last = Instant::now() + PATIENCE;
        loop {
            let missing = tokio::select! {
                missing = self.proxy.state().unready() => missing,
                () = self.interrupt.wait() => return Err(Error::Interrupted),
            };
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > last {
                return Err(Error::NotReady(missing));
            }
            time::sleep(POLL).await;
        }
    }

    /// The way to the model that meets nobody.
    pub(super) fn direct(&self) -> io::Result<Target> {
        Ok(Target::new(self.containers.address(), INFER)?.connections(CONNECTIONS))
    }

    /// The way through the proxy.
    pub(super) fn proxied(&self) -> io::Result<Target> {
        let address = self.proxy.addresses().first().copied();
        let address = address.ok_or_else(|| io::Error::other("the proxy has no listener"))?;
        Ok(Target::new(address, INFER)?.connections(CONNECTIONS))
    }

    /// What the proxy shows of itself.
    pub(super) fn state(&self) -> Arc<State> {
        self.proxy.state().clone()
    }

    /// Waits until a model has nothing left to do, and forgets what it did.
    pub(super) async fn rest(&mut self, model: &Handle) -> Result<(), Error> {
        tokio::select! {
            rested = time::timeout(PATIENCE, model.until(|counters| counters.in_flight == 0)) => {
                rested.map_err(io::Error::from)?;
            }
            () = self.interrupt.wait() => return Err(Error::Interrupted),
        }
        model.reset_counters();
        Ok(())
    }

    /// Shows a load until its end, with a frame of what has happened since the last one.
    pub(super) async fn watch(
        &mut self,
        running: Running,
        mut frame: impl FnMut(&Report, Duration) -> Frame,
    ) -> Result<Watched, Error> {
        let begin = Instant::now();
        let used = Processor::used();
        let mut poll = time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = begin + BETWEEN_FRAMES;
        loop {
            tokio::select! {
                _ = poll.tick() => {}
                () = self.interrupt.wait() => return Err(Error::Interrupted),
            }
            if running.is_over() {
                break;
            }
            if Instant::now() >= next {
                next += BETWEEN_FRAMES;
                let moment = running.interval();
                if moment.sent() > 0 {
                    self.screen.show(&frame(&moment, begin.elapsed()))?;
                }
            }
        }
        self.screen.settle()?;
        Ok(Watched {
            elapsed: begin.elapsed(),
            processor: Processor::used().since(used),
            report: running.wait(),
        })
    }

    /// Lets a little time pass.
    pub(super) async fn pass(&mut self) -> Result<(), Error> {
        tokio::select! {
            () = time::sleep(POLL) => Ok(()),
            () = self.interrupt.wait() => Err(Error::Interrupted),
        }
    }

    /// Ends everything that was started, and leaves who watches.
    pub(super) async fn clear(self) -> (Screen, Interrupt) {
        self.proxy.drain().await;
        // Nobody waits for what is left in the model's queue.
        self.containers.abort().await;
        (self.screen, self.interrupt)
    }
}

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Some for each worker of a small machine.
const CONNECTIONS: usize = 4;

/// How long anything may take that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// How soon the end of a load is noticed.
const POLL: Duration = Duration::from_millis(20);

/// Four pictures a second: enough of a film, and some hundred calls in each.
pub(super) const BETWEEN_FRAMES: Duration = Duration::from_millis(250);
