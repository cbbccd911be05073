//! The controllers against the cost curves of Clipper's containers, event by event.

use std::time::Duration;

use super::{Aimd, BatchLimit, Call};

#[derive(Clone, Copy, Debug)]
pub(super) struct Curve {
    name: &'static str,
    beta: f64,
    alpha: f64,
}

const CURVES: [Curve; 6] = [
    Curve { name: "no-op", beta: 813e-6, alpha: 19e-6 },
    Curve { name: "logistic regression", beta: 783e-6, alpha: 24e-6 },
    Curve { name: "linear svm", beta: 3671e-6, alpha: 12.5e-6 },
    Curve { name: "pyspark svm", beta: 1088e-6, alpha: 34e-6 },
    Curve { name: "random forest", beta: 7663e-6, alpha: 32e-6 },
    Curve { name: "kernel svm", beta: 5889e-6, alpha: 5062e-6 },
];

#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
    fn exponential(&mut self, rate: f64) -> f64 {
        -(1. - self.next()).ln() / rate
    }
}

#[derive(Debug)]
struct Static(usize);
impl BatchLimit for Static {
    fn limit(&self, _: usize) -> usize { self.0 }
    fn observe(&mut self, _: &Call) {}
}

fn p99(curve: Curve, limit: &mut dyn BatchLimit, rate: f64, jitter: f64, seed: u64) -> f64 {
    let requests = ((rate * 20.) as usize).clamp(20_000, 400_000);
    let warm = requests / 5;
    let mut random = Random(seed);
    let mut noise = Random(seed ^ 77);
    let mut arrivals = std::collections::VecDeque::new();
    let mut next = random.exponential(rate);
    let mut made = 1;
    let mut now = 0.0_f64;
    let mut latencies = Vec::with_capacity(requests);
    loop {
        if arrivals.is_empty() {
            if made > requests { break; }
            now = now.max(next);
        }
        while made <= requests && next <= now {
            arrivals.push_back(next);
            next += random.exponential(rate);
            made += 1;
        }
        if arrivals.is_empty() { continue; }
        let most = limit.limit(4096);
        let rows = arrivals.len().min(most);
        let model = (curve.beta + curve.alpha * rows as f64) * (1. + jitter * (noise.exponential(1.)));
        let queue = now - arrivals[0];
        now += model;
        for arrived in arrivals.drain(..rows) { latencies.push(now - arrived); }
        limit.observe(&Call { rows, full: rows >= most, queue: Duration::from_secs_f64(queue), model: Duration::from_secs_f64(model), most: 4096 });
    }
    let mut latencies = latencies.split_off(warm);
    let at = latencies.len() * 99 / 100;
    *latencies.select_nth_unstable_by(at, f64::total_cmp).1
}

fn throughput(curve: Curve, objective: f64, jitter: f64, make: &dyn Fn() -> Box<dyn BatchLimit>) -> f64 {
    let (mut low, mut high) = (1.0_f64, 1.3 / curve.alpha);
    for _ in 0..12 {
        let rate = (low * high).sqrt();
        let bad = [1, 2, 3].iter().filter(|seed| p99(curve, &mut *make(), rate, jitter, **seed) > objective).count();
        if bad >= 2 { high = rate } else { low = rate }
    }
    low
}

#[test]
fn sweep() {
    for jitter in [0., 0.05] {
    for curve in CURVES {
        let mut best = (0., 0);
        let mut one = 0.;
        for limit in [1, 2, 3, 4, 64, 128, 256, 512, 1024, 4096] {
            let t = throughput(curve, 0.02, jitter, &|| Box::new(Static(limit)));
            if limit == 1 { one = t; }
            if t > best.0 { best = (t, limit); }
        }
        print!("{jitter} {:20} one {one:8.0} best {:8.0} @{:4} ", curve.name, best.0, best.1);
        for share in [0.5, 0.6, 0.7, 0.8, 0.9, 1.0] {
            let t = throughput(curve, 0.02, jitter, &|| Box::new(Aimd::with_share(Duration::from_millis(20), share)));
            print!(" {share}: {:.3}", t / best.0);
        }
        println!();
    }
    }
}
