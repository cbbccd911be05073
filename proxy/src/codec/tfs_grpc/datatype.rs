use outrigger_filters::inference::Datatype;

/// Returns the vocabulary's word for a `DataType` of the protocol, or `None` for those that other
/// protocols cannot say: complex and quantised numbers, resources, variants, references.
pub(in crate::codec) fn from_number(number: u64) -> Option<Datatype> {
    ALL.iter()
        .find(|(known, ..)| u64::from(*known) == number)
        .map(|(_, datatype, _)| *datatype)
}

/// Returns the protocol's number of a datatype.
pub(in crate::codec) fn number(datatype: Datatype) -> u32 {
    row(datatype).map_or(0, |(number, ..)| *number)
}

/// Returns the protocol's name of a datatype, for instance `DT_FLOAT`.
pub(in crate::codec) fn name(datatype: Datatype) -> &'static str {
    row(datatype).map_or("DT_INVALID", |(.., name)| name)
}

/// Reads the protocol's name of a datatype.
pub(in crate::codec) fn from_name(name: &str) -> Option<Datatype> {
    ALL.iter()
        .find(|(.., known)| *known == name)
        .map(|(_, datatype, _)| *datatype)
}

/// Returns the field of `TensorProto` in which a datatype's elements stand one by one.
pub(super) fn list(datatype: Datatype) -> u32 {
    match datatype {
        Datatype::Fp32 => FLOAT_VAL,
        Datatype::Fp64 => DOUBLE_VAL,
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 | Datatype::Uint8 | Datatype::Uint16 => {
            INT_VAL
        }
        Datatype::Bytes => STRING_VAL,
        Datatype::Int64 => INT64_VAL,
        Datatype::Bool => BOOL_VAL,
        Datatype::Fp16 | Datatype::Bf16 => HALF_VAL,
        Datatype::Uint32 => UINT32_VAL,
        Datatype::Uint64 => UINT64_VAL,
    }
}

fn row(datatype: Datatype) -> Option<&'static (u32, Datatype, &'static str)> {
    ALL.iter().find(|(_, known, _)| *known == datatype)
}

/// In the order in which they are likely met.
const ALL: [(u32, Datatype, &str); 14] = [
    (1, Datatype::Fp32, "DT_FLOAT"),
    (7, Datatype::Bytes, "DT_STRING"),
    (9, Datatype::Int64, "DT_INT64"),
    (3, Datatype::Int32, "DT_INT32"),
    (2, Datatype::Fp64, "DT_DOUBLE"),
    (10, Datatype::Bool, "DT_BOOL"),
    (4, Datatype::Uint8, "DT_UINT8"),
    (6, Datatype::Int8, "DT_INT8"),
    (5, Datatype::Int16, "DT_INT16"),
    (17, Datatype::Uint16, "DT_UINT16"),
    (19, Datatype::Fp16, "DT_HALF"),
    (14, Datatype::Bf16, "DT_BFLOAT16"),
    (22, Datatype::Uint32, "DT_UINT32"),
    (23, Datatype::Uint64, "DT_UINT64"),
];

// The lists of `TensorProto`.
pub(super) const FLOAT_VAL: u32 = 5;
pub(super) const DOUBLE_VAL: u32 = 6;
pub(super) const INT_VAL: u32 = 7;
pub(super) const STRING_VAL: u32 = 8;
pub(super) const INT64_VAL: u32 = 10;
pub(super) const BOOL_VAL: u32 = 11;
pub(super) const HALF_VAL: u32 = 13;
pub(super) const UINT32_VAL: u32 = 16;
pub(super) const UINT64_VAL: u32 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_datatype_has_a_number_and_a_name_of_its_own() {
        for datatype in Datatype::ALL {
            assert_eq!(from_number(number(datatype).into()), Some(datatype));
            assert_eq!(from_name(name(datatype)), Some(datatype));
        }
        // DT_INVALID, DT_COMPLEX64, DT_RESOURCE, DT_FLOAT_REF.
        for other in [0, 8, 20, 101, u64::MAX] {
            assert_eq!(from_number(other), None);
        }
    }
}
