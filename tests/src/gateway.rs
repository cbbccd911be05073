//! A proxy within the process of the test, on a control thread of its own.

use std::{io, net::SocketAddr, sync::Arc, thread};

use outrigger::{
    app::{Proxy, State},
    config::Config,
    upstream::Connector,
};
use tokio::sync::{mpsc, oneshot};

/// A running proxy; dropping it ends it at once.
#[derive(Debug)]
pub struct Gateway {
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
    state: Arc<State>,
    bound: Bound,
}

/// Where a proxy listens.
#[derive(Clone, Debug)]
struct Bound {
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

#[derive(Debug)]
enum Command {
    Reload(Box<Config>, oneshot::Sender<io::Result<Bound>>),
    Drain(oneshot::Sender<()>),
}

impl Gateway {
    /// Starts a proxy; addresses of the configuration should have port 0.
    ///
    /// # Panics
    ///
    /// When the configuration is faulty, or cannot be served.
    pub fn start(config: &str) -> Self {
        let config = read(config);
        let (commands, received) = mpsc::unbounded_channel();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("the system has descriptors");
                runtime.block_on(async move {
                    let proxy = Proxy::start(config, Connector::tcp()).expect("free ports");
                    ready
                        .send((proxy.state().clone(), bound(&proxy)))
                        .expect("the test waits for it");
                    control(proxy, received).await;
                });
            })
            .expect("the system has threads");
        let (state, bound) = started.recv().expect("it starts");
        Self {
            commands: Some(commands),
            thread: Some(thread),
            state,
            bound,
        }
    }

    /// Starts a proxy with one listener in front of one upstream, with admin pages, and with
    /// whatever else the configuration shall say.
    pub fn before(endpoints: &[SocketAddr], protocol: &str, rest: &str) -> Self {
        Self::start(&configuration(endpoints, protocol, rest))
    }

    /// Returns the address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.bound.listeners[0]
    }

    /// Returns the addresses of all listeners, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.bound.listeners
    }

    /// Returns the address of the admin pages.
    ///
    /// # Panics
    ///
    /// When the configuration has none.
    pub fn admin(&self) -> SocketAddr {
        self.bound.admin.expect("the configuration has admin pages")
    }

    /// Returns what the admin pages show.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Returns a number of a model's first endpoint, as `/models` shows it.
    ///
    /// # Panics
    ///
    /// When there is no such number.
    pub fn learned(&self, model: &str, number: &str) -> u64 {
        let models = self.state.models();
        let endpoint = &models[model]["arms"][model]["endpoints"][0];
        endpoint[number]
            .as_u64()
            .unwrap_or_else(|| panic!("no {number} of {model} in {models:#}"))
    }

    /// Goes over to another configuration.
    ///
    /// # Errors
    ///
    /// Fails where an address cannot be bound.
    ///
    /// # Panics
    ///
    /// When the configuration is faulty.
    pub async fn reload(&mut self, config: &str) -> io::Result<()> {
        let (reply, replied) = oneshot::channel();
        self.command(Command::Reload(Box::new(read(config)), reply));
        self.bound = replied.await.expect("the proxy runs")?;
        Ok(())
    }

    /// Begins to drain; the receiver says when nothing is left.
    pub fn drain(&self) -> oneshot::Receiver<()> {
        let (reply, replied) = oneshot::channel();
        self.command(Command::Drain(reply));
        replied
    }

    fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            commands.send(command).expect("the proxy runs");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the control thread panicked");
        }
    }
}

/// Writes a configuration of one listener in front of one upstream, with admin pages.
pub fn configuration(endpoints: &[SocketAddr], protocol: &str, rest: &str) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| format!("\"http://{address}\""))
        .collect();
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", upstream: server }}]\n\
         admin: {{ address: \"127.0.0.1:0\" }}\n\
         upstreams: {{ server: {{ {protocol}, endpoints: [{}] }} }}\n\
         {rest}\n",
        endpoints.join(", ")
    )
}

fn read(config: &str) -> Config {
    Config::read(config).unwrap_or_else(|faults| panic!("{faults}\n{config}"))
}

fn bound(proxy: &Proxy) -> Bound {
    Bound {
        listeners: proxy.addresses(),
        admin: proxy.admin_address(),
    }
}

async fn control(mut proxy: Proxy, mut received: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = received.recv().await {
        match command {
            Command::Reload(config, reply) => {
                let result = proxy.reload(*config).map(|()| bound(&proxy));
                // A test that has failed does not wait.
                let _ = reply.send(result);
            }
            Command::Drain(reply) => {
                proxy.drain().await;
                let _ = reply.send(());
                return;
            }
        }
    }
}
