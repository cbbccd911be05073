//! What is told.

use std::{fmt, time::Duration};

use outrigger_filters::{batch::Batchable, cache};
use serde_json::{Value, json};

use super::{
    Error,
    judge::{Judgement, Verdict},
    observe::Times,
};
use crate::config;

/// What was found out about a model.
#[derive(Debug)]
pub struct Report {
    pub(super) model: String,
    pub(super) switched: Switched,
    pub(super) endpoints: Vec<Examined>,
}

/// What was found out about one of a model's endpoints.
#[derive(Debug)]
pub struct Examined {
    pub(super) arm: String,
    pub(super) upstream: String,
    pub(super) endpoint: String,
    pub(super) protocol: config::Protocol,
    pub(super) found: Result<Found, Error>,
}

/// What the calls to an endpoint have shown.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) batchable: Batchable,
    pub(super) batching: Judgement,
    pub(super) caching: Judgement,
    /// Whether answers of rows alone came again bit by bit.
    pub(super) bit_equal: bool,
    /// The same of answers of merged calls.
    pub(super) merged_bit_equal: bool,
    pub(super) rows: usize,
    /// The rows of the largest merged call.
    pub(super) most: usize,
    pub(super) tolerance: f64,
    pub(super) times: Times,
}

/// What the configuration switches on for a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Switched {
    pub(super) batch: Option<Batching>,
    /// What an entry of the cache holds, where there is one.
    pub(super) cache: Option<cache::Unit>,
}

/// How a model's requests are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batching {
    pub(super) max_batch_size: Option<usize>,
}

impl Switched {
    pub(super) fn of(model: &config::Model) -> Self {
        let batch = model.batch.as_ref();
        Self {
            batch: batch.map(|batch| Batching {
                max_batch_size: batch.max_batch_size,
            }),
            cache: model.cache.as_ref().map(|cache| cache.unit),
        }
    }

    /// Tells whether requests for a model are merged, with what its server says of it.
    fn merges(self, batchable: Batchable) -> bool {
        self.batch.is_some_and(|batch| match batchable {
            Batchable::Yes { .. } => true,
            Batchable::Unasked | Batchable::Unknown => batch.max_batch_size.is_some(),
            Batchable::No(_) => false,
        })
    }

    /// Tells whether what a row was answered in one call is given again in the company of others,
    /// with what the model's server says of it.
    fn caches_rows(self, batchable: Batchable) -> bool {
        self.cache.is_some_and(|unit| match (unit, batchable) {
            (cache::Unit::Request, _) | (_, Batchable::No(_)) => false,
            (cache::Unit::Row, _) | (cache::Unit::Auto, Batchable::Yes { .. }) => true,
            // Who says that rows may be merged says that they are independent.
            (cache::Unit::Auto, Batchable::Unasked | Batchable::Unknown) => self.merges(batchable),
        })
    }
}

impl Report {
    /// Returns the status that the process ends with: 0 where everything that the configuration
    /// switches on for the model is safe, 1 where something is not, or not known to be, and 2 where
    /// an endpoint could not be probed.
    pub fn status(&self) -> u8 {
        let found = || self.endpoints.iter().map(|examined| &examined.found);
        if found().flatten().any(|found| !self.is_safe(found)) {
            UNSAFE
        } else if found().any(Result::is_err) {
            MISUSED
        } else {
            0
        }
    }

    /// Returns the endpoints with what was found out about them.
    pub fn endpoints(&self) -> &[Examined] {
        &self.endpoints
    }

    /// Returns the same for machines.
    pub fn json(&self) -> Value {
        let endpoints = self.endpoints.iter().map(|examined| {
            let mut shown = json!({
                "arm": examined.arm,
                "upstream": examined.upstream,
                "endpoint": examined.endpoint,
                "protocol": examined.protocol.as_str(),
            });
            match &examined.found {
                Ok(found) => {
                    shown["batching"] = judgement(&found.batching);
                    shown["batching"]["configured"] = self.switched.merges(found.batchable).into();
                    shown["batching"]["rows"] = found.most.into();
                    shown["batching"]["bit_equal_when_repeated"] = found.merged_bit_equal.into();
                    shown["caching"] = judgement(&found.caching);
                    shown["caching"]["configured"] = self.switched.cache.is_some().into();
                    shown["caching"]["by_row"] = self.switched.caches_rows(found.batchable).into();
                    shown["caching"]["bit_equal"] = found.bit_equal.into();
                    shown["rows"] = found.rows.into();
                    shown["tolerance"] = found.tolerance.into();
                    shown["seconds"] = json!({
                        "alone": found.times.alone.map(|time| time.as_secs_f64()),
                        "merged": found.times.merged.map(|time| time.as_secs_f64()),
                    });
                    shown["speedup_per_row"] = found.speedup().into();
                }
                Err(error) => shown["error"] = Error::whole(error).into(),
            }
            shown
        });
        json!({
            "model": self.model,
            "endpoints": endpoints.collect::<Value>(),
            "status": self.status(),
        })
    }

    fn is_safe(&self, found: &Found) -> bool {
        self.is_merged_safely(found) && self.is_cached_safely(found)
    }

    fn is_merged_safely(&self, found: &Found) -> bool {
        found.has_independent_rows() || !self.switched.merges(found.batchable)
    }

    fn is_cached_safely(&self, found: &Found) -> bool {
        let rows = found.has_independent_rows() || !self.switched.caches_rows(found.batchable);
        self.switched.cache.is_none() || found.caching.verdict == Verdict::Safe && rows
    }

    /// Says in words what was found out about an endpoint.
    fn words(&self, found: &Found, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judgement {
            verdict, reason, ..
        } = &found.batching;
        let is_safe = self.is_merged_safely(found);
        let sentence = match verdict {
            Verdict::Safe => "Batching is safe",
            Verdict::Unsafe if is_safe => "Batching would be unsafe",
            Verdict::Unsafe => "Batching is UNSAFE, and configured",
            Verdict::Unknown if is_safe => "Nobody knows whether batching is safe",
            Verdict::Unknown => "Nobody knows whether batching is safe, and it is configured",
            Verdict::Idle => "There is no batching",
        };
        write!(f, "{sentence}: {reason}.")?;
        let unsaid = matches!(found.batchable, Batchable::Unasked | Batchable::Unknown);
        if unsaid && *verdict == Verdict::Safe && !self.switched.merges(found.batchable) {
            let how = "only `batch.max_batch_size` would switch it on";
            write!(
                f,
                " The server does not say that the model takes batches: {how}."
            )?;
        }
        writeln!(f)?;
        writeln!(f, "{}: {}.", self.of_caching(found), found.caching.reason)?;
        if let (Some(alone), Some(merged), Some(speedup)) =
            (found.times.alone, found.times.merged, found.speedup())
        {
            let longer = merged.as_secs_f64() / alone.as_secs_f64().max(f64::MIN_POSITIVE);
            let worth = if speedup >= WORTH {
                format!("batching is worth {}", times(speedup))
            } else {
                format!("batching is hardly worth it ({})", times(speedup))
            };
            let rows = found.most;
            writeln!(
                f,
                "One call of {rows} rows takes {} a call of one: {worth}.",
                times(longer)
            )?;
        }
        Ok(())
    }

    /// Says whether answers may be given again, but not why.
    fn of_caching(&self, found: &Found) -> &'static str {
        let is_configured = self.switched.cache.is_some();
        match (found.caching.verdict, found.batching.verdict) {
            (Verdict::Unsafe, _) if is_configured => "Caching is UNSAFE, and configured",
            (Verdict::Unsafe, _) => "Caching would be unsafe",
            (_, Verdict::Unsafe) if !self.is_cached_safely(found) => {
                "Caching by row is UNSAFE, and configured, since the answer to a row depends on the \
                 others of its call; with `unit: request` it is safe"
            }
            (_, Verdict::Unknown) if !self.is_cached_safely(found) => {
                "Nobody knows whether caching by row is safe, and it is configured; with `unit: \
                 request` it is safe"
            }
            (_, Verdict::Unsafe) => "Caching is safe with `unit: request`",
            _ => "Caching is safe",
        }
    }
}

impl Examined {
    /// Returns the verdicts on batching and on caching.
    ///
    /// # Errors
    ///
    /// Returns why the endpoint was not probed.
    pub fn verdicts(&self) -> Result<(Verdict, Verdict), &Error> {
        let found = self.found.as_ref()?;
        Ok((found.batching.verdict, found.caching.verdict))
    }

    /// Returns what the table says of it.
    fn cells(&self) -> [String; COLUMNS] {
        let mut cells = [
            self.arm.clone(),
            self.endpoint.clone(),
            self.protocol.to_string(),
        ]
        .to_vec();
        match &self.found {
            Ok(found) => {
                let time = |time: Option<Duration>| time.map_or("-".to_owned(), duration);
                cells.extend([
                    cell(&found.batching),
                    cell(&found.caching),
                    time(found.times.alone),
                    time(found.times.merged),
                    found.speedup().map_or("-".to_owned(), times),
                ]);
            }
            Err(_) => cells.extend(["not probed", "", "", "", ""].map(str::to_owned)),
        }
        std::array::from_fn(|column| cells.get(column).cloned().unwrap_or_default())
    }
}

impl Found {
    /// Tells whether a row has the same answer in whatever company.
    fn has_independent_rows(&self) -> bool {
        matches!(self.batching.verdict, Verdict::Safe | Verdict::Idle)
    }

    /// Returns how much less a row costs in the largest call.
    fn speedup(&self) -> Option<f64> {
        let (alone, merged) = (self.times.alone?, self.times.merged?);
        (!merged.is_zero()).then(|| alone.as_secs_f64() * self.most as f64 / merged.as_secs_f64())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self
            .endpoints
            .iter()
            .filter_map(|each| each.found.as_ref().ok());
        let most = found.map(|found| found.most).max().unwrap_or_default();
        let merged = if most > 1 {
            format!("{most} rows")
        } else {
            "merged".to_owned()
        };
        let headings: [&str; COLUMNS] = [
            "arm", "endpoint", "protocol", "batching", "caching", "1 row", &merged, "worth",
        ];
        let mut table = vec![headings.map(str::to_owned)];
        table.extend(self.endpoints.iter().map(Examined::cells));
        let width = |column: usize| {
            let cells = table.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        writeln!(f, "model {}", self.model)?;
        for row in &table {
            let cells = row.iter().enumerate();
            let line: Vec<String> = cells
                .map(|(column, cell)| format!("{cell:<width$}", width = width(column)))
                .collect();
            writeln!(f, "{}", line.join("  ").trim_end())?;
        }
        for examined in &self.endpoints {
            writeln!(f)?;
            if self.endpoints.len() > 1 {
                writeln!(f, "{} at {}:", examined.arm, examined.endpoint)?;
            }
            match &examined.found {
                Ok(found) => self.words(found, f)?,
                Err(error) => writeln!(f, "Not probed: {}.", Error::whole(error))?,
            }
        }
        Ok(())
    }
}

fn judgement(judgement: &Judgement) -> Value {
    json!({
        "verdict": judgement.verdict.as_str(),
        "reason": judgement.reason,
        "largest_difference": judgement.largest,
    })
}

fn cell(judgement: &Judgement) -> String {
    let verdict = judgement.verdict.as_str();
    match judgement.largest {
        Some(largest) if largest > 0. => format!("{verdict} ({largest:.1e})"),
        _ => verdict.to_owned(),
    }
}

/// Writes a duration with three digits.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (figure, unit) = if seconds >= 1. {
        (seconds, "s")
    } else if seconds >= 1e-3 {
        (seconds * 1e3, "ms")
    } else {
        (seconds * 1e6, "us")
    };
    format!("{} {unit}", digits(figure))
}

fn times(factor: f64) -> String {
    if factor >= 10. {
        format!("{factor:.0}x")
    } else {
        format!("{factor:.1}x")
    }
}

fn digits(figure: f64) -> String {
    if figure >= 99.95 {
        format!("{figure:.0}")
    } else if figure >= 9.995 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}

const COLUMNS: usize = 8;
/// Below this the rows of a call may as well go alone.
const WORTH: f64 = 1.2;
const UNSAFE: u8 = 1;
const MISUSED: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(batching: Verdict, caching: Verdict, batchable: Batchable) -> Found {
        let judgement = |verdict, reason: &str, largest| Judgement {
            verdict,
            reason: reason.to_owned(),
            largest: Some(largest),
        };
        Found {
            batchable,
            batching: judgement(batching, "16 rows are the same", 3.14e-7),
            caching: judgement(caching, "3 answers are the same", 0.),
            bit_equal: true,
            merged_bit_equal: true,
            rows: 16,
            most: 16,
            tolerance: 1e-5,
            times: Times {
                alone: Some(Duration::from_micros(400)),
                merged: Some(Duration::from_micros(520)),
            },
        }
    }

    fn report(max_batch_size: Option<usize>, found: Vec<Result<Found, Error>>) -> Report {
        let examined = found.into_iter().map(|found| Examined {
            arm: "svm".to_owned(),
            upstream: "triton".to_owned(),
            endpoint: "http://h:8001".to_owned(),
            protocol: config::Protocol::OipGrpc,
            found,
        });
        Report {
            model: "digits".to_owned(),
            switched: Switched {
                batch: Some(Batching { max_batch_size }),
                cache: None,
            },
            endpoints: examined.collect(),
        }
    }

    const YES: Batchable = Batchable::Yes {
        max_batch_size: None,
    };

    #[test]
    fn the_status_is_that_of_what_is_configured() {
        use Verdict::{Idle, Safe, Unknown, Unsafe};
        for (batching, batchable, max_batch_size, status) in [
            (Safe, YES, None, 0),
            (Idle, YES, None, 0),
            (Unsafe, YES, None, 1),
            (Unknown, YES, None, 1),
            // Nothing is merged for a server that does not say, unless the configuration does.
            (Unsafe, Batchable::Unknown, None, 0),
            (Unsafe, Batchable::Unknown, Some(8), 1),
        ] {
            // Nothing is cached.
            let one = report(max_batch_size, vec![Ok(found(batching, Unsafe, batchable))]);
            assert_eq!(one.status(), status, "{batching:?} {batchable:?}");
        }
        let missing = || Err(Error::NoRows("none".to_owned()));
        assert_eq!(report(None, vec![missing()]).status(), 2);
        let safe = || Ok(found(Safe, Safe, YES));
        assert_eq!(report(None, vec![safe(), missing()]).status(), 2);
        let unsafe_ = Ok(found(Unsafe, Safe, YES));
        assert_eq!(report(None, vec![unsafe_, missing()]).status(), 1);
        let unused = Report {
            switched: Switched::default(),
            ..report(None, vec![Ok(found(Unsafe, Unsafe, YES))])
        };
        assert_eq!(unused.status(), 0);
    }

    #[test]
    fn caching_counts_where_it_is_configured() {
        use Verdict::{Idle, Safe, Unknown, Unsafe};
        use cache::Unit::{Auto, Request, Row};
        const NO: Batchable = Batchable::No(outrigger_filters::batch::Unbatchable::Ragged);
        for (unit, batching, caching, batchable, status, words) in [
            (Auto, Safe, Safe, YES, 0, "Caching is safe: "),
            (
                Auto,
                Safe,
                Unsafe,
                YES,
                1,
                "Caching is UNSAFE, and configured: ",
            ),
            (
                Request,
                Unknown,
                Unsafe,
                YES,
                1,
                "Caching is UNSAFE, and configured: ",
            ),
            // An answer that came in other company is another one.
            (
                Auto,
                Unsafe,
                Safe,
                YES,
                1,
                "Caching by row is UNSAFE, and configured, ",
            ),
            (
                Row,
                Unsafe,
                Safe,
                Batchable::Unknown,
                1,
                "Caching by row is UNSAFE, and configured, ",
            ),
            (
                Row,
                Unknown,
                Safe,
                YES,
                1,
                "Nobody knows whether caching by row is safe, ",
            ),
            (
                Request,
                Unsafe,
                Safe,
                YES,
                0,
                "Caching is safe with `unit: request`: ",
            ),
            // A server that does not say is believed in nothing.
            (
                Auto,
                Unsafe,
                Safe,
                Batchable::Unknown,
                0,
                "Caching is safe with `unit: request`: ",
            ),
            (Row, Idle, Safe, NO, 0, "Caching is safe: "),
        ] {
            let report = Report {
                switched: Switched {
                    batch: None,
                    cache: Some(unit),
                },
                ..report(None, vec![Ok(found(batching, caching, batchable))])
            };
            let what = format!("{unit:?} {batching:?} {caching:?} {batchable:?}: {report}");
            assert_eq!(report.status(), status, "{what}");
            assert!(report.to_string().contains(words), "{what}");
            let shown = &report.json()["endpoints"][0]["caching"];
            assert_eq!(shown["configured"], true);
            let by_row = unit != Request && matches!(batchable, Batchable::Yes { .. });
            assert_eq!(
                shown["by_row"],
                by_row || unit == Row && batchable != NO,
                "{what}"
            );
        }
        // Requests that are merged by the word of the configuration are cached by row by it.
        let both = Report {
            switched: Switched {
                cache: Some(Auto),
                ..report(Some(8), Vec::new()).switched
            },
            ..report(Some(8), vec![Ok(found(Unsafe, Safe, Batchable::Unknown))])
        };
        assert_eq!(both.json()["endpoints"][0]["caching"]["by_row"], true);
        let text = both.to_string();
        assert!(
            text.contains("Batching is UNSAFE") && text.contains("Caching by row is UNSAFE"),
            "{text}"
        );
    }

    #[test]
    fn a_report_is_a_table_and_a_few_sentences() {
        let report = report(None, vec![Ok(found(Verdict::Safe, Verdict::Safe, YES))]);
        assert_eq!(
            report.to_string(),
            "model digits\n\
             arm  endpoint       protocol  batching       caching  1 row   16 rows  worth\n\
             svm  http://h:8001  oip-grpc  safe (3.1e-7)  safe     400 us  520 us   12x\n\
             \n\
             Batching is safe: 16 rows are the same.\n\
             Caching is safe: 3 answers are the same.\n\
             One call of 16 rows takes 1.3x a call of one: batching is worth 12x.\n"
        );
        let json = report.json();
        assert_eq!(json["endpoints"][0]["batching"]["verdict"], "safe");
        assert_eq!(
            json["endpoints"][0]["batching"]["largest_difference"],
            3.14e-7
        );
        assert_eq!(json["status"], 0);
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = |nanoseconds| duration(Duration::from_nanos(nanoseconds));
        assert_eq!(shown(412_345), "412 us");
        assert_eq!(shown(1_534_000), "1.53 ms");
        assert_eq!(shown(99_960_000), "100 ms");
        assert_eq!(shown(12_340_000_000), "12.3 s");
        assert_eq!((times(1.26), times(12.3)), ("1.3x".into(), "12x".into()));
    }
}
