/// Why bytes are not protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wire {
    /// The bytes end within a field.
    #[error("the bytes end within a field")]
    Truncated,
    /// A varint has more than 64 bits.
    #[error("a varint has more than 64 bits")]
    Varint,
    /// A key has a field number or a wire type that does not exist.
    #[error("a key has a field number or a wire type that does not exist")]
    Key,
    /// A group ends without a beginning, or groups are nested too deep.
    #[error("a group ends without a beginning, or groups are nested too deep")]
    Group,
}
