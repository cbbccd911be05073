use std::collections::VecDeque;

use super::error::CallFailed;
use crate::inference::Status;

/// Finds the members that are to blame for the failure of a call, by sending ever smaller parts of
/// it. A member is never divided: its rows go together.
///
/// ```text
///            both halves fail like the whole       the outermost two fail alike
/// Halves --------------------------------> Probes -----------------------------> Over
///    '---------------.   .-------------------'
///       else         v   v   else
///                    Tree: a part that fails is halved, until it is one member
/// ```
///
/// A server that fails everything is known by four calls: both halves, and then the first and the
/// last member by themselves, have failed with the same code and words as the whole. Two single
/// members say more than the four quarters would, with fewer calls and next to no rows: of rows of
/// which a share `b` is bad the rule spoils an innocent neighbour with a chance of `b * b`
/// (b = 5%: 1 in 400; quarters of 16 rows: 1 in 10), and the two stand as far apart as can be
/// because one client's bad requests come together. Once a part was answered nothing is given up.
///
/// The parts of `n` members are at most `2 * n - 2` calls: each call that fails makes two, and
/// only single members end.
#[derive(Debug)]
pub(super) struct Search<M> {
    members: usize,
    /// What the server said of the whole.
    verdict: Status,
    stage: Stage<M>,
    parts: VecDeque<Part<M>>,
    /// Whether some part was answered: only then a member that fails alone is to blame.
    answered: bool,
    /// The contents of members that failed alone.
    suspects: Vec<u128>,
}

/// Members that go together, and what was said of the call that they were in last.
#[derive(Debug)]
struct Part<M> {
    members: Vec<M>,
    failed: CallFailed,
}

#[derive(Debug)]
enum Stage<M> {
    /// The halves of the whole are sent; those that failed are kept, and whether all of them
    /// failed like the whole.
    Halves { failed: Vec<Part<M>>, alike: bool },
    /// Both failed; of each one member is sent alone.
    Probes { halves: Vec<Part<M>>, alike: usize },
    /// Whatever fails is halved.
    Tree,
    /// The server fails everything, for all that is known.
    Over { rest: Vec<Part<M>> },
}

impl<M> Search<M> {
    /// Begins where a call of these members has failed.
    pub(super) fn new(members: Vec<M>, verdict: Status, failed: CallFailed) -> Self {
        let mut search = Self {
            members: members.len(),
            verdict,
            stage: Stage::Halves {
                failed: Vec::new(),
                alike: true,
            },
            parts: VecDeque::new(),
            answered: false,
            suspects: Vec::new(),
        };
        search.halve(Part { members, failed });
        search
    }

    /// Returns the members of the next part to send; `None` where there is nothing left to send.
    pub(super) fn next(&mut self) -> Option<Vec<M>> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Some(part.members);
            }
            match std::mem::replace(&mut self.stage, Stage::Tree) {
                Stage::Halves { failed, alike } => {
                    if failed.len() == 2 && alike && self.members > SMALL {
                        self.probe(failed);
                    } else {
                        failed.into_iter().for_each(|part| self.halve(part));
                    }
                }
                Stage::Probes { halves, alike: 2 } if !self.answered => {
                    self.stage = Stage::Over { rest: halves };
                }
                Stage::Probes { halves, .. } => {
                    halves.into_iter().for_each(|part| self.halve(part));
                }
                over @ Stage::Over { .. } => {
                    self.stage = over;
                    return None;
                }
                Stage::Tree if self.parts.is_empty() => return None,
                Stage::Tree => {}
            }
        }
    }

    /// Learns that a part was answered.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// Takes back the members of a part that failed.
    pub(super) fn failed(&mut self, members: Vec<M>, verdict: &Status, failed: CallFailed) {
        let as_the_whole = self.is_alike(verdict);
        let part = Part { members, failed };
        match &mut self.stage {
            Stage::Halves { failed, alike } => {
                *alike &= as_the_whole;
                failed.push(part);
            }
            Stage::Over { rest } => rest.push(part),
            _ => self.halve(part),
        }
    }

    /// Learns that a member with these contents failed alone; it has its answer.
    pub(super) fn failed_alone(&mut self, contents: u128, verdict: &Status) {
        let as_the_whole = self.is_alike(verdict);
        self.suspects.push(contents);
        if let Stage::Probes { alike, .. } = &mut self.stage {
            *alike += usize::from(as_the_whole);
        }
    }

    /// Tells whether some part was answered.
    pub(super) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Returns the contents of the members that are to blame, as far as is known.
    pub(super) fn guilty(&self) -> &[u128] {
        if self.answered { &self.suspects } else { &[] }
    }

    /// Goes through the members that have no answer and are not under way.
    pub(super) fn left(&self) -> impl Iterator<Item = &M> {
        let kept = match &self.stage {
            Stage::Halves { failed: kept, .. }
            | Stage::Probes { halves: kept, .. }
            | Stage::Over { rest: kept } => kept.as_slice(),
            Stage::Tree => &[],
        };
        self.parts.iter().chain(kept).flat_map(|part| &part.members)
    }

    /// Sends nothing more.
    pub(super) fn stop(&mut self) {
        let rest = self.take_rest();
        self.stage = Stage::Over { rest };
    }

    /// Gives up: takes out all members that have no answer, with what was said of the calls that
    /// they were in last.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = (M, CallFailed)> + use<M> {
        self.take_rest().into_iter().flat_map(|part| {
            let failed = part.failed;
            part.members
                .into_iter()
                .map(move |member| (member, failed.clone()))
        })
    }

    fn take_rest(&mut self) -> Vec<Part<M>> {
        let mut rest = Vec::from(std::mem::take(&mut self.parts));
        match std::mem::replace(&mut self.stage, Stage::Tree) {
            Stage::Halves { failed: kept, .. }
            | Stage::Probes { halves: kept, .. }
            | Stage::Over { rest: kept } => rest.extend(kept),
            Stage::Tree => {}
        }
        rest
    }

    fn is_alike(&self, verdict: &Status) -> bool {
        verdict.code() == self.verdict.code() && verdict.message() == self.verdict.message()
    }

    /// Takes the first member of all and the last one out, to be sent by themselves.
    fn probe(&mut self, mut halves: Vec<Part<M>>) {
        for (half, index) in halves.iter_mut().zip([0, usize::MAX]) {
            let index = index.min(half.members.len() - 1);
            self.parts.push_back(Part {
                members: vec![half.members.remove(index)],
                failed: half.failed.clone(),
            });
        }
        self.stage = Stage::Probes { halves, alike: 0 };
    }

    fn halve(&mut self, mut part: Part<M>) {
        let second = part.members.split_off(part.members.len().div_ceil(2));
        for members in [part.members, second] {
            if !members.is_empty() {
                self.parts.push_back(Part {
                    members,
                    failed: part.failed.clone(),
                });
            }
        }
    }
}

/// Batches of so few members are searched to the end: that is at most six calls, and giving up
/// takes four.
const SMALL: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inference::Code;

    fn verdict(words: &str) -> Status {
        Status::new(Code::InvalidArgument, words)
    }

    /// What became of each member, and the calls that it took.
    #[derive(Debug)]
    struct Found {
        blamed: Vec<usize>,
        answered: Vec<usize>,
        given_up: Vec<usize>,
        calls: usize,
        guilty: Vec<u128>,
    }

    /// Searches before a server that fails calls with guilty members, in these words.
    fn search(members: usize, words: impl Fn(&[usize]) -> Option<String>) -> Found {
        let mut search = Search::new(
            (0..members).collect(),
            verdict(&words(&(0..members).collect::<Vec<_>>()).expect("the whole fails")),
            CallFailed::new("failed".into()),
        );
        let mut found = Found {
            blamed: Vec::new(),
            answered: Vec::new(),
            given_up: Vec::new(),
            calls: 0,
            guilty: Vec::new(),
        };
        while let Some(part) = search.next() {
            found.calls += 1;
            match words(&part) {
                None => {
                    search.answered();
                    found.answered.extend(part);
                }
                Some(words) if part.len() == 1 => {
                    search.failed_alone(part[0] as u128, &verdict(&words));
                    found.blamed.extend(part);
                }
                Some(words) => {
                    search.failed(part, &verdict(&words), CallFailed::new("again".into()));
                }
            }
        }
        found.guilty.extend(search.guilty());
        found
            .given_up
            .extend(search.give_up().map(|(member, _)| member));
        assert_eq!(search.left().count(), 0);
        found
    }

    #[test]
    fn one_guilty_of_sixteen_takes_two_calls_a_halving() {
        for guilty in 0..16 {
            let found = search(16, |part| part.contains(&guilty).then(|| "bad".to_owned()));
            assert_eq!(found.blamed, [guilty]);
            assert_eq!((found.answered.len(), found.calls), (15, 8));
            assert_eq!(found.guilty, [guilty as u128]);
        }
    }

    #[test]
    fn a_server_that_fails_everything_is_known_by_four_calls() {
        for members in [5, 16, 1000] {
            let found = search(members, |_| Some("out of order".to_owned()));
            assert_eq!((found.calls, &found.blamed[..]), (4, &[0, members - 1][..]));
            assert_eq!(found.given_up.len(), members - 2);
            assert!(found.guilty.is_empty(), "nobody is to blame");
        }
        assert_eq!(search(4, |_| Some("out of order".to_owned())).calls, 6);
    }

    proptest! {
        #[test]
        fn everybody_has_one_answer_and_the_innocent_are_spoiled_by_the_outermost_only(
            bad in prop::collection::vec(any::<bool>(), 2..70),
            same_words in any::<bool>(),
        ) {
            prop_assume!(bad.contains(&true));
            let found = search(bad.len(), |part| {
                let guilty = part.iter().find(|member| bad[**member])?;
                Some(if same_words { "bad".to_owned() } else { format!("{guilty} is bad") })
            });
            let mut all = [&found.blamed[..], &found.answered, &found.given_up].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..bad.len()).collect::<Vec<_>>());
            prop_assert!(found.calls <= 2 * bad.len() - 2);
            prop_assert!(found.blamed.iter().all(|member| bad[*member]));
            if !same_words || !bad[0] || !bad[bad.len() - 1] {
                prop_assert!(found.given_up.is_empty());
                prop_assert!(found.answered.iter().all(|member| !bad[*member]));
            }
        }
    }
}
