//! Requests that are sent singly, because batching does not pay.

use super::*;

/// A filter that has found out that batching does not pay.
async fn found_out(config: Config) -> Script {
    let mut script = Script::new(Config {
        holdout: Share::new(0.5).unwrap(),
        ..config
    });
    // Two milliseconds for each row and nothing for a call.
    let mut callers: Vec<Caller> = Vec::new();
    for _ in 0..3000 {
        while callers.len() < 8 {
            callers.push(script.send(request("", 1, 0)));
        }
        while let Some(call) = script.call().await {
            advance(Duration::from_millis(2 * call.rows() as u64)).await;
            call.echo();
        }
        callers.retain_mut(|caller| poll(caller).is_pending());
        if matches!(script.batch.view().benefit.pays, Pays::No { .. }) {
            break;
        }
    }
    assert!(matches!(script.batch.view().benefit.pays, Pays::No { .. }));
    while script.call().await.is_some() {}
    drop(callers);
    settle().await;
    script
}

#[tokio::test(start_paused = true)]
async fn where_batching_does_not_pay_there_is_a_bound_still() {
    let mut script = found_out(Config {
        max_queue_rows: 16,
        split: true,
        ..fixed(8)
    })
    .await;
    let mut many: Vec<_> = (0..5000).map(|_| script.send(request("", 1, 0))).collect();
    many.push(script.send(request("", 64, 0)));
    let mut calls = Vec::new();
    for caller in &mut many {
        let _ = poll(caller);
    }
    while let Some(call) = script.call().await {
        calls.push(call);
    }
    assert!(
        calls.len() <= 16 + 8,
        "{} calls under way at once",
        calls.len()
    );
}

#[tokio::test(start_paused = true)]
async fn who_finds_nothing_before_it_is_sent_whatever_its_rows_also_singly() {
    let mut script = found_out(Config {
        max_queue_rows: 16,
        max_queue_bytes: 64,
        ..fixed(8)
    })
    .await;
    assert_eq!(script.batch.load(), 0);
    let mut large = script.send(request("large", 100, 5));
    assert!(poll(&mut large).is_pending());
    let call = script.expect_call().await;
    // Behind it there is room for what may wait.
    let mut refused = script.send(request("refused", 17, 0));
    cause::<Overloaded>(&answer(&mut refused).await.unwrap_err());
    let mut fits = script.send(request("fits", 16, 0));
    assert!(poll(&mut fits).is_pending());
    call.echo();
    assert_eq!(
        answer(&mut large).await.unwrap().report.batch_reason,
        Some("does_not_pay")
    );
    script.expect_call().await.echo();
    assert!(answer(&mut fits).await.is_ok());
    assert_eq!(script.batch.shared().room.used(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_calls_cost_is_forgotten_where_requests_do_not_come_in_calls_any_more() {
    let mut script = found_out(fixed(8)).await;
    assert!(script.batch.completion(Instant::now()).is_some());
    let mut single = script.send(request("", 1, 0));
    assert!(poll(&mut single).is_pending());
    script.expect_call().await.echo();
    assert!(answer(&mut single).await.is_ok());
    // Nobody waits for others there: of endpoints, that with the least to do answers first.
    assert_eq!(script.batch.completion(Instant::now()), None);
}
