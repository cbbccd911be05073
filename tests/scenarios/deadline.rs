//! Whoever has a deadline is answered by it.

use std::{sync::atomic::Ordering, time::Duration};

use outrigger_native::{
    Synthetic,
    inference::{ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice},
};
use outrigger_tests::{
    memory::Memory,
    metrics::Metrics,
    model::{numbers, parameter, rows, serve},
    origin::{EchoServer, mirror, serve_http2},
    patience::within,
    wire::Wire,
};
use prost::Message as _;
use tokio::time::Instant;

use crate::{alone::memory, gather::Inference, merging::before};

/// Bytes before a message of gRPC.
const PREFIX: usize = 5;

fn of(values: &[f32]) -> Inference {
    Inference::of(&rows("m", values))
}

/// A model that never answers in time.
fn slow() -> EchoServer {
    EchoServer {
        per_row: Duration::from_secs(60),
        ..EchoServer::new(Duration::ZERO)
    }
}

#[tokio::test(start_paused = true)]
async fn the_soonest_of_what_caller_and_configuration_say_is_kept_to() {
    let memory = memory(&slow(), "models: { m: { deadline: { default: 50ms } } }");
    let wire = memory.wire().await;
    for (headers, deadline) in [
        (&[][..], 50),
        (&[("outrigger-timeout", "20ms")][..], 20),
        (&[("grpc-timeout", "30m")][..], 30),
        (
            &[("grpc-timeout", "30m"), ("outrigger-timeout", "2s")][..],
            30,
        ),
        // Longer than the default: the caller knows what it can wait for.
        (&[("outrigger-timeout", "200ms")][..], 200),
    ] {
        let mut request = of(&[1.]);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let began = Instant::now();
        let reply = request.send(&wire).await.unwrap();
        let took = began.elapsed();
        assert_eq!(reply.grpc_status(), Some("4"), "{headers:?}");
        let deadline = Duration::from_millis(deadline);
        // A few milliseconds are left for the way back.
        assert!(
            took <= deadline && took * 4 >= deadline * 3,
            "{headers:?}: {took:?}"
        );
    }
    let metrics = Metrics::read(&memory.metrics.text()).unwrap();
    let expired = metrics.sum("outrigger_deadline_expired_total", &[("model", "m")]);
    assert_eq!(expired, 5.);
}

#[tokio::test]
async fn a_timeout_that_is_none_is_refused_by_its_name() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, "models: { m: { cache: {} } }").await;
    let wire = Wire::connect(gateway.address()).await;
    let request = of(&[1.]).header("outrigger-timeout", "soon");
    let reply = request.send(&wire).await.unwrap();
    assert_eq!(reply.grpc_status(), Some("3"));
    let words = reply.grpc_message();
    assert!(words.starts_with("outrigger-timeout: "), "{words}");
    assert_eq!(served.model.counters().received, 0);
}

#[tokio::test]
async fn at_the_deadline_the_default_output_is_given_and_says_so() {
    let served = serve(Synthetic::new("m")).await;
    let config =
        "models: { m: { deadline: { default: 200ms, default_output: { output0: [0.5] } } } }";
    let gateway = before(&served, config).await;
    let wire = Wire::connect(gateway.address()).await;
    let in_time = of(&[3.]).send(&wire).await.unwrap();
    assert_eq!(in_time.grpc_status(), Some("0"));
    assert!(!in_time.headers.contains_key("outrigger-default"));
    served.model.pause();
    let reply = within("an answer", of(&[1., 2.]).send(&wire))
        .await
        .unwrap();
    served.model.resume();
    assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
    assert_eq!(reply.headers["outrigger-default"], "deadline");
    assert!(!reply.headers.contains_key("outrigger-arm"));
    let answer = ModelInferResponse::decode(reply.body.slice(PREFIX..)).unwrap();
    assert_eq!(numbers(&answer), [0.5, 0.5]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_to_be_told_by_a_parameter_knows_what_time_is_left() {
    let told = async |configured: bool, own: Option<ParameterChoice>| {
        let rest =
            format!("models: {{ m: {{ deadline: {{ timeout_parameter: {configured} }} }} }}");
        // What is no answer to an inference goes back as it is: here the request that was sent.
        let memory = Memory::start(&["a:1"], &rest, |_, pipe| serve_http2(pipe, mirror));
        let mut request = rows("m", &[1.]);
        if let Some(own) = own {
            let own = parameter(own);
            request.parameters.insert("timeout".to_owned(), own);
        }
        let request = Inference::of(&request).header("grpc-timeout", "40m");
        let reply = request.send(&memory.wire().await).await.unwrap();
        let sent = ModelInferRequest::decode(reply.body.slice(PREFIX..)).unwrap();
        assert_eq!(sent.raw_input_contents, rows("m", &[1.]).raw_input_contents);
        let told = sent.parameters.get("timeout");
        told.and_then(|told| told.parameter_choice.clone())
    };
    let left = told(true, None).await;
    let Some(ParameterChoice::Int64Param(micros)) = left else {
        panic!("{left:?}");
    };
    // Microseconds, less the margin.
    assert!((30_000..40_000).contains(&micros), "{micros}");
    let long = ParameterChoice::Int64Param(90_000_000);
    assert_eq!(told(true, Some(long)).await, left);
    // A caller's own that is sooner stays, and nothing is said where nobody wants it.
    for own in [
        ParameterChoice::Int64Param(500),
        ParameterChoice::Uint64Param(500),
    ] {
        assert_eq!(told(true, Some(own.clone())).await, Some(own));
    }
    assert_eq!(told(false, None).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_late_for_its_caller_is_there_for_the_next() {
    let arms = "arms: { a: { upstream: server, model: m }, b: { upstream: server, model: m } }, \
                selection: { policy: fixed, ensemble: true },";
    for (of_model, calls) in [
        ("cache: {}", 1),
        ("cache: {}, batch: {}", 1),
        (&format!("{arms} cache: {{}}, batch: {{}}"), 2),
    ] {
        let server = EchoServer::new(Duration::from_millis(80));
        let rest = format!("models: {{ m: {{ {of_model}, deadline: {{ default: 50ms }} }} }}");
        let memory = memory(&server, &rest);
        let wire = memory.wire().await;
        // What the server says of the model is learned meanwhile.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let reply = of(&[7.]).send(&wire).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("4"), "{of_model}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reply = of(&[7.]).send(&wire).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("0"), "{of_model}");
        assert_eq!(reply.headers["outrigger-cache"], "hit", "{of_model}");
        assert_eq!(server.calls.lock().unwrap().len(), calls, "{of_model}");
        assert_eq!(server.cancelled.load(Ordering::SeqCst), 0, "{of_model}");
    }
}

#[tokio::test]
async fn a_default_output_that_is_none_of_the_models_is_found_before_it_is_given() {
    let served = serve(Synthetic::new("m")).await;
    for (output, fault) in [
        ("output0: [0.5]", None),
        ("nope: [0.5]", Some("nope")),
        ("output0: [text]", Some("output0")),
    ] {
        let models =
            format!("models: {{ m: {{ deadline: {{ default_output: {{ {output} }} }} }} }}");
        let gateway = before(&served, &models).await;
        let shown = gateway.state().models();
        let faults = shown["m"]["default_output_faults"].to_string();
        match fault {
            Some(name) => assert!(faults.contains(name), "{faults}"),
            None => assert_eq!(faults, "null", "{shown:#}"),
        }
    }
}
