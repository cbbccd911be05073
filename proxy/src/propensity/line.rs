use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytestring::ByteString;
use outrigger_filters::select::{Available, Shares};
use smallvec::SmallVec;

use crate::codec::json::put_string;

/// What becomes a line, as it was handed over.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) at: SystemTime,
    pub(super) names: Arc<Names>,
    pub(super) nonce: u64,
    pub(super) what: What,
}

/// What a model and its arms are called.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) model: ByteString,
    pub(super) arms: Box<[ByteString]>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Choice {
        context: Option<ByteString>,
        /// Of an ensemble there is none.
        arm: Option<usize>,
        rows: u32,
        available: Available,
        probabilities: Shares,
    },
    Feedback {
        row: Option<u32>,
        losses: SmallVec<[(usize, f64); 2]>,
    },
}

impl Line {
    /// Appends the line, with its end.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.extend_from_slice(b"{\"time\":");
        put_count(since.as_secs(), out);
        out.push(b'.');
        let millis = u64::from(since.subsec_millis());
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            put_count(digit, out);
        }
        out.extend_from_slice(b",\"model\":");
        put_string(&self.names.model, out);
        out.extend_from_slice(match self.what {
            What::Choice { .. } => b",\"choice\":\"",
            What::Feedback { .. } => b",\"feedback\":\"",
        });
        out.extend_from_slice(format!("{:016x}\"", self.nonce).as_bytes());
        match &self.what {
            What::Choice {
                context,
                arm,
                rows,
                available,
                probabilities,
            } => {
                if let Some(context) = context {
                    out.extend_from_slice(b",\"context\":");
                    put_string(context, out);
                }
                if let Some(arm) = arm.and_then(|arm| self.names.arms.get(arm)) {
                    out.extend_from_slice(b",\"arm\":");
                    put_string(arm, out);
                }
                out.extend_from_slice(b",\"rows\":");
                put_count((*rows).into(), out);
                out.extend_from_slice(b",\"probabilities\":");
                let there = probabilities.iter().copied().enumerate();
                self.put_numbers(there.filter(|(arm, _)| available.has(*arm)), out);
            }
            What::Feedback { row, losses } => {
                if let Some(row) = row {
                    out.extend_from_slice(b",\"row\":");
                    put_count((*row).into(), out);
                }
                out.extend_from_slice(b",\"losses\":");
                self.put_numbers(losses.iter().copied(), out);
            }
        }
        out.extend_from_slice(b"}\n");
    }

    fn put_numbers(&self, of_arms: impl Iterator<Item = (usize, f64)>, out: &mut Vec<u8>) {
        let mut next = b'{';
        for (arm, number) in of_arms {
            let Some(name) = self.names.arms.get(arm) else {
                continue;
            };
            out.push(next);
            next = b',';
            put_string(name, out);
            out.push(b':');
            let number = if number.is_finite() { number } else { 0. };
            out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
        }
        if next == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
    }
}

fn put_count(count: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
}
