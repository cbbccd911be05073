//! Who goes first, and who comes too late.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_key_whose_request_is_oldest_goes_next() {
    let mut script = Script::new(fixed(32));
    let other = |id: &str| with(request(id, 1, 9), |parts| parts.head.version = "2".into());
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let _waiting = [
        script.send(other("b1")),
        script.send(request("a1", 1, 0)),
        script.send(other("b2")),
        script.send(request("a2", 1, 0)),
    ];
    call.echo();
    let call = script.expect_call().await;
    assert_eq!((call.rows(), &*call.request.head.version), (2, "2"));
    // Busy as its key is, a request that came later waits behind the other key.
    let _late = script.send(other("b3"));
    call.echo();
    let call = script.expect_call().await;
    assert_eq!((call.rows(), &*call.request.head.version), (2, ""));
    call.echo();
    let call = script.expect_call().await;
    assert_eq!((call.rows(), &*call.request.head.version), (1, "2"));
}

fn due(id: &str, millis: u64, mark: u8) -> Request {
    with(request(id, 1, mark), |parts| {
        parts.head.deadline = Some(Instant::now() + Duration::from_millis(millis));
    })
}

fn of_class(id: &str, class: u64) -> Request {
    with(request(id, 1, 0), |parts| parts.head.priority = class)
}

/// Teaches a filter that a call of one row takes so long, and of two as long as `two`.
async fn teach(script: &mut Script, one: u64, two: u64) {
    for _ in 0..8 {
        let lone = script.send(request("", 1, 0));
        let call = script.expect_call().await;
        let pair = (
            script.send(request("", 1, 0)),
            script.send(request("", 1, 0)),
        );
        advance(Duration::from_millis(one)).await;
        call.echo();
        let call = script.expect_call().await;
        advance(Duration::from_millis(two)).await;
        call.echo();
        settle().await;
        drop((lone, pair));
    }
}

#[tokio::test(start_paused = true)]
async fn the_nearest_deadline_goes_first_and_who_names_none_has_the_objective() {
    let mut script = Script::new(fixed(1));
    let _first = script.send(request("first", 1, 0));
    let mut call = script.expect_call().await;
    let _callers = [
        script.send(due("in 30", 30, 0)),
        script.send(request("in 20", 1, 0)),
        script.send(due("in 10", 10, 0)),
        script.send(due("in 25", 25, 0)),
        script.send(request("in 20 too", 1, 0)),
    ];
    let mut order = Vec::new();
    for _ in 0..5 {
        call.echo();
        call = script.expect_call().await;
        order.push(call.request.head.id.to_string());
    }
    assert_eq!(order, ["in 10", "in 20", "in 20 too", "in 25", "in 30"]);
}

#[tokio::test(start_paused = true)]
async fn of_classes_the_least_goes_first_and_who_names_none_is_of_the_default() {
    let mut script = Script::new(Config {
        default_priority: 3,
        ..fixed(8)
    });
    let _first = script.send(request("first", 1, 0));
    let mut call = script.expect_call().await;
    let _callers = [
        script.send(of_class("4", 4)),
        script.send(of_class("none", 0)),
        script.send(of_class("2", 2)),
        script.send(of_class("3", 3)),
        script.send(of_class("2 too", 2)),
    ];
    let mut order = Vec::new();
    for _ in 0..4 {
        call.echo();
        call = script.expect_call().await;
        order.push((call.rows(), call.request.head.priority));
    }
    assert_eq!(order, [(2, 2), (1, 0), (1, 3), (1, 4)]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_at_once_when_the_model_cannot_be_in_time_any_more() {
    let mut script = Script::new(fixed(1));
    let began = Instant::now();
    let _first = script.send(request("first", 1, 0));
    let hangs = script.expect_call().await;
    let mut late = script.send(due("late", 10, 1));
    assert!(poll(&mut late).is_pending());
    advance(Duration::from_millis(9)).await;
    settle().await;
    assert!(poll(&mut late).is_pending());
    advance(Duration::from_millis(1)).await;
    let error = answer(&mut late).await.unwrap_err();
    assert_eq!(
        cause::<DeadlineExpired>(&error).to_string(),
        "the deadline passed before the request was sent"
    );
    // The call that it waited for is still under way.
    assert_eq!(began.elapsed(), Duration::from_millis(10));
    assert_eq!(script.batch.view().queue_rows, 0);
    assert_eq!(script.batch.shared().metrics.expired.get(), 1);
    hangs.echo();
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_in_time_is_never_sent_but_an_idle_endpoint_is_tried() {
    let mut script = Script::new(fixed(8));
    teach(&mut script, 10, 11).await;
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    // A call takes 10 ms, 8 at least.
    let mut hopeless = script.send(due("hopeless", 7, 1));
    let mut hopeful = script.send(due("hopeful", 25, 1));
    let error = answer(&mut hopeless).await.unwrap_err();
    assert_eq!(
        cause::<DeadlineExpired>(&error).to_string(),
        "the deadline is nearer than the model's answer: the request was not sent"
    );
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(&*call.request.head.id, "hopeful");
    call.echo();
    assert!(answer(&mut hopeful).await.is_ok());
    // The model may have become faster, and nobody would ever know.
    let mut tried = script.send(due("tried", 7, 1));
    script.expect_call().await.echo();
    assert!(answer(&mut tried).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_closed_where_more_rows_would_make_a_member_late() {
    let mut script = Script::new(fixed(64));
    // 4 ms and 1 ms for each row.
    teach(&mut script, 5, 6).await;
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let tight = script.send(due("tight", 17, 1));
    let _others: Vec<_> = (0..11).map(|_| script.send(due("", 40, 0))).collect();
    advance(Duration::from_millis(5)).await;
    call.echo();
    // 12 ms are left: with a tenth in reserve 6 rows, not 12.
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 6);
    call.echo();
    assert_eq!(script.expect_call().await.rows(), 6);
    assert_eq!(
        script.batch.shared().metrics.closed(Closed::Deadline).get(),
        1
    );
    drop(tight);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_would_cost_the_others_half_of_their_throughput_is_given_up() {
    let mut script = Script::new(fixed(64));
    // 10 ms and next to nothing for each row.
    teach(&mut script, 10, 10).await;
    for _ in 0..4 {
        let _first = script.send(request("", 1, 0));
        let call = script.expect_call().await;
        let _many: Vec<_> = (0..32).map(|_| script.send(request("", 1, 0))).collect();
        advance(Duration::from_millis(10)).await;
        call.echo();
        let call = script.expect_call().await;
        advance(Duration::from_millis(20)).await;
        call.echo();
        settle().await;
    }
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut tight = script.send(due("tight", 23, 1));
    let _others: Vec<_> = (0..31).map(|_| script.send(due("", 80, 0))).collect();
    advance(Duration::from_millis(10)).await;
    call.echo();
    // Of 32 rows that take 20 ms one or two could go within the 13 ms that are left.
    assert_eq!(script.expect_call().await.rows(), 31);
    cause::<DeadlineExpired>(&answer(&mut tight).await.unwrap_err());
}
