use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;

use super::{MAX_ITEMS, each};
use crate::codec::{
    Wire,
    protobuf::{Source, Value},
};

/// What Triton has counted of one version of a model since it loaded it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The version.
    pub version: ByteString,
    /// Counts and times that only grow as long as the model stays loaded: rows and calls, then how
    /// many requests ended well and for how many nanoseconds, and the same of those that failed.
    pub totals: [u64; 6],
}

impl Statistics {
    /// Reads a `ModelStatisticsResponse`.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are not protobuf.
    pub fn read_all(answer: &Bytes) -> Result<Vec<Self>, Wire> {
        let mut all = Vec::new();
        let source = Source::new(answer);
        let mut fields = source.all();
        while let Some(field) = fields.next()? {
            if let (MODEL_STATS, Value::Bytes(range)) = (field.number, field.value)
                && all.len() < MAX_ITEMS
            {
                all.push(Self::read(&source, range)?);
            }
        }
        Ok(all)
    }

    fn read(source: &Source<'_>, range: Range<usize>) -> Result<Self, Wire> {
        let mut read = Self::default();
        let [rows, calls, durations @ ..] = &mut read.totals;
        let [succeeded, nanoseconds, failed, nanoseconds_failed] = durations;
        let message = source.bytes();
        each(message, range, |number, value| {
            match (number, value) {
                (VERSION, Value::Bytes(range)) => {
                    read.version = source.text(range).unwrap_or_default();
                }
                (INFERENCE_COUNT, Value::Varint(count)) => *rows = count,
                (EXECUTION_COUNT, Value::Varint(count)) => *calls = count,
                (INFERENCE_STATS, Value::Bytes(range)) => {
                    each(message, range, |number, value| match (number, value) {
                        (SUCCESS, Value::Bytes(range)) => {
                            duration(message, range, succeeded, nanoseconds)
                        }
                        (FAIL, Value::Bytes(range)) => {
                            duration(message, range, failed, nanoseconds_failed)
                        }
                        _ => Ok(()),
                    })?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(read)
    }

    /// Tells whether it cannot be what became of `last`: the model was loaded anew in between.
    pub fn began_anew(&self, last: &Self) -> bool {
        self.totals
            .iter()
            .zip(&last.totals)
            .any(|(now, then)| now < then)
    }
}

/// Reads a `StatisticDuration`.
fn duration(
    message: &[u8],
    range: Range<usize>,
    count: &mut u64,
    nanoseconds: &mut u64,
) -> Result<(), Wire> {
    each(message, range, |number, value| {
        match (number, value) {
            (1, Value::Varint(read)) => *count = read,
            (2, Value::Varint(read)) => *nanoseconds = read,
            _ => {}
        }
        Ok(())
    })
}

// Field numbers of `ModelStatisticsResponse`, `ModelStatistics` and `InferStatistics`.
const MODEL_STATS: u32 = 1;
const VERSION: u32 = 2;
const INFERENCE_COUNT: u32 = 4;
const EXECUTION_COUNT: u32 = 5;
const INFERENCE_STATS: u32 = 6;
const SUCCESS: u32 = 1;
const FAIL: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_server_counts() -> Result<(), Wire> {
        let answer = include_bytes!("../recorded/triton.statistics.bin");
        let all = Statistics::read_all(&Bytes::from_static(answer))?;
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].version, "1");
        let [rows, calls, succeeded, nanoseconds, failed, _] = all[0].totals;
        // Its backend for Python counts a request that the model refuses among those that ended well.
        assert_eq!((rows, calls, succeeded, failed), (6, 4, 4, 0));
        assert!(nanoseconds > 0);
        Ok(())
    }

    #[test]
    fn what_grows_goes_on_and_what_falls_began_anew() {
        let of = |totals| Statistics {
            version: "1".into(),
            totals,
        };
        let last = of([4, 2, 2, 1000, 1, 10]);
        assert!(!last.began_anew(&last));
        assert!(!of([5, 3, 3, 1100, 1, 10]).began_anew(&last));
        assert!(of([0; 6]).began_anew(&last));
        // As many rows again, and sooner.
        assert!(of([4, 2, 2, 900, 1, 10]).began_anew(&last));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(answer: Vec<u8>) {
            let _ = Statistics::read_all(&answer.into());
        }
    }
}
