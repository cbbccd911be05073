//! What is told to others: metrics and estimates.

use prometheus_client::{encoding::text::encode, registry::Registry};

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_request_would_take_is_what_is_before_it_and_its_own() {
    let mut script = Script::new(fixed(2));
    let millis = |script: &Script| {
        let completion = script.admission.completion(Instant::now());
        completion.map(|it| it.as_millis())
    };
    assert_eq!(millis(&script), None);
    script.teach(10).await;
    assert_eq!(millis(&script), Some(10));
    let mut callers: Vec<_> = (0..2).map(|_| script.send(request(""))).collect();
    // Places are given back every 5 ms.
    assert_eq!(millis(&script), Some(15));
    callers.extend((0..4).map(|_| script.send(request(""))));
    assert_eq!(millis(&script), Some(35));
    drop(callers);
    // What was slow long ago is tried again.
    let calls: Vec<_> = std::iter::from_fn(|| script.call()).collect();
    calls.into_iter().for_each(Sent::echo);
    settle().await;
    advance(Duration::from_secs(2)).await;
    assert!(millis(&script) < Some(10));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_has_capacity_to_spare_while_a_call_more_is_hardly_noticed() {
    let mut script = Script::new(fixed(2));
    let spare = |script: &Script| script.admission.has_spare();
    assert!(spare(&script));
    let _one = script.send(request(""));
    assert!(spare(&script));
    let _two = script.send(request(""));
    assert!(!spare(&script));
    // Of eight places of which it is not known yet whether there are so many, half.
    let mut script = Script::new(Config::default());
    let _callers: Vec<_> = (0..3).map(|_| script.send(request(""))).collect();
    assert!(spare(&script));
    let _fourth = script.send(request(""));
    assert!(!spare(&script));
}

#[tokio::test(start_paused = true)]
async fn numbers_are_told_by_model_and_arm_and_the_limit_is_that_of_all_endpoints() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let layer = AdmissionLayer::new(fixed(3), metrics.handles("digits", "a"));
    let told = |registry: &Registry| {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    };
    let (sender, _calls) = mpsc::unbounded_channel();
    let mut one = layer.layer(Upstream(sender.clone()));
    let other = layer.layer(Upstream(sender));
    let _sent = one.call(request(""));
    let text = told(&registry);
    for line in [
        "outrigger_admission_limit_calls{model=\"digits\",arm=\"a\"} 6",
        "outrigger_admission_queue_duration_seconds_count{model=\"digits\",arm=\"a\"} 1",
        "outrigger_admission_refused_total{model=\"digits\",arm=\"a\",reason=\"late\"} 0",
        "outrigger_admission_refused_total{model=\"digits\",arm=\"a\",reason=\"requests\"} 0",
        "outrigger_admission_refused_total{model=\"digits\",arm=\"a\",reason=\"bytes\"} 0",
        "outrigger_admission_expired_total{model=\"digits\",arm=\"a\"} 0",
        "outrigger_admission_cancelled_total{model=\"digits\",arm=\"a\"} 0",
        "outrigger_admission_stuck_total{model=\"digits\",arm=\"a\"} 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    drop(other);
    assert!(told(&registry).contains("limit_calls{model=\"digits\",arm=\"a\"} 3"));
}
