//! Figure 10: users who write in dialects, and what is learned of each from a few labels.

use http::{HeaderName, HeaderValue};
use outrigger_native::digits::{Classifier, Dialect, Digits, Image, dialects};
use serde_json::{Value, json};

use super::arms::{Arms, block_on, each, model, question};
use super::plot::{Panel, Sheet, Style};
use super::random::Random;
use super::scale::Kind as Ticks;
use super::{Findings, Options, decimals, mean, spread};
use crate::bench::Result;
use crate::bench::demand::progress;
use crate::bench::table::{Table, machine};

/// A policy with one seed.
#[derive(Clone, Debug)]
struct Job {
    policy: usize,
    seed: u64,
}

/// A policy, and for each seed the share of wrong answers to users who have told so many labels.
#[derive(Clone, Debug)]
struct Policy {
    name: String,
    settings: String,
    errors: Vec<[f64; QUESTIONS]>,
}

/// What one user was answered.
type Answered = [bool; QUESTIONS];

/// Plays, prints a table, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let users = if options.quick { 80 } else { 400 };
    let models = dialects();
    let shown = show();
    let mut policies: Vec<Policy> = match &options.selections[..] {
        [] => USUAL.map(Policy::new).into(),
        told => told.iter().map(|told| Policy::new(told)).collect(),
    };
    let jobs: Vec<Job> = (0..options.seeds as u64)
        .flat_map(|seed| (0..policies.len()).map(move |policy| Job { policy, seed }))
        .collect();
    let errors = each(&jobs, |job| {
        let policy = &policies[job.policy];
        let errors = block_on(play(policy, &models, &shown, users, job, options))?;
        progress(format_args!(
            "{} seed {}: {}\n",
            policy.name,
            job.seed,
            SHOWN.map(|labels| decimals(errors[labels], 3)).join(" ")
        ));
        Ok(errors)
    })?;
    for (job, errors) in jobs.iter().zip(errors) {
        policies[job.policy].errors.push(errors);
    }
    let (general, oracle) = bounds(&models, &shown);
    print(&policies, general, oracle, users);
    Ok(Findings {
        figures: json!({
            "experiment": "fig10",
            "machine": machine(),
            "quick": options.quick,
            "seeds": options.seeds,
            "users": users,
            "users_before_counting": before(users),
            "general": general,
            "oracle": oracle,
            "policies": policies.iter().map(Policy::figures).collect::<Vec<_>>(),
            "reference": {
                "general": REFERENCE_GENERAL,
                "oracle": REFERENCE_ORACLE,
                "labels": SHOWN,
                "learned": REFERENCE,
            },
        }),
        pictures: vec![("fig10", picture(&policies, general, oracle))],
    })
}

async fn play(
    policy: &Policy,
    models: &[Classifier],
    shown: &[Vec<Image>],
    users: usize,
    job: &Job,
    options: &Options,
) -> Result<[f64; QUESTIONS]> {
    let names = models.iter().map(Classifier::name);
    let settings = format!(
        "{}, context: {{ header: {HEADER} }}, seed: {}",
        policy.settings, job.seed
    );
    let configuration = format!("models:\n{}", model(NAME, names, &settings));
    let name = format!("fig10-{}-{}", job.policy, job.seed);
    let arms = Arms::start(&name, models.to_vec(), &configuration, options).await?;
    let mut random = Random::new(job.seed);
    // Each dialect as often as the others, in any order.
    let mut of_users: Vec<Dialect> = (0..users)
        .map(|user| Dialect::ALL[user % Dialect::ALL.len()])
        .collect();
    random.shuffle(&mut of_users);
    let mut answered: Vec<Answered> = Vec::with_capacity(users);
    for (wave, some) in of_users.chunks(AT_ONCE).enumerate() {
        let users = some.iter().enumerate().map(|(at, dialect)| {
            let asked: [usize; QUESTIONS] = std::array::from_fn(|_| random.below(shown[0].len()));
            user(&arms, wave * AT_ONCE + at, &shown[dialect.number()], asked)
        });
        let users: Vec<_> = users.collect();
        answered.extend(futures_util::future::try_join_all(users).await?);
    }
    let counted = &answered[before(users)..];
    Ok(std::array::from_fn(|labels| {
        let wrong = counted.iter().filter(|answered| answered[labels]);
        wrong.count() as f64 / counted.len() as f64
    }))
}

/// Asks question after question, and tells what would have been right after each.
async fn user(
    arms: &Arms,
    number: usize,
    shown: &[Image],
    asked: [usize; QUESTIONS],
) -> Result<Answered> {
    let labels = Digits::load().held_out().labels;
    let name = HeaderValue::from_str(&format!("user-{number}"))?;
    let header = [(HeaderName::from_static(HEADER), name)];
    let mut wrong = [false; QUESTIONS];
    for (wrong, at) in wrong.iter_mut().zip(asked) {
        let said = arms.ask(question(NAME, &shown[at]), &header).await?;
        *wrong = said.digit != labels[at];
        arms.teach(&said, labels[at]).await?;
    }
    Ok(wrong)
}

/// The images that no model has seen, in each dialect.
fn show() -> Vec<Vec<Image>> {
    let images = Digits::load().held_out().images;
    Dialect::ALL
        .map(|dialect| images.iter().map(|image| dialect.of(image)).collect())
        .into()
}

/// The errors of the general model, and of somebody who knows everyone's dialect.
fn bounds(models: &[Classifier], shown: &[Vec<Image>]) -> (f64, f64) {
    let labels = Digits::load().held_out().labels;
    let error = |model: &Classifier, images: &[Image]| {
        let said = model.predict(images);
        let wrong = said.iter().zip(labels).filter(|(said, is)| said != is);
        wrong.count() as f64 / labels.len() as f64
    };
    let general = models.last().map_or(f64::NAN, |general| {
        mean(shown.iter().map(|images| error(general, images)))
    });
    let own = models.iter().zip(shown);
    (
        general,
        mean(own.map(|(model, images)| error(model, images))),
    )
}

/// Users who come before anything is known of models in general; they are not counted.
fn before(users: usize) -> usize {
    users / 8
}

impl Policy {
    fn new(settings: &str) -> Self {
        Self {
            name: settings.trim_start_matches("policy: ").to_owned(),
            settings: settings.to_owned(),
            errors: Vec::new(),
        }
    }

    fn at(&self, labels: usize) -> Vec<f64> {
        self.errors.iter().map(|errors| errors[labels]).collect()
    }

    fn figures(&self) -> Value {
        json!({
            "name": self.name,
            "settings": self.settings,
            "mean": (0..QUESTIONS).map(|labels| mean(self.at(labels))).collect::<Vec<_>>(),
            "seeds": self.errors.iter().map(|errors| errors.to_vec()).collect::<Vec<_>>(),
        })
    }
}

fn print(policies: &[Policy], general: f64, oracle: f64, users: usize) {
    let mut table = Table::with(
        std::iter::once("error after so many labels of a user".to_owned())
            .chain(SHOWN.map(|labels| labels.to_string())),
    );
    for policy in policies {
        let cells = SHOWN.map(|labels| {
            let errors = policy.at(labels);
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
    let same = |name: &str, error: f64| {
        std::iter::once(name.to_owned()).chain(SHOWN.map(move |_| decimals(error, 3)))
    };
    table.row(same("the general model", general));
    table.row(same("each user's own model", oracle));
    table.row(
        std::iter::once("reference".to_owned()).chain(REFERENCE.map(|error| decimals(error, 3))),
    );
    println!(
        "Figure 10: {users} users of eight dialects, nine models; means of {} seeds (reference: general {}, own {})\n\n{table}",
        policies.first().map_or(0, |policy| policy.errors.len()),
        decimals(REFERENCE_GENERAL, 3),
        decimals(REFERENCE_ORACLE, 3),
    );
    if let Some(policy) = policies.first() {
        for (labels, aim) in AIMS {
            let error = mean(policy.at(labels));
            let verdict = if error <= aim { "reached" } else { "MISSED" };
            println!(
                "{verdict}: {} after {labels} labels {} (at most {})",
                policy.name,
                decimals(error, 3),
                decimals(aim, 3)
            );
        }
    }
}

fn picture(policies: &[Policy], general: f64, oracle: f64) -> Sheet {
    let mut panel = Panel::new(
        "error by what a user has told",
        ("labels of the user so far", Ticks::Linear),
        ("share", Ticks::Linear),
    );
    for policy in policies {
        let points = (0..QUESTIONS).map(|labels| (labels as f64, mean(policy.at(labels))));
        panel = panel.series(&policy.name, Style::Joined, points);
    }
    let reference = SHOWN.iter().zip(REFERENCE);
    panel = panel
        .series(
            "reference",
            Style::Broken,
            reference.map(|(labels, error)| (*labels as f64, error)),
        )
        .level("the general model", general)
        .level("each user's own model", oracle);
    let mut sheet = Sheet::new(
        "A state for each user, who keeps to one of eight dialects",
        1,
    )
    .note(format!(
        "Means of {} seeds. A user who is new begins with what was learned of all.",
        policies.first().map_or(0, |policy| policy.errors.len())
    ));
    sheet.add(panel);
    sheet
}

const NAME: &str = "digits";
const HEADER: &str = "x-user";
/// What each user asks: one question more than there are labels.
const QUESTIONS: usize = 21;
/// Users who ask at the same time.
const AT_ONCE: usize = 8;
/// After how many labels of a user errors stand in the table.
const SHOWN: [usize; 5] = [0, 2, 4, 8, 20];
/// Who has few labels must learn fast from each.
const USUAL: [&str; 4] = [
    "policy: exp4, learning_rate: 2",
    "policy: exp4",
    "policy: epsilon-greedy",
    "policy: exp3",
];
/// Of [`SHOWN`], by a reference in Python.
const REFERENCE: [f64; 5] = [0.462, 0.210, 0.122, 0.074, 0.064];
const REFERENCE_GENERAL: f64 = 0.463;
const REFERENCE_ORACLE: f64 = 0.065;
/// What shall be reached after how many labels.
const AIMS: [(usize, f64); 2] = [(2, 0.21), (8, 0.074)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_is_shown_and_the_first_is_the_images_as_they_are() {
        let shown = show();
        assert_eq!(shown.len(), Dialect::ALL.len());
        assert_eq!(shown[0], Digits::load().held_out().images);
        assert_ne!(shown[1], shown[0]);
    }

    #[test]
    fn every_label_that_is_shown_is_asked_for() {
        assert!(SHOWN.iter().all(|labels| *labels < QUESTIONS));
    }
}
