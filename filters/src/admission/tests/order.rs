//! Who goes first.

use super::*;

/// Sends requests behind one that is under way, and returns the order in which they are sent.
async fn order(script: &mut Script, requests: Vec<Request>) -> Vec<String> {
    let mut plug = script.send(request("plug"));
    let mut callers: Vec<Caller> = requests.into_iter().map(|it| script.send(it)).collect();
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    let mut ids = Vec::new();
    while !callers.is_empty() {
        // Who looks too often in a row is made to wait by the runtime.
        settle().await;
        callers.retain_mut(|caller| poll(caller).is_pending());
        if let Some(call) = script.call() {
            ids.push(call.id().to_owned());
            call.echo();
        }
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn the_nearest_deadline_goes_first_and_who_names_none_has_the_objective() {
    let mut script = Script::new(fixed(1));
    let requests = vec![
        due("in 30", 30),
        request("in 20"),
        due("in 10", 10),
        due("in 25", 25),
    ];
    let ids = order(&mut script, requests).await;
    assert_eq!(ids, ["in 10", "in 20", "in 25", "in 30"]);
    script.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn the_first_class_goes_first_and_who_names_none_is_of_the_default() {
    let mut script = Script::new(fixed(1));
    let requests = vec![
        of_class("12", 12),
        with(due("10, due", 5), |parts| parts.head.priority = 10),
        of_class("none", 0),
        of_class("9", 9),
    ];
    let ids = order(&mut script, requests).await;
    assert_eq!(ids, ["9", "10, due", "none", "12"]);
}

#[tokio::test(start_paused = true)]
async fn those_who_are_as_urgent_go_in_the_order_in_which_they_came() {
    let mut script = Script::new(fixed(1));
    let requests = (0..300).map(|id| request(&format!("{id}"))).collect();
    let ids = order(&mut script, requests).await;
    assert!(
        ids.iter()
            .enumerate()
            .all(|(at, id)| *id == format!("{at}"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_far_deadline_is_not_overtaken_for_ever() {
    let mut script = Script::new(fixed(1));
    let mut plug = script.send(request("plug"));
    let mut patient = script.send(due("in a minute", 60_000));
    advance(Duration::from_millis(70)).await;
    // Objectives are 20 ms.
    let mut later = script.send(request("later"));
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    assert!(poll(&mut later).is_pending());
    assert!(poll(&mut patient).is_pending());
    assert_eq!(script.expect_call().id(), "in a minute");
}

#[tokio::test(start_paused = true)]
async fn who_names_no_deadline_and_is_overdue_goes_behind_those_in_time_but_not_for_ever() {
    let mut script = Script::new(fixed(1));
    let mut plug = script.send(request("plug"));
    let mut overdue: Vec<_> = (0..2)
        .map(|id| script.send(request(&format!("overdue {id}"))))
        .collect();
    advance(Duration::from_millis(21)).await;
    let mut fresh: Vec<_> = (0..9)
        .map(|id| script.send(request(&format!("{id}"))))
        .collect();
    script.expect_call().echo();
    assert!(answer(&mut plug).is_ok());
    let mut ids = Vec::new();
    for _ in 0..11 {
        settle().await;
        for caller in overdue.iter_mut().chain(&mut fresh) {
            let _pending = poll(caller).is_pending();
        }
        overdue.retain_mut(|caller| poll(caller).is_pending());
        let call = script.expect_call();
        ids.push(call.id().to_owned());
        call.echo();
        for callers in [&mut overdue, &mut fresh] {
            callers.retain_mut(|caller| poll(caller).is_pending());
        }
    }
    assert_eq!(
        ids,
        [
            "0",
            "1",
            "2",
            "3",
            "4",
            "5",
            "6",
            "overdue 0",
            "7",
            "8",
            "overdue 1"
        ]
    );
    script.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_sequence_go_at_once_as_they_come_whatever_their_deadlines() {
    let mut script = Script::new(fixed(1));
    script.teach(10).await;
    let in_sequence = |id: &str, millis| {
        with(due(id, millis), |parts| {
            parts
                .parameters
                .insert("sequence_id".into(), Parameter::Int64(7));
        })
    };
    let mut plug = script.send(request("plug"));
    let mut waits = script.send(due("waits", 60));
    // The last has less time than the model takes.
    let deadlines = [("first", 1000), ("second", 30), ("third", 5)];
    let mut callers: Vec<_> = deadlines
        .map(|(id, millis)| script.send(in_sequence(id, millis)))
        .into();
    let calls: Vec<_> = std::iter::from_fn(|| script.call()).collect();
    let ids: Vec<_> = calls.iter().map(Sent::id).collect();
    assert_eq!(ids, ["plug", "first", "second", "third"]);
    assert_eq!(script.admission.load(), 5);
    // Others wait until there are no more than the limit.
    calls.into_iter().for_each(Sent::echo);
    for caller in std::iter::once(&mut plug).chain(&mut callers) {
        assert!(poll(&mut waits).is_pending());
        script.expect_no_call();
        assert!(answer(caller).is_ok());
    }
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.expect_call().id(), "waits");
    // What has no time left is not sent.
    let late = in_sequence("late", 5);
    advance(Duration::from_millis(5)).await;
    assert_eq!(*cause::<Expired>(&script.refused(late)), Expired::passed());
}
