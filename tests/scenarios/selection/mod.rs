//! Which arm answers, what is learned of it, and what several of them say together.

mod chance;
mod contexts;
mod credit;
mod ensembles;
mod failures;
mod feedback;
mod inputs;
mod kept;
mod protocols;
mod readiness;
mod reloads;
mod shadows;
mod untold;

use std::collections::BTreeMap;

use bytes::Bytes;
use outrigger_native::{Datatype, Handle, Output, Synthetic, Tensor, TensorSpec};
use outrigger_tests::{
    feedback::tell,
    gateway::Gateway,
    metrics::Metrics,
    model::{Served, rows, serve},
    patience::{until, within},
    wire::{Reply, Wire},
};
use serde_json::{Value, json};

use crate::gather::Inference;

/// Servers of one model each, which is called as the arm that it is.
struct Team {
    served: Vec<Served>,
}

/// How the arms of a model stand, as `/models` tells: weight, probability, observations and loss.
type Standings = BTreeMap<String, [Value; 4]>;

impl Team {
    /// Starts a server for each model.
    async fn of(models: impl IntoIterator<Item = Synthetic>) -> Self {
        let mut served = Vec::new();
        for model in models {
            served.push(serve(model).await);
        }
        Self { served }
    }

    /// Starts servers that say these labels to everything: `a` the first one, and so on.
    async fn of_labels(labels: &[i64]) -> Self {
        let named = NAMES.into_iter().zip(labels);
        Self::of(named.map(|(name, label)| says(name, of_label(*label)))).await
    }

    /// Returns the reins of an arm.
    fn arm(&self, name: &str) -> &Handle {
        let mut handles = self.served.iter().map(|served| &served.model);
        let handle = handles.find(|handle| handle.name() == name);
        handle.unwrap_or_else(|| panic!("no arm {name}"))
    }

    /// Writes a configuration with two listeners, whose model `m` has all arms, each with what is
    /// written for it.
    fn config(&self, arms: &[&str], model: &str, rest: &str) -> String {
        let mut upstreams = String::new();
        let mut written = String::new();
        for (index, served) in self.served.iter().enumerate() {
            let (name, address) = (served.model.name(), served.server.address());
            upstreams.push_str(&format!(
                "{name}: {{ protocol: oip-grpc, endpoints: [\"http://{address}\"] }}, "
            ));
            let settings = arms.get(index).copied().unwrap_or_default();
            written.push_str(&format!(
                "{name}: {{ upstream: {name}, model: {name}, {settings} }}, "
            ));
        }
        let first = self.served[0].model.name();
        format!(
            "listeners: [{{ address: \"127.0.0.1:0\", upstream: {first} }}, \
             {{ address: \"127.0.0.1:0\", upstream: {first} }}]\n\
             admin: {{ address: \"127.0.0.1:0\" }}\n\
             upstreams: {{ {upstreams} }}\n\
             models: {{ m: {{ arms: {{ {written} }}, {model} }} }}\n\
             {rest}\n"
        )
    }

    /// Starts a proxy with such a configuration.
    async fn before(&self, arms: &[&str], model: &str, rest: &str) -> Gateway {
        ready(Gateway::start(&self.config(arms, model, rest))).await
    }
}

/// Waits until the servers have said what they take.
async fn ready(gateway: Gateway) -> Gateway {
    until("the models are known", || {
        let table = gateway.state().table();
        table.arms().all(|arm| arm.is_learned())
    })
    .await;
    gateway
}

/// A model that says the same to each row.
fn says(name: &str, row: Tensor) -> Synthetic {
    Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        output: Output::Constant(row),
        concurrency: 8,
        ..Synthetic::new(name)
    }
}

/// A model that says what it is asked.
fn echoes(name: &str, datatype: Datatype) -> Synthetic {
    Synthetic {
        inputs: vec![TensorSpec::new("input0", datatype, &[1])],
        concurrency: 8,
        ..Synthetic::new(name)
    }
}

fn of_label(label: i64) -> Tensor {
    row(Datatype::Int64, 1, label.to_le_bytes().to_vec())
}

fn of_text(text: &str) -> Tensor {
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    row(Datatype::Bytes, 1, [&length, text.as_bytes()].concat())
}

fn of_scores(scores: &[f32]) -> Tensor {
    let data = scores.iter().flat_map(|score| score.to_le_bytes());
    row(Datatype::Fp32, scores.len(), data.collect())
}

fn row(datatype: Datatype, columns: usize, data: Vec<u8>) -> Tensor {
    Tensor {
        name: "output0".to_owned(),
        datatype,
        shape: vec![1, i64::try_from(columns).unwrap()],
        data: Bytes::from(data),
    }
}

/// A question of these rows.
fn question(values: &[f32]) -> Inference {
    Inference::of(&rows("m", values))
}

async fn send(wire: &Wire, inference: &Inference) -> Reply {
    within("an answer", inference.send(wire)).await.unwrap()
}

/// Asks the model, and demands an answer.
async fn ask(wire: &Wire, values: &[f32]) -> Reply {
    let reply = send(wire, &question(values)).await;
    assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
    reply
}

/// Asks the model until that arm answers.
async fn ask_until(wire: &Wire, arm: &str) -> Reply {
    within("the arm answers", async {
        loop {
            let reply = ask(wire, &[1.]).await;
            if arm_of(&reply) == arm {
                return reply;
            }
        }
    })
    .await
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let value = reply.headers.get(name)?;
    Some(value.to_str().unwrap())
}

fn arm_of(reply: &Reply) -> &str {
    header(reply, "outrigger-arm").unwrap_or_else(|| panic!("no arm: {reply:?}"))
}

fn id_of(reply: &Reply) -> &str {
    header(reply, "outrigger-prediction-id").unwrap_or_else(|| panic!("no id: {reply:?}"))
}

/// Tells the loss of an answer, and demands that it counts.
async fn teach(wire: &Wire, reply: &Reply, loss: f64) -> Value {
    let report = json!({"prediction_id": id_of(reply), "loss": loss});
    let (status, answer) = tell(wire, &report).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["applied"], 1, "{answer}");
    answer
}

/// Returns what `/models` tells of the model's arms.
fn standings(gateway: &Gateway) -> Standings {
    let models = gateway.state().models();
    let arms = models["m"]["arms"].as_object().unwrap();
    let shown = arms.iter().filter(|(_, arm)| arm.get("shadow").is_none());
    let numbers = shown.map(|(name, arm)| {
        let numbers = ["weight", "probability", "observations", "loss"];
        (name.clone(), numbers.map(|number| arm[number].clone()))
    });
    numbers.collect()
}

fn probability(gateway: &Gateway, arm: &str) -> f64 {
    number(&standings(gateway)[arm][1])
}

fn observations(gateway: &Gateway, arm: &str) -> f64 {
    number(&standings(gateway)[arm][2])
}

fn loss(gateway: &Gateway, arm: &str) -> Option<f64> {
    standings(gateway)[arm][3].as_f64()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    let metrics = Metrics::read(&gateway.state().metrics_text()).unwrap();
    metrics.sum(name, labels)
}

fn is_up(gateway: &Gateway, arm: &str) -> bool {
    metric(gateway, "outrigger_select_up", &[("arm", arm)]) == 1.
}

/// How often each arm's server was asked.
fn asked(team: &Team) -> BTreeMap<&str, u64> {
    let handles = team.served.iter().map(|served| &served.model);
    let counted = handles.map(|handle| (handle.name(), handle.counters().calls));
    counted.collect()
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
