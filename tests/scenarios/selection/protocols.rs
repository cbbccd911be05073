//! Callers of every protocol are told the same, of arms whose servers speak any.

use bytes::Bytes;
use http::Request;
use outrigger_native::{
    Handle, Server, Synthetic,
    inference::{InferTensorContents, ModelInferResponse},
};
use outrigger_tests::{
    gateway::Gateway,
    model::{INFER, rows, start},
    patience::within,
    protocol::{PredictResponse, Protocol},
    wire::{Reply, Wire, framed, grpc},
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{NAMES, ready};

/// What a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As the harness says it.
    As(Protocol),
    /// The Open Inference Protocol over gRPC, typed contents.
    Typed,
}

impl Way {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let usual = Protocol::ALL.into_iter().map(Self::As);
        usual.chain([Self::Typed])
    }

    fn request(self, values: &[f32]) -> (Request<()>, Bytes) {
        let Self::As(protocol) = self else {
            let mut request = rows("m", values);
            request.raw_input_contents.clear();
            request.inputs[0].contents = Some(InferTensorContents {
                fp32_contents: values.to_vec(),
                ..Default::default()
            });
            return (grpc(INFER), framed(&request.encode_to_vec()));
        };
        protocol.ask("m", values)
    }

    /// Asks the model `m` with one FP32 column.
    pub(super) async fn ask(self, wire: &Wire, values: &[f32]) -> Reply {
        self.ask_as(wire, values, &[]).await
    }

    /// The same with headers.
    pub(super) async fn ask_as(
        self,
        wire: &Wire,
        values: &[f32],
        headers: &[(&'static str, &str)],
    ) -> Reply {
        let (mut request, body) = self.request(values);
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let body = [body];
        within("an answer", wire.exchange(request, &body, None))
            .await
            .unwrap()
    }

    /// Tells whether it is a good answer.
    pub(super) fn is_ok(self, reply: &Reply) -> bool {
        match self {
            Self::Typed | Self::As(Protocol::OipGrpc | Protocol::TfservingGrpc) => {
                reply.grpc_status() == Some("0")
            }
            Self::As(_) => reply.status.is_success(),
        }
    }

    /// Reads the elements of an answer's only output.
    pub(super) fn read(self, reply: &Reply) -> Vec<Value> {
        assert!(self.is_ok(reply), "{self:?} {reply:?}");
        let json = || -> Value { serde_json::from_slice(&reply.body).expect("JSON") };
        let protocol = match self {
            Self::As(protocol) => protocol,
            Self::Typed => Protocol::OipGrpc,
        };
        match protocol {
            Protocol::OipGrpc => {
                let message = reply.body.get(5..).expect("a message");
                let message = ModelInferResponse::decode(message).expect("an answer");
                let output = &message.outputs[0];
                match message.raw_output_contents.first() {
                    Some(data) => of_bytes(&output.datatype, data),
                    None => of_contents(output.contents.as_ref().expect("contents")),
                }
            }
            Protocol::OipRest => flat(&json()["outputs"][0]["data"]),
            Protocol::OipBinary => {
                let len = reply.headers["inference-header-content-length"].to_str();
                let (head, data) = reply.body.split_at(len.unwrap().parse().unwrap());
                let head: Value = serde_json::from_slice(head).expect("JSON");
                of_bytes(head["outputs"][0]["datatype"].as_str().unwrap(), data)
            }
            Protocol::TfservingGrpc => {
                let message = reply.body.get(5..).expect("a message");
                let message = PredictResponse::decode(message).expect("an answer");
                let tensor = message.outputs.values().next().expect("an output");
                let datatype = match tensor.dtype {
                    1 => "FP32",
                    7 => "BYTES",
                    9 => "INT64",
                    other => panic!("no type of these tests: {other}"),
                };
                if tensor.tensor_content.is_empty() {
                    let texts = tensor.string_val.iter();
                    let texts = texts.map(|text| String::from_utf8_lossy(text).into());
                    let numbers = tensor.float_val.iter().map(|value| json!(value));
                    let integers = tensor.int64_val.iter().map(|value| json!(value));
                    numbers.chain(integers).chain(texts).collect()
                } else {
                    of_bytes(datatype, &tensor.tensor_content)
                }
            }
            Protocol::TfservingRest => flat(&json()["predictions"]),
            Protocol::TfservingColumns => flat(&json()["outputs"]),
        }
    }
}

fn of_bytes(datatype: &str, mut data: &[u8]) -> Vec<Value> {
    match datatype {
        "FP32" => (data.as_chunks().0.iter())
            .map(|bytes| json!(f32::from_le_bytes(*bytes)))
            .collect(),
        "INT64" => (data.as_chunks().0.iter())
            .map(|bytes| json!(i64::from_le_bytes(*bytes)))
            .collect(),
        "BYTES" => {
            let mut texts = Vec::new();
            while let Some((len, rest)) = data.split_first_chunk() {
                let (text, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
                texts.push(String::from_utf8_lossy(text).into());
                data = rest;
            }
            texts
        }
        other => panic!("no type of these tests: {other}"),
    }
}

fn of_contents(contents: &InferTensorContents) -> Vec<Value> {
    let texts = contents.bytes_contents.iter();
    let texts = texts.map(|text| String::from_utf8_lossy(text).into());
    let numbers = contents.fp32_contents.iter().map(|value| json!(value));
    let integers = contents.int64_contents.iter().map(|value| json!(value));
    numbers.chain(integers).chain(texts).collect()
}

fn flat(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        Value::Object(fields) if fields.contains_key("b64") => panic!("{value}"),
        Value::Object(fields) => fields.values().flat_map(flat).collect(),
        other => vec![other.clone()],
    }
}

/// Compares numbers as numbers, however they are written.
pub(super) fn same(found: &[Value], wanted: &[Value]) -> bool {
    let alike = |one: &Value, other: &Value| match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() < 1e-6,
        _ => one == other,
    };
    found.len() == wanted.len()
        && found
            .iter()
            .zip(wanted)
            .all(|(one, other)| alike(one, other))
}

/// Arms whose servers speak different protocols, by way of a proxy that speaks all of them.
pub(super) struct Mixed {
    pub(super) server: Server,
    _front: Gateway,
    pub(super) gateway: Gateway,
}

impl Mixed {
    /// Serves the models, called `a` and so on, each in a protocol, with what is written for its arm.
    pub(super) async fn of(
        models: Vec<Synthetic>,
        arms: &[(&str, &str)],
        model: &str,
        listener: &str,
    ) -> Self {
        let builder = Server::builder().models(models);
        let server = start(builder).await;
        let named: Vec<_> = NAMES.iter().take(arms.len()).collect();
        let models: Vec<_> = named.iter().map(|name| format!("{name}: {{}}")).collect();
        let models = format!("models: {{ {} }}", models.join(", "));
        let front = Gateway::before(&[server.address()], "protocol: oip-grpc", &models);
        let front = ready(front).await;
        let address = front.address();
        let mut upstreams = String::new();
        let mut spoken: Vec<_> = arms.iter().map(|(protocol, _)| *protocol).collect();
        spoken.push(listener);
        spoken.sort_unstable();
        spoken.dedup();
        for protocol in spoken {
            upstreams.push_str(&format!(
                "{protocol}: {{ protocol: {protocol}, endpoints: [\"http://{address}\"] }}, "
            ));
        }
        let arms = named.iter().zip(arms).map(|(name, (protocol, settings))| {
            format!("{name}: {{ upstream: {protocol}, model: {name}, {settings} }}")
        });
        let arms: Vec<_> = arms.collect();
        let config = format!(
            "listeners: [{{ address: \"127.0.0.1:0\", upstream: {listener} }}]\n\
             admin: {{ address: \"127.0.0.1:0\" }}\n\
             upstreams: {{ {upstreams} }}\n\
             models: {{ m: {{ arms: {{ {} }}, {model} }} }}\n",
            arms.join(", ")
        );
        let gateway = ready(Gateway::start(&config)).await;
        Self {
            server,
            _front: front,
            gateway,
        }
    }

    pub(super) fn arm(&self, name: &str) -> Handle {
        self.server.handle(name).expect("it is served")
    }
}

#[tokio::test]
async fn any_arm_answers_callers_of_any_protocol() {
    use super::{arm_of, id_of, of_label, of_text, says};
    for (models, first, second) in [
        (["1", "2"], json!(1), json!(2)),
        (["yes", "no"], json!("yes"), json!("no")),
    ] {
        let model = |name: &str, said: &str| match said.parse() {
            Ok(label) => says(name, of_label(label)),
            Err(_) => says(name, of_text(said)),
        };
        for protocols in [
            ["oip-grpc", "tfserving-rest"],
            ["oip-rest", "tfserving-grpc"],
            ["tfserving-grpc", "oip-rest"],
            ["tfserving-rest", "oip-grpc"],
        ] {
            let served = vec![model("a", models[0]), model("b", models[1])];
            let arms = protocols.map(|protocol| (protocol, ""));
            let mixed = Mixed::of(served, &arms, "selection: { seed: 4 }", protocols[0]).await;
            let wire = Wire::connect(mixed.gateway.address()).await;
            for way in Way::all() {
                let mut seen = [0, 0];
                while seen.contains(&0) {
                    let reply = way.ask(&wire, &[1., 2.]).await;
                    assert!(way.is_ok(&reply), "{protocols:?} {way:?} {reply:?}");
                    let (arm, wanted) = match arm_of(&reply) {
                        "a" => (0, &first),
                        _ => (1, &second),
                    };
                    seen[arm] += 1;
                    let wanted = [wanted.clone(), wanted.clone()];
                    let found = way.read(&reply);
                    assert!(same(&found, &wanted), "{protocols:?} {way:?} {found:?}");
                    assert!(!id_of(&reply).is_empty());
                }
            }
        }
    }
}
