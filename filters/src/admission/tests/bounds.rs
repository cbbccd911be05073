//! What may wait.

use super::*;

fn refused(error: &Error) -> (Bound, Option<Scope>, Option<usize>) {
    let full = cause::<Overloaded>(error);
    assert!(full.retry_after().is_some());
    (full.bound(), full.scope(), full.limit())
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_is_refused_at_once_and_told_by_which_bound() {
    let mut script = Script::new(Config {
        max_queue_requests: 2,
        max_queue_bytes: 100,
        ..fixed(1)
    });
    // What is under way takes no room, however large it is.
    let _plug = script.send(holding("plug", vec![0; 1000]));
    let _one = script.send(request("one"));
    let error = script.refused(holding("large", vec![0; 99]));
    assert_eq!(
        refused(&error),
        (Bound::Bytes, Some(Scope::Model), Some(100))
    );
    let two = script.send(request("two"));
    let error = script.refused(request("three"));
    assert_eq!(
        refused(&error),
        (Bound::Requests, Some(Scope::Model), Some(2))
    );
    assert_eq!(
        error.to_string(),
        "the queue is full: max_queue_requests is 2"
    );
    drop(two);
    let _three = script.send(request("three"));
    let metrics = &script.admission.shared().metrics;
    assert_eq!(metrics.refused(metrics::Refused::Bytes).get(), 1);
    assert_eq!(metrics.refused(metrics::Refused::Requests).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_room_is_for_all_endpoints_of_an_arm_within_that_of_the_process() {
    let whole = Room::whole(3, 1000);
    let layer = AdmissionLayer::new(fixed(1), Handles::default()).within(whole.clone());
    let (sender, _calls) = mpsc::unbounded_channel();
    let mut endpoints = [
        layer.layer(Upstream(sender.clone())),
        layer.layer(Upstream(sender)),
    ];
    let mut callers = Vec::new();
    for endpoint in &mut endpoints {
        callers.push(Box::pin(endpoint.call(request("plug"))));
        callers.push(Box::pin(endpoint.call(request("waits"))));
    }
    callers.push(Box::pin(endpoints[0].call(request("waits"))));
    let mut last = Box::pin(endpoints[1].call(request("too many")));
    let error = answer(&mut last).unwrap_err();
    assert_eq!(
        refused(&error),
        (Bound::Rows, Some(Scope::Process), Some(3))
    );
    assert_eq!(whole.used(), (3, 6));
    callers.clear();
    assert_eq!(whole.used(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_the_last_of_a_later_class_makes_way() {
    let mut script = Script::new(Config {
        max_queue_requests: 2,
        ..fixed(1)
    });
    let mut plug = script.send(request("plug"));
    let mut first = script.send(of_class("first", 10));
    let mut second = script.send(of_class("second", 10));
    let mut urgent = script.send(of_class("urgent", 1));
    assert!(poll(&mut first).is_pending());
    let error = answer(&mut second).unwrap_err();
    assert_eq!(
        refused(&error),
        (Bound::Requests, Some(Scope::Model), Some(2))
    );
    // Among equals who came first stays.
    script.refused(of_class("third", 10));
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    assert!(poll(&mut urgent).is_pending());
    assert_eq!(script.expect_call().id(), "urgent");
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_who_is_overdue_makes_way_for_who_can_be_in_time() {
    let mut script = Script::new(Config {
        max_queue_requests: 3,
        ..fixed(1)
    });
    script.teach(8).await;
    let _plug = script.send(request("plug"));
    // The objective is 20 ms: the first is in time, the others hardly are.
    let mut callers: Vec<_> = (0..3).map(|_| script.send(request(""))).collect();
    let mut in_time = script.send(due("", 18));
    assert!(poll(&mut in_time).is_pending());
    let error = answer(&mut callers[2]).unwrap_err();
    assert_eq!(refused(&error).0, Bound::Requests);
    script.refused(request("overdue"));
}

#[tokio::test(start_paused = true)]
async fn nobody_makes_way_for_who_would_find_no_room_even_so() {
    let whole = Room::whole(10, 100);
    let config = Config {
        max_queue_bytes: 90,
        ..fixed(1)
    };
    let layer = AdmissionLayer::new(config, Handles::default()).within(whole.clone());
    let (sender, _calls) = mpsc::unbounded_channel();
    let mut endpoint = layer.layer(Upstream(sender));
    let urgent = |bytes: usize| with(holding("", vec![0; bytes]), |parts| parts.head.priority = 1);
    let _plug = Box::pin(endpoint.call(request("plug")));
    let mut waits: Vec<Caller> = (0..3)
        .map(|_| Box::pin(endpoint.call(holding("", vec![0; 10]))))
        .collect();
    // More than may ever wait, and more than the others of the process leave.
    let error = answer(&mut Box::pin(endpoint.call(urgent(91)))).unwrap_err();
    assert_eq!(refused(&error).0, Bound::Bytes);
    let other = whole.reserve(1, 50).expect("there is room");
    let error = answer(&mut Box::pin(endpoint.call(urgent(51)))).unwrap_err();
    assert_eq!(
        refused(&error),
        (Bound::Bytes, Some(Scope::Process), Some(100))
    );
    assert_eq!(whole.used(), (4, 80));
    assert!(waits.iter_mut().all(|caller| poll(caller).is_pending()));
    // As many as have to.
    let mut fits: Caller = Box::pin(endpoint.call(urgent(40)));
    assert!(poll(&mut fits).is_pending());
    let stay = waits.iter_mut().filter_map(|caller| match poll(caller) {
        Poll::Pending => Some(()),
        Poll::Ready(_) => None,
    });
    assert_eq!(stay.count(), 1);
    assert_eq!(whole.used(), (3, 100));
    drop(other);
}
