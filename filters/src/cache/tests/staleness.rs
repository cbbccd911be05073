//! How old an answer may be, and what makes all forget.

use super::*;

fn asking(control: CacheControl, marks: &[u8]) -> Request {
    with(request("a", marks), |parts| parts.head.cache = control)
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_for_its_time_and_no_longer() {
    let mut script = Script::new(Config {
        ttl: Duration::from_secs(100),
        ..Config::default()
    });
    script.ask(request("a", &[1])).await;
    advance(Duration::from_secs(89)).await;
    let response = script.hit(request("b", &[1])).await;
    assert_eq!(reported(&response).age, Some(Duration::from_secs(89)));
    advance(Duration::from_secs(11)).await;
    let response = script.ask(request("c", &[1])).await;
    let report = reported(&response);
    assert_eq!(
        (report.result, report.reason),
        (CacheResult::Miss, Some("expired"))
    );
    assert!(script.knows(request("d", &[1])).await);
}

#[tokio::test(start_paused = true)]
async fn a_time_without_end_is_one() {
    let mut script = Script::new(Config {
        ttl: Duration::MAX,
        ..Config::default()
    });
    let marks: Vec<u8> = (0..64).collect();
    script.ask(request("a", &marks)).await;
    advance(Duration::from_secs(1 << 30)).await;
    script.hit(request("b", &marks)).await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_the_models_own_answer_has_it_and_it_is_stored() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[1])).await;
    let no_cache = CacheControl {
        no_cache: true,
        ..CacheControl::default()
    };
    advance(Duration::from_secs(5)).await;
    let response = script.ask(asking(no_cache, &[1])).await;
    assert_eq!(reported(&response).reason, Some("no_cache"));
    assert_eq!(
        reported(&script.hit(request("b", &[1])).await).age,
        Some(Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn who_wants_nothing_stored_has_nothing_stored_nor_looked_for() {
    let mut script = Script::new(Config::default());
    let no_store = CacheControl {
        no_store: true,
        ..CacheControl::default()
    };
    let response = script.ask(asking(no_store, &[1])).await;
    let report = reported(&response);
    assert_eq!(
        (report.result, report.reason),
        (CacheResult::Bypass, Some("no_store"))
    );
    assert_eq!(script.view().rows, 0);
    script.ask(request("b", &[1])).await;
    let caller = script.send(asking(no_store, &[1]));
    script.expect_call().await.echo();
    assert!(answer(caller).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_old_for_one_is_not_for_another() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[1])).await;
    advance(Duration::from_secs(10)).await;
    let within = |seconds| CacheControl {
        max_age: Some(Duration::from_secs(seconds)),
        ..CacheControl::default()
    };
    script.hit(asking(within(10), &[1])).await;
    let caller = script.send(asking(within(9), &[1]));
    script.expect_call().await.echo();
    assert!(answer(caller).await.is_ok());
    script.hit(asking(within(0), &[1])).await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_model_asked_is_told_when_nothing_is_stored() {
    let mut script = Script::new(Config::default());
    let only = CacheControl {
        only_if_cached: true,
        ..CacheControl::default()
    };
    script.ask(request("a", &[1])).await;
    script.hit(asking(only, &[1])).await;
    for marks in [&[2][..], &[1, 2]] {
        let caller = script.send(asking(only, marks));
        script.expect_no_call().await;
        let error = answer(caller).await.unwrap_err();
        cause::<NotCached>(&error);
    }
    // Nobody waits for what nobody asks.
    script.ask(request("b", &[2])).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_flushed_is_asked_again() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[1, 2])).await;
    assert_eq!(script.cache.store().flush(Flush::Asked), 2);
    assert_eq!(script.view().rows, 0);
    assert!(!script.knows(request("b", &[1])).await);
    assert!(script.knows(request("c", &[1])).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_at_a_flush_is_not_stored_nor_joined() {
    let mut script = Script::new(Config::default());
    let before = script.send(request("a", &[1]));
    let old = script.expect_call().await;
    script.cache.store().flush(Flush::Control);
    let after = script.send(request("b", &[1]));
    let new = script.expect_call().await;
    let mut answer_of_old = echo(&old.request);
    answer_of_old.outputs = vec![tensor("y", 1, vec![8, 8])];
    old.answer(answer_of_old);
    assert_eq!(marks(&answer(before).await.unwrap()), [8]);
    let third = script.send(request("c", &[1]));
    script.expect_no_call().await;
    new.echo();
    assert_eq!(marks(&answer(after).await.unwrap()), [1]);
    assert_eq!(marks(&answer(third).await.unwrap()), [1]);
    assert_eq!(marks(&script.hit(request("d", &[1])).await), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_version_makes_all_forget() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[1, 2])).await;
    let caller = script.send(request("b", &[2, 3]));
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [3]);
    let mut of_8 = echo(&call.request);
    of_8.version = "8".into();
    call.answer(of_8);
    // Rows of two versions do not go together.
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [2, 3]);
    let mut of_8 = echo(&call.request);
    of_8.version = "8".into();
    call.answer(of_8);
    let response = answer(caller).await.unwrap();
    assert_eq!(response.version, "8");
    assert_eq!(marks(&response), [2, 3]);
    assert!(!script.knows(request("c", &[1])).await);
}

/// The server says no version, so that answers of two models look alike.
#[tokio::test(start_paused = true)]
async fn rows_of_before_and_after_a_flush_do_not_stand_in_one_answer() {
    let mut script = Script::new(Config::default());
    let of_model = |call: Sent, model: u8| {
        let mut response = echo(&call.request);
        response.version = "".into();
        let rows = response.outputs[0].shape.rows().unwrap();
        response.outputs[0].data = Bytes::from(vec![model; rows * 2]).into();
        call.answer(response);
    };
    let caller = script.send(request("a", &[1]));
    of_model(script.expect_call().await, 7);
    answer(caller).await.unwrap();
    let torn = script.send(request("b", &[1, 2]));
    let call = script.expect_call().await;
    script.cache.store().flush(Flush::Control);
    of_model(call, 8);
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [1, 2]);
    of_model(call, 8);
    assert_eq!(marks(&answer(torn).await.unwrap()), [8, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_of_the_old_version_makes_nobody_forget_the_new_one() {
    let mut script = Script::new(Config::default());
    let of_version = |call: Sent, version: &'static str| {
        let mut response = echo(&call.request);
        response.version = version.into();
        call.answer(response);
    };
    let late = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    script.cache.store().flush(Flush::Version);
    for mark in [2, 3] {
        let caller = script.send(request("b", &[mark]));
        of_version(script.expect_call().await, "8");
        answer(caller).await.unwrap();
    }
    of_version(call, "7");
    answer(late).await.unwrap();
    script.hit(request("c", &[2, 3])).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_with_other_rows_says_nothing_of_the_next_model() {
    let mut script = Script::new(Config::default());
    let late = script.send(request("a", &[1, 2]));
    let call = script.expect_call().await;
    script.cache.store().flush(Flush::Version);
    let mut response = echo(&call.request);
    response.outputs = vec![tensor("y", 1, vec![9, 9])];
    call.answer(response);
    answer(late).await.unwrap();
    script.ask(request("b", &[1, 2])).await;
    script.hit(request("c", &[2])).await;
}

/// Also where the flush comes between the answer and its place in the store.
#[test]
fn an_answer_that_lands_after_a_flush_is_not_stored() {
    let asked = request("a", &[1]);
    for is_flushed in [false, true] {
        let store = Collided::new(true);
        let asking = store.begin(&asked);
        if is_flushed {
            store.entries.flush();
            assert!(!store.is_under_way(&asked));
        }
        store.land(asking, &asked);
        assert_eq!(store.is_stored(&asked), !is_flushed);
    }
}
