use std::{error::Error, fmt::Write as _};

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_filters::{
    batch, cache,
    deadline::Expired,
    inference::{CacheReport, CacheResult, Report, SelectionReport},
    overload::Overloaded,
};

/// The header by which a caller asks why its answer came as it did, and in which it is told.
pub(super) const EXPLAIN: HeaderName = HeaderName::from_static("outrigger-explain");

/// Why nothing is looked up or stored of a request that names a label: it is not known yet what that
/// stands for, and so it would not be seen when it comes to stand for another version.
pub(super) const LABEL: &str = "label";

/// Tells whether a caller asks for an explanation, and takes the question out of what is sent on.
pub(super) fn take_question(headers: &mut HeaderMap) -> bool {
    headers.remove(EXPLAIN).is_some_and(|value| value == "1")
}

/// Says what became of a request, as a list of items with parameters (RFC 8941): one for each filter
/// that it came to.
///
/// ```text
/// outrigger-explain: batch;reason=full;rows=32;members=12;limit=32;note="the limit of rows was reached"
/// outrigger-explain: cache;result=partial;hits=20;joined=0;sent=12;reason=absent;note="...", batch;...
/// outrigger-explain: cache;result=hit;hits=1;joined=0;sent=0;note="the model was asked nothing"
/// outrigger-explain: alone;reason=sequence;note="it belongs to a sequence"
/// outrigger-explain: select;policy=exp3;arm="svm";probability=0.9100;unreached=0;note="...", cache;...
/// outrigger-explain: direct;note="no filter is configured for the model"
/// ```
pub(super) fn explain(report: &Report) -> HeaderValue {
    let mut text = report.cache.as_ref().map(cache).unwrap_or_default();
    let is_hit = |cache: &CacheReport| cache.result == CacheResult::Hit;
    if !report.cache.as_ref().is_some_and(is_hit)
        && let Some(batch) = batch(report)
    {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&batch);
    }
    if let Some(selection) = &report.selection {
        let rest = std::mem::take(&mut text);
        text = select(selection);
        if !rest.is_empty() {
            text = format!("{text}, {rest}");
        }
    }
    if text.is_empty() {
        text.push_str("direct;note=\"no filter is configured for the model\"");
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("batch"))
}

fn select(report: &SelectionReport) -> String {
    let arm = report.arm.as_deref().unwrap_or_default();
    // An arm's name may hold what a string of such a list may not.
    let arm: String = arm
        .chars()
        .filter(|char| char.is_ascii_graphic() && !matches!(char, '"' | '\\'))
        .collect();
    let SelectionReport {
        policy,
        probability,
        asked,
        answered,
        unreached,
        ..
    } = report;
    let mut text = format!("select;policy={policy};arm=\"{arm}\";probability={probability:.4}");
    let note = match (asked, report.default) {
        (_, Some(_)) => "the default output is given in the place of some or all of the answer",
        (1, None) if *unreached > 0 => "another arm was chosen first, and could not be reached",
        (1, None) => "one arm was chosen",
        (_, None) if answered < asked => "the arms that answered were put together",
        (_, None) => "the answers of all arms were put together",
    };
    let _ = match asked {
        1 => write!(text, ";unreached={unreached}"),
        _ => write!(text, ";asked={asked};answered={answered}"),
    };
    let _ = write!(text, ";note=\"{note}\"");
    text
}

fn cache(report: &CacheReport) -> String {
    let CacheReport {
        result,
        hits,
        joined,
        sent,
        reason,
        ..
    } = report;
    let result = result.name();
    let counts = format!("cache;result={result};hits={hits};joined={joined};sent={sent}");
    match reason {
        Some(reason) => format!("{counts};reason={reason};note=\"{}\"", not_stored(reason)),
        None => format!("{counts};note=\"the model was asked nothing\""),
    }
}

fn batch(report: &Report) -> Option<String> {
    let reason = report.batch_reason?;
    let Some(rows) = report.batch_rows else {
        return Some(format!("alone;reason={reason};note=\"{}\"", alone(reason)));
    };
    let members = report.batch_members.unwrap_or(1);
    let limit = report.batch_limit.unwrap_or(rows);
    let note = closed(reason, members);
    Some(format!(
        "batch;reason={reason};rows={rows};members={members};limit={limit};note=\"{note}\""
    ))
}

/// Says why there is no answer.
///
/// ```text
/// outrigger-explain: refused;reason=queue;note="the queue is full: max_queue_rows is 25000"
/// outrigger-explain: refused;reason=not_cached;note="cache-control: only-if-cached, and the answer ..."
/// ```
pub(super) fn refusal(error: &(dyn Error + 'static)) -> HeaderValue {
    let causes = || std::iter::successors(Some(error), |&cause| cause.source());
    let known = causes().find_map(|cause| match cause {
        cause if cause.is::<Overloaded>() => Some(("queue", cause)),
        cause if cause.is::<Expired>() => Some(("deadline", cause)),
        cause if cause.is::<batch::Interrupted>() => Some(("interrupted", cause)),
        cause if cause.is::<cache::NotCached>() => Some(("not_cached", cause)),
        _ => None,
    });
    let shared =
        causes().any(|cause| cause.is::<batch::CallFailed>() || cause.is::<cache::CallFailed>());
    let (reason, note) = match known {
        Some((reason, cause)) => (reason, cause.to_string()),
        None if shared => (
            "shared",
            "the call that it shared with others failed".to_owned(),
        ),
        None => ("call", "its own call failed".to_owned()),
    };
    HeaderValue::try_from(format!("refused;reason={reason};note=\"{note}\""))
        .unwrap_or(HeaderValue::from_static("refused"))
}

fn not_stored(reason: &str) -> &'static str {
    match reason {
        "no_store" => "nothing of it shall be stored",
        LABEL => "the label has not been looked up yet",
        "no_cache" => "the caller wants the model itself to answer",
        "sequence" => "it belongs to a sequence",
        "shared_memory" => "its tensors lie in shared memory",
        "unknown_fields" => "it has fields that are not understood",
        "parameters" => "it has too many parameters to compare",
        "stateful" => "the model keeps state between requests",
        "decoupled" => "the model gives none or several answers to a request",
        "unasked" => "the server has not said yet what the model takes",
        "does_not_pay" => "looking rows up costs more than it saves",
        "unlike" => "the answers to its rows did not go together",
        "expired" => "what was stored is too old",
        "absent" => "they were not stored",
        _ => "",
    }
}

fn closed(reason: &str, members: usize) -> &'static str {
    match reason {
        "full" => "the limit of rows was reached",
        "bytes" => "max_batch_bytes was reached",
        "idle" if members == 1 => "the endpoint was free and nothing else waited to be merged",
        "idle" => "nothing else waited",
        "incompatible" => "what else waited differs in more than its rows",
        "halved" => "the call failed and its members were sent again in parts",
        "delay" => "no more company came within max_delay",
        "deadline" => "more rows would have made the call late for a deadline",
        "drain" => "the process or the stack ends",
        "split" => "it has more rows than calls may have and was sent in parts",
        "holdout" => "it was sent by itself to see what batching is worth",
        _ => "",
    }
}

fn alone(reason: &str) -> &'static str {
    match reason {
        "sequence" => "it belongs to a sequence",
        "shared_memory" => "its tensors lie in shared memory",
        "unknown_fields" => "it has fields that are not understood",
        "no_inputs" => "it has no inputs",
        "scalar" => "an input has no rows",
        "no_rows" => "an input has no row",
        "rows_disagree" => "its inputs have different numbers of rows",
        "length" => "the contents of an input do not fill its shape",
        "parameters" => "it has too many parameters to compare",
        "unbatchable" => "the model takes no batches, or does not say that it does",
        "quarantined" => "a call failed for the sake of the same inputs",
        "indivisible" => "its parts' answers could not be joined",
        "does_not_pay" => "batching does not pay for this model",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_names_the_reason_and_the_figures() {
        let report = Report {
            batch_rows: Some(1),
            batch_members: Some(1),
            batch_limit: Some(8),
            batch_reason: Some("idle"),
            ..Report::default()
        };
        assert_eq!(
            explain(&report),
            "batch;reason=idle;rows=1;members=1;limit=8;\
             note=\"the endpoint was free and nothing else waited to be merged\""
        );
        let alone = Report {
            batch_reason: Some("sequence"),
            ..Report::default()
        };
        assert_eq!(
            explain(&alone),
            "alone;reason=sequence;note=\"it belongs to a sequence\""
        );
        assert!(
            explain(&Report::default())
                .to_str()
                .unwrap()
                .starts_with("direct")
        );
    }

    #[test]
    fn an_explanation_names_the_cache_before_the_batch_that_the_rest_went_into() {
        let cache = CacheReport {
            result: CacheResult::Partial,
            hits: 20,
            joined: 1,
            sent: 12,
            reason: Some("absent"),
            age: None,
        };
        let partial = Report {
            cache: Some(cache),
            batch_rows: Some(12),
            batch_reason: Some("idle"),
            ..Report::default()
        };
        assert_eq!(
            explain(&partial),
            "cache;result=partial;hits=20;joined=1;sent=12;reason=absent;\
             note=\"they were not stored\", batch;reason=idle;rows=12;members=1;limit=12;\
             note=\"the endpoint was free and nothing else waited to be merged\""
        );
        let hit = Report {
            cache: Some(CacheReport {
                result: CacheResult::Hit,
                sent: 0,
                reason: None,
                ..cache
            }),
            batch_reason: Some("unbatchable"),
            ..Report::default()
        };
        assert_eq!(
            explain(&hit),
            "cache;result=hit;hits=20;joined=1;sent=0;note=\"the model was asked nothing\""
        );
    }

    #[test]
    fn a_refusal_says_whose_failure_it_is() {
        let own = std::io::Error::other("with \"quotes\"\n");
        assert_eq!(
            refusal(&own),
            "refused;reason=call;note=\"its own call failed\""
        );
    }

    #[test]
    fn every_reason_has_its_words() {
        use outrigger_filters::{
            batch::{Alone, Closed},
            inference::Apart,
        };

        for reason in Closed::ALL {
            assert_ne!(closed(reason.name(), 2), "", "{reason:?}");
        }
        for reason in Alone::ALL {
            assert_ne!(alone(reason.name()), "", "{reason:?}");
        }
        for reason in Apart::ALL {
            assert_ne!(not_stored(reason.name()), "", "{reason:?}");
        }
        assert_ne!(not_stored(LABEL), "");
    }
}
