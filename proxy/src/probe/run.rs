//! The command: from the configuration to the report.

use std::{
    fs,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
};

use bytestring::ByteString;
use outrigger_filters::{
    batch::{Batchable, Capability, Unbatchable},
    inference::{Form, Request, RequestParts},
};
use tokio::runtime::Handle;

use super::{
    Error, Examined, Report,
    ask::Asker,
    generate::{Recipe, generate},
    input,
    judge::{self, Most},
    observe::{Questions, observe},
    report::{Found, Switched},
    target::{Target, targets},
};
use crate::{
    cli::Probe,
    codec::bridge,
    config::{self, Config, Protocol, Source},
    telemetry::Metrics,
    tls::Keeper,
    upstream::{Client, Connector, Description, Learned, Upstream},
};

/// Probes a model, and prints what was found.
///
/// The status is 0 where what the configuration switches on for the model is safe, 1 where it is
/// not, or not known to be, and 2 where that could not be found out.
#[must_use]
pub fn run(options: &Probe) -> ExitCode {
    let source = Source::File {
        path: options.config.clone(),
        admin: None,
    };
    let probed = source.read().map_err(Error::from).and_then(|config| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Undescribed(error.into()))?;
        runtime.block_on(examine(config, options))
    });
    match probed {
        Ok(report) => {
            let mut out = io::stdout().lock();
            let written = if options.json {
                writeln!(out, "{:#}", report.json())
            } else {
                write!(out, "{report}")
            };
            match written {
                // A reader that has seen enough, such as `head`, is no failure.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    eprintln!("the report cannot be written: {error}");
                    ExitCode::from(2)
                }
                _ => ExitCode::from(report.status()),
            }
        }
        Err(error) => {
            eprintln!("{}", Error::whole(&error));
            ExitCode::from(2)
        }
    }
}

/// Asks every endpoint of a model; must run within a runtime of one thread.
///
/// # Errors
///
/// Fails where there is nobody to ask, or nothing to ask with. What is wrong with one endpoint
/// stands in the report.
pub async fn examine(mut config: Config, options: &Probe) -> Result<Report, Error> {
    let Some(model) = config.models.get(&*options.model).cloned() else {
        return Err(Error::NoModel {
            model: options.model.clone(),
            named: config.models.keys().map(ToString::to_string).collect(),
        });
    };
    let brought = read(options)?;
    // Nobody is listened to, whatever certificates that would take.
    for listener in &mut config.listeners {
        listener.tls = None;
    }
    let metrics = Metrics::new();
    let certificates = Keeper::new(metrics.tls().clone()).prepare(&config)?;
    let surroundings = Surroundings {
        options,
        model: &model,
        brought,
        max_message: config.limits.max_message,
        connector: Connector::tcp().with_tls(certificates.dialers()),
        metrics: &metrics,
    };
    let mut endpoints = Vec::new();
    for target in targets(&config, &model) {
        let found = surroundings.probe(&target).await;
        endpoints.push(Examined {
            arm: target.arm.name.to_string(),
            upstream: target.name.to_string(),
            endpoint: target.endpoint.to_string(),
            protocol: target.upstream.protocol,
            found,
        });
    }
    Ok(Report {
        model: options.model.clone(),
        switched: Switched::of(&model),
        endpoints,
    })
}

/// What is the same for all endpoints.
#[derive(Debug)]
struct Surroundings<'a> {
    options: &'a Probe,
    model: &'a config::Model,
    /// The requests of the files, if there are any.
    brought: Option<Vec<RequestParts>>,
    max_message: usize,
    connector: Connector,
    metrics: &'a Metrics,
}

impl Surroundings<'_> {
    async fn probe(&self, target: &Target) -> Result<Found, Error> {
        let protocol = target.upstream.protocol;
        let upstream = Upstream::new(&target.name, &target.upstream, &self.connector);
        let upstream = Arc::new(upstream);
        let arm = &target.arm;
        let learned = Learned::new(
            Handle::current(),
            upstream.clone(),
            arm.model.clone(),
            arm.version.clone(),
            Capability::new(Batchable::Unasked),
        );
        let description = match learned.wait().await {
            Ok(description) => description,
            // Rows of one's own can be sent to a server that describes nothing.
            Err(_) if self.brought.is_some() => Arc::default(),
            Err(error) => return Err(Error::Undescribed(error.into())),
        };
        let batchable = description.batchable;
        if let Batchable::No(reason @ (Unbatchable::Stateful | Unbatchable::Decoupled)) = batchable
        {
            return Err(Error::Refused(reason));
        }
        let rows = self.rows(target, &description)?;
        let configured = self.model.batch.as_ref();
        let configured = configured.and_then(|batch| batch.max_batch_size);
        let largest = rows.iter().map(|row| row.payload_len()).max();
        let fitting = self.max_message / largest.unwrap_or(1).max(1);
        let most = Most::of(batchable, configured, fitting);
        let Some(endpoint) = upstream.endpoints().first().cloned() else {
            return Err(Error::NoRows("the upstream has no endpoint".to_owned()));
        };
        let asker = Asker {
            client: Client::new(
                upstream,
                endpoint,
                learned,
                self.max_message,
                self.metrics.upstream(&target.name),
                false,
            ),
            protocol,
            patience: self.options.timeout,
        };
        let questions = Questions {
            rows: &rows,
            made: self.brought.is_none(),
            most: most.rows(),
            repeat: self.options.repeat,
            tolerance: self.options.tolerance,
            seed: self.options.seed,
        };
        let observed = observe(&asker, questions).await?;
        Ok(Found {
            batchable,
            batching: judge::batching(&observed, most),
            caching: judge::caching(&observed),
            bit_equal: observed.again.is_equal(),
            merged_bit_equal: observed.merged_again.is_equal(),
            rows: observed.rows,
            most: observed.most,
            tolerance: observed.tolerance,
            times: observed.times,
        })
    }

    /// Returns requests of one row each, as the server takes them.
    fn rows(&self, target: &Target, description: &Description) -> Result<Vec<Request>, Error> {
        let batchable = description.batchable;
        let rows = match (&self.brought, batchable) {
            (Some(brought), Batchable::No(_)) => brought.clone(),
            (Some(brought), _) => input::divide(brought.clone()).map_err(Error::NoRows)?,
            (None, _) => {
                let recipe = Recipe {
                    batchable,
                    rows: self.options.rows.get(),
                    dims: &self.options.dim,
                    seed: self.options.seed,
                    max_bytes: self.max_message,
                };
                let signature = description.signature("").ok_or_else(|| {
                    let why = "the server does not say what the model takes: bring rows by \
                               `--input FILE`";
                    Error::NoRows(why.to_owned())
                })?;
                generate(signature, recipe).map_err(Error::NoRows)?
            }
        };
        let protocol = target.upstream.protocol;
        let wanted = form(protocol, description);
        // The rows speak like a caller of another protocol than the server's: nothing of them may
        // be lost unsaid.
        let from = match protocol {
            Protocol::OipRest => Protocol::OipGrpc,
            _ => Protocol::OipRest,
        };
        let arm = &target.arm;
        rows.into_iter()
            .map(|mut row| {
                row.head.model = ByteString::from(arm.model.as_str());
                if let Some(version) = &arm.version {
                    row.head.version = ByteString::from(version.as_str());
                }
                bridge::request(&mut row, from, protocol, wanted, self.max_message)
                    .map_err(|error| Error::Unsayable(error.into()))?;
                Ok(Request::from(row))
            })
            .collect()
    }
}

/// Returns the form in which a server takes tensors.
fn form(protocol: Protocol, description: &Description) -> Form {
    match protocol {
        Protocol::OipGrpc | Protocol::TfservingGrpc => Form::Raw,
        Protocol::OipRest if description.binary => Form::Raw,
        Protocol::OipRest => Form::Flat,
        Protocol::TfservingRest => Form::Rows,
    }
}

/// Reads the files of rows, where there are any.
fn read(options: &Probe) -> Result<Option<Vec<RequestParts>>, Error> {
    if options.input.is_empty() {
        return Ok(None);
    }
    let requests = options.input.iter().map(|path| {
        let text = fs::read(path).map_err(|source| Error::Unreadable {
            path: path.clone(),
            source,
        })?;
        input::read(text).map_err(|fault| Error::Input {
            path: path.clone(),
            fault,
        })
    });
    requests.collect::<Result<_, _>>().map(Some)
}
