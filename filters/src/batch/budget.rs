/// What an endpoint may still spend on the parts of batches that were halved.
///
/// Parts that fail cost, members that are answered by parts pay, so that a search that finds
/// whom to blame pays for itself, and one before a server that fails everything does not.
///
/// ```text
///            a part fails: -5
///   0 <------------------------------> 320
///            a part answers: +5 for each member
///            any other call ends: +1
/// ```
#[derive(Debug)]
pub(super) struct Budget(u32);

impl Budget {
    /// Tells whether another batch may be halved.
    pub(super) fn allows_a_search(&self) -> bool {
        self.0 >= HOPELESS * PRICE
    }

    /// Counts a call that was not a part, whatever came of it.
    pub(super) fn ended(&mut self) {
        self.add(1);
    }

    /// Counts a part that answered so many members.
    pub(super) fn part_answered(&mut self, members: usize) {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        self.add(members.saturating_mul(PRICE));
    }

    /// Counts a part that failed, and tells whether not one more may.
    pub(super) fn part_failed(&mut self) -> bool {
        self.0 = self.0.saturating_sub(PRICE);
        self.0 < PRICE
    }

    fn add(&mut self, more: u32) {
        self.0 = self.0.saturating_add(more).min(FAILURES * PRICE);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(FAILURES * PRICE)
    }
}

/// Parts that may fail in a row. To find one guilty row among 4096 twelve calls fail: so five of
/// these may be looked for before anybody is answered, and a server that breaks down sees so many
/// calls too many once.
const FAILURES: u32 = 64;
/// Calls that pay for the failure of one part: a server that fails everything is sent, in the long
/// run, a fifth more than without isolation.
const PRICE: u32 = 5;
/// The calls of a search before a server that fails everything: two halves and two single members.
const HOPELESS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_everything_is_soon_sent_a_fifth_more_and_no_more() {
        let mut budget = Budget::default();
        let mut parts = 0;
        for calls in 1..10_000 {
            budget.ended();
            if budget.allows_a_search() {
                for _ in 0..HOPELESS {
                    budget.part_failed();
                }
                parts += HOPELESS;
            }
            assert!(parts <= FAILURES + calls / PRICE, "{parts} after {calls}");
        }
        assert!(parts > 10_000 / PRICE, "now and then it is tried");
    }

    #[test]
    fn looking_for_one_bad_row_in_every_batch_is_never_given_up() {
        let mut budget = Budget::default();
        for _ in 0..1000 {
            budget.ended();
            assert!(budget.allows_a_search());
            for members in [8, 4, 2, 1] {
                budget.part_failed();
                budget.part_answered(members);
            }
        }
    }
}
