//! Real Redis servers, alone, with sentinels and in clusters, and a bad way to them.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::sleep,
};

/// A server, which ends when it is dropped.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    sentinel: bool,
    process: Child,
}

/// A way to a server on which things go wrong.
#[derive(Debug)]
pub struct Way {
    port: u16,
    /// How long each answer takes on it, in milliseconds.
    delay: Arc<AtomicU64>,
    /// Whether the connection breaks when an answer comes.
    breaks: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// Servers that share their keys.
#[derive(Debug)]
pub struct Cluster {
    /// The servers.
    pub servers: Vec<Redis>,
}

impl Redis {
    /// Starts a server with more options.
    ///
    /// # Panics
    ///
    /// When there is none: `tests/run setup` installs it.
    pub fn start(options: &[&str]) -> Self {
        Self::start_at(free_port(), options)
    }

    /// Starts a server at a port.
    ///
    /// # Panics
    ///
    /// When there is none: `tests/run setup` installs it.
    pub fn start_at(port: u16, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let server = Self {
            process: start(&folder, port, &options),
            folder,
            port,
            options,
            sentinel: false,
        };
        server.wait();
        server
    }

    /// Starts a sentinel that watches a server, and needs nobody else to act.
    ///
    /// # Panics
    ///
    /// When there is none: `tests/run setup` installs it.
    pub fn watching(name: &str, master: &Redis) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let lines = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\n\
             sentinel monitor {name} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {name} 300\n\
             sentinel failover-timeout {name} 2000\n",
            folder.path().display(),
            master.port,
        );
        let file = folder.path().join("sentinel.conf");
        fs::write(&file, lines).expect("a file");
        let process = Command::new("redis-sentinel")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(MISSING);
        let server = Self {
            folder,
            port,
            options: Vec::new(),
            sentinel: true,
            process,
        };
        server.wait();
        server
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of its first database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Asks it something, and returns what it answers.
    ///
    /// # Panics
    ///
    /// When the tool is missing.
    pub fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(command)
            .stderr(Stdio::null())
            .output()
            .expect(MISSING);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again after it was killed.
    pub fn start_again(&mut self) {
        self.process = start(&self.folder, self.port, &self.options);
        self.wait();
    }

    /// Has it stand still.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Has it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &process]).status();
        assert!(status.is_ok_and(|status| status.success()), "{signal}");
    }

    /// Waits until it answers.
    fn wait(&self) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        for _ in 0..LOOKS {
            let plain = !self.options.iter().any(|option| option == "--tls-port");
            let answer = || {
                if !plain {
                    return std::net::TcpStream::connect(address).is_ok();
                }
                let pong = self.ask(&["PING"]);
                pong == "PONG" || pong.starts_with("NOAUTH")
            };
            if answer() {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "a test's own thread waits for another process to begin"
            )]
            thread::sleep(LOOK);
        }
        let what = if self.sentinel { "sentinel" } else { "server" };
        panic!("the {what} at {address} does not answer");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Cluster {
    /// Starts three servers that share their keys.
    ///
    /// # Panics
    ///
    /// When they do not come together.
    pub fn start() -> Self {
        let servers: Vec<_> = (0..3)
            .map(|_| {
                let bus = free_port().to_string();
                let options = ["--cluster-enabled", "yes", "--cluster-port", &bus];
                (Redis::start(&options), bus)
            })
            .collect();
        let slots = ["0 5460", "5461 10922", "10923 16383"];
        for ((server, _), slots) in servers.iter().zip(slots) {
            let (first, last) = slots.split_once(' ').expect("two numbers");
            assert_eq!(server.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last]), "OK");
        }
        for (server, bus) in &servers[1..] {
            let port = server.port.to_string();
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, bus];
            assert_eq!(servers[0].0.ask(&meet), "OK");
        }
        let together = || {
            servers.iter().all(|(server, _)| {
                let info = server.ask(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
        };
        for _ in 0..LOOKS {
            if together() {
                let servers = servers.into_iter().map(|(server, _)| server).collect();
                return Self { servers };
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "a test's own thread waits for another process to begin"
            )]
            thread::sleep(LOOK);
        }
        panic!("the cluster does not come together");
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        let nodes = self
            .servers
            .iter()
            .map(|it| format!("127.0.0.1:{}", it.port));
        format!("redis+cluster://{}", nodes.collect::<Vec<_>>().join(","))
    }
}

impl Way {
    /// Opens a way to a server.
    ///
    /// # Panics
    ///
    /// When there is no port left.
    pub async fn to(server: &Redis) -> Self {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let delay = Arc::new(AtomicU64::new(0));
        let breaks = Arc::new(AtomicBool::new(false));
        let (slow, broken) = (delay.clone(), breaks.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (slow, broken) = (slow.clone(), broken.clone());
                tokio::spawn(async move { carry(client, target, &slow, &broken).await });
            }
        });
        Self {
            port,
            delay,
            breaks,
            task,
        }
    }

    /// Returns where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of the first database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Has each answer take so long.
    pub fn delay(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.delay.store(millis, Relaxed);
    }

    /// Has connections break when the server has done what it was asked to, and answers.
    pub fn lose_answers(&self, lose: bool) {
        self.breaks.store(lose, Relaxed);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    delay: &AtomicU64,
    breaks: &AtomicBool,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read? {
                0 => return Ok(()),
                read => server.write_all(&asked[..read]).await?,
            },
            read = server.read(&mut answered) => match read? {
                0 => return Ok(()),
                _ if breaks.load(Relaxed) => return Ok(()),
                read => {
                    sleep(Duration::from_millis(delay.load(Relaxed))).await;
                    client.write_all(&answered[..read]).await?;
                }
            },
        }
    }
}

fn start(folder: &TempDir, port: u16, options: &[String]) -> Child {
    let port = port.to_string();
    let mut command = Command::new("redis-server");
    if !options.iter().any(|option| option == "--tls-port") {
        command.args(["--port", &port]);
    }
    command
        .args(["--bind", "127.0.0.1", "--dir"])
        .arg(folder.path())
        // Nothing is left of one that is killed, unless that is asked for.
        .args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ])
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect(MISSING)
}

/// Returns a port that was free a moment ago, low enough for what takes another one above it.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

const MISSING: &str = "redis-server is missing: run `tests/run setup`";
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: usize = 500;
