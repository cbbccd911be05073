//! Calls that hang.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_gives_its_place_to_those_who_wait() {
    let mut script = Script::new(fixed(1));
    script.teach(5).await;
    let mut hangs = script.send(request("hangs"));
    let lost = script.expect_call();
    advance(Duration::from_millis(500)).await;
    let mut waits = script.send(request("waits"));
    advance(Duration::from_millis(499)).await;
    assert!(poll(&mut waits).is_pending());
    script.expect_no_call();
    advance(Duration::from_millis(2)).await;
    assert!(poll(&mut waits).is_pending());
    let call = script.expect_call();
    let view = script.admission.view();
    assert_eq!((view.in_flight, view.beside, view.limit), (1, 1, 1));
    assert_eq!(script.admission.shared().metrics.stuck.get(), 1);
    call.echo();
    assert!(answer(&mut waits).is_ok());
    // It is answered in the end.
    assert!(poll(&mut hangs).is_pending());
    lost.echo();
    assert!(answer(&mut hangs).is_ok());
    script.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn of_calls_that_hang_there_is_an_end_and_the_queue_goes_on_when_one_is_answered() {
    let mut script = Script::new(fixed(1));
    script.teach(1).await;
    let mut callers: Vec<_> = (0..12).map(|_| script.send(request(""))).collect();
    let mut lost = Vec::new();
    for _ in 0..20 {
        lost.extend(script.call());
        advance(Duration::from_millis(1001)).await;
        callers
            .iter_mut()
            .for_each(|caller| assert!(poll(caller).is_pending()));
    }
    lost.extend(script.call());
    // Eight that have lost their places, and one that holds it.
    assert_eq!(lost.len(), 9);
    while let Some(call) = lost.pop().or_else(|| script.call()) {
        call.echo();
        callers.retain_mut(|caller| poll(caller).is_pending());
    }
    assert!(callers.is_empty());
    script.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_lost_does_not_hide_that_the_model_has_become_faster() {
    let mut script = Script::new(fixed(4));
    script.teach(5000).await;
    drop(script.send(request("lost")));
    let _lost = script.expect_call();
    let mut answered = Vec::new();
    for round in 0..100 {
        advance(Duration::from_secs(1)).await;
        let mut caller = Box::pin(script.admission.call(due("", 1000)));
        if poll(&mut caller).is_pending() {
            let call = script.expect_call();
            advance(Duration::from_millis(10)).await;
            call.echo();
            assert!(answer(&mut caller).is_ok());
            answered.push(round);
        }
    }
    // Sixteen times as long as expected, and then always.
    assert_eq!(answered, (79..100).collect::<Vec<_>>());
    assert!(script.admission.completion(Instant::now()) < Some(Duration::from_secs(4)));
    assert!(script.admission.has_spare());
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_lost_and_left_give_their_places_back_in_the_end() {
    let mut script = Script::new(fixed(1));
    script.teach(1).await;
    let mut lost = Vec::new();
    for _ in 0..9 {
        let caller = script.send(request("lost"));
        lost.push(script.expect_call());
        drop(caller);
        settle().await;
        advance(Duration::from_millis(1001)).await;
    }
    let mut waits = script.send(request("waits"));
    advance(Duration::from_secs(50)).await;
    settle().await;
    assert!(poll(&mut waits).is_pending());
    assert!(lost.iter().all(|call| !call.reply.is_closed()));
    script.expect_no_call();
    advance(Duration::from_secs(10)).await;
    settle().await;
    assert!(poll(&mut waits).is_pending());
    script.expect_call().echo();
    assert!(answer(&mut waits).is_ok());
    assert!(lost.iter().all(|call| call.reply.is_closed()));
    // What was lost says nothing of what calls take.
    assert_eq!(script.admission.view().p95, Some(Duration::from_millis(1)));
    script.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn a_place_whose_owner_never_comes_for_it_is_not_lost() {
    let mut script = Script::new(fixed(1));
    script.teach(1).await;
    let _never = script.admission.call(request("never looks"));
    let waits = script.send(request("waits"));
    let waits = tokio::spawn(waits);
    advance(Duration::from_millis(1001)).await;
    settle().await;
    script.expect_call().echo();
    assert!(waits.await.unwrap().is_ok());
}
