//! The best of five models breaks in the middle, with and without selection.
//!
//! ```text
//!            .-> the best alone, as without selection
//!  an image -+-> one arm, by what was told ------.
//!            '-> all arms, by weights in a vote -+-> what the image shows is told
//! ```

use std::time::Duration;

use outrigger_native::{
    Fault, Faults,
    digits::{Classifier, Kind},
};
use tokio::time::Instant;

use crate::demo::{
    error::{Error, Spoiled},
    figures,
    frame::{self, Frame},
    lessons::{Lessons, Score},
    stage::{BETWEEN_FRAMES, Stage},
    table::Table,
};

/// Writes the five models as the arms of two names; the best one is also there by its own.
pub(in crate::demo) fn configuration(models: &[Classifier], port: u16) -> String {
    let arms: Vec<_> = models
        .iter()
        .map(|model| {
            format!(
                "{}: {{ upstream: container, model: {} }}",
                short(model.name()),
                model.name()
            )
        })
        .collect();
    let arms = arms.join(", ");
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', upstream: container }}]
upstreams: {{ container: {{ protocol: oip-grpc, endpoints: ['http://127.0.0.1:{port}'] }} }}
models:
  {ONE}: {{ arms: {{ {arms} }}, selection: {{ policy: thompson }} }}
  {ALL}: {{ arms: {{ {arms} }}, selection: {{ policy: exp4 }} }}
limits: {{ drain: 2s }}
"
    )
}

/// Plays the act: one load that lasts so long.
pub(in crate::demo) async fn play(stage: &mut Stage, lasting: Duration) -> Result<Table, Error> {
    let best = stage.model(Kind::Svc.name())?;
    stage.screen.say(&format!(
        "Five models of mixed quality are the arms of one name. The best of them, {}, answers at\n\
         random for a third of the time. What each image shows is told after its answers.\n",
        short(Kind::Svc.name()),
    ))?;
    let arms = Kind::ALL.map(|kind| short(kind.name()).to_owned());
    let names = [Kind::Svc.name(), ONE, ALL];
    let lessons = Lessons::start(stage.proxied()?, &names, &arms)?;
    let mut film = Film::new(&arms, lasting);
    let begin = Instant::now();
    let (mut phase, mut next) = (0, begin + BETWEEN_FRAMES);
    while begin.elapsed() < lasting && !lessons.is_over() {
        stage.pass().await?;
        let now = begin.elapsed();
        if phase < 1 && now >= lasting.mul_f64(BREAKS) {
            phase = 1;
            best.set_faults(Faults::always(Fault::Guess));
            lessons.enter(phase);
        } else if phase < 2 && now >= lasting.mul_f64(MENDS) {
            phase = 2;
            best.set_faults(Faults::none());
            lessons.enter(phase);
        }
        if Instant::now() >= next {
            next += BETWEEN_FRAMES;
            let moment = lessons.moment();
            if moment.asked > 0 {
                stage.screen.show(&film.frame(&moment, now, phase == 1))?;
            }
        }
    }
    stage.screen.settle()?;
    let phases = lessons.end()?;
    match &phases[..] {
        [before, broken, after] => Ok(table(&arms, &[before, broken, after])),
        _ => Err(Error::Spoiled {
            scene: "selection",
            cause: Spoiled::Silent,
        }),
    }
}

fn table(arms: &[String], phases: &[&Score; 3]) -> Table {
    let errors = |way: usize| {
        let error = |score: &&Score| {
            let wrong = score.wrong.get(way).copied().unwrap_or(0);
            figures::share(wrong, score.asked)
        };
        let all = Score {
            asked: phases.iter().map(|score| score.asked).sum(),
            wrong: vec![phases.iter().filter_map(|score| score.wrong.get(way)).sum()],
            by_arm: Vec::new(),
        };
        let whole = figures::share(all.wrong[0], all.asked);
        phases.iter().map(error).chain([whole]).collect()
    };
    let mut rows = vec![
        (format!("wrong: {} alone", arms[SVC]), errors(ALONE_WAY)),
        ("wrong: one arm, thompson".to_owned(), errors(ONE_WAY)),
        ("wrong: vote of all, exp4".to_owned(), errors(ALL_WAY)),
    ];
    for (at, arm) in arms.iter().enumerate() {
        let share = |score: &&Score| {
            let counts = score.by_arm.get(ONE_WAY);
            let part = counts.and_then(|counts| counts.get(at)).copied();
            figures::share(part.unwrap_or(0), score.asked)
        };
        rows.push((
            format!("thompson asks {arm}"),
            phases.iter().map(share).collect(),
        ));
    }
    let asked = phases.iter().map(|score| score.asked.to_string());
    rows.push(("images".to_owned(), asked.collect()));
    Table {
        title: format!("Selection, {} breaks and is mended", arms[SVC]),
        headings: ["before", "broken", "mended", "in all"]
            .map(str::to_owned)
            .into(),
        rows,
        notes: vec![
            "Alone: as without selection. Each image was asked of all three, and what it"
                .to_owned(),
            "shows was told after the answers, as feedback with a label.".to_owned(),
        ],
    }
}

/// What makes the frames.
#[derive(Debug)]
struct Film<'a> {
    arms: &'a [String],
    lasting: Duration,
    /// For each way, the share of right answers in each moment.
    right: [Vec<f64>; 3],
    shown: Instant,
}

impl<'a> Film<'a> {
    fn new(arms: &'a [String], lasting: Duration) -> Self {
        Self {
            arms,
            lasting,
            right: Default::default(),
            shown: Instant::now(),
        }
    }

    fn frame(&mut self, moment: &Score, passed: Duration, broken: bool) -> Frame {
        let since = std::mem::replace(&mut self.shown, Instant::now()).elapsed();
        let rate = figures::rate(moment.asked as f64 / since.as_secs_f64().max(f64::MIN_POSITIVE));
        let wrong = [ALONE_WAY, ONE_WAY, ALL_WAY].map(|way| {
            let wrong = moment.wrong.get(way).copied().unwrap_or(0);
            let right = moment.asked.saturating_sub(wrong);
            self.right[way].push(right as f64 / moment.asked as f64);
            figures::share(wrong, moment.asked)
        });
        let state = match broken {
            true => "is broken",
            false => "is well",
        };
        let svc = &self.arms[SVC];
        let seconds = passed.as_secs_f64();
        let mut picture = vec![format!(
            "{:<10} {}  {seconds:.1} of {:.1} s, {svc} {state}",
            "selection",
            frame::bar(passed, self.lasting),
            self.lasting.as_secs_f64(),
        )];
        let names = [format!("{svc} alone"), "thompson".into(), "exp4".into()];
        for (way, name) in names.iter().enumerate() {
            let trace = frame::columns(&self.right[way], 1.);
            let trace: String = trace.chars().rev().take(TRACE).collect();
            let trace: String = trace.chars().rev().collect();
            picture.push(format!("  wrong  {name:<14}{:>8}  {trace}", wrong[way]));
        }
        let counts = moment.by_arm.get(ONE_WAY);
        for (at, arm) in self.arms.iter().enumerate() {
            let count = counts.and_then(|counts| counts.get(at)).copied();
            let count = count.unwrap_or(0);
            let columns = (count * TRACE as u64).div_ceil(moment.asked.max(1));
            let bar = "#".repeat((columns as usize).min(TRACE));
            let share = figures::share(count, moment.asked);
            picture.push(format!("  asked  {arm:<14}{share:>8}  {bar}"));
        }
        picture.push(String::new());
        let to_svc = counts.and_then(|counts| counts.get(SVC)).copied();
        let line = format!(
            "selection {seconds:.1} s: {svc} {state}, {rate}, wrong {} alone, {} thompson, {} exp4, \
             thompson asks {svc} {}",
            wrong[ALONE_WAY],
            wrong[ONE_WAY],
            wrong[ALL_WAY],
            figures::share(to_svc.unwrap_or(0), moment.asked),
        );
        Frame { picture, line }
    }
}

/// The name of a model without what all names begin with.
fn short(name: &str) -> &str {
    name.trim_start_matches("digits_")
}

/// The names that callers send.
const ONE: &str = "digits";
const ALL: &str = "digits_vote";

/// The places of the three ways among what is asked.
const ALONE_WAY: usize = 0;
const ONE_WAY: usize = 1;
const ALL_WAY: usize = 2;

/// The place of the best among the arms, which are those of [`Kind::ALL`].
const SVC: usize = Kind::ALL.len() - 1;

/// When the best breaks, as a share of the time: the first labels have shown by then who it is.
const BREAKS: f64 = 1. / 3.;

/// When it is mended.
const MENDS: f64 = 2. / 3.;

/// Columns of what is drawn beside a figure.
const TRACE: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn arms() -> [String; 5] {
        Kind::ALL.map(|kind| short(kind.name()).to_owned())
    }

    fn score(asked: u64, wrong: [u64; 3], thompson: [u64; 5]) -> Score {
        Score {
            asked,
            wrong: wrong.into(),
            by_arm: vec![vec![0; 5], thompson.into(), vec![0; 5]],
        }
    }

    #[test]
    fn the_configuration_is_one() {
        let models = [Kind::Bayes, Kind::ShallowTree].map(Classifier::train);
        let config = Config::read(configuration(&models, 8001)).expect("no faults");
        for name in [ONE, ALL] {
            assert!(config.models.contains_key(name), "{name}");
        }
        assert!(!config.models.contains_key(Kind::Svc.name()));
    }

    #[test]
    fn the_table_tells_errors_and_traffic_of_each_phase() {
        let (before, broken, after) = (
            score(100, [1, 2, 1], [1, 1, 1, 1, 96]),
            score(100, [90, 12, 9], [5, 5, 85, 0, 5]),
            score(200, [2, 6, 2], [0, 0, 20, 0, 180]),
        );
        let table = table(&arms(), &[&before, &broken, &after]).to_string();
        let line = |begin: &str| {
            let line = table.lines().find(|line| line.starts_with(begin));
            let line = line.unwrap_or_else(|| panic!("{begin}: {table}"));
            line[begin.len()..]
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("wrong: svc alone"), "1.0 % 90.0 % 1.0 % 23.2 %");
        assert_eq!(line("wrong: one arm, thompson"), "2.0 % 12.0 % 3.0 % 5.0 %");
        assert_eq!(line("thompson asks svc"), "96.0 % 5.0 % 90.0 %");
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
    }

    #[test]
    fn a_picture_fits_and_says_whether_the_best_is_broken() {
        let arms = arms();
        let mut film = Film::new(&arms, Duration::from_secs(10));
        let score = score(100, [90, 12, 9], [5, 5, 85, 0, 5]);
        for _ in 0..100 {
            film.frame(&score, Duration::from_secs(4), true);
        }
        let frame = film.frame(&score, Duration::from_secs(4), true);
        assert!(frame.line.contains("svc is broken"), "{}", frame.line);
        for line in &frame.picture {
            assert!(line.chars().count() <= 78, "{line}");
        }
    }
}
