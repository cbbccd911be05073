//! Figure 7: how good an ensemble is, and how good where many of its models agree.

use std::collections::BTreeMap;

use outrigger_native::digits::{Classifier, Digits, Image, Kind, Split, classifiers, forests};
use serde_json::{Value, json};

use super::arms::{Arms, Said, block_on, each, model, question};
use super::plot::{Bar, Panel, Sheet, Style};
use super::random::Random;
use super::scale::Kind as Ticks;
use super::{Findings, Options, decimals, mean};
use crate::bench::Result;
use crate::bench::demand::progress;
use crate::bench::table::{Table, machine};

/// What the five models and their ensembles say of the images that none of them has seen.
#[derive(Clone, Debug)]
struct Answers {
    truths: Vec<u8>,
    /// Of each of the five.
    singles: Vec<Vec<u8>>,
    /// Of all with equal weights, and with those that were learned.
    vote: Vec<Said>,
    learned: Vec<Said>,
    /// Of so many forests with equal weights.
    forests: BTreeMap<usize, Vec<Said>>,
}

/// How good the answers are to which at least so many agree.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Agreed {
    error: f64,
    share: f64,
}

/// Asks, prints tables, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let models = classifiers();
    let forests = forests(MOST_FORESTS);
    let seeds: Vec<u64> = (0..options.seeds as u64).collect();
    let answers = each(&seeds, |seed| {
        block_on(ask(&models, &forests, *seed, options))
    })?;
    let first = answers.first().ok_or("there are seeds")?;
    let learned = mean(answers.iter().map(|one| error(&one.learned, &one.truths)));
    let with_count =
        |one: &Answers, least: usize| one.agreed(&one.learned, |at| one.agreeing(at) >= least);
    let agreed = |least: usize| {
        let all: Vec<Agreed> = answers.iter().map(|one| with_count(one, least)).collect();
        Agreed {
            error: mean(all.iter().map(|one| one.error)),
            share: mean(all.iter().map(|one| one.share)),
        }
    };
    let by_count: Vec<(usize, Agreed)> = (1..=5).map(|least| (least, agreed(least))).collect();
    let by_weight: Vec<(f64, Agreed)> = THRESHOLDS
        .into_iter()
        .map(|threshold| {
            let of = |at: usize| first.learned[at].confidence.unwrap_or(0.0) >= threshold;
            (threshold, first.agreed(&first.learned, of))
        })
        .collect();
    let singles: Vec<f64> = first
        .singles
        .iter()
        .map(|said| wrong(said, &first.truths))
        .collect();
    let equal = error(&first.vote, &first.truths);
    let forests: Vec<(usize, f64)> = first
        .forests
        .iter()
        .map(|(count, said)| (*count, error(said, &first.truths)))
        .collect();
    print(&singles, equal, learned, &by_count, &by_weight, &forests);
    let agreement = |all: &[(f64, Agreed)]| -> Vec<Value> {
        all.iter()
            .map(|(least, agreed)| {
                json!({ "least": least, "error": agreed.error, "share": agreed.share })
            })
            .collect()
    };
    let counted: Vec<(f64, Agreed)> = by_count
        .iter()
        .map(|(least, agreed)| (*least as f64, *agreed))
        .collect();
    Ok(Findings {
        figures: json!({
            "experiment": "fig7",
            "machine": machine(),
            "quick": options.quick,
            "seeds": options.seeds,
            "images": first.truths.len(),
            "taught": TAUGHT,
            "singles": Kind::ALL
                .iter()
                .zip(&singles)
                .map(|(kind, error)| json!({ "name": kind.name(), "error": error }))
                .collect::<Vec<_>>(),
            "equal_vote": equal,
            "learned_vote": learned,
            "learned_vote_seeds": answers
                .iter()
                .map(|one| error(&one.learned, &one.truths))
                .collect::<Vec<_>>(),
            "agreeing": agreement(&counted),
            "confident": agreement(&by_weight),
            "forests": forests
                .iter()
                .map(|(count, error)| json!({ "forests": count, "error": error }))
                .collect::<Vec<_>>(),
        }),
        pictures: vec![(
            "fig7",
            picture(&singles, equal, learned, &by_count, &by_weight, &forests),
        )],
    })
}

async fn ask(
    models: &[Classifier],
    forests: &[Classifier],
    seed: u64,
    options: &Options,
) -> Result<Answers> {
    let names = || models.iter().map(Classifier::name);
    let mut configuration = "models:\n".to_owned();
    configuration += &model("vote", names(), "policy: fixed, ensemble: true");
    configuration += &model("learned", names(), &format!("policy: exp4, seed: {seed}"));
    for count in FORESTS {
        let arms = forests[..count].iter().map(Classifier::name);
        // One has nobody to agree with.
        let ensemble = match count {
            1 => "policy: fixed",
            _ => "policy: fixed, ensemble: true",
        };
        configuration += &model(&forest(count), arms, ensemble);
    }
    let all = models.iter().chain(forests).cloned().collect();
    let arms = Arms::start(&format!("fig7-{seed}"), all, &configuration, options).await?;
    teach(&arms, seed).await?;

    let held_out = Digits::load().held_out();
    let images = match options.quick {
        true => held_out.first(200),
        false => held_out,
    };
    let mut answers = Answers {
        truths: images.labels.to_vec(),
        singles: Vec::new(),
        vote: all_said(&arms, "vote", images).await?,
        learned: all_said(&arms, "learned", images).await?,
        forests: BTreeMap::new(),
    };
    for name in names() {
        let said = all_said(&arms, name, images).await?;
        answers
            .singles
            .push(said.into_iter().map(|said| said.digit).collect());
    }
    // What the answers claim of themselves is what the models said.
    for (at, said) in answers.vote.iter().enumerate() {
        let agree = answers.naming(at, said.digit) as f64 / answers.singles.len() as f64;
        if said
            .confidence
            .is_none_or(|confidence| (confidence - agree).abs() > 0.01)
        {
            return Err(format!("image {at}: {said:?}, but {agree} of the models agree").into());
        }
    }
    if seed == 0 {
        for count in FORESTS {
            let said = all_said(&arms, &forest(count), images).await?;
            answers.forests.insert(count, said);
        }
    }
    progress(format_args!(
        "seed {seed}: equal {}, learned {}\n",
        decimals(error(&answers.vote, &answers.truths), 4),
        decimals(error(&answers.learned, &answers.truths), 4)
    ));
    Ok(answers)
}

/// Tells the labels of images that no model was trained on, nor is judged by.
async fn teach(arms: &Arms, seed: u64) -> Result<()> {
    let training = Digits::load().training();
    let mut order: Vec<usize> = (training.images.len() - TAUGHT..training.images.len()).collect();
    Random::new(seed).shuffle(&mut order);
    for at in order {
        let said = arms
            .ask(question("learned", &training.images[at]), &[])
            .await?;
        arms.teach(&said, training.labels[at]).await?;
    }
    Ok(())
}

async fn all_said(arms: &Arms, model: &str, images: Split<'_>) -> Result<Vec<Said>> {
    let ask = |image: &Image| arms.ask(question(model, image), &[]);
    let mut said = Vec::with_capacity(images.images.len());
    for some in images.images.chunks(AT_ONCE) {
        said.extend(futures_util::future::try_join_all(some.iter().map(ask)).await?);
    }
    Ok(said)
}

impl Answers {
    /// How many of the five name this digit.
    fn naming(&self, at: usize, digit: u8) -> usize {
        self.singles.iter().filter(|said| said[at] == digit).count()
    }

    /// How many of the five agree with the answer by learned weights.
    fn agreeing(&self, at: usize) -> usize {
        self.naming(at, self.learned[at].digit)
    }

    /// How good those answers are of which this is so.
    fn agreed(&self, said: &[Said], so: impl Fn(usize) -> bool) -> Agreed {
        let of: Vec<usize> = (0..said.len()).filter(|at| so(*at)).collect();
        let wrong = of.iter().filter(|at| said[**at].digit != self.truths[**at]);
        Agreed {
            error: wrong.count() as f64 / of.len().max(1) as f64,
            share: of.len() as f64 / said.len().max(1) as f64,
        }
    }
}

fn error(said: &[Said], truths: &[u8]) -> f64 {
    wrong(
        &said.iter().map(|said| said.digit).collect::<Vec<_>>(),
        truths,
    )
}

fn wrong(said: &[u8], truths: &[u8]) -> f64 {
    let wrong = said.iter().zip(truths).filter(|(said, is)| said != is);
    wrong.count() as f64 / truths.len().max(1) as f64
}

fn forest(count: usize) -> String {
    format!("forests_{count}")
}

fn print(
    singles: &[f64],
    equal: f64,
    learned: f64,
    by_count: &[(usize, Agreed)],
    by_weight: &[(f64, Agreed)],
    forests: &[(usize, f64)],
) {
    let mut table = Table::new(["who answers", "error", "of all", "reference"]);
    let mut row = |who: String, error: f64, share: f64, reference: String| {
        table.row([who, decimals(error, 4), percent(share), reference]);
    };
    for ((kind, error), reference) in Kind::ALL.iter().zip(singles).zip(REFERENCE_SINGLES) {
        row(kind.name().to_owned(), *error, 1.0, decimals(reference, 3));
    }
    row("all, equal votes".into(), equal, 1.0, "-".into());
    let reference = decimals(REFERENCE_VOTE, 3);
    row("all, learned weights".into(), learned, 1.0, reference);
    for (least, agreed) in by_count {
        let reference = REFERENCE_AGREED.iter().find(|(of, _)| of == least);
        let reference = reference.map_or("-".to_owned(), |(_, agreed)| {
            format!("{} on {}", decimals(agreed.error, 4), percent(agreed.share))
        });
        let who = format!("the same, where {least} or more agree");
        row(who, agreed.error, agreed.share, reference);
    }
    for (threshold, agreed) in by_weight {
        let who = format!("the same, outrigger-confidence from {threshold}");
        row(who, agreed.error, agreed.share, "-".into());
    }
    println!("Figure 7: an ensemble of five, taught with {TAUGHT} labels\n\n{table}");
    let mut table = Table::new(["forests, equal votes", "accuracy", "reference"]);
    for ((count, error), (_, reference)) in forests.iter().zip(REFERENCE_FORESTS) {
        table.row([
            count.to_string(),
            decimals(1.0 - error, 3),
            decimals(reference, 3),
        ]);
    }
    println!("{table}");
}

fn picture(
    singles: &[f64],
    equal: f64,
    learned: f64,
    by_count: &[(usize, Agreed)],
    by_weight: &[(f64, Agreed)],
    forests: &[(usize, f64)],
) -> Sheet {
    let bar = |height: f64| {
        Some(Bar {
            height,
            range: None,
        })
    };
    let mut sheet = Sheet::new(
        "Ensembles of digit models, and what their agreement says",
        2,
    )
    .note("Pale and broken: a reference in Python with models much like these.");
    let names = Kind::ALL
        .iter()
        .map(|kind| kind.name().trim_start_matches("digits_"));
    let names: Vec<_> = names.chain(["equal votes", "learned"]).collect();
    sheet.add(
        Panel::of_bars("error", "who answers", names, ("share", Ticks::Linear))
            .bars(
                "measured",
                singles
                    .iter()
                    .chain([&equal, &learned])
                    .map(|error| bar(*error)),
            )
            .pale_bars(
                "reference",
                "measured",
                REFERENCE_SINGLES
                    .into_iter()
                    .chain([f64::NAN, REFERENCE_VOTE])
                    .map(|error| bar(error).filter(|bar| bar.height.is_finite())),
            ),
    );
    let points = |of: fn(&Agreed) -> f64| -> Vec<(f64, f64)> {
        by_count
            .iter()
            .map(|(least, one)| (*least as f64, of(one)))
            .collect()
    };
    sheet.add(
        Panel::new(
            "by how many agree at least",
            ("models", Ticks::Linear),
            ("share", Ticks::Linear),
        )
        .series("error", Style::Joined, points(|one| one.error))
        .series("of all answers", Style::Joined, points(|one| one.share)),
    );
    let confident: Vec<(f64, f64)> = by_weight
        .iter()
        .map(|(least, one)| (*least, one.share))
        .collect();
    let erring: Vec<(f64, f64)> = by_weight
        .iter()
        .map(|(least, one)| (*least, one.error))
        .collect();
    sheet.add(
        Panel::new(
            "by outrigger-confidence at least",
            ("confidence", Ticks::Linear),
            ("share", Ticks::Linear),
        )
        .series("error", Style::Joined, erring)
        .series("of all answers", Style::Joined, confident),
    );
    let accuracy = forests
        .iter()
        .map(|(count, error)| (*count as f64, 1.0 - error));
    let reference = REFERENCE_FORESTS.map(|(count, accuracy)| (count as f64, accuracy));
    sheet.add(
        Panel::new(
            "forests of five trees on a fifth of the images",
            ("forests", Ticks::Linear),
            ("accuracy", Ticks::Linear),
        )
        .series("equal votes of forests", Style::Joined, accuracy)
        .series("reference forests", Style::Broken, reference),
    );
    sheet
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Images that no model has seen and that none is judged by: the last of the training images.
const TAUGHT: usize = 400;
const MOST_FORESTS: usize = 16;
const FORESTS: [usize; 6] = [1, 3, 5, 8, 12, 16];
const THRESHOLDS: [f64; 5] = [0.5, 0.9, 0.95, 0.98, 0.99];
/// Questions that are asked at the same time.
const AT_ONCE: usize = 8;
const REFERENCE_SINGLES: [f64; 5] = [0.259, 0.213, 0.079, 0.446, 0.017];
const REFERENCE_VOTE: f64 = 0.018;
const REFERENCE_AGREED: [(usize, Agreed); 2] = [
    (
        4,
        Agreed {
            error: 0.0046,
            share: 0.72,
        },
    ),
    (
        5,
        Agreed {
            error: 0.0,
            share: 0.41,
        },
    ),
];
const REFERENCE_FORESTS: [(usize, f64); 6] = [
    (1, 0.721),
    (3, 0.788),
    (5, 0.842),
    (8, 0.873),
    (12, 0.900),
    (16, 0.911),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn said(digit: u8) -> Said {
        Said {
            digit,
            id: None,
            arm: None,
            confidence: None,
        }
    }

    #[test]
    fn agreement_counts_the_models_that_name_the_answer() {
        let answers = Answers {
            truths: vec![1, 2],
            singles: vec![vec![1, 3], vec![1, 3], vec![4, 2]],
            vote: Vec::new(),
            learned: vec![said(1), said(3)],
            forests: BTreeMap::new(),
        };
        assert_eq!([answers.agreeing(0), answers.agreeing(1)], [2, 2]);
        let agreed = answers.agreed(&answers.learned, |at| answers.agreeing(at) >= 2);
        assert_eq!(
            agreed,
            Agreed {
                error: 0.5,
                share: 1.0
            }
        );
        let none = answers.agreed(&answers.learned, |_| false);
        assert_eq!(
            none,
            Agreed {
                error: 0.0,
                share: 0.0
            }
        );
    }

    #[test]
    fn no_model_was_trained_on_what_weights_are_taught_with() {
        // The SVC has seen the most of the five.
        assert!(Digits::load().training().images.len() - TAUGHT >= 600);
    }
}
