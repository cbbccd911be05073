use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};
use tracing::Span;

use super::{ahead::Ahead, benefit::HoldOut, controller::Line, explain::Closed, key};
use crate::{
    deadline::Expired,
    inference::{Error, Head, Request, Response},
    overload::Reserved,
};

/// The requests that wait for one endpoint, in a lane for each key.
///
/// ```text
/// heads:    a1 < b1 < c1          the most urgent of each lane, the most urgent of all first
/// lane A:   a1 - a2 - a3 ..       in the order in which they go
/// lane B:   b1 - b2
/// lane C:   c1
/// ```
///
/// A lane is in the order of [`Order`]. Who is less urgent than all before, as those are who name
/// no deadline, or the same as everybody, is added at the end; who is not goes to a tree beside it.
///
/// The next batch is of the key of the most urgent request of all. Whoever leaves is taken out at
/// once, with all it holds.
#[derive(Debug)]
pub(super) struct Queue {
    rules: Rules,
    nodes: Vec<Node>,
    free: Vec<usize>,
    lanes: Vec<Lane>,
    free_lanes: Vec<usize>,
    heads: BTreeSet<(Order, usize)>,
    /// The lanes of a digest: one, unless two keys have the same digest.
    digests: HashMap<u64, SmallVec<[usize; 1]>, RandomState>,
    /// The rows of all, by when they are due.
    ahead: Ahead,
    arrivals: u64,
    rows: usize,
    bytes: usize,
}

/// What the order of those who wait goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The class of requests that name none.
    pub(super) default_priority: u64,
    /// How urgent a request is that names no deadline: as one that has so long.
    pub(super) objective: Duration,
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
    /// Its part of what may wait, while it waits.
    pub(super) reserved: Option<Reserved>,
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
    /// The limit of rows when it was closed.
    pub(super) limit: usize,
    pub(super) closed: Closed,
    /// Whether it is a single request for the sake of what is learned from that.
    pub(super) held_out: Option<HoldOut>,
}

/// How much may go together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Members: one, where a request is sent by itself to see what that takes.
    pub(super) members: usize,
    /// What a call takes, as far as that is known.
    pub(super) line: Option<Line>,
    /// The rows that come in a second, for each place.
    pub(super) offered: f64,
}

/// What goes next, before it is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    /// The members of its key.
    pub(super) members: usize,
    /// The rows of its key.
    pub(super) rows: usize,
    /// When its first member came.
    pub(super) oldest: Instant,
    /// The tightest deadline among those of its key, or one that was.
    pub(super) tightest: Option<Instant>,
    /// The deadline of its first member.
    pub(super) deadline: Option<Instant>,
}

/// What is before a request that comes now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) rows: usize,
    /// Keys of which the first goes before it, the one that goes next among them.
    pub(super) keys: usize,
}

/// How a request fits into the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The call has to end by its deadline.
    Bounds,
    /// It goes along, whatever becomes of it.
    Goes,
    /// It cannot be in time.
    Late,
}

/// Who cannot be answered in time any more, and why.
pub(super) type Late = (BoxMember, Expired);

/// When a member's turn is: of the first class first, in a class the nearest deadline, of two
/// alike who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    class: u64,
    urgent: Instant,
    arrival: u64,
}

#[derive(Debug)]
struct Node {
    member: Option<BoxMember>,
    order: Order,
    /// The class that its rows are counted in.
    counted: u64,
    lane: usize,
}

/// The members of one key.
#[derive(Debug, Default)]
struct Lane {
    digest: u64,
    /// Who came in order. Of those who left meanwhile the entry may still be there.
    ordered: VecDeque<(Order, usize)>,
    /// Who was more urgent than somebody before.
    urgent: BTreeMap<Order, usize>,
    /// Entries of `ordered` whose members have left.
    gone: usize,
    members: usize,
    rows: usize,
    /// Where it stands among the heads.
    head: Option<Order>,
    /// Not later than the tightest deadline in it.
    tightest: Option<Instant>,
}

impl Queue {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            nodes: Vec::new(),
            free: Vec::new(),
            lanes: Vec::new(),
            free_lanes: Vec::new(),
            heads: BTreeSet::new(),
            digests: HashMap::default(),
            ahead: Ahead::new(Instant::now(), rules.objective),
            arrivals: 0,
            rows: 0,
            bytes: 0,
        }
    }

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
        self.heads.is_empty()
    }

    /// Returns what goes next.
    pub(super) fn next(&self) -> Option<Next> {
        let (_, lane) = self.heads.first()?;
        let lane = self.lanes.get(*lane)?;
        let (_, first) = lane.first()?;
        let first = self.nodes.get(first)?.member.as_ref()?;
        Some(Next {
            members: lane.members,
            rows: lane.rows,
            oldest: first.arrived,
            tightest: lane.tightest,
            deadline: first.request.head.deadline,
        })
    }

    /// Returns what goes before a request that comes now. Of keys no more are counted than a choice
    /// between waiting and not needs.
    pub(super) fn before(&self, head: &Head, now: Instant) -> Before {
        let order = self.rules.order(head, now, u64::MAX);
        let sooner = self.heads.iter().take(MANY_KEYS);
        Before {
            rows: self.ahead.before(order.class, order.urgent),
            keys: sooner.take_while(|(first, _)| *first < order).count(),
        }
    }

    /// Adds a member.
    pub(super) fn push(&mut self, digest: u64, member: BoxMember) -> Place {
        self.rows += member.rows;
        self.bytes += member.held;
        self.arrivals += 1;
        let order = (self.rules).order(&member.request.head, member.arrived, self.arrivals);
        let lane = self.lane(digest, &member.request);
        let (rows, deadline) = (member.rows, member.request.head.deadline);
        let node = Node {
            member: Some(member),
            order,
            counted: self.ahead.add(order.class, order.urgent, rows),
            lane,
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
        let entered = &mut self.lanes[lane];
        entered.members += 1;
        entered.rows += rows;
        entered.tightest = match (entered.tightest, deadline) {
            (Some(tightest), Some(deadline)) => Some(tightest.min(deadline)),
            (tightest, deadline) => tightest.or(deadline),
        };
        match entered.ordered.back() {
            Some((last, _)) if order < *last => {
                entered.urgent.insert(order, index);
            }
            _ => entered.ordered.push_back((order, index)),
        }
        self.show(lane);
        Place {
            node: index,
            arrival: order.arrival,
        }
    }

    /// Returns the rows of a member, if it still waits.
    pub(super) fn rows_of(&self, place: Place) -> Option<usize> {
        let node = self.nodes.get(place.node)?;
        let member = node.member.as_ref()?;
        (node.order.arrival == place.arrival).then_some(member.rows)
    }

    /// Tells whether those who wait are of several keys.
    pub(super) fn has_several_keys(&self) -> bool {
        self.heads.len() > 1
    }

    /// Takes a member out, if it still waits.
    pub(super) fn remove(&mut self, place: Place) -> Option<BoxMember> {
        let node = self.nodes.get(place.node)?;
        if node.order.arrival != place.arrival {
            return None;
        }
        let (order, lane) = (node.order, node.lane);
        let member = self.vacate(place.node)?;
        let left = &mut self.lanes[lane];
        if left.urgent.remove(&order).is_none() {
            left.gone += 1;
        }
        self.tidy(lane);
        self.settle(lane);
        Some(member)
    }

    /// Takes the next batch: the most urgent request, and those of its key behind it as long as
    /// rows, bytes and the nearest of their deadlines allow. A request that is too large for any
    /// batch is one by itself. Who cannot be in time is put into `late` instead.
    pub(super) fn take(
        &mut self,
        now: Instant,
        limits: Limits,
        late: &mut Vec<Late>,
    ) -> Option<Batch> {
        loop {
            let (_, lane) = *self.heads.first()?;
            let mut members = Vec::new();
            let (mut rows, mut bytes) = (0_usize, 0_usize);
            let mut latest: Option<Instant> = None;
            let closed = loop {
                let Some((_, index)) = self.lanes[lane].first() else {
                    break None;
                };
                let Some(next) = &self.nodes[index].member else {
                    break None;
                };
                // With those before it and behind it, so many could go.
                let company = rows.saturating_add(self.lanes[lane].rows).min(limits.rows);
                let deadline = match limits.judge(next, company, now) {
                    Ok(deadline) => deadline,
                    Err(expired) => {
                        let member = self.pop(lane, index);
                        late.extend(member.map(|member| (member, expired)));
                        continue;
                    }
                };
                let (more_rows, more_bytes) = (
                    rows.saturating_add(next.rows),
                    bytes.saturating_add(next.bytes),
                );
                let tighter = [latest, deadline].into_iter().flatten().min();
                if !members.is_empty() {
                    if more_rows > limits.rows {
                        break Some(Closed::Full);
                    }
                    if more_bytes > limits.bytes {
                        break Some(Closed::Bytes);
                    }
                    if members.len() >= limits.members {
                        break Some(Closed::HoldOut);
                    }
                    if limits.delays(more_rows, now, tighter) {
                        break Some(Closed::Deadline);
                    }
                }
                let Some(member) = self.pop(lane, index) else {
                    break None;
                };
                (rows, bytes, latest) = (more_rows, more_bytes, tighter);
                members.push(member);
            };
            // The lane's last member takes the lane with it.
            self.settle(lane);
            if members.is_empty() {
                continue;
            }
            let closed = closed.unwrap_or(if rows >= limits.rows {
                Closed::Full
            } else if self.is_empty() {
                Closed::Idle
            } else {
                Closed::Incompatible
            });
            return Some(Batch {
                members,
                rows,
                limit: limits.rows,
                closed,
                held_out: None,
            });
        }
    }

    /// Takes all members out, the most urgent of each key first.
    pub(super) fn drain(&mut self) -> Vec<BoxMember> {
        let mut members = Vec::new();
        while let Some((_, lane)) = self.heads.first().copied() {
            while let Some((_, index)) = self.lanes[lane].first() {
                members.extend(self.pop(lane, index));
            }
            self.settle(lane);
        }
        members
    }

    /// Finds the lane whose first request is the same but for its rows, or makes one.
    fn lane(&mut self, digest: u64, request: &Request) -> usize {
        let lanes = self.digests.entry(digest).or_default();
        for lane in lanes.iter().copied() {
            let first = self.lanes[lane].first();
            let first = first.and_then(|(_, first)| self.nodes[first].member.as_ref());
            if first.is_some_and(|first| key::same(&first.request, request)) {
                return lane;
            }
        }
        let lane = match self.free_lanes.pop() {
            Some(lane) => lane,
            None => {
                self.lanes.push(Lane::default());
                self.lanes.len() - 1
            }
        };
        lanes.push(lane);
        self.lanes[lane].digest = digest;
        lane
    }

    /// Takes the first member of a lane, which is at this node; the lane is to be settled after.
    fn pop(&mut self, lane: usize, index: usize) -> Option<BoxMember> {
        let order = self.nodes[index].order;
        let from = &mut self.lanes[lane];
        if from.urgent.remove(&order).is_none() {
            from.ordered.pop_front();
        }
        let member = self.vacate(index);
        self.tidy(lane);
        member
    }

    /// Takes a member from its node; its lane still has an entry of it.
    fn vacate(&mut self, index: usize) -> Option<BoxMember> {
        let node = &mut self.nodes[index];
        let mut member = node.member.take()?;
        member.reserved = None;
        self.ahead
            .remove(node.counted, node.order.urgent, member.rows);
        let lane = &mut self.lanes[node.lane];
        lane.members -= 1;
        lane.rows -= member.rows;
        self.free.push(index);
        self.rows -= member.rows;
        self.bytes -= member.held;
        Some(member)
    }

    /// Lets go of the entries of those who have left: at the front at once, elsewhere when they are
    /// the most.
    fn tidy(&mut self, lane: usize) {
        let Self { lanes, nodes, .. } = self;
        let lane = &mut lanes[lane];
        let stays = |(order, index): &(Order, usize)| {
            let node: &Node = &nodes[*index];
            node.member.is_some() && node.order == *order
        };
        while lane.gone > 0 && lane.ordered.front().is_some_and(|first| !stays(first)) {
            lane.ordered.pop_front();
            lane.gone -= 1;
        }
        if lane.gone > FEW && lane.gone > lane.ordered.len() / 2 {
            lane.ordered.retain(stays);
            lane.gone = 0;
        }
    }

    /// Puts a lane where it belongs among the heads, or away when nobody is in it.
    fn settle(&mut self, lane: usize) {
        self.show(lane);
        let left = &mut self.lanes[lane];
        if left.members > 0 {
            return;
        }
        // What it has allocated serves the next key, unless that is much.
        left.ordered.clear();
        left.ordered.shrink_to(MANY);
        (left.gone, left.tightest) = (0, None);
        self.free_lanes.push(lane);
        let digest = left.digest;
        if let Some(lanes) = self.digests.get_mut(&digest) {
            lanes.retain(|other| *other != lane);
            if lanes.is_empty() {
                self.digests.remove(&digest);
            }
        }
    }

    fn show(&mut self, lane: usize) {
        let shown = &mut self.lanes[lane];
        let head = shown.first().map(|(order, _)| order);
        if head == shown.head {
            return;
        }
        if let Some(before) = shown.head.take() {
            self.heads.remove(&(before, lane));
        }
        if let Some(head) = head {
            self.heads.insert((head, lane));
            shown.head = Some(head);
        }
    }
}

impl Lane {
    /// Returns the most urgent member's place.
    fn first(&self) -> Option<(Order, usize)> {
        let ordered = self.ordered.front().copied();
        let urgent = self
            .urgent
            .first_key_value()
            .map(|(order, index)| (*order, *index));
        match (ordered, urgent) {
            (Some(ordered), Some(urgent)) => Some(ordered.min(urgent)),
            (ordered, urgent) => ordered.or(urgent),
        }
    }
}

impl Rules {
    fn order(&self, head: &Head, arrived: Instant, arrival: u64) -> Order {
        let class = match head.priority {
            0 => self.default_priority,
            named => named,
        };
        let soft = |objectives: u32| {
            let ahead = self.objective.checked_mul(objectives);
            ahead.and_then(|ahead| arrived.checked_add(ahead))
        };
        let urgent = match head.deadline {
            None => soft(1),
            // Behind those who come later for a while, and not for ever.
            Some(deadline) => soft(FARTHEST).map(|farthest| deadline.min(farthest)),
        };
        Order {
            class,
            urgent: urgent.unwrap_or(arrived),
            arrival,
        }
    }
}

impl Limits {
    /// Tells by when a member's call has to end for its sake, or that it cannot be answered in time,
    /// with so many rows that could go with it.
    ///
    /// What is known of the model is a mean, and it may have become faster: only who is far from being
    /// in time is told so. And who could only be in time in a call that is so small that the others
    /// would wait twice as long for it, is not worth their while: kept to, such deadlines make an
    /// endpoint that is late later still. While more waits than a call can take, nobody's is: the first
    /// is then always the one whose deadline is the nearest that is let pass, so that every call would
    /// be as small as may be, and none full enough to learn from.
    fn judge(
        &self,
        member: &Member,
        company: usize,
        now: Instant,
    ) -> Result<Option<Instant>, Expired> {
        let Some(deadline) = member.request.head.deadline else {
            return Ok(None);
        };
        if deadline <= now {
            return Err(Expired::passed());
        }
        let Some(line) = self.line else {
            return Ok(Some(deadline));
        };
        let left = (deadline - now).as_secs_f64();
        let is_crowded = company >= self.rows && company > member.rows;
        match self.fit(line, member.rows, company, is_crowded, left) {
            Fit::Bounds => Ok(Some(deadline)),
            Fit::Goes => Ok(None),
            Fit::Late => Err(Expired::hopeless()),
        }
    }

    /// Tells whether a request that has so many seconds left, and with which so many rows could go,
    /// can be in time.
    pub(super) fn fit(
        &self,
        line: Line,
        rows: usize,
        company: usize,
        is_crowded: bool,
        left: f64,
    ) -> Fit {
        if line.least(rows) > left {
            return Fit::Late;
        }
        let rows = rows as f64;
        let company = (company as f64).max(rows);
        if line.time(company) * PACKED <= left {
            return Fit::Bounds;
        }
        if is_crowded {
            return Fit::Late;
        }
        let alone = line.rows_within(left / PACKED).max(rows);
        match self.is_worthwhile(line, alone, company) {
            true => Fit::Bounds,
            // In time with all of them, if barely: it is no reason to send fewer.
            false if line.time(company) <= left => Fit::Goes,
            false => Fit::Late,
        }
    }

    /// Tells whether a deadline may keep a call to so few rows of those that could go.
    fn is_worthwhile(&self, line: Line, rows: f64, company: f64) -> bool {
        let most = line.worth(company);
        let keeps_up = self.offered.clamp(most * WORTHWHILE, most * CLOSE);
        line.worth(rows) >= keeps_up
    }

    /// Returns the rows of a call for the sake of a deadline that is so many seconds off: as many as may
    /// be where it is not worth while.
    pub(super) fn within(&self, line: Line, seconds: f64) -> usize {
        let rows = line.rows_within(seconds / PACKED);
        let most = self.rows.max(1);
        match self.is_worthwhile(line, rows, most as f64) {
            true => (rows as usize).clamp(1, most),
            false => most,
        }
    }

    /// Tells whether a call of so many rows would be late for a deadline.
    fn delays(&self, rows: usize, now: Instant, deadline: Option<Instant>) -> bool {
        let (Some(line), Some(deadline)) = (self.line, deadline) else {
            return false;
        };
        line.time(rows as f64) * PACKED > deadline.saturating_duration_since(now).as_secs_f64()
    }
}

/// The part of the expected time that a call is given room for.
const PACKED: f64 = 1.1;
/// What a call for the sake of a near deadline must be worth, to one that disregards it.
const WORTHWHILE: f64 = 0.5;
/// The same where calls of that worth cannot keep up with what comes: each row that is not answered
/// now is one that is never answered.
const CLOSE: f64 = 0.9;
/// Objectives after its arrival as which a deadline counts at most: under overload, who has much time
/// would else be overtaken by all that come, until it has none.
const FARTHEST: u32 = 4;
/// Keys that are counted, each of which needs a call.
const MANY_KEYS: usize = 32;
/// Entries of those who have left that do not matter.
const FEW: usize = 32;
/// Entries that an empty lane keeps room for.
const MANY: usize = 1024;
