//! Callers that leave.

use super::*;

#[tokio::test(start_paused = true)]
async fn who_leaves_while_it_waits_is_gone_at_once_and_never_sent() {
    let mut script = Script::new(fixed(1));
    let mut plug = script.send(request("plug"));
    let bytes = Bytes::from(vec![0; 64]);
    let leaves = script.send(holding("leaves", bytes.clone()));
    let mut stays = script.send(request("stays"));
    assert_eq!(script.admission.view().queue_bytes, 66);
    assert!(!bytes.is_unique());
    drop(leaves);
    assert!(bytes.is_unique());
    assert_eq!(script.admission.view().queue_bytes, 2);
    assert_eq!(script.admission.shared().room.used(), (1, 2));
    assert_eq!(script.admission.shared().metrics.cancelled.get(), 1);
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    assert!(poll(&mut stays).is_pending());
    assert_eq!(script.expect_call().id(), "stays");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_with_a_place_that_it_has_not_used_gives_it_to_the_next() {
    let mut script = Script::new(fixed(1));
    let mut plug = script.send(request("plug"));
    let leaves = script.send(request("leaves"));
    let mut stays = script.send(request("stays"));
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    drop(leaves);
    assert!(poll(&mut stays).is_pending());
    assert_eq!(script.expect_call().id(), "stays");
    assert_eq!(script.admission.shared().metrics.cancelled.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_sent_goes_on_without_its_caller_and_keeps_its_place() {
    let mut script = Script::new(fixed(1));
    drop(script.send(request("left")));
    let mut waits = script.send(request("waits"));
    let call = script.expect_call();
    settle().await;
    assert!(!call.reply.is_closed());
    assert_eq!(script.admission.view().in_flight, 1);
    call.echo();
    settle().await;
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.expect_call().id(), "waits");
    assert_eq!(script.admission.shared().metrics.cancelled.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_caller_has_left_is_cancelled_if_so_configured_and_frees_its_place() {
    let mut script = Script::new(Config {
        cancel: Cancel::Abandoned,
        ..fixed(1)
    });
    let leaves = script.send(request("leaves"));
    let mut waits = script.send(request("waits"));
    let call = script.expect_call();
    drop(leaves);
    assert!(call.reply.is_closed());
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.expect_call().id(), "waits");
}

#[tokio::test(start_paused = true)]
async fn of_calls_that_go_on_without_a_caller_there_is_an_end() {
    let mut script = Script::new(fixed(200));
    (0..100).for_each(|_| drop(script.send(request(""))));
    settle().await;
    let calls: Vec<_> = std::iter::from_fn(|| script.call()).collect();
    let cancelled = calls.iter().filter(|call| call.reply.is_closed()).count();
    assert_eq!((calls.len(), cancelled), (100, 36));
    assert_eq!(script.admission.view().in_flight, 64);
}
