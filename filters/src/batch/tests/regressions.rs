//! Defects that were found, each by a test that failed.

use super::*;

fn due(id: &str, millis: u64) -> Request {
    with(request(id, 1, 1), |parts| {
        parts.head.deadline = Some(Instant::now() + Duration::from_millis(millis));
    })
}

/// So many calls of one row and so many milliseconds, one after the other.
async fn quick(script: &mut Script, calls: usize, millis: u64) {
    for _ in 0..calls {
        let mut caller = script.send(request("", 1, 0));
        let call = script.expect_call().await;
        advance(Duration::from_millis(millis)).await;
        call.echo();
        assert!(answer(&mut caller).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_a_call_that_hangs_is_served_although_batches_are_over() {
    let mut script = Script::new(fixed(32));
    quick(&mut script, 1, 5).await;
    let _hangs = script.send(request("hangs", 1, 7));
    let _lost = script.expect_call().await;
    let mut waits = script.send(request("waits", 1, 1));
    script
        .capability
        .set(Batchable::No(Unbatchable::NoBatchDimension));
    for _ in 0..100 {
        advance(Duration::from_secs(10)).await;
        settle().await;
        let _ = poll(&mut waits);
    }
    script.expect_call().await.echo();
    assert!(answer(&mut waits).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_ninth_call_that_hangs_gives_way_once_others_have_ended() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 1, 5).await;
    let mut callers: Vec<_> = marked(0..12)
        .into_iter()
        .map(|request| script.send(request))
        .collect();
    let mut lost = Vec::new();
    for _ in 0..20 {
        lost.extend(script.call().await);
        advance(Duration::from_millis(1001)).await;
    }
    assert_eq!(lost.len(), 9);
    // The eight that were stuck are answered; the ninth is lost.
    let _ninth = lost.pop();
    lost.into_iter().for_each(Sent::echo);
    settle().await;
    assert_eq!(script.batch.view().beside, 0);
    let mut more = Vec::new();
    for _ in 0..100 {
        advance(Duration::from_secs(10)).await;
        if let Some(call) = script.call().await {
            more.push(call.rows());
            call.echo();
        }
    }
    assert_eq!(more.len(), 3, "those behind the ninth are sent");
    drop(callers.drain(..));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_lost_one_call_is_not_the_last_choice_for_ever() {
    let mut script = Script::new(fixed(32));
    quick(&mut script, 10, 5).await;
    let _hangs = script.send(request("hangs", 1, 7));
    let _lost = script.expect_call().await;
    advance(Duration::from_secs(2)).await;
    settle().await;
    assert_eq!(script.batch.view().beside, 1);
    // It answers all others at once.
    quick(&mut script, 50, 5).await;
    advance(Duration::from_secs(60)).await;
    let completion = script.batch.completion(Instant::now()).unwrap();
    assert!(completion < Duration::from_secs(1), "{completion:?}");
}

#[tokio::test(start_paused = true)]
async fn who_has_more_time_than_others_is_not_starved_by_those_who_name_none() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 10, 10).await;
    // Half a second of requests always wait: an endpoint under more load than it bears.
    let mut callers: Vec<_> = (0..50).map(|_| script.send(request("", 1, 0))).collect();
    let mut patient = script.send(due("patient", 5000));
    let mut sent = 0;
    let mut outcome = None;
    for _ in 0..600 {
        let call = script.expect_call().await;
        sent += 1;
        let own = &*call.request.head.id == "patient";
        advance(Duration::from_millis(10)).await;
        call.echo();
        settle().await;
        callers.retain_mut(|caller| poll(caller).is_pending());
        callers.push(script.send(request("", 1, 0)));
        if let Poll::Ready(answer) = poll(&mut patient) {
            outcome = Some((sent, own, answer.is_ok()));
            break;
        }
    }
    let (sent, _, ok) = outcome.expect("an outcome");
    assert!(
        ok,
        "refused after {sent} others were served, most of which came later"
    );
}

#[tokio::test(start_paused = true)]
async fn rows_without_contents_teach_nothing() {
    let mut script = Script::new(Config {
        max_batch_size: Some(4096),
        ..Config::default()
    });
    // 4 ms and a millisecond a row: some ten rows are within 20 ms.
    let mut waiting = Vec::new();
    let mut limits = Vec::new();
    for round in 0..400 {
        if round == 300 {
            // The server answers what has no bytes.
            {
                while let Some(call) = script.call().await {
                    advance(Duration::from_millis(4 + call.rows() as u64)).await;
                    call.echo();
                }
                waiting.clear();
                settle().await;
                let mut hollow = script.send(with(request("", 1, 0), |parts| {
                    parts.inputs[0].shape = Shape::new([1 << 62, 0]);
                    parts.inputs[0].data = Payload::new();
                }));
                assert!(poll(&mut hollow).is_pending());
                let call = script.expect_call().await;
                advance(Duration::from_millis(4)).await;
                call.reply.send(Ok(echo(&request("", 1, 0)))).unwrap();
                assert!(answer(&mut hollow).await.is_ok());
            }
        }
        while waiting.len() < 200 {
            waiting.push(script.send(request("", 1, 0)));
        }
        let call = script.expect_call().await;
        advance(Duration::from_millis(4 + call.rows() as u64)).await;
        call.echo();
        settle().await;
        waiting.retain_mut(|caller| poll(caller).is_pending());
        limits.push(script.batch.view().batch_limit);
    }
    let before = *limits[200..300].iter().max().unwrap();
    let after = *limits[300..].iter().max().unwrap();
    assert!(after <= 2 * before, "{before} rows, then {after}");
}

#[tokio::test(start_paused = true)]
async fn one_call_that_took_long_does_not_make_deadlines_hopeless() {
    let mut script = Script::new(fixed(8));
    quick(&mut script, 100, 5).await;
    let mut slow = script.send(request("slow", 1, 0));
    let call = script.expect_call().await;
    advance(Duration::from_secs(60)).await;
    call.echo();
    assert!(answer(&mut slow).await.is_ok());
    // Healthy again: two callers at a time, each with 200 ms for what takes 5.
    let (mut refused, mut answered) = (0, 0);
    for _ in 0..100 {
        let mut pair = [script.send(due("a", 200)), script.send(due("b", 200))];
        for _ in 0..2 {
            if let Some(call) = script.call().await {
                advance(Duration::from_millis(5)).await;
                call.echo();
            }
        }
        for caller in &mut pair {
            match answer(caller).await {
                Ok(_) => answered += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused <= 5, "{refused} refused, {answered} answered");
}

#[tokio::test(start_paused = true)]
async fn who_is_in_time_by_what_is_known_now_is_not_told_what_was_known_once() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 4, 4000).await;
    let _first = script.send(request("first", 1, 0));
    let mut call = script.expect_call().await;
    // 3.2 s at least, by what is known when it comes: the alarm is at 1.8 s.
    let mut waits = script.send(due("waits", 5000));
    let _others: Vec<_> = (0..400)
        .map(|_| script.send(with(request("", 1, 0), |parts| parts.head.priority = 1)))
        .collect();
    // The model is mended: 10 ms a call.
    for _ in 0..250 {
        advance(Duration::from_millis(10)).await;
        call.echo();
        call = script.expect_call().await;
        if let Poll::Ready(answer) = poll(&mut waits) {
            panic!("{:?}", answer.unwrap_err());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_endpoint_takes_a_large_request_in_parts_as_it_takes_it_whole() {
    let config = Config {
        max_queue_rows: 8,
        ..fixed(4)
    };
    let mut script = Script::new(config.clone());
    let mut whole = script.send(request("whole", 10, 1));
    script.expect_call().await.echo();
    assert!(answer(&mut whole).await.is_ok());
    // Of three parts of four rows at most one goes at once, and six rows wait.
    let mut script = Script::new(Config {
        split: true,
        ..config
    });
    let mut parts = script.send(request("parts", 10, 1));
    if let Poll::Ready(answer) = poll(&mut parts) {
        panic!("{}", answer.unwrap_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_is_answered_by_its_deadline_although_its_call_is_not() {
    let mut script = Script::new(fixed(8));
    quick(&mut script, 4, 5).await;
    let (mut callers, call) = gather(&mut script, [due("due", 50), request("patient", 1, 2)]).await;
    assert_eq!(call.rows(), 2);
    assert_eq!(call.request.head.deadline, None);
    let mut answered = false;
    for _ in 0..60 {
        advance(Duration::from_millis(1)).await;
        settle().await;
        answered |= !answered && poll(&mut callers[0]).is_ready();
    }
    assert!(answered, "10 ms after its deadline it still waits");
}

#[tokio::test(start_paused = true)]
async fn deadlines_decades_ahead_are_no_trouble() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 4, 5).await;
    let far = || {
        with(request("", 1, 1), |parts| {
            let hours = Duration::from_secs(99_999_999 * 3600);
            parts.head.deadline = Instant::now().checked_add(hours);
        })
    };
    let mut callers: Vec<_> = (0..3).map(|_| script.send(far())).collect();
    for caller in &mut callers {
        let call = script.expect_call().await;
        advance(Duration::from_millis(1)).await;
        call.echo();
        assert!(answer(caller).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_parts_cannot_be_joined_is_not_sent_after_its_deadline() {
    let mut script = Script::new(Config {
        split: true,
        ..fixed(2)
    });
    let mut caller = script.send(with(due("", 20), |parts| {
        parts.inputs = vec![tensor("x", 4, vec![1; 8])];
    }));
    assert!(poll(&mut caller).is_pending());
    for (version, millis) in [("1", 1), ("2", 25)] {
        let call = script.expect_call().await;
        advance(Duration::from_millis(millis)).await;
        let mut answer = echo(&call.request);
        answer.version = version.into();
        call.reply.send(Ok(answer)).unwrap();
        settle().await;
    }
    let _ = poll(&mut caller);
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_of_another_key_does_not_wait_for_the_companys_sake() {
    let mut script = Script::new(Config {
        max_delay: Duration::from_millis(4),
        ..fixed(8)
    });
    lockstep(&mut script, 24).await;
    let _first = script.send(request("", 1, 0));
    script.expect_no_call().await;
    let other = || with(request("", 1, 9), |parts| parts.head.version = "2".into());
    let _full: Vec<_> = (0..8).map(|_| script.send(other())).collect();
    // Eight rows are all that a call may have, and the endpoint is idle.
    script.expect_call().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_max_delay_for_those_who_are_more_urgent() {
    let mut script = Script::new(Config {
        max_delay: Duration::from_millis(4),
        ..fixed(64)
    });
    lockstep(&mut script, 24).await;
    let began = Instant::now();
    let _first = script.send(due("first", 900));
    let mut more = Vec::new();
    for step in 1..40 {
        if script.call().await.is_some() {
            break;
        }
        advance(Duration::from_millis(1)).await;
        settle().await;
        if let Ok(call) = script.calls.try_recv() {
            drop(call);
            break;
        }
        more.push(script.send(due("", 890 - 10 * step)));
    }
    assert!(
        began.elapsed() <= Duration::from_millis(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_handed_back_are_counted_as_alone() {
    let mut script = Script::new(fixed(8));
    let (mut callers, call) = gather(&mut script, marked(1..3)).await;
    call.reply.send(Ok(echo(&request("", 1, 0)))).unwrap();
    settle().await;
    for caller in &mut callers {
        let _ = poll(caller);
        script.expect_call().await.echo();
        assert!(answer(caller).await.is_ok());
    }
    let counted = script
        .batch
        .shared()
        .metrics
        .alone(Alone::Unbatchable)
        .get();
    assert_eq!(counted, 2);
}

/// As in the tests of waiting.
async fn lockstep(script: &mut Script, rounds: usize) {
    for _ in 0..rounds {
        let mut callers = vec![script.send(request("", 1, 0))];
        let mut calls = Vec::new();
        calls.extend(script.call().await);
        advance(Duration::from_millis(1)).await;
        callers.extend((0..7).map(|_| script.send(request("", 1, 0))));
        for _ in 0..20 {
            calls.extend(script.call().await);
            advance(Duration::from_millis(1)).await;
            calls.extend(script.call().await);
            if calls.is_empty() {
                continue;
            }
            let call = calls.remove(0);
            advance(Duration::from_millis(6 + call.rows() as u64 / 4)).await;
            call.echo();
            settle().await;
            callers.retain_mut(|caller| poll(caller).is_pending());
            if callers.is_empty() {
                break;
            }
        }
        assert!(callers.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_would_be_in_time_in_the_full_call_is_not_given_up() {
    let mut script = Script::new(Config {
        latency_objective: Duration::from_millis(100),
        ..fixed(64)
    });
    for _ in 0..20 {
        let _first = script.send(request("", 1, 0));
        let call = script.expect_call().await;
        let _many: Vec<_> = (0..32).map(|_| script.send(request("", 1, 0))).collect();
        for call in [Some(call), None] {
            let call = match call {
                Some(call) => call,
                None => script.expect_call().await,
            };
            advance(Duration::from_millis(10)).await;
            call.echo();
            settle().await;
        }
    }
    // Calls take 10 ms, whatever their rows.
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut due = script.send(with(request("due", 1, 1), |parts| {
        parts.head.deadline = Some(Instant::now() + Duration::from_micros(20_800));
    }));
    let _others: Vec<_> = (0..31).map(|_| script.send(request("", 1, 0))).collect();
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    let rows = call.rows();
    advance(Duration::from_millis(10)).await;
    call.echo();
    let answer = answer(&mut due).await;
    assert!(
        answer.is_ok(),
        "given up with 10.8 ms left for a call of 10 ms ({rows} rows)"
    );
}

#[tokio::test(start_paused = true)]
async fn where_batching_does_not_pay_there_is_a_bound_still() {
    let mut script = Script::new(Config {
        holdout: Share::new(0.5).unwrap(),
        max_queue_rows: 16,
        split: true,
        ..fixed(8)
    });
    // Two milliseconds for each row and nothing for a call.
    let mut callers: Vec<Caller> = Vec::new();
    for _ in 0..3000 {
        while callers.len() < 8 {
            callers.push(script.send(request("", 1, 0)));
        }
        while let Some(call) = script.call().await {
            advance(Duration::from_millis(2 * call.rows() as u64)).await;
            call.echo();
        }
        callers.retain_mut(|caller| poll(caller).is_pending());
        if matches!(script.batch.view().benefit.pays, Pays::No { .. }) {
            break;
        }
    }
    assert!(matches!(script.batch.view().benefit.pays, Pays::No { .. }));
    while script.call().await.is_some() {}
    let mut many: Vec<_> = (0..5000).map(|_| script.send(request("", 1, 0))).collect();
    many.push(script.send(request("", 64, 0)));
    let mut calls = Vec::new();
    for caller in &mut many {
        let _ = poll(caller);
    }
    while let Some(call) = script.call().await {
        calls.push(call);
    }
    assert!(
        calls.len() <= 16 + 8,
        "{} calls under way at once",
        calls.len()
    );
}

#[tokio::test(start_paused = true)]
async fn many_bad_rows_do_not_keep_the_endpoint_from_all_others() {
    let mut script = Script::new(fixed(256));
    let marks = (0..256).map(|index| if index % 2 == 0 { 1 } else { 2 });
    let (_callers, call) = gather(&mut script, marked(marks)).await;
    assert_eq!(call.rows(), 256);
    let _urgent = script.send(with(request("urgent", 1, 3), |parts| {
        parts.head.priority = 1
    }));
    let mut next = Some(call);
    let mut before = 0;
    while let Some(call) = next.take() {
        if &*call.request.head.id == "urgent" {
            break;
        }
        before += 1;
        match holds(&call, 1) {
            true => call.fail(Status::new(Code::InvalidArgument, "1 is bad")),
            false => call.echo(),
        }
        next = script.call().await;
    }
    assert!(
        before <= 2 * 64 + 4,
        "{before} calls before an urgent request"
    );
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_its_call_is_made_is_not_sent() {
    let mut script = Script::new(fixed(8));
    drop(script.send(request("", 1, 0)));
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn company_that_cannot_share_a_call_is_not_waited_for() {
    let mut served = Vec::new();
    for max_delay in [0, 4] {
        let mut script = Script::new(Config {
            max_delay: Duration::from_millis(max_delay),
            ..fixed(64)
        });
        // Eight callers with a key each, who ask again a millisecond after their answers.
        let keyed = |key: usize| {
            with(request("", 1, 0), |parts| {
                parts.head.version = format!("{key}").into();
            })
        };
        let mut callers: Vec<Option<Caller>> = (0..8).map(|_| None).collect();
        let mut call: Option<(Sent, u64)> = None;
        let mut count = 0;
        for now in 0..3000_u64 {
            if let Some((sent, end)) = call.take() {
                if end <= now {
                    sent.echo();
                    count += 1;
                } else {
                    call = Some((sent, end));
                }
            }
            settle().await;
            for (key, caller) in callers.iter_mut().enumerate() {
                match caller {
                    Some(waits) => {
                        if poll(waits).is_ready() {
                            *caller = None;
                        }
                    }
                    None => *caller = Some(script.send(keyed(key))),
                }
            }
            if call.is_none() {
                call = script.call().await.map(|sent| (sent, now + 6));
            }
            advance(Duration::from_millis(1)).await;
        }
        served.push(count);
    }
    assert!(served[1] * 20 >= served[0] * 19, "{served:?}");
}

#[test]
fn a_place_that_a_runtime_leaves_behind_is_taken_by_who_waits() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (going, staying) = (runtime(), runtime());
    let mut script = Script::new(Config {
        max_in_flight: InFlight::Fixed(2),
        ..fixed(32)
    });
    let _first = {
        let _on = going.enter();
        script.send(request("first", 1, 0))
    };
    going.block_on(settle());
    let _first_call = script.calls.try_recv().unwrap();
    staying.block_on(async {
        let _second = script.send(request("second", 1, 0));
        let _second_call = script.expect_call().await;
        let mut waits = script.send(request("waits", 1, 0));
        script.expect_no_call().await;
        going_away(going).await;
        assert_eq!(script.batch.view().in_flight, 1);
        assert!(poll(&mut waits).is_pending());
        script.expect_call().await;
    });
}

async fn going_away(runtime: tokio::runtime::Runtime) {
    std::thread::spawn(move || drop(runtime)).join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_free_place_is_tried_whatever_is_known_also_where_company_may_be_waited_for() {
    for max_delay in [0, 4] {
        let mut script = Script::new(Config {
            max_in_flight: InFlight::Fixed(4),
            max_delay: Duration::from_millis(max_delay),
            ..fixed(8)
        });
        quick(&mut script, 4, 100).await;
        let _busy = script.send(request("", 1, 0));
        let _call = script.expect_call().await;
        // Three places are free.
        let mut due = script.send(due("due", 50));
        if let Poll::Ready(answer) = poll(&mut due) {
            panic!("max_delay {max_delay} ms: {}", answer.unwrap_err());
        }
        script.expect_call().await;
    }
}
