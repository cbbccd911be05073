//! What `/models` shows of a model's filters.

use std::time::Duration;

use outrigger_filters::{
    batch::{BenefitView, Pays},
    cache,
    select::{Learner, ShadowView},
};
use serde_json::json;

/// Says how arms are chosen, and for how many callers apart.
pub(super) fn selection(learner: &Learner) -> serde_json::Value {
    let config = learner.config();
    let mut shown = json!({
        "policy": config.policy.as_str(),
        "ensemble": config.asks_all(),
        "frozen": config.freeze,
    });
    if let Some(context) = &config.context {
        shown["context"] = json!({
            "header": &*context.header,
            "in_memory": learner.memory().view().contexts,
            "max_contexts": context.max_contexts,
        });
    }
    shown
}

/// Says how like the answers of a shadow are to those that were given.
pub(super) fn shadow(view: &ShadowView) -> serde_json::Value {
    json!({
        "share": view.share,
        "copies": view.copies,
        "failed": view.failed,
        "skipped": view.skipped,
        "rows": view.rows,
        "agreement": (view.rows > 0).then(|| view.agree as f64 / view.rows as f64),
        "max_difference": view.max_difference,
    })
}

/// Says what the cache holds and what it is good for.
pub(super) fn cache(view: &cache::View) -> serde_json::Value {
    let says = match view.hit_ratio {
        _ if view.bypasses => {
            "looking rows up costs more than it saves: but for a few, they go past the cache"
                .to_owned()
        }
        Some(ratio) => format!("the model is not asked for {:.1} of 100 rows", ratio * 100.),
        None => "no row was looked up yet".to_owned(),
    };
    json!({
        "says": says,
        "bytes": view.bytes,
        "max_bytes": view.max_bytes,
        "rows": view.rows,
        "hit_ratio": view.hit_ratio,
        "hits": view.hits,
        "joined": view.joined,
        "misses": view.misses,
        "bypassed": view.bypassed,
        "generation": view.generation,
    })
}

/// Says what batching brings, in words and in figures; times are seconds.
pub(super) fn benefit(view: &BenefitView) -> serde_json::Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let says = match (view.pays, view.speed_up) {
        (Pays::No { again }, _) => format!(
            "batching does not pay: requests are sent singly, and batching is tried again in {} s",
            again.as_secs()
        ),
        (_, Some(times)) => {
            format!("the model answers {times:.2} times as many rows because of batching")
        }
        (_, None) => "not known yet".to_owned(),
    };
    json!({
        "says": says,
        "pays": view.pays.as_str(),
        "speed_up": view.speed_up,
        "standard_error": view.error,
        "held_out": view.hold_outs,
        "batch_rows": view.batch_rows,
        "rows_per_second": view.rate,
        "with": { "seconds_per_row": seconds(view.with), "calls_under_way": view.busy },
        "without": {
            "seconds_per_row": seconds(view.without),
            "calls_under_way": view.busy_without,
            "p50": seconds(view.alone_p50),
            "p99": seconds(view.alone_p99),
        },
    })
}
