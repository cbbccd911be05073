//! Whole proxies that share what they learn: feedback is counted once, wherever it is told, and
//! whatever happens to the Redis between them.

use std::{fs, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use outrigger_native::{Output, Synthetic, Tensor};
use outrigger_tests::{
    gateway::Gateway,
    model::{INFER, rows, start},
    patience::{until, within},
    redis::Redis,
    wire::{Reply, Wire, framed, grpc},
};
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

/// Proxies before the same two models, with one Redis.
struct Fleet {
    config: String,
    gateways: Vec<Gateway>,
    wires: Vec<Wire>,
    /// How much feedback was acknowledged, by whoever was told of it first.
    acknowledged: usize,
    asked: usize,
    _server: outrigger_native::Server,
    _folder: TempDir,
}

/// How often feedback is told. By what ids it is known is in Redis alone: it is told once where that is
/// lost at the next moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Once,
    /// Every fifth to the other proxy too.
    Again,
}

impl Fleet {
    async fn start(count: usize, redis: &Redis) -> Self {
        let says = |name: &str, label: i64| Synthetic {
            output: Output::Constant(Tensor::int64("label", &[1, 1], &[label])),
            ..Synthetic::new(name)
        };
        let models = outrigger_native::Server::builder().models([says("a", 1), says("b", 2)]);
        let server = start(models).await;
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        fs::write(&key, "not to be guessed by anybody").unwrap();
        let config = format!(
            "listeners: [{{ address: \"127.0.0.1:0\", upstream: server }}]\n\
             admin: {{ address: \"127.0.0.1:0\" }}\n\
             upstreams: {{ server: {{ protocol: oip-grpc, endpoints: [\"http://{}\"] }} }}\n\
             models: {{ m: {{ arms: {{ a: {{ upstream: server, model: a }}, \
             b: {{ upstream: server, model: b }} }}, \
             selection: {{ policy: exp3, context: {{ header: x-user }} }} }} }}\n\
             feedback: {{ key: \"{}\" }}\n\
             state: {{ redis: \"{}\", interval: 50ms }}\n",
            server.address(),
            key.display(),
            redis.url(),
        );
        let mut fleet = Self {
            config,
            gateways: Vec::new(),
            wires: Vec::new(),
            acknowledged: 0,
            asked: 0,
            _server: server,
            _folder: folder,
        };
        for _ in 0..count {
            fleet.join().await;
        }
        fleet
    }

    async fn join(&mut self) {
        let gateway = Gateway::start(&self.config);
        until("the models are known", || {
            let table = gateway.state().table();
            table.arms().all(|arm| arm.is_learned())
        })
        .await;
        self.wires.push(Wire::connect(gateway.address()).await);
        self.gateways.push(gateway);
    }

    /// Asks one proxy and tells another one what the answer was worth.
    async fn talk(&mut self, times: usize, told: Told) -> String {
        let mut last = String::new();
        for _ in 0..times {
            self.asked += 1;
            let (here, there) = (self.asked % 2, (self.asked + 1) % 2);
            let reply = self.ask(here).await;
            let id = header(&reply, "outrigger-prediction-id").to_owned();
            let loss = f64::from(u8::from(header(&reply, "outrigger-arm") == "b"));
            let report = json!({"prediction_id": id, "loss": loss});
            let (status, answer) = tell(&self.wires[there], &report).await;
            assert_eq!((status, &answer["applied"]), (StatusCode::OK, &json!(1)));
            self.acknowledged += 1;
            if told == Told::Again && self.asked.is_multiple_of(5) {
                let (status, answer) = tell(&self.wires[here], &report).await;
                assert_eq!(status, StatusCode::OK, "{answer}");
            }
            last = id;
        }
        last
    }

    async fn ask(&self, proxy: usize) -> Reply {
        let mut request = grpc(INFER);
        let user = ["ann", "bob", "eve"][self.asked % 3];
        request
            .headers_mut()
            .insert("x-user", user.parse().unwrap());
        let message = [framed(&rows("m", &[1.]).encode_to_vec())];
        let answer = self.wires[proxy].exchange(request, &message, None);
        let reply = within("an answer", answer).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
        reply
    }

    /// Returns what each proxy says of its arms: how much it was told, and what they lost.
    fn shown(&self) -> Vec<Vec<(f64, f64)>> {
        let gateways = self.gateways.iter();
        let shown = gateways.map(|gateway| {
            let models = gateway.state().models();
            let number = |arm: &str, name: &str| models["m"]["arms"][arm][name].as_f64();
            ["a", "b"].map(|arm| {
                let observations = number(arm, "observations").unwrap_or(0.);
                (observations, number(arm, "loss").unwrap_or(0.))
            })
        });
        shown.map(Vec::from).collect()
    }

    fn is_known(&self) -> bool {
        let shown = self.shown();
        shown.iter().all(|arms| {
            let sum: f64 = arms.iter().map(|(observations, _)| observations).sum();
            sum == self.acknowledged as f64 && arms == &shown[0]
        })
    }

    /// Waits until all proxies have counted everything once, and looks whether that stays so.
    async fn settle(&self) {
        let known = until("everyone has counted everything", || self.is_known());
        if tokio::time::timeout(Duration::from_secs(20), known)
            .await
            .is_err()
        {
            panic!("told {}, seen {:?}", self.acknowledged, self.shown());
        }
        sleep(Duration::from_millis(200)).await;
        assert!(self.is_known(), "what is known stays as it is");
    }
}

#[tokio::test]
async fn feedback_over_two_proxies_is_counted_once_whatever_happens_to_redis() {
    let mut redis = Redis::start(&[]);
    let mut fleet = Fleet::start(2, &redis).await;
    fleet.talk(30, Told::Again).await;
    fleet.settle().await;
    fleet.talk(30, Told::Once).await;
    redis.kill();
    fleet.talk(30, Told::Again).await;
    until("the failure is seen", || {
        let mut gateways = fleet.gateways.iter();
        gateways.all(|gateway| failures(gateway) > 0.)
    })
    .await;
    fleet.talk(30, Told::Again).await;
    redis.start_again();
    fleet.talk(30, Told::Again).await;
    fleet.settle().await;
    redis.freeze();
    fleet.talk(30, Told::Again).await;
    redis.thaw();
    fleet.talk(30, Told::Again).await;
    fleet.settle().await;
    for _ in 0..3 {
        fleet.talk(30, Told::Once).await;
        assert_eq!(redis.ask(&["FLUSHALL"]), "OK");
    }
    fleet.talk(30, Told::Again).await;
    fleet.settle().await;
}

#[tokio::test]
async fn a_proxy_that_takes_another_ones_place_knows_what_it_learned_and_its_predictions() {
    let redis = Redis::start(&[]);
    let mut fleet = Fleet::start(2, &redis).await;
    let id = fleet.talk(40, Told::Again).await;
    let left = fleet.gateways.remove(1);
    fleet.wires.remove(1);
    within("it drains", left.drain()).await.unwrap();
    drop(left);
    fleet.join().await;
    fleet.settle().await;
    // What was told before is known by the replica that has never seen it.
    let told = json!({"prediction_id": id, "loss": 1.0});
    let (status, answer) = tell(&fleet.wires[1], &told).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    fleet.settle().await;
    fleet.talk(20, Told::Again).await;
    fleet.settle().await;
}

async fn tell(wire: &Wire, report: &Value) -> (StatusCode, Value) {
    let request = Request::post("http://model.test/outrigger/v1/feedback")
        .version(Version::HTTP_2)
        .header("content-type", "application/json")
        .body(())
        .unwrap();
    let body = [Bytes::from(report.to_string())];
    let answer = wire.exchange(request, &body, None);
    let reply = within("it is taken", answer).await.unwrap();
    let answer = serde_json::from_slice(&reply.body).unwrap_or_default();
    (reply.status, answer)
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    let value = reply.headers.get(name);
    value
        .unwrap_or_else(|| panic!("no {name}: {reply:?}"))
        .to_str()
        .unwrap()
}

fn failures(gateway: &Gateway) -> f64 {
    let text = gateway.state().metrics_text();
    let metrics = outrigger_tests::metrics::Metrics::read(&text).unwrap();
    metrics.sum("outrigger_state_exchanges_total", &[("result", "failed")])
}
