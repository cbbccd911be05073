//! Waiting for company, and requests in parts.

use super::*;

/// Callers that all ask again as soon as they have their answers: so many each round, the first at
/// once and the others a little later. Returns the rows of each call of the last rounds.
async fn lockstep(script: &mut Script, rounds: usize) -> Vec<usize> {
    let mut rows = Vec::new();
    for round in 0..rounds {
        let mut callers = vec![script.send(request("", 1, 0))];
        let mut calls = Vec::new();
        calls.extend(script.call().await);
        advance(Duration::from_millis(1)).await;
        callers.extend((0..7).map(|_| script.send(request("", 1, 0))));
        for _ in 0..20 {
            calls.extend(script.call().await);
            advance(Duration::from_millis(1)).await;
            calls.extend(script.call().await);
            if calls.is_empty() {
                continue;
            }
            let call = calls.remove(0);
            if round + 2 >= rounds {
                rows.push(call.rows());
            }
            advance(Duration::from_millis(6 + call.rows() as u64 / 4)).await;
            call.echo();
            settle().await;
            callers.retain_mut(|caller| poll(caller).is_pending());
            if callers.is_empty() {
                break;
            }
        }
        assert!(callers.is_empty());
    }
    rows
}

#[tokio::test(start_paused = true)]
async fn company_that_comes_every_time_is_waited_for_where_that_is_configured() {
    let mut script = Script::new(Config {
        max_delay: Duration::from_millis(4),
        ..fixed(64)
    });
    let rows = lockstep(&mut script, 24).await;
    assert_eq!(rows, [8, 8]);
    assert!(script.batch.shared().metrics.closed(Closed::Delay).get() > 0);
    let mut script = Script::new(fixed(64));
    assert_eq!(lockstep(&mut script, 24).await, [1, 7, 1, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_lone_caller_is_not_delayed_although_it_is_allowed() {
    let mut script = Script::new(Config {
        max_delay: Duration::from_millis(4),
        ..fixed(64)
    });
    for _ in 0..50 {
        let mut caller = script.send(request("", 1, 0));
        let began = Instant::now();
        let call = script.expect_call().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        advance(Duration::from_millis(6)).await;
        call.echo();
        assert!(answer(&mut caller).await.is_ok());
        advance(Duration::from_millis(30)).await;
    }
    assert_eq!(script.batch.view().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_all_waiting_for_company() {
    let mut script = Script::new(Config {
        max_delay: Duration::from_millis(4),
        ..fixed(64)
    });
    lockstep(&mut script, 24).await;
    let mut first = script.send(request("", 1, 0));
    script.expect_no_call().await;
    script.batch.drain();
    let call = script.expect_call().await;
    assert_eq!(script.batch.shared().metrics.closed(Closed::Drain).get(), 1);
    call.echo();
    assert!(answer(&mut first).await.is_ok());
    let mut second = script.send(request("", 1, 0));
    script.expect_call().await.echo();
    assert!(answer(&mut second).await.is_ok());
}

fn splitting(max_batch_size: usize) -> Config {
    Config {
        split: true,
        ..fixed(max_batch_size)
    }
}

/// A request whose rows are all different.
fn numbered(id: &str, rows: u8) -> Request {
    with(request(id, usize::from(rows), 0), |parts| {
        let data: Vec<u8> = (0..rows).flat_map(|row| [row, row]).collect();
        parts.inputs = vec![tensor("x", usize::from(rows), data)];
    })
}

#[tokio::test(start_paused = true)]
async fn a_request_with_more_rows_than_calls_may_have_goes_in_parts_if_so_configured() {
    let mut script = Script::new(splitting(4));
    let whole = numbered("whole", 10);
    let expected = echo(&whole).outputs[0].data.to_bytes();
    let mut caller = script.send(whole);
    let mut rows = Vec::new();
    for _ in 0..3 {
        assert!(poll(&mut caller).is_pending());
        let call = script.expect_call().await;
        rows.push(call.rows());
        call.echo();
        settle().await;
    }
    assert_eq!(rows, [4, 4, 2]);
    let response = answer(&mut caller).await.unwrap();
    assert_eq!(response.id, "whole");
    assert_eq!(response.outputs[0].data.to_bytes(), expected);
    assert_eq!(response.report.batch_reason, Some("split"));
    assert_eq!(script.batch.load(), 0);

    // Else it is a call of its own.
    let mut script = Script::new(fixed(4));
    let mut caller = script.send(numbered("whole", 10));
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 10);
    call.echo();
    assert!(answer(&mut caller).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn of_a_request_in_parts_all_waits_or_none_and_leaves_with_its_caller() {
    let mut script = Script::new(Config {
        max_queue_rows: 8,
        ..splitting(4)
    });
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut refused = script.send(numbered("refused", 9));
    let error = answer(&mut refused).await.unwrap_err();
    assert_eq!(cause::<Overloaded>(&error).limit(), 8);
    assert_eq!(script.batch.view().queue_rows, 0);
    let caller = script.send(numbered("leaves", 8));
    assert_eq!(script.batch.view().queue_rows, 8);
    drop(caller);
    assert_eq!(script.batch.view().queue_rows, 0);
    call.echo();
    script.expect_no_call().await;
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn answers_to_parts_that_cannot_be_joined_are_asked_for_as_a_whole_and_never_parted_again() {
    let mut script = Script::new(splitting(4));
    let mut caller = script.send(numbered("whole", 8));
    assert!(poll(&mut caller).is_pending());
    for version in ["1", "2"] {
        let call = script.expect_call().await;
        let mut answer = echo(&call.request).into_parts();
        answer.version = version.into();
        call.reply.send(Ok(answer.into())).unwrap();
        settle().await;
        assert!(poll(&mut caller).is_pending());
    }
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 8);
    call.echo();
    assert!(answer(&mut caller).await.is_ok());
    let mut next = script.send(numbered("next", 8));
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 8);
    call.echo();
    assert!(answer(&mut next).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_part_that_fails_fails_the_request_with_its_own_error() {
    let mut script = Script::new(splitting(4));
    let mut caller = script.send(numbered("whole", 10));
    assert!(poll(&mut caller).is_pending());
    let call = script.expect_call().await;
    call.fail(Status::new(Code::InvalidArgument, "no"));
    settle().await;
    let error = answer(&mut caller).await.unwrap_err();
    assert_eq!(cause::<Status>(&error).code(), Code::InvalidArgument);
    // The others have left the queue, but for the one that was on its way.
    while let Some(call) = script.call().await {
        call.echo();
    }
    assert_eq!(script.batch.load(), 0);
}
