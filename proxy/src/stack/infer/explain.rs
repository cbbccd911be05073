use std::error::Error;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_filters::{batch, inference::Report};

/// The header by which a caller asks why its answer came as it did, and in which it is told.
pub(super) const EXPLAIN: HeaderName = HeaderName::from_static("outrigger-explain");

/// Tells whether a caller asks for an explanation, and takes the question out of what is sent on.
pub(super) fn take_question(headers: &mut HeaderMap) -> bool {
    headers.remove(EXPLAIN).is_some_and(|value| value == "1")
}

/// Says what became of a request, as parameters of a structured field (RFC 8941).
///
/// ```text
/// outrigger-explain: batch;reason=full;rows=32;members=12;limit=32;note="the limit of rows was reached"
/// outrigger-explain: alone;reason=sequence;note="it belongs to a sequence"
/// outrigger-explain: direct;note="no filter is configured for the model"
/// ```
pub(super) fn explain(report: &Report) -> HeaderValue {
    let text = match (report.batch_reason, report.batch_rows) {
        (None, _) => "direct;note=\"no filter is configured for the model\"".to_owned(),
        (Some(reason), None) => format!("alone;reason={reason};note=\"{}\"", alone(reason)),
        (Some(reason), Some(rows)) => {
            let members = report.batch_members.unwrap_or(1);
            let limit = report.batch_limit.unwrap_or(rows);
            let note = closed(reason, members);
            format!(
                "batch;reason={reason};rows={rows};members={members};limit={limit};note=\"{note}\""
            )
        }
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("batch"))
}

/// Says why there is no answer.
///
/// ```text
/// outrigger-explain: refused;reason=queue;note="the batch queue is full: max_queue_rows is 25000"
/// ```
pub(super) fn refusal(error: &(dyn Error + 'static)) -> HeaderValue {
    let causes = || std::iter::successors(Some(error), |&cause| cause.source());
    let known = causes().find_map(|cause| match cause {
        cause if cause.is::<batch::Overloaded>() => Some(("queue", cause)),
        cause if cause.is::<batch::DeadlineExpired>() => Some(("deadline", cause)),
        cause if cause.is::<batch::Interrupted>() => Some(("interrupted", cause)),
        _ => None,
    });
    let shared = causes().any(|cause| cause.is::<batch::CallFailed>());
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
    fn a_refusal_says_whose_failure_it_is() {
        let own = std::io::Error::other("with \"quotes\"\n");
        assert_eq!(
            refusal(&own),
            "refused;reason=call;note=\"its own call failed\""
        );
    }

    #[test]
    fn every_reason_has_its_words() {
        use outrigger_filters::batch::{Alone, Closed};

        for reason in Closed::ALL {
            assert_ne!(closed(reason.name(), 2), "", "{reason:?}");
        }
        for reason in Alone::ALL {
            assert_ne!(alone(reason.name()), "", "{reason:?}");
        }
    }
}
