use std::{fmt::Write as _, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo as _, RedisConnectionInfo, RedisError, Script, ServerErrorKind,
    TlsCertificates, TlsMode, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use futures_util::future::join_all;
use outrigger_filters::select::{
    Batch, BoxFuture, Keeper, Kept, Learned, Parcel, Part, Repeated, Reply, State, Topic, Unkept,
    Version,
};
use tokio::{sync::Mutex, time::timeout};

use super::Error;
use crate::config::{self, RedisNode, RedisServers};

/// Keeps what was learned in a Redis that replicas share.
///
/// There is one connection, made when it is needed; after any failure there is another one. The
/// password and the authorities are read from their files each time.
#[derive(Debug)]
pub struct Redis {
    config: config::Redis,
    script: Script,
    /// For how long at least feedback is recognised that was counted, if it is not too much.
    counted_for: Duration,
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Redis {
    /// Makes a keeper, which connects when it is first asked. Feedback can be told again for so
    /// long: as long as prediction ids are valid.
    pub fn new(config: config::Redis, counted_for: Duration) -> Self {
        Self {
            config,
            counted_for,
            script: Script::new(SCRIPT),
            connection: Mutex::new(None),
        }
    }

    /// Returns how many bytes a batch is sent as.
    pub fn written(&self, batch: &Batch) -> usize {
        let commands = batch
            .parts
            .iter()
            .map(|part| self.command("EVALSHA", self.script.get_hash(), batch, part));
        commands
            .map(|command| command.get_packed_command().len())
            .sum()
    }

    async fn keep(&self, batch: Batch) -> Result<Reply, Error> {
        // The lock is held for one exchange: there is one at a time for each model, and those of
        // several models share the connection.
        let connection = {
            let mut connection = self.connection.lock().await;
            match &mut *connection {
                Some(connection) => connection.clone(),
                none => none.insert(self.connect().await?).clone(),
            }
        };
        let asked = batch
            .parts
            .iter()
            .map(|part| self.ask(connection.clone(), &batch, part));
        let mut failed = None;
        let mut parts = Vec::with_capacity(batch.parts.len());
        for answer in join_all(asked).await {
            parts.push(answer.unwrap_or_else(|error| {
                failed.get_or_insert(error);
                Kept::Unanswered
            }));
        }
        if failed.as_ref().is_some_and(Error::is_of_connection) {
            *self.connection.lock().await = None;
        }
        match failed {
            Some(error) if parts.iter().all(|part| *part == Kept::Unanswered) => Err(error),
            failed => Ok(Reply {
                parts,
                failed: failed.map(|error| Unkept::new(error.to_string())),
            }),
        }
    }

    async fn ask(
        &self,
        mut connection: Connection,
        batch: &Batch,
        part: &Part,
    ) -> Result<Kept, Error> {
        let command = self.command("EVALSHA", self.script.get_hash(), batch, part);
        let answer = match connection.ask(&command).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let command = self.command("EVAL", SCRIPT, batch, part);
                connection.ask(&command).await?
            }
            answer => answer?,
        };
        kept(answer, &batch.topic)
    }

    /// The script has its arguments explained.
    fn command(&self, how: &str, script: &str, batch: &Batch, part: &Part) -> Cmd {
        let topic = &*batch.topic;
        let key = self.key(topic, part.context.as_deref());
        let (ttl, counted) = match part.context {
            None => (Duration::ZERO, COUNTED),
            Some(_) => (self.config.context_ttl, COUNTED_OF_CONTEXT),
        };
        let mut command = ::redis::cmd(how);
        command.arg(script).arg(3);
        command.arg(&key);
        command.arg(format!("{key}:counted"));
        command.arg(format!("{key}:counted-before"));
        command.arg(SCHEMA).arg(replica(batch.replica));
        command
            .arg(millis(ttl))
            .arg(millis(self.counted_for))
            .arg(counted);
        command.arg(part.known.count).arg(mark(part.known));
        command.arg(u8::from(part.clocks));
        let finite = |number: f64| match number.is_finite() {
            true => number.to_string(),
            false => String::new(),
        };
        command.arg(topic.rule.span.map_or_else(String::new, finite));
        command.arg(finite(topic.rule.memory));
        command.arg(finite(topic.rule.past_memory));
        command.arg(topic.arms.len());
        for arm in &topic.arms {
            command.arg(&**arm);
        }
        match &part.base {
            None => {
                command.arg("");
            }
            Some(base) => {
                command.arg(base.version.count).arg(mark(base.version));
                state(&mut command, &base.state, topic);
                command.arg(2 * base.clocks.len());
                for (of, is) in &base.clocks {
                    command.arg(replica(*of)).arg(*is);
                }
            }
        }
        command.arg(part.after).arg(part.parcels.len());
        for parcel in &part.parcels {
            command.arg(parcel.number).arg(ids(parcel));
            state(&mut command, &parcel.difference, topic);
        }
        command
    }

    /// What belongs to one state lies on one server of a cluster: there only what is in the braces
    /// counts.
    fn key(&self, topic: &Topic, context: Option<&str>) -> String {
        let mut key = format!("{{{}", Escaped(&self.config.prefix));
        let _ = write!(key, "/{}/{}", Escaped(&topic.model), topic.policy);
        if let Some(context) = context {
            let _ = write!(key, "/{}", Escaped(context));
        }
        key.push('}');
        key
    }

    async fn connect(&self) -> Result<Connection, Error> {
        match timeout(CONNECT, self.reach()).await {
            Ok(connection) => connection,
            Err(_) => Err(Error::Late),
        }
    }

    async fn reach(&self) -> Result<Connection, Error> {
        let url = &self.config.url;
        let password = self.config.password().map_err(Error::Password)?;
        let authorities = match &self.config.ca {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(Error::Authorities)?),
        };
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: authorities,
        };
        let address = |node: &RedisNode| match url.tls {
            false => ConnectionAddr::Tcp(node.host.clone(), node.port),
            true => ConnectionAddr::TcpTls {
                host: node.host.clone(),
                port: node.port,
                insecure: false,
                tls_params: None,
            },
        };
        let tls = if url.tls {
            TlsMode::Secure
        } else {
            TlsMode::Insecure
        };
        // Else each command would wait for the acknowledgement of the one before.
        let tcp = TcpSettings::default().set_nodelay(true);
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let mut who = RedisConnectionInfo::default();
        if let Some(user) = &url.user {
            who = who.set_username(user);
        }
        if let Some(password) = &password {
            who = who.set_password(password.reveal());
        }
        let server = match &url.servers {
            RedisServers::Single { node, database } => {
                let info = address(node)
                    .into_connection_info()?
                    .set_tcp_settings(tcp)
                    .set_redis_settings(who.set_db(i64::from(*database)));
                let client = match url.tls {
                    true => Client::build_with_tls(info, certificates)?,
                    false => Client::open(info)?,
                };
                client
                    .get_multiplexed_async_connection_with_config(&connection)
                    .await?
            }
            RedisServers::Sentinel {
                nodes,
                master,
                database,
            } => {
                let mut builder = SentinelClientBuilder::new(
                    nodes.iter().map(address),
                    master,
                    SentinelServerType::Master,
                )?
                .set_client_to_redis_db(i64::from(*database))
                .set_client_to_redis_tcp_settings(tcp.clone())
                .set_client_to_sentinel_tcp_settings(tcp);
                if url.tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(tls)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_tls_mode(tls)
                        .set_client_to_sentinel_certificates(certificates);
                }
                if let Some(user) = &url.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = &password {
                    builder = builder.set_client_to_redis_password(password.reveal());
                }
                builder
                    .build()?
                    .get_async_connection_with_config(&connection)
                    .await?
            }
            RedisServers::Cluster { nodes } => {
                let nodes: Vec<ConnectionInfo> = nodes
                    .iter()
                    .map(|node| address(node).into_connection_info())
                    .collect::<Result<_, _>>()?;
                let mut builder = ClusterClientBuilder::new(nodes)
                    .tcp_settings(tcp)
                    .connection_timeout(CONNECT)
                    .response_timeout(ANSWER)
                    .retries(2);
                if url.tls {
                    builder = builder.tls(tls).certs(certificates);
                }
                if let Some(user) = &url.user {
                    builder = builder.username(user);
                }
                if let Some(password) = &password {
                    builder = builder.password(password.reveal());
                }
                let connection = builder.build()?.get_async_connection().await?;
                return Ok(Connection::Cluster(connection));
            }
        };
        let mut server = Connection::Server(server);
        // One that wants a password says so only when it is asked something short.
        server.ask(&::redis::cmd("PING")).await?;
        Ok(server)
    }
}

impl Keeper for Redis {
    fn exchange(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Unkept>> {
        Box::pin(async {
            let reply = self.keep(batch).await;
            reply.map_err(|error| Unkept::new(error.to_string()))
        })
    }
}

impl Connection {
    async fn ask(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Cluster(_) => "Cluster",
        })
    }
}

/// Writes a state, or by how much it changed, an argument for each arm.
fn state(command: &mut Cmd, state: &State, topic: &Topic) {
    for arm in 0..topic.arms.len() {
        let learned = state.arms.get(arm).copied().unwrap_or_default();
        let [first, rest @ ..] = learned.numbers();
        let mut text = first.to_string();
        for number in rest {
            let _ = write!(text, " {number}");
        }
        command.arg(text);
    }
}

/// Reads what the script returns.
fn kept(answer: Value, topic: &Topic) -> Result<Kept, Error> {
    let Value::Array(answer) = answer else {
        return Err(Error::Garbled);
    };
    let mut answer = answer.into_iter();
    let kind = text(answer.next())?;
    match kind.as_str() {
        "missing" => return Ok(Kept::Missing),
        "same" => return Ok(Kept::Same),
        "broken" => return Ok(Kept::Broken),
        "foreign" => return Err(Error::Foreign(text(answer.next())?)),
        "state" => {}
        _ => return Err(Error::Garbled),
    }
    let count = number(answer.next())?;
    let last = text(answer.next())?;
    let (of, number_of) = last.split_once(':').ok_or(Error::Garbled)?;
    let version = Version {
        count,
        replica: u64::from_str_radix(of, 16).unwrap_or(0),
        number: number_of.parse().unwrap_or(0),
    };
    let clock = number(answer.next())?;
    let clocks = match answer.next() {
        Some(Value::Array(clocks)) => {
            let mut read = Vec::with_capacity(clocks.len() / 2);
            let mut clocks = clocks.into_iter();
            while let Some(of) = clocks.next() {
                let of = u64::from_str_radix(&text(Some(of))?, 16).map_err(|_| Error::Garbled)?;
                read.push((of, number(clocks.next())?));
            }
            Some(read.into())
        }
        Some(Value::Nil | Value::Boolean(false)) => None,
        _ => return Err(Error::Garbled),
    };
    let refused = number(answer.next())?;
    let Some(Value::Array(places)) = answer.next() else {
        return Err(Error::Garbled);
    };
    let places = places.into_iter().map(|place| match place {
        Value::Int(place) => usize::try_from(place).map_err(|_| Error::Garbled),
        _ => Err(Error::Garbled),
    });
    let places = places.collect::<Result<_, _>>()?;
    let Some(Value::Array(arms)) = answer.next() else {
        return Err(Error::Garbled);
    };
    if arms.len() != topic.arms.len() {
        return Err(Error::Garbled);
    }
    let arms = arms.into_iter().map(|arm| learned(&text(Some(arm))?));
    Ok(Kept::State {
        state: State {
            arms: arms.collect::<Result<_, _>>()?,
        },
        version,
        clock,
        clocks,
        repeated: (refused > 0).then_some(Repeated {
            number: refused,
            ids: places,
        }),
    })
}

fn learned(text: &str) -> Result<Learned, Error> {
    let mut numbers = [0.; Learned::NAMES.len()];
    let mut words = text.split_ascii_whitespace();
    for number in &mut numbers {
        let word = words.next().ok_or(Error::Garbled)?;
        *number = word.parse().map_err(|_| Error::Garbled)?;
    }
    Ok(numbers.into())
}

fn text(value: Option<Value>) -> Result<String, Error> {
    match value {
        Some(Value::BulkString(text)) => String::from_utf8(text).map_err(|_| Error::Garbled),
        Some(Value::SimpleString(text)) => Ok(text),
        _ => Err(Error::Garbled),
    }
}

fn number(value: Option<Value>) -> Result<u64, Error> {
    text(value)?.parse().map_err(|_| Error::Garbled)
}

fn replica(number: u64) -> String {
    format!("{number:016x}")
}

fn mark(version: Version) -> String {
    format!("{}:{}", replica(version.replica), version.number)
}

fn ids(parcel: &Parcel) -> Vec<u8> {
    let ids = parcel.ids.iter();
    ids.flat_map(|id| {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&id.nonce.to_be_bytes());
        bytes[8..].copy_from_slice(&id.row.to_be_bytes());
        bytes
    })
    .collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Text without what has a meaning in keys.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for char in self.0.chars() {
            match char {
                '%' | '/' | '{' | '}' => write!(f, "%{:02x}", u32::from(char))?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

const SCRIPT: &str = include_str!("keep.lua");

/// Of what is in Redis; another one means something else.
const SCHEMA: &str = "1";

/// How long Redis may take to be reached, with all that is said first.
const CONNECT: Duration = Duration::from_secs(4);

/// How long it may take to answer: one that is slow is still of use, for nothing waits for it.
const ANSWER: Duration = Duration::from_secs(3);

/// How much feedback is recognised at most, the latest half of it at least: some 20 MB of Redis's
/// memory for each model.
const COUNTED: usize = 200_000;

/// How much feedback at most of one context.
const COUNTED_OF_CONTEXT: usize = 1000;
