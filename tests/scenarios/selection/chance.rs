//! Arms are chosen with the probabilities that are told of them.

use std::collections::BTreeMap;

use outrigger_tests::{gateway::Gateway, wire::Wire};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    Team, arm_of, ask, ask_until, asked, metric, number, observations, probability, standings,
    teach,
};

/// Asks so often, one after the other, and returns how often each arm said that it answered.
async fn chosen(gateway: &Gateway, requests: usize) -> BTreeMap<String, u64> {
    let wire = Wire::connect(gateway.address()).await;
    let mut chosen = BTreeMap::new();
    for _ in 0..requests {
        let reply = ask(&wire, &[1.]).await;
        *chosen.entry(arm_of(&reply).to_owned()).or_default() += 1;
    }
    chosen
}

/// Tells how far counts are from what they should be on average (Pearson's chi-square), as a share of
/// what one in ten million right ones would come to.
fn strangeness(counts: &[u64], shares: &[f64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let apart = counts.iter().zip(shares).map(|(count, share)| {
        let expected = share * total as f64;
        assert!(expected >= 5., "too few of {share} to tell anything");
        (*count as f64 - expected).powi(2) / expected
    });
    // Wilson and Hilferty's approximation, of which more is allowed with few arms.
    let freedom = (counts.len() - 1) as f64;
    let ninth = 2. / (9. * freedom);
    apart.sum::<f64>() / (freedom * (1. - ninth + DEVIATIONS * ninth.sqrt()).powi(3))
}

/// Deviations of a normal distribution beyond which there is one in ten million, on one side.
const DEVIATIONS: f64 = 5.2;

#[tokio::test]
async fn every_policy_chooses_each_arm_with_the_probability_that_it_tells() {
    for policy in ["fixed", "epsilon-greedy", "exp3", "thompson"] {
        let team = Team::of_labels(&[1, 2, 3]).await;
        let selection = format!("selection: {{ policy: {policy}, seed: 7 }}");
        let arms = ["weight: 5", "weight: 2", "min_probability: 0.05"];
        let gateway = team.before(&arms, &selection, "").await;
        let wire = Wire::connect(gateway.address()).await;
        let before = standings(&gateway);
        for (arm, loss) in [("a", 0.4), ("b", 0.3), ("c", 0.5), ("b", 0.2)] {
            let reply = ask_until(&wire, arm).await;
            teach(&wire, &reply, loss).await;
        }
        let told = standings(&gateway);
        let shares: Vec<_> = told.values().map(|arm| number(&arm[1])).collect();
        assert!((shares.iter().sum::<f64>() - 1.).abs() < 1e-9, "{told:?}");
        let is_learned = told["a"][1] != before["a"][1];
        assert_eq!(is_learned, policy != "fixed", "{before:?} {told:?}");

        let counted = asked(&team);
        let chosen = chosen(&gateway, 2000).await;
        let counts: Vec<_> = told.keys().map(|arm| chosen[arm]).collect();
        let strange = strangeness(&counts, &shares);
        assert!(strange < 1., "{policy}: {strange} {chosen:?} {told:?}");
        assert_eq!(standings(&gateway), told, "nothing was told since");
        // The servers are the witness of who answered.
        for (arm, now) in asked(&team) {
            assert_eq!(now - counted[arm], chosen[arm], "{policy} {arm}");
            let labels = [("model", "m"), ("arm", arm)];
            let selected = metric(&gateway, "outrigger_select_total", &labels);
            assert_eq!(selected, now as f64, "{policy} {arm}");
            let share = metric(&gateway, "outrigger_select_probability", &labels);
            assert_eq!(share, number(&told[arm][1]), "{policy} {arm}");
        }
    }
}

#[tokio::test]
async fn one_of_ten_requests_goes_to_a_canary() {
    let team = Team::of_labels(&[1, 2]).await;
    let arms = ["weight: 9", "weight: 1"];
    let gateway = team.before(&arms, "selection: { seed: 3 }", "").await;
    let wire = Wire::connect(gateway.address()).await;
    // Whatever is told of it.
    for _ in 0..5 {
        teach(&wire, &ask_until(&wire, "b").await, 1.).await;
    }
    let chosen = chosen(&gateway, 2000).await;
    let strange = strangeness(&[chosen["a"], chosen["b"]], &[0.9, 0.1]);
    assert!(strange < 1., "{strange} {chosen:?}");
    assert_eq!(probability(&gateway, "b"), 0.1);
    assert_eq!(observations(&gateway, "b"), 5.);
}

#[tokio::test]
async fn arms_without_a_selection_are_taken_turns_at_by_their_weights() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&["weight: 3", ""], "", "").await;
    let chosen = chosen(&gateway, 2000).await;
    let strange = strangeness(&[chosen["a"], chosen["b"]], &[0.75, 0.25]);
    assert!(strange < 1., "{strange} {chosen:?}");
}

#[tokio::test]
async fn the_same_seed_chooses_the_same_arms() {
    let team = Team::of_labels(&[1, 2, 3]).await;
    let mut sequences = Vec::new();
    for seed in [11, 11, 12] {
        let selection = format!("selection: {{ seed: {seed} }}");
        let gateway = team.before(&[], &selection, "").await;
        let wire = Wire::connect(gateway.address()).await;
        let mut sequence = String::new();
        for _ in 0..60 {
            sequence.push_str(arm_of(&ask(&wire, &[1.]).await));
        }
        sequences.push(sequence);
    }
    assert_eq!(sequences[0], sequences[1]);
    assert_ne!(sequences[0], sequences[2]);
}

#[tokio::test]
async fn probabilities_stay_within_their_bounds_whatever_is_learned() {
    let mut random = StdRng::seed_from_u64(5);
    for policy in ["epsilon-greedy", "exp3", "thompson"] {
        let team = Team::of_labels(&[1, 2, 3]).await;
        let selection = format!("selection: {{ policy: {policy}, seed: 9 }}");
        let arms = [
            "max_probability: 0.6",
            "min_probability: 0.1",
            "min_probability: 0.2",
        ];
        let gateway = team.before(&arms, &selection, "").await;
        let wire = Wire::connect(gateway.address()).await;
        for round in 0..400 {
            let reply = ask(&wire, &[1.]).await;
            // First one is the best, then nobody knows, then another one is.
            let loss = match (round / 40, arm_of(&reply)) {
                (0, "a") => 0.,
                (0, _) => 1.,
                (1, _) => random.random(),
                (_, "c") => 0.,
                (_, _) => 1.,
            };
            teach(&wire, &reply, loss).await;
            let told = standings(&gateway);
            let shares: Vec<_> = told.values().map(|arm| number(&arm[1])).collect();
            assert!((shares.iter().sum::<f64>() - 1.).abs() < 1e-9, "{told:?}");
            let bounds = [(0., 0.6), (0.1, 1.), (0.2, 1.)];
            for (share, (least, most)) in shares.iter().zip(bounds) {
                let within = (least - 1e-9..=most + 1e-9).contains(share);
                assert!(within, "{policy} {round}: {told:?}");
            }
            if round == 39 {
                assert!(
                    shares[0] > 0.55,
                    "{policy}: the best is asked most: {told:?}"
                );
            }
        }
        let told = standings(&gateway);
        assert!(
            number(&told["c"][1]) > 0.5,
            "{policy}: the new best: {told:?}"
        );
    }
}
