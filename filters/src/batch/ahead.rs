use std::time::Duration;

use tokio::time::Instant;

/// The rows of those who wait, by how urgent they are: how many are before a newcomer.
///
/// ```text
///  class 1:   all - those behind       |  2 | 5 | 1 |   | 8 | ..    rows, by when they are due
///  class 10:  all - those behind       |    | 3 | 7 | 4 | 4 | ..
///                                            '-- a part of the objective
/// ```
///
/// Who is due in the same part of the objective counts as one who is before. Those who were due long ago
/// are only in the sum: nobody who comes is before them. So it takes the same memory whatever waits,
/// and to ask costs no more than to add up a class that is behind.
#[derive(Debug)]
pub(super) struct Ahead {
    epoch: Instant,
    /// Of a part, in nanoseconds.
    width: u128,
    /// By their numbers; of those that are empty some stay.
    classes: Vec<Class>,
}

#[derive(Debug)]
struct Class {
    class: u64,
    rows: usize,
    /// The latest part that was ever counted; the others are those before it.
    last: u64,
    parts: Box<[usize; PARTS]>,
}

impl Ahead {
    pub(super) fn new(epoch: Instant, objective: Duration) -> Self {
        Self {
            epoch,
            width: (objective.as_nanos() / u128::from(FINENESS)).max(1),
            classes: Vec::new(),
        }
    }

    /// Counts rows; returns the class that they were counted in, to be told when they leave.
    pub(super) fn add(&mut self, class: u64, due: Instant, rows: usize) -> u64 {
        let part = self.part(due);
        let at = self.class(class);
        let counted = &mut self.classes[at];
        counted.rows += rows;
        if let Some(sum) = counted.reach(part) {
            *sum += rows;
        }
        counted.class
    }

    /// Counts rows no more.
    pub(super) fn remove(&mut self, class: u64, due: Instant, rows: usize) {
        let part = self.part(due);
        let Ok(at) = self.find(class) else { return };
        let counted = &mut self.classes[at];
        counted.rows -= rows;
        if let Some(sum) = counted.within(part) {
            *sum -= rows;
        }
    }

    /// Returns how many rows are before one that would be counted so.
    pub(super) fn before(&self, class: u64, due: Instant) -> usize {
        let at = self.find(class);
        let before = at.unwrap_or_else(|at| at);
        let sooner: usize = self.classes[..before].iter().map(|class| class.rows).sum();
        match at {
            Ok(at) => sooner + self.classes[at].until(self.part(due)),
            Err(_) => sooner,
        }
    }

    fn part(&self, due: Instant) -> u64 {
        let since = due.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since / self.width).unwrap_or(u64::MAX)
    }

    fn find(&self, class: u64) -> Result<usize, usize> {
        self.classes
            .binary_search_by_key(&class, |known| known.class)
    }

    /// Finds a class, or makes it; where there are too many, the next one has to do.
    fn class(&mut self, class: u64) -> usize {
        if let Ok(at) = self.find(class) {
            return at;
        }
        if self.classes.len() >= CLASSES {
            self.classes.retain(|known| known.rows > 0);
        }
        let at = self.find(class).unwrap_or_else(|at| at);
        if self.classes.len() >= CLASSES {
            return at.min(self.classes.len() - 1);
        }
        let class = Class {
            class,
            rows: 0,
            last: 0,
            parts: Box::new([0; PARTS]),
        };
        self.classes.insert(at, class);
        at
    }
}

impl Class {
    /// Returns the sum of a part, after forgetting which rows are in those that are too old by then.
    fn reach(&mut self, part: u64) -> Option<&mut usize> {
        if part > self.last {
            let new = (part - self.last).min(PARTS as u64);
            for later in 0..new {
                self.parts[index(part - later)] = 0;
            }
            self.last = part;
        }
        self.within(part)
    }

    fn within(&mut self, part: u64) -> Option<&mut usize> {
        (part <= self.last && self.last - part < PARTS as u64).then(|| &mut self.parts[index(part)])
    }

    /// Returns the rows that are due in a part or before.
    fn until(&self, part: u64) -> usize {
        let behind = self.last.saturating_sub(part).min(PARTS as u64);
        let behind = (0..behind).map(|sooner| self.parts[index(self.last - sooner)]);
        self.rows - behind.sum::<usize>()
    }
}

fn index(part: u64) -> usize {
    (part % PARTS as u64) as usize
}

/// Parts of an objective: who is within one of them of another is as urgent.
const FINENESS: u32 = 32;
/// All parts in which a newcomer may be due: four objectives, and where it begins.
const PARTS: usize = 4 * FINENESS as usize + 2;
/// Classes that are told apart: more than anybody has a use for.
const CLASSES: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As by going through all who wait; who is due in the same part may count or not.
        #[test]
        fn as_many_are_before_as_there_are(
            steps in prop::collection::vec((0_u64..4, 0_u64..80, 1_usize..5, 0_u64..3, any::<bool>()), 1..200),
        ) {
            let epoch = Instant::now();
            let mut ahead = Ahead::new(epoch, Duration::from_millis(20));
            let mut waiting: Vec<(u64, Instant, usize)> = Vec::new();
            let mut now = epoch;
            for (class, millis, rows, passes, leaves) in steps {
                now += Duration::from_millis(passes);
                let due = now + Duration::from_millis(millis);
                let sum = |is: &dyn Fn(&Instant) -> bool| -> usize {
                    let before = waiting.iter().filter(|(other, at, _)| *other < class || *other == class && is(at));
                    before.map(|(.., rows)| rows).sum()
                };
                let part = Duration::from_micros(625);
                let (least, most) = (sum(&|at| *at + part <= due), sum(&|at| *at < due + part));
                let before = ahead.before(class, due);
                prop_assert!((least..=most).contains(&before), "{least} {before} {most}");
                if leaves && !waiting.is_empty() {
                    let (class, due, rows) = waiting.swap_remove(millis as usize % waiting.len());
                    ahead.remove(class, due, rows);
                } else {
                    prop_assert_eq!(ahead.add(class, due, rows), class);
                    waiting.push((class, due, rows));
                }
            }
            for (class, due, rows) in waiting.drain(..) {
                ahead.remove(class, due, rows);
            }
            prop_assert_eq!(ahead.before(u64::MAX, now + Duration::from_secs(1)), 0);
        }
    }

    #[test]
    fn classes_without_number_cost_no_memory_without_bound() {
        let epoch = Instant::now();
        let mut ahead = Ahead::new(epoch, Duration::from_millis(20));
        let counted: Vec<u64> = (0..1000)
            .map(|class| ahead.add(class * 7 % 1000, epoch, 1))
            .collect();
        assert!(ahead.classes.len() <= CLASSES);
        assert_eq!(ahead.before(u64::MAX, epoch), 1000);
        counted
            .into_iter()
            .for_each(|class| ahead.remove(class, epoch, 1));
        assert_eq!(ahead.before(u64::MAX, epoch), 0);
        // Of those that are gone none is kept for ever.
        for class in 5000..5100 {
            assert_eq!(ahead.add(class, epoch, 1), class);
            ahead.remove(class, epoch, 1);
        }
    }
}
