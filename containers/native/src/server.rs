//! Models behind a socket.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tonic::codec::CompressionEncoding;

use crate::container::Container;
use crate::executor::{Engine, Executors};
use crate::handle::Handle;
use crate::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use crate::service::Service;
use crate::wire::{self, Phase};

/// A server that runs until it is stopped or dropped.
///
/// Dropping it begins what [`Server::stop`] waits for.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    engines: Arc<BTreeMap<String, Arc<Engine>>>,
    phase: watch::Sender<Phase>,
    hang_up: watch::Sender<u64>,
    /// Closed when nothing of the server is left.
    over: mpsc::Receiver<()>,
}

/// What a server is to be.
#[derive(Debug, Default)]
pub struct Builder {
    containers: Vec<Container>,
    threads: Option<usize>,
    compress: bool,
}

/// What each connection and each thread holds, until it ends.
#[derive(Clone)]
struct Shared {
    service: GrpcInferenceServiceServer<Service>,
    phase: watch::Receiver<Phase>,
    hang_up: watch::Receiver<u64>,
    _over: Token,
}

/// Held by what must end before the executors do.
type Token = mpsc::Sender<()>;

/// Where connections are served.
enum Runtimes {
    /// On the runtime that accepts them.
    Here,
    /// On one thread each, in turn.
    Threads(Vec<mpsc::UnboundedSender<(std::net::TcpStream, Token)>>),
}

impl Server {
    /// Begins a server without models.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The reins of a model, if the server has it.
    pub fn handle(&self, model: &str) -> Option<Handle> {
        self.engines.get(model).cloned().map(Handle::new)
    }

    /// The reins of all models, in the order of their names.
    pub fn handles(&self) -> impl Iterator<Item = Handle> {
        self.engines.values().cloned().map(Handle::new)
    }

    /// Closes every connection without a goodbye. New ones are accepted.
    pub fn close_connections(&self) {
        self.hang_up.send_modify(|times| *times += 1);
    }

    /// Takes no more connections, says goodbye on those there are, answers what was received
    /// (calls that hang with UNAVAILABLE), and waits until all is over.
    pub async fn stop(mut self) {
        self.drain();
        if tokio::time::timeout(DRAIN, self.over.recv()).await.is_err() {
            // Someone holds on to a connection and does not read.
            self.phase.send_replace(Phase::Stopped);
            self.over.recv().await;
        }
    }

    /// Closes every connection and the listener at once, and waits until all is over.
    pub async fn abort(mut self) {
        self.phase.send_replace(Phase::Stopped);
        self.drain();
        self.over.recv().await;
    }

    fn drain(&self) {
        self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
        for engine in self.engines.values() {
            engine.drain();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain();
    }
}

impl Builder {
    /// Adds a model. Of two with the same name, the later one counts.
    pub fn model(mut self, model: impl Into<Container>) -> Self {
        self.containers.push(model.into());
        self
    }

    /// Adds models.
    pub fn models(mut self, models: impl IntoIterator<Item = impl Into<Container>>) -> Self {
        self.containers.extend(models.into_iter().map(Into::into));
        self
    }

    /// Serves on so many threads of its own. Default: on the runtime of the caller.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }

    /// Compresses answers for clients that accept gzip. Compressed requests are always taken.
    pub fn compress_answers(mut self) -> Self {
        self.compress = true;
        self
    }

    /// Listens and begins to serve.
    pub async fn bind(self, address: impl ToSocketAddrs) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let started = self.containers.into_iter().map(Engine::start);
        let mut engines = BTreeMap::new();
        let mut executors = Vec::new();
        for (engine, threads) in started {
            engines.insert(engine.signature.name.clone(), engine);
            executors.push(threads);
        }
        let engines = Arc::new(engines);
        let service = Service {
            engines: engines.clone(),
        };
        let mut service = GrpcInferenceServiceServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(CompressionEncoding::Gzip);
        if self.compress {
            service = service.send_compressed(CompressionEncoding::Gzip);
        }
        let (phase, phases) = watch::channel(Phase::Serving);
        let (hang_up, hang_ups) = watch::channel(0);
        let (token, over) = mpsc::channel(1);
        let shared = Shared {
            service,
            phase: phases,
            hang_up: hang_ups,
            _over: token,
        };
        match self.threads {
            None => {
                tokio::spawn(accept(listener, shared, Runtimes::Here, executors));
            }
            Some(threads) => serve_on(threads, listener, shared, executors)?,
        }
        Ok(Server {
            address,
            engines,
            phase,
            hang_up,
            over,
        })
    }
}

/// Starts the threads: each has a runtime of its own, and the first one accepts for all.
fn serve_on(
    threads: usize,
    listener: TcpListener,
    shared: Shared,
    executors: Vec<Executors>,
) -> io::Result<()> {
    let listener = listener.into_std()?;
    let mut senders = Vec::new();
    for number in 0..threads {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (sender, mut sockets) = mpsc::unbounded_channel();
        senders.push(sender);
        let shared = shared.clone();
        thread::Builder::new()
            .name(format!("native {number}"))
            .spawn(move || {
                runtime.block_on(async {
                    let mut connections = tokio::task::JoinSet::new();
                    while let Some((socket, token)) = sockets.recv().await {
                        // A socket that cannot be registered is closed, as if it were full.
                        if let Ok(socket) = TcpStream::from_std(socket) {
                            while connections.try_join_next().is_some() {}
                            connections.spawn(connection(socket, shared.clone(), token));
                        }
                    }
                    connections.join_all().await;
                });
            })?;
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("native accept".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                // It was a tokio listener before, so it can be one again.
                if let Ok(listener) = TcpListener::from_std(listener) {
                    accept(listener, shared, Runtimes::Threads(senders), executors).await;
                }
            });
        })?;
    Ok(())
}

async fn accept(
    listener: TcpListener,
    shared: Shared,
    runtimes: Runtimes,
    executors: Vec<Executors>,
) {
    let mut phase = shared.phase.clone();
    // Each connection holds one; when the last is gone, the executors may end.
    let (token, mut none_left): (Token, _) = mpsc::channel(1);
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            // Out of descriptors, most likely: others must be closed first.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        match &runtimes {
            Runtimes::Here => {
                tokio::spawn(connection(socket, shared.clone(), token.clone()));
            }
            Runtimes::Threads(senders) => {
                if let Ok(socket) = socket.into_std() {
                    // A thread ends only after this one.
                    let _ = senders[turn % senders.len()].send((socket, token.clone()));
                    turn += 1;
                }
            }
        }
    }
    drop((listener, runtimes, token));
    none_left.recv().await;
    drop(executors);
}

async fn connection(socket: TcpStream, shared: Shared, _token: Token) {
    wire::serve(socket, shared.service, shared.phase, shared.hang_up).await;
}

/// The largest message: a batch of some hundred images.
const MAX_MESSAGE: usize = 256 << 20;

/// How long a server that stops waits for its clients.
const DRAIN: Duration = Duration::from_secs(10);

/// How long no connection is accepted after that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
