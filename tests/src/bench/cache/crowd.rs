//! Many callers who ask for the same unknown row at the same moment.

use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::{Calls, Load, Pace, Target};
use serde_json::{Value, json};

use super::mixture::{Answer, Mixture};
use super::pages::Looked;
use super::{Goals, Options, all_right};
use crate::bench::batching::batches;
use crate::bench::table::{Table, median, millis};
use crate::bench::{Result, message};

/// Everyone asks the first question of a mixture.
struct Same(Mixture);

/// Measures, prints a table, and returns the figures.
pub(super) fn run(options: &Options, goals: &mut Goals) -> Result<Value> {
    let model = format!("echo,name={MODEL},beta={}", THINKING.as_micros());
    let (server, _container) = options.container("crowd-model", &model)?;
    let models = format!("models:\n  {MODEL}:\n    cache: {{}}\n");
    let proxy = options.outrigger("crowd-outrigger", server, &models)?;
    let rows = Mixture::new(MODEL, "input0", COLUMNS, Answer::Echo);
    let mut table = Table::new([
        "callers",
        "rows at the model",
        "hit",
        "joined",
        "miss",
        "p99",
    ]);
    let mut asked = Vec::new();
    for _ in 0..options.repeats {
        let target = Target::new(proxy.address, message::INFER)?.connections(CONNECTIONS);
        let before = (batches(server, MODEL), Looked::of(proxy.admin, MODEL)?);
        // Nobody asks twice: the load is over long before the model has thought.
        let report = Load::new(
            target,
            Pace::Closed { callers: CROWD },
            Same(rows.clone().fresh()),
        )
        .lasting(THINKING / 2)
        .run()?;
        let after = (batches(server, MODEL), Looked::of(proxy.admin, MODEL)?);
        all_right("Outrigger", &report)?;
        let executed = match (before.0, after.0) {
            (Some((_, before)), Some((_, after))) => after.saturating_sub(before) as f64,
            _ => f64::NAN,
        };
        let looked = after.1.since(before.1);
        table.row([
            report.sent().to_string(),
            executed.to_string(),
            looked.hit.to_string(),
            looked.joined.to_string(),
            looked.miss.to_string(),
            millis(report.latency(0.99)),
        ]);
        asked.push(executed);
    }
    println!("{CROWD} callers ask for one row that nobody knows\n\n{table}");
    let most = asked.iter().copied().fold(f64::NAN, f64::max);
    goals.at_most("rows at the model for one that all want", most, 1.0);
    Ok(json!({
        "callers": CROWD,
        "model_rows": asked,
        "model_rows_median": median(asked.iter().copied()),
    }))
}

impl Calls for Same {
    fn body(&self, _: u64) -> Bytes {
        self.0.body(0)
    }

    fn accept(&self, _: u64, answer: &Bytes) -> bool {
        self.0.accept(0, answer)
    }
}

const MODEL: &str = "scores";
const COLUMNS: usize = 64;
const CROWD: usize = 1000;
const CONNECTIONS: usize = 20;
/// What the model takes: longer than a thousand callers need to ask.
const THINKING: Duration = Duration::from_secs(1);
