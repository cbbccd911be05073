use std::time::Duration;

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
            retry_after: Some(wait.saturating_sub(left)),
        }
    }

    /// Says after what time it is worth while to ask again.
    pub(crate) fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after,
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
