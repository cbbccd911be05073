//! Runs nghttp2's `h2load` and reads what it says.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::Result;
use super::process::pinned;

/// How a load is spread: connections, and streams on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// Streams on each connection at a time.
    pub streams: usize,
}

/// What one run gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Answers a second.
    pub rate: f64,
    /// Median latency.
    pub p50: Duration,
    /// The latency that 99 in 100 answers did not exceed.
    pub p99: Duration,
}

/// Sends `count` copies of the body in `file` and returns the figures, or says what went wrong.
pub fn run(
    core: Option<usize>,
    address: SocketAddr,
    shape: Shape,
    count: u64,
    file: &Path,
    folder: &Path,
) -> Result<Run> {
    let log = folder.join("h2load.tsv");
    // It appends.
    let _ = std::fs::remove_file(&log);
    let mut command = pinned(core, "h2load");
    command
        .args(["-t", "1", "-n", &count.to_string()])
        .args([
            "-c",
            &shape.connections.to_string(),
            "-m",
            &shape.streams.to_string(),
        ])
        .arg("-d")
        .arg(file)
        .arg(format!("--log-file={}", log.display()));
    for header in HEADERS {
        command.args(["-H", header]);
    }
    let output = command.arg(format!("http://{address}{PATH}")).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (rate, succeeded) = summary(&text).ok_or_else(|| {
        format!(
            "h2load said nothing of use:\n{text}{}",
            stderr(&output.stderr)
        )
    })?;
    if succeeded != count {
        return Err(format!("only {succeeded} of {count} calls were answered:\n{text}").into());
    }
    let (p50, p99) = percentiles(&std::fs::read_to_string(&log)?, count)?;
    Ok(Run { rate, p50, p99 })
}

/// Reads requests per second, and how many got a 2xx, of the summary.
fn summary(text: &str) -> Option<(f64, u64)> {
    let finished = text.lines().find(|line| line.starts_with("finished in "))?;
    let rate = finished
        .split(", ")
        .find_map(|part| part.strip_suffix(" req/s"))?
        .parse()
        .ok()?;
    let requests = text
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))?;
    let succeeded = requests
        .split(", ")
        .find_map(|part| part.strip_suffix(" succeeded"))?
        .parse()
        .ok()?;
    Some((rate, succeeded))
}

/// Reads the log's lines: start, status, microseconds.
fn percentiles(log: &str, count: u64) -> Result<(Duration, Duration)> {
    let mut latencies: Vec<u64> = Vec::new();
    for line in log.lines() {
        let mut columns = line.split('\t');
        match (
            columns.nth(1),
            columns.next().and_then(|column| column.parse().ok()),
        ) {
            (Some("200"), Some(latency)) => latencies.push(latency),
            _ => return Err(format!("h2load logged a call that failed: {line}").into()),
        }
    }
    if latencies.len() as u64 != count {
        return Err(format!("h2load logged {} of {count} calls", latencies.len()).into());
    }
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share).ceil() as usize;
        latencies
            .get(index.saturating_sub(1))
            .copied()
            .map_or(Duration::ZERO, Duration::from_micros)
    };
    Ok((at(0.5), at(0.99)))
}

fn stderr(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The method that is called; nothing in the peers depends on it.
pub const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// What a gRPC client sends, and four headers more as a mesh and its users add them.
pub const HEADERS: [&str; 6] = [
    "content-type: application/grpc",
    "te: trailers",
    "x-request-id: 5f1c2a7e-93bb-4d0c-9b8e-0f3d5a6c7e21",
    "x-user: 104729",
    "authorization: Bearer 0123456789abcdef0123456789abcdef0123456789abcdef",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_and_the_log_are_read() {
        let text = "progress: 100% done\n\n\
            finished in 1.58s, 63291.14 req/s, 20.1MB/s\n\
            requests: 1000 total, 1000 started, 1000 done, 998 succeeded, 2 failed, 0 errored, 0 timeout\n";
        assert_eq!(summary(text), Some((63291.14, 998)));
        let log: String = (1..=200).map(|n| format!("17000{n}\t200\t{n}\n")).collect();
        let (p50, p99) = percentiles(&log, 200).expect("all succeeded");
        assert_eq!((p50.as_micros(), p99.as_micros()), (100, 198));
    }

    #[test]
    fn a_failed_or_a_missing_call_is_an_error() {
        assert!(percentiles("1\t200\t5\n2\t-1\t5\n", 2).is_err());
        assert!(percentiles("1\t200\t5\n", 2).is_err());
        assert!(summary("nothing").is_none());
    }
}
