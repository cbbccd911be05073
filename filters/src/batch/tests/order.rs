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
        script.send(due("in 30", 30)),
        script.send(request("in 20", 1, 0)),
        script.send(due("in 10", 10)),
        script.send(due("in 25", 25)),
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
    let mut late = script.send(due("late", 10));
    assert!(poll(&mut late).is_pending());
    advance(Duration::from_millis(9)).await;
    settle().await;
    assert!(poll(&mut late).is_pending());
    advance(Duration::from_millis(1)).await;
    let error = answer(&mut late).await.unwrap_err();
    assert_eq!(
        cause::<Expired>(&error).to_string(),
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
    let mut hopeless = script.send(due("hopeless", 7));
    let mut hopeful = script.send(due("hopeful", 25));
    let error = answer(&mut hopeless).await.unwrap_err();
    assert_eq!(
        cause::<Expired>(&error).to_string(),
        "the deadline is nearer than the model's answer: the request was not sent"
    );
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(&*call.request.head.id, "hopeful");
    call.echo();
    assert!(answer(&mut hopeful).await.is_ok());
    // The model may have become faster, and nobody would ever know.
    let mut tried = script.send(due("tried", 7));
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
    let tight = script.send(due("tight", 17));
    let _others: Vec<_> = (0..11).map(|_| script.send(due("", 40))).collect();
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
    let mut tight = script.send(due("tight", 23));
    let _others: Vec<_> = (0..31).map(|_| script.send(due("", 80))).collect();
    advance(Duration::from_millis(10)).await;
    call.echo();
    // Of 32 rows that take 20 ms one or two could go within the 13 ms that are left.
    assert_eq!(script.expect_call().await.rows(), 31);
    cause::<Expired>(&answer(&mut tight).await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn who_has_more_time_than_others_is_not_starved_by_those_who_name_none() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 10, 10).await;
    // Half a second of requests always wait: an endpoint under more load than it bears.
    let mut callers: Vec<_> = (0..50).map(|_| script.send(request("", 1, 0))).collect();
    let mut patient = script.send(due("patient", 5000));
    let mut sent = 0;
    let mut outcome = None;
    for _ in 0..600 {
        let call = script.expect_call().await;
        sent += 1;
        let own = &*call.request.head.id == "patient";
        advance(Duration::from_millis(10)).await;
        call.echo();
        settle().await;
        callers.retain_mut(|caller| poll(caller).is_pending());
        callers.push(script.send(request("", 1, 0)));
        if let Poll::Ready(answer) = poll(&mut patient) {
            outcome = Some((sent, own, answer.is_ok()));
            break;
        }
    }
    let (sent, _, ok) = outcome.expect("an outcome");
    assert!(
        ok,
        "refused after {sent} others were served, most of which came later"
    );
}

#[tokio::test(start_paused = true)]
async fn one_call_that_took_long_does_not_make_deadlines_hopeless() {
    let mut script = Script::new(fixed(8));
    quick(&mut script, 100, 5).await;
    let mut slow = script.send(request("slow", 1, 0));
    let call = script.expect_call().await;
    advance(Duration::from_secs(60)).await;
    call.echo();
    assert!(answer(&mut slow).await.is_ok());
    // Healthy again: two callers at a time, each with 200 ms for what takes 5.
    let (mut refused, mut answered) = (0, 0);
    for _ in 0..100 {
        let mut pair = [script.send(due("a", 200)), script.send(due("b", 200))];
        for _ in 0..2 {
            if let Some(call) = script.call().await {
                advance(Duration::from_millis(5)).await;
                call.echo();
            }
        }
        for caller in &mut pair {
            match answer(caller).await {
                Ok(_) => answered += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused <= 5, "{refused} refused, {answered} answered");
}

#[tokio::test(start_paused = true)]
async fn who_is_in_time_by_what_is_known_now_is_not_told_what_was_known_once() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 4, 4000).await;
    let _first = script.send(request("first", 1, 0));
    let mut call = script.expect_call().await;
    // 3.2 s at least, by what is known when it comes: the alarm is at 5.8 s.
    let mut waits = script.send(due("waits", 9000));
    let _others: Vec<_> = (0..800)
        .map(|_| script.send(with(request("", 1, 0), |parts| parts.head.priority = 1)))
        .collect();
    // The model is mended: 10 ms a call.
    for _ in 0..700 {
        advance(Duration::from_millis(10)).await;
        call.echo();
        call = script.expect_call().await;
        if let Poll::Ready(answer) = poll(&mut waits) {
            panic!("{:?}", answer.unwrap_err());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_is_answered_by_its_deadline_although_its_call_is_not() {
    let mut script = Script::new(fixed(8));
    quick(&mut script, 4, 5).await;
    let (mut callers, call) = gather(&mut script, [due("due", 50), request("patient", 1, 2)]).await;
    assert_eq!(call.rows(), 2);
    assert_eq!(call.request.head.deadline, None);
    let mut answered = false;
    for _ in 0..60 {
        advance(Duration::from_millis(1)).await;
        settle().await;
        answered |= !answered && poll(&mut callers[0]).is_ready();
    }
    assert!(answered, "10 ms after its deadline it still waits");
}

#[tokio::test(start_paused = true)]
async fn deadlines_decades_ahead_are_no_trouble() {
    let mut script = Script::new(fixed(1));
    quick(&mut script, 4, 5).await;
    let far = || {
        with(request("", 1, 1), |parts| {
            let hours = Duration::from_secs(99_999_999 * 3600);
            parts.head.deadline = Instant::now().checked_add(hours);
        })
    };
    let mut callers: Vec<_> = (0..3).map(|_| script.send(far())).collect();
    for caller in &mut callers {
        let call = script.expect_call().await;
        advance(Duration::from_millis(1)).await;
        call.echo();
        assert!(answer(caller).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn who_would_be_in_time_in_the_full_call_is_not_given_up() {
    let mut script = Script::new(Config {
        latency_objective: Duration::from_millis(100),
        ..fixed(64)
    });
    for _ in 0..20 {
        let _first = script.send(request("", 1, 0));
        let call = script.expect_call().await;
        let _many: Vec<_> = (0..32).map(|_| script.send(request("", 1, 0))).collect();
        for call in [Some(call), None] {
            let call = match call {
                Some(call) => call,
                None => script.expect_call().await,
            };
            advance(Duration::from_millis(10)).await;
            call.echo();
            settle().await;
        }
    }
    // Calls take 10 ms, whatever their rows.
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut due = script.send(with(request("due", 1, 1), |parts| {
        parts.head.deadline = Some(Instant::now() + Duration::from_micros(20_800));
    }));
    let _others: Vec<_> = (0..31).map(|_| script.send(request("", 1, 0))).collect();
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    let rows = call.rows();
    advance(Duration::from_millis(10)).await;
    call.echo();
    let answer = answer(&mut due).await;
    assert!(
        answer.is_ok(),
        "given up with 10.8 ms left for a call of 10 ms ({rows} rows)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_free_place_is_tried_whatever_is_known_also_where_company_may_be_waited_for() {
    for max_delay in [0, 4] {
        let mut script = Script::new(Config {
            max_in_flight: InFlight::Fixed(4),
            max_delay: Duration::from_millis(max_delay),
            ..fixed(8)
        });
        quick(&mut script, 4, 100).await;
        let _busy = script.send(request("", 1, 0));
        let _call = script.expect_call().await;
        // Three places are free.
        let mut due = script.send(due("due", 50));
        if let Poll::Ready(answer) = poll(&mut due) {
            panic!("max_delay {max_delay} ms: {}", answer.unwrap_err());
        }
        script.expect_call().await;
    }
}
