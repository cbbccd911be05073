//! What feedback and prediction ids cost: `cargo bench -p outrigger --bench feedback`.
//!
//! Times are of one operation, and items a second beside those of reports.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};
use outrigger::codec::feedback::{
    Reply, Standing, decode_json, decode_message, encode_json, encode_message,
};
use outrigger_filters::{
    inference::Form,
    select::{Chosen, Keys, Token},
};
use smallvec::smallvec;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn keys() -> Keys {
    Keys::new(b"a key that is long enough", None).expect("it is long enough")
}

/// The id of an answer of one row by one of `arms` arms, or by all of them.
fn token(arms: usize) -> Token {
    let chosen = |arm| Chosen {
        predictions: vec![0; 5],
        ..Chosen::new(arm, 0.5)
    };
    Token {
        model: Token::digest("digits"),
        context: None,
        ensemble: arms > 1,
        arms: match arms {
            1 => smallvec![chosen(0)],
            arms => (0..arms as u32).map(chosen).collect(),
        },
        rows: 1,
        at: SystemTime::now(),
        nonce: 7,
        cut: false,
    }
}

#[divan::bench(args = [1, 5])]
fn seal(bencher: Bencher<'_, '_>, arms: usize) {
    let (keys, token) = (keys(), token(arms));
    bencher.bench(|| black_box(&token).seal(&keys));
}

#[divan::bench(args = [1, 5])]
fn open(bencher: Bencher<'_, '_>, arms: usize) {
    let (keys, token) = (keys(), token(arms));
    let id = token.seal(&keys);
    let age = Duration::from_secs(60);
    bencher.bench(|| Token::open(black_box(&id), &keys, token.at, age));
}

fn json(items: usize) -> Bytes {
    let id = token(1).seal(&keys());
    let item = |index: usize| match index % 2 {
        0 => format!(r#"{{"prediction_id": "{id}", "loss": 0.25}}"#),
        _ => format!(r#"{{"prediction_id": "{id}", "label": 7}}"#),
    };
    match items {
        1 => item(0).into(),
        items => {
            let items: Vec<String> = (0..items).map(item).collect();
            format!(r#"{{"feedback": [{}]}}"#, items.join(", ")).into()
        }
    }
}

fn message(items: usize) -> Bytes {
    let id = token(1).seal(&keys());
    let mut item = vec![10, u8::try_from(id.len()).expect("it is short")];
    item.extend_from_slice(id.as_bytes());
    item.push(25);
    item.extend_from_slice(&0.25_f64.to_le_bytes());
    let mut message = Vec::new();
    for _ in 0..items {
        message.extend_from_slice(&[10, u8::try_from(item.len()).expect("it is short")]);
        message.extend_from_slice(&item);
    }
    message.into()
}

#[divan::bench(args = [1, 100])]
fn read_json(bencher: Bencher<'_, '_>, items: usize) {
    let body = json(items);
    let bencher = bencher.counter(ItemsCount::new(items));
    bencher.bench(|| decode_json(black_box(&body), |_| Form::Raw));
}

#[divan::bench(args = [1, 100])]
fn read_message(bencher: Bencher<'_, '_>, items: usize) {
    let message = message(items);
    let bencher = bencher.counter(ItemsCount::new(items));
    bencher.bench(|| decode_message(black_box(&message)));
}

fn reply() -> Reply {
    let standing = Standing {
        weight: 0.123_456_789,
        probability: 0.2,
        observations: 12_345.,
        loss: Some(0.05),
    };
    let arms = (0..5).map(|arm| (format!("arm-{arm}").into(), standing));
    Reply {
        applied: 100,
        models: vec![("digits".into(), arms.collect())],
        ..Reply::default()
    }
}

#[divan::bench]
fn write_json(bencher: Bencher<'_, '_>) {
    let reply = reply();
    bencher.bench(|| encode_json(black_box(&reply)));
}

#[divan::bench]
fn write_message(bencher: Bencher<'_, '_>) {
    let reply = reply();
    bencher.bench(|| encode_message(black_box(&reply)));
}
