use std::{sync::Arc, time::Duration};

use outrigger_filters::{
    batch::Batch,
    deadline::Expired,
    inference::{
        Datatype, Error, Form, Head, Parameters, Payload, Request, RequestParts, Shape, Tensor,
    },
    overload::Overloaded,
};
use tokio::time::Instant;
use tower::Service;

use crate::{
    case::{Arrivals, Case, Rate, Stream},
    clock::Clock,
    model::Model,
    random::{Random, happens, seeded},
    records::{End, Record, Records},
};

/// All that a caller needs; each stream has its own.
#[derive(Clone)]
struct Callers {
    stream: Stream,
    index: usize,
    batch: Batch<Model>,
    clock: Clock,
    records: Arc<Records>,
    /// When nobody asks any more.
    end: Instant,
}

/// Starts all streams of a case.
pub(crate) fn start(
    case: &Case,
    batch: &Batch<Model>,
    clock: &Clock,
    records: &Arc<Records>,
    seed: u64,
) {
    let (_, best) = case.model.best(case.filter.objective());
    for (index, stream) in case.load.values().enumerate() {
        let length = stream.to.unwrap_or(case.length);
        let callers = Callers {
            stream: stream.clone(),
            index,
            batch: batch.clone(),
            clock: clock.clone(),
            records: Arc::clone(records),
            end: clock.start() + length,
        };
        let random = seeded(seed, 100 + index as u64);
        tokio::spawn(callers.run(best, random));
    }
}

impl Callers {
    async fn run(self, best: f64, mut random: Random) {
        self.clock.sleep(self.stream.from.unwrap_or_default()).await;
        let mut count = 0;
        match self.stream.arrivals.clone() {
            Arrivals::Poisson(rate) => {
                let mean = match rate {
                    Rate::Rate(rate) => 1. / rate,
                    Rate::OfBest(share) => self.stream.rows as f64 / (share * best),
                };
                let mut at = Instant::now();
                loop {
                    at += Duration::from_secs_f64(mean * random.exponential());
                    if !self.passes(at).await {
                        return;
                    }
                    self.arrives(&mut count, &mut random);
                }
            }
            Arrivals::Bursts {
                size,
                every,
                within,
            } => {
                let mut at = Instant::now();
                loop {
                    at += every.mul_f64(random.exponential());
                    if !self.passes(at).await {
                        return;
                    }
                    for _ in 0..size {
                        let (callers, caller) = (self.clone(), count);
                        let delay = within.mul_f64(random.uniform());
                        let mut own = seeded(count as u64, random.uniform().to_bits());
                        count += 1;
                        tokio::spawn(async move {
                            callers.clock.sleep(delay).await;
                            callers.ask(caller, &mut own).await;
                        });
                    }
                }
            }
            Arrivals::Closed { callers, think } => {
                for caller in 0..callers {
                    let own = seeded(caller as u64, random.uniform().to_bits());
                    tokio::spawn(self.clone().ask_again_and_again(caller, think, own));
                }
            }
        }
    }

    /// Waits until a moment, and tells whether it is before the end.
    async fn passes(&self, at: Instant) -> bool {
        self.clock.sleep_until(at.min(self.end)).await;
        at < self.end
    }

    fn arrives(&self, count: &mut usize, random: &mut Random) {
        let (callers, caller) = (self.clone(), *count);
        let mut own = seeded(*count as u64, random.uniform().to_bits());
        *count += 1;
        tokio::spawn(async move { callers.ask(caller, &mut own).await });
    }

    async fn ask_again_and_again(
        self,
        caller: usize,
        (least, most): (Duration, Duration),
        mut random: Random,
    ) {
        while Instant::now() < self.end {
            self.ask(caller, &mut random).await;
            let think = least + (most - least).mul_f64(random.uniform());
            self.clock.sleep(think).await;
        }
    }

    /// Asks once, and takes note of what comes of it.
    async fn ask(&self, caller: usize, random: &mut Random) {
        let arrived = Instant::now();
        let Stream {
            rows,
            deadline,
            leave,
            bad,
            ..
        } = &self.stream;
        let deadline = deadline.map(|deadline| arrived + deadline);
        let number = self.records.arrived(Record {
            stream: self.index,
            caller,
            rows: *rows,
            arrived,
            deadline,
            bad: bad.is_some_and(|share| happens(random, share)),
            ended: None,
            queue: None,
        });
        let leaves = leave.as_ref().filter(|leave| happens(random, leave.share));
        let answer = self.batch.clone().call(self.request(number, deadline));
        let answer = match leaves {
            None => answer.await,
            Some(leave) => {
                tokio::select! {
                    biased;
                    answer = answer => answer,
                    () = self.clock.sleep(leave.after) => {
                        return self.records.ended(number, End::Left, None);
                    }
                }
            }
        };
        match answer {
            Ok(response) => {
                if response.outputs[0].data.to_bytes()[..] != number.to_le_bytes().repeat(*rows) {
                    self.records.was_wrong();
                }
                self.records
                    .ended(number, End::Answered, response.report.queue);
            }
            Err(error) => self.records.ended(number, end(&error), None),
        }
    }

    fn request(&self, number: u64, deadline: Option<Instant>) -> Request {
        let rows = self.stream.rows;
        Request::from(RequestParts {
            head: Head {
                model: "model".into(),
                deadline,
                priority: self.stream.priority.unwrap_or(0),
                ..Head::default()
            },
            inputs: vec![Tensor {
                name: "x".into(),
                datatype: Datatype::Uint8,
                shape: Shape::new([rows as i64, 8]),
                parameters: Parameters::default(),
                data: Payload::from(bytes::Bytes::from(number.to_le_bytes().repeat(rows))),
                form: Form::Raw,
                unknown: Payload::new(),
            }],
            ..RequestParts::default()
        })
    }
}

fn end(error: &Error) -> End {
    if error.is::<Overloaded>() {
        End::Refused
    } else if error.is::<Expired>() {
        End::Expired
    } else {
        End::Failed
    }
}
