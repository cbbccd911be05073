//! What the container understands and answers, whatever the model.

mod support;

use bytes::Bytes;
use outrigger_native::inference::*;
use outrigger_native::{Datatype, Synthetic, TensorSpec, digits};
use support::{raw, rows, serve, typed};
use tonic::Code;
use tonic::codec::CompressionEncoding;

#[tokio::test]
async fn every_datatype_comes_back_as_it_went() {
    let (server, mut client) = serve(Synthetic::new("echo")).await;
    for datatype in Datatype::ALL {
        let data: Vec<u8> = match datatype.width() {
            Some(width) => (0..6 * width as u8).collect(),
            None => (0..6_u8)
                .flat_map(|n| [&u32::from(n).to_le_bytes()[..], &vec![n; n.into()]].concat())
                .collect(),
        };
        let mut request = raw("echo", "input0", datatype, &[3, 2], data);
        request.id = datatype.name().to_lowercase();
        let response = client
            .model_infer(request.clone())
            .await
            .expect("it echoes")
            .into_inner();
        let output = &response.outputs[0];
        assert_eq!(response.raw_output_contents, request.raw_input_contents);
        assert_eq!(
            (output.datatype.as_str(), output.shape.as_slice()),
            (datatype.name(), &[3, 2][..])
        );
        assert_eq!(
            (response.id, response.model_version.as_str()),
            (request.id, "1")
        );
        assert_eq!(output.contents, None);
    }
    server.stop().await;
}

#[tokio::test]
async fn every_typed_datatype_is_answered_typed() {
    let (server, mut client) = serve(Synthetic::new("echo")).await;
    let contents = [
        (
            "BOOL",
            InferTensorContents {
                bool_contents: vec![true, false],
                ..Default::default()
            },
        ),
        (
            "INT8",
            InferTensorContents {
                int_contents: vec![-128, 127],
                ..Default::default()
            },
        ),
        (
            "INT16",
            InferTensorContents {
                int_contents: vec![-32768, 5],
                ..Default::default()
            },
        ),
        (
            "INT32",
            InferTensorContents {
                int_contents: vec![i32::MIN, 5],
                ..Default::default()
            },
        ),
        (
            "INT64",
            InferTensorContents {
                int64_contents: vec![i64::MIN, 5],
                ..Default::default()
            },
        ),
        (
            "UINT8",
            InferTensorContents {
                uint_contents: vec![255, 0],
                ..Default::default()
            },
        ),
        (
            "UINT16",
            InferTensorContents {
                uint_contents: vec![65535, 0],
                ..Default::default()
            },
        ),
        (
            "UINT32",
            InferTensorContents {
                uint_contents: vec![u32::MAX, 0],
                ..Default::default()
            },
        ),
        (
            "UINT64",
            InferTensorContents {
                uint64_contents: vec![u64::MAX, 0],
                ..Default::default()
            },
        ),
        (
            "FP32",
            InferTensorContents {
                fp32_contents: vec![0.1, -0.0],
                ..Default::default()
            },
        ),
        (
            "FP64",
            InferTensorContents {
                fp64_contents: vec![0.1, 1e300],
                ..Default::default()
            },
        ),
        (
            "BYTES",
            InferTensorContents {
                bytes_contents: vec!["word".into(), Bytes::new()],
                ..Default::default()
            },
        ),
    ];
    for (datatype, contents) in contents {
        let mut request = rows("echo", &[]);
        request.raw_input_contents = Vec::new();
        request.inputs = vec![typed("input0", datatype, &[2, 1], contents.clone())];
        let response = client
            .model_infer(request)
            .await
            .expect("it echoes")
            .into_inner();
        assert_eq!(
            response.outputs[0].contents.as_ref(),
            Some(&contents),
            "{datatype}"
        );
        assert_eq!(response.raw_output_contents, Vec::<Bytes>::new());
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_refused_in_words() {
    let inputs = vec![TensorSpec::new("x", Datatype::Fp32, &[2])];
    let (server, mut client) = serve(Synthetic {
        inputs,
        ..Synthetic::new("m")
    })
    .await;
    let good = || raw("m", "x", Datatype::Fp32, &[1, 2], vec![0; 8]);
    client.model_infer(good()).await.expect("it is well formed");
    let typed_fp16 = typed("x", "FP16", &[1, 2], InferTensorContents::default());
    type Spoil = Box<dyn Fn(&mut ModelInferRequest)>;
    let cases: [(&str, Spoil); 12] = [
        (
            "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,3]",
            Box::new(|r| r.inputs[0].shape = vec![1, 3]),
        ),
        (
            "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [-1,2]",
            Box::new(|r| r.inputs[0].shape = vec![-1, 2]),
        ),
        (
            "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got []",
            Box::new(|r| r.inputs[0].shape = vec![]),
        ),
        (
            "inference request batch-size must be > 0 for model 'm'",
            Box::new(|r| {
                r.inputs[0].shape[0] = 0;
                r.raw_input_contents[0] = Bytes::new();
            }),
        ),
        (
            "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
            Box::new(|r| r.inputs[0].datatype = "INT32".to_owned()),
        ),
        (
            "inference input 'x' has the unknown data-type 'FP8' for model 'm'",
            Box::new(|r| r.inputs[0].datatype = "FP8".to_owned()),
        ),
        (
            "inference input 'x' data-type is 'FP16', but model 'm' expects 'FP32'",
            Box::new(move |r| r.inputs[0] = typed_fp16.clone()),
        ),
        (
            "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 7",
            Box::new(|r| r.raw_input_contents[0] = vec![0; 7].into()),
        ),
        (
            "unexpected inference input 'y' for model 'm'",
            Box::new(|r| r.inputs[0].name = "y".to_owned()),
        ),
        (
            "expected 1 inputs but got 2 inputs for model 'm'",
            Box::new(|r| {
                let again = r.inputs[0].clone();
                r.inputs.push(again);
            }),
        ),
        (
            "contents field must not be specified when using raw_input_contents for 'x' for model 'm'",
            Box::new(|r| r.inputs[0].contents = Some(InferTensorContents::default())),
        ),
        (
            "expected 1 raw input contents but got 2 for model 'm'",
            Box::new(|r| r.raw_input_contents.push(Bytes::new())),
        ),
    ];
    for (message, spoil) in cases {
        let mut request = good();
        spoil(&mut request);
        let error = client.model_infer(request).await.expect_err(message);
        assert_eq!(
            (error.code(), error.message()),
            (Code::InvalidArgument, message)
        );
    }
    for (name, version, code) in [
        ("n", "", Code::NotFound),
        ("m", "2", Code::NotFound),
        ("m", "v", Code::InvalidArgument),
    ] {
        let request = ModelInferRequest {
            model_name: name.to_owned(),
            model_version: version.to_owned(),
            ..good()
        };
        assert_eq!(
            client
                .model_infer(request)
                .await
                .expect_err("there is none")
                .code(),
            code
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn large_and_compressed_messages_are_taken() {
    let (server, client) = serve(Synthetic::new("echo")).await;
    let mut client = client
        .max_encoding_message_size(256 << 20)
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    let values = vec![0.5; 5 << 20];
    let response = client.model_infer(rows("echo", &values)).await;
    // A row for each value is more than the model takes; that it says so shows that it was read.
    let error = response.expect_err("five million rows");
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let data: Bytes = vec![7; 20 << 20].into();
    let request = raw(
        "echo",
        "input0",
        Datatype::Uint8,
        &[1, 20 << 20],
        data.clone(),
    );
    let response = client
        .model_infer(request)
        .await
        .expect("it echoes")
        .into_inner();
    assert_eq!(response.raw_output_contents, [data]);
    server.stop().await;
}

#[tokio::test]
async fn digits_are_recognised_over_the_wire() {
    let (server, mut client) = serve(digits::Classifier::train(digits::Kind::Bayes)).await;
    let request = ModelMetadataRequest {
        name: "digits_bayes".to_owned(),
        ..Default::default()
    };
    let metadata = client
        .model_metadata(request)
        .await
        .expect("it has some")
        .into_inner();
    let shapes: Vec<_> = metadata
        .inputs
        .iter()
        .chain(&metadata.outputs)
        .map(|t| t.shape.clone())
        .collect();
    assert_eq!(shapes, [[-1, 64], [-1, 1], [-1, 10]]);

    let held_out = digits::Digits::load().held_out();
    let pixels: Bytes = held_out
        .images
        .as_flattened()
        .iter()
        .flat_map(|pixel| pixel.to_le_bytes())
        .collect();
    let request = raw(
        "digits_bayes",
        "x",
        Datatype::Fp32,
        &[held_out.images.len() as i64, 64],
        pixels,
    );
    let response = client
        .model_infer(request)
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(response.outputs[0].shape, [held_out.images.len() as i64, 1]);
    let labels = response.raw_output_contents[0]
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(i64::from_le_bytes);
    let right = labels
        .zip(held_out.labels)
        .filter(|(said, is)| *said == i64::from(**is))
        .count();
    assert!(right * 100 > held_out.labels.len() * 70, "{right}");
    server.stop().await;
}
