//! What goes together, and what goes alone.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lone_request_goes_at_once_in_its_wire_form() {
    let mut script = Script::new(fixed(32));
    let wire: Wire = std::sync::Arc::new("the message");
    let lone = Request::from_wire(request("a", 1, 1).into_parts(), wire.clone(), 11);
    let began = Instant::now();
    let mut caller = script.send(lone);
    let sent = script.expect_call().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(std::sync::Arc::ptr_eq(sent.request.wire().unwrap(), &wire));
    assert_eq!(sent.request.head.id, "a");
    let reply: Wire = std::sync::Arc::new("the answer");
    let parts = echo(&sent.request).into_parts();
    advance(Duration::from_millis(5)).await;
    sent.reply
        .send(Ok(Response::from_wire(parts, reply.clone())))
        .unwrap();
    let response = answer(&mut caller).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(response.wire().unwrap(), &reply));
    assert_eq!(response.report.batch_rows, Some(1));
    assert_eq!(response.report.queue, Some(Duration::ZERO));
    assert_eq!(response.report.upstream, Some(Duration::from_millis(5)));
    assert_eq!(script.batch.load(), 0);
    let view = script.batch.view();
    assert_eq!(view.in_flight, 0);
    let p99 = view.p99.expect("a request was answered");
    assert!((5.0..5.7).contains(&(p99.as_secs_f64() * 1e3)), "{p99:?}");
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_what_calls_take() {
    let mut script = Script::new(Config {
        controller: config::Controller::Aimd,
        max_batch_size: Some(100),
        ..Config::default()
    });
    let _callers: Vec<_> = (0..40).map(|_| script.send(request("", 1, 0))).collect();
    let mut rows = Vec::new();
    while let Some(call) = script.call().await {
        rows.push(call.rows());
        advance(Duration::from_millis(1)).await;
        call.echo();
    }
    assert_eq!(rows, [1, 2, 4, 8, 16, 9]);
    assert_eq!(script.batch.view().batch_limit, 32);
    assert_eq!(script.batch.shared().metrics.limit.get(), 32);
    // Calls that take longer than the objective are made smaller.
    let _callers: Vec<_> = (0..101).map(|_| script.send(request("", 1, 0))).collect();
    let mut rows = Vec::new();
    while let Some(call) = script.call().await {
        rows.push(call.rows());
        advance(Duration::from_millis(40)).await;
        call.echo();
    }
    assert_eq!(rows[..4], [1, 32, 16, 8]);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_call_leaves_as_one_batch_in_order() {
    let mut script = Script::new(fixed(32));
    let mut first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut callers: Vec<_> = (1..=5)
        .map(|mark| script.send(request(&format!("id{mark}"), usize::from(mark), mark)))
        .collect();
    script.expect_no_call().await;
    assert_eq!(script.batch.view().queue_rows, 15);
    assert_eq!(script.batch.view().queue_bytes, 30);
    assert_eq!(script.batch.load(), 16);
    advance(Duration::from_millis(3)).await;
    call.echo();
    let merged = script.expect_call().await;
    assert!(poll(&mut first).is_ready());
    assert_eq!(merged.rows(), 15);
    assert_eq!(merged.request.inputs[0].data.pieces().len(), 5);
    assert!(merged.request.head.id.is_empty());
    advance(Duration::from_millis(2)).await;
    merged.echo();
    for (mark, caller) in (1..=5_u8).zip(&mut callers) {
        let response = answer(caller).await.unwrap();
        assert_eq!(response.id, format!("id{mark}"));
        assert_eq!(marks(&response), vec![mark; usize::from(mark) * 2]);
        assert_eq!(response.outputs[0].shape.dimensions(), [i64::from(mark), 2]);
        assert_eq!(response.version, "7");
        assert_eq!(response.report.batch_rows, Some(15));
        assert_eq!(response.report.queue, Some(Duration::from_millis(3)));
        assert_eq!(response.report.upstream, Some(Duration::from_millis(2)));
    }
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_rows_and_the_bound_of_bytes_close_a_batch() {
    let mut script = Script::new(Config {
        max_batch_bytes: 10,
        ..fixed(4)
    });
    let _callers: Vec<_> = [1, 3, 1, 2, 2, 9, 1]
        .map(|rows| script.send(request("", rows, 0)))
        .into();
    for expected in [1, 4, 4, 9, 1] {
        let call = script.expect_call().await;
        assert_eq!(call.rows(), expected);
        call.echo();
    }
    let mut script = Script::new(Config {
        max_batch_bytes: 10,
        ..fixed(400)
    });
    let _callers: Vec<_> = [1, 3, 1, 2, 2, 9, 1]
        .map(|rows| script.send(request("", rows, 0)))
        .into();
    for expected in [1, 4, 4, 9, 1] {
        let call = script.expect_call().await;
        assert_eq!(call.rows(), expected);
        call.echo();
    }
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn as_many_calls_are_under_way_as_the_configuration_says() {
    let mut script = Script::new(Config {
        max_in_flight: InFlight::Fixed(2),
        ..fixed(32)
    });
    let _callers: Vec<_> = (0..5).map(|_| script.send(request("", 1, 0))).collect();
    let one = script.expect_call().await;
    let two = script.expect_call().await;
    script.expect_no_call().await;
    assert_eq!(script.batch.view().in_flight, 2);
    two.echo();
    assert_eq!(script.expect_call().await.rows(), 3);
    one.echo();
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn a_merged_call_carries_what_is_left_of_the_shortest_timeout() {
    let mut script = Script::new(fixed(32));
    let within = |micros: i64| {
        with(request("", 1, 1), |parts| {
            parts
                .parameters
                .insert("timeout".into(), Parameter::Int64(micros));
        })
    };
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let _waiting = [script.send(within(9000)), script.send(within(5000))];
    advance(Duration::from_millis(2)).await;
    let _last = script.send(within(4000));
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 3);
    assert_eq!(
        call.request.parameters.get("timeout"),
        Some(&Parameter::Int64(3000))
    );
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_merged_goes_alone_at_once_as_it_came() {
    let int = |name: &'static str, value| {
        move |parts: &mut RequestParts| {
            parts.parameters.insert(name.into(), value);
        }
    };
    type Change = Box<dyn FnOnce(&mut RequestParts)>;
    let changes: Vec<(Alone, Change)> = vec![
        (
            Alone::Sequence,
            Box::new(int("sequence_id", Parameter::Int64(4))),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_id", Parameter::String("s".into()))),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_id", Parameter::Unset)),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_start", Parameter::Bool(true))),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_end", Parameter::Int64(1))),
        ),
        (
            Alone::SharedMemory,
            Box::new(|parts| {
                parts.inputs[0]
                    .parameters
                    .insert("shared_memory_region".into(), Parameter::String("r".into()));
            }),
        ),
        (
            Alone::SharedMemory,
            Box::new(|parts| {
                let mut parameters = Parameters::default();
                parameters.insert("shared_memory_byte_size".into(), Parameter::Int64(8));
                parts.outputs.push(RequestedOutput {
                    name: "y".into(),
                    parameters,
                    unknown: Payload::new(),
                });
            }),
        ),
        (
            Alone::Unknown,
            Box::new(|parts| parts.unknown = Bytes::from_static(b"?").into()),
        ),
        (
            Alone::Unknown,
            Box::new(|parts| parts.inputs[0].unknown = Bytes::from_static(b"?").into()),
        ),
        (
            Alone::Unknown,
            Box::new(|parts| {
                parts.outputs.push(RequestedOutput {
                    name: "y".into(),
                    parameters: Parameters::default(),
                    unknown: Bytes::from_static(b"?").into(),
                });
            }),
        ),
        (
            Alone::NoRows(NoRows::Absent),
            Box::new(|parts| parts.inputs[0].form = Form::Absent),
        ),
        (
            Alone::NoRows(NoRows::Scalar),
            Box::new(|parts| parts.inputs[0].shape = Shape::default()),
        ),
        (
            Alone::NoRows(NoRows::NotPositive),
            Box::new(|parts| parts.inputs[0].shape = Shape::new([-1, 2])),
        ),
        (
            Alone::NoRows(NoRows::Length),
            Box::new(|parts| parts.inputs[0].shape = Shape::new([1, 3])),
        ),
        (
            Alone::NoRows(NoRows::NoInputs),
            Box::new(|parts| parts.inputs.clear()),
        ),
        (
            Alone::NoRows(NoRows::Disagree),
            Box::new(|parts| parts.inputs.push(tensor("z", 2, vec![0; 4]))),
        ),
        (
            Alone::Parameters,
            Box::new(|parts| {
                for index in 0..17 {
                    parts
                        .parameters
                        .insert(format!("p{index}").into(), Parameter::Unset);
                }
            }),
        ),
    ];
    let mut script = Script::new(fixed(32));
    let _busy = script.send(request("busy", 1, 0));
    let _call = script.expect_call().await;
    for (reason, change) in changes {
        let before = script.batch.shared().metrics.alone(reason).get();
        let wire: Wire = std::sync::Arc::new(());
        let lone = with(request("alone", 1, 1), change).into_parts();
        let mut caller = script.send(Request::from_wire(lone, wire, 11));
        assert!(poll(&mut caller).is_pending());
        let call = script.call().await.unwrap_or_else(|| panic!("{reason:?}"));
        assert!(call.request.wire().is_some(), "{reason:?}");
        let counted = script.batch.shared().metrics.alone(reason).get();
        assert_eq!(counted, before + 1, "{reason:?}");
        assert_eq!(script.batch.load(), 2);
        call.fail("no");
        assert!(answer(&mut caller).await.is_err());
        assert_eq!(script.batch.load(), 1);
    }
    // What says outright that there is no sequence is merged like any other.
    let none = with(request("", 1, 1), |parts| {
        for (name, value) in [
            ("sequence_id", Parameter::Int64(0)),
            ("sequence_start", Parameter::Bool(false)),
        ] {
            parts.parameters.insert(name.into(), value);
        }
    });
    let mut waits = script.send(none);
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.batch.view().queue_rows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_model_of_which_nothing_is_known_is_sent_no_batches() {
    let mut script = Script::new(Config {
        max_batch_size: None,
        ..fixed(32)
    });
    script.capability.set(Batchable::Unknown);
    let mut callers: Vec<_> = (0..3).map(|_| script.send(request("", 1, 0))).collect();
    for caller in &mut callers {
        assert!(poll(caller).is_pending());
        assert_eq!(script.expect_call().await.rows(), 1);
    }
    // Once the server has said so, they are merged, within the server's bound.
    script.capability.set(Batchable::Yes {
        max_batch_size: Some(2),
    });
    let _callers: Vec<_> = (0..4).map(|_| script.send(request("", 1, 0))).collect();
    script.expect_call().await.echo();
    script.expect_call().await.echo();
    assert_eq!(script.expect_call().await.rows(), 1);
    assert_eq!(script.batch.view().batch_limit, 2);
}

#[tokio::test(start_paused = true)]
async fn a_configured_bound_says_that_the_model_takes_batches_unless_it_is_known_not_to() {
    let mut script = Script::new(fixed(3));
    script.capability.set(Batchable::Unknown);
    let _first = script.send(request("", 1, 0));
    let call = script.expect_call().await;
    let mut waits = script.send(request("", 1, 0));
    script.expect_no_call().await;
    script.capability.set(Batchable::No(Unbatchable::Decoupled));
    let mut alone = script.send(request("", 1, 0));
    assert!(poll(&mut alone).is_pending());
    assert_eq!(script.expect_call().await.rows(), 1);
    // Whoever waited is not left behind, although no batch will come for it.
    call.echo();
    settle().await;
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.expect_call().await.rows(), 1);
    assert_eq!(script.batch.view().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn rows_without_contents_teach_nothing() {
    let mut script = Script::new(Config {
        max_batch_size: Some(4096),
        ..Config::default()
    });
    // 4 ms and a millisecond a row: some ten rows are within 20 ms.
    let mut waiting = Vec::new();
    let mut limits = Vec::new();
    for round in 0..400 {
        if round == 300 {
            // The server answers what has no bytes.
            {
                while let Some(call) = script.call().await {
                    advance(Duration::from_millis(4 + call.rows() as u64)).await;
                    call.echo();
                }
                waiting.clear();
                settle().await;
                let mut hollow = script.send(with(request("", 1, 0), |parts| {
                    parts.inputs[0].shape = Shape::new([1 << 62, 0]);
                    parts.inputs[0].data = Payload::new();
                }));
                assert!(poll(&mut hollow).is_pending());
                let call = script.expect_call().await;
                advance(Duration::from_millis(4)).await;
                call.reply.send(Ok(echo(&request("", 1, 0)))).unwrap();
                assert!(answer(&mut hollow).await.is_ok());
            }
        }
        while waiting.len() < 200 {
            waiting.push(script.send(request("", 1, 0)));
        }
        let call = script.expect_call().await;
        advance(Duration::from_millis(4 + call.rows() as u64)).await;
        call.echo();
        settle().await;
        waiting.retain_mut(|caller| poll(caller).is_pending());
        limits.push(script.batch.view().batch_limit);
    }
    let before = *limits[200..300].iter().max().unwrap();
    let after = *limits[300..].iter().max().unwrap();
    assert!(after <= 2 * before, "{before} rows, then {after}");
}
