//! Servers that never say anything: whoever has a deadline is answered by it, and nobody is woken for
//! nothing.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    plan::{Caller, Case, Patience, Script, Shape, Stack},
    runtime,
    server::{Act, Greeting},
    world::World,
};

/// A future, and how often it was polled.
struct Counted<T> {
    inner: BoxFuture<'static, T>,
    polls: usize,
}

impl<T> Future for Counted<T> {
    type Output = (T, usize);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.polls += 1;
        let polls = self.polls;
        self.inner.as_mut().poll(cx).map(|output| (output, polls))
    }
}

/// How often the runtime had nothing to do so far: each time, a timer wakes it.
fn rests() -> u64 {
    Handle::current().metrics().worker_park_count(0)
}

fn stacks() -> impl Iterator<Item = Stack> {
    let queues = [
        "retry: {budget: 0.1}",
        "admission: {max_concurrency: 4}",
        "admission: {max_concurrency: auto, cancel: abandoned}",
        "hedge: {}",
        "batch: {max_batch_size: 8, max_in_flight: 1, max_delay: 3ms}",
        "batch: {max_batch_size: 8}",
        "cache: {unit: row}",
    ];
    let shapes = [Shape::Endpoints, Shape::One, Shape::All];
    shapes.into_iter().flat_map(move |shape| {
        queues.into_iter().map(move |queue| Stack {
            shape,
            settings: vec![queue.to_owned()],
            default: Some(50),
            deadline: Vec::new(),
        })
    })
}

fn caller(nth: u64) -> Caller {
    Caller {
        at: 0,
        mark: nth as i64,
        rows: 1,
        patience: match nth % 3 {
            0 => Patience::Usual,
            1 => Patience::Grpc(1 + nth),
            _ => Patience::Own(1 + nth),
        },
        leaves: None,
    }
}

#[test]
fn who_has_a_deadline_is_answered_by_it_whatever_servers_do_and_is_woken_a_few_times_only() {
    let scripts = [
        Vec::new(),
        vec![Greeting::Silent],
        vec![Greeting::After(40)],
    ];
    for (stack, greetings) in stacks().flat_map(|stack| {
        let all = scripts.clone().into_iter();
        all.map(move |greetings| (stack.clone(), greetings))
    }) {
        let script = Script {
            acts: vec![Act::Hang],
            greetings,
        };
        let case = Case {
            stack,
            servers: vec![script.clone(), script],
            callers: Vec::new(),
        };
        runtime().block_on(async {
            let world = World::new(&case);
            let mut answers = JoinSet::new();
            for caller in (0..100).map(caller) {
                let inner: BoxFuture<'static, _> = Box::pin(world.handle(&caller));
                let began = Instant::now();
                answers.spawn(async move {
                    let (outcome, polls) = Counted { inner, polls: 0 }.await;
                    (caller, outcome, began.elapsed(), polls)
                });
                sleep(Duration::from_millis(1)).await;
            }
            for (caller, code, took, polls) in answers.join_all().await {
                let millis = match caller.patience {
                    Patience::Usual => 50,
                    Patience::Grpc(millis) | Patience::Own(millis) => millis,
                };
                let deadline = Duration::from_millis(millis);
                let refused = code == "8" || code == "14";
                assert!(refused || code == "4", "{code}: {case:?}");
                assert!(took <= deadline, "{took:?} of {deadline:?}: {case:?}");
                assert!(
                    // The margin for the way back takes half at most.
                    refused || took * 2 >= deadline,
                    "{took:?} of {deadline:?}: {case:?}"
                );
                assert!(polls <= POLLS, "{polls} polls: {caller:?} {case:?}");
            }
        });
    }
}

#[test]
fn a_proxy_whose_callers_all_wait_does_nothing() {
    for mut stack in stacks() {
        stack.default = None;
        let script = Script {
            acts: vec![Act::Hang],
            greetings: Vec::new(),
        };
        let case = Case {
            stack,
            servers: vec![script.clone(), script],
            callers: Vec::new(),
        };
        runtime().block_on(async {
            let world = World::new(&case);
            let mut answers = JoinSet::new();
            for nth in 0..50 {
                let caller = Caller {
                    patience: Patience::Usual,
                    ..caller(nth)
                };
                answers.spawn(world.handle(&caller));
            }
            sleep(Duration::from_secs(2)).await;
            let before = rests();
            sleep(Duration::from_secs(60)).await;
            let rests = rests() - before;
            // Servers are asked now and then what their models take.
            assert!(rests <= RESTS, "{rests} times: {case:?}");
        });
    }
}

/// Once to begin, for the body, the connection, the queue, and for its timers.
const POLLS: usize = 16;
/// Ten a second: what looks every few milliseconds does so thousands of times.
const RESTS: u64 = 600;
