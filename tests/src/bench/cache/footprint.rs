//! What the store takes of the machine's memory, against what it was allowed.
//!
//! A cache stands over a model that takes no time, in a process of its own with the allocator of
//! the binary. Rows that were never asked before come as they come from a network: in buffers
//! that hold more than the row, on as many threads as serve connections.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::ops::RangeInclusive;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use outrigger_filters::batch::{Batchable, Capability};
use outrigger_filters::cache::{Bypass, CacheLayer, Config, Handles, Store, Unit};
use outrigger_filters::inference::{
    Datatype, Form, Head, Parameters, Payload, Request, RequestParts, Response, ResponseParts,
    Shape, Tensor,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::{Layer as _, Service};

use super::mixture::scattered;
use super::{Goals, Options, progress};
use crate::bench::table::Table;
use crate::bench::{Result, usage};

/// What one process inserts.
#[derive(Clone, Debug, clap::Args)]
pub struct Insertions {
    /// Rows that were never asked before
    #[arg(long)]
    pub rows: u64,
    /// Bytes of the smallest row
    #[arg(long)]
    pub smallest: usize,
    /// Bytes of the largest row
    #[arg(long)]
    pub largest: usize,
    /// Bytes that the store may take
    #[arg(long)]
    pub max_bytes: usize,
    /// Threads that insert
    #[arg(long)]
    pub threads: usize,
}

/// Answers each row with a few bytes, at once.
#[derive(Clone, Copy, Debug)]
struct AtOnce;

/// Rows of sizes that differ, each for the first time.
#[derive(Clone, Copy, Debug)]
struct Source {
    smallest: usize,
    largest: usize,
}

/// The most of what was seen while rows were inserted.
#[derive(Debug, Default)]
struct Most {
    counted: AtomicU64,
    resident: AtomicU64,
}

/// Measures in processes of their own, prints a table, and returns the figures.
pub(super) fn run(options: &Options, goals: &mut Goals) -> Result<Value> {
    let mut table = Table::new([
        "rows",
        "inserted",
        "bound",
        "counted, most",
        "resident, most",
        "resident, end",
        "over the bound",
        "entries",
        "ns/insert",
    ]);
    let mut figures = Vec::new();
    let threads = std::thread::available_parallelism()?.get().min(THREADS);
    for (name, sizes, part) in SIZES {
        let rows = (options.insertions / part).max(1);
        let mut child = Command::new(std::env::current_exe()?);
        child.arg("fill");
        for (option, value) in [
            ("--rows", rows as usize),
            ("--smallest", *sizes.start()),
            ("--largest", *sizes.end()),
            ("--max-bytes", BOUND),
            ("--threads", threads),
        ] {
            child.arg(option).arg(value.to_string());
        }
        progress(format_args!("{name}: {rows} rows\n"));
        let output = child.output()?;
        if !output.status.success() {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let mut seen: Value = serde_json::from_slice(&output.stdout)?;
        let number = |key: &str| seen[key].as_f64().unwrap_or(f64::NAN);
        let megabytes = |bytes: f64| format!("{:.2} MiB", bytes / f64::from(1 << 20));
        let over = (number("resident_most") / number("bound") - 1.0) * 100.0;
        let counted = (number("counted_most") / number("bound") - 1.0) * 100.0;
        table.row([
            name.into(),
            format!("{:.0}", number("inserted")),
            megabytes(number("bound")),
            megabytes(number("counted_most")),
            megabytes(number("resident_most")),
            megabytes(number("resident_end")),
            format!("{over:+.2} %"),
            format!("{:.0}", number("entries")),
            format!("{:.0}", number("nanoseconds")),
        ]);
        seen["sizes"] = name.into();
        seen["over_percent"] = over.into();
        seen["counted_over_percent"] = counted.into();
        figures.push(seen);
    }
    println!(
        "Rows that nobody asked before, answers of 4 to 40 bytes, {threads} threads\n\n{table}"
    );
    for (key, what, allowed) in [
        ("over_percent", "resident", ALLOWED),
        ("counted_over_percent", "counted", 0.0),
    ] {
        for seen in &figures {
            let over = seen[key].as_f64().unwrap_or(f64::NAN);
            let sizes = seen["sizes"].as_str().unwrap_or_default();
            goals.at_most(
                format_args!("% {what} over the bound, rows of {sizes}"),
                over,
                allowed,
            );
        }
    }
    Ok(json!({ "threads": threads, "sizes": figures }))
}

/// Inserts, and prints what was seen as JSON; in a process that does nothing else.
pub fn fill(insertions: &Insertions) -> Result<()> {
    let source = Source {
        smallest: insertions.smallest.max(NUMBER),
        largest: insertions.largest.max(insertions.smallest).max(NUMBER),
    };
    let threads = insertions.threads.max(1) as u64;
    let each = insertions.rows / threads;
    let (measured, rehearsal) = (OnceLock::new(), layer(REHEARSED));
    let most = Most::default();
    let start = Barrier::new(insertions.threads.max(1) + 1);
    let (before, began) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (measured, rehearsal, most, start) = (&measured, &rehearsal, &most, &start);
                let first = (thread + 1) << ROWS_OF_A_THREAD;
                scope.spawn(move || {
                    // What code, threads and the allocator take for themselves is there before it
                    // is measured.
                    let rehearsed = insert(rehearsal, source, first, REHEARSAL / threads, |_| {});
                    start.wait();
                    start.wait();
                    rehearsed?;
                    let layer: &CacheLayer = measured.get().ok_or("there is no cache")?;
                    // One looks, so that looking does not take its turn with itself.
                    let every = (each / LOOKS).max(1);
                    insert(layer, source, first, each, |n| {
                        if thread == 0 && n.is_multiple_of(every) {
                            most.look(layer.store());
                        }
                    })
                })
            })
            .collect();
        start.wait();
        let before = resident();
        measured.get_or_init(|| layer(insertions.max_bytes));
        let began = Instant::now();
        start.wait();
        for worker in workers {
            worker.join().map_err(|_| "a thread panicked")??;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((before?, began))
    })?;
    let took = began.elapsed();
    let store = measured.get_or_init(|| layer(insertions.max_bytes)).store();
    most.look(store);
    let view = store.view();
    println!(
        "{}",
        json!({
            "inserted": each * threads,
            "bound": view.max_bytes,
            "counted_most": most.counted.into_inner(),
            "counted_end": view.bytes,
            "resident_most": most.resident.into_inner().saturating_sub(before),
            "resident_end": resident()?.saturating_sub(before),
            "resident_before": before,
            "entries": view.rows,
            "hits": view.hits,
            "misses": view.misses,
            "nanoseconds": took.as_nanos() as f64 / each as f64,
        })
    );
    Ok(())
}

fn layer(max_bytes: usize) -> CacheLayer {
    let config = Config {
        max_bytes,
        ttl: Duration::from_secs(3600),
        unit: Unit::Row,
        bypass: Bypass::Never,
        ..Config::default()
    };
    let capability = Capability::new(Batchable::Yes {
        max_batch_size: None,
    });
    CacheLayer::new(config, capability, Handles::default())
}

fn insert(
    layer: &CacheLayer,
    source: Source,
    first: u64,
    count: u64,
    look: impl Fn(u64),
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        let mut cache = layer.layer(AtOnce);
        for n in 0..count {
            ask(&mut cache, source.request(first + n)).await?;
            // What is asked twice is let in before what is not: entries come and go.
            if n.is_multiple_of(10) {
                let again = source.request((first + n).saturating_sub(RECENT).max(first));
                ask(&mut cache, again).await?;
            }
            look(n);
        }
        Ok(())
    })
}

async fn ask<S>(cache: &mut S, request: Request) -> Result<()>
where
    S: Service<Request, Response = Response>,
    S::Error: Into<outrigger_filters::inference::Error>,
{
    poll_fn(|cx| cache.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    cache.call(request).await.map_err(Into::into)?;
    Ok(())
}

fn resident() -> Result<u64> {
    Ok(usage::of_tree(std::process::id())?.resident)
}

impl Most {
    fn look(&self, store: &Store) {
        let counted = store.view().bytes as u64;
        self.counted.fetch_max(counted, Ordering::Relaxed);
        // Where the system does not tell, the end of the run says so.
        if let Ok(now) = resident() {
            self.resident.fetch_max(now, Ordering::Relaxed);
        }
    }
}

impl Source {
    /// A message as a codec slices it: names and contents share one buffer with the rest.
    fn request(self, number: u64) -> Request {
        let len = self.len(number);
        let mut message = BytesMut::with_capacity(HEAD + len);
        message.put_slice(b"scoresinput0");
        message.put_bytes(0, HEAD - message.len());
        message.put_u64(number);
        message.put_bytes(0x5a, len - NUMBER);
        let message = message.freeze();
        let parts = RequestParts {
            head: Head {
                model: word(&message, 0..6),
                ..Head::default()
            },
            inputs: vec![tensor(word(&message, 6..12), len, message.slice(HEAD..))],
            ..RequestParts::default()
        };
        let held = message.len();
        Request::from_wire(parts, Arc::new(message), held)
    }

    /// Between the smallest and the largest, by ratio.
    fn len(self, number: u64) -> usize {
        let ratio = self.largest as f64 / self.smallest as f64;
        let share = (scattered(number) >> 11) as f64 / 2_f64.powi(53);
        ((self.smallest as f64 * ratio.powf(share)) as usize).clamp(self.smallest, self.largest)
    }
}

impl Service<Request> for AtOnce {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let row = request.inputs[0].data.to_bytes();
        let number = row
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let len = 4 + (scattered(!number) % 37) as usize;
        let mut message = BytesMut::with_capacity(HEAD + len);
        message.put_slice(b"scores1output0");
        message.put_bytes(0, HEAD - message.len());
        message.put_bytes(row.last().copied().unwrap_or(0), len);
        let message = message.freeze();
        ready(Ok(Response::from(ResponseParts {
            model: word(&message, 0..6),
            version: word(&message, 6..7),
            outputs: vec![tensor(word(&message, 7..14), len, message.slice(HEAD..))],
            ..ResponseParts::default()
        })))
    }
}

fn tensor(name: ByteString, len: usize, data: Bytes) -> Tensor {
    Tensor {
        name,
        datatype: Datatype::Uint8,
        shape: Shape::new([1, len as i64]),
        parameters: Parameters::default(),
        data: Payload::from(data),
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

fn word(message: &Bytes, range: std::ops::Range<usize>) -> ByteString {
    ByteString::try_from(message.slice(range)).expect("the words here are ASCII")
}

/// What the cache has by default.
const BOUND: usize = 64 << 20;
/// Percent that the process may take more than the bound.
const ALLOWED: f64 = 2.0;
/// As many as serve connections on a machine of this many cores, and no more than these.
const THREADS: usize = 4;
/// The sizes of rows, and which part of the insertions is made of them: the large ones are copied
/// for long.
const SIZES: [(&str, RangeInclusive<usize>, u64); 4] = [
    ("64 B", 64..=64, 1),
    ("3 KB", 3072..=3072, 1),
    ("16 B to 6 KB", 16..=6144, 1),
    ("1 KB to 512 KB", 1024..=524_288, 100),
];
/// Bytes of a message before the row.
const HEAD: usize = 160;
/// Bytes of a row's number.
const NUMBER: usize = 8;
/// Two to this power is more rows than a thread inserts.
const ROWS_OF_A_THREAD: u32 = 40;
/// Rows back that are asked again.
const RECENT: u64 = 20;
/// A cache of this size warms the process up, by so many rows.
const REHEARSED: usize = 64 << 10;
const REHEARSAL: u64 = 50_000;
/// How many times the memory is looked at.
const LOOKS: u64 = 400;
