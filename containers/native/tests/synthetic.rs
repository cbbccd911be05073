//! What synthetic models promise: order, accounting, faults.

mod support;

use std::time::Duration;

use outrigger_native::inference::*;
use outrigger_native::{
    Curve, Datatype, Fault, Faults, Output, Server, Shapes, Synthetic, Tensor, TensorSpec,
};
use support::{connect, numbers, raw, rows, serve, wanting};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

#[tokio::test]
async fn calls_are_executed_in_the_order_of_their_arrival() {
    let (server, client) = serve(Synthetic::new("echo")).await;
    let echo = server.handle("echo").expect("it is served");
    echo.pause();
    let (answered, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..8_u16 {
        let (mut client, answered) = (client.clone(), answered.clone());
        tokio::spawn(async move {
            let answer = client.model_infer(rows("echo", &[number.into()])).await;
            answered
                .send(numbers(answer.expect("it echoes").get_ref()))
                .expect("we wait for it");
        });
        echo.until(|counters| counters.in_flight == u64::from(number) + 1)
            .await;
    }
    echo.resume();
    for number in 0..8_u16 {
        assert_eq!(order.recv().await, Some(vec![number.into()]));
    }
    server.stop().await;
}

#[tokio::test]
async fn every_call_is_accounted_for() {
    let curve = Curve::new(Duration::from_micros(300), Duration::from_micros(100));
    let (server, mut client) = serve(Synthetic {
        curve,
        ..Synthetic::new("echo")
    })
    .await;
    let echo = server.handle("echo").expect("it is served");
    for size in [1, 4, 4, 2] {
        let mut request = Request::new(rows("echo", &vec![0.0; size]));
        request
            .metadata_mut()
            .insert("x-user", size.to_string().parse().expect("a number"));
        client.model_infer(request).await.expect("it echoes");
    }
    client
        .model_infer(raw("echo", "input0", Datatype::Fp32, &[2, 1], vec![0; 7]))
        .await
        .expect_err("7 bytes");
    let counters = echo.counters();
    assert_eq!(
        (counters.received, counters.calls, counters.rows),
        (4, 4, 11)
    );
    assert_eq!(
        (counters.succeeded, counters.failed, counters.cancelled),
        (4, 0, 0)
    );
    assert_eq!(
        (counters.in_flight, counters.max_in_flight, counters.refused),
        (0, 1, 1)
    );
    let batches: Vec<_> = counters
        .batches
        .iter()
        .map(|(rows, batch)| (*rows, batch.calls))
        .collect();
    assert_eq!(batches, [(1, 1), (2, 1), (4, 2)]);
    assert_eq!(
        counters.last_metadata.get("x-user").expect("it was sent"),
        "2"
    );
    // A call is never shorter than its curve by more than the alarm anticipates.
    for (rows, batch) in &counters.batches {
        let least = curve.cost(*rows) - Duration::from_micros(160);
        assert!(
            batch.time >= least * u32::try_from(batch.calls).expect("few"),
            "{rows}: {batch:?}"
        );
    }

    let request = ModelStatisticsRequest {
        name: "echo".to_owned(),
        ..Default::default()
    };
    let statistics = client
        .model_statistics(request)
        .await
        .expect("it counts")
        .into_inner();
    let model = &statistics.model_stats[0];
    assert_eq!((model.inference_count, model.execution_count), (11, 4));
    let batches = model.batch_stats.iter().map(|batch| {
        (
            batch.batch_size,
            batch.compute_infer.as_ref().map(|infer| infer.count),
        )
    });
    assert_eq!(
        batches.collect::<Vec<_>>(),
        [(1, Some(1)), (2, Some(1)), (4, Some(2))]
    );

    echo.reset_counters();
    assert_eq!(echo.counters().received, 0);
    server.stop().await;
}

#[tokio::test]
async fn several_executors_work_at_the_same_time() {
    let curve = Curve::new(Duration::from_secs(3600), Duration::ZERO);
    let model = Synthetic {
        curve,
        concurrency: 2,
        ..Synthetic::new("slow")
    };
    let (server, client) = serve(model).await;
    let slow = server.handle("slow").expect("it is served");
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.model_infer(rows("slow", &[0.0])).await })
        })
        .collect();
    slow.until(|counters| counters.in_flight == 2).await;
    // An hour is not waited for when the server goes.
    server.abort().await;
    for call in calls {
        call.await
            .expect("no panic")
            .expect_err("the server is gone");
    }
}

#[tokio::test]
async fn a_call_whose_caller_left_before_its_turn_is_not_executed() {
    let (server, mut client) = serve(Synthetic::new("echo")).await;
    let echo = server.handle("echo").expect("it is served");
    echo.pause();
    let call = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(rows("echo", &[1.0])).await }
    });
    echo.until(|counters| counters.in_flight == 1).await;
    call.abort();
    echo.until(|counters| counters.cancelled == 1).await;
    echo.resume();
    client
        .model_infer(rows("echo", &[2.0]))
        .await
        .expect("it goes on");
    let counters = echo.counters();
    assert_eq!(
        (counters.received, counters.calls, counters.in_flight),
        (2, 1, 0)
    );
    server.stop().await;
}

#[tokio::test]
async fn an_error_carries_its_code_message_and_details() {
    let status = Status::with_details(
        Code::ResourceExhausted,
        "too much",
        b"\x08\x01".as_slice().into(),
    );
    let faults = Faults::always(Fault::Error(status));
    let (server, mut client) = serve(Synthetic {
        faults,
        ..Synthetic::new("echo")
    })
    .await;
    let error = client
        .model_infer(rows("echo", &[0.0]))
        .await
        .expect_err("it always fails");
    assert_eq!(
        (error.code(), error.message()),
        (Code::ResourceExhausted, "too much")
    );
    assert_eq!(error.details(), b"\x08\x01");
    let counters = server.handle("echo").expect("it is served").counters();
    assert_eq!((counters.calls, counters.failed), (1, 1));
    server.stop().await;
}

#[tokio::test]
async fn the_error_rate_is_that_of_the_calls() {
    let faults = Faults::at_rate(0.25, Fault::Error(Status::internal("bad luck")));
    let (server, mut client) = serve(Synthetic {
        faults,
        ..Synthetic::new("echo")
    })
    .await;
    for _ in 0..400 {
        // The counters know what came of it.
        let _ = client.model_infer(rows("echo", &[0.0])).await;
    }
    let counters = server.handle("echo").expect("it is served").counters();
    assert_eq!(counters.received, 400);
    // 400 draws of 1/4: mean 100, deviation 9.
    assert!((60..140).contains(&counters.failed), "{counters:?}");
    server.stop().await;
}

#[tokio::test]
async fn only_calls_with_a_marked_row_are_struck() {
    let faults =
        Faults::on_marked_row(666.0_f32, Fault::Error(Status::invalid_argument("bad row")));
    let (server, mut client) = serve(Synthetic {
        faults,
        ..Synthetic::new("echo")
    })
    .await;
    client
        .model_infer(rows("echo", &[1.0, 2.0]))
        .await
        .expect("no row is marked");
    client
        .model_infer(rows("echo", &[1.0, 666.0, 2.0]))
        .await
        .expect_err("one row is marked");

    let echo = server.handle("echo").expect("it is served");
    echo.set_faults(Faults::on_marked_row(
        "evil",
        Fault::Error(Status::internal("bad word")),
    ));
    client
        .model_infer(rows("echo", &[666.0]))
        .await
        .expect("the marker is another one");
    let mut words = rows("echo", &[]);
    words.raw_input_contents = Vec::new();
    words.inputs[0] = support::typed(
        "input0",
        "BYTES",
        &[2, 1],
        InferTensorContents {
            bytes_contents: vec!["good".into(), "evil".into()],
            ..Default::default()
        },
    );
    client
        .model_infer(words)
        .await
        .expect_err("one word is marked");
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_row_count_keeps_the_answer_well_formed() {
    let (server, mut client) = serve(Synthetic::new("echo")).await;
    let echo = server.handle("echo").expect("it is served");
    for (difference, expected) in [(-1, vec![1.0]), (1, vec![1.0, 2.0, 1.0]), (-5, vec![])] {
        echo.set_faults(Faults::always(Fault::WrongRowCount(difference)));
        let answer = client
            .model_infer(rows("echo", &[1.0, 2.0]))
            .await
            .expect("it answers");
        assert_eq!(numbers(answer.get_ref()), expected);
        assert_eq!(
            answer.get_ref().outputs[0].shape,
            [expected.len() as i64, 1]
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_hangs_is_answered_only_when_the_server_stops() {
    let faults = Faults::on_marked_row(666.0_f32, Fault::Hang);
    let (server, mut client) = serve(Synthetic {
        faults,
        ..Synthetic::new("echo")
    })
    .await;
    let echo = server.handle("echo").expect("it is served");
    let stuck = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(rows("echo", &[666.0])).await }
    });
    echo.until(|counters| counters.calls == 1).await;
    client
        .model_infer(rows("echo", &[1.0]))
        .await
        .expect("others are served meanwhile");
    assert_eq!(echo.counters().in_flight, 1);
    server.stop().await;
    let error = stuck.await.expect("no panic").expect_err("it hung");
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_reset_stream_leaves_its_connection_alone() {
    let faults = Faults::on_marked_row(666.0_f32, Fault::ResetStream);
    let (server, mut client) = serve(Synthetic {
        faults,
        ..Synthetic::new("echo")
    })
    .await;
    let error = client
        .model_infer(rows("echo", &[666.0]))
        .await
        .expect_err("it is reset");
    // What gRPC makes of RST_STREAM(INTERNAL_ERROR).
    assert_eq!(error.code(), Code::Internal, "{error:?}");
    client
        .model_infer(rows("echo", &[1.0]))
        .await
        .expect("the connection still works");
    server.stop().await;
}

#[tokio::test]
async fn a_closed_connection_takes_its_calls_along() {
    let faults = Faults::on_marked_row(666.0_f32, Fault::CloseConnection);
    let (server, mut client) = serve(Synthetic {
        faults,
        ..Synthetic::new("echo")
    })
    .await;
    let mut other = connect(&server).await;
    let echo = server.handle("echo").expect("it is served");
    echo.pause();
    let neighbour = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(rows("echo", &[666.0])).await }
    });
    echo.until(|counters| counters.in_flight == 1).await;
    echo.resume();
    neighbour
        .await
        .expect("no panic")
        .expect_err("the connection is closed");
    other
        .model_infer(rows("echo", &[1.0]))
        .await
        .expect("other connections are not");
    server.close_connections();
    // The channel connects again by itself.
    let again = async { while client.model_infer(rows("echo", &[1.0])).await.is_err() {} };
    again.await;
    server.stop().await;
}

#[tokio::test]
async fn what_a_model_says_of_itself_can_be_chosen() {
    let server = Server::builder()
        .model(Synthetic {
            max_batch_size: 32,
            concurrency: 3,
            ..Synthetic::new("batched")
        })
        .model(Synthetic {
            batchable: false,
            ..Synthetic::new("single")
        })
        .model(Synthetic {
            shapes: Shapes::Absent,
            config_unimplemented: true,
            ..Synthetic::new("mls")
        })
        .model(Synthetic {
            decoupled: Some(2),
            ..Synthetic::new("decoupled")
        })
        .bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let mut client = connect(&server).await;
    let mut config = async |name: &str| {
        let request = ModelConfigRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        client
            .model_config(request)
            .await
            .map(|response| response.into_inner().config)
    };
    let batched = config("batched")
        .await
        .expect("it has one")
        .expect("it is sent");
    assert_eq!(
        (batched.max_batch_size, batched.input[0].dims.as_slice()),
        (32, &[-1][..])
    );
    assert_eq!(batched.instance_group[0].count, 3);
    assert_eq!(
        config("single")
            .await
            .expect("it has one")
            .expect("it is sent")
            .max_batch_size,
        0
    );
    assert_eq!(
        config("mls").await.expect_err("it has none").code(),
        Code::Unimplemented
    );
    assert_eq!(
        config("nobody").await.expect_err("it is not there").code(),
        Code::NotFound
    );
    let decoupled = config("decoupled")
        .await
        .expect("it has one")
        .expect("it is sent");
    assert_eq!(
        decoupled.model_transaction_policy,
        Some(ModelTransactionPolicy { decoupled: true })
    );

    for (name, shape) in [("batched", &[-1, -1][..]), ("single", &[-1]), ("mls", &[])] {
        let request = ModelMetadataRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        let metadata = client
            .model_metadata(request)
            .await
            .expect("it has some")
            .into_inner();
        assert_eq!(metadata.inputs[0].shape, shape, "{name}");
        assert_eq!(metadata.outputs[0].name, "output0");
        assert_eq!(metadata.versions, ["1"]);
    }

    let refused = client
        .model_infer(rows("batched", &[0.0; 33]))
        .await
        .expect_err("33 rows");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        "inference request batch-size must be <= 32 for 'batched'"
    );
    client
        .model_infer(rows("single", &[0.0; 33]))
        .await
        .expect("the shape is whole");
    assert_eq!(
        server
            .handle("single")
            .expect("it is served")
            .counters()
            .rows,
        1
    );
    server.stop().await;
}

#[tokio::test]
async fn readiness_is_that_of_the_models() {
    let (server, mut client) = serve(Synthetic::new("echo")).await;
    let mut ready = async || {
        let request = ModelReadyRequest {
            name: "echo".to_owned(),
            ..Default::default()
        };
        let model = client
            .model_ready(request)
            .await
            .expect("it says")
            .into_inner()
            .ready;
        let whole = client
            .server_ready(ServerReadyRequest {})
            .await
            .expect("it says")
            .into_inner()
            .ready;
        (model, whole)
    };
    let echo = server.handle("echo").expect("it is served");
    assert_eq!(ready().await, (true, true));
    echo.set_ready(false);
    assert_eq!(ready().await, (false, false));
    let refused = client
        .model_infer(rows("echo", &[0.0]))
        .await
        .expect_err("it is not ready");
    assert_eq!(refused.code(), Code::Unavailable);
    server.stop().await;
}

#[tokio::test]
async fn a_constant_is_answered_for_each_row() {
    let output = Output::Constant(Tensor::int64("label", &[1, 1], &[7]));
    let (server, mut client) = serve(Synthetic {
        output,
        ..Synthetic::new("seven")
    })
    .await;
    let answer = client
        .model_infer(rows("seven", &[0.0; 3]))
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(
        (
            answer.outputs[0].name.as_str(),
            answer.outputs[0].datatype.as_str()
        ),
        ("label", "INT64")
    );
    assert_eq!(answer.outputs[0].shape, [3, 1]);
    assert_eq!(
        answer.raw_output_contents[0],
        [7, 0, 0, 0, 0, 0, 0, 0].repeat(3)
    );
    server.stop().await;
}

#[tokio::test]
async fn only_requested_outputs_are_sent() {
    let inputs = vec![
        TensorSpec::any("a"),
        TensorSpec::new("b", Datatype::Int8, &[2]),
    ];
    let (server, mut client) = serve(Synthetic {
        inputs,
        ..Synthetic::new("two")
    })
    .await;
    let mut request = raw(
        "two",
        "a",
        Datatype::Fp32,
        &[1, 1],
        1_f32.to_le_bytes().to_vec(),
    );
    request
        .inputs
        .extend(raw("two", "b", Datatype::Int8, &[1, 2], vec![]).inputs);
    request.raw_input_contents.push(vec![1, 2].into());
    let both = client
        .model_infer(request.clone())
        .await
        .expect("it echoes")
        .into_inner();
    assert_eq!(both.outputs.len(), 2);
    let one = client
        .model_infer(wanting(request.clone(), &["output1"]))
        .await;
    let one = one.expect("it echoes").into_inner();
    assert_eq!(one.outputs[0].name, "output1");
    assert_eq!(one.raw_output_contents, [vec![1, 2]]);
    let none = client
        .model_infer(wanting(request, &["output2"]))
        .await
        .expect_err("there are two");
    assert_eq!(
        none.message(),
        "unexpected inference output 'output2' for model 'two'"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_stream_carries_errors_in_band_and_several_answers_of_decoupled_models() {
    let server = Server::builder()
        .model(Synthetic::new("echo"))
        .model(Synthetic {
            decoupled: Some(3),
            ..Synthetic::new("many")
        })
        .bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let mut client = connect(&server).await;
    let requests = [
        rows("echo", &[1.0]),
        rows("nobody", &[2.0]),
        rows("many", &[3.0]),
    ];
    let answers = client
        .model_stream_infer(tokio_stream::iter(requests))
        .await;
    let answers: Vec<_> = answers.expect("it streams").into_inner().collect().await;
    let seen: Vec<_> = answers
        .into_iter()
        .map(|answer| {
            let answer = answer.expect("errors are in-band");
            let numbers = answer
                .infer_response
                .filter(|_| answer.error_message.is_empty());
            numbers.map(|response| numbers_of(&response))
        })
        .collect();
    assert_eq!(seen, [Some(1.0), None, Some(3.0), Some(3.0), Some(3.0)]);
    let refused = client
        .model_infer(rows("many", &[3.0]))
        .await
        .expect_err("it is decoupled");
    assert_eq!(refused.code(), Code::Unimplemented);

    let mut request = Request::new(tokio_stream::iter([rows("nobody", &[2.0])]));
    request
        .metadata_mut()
        .insert("triton_grpc_error", "true".parse().expect("ascii"));
    let mut answers = client
        .model_stream_infer(request)
        .await
        .expect("it streams")
        .into_inner();
    assert_eq!(
        answers.message().await.expect_err("it is a status").code(),
        Code::NotFound
    );
    server.stop().await;
}

#[tokio::test]
async fn a_server_on_its_own_threads_serves_and_stops() {
    let builder = Server::builder().model(Synthetic::new("echo")).threads(2);
    let server = builder.bind("127.0.0.1:0").await.expect("a free port");
    let address = server.address();
    for _ in 0..3 {
        let mut client = connect(&server).await;
        client
            .model_infer(rows("echo", &[1.0]))
            .await
            .expect("it echoes");
    }
    server.stop().await;
    // The port is free again.
    let again = Server::builder()
        .model(Synthetic::new("echo"))
        .bind(address)
        .await;
    again.expect("nobody listens there").stop().await;
}

fn numbers_of(response: &ModelInferResponse) -> f32 {
    numbers(response)[0]
}

#[tokio::test]
async fn answers_can_be_random_or_those_of_other_rows() {
    let (server, mut client) = serve(Synthetic::new("echo")).await;
    let echo = server.handle("echo").expect("it is served");
    let mut answer = async |fault, values: &[f32]| {
        echo.set_faults(Faults::always(fault));
        let answer = client.model_infer(rows("echo", values)).await;
        numbers(answer.expect("it answers").get_ref())
    };
    assert_eq!(answer(Fault::FirstRow, &[1., 2., 3.]).await, [1., 1., 1.]);
    assert_eq!(answer(Fault::Neighbours(0.5), &[1.]).await, [1.5]);
    assert_eq!(answer(Fault::Neighbours(0.5), &[1., 3.]).await, [2., 4.]);
    let first = answer(Fault::Noise(0.1), &[1., 100.]).await;
    let second = answer(Fault::Noise(0.1), &[1., 100.]).await;
    assert_ne!(first, second);
    for (noisy, value) in first.iter().chain(&second).zip([1., 100., 1., 100.]) {
        assert!((noisy - value).abs() <= 0.11 * value, "{noisy}");
    }
    server.stop().await;
}
