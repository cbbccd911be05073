//! Exactly one answer, whatever happens.

use super::*;

/// One step of a random life of the filter.
#[derive(Clone, Debug)]
enum Step {
    Send {
        patience: Option<u64>,
        priority: u64,
        bytes: usize,
    },
    /// Without anybody looking at it for a while.
    SendUnseen,
    Look(usize),
    Leave(usize),
    Answer(usize),
    Fail(usize),
    HangUp(usize),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (prop::option::weighted(0.6, 0..60_u64), 0..3_u64, 0..30_usize).prop_map(
            |(patience, priority, bytes)| Step::Send {
                patience,
                priority,
                bytes,
            }
        ),
        1 => Just(Step::SendUnseen),
        2 => any::<usize>().prop_map(Step::Look),
        2 => any::<usize>().prop_map(Step::Leave),
        6 => any::<usize>().prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => any::<usize>().prop_map(Step::HangUp),
        3 => (0..15_u64).prop_map(Step::Advance),
        // Longer than a call may take before others are sent beside it.
        1 => (1_000..40_000_u64).prop_map(Step::Advance),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let concurrency = prop_oneof![
        3 => (1..5_usize).prop_map(|calls| fixed(calls).max_concurrency),
        1 => Just(Concurrency::Auto),
    ];
    let cancel = prop::sample::select(Cancel::ALL.to_vec());
    (concurrency, cancel, 1..20_usize).prop_map(|(max_concurrency, cancel, most)| Config {
        max_concurrency,
        cancel,
        max_queue_requests: most,
        max_queue_bytes: 200,
        default_priority: 1,
        ..Config::default()
    })
}

#[derive(Debug)]
struct Life {
    script: Script,
    config: Config,
    /// Each with its name, and whether somebody looks at it.
    callers: Vec<(String, bool, Caller)>,
    calls: Vec<Sent>,
    left: Vec<String>,
}

impl Life {
    /// Lets everybody look who does, and checks what must always be so.
    async fn round(&mut self) {
        settle().await;
        // Who is given a place by another's answer looks again.
        for _ in 0..3 {
            self.callers.retain_mut(|(id, looks, caller)| {
                if !*looks {
                    return true;
                }
                match poll(caller) {
                    Poll::Pending => true,
                    Poll::Ready(Ok(response)) => {
                        assert_eq!(response.id, *id);
                        false
                    }
                    Poll::Ready(Err(_)) => false,
                }
            });
            while let Some(call) = self.script.call() {
                let deadline = call.request.head.deadline;
                assert!(
                    deadline.is_none_or(|at| at > Instant::now()),
                    "expired work was sent"
                );
                let was_left = self.left.iter().any(|id| id == call.id());
                assert!(!was_left, "abandoned work was sent");
                self.calls.push(call);
            }
        }
        let view = self.script.admission.view();
        let used = self.script.admission.shared().room.used();
        assert!(view.beside <= 8);
        assert!(view.in_flight <= view.limit || self.config.max_concurrency == Concurrency::Auto);
        assert_eq!(used, (view.queue_requests, view.queue_bytes));
        assert!(used.0 <= self.config.max_queue_requests && used.1 <= 200);
        // Nobody is forgotten.
        assert!(view.queue_requests == 0 || view.in_flight >= view.limit);
        let open = self.calls.iter().filter(|call| !call.reply.is_closed());
        assert!(
            open.count() <= view.in_flight + view.beside,
            "calls without places"
        );
    }

    async fn step(&mut self, step: Step, count: usize) {
        let id = format!("id{count}");
        match step {
            Step::Send {
                patience,
                priority,
                bytes,
            } => {
                let now = Instant::now();
                let request = with(holding(&id, vec![0; bytes]), |parts| {
                    parts.head.priority = priority;
                    parts.head.deadline =
                        patience.map(|millis| now + Duration::from_millis(millis));
                });
                let caller = Box::pin(self.script.admission.call(request));
                self.callers.push((id, true, caller));
            }
            Step::SendUnseen => {
                let caller = Box::pin(self.script.admission.call(request(&id)));
                self.callers.push((id, false, caller));
            }
            Step::Look(which) if !self.callers.is_empty() => {
                let which = which % self.callers.len();
                self.callers[which].1 = true;
            }
            Step::Leave(which) if !self.callers.is_empty() => {
                let (id, _, caller) = self.callers.remove(which % self.callers.len());
                drop(caller);
                self.left.push(id);
            }
            Step::Answer(which) if !self.calls.is_empty() => {
                let call = self.calls.remove(which % self.calls.len());
                let answer = echo(&call.request);
                // Its caller may have left, and the call with it.
                let _left = call.reply.send(Ok(answer));
            }
            Step::Fail(which) if !self.calls.is_empty() => {
                let call = self.calls.remove(which % self.calls.len());
                let _left = call.reply.send(Err("failed".into()));
            }
            Step::HangUp(which) if !self.calls.is_empty() => {
                self.calls.remove(which % self.calls.len());
            }
            Step::Advance(millis) => advance(Duration::from_millis(millis)).await,
            _ => {}
        }
    }
}

async fn live(steps: Vec<Step>, config: Config) {
    let mut life = Life {
        script: Script::new(config.clone()),
        config,
        callers: Vec::new(),
        calls: Vec::new(),
        left: Vec::new(),
    };
    for (count, step) in steps.into_iter().enumerate() {
        life.step(step, count).await;
        life.round().await;
    }
    // Every call is answered until nothing is left: then everybody must have an answer.
    life.callers.iter_mut().for_each(|caller| caller.1 = true);
    for _ in 0..1000 {
        life.round().await;
        if life.callers.is_empty() && life.calls.is_empty() {
            break;
        }
        for call in life.calls.drain(..) {
            let answer = echo(&call.request);
            let _left = call.reply.send(Ok(answer));
        }
    }
    assert!(
        life.callers.is_empty(),
        "{} without an answer",
        life.callers.len()
    );
    life.round().await;
    life.script.nothing_is_left();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everybody_gets_exactly_one_answer_and_nothing_is_left(
        steps in prop::collection::vec(step(), 1..120),
        config in config(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(live(steps, config));
    }
}
