//! Requests whose connection is lost.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lost_request_is_sent_again_at_once_and_elsewhere() {
    let filter = Filter::new(
        lost(0.1),
        Servers::new(3, [Fate::Lost(5), Fate::Answered(2)]),
    );
    let start = Instant::now();
    let answer = filter.ask("a").await.expect("the second try is answered");
    assert_eq!(answer.id, "a");
    assert_eq!(start.elapsed(), Duration::from_millis(7));
    assert_eq!(filter.servers.sent(), [0, 1]);
    assert_eq!(filter.tried(Kind::Lost, Outcome::Answered), 1);
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_other_it_is_sent_to_the_same_endpoint_again_twice_at_most() {
    for (count, reached) in [(1, vec![true]), (2, vec![true, false])] {
        let servers = Servers::new(count, [Fate::Lost(1), Fate::Lost(1), Fate::Answered(1)]);
        *servers.0.reached.lock() = reached;
        let filter = Filter::new(lost(0.1), servers);
        filter.ask("a").await.expect("the third try is answered");
        assert_eq!(filter.servers.sent(), [0, 0, 0]);
        filter.servers.fates([Fate::Lost(1)]);
        let error = filter.ask("b").await.expect_err("three are lost");
        assert!(error.is::<ConnectionLost>());
        assert_eq!(filter.servers.sent(), [0, 0, 0]);
        assert_eq!(filter.forgone(Kind::Lost, Forgone::Tries), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_loses_every_server_that_it_meets_meets_two() {
    let filter = Filter::new(lost(1.), Servers::new(5, [Fate::Lost(1)]));
    for _ in 0..100 {
        let error = filter.ask("poison").await.expect_err("both are lost");
        assert!(error.is::<ConnectionLost>());
        let sent = std::mem::take(&mut *filter.servers.0.sent.lock());
        assert!(sent.len() <= 2, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_was_lost_is_sent_again_and_a_servers_word_is_told() {
    let filter = Filter::new(lost(0.1), Servers::new(2, [Fate::Refused(1)]));
    assert!(filter.ask("a").await.unwrap_err().is::<Status>());
    assert_eq!(filter.servers.sent(), [0]);
    filter.servers.fates([Fate::Lost(1), Fate::Refused(1)]);
    assert!(filter.ask("a").await.unwrap_err().is::<Status>());
    assert_eq!(filter.servers.sent(), [0, 1]);
    assert_eq!(filter.tried(Kind::Lost, Outcome::Failed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_repeated_is_sent_once() {
    for config in [lost(1.), hedged(1.)] {
        let filter = Filter::new(config, Servers::new(2, [Fate::Answered(10)]));
        filter.teach(200).await;
        filter.servers.fates([Fate::Lost(100)]);
        assert!(filter.ask("once").await.unwrap_err().is::<ConnectionLost>());
        assert_eq!(filter.servers.sent().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_deadline() {
    let filter = Filter::new(lost(1.), Servers::new(2, [Fate::Lost(10)]));
    let answer = filter.call(request("a", Some(10))).await;
    assert!(answer.unwrap_err().is::<ConnectionLost>());
    assert_eq!(filter.servers.sent(), [0]);
    filter.servers.fates([Fate::Lost(10), Fate::Answered(0)]);
    assert!(filter.call(request("a", Some(11))).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_the_loss_is_told() {
    for (budget, most) in [(0., 0), (0.1, 10 + 9)] {
        let filter = Filter::new(
            lost(budget),
            Servers::new(2, [Fate::Lost(0), Fate::Answered(0)]),
        );
        let mut lost = 0;
        for _ in 0..100 {
            filter.servers.fates([Fate::Lost(0), Fate::Answered(0)]);
            lost += u64::from(filter.ask("a").await.is_err());
        }
        assert_eq!(lost, 100 - most);
        let refused = filter.forgone(Kind::Lost, Forgone::Budget);
        assert_eq!(refused, if budget > 0. { lost } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_leaves_no_try_behind() {
    let filter = Filter::new(lost(0.1), Servers::new(2, [Fate::Lost(1), Fate::Hangs]));
    let call = tokio::time::timeout(Duration::from_millis(5), filter.ask("a"));
    call.await.expect_err("it hangs");
    assert_eq!(filter.servers.sent(), [0, 1]);
    assert_eq!(filter.servers.under_way(), 0);
    assert_eq!(filter.tried(Kind::Lost, Outcome::Dropped), 1);
}

#[tokio::test(start_paused = true)]
async fn that_a_queue_has_no_place_hides_no_loss() {
    let filter = Filter::new(lost(1.), Servers::new(2, [Fate::Lost(1), Fate::Full]));
    assert!(filter.ask("a").await.unwrap_err().is::<ConnectionLost>());
    assert_eq!(filter.servers.sent(), [0, 1]);
    // What was not sent is told as such.
    filter.servers.fates([Fate::Full]);
    assert!(filter.ask("a").await.unwrap_err().is::<Overloaded>());
    assert_eq!(filter.servers.sent(), [0]);
}
