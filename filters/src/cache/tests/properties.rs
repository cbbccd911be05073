//! Whatever happens in whatever order: each caller has the answer to its own rows.

use tokio::time::Instant;

use super::*;

/// A server that notes when it was asked.
#[derive(Debug)]
struct Model {
    script: Script,
    /// The calls that are not answered, each with its number.
    calls: Vec<(usize, Sent)>,
    /// Of all calls, each at its number.
    stamps: Vec<Stamp>,
    flushes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Stamp {
    /// How many flushes there were when it was asked.
    asked: usize,
    /// And when it was answered: any model since then may have answered.
    answered: usize,
    at: Instant,
}

/// A caller, and what there was when it sent.
#[derive(Debug)]
struct Asker {
    marks: Vec<u8>,
    control: CacheControl,
    at: Instant,
    flushes: usize,
    calls: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>, CacheControl),
    /// The server answers the call that is at this place among those that it has.
    Answer(usize),
    Fail(usize, Code),
    /// The caller at this place leaves.
    Leave(usize),
    Flush,
    Advance(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let control = prop_oneof![
        8 => Just(CacheControl::default()),
        1 => Just(CacheControl { no_cache: true, ..CacheControl::default() }),
        1 => Just(CacheControl { no_store: true, ..CacheControl::default() }),
        1 => Just(CacheControl {
            max_age: Some(Duration::from_secs(3)),
            ..CacheControl::default()
        }),
    ];
    let code = prop_oneof![
        Just(Code::Internal),
        Just(Code::Unavailable),
        Just(Code::DeadlineExceeded)
    ];
    let step = prop_oneof![
        // Of few rows, so that many are asked for by several.
        6 => (prop::collection::vec(0_u8..6, 1..5), control)
            .prop_map(|(marks, control)| Step::Send(marks, control)),
        5 => (0_usize..8).prop_map(Step::Answer),
        1 => (0_usize..8, code).prop_map(|(at, code)| Step::Fail(at, code)),
        1 => (0_usize..8).prop_map(Step::Leave),
        1 => Just(Step::Flush),
        1 => (0_u64..8).prop_map(Step::Advance),
    ];
    prop::collection::vec(step, 1..60)
}

impl Model {
    fn new() -> Self {
        let config = Config {
            ttl: TTL,
            ..Config::default()
        };
        Self {
            script: Script::new(config),
            calls: Vec::new(),
            stamps: Vec::new(),
            flushes: 0,
        }
    }

    fn ask(&mut self, marks: Vec<u8>, control: CacheControl) -> (Asker, Caller) {
        let asked = with(request("id", &marks), |parts| parts.head.cache = control);
        let asker = Asker {
            marks,
            control,
            at: Instant::now(),
            flushes: self.flushes,
            calls: self.stamps.len(),
        };
        (asker, self.script.send(asked))
    }

    fn flush(&mut self) {
        self.script.cache.store().flush(Flush::Asked);
        self.flushes += 1;
    }

    /// Takes in the calls that have come since it did so last.
    async fn listen(&mut self) {
        while let Some(call) = self.script.call().await {
            self.calls.push((self.stamps.len(), call));
            self.stamps.push(Stamp {
                asked: self.flushes,
                answered: self.flushes,
                at: Instant::now(),
            });
        }
    }

    /// Says of each row which it is, and in which call it was asked.
    fn respond(&mut self, at: usize) {
        let (number, call) = self.calls.remove(at);
        let stamp = &mut self.stamps[number];
        stamp.answered = self.flushes;
        stamp.at = Instant::now();
        // Of at most sixty requests, each asked for in four calls at most.
        let number = u8::try_from(number).unwrap();
        let marks = call.marks();
        let data: Vec<u8> = marks
            .iter()
            .flat_map(|mark| [said(*mark), number])
            .collect();
        let mut response = echo(&call.request);
        response.outputs[0].data = Bytes::from(data).into();
        call.answer(response);
    }

    /// An answer is of its caller's own rows, and none of them is too old.
    fn check(&self, asker: &Asker, response: &Response) {
        let expected: Vec<u8> = asker.marks.iter().map(|mark| said(*mark)).collect();
        assert_eq!(marks(response), expected);
        assert_eq!(response.id, "id");
        let report = reported(response);
        if report.result != CacheResult::Bypass {
            assert_eq!(report.hits + report.joined + report.sent, asker.marks.len());
        }
        let bytes = response.outputs[0].data.to_bytes();
        let numbers = bytes.chunks(2).map(|row| usize::from(row[1]));
        let stamps: Vec<Stamp> = numbers.clone().map(|number| self.stamps[number]).collect();
        let is_of_one_call = bytes.chunks(2).all(|row| row[1] == bytes[1]);
        let is_of_one_model = stamps
            .iter()
            .all(|stamp| stamp.asked == stamps[0].answered && stamp.answered == stamp.asked);
        assert!(is_of_one_call || is_of_one_model, "of two models");
        for (number, stamp) in numbers.zip(&stamps) {
            assert!(stamp.asked >= asker.flushes, "of before a flush");
            // What was answered after it was asked for has no age.
            let age = asker.at.saturating_duration_since(stamp.at);
            assert!(age < TTL, "{age:?} old");
            let max_age = asker.control.max_age;
            assert!(max_age.is_none_or(|most| age <= most), "{age:?} old");
            let is_own = asker.control.no_cache || asker.control.no_store;
            assert!(!is_own || number >= asker.calls, "somebody else's");
        }
    }
}

fn said(mark: u8) -> u8 {
    mark.wrapping_mul(37).wrapping_add(11)
}

proptest! {
    #[test]
    fn every_caller_has_one_answer_to_its_own_rows_that_is_not_too_old(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut model = Model::new();
            let mut askers = Vec::new();
            let mut failed = 0;
            let mut answered = 0;
            for step in steps {
                match step {
                    Step::Send(marks, control) => askers.push(model.ask(marks, control)),
                    Step::Answer(at) if at < model.calls.len() => model.respond(at),
                    Step::Fail(at, code) if at < model.calls.len() => {
                        failed += 1;
                        let (_, call) = model.calls.remove(at);
                        call.fail(Status::new(code, "as the test asked"));
                    }
                    Step::Leave(at) if at < askers.len() => {
                        askers.remove(at).1.abort();
                    }
                    Step::Flush => model.flush(),
                    Step::Advance(seconds) => advance(Duration::from_secs(seconds)).await,
                    _ => {}
                }
                model.listen().await;
            }
            // Whatever is still asked is answered, until all is quiet.
            while !model.calls.is_empty() {
                model.respond(0);
                model.listen().await;
            }
            let total = askers.len();
            for (asker, caller) in askers {
                match answer(caller).await {
                    Ok(response) => {
                        answered += 1;
                        model.check(&asker, &response);
                    }
                    Err(error) => assert!(failed > 0, "{error}"),
                }
            }
            assert!(failed > 0 || answered == total);
            let view = model.script.view();
            assert!(view.rows <= 6 && view.bytes <= view.max_bytes);
        });
    }
}

const TTL: Duration = Duration::from_secs(10);
