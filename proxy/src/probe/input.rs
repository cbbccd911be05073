//! Rows that a user brings.

use bytes::Bytes;
use outrigger_filters::inference::{self, Form, Request, RequestParts, Response, ResponseParts};

use crate::codec::oip_rest;

/// Reads a request of the Open Inference Protocol in JSON.
///
/// # Errors
///
/// Says what is wrong with it.
pub(super) fn read(text: Vec<u8>) -> Result<RequestParts, String> {
    let (mut parts, _) = oip_rest::decode_request(&Bytes::from(text), None, Form::Raw)
        .map_err(|malformed| malformed.to_string())?;
    if let Some(input) = parts.inputs.iter().find(|input| input.form == Form::Absent) {
        return Err(format!("input `{}` has no contents", input.name));
    }
    parts.head = inference::Head::default();
    Ok(parts)
}

/// Divides requests into their rows, which then can be merged in any composition.
///
/// # Errors
///
/// Says why they cannot be counted or merged.
pub(super) fn divide(requests: Vec<RequestParts>) -> Result<Vec<RequestParts>, String> {
    let mut rows: Vec<RequestParts> = Vec::new();
    for parts in requests {
        let request = Request::from(parts);
        let count = request
            .rows()
            .map_err(|error| format!("the rows cannot be counted: {error}"))?;
        let RequestParts {
            head,
            inputs,
            outputs,
            parameters,
            unknown,
        } = request.into_parts();
        // Tensors are divided the same way, whatever they are to the model.
        let whole = Response::from(ResponseParts {
            outputs: inputs,
            ..ResponseParts::default()
        });
        let divided = inference::split(whole, &vec![1; count])
            .map_err(|error| format!("the inputs cannot be divided: {error}"))?;
        for row in divided {
            rows.push(RequestParts {
                head: head.clone(),
                inputs: row.into_parts().outputs,
                outputs: outputs.clone(),
                parameters: parameters.clone(),
                unknown: unknown.clone(),
            });
        }
    }
    if let Some(other) = rows.iter().position(|row| !is_like(&rows[0], row)) {
        return Err(format!(
            "row {other} asks for something else than row 0, or with inputs of another name, \
             datatype or shape: they cannot be merged"
        ));
    }
    Ok(rows)
}

fn is_like(one: &RequestParts, other: &RequestParts) -> bool {
    one.parameters == other.parameters
        && one.outputs == other.outputs
        && one.inputs.len() == other.inputs.len()
        && one.inputs.iter().zip(&other.inputs).all(|(one, other)| {
            (&one.name, one.datatype, &one.shape, &one.parameters)
                == (&other.name, other.datatype, &other.shape, &other.parameters)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(shape: &str, data: &str) -> RequestParts {
        let text = format!(
            r#"{{"id": "7", "inputs": [{{"name": "x", "datatype": "FP32", "shape": {shape}, "data": {data}}}]}}"#
        );
        read(text.into_bytes()).unwrap()
    }

    #[test]
    fn the_rows_of_all_requests_are_divided_and_can_be_merged_again() {
        let rows = divide(vec![
            request("[2,2]", "[[1,2],[3,4]]"),
            request("[1,2]", "[5,6]"),
        ])
        .unwrap();
        assert_eq!(rows.len(), 3);
        let rows: Vec<_> = rows.into_iter().map(Request::from).collect();
        assert!(
            rows.iter()
                .all(|row| row.rows() == Ok(1) && row.head.id.is_empty())
        );
        let merged = inference::concat(&rows);
        let expected = request("[3,2]", "[1,2,3,4,5,6]");
        assert_eq!(merged.inputs, expected.inputs);
    }

    #[test]
    fn rows_that_cannot_share_a_call_are_told() {
        let refused = divide(vec![request("[1,2]", "[1,2]"), request("[1,3]", "[1,2,3]")]);
        assert!(refused.unwrap_err().starts_with("row 1 "));
        let scalar = divide(vec![request("[]", "[1]")]).unwrap_err();
        assert!(scalar.contains("no dimensions"), "{scalar}");
    }

    #[test]
    fn what_is_no_request_is_told() {
        for text in ["", "{}", "[1]", r#"{"inputs": 3}"#] {
            assert!(read(text.as_bytes().to_vec()).is_err(), "{text}");
        }
    }
}
