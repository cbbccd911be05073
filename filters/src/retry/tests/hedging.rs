//! Requests that take longer than usual.

use super::*;

async fn taught(budget: f64, endpoints: usize) -> Filter {
    let filter = Filter::new(
        hedged(budget),
        Servers::new(endpoints, [Fate::Answered(10)]),
    );
    assert_eq!(filter.layer.view().hedge_after, None);
    filter.teach(200).await;
    let after = filter.layer.view().hedge_after.expect("enough is known");
    let tenth = Duration::from_millis(10);
    assert!(after > tenth && after <= tenth + tenth / 10, "{after:?}");
    filter
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_answered_by_its_copy() {
    let filter = taught(0.1, 2).await;
    filter
        .servers
        .fates([Fate::Answered(500), Fate::Answered(10)]);
    let start = Instant::now();
    let answer = filter.ask("a").await.expect("the copy is answered");
    assert_eq!(answer.id, "a");
    assert!(
        start.elapsed() < Duration::from_millis(25),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(filter.servers.sent(), [0, 1]);
    assert_eq!(filter.servers.under_way(), 0, "the other one was dropped");
    assert_eq!(filter.tried(Kind::Hedge, Outcome::Answered), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_of_two_answers_counts_and_of_failures_the_other_one_is_waited_for() {
    let slow = Duration::from_millis(11);
    for (first, copy, took, outcome) in [
        (
            Fate::Answered(15),
            Fate::Answered(500),
            15,
            Outcome::Dropped,
        ),
        (Fate::Answered(50), Fate::Lost(1), 50, Outcome::Failed),
        (Fate::Answered(50), Fate::Refused(1), 50, Outcome::Failed),
        (Fate::Lost(15), Fate::Answered(50), 61, Outcome::Answered),
        (Fate::Refused(15), Fate::Answered(50), 61, Outcome::Answered),
        (Fate::Hangs, Fate::Answered(50), 61, Outcome::Answered),
    ] {
        let filter = taught(0.1, 2).await;
        filter.servers.fates([first, copy]);
        let start = Instant::now();
        filter.ask("a").await.expect("one of them is answered");
        let late = start.elapsed().saturating_sub(Duration::from_millis(took));
        assert!(
            late <= Duration::from_millis(1),
            "{first:?} {copy:?}: {late:?}"
        );
        assert_eq!(filter.tried(Kind::Hedge, outcome), 1, "{first:?} {copy:?}");
        let sent = filter.servers.0.sent.lock().clone();
        assert_eq!(sent.len(), 2);
        assert!(sent[1].at - sent[0].at >= slow - Duration::from_millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn where_both_fail_a_servers_word_is_told_and_nothing_is_sent_again() {
    for (first, copy) in [
        (Fate::Lost(20), Fate::Refused(20)),
        (Fate::Refused(20), Fate::Lost(20)),
        (Fate::Refused(20), Fate::Refused(1)),
        (Fate::Lost(20), Fate::Lost(20)),
    ] {
        let config = Config {
            budget: share(1.),
            ..hedged(1.)
        };
        let filter = Filter::new(config, Servers::new(3, [Fate::Answered(10)]));
        filter.teach(200).await;
        filter.servers.fates([first, copy]);
        let error = filter.ask("a").await.expect_err("both fail");
        let both_lost = matches!((first, copy), (Fate::Lost(_), Fate::Lost(_)));
        assert_eq!(error.is::<Status>(), !both_lost, "{first:?} {copy:?}");
        assert_eq!(filter.servers.sent().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_sent_only_where_there_is_capacity_to_spare() {
    let filter = taught(0.1, 2).await;
    filter.servers.fates([Fate::Answered(50)]);
    *filter.servers.0.spare.lock() = vec![false; 2];
    // More than the budget has for copies, and not so many that they are usual.
    let callers: Vec<_> = (0..30)
        .map(|_| tokio::spawn(filter.call(request("a", None))))
        .collect();
    for caller in callers {
        caller.await.unwrap().expect("it is answered");
    }
    assert_eq!(filter.servers.sent().len(), 30);
    assert_eq!(filter.forgone(Kind::Hedge, Forgone::Nowhere), 30);
    filter.teach(200).await;
    filter.servers.fates([Fate::Answered(50)]);
    // What was not sent has cost nothing.
    *filter.servers.0.spare.lock() = vec![true; 2];
    filter.ask("a").await.expect("it is answered");
    assert_eq!(filter.servers.sent().len(), 2);
    let alone = taught(0.1, 1).await;
    alone.servers.fates([Fate::Answered(50)]);
    alone.ask("a").await.expect("it is answered");
    assert_eq!(alone.servers.sent(), [0]);
}

#[tokio::test(start_paused = true)]
async fn no_copy_is_sent_that_would_come_too_late() {
    let filter = taught(0.1, 2).await;
    for (timeout, sent) in [(Some(20), 1), (Some(25), 2), (None, 2)] {
        filter
            .servers
            .fates([Fate::Answered(500), Fate::Answered(10)]);
        let call = filter.call(request("a", timeout));
        let _in_time =
            tokio::time::timeout(Duration::from_millis(timeout.unwrap_or(500)), call).await;
        assert_eq!(filter.servers.sent().len(), sent, "{timeout:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn copies_keep_within_their_budget() {
    let filter = taught(0.05, 2).await;
    filter.servers.fates([Fate::Answered(40)]);
    let calls: Vec<_> = (0..100)
        .map(|_| tokio::spawn(filter.call(request("a", None))))
        .collect();
    for call in calls {
        call.await.unwrap().expect("it is answered");
    }
    let copies = filter.servers.sent().len() - 100;
    // Of 300 requests one in twenty, and one in reserve.
    assert!((13..=16).contains(&copies), "{copies}");
    assert_eq!(
        filter.forgone(Kind::Hedge, Forgone::Budget),
        100 - copies as u64
    );
}

#[tokio::test(start_paused = true)]
async fn copies_do_not_make_the_model_look_faster() {
    // One call in seven takes fifty times as long: a tenth of all calls take longer than that.
    let filter = Filter::new(hedged(0.05), Servers::new(2, [Fate::Answered(10)]));
    filter.teach(200).await;
    let mut random = crate::random::Random::new(3);
    for _ in 0..2000 {
        let first = if random.uniform() < 0.14 { 500 } else { 10 };
        filter
            .servers
            .fates([Fate::Answered(first), Fate::Answered(10)]);
        filter.ask("a").await.expect("it is answered");
    }
    let after = filter.layer.view().hedge_after.expect("it is known");
    assert!(after >= Duration::from_millis(500), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_finds_no_place_forbids_no_second_try() {
    let config = Config {
        budget: share(1.),
        ..hedged(1.)
    };
    let filter = Filter::new(config, Servers::new(2, [Fate::Answered(10)]));
    filter.teach(200).await;
    filter
        .servers
        .fates([Fate::Lost(20), Fate::Full, Fate::Answered(1)]);
    filter.ask("a").await.expect("it is sent again");
    assert_eq!(filter.servers.sent(), [0, 1, 1]);
}
