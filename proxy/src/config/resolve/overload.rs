//! How many calls are under way, and which are sent again.

use std::{num::NonZeroUsize, time::Duration};

use outrigger_filters::{admission, retry};

use super::super::{fault::Collector, file, read::At};

/// The bounds of calls that are under way: also where a deadline is to be kept, or a second call is
/// sent only to where there is capacity to spare, neither of which can be without knowing how much
/// an endpoint can do; and in ensembles, whose callers are many times as many calls: where they leave,
/// servers would be told to stop more often than they bear.
pub(super) fn admission(
    model: &file::Model,
    latency_objective: Duration,
    is_ensemble: bool,
) -> Option<admission::Config> {
    let section = model.admission.as_ref();
    if section.is_none() && model.deadline.is_none() && model.hedge.is_none() && !is_ensemble {
        return None;
    }
    let default = admission::Config {
        latency_objective,
        ..admission::Config::default()
    };
    let Some(section) = section else {
        return Some(default);
    };
    let count = |field: &Option<At<NonZeroUsize>>| field.as_ref().map(|count| count.value.get());
    Some(admission::Config {
        latency_objective,
        max_concurrency: section
            .max_concurrency
            .as_ref()
            .map_or(default.max_concurrency, |calls| calls.value),
        max_queue_requests: count(&section.max_queue_requests)
            .unwrap_or(default.max_queue_requests),
        max_queue_bytes: section
            .max_queue_bytes
            .as_ref()
            .map_or(default.max_queue_bytes, |size| size.value.0),
        default_priority: count(&section.default_priority)
            .map_or(default.default_priority, |class| class as u64),
        cancel: section
            .cancel
            .as_ref()
            .map_or(default.cancel, |cancel| cancel.value),
    })
}

/// What is sent again, or to two endpoints: something wherever anything is to happen to requests.
pub(super) fn retry(model: &file::Model, faults: &mut Collector) -> Option<retry::Config> {
    let is_configured = model.arms.is_some()
        || model.batch.is_some()
        || model.cache.is_some()
        || model.selection.is_some()
        || model.deadline.is_some()
        || model.admission.is_some()
        || model.hedge.is_some();
    let default = retry::Config::default();
    let budget = model.retry.as_ref().and_then(|retry| retry.budget.as_ref());
    let is_off = budget.is_some_and(|budget| budget.value.get() <= 0.);
    if !is_configured && (is_off || model.retry.is_none()) {
        return None;
    }
    Some(retry::Config {
        budget: budget.map_or(default.budget, |share| share.value),
        hedge: model.hedge.as_ref().map(|section| hedge(section, faults)),
    })
}

fn hedge(section: &At<file::Hedge>, faults: &mut Collector) -> retry::Hedge {
    let default = retry::Hedge::default();
    if let Some(at) = &section.quantile
        && (at.value.get() <= 0. || at.value.get() >= 1.)
    {
        faults.add(
            &at.place,
            "must be more than 0 and less than 1: no answer is later than all, and none sooner",
        );
    }
    if let Some(at) = &section.budget
        && at.value.get() <= 0.
    {
        let message = "must be more than 0; leave `hedge` out to send nothing twice";
        faults.add(&at.place, message);
    }
    retry::Hedge {
        quantile: section
            .quantile
            .as_ref()
            .map_or(default.quantile, |share| share.value),
        budget: section
            .budget
            .as_ref()
            .map_or(default.budget, |share| share.value),
    }
}
