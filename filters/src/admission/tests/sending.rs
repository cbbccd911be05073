//! What is sent at once, and what waits; and what tower asks of a service.

use super::*;

#[tokio::test(start_paused = true)]
async fn who_finds_a_place_is_sent_at_once_and_nobody_waits_while_one_is_free() {
    let mut script = Script::new(fixed(2));
    let mut one = script.send(request("one"));
    let mut two = script.send(request("two"));
    let mut three = script.send(request("three"));
    let (first, second) = (script.expect_call(), script.expect_call());
    script.expect_no_call();
    assert_eq!(script.admission.load(), 3);
    second.echo();
    assert!(answer(&mut two).is_ok());
    assert!(poll(&mut three).is_pending());
    let third = script.expect_call();
    assert_eq!(third.id(), "three");
    third.echo();
    first.echo();
    assert!(answer(&mut one).is_ok());
    assert_eq!(answer(&mut three).unwrap().id, "three");
    script.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn it_is_always_ready_and_reserves_nothing() {
    let mut script = Script::new(fixed(1));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        assert!(script.admission.poll_ready(&mut context).is_ready());
    }
    script.nothing_is_left();
    let _sent = script.send(request(""));
    let _waits = script.send(request(""));
    assert!(script.admission.poll_ready(&mut context).is_ready());
    assert_eq!(script.admission.load(), 2);
}

#[tokio::test(start_paused = true)]
async fn clones_share_the_queue_and_its_places() {
    let mut script = Script::new(fixed(1));
    let mut clone = script.admission.clone();
    let mut one = script.send(request("one"));
    let mut two: Caller = Box::pin(clone.call(request("two")));
    assert!(poll(&mut two).is_pending());
    assert_eq!((clone.load(), script.admission.load()), (2, 2));
    script.expect_call().echo();
    script.expect_no_call();
    assert!(answer(&mut one).is_ok());
    assert!(poll(&mut two).is_pending());
    assert_eq!(script.expect_call().id(), "two");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_looked_at_gives_its_place_back_when_it_is_dropped() {
    let mut script = Script::new(fixed(1));
    let unseen = script.admission.call(request("unseen"));
    let mut waits = script.send(request("waits"));
    script.expect_no_call();
    drop(unseen);
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.expect_call().id(), "waits");
}

#[tokio::test(start_paused = true)]
async fn a_burst_at_the_start_is_not_sent_one_by_one() {
    let mut script = Script::new(Config::default());
    let _callers: Vec<_> = (0..20).map(|_| script.send(request(""))).collect();
    let sent = std::iter::from_fn(|| script.call()).count();
    assert_eq!(sent, 8);
}

#[tokio::test(start_paused = true)]
async fn more_places_are_taken_by_those_who_wait_when_the_limit_grows() {
    let mut script = Script::new(Config::default());
    let mut callers: Vec<Caller> = (0..400).map(|_| script.send(request(""))).collect();
    let mut calls = std::collections::VecDeque::new();
    let mut most = 0;
    // A server that answers however many in a millisecond.
    while !callers.is_empty() {
        callers.retain_mut(|caller| poll(caller).is_pending());
        calls.extend(std::iter::from_fn(|| script.call()));
        let view = script.admission.view();
        assert!(calls.len() <= view.limit);
        assert!(view.queue_requests == 0 || calls.len() == view.limit);
        most = most.max(calls.len());
        advance(Duration::from_millis(1)).await;
        calls.drain(..).for_each(Sent::echo);
    }
    assert!(most >= 64, "{most}");
    script.nothing_is_left();
}

#[test]
fn who_waits_on_a_runtime_is_served_although_another_goes_away() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (going, staying) = (runtime(), runtime());
    let mut script = Script::new(fixed(1));
    let first = {
        let _on = going.enter();
        script.send(request("first"))
    };
    let mut waits = {
        let _on = staying.enter();
        script.send(request("waits"))
    };
    let call = script.expect_call();
    let task = going.spawn(first);
    drop((going, task));
    // Its caller went with the runtime, and the call with both.
    let _gone = call.reply.send(Ok(echo(&call.request)));
    let _on = staying.enter();
    assert!(poll(&mut waits).is_pending());
    script.expect_call().echo();
    assert!(answer(&mut waits).is_ok());
    script.nothing_is_left();
}
