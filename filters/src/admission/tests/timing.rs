//! Who comes too late.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_told_so_and_never_sent() {
    let mut script = Script::new(fixed(1));
    let late = due("late", 5);
    advance(Duration::from_millis(5)).await;
    let error = script.refused(late);
    assert_eq!(*cause::<Expired>(&error), Expired::passed());
    assert_eq!(script.admission.shared().metrics.expired.get(), 1);
    script.expect_no_call();
    script.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn what_is_nearer_than_the_models_answer_is_told_so_unless_the_endpoint_is_idle() {
    let mut script = Script::new(fixed(4));
    script.teach(10).await;
    // It may have become faster.
    let mut tried = script.send(due("tried", 5));
    let call = script.expect_call();
    let error = script.refused(due("hopeless", 9));
    assert_eq!(*cause::<Expired>(&error), Expired::hopeless());
    let _likely = script.send(due("likely", 10));
    call.echo();
    assert!(answer(&mut tried).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_would_be_too_late_behind_the_others_is_refused_at_once_and_told_when_to_come_again() {
    let mut script = Script::new(fixed(1));
    script.teach(10).await;
    let _plug = script.send(request("plug"));
    let _call = script.expect_call();
    let _waits = [30, 40, 44].map(|millis| script.send(due("", millis)));
    // The call under way, three others, and its own: 50 ms.
    let error = script.refused(due("", 45));
    let overloaded = cause::<Overloaded>(&error);
    assert_eq!(
        (overloaded.bound(), overloaded.scope()),
        (Bound::Wait, None)
    );
    assert_eq!(
        overloaded.to_string(),
        "the model has too much to do: 40.0ms are before the request, and its deadline is in 45.0ms"
    );
    // It misses by 5 ms, which is less than a call.
    assert!(is_hint(overloaded, 10));
    let metrics = &script.admission.shared().metrics;
    assert_eq!(metrics.refused(metrics::Refused::Late).get(), 1);
    // Those who are less urgent are not before it.
    let _ahead = script.send(due("", 20));
    assert_eq!(script.admission.view().queue_requests, 4);
}

#[tokio::test(start_paused = true)]
async fn once_more_has_come_than_can_be_answered_the_queue_is_short_until_it_was_empty() {
    let mut script = Script::new(fixed(1));
    script.teach(10).await;
    let mut callers = vec![script.send(request("plug"))];
    callers.extend((0..9).map(|_| script.send(due("", 110))));
    script.refused(due("", 105));
    // There would be time enough behind the others, but not while they are so many.
    let error = script.refused(due("", 500));
    let overloaded = cause::<Overloaded>(&error);
    assert_eq!(overloaded.bound(), Bound::Wait);
    assert!(is_hint(overloaded, 90));
    while !callers.is_empty() {
        let call = script.expect_call();
        advance(Duration::from_millis(10)).await;
        call.echo();
        settle().await;
        callers.retain_mut(|caller| poll(caller).is_pending());
    }
    let mut callers: Vec<_> = (0..5).map(|_| script.send(due("", 500))).collect();
    assert!(callers.iter_mut().all(|caller| poll(caller).is_pending()));
}

/// Tells whether callers are told to wait so many milliseconds, and half as many again at most.
fn is_hint(overloaded: &Overloaded, millis: u64) -> bool {
    let least = Duration::from_millis(millis);
    let hint = overloaded.retry_after();
    hint.is_some_and(|hint| (least..=least * 3 / 2).contains(&hint))
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_to_come_again_sooner_than_a_call_takes() {
    let mut script = Script::new(Config {
        max_queue_requests: 1,
        ..fixed(8)
    });
    script.teach(80).await;
    let _plugs: Vec<_> = (0..8).map(|_| script.send(request(""))).collect();
    let _waits = script.send(due("", 200));
    // It misses by 10 ms, and a place is given back every 10 ms.
    for error in [script.refused(due("", 81)), script.refused(due("", 100))] {
        assert!(is_hint(cause(&error), 80), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_longer_an_endpoint_is_silent_the_longer_is_its_queue_and_then_it_is_tried_again() {
    let mut script = Script::new(fixed(2));
    script.teach(10).await;
    let completion = |script: &Script| script.admission.completion(Instant::now());
    let _one = script.send(request("lost"));
    advance(Duration::from_millis(110)).await;
    // A call and what is too much of the silence, although a place is free.
    assert_eq!(completion(&script), Some(Duration::from_millis(110)));
    let _two = script.send(request("lost"));
    let _lost = [script.expect_call(), script.expect_call()];
    advance(Duration::from_millis(10)).await;
    assert!(completion(&script) > Some(Duration::from_millis(110)));
    let error = script.refused(due("", 100));
    assert_eq!(cause::<Overloaded>(&error).bound(), Bound::Wait);
    // Who has time enough waits.
    let waits = script.send(due("", 300));
    drop(waits);
    // When both are known to be stuck.
    advance(Duration::from_millis(1000)).await;
    let mut tried = script.send(due("tried", 100));
    script.expect_call().echo();
    assert!(answer(&mut tried).is_ok());
    assert!(completion(&script) <= Some(Duration::from_millis(10)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_its_turn_has_come_too_late_whatever_the_server_does() {
    let mut script = Script::new(fixed(1));
    script.teach(10).await;
    let _plug = script.send(request("plug"));
    let _call = script.expect_call();
    let bytes = Bytes::from(vec![0; 64]);
    let began = Instant::now();
    let waits = script.send(with(holding("", bytes.clone()), |parts| {
        parts.head.deadline = Some(began + Duration::from_millis(50));
    }));
    assert!(!bytes.is_unique());
    // By itself, at the moment from which on it cannot be in time.
    let error = waits.await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_millis(40));
    assert_eq!(*cause::<Expired>(&error), Expired::hopeless());
    assert!(bytes.is_unique());
    assert_eq!(script.admission.load(), 1);
    script.expect_no_call();
}

#[tokio::test(start_paused = true)]
async fn of_a_model_that_nobody_knows_the_deadline_itself_ends_the_wait() {
    let mut script = Script::new(fixed(1));
    let _plug = script.send(request("plug"));
    let began = Instant::now();
    let error = script.send(due("", 50)).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_millis(50));
    assert_eq!(*cause::<Expired>(&error), Expired::passed());
}

#[tokio::test(start_paused = true)]
async fn the_dead_are_skipped_and_the_place_goes_to_the_next() {
    let mut script = Script::new(fixed(1));
    let mut plug = script.send(request("plug"));
    let mut dead = script.send(due("dead", 5));
    let mut alive = script.send(due("alive", 50));
    advance(Duration::from_millis(10)).await;
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    // Its own alarm has not been looked at yet.
    assert!(poll(&mut alive).is_pending());
    assert_eq!(script.expect_call().id(), "alive");
    cause::<Expired>(&answer(&mut dead).unwrap_err());
    assert_eq!(script.admission.shared().metrics.expired.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_was_given_a_place_but_looks_too_late_is_not_sent() {
    let mut script = Script::new(fixed(1));
    let mut plug = script.send(request("plug"));
    let mut sleeps = script.send(due("sleeps", 5));
    let mut next = script.send(due("next", 50));
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    advance(Duration::from_millis(5)).await;
    cause::<Expired>(&answer(&mut sleeps).unwrap_err());
    script.expect_no_call();
    assert!(poll(&mut next).is_pending());
    assert_eq!(script.expect_call().id(), "next");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_has_become_faster_is_found_out_by_those_with_near_deadlines() {
    let mut script = Script::new(fixed(4));
    script.teach(100).await;
    let mut answered = 0;
    for _ in 0..100 {
        let mut callers: Vec<_> = (0..2)
            .map(|_| Box::pin(script.admission.call(due("", 20))))
            .collect();
        callers.retain_mut(|caller| poll(caller).is_pending());
        let calls: Vec<_> = std::iter::from_fn(|| script.call()).collect();
        advance(Duration::from_millis(10)).await;
        calls.into_iter().for_each(Sent::echo);
        answered += callers
            .iter_mut()
            .filter_map(|caller| answer(caller).ok())
            .count();
    }
    // One at a time at first, and then all.
    assert!(answered > 180, "{answered}");
}
