//! Runtimes that go away.

use super::*;

#[test]
fn when_a_runtime_goes_those_who_wait_on_another_are_served_by_it() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (going, staying) = (runtime(), runtime());
    let mut script = Script::new(fixed(32));
    let mut first = {
        let _on = going.enter();
        script.send(request("first", 1, 0))
    };
    going.block_on(settle());
    let call = script.calls.try_recv().unwrap();
    let mut waits = {
        let _on = staying.enter();
        script.send(request("waits", 1, 3))
    };
    drop(going);
    assert!(call.reply.send(Ok(echo(&call.request))).is_err());
    staying.block_on(async {
        cause::<Interrupted>(&answer(&mut first).await.unwrap_err());
        settle().await;
        assert!(poll(&mut waits).is_pending());
        script.expect_call().await.echo();
        assert_eq!(marks(&answer(&mut waits).await.unwrap()), [3, 3]);
        assert_eq!(script.batch.view().in_flight, 0);
        assert_eq!(script.batch.load(), 0);
        let mut next = script.send(request("next", 1, 4));
        script.expect_call().await.echo();
        assert_eq!(marks(&answer(&mut next).await.unwrap()), [4, 4]);
    });
}

#[test]
fn when_a_runtime_goes_those_who_were_to_be_sent_again_are_sent_by_their_own_futures() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (going, staying) = (runtime(), runtime());
    let mut script = Script::new(fixed(32));
    let (mut callers, _half) = going.block_on(async {
        let (callers, merged) = gather(&mut script, marked(1..=4)).await;
        merged.fail(Status::new(Code::Internal, "no"));
        (callers, script.expect_call().await)
    });
    drop(going);
    staying.block_on(async {
        for caller in &mut callers[..2] {
            cause::<Interrupted>(&answer(caller).await.unwrap_err());
        }
        for caller in &mut callers[2..] {
            assert!(poll(caller).is_pending());
            let call = script.expect_call().await;
            assert_eq!(call.rows(), 1);
            call.echo();
            assert!(answer(caller).await.is_ok());
        }
        assert_eq!(script.batch.view().in_flight, 0);
        assert_eq!(script.batch.load(), 0);
    });
}

#[test]
fn a_place_that_a_runtime_leaves_behind_is_taken_by_who_waits() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (going, staying) = (runtime(), runtime());
    let mut script = Script::new(Config {
        max_in_flight: InFlight::Fixed(2),
        ..fixed(32)
    });
    let _first = {
        let _on = going.enter();
        script.send(request("first", 1, 0))
    };
    going.block_on(settle());
    let _first_call = script.calls.try_recv().unwrap();
    staying.block_on(async {
        let _second = script.send(request("second", 1, 0));
        let _second_call = script.expect_call().await;
        let mut waits = script.send(request("waits", 1, 0));
        script.expect_no_call().await;
        going_away(going).await;
        assert_eq!(script.batch.view().in_flight, 1);
        assert!(poll(&mut waits).is_pending());
        script.expect_call().await;
    });
}

async fn going_away(runtime: tokio::runtime::Runtime) {
    std::thread::spawn(move || drop(runtime)).join().unwrap();
}
