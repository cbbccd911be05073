//! The same load twice: straight to the model, and through Outrigger.
//!
//! ```text
//! how fast is it, a call at a time? -> offer OVERLOAD times as much -> without | with batching
//! ```

use std::time::Duration;

use outrigger_native::{Curve, Handle, digits::Classifier};

use crate::{
    app::State,
    demo::{
        error::Error,
        figures::{self, NOTHING},
        frame::{self, Frame},
        images::Images,
        load::{Load, Pace, Report, Target},
        measured::Measured,
        stage::Stage,
        table::Table,
    },
};

/// What a call of the model costs in this act.
pub(in crate::demo) fn dress(model: Classifier) -> Classifier {
    model.with_overhead(OVERHEAD)
}

/// Writes what somebody would who puts the proxy before such a model.
pub(in crate::demo) fn configuration(model: &str, port: u16) -> String {
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', upstream: container }}]
upstreams: {{ container: {{ protocol: oip-grpc, endpoints: ['http://127.0.0.1:{port}'] }} }}
models: {{ {model}: {{ latency_objective: {objective}ms, batch: {{}} }} }}
limits: {{ drain: 2s }}
",
        objective = OBJECTIVE.as_millis(),
    )
}

/// Plays the act: three loads that last so long together.
pub(in crate::demo) async fn play(
    stage: &mut Stage,
    model: &Classifier,
    lasting: Duration,
) -> Result<Table, Error> {
    let asked = Asked {
        images: Images::held_out(model),
        model: stage.model(model.name())?,
    };
    stage.screen.say(&format!(
        "calls      each asks for one of {count} images that the model has not seen\n\
         model      a support vector machine behind gRPC; a call costs {beta:.2} ms, and\n\
         {empty:11}{alpha:.1} us an image, as scikit-learn's does in a Python container:\n\
         {empty:11}this time is simulated, predictions are real\n\
         objective  {objective} ms for 99 of 100 calls, waiting and model together\n",
        count = asked.images.count(),
        beta = OVERHEAD.beta.as_secs_f64() * 1e3,
        alpha = OVERHEAD.alpha.as_secs_f64() * 1e6,
        objective = OBJECTIVE.as_millis(),
        empty = "",
    ))?;
    let trial = (lasting / 10).min(LONGEST_TRIAL);
    let single = single_rate(stage, &asked, trial).await?;
    let rate = single * OVERLOAD;
    stage.screen.say(&format!(
        "One call at a time the model answers {}. From here on {} are asked of it,\n\
         of one image each, at random times and without waiting for answers.\n",
        figures::rate(single),
        figures::rate(rate),
    ))?;
    let without = ((lasting - trial) / 2).min(LONGEST_OVERLOAD);
    let direct = Scene {
        name: "without batching",
        row: "without",
        target: stage.direct()?,
        rate,
        lasting: without,
        batches: false,
    };
    let batched = Scene {
        name: "with batching",
        row: "with",
        target: stage.proxied()?,
        lasting: lasting - trial - without,
        batches: true,
        ..direct.clone()
    };
    let mut rows = Vec::new();
    for scene in [direct, batched] {
        let measured = scene.play(stage, &asked).await?;
        measured.check().map_err(|cause| Error::Spoiled {
            scene: scene.name,
            cause,
        })?;
        rows.push((scene.row.to_owned(), measured.cells(OBJECTIVE)));
    }
    Ok(Table {
        title: format!("Batching, {} offered", figures::rate(rate)),
        headings: Measured::headings(OBJECTIVE),
        rows,
        notes: vec![
            "Without: straight to the model. With: the same load through Outrigger.".to_owned(),
            "Predictions are real, the costs of a Python container are simulated.".to_owned(),
            "CPU s: this process with load and model; proxy: Outrigger's share of it.".to_owned(),
        ],
    })
}

/// What is asked, and of whom.
#[derive(Debug)]
struct Asked {
    images: Images,
    model: Handle,
}

/// A load and where it goes.
#[derive(Clone, Debug)]
struct Scene {
    name: &'static str,
    /// Its name in the table.
    row: &'static str,
    target: Target,
    rate: f64,
    lasting: Duration,
    /// Whether there is a batch limit to show.
    batches: bool,
}

impl Scene {
    async fn play(&self, stage: &mut Stage, asked: &Asked) -> Result<Measured, Error> {
        stage.rest(&asked.model).await?;
        let images = asked.images.again();
        let pace = Pace::Poisson {
            rate: self.rate,
            seed: SEED,
        };
        let running = Load::new(self.target.clone(), pace, images.clone())
            .lasting(self.lasting)
            .patience(LAST_ANSWERS)
            .start()?;
        let mut film = Film::new(self, stage, asked.model.clone(), images.clone());
        let watched = stage
            .watch(running, |moment, passed| film.frame(moment, passed))
            .await?;
        let counters = asked.model.counters();
        Ok(Measured {
            report: watched.report,
            elapsed: watched.elapsed,
            truths: images.truths(),
            calls: counters.calls,
            rows: counters.rows,
            processor: watched.processor,
        })
    }
}

/// What makes the frames of a scene.
#[derive(Debug)]
struct Film<'a> {
    scene: &'a Scene,
    images: Images,
    model: Handle,
    state: std::sync::Arc<State>,
    /// Calls and rows of the model at the last frame.
    executed: (u64, u64),
    /// Answers, and those within the objective, so far.
    answers: u64,
    within: u64,
    rates: Vec<f64>,
}

impl<'a> Film<'a> {
    fn new(scene: &'a Scene, stage: &Stage, model: Handle, images: Images) -> Self {
        Self {
            scene,
            images,
            model,
            state: stage.state(),
            executed: (0, 0),
            answers: 0,
            within: 0,
            rates: Vec::new(),
        }
    }

    fn frame(&mut self, moment: &Report, passed: Duration) -> Frame {
        let counters = self.model.counters();
        let (calls, rows) = (counters.calls, counters.rows);
        let before = std::mem::replace(&mut self.executed, (calls, rows));
        self.answers += moment.sent();
        self.within += moment.sent() - moment.later_than(OBJECTIVE).min(moment.sent());
        self.rates.push(moment.rate());
        let limit = match self.scene.batches {
            true => batch_limit(&self.state),
            false => None,
        };
        let limit = limit.map_or_else(|| NOTHING.to_owned(), |limit| limit.to_string());
        let answered = figures::rate(moment.rate());
        let offered = figures::rate(self.scene.rate);
        let (p50, p99) = (moment.latency(0.5), moment.latency(0.99));
        let (p50, p99) = (figures::latency(p50), figures::latency(p99));
        let rows = figures::mean(rows - before.1, calls - before.0);
        let within = figures::share(self.within, self.answers);
        let accuracy = figures::share(self.images.truths(), self.images.answers());
        let objective = format!("in {} ms", OBJECTIVE.as_millis());
        // After the last call it is only waited.
        let passed = passed.min(self.scene.lasting);
        let seconds = passed.as_secs_f64();
        let line = format!(
            "{} {seconds:.1} s: answered {answered} of {offered}, p50 {p50}, p99 {p99}, \
             {objective} {within}, batch limit {limit}, rows a call {rows}, accuracy {accuracy}",
            self.scene.name,
        );
        let mut picture = vec![format!(
            "{:<17} {}  {seconds:.1} of {:.1} s",
            self.scene.name,
            frame::bar(passed, self.scene.lasting),
            self.scene.lasting.as_secs_f64(),
        )];
        picture.extend(frame::grid(&[
            [("offered", offered), ("p50", p50), ("batch limit", limit)],
            [("answered", answered), ("p99", p99), ("rows a call", rows)],
            [
                ("accuracy", accuracy),
                ("objective", figures::latency(OBJECTIVE)),
                (&objective, within),
            ],
        ]));
        let trace = frame::columns(&self.rates, self.scene.rate);
        picture.push(format!("  answered     {trace}"));
        picture.push(String::new());
        Frame { picture, line }
    }
}

/// How many calls a second the model answers if each has one image.
async fn single_rate(stage: &mut Stage, asked: &Asked, lasting: Duration) -> Result<f64, Error> {
    let pace = Pace::Closed { callers: CALLERS };
    let load = Load::new(stage.direct()?, pace, asked.images.again()).lasting(lasting);
    let running = load.start()?;
    let watched = stage.watch(running, |_, _| Frame::default()).await?;
    match watched.report.answered() {
        0 => Err(Error::Spoiled {
            scene: "one call at a time",
            cause: crate::demo::error::Spoiled::Silent,
        }),
        _ => Ok(watched.report.rate()),
    }
}

/// The most rows that the proxy puts into the next call.
fn batch_limit(state: &State) -> Option<u64> {
    let models = state.models();
    let arms = models
        .as_object()?
        .values()
        .next()?
        .get("arms")?
        .as_object()?;
    arms.values()
        .next()?
        .pointer("/endpoints/0/batch_limit")?
        .as_u64()
}

/// What 99 of 100 requests shall keep to.
const OBJECTIVE: Duration = Duration::from_millis(20);

/// What a call costs beside the prediction: measured of a linear SVM of scikit-learn in a Python
/// container. Our own model answers in microseconds, and so would have little to gain.
const OVERHEAD: Curve = Curve::LINEAR_SVM;

/// How many times what the model answers a call at a time is asked of it: plain overload without
/// batches, and about a third of what they can carry within the objective.
const OVERLOAD: f64 = 8.;

/// The next call is there when the model is done with the last.
const CALLERS: usize = 2;

/// Some hundred calls.
const LONGEST_TRIAL: Duration = Duration::from_millis(800);

/// Overload piles up calls without an end; what it looks like is clear by then.
const LONGEST_OVERLOAD: Duration = Duration::from_secs(15);

/// How long the last answers are waited for: what is not answered by then counts as late.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Both scenes have the same arrivals.
const SEED: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_configuration_is_one() {
        let config = Config::read(configuration("digits", 8001)).expect("no faults");
        let model = config.models.get("digits").expect("the model");
        assert_eq!(model.latency_objective, OBJECTIVE);
        assert!(model.batch.is_some());
    }
}
