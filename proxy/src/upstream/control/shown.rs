use std::collections::BTreeMap;

use bytestring::ByteString;

use crate::codec::{
    oip_grpc::control::{ModelMetadata, Statistics},
    tfs_grpc::control::{State, VersionStatus},
};

/// What a server shows of a model at one look: as little as tells one model from the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Whether the model is there.
    pub(crate) ready: bool,
    /// What each version has counted, where the server counts.
    pub(crate) statistics: Option<Vec<Statistics>>,
    /// What the model takes and gives, where the server says that and counts nothing.
    pub(crate) metadata: Option<ModelMetadata>,
    /// The versions that answer, in their order.
    pub(crate) versions: Vec<i64>,
    /// The version that each label stands for, of those that were asked for.
    pub(crate) labels: BTreeMap<ByteString, Option<i64>>,
}

impl Shown {
    /// A model that a server says is ready, or not, and no more.
    pub(crate) fn ready(ready: bool) -> Self {
        Self {
            ready,
            ..Self::default()
        }
    }

    /// A model of which a server counts what it does.
    pub(crate) fn counted(statistics: Vec<Statistics>) -> Self {
        Self {
            ready: !statistics.is_empty(),
            statistics: Some(statistics),
            ..Self::default()
        }
    }

    /// A model that a server describes.
    pub(crate) fn described(metadata: ModelMetadata) -> Self {
        Self {
            ready: true,
            metadata: Some(metadata),
            ..Self::default()
        }
    }

    /// A model of TensorFlow Serving.
    pub(crate) fn available(statuses: &[VersionStatus]) -> Self {
        let available = statuses
            .iter()
            .filter(|status| status.state == State::Available);
        let mut versions: Vec<i64> = available.map(|status| status.version).collect();
        versions.sort_unstable();
        Self {
            ready: !versions.is_empty(),
            versions,
            ..Self::default()
        }
    }

    /// Tells whether this shows that answers may differ from those that were given when `last` was
    /// seen.
    pub(crate) fn differs(&self, last: &Self) -> bool {
        self.ready != last.ready
            || self.versions != last.versions
            || self.metadata != last.metadata
            || self.began_anew(last)
            || last.labels.iter().any(|(label, stood_for)| {
                stood_for.is_some()
                    && self
                        .labels
                        .get(label)
                        .is_some_and(|stands_for| stands_for != stood_for)
            })
    }

    fn began_anew(&self, last: &Self) -> bool {
        let (now, then) = match (&self.statistics, &last.statistics) {
            (Some(now), Some(then)) => (now, then),
            (None, None) => return false,
            _ => return true,
        };
        // What stands for a version in one of them and not in the other came or went.
        now.len() != then.len()
            || now.iter().any(|now| {
                let then = then.iter().find(|then| then.version == now.version);
                then.is_none_or(|then| now.began_anew(then))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(versions: &[(&'static str, u64)]) -> Shown {
        let of = |(version, rows): &(&'static str, u64)| Statistics {
            version: (*version).into(),
            totals: [*rows, 1, 1, 1, 0, 0],
        };
        Shown::counted(versions.iter().map(of).collect())
    }

    fn available(versions: &[(i64, State)]) -> Shown {
        let of = |(version, state): &(i64, State)| VersionStatus {
            version: *version,
            state: *state,
            error_code: outrigger_filters::inference::Code::Ok,
            error_message: ByteString::new(),
        };
        Shown::available(&versions.iter().map(of).collect::<Vec<_>>())
    }

    #[test]
    fn a_model_that_goes_on_is_the_same() {
        let last = counted(&[("1", 5), ("2", 7)]);
        assert!(!last.differs(&last));
        // The order of versions says nothing.
        assert!(!counted(&[("2", 8), ("1", 5)]).differs(&last));
    }

    #[test]
    fn counts_that_fall_and_versions_that_come_or_go_make_another_model() {
        let last = counted(&[("1", 5), ("2", 7)]);
        for now in [
            counted(&[("1", 5), ("2", 0)]),
            counted(&[("1", 5)]),
            counted(&[("1", 5), ("3", 7)]),
            counted(&[("1", 5), ("2", 7), ("3", 0)]),
            counted(&[]),
            Shown::ready(true),
        ] {
            assert!(now.differs(&last), "{now:?}");
        }
    }

    #[test]
    fn only_versions_that_answer_count() {
        let last = available(&[(1, State::Available)]);
        assert!(!available(&[(1, State::Available), (2, State::Loading)]).differs(&last));
        assert!(!available(&[(2, State::End), (1, State::Available)]).differs(&last));
        assert!(available(&[(1, State::Available), (2, State::Available)]).differs(&last));
        assert!(available(&[(1, State::Unloading), (2, State::Available)]).differs(&last));
        assert!(available(&[(1, State::Loading)]).differs(&last));
    }

    #[test]
    fn a_label_that_moves_makes_another_model_and_one_that_is_new_does_not() {
        let with = |labels: &[(&'static str, Option<i64>)]| Shown {
            labels: labels
                .iter()
                .map(|(label, version)| ((*label).into(), *version))
                .collect(),
            ..available(&[(1, State::Available), (2, State::Available)])
        };
        let last = with(&[("best", Some(1)), ("junk", None)]);
        assert!(!last.differs(&last));
        assert!(!with(&[("best", Some(1)), ("new", Some(2))]).differs(&last));
        // Nothing was kept of what did not answer.
        assert!(!with(&[("best", Some(1)), ("junk", Some(1))]).differs(&last));
        assert!(with(&[("best", Some(2))]).differs(&last));
        assert!(with(&[("best", None)]).differs(&last));
    }

    #[test]
    fn another_description_is_another_model() {
        let of = |version: &'static str| {
            Shown::described(ModelMetadata {
                versions: vec![version.into()],
                ..ModelMetadata::default()
            })
        };
        assert!(!of("1").differs(&of("1")));
        assert!(of("2").differs(&of("1")));
        assert!(Shown::ready(false).differs(&of("1")));
        assert!(Shown::ready(true).differs(&Shown::ready(false)));
    }
}
