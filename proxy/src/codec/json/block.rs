//! Sixty-four bytes at a time: which of them are what, as one bit each.

use wide::u8x16;

/// A block of text that is ready to be compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block([u8x16; 4]);

impl Block {
    pub(super) const LEN: usize = 64;

    #[inline(always)]
    pub(super) fn new(bytes: &[u8; Self::LEN]) -> Self {
        let (parts, _) = bytes.as_chunks::<16>();
        Self(std::array::from_fn(|index| u8x16::new(parts[index])))
    }

    /// Returns where a byte stands.
    #[inline(always)]
    pub(super) fn equal(self, byte: u8) -> u64 {
        let wanted = u8x16::splat(byte);
        self.gather(|part| part.cmp_eq(wanted))
    }

    /// Returns where the digits stand.
    #[inline(always)]
    pub(super) fn digits(self) -> u64 {
        let (zero, nine) = (u8x16::splat(b'0'), u8x16::splat(9));
        self.gather(|part| {
            let digit = part - zero;
            digit.min(nine).cmp_eq(digit)
        })
    }

    #[inline(always)]
    fn gather(self, is: impl Fn(u8x16) -> u8x16) -> u64 {
        let [a, b, c, d] = self
            .0
            .map(|part| u64::from(is(part).move_mask().cast_unsigned()));
        a | b << 16 | c << 32 | d << 48
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_say_where_bytes_stand(bytes: [u8; 64], byte: u8) {
            let mut bytes = bytes;
            bytes[9] = byte;
            bytes[60] = b'7';
            let block = Block::new(&bytes);
            let bits = |is: &dyn Fn(u8) -> bool| {
                bytes.iter().rev().fold(0, |bits, byte| bits << 1 | u64::from(is(*byte)))
            };
            prop_assert_eq!(block.equal(byte), bits(&|other| other == byte));
            prop_assert_eq!(block.digits(), bits(&|byte| byte.is_ascii_digit()));
        }
    }
}
