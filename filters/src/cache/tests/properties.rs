//! Whatever happens in whatever order: each caller has the answer to its own rows.

use super::*;

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

/// What the model says of a row in a generation, so that an answer that is older than the last
/// flush is seen.
fn said(mark: u8) -> u8 {
    mark.wrapping_mul(37).wrapping_add(11)
}

fn respond(call: Sent) {
    let marks = call.marks();
    let data: Vec<u8> = marks.iter().flat_map(|mark| [said(*mark), *mark]).collect();
    let mut response = echo(&call.request);
    response.outputs[0].data = Bytes::from(data).into();
    call.answer(response);
}

proptest! {
    #[test]
    fn every_caller_has_one_answer_to_its_own_rows(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut script = Script::new(Config {
                ttl: Duration::from_secs(10),
                ..Config::default()
            });
            let mut calls = Vec::new();
            let mut callers: Vec<(Vec<u8>, Caller)> = Vec::new();
            let mut failed = 0;
            let mut answered = 0;
            for step in steps {
                match step {
                    Step::Send(marks, control) => {
                        let asked = with(request("id", &marks), |parts| parts.head.cache = control);
                        callers.push((marks, script.send(asked)));
                    }
                    Step::Answer(at) if at < calls.len() => respond(calls.remove(at)),
                    Step::Fail(at, code) if at < calls.len() => {
                        failed += 1;
                        let call: Sent = calls.remove(at);
                        call.fail(Status::new(code, "as the test asked"));
                    }
                    Step::Leave(at) if at < callers.len() => {
                        callers.remove(at).1.abort();
                    }
                    Step::Flush => {
                        script.cache.store().flush(Flush::Asked);
                    }
                    Step::Advance(seconds) => advance(Duration::from_secs(seconds)).await,
                    _ => {}
                }
                while let Some(call) = script.call().await {
                    calls.push(call);
                }
            }
            // Whatever is still asked is answered, until all is quiet.
            loop {
                calls.drain(..).for_each(respond);
                while let Some(call) = script.call().await {
                    calls.push(call);
                }
                if calls.is_empty() {
                    break;
                }
            }
            let total = callers.len();
            for (marks, caller) in callers {
                match answer(caller).await {
                    Ok(response) => {
                        answered += 1;
                        assert_eq!(self::marks(&response), marks.iter().map(|mark| said(*mark)).collect::<Vec<_>>());
                        assert_eq!(response.id, "id");
                        let report = reported(&response);
                        if report.result != CacheResult::Bypass {
                            assert_eq!(report.hits + report.joined + report.sent, marks.len());
                        }
                    }
                    Err(error) => assert!(failed > 0, "{error}"),
                }
            }
            assert!(failed > 0 || answered == total);
            let view = script.view();
            assert!(view.rows <= 6 && view.bytes <= view.max_bytes);
        });
    }
}
