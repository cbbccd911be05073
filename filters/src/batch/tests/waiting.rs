//! Waiting for company, and requests in parts.

use super::*;

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
    assert_eq!(cause::<Overloaded>(&error).limit(), Some(8));
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

#[tokio::test(start_paused = true)]
async fn a_full_batch_of_another_key_does_not_wait_for_the_companys_sake() {
    let mut script = Script::new(Config {
        max_delay: Duration::from_millis(4),
        ..fixed(8)
    });
    lockstep(&mut script, 24).await;
    let _first = script.send(request("", 1, 0));
    script.expect_no_call().await;
    let other = || with(request("", 1, 9), |parts| parts.head.version = "2".into());
    let _full: Vec<_> = (0..8).map(|_| script.send(other())).collect();
    // Eight rows are all that a call may have, and the endpoint is idle.
    script.expect_call().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_max_delay_for_those_who_are_more_urgent() {
    let mut script = Script::new(Config {
        max_delay: Duration::from_millis(4),
        ..fixed(64)
    });
    lockstep(&mut script, 24).await;
    let began = Instant::now();
    let _first = script.send(due("first", 900));
    let mut more = Vec::new();
    for step in 1..40 {
        if script.call().await.is_some() {
            break;
        }
        advance(Duration::from_millis(1)).await;
        settle().await;
        if let Ok(call) = script.calls.try_recv() {
            drop(call);
            break;
        }
        more.push(script.send(due("", 890 - 10 * step)));
    }
    assert!(
        began.elapsed() <= Duration::from_millis(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn company_that_cannot_share_a_call_is_not_waited_for() {
    let mut served = Vec::new();
    for max_delay in [0, 4] {
        let mut script = Script::new(Config {
            max_delay: Duration::from_millis(max_delay),
            ..fixed(64)
        });
        // Eight callers with a key each, who ask again a millisecond after their answers.
        let keyed = |key: usize| {
            with(request("", 1, 0), |parts| {
                parts.head.version = format!("{key}").into();
            })
        };
        let mut callers: Vec<Option<Caller>> = (0..8).map(|_| None).collect();
        let mut call: Option<(Sent, u64)> = None;
        let mut count = 0;
        for now in 0..3000_u64 {
            if let Some((sent, end)) = call.take() {
                if end <= now {
                    sent.echo();
                    count += 1;
                } else {
                    call = Some((sent, end));
                }
            }
            settle().await;
            for (key, caller) in callers.iter_mut().enumerate() {
                match caller {
                    Some(waits) => {
                        if poll(waits).is_ready() {
                            *caller = None;
                        }
                    }
                    None => *caller = Some(script.send(keyed(key))),
                }
            }
            if call.is_none() {
                call = script.call().await.map(|sent| (sent, now + 6));
            }
            advance(Duration::from_millis(1)).await;
        }
        served.push(count);
    }
    assert!(served[1] * 20 >= served[0] * 19, "{served:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_endpoint_takes_a_large_request_in_parts_as_it_takes_it_whole() {
    let config = Config {
        max_queue_rows: 8,
        ..fixed(4)
    };
    let mut script = Script::new(config.clone());
    let mut whole = script.send(request("whole", 10, 1));
    script.expect_call().await.echo();
    assert!(answer(&mut whole).await.is_ok());
    // Of three parts of four rows at most one goes at once, and six rows wait.
    let mut script = Script::new(Config {
        split: true,
        ..config
    });
    let mut parts = script.send(request("parts", 10, 1));
    if let Poll::Ready(answer) = poll(&mut parts) {
        panic!("{}", answer.unwrap_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_parts_cannot_be_joined_is_not_sent_after_its_deadline() {
    let mut script = Script::new(Config {
        split: true,
        ..fixed(2)
    });
    let mut caller = script.send(with(due("", 20), |parts| {
        parts.inputs = vec![tensor("x", 4, vec![1; 8])];
    }));
    assert!(poll(&mut caller).is_pending());
    for (version, millis) in [("1", 1), ("2", 25)] {
        let call = script.expect_call().await;
        advance(Duration::from_millis(millis)).await;
        let mut answer = echo(&call.request);
        answer.version = version.into();
        call.reply.send(Ok(answer)).unwrap();
        settle().await;
    }
    let _ = poll(&mut caller);
    script.expect_no_call().await;
}
