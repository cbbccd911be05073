//! What was found by looking for ways to break the promises.

use super::*;

const ONLY_IF_CACHED: CacheControl = CacheControl {
    no_cache: false,
    no_store: false,
    max_age: None,
    only_if_cached: true,
};

/// Answers with rows that are so wide.
fn wide(call: Sent, width: usize) {
    let mut response = echo(&call.request);
    let output = &mut response.outputs[0];
    let rows = output.shape.rows().unwrap();
    output.shape = Shape::new([rows as i64, width as i64]);
    output.data = Bytes::from(vec![5; rows * width]).into();
    call.answer(response);
}

/// Has rows 1 and 3 stored, whose answers do not go together.
async fn unlike() -> Script {
    let mut script = Script::new(Config::default());
    for mark in [1, 3] {
        let caller = script.send(request("a", &[mark]));
        wide(script.expect_call().await, mark.into());
        answer(caller).await.unwrap();
    }
    script
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_model_asked_is_told_when_stored_rows_do_not_go_together() {
    let mut script = unlike().await;
    let asked = with(request("b", &[1, 3]), |parts| {
        parts.head.cache = ONLY_IF_CACHED;
    });
    let caller = script.send(asked);
    script.expect_no_call().await;
    cause::<NotCached>(&answer(caller).await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_all_known_and_do_not_go_together_have_whole_requests_stored() {
    let mut script = unlike().await;
    let caller = script.send(request("b", &[1, 3]));
    wide(script.expect_call().await, 3);
    answer(caller).await.unwrap();
    script.hit(request("c", &[1, 3])).await;
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
async fn an_answer_for_one_caller_costs_one_more_call_at_most() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[1])).await;
    let caller = script.send(request("b", &[1, 2]));
    let mut calls = Vec::new();
    while let Some(call) = script.call().await {
        calls.push(call.marks());
        let mut response = echo(&call.request);
        response.headers = Metadata::new(vec![("set-cookie".into(), "a=b".into())]);
        call.answer(response);
    }
    assert_eq!(marks(&answer(caller).await.unwrap()), [1, 2]);
    assert_eq!(calls, [vec![2], vec![1, 2]]);
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

/// For the versions that take no batches, requests are whole whatever the configuration says.
#[tokio::test(start_paused = true)]
async fn nothing_is_stored_before_the_server_has_said_whether_the_model_keeps_state() {
    for unit in [Unit::Auto, Unit::Row, Unit::Request] {
        let (sender, calls) = mpsc::unbounded_channel();
        let capability = Capability::new(Batchable::Unasked);
        let layer = CacheLayer::new(Config::default(), capability.clone(), Handles::default());
        let mut script = Script {
            cache: layer.with_unit(unit).layer(Upstream(sender)),
            calls,
            capability,
        };
        for _ in 0..2 {
            assert!(!script.knows(request("a", &[1])).await, "{unit:?}");
        }
        assert_eq!(script.view().rows, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_turns_out_to_keep_state_is_not_stored_when_it_is_asked_again() {
    let mut script = Script::new(Config::default());
    let hasty = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    let patient = script.send(request("b", &[1]));
    settle().await;
    script.capability.set(Batchable::No(Unbatchable::Stateful));
    call.fail(Status::new(Code::DeadlineExceeded, "too late"));
    script.expect_call().await.echo();
    assert!(answer(hasty).await.is_err());
    let response = answer(patient).await.unwrap();
    assert_eq!(reported(&response).reason, Some("stateful"));
    assert_eq!(script.view().rows, 0);
}

#[tokio::test(start_paused = true)]
async fn a_shape_that_lies_is_not_counted_as_rows() {
    let mut script = Script::new(Config::default());
    for _ in 0..4 {
        let lying = with(request("a", &[1]), |parts| {
            parts.inputs[0].shape = Shape::new([i64::MAX, 2]);
            parts.inputs[0].form = Form::Absent;
        });
        script.ask(lying).await;
    }
    let bypassed = script.view().bypassed;
    assert!((4..1 << 20).contains(&bypassed), "{bypassed}");
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

/// A row whose caller has a header that nobody else has.
fn with_header(number: u64, tenant: &'static str, len: usize) -> Request {
    with(request("a", &[1]), |parts| {
        let mut data = vec![0; 16];
        data[..8].copy_from_slice(&number.to_le_bytes());
        parts.inputs[0].shape = Shape::new([1, 16]);
        parts.inputs[0].data = Bytes::from(data).into();
        let token = format!("{number:0len$}");
        parts.head.metadata = Metadata::new(vec![
            ("x-tenant".into(), tenant.into()),
            ("x-token".into(), token.into()),
        ]);
    })
}

fn shared(number: u64, tenant: &'static str) -> Request {
    with(with_header(number, tenant, 1), |parts| {
        parts.head.metadata = Metadata::new(vec![("x-tenant".into(), tenant.into())]);
    })
}

#[tokio::test(start_paused = true)]
async fn bytes_stay_within_their_bound_whatever_headers_come() {
    for len in [100, 2000, 10_000, 60_000] {
        let mut script = Script::new(Config {
            max_bytes: 64 << 10,
            bypass: Bypass::Never,
            ..Config::default()
        });
        for number in 0..400 {
            script.ask(with_header(number, "a", len)).await;
            let view = script.view();
            assert!(view.bytes <= view.max_bytes, "{len}: {view:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_tenant_cannot_fill_the_cache_with_headers() {
    let mut script = Script::new(Config {
        max_bytes: 1 << 20,
        bypass: Bypass::Never,
        tenant: Some(Tenant {
            header: "x-tenant".into(),
            max_bytes: 256 << 10,
        }),
        ..Config::default()
    });
    for number in 0..200 {
        script.ask(shared(number, "small")).await;
    }
    for number in 0..3000 {
        script.ask(with_header(number, "large", 2000)).await;
    }
    for number in 0..200 {
        assert!(script.knows(shared(number, "small")).await, "{number}");
    }
    // The large one's share, the small one's rows, and what was used last.
    let view = script.view();
    assert!(view.bytes < 600 << 10, "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn a_scan_by_callers_with_headers_of_their_own_leaves_what_is_asked_for_often() {
    let mut script = Script::new(Config {
        max_bytes: 1 << 20,
        bypass: Bypass::Never,
        ..Config::default()
    });
    for _ in 0..3 {
        for number in 0..200 {
            script.ask(shared(number, "a")).await;
        }
    }
    let (mut known, mut asked) = (0, 0);
    for number in 0..5000 {
        script.ask(with_header(number, "a", 2000)).await;
        if number % 5 == 0 {
            let is_known = script.knows(shared(number / 5 % 200, "a")).await;
            // Once it is full and has seen what is hot.
            if number >= 3000 {
                asked += 1;
                known += usize::from(is_known);
            }
        }
    }
    assert!(known * 100 >= asked * 95, "{known} of {asked}");
}

#[tokio::test(start_paused = true)]
async fn what_a_long_shape_takes_is_counted() {
    let bytes = |rank: usize| async move {
        let mut script = Script::new(Config::default());
        let asked = with(request("a", &[1]), |parts| {
            let dimensions = std::iter::repeat_n(1, rank - 1);
            parts.inputs[0].shape = Shape::new(dimensions.chain([2]));
        });
        script.ask(asked).await;
        script.view().bytes
    };
    let (short, long) = (bytes(2).await, bytes(64).await);
    // Of the question and of the answer's frame.
    assert!(long >= short + 2 * 64 * 8, "{short} {long}");
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

#[tokio::test(start_paused = true)]
async fn callers_who_wait_take_no_room_from_what_is_stored() {
    let mut script = Script::new(Config {
        max_bytes: 1 << 20,
        bypass: Bypass::Never,
        ..Config::default()
    });
    for number in 0..100 {
        script.ask(shared(number, "a")).await;
    }
    let (mut callers, mut calls) = (Vec::new(), Vec::new());
    for number in 0..200 {
        callers.push(script.send(with_header(number, "a", 60_000)));
        calls.push(script.expect_call().await);
    }
    script.ask(shared(100, "a")).await;
    let view = script.view();
    assert!(view.bytes <= view.max_bytes, "{view:?}");
    for number in 0..=100 {
        assert!(script.knows(shared(number, "a")).await, "{number}");
    }
}
