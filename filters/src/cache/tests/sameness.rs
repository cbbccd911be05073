//! Two different requests never share an entry.

use std::sync::Arc;

use super::{
    super::key::{Kept, Question, Row, Strong, read},
    *,
};

type Change = fn(&mut RequestParts);

/// Changes of everything that can change the answer, each alone.
const CHANGES: [(&str, Change); 23] = [
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
    ("input's dimensions", |parts| {
        parts.inputs[0].shape = Shape::new([1, 1, 2]);
    }),
    ("input's row", |parts| {
        parts.inputs[0].shape = Shape::new([1, 1]);
        parts.inputs[0].datatype = Datatype::Uint16;
    }),
    ("input's parameter", |parts| {
        parts.inputs[0].parameters = one("content_type", Parameter::String("np".into()));
    }),
    (CONTENTS, |parts| {
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
    ("requested output's name", |parts| {
        parts.outputs = vec![output("z", Parameters::default())];
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

/// Tells whether a request is what is kept of another one is asked, and whether its row is its.
fn is_kept_of(kept: &Request, asked: &Request, by_row: bool) -> (bool, bool) {
    let keys = Keys::default();
    let (kept, asked) = (cut(&keys, kept, by_row), cut(&keys, asked, by_row));
    let is_row = is(&keys, &kept.row(0), &asked.row(0));
    (Question::new(&kept).is_of(&asked), is_row)
}

fn is(keys: &Keys, kept: &Row, asked: &Row) -> bool {
    let (how, bytes) = written(keys, kept);
    is_written(keys, asked, how, &bytes)
}

/// Returns what is kept of a row.
fn written(keys: &Keys, row: &Row) -> (Kept, Vec<u8>) {
    let strong = keys.strong(row.iter());
    let mut bytes = Vec::new();
    Strong::write(strong.as_ref(), row.iter(), &mut bytes);
    assert_eq!(bytes.len(), Strong::len(strong.as_ref(), row.iter()));
    let how = match strong {
        Some(_) => Kept::Digest,
        None => Kept::Whole,
    };
    (how, bytes)
}

fn is_written(keys: &Keys, row: &Row, how: Kept, bytes: &[u8]) -> bool {
    let strong = keys.strong(row.iter());
    Strong::is(strong.as_ref(), row.iter(), how, bytes)
}

fn row<T: AsRef<[u8]>>(cells: &[T]) -> Row {
    let cells = cells.iter().map(AsRef::as_ref);
    cells
        .map(|cell| Bytes::copy_from_slice(cell).into())
        .collect()
}

/// Digests play no part: each of the requests differs from each in one field or two.
#[test]
fn whatever_can_change_the_answer_is_compared_in_full() {
    let plain = ("nothing", request("a", &[1]));
    let changed = CHANGES.map(|(field, change)| (field, with(request("a", &[1]), change)));
    let all: Vec<_> = [plain].into_iter().chain(changed).collect();
    for by_row in [true, false] {
        for (one, kept) in &all {
            for (other, asked) in &all {
                let (is_question, is_row) = is_kept_of(kept, asked, by_row);
                let differs_in_contents =
                    [("nothing", CONTENTS), (CONTENTS, "nothing")].contains(&(one, other));
                assert_eq!(
                    is_question,
                    one == other || differs_in_contents,
                    "{one}, {other}"
                );
                assert!(one != other || is_row, "{one}");
                assert!(!(differs_in_contents && is_row), "{one}, {other}");
            }
        }
        for (field, change) in OWN {
            let changed = with(request("b", &[1]), change);
            for (kept, asked) in [(&all[0].1, &changed), (&changed, &all[0].1)] {
                assert_eq!(is_kept_of(kept, asked, by_row), (true, true), "{field}");
            }
        }
    }
}

#[test]
fn how_many_rows_there_are_is_part_of_whole_requests_only() {
    let keys = Keys::default();
    let (one, two) = (request("a", &[1]), request("b", &[1, 1]));
    assert_eq!(is_kept_of(&one, &two, true), (true, true));
    assert!(!is_kept_of(&one, &two, false).0);
    let by_row = |request, by_row| Question::new(&cut(&keys, request, by_row));
    assert!(!by_row(&one, true).is_of(&cut(&keys, &one, false)));
    assert!(!by_row(&one, false).is_of(&cut(&keys, &one, true)));
}

#[test]
fn rows_are_compared_to_the_last_byte() {
    let keys = Keys::default();
    for len in [1, 2, 100, 4095, 4096, 4097, 20_000] {
        let mut data = vec![1; len];
        let kept = row(&[&data]);
        assert!(is(&keys, &kept, &kept));
        let halves = data.split_at(len / 2);
        let pieces = [halves.0, halves.1].map(Bytes::copy_from_slice);
        let in_pieces = Row::from_buf([pieces.into_iter().collect()]);
        assert!(is(&keys, &kept, &in_pieces) && is(&keys, &in_pieces, &kept));
        for at in [0, len / 2, len - 1] {
            data[at] = 2;
            assert!(!is(&keys, &kept, &row(&[&data])), "{at} of {len}");
            data[at] = 1;
        }
        data.push(1);
        let longer = row(&[&data]);
        assert!(!is(&keys, &kept, &longer) && !is(&keys, &longer, &kept));
    }
}

/// Digests of long rows take part in that, too.
#[test]
fn where_inputs_end_is_compared() {
    let keys = Keys::default();
    let data = vec![1; 6000];
    for (one, other) in [(1, 2), (5000, 1000)] {
        let kept = row(&[&data[..one], &data[..other]]);
        let asked = row(&[&data[..other], &data[..one]]);
        assert!(is(&keys, &kept, &kept));
        assert!(!is(&keys, &kept, &asked), "{one} {other}");
    }
}

#[test]
fn a_row_that_is_the_digest_of_another_is_not_the_other() {
    let keys = Keys::default();
    let (how, digest) = written(&keys, &row(&[[1; 5000]]));
    assert_eq!(how, Kept::Digest);
    assert!(!is_written(&keys, &row(&[&digest]), how, &digest));
}

#[test]
fn requests_of_one_digest_share_nothing() {
    for by_row in [true, false] {
        for (is_same, changes) in [(false, &CHANGES[..]), (true, &OWN)] {
            for (field, change) in changes {
                let store = Collided::new(by_row);
                let plain = request("a", &[1]);
                let changed = with(request("b", &[1]), change);
                let asking = store.begin(&plain);
                let question = store.entries.question(&store.cut(&changed));
                let is_question = Arc::ptr_eq(&asking.question, &question);
                assert_eq!(is_question, is_same || *field == CONTENTS, "{field}");
                assert!(store.is_under_way(&plain));
                assert_eq!(store.is_under_way(&changed), is_same, "{field}");
                store.land(asking, &plain);
                assert!(store.is_stored(&plain));
                assert_eq!(store.is_stored(&changed), is_same, "{field}");
            }
        }
    }
}

#[test]
fn long_rows_of_one_digest_share_nothing() {
    let store = Collided::new(true);
    let long = |last: u8| {
        let mut data = vec![1; 5000];
        data.push(last);
        with(request("a", &[1]), |parts| {
            parts.inputs[0].shape = Shape::new([1, 5001]);
            parts.inputs[0].data = Bytes::from(data).into();
        })
    };
    let asking = store.begin(&long(1));
    assert!(store.is_under_way(&long(1)));
    assert!(!store.is_under_way(&long(2)));
    store.land(asking, &long(1));
    assert!(store.is_stored(&long(1)));
    assert!(!store.is_stored(&long(2)));
}

fn any_row() -> impl Strategy<Value = Vec<u8>> {
    // Few values and lengths, so that many are nearly the same.
    prop::collection::vec(0_u8..2, 1..5)
}

proptest! {
    #[test]
    fn a_row_is_what_was_kept_of_it_and_nothing_else(
        pairs in prop::collection::vec((any_row(), any_row()), 1..3),
    ) {
        let keys = Keys::default();
        let (kept, asked): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        assert_eq!(is(&keys, &row(&kept), &row(&asked)), kept == asked);
        let (_, bytes) = written(&keys, &row(&kept));
        assert_eq!(read(&bytes.into(), kept.len()), Some(row(&kept)));
    }

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

/// The one change that is none of the question.
const CONTENTS: &str = "input's contents";
