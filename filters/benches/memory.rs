//! What a choice and a feedback cost: `cargo bench -p outrigger-filters --bench memory`.
//!
//! Each figure is the least of several rounds, in nanoseconds: what the code takes when nothing
//! else has the core. There are five arms.

#![expect(
    clippy::disallowed_types,
    reason = "a program, which measures real time"
)]

use std::{fs, hint::black_box, time::Instant};

use bytestring::ByteString;
use outrigger_filters::select::{
    Arm, Available, Config, Evidence, Id, Memory, Policy, Pool, Selector,
};

fn main() {
    println!(
        "{:<16}{:>10}{:>14}{:>10}{:>20}",
        "policy", "choice", "an arm down", "feedback", "of a context, kept"
    );
    for policy in Policy::USUAL {
        let all = Available::first(ARMS);
        let memory = memory(policy, 0, false);
        for number in 0..1000 {
            let _ = memory.learn(None, chosen(number), None);
        }
        let choice = least(|number| {
            let shares = memory.shares(None, black_box(all));
            Selector::choose(&shares, number as f64 / ROUND as f64);
        });
        let some = least(|number| {
            let shares = memory.shares(None, black_box(all.without(1)));
            Selector::choose(&shares, number as f64 / ROUND as f64);
        });
        let mut nonce = 0;
        let feedback = least(|_| {
            nonce += 1;
            let _ = memory.learn(None, chosen(nonce), Some(Id { nonce, row: 0 }));
        });
        println!(
            "{:<16}{choice:>10.0}{some:>14.0}{feedback:>10.0}{:>20.0}",
            policy.as_str(),
            kept(policy),
        );
    }
    million();
}

/// Feedback of a context, with all that comes of it: its exchange, but for the network.
fn kept(policy: Policy) -> f64 {
    let memory = memory(policy, 1000, true);
    let pool = Pool::default();
    let mut nonce = 0;
    least(|_| {
        nonce += 1;
        if nonce % 1000 == 0 {
            let batch = memory.batch().expect("a journal");
            memory.absorb(&batch, pool.keep(&batch));
        }
        let context = if nonce % 2 == 0 { "x" } else { "y" };
        let _ = memory.learn(Some(context), chosen(nonce), Some(Id { nonce, row: 0 }));
    })
}

/// Contexts, a million of them.
fn million() {
    let memory = memory(Policy::USUAL[2], MILLION, false);
    let before = resident();
    for number in 0..MILLION {
        let _ = memory.learn(Some(&name(number)), chosen(number as u64), None);
    }
    let contexts = memory.view().contexts;
    let each = resident().saturating_sub(before) as f64 * 1024. / contexts as f64;
    let names: Vec<_> = (0..ROUND).map(|it| name(it * 7919 % MILLION)).collect();
    let known = least(|number| {
        let shares = memory.shares(Some(&names[number]), Available::first(ARMS));
        Selector::choose(&shares, 0.5);
    });
    let strangers: Vec<_> = (0..ROUND).map(|it| name(MILLION + it)).collect();
    let unknown = least(|number| {
        let shares = memory.shares(Some(&strangers[number]), Available::first(ARMS));
        Selector::choose(&shares, 0.5);
    });
    println!(
        "\n{contexts} contexts with names of 20 bytes: {each:.0} bytes each; a choice for one \
         {known:.0}, for one that is not known {unknown:.0}"
    );
}

fn name(number: usize) -> String {
    format!("customer-{number:011}")
}

fn memory(policy: Policy, contexts: usize, kept: bool) -> Memory {
    let config = Config {
        policy,
        ..Config::default()
    };
    let names: Vec<_> = ["a", "b", "c", "d", "e"].map(ByteString::from).into();
    let arms: Vec<_> = names.iter().cloned().map(Arm::new).collect();
    let memory = Memory::new(Selector::new(&config, &arms), contexts, names);
    match kept {
        true => memory.kept("model".into(), policy.as_str(), 1),
        false => memory,
    }
}

fn chosen(number: u64) -> Evidence<'static> {
    Evidence::Chosen {
        arm: number as usize % ARMS,
        probability: 0.2,
        loss: (number % 2) as f64,
    }
}

/// Returns the nanoseconds that one call takes, in the best of some rounds.
fn least(mut call: impl FnMut(usize)) -> f64 {
    let round = |_| {
        let began = Instant::now();
        for number in 0..ROUND {
            call(number);
        }
        began.elapsed().as_nanos() as f64 / ROUND as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

const ARMS: usize = 5;
const MILLION: usize = 1_000_000;
const ROUND: usize = 20_000;
const ROUNDS: usize = 10;
