//! Calls that hang.

use super::*;

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
