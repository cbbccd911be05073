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
