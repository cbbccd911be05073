//! Two different requests never share an entry.

use super::*;

type Change = fn(&mut RequestParts);

/// Changes of everything that can change the answer, each alone.
const CHANGES: [(&str, Change); 21] = [
    ("model", |parts| parts.head.model = "other".into()),
    ("version", |parts| parts.head.version = "1".into()),
    ("label", |parts| parts.head.label = "1".into()),
    ("signature", |parts| parts.head.signature = "1".into()),
    ("method", |parts| {
        parts.head.method = crate::inference::Method::Classify;
    }),
    ("metadata", |parts| {
        parts.head.metadata = Metadata::new(vec![("x-user".into(), "a".into())]);
    }),
    ("metadata's value", |parts| {
        parts.head.metadata = Metadata::new(vec![("x-user".into(), "b".into())]);
    }),
    ("parameter", |parts| {
        parts.parameters = one("temperature", Parameter::Double(0.0));
    }),
    ("sign of a zero", |parts| {
        parts.parameters = one("temperature", Parameter::Double(-0.0));
    }),
    ("type of a parameter", |parts| {
        parts.parameters = one("temperature", Parameter::Int64(0));
    }),
    ("input's name", |parts| parts.inputs[0].name = "z".into()),
    ("input's datatype", |parts| {
        parts.inputs[0].datatype = Datatype::Int8;
    }),
    ("input's rank", |parts| {
        parts.inputs[0].shape = Shape::new([1, 2, 1]);
    }),
    ("input's row", |parts| {
        parts.inputs[0].shape = Shape::new([1, 1]);
        parts.inputs[0].datatype = Datatype::Uint16;
    }),
    ("input's parameter", |parts| {
        parts.inputs[0].parameters = one("content_type", Parameter::String("np".into()));
    }),
    ("input's contents", |parts| {
        parts.inputs[0].data = Bytes::from_static(&[1, 2]).into();
    }),
    ("input's text", |parts| {
        parts.inputs[0].form = Form::Flat;
        parts.inputs[0].data = Bytes::from_static(b"1,1").into();
    }),
    ("typed contents", |parts| {
        parts.inputs[0].form = Form::Typed;
    }),
    ("another input", |parts| {
        parts.inputs.push(tensor("w", 1, vec![1, 1]));
    }),
    ("requested output", |parts| {
        parts.outputs = vec![output("y", Parameters::default())];
    }),
    ("requested output's parameter", |parts| {
        parts.outputs = vec![output("y", one("classification", Parameter::Int64(3)))];
    }),
];

/// Changes of what is one caller's own, or of one message only.
const OWN: [(&str, Change); 6] = [
    ("id", |parts| parts.head.id = "other".into()),
    ("priority", |parts| {
        parts.head.priority = 3;
        parts.parameters = one("priority", Parameter::Int64(3));
    }),
    ("timeout", |parts| {
        parts.parameters = one("timeout", Parameter::Int64(1000));
    }),
    ("context", |parts| parts.head.context = Some("user".into())),
    ("length of the message", |parts| {
        parts.inputs[0].parameters = one("binary_data_size", Parameter::Int64(2));
    }),
    ("pieces", |parts| {
        let pieces = [Bytes::from_static(&[1]), Bytes::from_static(&[1])];
        parts.inputs[0].data = pieces.into_iter().collect();
    }),
];

fn one(name: &'static str, value: Parameter) -> Parameters {
    Parameters::from_iter([(name.into(), value)])
}

fn output(name: &'static str, parameters: Parameters) -> RequestedOutput {
    RequestedOutput {
        name: name.into(),
        parameters,
        unknown: Payload::new(),
    }
}

async fn each_is_asked(capability: Batchable) {
    let mut script = Script::new(Config::default());
    script.capability.set(capability);
    script.ask(request("a", &[1])).await;
    for (field, change) in CHANGES {
        let changed = with(request("a", &[1]), change);
        assert!(!script.knows(changed.clone()).await, "{field}");
        assert!(script.knows(changed).await, "{field}");
    }
    assert!(script.knows(request("a", &[1])).await);
    for (field, change) in OWN {
        let changed = with(request("a", &[1]), change);
        assert!(script.knows(changed).await, "{field}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_can_change_the_answer_is_part_of_the_key() {
    each_is_asked(Batchable::Yes {
        max_batch_size: None,
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whatever_can_change_the_answer_is_part_of_a_whole_requests_key() {
    each_is_asked(Batchable::Unknown).await;
}

/// Long rows are compared by a digest.
#[tokio::test(start_paused = true)]
async fn long_rows_are_told_apart_by_every_byte() {
    let mut script = Script::new(Config::default());
    let long = |at: usize, byte: u8| {
        with(request("a", &[1]), |parts| {
            let mut data = vec![1; 20_000];
            data[at] = byte;
            parts.inputs[0].shape = Shape::new([1, 20_000]);
            parts.inputs[0].data = Bytes::from(data).into();
        })
    };
    script.ask(long(0, 1)).await;
    script.hit(long(0, 1)).await;
    for at in [0, 5, 1023, 1024, 9999, 19_999] {
        assert!(!script.knows(long(at, 2)).await, "{at}");
    }
    script.hit(long(19_999, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn where_one_input_ends_and_the_next_begins_makes_a_difference() {
    let mut script = Script::new(Config::default());
    let text = |name: &'static str, text: &'static str| Tensor {
        form: Form::Flat,
        shape: Shape::new([1, 1]),
        ..tensor(name, 1, text)
    };
    let two = |a, b| {
        with(request("a", &[1]), |parts| {
            parts.inputs = vec![text("a", a), text("b", b)];
        })
    };
    script.ask(two("12", "3")).await;
    assert!(!script.knows(two("1", "23")).await);
    assert!(script.knows(two("12", "3")).await);
}

fn any_row() -> impl Strategy<Value = Vec<u8>> {
    // Few values and lengths, so that many are nearly the same.
    prop::collection::vec(0_u8..2, 1..5)
}

proptest! {
    /// Requests of one or two inputs of bytes with lengths of their own: whatever an entry
    /// answers was asked just so.
    #[test]
    fn an_answer_is_given_to_what_it_was_asked_for(
        requests in prop::collection::vec((any_row(), prop::option::of(any_row())), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut script = Script::new(Config::default());
            let bytes = |name, row: &[u8]| Tensor {
                datatype: Datatype::Uint8,
                shape: Shape::new([1, row.len() as i64]),
                ..tensor(name, 1, row.to_vec())
            };
            for (one, two) in requests {
                let asked = with(request("a", &[1]), |parts| {
                    parts.inputs = vec![bytes("a", &one)];
                    parts.inputs.extend(two.as_ref().map(|two| bytes("b", two)));
                });
                let response = script.ask(asked.clone()).await;
                assert_eq!(response.outputs, echo(&asked).outputs);
            }
        });
    }
}
