//! What exchanges take of a real Redis, and whether their bytes are counted right.

use std::process::Command;

use bytestring::ByteString;
use outrigger::state::Redis as Keeper;
use outrigger_filters::select::{
    Arm, Available, Config, Context, Evidence, Id, Keeper as _, Memory, Policy, Selector,
};
use serde_json::{Value, json};

use super::{keeper, wire};
use crate::bench::Result;
use crate::redis::Redis;

/// What is exchanged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// What it is called.
    pub(super) name: &'static str,
    /// Replicas that Redis has heard of.
    pub(super) replicas: usize,
    /// Feedbacks that each brings at a time.
    pub(super) feedbacks: usize,
    /// Whether each is of a context of its own.
    pub(super) contexts: bool,
}

/// What it took.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// What was exchanged.
    pub(super) case: Case,
    /// Microseconds of Redis's processor for a call.
    pub(super) micros: f64,
    /// Calls in an exchange.
    pub(super) calls: f64,
    /// Bytes of an exchange there and back, as Redis counts them.
    pub(super) bytes: (f64, f64),
    /// The same, as the experiment counts them.
    pub(super) counted: (f64, f64),
}

impl Case {
    /// All that is looked at.
    pub(super) const ALL: [Self; 6] = [
        Self::of("nothing is new", 1, 0),
        Self::of("1 feedback", 8, 1),
        Self::of("10 feedbacks", 8, 10),
        Self::of("100 feedbacks", 8, 100),
        Self::of("1 feedback, 1000 replicas", 1000, 1),
        Self {
            contexts: true,
            ..Self::of("50 contexts, 1 feedback each", 8, 50)
        },
    ];

    const fn of(name: &'static str, replicas: usize, feedbacks: usize) -> Self {
        Self {
            name,
            replicas,
            feedbacks,
            contexts: false,
        }
    }
}

impl Taken {
    /// The figures.
    pub(super) fn figures(&self) -> Value {
        json!({
            "name": self.case.name,
            "replicas": self.case.replicas,
            "feedbacks": self.case.feedbacks,
            "redis_microseconds_a_call": self.micros,
            "calls": self.calls,
            "bytes": self.bytes,
            "bytes_counted": self.counted,
        })
    }
}

/// Asks a real Redis; `None` where none is installed.
pub(super) fn measure(quick: bool) -> Result<Option<Vec<Taken>>> {
    if Command::new("redis-server")
        .arg("--version")
        .output()
        .is_err()
    {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut taken = Vec::new();
    for case in Case::ALL {
        taken.push(runtime.block_on(case.measure(if quick { 100 } else { 2000 }))?);
    }
    Ok(Some(taken))
}

impl Case {
    async fn measure(self, exchanges: usize) -> Result<Taken> {
        let server = Redis::start(&[]);
        let keeper = keeper(&server.url())?;
        let fleet: Vec<_> = (1..=self.replicas as u64).map(memory).collect();
        let mut nonce = 0;
        // Everyone has told something before it counts.
        for replica in &fleet {
            nonce += 1;
            learn(replica, None, nonce)?;
            exchange(&keeper, replica).await?;
        }
        let looked = Used::of(&server);
        let before = Used::of(&server);
        let mut counted = (0, 0, 0);
        for at in 0..exchanges {
            let replica = &fleet[at % fleet.len()];
            for _ in 0..self.feedbacks {
                nonce += 1;
                let name = format!("user-{:08}", nonce % 100_000);
                let context = self.contexts.then_some(name.as_str());
                learn(replica, context, nonce)?;
            }
            let (calls, there, back) = exchange(&keeper, replica).await?;
            counted = (counted.0 + calls, counted.1 + there, counted.2 + back);
        }
        let after = Used::of(&server);
        let each = |figure: f64| figure / exchanges as f64;
        Ok(Taken {
            case: self,
            micros: (after.micros - before.micros) / counted.0 as f64,
            calls: each(counted.0 as f64),
            // Less what it takes to look.
            bytes: (
                each(after.input - before.input - (before.input - looked.input)),
                each(after.output - before.output - (before.output - looked.output)),
            ),
            counted: (each(counted.1 as f64), each(counted.2 as f64)),
        })
    }
}

/// What a server has used so far.
struct Used {
    micros: f64,
    input: f64,
    output: f64,
}

impl Used {
    fn of(server: &Redis) -> Self {
        let info = server.ask(&["INFO", "all"]);
        let number = |name: &str| {
            let found = info.lines().find_map(|line| {
                let rest = line.strip_prefix(name)?.strip_prefix(':')?;
                rest.trim().parse::<f64>().ok()
            });
            found.unwrap_or(f64::NAN)
        };
        Self {
            micros: (number("used_cpu_sys") + number("used_cpu_user")) * 1e6,
            input: number("total_net_input_bytes"),
            output: number("total_net_output_bytes"),
        }
    }
}

fn memory(number: u64) -> Memory {
    let names: Vec<ByteString> = ["tree-6", "bayes", "logistic", "tree-4", "svm"]
        .map(ByteString::from)
        .into();
    let arms: Vec<_> = names.iter().cloned().map(Arm::new).collect();
    let config = Config {
        policy: Policy::USUAL[2],
        context: Some(Context {
            header: "x-user".into(),
            max_contexts: REMEMBERED,
        }),
        ..Config::default()
    };
    // As long as random ones.
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Memory::new(Selector::new(&config, &arms), REMEMBERED, names).kept(
        "digits".into(),
        config.policy.as_str(),
        number,
    )
}

fn learn(replica: &Memory, context: Option<&str>, nonce: u64) -> Result<()> {
    let all = Available::first(replica.arms().len());
    let evidence = Evidence::Chosen {
        arm: (nonce % 5) as usize,
        probability: replica.shares(context, all)[(nonce % 5) as usize],
        loss: f64::from(u8::from(nonce.is_multiple_of(3))),
    };
    let id = Id { nonce, row: 0 };
    replica
        .learn(context, evidence, Some(id))
        .map_err(|_| "the journal is full")?;
    Ok(())
}

/// Exchanges once; returns the calls, and the bytes there and back.
async fn exchange(keeper: &Keeper, replica: &Memory) -> Result<(usize, usize, u64)> {
    let batch = replica.batch().ok_or("there is a keeper")?;
    let reply = keeper.exchange(batch.clone()).await?;
    let figures = (
        batch.parts.len(),
        keeper.written(&batch),
        wire::answered(&batch, &reply),
    );
    replica.absorb(&batch, reply);
    Ok(figures)
}

const REMEMBERED: usize = 100_000;
