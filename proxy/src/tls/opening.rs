use bytes::{Bytes, BytesMut};
use tokio::io::{self, AsyncRead, AsyncReadExt as _};

/// What a client begins with where TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The first record of a handshake.
    Tls,
    /// A request in plain HTTP, of either version.
    Http,
    /// Anything else.
    Other,
    /// Nothing: it has left.
    Nothing,
}

impl Opening {
    /// Reads as much as it takes to know, and returns it too.
    pub(super) async fn read(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<(Self, Bytes)> {
        let mut first = BytesMut::with_capacity(ENOUGH);
        loop {
            let ended = socket.read_buf(&mut first).await? == 0;
            if let Some(opening) = Self::of(&first, ended) {
                return Ok((opening, first.freeze()));
            }
        }
    }

    /// Looks at first bytes; none where more are needed.
    fn of(first: &[u8], ended: bool) -> Option<Self> {
        let begun = METHODS.iter().any(|method| method.starts_with(first));
        match first.first() {
            Some(&HANDSHAKE) => Some(Self::Tls),
            _ if METHODS.iter().any(|method| first.starts_with(method)) => Some(Self::Http),
            None if ended => Some(Self::Nothing),
            _ if begun && !ended => None,
            _ => Some(Self::Other),
        }
    }
}

/// The type of the record that every handshake begins with.
const HANDSHAKE: u8 = 0x16;

/// How requests begin, the preface of HTTP/2 among them.
const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PRI ",
];

/// More than any method; a handshake is read on from where this ends.
const ENOUGH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_from_a_handshake_by_its_method() {
        for (first, opening) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Opening::Http)),
            (b"PRI * HTTP/2.0\r\n", Some(Opening::Http)),
            (b"OPTIONS * HTTP/1.1", Some(Opening::Http)),
            (b"", None),
            (b"P", None),
            (b"POST", None),
            (b"POSTED", Some(Opening::Other)),
            (b"SSH-2.0", Some(Opening::Other)),
            (b"\x15\x03\x03", Some(Opening::Other)),
            (b"\x16", Some(Opening::Tls)),
        ] {
            assert_eq!(Opening::of(first, false), opening, "{first:?}");
        }
        assert_eq!(Opening::of(b"", true), Some(Opening::Nothing));
        assert_eq!(Opening::of(b"POST", true), Some(Opening::Other));
    }

    #[tokio::test]
    async fn what_was_read_is_returned_whole() {
        let mut socket: &[u8] = b"\x16\x03\x01";
        let (opening, first) = Opening::read(&mut socket).await.unwrap();
        assert_eq!((opening, &first[..]), (Opening::Tls, &b"\x16\x03\x01"[..]));
        let mut socket = tokio::io::join(&b"PO"[..], tokio::io::sink());
        let (opening, first) = Opening::read(&mut socket).await.unwrap();
        assert_eq!((opening, &first[..]), (Opening::Other, &b"PO"[..]));
    }
}
