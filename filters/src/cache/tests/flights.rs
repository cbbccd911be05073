//! Single flight: the same is asked once, whoever leaves and whatever fails.

use super::*;
use crate::{deadline::Expired, overload::Overloaded};

/// A server that panics.
#[derive(Clone, Debug)]
struct Broken;

impl Service<Request> for Broken {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        Box::pin(async {
            tokio::task::yield_now().await;
            panic!("as the test wants it")
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_ask_the_same_at_once_are_one_row_to_the_model() {
    let mut script = Script::new(Config::default());
    let callers: Vec<_> = (0..1000)
        .map(|id| script.send(request(&id.to_string(), &[1])))
        .collect();
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [1]);
    script.expect_no_call().await;
    call.echo();
    settle().await;
    for (id, caller) in callers.into_iter().enumerate() {
        let response = answer(caller).await.unwrap();
        assert_eq!(marks(&response), [1]);
        if id > 0 {
            assert_eq!(response.id, id.to_string());
            let report = reported(&response);
            assert_eq!((report.result, report.joined), (CacheResult::Hit, 1));
        }
    }
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn rows_that_others_ask_for_are_joined() {
    let mut script = Script::new(Config::default());
    let one = script.send(request("a", &[1, 2]));
    let first = script.expect_call().await;
    let two = script.send(request("b", &[3, 2, 1]));
    let second = script.expect_call().await;
    assert_eq!(second.marks(), [3]);
    second.echo();
    script.expect_no_call().await;
    assert!(!two.is_finished());
    first.echo();
    assert_eq!(marks(&answer(one).await.unwrap()), [1, 2]);
    let response = answer(two).await.unwrap();
    assert_eq!(marks(&response), [3, 2, 1]);
    assert_eq!(reported(&response).result, CacheResult::Partial);
}

#[tokio::test(start_paused = true)]
async fn two_who_wait_for_each_other_are_both_answered() {
    let mut script = Script::new(Config::default());
    let a = script.send(request("a", &[1]));
    let first = script.expect_call().await;
    let b = script.send(request("b", &[2, 1]));
    let second = script.expect_call().await;
    let c = script.send(request("c", &[3, 2]));
    let third = script.expect_call().await;
    third.echo();
    second.echo();
    first.echo();
    for (caller, expected) in [(a, &[1][..]), (b, &[2, 1]), (c, &[3, 2])] {
        assert_eq!(marks(&answer(caller).await.unwrap()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn if_the_first_leaves_the_others_are_served() {
    let mut script = Script::new(Config::default());
    let leader = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    let follower = script.send(request("b", &[1]));
    settle().await;
    leader.abort();
    script.expect_no_call().await;
    call.echo();
    assert_eq!(marks(&answer(follower).await.unwrap()), [1]);
    assert!(script.knows(request("c", &[1])).await);
}

#[tokio::test(start_paused = true)]
async fn if_all_leave_the_call_is_given_up() {
    let mut script = Script::new(Config::default());
    let leader = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    let follower = script.send(request("b", &[1]));
    settle().await;
    leader.abort();
    settle().await;
    assert!(!call.reply.is_closed());
    follower.abort();
    settle().await;
    assert!(call.reply.is_closed());
    // Nothing is left behind that somebody would wait for.
    script.ask(request("c", &[1])).await;

    let alone = script.send(request("d", &[2]));
    let call = script.expect_call().await;
    alone.abort();
    settle().await;
    assert!(call.reply.is_closed());
    script.ask(request("e", &[2])).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_who_asked_the_same_and_not_stored() {
    let mut script = Script::new(Config::default());
    let callers: Vec<_> = (0..3).map(|_| script.send(request("a", &[1]))).collect();
    let call = script.expect_call().await;
    settle().await;
    call.fail(Status::new(Code::Internal, "out of memory"));
    for caller in callers {
        let error = answer(caller).await.unwrap_err();
        assert_eq!(cause::<Status>(&error).message(), "out of memory");
    }
    script.expect_no_call().await;
    assert!(!script.knows(request("b", &[1])).await);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_other_rows_is_nobody_elses() {
    let mut script = Script::new(Config::default());
    let bad = script.send(request("a", &[1, 66]));
    let call = script.expect_call().await;
    let good = script.send(request("b", &[1]));
    settle().await;
    call.fail(Status::new(Code::InvalidArgument, "66 is bad"));
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [1]);
    call.echo();
    assert!(answer(bad).await.is_err());
    assert_eq!(marks(&answer(good).await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_its_callers_own() {
    let mut script = Script::new(Config::default());
    let leader = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    let hasty = with(request("b", &[1]), |parts| {
        parts.head.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(5));
    });
    let hasty = script.send(hasty);
    let patient = script.send(request("c", &[1]));
    settle().await;
    advance(Duration::from_millis(5)).await;
    let error = answer(hasty).await.unwrap_err();
    cause::<Expired>(&error);
    call.fail(Status::new(Code::DeadlineExceeded, "too late"));
    // The leader's time was over, and not the other's.
    script.expect_call().await.echo();
    assert!(answer(leader).await.is_err());
    assert_eq!(marks(&answer(patient).await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_its_callers_own() {
    let mut script = Script::new(Config::default());
    let hasty = with(request("a", &[1]), |parts| {
        let timeout = ("timeout".into(), Parameter::Int64(1));
        parts.parameters = Parameters::from_iter([timeout]);
    });
    let hasty = script.send(hasty);
    let call = script.expect_call().await;
    let patient = script.send(request("b", &[1]));
    settle().await;
    // So Triton says it.
    call.fail(Status::new(Code::Unavailable, "Request timeout expired"));
    script.expect_call().await.echo();
    assert!(answer(hasty).await.is_err());
    assert_eq!(marks(&answer(patient).await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_place_in_a_queue_is_its_callers_own() {
    let mut script = Script::new(Config::default());
    let hasty = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    let patient = script.send(request("b", &[1]));
    settle().await;
    call.fail(Overloaded::late(Duration::from_millis(9), Duration::ZERO));
    script.expect_call().await.echo();
    assert!(answer(hasty).await.is_err());
    assert_eq!(marks(&answer(patient).await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_a_call_that_was_given_up_ask_as_one() {
    let mut script = Script::new(Config::default());
    let hasty = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    let patient: Vec<_> = (0..100).map(|_| script.send(request("b", &[1]))).collect();
    settle().await;
    call.fail(Status::new(Code::DeadlineExceeded, "too late"));
    let call = script.expect_call().await;
    script.expect_no_call().await;
    call.echo();
    assert!(answer(hasty).await.is_err());
    for caller in patient {
        assert_eq!(marks(&answer(caller).await.unwrap()), [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_the_models_own_answer_joins_nobody() {
    let mut script = Script::new(Config::default());
    let one = script.send(request("a", &[1]));
    let first = script.expect_call().await;
    let own = with(request("b", &[1]), |parts| parts.head.cache.no_cache = true);
    let two = script.send(own);
    let second = script.expect_call().await;
    second.echo();
    first.echo();
    assert!(answer(one).await.is_ok());
    assert!(answer(two).await.is_ok());
}

/// The one who asks is served in a runtime that ends.
#[test]
fn if_the_runtime_of_the_first_ends_the_others_ask_anew() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let mut script = first.block_on(async { Script::new(Config::default()) });
    let (leader, call) = first.block_on(async {
        let leader = script.send(request("a", &[1]));
        (leader, script.expect_call().await)
    });
    let mut followers = second.block_on(async {
        let follower = script.send(request("b", &[1]));
        settle().await;
        vec![follower]
    });
    drop(first);
    drop((leader, call));
    second.block_on(async {
        script.expect_call().await.echo();
        let follower = followers.remove(0);
        assert_eq!(marks(&answer(follower).await.unwrap()), [1]);
        assert!(script.knows(request("c", &[1])).await);
    });
}

#[tokio::test(start_paused = true)]
async fn a_panic_leaves_nobody_waiting() {
    let capability = Capability::new(Batchable::Unknown);
    let layer = CacheLayer::new(Config::default(), capability, Handles::default());
    let mut cache = layer.layer(Broken);
    let callers: Vec<_> = (0..5)
        .map(|_| tokio::spawn(cache.call(request("a", &[1]))))
        .collect();
    let until = tokio::time::Instant::now() + Duration::from_secs(1);
    for caller in callers {
        let ended = tokio::time::timeout_at(until, caller).await;
        assert!(ended.expect("an end").is_err());
    }
}
