use bytes::{Bytes, BytesMut};

use super::each;
use crate::codec::protobuf::{Kind, Put as _, Value};

/// Reads a `ServerLiveResponse`, a `ServerReadyResponse` or a `ModelReadyResponse`.
pub fn ready(answer: &[u8]) -> bool {
    let mut ready = false;
    let read = each(answer, 0..answer.len(), |number, value| {
        if let (READY, Value::Varint(value)) = (number, value) {
            ready = value != 0;
        }
        Ok(())
    });
    read.is_ok() && ready
}

/// Writes a `ServerLiveResponse`, a `ServerReadyResponse` or a `ModelReadyResponse`.
pub fn write_ready(ready: bool) -> Bytes {
    let mut answer = BytesMut::new();
    if ready {
        answer.put_key(READY, Kind::Varint);
        answer.put_varint(1);
    }
    answer.freeze()
}

const READY: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_servers_are_ready() {
        assert!(ready(include_bytes!("../recorded/triton.ready.bin")));
        assert!(ready(include_bytes!("../recorded/mlserver.ready.bin")));
    }

    #[test]
    fn what_is_written_is_read() {
        assert!(ready(&write_ready(true)));
        assert!(!ready(&write_ready(false)));
    }

    #[test]
    fn what_is_no_protobuf_is_not_ready() {
        assert!(!ready(&[0x08]));
    }
}
