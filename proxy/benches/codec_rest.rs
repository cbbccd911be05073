//! What JSON costs: `cargo bench -p outrigger --bench codec_rest`.
//!
//! Times are of one operation; the lines below them count its allocations and their bytes. The
//! yardstick is a tree of `serde_json::Value`.

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use outrigger::codec::json::{Reader, Strings, write_flat};
use outrigger_filters::inference::Datatype;
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// How clients write an FP32.
#[derive(Clone, Copy, Debug)]
enum Digits {
    /// Just enough: `0.1234567`.
    Short,
    /// As the FP64 that Python makes of it: `0.12345670163631439`.
    Python,
    /// Three places, with spaces: `0.123, `.
    Few,
}

const DIGITS: [Digits; 3] = [Digits::Short, Digits::Python, Digits::Few];

/// The numbers of an embedding, of a picture.
fn numbers(count: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(7);
    (0..count)
        .map(|_| random.random_range(-1.0..1.0_f32))
        .collect()
}

fn text(count: usize, digits: Digits) -> Bytes {
    let texts: Vec<String> = numbers(count)
        .into_iter()
        .map(|number| match digits {
            Digits::Short => number.to_string(),
            Digits::Python => f64::from(number).to_string(),
            Digits::Few => format!("{number:.3}"),
        })
        .collect();
    let comma = match digits {
        Digits::Short => ",",
        Digits::Python | Digits::Few => ", ",
    };
    format!("[{}]", texts.join(comma)).into()
}

#[divan::bench_group(sample_count = 1000, sample_size = 4)]
mod row_of_768 {
    use super::*;

    #[divan::bench(args = DIGITS)]
    fn as_a_tree(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| serde_json::from_slice::<serde_json::Value>(black_box(&text)));
    }

    #[divan::bench(args = DIGITS)]
    fn as_fp32(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| Reader::new(black_box(&text)).parse(Datatype::Fp32, Strings::Plain));
    }

    #[divan::bench(args = DIGITS)]
    fn passed_on(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| Reader::new(black_box(&text)).scan());
    }

    #[divan::bench(args = DIGITS)]
    fn stepped_over(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| Reader::new(black_box(&text)).value());
    }

    #[divan::bench]
    fn written(bencher: Bencher<'_, '_>) {
        let data: Vec<u8> = numbers(768)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        bencher.bench(|| {
            let mut out = Vec::new();
            write_flat(Datatype::Fp32, black_box(&data), Strings::Plain, &mut out).map(|()| out)
        });
    }

    #[divan::bench]
    fn written_from_a_tree(bencher: Bencher<'_, '_>) {
        let tree = serde_json::Value::from(numbers(768));
        bencher.bench(|| serde_json::to_vec(black_box(&tree)));
    }
}
