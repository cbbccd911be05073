//! Calls that fail, and who is to blame.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_error_reaches_each_member_with_its_cause() {
    let mut script = Script::new(fixed(32));
    let mut first = script.send(request("first", 1, 0));
    script
        .expect_call()
        .await
        .fail(Status::new(Code::NotFound, "no such model"));
    let error = answer(&mut first).await.unwrap_err();
    assert!(error.downcast_ref::<Status>().is_some());

    let _busy = script.send(request("busy", 1, 0));
    let call = script.expect_call().await;
    let mut callers: Vec<_> = (0..3).map(|_| script.send(request("", 1, 0))).collect();
    call.echo();
    script
        .expect_call()
        .await
        .fail(Status::new(Code::ResourceExhausted, "out of memory"));
    for caller in &mut callers {
        let error = answer(caller).await.unwrap_err();
        let status = cause::<Status>(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "out of memory");
        assert!(error.downcast_ref::<CallFailed>().is_some());
    }
    assert_eq!(script.batch.view().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn members_of_an_uneven_answer_are_sent_singly_and_merged_no_more() {
    let mut script = Script::new(fixed(32));
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut callers: Vec<_> = (1..=3)
        .map(|mark| script.send(request(&format!("id{mark}"), 1, mark)))
        .collect();
    call.echo();
    let merged = script.expect_call().await;
    let waits = script.send(request("id4", 1, 4));
    callers.push(waits);
    merged
        .reply
        .send(Ok(echo(&request("", 1, 9))))
        .expect("the batch waits");
    settle().await;
    assert_eq!(
        script.batch.view().capability,
        Batchable::No(Unbatchable::UnevenOutput)
    );
    assert_eq!(script.batch.shared().metrics.uneven.get(), 1);
    let last = script.send(request("id5", 1, 5));
    callers.push(last);
    // The one that waited may have been sent as a batch of one before the answer was looked at.
    for round in 0..5 {
        for caller in &mut callers {
            assert!(poll(caller).is_pending(), "answered in round {round}");
        }
    }
    let mut calls = Vec::new();
    while let Some(call) = script.call().await {
        assert_eq!(call.rows(), 1);
        calls.push(call);
    }
    assert_eq!(calls.len(), 5);
    calls.into_iter().for_each(Sent::echo);
    for (mark, caller) in (1..=5_u8).zip(&mut callers) {
        let response = answer(caller).await.unwrap();
        assert_eq!(response.id, format!("id{mark}"));
        assert_eq!(marks(&response), [mark, mark]);
    }
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_bad_row_spoils_only_its_own_request() {
    for code in [
        Code::InvalidArgument,
        Code::Internal,
        Code::Unknown,
        Code::OutOfRange,
        Code::FailedPrecondition,
    ] {
        let mut script = Script::new(fixed(32));
        let (mut callers, merged) = gather(&mut script, marked(1..=16)).await;
        let rows = refuse(&mut script, Some(merged), &[11], code).await;
        assert_eq!(rows, [16, 8, 8, 4, 4, 2, 2, 1, 1]);
        for (mark, caller) in (1..=16).zip(&mut callers) {
            let answer = answer(caller).await;
            if mark == 11 {
                let error = answer.unwrap_err();
                // It was alone: the error is its own.
                let status = error.downcast_ref::<Status>().unwrap();
                assert_eq!((status.code(), status.message()), (code, "11 is bad"));
            } else {
                let response = answer.unwrap();
                assert_eq!(response.id, format!("id{mark}"));
                assert_eq!(marks(&response), [mark, mark]);
            }
        }
        let metrics = &script.batch.shared().metrics;
        assert_eq!((metrics.halved.get(), metrics.isolated.get()), (1, 1));
        assert_eq!(metrics.closed(Closed::Halved).get(), 8);
        assert_eq!(script.batch.load(), 0);
        assert_eq!(script.batch.view().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_row_causes_is_told_to_each_member_at_once() {
    let codes = Code::ALL.into_iter().filter(|code| {
        !matches!(
            code,
            Code::Ok
                | Code::InvalidArgument
                | Code::Internal
                | Code::Unknown
                | Code::OutOfRange
                | Code::FailedPrecondition
        )
    });
    let errors: Vec<Error> = codes
        .map(|code| Status::new(code, "no").into())
        .chain(["the connection broke".into()])
        .collect();
    let mut script = Script::new(fixed(32));
    for error in errors {
        let (mut callers, merged) = gather(&mut script, marked(1..=4)).await;
        merged.fail(error);
        script.expect_no_call().await;
        for caller in &mut callers {
            cause::<CallFailed>(&answer(caller).await.unwrap_err());
        }
    }
    assert_eq!(script.batch.shared().metrics.halved.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_requests_own_rows_are_never_divided() {
    let mut script = Script::new(fixed(64));
    let requests = (1..=4).map(|mark| request(&format!("id{mark}"), usize::from(mark) * 3, mark));
    let (mut callers, merged) = gather(&mut script, requests).await;
    let rows = refuse(&mut script, Some(merged), &[2], Code::Internal).await;
    assert_eq!(rows, [30, 9, 21, 3, 6]);
    for (index, caller) in callers.iter_mut().enumerate() {
        assert_eq!(answer(caller).await.is_ok(), index != 1);
    }
}

#[tokio::test(start_paused = true)]
async fn parts_keep_their_place_before_what_came_later_and_teach_the_controller_nothing() {
    let mut script = Script::new(Config {
        controller: config::Controller::Aimd,
        max_batch_size: Some(100),
        ..Config::default()
    });
    let (mut callers, merged) = gather(&mut script, marked(1..=2)).await;
    let limit = script.batch.view().batch_limit;
    let mut late = script.send(request("late", 1, 9));
    merged.fail(Status::new(Code::Internal, "no"));
    assert_eq!(script.batch.load(), 3);
    let first = script.expect_call().await;
    script.expect_no_call().await;
    assert_eq!((first.rows(), &*first.request.head.id), (1, "id1"));
    assert_eq!(script.batch.view().in_flight, 1);
    // Ten times the objective.
    advance(Duration::from_millis(200)).await;
    first.echo();
    let second = script.expect_call().await;
    assert_eq!(&*second.request.head.id, "id2");
    assert_eq!(script.batch.load(), 2);
    second.echo();
    assert_eq!(script.batch.view().batch_limit, limit);
    let call = script.expect_call().await;
    assert_eq!(&*call.request.head.id, "late");
    call.echo();
    for caller in callers.iter_mut().chain([&mut late]) {
        assert!(answer(caller).await.is_ok());
    }
    assert_eq!(script.batch.shared().metrics.isolated.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_or_comes_too_late_during_the_search_is_sent_no_more() {
    // With an objective that is shorter than the deadline, its turn is the last.
    let mut script = Script::new(Config {
        latency_objective: Duration::from_millis(5),
        ..fixed(32)
    });
    let deadline = Instant::now() + Duration::from_millis(10);
    let requests = marked(1..=8).into_iter().map(|request| {
        let id = request.head.id.clone();
        with(request, |parts| {
            if id == "id6" {
                parts.head.deadline = Some(deadline);
            }
        })
    });
    let (mut callers, merged) = gather(&mut script, requests).await;
    merged.fail(Status::new(Code::Internal, "no"));
    let half = script.expect_call().await;
    assert_eq!(half.rows(), 4);
    // The fifth and the seventh.
    drop((callers.remove(6), callers.remove(4)));
    advance(Duration::from_millis(20)).await;
    half.echo();
    let half = script.expect_call().await;
    assert_eq!((half.rows(), &*half.request.head.id), (1, "id8"));
    half.echo();
    cause::<Expired>(&answer(&mut callers.remove(4)).await.unwrap_err());
    for caller in &mut callers {
        assert!(answer(caller).await.is_ok());
    }
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_everything_is_not_hammered() {
    let mut script = Script::new(fixed(16));
    let (mut calls, mut parts) = (0, 0);
    for _ in 0..200 {
        let (mut callers, merged) = gather(&mut script, marked(1..=16)).await;
        calls += 2;
        merged.fail(Status::new(Code::Internal, "out of order"));
        while let Some(part) = script.call().await {
            parts += 1;
            part.fail(Status::new(Code::Internal, "out of order"));
        }
        for caller in &mut callers {
            let error = answer(caller).await.unwrap_err();
            assert_eq!(cause::<Status>(&error).message(), "out of order");
        }
    }
    assert!(parts <= 64 + calls / 5, "{parts}");
    let metrics = &script.batch.shared().metrics;
    assert_eq!(metrics.isolated.get(), 0, "nobody is to blame");
    assert_eq!(metrics.alone(Alone::Quarantined).get(), 0);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn contents_that_made_a_call_fail_go_alone_until_they_succeed() {
    let mut script = Script::new(fixed(32));
    let (_callers, merged) = gather(&mut script, marked(1..=4)).await;
    refuse(&mut script, Some(merged), &[3], Code::InvalidArgument).await;

    // It goes at once, although the endpoint is busy.
    let _busy = script.send(request("busy", 1, 0));
    let busy = script.expect_call().await;
    let mut waits = script.send(request("waits", 1, 1));
    let mut again = script.send(request("again", 1, 3));
    assert!(poll(&mut again).is_pending());
    let call = script.expect_call().await;
    assert_eq!(call.request.head.id, "again");
    call.fail(Status::new(Code::InvalidArgument, "bad"));
    cause::<Status>(&answer(&mut again).await.unwrap_err());
    let quarantined = || {
        script
            .batch
            .shared()
            .metrics
            .alone(Alone::Quarantined)
            .get()
    };
    assert_eq!(quarantined(), 1);
    busy.echo();
    script.expect_call().await.echo();
    assert!(answer(&mut waits).await.is_ok());

    // What fails for another reason stays, what succeeds leaves.
    for (fails, known) in [(true, 2), (false, 3), (false, 3)] {
        let mut again = script.send(request("again", 1, 3));
        let _pending = poll(&mut again);
        let call = script.expect_call().await;
        match fails {
            true => call.fail(Status::new(Code::Unavailable, "away")),
            false => call.echo(),
        }
        assert_eq!(answer(&mut again).await.is_err(), fails);
        let counted = script
            .batch
            .shared()
            .metrics
            .alone(Alone::Quarantined)
            .get();
        assert_eq!(counted, known);
    }
}

#[tokio::test(start_paused = true)]
async fn quarantine_ends_after_a_while_and_holds_for_all_endpoints_of_an_arm() {
    let (sender, calls) = mpsc::unbounded_channel();
    let capability = Capability::new(Batchable::Yes {
        max_batch_size: None,
    });
    let layer = BatchLayer::new(fixed(32), capability.clone(), Handles::default());
    let make = || tower::Layer::layer(&layer, Upstream(sender.clone()));
    let mut other = make();
    let mut script = Script {
        batch: make(),
        calls,
        capability,
    };
    let (_callers, merged) = gather(&mut script, marked(1..=4)).await;
    refuse(&mut script, Some(merged), &[3], Code::InvalidArgument).await;
    let quarantined = |script: &Script| {
        script
            .batch
            .shared()
            .metrics
            .alone(Alone::Quarantined)
            .get()
    };
    drop(other.call(request("", 1, 3)));
    assert_eq!(quarantined(&script), 1);
    advance(Duration::from_secs(299)).await;
    drop(other.call(request("", 1, 3)));
    assert_eq!(quarantined(&script), 2);
    advance(Duration::from_secs(2)).await;
    drop(other.call(request("", 1, 3)));
    assert_eq!(quarantined(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn errors_are_read_as_the_layer_is_told() {
    #[derive(Debug)]
    struct Refused;
    impl std::fmt::Display for Refused {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("refused")
        }
    }
    impl std::error::Error for Refused {}

    let (sender, calls) = mpsc::unbounded_channel();
    let capability = Capability::default();
    let layer = BatchLayer::new(fixed(32), capability.clone(), Handles::default());
    let layer = layer.with_verdict(|cause| {
        let refused = cause.downcast_ref::<Refused>()?;
        Some(Status::new(Code::Internal, refused.to_string()))
    });
    let mut script = Script {
        batch: tower::Layer::layer(&layer, Upstream(sender)),
        calls,
        capability,
    };
    let (_callers, merged) = gather(&mut script, marked(1..=2)).await;
    // As a cause, whatever it is wrapped in.
    merged.fail(CallFailed::new(Refused.into()));
    assert_eq!(script.expect_call().await.rows(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_uneven_answer_to_a_part_ends_the_search_and_everybody_goes_alone() {
    let mut script = Script::new(fixed(32));
    let (mut callers, merged) = gather(&mut script, marked(1..=8)).await;
    merged.fail(Status::new(Code::Internal, "no"));
    let half = script.expect_call().await;
    half.reply.send(Ok(echo(&request("", 77, 0)))).unwrap();
    let second = script.expect_call().await;
    assert_eq!(second.rows(), 4);
    second.fail(Status::new(Code::Internal, "no"));
    settle().await;
    for caller in &mut callers {
        assert!(poll(caller).is_pending());
    }
    for _ in 0..8 {
        let call = script.expect_call().await;
        assert_eq!(call.rows(), 1);
        call.echo();
    }
    script.expect_no_call().await;
    for caller in &mut callers {
        assert!(answer(caller).await.is_ok());
    }
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_call_answers_its_members_and_wedges_nothing() {
    let mut script = Script::new(fixed(32));
    let panics = |id: &str| {
        with(request(id, 1, 1), |parts| {
            parts.head.model = "panics".into()
        })
    };
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut doomed = [script.send(panics("")), script.send(panics(""))];
    let mut next = script.send(request("next", 1, 2));
    call.echo();
    script.expect_call().await.echo();
    for caller in &mut doomed {
        let error = answer(caller).await.unwrap_err();
        cause::<Interrupted>(&error);
    }
    assert_eq!(marks(&answer(&mut next).await.unwrap()), [2, 2]);
    assert_eq!(script.batch.view().in_flight, 0);
    assert_eq!(script.batch.load(), 0);
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
