//! Exactly one answer, whatever happens.

use super::*;

/// One step of a random life of the filter.
#[derive(Clone, Debug)]
enum Step {
    Send {
        key: u8,
        rows: usize,
        alone: bool,
        patience: Option<u64>,
        priority: u64,
    },
    Leave(usize),
    Answer(usize),
    Fail(usize),
    Refuse(usize),
    Uneven(usize),
    HangUp(usize),
    Panic,
    Advance(u64),
    Know(bool),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (
            (0..3_u8, 1..7_usize),
            prop::bool::weighted(0.1),
            prop::option::weighted(0.3, 0..9_u64),
            0..3_u64,
        )
            .prop_map(|((key, rows), alone, patience, priority)| Step::Send {
                key,
                rows,
                alone,
                patience,
                priority,
            }),
        2 => any::<usize>().prop_map(Step::Leave),
        4 => any::<usize>().prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::Fail),
        2 => any::<usize>().prop_map(Step::Refuse),
        1 => any::<usize>().prop_map(Step::Uneven),
        1 => any::<usize>().prop_map(Step::HangUp),
        1 => Just(Step::Panic),
        2 => (0..5_u64).prop_map(Step::Advance),
        // Longer than a call may take before others are sent beside it.
        1 => (1_000..40_000_u64).prop_map(Step::Advance),
        1 => any::<bool>().prop_map(Step::Know),
        1 => Just(Step::Drain),
    ]
}

/// What may be configured, but for bounds.
fn config() -> impl Strategy<Value = Config> {
    let in_flight = prop_oneof![
        3 => (1..4_usize).prop_map(InFlight::Fixed),
        1 => Just(InFlight::Auto),
    ];
    let cancel = prop::sample::select(Cancel::ALL.to_vec());
    let controller = prop::sample::select(Controller::ALL.to_vec());
    let delay = prop_oneof![Just(0), 1..5_u64];
    let holdout = prop_oneof![Just(0.), Just(1.)];
    (
        in_flight,
        cancel,
        controller,
        delay,
        holdout,
        any::<bool>(),
        1..9_usize,
    )
        .prop_map(
            |(max_in_flight, cancel, controller, delay, holdout, split, max_batch_size)| Config {
                max_in_flight,
                cancel,
                controller,
                max_delay: Duration::from_millis(delay),
                holdout: Share::new(holdout).unwrap(),
                split,
                max_queue_rows: 12,
                ..fixed(max_batch_size)
            },
        )
}

async fn live(steps: Vec<Step>, config: Config) {
    let most = config.max_in_flight.fixed().unwrap_or(16);
    let mut script = Script::new(config);
    let mut callers: Vec<(u8, usize, String, Caller)> = Vec::new();
    let mut calls: Vec<Sent> = Vec::new();
    let mut sent = 0_u8;
    if script.batch.shared().config.holdout > Share::NONE {
        earn_hold_outs(&mut script, &mut callers, &mut calls).await;
    }
    for step in steps {
        match step {
            Step::Send {
                key,
                rows,
                alone,
                patience,
                priority,
            } => {
                sent = sent.wrapping_add(1);
                let id = format!("id{sent}");
                let request = with(request(&id, rows, sent), |parts| {
                    parts.head.version = format!("{key}").into();
                    parts.head.priority = priority;
                    parts.head.deadline =
                        patience.map(|millis| Instant::now() + Duration::from_millis(millis));
                    if alone {
                        parts
                            .parameters
                            .insert("sequence_id".into(), Parameter::Int64(1));
                    }
                });
                let caller = script.send(request);
                callers.push((sent, rows, id, caller));
            }
            Step::Panic => {
                let request = with(request("panic", 1, 0), |parts| {
                    parts.head.model = "panics".into();
                });
                // Alone, the panic is the caller's own task's; here that would be the test's.
                if matches!(script.capability.get(), Batchable::Yes { .. }) {
                    drop(script.send(request));
                }
            }
            Step::Leave(which) if !callers.is_empty() => {
                drop(callers.remove(which % callers.len()));
            }
            Step::Answer(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                let answer = echo(&call.request);
                // A call that was alone ends with its caller.
                let _left = call.reply.send(Ok(answer));
            }
            Step::Fail(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                let _left = call.reply.send(Err("failed".into()));
            }
            Step::Refuse(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                let status = Status::new(Code::InvalidArgument, format!("{}", which % 2));
                let _left = call.reply.send(Err(status.into()));
            }
            Step::Uneven(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                // To a single request an answer of other rows is its own affair.
                if call.request.head.id.is_empty() {
                    let _left = call.reply.send(Ok(echo(&request("", 77, 0))));
                } else {
                    let answer = echo(&call.request);
                    let _left = call.reply.send(Ok(answer));
                }
            }
            Step::HangUp(which) if !calls.is_empty() => {
                calls.remove(which % calls.len());
            }
            Step::Drain => script.batch.drain(),
            Step::Advance(millis) => advance(Duration::from_millis(millis)).await,
            Step::Know(batchable) => {
                script.capability.set(match batchable {
                    true => Batchable::Yes {
                        max_batch_size: None,
                    },
                    false => Batchable::No(Unbatchable::UnevenOutput),
                });
            }
            _ => {}
        }
        round(&mut script, &mut callers, &mut calls).await;
        let view = script.batch.view();
        let used = script.batch.shared().room.used();
        assert!(view.in_flight <= most && view.beside <= 8 && used.0 <= 12);
        assert!(view.queue_rows <= used.0 && view.queue_bytes <= used.1);
    }
    // Every call is answered until nothing is left: then everybody must have an answer.
    for _ in 0..1000 {
        if callers.is_empty() && calls.is_empty() {
            break;
        }
        for call in calls.drain(..) {
            let answer = echo(&call.request);
            let _left = call.reply.send(Ok(answer));
        }
        round(&mut script, &mut callers, &mut calls).await;
        // Who waits for company waits no longer than this.
        advance(Duration::from_millis(1)).await;
    }
    assert!(callers.is_empty(), "{} without an answer", callers.len());
    round(&mut script, &mut callers, &mut calls).await;
    nothing_is_left(&script);
}

/// Lets shared calls pass until there may be hold-outs: at the start there are none.
async fn earn_hold_outs(
    script: &mut Script,
    callers: &mut Vec<(u8, usize, String, Caller)>,
    calls: &mut Vec<Sent>,
) {
    for _ in 0..24 {
        for _ in 0..6 {
            let request = with(request("early", 1, 0), |parts| {
                parts.head.version = "0".into()
            });
            callers.push((0, 1, "early".into(), script.send(request)));
        }
        while !callers.is_empty() {
            round(script, callers, calls).await;
            advance(Duration::from_millis(1)).await;
            for call in calls.drain(..) {
                call.echo();
            }
        }
    }
}

/// Nobody waits, nothing is under way, and all that was reserved is given back.
fn nothing_is_left(script: &Script) {
    let view = script.batch.view();
    assert_eq!(
        (
            view.queue_rows,
            view.queue_bytes,
            view.in_flight,
            view.beside
        ),
        (0, 0, 0, 0)
    );
    assert_eq!(script.batch.load(), 0);
    assert_eq!(script.batch.shared().room.used(), (0, 0));
}

/// A life among bad rows: calls with one are refused, unless their fate is another.
async fn search(
    members: Vec<(bool, usize, Option<u64>)>,
    fates: Vec<(u8, usize, u64)>,
    max_in_flight: usize,
) {
    let mut script = Script::new(Config {
        max_in_flight: InFlight::Fixed(max_in_flight),
        ..fixed(16)
    });
    let mut bad = Vec::new();
    let mut callers = Vec::new();
    let mut calls = Vec::new();
    for (mark, (is_bad, rows, patience)) in (1..).zip(members) {
        if is_bad {
            bad.push(mark);
        }
        let id = format!("id{mark}");
        let deadline = patience.map(|millis| Instant::now() + Duration::from_millis(millis));
        let request = with(request(&id, rows, mark), |parts| {
            parts.head.deadline = deadline
        });
        callers.push((mark, rows, id, script.send(request)));
    }
    let mut fates = fates.into_iter();
    for _ in 0..1000 {
        round(&mut script, &mut callers, &mut calls).await;
        if callers.is_empty() && calls.is_empty() {
            break;
        }
        assert!(script.batch.view().in_flight <= max_in_flight);
        let (fate, which, millis) = fates.next().unwrap_or((u8::MAX, 0, 0));
        advance(Duration::from_millis(millis)).await;
        if fate == 0 && !callers.is_empty() {
            drop(callers.remove(which % callers.len()));
        }
        if calls.is_empty() {
            continue;
        }
        let call: Sent = calls.remove(which % calls.len());
        let guilty = bad.iter().any(|mark| holds(&call, *mark));
        let answer = match fate {
            1 => Err(Status::new(Code::Unavailable, "away").into()),
            2 => Err(Status::new(Code::Internal, "for no reason").into()),
            3 if call.request.head.id.is_empty() => Ok(echo(&request("", 77, 0))),
            4 => continue,
            _ if guilty => Err(Status::new(Code::InvalidArgument, "bad").into()),
            _ => Ok(echo(&call.request)),
        };
        let _left = call.reply.send(answer);
    }
    assert!(callers.is_empty(), "{} without an answer", callers.len());
    nothing_is_left(&script);
}

async fn round(
    script: &mut Script,
    callers: &mut Vec<(u8, usize, String, Caller)>,
    calls: &mut Vec<Sent>,
) {
    settle().await;
    callers.retain_mut(|(mark, rows, id, caller)| match poll(caller) {
        Poll::Pending => true,
        Poll::Ready(Ok(response)) => {
            assert_eq!(response.id, *id);
            assert_eq!(marks(&response), vec![*mark; *rows * 2]);
            false
        }
        Poll::Ready(Err(_)) => false,
    });
    while let Some(call) = script.call().await {
        if let Some(deadline) = call.request.head.deadline {
            assert!(deadline > Instant::now(), "expired work was sent");
        }
        calls.push(call);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everybody_gets_exactly_one_answer_its_own(
        steps in prop::collection::vec(step(), 1..60),
        config in config(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(live(steps, config));
    }

    #[test]
    fn bad_rows_spoil_nobody_who_shares_their_calls(
        bad in prop::collection::vec(prop::bool::weighted(0.2), 2..40),
        max_batch_size in 1..40_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut script = Script::new(fixed(max_batch_size));
            let mut callers: Vec<_> = marked(0..bad.len() as u8)
                .into_iter()
                .map(|request| script.send(request))
                .collect();
            let guilty: Vec<u8> = (0..bad.len() as u8).filter(|mark| bad[usize::from(*mark)]).collect();
            let calls = refuse(&mut script, None, &guilty, Code::InvalidArgument).await.len();
            for (bad, caller) in bad.iter().zip(&mut callers) {
                assert_eq!(answer(caller).await.is_err(), *bad);
            }
            assert!(calls <= 2 * bad.len(), "{calls}");
            nothing_is_left(&script);
            let metrics = &script.batch.shared().metrics;
            assert!(metrics.isolated.get() <= guilty.len() as u64);
        });
    }

    #[test]
    fn whatever_befalls_a_search_everybody_has_one_answer(
        members in prop::collection::vec((prop::bool::weighted(0.2), 1..4_usize, prop::option::of(0..12_u64)), 2..24),
        fates in prop::collection::vec((0..12_u8, any::<usize>(), 0..3_u64), 0..60),
        max_in_flight in 1..3_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(search(members, fates, max_in_flight));
    }
}
