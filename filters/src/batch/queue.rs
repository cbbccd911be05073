use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};
use tracing::Span;

use super::{key, metrics::Closed};
use crate::inference::{Error, Request, Response};

/// The requests that wait for one endpoint, in the order in which they came and, at the same
/// time, in a line for each key.
///
/// ```text
/// all, oldest first:   a1 - b1 - a2 - a3 - c1 - b2
/// key A:               a1 ------ a2 - a3
/// key B:                    b1 ---------------- b2
/// key C:                                   c1
/// ```
///
/// The next batch is of the key of the oldest request of all, so that no key waits for another
/// that is busier. Whoever leaves is unlinked at once from both lines, with all it holds.
#[derive(Debug, Default)]
pub(super) struct Queue {
    nodes: Vec<Node>,
    free: Vec<usize>,
    all: Line,
    lines: Vec<Line>,
    free_lines: Vec<usize>,
    /// The lines of a digest: one, unless two keys have the same digest.
    digests: HashMap<u64, SmallVec<[usize; 1]>, RandomState>,
    arrivals: u64,
    rows: usize,
    bytes: usize,
}

/// One caller's request, and where its answer goes.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) request: Request,
    pub(super) rows: usize,
    /// Of its tensors: what it adds to a call.
    pub(super) bytes: usize,
    /// Of all that it keeps in memory: what it adds to the queue.
    pub(super) held: usize,
    pub(super) arrived: Instant,
    pub(super) span: Span,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// A member moves from the queue to the batch under the lock: a pointer, not half a kilobyte.
pub(super) type BoxMember = Box<Member>;

/// What becomes of a member.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It has its answer.
    Answered(Result<Response, Error>),
    /// It shall go to the server by itself: its request is handed back.
    Alone(Request),
}

/// Where a member stands, to take it out again; of no effect once it has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    node: usize,
    arrival: u64,
}

/// Members that go together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) members: Vec<BoxMember>,
    pub(super) rows: usize,
    pub(super) closed: Closed,
}

/// How much may go together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
struct Node {
    member: Option<Box<Member>>,
    arrival: u64,
    digest: u64,
    line: usize,
    in_all: Links,
    in_line: Links,
}

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    before: Option<usize>,
    after: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    first: Option<usize>,
    last: Option<usize>,
}

impl Queue {
    /// Returns the rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the bytes of the messages that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tells whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.all.first.is_none()
    }

    /// Adds a member at the end.
    pub(super) fn push(&mut self, digest: u64, member: Box<Member>) -> Place {
        self.rows += member.rows;
        self.bytes += member.held;
        self.arrivals += 1;
        let arrival = self.arrivals;
        let line = self.line(digest, &member.request);
        let node = Node {
            member: Some(member),
            arrival,
            digest,
            line,
            in_all: Links {
                before: self.all.last,
                after: None,
            },
            in_line: Links {
                before: self.lines[line].last,
                after: None,
            },
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        match self.all.last.replace(index) {
            Some(last) => self.nodes[last].in_all.after = Some(index),
            None => self.all.first = Some(index),
        }
        match self.lines[line].last.replace(index) {
            Some(last) => self.nodes[last].in_line.after = Some(index),
            None => self.lines[line].first = Some(index),
        }
        Place {
            node: index,
            arrival,
        }
    }

    /// Takes a member out, if it still waits.
    pub(super) fn remove(&mut self, place: Place) -> Option<Box<Member>> {
        let node = self.nodes.get(place.node)?;
        if node.arrival != place.arrival {
            return None;
        }
        self.unlink(place.node)
    }

    /// Takes the next batch: the oldest request, and those of its key behind it as long as rows
    /// and bytes allow. A request that is too large for any batch is one by itself. Members whose
    /// deadline has passed are put into `expired` instead.
    pub(super) fn take(
        &mut self,
        now: Instant,
        limits: Limits,
        expired: &mut Vec<BoxMember>,
    ) -> Option<Batch> {
        let line = loop {
            let oldest = self.all.first?;
            if !self.expired(oldest, now) {
                break self.nodes[oldest].line;
            }
            expired.extend(self.unlink(oldest));
        };
        let mut members = Vec::new();
        let (mut rows, mut bytes) = (0_usize, 0_usize);
        let closed = loop {
            let Some(index) = self.lines[line].first else {
                // The line's last member has taken the line with it.
                break if rows >= limits.rows {
                    Closed::Full
                } else if self.is_empty() {
                    Closed::Idle
                } else {
                    Closed::Incompatible
                };
            };
            if self.expired(index, now) {
                expired.extend(self.unlink(index));
                continue;
            }
            if let Some(next) = &self.nodes[index].member
                && !members.is_empty()
            {
                if rows.saturating_add(next.rows) > limits.rows {
                    break Closed::Full;
                }
                if bytes.saturating_add(next.bytes) > limits.bytes {
                    break Closed::Bytes;
                }
            }
            if let Some(member) = self.unlink(index) {
                rows = rows.saturating_add(member.rows);
                bytes = bytes.saturating_add(member.bytes);
                members.push(member);
            }
        };
        Some(Batch {
            members,
            rows,
            closed,
        })
    }

    /// Takes all members out, oldest first.
    pub(super) fn drain(&mut self) -> Vec<BoxMember> {
        let mut members = Vec::new();
        while let Some(index) = self.all.first {
            members.extend(self.unlink(index));
        }
        members
    }

    fn expired(&self, index: usize, now: Instant) -> bool {
        self.nodes[index]
            .member
            .as_ref()
            .is_some_and(|member| member.request.head.deadline.is_some_and(|at| at <= now))
    }

    /// Finds the line whose first request is the same but for its rows, or makes one.
    fn line(&mut self, digest: u64, request: &Request) -> usize {
        let lines = self.digests.entry(digest).or_default();
        for line in lines.iter().copied() {
            let first = self.lines[line]
                .first
                .and_then(|first| self.nodes[first].member.as_ref());
            if first.is_some_and(|first| key::same(&first.request, request)) {
                return line;
            }
        }
        let line = match self.free_lines.pop() {
            Some(line) => line,
            None => {
                self.lines.push(Line::default());
                self.lines.len() - 1
            }
        };
        lines.push(line);
        line
    }

    fn unlink(&mut self, index: usize) -> Option<Box<Member>> {
        let node = &mut self.nodes[index];
        let member = node.member.take()?;
        let (digest, line, in_all, in_line) = (node.digest, node.line, node.in_all, node.in_line);
        match in_all.before {
            Some(before) => self.nodes[before].in_all.after = in_all.after,
            None => self.all.first = in_all.after,
        }
        match in_all.after {
            Some(after) => self.nodes[after].in_all.before = in_all.before,
            None => self.all.last = in_all.before,
        }
        match in_line.before {
            Some(before) => self.nodes[before].in_line.after = in_line.after,
            None => self.lines[line].first = in_line.after,
        }
        match in_line.after {
            Some(after) => self.nodes[after].in_line.before = in_line.before,
            None => self.lines[line].last = in_line.before,
        }
        if self.lines[line].first.is_none() {
            self.free_lines.push(line);
            if let Some(lines) = self.digests.get_mut(&digest) {
                lines.retain(|other| *other != line);
                if lines.is_empty() {
                    self.digests.remove(&digest);
                }
            }
        }
        self.free.push(index);
        self.rows -= member.rows;
        self.bytes -= member.held;
        Some(member)
    }
}
