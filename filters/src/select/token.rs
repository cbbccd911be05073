use std::{
    error::Error,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytestring::ByteString;
use smallvec::SmallVec;

use super::keys::{Keys, SIGNATURE};

/// A prediction id: what was chosen and answered, so that feedback finds everything it needs in
/// the id itself, on any replica and after a restart.
///
/// ```text
/// base64url( version flags model at nonce rows context arms signature )
///                                              |       |
///            0, or its length + 1, and its text        how many, then for each
///                                                      digest probability length predictions
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The [digest](Self::digest) of the model's name as callers know it.
    pub model: u32,
    /// Who asked, where callers are told apart; at most [so long](Self::CONTEXT).
    pub context: Option<ByteString>,
    /// Whether all these arms were asked and their answers put together; else one was chosen.
    pub ensemble: bool,
    /// The arm that was chosen, or the arms of an ensemble that answered.
    pub arms: SmallVec<[Chosen; 1]>,
    /// The rows of the request.
    pub rows: u32,
    /// When the answer was given, to the second.
    pub at: SystemTime,
    /// What tells this prediction from all others: a random number.
    pub nonce: u64,
    /// Whether the predictions were [too long](Self::PREDICTIONS) to be told. Feedback then has to
    /// give the loss or the inputs.
    pub cut: bool,
}

/// An arm that was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The [digest](Token::digest) of its name, which stays while arms come and go.
    pub arm: u32,
    /// The probability with which it was chosen; of an ensemble's arm, its share of the vote.
    pub probability: f32,
    /// What it predicted, packed.
    pub predictions: Vec<u8>,
}

/// Why an id is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It is no prediction id.
    Malformed,
    /// It is signed with another key, or was changed.
    Foreign,
    /// It is too old.
    Expired,
}

/// What of an id is yet to be read.
struct Rest<'a>(&'a [u8]);

impl Token {
    /// The most bytes of a context; a longer one is left out of the id.
    pub const CONTEXT: usize = 256;

    /// The most bytes of all arms' predictions together, so that the id stays a header that every
    /// client takes: under half of the 8 KiB that some give to all headers.
    pub const PREDICTIONS: usize = 1024;

    /// Returns what an id calls a model or an arm.
    pub fn digest(name: &str) -> u32 {
        let hash = blake3::hash(name.as_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Writes the id, and signs it.
    pub fn seal(&self, keys: &Keys) -> String {
        let mut bytes = self.encode();
        let signature = keys.sign(&bytes);
        bytes.extend_from_slice(&signature);
        URL_SAFE_NO_PAD.encode(&bytes)
    }

    /// Writes what is signed. Predictions that are too long are left out, and so is too long a
    /// context.
    pub fn encode(&self) -> SmallVec<[u8; 128]> {
        let told: usize = self.arms.iter().map(|arm| arm.predictions.len()).sum();
        let cut = self.cut || told > Self::PREDICTIONS;
        let context = self.context.as_ref();
        let context = context.filter(|context| context.len() <= Self::CONTEXT);
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();

        // On the stack, unless it is an ensemble's.
        let mut bytes = SmallVec::<[u8; 128]>::new();
        let flags = if self.ensemble { ENSEMBLE } else { 0 } | if cut { CUT } else { 0 };
        bytes.extend_from_slice(&[VERSION, flags]);
        bytes.extend_from_slice(&self.model.to_le_bytes());
        put(&mut bytes, at.as_secs());
        bytes.extend_from_slice(&self.nonce.to_le_bytes());
        put(&mut bytes, self.rows.into());
        match context {
            None => put(&mut bytes, 0),
            Some(context) => {
                put(&mut bytes, context.len() as u64 + 1);
                bytes.extend_from_slice(context.as_bytes());
            }
        }
        put(&mut bytes, self.arms.len() as u64);
        for chosen in &self.arms {
            bytes.extend_from_slice(&chosen.arm.to_le_bytes());
            bytes.extend_from_slice(&chosen.probability.to_le_bytes());
            let predictions: &[u8] = if cut { &[] } else { &chosen.predictions };
            put(&mut bytes, predictions.len() as u64);
            bytes.extend_from_slice(predictions);
        }
        bytes
    }

    /// Reads an id that was given at most so long ago.
    ///
    /// One from the future is accepted as far ahead, because the clocks of replicas differ.
    pub fn open(
        id: &str,
        keys: &Keys,
        now: SystemTime,
        max_age: Duration,
    ) -> Result<Self, Refused> {
        if id.len() > MOST_ID {
            return Err(Refused::Malformed);
        }
        let mut buffer = [0; MOST_ID / 4 * 3 + 3];
        let length = URL_SAFE_NO_PAD.decode_slice(id, &mut buffer);
        let bytes = &buffer[..length.map_err(|_| Refused::Malformed)?];
        if bytes.first() != Some(&VERSION) {
            return Err(Refused::Malformed);
        }
        let (message, signature) = bytes.split_last_chunk().ok_or(Refused::Malformed)?;
        if !keys.verify(message, *signature) {
            return Err(Refused::Foreign);
        }
        // What is signed was written by a replica, though perhaps by one of another build.
        let token = Self::decode(message).ok_or(Refused::Malformed)?;
        let age = now.duration_since(token.at);
        let apart = age.unwrap_or_else(|ahead| ahead.duration());
        match apart <= max_age {
            true => Ok(token),
            false => Err(Refused::Expired),
        }
    }

    /// Returns the [digest](Self::digest) of the model that an id claims to be of, whoever signed it;
    /// only good for counting.
    pub fn claims(id: &str) -> Option<u32> {
        let mut buffer = [0; MOST_ID / 4 * 3 + 3];
        let id = Some(id).filter(|id| id.len() <= MOST_ID)?;
        let length = URL_SAFE_NO_PAD.decode_slice(id, &mut buffer).ok()?;
        let (message, _) = buffer[..length].split_last_chunk::<SIGNATURE>()?;
        Some(Self::decode(message)?.model)
    }

    /// Reads what was signed; `None` where it is nothing that is written here.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut rest = Rest(message);
        let [VERSION, flags] = *rest.chunk()? else {
            return None;
        };
        let model = u32::from_le_bytes(*rest.chunk()?);
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(rest.varint()?))?;
        let nonce = u64::from_le_bytes(*rest.chunk()?);
        let rows = rest.varint()?.try_into().ok()?;
        let context = match rest.varint()?.checked_sub(1) {
            None => None,
            Some(length) => {
                let text = rest.take(length)?;
                if text.len() > Self::CONTEXT {
                    return None;
                }
                Some(ByteString::from(std::str::from_utf8(text).ok()?))
            }
        };
        let cut = flags & CUT != 0;
        let mut room = if cut { 0 } else { Self::PREDICTIONS };
        let count = rest.varint()?;
        let mut arms = SmallVec::new();
        for _ in 0..count {
            let arm = u32::from_le_bytes(*rest.chunk()?);
            let probability = f32::from_le_bytes(*rest.chunk()?);
            if !(0. ..=1.).contains(&probability) {
                return None;
            }
            let length = rest.varint()?;
            let predictions = rest.take(length)?.to_vec();
            room = room.checked_sub(predictions.len())?;
            arms.push(Chosen {
                arm,
                probability,
                predictions,
            });
        }
        rest.0.is_empty().then_some(Self {
            model,
            context,
            ensemble: flags & ENSEMBLE != 0,
            arms,
            rows,
            at,
            nonce,
            cut,
        })
    }
}

impl Chosen {
    /// An arm of which nothing is told but how it was chosen.
    pub fn new(arm: u32, probability: f64) -> Self {
        Self {
            arm,
            probability: probability as f32,
            predictions: Vec::new(),
        }
    }
}

impl<'a> Rest<'a> {
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let length = usize::try_from(length).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = *self.chunk()?;
            let bits = u64::from(byte & 0x7f);
            value |= bits.checked_shl(shift).filter(|v| v >> shift == bits)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

fn put(bytes: &mut SmallVec<[u8; 128]>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "this is no prediction id",
            Self::Foreign => "the prediction id is signed with another key, or was changed",
            Self::Expired => "the prediction id has expired",
        })
    }
}

impl Error for Refused {}

/// The first byte of every id of this form.
const VERSION: u8 = 1;

const ENSEMBLE: u8 = 1;
const CUT: u8 = 2;

/// The longest id: predictions, a context and 64 arms take 2.1 KB, a third more in base64.
const MOST_ID: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn keys(current: &str, previous: Option<&str>) -> Keys {
        Keys::new(current.as_bytes(), previous.map(str::as_bytes)).expect("keys are long enough")
    }

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn token() -> Token {
        Token {
            model: Token::digest("digits"),
            context: None,
            ensemble: false,
            arms: smallvec![Chosen::new(Token::digest("svm"), 0.9)],
            rows: 1,
            at: noon(),
            nonce: 7,
            cut: false,
        }
    }

    fn open(id: &str, keys: &Keys) -> Result<Token, Refused> {
        Token::open(id, keys, noon(), DAY)
    }

    #[test]
    fn an_id_of_one_arm_is_short() {
        let keys = keys("0123456789abcdef", None);
        let mut token = token();
        token.arms[0].predictions = vec![0; 5];
        let id = token.seal(&keys);
        assert!(id.len() <= 80, "{} characters", id.len());
        assert_eq!(open(&id, &keys), Ok(token));
    }

    #[test]
    fn both_keys_verify_and_the_current_one_signs() {
        let (old, new) = ("an old key, long enough", "a new key, long enough");
        let during = keys(new, Some(old));
        let before = token().seal(&keys(old, None));
        assert_eq!(open(&before, &during), Ok(token()));
        assert_eq!(open(&token().seal(&during), &keys(new, None)), Ok(token()));
        assert_eq!(open(&before, &keys(new, None)), Err(Refused::Foreign));
    }

    #[test]
    fn a_key_is_long_enough_and_its_files_end_does_not_matter() {
        let short = Keys::new(b"short\n\n\n\n\n\n\n\n\n\n\n\n\n\n", None);
        let words = short.expect_err("it has five bytes").to_string();
        assert_eq!(words, "a key of 5 bytes is too short: it needs 16");
        let id = token().seal(&keys("0123456789abcdef\r\n", None));
        assert_eq!(open(&id, &keys("0123456789abcdef", None)), Ok(token()));
        assert!(!format!("{:?}", keys("0123456789abcdef", None)).contains('9'));
    }

    #[test]
    fn an_id_expires() {
        let keys = keys("0123456789abcdef", None);
        let id = token().seal(&keys);
        let second = Duration::from_secs(1);
        let at = |now| Token::open(&id, &keys, now, DAY);
        assert_eq!(at(noon() + DAY), Ok(token()));
        assert_eq!(at(noon() + DAY + second), Err(Refused::Expired));
        assert_eq!(at(noon() - DAY), Ok(token()));
        assert_eq!(at(noon() - DAY - second), Err(Refused::Expired));
    }

    #[test]
    fn long_predictions_and_contexts_are_left_out() {
        let keys = keys("0123456789abcdef", None);
        let mut token = token();
        token.ensemble = true;
        let arm = Chosen {
            predictions: vec![1; Token::PREDICTIONS / 2],
            ..Chosen::new(2, 0.1)
        };
        token.arms = smallvec![arm.clone(), arm];
        token.context = Some("x".repeat(Token::CONTEXT).into());
        assert_eq!(open(&token.seal(&keys), &keys), Ok(token.clone()));

        token.arms[1].predictions.push(1);
        token.context = Some("x".repeat(Token::CONTEXT + 1).into());
        let read = open(&token.seal(&keys), &keys).expect("it is signed");
        assert!(read.cut && read.arms.len() == 2 && read.context.is_none());
        assert!(read.arms.iter().all(|arm| arm.predictions.is_empty()));
    }

    #[test]
    fn the_longest_id_is_read() {
        let keys = keys("0123456789abcdef", None);
        let mut token = token();
        token.context = Some("x".repeat(Token::CONTEXT).into());
        token.arms = (0..64).map(|arm| Chosen::new(arm, 1.)).collect();
        token.arms[63].predictions = vec![1; Token::PREDICTIONS];
        assert_eq!(open(&token.seal(&keys), &keys), Ok(token));
    }

    proptest! {
        #[test]
        fn an_opened_id_is_what_was_sealed(
            model: u32,
            context: Option<String>,
            ensemble: bool,
            arms: Vec<(u32, f32, [u8; 3])>,
            rows: u32,
            seconds in 0..1_u64 << 40,
            nonce: u64,
            cut: bool,
        ) {
            let context = context.filter(|context| context.len() <= Token::CONTEXT);
            let arms = arms.into_iter().take(64).map(|(arm, probability, predictions)| Chosen {
                arm,
                probability: if probability.is_finite() { probability.abs().fract() } else { 1. },
                predictions: if cut { Vec::new() } else { predictions.to_vec() },
            });
            let token = Token {
                model,
                context: context.map(Into::into),
                ensemble,
                arms: arms.collect(),
                rows,
                at: UNIX_EPOCH + Duration::from_secs(seconds),
                nonce,
                cut,
            };
            let keys = keys("0123456789abcdef", None);
            let read = Token::open(&token.seal(&keys), &keys, token.at, Duration::ZERO);
            prop_assert_eq!(read, Ok(token));
        }

        #[test]
        fn a_changed_id_is_refused(place: prop::sample::Index, change in 1_u8..=255) {
            let keys = keys("0123456789abcdef", None);
            let id = token().seal(&keys);
            let mut bytes = URL_SAFE_NO_PAD.decode(&id).expect("it was encoded");
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            prop_assert!(open(&URL_SAFE_NO_PAD.encode(&bytes), &keys).is_err());
        }

        #[test]
        fn an_id_is_written_in_one_way_only(place: prop::sample::Index, other in 0_u8..128) {
            let keys = keys("0123456789abcdef", None);
            let id = token().seal(&keys);
            let mut bytes = id.clone().into_bytes();
            let place = place.index(bytes.len());
            bytes[place] = other;
            let changed = String::from_utf8(bytes).expect("it is ASCII");
            prop_assert!(changed == id || open(&changed, &keys).is_err());
        }

        #[test]
        fn any_text_and_any_signed_bytes_are_read_without_panic(text: String, bytes: Vec<u8>) {
            let keys = keys("0123456789abcdef", None);
            let _ = open(&text, &keys);
            let mut bytes = [&[VERSION], &bytes[..]].concat();
            let _ = Token::decode(&bytes);
            bytes.extend(keys.sign(&bytes));
            let _ = open(&URL_SAFE_NO_PAD.encode(bytes), &keys);
        }
    }
}
