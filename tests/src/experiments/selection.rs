//! Figure 8: the best of five models answers at random for a while, and selection has to notice.

use outrigger_native::digits::{Classifier, Digits, classifiers};
use outrigger_native::{Fault, Faults};
use serde_json::{Value, json};

use super::arms::{Arms, block_on, each, model, question};
use super::plot::{Panel, Sheet, Style};
use super::random::Random;
use super::scale::Kind as Ticks;
use super::{Findings, Options, decimals, mean, spread};
use crate::bench::Result;
use crate::bench::demand::progress;
use crate::bench::table::{Table, machine};

/// When what happens.
#[derive(Clone, Copy, Debug)]
struct Course {
    queries: usize,
    /// The best model answers at random from this query on, until that one.
    broken: (usize, usize),
}

/// A policy with one seed.
#[derive(Clone, Debug)]
struct Job {
    policy: usize,
    seed: u64,
}

/// What came of each query.
#[derive(Clone, Debug)]
struct Run {
    wrong: Vec<bool>,
    /// Whether the best model answered it; of an ensemble, whether it is the heaviest that agrees.
    by_best: Vec<bool>,
}

/// All seeds of one policy.
#[derive(Clone, Debug)]
struct Policy {
    name: String,
    settings: String,
    runs: Vec<Run>,
}

/// What somebody else measured: cumulative error at 10k, and in the windows.
struct Known {
    name: &'static str,
    errors: [f64; 4],
}

/// Plays, prints a table, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let course = if options.quick {
        Course::new(4000)
    } else {
        Course::new(20_000)
    };
    let models = classifiers();
    let mut policies: Vec<Policy> = match &options.selections[..] {
        [] => USUAL
            .map(|(name, settings)| Policy::new(name, settings))
            .into(),
        told => told.iter().map(|told| Policy::new(told, told)).collect(),
    };
    let jobs: Vec<Job> = (0..options.seeds as u64)
        .flat_map(|seed| (0..policies.len()).map(move |policy| Job { policy, seed }))
        .collect();
    let runs = each(&jobs, |job| {
        let policy = &policies[job.policy];
        let run = block_on(play(policy, &models, course, job, options))?;
        progress(format_args!(
            "{} seed {}: {}\n",
            policy.name,
            job.seed,
            course
                .errors(&run)
                .map(|error| decimals(error, 3))
                .join(" ")
        ));
        Ok(run)
    })?;
    for (job, run) in jobs.iter().zip(runs) {
        policies[job.policy].runs.push(run);
    }
    print(&policies, course);
    Ok(Findings {
        figures: json!({
            "experiment": "fig8",
            "machine": machine(),
            "quick": options.quick,
            "seeds": options.seeds,
            "queries": course.queries,
            "broken": [course.broken.0, course.broken.1],
            "windows": WINDOWS,
            "policies": policies
                .iter()
                .map(|policy| policy.figures(course))
                .collect::<Vec<_>>(),
            "reference": REFERENCE
                .iter()
                .map(|known| json!({ "name": known.name, "errors": known.errors.map(number) }))
                .collect::<Vec<_>>(),
        }),
        pictures: vec![("fig8", picture(&policies, course))],
    })
}

async fn play(
    policy: &Policy,
    models: &[Classifier],
    course: Course,
    job: &Job,
    options: &Options,
) -> Result<Run> {
    let names = models.iter().map(Classifier::name);
    let settings = format!("{}, seed: {}", policy.settings, job.seed);
    // The best model alone is what somebody has who does not select.
    let alone = policy.settings.is_empty();
    let models = models.iter().map(|model| model.clone().with_seed(job.seed));
    let configuration = match alone {
        true => String::new(),
        false => format!("models:\n{}", model(NAME, names, &settings)),
    };
    let name = format!("fig8-{}-{}", job.policy, job.seed);
    let arms = Arms::start(&name, models.collect(), &configuration, options).await?;
    let best = arms.handle(BEST)?;
    let asked = if alone { BEST } else { NAME };
    let held_out = Digits::load().held_out();
    let questions: Vec<_> = held_out
        .images
        .iter()
        .map(|image| question(asked, image))
        .collect();
    let mut random = Random::new(job.seed);
    let mut run = Run {
        wrong: Vec::with_capacity(course.queries),
        by_best: Vec::with_capacity(course.queries),
    };
    for query in 0..course.queries {
        if query == course.broken.0 {
            best.set_faults(Faults::always(Fault::Guess));
        } else if query == course.broken.1 {
            best.set_faults(Faults::none());
        }
        let at = random.below(questions.len());
        let truth = held_out.labels[at];
        let said = arms.ask(questions[at].clone(), &[]).await?;
        run.wrong.push(said.digit != truth);
        run.by_best.push(alone || said.arm.as_deref() == Some(BEST));
        if !alone {
            arms.teach(&said, truth).await?;
        }
    }
    Ok(run)
}

impl Course {
    fn new(queries: usize) -> Self {
        Self {
            queries,
            broken: (queries / 4, queries / 2),
        }
    }

    /// The queries of a window of the paper's course.
    fn window(self, (from, until): (usize, usize)) -> std::ops::Range<usize> {
        from * self.queries / WHOLE..until * self.queries / WHOLE
    }

    fn errors(self, run: &Run) -> [f64; 4] {
        WINDOWS.map(|window| share(&run.wrong[self.window(window)]))
    }
}

impl Policy {
    fn new(name: &str, settings: &str) -> Self {
        Self {
            name: name.to_owned(),
            settings: settings.to_owned(),
            runs: Vec::new(),
        }
    }

    /// The errors in a window, one a seed.
    fn errors(&self, course: Course, window: usize) -> Vec<f64> {
        let errors = self.runs.iter().map(|run| course.errors(run)[window]);
        errors.collect()
    }

    /// The share of what is so in bins of some queries, as a mean of all seeds.
    fn course(&self, bin: usize, of: impl Fn(&Run) -> &Vec<bool>) -> Vec<(f64, f64)> {
        let queries = self.runs.first().map_or(0, |run| run.wrong.len());
        let bins = (0..queries).step_by(bin).map(|from| {
            let until = (from + bin).min(queries);
            let shares = self.runs.iter().map(|run| share(&of(run)[from..until]));
            ((from + until) as f64 / 2.0, mean(shares))
        });
        bins.collect()
    }

    /// The error of all queries so far.
    fn cumulative(&self, bin: usize) -> Vec<(f64, f64)> {
        let mut sum = 0.0;
        let bins = self.course(bin, |run| &run.wrong);
        bins.into_iter()
            .enumerate()
            .map(|(at, (_, error))| {
                sum += error;
                (((at + 1) * bin) as f64, sum / (at + 1) as f64)
            })
            .collect()
    }

    fn figures(&self, course: Course) -> Value {
        let bin = course.queries / BINS;
        let of = |points: Vec<(f64, f64)>| -> Vec<f64> {
            points
                .into_iter()
                .map(|(_, share)| (share * 1e4).round() / 1e4)
                .collect()
        };
        let means = [0, 1, 2, 3].map(|window| mean(self.errors(course, window)));
        json!({
            "name": self.name,
            "settings": self.settings,
            "mean": means,
            "seeds": self.runs.iter().map(|run| course.errors(run)).collect::<Vec<_>>(),
            "bin": bin,
            "error": of(self.course(bin, |run| &run.wrong)),
            "by_best": of(self.course(bin, |run| &run.by_best)),
        })
    }
}

fn print(policies: &[Policy], course: Course) {
    let mut table = Table::with(
        ["".to_owned(), "cumulative at 10k".to_owned()]
            .into_iter()
            .chain(
                WINDOWS[1..]
                    .iter()
                    .map(|(from, until)| format!("{from}..{until}")),
            ),
    );
    for policy in policies {
        let cells = (0..WINDOWS.len()).map(|window| {
            let errors = policy.errors(course, window);
            let (least, _, most) = spread(&errors);
            format!(
                "{} ({} to {})",
                decimals(mean(errors), 3),
                decimals(least, 3),
                decimals(most, 3)
            )
        });
        table.row(std::iter::once(policy.name.clone()).chain(cells));
    }
    for known in &REFERENCE {
        let errors = known.errors.map(|error| decimals(error, 3));
        table.row(std::iter::once(known.name.to_owned()).chain(errors));
    }
    println!(
        "Figure 8: errors where the best of five models answers at random in {}..{}; means of {} seeds\n\n{table}",
        course.broken.0,
        course.broken.1,
        policies.first().map_or(0, |policy| policy.runs.len()),
    );
    if course.queries != WHOLE {
        println!(
            "A course this short leaves too little time to learn: the aims are for the whole one."
        );
        return;
    }
    let one = policies
        .iter()
        .filter(|policy| !policy.settings.is_empty() && !policy.settings.contains("exp4"))
        .min_by(|one, other| {
            let at_10k = |policy: &Policy| mean(policy.errors(course, 0));
            at_10k(one).total_cmp(&at_10k(other))
        });
    let all = policies
        .iter()
        .find(|policy| policy.settings.contains("exp4"));
    for (policy, aims) in [(one, AIMS_ONE), (all, AIMS_ALL)] {
        let Some(policy) = policy else { continue };
        for (window, aim) in aims.into_iter().enumerate() {
            let error = mean(policy.errors(course, window));
            let verdict = if error <= aim { "reached" } else { "MISSED" };
            let (from, until) = WINDOWS[window];
            println!(
                "{verdict}: {} in {from}..{until} {} (at most {})",
                policy.name,
                decimals(error, 4),
                decimals(aim, 3)
            );
        }
    }
}

fn picture(policies: &[Policy], course: Course) -> Sheet {
    let mut sheet =
        Sheet::new("The best of five models answers at random for a while", 1).note(format!(
            "Means of {} seeds. Shaded: the SVC answers at random. Each query has its label told \
             before the next one.",
            policies.first().map_or(0, |policy| policy.runs.len())
        ));
    let bin = course.queries / BINS;
    let broken = (course.broken.0 as f64, course.broken.1 as f64);
    let panel = |title: &str, what: &str| {
        Panel::new(title, ("queries", Ticks::Linear), (what, Ticks::Linear)).band(
            "the best answers at random",
            broken.0,
            broken.1,
        )
    };
    let mut cumulative = panel("error so far", "share");
    let mut moment = panel("error of the moment", "share");
    let mut best = panel("answered by the best model", "share");
    for policy in policies {
        cumulative = cumulative.series(&policy.name, Style::Line, policy.cumulative(bin));
        moment = moment.series(
            &policy.name,
            Style::Line,
            policy.course(bin, |run| &run.wrong),
        );
        if !policy.settings.is_empty() {
            best = best.series(
                &policy.name,
                Style::Line,
                policy.course(bin, |run| &run.by_best),
            );
        }
    }
    sheet.extend([cumulative, moment, best]);
    sheet
}

fn share(of: &[bool]) -> f64 {
    of.iter().filter(|so| **so).count() as f64 / of.len().max(1) as f64
}

fn number(figure: f64) -> Option<f64> {
    figure.is_finite().then_some(figure)
}

const NAME: &str = "digits";
/// The best of the five.
const BEST: &str = "digits_svc";
/// Queries of the course that windows are written for.
const WHOLE: usize = 20_000;
/// Of all errors until the 10 000th query, right after the break, after the repair, and long after.
const WINDOWS: [(usize, usize); 4] = [
    (0, 10_000),
    (5000, 5500),
    (10_000, 11_000),
    (15_000, 20_000),
];
/// Points of a curve.
const BINS: usize = 100;
/// Policies with their usual settings; no settings are the best model alone.
const USUAL: [(&str, &str); 5] = [
    ("best alone", ""),
    ("epsilon-greedy", "policy: epsilon-greedy"),
    ("exp3", "policy: exp3"),
    ("thompson", "policy: thompson"),
    ("exp4", "policy: exp4"),
];
/// What the best policy that asks one arm shall come to.
const AIMS_ONE: [f64; 4] = [0.066, 0.17, 0.050, 0.025];
/// What exp4 shall come to.
const AIMS_ALL: [f64; 4] = [0.050, 0.11, 0.028, 0.018];
/// The rules of the paper, and repaired ones, by a reference in Python with models much like these.
const REFERENCE: [Known; 7] = [
    Known {
        name: "reference: SVC alone",
        errors: [0.459, f64::NAN, f64::NAN, 0.017],
    },
    Known {
        name: "reference: the paper's exp3",
        errors: [0.073, 0.373, f64::NAN, 0.043],
    },
    Known {
        name: "reference: the paper's exp4",
        errors: [0.065, 0.227, f64::NAN, 0.030],
    },
    Known {
        name: "reference: vote by all losses",
        errors: [0.057, 0.263, f64::NAN, 0.017],
    },
    Known {
        name: "sketch: exp3, repaired",
        errors: [0.068, 0.151, 0.051, 0.027],
    },
    Known {
        name: "sketch: thompson, discounted",
        errors: [0.072, 0.182, 0.041, 0.031],
    },
    Known {
        name: "sketch: exp4, repaired",
        errors: [0.049, 0.099, 0.023, 0.017],
    },
];

#[cfg(test)]
mod tests {
    use outrigger_native::digits::Kind;

    use super::*;

    #[test]
    fn windows_keep_their_place_in_a_shorter_course() {
        let course = Course::new(4000);
        assert_eq!(course.broken, (1000, 2000));
        assert_eq!(course.window(WINDOWS[1]), 1000..1100);
        assert_eq!(course.window(WINDOWS[3]), 3000..4000);
    }

    #[test]
    fn what_was_wrong_so_far_is_a_mean_of_means() {
        let run = Run {
            wrong: (0..400)
                .map(|query| query % 4 == 0 || query >= 200)
                .collect(),
            by_best: vec![true; 400],
        };
        let policy = Policy {
            runs: vec![run.clone(), run],
            ..Policy::new("p", "policy: exp3")
        };
        let points = policy.cumulative(100);
        assert_eq!(points[0], (100.0, 0.25));
        assert_eq!(points[3], (400.0, 0.625));
    }

    #[test]
    fn the_best_is_the_support_vector_machine() {
        assert_eq!(BEST, Kind::Svc.name());
    }
}
