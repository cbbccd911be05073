//! What may share a call.

use super::*;

proptest! {
    #[test]
    fn requests_that_differ_in_any_field_are_never_merged(which in 0..DIFFERENCES, rows in 1..5_usize) {
        let one = rich("one", 2);
        let other = with(rich("other", rows), |parts| differ(parts, which));
        prop_assert!(!key::same(&one, &other));
        prop_assert!(!key::same(&other, &one));
        // Once more, so that the differences are what made the difference.
        let same = rich("same", rows);
        prop_assert!(key::same(&one, &same));
        let hasher = foldhash::fast::RandomState::default();
        prop_assert_eq!(key::digest(&hasher, &one), key::digest(&hasher, &same));
        prop_assert_ne!(key::digest(&hasher, &one), key::digest(&hasher, &other));
    }
}

/// A request with something in every field.
fn rich(id: &str, rows: usize) -> Request {
    let parameters = |pairs: &[(&'static str, Parameter)]| -> Parameters {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect()
    };
    let own = [
        ("a", Parameter::Int64(1)),
        ("b", Parameter::Double(0.)),
        ("c", Parameter::String("s".into())),
        ("timeout", Parameter::Int64(100 + rows as i64)),
    ];
    let sized = [
        ("binary_data_size", Parameter::Int64(rows as i64 * 2)),
        ("k", Parameter::Bool(true)),
    ];
    with(request(id, rows, 1), |parts| {
        parts.head.version = "3".into();
        parts.head.label = "stable".into();
        parts.head.signature = "regress".into();
        parts.head.method = Method::Regress;
        parts.head.priority = 1;
        parts.head.context = Some(id.into());
        parts.head.deadline = None;
        parts.head.metadata = Metadata::new(vec![("tenant".into(), Bytes::from_static(b"blue"))]);
        // A map of the wire has no order.
        parts.parameters = parameters(&own);
        if rows.is_multiple_of(2) {
            let mut reversed = own;
            reversed.reverse();
            parts.parameters = parameters(&reversed);
        }
        parts.inputs.push(tensor("z", rows, vec![0; rows * 2]));
        for input in &mut parts.inputs {
            input.parameters = parameters(&sized);
        }
        parts.outputs = ["p", "q"]
            .map(|name| RequestedOutput {
                name: name.into(),
                parameters: parameters(&[("classification", Parameter::Int64(3))]),
                unknown: Payload::new(),
            })
            .into();
    })
}

const DIFFERENCES: usize = 27;

fn differ(parts: &mut RequestParts, which: usize) {
    fn set(parameters: &mut Parameters, name: &'static str, value: Parameter) {
        parameters.insert(name.into(), value);
    }
    let without = |parameters: &Parameters, gone: &str| -> Parameters {
        parameters
            .iter()
            .filter(|(name, _)| *name != gone)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let input = &mut parts.inputs[1];
    match which {
        0 => parts.head.model = "other".into(),
        1 => parts.head.version = "".into(),
        2 => parts.head.priority = 2,
        3 => parts.head.metadata = Metadata::default(),
        4 => {
            parts.head.metadata = Metadata::new(vec![("tenant".into(), Bytes::from_static(b"red"))])
        }
        5 => set(&mut parts.parameters, "a", Parameter::Int64(2)),
        6 => set(&mut parts.parameters, "a", Parameter::Uint64(1)),
        7 => set(&mut parts.parameters, "b", Parameter::Double(-0.)),
        8 => set(&mut parts.parameters, "d", Parameter::Unset),
        9 => parts.parameters = without(&parts.parameters, "c"),
        10 => input.name = "w".into(),
        11 => input.datatype = Datatype::Int8,
        12 => input.form = Form::Typed,
        13 => input.shape = Shape::new([input.shape.dimensions()[0], 3]),
        14 => input.shape = Shape::new([input.shape.dimensions()[0], 2, 1]),
        15 => set(&mut input.parameters, "k", Parameter::Bool(false)),
        16 => input.parameters = without(&input.parameters, "k"),
        17 => drop(parts.inputs.pop()),
        18 => parts.outputs[1].name = "r".into(),
        19 => drop(parts.outputs.pop()),
        24 => parts.head.label = "canary".into(),
        25 => parts.head.signature = "".into(),
        26 => parts.head.method = Method::Infer,
        20 => parts.outputs.clear(),
        21 => set(
            &mut parts.outputs[0].parameters,
            "classification",
            Parameter::Int64(5),
        ),
        22 => parts.inputs.swap(0, 1),
        _ => parts.outputs.swap(0, 1),
    }
}

#[test]
fn a_timeout_is_compared_with_timeouts_only() {
    let timed = |value: Option<Parameter>| {
        with(request("", 1, 0), |parts| {
            if let Some(value) = value {
                parts.parameters.insert("timeout".into(), value);
            }
        })
    };
    let kinds = [
        None,
        Some(Parameter::Int64(0)),
        Some(Parameter::Int64(5)),
        Some(Parameter::Uint64(5)),
        Some(Parameter::String("5".into())),
    ];
    for (index, kind) in kinds.iter().enumerate() {
        for (other_index, other) in kinds.iter().enumerate() {
            let same = key::same(&timed(kind.clone()), &timed(other.clone()));
            assert_eq!(same, index == other_index, "{kind:?} {other:?}");
        }
    }
    let longer = timed(Some(Parameter::Int64(9)));
    assert!(key::same(&timed(kinds[2].clone()), &longer));
}
