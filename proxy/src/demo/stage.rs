//! What acts are played on.

use std::{io, sync::Arc, time::Duration};

use outrigger_native::{
    Curve, Handle, Server,
    digits::{Classifier, Kind},
};
use tokio::time::{self, Instant, MissedTickBehavior};

use super::{
    error::Error,
    frame::Frame,
    images::Images,
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

/// A model in its container, the proxy before it, the images, and somebody who watches.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) screen: Screen,
    pub(super) images: Images,
    pub(super) model: Handle,
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
    /// Starts the container and the proxy; must run within the runtime that is to control them.
    pub(super) async fn set(model: Classifier, mut screen: Screen) -> Result<Self, Error> {
        let interrupt = Interrupt::new()?;
        let images = Images::held_out(&model);
        let name = model.name().to_owned();
        let containers = Server::builder()
            .model(model)
            .threads(1)
            .bind("127.0.0.1:0")
            .await?;
        let model = containers
            .handle(&name)
            .ok_or_else(|| io::Error::other("the container has lost its model"))?;
        let config = Config::read(configuration(&name, containers.address().port()))
            .map_err(io::Error::other)?;
        let proxy = Proxy::start(config, Connector::tcp())?;
        screen.say(&format!(
            "calls      each asks for one of {count} images that the model has not seen\n\
             model      a support vector machine behind gRPC; a call costs {beta:.2} ms, and\n\
             {empty:11}{alpha:.1} us an image, as scikit-learn's does in a Python container:\n\
             {empty:11}this time is simulated, predictions are real\n\
             objective  {objective} ms for 99 of 100 calls, waiting and model together\n",
            count = images.count(),
            beta = OVERHEAD.beta.as_secs_f64() * 1e3,
            alpha = OVERHEAD.alpha.as_secs_f64() * 1e6,
            objective = OBJECTIVE.as_millis(),
            empty = "",
        ))?;
        Ok(Self {
            screen,
            images,
            model,
            interrupt,
            containers,
            proxy,
        })
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

    /// Waits until the model has nothing left to do, and forgets what it did.
    pub(super) async fn rest(&mut self) -> Result<(), Error> {
        tokio::select! {
            rested = time::timeout(PATIENCE, self.model.until(|counters| counters.in_flight == 0)) => {
                rested.map_err(io::Error::from)?;
            }
            () = self.interrupt.wait() => return Err(Error::Interrupted),
        }
        self.model.reset_counters();
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

    /// Ends everything that was started.
    pub(super) async fn clear(self) {
        self.proxy.drain().await;
        // Nobody waits for what is left in the model's queue.
        self.containers.abort().await;
    }
}

/// Trains the model that is served.
pub(super) fn model() -> Classifier {
    Classifier::train(Kind::Svc).with_overhead(OVERHEAD)
}

/// What somebody would write who puts the proxy before such a model.
fn configuration(model: &str, port: u16) -> String {
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', upstream: container }}]
upstreams: {{ container: {{ protocol: oip-grpc, endpoints: ['http://127.0.0.1:{port}'] }} }}
models: {{ {model}: {{ latency_objective: {objective}ms, batch: {{}} }} }}
limits: {{ drain: 2s }}
",
        objective = OBJECTIVE.as_millis(),
    )
}

/// What 99 of 100 calls shall keep to.
pub(super) const OBJECTIVE: Duration = Duration::from_millis(20);

/// What a call costs beside the prediction: measured of a linear SVM of scikit-learn in a Python
/// container. Our own model answers in microseconds, and so would have little to gain.
const OVERHEAD: Curve = Curve::LINEAR_SVM;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Some for each worker of a small machine.
const CONNECTIONS: usize = 4;

/// How long anything may take that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// How soon the end of a load is noticed.
const POLL: Duration = Duration::from_millis(20);

/// Four pictures a second: enough of a film, and some hundred calls in each.
const BETWEEN_FRAMES: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one() {
        let config = Config::read(configuration("digits", 8001)).expect("no faults");
        let model = config.models.get("digits").expect("the model");
        assert_eq!(model.latency_objective, OBJECTIVE);
        assert!(model.batch.is_some());
    }
}
