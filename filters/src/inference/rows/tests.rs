use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::inference::{Datatype, Head, Metadata, Parameter, Report, Shape};

/// Contents of one row, in some pieces.
#[derive(Clone, Debug)]
struct Row(Vec<u8>);

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn row(datatype: Datatype, elements: usize) -> BoxedStrategy<Row> {
    match datatype.size() {
        Some(size) => prop::collection::vec(any::<u8>(), size * elements)
            .prop_map(Row)
            .boxed(),
        None => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), elements)
            .prop_map(|elements| {
                let mut row = Vec::new();
                for element in elements {
                    row.extend_from_slice(&(element.len() as u32).to_le_bytes());
                    row.extend_from_slice(&element);
                }
                Row(row)
            })
            .boxed(),
    }
}

/// Cuts the bytes at any places into a rope.
fn rope(bytes: &[u8], cuts: &[prop::sample::Index]) -> Payload {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    cuts.into_iter()
        .chain([bytes.len()])
        .map(|to| {
            let piece = Bytes::copy_from_slice(&bytes[from..to]);
            from = to;
            piece
        })
        .collect()
}

fn request(datatype: Datatype, elements: usize, rows: &[Row], data: Payload) -> Request {
    Request::from(RequestParts {
        head: Head {
            model: "m".into(),
            id: "i".into(),
            priority: 3,
            ..Head::default()
        },
        inputs: vec![Tensor {
            name: "x".into(),
            datatype,
            shape: Shape::new([rows.len() as i64, elements as i64]),
            parameters: Parameters::default(),
            data,
            form: Form::Raw,
            unknown: Payload::new(),
        }],
        ..RequestParts::default()
    })
}

fn answer(tensors: &[Tensor]) -> Response {
    let mut response = Response::from(ResponseParts {
        model: "m".into(),
        version: "4".into(),
        id: "upstream".into(),
        parameters: [("p".into(), Parameter::Int64(1))].into_iter().collect(),
        outputs: tensors.to_vec(),
        ..ResponseParts::default()
    });
    response.headers = Metadata::new(vec![("h".into(), Bytes::from_static(b"1"))]);
    response.trailers = Metadata::new(vec![("t".into(), Bytes::from_static(b"2"))]);
    response.report = Report {
        batch_rows: Some(9),
        ..Report::default()
    };
    response
}

type Members = (
    Datatype,
    usize,
    Vec<(Vec<Row>, Vec<prop::sample::Index>)>,
    Vec<prop::sample::Index>,
);

fn members() -> impl Strategy<Value = Members> {
    (prop::sample::select(&Datatype::ALL[..]), 0..4_usize).prop_flat_map(|(datatype, elements)| {
        let cuts = || prop::collection::vec(any::<prop::sample::Index>(), 0..5);
        let member = (prop::collection::vec(row(datatype, elements), 1..5), cuts());
        (
            Just(datatype),
            Just(elements),
            prop::collection::vec(member, 1..6),
            cuts(),
        )
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn split_after_concat_is_identity((datatype, elements, members, cuts) in members()) {
        let requests: Vec<Request> = members
            .iter()
            .map(|(rows, cuts)| {
                let bytes: Vec<u8> = rows.iter().flat_map(|row| row.0.clone()).collect();
                request(datatype, elements, rows, rope(&bytes, cuts))
            })
            .collect();
        let rows: Vec<usize> = requests.iter().map(|request| request.rows().unwrap()).collect();
        let joined = concat(&requests);
        prop_assert_eq!(joined.rows(), Ok(rows.iter().sum()));
        prop_assert_eq!(joined.head.deadline, None);
        prop_assert_eq!(joined.head.priority, 0);
        prop_assert!(joined.head.id.is_empty() && joined.wire().is_none());
        let pieces = |request: &Request| request.inputs[0].data.pieces().len();
        prop_assert_eq!(pieces(&joined), requests.iter().map(pieces).sum::<usize>());

        // What comes back has been cut at other places.
        let mut output = joined.inputs[0].clone();
        output.data = rope(&output.data.to_bytes(), &cuts);
        let parts = split(answer(&[output.clone(), output]), &rows).unwrap();
        prop_assert_eq!(parts.len(), requests.len());
        for (part, request) in parts.iter().zip(&requests) {
            for output in &part.outputs {
                prop_assert_eq!(output, &request.inputs[0]);
            }
            prop_assert!(part.id.is_empty());
            prop_assert_eq!(&*part.version, "4");
            prop_assert_eq!(part.parameters.len(), 1);
            prop_assert_eq!(part.report.batch_rows, Some(9));
            prop_assert_eq!(part.headers.iter().count() + part.trailers.iter().count(), 2);
        }
    }

    #[test]
    fn lengths_that_lie_are_told_and_never_panic(
        datatype in prop::sample::select(&Datatype::ALL[..]),
        dimensions in prop::collection::vec(
            prop_oneof![0..5_i64, any::<i64>(), Just(i64::MAX), Just(-1)],
            0..4,
        ),
        bytes in prop::collection::vec(prop_oneof![0..3_u8, any::<u8>()], 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        rows in prop::collection::vec(prop_oneof![0..3_usize, Just(usize::MAX)], 0..4),
    ) {
        let mut request = request(datatype, 0, &[], rope(&bytes, &cuts));
        request.inputs[0].shape = Shape::new(dimensions);
        let counted = request.rows();
        let parts = split(answer(&request.inputs), &rows);
        if let (Ok(counted), Ok(parts)) = (counted, &parts) {
            prop_assert_eq!(counted, rows.iter().sum::<usize>());
            prop_assert_eq!(parts.len(), rows.len());
            let total: usize = parts.iter().map(|part| part.outputs[0].data.len()).sum();
            prop_assert_eq!(total, bytes.len());
        }
        if counted.is_err() {
            prop_assert!(parts.is_err());
        }
    }
}

#[test]
fn an_answer_that_does_not_divide_says_why() {
    let rows = [Row(vec![1, 2]), Row(vec![3, 4])];
    let good = request(Datatype::Uint8, 2, &rows, rope(&[1, 2, 3, 4], &[]));
    let tensor = &good.inputs[0];
    assert_eq!(split(answer(&[]), &[1, 1]).unwrap_err(), Uneven::NoOutputs);
    for (rows, found) in [(&[1, 2][..], Some(2)), (&[1], Some(2)), (&[], Some(2))] {
        assert_eq!(
            split(answer(std::slice::from_ref(tensor)), rows).unwrap_err(),
            Uneven::Rows {
                expected: rows.iter().sum(),
                found
            }
        );
    }
    let absent = Tensor {
        form: Form::Absent,
        ..tensor.clone()
    };
    assert_eq!(
        split(answer(&[tensor.clone(), absent]), &[1, 1]).unwrap_err(),
        Uneven::Absent
    );
    let short = Tensor {
        data: rope(&[1, 2, 3], &[]),
        ..tensor.clone()
    };
    assert_eq!(
        split(answer(&[short]), &[1, 1]).unwrap_err(),
        Uneven::Length
    );
}

#[test]
fn a_size_that_belongs_to_one_message_is_not_handed_on() {
    let rows = [Row(vec![1, 2])];
    let mut one = request(Datatype::Uint8, 2, &rows, rope(&[1, 2], &[]));
    for (name, value) in [(BINARY_DATA_SIZE, 2), ("other", 5)] {
        one.inputs[0]
            .parameters
            .insert(name.into(), Parameter::Int64(value));
    }
    let joined = concat([&one, &one]);
    assert_eq!(joined.inputs[0].parameters.get(BINARY_DATA_SIZE), None);
    assert_eq!(joined.inputs[0].parameters.len(), 1);
    for part in split(answer(&one.inputs), &[1]).unwrap() {
        assert_eq!(part.outputs[0].parameters.get(BINARY_DATA_SIZE), None);
    }
}

#[test]
fn rows_that_do_not_count_say_why() {
    let rows = [Row(vec![1, 2])];
    let good = request(Datatype::Uint8, 2, &rows, rope(&[1, 2], &[]));
    assert_eq!(good.rows(), Ok(1));
    let with = |change: fn(&mut Vec<Tensor>)| {
        let mut request = good.clone();
        change(&mut request.inputs);
        request.rows().unwrap_err()
    };
    assert_eq!(with(|inputs| inputs.clear()), NoRows::NoInputs);
    assert_eq!(
        with(|inputs| inputs[0].shape = Shape::default()),
        NoRows::Scalar
    );
    assert_eq!(
        with(|inputs| inputs[0].shape = Shape::new([0, 2])),
        NoRows::NotPositive
    );
    assert_eq!(with(|inputs| inputs[0].form = Form::Absent), NoRows::Absent);
    assert_eq!(
        with(|inputs| inputs[0].shape = Shape::new([1, 3])),
        NoRows::Length
    );
    assert_eq!(
        with(|inputs| {
            let mut other = inputs[0].clone();
            other.shape = Shape::new([2, 1]);
            inputs.push(other);
        }),
        NoRows::Disagree
    );
}
