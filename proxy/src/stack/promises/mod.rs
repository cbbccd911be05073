//! What holds for everybody through a whole proxy, whatever servers and callers do: random
//! arrivals, deadlines, callers who leave and servers that fail in every way, on a paused clock.

mod hanging;
mod plan;
mod server;
mod world;

use proptest::prelude::*;

use self::{
    plan::{Caller, Case, Patience, Script, Shape, Stack, case},
    server::Act,
    world::World,
};

/// Lets a case happen on a clock of its own, and checks all promises.
fn keep(case: &Case) {
    runtime().block_on(async {
        let world = World::new(case);
        let ended = world.live().await;
        world.everybody_has_its_own_answer_in_time(&ended);
        world.nothing_is_sent_that_nobody_waits_for(&ended);
        world.nothing_is_left().await;
    });
}

/// A runtime whose clock goes on when nobody has anything to do.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

fn default() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(1..100_u64)
}

fn bare() -> impl Strategy<Value = Stack> {
    default().prop_map(|default| Stack {
        shape: Shape::Endpoints,
        settings: vec!["retry: {budget: 0}".to_owned()],
        default,
        deadline: vec!["enough: false"],
    })
}

fn admission() -> impl Strategy<Value = String> {
    let limit = prop::sample::select(vec!["auto", "1", "2", "4"]);
    let cancel = prop::sample::select(vec!["never", "abandoned"]);
    (limit, cancel, 1..20_usize).prop_map(|(limit, cancel, queue)| {
        format!(
            "admission: {{max_concurrency: {limit}, cancel: {cancel}, max_queue_requests: {queue}}}"
        )
    })
}

/// What sends requests again, or a second time beside the first.
fn again() -> impl Strategy<Value = Option<String>> {
    let again = ["retry: {budget: 1}", "hedge: {quantile: 0.5, budget: 1}"];
    prop::option::of(prop::sample::select(again.map(str::to_owned).to_vec()))
}

fn admitted() -> impl Strategy<Value = Stack> {
    (admission(), again(), default()).prop_map(|(admission, again, default)| Stack {
        shape: Shape::Endpoints,
        settings: [admission].into_iter().chain(again).collect(),
        default,
        deadline: Vec::new(),
    })
}

fn batch() -> impl Strategy<Value = String> {
    let in_flight = prop::sample::select(vec!["auto", "1", "2", "3"]);
    let cancel = prop::sample::select(vec!["never", "abandoned"]);
    let controller = prop::sample::select(vec!["quantile", "aimd", "fixed"]);
    (
        in_flight,
        cancel,
        controller,
        0..5_u64,
        4..9_usize,
        8..40_usize,
    )
        .prop_map(|(in_flight, cancel, controller, delay, size, queue)| {
            format!(
                "batch: {{max_in_flight: {in_flight}, cancel: {cancel}, controller: {controller}, \
                 max_delay: {delay}ms, max_batch_size: {size}, max_queue_rows: {queue}}}"
            )
        })
}

fn batched() -> impl Strategy<Value = Stack> {
    (batch(), again(), default()).prop_map(|(batch, again, default)| Stack {
        shape: Shape::Endpoints,
        settings: [batch].into_iter().chain(again).collect(),
        default,
        deadline: Vec::new(),
    })
}

fn cached() -> impl Strategy<Value = Stack> {
    (batch(), prop::bool::ANY, default()).prop_map(|(batch, is_batched, default)| {
        let mut settings = vec!["cache: {unit: row, ttl: 40ms}".to_owned()];
        settings.extend(is_batched.then_some(batch));
        Stack {
            shape: Shape::Endpoints,
            settings,
            default,
            deadline: Vec::new(),
        }
    })
}

fn selected(shape: Shape) -> impl Strategy<Value = Stack> {
    let batch = prop::option::of(batch());
    let words = match shape {
        Shape::All => vec!["quorum: 2", "enough: true", "default_output: {y: [-1]}"],
        _ => vec!["default_output: {y: [-1]}"],
    };
    let len = words.len();
    let deadline = prop::sample::subsequence(words, 0..=len);
    (batch, default(), deadline).prop_map(move |(batch, default, deadline)| Stack {
        shape,
        settings: batch.into_iter().collect(),
        default,
        deadline,
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_model_with_deadlines_alone_keeps_all_promises(case in case(bare(), 1..4, 1 << 40)) {
        keep(&case);
    }

    #[test]
    fn a_model_with_admission_keeps_all_promises(case in case(admitted(), 1..4, 1 << 40)) {
        keep(&case);
    }

    #[test]
    fn a_model_in_batches_keeps_all_promises(case in case(batched(), 1..4, 1 << 40)) {
        keep(&case);
    }

    #[test]
    fn a_model_with_a_cache_keeps_all_promises(case in case(cached(), 1..3, 7)) {
        keep(&case);
    }

    #[test]
    fn one_of_several_arms_keeps_all_promises(case in case(selected(Shape::One), 2..4, 1 << 40)) {
        keep(&case);
    }

    #[test]
    fn an_ensemble_keeps_all_promises(case in case(selected(Shape::All), 2..4, 1 << 40)) {
        keep(&case);
    }
}

#[test]
fn who_is_too_late_for_what_another_caller_asked_for_keeps_it_in_no_queue() {
    let caller = |at, mark, patience, leaves| Caller {
        at,
        mark,
        rows: 1,
        patience,
        leaves,
    };
    keep(&Case {
        stack: Stack {
            shape: Shape::Endpoints,
            settings: vec![
                "cache: {unit: row}".to_owned(),
                "batch: {max_batch_size: 8, max_in_flight: 1}".to_owned(),
            ],
            default: None,
            deadline: Vec::new(),
        },
        servers: vec![Script {
            acts: vec![Act::Answer(100)],
            greetings: Vec::new(),
        }],
        callers: vec![
            caller(0, 0, Patience::Usual, None),
            caller(1, 1, Patience::Usual, Some(10)),
            caller(2, 1, Patience::Grpc(20), None),
        ],
    });
}
