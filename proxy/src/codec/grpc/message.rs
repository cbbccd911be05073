//! `grpc-message`: a text in percent-encoding.

use http::HeaderValue;

/// Reads a value. What is not in the encoding stays as it is, and what is not UTF-8 is replaced:
/// words about an error must not make another one.
pub fn decode(value: &[u8]) -> String {
    let mut text = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, behind)) = rest.split_first() {
        match (byte, behind) {
            (b'%', [high, low, behind @ ..])
                if let (Some(high), Some(low)) = (digit(*high), digit(*low)) =>
            {
                text.push(high << 4 | low);
                rest = behind;
            }
            _ => {
                text.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8(text)
        .unwrap_or_else(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}

/// Writes a value.
pub fn encode(text: &str) -> HeaderValue {
    let mut value = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => value.push(byte),
            _ => value.extend([
                b'%',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]),
        }
    }
    HeaderValue::try_from(value).expect("only printable ASCII was written")
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_printable_is_encoded() {
        assert_eq!(encode("50% of ü\n"), "50%25 of %C3%BC%0A");
    }

    #[test]
    fn what_is_badly_encoded_stays() {
        assert_eq!(decode(b"50% %4 %zz %41%"), "50% %4 %zz A%");
        assert_eq!(decode(b"%ff"), "\u{fffd}");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(text: String) {
            proptest::prop_assert_eq!(decode(encode(&text).as_bytes()), text);
        }

        #[test]
        fn any_bytes_are_read_without_panic(value: Vec<u8>) {
            decode(&value);
        }
    }
}
