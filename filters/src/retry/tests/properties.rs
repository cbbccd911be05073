//! Whatever fails, hangs, or is left.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use tokio::time::sleep_until;

use super::*;
use crate::deadline::by;

#[derive(Clone, Debug)]
struct Caller {
    /// Milliseconds after the one before.
    after: u64,
    once: bool,
    timeout: Option<u64>,
    /// After how many milliseconds it leaves.
    patience: Option<u64>,
}

#[derive(Debug)]
enum Told {
    Answer(String),
    Lost,
    Refused,
    Late,
    Left,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => (0..30_u64).prop_map(Fate::Answered),
        3 => (0..30_u64).prop_map(Fate::Lost),
        1 => (0..30_u64).prop_map(Fate::Refused),
        1 => (100..1000_u64).prop_map(Fate::Answered),
        1 => Just(Fate::Hangs),
    ]
}

fn caller() -> impl Strategy<Value = Caller> {
    let timeout = prop::option::of(1..200_u64);
    let patience = prop::option::weighted(0.2, 0..100_u64);
    (0..20_u64, prop::bool::weighted(0.2), timeout, patience).prop_map(
        |(after, once, timeout, patience)| Caller {
            after,
            once,
            timeout,
            patience,
        },
    )
}

async fn tell(filter: &Filter, index: usize, caller: &Caller) -> (Told, Option<Instant>) {
    let name = if caller.once { "once" } else { "often" };
    let request = request(&format!("{name} {index}"), caller.timeout);
    let deadline = request.head.deadline;
    let call = by(deadline, filter.call(request));
    // All end sometime.
    let patience = caller.patience.unwrap_or(5000);
    let told = match tokio::time::timeout(Duration::from_millis(patience), Box::pin(call)).await {
        Err(_) => Told::Left,
        Ok(Err(_)) => Told::Late,
        Ok(Ok(Ok(answer))) => Told::Answer(answer.id.to_string()),
        Ok(Ok(Err(error))) if error.is::<ConnectionLost>() => Told::Lost,
        Ok(Ok(Err(error))) => {
            assert!(error.is::<Status>(), "{error}");
            Told::Refused
        }
    };
    (told, deadline)
}

fn run(
    config: Config,
    endpoints: usize,
    fates: Vec<Fate>,
    callers: Vec<Caller>,
) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let servers = Servers::new(endpoints, fates.iter().copied().chain([Fate::Answered(5)]));
        let filter = Filter::new(config, servers);
        let start = Instant::now();
        let mut at = start;
        let mut ends = Vec::new();
        let filter = Arc::new(filter);
        for (index, caller) in callers.iter().cloned().enumerate() {
            at += Duration::from_millis(caller.after);
            let filter = filter.clone();
            ends.push(tokio::spawn(async move {
                sleep_until(at).await;
                let (told, deadline) = tell(&filter, index, &caller).await;
                (told, deadline, Instant::now())
            }));
        }
        let mut told = Vec::new();
        for end in ends {
            told.push(end.await.expect("nothing panics"));
        }
        let seconds = start.elapsed().as_secs_f64();
        let sent = filter.servers.0.sent.lock().clone();
        prop_assert_eq!(filter.servers.under_way(), 0, "a try was left behind");
        let mut tries: HashMap<String, Vec<Sent>> = HashMap::new();
        for sent in sent {
            tries.entry(sent.id.clone()).or_default().push(sent);
        }
        let mut second = 0.;
        for (index, (caller, (told, deadline, end))) in callers.iter().zip(&told).enumerate() {
            let name = if caller.once { "once" } else { "often" };
            let id = format!("{name} {index}");
            let tries = tries.get(&id).map_or(&[][..], Vec::as_slice);
            let most = if caller.once { 1 } else { 3 };
            prop_assert!((1..=most).contains(&tries.len()), "{id}: {tries:?}");
            second += (tries.len() - 1) as f64;
            let places: HashSet<_> = tries.iter().map(|sent| sent.endpoint).collect();
            prop_assert!(places.len() <= 2, "{id}: {tries:?}");
            for again in &tries[1..] {
                prop_assert!(deadline.is_none_or(|deadline| again.at < deadline), "{id}");
                prop_assert!(again.at <= *end, "{id}: sent for nobody");
            }
            if let Told::Answer(answered) = told {
                prop_assert_eq!(answered, &id);
            }
            if let (Told::Late, Some(deadline)) = (told, deadline) {
                prop_assert_eq!(end, deadline);
            }
        }
        let sum = |kind| {
            let each = [Outcome::Answered, Outcome::Failed, Outcome::Dropped];
            each.map(|outcome| filter.tried(kind, outcome))
                .iter()
                .sum::<u64>() as f64
        };
        let (lost, hedges) = (sum(Kind::Lost), sum(Kind::Hedge));
        prop_assert_eq!(lost + hedges, second, "each has one outcome");
        let most = |share: f64, reserve: f64| {
            share * callers.len() as f64 + reserve * (1. + seconds / 10.)
        };
        prop_assert!(lost <= most(config.budget.get(), 10.) + 1e-3);
        let hedge = config
            .hedge
            .map_or(0., |hedge| most(hedge.budget.get(), 1.));
        prop_assert!(hedges <= hedge + 1e-3, "{hedges} of {hedge}");
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn everybody_is_told_once_and_nothing_is_sent_too_often_too_late_or_for_nobody(
        budget in prop_oneof![Just(0.), Just(1.), 0.0..0.3_f64],
        hedge in prop::option::of((0.5..1.0_f64, prop_oneof![Just(1.), 0.0..0.2_f64])),
        endpoints in 1..5_usize,
        fates in prop::collection::vec(fate(), 0..500),
        callers in prop::collection::vec(caller(), 1..300),
    ) {
        let hedge = hedge.map(|(quantile, budget)| Hedge {
            quantile: share(quantile),
            budget: share(budget),
        });
        let config = Config { budget: share(budget), hedge };
        run(config, endpoints, fates, callers)?;
    }
}
