use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tracing::{info, warn};

use super::State;
use crate::{
    admin::Admin,
    config::Config,
    listen::{Connections, Listener, Workers},
    server::{self, Drain},
    stack::{Route, Router, Table},
    telemetry::Metrics,
    tls::{Acceptor, Keeper, Sets},
    upstream::Connector,
};

/// A running proxy: its listeners, its workers and the table in force.
///
/// It lives on the control runtime of its owner; requests live on the workers.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<State>,
    connector: Connector,
    listening: Vec<Listening>,
    admin: Option<Administering>,
    connections: Arc<Connections>,
    workers: Arc<Workers<Router>>,
    certificates: Keeper,
    /// Listeners that a reload has closed, whose connections have yet to end.
    retired: Vec<Drain>,
}

/// A listener and the address that the configuration gives it.
#[derive(Debug)]
struct Listening {
    configured: SocketAddr,
    listener: Listener,
    router: Router,
    /// How hands are shaken with its next connections; not at all where there is no TLS.
    tls: Arc<ArcSwapOption<Acceptor>>,
    drain: Drain,
}

/// The listener of the admin pages; they stay until the very end.
#[derive(Debug)]
struct Administering {
    configured: SocketAddr,
    listener: Listener,
    drain: Drain,
}

impl Proxy {
    /// Starts the workers, binds the listeners and begins to serve.
    ///
    /// # Errors
    ///
    /// Fails where an address cannot be bound, and where a certificate or key is faulty; nothing is
    /// left behind then.
    pub fn start(config: Config, connector: Connector) -> io::Result<Self> {
        let metrics = Metrics::new();
        let connections =
            Connections::new(config.limits.max_connections, metrics.connections().clone());
        metrics.log_requests(config.telemetry.access_log);
        let certificates = Keeper::new(metrics.tls().clone());
        let sets = certificates.prepare(&config)?;
        let with_tls = connector.with_tls(sets.dialers());
        let table = Table::build(config, None, &metrics, &with_tls);
        let mut proxy = Self {
            state: Arc::new(State::new(table, metrics)),
            connector,
            listening: Vec::new(),
            admin: None,
            connections,
            workers: Arc::new(Workers::start()?),
            certificates,
            retired: Vec::new(),
        };
        let table = proxy.state.table();
        let (listening, admin) = proxy.bind(&table, &sets)?;
        proxy.take_over(&table, listening, admin, sets);
        Ok(proxy)
    }

    /// Goes over to another configuration. What did not change keeps what it learned.
    ///
    /// # Errors
    ///
    /// Fails where an address cannot be bound, and where a certificate or key is faulty that was
    /// not in use before ([`tls::Faults`](crate::tls::Faults)); then everything stays as it is.
    pub fn reload(&mut self, config: Config) -> io::Result<()> {
        let result = self.go_over(config);
        self.state.metrics().reloaded(result.is_ok());
        result
    }

    fn go_over(&mut self, config: Config) -> io::Result<()> {
        let last = self.state.table();
        let sets = self.certificates.prepare(&config)?;
        let connector = self.connector.with_tls(sets.dialers());
        let table = Table::build(config, Some(&last), self.state.metrics(), &connector);
        let (listening, admin) = self.bind(&table, &sets)?;
        self.state
            .metrics()
            .log_requests(table.config().telemetry.access_log);
        self.connections
            .allow(table.config().limits.max_connections);
        self.state.publish(table);
        self.take_over(&self.state.table(), listening, admin, sets);
        Ok(())
    }

    /// Reads the files of certificates and keys again, although nothing tells that they changed.
    pub fn refresh_certificates(&self) {
        self.certificates.refresh();
    }

    /// Tells whether the certificates and keys of a configuration are good.
    pub fn can_secure(&self, config: &Config) -> bool {
        self.certificates.prepare(config).is_ok()
    }

    /// Counts a configuration that was applied by changing nothing.
    pub fn reloaded(&self) {
        self.state.metrics().reloaded(true);
    }

    /// Counts a configuration that was refused.
    pub fn refused(&self) {
        self.state.metrics().reloaded(false);
    }

    /// Returns the addresses of the data listeners, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listening
            .iter()
            .map(|listening| listening.listener.address())
            .collect()
    }

    /// Returns the address of the admin pages.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.listener.address())
    }

    /// Returns what the admin pages show.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Ends: takes no more connections, tells the clients, lets what is under way end, and returns
    /// as soon as nothing is left, at the latest when `limits.drain` has passed.
    pub async fn drain(mut self) {
        let limit = self.state.table().config().limits.drain;
        self.state.begin_to_drain();
        info!(limit = ?limit, "draining");
        let mut drains = std::mem::take(&mut self.retired);
        drains.extend(self.listening.drain(..).map(Listening::retire));
        let finished = async {
            for drain in &mut drains {
                drain.finished().await;
            }
        };
        if tokio::time::timeout(limit, finished).await.is_err() {
            warn!("limits.drain has passed: requests under way are cut off");
        }
        // What the last requests taught is kept, too; who waits for the end waits no longer for it.
        self.state.table().keep(LAST_EXCHANGE).await;
        if let Some(admin) = self.admin {
            let mut drain = admin.retire();
            let _ = tokio::time::timeout(LAST_PAGES, drain.finished()).await;
        }
        if let Some(workers) = Arc::into_inner(self.workers) {
            workers.stop();
        }
        info!("ended");
    }

    /// Binds what the table wants and is not bound yet.
    fn bind(
        &self,
        table: &Table,
        sets: &Sets,
    ) -> io::Result<(Vec<Option<Listening>>, Option<Administering>)> {
        let mut kept = self.kept();
        let mut listening = Vec::new();
        let listeners = table.config().listeners.iter();
        for ((config, route), tls) in listeners.zip(table.routes()).zip(sets.acceptors()) {
            listening.push(match take(&mut kept, config.address) {
                Some(()) => None,
                None => Some(self.listen(config.address, route.clone(), tls.clone())?),
            });
        }
        let admin = match &table.config().admin {
            Some(admin)
                if self.admin.as_ref().map(|last| last.configured) != Some(admin.address) =>
            {
                Some(self.listen_admin(admin.address)?)
            }
            _ => None,
        };
        Ok((listening, admin))
    }

    fn kept(&self) -> Vec<SocketAddr> {
        self.listening
            .iter()
            .map(|listening| listening.configured)
            .collect()
    }

    /// Publishes the routes, and lets go of the listeners that the table does not want.
    fn take_over(
        &mut self,
        table: &Table,
        bound: Vec<Option<Listening>>,
        admin: Option<Administering>,
        sets: Sets,
    ) {
        let mut last = std::mem::take(&mut self.listening);
        let listeners = table.config().listeners.iter();
        for (((config, route), tls), bound) in listeners
            .zip(table.routes())
            .zip(sets.acceptors())
            .zip(bound)
        {
            let kept = last
                .iter()
                .position(|listening| listening.configured == config.address);
            match (bound, kept) {
                (Some(bound), _) => self.listening.push(bound),
                (None, Some(kept)) => {
                    let listening = last.remove(kept);
                    listening.router.publish(route.clone());
                    listening.tls.store(tls.clone());
                    self.listening.push(listening);
                }
                (None, None) => {}
            }
        }
        // What is not wanted any more closes its address, and its connections are told to end.
        self.retired.extend(last.into_iter().map(Listening::retire));
        let last = match (&table.config().admin, admin) {
            (Some(_), None) => None,
            (_, admin) => std::mem::replace(&mut self.admin, admin),
        };
        self.retired.extend(last.map(Administering::retire));
        self.certificates.commit(sets);
    }

    fn listen(
        &self,
        address: SocketAddr,
        route: Arc<Route>,
        tls: Option<Arc<Acceptor>>,
    ) -> io::Result<Listening> {
        let router = Router::new(route);
        let tls = Arc::new(ArcSwapOption::new(tls));
        let acceptor = tls.clone();
        let (workers, connections) = (self.workers.clone(), self.connections.clone());
        let handler = router.clone();
        let (drain, draining) = Drain::new();
        let listener = Listener::bind(address, move |socket| {
            let (tls, handler) = (acceptor.load_full(), handler.clone());
            workers.serve(socket, tls, handler, draining.clone(), &connections);
        })?;
        Ok(Listening {
            configured: address,
            listener,
            router,
            tls,
            drain,
        })
    }

    fn listen_admin(&self, address: SocketAddr) -> io::Result<Administering> {
        let handler = Admin::new(self.state.clone());
        let (drain, draining) = Drain::new();
        let listener = Listener::bind(address, move |socket| {
            tokio::spawn(server::serve(socket, handler.clone(), draining.clone()));
        })?;
        Ok(Administering {
            configured: address,
            listener,
            drain,
        })
    }
}

impl Listening {
    /// Closes the address and tells the connections to end; returns what waits for them.
    fn retire(self) -> Drain {
        self.drain.begin();
        self.drain
    }
}

impl Administering {
    /// As [`Listening::retire`].
    fn retire(self) -> Drain {
        self.drain.begin();
        self.drain
    }
}

/// Takes one occurrence of an address; the same address with port 0 may stand several times.
fn take(kept: &mut Vec<SocketAddr>, address: SocketAddr) -> Option<()> {
    let at = kept.iter().position(|kept| *kept == address)?;
    kept.remove(at);
    Some(())
}

/// How long it may take to keep what was learned last: some tries with a store that is slow.
const LAST_EXCHANGE: Duration = Duration::from_secs(3);

/// How long the admin pages' own connections may take to end.
const LAST_PAGES: Duration = Duration::from_millis(200);
