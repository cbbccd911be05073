//! The whole filter before a model that is simulated, on a paused clock.
//!
//! Each file beside this one is a simulation: what the filter is told, what the model's calls take,
//! who calls, and what shall come of it: ranges, with the physics that they follow from. A file is
//! named as what it shows.
//!
//! `cargo test -p outrigger-filters --test simulations -- --nocapture` prints what came of all of
//! them.

mod callers;
mod case;
mod clock;
mod figures;
mod model;
mod overload;
mod random;
mod records;

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use outrigger_filters::batch::{Batch, Batchable, Capability, Handles, View};
use tokio::{runtime::Builder, time::Instant};

use self::{
    case::{Case, Expectation, read},
    clock::Clock,
    figures::Seen,
    model::Model,
    records::Records,
};

/// A case by the name of its file.
type Named = (String, Case);

fn cases() -> Vec<Named> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulations");
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder of the cases") {
        let path = entry.expect("a file of that folder").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&path).expect("a case is text");
            match read(&text) {
                Ok(case) => cases.push((name.into_owned(), case)),
                Err(fault) => panic!("{name}: {fault}"),
            }
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

/// Runs a case with one seed, until everybody has an answer and nothing is under way.
fn run(case: &Case, seed: u64) -> Seen {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // Yielding then means that every other task has come to rest.
        .event_interval(u32::MAX)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let clock = Clock::new();
        let records = Arc::new(Records::default());
        let model = Model::new(&case.model, clock.clone(), Arc::clone(&records), seed);
        let capability = Capability::new(Batchable::Yes {
            max_batch_size: None,
        });
        let batch = Batch::new(model, case.filter.config(), capability, Handles::default());
        callers::start(case, &batch, &clock, &records, seed);
        clock.drive(Instant::now() + case.length).await;
        let view = batch.view();
        clock.drive(Instant::now() + PATIENCE).await;
        let left = left(&batch.view(), batch.load(), &records);
        Seen::new(case, records, &clock, view, left)
    })
}

/// Tells what is left of a run in which everybody should have been answered.
fn left(view: &View, load: usize, records: &Records) -> Option<String> {
    let (waiting, wrong, late) = (records.waiting(), records.wrong(), records.sent_late());
    let rest = view.queue_rows + view.queue_bytes + view.in_flight + view.beside + load;
    (rest + waiting + wrong + late > 0).then(|| {
        format!(
            "{waiting} without an answer, {wrong} with another's, {late} sent too late, \
             {load} rows of load, {view:?}"
        )
    })
}

/// Runs a case with all its seeds; returns lines of the table, and faults.
fn judge((name, case): &Named) -> (String, Vec<String>) {
    let runs: Vec<Seen> = case.seeds.iter().map(|seed| run(case, *seed)).collect();
    let mut faults: Vec<String> = runs
        .iter()
        .filter_map(|seen| Some(format!("{name}: {}", seen.left()?)))
        .collect();
    let mut table = format!("{name}\n");
    for expectation in &case.expected {
        let Expectation { of, from, to, .. } = expectation;
        let of = of.as_deref().unwrap_or("all");
        table += &format!("  {of}, {from:?} to {:?}:\n", to.unwrap_or(case.length));
        for (figure, (low, high)) in &expectation.figures {
            let values: Vec<f64> = runs
                .iter()
                .map(|seen| seen.figure(*figure, expectation))
                .collect();
            let shown: Vec<String> = values.iter().map(|value| format!("{value:.4}")).collect();
            let kept = |value: &f64| (*low..=*high).contains(value);
            let fault = match values.iter().all(kept) {
                true => "",
                false => " <- outside",
            };
            let line = format!(
                "{:22} {:28} {low} to {high}{fault}",
                figure.name(),
                shown.join(" ")
            );
            table += &format!("    {line}\n");
            if !fault.is_empty() {
                faults.push(format!("{name}, {of} from {from:?}: {line}: {}", case.why));
            }
        }
    }
    (table, faults)
}

#[test]
fn each_simulation_ends_where_its_physics_says() {
    let cases = cases();
    assert!(!cases.is_empty());
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut judged = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(case) = cases.get(index) else {
                return judged;
            };
            let (table, faults) = judge(case);
            println!("{table}");
            judged.extend(faults);
        }
    };
    let faults: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a run does not panic"))
            .collect()
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_file_with_an_unknown_key_or_without_a_key_is_a_fault() {
    let whole = r#"{
        "why": "nothing", "seeds": [1], "length": "1s", "filter": {},
        "model": { "beta": "1ms", "alpha": "0.1ms", "executors": 1 },
        "load": { "one": { "arrivals": { "poisson": { "rate": 10 } }, "rows": 1 } },
        "expected": [{ "from": "0s", "figures": { "p99": [0, 20] } }]
    }"#;
    assert!(read(whole).is_ok());
    for (part, other) in [
        (r#""why": "nothing","#, ""),
        (r#""executors": 1"#, r#""executors": 1, "executors_": 1"#),
        (r#", "executors": 1"#, ""),
        (r#", "rows": 1"#, ""),
        (r#""rows": 1"#, r#""rows": 1, "row": 1"#),
        (r#""filter": {}"#, r#""filter": { "delay": "1ms" }"#),
        (r#""rate": 10"#, r#""rates": 10"#),
        (r#""p99": "#, r#""p98": "#),
        (r#"{ "p99": [0, 20] }"#, "{}"),
        ("[0, 20]", "[20, 0]"),
        (r#""from": "0s""#, r#""from": "0s", "of": "another""#),
        (r#""from": "0s""#, r#""from": "1s""#),
        (r#""length": "1s""#, r#""length": "1""#),
        (r#""length": "1s""#, r#""length": 1"#),
        ("[1]", "[]"),
    ] {
        assert!(whole.contains(part), "{part}");
        assert!(read(&whole.replacen(part, other, 1)).is_err(), "{other}");
    }
}

/// How long the last answer may take when nobody asks any more: longer than any call hangs.
const PATIENCE: Duration = Duration::from_secs(200);
