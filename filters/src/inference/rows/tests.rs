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

/// A tensor of some form: its rows as they stand on the wire, and where the rope is cut.
fn tensor() -> impl Strategy<Value = (Tensor, Vec<prop::sample::Index>)> {
    let forms = prop::sample::select(vec![Form::Raw, Form::Typed, Form::Flat, Form::Rows]);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    let types = prop::sample::select(&Datatype::ALL[..]);
    (types, 0..4_usize, forms, cuts).prop_flat_map(|(datatype, elements, form, cuts)| {
        let data = match form.is_text() {
            true => prop::collection::vec(texts(form, elements), ROWS)
                .prop_map(|rows| {
                    let rows: Vec<_> = rows.into_iter().filter(|row| !row.is_empty()).collect();
                    rows.join(",").into_bytes()
                })
                .boxed(),
            false => prop::collection::vec(row(datatype, elements), ROWS)
                .prop_map(|rows| rows.into_iter().flat_map(|row| row.0).collect())
                .boxed(),
        };
        data.prop_map(move |bytes: Vec<u8>| {
            let tensor = Tensor {
                name: format!("{form:?}").into(),
                datatype,
                shape: Shape::new([ROWS as i64, elements as i64]),
                parameters: [("t".into(), Parameter::Bool(true))].into_iter().collect(),
                data: rope(&bytes, &cuts),
                form,
                unknown: Payload::new(),
            };
            (tensor, cuts.clone())
        })
    })
}

/// The text of a row.
fn texts(form: Form, elements: usize) -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec!["1.5", " -2e3 ", r#""a\\\",[""#, r#"{"b64":"x,"}"#]);
    prop::collection::vec(value, elements).prop_map(move |values| match form {
        Form::Rows => format!("[{}]", values.join(",")),
        _ => values.join(","),
    })
}

/// The inputs without the spaces in texts, of which strings here hold none.
fn spaceless(request: &Request) -> Vec<Tensor> {
    let mut inputs = request.inputs.clone();
    for input in inputs.iter_mut().filter(|input| input.form.is_text()) {
        let text = input.data.to_bytes().into_iter();
        let text: Vec<u8> = text.filter(|byte| *byte != b' ').collect();
        input.data = Bytes::from(text).into();
    }
    inputs
}

/// A model that answers each row with the row.
fn echo(request: &Request, cuts: &[prop::sample::Index]) -> Response {
    let outputs = request.inputs.iter().map(|input| Tensor {
        data: rope(&input.data.to_bytes(), cuts),
        ..input.clone()
    });
    answer(&outputs.collect::<Vec<_>>())
}

/// Sizes of one or more that are `ROWS` together.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..=ROWS, 1..=ROWS).prop_map(|mut sizes| {
        let mut left = ROWS;
        sizes.retain_mut(|size| {
            *size = (*size).min(left);
            left -= *size;
            *size > 0
        });
        sizes.extend((left > 0).then_some(left));
        sizes
    })
}

const ROWS: usize = 7;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_divided_and_joined_is_the_whole(
        tensors in prop::collection::vec(tensor(), 1..4),
        sizes in sizes(),
    ) {
        let (inputs, cuts): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
        let mut whole = request(Datatype::Uint8, 0, &[], Payload::new());
        whole.inputs = inputs;
        let parts = divide(&whole, &sizes).unwrap();
        prop_assert_eq!(parts.len(), sizes.len());
        for (part, rows) in parts.iter().zip(&sizes) {
            prop_assert_eq!(part.rows(), Ok(*rows));
            prop_assert_eq!((&part.head.id, part.head.priority), (&whole.head.id, 3));
            prop_assert_eq!(&part.parameters, &whole.parameters);
        }
        let again = concat(&parts);
        for (joined, input) in again.inputs.iter().zip(&whole.inputs) {
            prop_assert_eq!(joined, input);
        }

        let of_parts = parts.iter().map(|part| echo(part, &cuts[0]));
        let joined = join(sizes.iter().copied().zip(of_parts)).unwrap();
        let of_whole = echo(&whole, &cuts[0]);
        prop_assert_eq!(&joined.outputs, &of_whole.outputs);
        prop_assert_eq!(&joined.parameters, &of_whole.parameters);
        prop_assert_eq!((&joined.model, &joined.version), (&of_whole.model, &of_whole.version));
        prop_assert_eq!(joined.headers.iter().count() + joined.trailers.iter().count(), 2);
    }

    #[test]
    fn selected_rows_are_rows_of_the_whole(
        tensors in prop::collection::vec(tensor(), 1..4),
        order in Just((0..ROWS).collect::<Vec<_>>()).prop_shuffle(),
        kept in 1..=ROWS,
    ) {
        let mut whole = request(Datatype::Uint8, 0, &[], Payload::new());
        whole.inputs = tensors.into_iter().map(|(tensor, _)| tensor).collect();
        let cells: Option<Vec<_>> = whole.inputs.iter().map(Tensor::cells).collect();
        let Some(cells) = cells else {
            // Rows without elements are not told apart.
            prop_assert!(whole.inputs.iter().any(|input| input.shape.row_elements() == Some(0)));
            return Ok(());
        };
        let all: Vec<usize> = (0..ROWS).collect();
        let same = select(&whole, &cells, &all).unwrap();
        prop_assert_eq!(spaceless(&same), spaceless(&whole));
        let singles = divide(&whole, &[1; ROWS]).unwrap();
        let some = &order[..kept];
        let selected = select(&whole, &cells, some).unwrap();
        prop_assert_eq!(selected.rows(), Ok(kept));
        let joined = concat(some.iter().map(|row| &singles[*row]));
        prop_assert_eq!(spaceless(&selected), spaceless(&joined));
        prop_assert!(select(&whole, &cells, &[ROWS]).is_none());
    }

    #[test]
    fn contents_that_lie_are_not_divided_and_never_panic(
        datatype in prop::sample::select(&Datatype::ALL[..]),
        form in prop::sample::select(vec![Form::Raw, Form::Flat, Form::Rows, Form::Absent]),
        dimensions in prop::collection::vec(
            prop_oneof![0..5_i64, any::<i64>(), Just(i64::MAX), Just(-1)],
            0..4,
        ),
        bytes in prop::collection::vec(
            prop_oneof![0..3_u8, any::<u8>(), prop::sample::select(&b"[],\"1"[..])],
            0..40,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        rows in prop::collection::vec(prop_oneof![0..3_usize, Just(usize::MAX)], 0..4),
    ) {
        let mut request = request(datatype, 0, &[], rope(&bytes, &cuts));
        request.inputs[0].shape = Shape::new(dimensions);
        request.inputs[0].form = form;
        let counted = request.rows();
        if let Some(cells) = request.inputs[0].cells() {
            prop_assert_eq!(Ok(cells.len()), counted);
            let commas = if form.is_text() { cells.len() - 1 } else { 0 };
            let total: usize = cells.iter().map(Payload::len).sum();
            // Of texts the spaces around them are left out.
            let expected = bytes.len() - commas;
            prop_assert!(total == expected || form.is_text() && total < expected);
        }
        match divide(&request, &rows) {
            Ok(parts) => {
                prop_assert_eq!(counted, Ok(rows.iter().sum()));
                let answers = parts.iter().map(|part| answer(&part.inputs));
                prop_assert!(join(rows.iter().copied().zip(answers)).is_ok());
            }
            Err(_) => prop_assert!(
                form.is_text() || counted.is_err() || counted.ok() != rows.iter().copied().reduce(usize::saturating_add) || rows.contains(&0)
            ),
        }
        let answers = rows.iter().map(|rows| (*rows, answer(&request.inputs)));
        let _ = join(answers);
    }
}

#[test]
fn equal_rows_of_text_are_equal_wherever_they_stand() {
    for (form, text) in [
        (Form::Flat, "1, 2,\n1, 2 "),
        (Form::Rows, "[1], [2],\n[1], [2] "),
    ] {
        let rows = [(); 4].map(|()| Row(Vec::new()));
        let data = Bytes::from(text).into();
        let mut request = request(Datatype::Fp32, 1, &rows, data);
        request.inputs[0].form = form;
        let cells = request.inputs[0].cells().unwrap();
        let texts: Vec<_> = cells.iter().map(Payload::to_bytes).collect();
        assert_eq!(texts[..2], texts[2..], "{form:?}");
    }
}

#[test]
fn parts_of_contents_share_the_bytes_of_the_whole() {
    let bytes = Bytes::from_static(b"0123456789");
    let rows: Vec<Row> = bytes.iter().map(|byte| Row(vec![*byte])).collect();
    for form in [Form::Raw, Form::Rows] {
        let mut whole = request(Datatype::Uint8, 1, &rows, Payload::from(bytes.clone()));
        whole.inputs[0].form = form;
        if form == Form::Rows {
            whole.inputs[0].data = Payload::from(Bytes::from_static(
                b"[0],[1],[2],[3],[4],[5],[6],[7],[8],[9]",
            ));
        }
        let of = |request: &Request| {
            request.inputs[0]
                .data
                .pieces()
                .next()
                .unwrap()
                .as_ptr_range()
        };
        let shared = of(&whole);
        for part in divide(&whole, &[3, 3, 4]).unwrap() {
            let part = of(&part);
            assert!(shared.start <= part.start && part.end <= shared.end);
        }
    }
}

#[test]
fn parts_count_the_bytes_of_the_message_once() {
    let rows = [Row(vec![1]), Row(vec![2]), Row(vec![3])];
    let parts = request(Datatype::Uint8, 1, &rows, rope(&[1, 2, 3], &[])).into_parts();
    let origin: crate::inference::Wire = std::sync::Arc::new(());
    let whole = Request::from_wire(parts, origin.clone(), 100).with_origin(origin);
    let parts = divide(&whole, &[2, 1]).unwrap();
    let held: Vec<_> = parts.iter().map(Request::held_len).collect();
    assert_eq!(held, [67, 34]);
    for part in parts {
        assert!(part.wire().is_none() && part.origin().is_some());
    }
}

#[test]
fn a_request_is_divided_into_all_of_its_rows() {
    let rows = [Row(vec![1]), Row(vec![2])];
    let good = request(Datatype::Uint8, 1, &rows, rope(&[1, 2], &[]));
    let fails = |rows: &[usize]| divide(&good, rows).unwrap_err();
    for (rows, total) in [(&[1, 2][..], 3), (&[2, 0], 2), (&[], 0), (&[1], 1)] {
        assert_eq!(fails(rows), Indivisible::Sizes { whole: 2, total });
    }
    let mut absent = good.clone();
    absent.inputs[0].form = Form::Absent;
    assert_eq!(
        divide(&absent, &[1, 1]).unwrap_err(),
        Indivisible::NoRows(NoRows::Absent)
    );
}

#[test]
fn answers_that_are_not_alike_are_not_joined() {
    let rows = [Row(vec![1, 2]), Row(vec![3, 4])];
    let tensor = request(Datatype::Uint8, 2, &rows, rope(&[1, 2, 3, 4], &[]))
        .inputs
        .remove(0);
    let good = answer(std::slice::from_ref(&tensor));
    let with = |change: fn(&mut Response)| {
        let mut other = good.clone();
        change(&mut other);
        join([(2, good.clone()), (2, other)])
    };
    let changes: [fn(&mut Response); 9] = [
        |answer| answer.model = "n".into(),
        |answer| answer.version = "5".into(),
        |answer| answer.parameters.insert("p".into(), Parameter::Int64(2)),
        |answer| answer.outputs[0].name = "y".into(),
        |answer| answer.outputs[0].datatype = Datatype::Int8,
        |answer| answer.outputs[0].shape = Shape::new([2, 1, 2]),
        |answer| answer.outputs[0].form = Form::Flat,
        |answer| {
            let scale = Parameter::Double(0.5);
            answer.outputs[0].parameters.insert("scale".into(), scale);
        },
        |answer| {
            let another = answer.outputs[0].clone();
            answer.outputs.push(another);
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert_eq!(with(change).unwrap_err(), Uneven::Unlike, "change {index}");
    }
    assert_eq!(
        with(|answer| answer.outputs.clear()).unwrap_err(),
        Uneven::NoOutputs
    );
    assert_eq!(
        with(|answer| answer.outputs[0].shape = Shape::new([4, 1])).unwrap_err(),
        Uneven::Rows {
            expected: 2,
            found: Some(4)
        }
    );
    assert_eq!(
        with(|answer| answer.outputs[0].shape = Shape::new([2, 3])).unwrap_err(),
        Uneven::Length
    );
    assert_eq!(
        with(|answer| answer.outputs[0].form = Form::Absent).unwrap_err(),
        Uneven::Absent
    );
    let joined = with(|answer| {
        answer.outputs[0].form = Form::Typed;
        let parameters = &mut answer.outputs[0].parameters;
        parameters.insert(BINARY_DATA_SIZE.into(), Parameter::Int64(4));
        answer.id = "another".into();
    });
    assert_eq!(&*joined.unwrap().id, "upstream");
    assert_eq!(join([]).unwrap_err(), Uneven::NoOutputs);
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
