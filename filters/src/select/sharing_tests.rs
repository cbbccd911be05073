//! What replicas make of feedback together, whatever happens on the way.

use std::collections::HashSet;

use bytestring::ByteString;
use proptest::{collection::vec, prelude::*};

use super::{
    Arm, Available, Batch, Config, Evidence, Full, Id, Learnt, Memory, Policy, Pool, Reply,
    Selector,
};

/// Replicas of one model, and what they share.
struct Fleet {
    replicas: Vec<Memory>,
    pool: Pool,
    /// Feedback of each context that was acknowledged.
    told: Vec<HashSet<u64>>,
    next: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// A replica is told of feedback; of one that was told before, if there was any.
    Learn {
        replica: usize,
        context: usize,
        arm: usize,
        again: bool,
    },
    /// A replica asks the keeper; then its question, or the answer, may be lost.
    Exchange {
        replica: usize,
        asked: bool,
        answered: bool,
    },
    /// The keeper forgets everything.
    Flush,
    /// The keeper notes what it has.
    Save,
    /// The keeper goes back to what it noted.
    GoBack,
}

#[derive(Clone, Copy, PartialEq)]
enum Store {
    /// It never loses anything.
    Sound,
    /// It loses what it had.
    Forgetful,
}

impl Fleet {
    fn new(replicas: usize) -> Self {
        Self {
            replicas: (1..=replicas as u64).map(replica).collect(),
            pool: Pool::default(),
            told: vec![HashSet::new(); CONTEXTS.len()],
            next: 0,
        }
    }

    fn learn(&mut self, replica: usize, context: usize, arm: usize, again: bool) {
        let told = self.told[context].len();
        let nonce = match self.told[context].iter().min() {
            Some(first) if again && told > 0 => *first,
            _ => {
                self.next += 1;
                self.next
            }
        };
        let id = Id { nonce, row: 0 };
        let evidence = Evidence::Chosen {
            arm,
            probability: 0.5,
            loss: (nonce % 3) as f64 / 2.,
        };
        let memory = &self.replicas[replica];
        memory.learn(CONTEXTS[context], evidence, Some(id)).unwrap();
        self.told[context].insert(nonce);
    }

    fn exchange(&self, replica: usize, asked: bool, answered: bool) -> bool {
        let memory = &self.replicas[replica];
        let batch = memory.batch().unwrap();
        if !asked {
            return false;
        }
        let reply = self.pool.keep(&batch);
        answered && memory.absorb(&batch, reply)
    }

    /// Lets everyone ask until everything is told and known.
    fn settle(&self) {
        for _ in 0..8 {
            for (replica, memory) in self.replicas.iter().enumerate() {
                for context in CONTEXTS {
                    memory.shares(context, Available::first(ARMS));
                }
                for _ in 0..4 {
                    self.exchange(replica, true, true);
                }
            }
        }
    }

    fn check(&self) {
        let all: HashSet<_> = self.told.iter().flatten().collect();
        for (replica, memory) in self.replicas.iter().enumerate() {
            assert!(memory.is_acknowledged(), "replica {replica} has told all");
            for (context, told) in CONTEXTS.iter().zip(&self.told) {
                let count = match context {
                    None => all.len(),
                    Some(_) => told.len(),
                };
                let state = memory.state(*context);
                let observations: f64 = state.arms.iter().map(|arm| arm.observations).sum();
                if count > 0 {
                    assert_eq!(observations, count as f64, "{context:?} at {replica}");
                }
                let shares = memory.shares(*context, Available::first(ARMS));
                let first = self.replicas[0].shares(*context, Available::first(ARMS));
                for (share, other) in shares.iter().zip(&first) {
                    assert!((share - other).abs() < 1e-9, "{shares:?} {first:?}");
                }
            }
        }
    }
}

fn config() -> Config {
    Config {
        policy: Policy::Exp3 {
            learning_rate: 0.2,
            exploration: 0.01,
            share: 1e-4,
        },
        ..Config::default()
    }
}

fn unkept(max_contexts: usize) -> Memory {
    let names: Vec<_> = ["a", "b", "c"].map(ByteString::from).into();
    let arms: Vec<_> = names.iter().cloned().map(Arm::new).collect();
    Memory::new(Selector::new(&config(), &arms), max_contexts, names)
}

fn replica(number: u64) -> Memory {
    unkept(16).kept("model".into(), "exp3", number)
}

fn chosen(arm: usize) -> Evidence<'static> {
    Evidence::Chosen {
        arm,
        probability: 0.5,
        loss: 1.,
    }
}

fn id(nonce: u64) -> Option<Id> {
    Some(Id { nonce, row: 0 })
}

fn observations(memory: &Memory, context: Option<&str>) -> f64 {
    let state = memory.state(context);
    state.arms.iter().map(|arm| arm.observations).sum()
}

fn step(replicas: usize, store: Store) -> impl Strategy<Value = Step> {
    let learn = (0..replicas, 0..CONTEXTS.len(), 0..ARMS, any::<bool>());
    let exchange = (0..replicas, 0..8, 0..4);
    prop_oneof![
        6 => learn.prop_map(move |(replica, context, arm, again)| Step::Learn {
            replica,
            context,
            arm,
            again: again && store == Store::Sound,
        }),
        6 => exchange.prop_map(|(replica, asked, answered)| Step::Exchange {
            replica,
            asked: asked > 0,
            answered: answered > 0,
        }),
        u32::from(store == Store::Forgetful) => prop_oneof![
            Just(Step::Flush),
            Just(Step::Save),
            Just(Step::GoBack),
        ],
    ]
}

fn steps(store: Store) -> impl Strategy<Value = (usize, Vec<Step>)> {
    (1..=4_usize).prop_flat_map(move |replicas| (Just(replicas), vec(step(replicas, store), 1..80)))
}

fn run(replicas: usize, steps: Vec<Step>) {
    let mut fleet = Fleet::new(replicas);
    let mut saved = Pool::default();
    for step in steps {
        match step {
            Step::Learn {
                replica,
                context,
                arm,
                again,
            } => fleet.learn(replica, context, arm, again),
            Step::Exchange {
                replica,
                asked,
                answered,
            } => drop(fleet.exchange(replica, asked, answered)),
            Step::Flush => fleet.pool.flush(),
            Step::Save => saved = fleet.pool.snapshot(),
            Step::GoBack => fleet.pool.go_back(&saved),
        }
    }
    fleet.settle();
    fleet.check();
}

proptest! {
    #[test]
    fn feedback_is_counted_once_wherever_it_is_told_and_whatever_answer_is_lost(
        (replicas, steps) in steps(Store::Sound),
    ) {
        run(replicas, steps);
    }

    #[test]
    fn nothing_acknowledged_is_lost_or_counted_twice_where_the_store_forgets(
        (replicas, steps) in steps(Store::Forgetful),
    ) {
        run(replicas, steps);
    }
}

#[test]
fn a_repeated_feedback_changes_nothing() {
    let memory = unkept(16);
    assert_eq!(
        memory.learn(Some("x"), chosen(0), id(1)),
        Ok(Learnt::Applied)
    );
    let before = (memory.state(None), memory.state(Some("x")));
    assert_eq!(
        memory.learn(Some("x"), chosen(0), id(1)),
        Ok(Learnt::Duplicate)
    );
    assert_eq!((memory.state(None), memory.state(Some("x"))), before);
}

#[test]
fn what_is_learned_of_one_context_moves_that_one_most() {
    let memory = unkept(16);
    for nonce in 0..20 {
        memory.learn(Some("x"), chosen(0), id(nonce)).unwrap();
    }
    let all = Available::first(ARMS);
    assert!(memory.shares(Some("x"), all)[0] < 0.1);
    // Another one begins with a little of it.
    let (taught, other) = (
        memory.shares(Some("x"), all)[0],
        memory.shares(Some("y"), all)[0],
    );
    assert!(
        taught < other && other < 1. / ARMS as f64,
        "{taught} {other}"
    );
    assert_eq!(observations(&memory, Some("x")), 20.);
    assert_eq!(observations(&memory, Some("y")), 0.);
}

#[test]
fn an_arm_that_is_down_has_no_share() {
    let memory = unkept(16);
    memory.learn(Some("x"), chosen(0), None).unwrap();
    for context in [None, Some("x"), Some("y")] {
        let shares = memory.shares(context, Available::first(ARMS).without(1));
        assert_eq!(shares[1], 0.);
        assert!((shares.iter().sum::<f64>() - 1.).abs() < 1e-9);
    }
}

#[test]
fn contexts_in_memory_are_bounded_and_the_rest_is_with_the_keeper() {
    let pool = Pool::default();
    let memory = replica(1);
    for nonce in 0..100 {
        let name = format!("user-{nonce}");
        memory.learn(Some(&name), chosen(0), id(nonce)).unwrap();
    }
    assert_eq!(memory.view().contexts, 16);
    // What was learned of those that left was not forgotten with them.
    let ask = || {
        let batch = memory.batch().unwrap();
        memory.absorb(&batch, pool.keep(&batch))
    };
    ask();
    assert!(memory.is_acknowledged());
    assert_eq!(observations(&memory, Some("user-0")), 0.);
    memory.shares(Some("user-0"), Available::first(ARMS));
    ask();
    assert_eq!(observations(&memory, Some("user-0")), 1.);
}

#[test]
fn a_context_that_others_taught_is_known_here_soon_after_its_first_request() {
    let pool = Pool::default();
    let (here, there) = (replica(1), replica(2));
    let ask = |memory: &Memory| {
        let batch = memory.batch().unwrap();
        memory.absorb(&batch, pool.keep(&batch))
    };
    for nonce in 0..20 {
        there.learn(Some("x"), chosen(0), id(nonce)).unwrap();
    }
    ask(&there);
    let all = Available::first(ARMS);
    here.shares(Some("x"), all);
    ask(&here);
    assert!(here.shares(Some("x"), all)[0] < 0.1);
}

#[test]
fn feedback_is_refused_rather_than_forgotten_when_too_much_waits() {
    let memory = replica(1);
    let mut acknowledged = 0;
    let full = loop {
        // A context each: nothing can be added up.
        let name = format!("user-{acknowledged}");
        match memory.learn(Some(&name), chosen(0), id(acknowledged)) {
            Ok(_) => acknowledged += 1,
            Err(full) => break full,
        }
    };
    assert_eq!(full, Full);
    assert_eq!(observations(&memory, None), acknowledged as f64);
    let pool = Pool::default();
    while !memory.is_acknowledged() {
        let batch = memory.batch().unwrap();
        memory.absorb(&batch, pool.keep(&batch));
    }
    assert_eq!(observations(&memory, None), acknowledged as f64);
    assert_eq!(memory.learn(None, chosen(0), None), Ok(Learnt::Applied));
}

#[test]
fn a_long_outage_is_survived_with_everything_counted() {
    let memory = replica(1);
    for nonce in 0..20_000 {
        memory.learn(None, chosen(0), id(nonce)).unwrap();
    }
    assert!(memory.view().journal.unwrap().unacknowledged <= 4096);
    let pool = Pool::default();
    while !memory.is_acknowledged() {
        let batch = memory.batch().unwrap();
        memory.absorb(&batch, pool.keep(&batch));
    }
    assert_eq!(observations(&memory, None), 20_000.);
}

#[test]
fn what_the_keeper_is_told_is_bounded() {
    let memory = replica(1);
    for nonce in 0..2000 {
        let name = format!("user-{nonce}");
        memory.learn(Some(&name), chosen(0), id(nonce)).unwrap();
    }
    let batch: Batch = memory.batch().unwrap();
    assert!(batch.parts.len() <= 1025);
    assert!(
        batch.parts[0]
            .parcels
            .iter()
            .all(|parcel| parcel.ids.len() <= 1024)
    );
    // A reply with nothing in it harms nobody.
    memory.absorb(&batch, Reply::default());
    assert!(!memory.is_acknowledged());
    assert_eq!(observations(&memory, None), 2000.);
}

#[test]
fn more_contexts_than_go_into_one_exchange_are_told_in_several_at_once() {
    let memory = unkept(5000).kept("digits".into(), "exp3", 1);
    for nonce in 0..1500 {
        let name = format!("user-{nonce}");
        memory.learn(Some(&name), chosen(0), id(nonce)).unwrap();
    }
    let pool = Pool::default();
    for _ in 0..8 {
        let batch = memory.batch().unwrap();
        if !memory.absorb(&batch, pool.keep(&batch)) {
            break;
        }
    }
    assert!(
        memory.is_acknowledged(),
        "without waiting for the next interval"
    );
}

#[test]
fn a_memory_begins_where_one_with_other_arms_was() {
    let old = unkept(16);
    for nonce in 0..20 {
        old.learn(Some("x"), chosen(0), id(nonce)).unwrap();
    }
    let names: Vec<_> = ["d", "a"].map(ByteString::from).into();
    let arms: Vec<_> = names.iter().cloned().map(Arm::new).collect();
    let new = Memory::new(Selector::new(&config(), &arms), 16, names);
    new.begin_with(&old);
    assert_eq!(new.state(None).arms[0].observations, 0.);
    assert_eq!(new.state(None).arms[1].observations, 20.);
    assert_eq!(new.state(Some("x")).arms[1].observations, 20.);
    assert_eq!(
        new.learn(Some("x"), chosen(0), id(1)),
        Ok(Learnt::Duplicate)
    );
}

#[test]
fn a_repeated_feedback_is_not_taken_out_of_a_sum_with_all_others() {
    let pool = Pool::default();
    let (here, there) = (replica(1), replica(2));
    there.learn(None, chosen(0), id(7)).unwrap();
    exchanged(&there, &pool);
    // So many wait that they are added up.
    for number in 0..5000 {
        let id = if number == 9 { id(7) } else { None };
        here.learn(None, chosen(1), id).unwrap();
    }
    assert!(here.view().journal.unwrap().unacknowledged < 4096);
    exchanged(&here, &pool);
    assert_eq!(here.view().journal.unwrap().duplicates, 1);
    assert!(observations(&here, None) >= 5000.);
}

#[test]
fn what_is_told_while_another_memory_takes_over_is_not_lost() {
    let old = unkept(16);
    old.learn(Some("x"), chosen(1), id(0)).unwrap();
    let new = memory_of(["b", "d"]);
    new.begin_with(&old);
    assert_eq!(old.learn(Some("x"), chosen(1), id(1)), Ok(Learnt::Applied));
    old.learn(
        Some("y"),
        Evidence::Known(&[Some(1.), Some(1.), None]),
        id(2),
    )
    .unwrap();
    new.take_over();
    assert!(old.is_succeeded());
    assert_eq!(old.learn(Some("x"), chosen(1), id(3)), Ok(Learnt::Applied));
    assert_eq!(
        old.learn(Some("x"), chosen(1), id(1)),
        Ok(Learnt::Duplicate)
    );
    assert_eq!(
        new.learn(Some("x"), chosen(0), id(3)),
        Ok(Learnt::Duplicate)
    );
    // Of an arm that is no more there is nothing to learn.
    assert_eq!(old.learn(None, chosen(0), id(4)), Ok(Learnt::Applied));
    assert_eq!(new.state(None).arms[0].observations, 4.);
    assert_eq!(new.state(None).arms[1].observations, 0.);
    assert_eq!(observations(&new, Some("x")), 3.);
    assert_eq!(observations(&new, Some("y")), 1.);
}

#[test]
fn what_the_keeper_has_not_acknowledged_is_told_by_the_next_memory_to_any_keeper() {
    // That in memory knows arms by their place.
    let same: &[&str] = &["a", "b", "c"];
    let others: &[&str] = &["d", "b", "a", "c"];
    for (same_keeper, names) in [(true, same), (false, same), (false, others)] {
        let pool = Pool::default();
        let old = replica(1);
        let mut nonce = 0;
        let mut learn = |times| {
            for _ in 0..times {
                nonce += 1;
                // What fails has no id, and is counted once all the same.
                let id = id(nonce).filter(|id| id.nonce % 2 == 0);
                old.learn(Some("x"), chosen(nonce as usize % 3), id)
                    .unwrap();
            }
        };
        learn(20);
        exchanged(&old, &pool);
        learn(10);
        // The answer is lost.
        pool.keep(&old.batch().unwrap());
        learn(5);
        let new = memory_of(names.iter().copied()).kept("model".into(), "exp3", 2);
        new.begin_with(&old);
        learn(1);
        new.take_over();
        learn(1);
        assert!(old.is_acknowledged());
        let other = Pool::default();
        exchanged(&new, if same_keeper { &pool } else { &other });
        for context in [None, Some("x")] {
            assert_eq!(
                observations(&new, context),
                37.,
                "{context:?} {same_keeper}"
            );
        }
        // And so it is there for others.
        let third = memory_of(names.iter().copied()).kept("model".into(), "exp3", 3);
        third.shares(Some("x"), Available::first(names.len()));
        exchanged(&third, if same_keeper { &pool } else { &other });
        for context in [None, Some("x")] {
            assert_eq!(
                observations(&third, context),
                37.,
                "{context:?} {same_keeper}"
            );
        }
    }
}

#[test]
fn a_keeper_that_comes_later_is_given_what_was_learned_before() {
    let old = unkept(16);
    for nonce in 0..20 {
        old.learn(Some("x"), chosen(0), id(nonce)).unwrap();
    }
    let new = replica(1);
    new.begin_with(&old);
    old.learn(Some("x"), chosen(0), id(20)).unwrap();
    new.take_over();
    let pool = Pool::default();
    exchanged(&new, &pool);
    new.learn(Some("x"), chosen(0), id(21)).unwrap();
    exchanged(&new, &pool);
    for context in [None, Some("x")] {
        assert_eq!(observations(&new, context), 22., "{context:?}");
    }
}

#[test]
fn another_policy_begins_with_the_counts_and_the_last_one_tells_what_it_has() {
    let pool = Pool::default();
    let old = replica(1);
    old.learn(None, chosen(0), id(1)).unwrap();
    let new = unkept(16).kept("model".into(), "thompson", 2);
    new.begin_with(&old);
    new.take_over();
    old.learn(None, chosen(0), id(2)).unwrap();
    exchanged(&new, &pool);
    assert_eq!(observations(&new, None), 2.);
    assert!(!old.is_acknowledged());
    exchanged(&old, &pool);
    assert_eq!(observations(&old, None), 1.);
}

#[test]
fn shares_without_an_arm_are_those_of_what_is_known_now() {
    let memory = unkept(16);
    let all = Available::first(ARMS);
    for nonce in 0..10 {
        memory.learn(Some("x"), chosen(0), id(nonce)).unwrap();
        for context in [None, Some("x"), Some("y")] {
            // As they were asked for last, and otherwise.
            for available in [
                all.without(1),
                all.without(1),
                all.without(2),
                all.without(1),
            ] {
                let state = memory.state(context);
                let computed = memory.selector().probabilities(&state, available);
                assert_eq!(memory.shares(context, available), computed);
            }
        }
    }
}

fn memory_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Memory {
    let names: Vec<_> = names.into_iter().map(ByteString::from).collect();
    let arms: Vec<_> = names.iter().cloned().map(Arm::new).collect();
    Memory::new(Selector::new(&config(), &arms), 16, names)
}

/// Asks the keeper until it has everything, and some more.
fn exchanged(memory: &Memory, pool: &Pool) {
    for _ in 0..8 {
        let batch = memory.batch().unwrap();
        memory.absorb(&batch, pool.keep(&batch));
    }
    assert!(memory.is_acknowledged());
}

const ARMS: usize = 3;
const CONTEXTS: [Option<&str>; 3] = [None, Some("x"), Some("y")];
