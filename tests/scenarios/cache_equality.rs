//! Whatever callers of whatever protocol do at once, with a cache they are answered what they are
//! answered without.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use outrigger_native::{
    Curve, Datatype, Fault, Faults, Jitter, Synthetic, TensorSpec,
    inference::{
        InferTensorContents, ModelInferRequest, ModelInferResponse,
        infer_parameter::ParameterChoice::Int64Param, model_infer_request::InferInputTensor,
    },
};
use outrigger_tests::{
    gateway::Gateway,
    http1::Http1,
    metrics::Metrics,
    model::{INFER, Served, output, parameter, serve},
    patience::within,
    protocol::{Dim, ModelSpec, PREDICT, TensorShapeProto},
    wire::{Reply, Wire, framed, grpc},
};
use prost::Message;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::merging::before;

/// A row of a request: of each of the model's inputs.
#[derive(Clone, Debug)]
struct Row {
    x: [f32; 2],
    text: Bytes,
    number: i64,
}

/// In which words an inference is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Raw,
    Typed,
    Json,
    Binary,
    Predict,
    Rows,
    Columns,
}

/// An inference, in no words.
#[derive(Clone, Debug)]
struct Asked {
    front: Front,
    rows: Vec<Row>,
    /// None is all.
    outputs: Vec<&'static str>,
    parameter: Option<i64>,
    id: String,
}

/// `tensorflow.serving.PredictRequest`, with what is used here; and so on.
#[derive(Clone, PartialEq, Message)]
struct PredictRequest {
    #[prost(message, optional, tag = "1")]
    model_spec: Option<ModelSpec>,
    #[prost(btree_map = "string, message", tag = "2")]
    inputs: BTreeMap<String, TensorProto>,
    #[prost(string, repeated, tag = "3")]
    output_filter: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct PredictResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    outputs: BTreeMap<String, TensorProto>,
    #[prost(message, optional, tag = "2")]
    model_spec: Option<ModelSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShapeProto>,
    #[prost(bytes = "vec", tag = "4")]
    tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    float_val: Vec<f32>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "10")]
    int64_val: Vec<i64>,
}

const FRONTS: [Front; 7] = [
    Front::Raw,
    Front::Typed,
    Front::Json,
    Front::Binary,
    Front::Predict,
    Front::Rows,
    Front::Columns,
];

/// A row that begins so is refused.
const MARKED: f32 = 666.;

impl Asked {
    /// Draws one whose rows are of a pool.
    fn draw(random: &mut StdRng, pool: &[Row]) -> Self {
        let front = FRONTS[random.random_range(0..FRONTS.len())];
        let is_text = matches!(front, Front::Json | Front::Rows | Front::Columns);
        let rows = (0..random.random_range(1..=8)).map(|_| {
            loop {
                let row = &pool[random.random_range(0..pool.len())];
                // Bytes that are no text cannot be said in all protocols; and few shall fail.
                let is_no_text = is_text && std::str::from_utf8(&row.text).is_err();
                if !is_no_text && (row.x[0] != MARKED || random.random_ratio(1, 8)) {
                    return row.clone();
                }
            }
        });
        let rows = rows.collect();
        let filters = matches!(front, Front::Raw | Front::Json | Front::Predict);
        let outputs = match random.random_range(0..4) {
            0 if filters => vec!["output1"],
            1 if filters => vec!["output2", "output0"],
            _ => Vec::new(),
        };
        let is_oip = !matches!(front, Front::Predict | Front::Rows | Front::Columns);
        let parameter = random
            .random_ratio(1, 4)
            .then(|| random.random_range(0..2))
            .filter(|_| is_oip);
        Self {
            front,
            rows,
            outputs,
            parameter,
            id: match random.random_range(0..3) {
                0 => String::new(),
                number => format!("{number}-{}", random.random::<u16>()),
            },
        }
    }

    fn write(&self) -> (Request<()>, Bytes) {
        match self.front {
            Front::Raw | Front::Typed => {
                let message = self.infer().encode_to_vec();
                (grpc(INFER), framed(&message))
            }
            Front::Json => {
                let mut body = self.json();
                body["inputs"] = json!([
                    self.tensor("features", "FP32", 2, Some(json!(self.x()))),
                    self.tensor("text", "BYTES", 1, Some(json!(self.texts()))),
                    self.tensor("whole", "INT64", 1, Some(json!(self.numbers()))),
                ]);
                (post("/v2/models/m/infer"), body.to_string().into())
            }
            Front::Binary => self.binary(),
            Front::Predict => {
                let message = self.predict().encode_to_vec();
                (grpc(PREDICT), framed(&message))
            }
            Front::Rows => {
                let rows = self.rows.iter().map(|row| {
                    let text = std::str::from_utf8(&row.text).unwrap();
                    json!({"features": row.x, "text": [text], "whole": [row.number]})
                });
                let body = json!({ "instances": rows.collect::<Vec<_>>() });
                (post("/v1/models/m:predict"), body.to_string().into())
            }
            Front::Columns => {
                let column = |values: Vec<Value>| -> Value {
                    values.into_iter().map(|value| json!([value])).collect()
                };
                let texts = self.texts().into_iter().map(Value::from).collect();
                let numbers = self.numbers().into_iter().map(Value::from).collect();
                let x: Vec<_> = self.rows.iter().map(|row| row.x).collect();
                let inputs =
                    json!({"features": x, "text": column(texts), "whole": column(numbers)});
                let body = json!({ "inputs": inputs });
                (post("/v1/models/m:predict"), body.to_string().into())
            }
        }
    }

    /// Says all that an answer means.
    fn meaning(&self, reply: &Reply) -> String {
        let content_type = reply.headers.get("content-type");
        let head = format!("{} {content_type:?}", reply.status);
        let is_grpc = matches!(self.front, Front::Raw | Front::Typed | Front::Predict);
        if is_grpc && reply.grpc_status() != Some("0") {
            return format!("{head} {:?} {}", reply.grpc_status(), reply.grpc_message());
        }
        let message = || reply.body.get(5..).expect("a message");
        match self.front {
            Front::Raw | Front::Typed => {
                format!(
                    "{head} {:?}",
                    ModelInferResponse::decode(message()).unwrap()
                )
            }
            Front::Predict => {
                format!("{head} {:?}", PredictResponse::decode(message()).unwrap())
            }
            _ => {
                let len = reply.headers.get("inference-header-content-length");
                let len = len.map(|len| len.to_str().unwrap().parse::<usize>().unwrap());
                let (text, tail) = reply.body.split_at(len.unwrap_or(reply.body.len()));
                let json: Value = serde_json::from_slice(text).expect("JSON");
                format!("{head} {len:?} {json} {tail:?}")
            }
        }
    }

    async fn send(&self, wire: &Wire) -> Reply {
        let (request, body) = self.write();
        wire.exchange(request, &[body], None).await.unwrap()
    }

    fn infer(&self) -> ModelInferRequest {
        let rows = self.rows.len() as i64;
        let is_raw = self.front == Front::Raw;
        let input = |name: &str, datatype: &str, columns, contents| InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![rows, columns],
            contents: (!is_raw).then_some(contents),
            ..Default::default()
        };
        let parameters = self.parameter.iter();
        ModelInferRequest {
            model_name: "m".to_owned(),
            id: self.id.clone(),
            parameters: parameters
                .map(|value| ("custom".to_owned(), parameter(Int64Param(*value))))
                .collect(),
            inputs: vec![
                input(
                    "features",
                    "FP32",
                    2,
                    InferTensorContents {
                        fp32_contents: self.x(),
                        ..Default::default()
                    },
                ),
                input(
                    "text",
                    "BYTES",
                    1,
                    InferTensorContents {
                        bytes_contents: self.rows.iter().map(|row| row.text.clone()).collect(),
                        ..Default::default()
                    },
                ),
                input(
                    "whole",
                    "INT64",
                    1,
                    InferTensorContents {
                        int64_contents: self.numbers(),
                        ..Default::default()
                    },
                ),
            ],
            outputs: self.outputs.iter().copied().map(output).collect(),
            raw_input_contents: match is_raw {
                true => self.raw().map(Bytes::from).into(),
                false => Vec::new(),
            },
            ..Default::default()
        }
    }

    fn predict(&self) -> PredictRequest {
        let rows = self.rows.len() as i64;
        let [x, ..] = self.raw();
        let tensor = |dtype, columns| TensorProto {
            dtype,
            tensor_shape: Some(TensorShapeProto {
                dim: vec![Dim { size: rows }, Dim { size: columns }],
            }),
            ..Default::default()
        };
        let texts = self.rows.iter().map(|row| row.text.to_vec());
        let inputs = [
            (
                "features",
                TensorProto {
                    tensor_content: x,
                    ..tensor(1, 2)
                },
            ),
            (
                "text",
                TensorProto {
                    string_val: texts.collect(),
                    ..tensor(7, 1)
                },
            ),
            (
                "whole",
                TensorProto {
                    int64_val: self.numbers(),
                    ..tensor(9, 1)
                },
            ),
        ];
        PredictRequest {
            model_spec: Some(ModelSpec {
                name: "m".to_owned(),
                ..ModelSpec::default()
            }),
            inputs: inputs
                .map(|(name, tensor)| (name.to_owned(), tensor))
                .into(),
            output_filter: self.outputs.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn binary(&self) -> (Request<()>, Bytes) {
        let raw = self.raw();
        let told = [
            ("features", "FP32", 2),
            ("text", "BYTES", 1),
            ("whole", "INT64", 1),
        ];
        let inputs = told
            .iter()
            .zip(&raw)
            .map(|((name, datatype, columns), raw)| {
                let mut tensor = self.tensor(name, datatype, *columns, None);
                tensor["parameters"] = json!({"binary_data_size": raw.len()});
                tensor
            });
        let mut body = self.json();
        body["inputs"] = inputs.collect();
        body["parameters"]["binary_data_output"] = true.into();
        let head = body.to_string();
        let mut request = post("/v2/models/m/infer");
        let headers = request.headers_mut();
        headers.insert("inference-header-content-length", head.len().into());
        let octets = "application/octet-stream".parse().unwrap();
        headers.insert("content-type", octets);
        (request, [head.into_bytes(), raw.concat()].concat().into())
    }

    /// What a request of REST says besides its inputs.
    fn json(&self) -> Value {
        let mut body = json!({});
        if !self.id.is_empty() {
            body["id"] = self.id.clone().into();
        }
        if let Some(value) = self.parameter {
            body["parameters"]["custom"] = value.into();
        }
        if !self.outputs.is_empty() {
            let outputs = self.outputs.iter().map(|name| json!({ "name": name }));
            body["outputs"] = outputs.collect();
        }
        body
    }

    fn tensor(&self, name: &str, datatype: &str, columns: usize, data: Option<Value>) -> Value {
        let shape = [self.rows.len(), columns];
        let mut tensor = json!({"name": name, "datatype": datatype, "shape": shape});
        if let Some(data) = data {
            tensor["data"] = data;
        }
        tensor
    }

    /// The contents of the inputs as bytes.
    fn raw(&self) -> [Vec<u8>; 3] {
        let x = self.x().into_iter().flat_map(f32::to_le_bytes);
        let texts = self.rows.iter().flat_map(|row| {
            let len = (row.text.len() as u32).to_le_bytes();
            [&len[..], &row.text].concat()
        });
        let numbers = self.rows.iter().flat_map(|row| row.number.to_le_bytes());
        [x.collect(), texts.collect(), numbers.collect()]
    }

    fn x(&self) -> Vec<f32> {
        self.rows.iter().flat_map(|row| row.x).collect()
    }

    fn texts(&self) -> Vec<&str> {
        let texts = self.rows.iter().map(|row| &row.text);
        texts
            .map(|text| std::str::from_utf8(text).unwrap())
            .collect()
    }

    fn numbers(&self) -> Vec<i64> {
        self.rows.iter().map(|row| row.number).collect()
    }
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://model.test{path}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/json")
        .body(())
        .unwrap()
}

/// Rows that differ in one input each, in no more than a sign or a length, and in what JSON finds
/// hard to say.
fn pool() -> Vec<Row> {
    let row = |x, text: &[u8], number| Row {
        x,
        text: Bytes::copy_from_slice(text),
        number,
    };
    let long = |len: usize| "ö".repeat(len);
    vec![
        row([0., 0.], b"", 0),
        row([-0., 0.], b"", 0),
        row([0., -0.], b"", 0),
        row([0., 0.], b"0", 0),
        row([0., 0.], b"", i64::MIN),
        row([0.1, 1e-7], "größer \u{1f600}\n\"".as_bytes(), i64::MAX),
        row(
            [0.1, 1e-7],
            "größer \u{1f600}\n\"".as_bytes(),
            (1 << 53) + 1,
        ),
        row([3.4e38, f32::MIN_POSITIVE], long(400).as_bytes(), -1),
        row([1., 2.], long(2500).as_bytes(), 1),
        row([1., 2.], long(2501).as_bytes(), 1),
        row([1., 2.], &[0xff, 0, 0x80], 1),
        row([1., 2.], &[0xff, 0], 1),
        row([MARKED, 2.], b"refused", 1),
    ]
}

async fn model() -> Served {
    let refusal = tonic::Status::invalid_argument("a row that is marked");
    serve(Synthetic {
        inputs: vec![
            // The marker is looked for in the first input, and inputs may be sent by name.
            TensorSpec::new("features", Datatype::Fp32, &[2]),
            TensorSpec::new("text", Datatype::Bytes, &[1]),
            TensorSpec::new("whole", Datatype::Int64, &[1]),
        ],
        // Long enough that callers meet at a row, short enough to ask for hundreds.
        curve: Curve::new(Duration::from_micros(800), Duration::from_micros(100)),
        jitter: Jitter::Exponential(1.),
        concurrency: 3,
        faults: Faults::on_marked_row(MARKED, Fault::Error(refusal)),
        ..Synthetic::new("m")
    })
    .await
}

async fn flush(gateway: &Gateway) {
    let mut admin = Http1::connect(gateway.admin()).await;
    let request = "POST /cache/flush?model=m HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n";
    let flushed = admin.exchange(request).await.expect("an answer");
    assert_eq!(flushed.status, 200, "{flushed:?}");
}

/// Asks both proxies so many times, leaves now and then, and flushes now and then.
async fn compare(plain: &Gateway, cached: &Gateway, seed: u64, caller: u64, times: usize) {
    let pool = pool();
    // What all callers ask for now and then, word for word.
    let mut common = StdRng::seed_from_u64(seed);
    let common: Vec<_> = (0..20).map(|_| Asked::draw(&mut common, &pool)).collect();
    let mut random = StdRng::seed_from_u64(100 * seed + caller);
    let straight = Wire::connect(plain.address()).await;
    let wire = Wire::connect(cached.address()).await;
    for time in 0..times {
        let mut asked = Asked::draw(&mut random, &pool);
        if random.random() {
            let id = asked.id;
            asked = common[random.random_range(0..common.len())].clone();
            asked.id = id;
        }
        match random.random_range(0..20) {
            0 => flush(cached).await,
            1..=3 => {
                let patience = Duration::from_micros(random.random_range(0..3000));
                // Whether it was in time says nothing.
                let _ = tokio::time::timeout(patience, asked.send(&wire)).await;
                continue;
            }
            _ => {}
        }
        let wanted = within("an answer", asked.send(&straight)).await;
        let found = within("an answer", asked.send(&wire)).await;
        let (wanted, found) = (asked.meaning(&wanted), asked.meaning(&found));
        assert_eq!(
            found, wanted,
            "seed {seed}, caller {caller}, request {time}: {asked:?}"
        );
    }
}

#[tokio::test]
async fn callers_of_all_protocols_at_once_are_answered_as_without_a_cache() {
    let served = model().await;
    let plain = Arc::new(before(&served, "models: { m: {} }").await);
    let mut joined = 0.;
    for (settings, seed) in [
        ("cache: { bypass: never }", 1),
        (
            "cache: { bypass: never }, batch: { controller: fixed, max_batch_size: 16 }",
            2,
        ),
        ("cache: { bypass: never, unit: request }", 3),
        // Little room: of all rows some, and none of the long ones.
        ("cache: { bypass: never, max_bytes: 64KiB, ttl: 50ms }", 4),
        ("cache: {}, batch: { max_in_flight: auto, split: true }", 5),
    ] {
        let config = format!("models: {{ m: {{ {settings} }} }}");
        let cached = Arc::new(before(&served, &config).await);
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..6 {
            let (plain, cached) = (plain.clone(), cached.clone());
            callers.spawn(async move { compare(&plain, &cached, seed, caller, 60).await });
        }
        callers.join_all().await;
        let metrics = Metrics::read(&cached.state().metrics().text()).unwrap();
        let rows = |result| metrics.sum("outrigger_cache_rows_total", &[("result", result)]);
        let counted = ["hit", "joined", "miss", "bypass"].map(rows);
        // Otherwise nothing was compared.
        assert!(
            counted[0] > 30. && counted[2] > 30.,
            "{settings}: {counted:?}"
        );
        joined += counted[1];
    }
    // Which of them meet is chance; that some do is not.
    assert!(joined > 0.);
}
