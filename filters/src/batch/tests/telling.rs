//! Metrics and spans.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_gauge_of_limits_is_the_sum_over_endpoints_and_forgets_those_that_are_gone() {
    let handles = Handles::default();
    let make = |rows| {
        let (sender, _) = mpsc::unbounded_channel();
        Batch::new(
            Upstream(sender),
            fixed(rows),
            Capability::default(),
            handles.clone(),
        )
    };
    let (one, two) = (make(30), make(12));
    assert_eq!(handles.limit.get(), 42);
    drop(one.clone());
    drop(one);
    assert_eq!(handles.limit.get(), 12);
    drop(two);
    assert_eq!(handles.limit.get(), 0);
}

#[test]
fn metrics_have_the_names_that_dashboards_know() {
    let mut registry = prometheus_client::registry::Registry::default();
    let handles = Metrics::register(&mut registry).handles("digits", "svm");
    handles.rows.observe(3.);
    handles.alone(Alone::Sequence).inc();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"outrigger_batch_rows_bucket{le="4.0",model="digits",arm="svm"} 1"#,
        r#"outrigger_batch_limit_rows{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_queue_duration_seconds_count{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_closed_total{model="digits",arm="svm",reason="full"} 0"#,
        r#"outrigger_batch_alone_total{model="digits",arm="svm",reason="sequence"} 1"#,
        r#"outrigger_batch_cancelled_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_uneven_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_halved_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_isolated_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_alone_total{model="digits",arm="svm",reason="quarantined"} 0"#,
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

/// Which spans there are, which are entered, and which follow from which.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    spans: Vec<&'static tracing::Metadata<'static>>,
    entered: Vec<u64>,
    links: Vec<(u64, u64)>,
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span()
    }

    fn new_span(&self, attributes: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let spans = &mut self.0.lock().spans;
        spans.push(attributes.metadata());
        tracing::span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, span: &tracing::span::Id, follows: &tracing::span::Id) {
        let link = (span.into_u64(), follows.into_u64());
        self.0.lock().links.push(link);
    }

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, span: &tracing::span::Id) {
        self.0.lock().entered.push(span.into_u64());
    }

    fn exit(&self, _: &tracing::span::Id) {
        self.0.lock().entered.pop();
    }

    fn current_span(&self) -> tracing_core::span::Current {
        let seen = self.0.lock();
        match seen.entered.last() {
            Some(id) => tracing_core::span::Current::new(
                tracing::span::Id::from_u64(*id),
                seen.spans[*id as usize - 1],
            ),
            None => tracing_core::span::Current::none(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_call_follows_from_those_of_its_members() {
    async fn three_members() {
        let mut script = Script::new(fixed(4));
        let mut callers = Vec::new();
        for value in 0..3 {
            let span = tracing::debug_span!("member");
            callers.push(span.in_scope(|| script.send(request("", 1, value))));
        }
        script.expect_call().await.echo();
        let merged = script.expect_call().await;
        assert_eq!(merged.rows(), 2);
        merged.echo();
        for caller in callers {
            caller.await.unwrap();
        }
    }
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    // A place in the code that another test's thread reaches for the first time while the listener
    // comes is remembered as one that nobody listens to, until somebody asks anew.
    for _ in 0..100 {
        tracing_core::callsite::rebuild_interest_cache();
        *spans.0.lock() = Seen::default();
        three_members().await;
        if !spans.0.lock().links.is_empty() {
            break;
        }
    }
    let seen = spans.0.lock();
    let name = |id: u64| seen.spans[id as usize - 1].name();
    let linked: Vec<_> = seen
        .links
        .iter()
        .map(|(span, follows)| (name(*span), name(*follows)))
        .collect();
    assert_eq!(linked, [("batch", "member"); 3]);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_handed_back_are_counted_as_alone() {
    let mut script = Script::new(fixed(8));
    let (mut callers, call) = gather(&mut script, marked(1..3)).await;
    call.reply.send(Ok(echo(&request("", 1, 0)))).unwrap();
    settle().await;
    for caller in &mut callers {
        let _ = poll(caller);
        script.expect_call().await.echo();
        assert!(answer(caller).await.is_ok());
    }
    let counted = script
        .batch
        .shared()
        .metrics
        .alone(Alone::Unbatchable)
        .get();
    assert_eq!(counted, 2);
}
