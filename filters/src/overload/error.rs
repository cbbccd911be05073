use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// No more may wait: the caller is refused at once. The proxy is at fault, or whoever sends more
/// than the model can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overloaded {
    reason: Reason,
    retry_after: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    /// There is no room.
    Full {
        scope: Scope,
        bound: Bound,
        limit: usize,
    },
    /// What is before the request takes longer than the time that is left for it.
    Late { wait: Duration, left: Duration },
}

/// Whose bound it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One arm of a model.
    Model,
    /// The process, with all its models.
    Process,
}

/// What the queue has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Rows, bounded by `max_queue_rows`; those of a request that is not merged count as one.
    Rows,
    /// Requests, bounded by `max_queue_requests`, for a model whose rows are not merged.
    Requests,
    /// Bytes of messages, bounded by `max_queue_bytes`.
    Bytes,
    /// Time: the deadline is nearer than the request's turn.
    Wait,
}

impl Overloaded {
    /// Says that there is no room.
    pub(crate) fn full(scope: Scope, bound: Bound, limit: usize) -> Self {
        let reason = Reason::Full {
            scope,
            bound,
            limit,
        };
        Self {
            reason,
            retry_after: None,
        }
    }

    /// Says that the request's turn is expected after `wait`, and its deadline after `left`.
    pub(crate) fn late(wait: Duration, left: Duration) -> Self {
        Self {
            reason: Reason::Late { wait, left },
            // When as much has gone as is too much.
            retry_after: Some(hint(wait.saturating_sub(left))),
        }
    }

    /// Says after what time it is worth while to ask again. What callers are told is longer by a
    /// random part, and neither very short nor very long.
    pub(crate) fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after: retry_after.map(hint),
            ..self
        }
    }

    /// Returns whose bound it is, if it is one of the configuration's.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        match self.reason {
            Reason::Full { scope, .. } => Some(scope),
            Reason::Late { .. } => None,
        }
    }

    /// Returns what there is too much of.
    #[must_use]
    pub fn bound(&self) -> Bound {
        match self.reason {
            Reason::Full { bound, .. } => bound,
            Reason::Late { .. } => Bound::Wait,
        }
    }

    /// Returns the bound that was reached, if it is one of the configuration's.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        match self.reason {
            Reason::Full { limit, .. } => Some(limit),
            Reason::Late { .. } => None,
        }
    }

    /// Returns after what time there is likely to be a place, as far as that can be known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl std::fmt::Display for Overloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.reason {
            Reason::Full {
                scope,
                bound,
                limit,
            } => {
                let (what, section) = match scope {
                    Scope::Model => ("queue is", ""),
                    Scope::Process => ("queues of all models are", "limits."),
                };
                let key = match bound {
                    Bound::Bytes => "max_queue_bytes",
                    Bound::Requests => "max_queue_requests",
                    Bound::Rows | Bound::Wait => "max_queue_rows",
                };
                write!(f, "the {what} full: {section}{key} is {limit}")
            }
            Reason::Late { wait, left } => write!(
                f,
                "the model has too much to do: {wait:.1?} are before the request, and its deadline \
                 is in {left:.1?}"
            ),
        }
    }
}

impl std::error::Error for Overloaded {}

/// Returns what callers are told: a hint takes the place of their own pauses, which grow and differ.
/// Were it as short as what is missing, and the same for all, they would come back together, several
/// times within a call.
fn hint(after: Duration) -> Duration {
    // Each has other keys.
    let draw = RandomState::new().hash_one(()) as f64 / u64::MAX as f64;
    after.clamp(SOONEST, LATEST).mul_f64(1. + draw * SPREAD)
}

/// No hint is shorter: at a rate of a hundred a second a caller cannot do much harm.
const SOONEST: Duration = Duration::from_millis(10);
/// No hint is longer, with its random part of half a minute: by then all may be different.
const LATEST: Duration = Duration::from_secs(20);
/// The random part of a hint, at most.
const SPREAD: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_to_come_back_neither_at_once_nor_together_nor_never() {
        for (missing, least, most) in [
            (Duration::ZERO, 10, 15),
            (Duration::from_millis(200), 200, 300),
            (Duration::MAX, 20_000, 30_000),
        ] {
            let hints: Vec<_> = (0..100)
                .map(|_| Overloaded::late(missing, Duration::ZERO))
                .map(|refused| refused.with_retry_after(Some(missing)))
                .filter_map(|refused| refused.retry_after())
                .collect();
            assert_eq!(hints.len(), 100);
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            assert!(hints.iter().all(|hint| (least..=most).contains(hint)));
            // Spread over the whole of it, and no two alike.
            let sooner = hints.iter().filter(|hint| **hint < (least + most) / 2);
            assert!((20..80).contains(&sooner.count()), "{hints:?}");
        }
    }
}
