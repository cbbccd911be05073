use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Whether a model can be sent batches: learned from its server, or from its answers.
///
/// The handle is shared: whoever asks the server sets it, every batch filter of the model reads
/// it with each request, without a lock.
///
/// ```text
///             the server says how              an answer does not divide
/// Unasked ------------------------> Batchable -------------------------> Unbatchable
///    |  '----------------------------------------------------------------^  ^
///    |        the server says that it cannot                                |
///    '-----------------------------> Unknown -------------------------------'
///        the server does not say
/// ```
#[derive(Clone, Debug)]
pub struct Capability(Arc<AtomicU64>);

/// What is known of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batchable {
    /// Nobody has asked the server yet: requests go alone.
    Unasked,
    /// The server does not say: requests go alone, unless the configuration says that the model
    /// takes batches.
    #[default]
    Unknown,
    /// It takes no batches, whatever the configuration says.
    No(Unbatchable),
    /// It takes batches of at most so many rows, if its server names a bound.
    Yes {
        /// The server's own bound.
        max_batch_size: Option<usize>,
    },
}

/// Why a model takes no batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbatchable {
    /// Its first dimension is not one of rows.
    NoBatchDimension,
    /// It gives none or several answers to a request.
    Decoupled,
    /// It keeps state between the requests of a sequence.
    Stateful,
    /// The meaning of an input depends on its values or on the shapes of its neighbours.
    Ragged,
    /// It answered a batch with another number of rows.
    UnevenOutput,
}

impl Capability {
    /// Makes a handle that says what is known at the start.
    pub fn new(batchable: Batchable) -> Self {
        Self(Arc::new(AtomicU64::new(encode(batchable))))
    }

    /// Returns what is known.
    pub fn get(&self) -> Batchable {
        decode(self.0.load(Ordering::Acquire))
    }

    /// Takes over what the server says, and returns whether that is news. An answer that did not
    /// divide outweighs what the server says.
    pub fn learn(&self, batchable: Batchable) -> bool {
        let uneven = encode(Batchable::No(Unbatchable::UnevenOutput));
        let next = encode(batchable);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                (last != uneven && last != next).then_some(next)
            })
            .is_ok()
    }

    /// Sets what is known, and returns what was.
    pub fn set(&self, batchable: Batchable) -> Batchable {
        decode(self.0.swap(encode(batchable), Ordering::AcqRel))
    }
}

impl Default for Capability {
    fn default() -> Self {
        Self::new(Batchable::default())
    }
}

impl Unbatchable {
    const ALL: [Self; 5] = [
        Self::NoBatchDimension,
        Self::Decoupled,
        Self::Stateful,
        Self::Ragged,
        Self::UnevenOutput,
    ];

    /// Returns a word for metrics and pages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBatchDimension => "no_batch_dimension",
            Self::Decoupled => "decoupled",
            Self::Stateful => "stateful",
            Self::Ragged => "ragged",
            Self::UnevenOutput => "uneven_output",
        }
    }
}

impl std::fmt::Display for Unbatchable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

// One word: the kind in the two lowest bits, its detail above them.

fn encode(batchable: Batchable) -> u64 {
    match batchable {
        Batchable::Unasked => 0,
        Batchable::Unknown => 4,
        Batchable::No(reason) => 1 | (reason as u64) << 2,
        Batchable::Yes {
            max_batch_size: None,
        } => 2,
        Batchable::Yes {
            max_batch_size: Some(rows),
        } => 3 | (rows as u64).min(u64::MAX >> 2) << 2,
    }
}

fn decode(word: u64) -> Batchable {
    let detail = usize::try_from(word >> 2).unwrap_or(usize::MAX);
    match word & 3 {
        1 => Unbatchable::ALL
            .get(detail)
            .map_or(Batchable::Unknown, |reason| Batchable::No(*reason)),
        2 => Batchable::Yes {
            max_batch_size: None,
        },
        3 => Batchable::Yes {
            max_batch_size: Some(detail),
        },
        _ if detail == 0 => Batchable::Unasked,
        _ => Batchable::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_word() {
        let states = Unbatchable::ALL.into_iter().map(Batchable::No).chain([
            Batchable::Unasked,
            Batchable::Unknown,
            Batchable::Yes {
                max_batch_size: None,
            },
            Batchable::Yes {
                max_batch_size: Some(1),
            },
            Batchable::Yes {
                max_batch_size: Some(4096),
            },
        ]);
        for state in states {
            assert_eq!(decode(encode(state)), state);
            let capability = Capability::default();
            assert_eq!(capability.set(state), Batchable::Unknown);
            assert_eq!(capability.clone().get(), state);
        }
    }

    #[test]
    fn an_answer_that_did_not_divide_outweighs_what_the_server_says() {
        let yes = Batchable::Yes {
            max_batch_size: Some(8),
        };
        let capability = Capability::new(Batchable::Unasked);
        assert!(capability.learn(yes));
        assert!(!capability.learn(yes));
        capability.set(Batchable::No(Unbatchable::UnevenOutput));
        assert!(!capability.learn(yes));
        assert_eq!(capability.get(), Batchable::No(Unbatchable::UnevenOutput));
    }
}
