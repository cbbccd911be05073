//! A fleet on one store: 1 to 1000 replicas on a virtual clock, what they ask of Redis, how soon
//! they agree, and what they lose against one that is told everything.
//!
//! Everything but the clock and the network is what the proxy runs: what replicas know and tell
//! (`Memory`), the rules of the store (`Pool`, which `tests/scenarios/state.rs` compares with the
//! real one), and the bytes of the commands. What a call takes of a real Redis is measured beside it.

mod real;
mod wire;
mod world;
mod zipf;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger::config;
use outrigger::state::Redis as Keeper;
use outrigger_filters::select::Policy;
use serde_json::{Value, json};

use self::real::Taken;
use self::world::{Contexts, Seen, World};
use super::plot::{Panel, Sheet, Style};
use super::scale::Kind;
use super::{Findings, Options, short};
use crate::bench::Result;
use crate::bench::demand::progress;
use crate::bench::table::{Table, machine, median};

/// Some worlds that differ in their dice only, and what was seen in each.
struct Run {
    part: Part,
    world: World,
    seen: Vec<Seen>,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// More replicas at the same requests.
    Replicas,
    /// More or less often.
    Interval,
    /// More requests.
    Rate,
    /// Nobody tells anybody anything.
    Alone,
    /// Each loss counts in full, however many are learned from at the same time.
    Heedless,
    /// A million callers.
    Contexts,
}

/// Runs all worlds, prints tables, and returns the figures.
pub fn run(options: &Options) -> Result<Findings> {
    let taken = real::measure(options.quick)?;
    let mut runs = plan(options);
    course(&mut runs)?;
    if let Some(taken) = &taken {
        print_real(taken);
    }
    print(&runs);
    let sheet = picture(&runs);
    Ok(Findings {
        figures: json!({
            "experiment": "scale",
            "machine": machine(),
            "quick": options.quick,
            "repeats": options.repeats,
            "oracle": World::oracle(),
            "redis": taken.map(|taken| taken.iter().map(Taken::figures).collect::<Vec<_>>()),
            "runs": runs.iter().map(Run::figures).collect::<Vec<_>>(),
        }),
        pictures: vec![("scale", sheet)],
    })
}

/// Returns what speaks to a Redis, which nobody need reach.
fn keeper(url: &str) -> Result<Keeper> {
    let redis = config::Redis {
        url: url.parse().map_err(|_| "the address of a Redis")?,
        password_file: None,
        ca: None,
        prefix: config::Redis::PREFIX
            .parse()
            .map_err(|_| "the usual prefix")?,
        interval: config::Redis::INTERVAL,
        context_ttl: Duration::from_secs(3600),
    };
    Ok(Keeper::new(redis, COUNTED_FOR))
}

fn plan(options: &Options) -> Vec<Run> {
    let mut runs = Vec::new();
    let quick = options.quick;
    let mut add = |part, policy, replicas, rate: f64, interval: Option<f64>| {
        let lasts: f64 = if quick { 20. } else { LASTS };
        runs.push(Run {
            part,
            world: World {
                policy,
                replicas,
                rate,
                interval,
                heeds: part != Part::Heedless,
                queries: (rate * lasts).max(QUERIES) as u64,
                contexts: None,
                seed: 0,
            },
            seen: Vec::new(),
        });
    };
    let counts: &[usize] = if quick { &[1, 4, 30] } else { &COUNTS };
    let policies: &[&str] = if quick { &["exp3"] } else { &POLICIES };
    for policy in policies.iter().copied().map(usual) {
        for replicas in counts.iter().copied() {
            add(Part::Replicas, policy, replicas, RATE, Some(INTERVAL));
            if [4, 10, 100, 1000].contains(&replicas) {
                add(Part::Heedless, policy, replicas, RATE, Some(INTERVAL));
            }
        }
        let several = if quick { 4 } else { 10 };
        for rate in [10., 100., 1000., 10_000.] {
            if quick && rate > RATE {
                continue;
            }
            for replicas in [1, several] {
                add(Part::Rate, policy, replicas, rate, Some(INTERVAL));
            }
            add(Part::Alone, policy, several, rate, None);
        }
    }
    for policy in policies.iter().copied().take(3).map(usual) {
        for replicas in counts.iter().copied().filter(|count| *count >= 4) {
            if quick || [10, 100, 1000].contains(&replicas) {
                add(Part::Alone, policy, replicas, RATE, None);
                for interval in INTERVALS {
                    add(Part::Interval, policy, replicas, RATE, Some(interval));
                }
            }
        }
    }
    let many = if quick { 10_000 } else { 1_000_000 };
    let counts: &[usize] = if quick { &[4] } else { &[1, 10, 100] };
    for replicas in counts.iter().copied() {
        for sticky in [true, false] {
            for rate in if quick { &[1000.][..] } else { &[1000., 5000.] } {
                runs.push(Run {
                    part: Part::Contexts,
                    world: World {
                        policy: usual("exp3"),
                        replicas,
                        rate: *rate,
                        interval: Some(INTERVAL),
                        heeds: true,
                        queries: (rate * if quick { 8. } else { 120. }) as u64,
                        contexts: Some(Contexts {
                            count: many,
                            remembered: many / 10,
                            sticky,
                        }),
                        seed: 0,
                    },
                    seen: Vec::new(),
                });
            }
        }
    }
    for run in &mut runs {
        let dear = run.world.contexts.is_some() || run.world.replicas > 100;
        let repeats = if dear { 1 } else { options.repeats };
        run.seen = vec![Seen::default(); repeats];
    }
    runs
}

/// Runs all worlds, on all processors.
fn course(runs: &mut [Run]) -> Result<()> {
    let tasks: Vec<(World, Mutex<&mut Seen>)> = runs
        .iter_mut()
        .flat_map(|run| {
            let world = run.world.clone();
            run.seen.iter_mut().zip(1..).map(move |(seen, seed)| {
                let world = World {
                    seed,
                    ..world.clone()
                };
                (world, Mutex::new(seen))
            })
        })
        .collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let keepers: Vec<Keeper> = (0..threads)
        .map(|_| keeper("redis://127.0.0.1:6379/0"))
        .collect::<Result<_>>()?;
    std::thread::scope(|scope| {
        for keeper in &keepers {
            let (tasks, next) = (&tasks, &next);
            scope.spawn(move || {
                while let Some((world, seen)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = world.run(keeper);
                    if let Ok(mut seen) = seen.lock() {
                        **seen = found;
                    }
                    progress(format_args!("."));
                }
            });
        }
    });
    progress(format_args!("\n"));
    Ok(())
}

impl Run {
    /// The middle of the repeats.
    fn of(&self, figure: impl Fn(&Seen) -> f64) -> f64 {
        median(self.seen.iter().map(figure))
    }

    fn mean(&self, figure: impl Fn(&Seen) -> f64) -> f64 {
        self.seen.iter().map(figure).sum::<f64>() / self.seen.len() as f64
    }

    fn each_second(&self, count: impl Fn(&Seen) -> u64) -> f64 {
        self.of(|seen| count(seen) as f64 / seen.counted_seconds)
    }

    /// The share of answers that are wrong beyond those of one who always knows the best arm.
    fn regret(&self) -> f64 {
        self.mean(|seen| seen.error) - World::oracle()
    }

    fn figures(&self) -> Value {
        let world = &self.world;
        let seen = self.seen.iter().map(|seen| {
            json!({
                "seconds": seen.seconds,
                "counted_seconds": seen.counted_seconds,
                "error": seen.error,
                "error_lost": seen.error_lost,
                "error_end": seen.error_end,
                "agreed_lost_seconds": seen.agreed_lost,
                "agreed_back_seconds": seen.agreed_back,
                "known_seconds": seen.known,
                "exchanges": seen.exchanges,
                "calls": seen.calls,
                "calls_that_tell": seen.told,
                "bytes_there": seen.bytes.0,
                "bytes_back": seen.bytes.1,
                "contexts_a_replica": seen.contexts,
                "contexts_met": seen.met,
                "most_unacknowledged": seen.waited,
                "refused": seen.refused,
            })
        });
        json!({
            "part": format!("{:?}", self.part).to_lowercase(),
            "policy": world.policy.as_str(),
            "replicas": world.replicas,
            "requests_per_second": world.rate,
            "interval_seconds": world.interval,
            "heeds_others": world.heeds,
            "queries": world.queries,
            "contexts": world.contexts.map(|contexts| json!({
                "count": contexts.count,
                "remembered": contexts.remembered,
                "sticky": contexts.sticky,
            })),
            "seen": seen.collect::<Vec<_>>(),
        })
    }
}

fn print_real(taken: &[Taken]) {
    let mut table = Table::new([
        "exchange",
        "calls",
        "us of Redis a call",
        "bytes there",
        "counted",
        "bytes back",
        "counted",
    ]);
    for one in taken {
        table.row([
            one.case.name.into(),
            short(one.calls),
            short(one.micros),
            short(one.bytes.0),
            short(one.counted.0),
            short(one.bytes.1),
            short(one.counted.1),
        ]);
    }
    println!("A real Redis\n\n{table}");
}

fn print(runs: &[Run]) {
    let mut table = Table::new([
        "replicas",
        "interval s",
        "calls/s",
        "kB/s there",
        "kB/s back",
        "all known after s",
        "right arm after s: lost",
        "back",
    ]);
    let exp3 = |run: &&Run| run.world.policy.as_str() == "exp3";
    let asked = |part: Part| runs.iter().filter(move |run| run.part == part);
    for run in asked(Part::Replicas)
        .chain(asked(Part::Interval))
        .filter(exp3)
    {
        let known = |seen: &Seen| seen.known.unwrap_or(f64::NAN);
        table.row([
            run.world.replicas.to_string(),
            run.world.interval.map_or("-".into(), short),
            short(run.each_second(|seen| seen.calls)),
            short(run.each_second(|seen| seen.bytes.0) / 1e3),
            short(run.each_second(|seen| seen.bytes.1) / 1e3),
            short(run.of(known)),
            short(run.of(|seen| seen.agreed_lost.unwrap_or(f64::INFINITY))),
            short(run.of(|seen| seen.agreed_back.unwrap_or(f64::INFINITY))),
        ]);
    }
    println!("What replicas ask of the store, {RATE} requests/s, exp3\n\n{table}");
    let mut table = Table::new([
        "policy",
        "requests/s",
        "replicas",
        "interval s",
        "told between exchanges",
        "wrong",
        "regret",
        "x one",
        "wrong at the end",
        "s to agree: lost",
        "back",
    ]);
    for run in runs.iter().filter(|run| run.part != Part::Contexts) {
        let world = &run.world;
        let times = times_one(runs, run);
        table.row([
            match world.heeds {
                true => world.policy.as_str().into(),
                false => format!("{}, in full", world.policy.as_str()),
            },
            short(world.rate),
            world.replicas.to_string(),
            world.interval.map_or("never".into(), short),
            world
                .interval
                .map_or("-".into(), |it| short(it * world.rate)),
            format!("{:.4}", run.mean(|seen| seen.error)),
            format!("{:.4}", run.regret()),
            short(times),
            format!("{:.4}", run.mean(|seen| seen.error_end)),
            short(run.of(|seen| seen.agreed_lost.unwrap_or(f64::INFINITY))),
            short(run.of(|seen| seen.agreed_back.unwrap_or(f64::INFINITY))),
        ]);
    }
    println!(
        "What they lose beside one that is told everything (oracle {:.4})\n\n{table}",
        World::oracle()
    );
    let mut table = Table::new([
        "replicas",
        "requests/s",
        "callers come to",
        "calls/s",
        "of them tell",
        "kB/s there",
        "kB/s back",
        "contexts met",
        "in a replica",
        "most waiting",
        "refused",
    ]);
    for run in asked(Part::Contexts) {
        let sticky = run.world.contexts.is_some_and(|contexts| contexts.sticky);
        table.row([
            run.world.replicas.to_string(),
            short(run.world.rate),
            if sticky { "their own" } else { "any" }.into(),
            short(run.each_second(|seen| seen.calls)),
            short(run.each_second(|seen| seen.told)),
            short(run.each_second(|seen| seen.bytes.0) / 1e3),
            short(run.each_second(|seen| seen.bytes.1) / 1e3),
            short(run.of(|seen| seen.met as f64)),
            short(run.of(|seen| seen.contexts)),
            short(run.of(|seen| seen.waited as f64)),
            short(run.of(|seen| seen.refused as f64)),
        ]);
    }
    println!("A million callers, each with a state of its own\n\n{table}");
}

/// Returns how many times as much a run loses as one replica does beyond the oracle; not a number
/// where that one loses next to nothing.
fn times_one(runs: &[Run], run: &Run) -> f64 {
    let one = one_of(runs, &run.world).map_or(f64::NAN, Run::regret);
    if one > LEAST_REGRET {
        run.regret() / one
    } else {
        f64::NAN
    }
}

/// Finds what one replica makes of the same requests.
fn one_of<'a>(runs: &'a [Run], world: &World) -> Option<&'a Run> {
    runs.iter().find(|run| {
        let other = &run.world;
        other.replicas == 1
            && run.part != Part::Contexts
            && other.policy == world.policy
            && other.rate == world.rate
    })
}

fn picture(runs: &[Run]) -> Sheet {
    let mut sheet = Sheet::new("Replicas that share what they learn", 2).note(format!(
        "Simulated on a virtual clock; five arms, the best of which is lost for a quarter of the time. Where not said otherwise: exp3, {RATE} requests/s of all replicas, an exchange each {INTERVAL} s."
    ));
    let mut calls = Panel::new(
        "what the store is asked",
        ("replicas", Kind::Log),
        ("calls a second", Kind::Log),
    );
    let mut known = Panel::new(
        "until everyone knows everything",
        ("replicas", Kind::Log),
        ("seconds", Kind::Log),
    );
    let replicas = |run: &Run| run.world.replicas as f64;
    for interval in INTERVALS {
        let of = runs.iter().filter(|run| {
            run.world.policy.as_str() == "exp3"
                && run.world.interval == Some(interval)
                && [Part::Replicas, Part::Interval].contains(&run.part)
        });
        let of: Vec<&Run> = of.collect();
        let name = format!("each {interval} s");
        let points = of
            .iter()
            .map(|run| (replicas(run), run.each_second(|seen| seen.calls)));
        calls = calls.series(name.clone(), Style::Joined, points);
        let points = of.iter().map(|run| {
            let known = run.of(|seen| seen.known.unwrap_or(f64::NAN));
            (replicas(run), known)
        });
        known = known.series(name, Style::Joined, points);
    }
    let mut losses = Panel::new(
        "wrong answers beyond the oracle",
        ("replicas", Kind::Log),
        ("times those of one replica", Kind::Linear),
    );
    let mut rates = Panel::new(
        "the same, of ten replicas",
        ("requests a second of all", Kind::Log),
        ("times those of one replica", Kind::Linear),
    );
    for policy in POLICIES {
        let of = |part: Part| {
            let of = runs
                .iter()
                .filter(move |run| run.world.policy.as_str() == policy && run.part == part);
            of.filter(move |run| part != Part::Rate || run.world.replicas > 1)
        };
        let ratio = |run: &Run| times_one(runs, run);
        let points: Vec<_> = of(Part::Replicas)
            .map(|run| (replicas(run), ratio(run)))
            .collect();
        losses = losses.series(policy, Style::Joined, points);
        let points: Vec<_> = of(Part::Heedless)
            .map(|run| (replicas(run), ratio(run)))
            .collect();
        let name = format!("{policy}, each loss in full");
        losses = losses.series(name, Style::Broken, points);
        let points: Vec<_> = of(Part::Rate)
            .map(|run| (run.world.rate, ratio(run)))
            .collect();
        rates = rates.series(policy, Style::Joined, points);
    }
    sheet.extend([calls, known, losses, rates]);
    sheet
}

/// Returns the policy of a name with its usual settings.
fn usual(name: &str) -> Policy {
    let mut usual = Policy::USUAL.into_iter();
    usual
        .find(|policy| policy.as_str() == name)
        .unwrap_or(Policy::Fixed)
}

/// The share of answers below which it is noise how many of them were wrong.
const LEAST_REGRET: f64 = 0.003;
const COUNTS: [usize; 8] = [1, 2, 4, 10, 30, 100, 300, 1000];
const POLICIES: [&str; 4] = ["exp3", "thompson", "epsilon-greedy", "exp4"];
/// Requests a second of all replicas, where those are not what is compared.
const RATE: f64 = 1000.;
/// Seconds between two exchanges of a replica, where nothing else is said: the proxy's.
const INTERVAL: f64 = 0.25;
const INTERVALS: [f64; 4] = [0.1, 0.25, 1., 4.];
/// For how long feedback is recognised: as long as its ids are valid.
const COUNTED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Requests at least, as in figure 8.
const QUERIES: f64 = 20_000.;
/// Seconds at least.
const LASTS: f64 = 80.;
