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
