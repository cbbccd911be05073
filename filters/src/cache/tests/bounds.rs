//! How much is kept, of whom, and what stays.

use super::*;

fn row(number: u64, len: usize) -> Request {
    with(request("a", &[1]), |parts| {
        let mut data = vec![0; len];
        data[..8].copy_from_slice(&number.to_le_bytes());
        parts.inputs[0].shape = Shape::new([1, len as i64]);
        parts.inputs[0].data = Bytes::from(data).into();
    })
}

fn of(tenant: &'static str, number: u64) -> Request {
    with(row(number, 1000), |parts| {
        parts.head.metadata = Metadata::new(vec![("x-tenant".into(), tenant.into())]);
    })
}

fn of_bytes(max_bytes: usize) -> Config {
    Config {
        max_bytes,
        bypass: Bypass::Never,
        ..Config::default()
    }
}

/// Asks for a row, of which the answer is four bytes.
async fn ask(script: &mut Script, request: Request) -> bool {
    let caller = script.send(request);
    let call = script.call().await;
    let is_known = call.is_none();
    if let Some(call) = call {
        let mut response = echo(&call.request);
        let rows = response.outputs[0].shape.rows().unwrap();
        response.outputs[0].shape = Shape::new([rows as i64, 4]);
        response.outputs[0].data = Bytes::from(vec![1; rows * 4]).into();
        call.answer(response);
    }
    answer(caller).await.unwrap();
    is_known
}

#[tokio::test(start_paused = true)]
async fn bytes_stay_within_their_bound_whatever_comes() {
    for len in [8, 100, 3000, 30_000] {
        let mut script = Script::new(of_bytes(256 << 10));
        for number in 0..if len < 1000 { 4000 } else { 500 } {
            ask(&mut script, row(number, len)).await;
            let view = script.view();
            assert!(view.bytes <= view.max_bytes, "{len}: {view:?}");
        }
        let view = script.view();
        assert!(view.rows > 10, "{len}: {view:?}");
        // A long row is kept as a digest.
        if len < 10_000 {
            assert!(view.bytes > view.max_bytes / 2, "{len}: {view:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_would_take_too_much_is_not_stored() {
    let mut script = Script::new(of_bytes(64 << 10));
    ask(&mut script, row(1, 100)).await;
    // Its answer is as long as itself.
    script.ask(row(2, 60_000)).await;
    assert!(!script.knows(row(2, 60_000)).await);
    assert!(ask(&mut script, row(1, 100)).await);
}

#[tokio::test(start_paused = true)]
async fn a_scan_leaves_what_is_asked_for_often() {
    let mut script = Script::new(of_bytes(1 << 20));
    let hot = 0..200;
    for _ in 0..3 {
        for number in hot.clone() {
            ask(&mut script, row(number, 1000)).await;
        }
    }
    // Ten times as many rows as there is room for, while the hot ones are asked for, too.
    let room = (1_u64 << 20) / 1200;
    let mut known = 0;
    let mut asked = 0;
    for number in 0..room * 10 {
        ask(&mut script, row(1_000_000 + number, 1000)).await;
        if number % 5 == 0 {
            asked += 1;
            known += usize::from(ask(&mut script, row(number / 5 % 200, 1000)).await);
        }
    }
    assert!(known * 100 >= asked * 95, "{known} of {asked}");
}

#[tokio::test(start_paused = true)]
async fn one_tenant_cannot_fill_the_cache_alone() {
    let mut script = Script::new(Config {
        tenant: Some(Tenant {
            header: "x-tenant".into(),
            max_bytes: 256 << 10,
        }),
        ..of_bytes(1 << 20)
    });
    for number in 0..50 {
        ask(&mut script, of("small", number)).await;
    }
    for number in 0..2000 {
        ask(&mut script, of("large", number)).await;
    }
    for number in 0..50 {
        assert!(ask(&mut script, of("small", number)).await, "{number}");
    }
    let bytes = script.view().bytes;
    assert!(bytes < 450 << 10, "{bytes}");
    // Within its share the last ones are kept.
    assert!(ask(&mut script, of("large", 1999)).await);
    assert!(!ask(&mut script, of("large", 0)).await);
}

/// The clock stands, so the test says what things cost.
#[tokio::test(start_paused = true)]
async fn a_cache_that_costs_more_than_it_saves_stands_aside_and_comes_back() {
    let mut script = Script::new(Config {
        max_bytes: 256 << 10,
        ..Config::default()
    });
    let store = script.cache.store().clone();
    let cost = |lookup: u64, upstream: u64| {
        let now = tokio::time::Instant::now();
        let began = now - Duration::from_micros(lookup);
        store.shared().looked_up(1, Some(began));
        store.shared().upstream(1, Duration::from_micros(upstream));
    };
    advance(Duration::from_secs(1)).await;
    let mut number = 0;
    while !store.view().bypasses {
        assert!(number < 100_000, "{:?}", store.view());
        number += 1;
        cost(5, 10);
        ask(&mut script, row(number, 16)).await;
    }
    let (mut passed, mut known) = (0, 0);
    for again in 0..640 {
        let caller = script.send(row(5_000_000 + again % 64, 16));
        if let Some(call) = script.call().await {
            call.echo();
        }
        let report = reported(&answer(caller).await.unwrap());
        passed += usize::from(report.reason == Some("does_not_pay"));
        known += report.hits;
    }
    // One in sixteen is looked up, and the same ones again.
    assert!(passed > 500, "{passed}");
    assert!(known > 0, "{known}");
    while store.view().bypasses {
        assert!(number < 400_000, "{:?}", store.view());
        number += 1;
        cost(5, 1000);
        ask(&mut script, row(9_000_000 + number % 100, 16)).await;
    }
}
