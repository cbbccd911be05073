//! What follows from what was seen.

use outrigger_filters::batch::{Batchable, Unbatchable};

use super::observe::Observed;

/// Whether something that a filter does leaves a model's answers what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Safe,
    /// It does not.
    Unsafe,
    /// That cannot be told.
    Unknown,
    /// The filter does nothing for this model.
    Idle,
}

/// A verdict and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    /// One sentence without a full stop.
    pub(super) reason: String,
    /// The largest difference, where it is a number.
    pub(super) largest: Option<f64>,
}

/// What limits the rows of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Most {
    /// So many rows are merged.
    Rows(usize),
    /// A call has one row, by the configuration or by the server.
    One,
    /// The model takes no batches.
    None(Unbatchable),
}

impl Verdict {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Unsafe => "unsafe",
            Self::Unknown => "unknown",
            Self::Idle => "idle",
        }
    }
}

impl Most {
    /// Joins what the server, the configuration and the length of messages allow.
    pub(super) fn of(batchable: Batchable, configured: Option<usize>, fitting: usize) -> Self {
        let server = match batchable {
            Batchable::No(reason) => return Self::None(reason),
            Batchable::Yes { max_batch_size } => max_batch_size,
            Batchable::Unasked | Batchable::Unknown => None,
        };
        let most = server.into_iter().chain(configured).min();
        match most.unwrap_or(usize::MAX).min(fitting) {
            0 | 1 => Self::One,
            most => Self::Rows(most),
        }
    }

    /// Returns the most rows of a call.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Rows(rows) => rows,
            Self::One | Self::None(_) => 1,
        }
    }
}

/// Judges whether rows may share calls.
pub(super) fn batching(observed: &Observed, most: Most) -> Judgement {
    let tolerance = observed.tolerance;
    let largest = observed.merged.largest();
    let judged = |verdict, reason| Judgement {
        verdict,
        reason,
        largest: largest.filter(|_| observed.merged.comparisons() > 0),
    };
    match most {
        Most::None(reason) => {
            return judged(
                Verdict::Idle,
                format!(
                    "the server says that the model takes no batches: {}",
                    why(reason)
                ),
            );
        }
        Most::One => {
            return judged(Verdict::Idle, "a call has room for one row".to_owned());
        }
        Most::Rows(_) => {}
    }
    if let Some(fault) = &observed.fault {
        return judged(Verdict::Unsafe, fault.clone());
    }
    if observed.merged.comparisons() == 0 {
        let reason = "one row is not enough to merge: bring several";
        return judged(Verdict::Unknown, reason.to_owned());
    }
    let (calls, rows) = (observed.calls, observed.most);
    if observed.merged.is_within() {
        let how = match observed.merged.is_equal() {
            true => "bit by bit".to_owned(),
            false => format!("within {tolerance:.0e}"),
        };
        return judged(
            Verdict::Safe,
            format!(
                "{} rows have the same answers alone and in {calls} calls of 2 to {rows} rows, {how}",
                observed.rows
            ),
        );
    }
    if !observed.again.is_within() {
        let reason = "rows have other answers each time they are asked for, even alone: what \
                      merging adds to that cannot be told";
        return judged(Verdict::Unknown, reason.to_owned());
    }
    let shown = observed
        .merged
        .shown("alone", |rows| format!("among {rows}"));
    let figures = figures(largest, tolerance);
    judged(Verdict::Unsafe, format!("{shown}{figures}"))
}

/// Judges whether an answer may be given again.
pub(super) fn caching(observed: &Observed) -> Judgement {
    let largest = observed.again.largest();
    let judged = |verdict, reason| Judgement {
        verdict,
        reason,
        largest,
    };
    let times = observed.repeat;
    if observed.again.is_equal() {
        let reason = format!("{times} answers to each row are the same, bit by bit");
        return judged(Verdict::Safe, reason);
    }
    let tolerance = observed.tolerance;
    if observed.again.is_within() {
        let figures = figures(largest, tolerance);
        let reason = format!(
            "{times} answers to each row are the same within the tolerance, but not bit by bit{figures}"
        );
        return judged(Verdict::Safe, reason);
    }
    let shown = observed
        .again
        .shown("at first", |_| "when asked again".to_owned());
    let figures = figures(largest, tolerance);
    judged(
        Verdict::Unsafe,
        format!("answers differ when repeated: {shown}{figures}"),
    )
}

fn figures(largest: Option<f64>, tolerance: f64) -> String {
    match largest {
        Some(largest) => format!("; largest difference {largest:.1e}, tolerance {tolerance:.0e}"),
        None => String::new(),
    }
}

fn why(reason: Unbatchable) -> &'static str {
    match reason {
        Unbatchable::NoBatchDimension => "its first dimension does not count rows",
        Unbatchable::Decoupled => "it gives none or several answers to a request",
        Unbatchable::Stateful => "it keeps state between requests",
        Unbatchable::Ragged => "its inputs are ragged",
        Unbatchable::UnevenOutput => "it answers with another number of rows",
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            compare::{Compared, Gap, Value},
            finding::{Finding, Place},
        },
        *,
    };

    const MOST: Most = Most::Rows(16);

    fn finding(gaps: &[(f64, bool)]) -> Finding {
        let mut finding = Finding::default();
        finding.take(Compared::Equal, Place { row: 0, among: 1 });
        for (size, within) in gaps {
            let gap = Gap {
                output: "proba".into(),
                element: None,
                before: Value::Number(0.41),
                after: Value::Number(0.39),
                size: *size,
                within: *within,
            };
            finding.take(Compared::Apart(gap), Place { row: 3, among: 16 });
        }
        finding
    }

    fn observed(again: &[(f64, bool)], merged: &[(f64, bool)]) -> Observed {
        Observed {
            rows: 16,
            most: 16,
            repeat: 3,
            tolerance: 1e-5,
            again: finding(again),
            merged: finding(merged),
            calls: 27,
            ..Observed::default()
        }
    }

    fn verdicts(observed: &Observed) -> (Verdict, Verdict) {
        (batching(observed, MOST).verdict, caching(observed).verdict)
    }

    #[test]
    fn the_same_answers_are_safe_and_others_are_not() {
        use Verdict::{Safe, Unknown, Unsafe};
        let (none, near, far) = (&[][..], &[(3e-7, true)][..], &[(0.02, false)][..]);
        for (again, merged, expected) in [
            (none, none, (Safe, Safe)),
            (none, near, (Safe, Safe)),
            (near, near, (Safe, Safe)),
            (none, far, (Unsafe, Safe)),
            (far, far, (Unknown, Unsafe)),
            // By chance: the merged answers were the first ones.
            (far, near, (Safe, Unsafe)),
        ] {
            assert_eq!(
                verdicts(&observed(again, merged)),
                expected,
                "{again:?} {merged:?}"
            );
        }
    }

    #[test]
    fn a_reason_has_the_place_and_the_figures() {
        let far = &[(0.021, false)][..];
        assert_eq!(
            batching(&observed(&[], far), MOST).reason,
            "output `proba`, row 3: 0.41 alone, 0.39 among 16; largest difference 2.1e-2, \
             tolerance 1e-5"
        );
        assert_eq!(
            caching(&observed(far, far)).reason,
            "answers differ when repeated: output `proba`, row 3: 0.41 at first, 0.39 when asked \
             again; largest difference 2.1e-2, tolerance 1e-5"
        );
        let near = observed(&[(3e-7, true)], &[(3e-7, true)]);
        assert!(caching(&near).reason.contains("not bit by bit"));
        assert_eq!(
            batching(&near, MOST).reason,
            "16 rows have the same answers alone and in 27 calls of 2 to 16 rows, within 1e-5"
        );
    }

    #[test]
    fn a_call_that_comes_to_nothing_is_unsafe_whatever_else_was_seen() {
        let observed = Observed {
            fault: Some("a call of 2 rows: 2 rows were sent and 3 came back".to_owned()),
            ..observed(&[], &[])
        };
        assert_eq!(verdicts(&observed), (Verdict::Unsafe, Verdict::Safe));
    }

    #[test]
    fn what_is_never_merged_is_not_judged() {
        let alone = Observed {
            merged: Finding::default(),
            ..observed(&[], &[])
        };
        let stateless = Most::None(Unbatchable::NoBatchDimension);
        for (most, verdict) in [
            (stateless, Verdict::Idle),
            (Most::One, Verdict::Idle),
            (MOST, Verdict::Unknown),
        ] {
            let judgement = batching(&alone, most);
            assert_eq!((judgement.verdict, judgement.largest), (verdict, None));
        }
    }

    #[test]
    fn the_smallest_bound_counts() {
        let yes = |max_batch_size| Batchable::Yes { max_batch_size };
        for (batchable, configured, fitting, most) in [
            (yes(Some(8)), None, 100, Most::Rows(8)),
            (yes(Some(8)), Some(4), 100, Most::Rows(4)),
            (yes(None), None, 3, Most::Rows(3)),
            (yes(Some(1)), None, 100, Most::One),
            (Batchable::Unknown, None, 100, Most::Rows(100)),
            (
                Batchable::No(Unbatchable::Ragged),
                Some(4),
                100,
                Most::None(Unbatchable::Ragged),
            ),
        ] {
            assert_eq!(Most::of(batchable, configured, fitting), most);
        }
    }
}
