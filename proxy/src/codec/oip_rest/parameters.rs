use bytestring::ByteString;
use outrigger_filters::inference::{BINARY_DATA_SIZE, Parameter, Parameters};

use super::{Fault, Malformed};
use crate::codec::json::{Kind, Reader, put_string};

/// What the parameters of a request, a tensor or an output say of the message they stand in. It
/// never becomes part of them.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// The bytes of this tensor behind the JSON.
    pub(super) binary_data_size: Option<usize>,
    /// Whether this output is wanted binary.
    pub(super) binary_data: Option<bool>,
    /// Whether all outputs are wanted binary.
    pub(super) binary_data_output: Option<bool>,
}

/// Reads a map of parameters.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<(Parameters, Wishes), Malformed> {
    let mut parameters = Parameters::default();
    let mut wishes = Wishes::default();
    let field = |name: &str| match name {
        "" => "parameters".to_owned(),
        name => format!("parameters.{name}"),
    };
    let json = |malformed| Malformed::new("parameters", malformed);
    reader.object().map_err(json)?;
    while let Some(name) = reader.member().map_err(json)? {
        if parameters.len() >= MAX_PARAMETERS {
            return Err(Malformed::new("parameters", Fault::TooMany));
        }
        let value = value(reader).map_err(|fault| Malformed::new(field(&name), fault))?;
        let repeated = match &*name {
            BINARY_DATA_SIZE => {
                let size = match value {
                    Parameter::Unset => None,
                    Parameter::Int64(size) => Some(usize::try_from(size)),
                    Parameter::Uint64(size) => Some(usize::try_from(size)),
                    _ => return Err(Malformed::new(field(&name), Fault::Parameter)),
                };
                let size = size
                    .transpose()
                    .map_err(|_| Malformed::new(field(&name), Fault::Parameter))?;
                replace(&mut wishes.binary_data_size, size)
            }
            BINARY_DATA => replace(&mut wishes.binary_data, truth(&name, value)?),
            BINARY_DATA_OUTPUT => replace(&mut wishes.binary_data_output, truth(&name, value)?),
            _ => {
                let repeated = parameters.get(&name).is_some();
                parameters.insert(name.clone(), value);
                repeated
            }
        };
        if repeated {
            return Err(Malformed::new(field(&name), Fault::Repeated));
        }
    }
    Ok((parameters, wishes))
}

/// Writes the members of a map, each with a comma behind it; what is said of one message is left
/// out.
pub(super) fn write(parameters: &Parameters, out: &mut Vec<u8>) {
    for (name, value) in parameters.iter() {
        if matches!(&**name, BINARY_DATA_SIZE | BINARY_DATA | BINARY_DATA_OUTPUT) {
            continue;
        }
        put_string(name, out);
        out.push(b':');
        match value {
            Parameter::Bool(value) => {
                out.extend_from_slice(if *value { b"true" } else { b"false" });
            }
            Parameter::Int64(value) => {
                out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes());
            }
            Parameter::Uint64(value) => {
                out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes());
            }
            Parameter::String(value) => put_string(value, out),
            Parameter::Double(value) if value.is_finite() => {
                out.extend_from_slice(zmij::Buffer::new().format_finite(*value).as_bytes());
            }
            Parameter::Double(value) if value.is_nan() => out.extend_from_slice(b"NaN"),
            Parameter::Double(value) if *value > 0.0 => out.extend_from_slice(b"Infinity"),
            Parameter::Double(_) => out.extend_from_slice(b"-Infinity"),
            Parameter::Unset => out.extend_from_slice(b"null"),
        }
        out.push(b',');
    }
}

/// Says that an output is wanted binary.
pub(super) fn write_binary_data(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"binary_data\":true,");
}

/// Says that all outputs are wanted binary.
pub(super) fn write_binary_data_output(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"binary_data_output\":true,");
}

/// Says how many bytes a tensor has behind the JSON.
pub(super) fn write_binary_data_size(size: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"binary_data_size\":");
    out.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
    out.push(b',');
}

fn value(reader: &mut Reader<'_>) -> Result<Parameter, Fault> {
    Ok(match reader.peek()? {
        Kind::Bool => Parameter::Bool(reader.bool()?),
        Kind::String => Parameter::String(reader.string()?),
        Kind::Null => {
            reader.null()?;
            Parameter::Unset
        }
        Kind::Number => number(reader.number()?).ok_or(Fault::Parameter)?,
        Kind::Object | Kind::Array => return Err(Fault::Parameter),
    })
}

/// Reads a number as what it is written: a whole one, or one with a fraction.
fn number(text: &str) -> Option<Parameter> {
    if let Ok(whole) = text.parse() {
        return Some(Parameter::Int64(whole));
    }
    if let Ok(whole) = text.parse() {
        return Some(Parameter::Uint64(whole));
    }
    // The standard library understands the words too.
    text.parse().ok().map(Parameter::Double)
}

fn truth(name: &ByteString, value: Parameter) -> Result<Option<bool>, Malformed> {
    match value {
        Parameter::Unset => Ok(None),
        Parameter::Bool(value) => Ok(Some(value)),
        _ => Err(Malformed::new(
            format!("parameters.{name}"),
            Fault::Parameter,
        )),
    }
}

/// Sets a value, and tells whether there was one.
fn replace<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    std::mem::replace(slot, value).is_some()
}

const BINARY_DATA: &str = "binary_data";
const BINARY_DATA_OUTPUT: &str = "binary_data_output";

/// Parameters of one map: each is looked up among those before it, which must stay cheap.
const MAX_PARAMETERS: usize = 256;
