use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::inference::Request;

/// The contents of requests that made calls fail: they go alone for a while.
///
/// Contents are known by a keyed digest of 128 bits. They are not compared: two that have the same
/// would cost the innocent one its company, and no more.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// Keys of the two halves of a digest.
    keys: [RandomState; 2],
    /// Read before anything is hashed: usually there is nothing.
    len: AtomicUsize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    known: HashMap<u128, Entry, RandomState>,
    /// The same, oldest first.
    by_age: BTreeMap<u64, u128>,
    entered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    age: u64,
    until: Instant,
}

impl Quarantine {
    /// Returns the digest of a request that is in quarantine. Hashes nothing where nobody is.
    pub(super) fn find(&self, request: &Request, now: Instant) -> Option<u128> {
        if self.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let digest = self.digest(request);
        let mut entries = self.entries.lock();
        entries.forget_expired(now);
        self.len.store(entries.known.len(), Ordering::Relaxed);
        entries.known.contains_key(&digest).then_some(digest)
    }

    /// Takes contents in, or keeps them for longer; over the bound the oldest go.
    pub(super) fn enter(&self, digest: u128, now: Instant) {
        let mut entries = self.entries.lock();
        entries.forget_expired(now);
        entries.remove(digest);
        entries.entered += 1;
        let entry = Entry {
            age: entries.entered,
            until: now + STAY,
        };
        entries.known.insert(digest, entry);
        entries.by_age.insert(entry.age, digest);
        while entries.known.len() > MOST {
            let Some((_, oldest)) = entries.by_age.pop_first() else {
                break;
            };
            entries.known.remove(&oldest);
        }
        self.len.store(entries.known.len(), Ordering::Relaxed);
    }

    /// Lets contents out.
    pub(super) fn leave(&self, digest: u128) {
        let mut entries = self.entries.lock();
        entries.remove(digest);
        self.len.store(entries.known.len(), Ordering::Relaxed);
    }

    /// Returns the digest of what a request asks: names, types, shapes and bytes of its inputs.
    pub(super) fn digest(&self, request: &Request) -> u128 {
        let [mut high, mut low] = self.keys.each_ref().map(BuildHasher::build_hasher);
        let mut both = |hash: &dyn Fn(&mut dyn Hasher)| {
            hash(&mut high);
            hash(&mut low);
        };
        for input in &request.inputs {
            both(&|hasher| {
                hasher.write_usize(input.name.len());
                hasher.write(input.name.as_bytes());
                hasher.write_u8(input.datatype as u8);
                hasher.write_u8(input.form as u8);
                let dimensions = input.shape.dimensions();
                hasher.write_usize(dimensions.len());
                for dimension in dimensions {
                    hasher.write_i64(*dimension);
                }
                hasher.write_usize(input.data.len());
            });
            input
                .data
                .blocks(|block| both(&|hasher| hasher.write(block)));
        }
        u128::from(high.finish()) << 64 | u128::from(low.finish())
    }
}

impl Entries {
    fn remove(&mut self, digest: u128) {
        if let Some(entry) = self.known.remove(&digest) {
            self.by_age.remove(&entry.age);
        }
    }

    fn forget_expired(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.by_age.first_key_value() {
            let oldest = *oldest;
            match self.known.get(&oldest) {
                Some(entry) if entry.until > now => break,
                _ => {
                    self.by_age.pop_first();
                    self.known.remove(&oldest);
                }
            }
        }
    }
}

/// How long contents that failed go alone: long enough that a client that tries again and again
/// spoils one batch and not each, short enough that a mended model is soon believed.
const STAY: Duration = Duration::from_secs(300);
/// The most contents that are remembered: some 100 bytes each.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::inference::{Datatype, Form, Parameters, Payload, RequestParts, Shape, Tensor};

    fn request(name: &'static str, shape: [i64; 2], data: Payload) -> Request {
        Request::from(RequestParts {
            inputs: vec![Tensor {
                name: name.into(),
                datatype: Datatype::Uint8,
                shape: Shape::new(shape),
                parameters: Parameters::default(),
                data,
                form: Form::Raw,
                unknown: Payload::new(),
            }],
            ..RequestParts::default()
        })
    }

    fn bytes(len: usize) -> Bytes {
        (0..len).map(|index| (index % 251) as u8).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn contents_stay_for_a_while_and_the_oldest_go_first() {
        let quarantine = Quarantine::default();
        let one = request("x", [1, 4], bytes(4).into());
        let now = Instant::now();
        assert_eq!(quarantine.find(&one, now), None);
        let digest = quarantine.digest(&one);
        quarantine.enter(digest, now);
        assert_eq!(quarantine.find(&one, now), Some(digest));
        assert_eq!(quarantine.find(&one, now + STAY), None);
        assert_eq!(quarantine.len.load(Ordering::Relaxed), 0);

        quarantine.enter(digest, now);
        quarantine.leave(digest);
        assert_eq!(quarantine.find(&one, now), None);

        quarantine.enter(digest, now);
        (1..MOST as u128).for_each(|other| quarantine.enter(other, now));
        // Entered again, it is the youngest.
        quarantine.enter(digest, now);
        (0..MOST as u128 - 1).for_each(|other| quarantine.enter(!other, now));
        assert_eq!(quarantine.find(&one, now), Some(digest));
        quarantine.enter(1 << 100, now);
        assert_eq!(quarantine.find(&one, now), None);
        let entries = quarantine.entries.lock();
        assert_eq!((entries.known.len(), entries.by_age.len()), (MOST, MOST));
    }

    #[test]
    fn whatever_is_asked_makes_the_digest() {
        let quarantine = Quarantine::default();
        let other = Request::clone;
        let one = request("x", [2, 2], bytes(4).into());
        let digest = |change: &dyn Fn(&mut RequestParts)| {
            let mut request = other(&one);
            change(&mut request);
            quarantine.digest(&request)
        };
        let changes: [&dyn Fn(&mut RequestParts); 7] = [
            &|_| {},
            &|parts| parts.inputs[0].name = "y".into(),
            &|parts| parts.inputs[0].datatype = Datatype::Int8,
            &|parts| parts.inputs[0].shape = Shape::new([4, 1]),
            &|parts| parts.inputs[0].data = Bytes::from_static(&[0, 1, 2, 4]).into(),
            &|parts| parts.inputs.push(parts.inputs[0].clone()),
            &|parts| parts.inputs.clear(),
        ];
        let mut digests: Vec<_> = changes.iter().map(|change| digest(change)).collect();
        assert_eq!(digests[0], digest(&|parts| parts.head.id = "id".into()));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), changes.len());
    }
}
