//! Who is refused at once, because there is too much before it.

use super::*;

fn is_shed(error: &Error) -> bool {
    error
        .downcast_ref()
        .is_some_and(|overloaded: &Overloaded| overloaded.bound() == Bound::Wait)
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_in_time_for_what_is_before_it_is_refused_at_once() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 10, 10).await;
    let _first = script.send(request("first", 1, 0));
    let _call = script.expect_call().await;
    let mut waiting: Vec<_> = (0..5).map(|_| script.send(due("", 70))).collect();
    let mut nearer = script.send(due("nearer", 40));
    assert!(poll(&mut nearer).is_pending());
    // 70 ms are before it, and its own call takes 10.
    let mut late = script.send(due("late", 75));
    let Poll::Ready(Err(error)) = poll(&mut late) else {
        panic!("not told at once");
    };
    let overloaded: &Overloaded = cause(&error);
    assert_eq!(
        (overloaded.bound(), overloaded.limit()),
        (Bound::Wait, None)
    );
    assert_eq!(
        overloaded.to_string(),
        "the model has too much to do: 80.0ms are before the request, and its deadline is in 75.0ms"
    );
    let after = overloaded.retry_after().expect("a hint").as_secs_f64();
    // The least of hints, and its random part.
    assert!((0.010..=0.015).contains(&after), "{after}");
    let mut in_time = script.send(due("in time", 95));
    assert!(poll(&mut in_time).is_pending());
    let metrics = &script.batch.shared().metrics;
    assert_eq!(
        (
            metrics.shed.get(),
            metrics.refused.get(),
            metrics.expired.get()
        ),
        (1, 0, 0)
    );
    assert!(waiting.iter_mut().all(|caller| poll(caller).is_pending()));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_for_what_is_behind_it() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 10, 10).await;
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let _later: Vec<_> = (0..50).map(|_| script.send(due("", 79))).collect();
    let mut nearer = script.send(due("nearer", 25));
    assert!(poll(&mut nearer).is_pending());
    let of_class = |class| with(due("", 25), |parts| parts.head.priority = class);
    let mut first_class = script.send(of_class(1));
    assert!(poll(&mut first_class).is_pending());
    let mut last_class = script.send(of_class(99));
    assert!(is_shed(&answer(&mut last_class).await.unwrap_err()));
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.request.head.priority, 1);
}

#[tokio::test(start_paused = true)]
async fn who_would_go_along_with_those_before_it_is_not_refused() {
    let mut script = Script::new(fixed(64));
    quick(&mut script, 10, 10).await;
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut callers: Vec<_> = (0..32).map(|_| script.send(due("", 25))).collect();
    assert!(callers.iter_mut().all(|caller| poll(caller).is_pending()));
    advance(Duration::from_millis(10)).await;
    call.echo();
    assert_eq!(script.expect_call().await.rows(), 32);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_has_become_faster_is_found_out() {
    let mut script = Script::new(fixed(8));
    quick(&mut script, 20, 100).await;
    // 10 ms from now on; of two callers at a time, with 50 ms, one comes while the other is served.
    let mut refused = Vec::new();
    for round in 0..60 {
        let mut first = script.send(due("first", 50));
        let call = script.expect_call().await;
        let mut second = script.send(due("second", 50));
        advance(Duration::from_millis(10)).await;
        call.echo();
        assert!(answer(&mut first).await.is_ok());
        match script.call().await {
            Some(call) => {
                advance(Duration::from_millis(10)).await;
                call.echo();
                assert!(answer(&mut second).await.is_ok());
            }
            None => {
                assert!(answer(&mut second).await.is_err());
                refused.push(round);
            }
        }
    }
    assert!(
        refused.len() > 1 && refused.last() < Some(&30),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_finds_the_queue_full_is_told_when_there_will_be_room() {
    let mut script = Script::new(Config {
        max_queue_rows: 8,
        ..fixed(4)
    });
    let full = |script: &mut Script, rows| {
        let mut late = script.send(request("", rows, 0));
        let Poll::Ready(Err(error)) = poll(&mut late) else {
            panic!("there is room");
        };
        let overloaded: &Overloaded = cause(&error);
        assert_eq!(overloaded.bound(), Bound::Rows);
        overloaded.retry_after()
    };
    let first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let waiting: Vec<_> = (0..8).map(|_| script.send(request("", 1, 0))).collect();
    assert_eq!(full(&mut script, 1), None, "no call has ended yet");
    drop((first, waiting));
    advance(Duration::from_millis(10)).await;
    call.echo();
    quick(&mut script, 10, 10).await;
    let _first = script.send(request("first", 1, 0));
    let _call = script.expect_call().await;
    let _waiting: Vec<_> = (0..8).map(|_| script.send(request("", 1, 0))).collect();
    advance(Duration::from_millis(4)).await;
    // The call under way ends in 6 ms, and the next takes four out of the queue; no hint is that short.
    let after = full(&mut script, 1).expect("a hint");
    assert!((0.010..=0.015).contains(&after.as_secs_f64()), "{after:?}");
    assert!(full(&mut script, 8).expect("a hint") > after);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_parts_is_refused_as_a_whole() {
    let mut script = Script::new(Config {
        split: true,
        ..fixed(2)
    });
    teach(&mut script).await;
    let _first = script.send(request("first", 1, 0));
    let _call = script.expect_call().await;
    let of_rows = |rows| {
        with(request("", rows, 1), |parts| {
            parts.head.deadline = Some(Instant::now() + Duration::from_millis(50));
        })
    };
    let mut large = script.send(of_rows(10));
    let Poll::Ready(Err(error)) = poll(&mut large) else {
        panic!("not told at once");
    };
    assert!(is_shed(&error), "{error}");
    assert_eq!(script.batch.view().queue_rows, 0);
    let mut small = script.send(of_rows(4));
    assert!(poll(&mut small).is_pending());
}

/// Calls of one and of two rows, in which each row takes 5 ms and the call 5 more.
async fn teach(script: &mut Script) {
    for _ in 0..8 {
        let _lone = script.send(request("", 1, 0));
        let call = script.expect_call().await;
        let _pair = [0, 1].map(|mark| script.send(request("", 1, mark)));
        advance(Duration::from_millis(10)).await;
        call.echo();
        let call = script.expect_call().await;
        advance(Duration::from_millis(15)).await;
        call.echo();
        settle().await;
    }
}
