//! A load against small servers whose behaviour is known.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::TcpListener;

use super::*;
use crate::io::cork;

/// How a server treats call `n`.
type Behaviour = fn(u64) -> Treatment;

enum Treatment {
    Answer(&'static str),
    Delay(Duration),
    Reset,
    Nothing,
    HangUp,
}

/// Serves on a thread that ends with the test's process.
fn server(behaviour: Behaviour) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, behaviour));
            }
        });
    });
    address
}

async fn serve(stream: tokio::net::TcpStream, behaviour: Behaviour) {
    let (corked, uncork) = cork(stream);
    let connection = async {
        let mut connection = h2::server::handshake(corked)
            .await
            .expect("an HTTP/2 client");
        let mut n = 0;
        let mut kept = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            match behaviour(n) {
                Treatment::HangUp => return,
                Treatment::Reset => respond.send_reset(h2::Reason::REFUSED_STREAM),
                Treatment::Nothing => kept.push((request, respond)),
                Treatment::Answer(status) => answer(respond, status),
                Treatment::Delay(delay) => {
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        answer(respond, "0");
                    });
                }
            }
            n += 1;
        }
        poll_fn(|cx| connection.poll_closed(cx))
            .await
            .expect("closed in peace");
    };
    uncork.drive(connection).await;
}

fn answer(mut respond: SendResponse<Bytes>, status: &'static str) {
    let Ok(mut body) = respond.send_response(Response::new(()), false) else {
        return;
    };
    let _ = body.send_data(frame(b"prediction"), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let _ = body.send_trailers(trailers);
}

fn load(behaviour: Behaviour, pace: Pace) -> Load {
    let target = Target::new(server(behaviour), "/test.Service/Call").expect("a path");
    Load::new(
        target.connections(2),
        pace,
        Repeat::new([frame(b"features")]),
    )
    .lasting(Duration::from_millis(300))
}

fn fast(_: u64) -> Treatment {
    Treatment::Answer("0")
}

fn run(load: Load) -> Report {
    load.run().expect("connected")
}

#[test]
fn an_open_loop_sends_what_is_due_and_counts_every_answer() {
    let report = run(load(fast, Pace::Constant { rate: 1000.0 }));
    // The first is due after one gap, and the last not before the end.
    assert!((298..=300).contains(&report.sent()), "{report}");
    assert_eq!(report.answered(), report.sent(), "{report}");
    assert!(
        report.cpu_per_call().is_some_and(|cpu| !cpu.is_zero()),
        "{report}"
    );
}

#[test]
fn a_load_that_watches_the_clock_sends_the_same_calls_as_one_that_sleeps() {
    let report = run(load(fast, Pace::Constant { rate: 1000.0 }).spinning());
    assert!((298..=300).contains(&report.sent()), "{report}");
    assert_eq!(report.answered(), report.sent(), "{report}");
}

#[test]
fn a_closed_loop_has_as_many_calls_under_way_as_callers() {
    let slow = |_| Treatment::Delay(Duration::from_millis(100));
    let report = run(load(slow, Pace::Closed { callers: 4 }));
    // Each caller asks at 0, 100 and 200 ms; a loaded machine may lose it the last.
    assert!((4..=12).contains(&report.sent()), "{report}");
    assert_eq!(report.answered(), report.sent(), "{report}");
    assert!(report.latency(0.0) >= Duration::from_millis(99), "{report}");
}

#[test]
fn warming_up_is_not_counted() {
    let warmed = load(fast, Pace::Constant { rate: 1000.0 })
        .warm_up(Duration::from_millis(200))
        .lasting(Duration::from_millis(100));
    assert!((99..=101).contains(&run(warmed).sent()));
}

#[test]
fn a_silent_server_shows_as_unanswered_with_the_time_waited() {
    let report = run(load(|_| Treatment::Nothing, Pace::Constant { rate: 100.0 })
        .patience(Duration::from_millis(100)));
    assert_eq!(report.count(Outcome::Unanswered), report.sent(), "{report}");
    assert!(report.sent() > 20, "{report}");
    assert!(
        report.latency(0.01) >= Duration::from_millis(99),
        "{report}"
    );
}

#[test]
fn calls_count_from_when_they_were_due_not_from_when_the_server_had_time() {
    // Every call takes as long as the load lasts; the last are sent at its end all the same.
    let slow = |_| Treatment::Delay(Duration::from_millis(300));
    let report = run(load(slow, Pace::Constant { rate: 100.0 }));
    assert!((28..=30).contains(&report.sent()), "{report}");
    assert_eq!(report.answered(), report.sent(), "{report}");
    assert!(
        report.latency(0.0) >= Duration::from_millis(299),
        "{report}"
    );
}

#[test]
fn failures_are_told_apart() {
    let failing = |n| match n % 4 {
        0 => Treatment::Answer("0"),
        1 => Treatment::Answer("14"),
        2 => Treatment::Answer("none"),
        _ => Treatment::Reset,
    };
    let report = run(load(failing, Pace::Constant { rate: 400.0 }));
    for outcome in [
        Outcome::Grpc(0),
        Outcome::Grpc(14),
        Outcome::NoStatus,
        Outcome::Reset(7),
    ] {
        assert!(
            (28..=31).contains(&report.count(outcome)),
            "{outcome}: {report}"
        );
    }
    assert_eq!(report.failed(), report.sent() - report.answered());
    let ever = Duration::from_secs(600);
    assert_eq!(report.answered_within(ever), report.answered(), "{report}");
    assert_eq!(report.answered_within(Duration::ZERO), 0, "{report}");
}

#[test]
fn a_lost_connection_fails_its_calls() {
    let leaving = |n| {
        if n == 5 {
            Treatment::HangUp
        } else {
            Treatment::Answer("0")
        }
    };
    let report = run(load(leaving, Pace::Constant { rate: 100.0 }));
    assert!((28..=30).contains(&report.sent()), "{report}");
    assert_eq!(
        report.answered() + report.count(Outcome::Lost),
        report.sent(),
        "{report}"
    );
    assert!(report.answered() <= 10, "{report}");
}

#[test]
fn a_refused_answer_is_wrong() {
    struct Picky;
    impl Calls for Picky {
        fn body(&self, n: u64) -> Bytes {
            frame(&n.to_be_bytes())
        }

        fn accept(&self, n: u64, answer: &Bytes) -> bool {
            answer.ends_with(b"prediction") && n.is_multiple_of(2)
        }
    }
    let target = Target::new(server(fast), "/test.Service/Call").expect("a path");
    let report = run(Load::new(target, Pace::Constant { rate: 1000.0 }, Picky)
        .lasting(Duration::from_millis(100)));
    assert!(report.count(Outcome::Wrong) > 40, "{report}");
    assert!(report.answered() > 40, "{report}");
}

#[test]
fn an_interval_takes_what_was_seen_since_the_last_one() {
    let running = load(fast, Pace::Constant { rate: 1000.0 })
        .start()
        .expect("connected");
    let mut seen = 0;
    while !running.is_over() {
        seen += running.interval().sent();
        std::thread::yield_now();
    }
    seen += running.interval().sent();
    assert_eq!(running.wait().sent(), seen);
}

#[test]
fn stopping_ends_a_long_load_at_once() {
    for pace in [
        Pace::Poisson {
            rate: 100.0,
            seed: 1,
        },
        Pace::Closed { callers: 3 },
    ] {
        let silent = |_| Treatment::Nothing;
        let running = load(silent, pace)
            .lasting(Duration::from_secs(600))
            .start()
            .expect("connected");
        running.stop();
        // It would fail by never ending.
        running.wait();
    }
}

#[test]
fn nobody_at_the_address_is_an_error_at_the_start() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let target = Target::new(address, "/test.Service/Call").expect("a path");
    let calls = Repeat::new([frame(b"features")]);
    assert!(
        Load::new(target, Pace::Closed { callers: 1 }, calls)
            .start()
            .is_err()
    );
}

#[test]
fn a_single_call_returns_the_message_or_says_how_it_ended() {
    let target = |behaviour| Target::new(server(behaviour), "/test.Service/Call").expect("a path");
    let patience = Duration::from_secs(5);
    let message = unary(&target(fast), frame(b""), patience).expect("answered");
    assert_eq!(message, "prediction");
    let refused = |_| Treatment::Answer("12");
    let error = unary(&target(refused), frame(b""), patience).expect_err("refused");
    assert!(error.to_string().contains("grpc-status 12"), "{error}");
}
