//! What choosing and learning cost: `cargo bench -p outrigger-filters --bench select`.
//!
//! Each figure is the least of several rounds, in nanoseconds: what the code takes when nothing
//! else has the core. At the end each policy is told ten million losses, after which its state has
//! to be as sane as at the start.

#![expect(
    clippy::disallowed_types,
    reason = "a program, which measures real time"
)]

use std::{hint::black_box, time::Instant};

use outrigger_filters::select::{
    Arm, Available, Config, Evidence, Learned, Policy, Selector, State,
};

fn main() {
    println!(
        "{:<16} {:>4} {:>9} {:>9} {:>9} {:>14}",
        "policy", "arms", "choose", "chosen", "known", "probabilities"
    );
    for policy in Policy::USUAL {
        for arms in [2, 5, 16] {
            measure(policy, arms);
        }
    }
    for policy in Policy::USUAL {
        endure(policy);
    }
}

/// Prints what a choice by known probabilities takes, learning from one arm's loss and from all of
/// them, and computing the probabilities again, as after each feedback.
fn measure(policy: Policy, arms: usize) {
    let selector = selector(policy, arms);
    let all = Available::first(arms);
    let losses: Vec<_> = (0..arms)
        .map(|arm| Some(arm as f64 / arms as f64))
        .collect();
    let mut state = selector.prior();
    for _ in 0..1_000 {
        selector.learn(&mut state, Evidence::Known(&losses));
    }
    let shares = selector.probabilities(&state, all);
    let choose = least(|call| {
        let uniform = (call % 1_000) as f64 / 1_000.;
        black_box(Selector::choose(black_box(&shares), uniform));
    });
    let chosen = least(|call| {
        let arm = call % arms;
        let probability = shares[arm].max(1e-3);
        let loss = (call % 7) as f64 / 7.;
        let evidence = Evidence::Chosen {
            arm,
            probability,
            loss,
        };
        black_box(selector.learn(&mut state, evidence));
    });
    let known = least(|_| {
        black_box(selector.learn(&mut state, Evidence::Known(&losses)));
    });
    let probabilities = least(|_| {
        black_box(selector.probabilities(black_box(&state), all));
    });
    println!(
        "{:<16} {arms:>4} {choose:>9.0} {chosen:>9.0} {known:>9.0} {probabilities:>14.0}",
        policy.as_str()
    );
}

/// Tells a policy ten million losses of an arm that it chose, and checks what is left.
fn endure(policy: Policy) {
    let arms = 5;
    let selector = selector(policy, arms);
    let mut state = selector.prior();
    let shares = selector.probabilities(&state, Available::first(arms));
    for step in 0..UPDATES {
        let arm = step % arms;
        let evidence = Evidence::Chosen {
            arm,
            probability: shares[arm],
            loss: ((step / 1_000 + arm) % 5) as f64 / 4.,
        };
        selector.learn(&mut state, evidence);
    }
    let told: f64 = state.arms.iter().map(|arm| arm.observations).sum();
    assert_eq!(told, UPDATES as f64);
    let finite = |learned: &Learned| learned.numbers().iter().all(|number| number.is_finite());
    assert!(state.arms.iter().all(finite), "{state:?}");
    let mut repaired: State = state.clone();
    assert!(!selector.repair(&mut repaired), "{state:?}");
    let shares = selector.probabilities(&state, Available::first(arms));
    assert!((shares.iter().sum::<f64>() - 1.).abs() < 1e-9, "{shares:?}");
    println!("{}: sane after {UPDATES} losses", policy.as_str());
}

fn selector(policy: Policy, arms: usize) -> Selector {
    let config = Config {
        policy,
        ..Config::default()
    };
    let arms: Vec<_> = (0..arms).map(|arm| Arm::new(arm.to_string())).collect();
    Selector::new(&config, &arms)
}

/// Returns the nanoseconds that a call takes, in the fastest of several rounds.
fn least(mut call: impl FnMut(usize)) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for number in 0..CALLS {
                call(number);
            }
            start.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .fold(f64::INFINITY, f64::min)
}

const ROUNDS: usize = 20;
const CALLS: usize = 2_000;
const UPDATES: usize = 10_000_000;
