//! Rows made at random from what a server says of a model's inputs.

use std::fmt::Write as _;

use bytes::Bytes;
use outrigger_filters::{
    batch::Batchable,
    inference::{
        Datatype, Form, Parameters, Payload, RequestParts, Shape, Signature, Tensor, TensorSpec,
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    cli::Dim,
    codec::json::{Strings, parse},
};

/// How rows are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe<'a> {
    pub(super) batchable: Batchable,
    pub(super) rows: usize,
    pub(super) dims: &'a [Dim],
    pub(super) seed: u64,
    /// Bytes of a row at most.
    pub(super) max_bytes: usize,
}

/// Makes requests of one row each; whole requests for a model that takes no batches.
///
/// Floating numbers are normal with mean 0 and deviation 1, whole ones are below ten (as good a
/// class or a word's number as any), texts are short and ASCII.
///
/// # Errors
///
/// Says which input leaves open what, and how to say it.
pub(super) fn generate(
    signature: &Signature,
    recipe: Recipe<'_>,
) -> Result<Vec<RequestParts>, String> {
    if signature.inputs.is_empty() {
        return Err(format!("the server names no inputs: {INPUT}"));
    }
    if let Some(dim) = unused(signature, recipe.dims) {
        return Err(format!("--dim {dim}: the model has no such input"));
    }
    let shapes = signature
        .inputs
        .iter()
        .map(|spec| Ok((spec, shape(spec, recipe)?)))
        .collect::<Result<Vec<_>, String>>()?;
    let mut left = recipe.max_bytes;
    for (spec, shape) in &shapes {
        let size = spec.datatype.size().unwrap_or(LONGEST_TEXT + 4);
        let bytes = shape.elements().and_then(|all| all.checked_mul(size));
        left = bytes
            .and_then(|bytes| left.checked_sub(bytes))
            .ok_or_else(|| {
                format!(
                    "a row of input `{}` with shape {:?} does not fit into limits.max_message",
                    spec.name,
                    shape.dimensions()
                )
            })?;
    }
    let mut random = SmallRng::seed_from_u64(recipe.seed);
    (0..recipe.rows)
        .map(|_| {
            let inputs = shapes
                .iter()
                .map(|(spec, shape)| tensor(spec, shape, &mut random))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(RequestParts {
                inputs,
                ..RequestParts::default()
            })
        })
        .collect()
}

/// Returns the shape of one row: with a row's dimension in front where the model takes batches.
fn shape(spec: &TensorSpec, recipe: Recipe<'_>) -> Result<Shape, String> {
    let name = &spec.name;
    let Some(declared) = &spec.shape else {
        return Err(format!(
            "the server does not say the shape of input `{name}`: {INPUT}"
        ));
    };
    let declared = declared.dimensions();
    let rest = match (recipe.batchable, declared) {
        (Batchable::No(_), whole) => return closed(spec, whole.iter().copied(), recipe.dims),
        (_, [-1, rest @ ..]) => rest,
        // Some servers leave the dimension of rows out, and say elsewhere that there is one.
        (Batchable::Yes { .. }, rest) => rest,
        _ => {
            return Err(format!(
                "input `{name}` has the shape {declared:?}, whose first dimension does not say \
                 that it counts rows: {INPUT}"
            ));
        }
    };
    closed(
        spec,
        [1].into_iter().chain(rest.iter().copied()),
        recipe.dims,
    )
}

/// Gives the open dimensions the length that was said.
fn closed(
    spec: &TensorSpec,
    dimensions: impl Iterator<Item = i64>,
    dims: &[Dim],
) -> Result<Shape, String> {
    let name = &*spec.name;
    let of = |input: Option<&str>| {
        let mut said = dims.iter().rev();
        said.find(|dim| dim.input.as_deref() == input)
    };
    let length = of(Some(name)).or_else(|| of(None));
    let length = length.and_then(|dim| i64::try_from(dim.length.get()).ok());
    let closed: Option<Vec<i64>> = dimensions
        .map(|dimension| {
            if dimension < 0 {
                length
            } else {
                Some(dimension)
            }
        })
        .collect();
    closed.map(Shape::new).ok_or_else(|| {
        let declared = spec.shape.as_ref().map(Shape::dimensions);
        format!(
            "input `{name}` has open dimensions besides the rows' ({:?}): say their length by \
             `--dim {name}=N`, or {INPUT}",
            declared.unwrap_or_default()
        )
    })
}

fn unused<'a>(signature: &Signature, dims: &'a [Dim]) -> Option<&'a str> {
    dims.iter()
        .filter_map(|dim| dim.input.as_deref())
        .find(|input| signature.input(input).is_none())
}

/// Makes contents as JSON, which says the numbers of every datatype alike.
fn tensor(spec: &TensorSpec, shape: &Shape, random: &mut SmallRng) -> Result<Tensor, String> {
    let elements = shape.elements().unwrap_or_default();
    let mut json = String::from("[");
    for element in 0..elements {
        if element > 0 {
            json.push(',');
        }
        put(spec.datatype, random, &mut json);
    }
    json.push(']');
    let parsed = parse(json.as_bytes(), spec.datatype, Strings::Plain)
        .map_err(|error| format!("input `{}`: {error}", spec.name))?;
    Ok(Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape: shape.clone(),
        parameters: Parameters::default(),
        data: Bytes::from(parsed.data).into(),
        form: Form::Raw,
        unknown: Payload::new(),
    })
}

fn put(datatype: Datatype, random: &mut SmallRng, json: &mut String) {
    // Writing to a string does not fail.
    let _ = match datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            write!(json, "{:.4}", normal(random))
        }
        Datatype::Bool => write!(json, "{}", random.random::<bool>()),
        Datatype::Bytes => {
            json.push('"');
            for _ in 0..random.random_range(1..=LONGEST_TEXT) {
                json.push(char::from(random.random_range(b'a'..=b'z')));
            }
            write!(json, "\"")
        }
        _ => write!(json, "{}", random.random_range(0..10)),
    };
}

/// Draws from the standard normal distribution, by the method of Box and Muller.
fn normal(random: &mut SmallRng) -> f64 {
    let (radius, angle): (f64, f64) = (random.random(), random.random());
    (-2. * (1. - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

const INPUT: &str = "bring rows by `--input FILE`";
/// A short word.
const LONGEST_TEXT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const YES: Batchable = Batchable::Yes {
        max_batch_size: None,
    };

    fn spec(name: &'static str, datatype: Datatype, shape: Option<&[i64]>) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.map(|shape| Shape::new(shape.iter().copied())),
        }
    }

    fn made(
        inputs: Vec<TensorSpec>,
        batchable: Batchable,
        dims: &[&str],
    ) -> Result<Vec<RequestParts>, String> {
        let dims: Vec<Dim> = dims.iter().map(|dim| dim.parse().unwrap()).collect();
        let signature = Signature {
            inputs,
            outputs: Vec::new(),
        };
        let recipe = Recipe {
            batchable,
            rows: 4,
            dims: &dims,
            seed: 1,
            max_bytes: 1 << 20,
        };
        generate(&signature, recipe)
    }

    fn shapes(made: Result<Vec<RequestParts>, String>) -> Vec<Vec<i64>> {
        let rows = made.unwrap();
        let shape = |input: &Tensor| input.shape.dimensions().to_vec();
        rows[0].inputs.iter().map(shape).collect()
    }

    #[test]
    fn rows_of_every_datatype_count_differ_and_come_again_from_their_seed() {
        for datatype in Datatype::ALL {
            let rows = || made(vec![spec("x", datatype, Some(&[-1, 64]))], YES, &[]).unwrap();
            for row in rows() {
                let request = outrigger_filters::inference::Request::from(row);
                assert_eq!(request.rows(), Ok(1), "{datatype}");
            }
            let data = |rows: &[RequestParts], row: usize| rows[row].inputs[0].data.to_bytes();
            assert_ne!(data(&rows(), 0), data(&rows(), 1), "{datatype}");
            assert_eq!(data(&rows(), 3), data(&rows(), 3), "{datatype}");
        }
    }

    #[test]
    fn floating_numbers_are_normal() {
        let rows = made(
            vec![spec("x", Datatype::Fp32, Some(&[-1, 10_000]))],
            YES,
            &[],
        );
        let data = rows.unwrap()[0].inputs[0].data.to_bytes();
        let (numbers, _) = data.as_chunks::<4>();
        let numbers = numbers
            .iter()
            .map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
        let count = numbers.len() as f64;
        let (sum, squares) = numbers.fold((0., 0.), |(sum, squares), number| {
            (sum + number, squares + number * number)
        });
        assert!((sum / count).abs() < 0.05 && (squares / count - 1.).abs() < 0.05);
    }

    #[test]
    fn open_dimensions_are_as_long_as_is_said() {
        let tokens = || {
            vec![
                spec("tokens", Datatype::Int64, Some(&[-1, -1])),
                spec("mask", Datatype::Int64, Some(&[-1, 2, -1])),
            ]
        };
        let refused = made(tokens(), YES, &[]).unwrap_err();
        assert!(
            refused.contains("`tokens`") && refused.contains("`--dim tokens=N`"),
            "{refused}"
        );
        assert_eq!(
            shapes(made(tokens(), YES, &["7"])),
            [vec![1, 7], vec![1, 2, 7]]
        );
        assert_eq!(
            shapes(made(tokens(), YES, &["mask=3", "9"])),
            [vec![1, 9], vec![1, 2, 3]]
        );
        let slip = made(tokens(), YES, &["token=3"]).unwrap_err();
        assert!(slip.contains("no such input"), "{slip}");
    }

    #[test]
    fn the_dimension_of_rows_is_the_first_one_where_there_are_rows() {
        let of = |shape: &'static [i64], batchable| {
            made(
                vec![spec("x", Datatype::Fp32, Some(shape))],
                batchable,
                &["5"],
            )
        };
        assert_eq!(shapes(of(&[-1, 4], YES)), [[1, 4]]);
        // Where the server leaves it out.
        assert_eq!(shapes(of(&[3, 4], YES)), [[1, 3, 4]]);
        assert_eq!(shapes(of(&[-1, 4], Batchable::Unknown)), [[1, 4]]);
        let refused = of(&[3, 4], Batchable::Unknown).unwrap_err();
        assert!(refused.contains("counts rows"), "{refused}");
        let whole = Batchable::No(outrigger_filters::batch::Unbatchable::NoBatchDimension);
        assert_eq!(shapes(of(&[-1, 4], whole)), [[5, 4]]);
    }

    #[test]
    fn what_is_not_said_cannot_be_made() {
        let unknown = made(vec![spec("x", Datatype::Fp32, None)], YES, &[]).unwrap_err();
        assert!(
            unknown.contains("`x`") && unknown.contains("--input"),
            "{unknown}"
        );
        let none = made(Vec::new(), YES, &[]).unwrap_err();
        assert!(none.contains("--input"), "{none}");
        let large = Some(&[-1, 1 << 40, 1 << 40][..]);
        let large = made(vec![spec("x", Datatype::Fp32, large)], YES, &[]).unwrap_err();
        assert!(large.contains("max_message"), "{large}");
    }
}
