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
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut late = script.send(due("late", 5));
    let mut later = script.send(due("later", 50));
    let mut latest = script.send(due("latest", 70));
    let deadline = Instant::now() + Duration::from_millis(70);
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 2);
    assert_eq!(call.request.head.deadline, Some(deadline));
    cause::<Expired>(&answer(&mut late).await.unwrap_err());
    let mut dead = script.send(due("dead", 0));
    cause::<Expired>(&answer(&mut dead).await.unwrap_err());
    // One member without a deadline takes it from the call.
    let _bound = script.send(due("bound", 90));
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
async fn who_leaves_before_its_call_is_made_is_not_sent() {
    let mut script = Script::new(fixed(8));
    drop(script.send(request("", 1, 0)));
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_out_request_whose_caller_leaves_before_it_is_sent_costs_the_share_nothing() {
    // Whether one is held out is drawn: of so many somebody is.
    for _ in 0..200 {
        let mut script = Script::new(Config {
            holdout: Share::new(0.03).unwrap(),
            ..fixed(8)
        });
        // So much has been put aside that one may be.
        let now = Instant::now();
        let shared_call = benefit::Called {
            requests: 2,
            rows: 2,
            held_out: None,
            model: Duration::from_millis(10),
            answered: true,
        };
        for _ in 0..35 {
            let mut state = script.batch.shared().state.lock();
            state.benefit.called(now, &shared_call);
        }
        let _hangs = script.send(request("hangs", 1, 0));
        let _lost = script.expect_call().await;
        let mut waiting: Vec<_> = (0..2).map(|_| script.send(request("", 1, 0))).collect();
        // They leave as soon as the queue has been looked at, before the call is made.
        let batch = script.batch.clone();
        let leaving = tokio::spawn(std::future::poll_fn(move |cx| {
            let rows = batch.view().queue_rows;
            if rows == 2 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            waiting.clear();
            Poll::Ready(rows)
        }));
        advance(Duration::from_secs(31)).await;
        if leaving.await.unwrap() == 0 {
            continue;
        }
        script.expect_no_call().await;
        assert_eq!(script.batch.view().benefit.hold_outs, 0);
        let mut state = script.batch.shared().state.lock();
        let another = state.benefit.hold_out(0., 0, 1);
        assert!(another.is_some(), "it is as if nobody had been held out");
        return;
    }
    panic!("nobody was held out");
}
