use std::{task::Waker, time::Duration};

use tokio::time::Instant;

use super::sorted::Sorted;
use crate::{
    deadline::Expired,
    overload::{Overloaded, Reserved},
};

/// The requests that wait for one endpoint.
///
/// ```text
/// class 1:   due in 5 ms - due in 9 ms          overdue: -
/// class 10:  due in 3 ms - (objective) 20 ms    overdue: came 90 ms ago - came 70 ms ago
/// ```
///
/// The requests themselves stay with their callers: here are only their places, and what has become
/// of them. Who names no deadline, and has waited so long that the objective is missed in any case,
/// stands among the overdue of its class.
#[derive(Debug)]
pub(super) struct Queue {
    rules: Rules,
    nodes: Vec<Node>,
    free: Vec<usize>,
    order: Sorted<Order>,
    arrivals: u64,
    overdue: usize,
    /// Requests in time that went since one of the overdue did.
    went: u32,
}

/// What the order of those who wait goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    base: Instant,
    /// The class of requests that name none.
    default_priority: u64,
    /// How urgent a request is that names no deadline: as one that has so long.
    objective: Duration,
    #[cfg(test)]
    by: By,
}

/// Other orders, to compare them.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The one that there is.
    Deadline,
    /// Whoever came first.
    Arrival,
    /// Whoever came last, while more wait than can hardly be told from chance.
    LastArrival,
}

/// What a request says of its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Urgency {
    /// As Triton has it: 0 names none.
    pub(super) priority: u64,
    pub(super) deadline: Option<Instant>,
    pub(super) arrived: Instant,
    /// Whether it is one of a sequence: the server keeps state between them.
    pub(super) in_sequence: bool,
}

/// When a request's turn is: of the first class first, then those that can be in time, of these the
/// nearest deadline, of two alike who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    class: u64,
    overdue: bool,
    /// In nanoseconds since the queue was made.
    urgent: u64,
    arrival: u64,
}

/// What has become of a request that waited.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It has this place for a call.
    Granted(usize),
    /// It would come too late.
    Late(Expired),
    /// It had to leave its room to others.
    Refused(Overloaded),
}

/// Who is next, before it is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) node: usize,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
    /// By when it is to be answered, whether it said so or not.
    pub(super) urgent: Instant,
    pub(super) overdue: bool,
}

impl Urgency {
    /// Returns how long the request has in all.
    pub(super) fn time(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(self.arrived))
    }
}

impl Next {
    /// Returns how long the request has in all.
    pub(super) fn time(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(self.arrived))
    }
}

#[derive(Debug)]
struct Node {
    order: Order,
    arrived: Instant,
    deadline: Option<Instant>,
    waker: Waker,
    /// Its part of what may wait.
    reserved: Option<Reserved>,
    held: usize,
    outcome: Option<Outcome>,
}

impl Queue {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            nodes: Vec::new(),
            free: Vec::new(),
            order: Sorted::new(),
            arrivals: 0,
            overdue: 0,
            went: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn order_by(&mut self, by: By) {
        self.rules.by = by;
    }

    /// Returns the node that the next request will have.
    #[cfg(test)]
    pub(super) fn free_node(&self) -> usize {
        self.free.last().copied().unwrap_or(self.nodes.len())
    }

    /// Returns how many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the class of a request.
    pub(super) fn class(&self, urgency: &Urgency) -> u64 {
        self.rules.class(urgency)
    }

    /// Returns the first class of which some wait that are in time, or would if nobody was overdue.
    pub(super) fn first_class(&self) -> Option<u64> {
        let (first, _) = self.order.first()?;
        (self.len() > self.overdue).then_some(first.class)
    }

    /// Tells whether some wait that are overdue.
    pub(super) fn has_overdue(&self) -> bool {
        self.overdue > 0
    }

    /// Returns the bytes of the messages that wait.
    pub(super) fn bytes(&self) -> usize {
        let waits = |node: &&Node| node.outcome.is_none();
        self.nodes.iter().filter(waits).map(|node| node.held).sum()
    }

    /// Returns how many would go before a request that comes now.
    pub(super) fn before(&self, urgency: &Urgency) -> usize {
        self.order.rank(&self.rules.order(urgency, u64::MAX))
    }

    /// Lets a request wait; `waker` is told of its outcome.
    pub(super) fn push(
        &mut self,
        urgency: &Urgency,
        overdue: bool,
        reserved: Option<Reserved>,
        held: usize,
        waker: Waker,
    ) -> usize {
        self.arrivals += 1;
        let order = Order {
            overdue,
            ..self.rules.order(urgency, self.arrivals)
        };
        self.overdue += usize::from(overdue);
        let node = Node {
            order,
            arrived: urgency.arrived,
            deadline: urgency.deadline,
            waker,
            reserved,
            held,
            outcome: None,
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
        self.order.insert(order, index);
        index
    }

    /// Tells a request's outcome to whoever holds its place, which is given back by that; or keeps
    /// who is to be told of it.
    pub(super) fn poll(&mut self, index: usize, waker: &Waker) -> Option<Outcome> {
        let node = &mut self.nodes[index];
        let Some(outcome) = node.outcome.take() else {
            node.waker.clone_from(waker);
            return None;
        };
        self.vacate(index);
        Some(outcome)
    }

    /// Tells whether a request has no outcome yet.
    pub(super) fn waits(&self, index: usize) -> bool {
        self.nodes[index].outcome.is_none()
    }

    /// Takes a request out whose caller has left or gives up, and returns its outcome if it had one.
    pub(super) fn leave(&mut self, index: usize) -> Option<Outcome> {
        let outcome = self.nodes[index].outcome.take();
        if outcome.is_none() {
            self.unlink(index);
        }
        self.vacate(index);
        outcome
    }

    /// Decides a request's outcome, and returns who is to be told.
    pub(super) fn settle(&mut self, index: usize, outcome: Outcome) -> Waker {
        self.unlink(index);
        let node = &mut self.nodes[index];
        node.outcome = Some(outcome);
        node.reserved = None;
        std::mem::replace(&mut node.waker, Waker::noop().clone())
    }

    /// Returns whose turn it is.
    pub(super) fn next(&self) -> Option<Next> {
        let (first, index) = self.order.first()?;
        #[cfg(test)]
        if self.by_last() {
            return self.order.last().map(|(_, index)| self.at(index));
        }
        if !first.overdue && self.overdue > 0 && self.went >= TURNS {
            // Who has waited too long for want of a deadline does not wait for ever.
            let overdue = self.order.first_from(&first.class_overdue());
            if let Some((overdue, index)) = overdue
                && overdue.class == first.class
            {
                return Some(self.at(index));
            }
        }
        Some(self.at(index))
    }

    /// Returns who is the last of those in time of the same class.
    pub(super) fn last_in_time(&self, next: &Next) -> Next {
        let order = self.nodes[next.node].order;
        let last = self.order.last_before(&order.class_overdue());
        let last = last.filter(|(last, _)| last.class == order.class);
        self.at(last.map_or(next.node, |(_, last)| last))
    }

    /// Tells whether those without a deadline are ever overdue.
    #[cfg(test)]
    pub(super) fn demotes(&self) -> bool {
        self.rules.by == By::Deadline
    }

    /// Puts a request without a deadline behind those of its class that can be in time.
    pub(super) fn demote(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        self.order.remove(&node.order);
        node.order.overdue = true;
        self.order.insert(node.order, index);
        self.overdue += 1;
    }

    /// Takes note that a request goes.
    pub(super) fn goes(&mut self, next: &Next) {
        self.went = match next.overdue {
            true => 0,
            false => self.went.saturating_add(1),
        };
    }

    /// Returns the last of all, if it is of a later class than a request that comes now, or overdue
    /// where that is not.
    pub(super) fn behind(&self, urgency: &Urgency, overdue: bool) -> Option<usize> {
        let (last, index) = self.order.last()?;
        let comes = (self.rules.class(urgency), overdue);
        ((last.class, last.overdue) > comes).then_some(index)
    }

    /// Returns how many requests and bytes of messages would make way for a request that comes now.
    pub(super) fn room_behind(&self, urgency: &Urgency, overdue: bool) -> (usize, usize) {
        let comes = (self.rules.class(urgency), overdue);
        let behind = self.nodes.iter().filter(|node| {
            node.reserved.is_some() && (node.order.class, node.order.overdue) > comes
        });
        behind.fold((0, 0), |(requests, bytes), node| {
            (requests + 1, bytes + node.held)
        })
    }

    #[cfg(test)]
    fn by_last(&self) -> bool {
        // As many as one that is in time may wait for.
        self.rules.by == By::LastArrival && self.len() > 8
    }

    fn at(&self, index: usize) -> Next {
        let node = &self.nodes[index];
        Next {
            node: index,
            arrived: node.arrived,
            deadline: node.deadline,
            urgent: self.rules.base + Duration::from_nanos(node.order.urgent),
            overdue: node.order.overdue,
        }
    }

    fn unlink(&mut self, index: usize) {
        let order = self.nodes[index].order;
        self.order.remove(&order);
        self.overdue -= usize::from(order.overdue);
    }

    fn vacate(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.reserved = None;
        node.held = 0;
        node.waker = Waker::noop().clone();
        self.free.push(index);
    }
}

impl Order {
    /// Returns the least order of the overdue of the same class.
    fn class_overdue(self) -> Self {
        Self {
            overdue: true,
            urgent: 0,
            arrival: 0,
            ..self
        }
    }
}

impl Rules {
    pub(super) fn new(default_priority: u64, objective: Duration, now: Instant) -> Self {
        Self {
            base: now,
            default_priority,
            objective,
            #[cfg(test)]
            by: By::Deadline,
        }
    }

    fn class(&self, urgency: &Urgency) -> u64 {
        match urgency.priority {
            0 => self.default_priority,
            named => named,
        }
    }

    fn order(&self, urgency: &Urgency, arrival: u64) -> Order {
        let soft = |objectives: u32| {
            let ahead = self.objective.checked_mul(objectives);
            ahead.and_then(|ahead| urgency.arrived.checked_add(ahead))
        };
        let urgent = match urgency.deadline {
            None => soft(1),
            // Behind those who come later for a while, and not for ever.
            Some(deadline) => soft(FARTHEST).map(|farthest| deadline.min(farthest)),
        };
        let urgent = urgent.unwrap_or(urgency.arrived);
        #[cfg(test)]
        let urgent = match self.by {
            By::Arrival | By::LastArrival => urgency.arrived,
            By::Deadline => urgent,
        };
        let urgent = urgent.saturating_duration_since(self.base).as_nanos();
        Order {
            class: self.class(urgency),
            overdue: false,
            urgent: u64::try_from(urgent).unwrap_or(u64::MAX),
            arrival,
        }
    }
}

/// Objectives after its arrival as which a deadline counts at most: under overload, who has much
/// time would else be overtaken by all that come, until it has none.
const FARTHEST: u32 = 4;
/// Requests that can be in time that go before one that is overdue.
const TURNS: u32 = 7;
