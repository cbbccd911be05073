//! Rows that are known, rows that are not, and answers that are put together of both.

use super::*;

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
async fn a_row_that_was_answered_is_not_sent_again() {
    let mut script = Script::new(Config::default());
    let first = script.ask(request("a", &[1])).await;
    assert_eq!(reported(&first).result, CacheResult::Miss);
    let second = script.hit(request("b", &[1])).await;
    assert_eq!(marks(&second), [1]);
    assert_eq!(second.id, "b");
    assert_eq!(second.version, "7");
    assert_eq!(second.outputs, echo(&request("b", &[1])).outputs);
    let report = reported(&second);
    assert_eq!(report.result, CacheResult::Hit);
    assert_eq!((report.hits, report.sent), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn only_unknown_rows_are_sent_and_the_answer_is_in_order() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[2, 4])).await;
    let caller = script.send(request("b", &[1, 2, 3, 4, 5]));
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [1, 3, 5]);
    assert_eq!(call.request.inputs[0].shape, Shape::new([3, 2]));
    call.echo();
    let response = answer(caller).await.unwrap();
    assert_eq!(marks(&response), [1, 2, 3, 4, 5]);
    assert_eq!(response.outputs[0].shape, Shape::new([5, 2]));
    let report = reported(&response);
    assert_eq!(report.result, CacheResult::Partial);
    assert_eq!((report.hits, report.joined, report.sent), (2, 0, 3));
}

#[tokio::test(start_paused = true)]
async fn equal_rows_of_a_request_are_sent_once() {
    let mut script = Script::new(Config::default());
    let caller = script.send(request("a", &[7, 7, 8, 7]));
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [7, 8]);
    call.echo();
    let response = answer(caller).await.unwrap();
    assert_eq!(marks(&response), [7, 7, 8, 7]);
    assert_eq!(reported(&response).result, CacheResult::Miss);
    assert_eq!(script.view().rows, 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_which_nothing_is_known_goes_as_it_came() {
    let mut script = Script::new(Config::default());
    let wire: crate::inference::Wire = std::sync::Arc::new("the message");
    let parts = request("a", &[1, 2]).into_parts();
    let caller = script.send(Request::from_wire(parts, wire, 100));
    let call = script.expect_call().await;
    assert!(call.request.wire().is_some());
    call.echo();
    assert!(answer(caller).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_model_without_batches_has_whole_requests_stored() {
    let mut script = Script::new(Config::default());
    script
        .capability
        .set(Batchable::No(Unbatchable::NoBatchDimension));
    script.ask(request("a", &[1, 2])).await;
    assert!(!script.knows(request("b", &[1])).await);
    assert!(script.knows(request("c", &[1, 2])).await);
    assert!(!script.knows(request("d", &[2, 1])).await);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_keeps_state_is_always_asked() {
    let mut script = Script::new(Config::default());
    for (reason, word) in [
        (Unbatchable::Stateful, "stateful"),
        (Unbatchable::Decoupled, "decoupled"),
    ] {
        script.capability.set(Batchable::No(reason));
        for _ in 0..2 {
            let response = script.ask(request("a", &[1])).await;
            let report = reported(&response);
            assert_eq!(report.result, CacheResult::Bypass);
            assert_eq!(report.reason, Some(word));
        }
    }
    assert_eq!(script.view().rows, 0);
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
async fn sequences_and_shared_memory_are_never_stored() {
    let mut script = Script::new(Config::default());
    let sequence = with(request("a", &[1]), |parts| {
        let id = ("sequence_id".into(), Parameter::Uint64(7));
        parts.parameters = Parameters::from_iter([id]);
    });
    let absent = with(request("a", &[1]), |parts| {
        parts.inputs[0].form = Form::Absent;
    });
    let unknown = with(request("a", &[1]), |parts| {
        parts.unknown = Bytes::from_static(b"?").into();
    });
    let rows = script.view().rows;
    for (never, word) in [
        (sequence, "sequence"),
        (absent, "shared_memory"),
        (unknown, "unknown_fields"),
    ] {
        for _ in 0..2 {
            let caller = script.send(never.clone());
            script.expect_call().await.echo();
            let response = answer(caller).await.unwrap();
            assert_eq!(reported(&response).reason, Some(word));
        }
    }
    assert_eq!(script.view().rows, rows);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_one_caller_is_not_stored() {
    let mut script = Script::new(Config::default());
    for (name, value) in [
        ("set-cookie", "a=b"),
        ("cache-control", "max-age=1, No-Store"),
        ("cache-control", "private"),
    ] {
        for _ in 0..2 {
            let caller = script.send(request("a", &[1]));
            let call = script.expect_call().await;
            let mut response = echo(&call.request);
            response.headers = Metadata::new(vec![(name.into(), value.into())]);
            call.answer(response);
            assert!(answer(caller).await.is_ok());
        }
    }
    assert_eq!(script.view().rows, 0);
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
async fn headers_of_the_answer_are_given_again_but_for_those_of_one_call() {
    let mut script = Script::new(Config::default());
    let caller = script.send(request("a", &[1]));
    let call = script.expect_call().await;
    let mut response = echo(&call.request);
    response.headers = Metadata::new(vec![
        ("date".into(), "now".into()),
        ("ce-id".into(), "a".into()),
        ("ce-requestid".into(), "a".into()),
        ("x-model".into(), "digits".into()),
    ]);
    call.answer(response);
    let first = answer(caller).await.unwrap();
    assert_eq!(first.headers.iter().count(), 4);
    let second = script.hit(request("b", &[1])).await;
    let kept: Vec<_> = second.headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(kept, ["x-model"]);
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_answers_have_other_rows_has_whole_requests_stored() {
    let mut script = Script::new(Config::default());
    let one_row = |call: &Sent| {
        let mut response = echo(&call.request);
        response.outputs = vec![tensor("y", 1, vec![9, 9])];
        response
    };
    let caller = script.send(request("a", &[1, 2]));
    let call = script.expect_call().await;
    let response = one_row(&call);
    call.answer(response);
    assert_eq!(marks(&answer(caller).await.unwrap()), [9]);
    // Now it is known.
    let caller = script.send(request("a", &[1, 2]));
    let call = script.expect_call().await;
    let response = one_row(&call);
    call.answer(response);
    assert_eq!(marks(&answer(caller).await.unwrap()), [9]);
    assert_eq!(marks(&script.hit(request("b", &[1, 2])).await), [9]);
    assert!(!script.knows(request("c", &[1])).await);
}

#[tokio::test(start_paused = true)]
async fn rows_that_do_not_go_together_are_asked_anew_as_one_request() {
    let mut script = Script::new(Config::default());
    let caller = script.send(request("a", &[1]));
    wide(script.expect_call().await, 1);
    assert!(answer(caller).await.is_ok());
    let caller = script.send(request("b", &[1, 3]));
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [3]);
    wide(call, 3);
    let call = script.expect_call().await;
    assert_eq!(call.marks(), [1, 3]);
    wide(call, 3);
    let response = answer(caller).await.unwrap();
    assert_eq!(response.outputs[0].shape, Shape::new([2, 3]));
    assert_eq!(response.outputs[0].data.len(), 6);
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

#[tokio::test(start_paused = true)]
async fn several_outputs_of_any_length_are_given_again_as_they_were() {
    let mut script = Script::new(Config::default());
    let text = |words: &[&str]| {
        let mut data = Vec::new();
        for word in words {
            data.extend_from_slice(&(word.len() as u32).to_le_bytes());
            data.extend_from_slice(word.as_bytes());
        }
        Tensor {
            datatype: Datatype::Bytes,
            shape: Shape::new([words.len() as i64, 1]),
            ..tensor("label", 1, data)
        }
    };
    let json = |values: &'static str, rows| Tensor {
        form: Form::Flat,
        shape: Shape::new([rows, 2]),
        ..tensor("scores", 1, values)
    };
    let caller = script.send(request("a", &[1, 2]));
    let call = script.expect_call().await;
    let mut response = echo(&call.request);
    response.outputs.push(text(&["one", ""]));
    response.outputs.push(json("0.5,1e-7,2,[3]", 2));
    let whole = response.outputs.clone();
    call.answer(response);
    assert!(answer(caller).await.is_ok());
    assert_eq!(script.hit(request("b", &[1, 2])).await.outputs, whole);
    let swapped = script.hit(request("c", &[2, 1])).await;
    assert_eq!(swapped.outputs[1], text(&["", "one"]));
    assert_eq!(swapped.outputs[2].data.to_bytes(), "2,[3],0.5,1e-7");
}

#[tokio::test(start_paused = true)]
async fn the_predictions_of_an_input_are_found_without_asking() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[1, 2])).await;
    let store = script.cache.store().clone();
    let found = store.lookup(&request("b", &[2, 1])).unwrap();
    assert_eq!(marks(&found), [2, 1]);
    assert!(store.lookup(&request("c", &[2, 3])).is_none());
    assert_eq!(script.view().hits, 0);
}

#[tokio::test(start_paused = true)]
async fn the_rows_that_were_asked_for_last_can_be_asked_again() {
    let mut script = Script::new(Config::default());
    script.ask(request("a", &[1, 2, 3])).await;
    let hottest = script.cache.store().hottest(10);
    let mut asked: Vec<_> = hottest
        .iter()
        .map(|request| request.inputs[0].data.to_bytes()[0])
        .collect();
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 3]);
    assert!(hottest.iter().all(|request| request.rows() == Ok(1)));
    for request in hottest {
        script.hit(request).await;
    }
}

const ONLY_IF_CACHED: CacheControl = CacheControl {
    no_cache: false,
    no_store: false,
    max_age: None,
    only_if_cached: true,
};
