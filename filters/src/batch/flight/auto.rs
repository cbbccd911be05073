use std::time::Duration;

use tokio::time::Instant;

use super::{Ended, Turn};

/// Finds the fewest places with which an endpoint answers about as many rows as with any number.
///
/// ```text
///             patience is over                  it pays (or one less costs nothing)
///  p places -------------------> trial of p + 1 -----------------------------------> there,
///     ^                          or of p - 1                                          on the same
///     '-------------------------------'                                               way at once
///       it does not: twice the patience,
///       and then the other way
/// ```
///
/// Rates are compared: rows a second, of calls within the objective, while more waits than calls
/// can take. A place more pays if the rate is a twentieth higher, whatever the limit of rows has
/// become: where a second call only waits within the server, calls take twice as long, and the
/// limit comes down.
///
/// * Rates are taken over rounds of as many calls as there are places: calls that were sent at the
///   same time come back at the same time.
/// * Calls that were sent before a change say nothing of it.
/// * A trial lasts until it is clear what it says, by how much rounds differ anyway. If calls take
///   longer than before, the limit of rows is given time to follow.
/// * Under light load nothing is learned, and places stay. A trial during which the load has gone
///   may show that more is answered, but not that less is.
/// * What a trial has cost is small against what is answered until the next. When the rate at the
///   same places has changed for good, so has the model: the next trial comes soon.
#[derive(Debug)]
pub(in crate::batch) struct Auto {
    objective: Duration,
    /// Outside of trials.
    places: usize,
    /// The rate with those.
    known: Rate,
    /// For how many windows it has been the same, or has not.
    calm: u32,
    restless: u32,
    /// The rate when it last was the same, of calls within the objective.
    held: f64,
    /// The calls of late, of which it is not yet known whether they are like those before.
    recent: Rate,
    round: Option<Round>,
    /// The rate of the round before.
    last: Option<f64>,
    /// The variance of the rate of single calls, relative to the rate.
    spread: f64,
    trial: Option<Trial>,
    /// Whether the next trial, or the one under way, is of a place more.
    upward: bool,
    /// When places last changed.
    changed: Option<Instant>,
    /// Calls since the last trial, and after how many the next one begins.
    waited: usize,
    patience: usize,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    places: usize,
    /// Since it began, those before the limit of rows had its time among them.
    calls: usize,
    rate: Rate,
    /// Whether the limit of rows has had its time to follow.
    followed: bool,
    /// Whether nothing waited at some time, so that the rate may be the load's.
    drained: bool,
}

/// As many calls as there are places, from the end of the last one before.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    calls: usize,
    rows: usize,
    /// Those of calls within the objective.
    timely: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    calls: f64,
    rows: f64,
    timely: f64,
    seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The larger number of places pays.
    More,
    /// The smaller is as good.
    Less,
}

impl Auto {
    pub(super) fn new(objective: Duration) -> Self {
        Self {
            objective,
            places: 1,
            known: Rate::default(),
            calm: 0,
            restless: 0,
            held: f64::MAX,
            recent: Rate::default(),
            round: None,
            last: None,
            spread: SPREAD,
            trial: None,
            upward: true,
            changed: None,
            waited: 0,
            patience: PATIENCE,
        }
    }

    pub(super) fn places(&self) -> usize {
        self.trial.map_or(self.places, |trial| trial.places)
    }

    /// Tells whether a call was sent before places last changed.
    pub(super) fn is_past(&self, began: Instant) -> bool {
        self.changed.is_some_and(|changed| began < changed)
    }

    pub(super) fn ended(&mut self, call: &Ended) -> Turn {
        if self.is_past(call.began) {
            return Turn::None;
        }
        let places = self.places();
        let limits = call.waits && call.in_flight >= places;
        match &mut self.trial {
            Some(trial) => trial.drained |= !limits,
            None if !limits => {
                self.round = None;
                self.last = None;
                self.recent = Rate::default();
                return Turn::None;
            }
            None => self.waited = self.waited.saturating_add(1),
        }
        let Some(round) = &mut self.round else {
            self.round = Some(Round::begin(call.now));
            return Turn::None;
        };
        round.calls += 1;
        if call.answered {
            round.rows += call.rows;
            let is_timely = call.now.duration_since(call.began) <= self.objective;
            round.timely += if is_timely { call.rows } else { 0 };
        }
        if round.calls < places {
            return Turn::None;
        }
        let rate = Rate {
            calls: round.calls as f64,
            rows: round.rows as f64,
            timely: round.timely as f64,
            seconds: call.now.duration_since(round.began).as_secs_f64(),
        };
        *round = Round::begin(call.now);
        match &mut self.trial {
            Some(trial) => {
                trial.rate.add(rate);
                trial.calls += places;
                self.judge(call.now)
            }
            None => self.learn(rate, call.now),
        }
    }

    /// Learns from a round without a trial, and begins one when it is time.
    fn learn(&mut self, round: Rate, now: Instant) -> Turn {
        let rate = round.per_second();
        if let Some(last) = self.last.replace(rate) {
            let differs = 2. * (rate - last) / (rate + last).max(f64::MIN_POSITIVE);
            if differs.abs() < JUMP {
                self.spread += GAIN * (differs * differs / 2. * round.calls - self.spread);
                self.spread = self.spread.clamp(LEAST_SPREAD, MOST_SPREAD);
            }
        }
        self.recent.add(round);
        if self.recent.calls < window(self.places) {
            return Turn::None;
        }
        let recent = std::mem::take(&mut self.recent);
        let differs = recent.per_second() / self.known.per_second() - 1.;
        if differs.abs() < CHANGE + 2. * self.doubt(recent, self.known) {
            self.calm = self.calm.saturating_add(1);
            self.restless = 0;
            self.known.fade(MEMORY);
            self.known.add(recent);
        } else {
            self.calm = 0;
            self.restless = self.restless.saturating_add(1);
            self.known = recent;
        }
        // A rate that will not settle is taken as it is.
        if self.calm >= CALM || self.restless >= RESTLESS {
            let rate = self.known.timely_per_second();
            let other = rate / self.held - 1.;
            if other.abs() > OTHER {
                self.patience = (self.patience / SOONER).max(PATIENCE);
                self.upward = other > 0.;
            }
            self.held = rate;
        }
        let is_known = self.calm > 0 || self.restless >= RESTLESS;
        if is_known && self.known.rows > 0. && self.waited >= self.patience {
            return self.begin(now);
        }
        Turn::None
    }

    /// Begins a trial.
    fn begin(&mut self, now: Instant) -> Turn {
        if self.places == 1 {
            self.upward = true;
        } else if self.places == MOST_PLACES {
            self.upward = false;
        }
        self.change(now);
        self.trial = Some(Trial {
            places: match self.upward {
                true => self.places + 1,
                false => self.places - 1,
            },
            calls: 0,
            rate: Rate::default(),
            followed: false,
            drained: false,
        });
        Turn::Tries
    }

    fn change(&mut self, now: Instant) {
        self.changed = Some(now);
        self.round = None;
        self.last = None;
        self.recent = Rate::default();
        self.waited = 0;
    }

    /// Ends a trial if it is clear what it says.
    fn judge(&mut self, now: Instant) -> Turn {
        let Some(trial) = self.trial else {
            return Turn::None;
        };
        let Some(verdict) = self.verdict(&trial) else {
            if let Some(trial) = &mut self.trial
                && !trial.followed
                && trial.rate.calls >= FOLLOWED + 2. * trial.places as f64
            {
                trial.followed = true;
                trial.rate = Rate::default();
            }
            return Turn::None;
        };
        self.trial = None;
        self.change(now);
        if (verdict == Verdict::More) == self.upward {
            self.places = trial.places;
            self.known = trial.rate;
            self.held = trial.rate.timely_per_second();
            // It goes on: the way back is not tried before it has ended.
            self.waited = self.patience;
            return Turn::Stays;
        }
        if !trial.drained {
            // What a trial has cost is to be a small part of what is answered until the next.
            let lost = 1. - trial.rate.per_second_of(&self.known);
            let worth = (trial.calls as f64 * lost / COST) as usize;
            let most = worth.clamp(LESS_PATIENCE, MOST_PATIENCE);
            self.patience = (self.patience * 2).min(most).max(self.patience);
            self.upward = !self.upward;
        }
        Turn::Returns
    }

    fn verdict(&self, trial: &Trial) -> Option<Verdict> {
        if trial.rate.calls < LEAST_CALLS {
            return None;
        }
        let ratio = trial.rate.per_second_of(&self.known);
        let doubt = self.doubt(self.known, trial.rate);
        // To stay where it was wants less proof than to go elsewhere.
        let (gain, worth, above, below) = match self.upward {
            true => (ratio - 1., WORTH, 2. * doubt, doubt),
            false => (1. / ratio - 1., KEPT, doubt, 2. * doubt),
        };
        if !trial.followed {
            // A place that adds its share leaves calls as long as they were: there is nothing to
            // follow for the limit of rows.
            let share = 1. / self.places.min(trial.places) as f64;
            return if gain - above > share * CLEAR {
                Some(Verdict::More)
            } else if self.upward && gain + 2. * doubt < -HARM {
                Some(Verdict::Less)
            } else {
                None
            };
        }
        // Where calls are in time is better than where they are not, whatever the rate.
        if !self.known.is_timely() && trial.rate.is_timely() {
            return Some(match self.upward {
                true => Verdict::More,
                false => Verdict::Less,
            });
        }
        if gain - above > worth {
            Some(Verdict::More)
        } else if gain + below < worth {
            Some(Verdict::Less)
        } else if trial.rate.calls < MOST_CALLS.max(MOST_ROUNDS * trial.places as f64) {
            None
        } else if gain > worth {
            Some(Verdict::More)
        } else {
            Some(Verdict::Less)
        }
    }

    /// The standard deviation of the ratio of two rates that are the same.
    fn doubt(&self, one: Rate, other: Rate) -> f64 {
        (self.spread * (1. / one.calls.max(1.) + 1. / other.calls.max(1.))).sqrt()
    }
}

impl Round {
    fn begin(now: Instant) -> Self {
        Self {
            began: now,
            calls: 0,
            rows: 0,
            timely: 0,
        }
    }
}

impl Rate {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.rows += other.rows;
        self.timely += other.timely;
        self.seconds += other.seconds;
    }

    fn fade(&mut self, factor: f64) {
        self.calls *= factor;
        self.rows *= factor;
        self.timely *= factor;
        self.seconds *= factor;
    }

    fn per_second(&self) -> f64 {
        self.rows / self.seconds.max(SHORTEST)
    }

    /// Returns what it is of a rate that is known. Rows that come too late are worth nothing,
    /// unless they all do.
    fn per_second_of(&self, known: &Self) -> f64 {
        match known.is_timely() {
            false => self.per_second() / known.per_second(),
            true => self.timely_per_second() / known.timely_per_second(),
        }
    }

    /// Tells whether most rows come in time.
    fn is_timely(&self) -> bool {
        self.timely >= self.rows / 2.
    }

    fn timely_per_second(&self) -> f64 {
        self.timely / self.seconds.max(SHORTEST)
    }
}

/// The calls that are compared with those before.
fn window(places: usize) -> f64 {
    WINDOW.max(2. * places as f64)
}

/// The most places. With 16 a further one adds a sixteenth at best, which is hardly more than what
/// it must add to be kept.
pub(super) const MOST_PLACES: usize = 16;
/// What a place must add to the rate: less is hardly told from noise, and fewer places keep more
/// rows together and shed sooner.
const WORTH: f64 = 0.05;
/// What a place must have added if it is to be kept.
const KEPT: f64 = 0.03;
/// Calls of a trial by which it may be clear. So few keep what is late by the trial below what an
/// objective for 99 of 100 calls forgives.
const LEAST_CALLS: f64 = 6.;
/// Calls, and rounds, of a trial after which the mean decides, however unclear.
const MOST_CALLS: f64 = 48.;
const MOST_ROUNDS: f64 = 6.;
/// Calls in which the limit of rows has followed a place more or less; and two rounds besides.
const FOLLOWED: f64 = 20.;
/// The part of its share that a place must add for calls to take no longer than before.
const CLEAR: f64 = 0.5;
/// What a trial may cost for the time in which the limit follows, as a part of the rate.
const HARM: f64 = 0.1;
/// Calls that are compared with those before, at least.
const WINDOW: f64 = 6.;
/// What is left of older calls when a window is added.
const MEMORY: f64 = 0.75;
/// By how much rates differ, beyond noise, while the limit of rows is still on its way.
const CHANGE: f64 = 0.1;
/// Windows after which a rate that still moves is taken as it is.
const RESTLESS: u32 = 16;
/// Windows of the same rate after which the limit of rows has found its place: a dip before that
/// is no change of the model.
const CALM: u32 = 4;
/// By how much rates of the same places differ if the model has changed, or lost half of its
/// instances: under noise of 15% the limit of rows, and the rate with it, wanders by two fifths.
const OTHER: f64 = 0.45;
/// By how much rounds differ at least if that is the limit's doing and not noise.
const JUMP: f64 = 0.5;
/// What a round weighs in the variance, and the bounds of that: noise of 2% and of 30%.
const GAIN: f64 = 1. / 8.;
const LEAST_SPREAD: f64 = 0.02 * 0.02;
const MOST_SPREAD: f64 = 0.3 * 0.3;
/// The variance at first: noise of 10%.
const SPREAD: f64 = 0.1 * 0.1;
/// Calls between trials at first, and at least when the model has changed.
const PATIENCE: usize = 12;
/// By how many times sooner the next trial comes then.
const SOONER: usize = 8;
/// What trials may cost, as a part of what is answered.
const COST: f64 = 0.005;
/// The bounds of what patience grows to: of calls of ten milliseconds, one by one, a second or two
/// at least, and at most half a minute until an instance more is found.
const LESS_PATIENCE: usize = 128;
const MOST_PATIENCE: usize = 2048;
/// Seconds below which rounds do not differ.
const SHORTEST: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OBJECTIVE: Duration = Duration::from_millis(20);

    fn call(now: Instant, auto: &Auto) -> Ended {
        Ended {
            now,
            rows: 100,
            began: now - Duration::from_millis(1),
            in_flight: auto.places(),
            waits: true,
            answered: true,
        }
    }

    #[test]
    fn what_is_not_answered_is_no_throughput() {
        // With a second place the server refuses every other call, and is the faster for it.
        let mut auto = Auto::new(OBJECTIVE);
        let mut now = Instant::now() + Duration::from_secs(1);
        for index in 0..2000 {
            now += Duration::from_millis(match auto.places() {
                1 => 10,
                _ => 6,
            });
            let answered = auto.places() == 1 || index % 2 == 0;
            let _ = auto.ended(&Ended {
                answered,
                ..call(now, &auto)
            });
        }
        assert_eq!(auto.places, 1);
    }

    #[test]
    fn without_load_nothing_is_tried() {
        let mut auto = Auto::new(OBJECTIVE);
        let mut now = Instant::now() + Duration::from_secs(1);
        for _ in 0..2000 {
            now += Duration::from_millis(10);
            let turn = auto.ended(&Ended {
                waits: false,
                ..call(now, &auto)
            });
            assert_eq!((turn, auto.places()), (Turn::None, 1));
        }
    }

    proptest! {
        #[test]
        fn places_keep_their_bounds_and_every_trial_has_an_end_for_any_calls(
            calls in prop::collection::vec(
                (
                    prop_oneof![Just(0), 0..20_000_u64, any::<u32>().prop_map(u64::from)],
                    0..5000_usize,
                    0..20_usize,
                    prop::bool::weighted(0.9),
                    prop::bool::weighted(0.9),
                ),
                0..600,
            ),
        ) {
            let mut auto = Auto::new(OBJECTIVE);
            let mut now = Instant::now() + Duration::from_secs(1);
            let mut tries = false;
            let bounds = 1..=MOST_PLACES;
            for (micros, rows, in_flight, waits, answered) in calls {
                let began = now;
                now += Duration::from_micros(micros);
                let before = auto.places();
                let turn = auto.ended(&Ended { now, rows, began, in_flight, waits, answered });
                match turn {
                    Turn::None => prop_assert_eq!(auto.places(), before),
                    Turn::Tries => {
                        prop_assert!(!tries && auto.places().abs_diff(before) == 1);
                        tries = true;
                    }
                    Turn::Stays => prop_assert!(std::mem::take(&mut tries) && auto.places() == before),
                    Turn::Returns => {
                        prop_assert!(std::mem::take(&mut tries) && auto.places().abs_diff(before) == 1);
                    }
                }
                prop_assert!(bounds.contains(&auto.places()));
            }
        }
    }
}
