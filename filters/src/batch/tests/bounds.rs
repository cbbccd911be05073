//! What may wait.

use super::*;

#[tokio::test(start_paused = true)]
async fn over_the_bounds_callers_are_refused_at_once_and_admitted_later() {
    let bounds = [
        (
            Config {
                max_queue_rows: 3,
                ..fixed(32)
            },
            Bound::Rows,
            3,
        ),
        (
            Config {
                max_queue_bytes: 6,
                ..fixed(32)
            },
            Bound::Bytes,
            6,
        ),
    ];
    for (config, bound, limit) in bounds {
        let mut script = Script::new(config);
        let _first = script.send(request("", 9, 0));
        let call = script.expect_call().await;
        let _waits = script.send(request("", 2, 0));
        let mut refused = script.send(request("", 2, 0));
        let Poll::Ready(Err(error)) = poll(&mut refused) else {
            panic!("not refused");
        };
        let overloaded = error.downcast_ref::<Overloaded>().unwrap();
        assert_eq!(
            (overloaded.bound(), overloaded.limit()),
            (bound, Some(limit))
        );
        let _fits = script.send(request("", 1, 0));
        call.echo();
        let call = script.expect_call().await;
        assert_eq!(call.rows(), 3);
        let mut admitted = script.send(request("", 2, 0));
        assert!(poll(&mut admitted).is_pending());
        assert_eq!(script.batch.view().queue_rows, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_counts_as_a_whole_even_if_its_tensors_are_small() {
    let mut script = Script::new(Config {
        max_queue_bytes: 100,
        ..fixed(32)
    });
    let message = |len| {
        let wire: Wire = std::sync::Arc::new(());
        Request::from_wire(request("", 1, 0).into_parts(), wire, len)
    };
    let _first = script.send(request("", 1, 0));
    let call = script.expect_call().await;
    // A changed request has slices of its message still.
    let changed = with(message(60), |parts| parts.head.version = "1".into());
    assert!(changed.wire().is_none());
    let _waits = script.send(changed);
    assert_eq!(script.batch.view().queue_bytes, 60);
    let mut refused = script.send(message(41));
    let Poll::Ready(Err(error)) = poll(&mut refused) else {
        panic!("not refused");
    };
    assert_eq!(cause::<Overloaded>(&error).bound(), Bound::Bytes);
    let _fits = script.send(message(40));
    assert_eq!(script.batch.view().queue_bytes, 100);
    call.echo();
    let _next = script.expect_call().await;
    assert_eq!(script.batch.view().queue_bytes, 40);
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_an_arm_share_its_room_and_models_that_of_the_process() {
    let whole = Room::whole(5, 1 << 20);
    let config = Config {
        max_queue_rows: 4,
        ..fixed(1)
    };
    let capability = Capability::new(Batchable::Yes {
        max_batch_size: None,
    });
    let (sender, mut calls) = mpsc::unbounded_channel();
    let endpoint = |layer: &BatchLayer| {
        let mut batch = tower::Layer::layer(layer, Upstream(sender.clone()));
        // What is under way does not wait.
        let under_way = batch.call(request("", 1, 0));
        (batch, under_way)
    };
    let layer = BatchLayer::new(config, capability, Handles::default()).within(whole.clone());
    let other = layer.clone().within(whole.clone());
    let (mut first, _first) = endpoint(&layer);
    let (mut second, _second) = endpoint(&layer);
    let (mut third, _third) = endpoint(&other);
    let mut waiting = vec![
        first.call(request("", 3, 0)),
        second.call(request("", 1, 0)),
    ];
    let refused = |batch: &mut Batch<Upstream>| {
        let mut caller = Box::pin(batch.call(request("", 1, 0)));
        match poll(&mut caller) {
            Poll::Ready(Err(error)) => Some(cause::<Overloaded>(&error).clone()),
            _ => None,
        }
    };
    let full = refused(&mut second).expect("four rows of the arm wait");
    assert_eq!((full.scope(), full.limit()), (Some(Scope::Model), Some(4)));
    waiting.push(third.call(request("", 1, 0)));
    let full = refused(&mut third).expect("five rows wait in all");
    assert_eq!(
        (full.scope(), full.limit()),
        (Some(Scope::Process), Some(5))
    );
    // Who leaves makes room, and so does what is sent.
    drop(waiting.remove(0));
    assert!(refused(&mut second).is_none());
    settle().await;
    while let Ok(call) = calls.try_recv() {
        call.echo();
        settle().await;
    }
    assert_eq!(whole.used(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn contents_that_made_a_call_fail_need_room_as_if_they_waited() {
    let mut script = Script::new(Config {
        max_queue_rows: 4,
        ..fixed(8)
    });
    let (_callers, merged) = gather(&mut script, marked(1..=4)).await;
    refuse(&mut script, Some(merged), &[3], Code::InvalidArgument).await;
    // Nothing is before the first one, whatever its rows.
    let mut callers = Vec::new();
    for bound in [None, None, None, None, None, Some(Bound::Rows)] {
        let mut again = script.send(request("again", 1, 3));
        match (poll(&mut again), bound) {
            (Poll::Pending, None) => {}
            (Poll::Ready(Err(error)), Some(bound)) => {
                assert_eq!(cause::<Overloaded>(&error).bound(), bound);
            }
            (other, _) => panic!("{other:?} after {}", callers.len()),
        }
        callers.push(again);
    }
    // They take the room of those who wait.
    let _busy = script.send(request("busy", 1, 0));
    let mut waits = script.send(request("waits", 1, 0));
    cause::<Overloaded>(&answer(&mut waits).await.unwrap_err());
    let metrics = &script.batch.shared().metrics;
    assert_eq!(metrics.alone(Alone::Quarantined).get(), 5);
    assert_eq!(metrics.refused.get(), 2);
    drop(callers);
    assert_eq!(script.batch.shared().room.used(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_could_never_share_a_call_needs_no_room_however_full_the_queue_is() {
    let mut script = Script::new(Config {
        max_queue_rows: 2,
        max_queue_bytes: 16,
        ..fixed(8)
    });
    let _busy = script.send(request("busy", 1, 0));
    let _call = script.expect_call().await;
    let _waits = script.send(request("waits", 2, 0));
    let in_sequence = |number| {
        with(request("", 4, 7), |parts| {
            let id = Parameter::Int64(number);
            parts.parameters.insert("sequence_id".into(), id);
        })
    };
    let mut callers: Vec<_> = (1..=20).map(|n| script.send(in_sequence(n))).collect();
    for caller in &mut callers {
        assert!(poll(caller).is_pending());
    }
    for caller in &mut callers {
        let call = script.expect_call().await;
        assert_eq!(call.rows(), 4);
        call.echo();
        assert!(answer(caller).await.is_ok());
    }
    assert_eq!(script.batch.shared().room.used().0, 2);
    assert_eq!(script.batch.shared().metrics.refused.get(), 0);

    // The same holds for a model that takes no batches at all.
    let unbatchable = Unbatchable::NoBatchDimension;
    script.capability.set(Batchable::No(unbatchable));
    let mut callers: Vec<_> = (0..20).map(|_| script.send(request("", 4, 7))).collect();
    for caller in &mut callers {
        assert!(poll(caller).is_pending());
        script.expect_call().await.echo();
        assert!(answer(caller).await.is_ok());
    }
}
