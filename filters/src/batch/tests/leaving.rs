//! Callers that leave.

use super::*;

#[tokio::test(start_paused = true)]
async fn dropping_the_caller_frees_its_place_and_its_bytes() {
    let mut script = Script::new(fixed(32));
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut stays = script.send(request("stays", 1, 5));
    let bytes = Bytes::from(vec![0; 64]);
    let leaves = script.send(with(request("leaves", 1, 0), |parts| {
        parts.inputs[0] = tensor("x", 32, bytes.clone());
    }));
    assert!(!bytes.is_unique());
    assert_eq!(script.batch.view().queue_rows, 33);
    drop(leaves);
    assert!(bytes.is_unique());
    assert_eq!(script.batch.view().queue_rows, 1);
    assert_eq!(script.batch.view().queue_bytes, 2);
    assert_eq!(script.batch.load(), 2);
    assert_eq!(script.batch.shared().metrics.cancelled.get(), 1);
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.request.head.id, "stays");
    call.echo();
    assert_eq!(marks(&answer(&mut stays).await.unwrap()), [5, 5]);
    assert_eq!(script.batch.view().queue_bytes, 0);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_a_call_under_way_does_not_abort_the_others() {
    let mut script = Script::new(fixed(32));
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let leaves = script.send(request("leaves", 1, 1));
    let mut stays = script.send(request("stays", 1, 2));
    let leaves_too = script.send(request("leaves too", 1, 3));
    call.echo();
    let call = script.expect_call().await;
    drop(leaves);
    drop(leaves_too);
    settle().await;
    assert_eq!(call.rows(), 3);
    call.echo();
    assert_eq!(marks(&answer(&mut stays).await.unwrap()), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_all_have_left_is_cancelled_if_so_configured_and_frees_its_place() {
    let mut script = Script::new(Config {
        cancel: Cancel::Abandoned,
        ..fixed(32)
    });
    let first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let members: Vec<_> = (0..3).map(|_| script.send(request("", 1, 0))).collect();
    drop(first);
    let merged = script.expect_call().await;
    assert!(call.reply.is_closed());
    assert_eq!(merged.rows(), 3);
    let mut waits = script.send(request("waits", 1, 1));
    for member in members.into_iter().rev() {
        assert!(!merged.reply.is_closed());
        drop(member);
        settle().await;
    }
    assert!(merged.reply.is_closed());
    script.expect_call().await.echo();
    assert_eq!(marks(&answer(&mut waits).await.unwrap()), [1, 1]);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn expired_members_are_answered_and_never_sent() {
    let mut script = Script::new(fixed(32));
    let by = |id: &str, millis: u64| {
        let deadline = Instant::now() + Duration::from_millis(millis);
        with(request(id, 1, 1), |parts| {
            parts.head.deadline = Some(deadline)
        })
    };
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut late = script.send(by("late", 5));
    let mut later = script.send(by("later", 50));
    let mut latest = script.send(by("latest", 70));
    let deadline = Instant::now() + Duration::from_millis(70);
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 2);
    assert_eq!(call.request.head.deadline, Some(deadline));
    cause::<DeadlineExpired>(&answer(&mut late).await.unwrap_err());
    let mut dead = script.send(by("dead", 0));
    cause::<DeadlineExpired>(&answer(&mut dead).await.unwrap_err());
    // One member without a deadline takes it from the call.
    let _bound = script.send(by("bound", 90));
    let _boundless = script.send(request("boundless", 1, 1));
    call.echo();
    assert!(answer(&mut later).await.is_ok() && answer(&mut latest).await.is_ok());
    let call = script.expect_call().await;
    assert_eq!((call.rows(), call.request.head.deadline), (2, None));
    assert_eq!(script.batch.shared().metrics.expired.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_all_have_left_goes_on_and_keeps_its_place_unless_configured_otherwise() {
    let mut script = Script::new(fixed(32));
    let first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut waits = script.send(request("waits", 1, 1));
    drop(first);
    settle().await;
    assert!(!call.reply.is_closed());
    script.expect_no_call().await;
    call.echo();
    script.expect_call().await.echo();
    assert_eq!(marks(&answer(&mut waits).await.unwrap()), [1, 1]);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_went_alone_outlives_its_caller_unless_configured_otherwise() {
    for cancel in Cancel::ALL {
        let mut script = Script::new(Config {
            cancel,
            ..fixed(32)
        });
        script.capability.set(Batchable::No(Unbatchable::Ragged));
        let mut leaves = script.send(request("", 1, 0));
        assert!(poll(&mut leaves).is_pending());
        let call = script.expect_call().await;
        drop(leaves);
        settle().await;
        assert_eq!(call.reply.is_closed(), cancel == Cancel::Abandoned);
        // What was not sent is not sent for nobody.
        drop(script.send(request("", 1, 0)));
        script.expect_no_call().await;
        // And of those who go on there is an end.
        let mut calls = Vec::new();
        for _ in 0..80 {
            let mut leaves = script.send(request("", 1, 0));
            assert!(poll(&mut leaves).is_pending());
            calls.push(script.expect_call().await);
        }
        settle().await;
        let open = calls.iter().filter(|call| !call.reply.is_closed()).count();
        assert_eq!(open, if cancel == Cancel::Never { 63 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_gives_its_place_to_those_who_wait() {
    let mut script = Script::new(fixed(32));
    let mut quick = script.send(request("", 1, 0));
    let call = script.expect_call().await;
    advance(Duration::from_millis(5)).await;
    call.echo();
    assert!(answer(&mut quick).await.is_ok());
    let mut hangs = script.send(request("hangs", 1, 7));
    let lost = script.expect_call().await;
    let mut waits: Vec<_> = marked(1..4)
        .into_iter()
        .map(|request| script.send(request))
        .collect();
    advance(Duration::from_millis(900)).await;
    script.expect_no_call().await;
    advance(Duration::from_millis(101)).await;
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 3);
    assert_eq!(
        (script.batch.view().in_flight, script.batch.view().beside),
        (1, 1)
    );
    assert_eq!(script.batch.shared().metrics.stuck.get(), 1);
    call.echo();
    for caller in &mut waits {
        assert!(answer(caller).await.is_ok());
    }
    // It is answered in the end.
    assert!(poll(&mut hangs).is_pending());
    lost.echo();
    assert_eq!(marks(&answer(&mut hangs).await.unwrap()), [7, 7]);
    let view = script.batch.view();
    assert_eq!(
        (view.in_flight, view.beside, script.batch.load()),
        (0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn of_calls_that_hang_there_is_an_end_and_the_queue_goes_on_when_one_is_answered() {
    let mut script = Script::new(fixed(1));
    let mut quick = script.send(request("", 1, 0));
    script.expect_call().await.echo();
    assert!(answer(&mut quick).await.is_ok());
    let mut callers: Vec<_> = marked(0..12)
        .into_iter()
        .map(|request| script.send(request))
        .collect();
    let mut lost = Vec::new();
    for _ in 0..20 {
        lost.extend(script.call().await);
        advance(Duration::from_millis(1001)).await;
    }
    lost.extend(script.call().await);
    // Eight that have lost their places, and one that holds it.
    assert_eq!(lost.len(), 9);
    while let Some(call) = match lost.is_empty() {
        true => script.call().await,
        false => Some(lost.remove(0)),
    } {
        call.echo();
    }
    for caller in &mut callers {
        assert!(answer(caller).await.is_ok());
    }
    let view = script.batch.view();
    assert_eq!(
        (view.in_flight, view.beside, script.batch.load()),
        (0, 0, 0)
    );
}
