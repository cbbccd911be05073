use std::{fs, path::PathBuf};

use clap::Parser as _;
use outrigger_filters::select::{Arm, Config, Policy, Selector};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{estimate::estimate, read::read, replay::Replay, *};
use crate::cli::{Cli, Command};

/// Writes a log of which everything is known: what the arms lose on average, and with which
/// probabilities they were chosen.
struct Simulation {
    means: [f64; 3],
    logged: [f64; 3],
    choices: usize,
    /// How far losses are from the mean; they are 0 or 1 where it is `None`.
    spread: Option<f64>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Simulation {
    /// Returns the log of a seed: of each choice there is feedback, some choices later.
    fn log(&self, seed: u64) -> String {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut lines = Vec::new();
        for choice in 0..self.choices {
            let mut rest: f64 = rng.random();
            let mut arm = 0;
            while arm < 2 && rest >= self.logged[arm] {
                rest -= self.logged[arm];
                arm += 1;
            }
            let mean = self.means[arm];
            let loss = match self.spread {
                None => f64::from(u8::from(rng.random_bool(mean))),
                Some(spread) => mean + spread * (2. * rng.random::<f64>() - 1.),
            };
            let time = choice as f64;
            let [a, b, c] = self.logged;
            lines.push((time, format!(
                r#"{{"time":{time},"model":"m","choice":"{choice:016x}","arm":"{}","rows":1,"probabilities":{{"a":{a},"b":{b},"c":{c}}}}}"#,
                NAMES[arm]
            )));
            let time = time + 3.5;
            lines.push((time, format!(
                r#"{{"time":{time},"model":"m","feedback":"{choice:016x}","losses":{{"{}":{loss}}}}}"#,
                NAMES[arm]
            )));
        }
        lines.sort_by(|a, b| a.0.total_cmp(&b.0));
        lines.into_iter().map(|(_, line)| line + "\n").collect()
    }
}

/// How often each interval had the truth in it, and how wide the intervals were.
#[derive(Debug, Default)]
struct Found {
    covered: [usize; 3],
    width: [f64; 3],
    error: [f64; 3],
}

fn judge(simulation: &Simulation, policy: Policy, weights: [f64; 3], seeds: u64) -> Found {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let mut found = Found::default();
    for seed in 0..seeds {
        fs::write(&path, simulation.log(seed)).expect("a file");
        let log = read(std::slice::from_ref(&path), None).expect("a log");
        let arms: Vec<Arm> = log
            .arms
            .iter()
            .map(|name| {
                let place = NAMES
                    .iter()
                    .position(|known| **known == **name)
                    .expect("an arm");
                Arm {
                    weight: weights[place],
                    ..Arm::new(name.clone())
                }
            })
            .collect();
        let config = Config {
            policy,
            ..Config::default()
        };
        let judged = Replay::new(&log, Selector::new(&config, &arms), true).run();
        assert_eq!(judged.len(), simulation.choices);
        let means: Vec<f64> = log
            .arms
            .iter()
            .map(|name| {
                let place = NAMES
                    .iter()
                    .position(|known| **known == **name)
                    .expect("an arm");
                simulation.means[place]
            })
            .collect();
        // What the very policy that chose would have lost on average.
        let truth: f64 = judged
            .iter()
            .flat_map(|judged| judged.target.iter().zip(&means))
            .map(|(share, mean)| share * mean)
            .sum::<f64>()
            / judged.len() as f64;
        let estimates = estimate(&judged);
        for (index, estimate) in [
            estimates.ips,
            estimates.self_normalised,
            estimates.doubly_robust,
        ]
        .into_iter()
        .enumerate()
        {
            let (low, high) = estimate.interval;
            found.covered[index] += usize::from(low <= truth && truth <= high);
            found.width[index] += estimate.width() / seeds as f64;
            found.error[index] += (estimate.mean - truth) / seeds as f64;
        }
    }
    found
}

const SEEDS: u64 = 100;

/// Of 100 intervals of 95 %, 95 have the truth in them, give or take 2.2: 86 are four of these away.
fn assert_holds(found: &Found, narrower: f64) {
    for covered in found.covered {
        assert!((86..=100).contains(&covered), "{found:?}");
    }
    for (error, width) in found.error.into_iter().zip(found.width) {
        // The mean of 100 errors is mostly within a tenth of one interval's half.
        assert!(error.abs() < width / 2. * 0.25, "{found:?}");
    }
    let [ips, _, doubly_robust] = found.width;
    assert!(doubly_robust < narrower * ips, "{found:?}");
}

#[test]
fn intervals_of_a_fixed_policy_have_the_truth_in_them_as_often_as_they_say() {
    let simulation = Simulation {
        means: [0.5, 0.6, 0.3],
        logged: [0.5, 0.3, 0.2],
        choices: 400,
        spread: Some(0.25),
    };
    // What is left is the noise of the losses; weights that vary do not count.
    let found = judge(&simulation, Policy::Fixed, [1., 1., 3.], SEEDS);
    assert_holds(&found, 0.8);
}

#[test]
fn intervals_of_a_policy_that_learns_have_the_truth_in_them_as_often_as_they_say() {
    let simulation = Simulation {
        means: [0.5, 0.6, 0.3],
        logged: [0.4, 0.3, 0.3],
        choices: 400,
        spread: None,
    };
    for policy in [
        Policy::USUAL[1],
        Policy::Exp3 {
            learning_rate: 0.05,
            exploration: 0.01,
            share: 1e-4,
        },
        Policy::Thompson { discount: 0.995 },
    ] {
        // Of losses of 0 or 1 the most is noise.
        assert_holds(&judge(&simulation, policy, [1.; 3], SEEDS), 1.);
    }
}

fn logs(texts: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = texts.iter().enumerate().map(|(index, text)| {
        let path = folder.path().join(format!("log.{index}"));
        fs::write(&path, text).expect("a file");
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

fn run(texts: &[&str], options: &str) -> Result<Report, Error> {
    let (_folder, paths) = logs(texts);
    let paths = paths.iter().map(|path| path.display().to_string());
    let line = ["outrigger", "evaluate", "--log"]
        .map(str::to_owned)
        .into_iter();
    let line = line.chain(paths);
    let line = line.chain(options.split_whitespace().map(str::to_owned));
    match Cli::try_parse_from(line).expect("a command line").command {
        Command::Evaluate(options) => evaluate(&options),
        other => panic!("not evaluate: {other:?}"),
    }
}

fn refused(texts: &[&str], options: &str) -> String {
    let error = run(texts, options).expect_err("it is refused").to_string();
    // Without the folder, which is another one each time.
    match error.rfind("log.") {
        Some(at) => error[at..].to_owned(),
        None => error,
    }
}

const CHOICE: &str = r#"{"time":1.0,"model":"m","choice":"0000000000000001","arm":"a","rows":1,"probabilities":{"a":0.5,"b":0.5}}"#;
const FEEDBACK: &str =
    r#"{"time":2.0,"model":"m","feedback":"0000000000000001","losses":{"a":1.0}}"#;

#[test]
fn one_choice_is_weighed_by_the_two_probabilities() {
    let text = [CHOICE, FEEDBACK].join("\n");
    let report = run(&[&text], "--policy fixed --weight b=3").expect("a report");
    assert_eq!((report.choices, report.judged), (1, 1));
    let estimates = report.estimates;
    assert_eq!(estimates.logged.mean, 1.);
    assert_eq!(estimates.ips.mean, 0.5);
    assert_eq!(estimates.self_normalised.mean, 1.);
    // Half a loss is expected of each arm, and this one lost half more than that.
    assert_eq!(estimates.doubly_robust.mean, 0.5 + 0.5 * 0.5);
    assert_eq!(report.arms[0], ("a".into(), 0.5, 0.25));
}

#[test]
fn logs_are_put_together_whatever_their_order() {
    let report = run(&[FEEDBACK, CHOICE], "--policy fixed").expect("a report");
    assert_eq!((report.judged, report.orphans), (1, 0));
    let report = run(
        &[
            &[
                CHOICE,
                FEEDBACK,
                &FEEDBACK.replace("01\"", "02\""),
                "{\"time\":3",
            ]
            .join("\n"),
            "\n\n",
        ],
        "--policy fixed",
    );
    let report = report.expect("a report");
    assert_eq!((report.orphans, report.unfinished), (1, 1));
}

#[test]
fn of_an_ensemble_all_is_known() {
    let choice = CHOICE.replace(r#""arm":"a","#, "");
    let feedback = FEEDBACK.replace(r#"{"a":1.0}"#, r#"{"a":1.0,"b":0.0}"#);
    let text = [choice, feedback].join("\n");
    let report = run(&[&text], "--policy fixed --weight b=3").expect("a report");
    let estimates = report.estimates;
    for estimate in [
        estimates.ips,
        estimates.self_normalised,
        estimates.doubly_robust,
    ] {
        assert_eq!(estimate.mean, 0.25);
    }
    assert_eq!((estimates.logged.mean, estimates.effective), (0.5, 1.));
}

#[test]
fn what_the_logged_policy_never_chose_is_told() {
    let choice = CHOICE.replace(r#"{"a":0.5,"b":0.5}"#, r#"{"a":1,"b":0}"#);
    let text = [&choice, FEEDBACK].join("\n");
    let report = run(&[&text], "--policy fixed").expect("a report");
    assert_eq!(report.estimates.not_covered, 0.5);
    let text = report.to_string();
    assert!(text.contains("not covered: 50.0 %"), "{text}");
    assert!(text.contains("too few to decide by"), "{text}");
    assert_eq!(report.json()["not_covered"], 0.5);
}

#[test]
fn several_rows_of_one_choice_are_one_choice() {
    let first = FEEDBACK.replace("\"losses\"", "\"row\":0,\"losses\"");
    let second = first.replace(":1.0}", ":0.5}").replace(":0,", ":1,");
    let text = [CHOICE, &first, &second].join("\n");
    let report = run(&[&text], "--policy fixed").expect("a report");
    assert_eq!((report.judged, report.estimates.logged.mean), (1, 0.75));
}

#[test]
fn callers_are_told_apart_unless_they_shall_not_be() {
    // Ann's arm is a, and Bob's is b; both ask in turn, and are told at once.
    let mut lines = Vec::new();
    for choice in 0..400 {
        let (context, right) = if choice % 2 == 0 {
            ("ann", "a")
        } else {
            ("bob", "b")
        };
        let arm = if choice / 2 % 2 == 0 { "a" } else { "b" };
        let loss = u8::from(arm != right);
        lines.push(format!(
            r#"{{"time":{choice},"model":"m","choice":"{choice:016x}","context":"{context}","arm":"{arm}","rows":1,"probabilities":{{"a":0.5,"b":0.5}}}}"#
        ));
        lines.push(format!(
            r#"{{"time":{choice}.5,"model":"m","feedback":"{choice:016x}","losses":{{"{arm}":{loss}}}}}"#
        ));
    }
    let text = lines.join("\n");
    let mean = |options: &str| {
        let report = run(&[&text], options).expect("a report");
        report.estimates.doubly_robust.mean
    };
    let apart = mean("--policy epsilon-greedy");
    let together = mean("--policy epsilon-greedy --ignore-context");
    assert!(apart < 0.1 && together > 0.4, "{apart} {together}");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_line() {
    let with = |line: &str| {
        let text = [CHOICE, line].join("\n") + "\n";
        refused(&[&text], "--policy fixed")
    };
    for (line, told) in [
        (
            "nonsense",
            "it is no JSON: expected ident at line 1 column 2",
        ),
        ("[]", "it is no object"),
        ("{}", "time: a number is expected"),
        (r#"{"time":1}"#, "model: a text is expected"),
        (
            r#"{"time":1,"model":"m"}"#,
            "it is neither a choice nor feedback",
        ),
        (
            r#"{"time":1,"model":"m","choice":7}"#,
            "choice: 16 hexadecimal digits are expected",
        ),
        (
            CHOICE,
            "choice: 0000000000000001 is there twice; is a log given twice?",
        ),
        (
            r#"{"time":1,"model":"m","choice":"0000000000000002","arm":"a"}"#,
            "probabilities: an object is expected",
        ),
        (
            r#"{"time":1,"model":"m","choice":"0000000000000002","arm":"a","probabilities":{"a":0.5}}"#,
            "probabilities: they sum to 0.5, and not to 1",
        ),
        (
            r#"{"time":1,"model":"m","choice":"0000000000000002","arm":"c","probabilities":{"a":1}}"#,
            "arm: c was chosen, and has no probability above 0",
        ),
        (
            r#"{"time":1,"model":"m","choice":"0000000000000002","arm":"b","probabilities":{"a":1,"b":0}}"#,
            "arm: b was chosen, and has no probability above 0",
        ),
        (
            r#"{"time":1,"model":"m","feedback":"0000000000000001","losses":{"a":1.5}}"#,
            "losses.a: a number from 0 to 1 is expected",
        ),
        (
            r#"{"time":1,"model":"m","feedback":"0000000000000001","losses":{"a":"1"}}"#,
            "losses.a: a number from 0 to 1 is expected",
        ),
        (
            r#"{"time":1,"model":"m","feedback":"0000000000000001","losses":{}}"#,
            "losses: there are none",
        ),
        (
            r#"{"time":1,"model":"m","feedback":"0000000000000001","losses":{"b":1}}"#,
            "losses: that of a is missing, which was chosen",
        ),
    ] {
        assert_eq!(with(line), format!("log.0:2: {told}"));
    }
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let text = [CHOICE, FEEDBACK].join("\n");
    let other = text.replace("\"m\"", "\"n\"");
    for (texts, options, told) in [
        (
            &[&*text, &other][..],
            "--policy fixed",
            "the logs are of several models (m, n): say which with --model",
        ),
        (
            &[&text],
            "--policy fixed --model k",
            "there is nothing of the model k in the logs",
        ),
        (
            &[CHOICE],
            "--policy fixed",
            "there is no choice with feedback in the logs",
        ),
        (
            &[""],
            "--policy fixed",
            "there is no choice with feedback in the logs",
        ),
        (
            &[&text],
            "--policy best",
            "--policy: best is none of fixed, epsilon-greedy, exp3, exp4, thompson",
        ),
        (
            &[&text],
            "--policy fixed --learning-rate 1",
            "--learning-rate: fixed has no such setting",
        ),
        (
            &[&text],
            "--policy fixed --weight c=1",
            "--weight: no arm c is in the logs, but a, b",
        ),
        (
            &[&text],
            "--policy fixed --weight a=0 --weight b=0",
            "--weight: one arm needs a weight above 0",
        ),
    ] {
        assert_eq!(refused(texts, options), told);
    }
    let exp4 = refused(&[&text], "--policy exp4");
    assert!(exp4.starts_with("--policy: exp4 asks all arms"), "{exp4}");
    let two = run(&[&text, &other], "--policy fixed --model n").expect("a report");
    assert_eq!(two.model, "n");
}
