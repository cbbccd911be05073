use tokio::time::Instant;

use super::Ended;

/// Finds the fewest calls under way with which an endpoint answers about as many as with any
/// number.
///
/// ```text
///             enough is known                      it pays
///  n calls --------------------> trial of n * step --------> there, and the next step is larger
///     ^                          or of n / step
///     '-----------------------------'
///       it does not: the other way; if that does not either, a smaller step; and after the
///       smallest, a pause
/// ```
///
/// Rates are compared: answers a second, while all that may be under way is, and others wait. More
/// calls pay if the rate rises by a fifth of what they rise by, to the power that is: where more only
/// wait within the server the rate stays, and where they make it thrash it falls.
///
/// * There is no phase in which less is sent than before but trials of fewer calls, which are few,
///   and end as soon as it is clear that they cost something.
/// * Rates are taken over rounds of as many calls as may be under way: calls that were sent at the
///   same time come back at the same time. Calls that were sent before a change say nothing of it.
/// * How many calls a trial takes depends on its step and on how much rounds differ anyway: to tell
///   what a doubling brings takes a few dozen.
/// * Under light load nothing is learned, and the limit stays.
/// * When the rate at the same limit has changed for good, so has the server: large steps again.
#[derive(Clone, Debug)]
pub(in crate::admission) struct Auto {
    /// Outside of trials.
    limit: usize,
    /// What is known of it.
    known: Rate,
    /// Rounds of late, of which it is not yet known whether they are like those before.
    recent: Rate,
    /// For how many windows the rate has been another than before.
    restless: u32,
    round: Option<Round>,
    /// The rate of the round before.
    last: Option<f64>,
    /// The variance of the rate of single calls, relative to the rate.
    spread: f64,
    trial: Option<Trial>,
    /// The factor of the next trial, or of the one under way, as a logarithm.
    step: f64,
    upward: bool,
    /// Whether the other direction does not pay with this step.
    other_failed: bool,
    /// When the limit last changed.
    changed: Option<Instant>,
    /// Calls since the last trial, and after how many the next one begins.
    waited: f64,
    patience: f64,
    slope: Slope,
    /// Calls that have ended since it was last looked how many of them were too late, and those.
    ends: f64,
    lates: f64,
}

/// How what calls take grows with how many are under way, over as many calls as make it clear.
#[derive(Clone, Copy, Debug, Default)]
struct Slope {
    count: f64,
    among: f64,
    took: f64,
    among_squared: f64,
    took_squared: f64,
    both: f64,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    limit: usize,
    rate: Rate,
    /// Calls since it began, whether they say something or not.
    calls: f64,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    calls: usize,
    answered: usize,
    pressed: usize,
    in_flight: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    calls: f64,
    answered: f64,
    seconds: f64,
    /// Calls under way, summed over calls.
    in_flight: f64,
}

impl Auto {
    pub(super) fn calls(&self) -> usize {
        self.trial.map_or(self.limit, |trial| trial.limit)
    }

    /// Learns from a call that has ended.
    pub(super) fn ended(&mut self, call: &Ended) {
        if self.changed.is_some_and(|changed| call.began < changed) {
            return;
        }
        if call.answered {
            self.watch(call);
        }
        if self.is_too_late(call) {
            return;
        }
        let limit = self.calls();
        if let Some(trial) = &mut self.trial {
            trial.calls += 1.;
        }
        let Some(round) = &mut self.round else {
            if call.pressed {
                self.round = Some(Round::begin(call.now));
            }
            return;
        };
        round.calls += 1;
        round.answered += usize::from(call.answered);
        round.pressed += usize::from(call.pressed);
        round.in_flight += call.in_flight;
        if round.calls < LEAST_ROUND.next_multiple_of(limit) {
            return;
        }
        let round = self.round.replace(Round::begin(call.now));
        if let Some(rate) = round.and_then(|round| round.rate(call.now, limit)) {
            self.learn(rate, call.now);
        } else {
            self.last = None;
            self.abandon(call.now);
        }
    }

    /// Allows fewer calls where most of them take the server longer than their callers have in all:
    /// what waits in the server waits where nobody can put it in order, and is worked on although
    /// nobody wants it any more, also where the server has told that its time is over.
    fn is_too_late(&mut self, call: &Ended) -> bool {
        self.ends += 1.;
        self.lates += f64::from(u8::from(call.outlasted));
        let limit = self.calls();
        if self.ends < LEAST_ENDS.max(limit as f64) {
            return false;
        }
        let share = self.lates / self.ends;
        (self.ends, self.lates) = (0., 0.);
        if share < TOO_LATE || limit == 1 {
            return false;
        }
        self.trial = None;
        self.limit = ((limit as f64 * LESS) as usize).max(1);
        self.known = Rate::default();
        self.step = COARSE / 2.;
        self.upward = false;
        self.other_failed = false;
        self.patience = 0.;
        self.change(call.now);
        true
    }

    /// Learns from what calls take while the limit is not what bounds them.
    ///
    /// Where the server is so far behind that those who come have no time for it, calls are refused
    /// before the limit is reached, and rates say nothing of it.
    fn watch(&mut self, call: &Ended) {
        let took = call.now.saturating_duration_since(call.began).as_secs_f64();
        self.slope.add(call.among, took);
        if self.slope.count % SLOPE != 0. {
            return;
        }
        let among = self.slope.among / self.slope.count;
        let is_full = among >= FULL * self.calls() as f64;
        let shares = match self.slope.power() {
            Some((power, doubt)) if power - 3. * doubt > 1. - PAYS => Some(true),
            Some((power, doubt)) if power + 2. * doubt > 1. - PAYS => None,
            _ => Some(false),
        };
        if is_full || shares.is_some() || self.slope.count >= LONGEST_SLOPE {
            self.slope = Slope::default();
        }
        let limit = (self.limit as f64 * LESS).max(among).max(1.) as usize;
        if shares == Some(true) && !is_full && limit < self.limit {
            self.trial = None;
            self.limit = limit;
            self.known = Rate::default();
            self.step = COARSE / 2.;
            self.upward = false;
            self.other_failed = false;
            self.patience = 0.;
            self.change(call.now);
        }
    }

    fn learn(&mut self, round: Rate, now: Instant) {
        let rate = round.per_second();
        if let Some(last) = self.last.replace(rate) {
            let differs = 2. * (rate - last) / (rate + last).max(f64::MIN_POSITIVE);
            let gain = GAIN.max(1. / (self.known.calls / round.calls + 2.));
            self.spread += gain * (differs * differs / 2. * round.calls - self.spread);
            self.spread = self.spread.clamp(LEAST_SPREAD, MOST_SPREAD);
        }
        if let Some(trial) = &mut self.trial {
            trial.rate.add(round);
            self.judge(now);
            return;
        }
        self.waited += round.calls;
        self.recent.add(round);
        if self.recent.calls < WINDOW.max(2. * self.limit as f64) && self.known.calls > 0. {
            return;
        }
        let recent = std::mem::take(&mut self.recent);
        let differs = (recent.per_second() / self.known.per_second()).ln();
        let doubt = self.doubt(recent, self.known);
        if self.known.calls > 0. && differs.abs() > CHANGE + 2. * doubt {
            self.restless += 1;
            if self.restless >= RESTLESS {
                self.known = recent;
                self.restless = 0;
                self.step = if differs.abs() > COARSE {
                    COARSE
                } else {
                    COARSE / 2.
                };
                self.upward = differs > 0.;
                self.other_failed = false;
                self.patience = 0.;
            }
        } else {
            self.restless = 0;
            self.known.fade(MEMORY * self.needed());
            self.known.add(recent);
        }
        if self.waited >= self.patience && self.known.calls >= self.needed().min(self.enough()) {
            self.begin(now);
        }
    }

    /// Returns the step of the next trial. Once nothing pays any more, that of more calls is larger: it
    /// is soon clear, and costs little.
    fn reach(&self) -> f64 {
        match self.upward {
            true => self.step.max(COARSE / 2.),
            false => self.step,
        }
    }

    /// Returns the calls that a trial takes at most.
    fn needed(&self) -> f64 {
        let times = COARSE / self.reach();
        (NEEDED * times * times).max(ROUNDS * self.limit as f64)
    }

    /// Returns the calls with which what a step brings is surely told from what it does not.
    fn enough(&self) -> f64 {
        let told = self.reach() * (1. - PAYS) / 4.;
        (self.spread / (told * told)).max(LEAST_CALLS)
    }

    /// Begins a trial, if there is room for one.
    fn begin(&mut self, now: Instant) {
        for _ in 0..2 {
            let limit = stepped(self.limit, self.reach(), self.upward);
            if limit != self.limit {
                self.trial = Some(Trial {
                    limit,
                    rate: Rate::default(),
                    calls: 0.,
                });
                self.change(now);
                return;
            }
            self.turn(LEAST_CALLS);
        }
    }

    /// Goes on the other way, or with a smaller step if that was tried already; with the smallest
    /// one after a pause, in proportion to the calls of the last trial.
    fn turn(&mut self, calls: f64) {
        self.upward = !self.upward;
        let has_failed = std::mem::replace(&mut self.other_failed, true);
        if self.step <= FINE {
            self.patience = match self.upward {
                true => calls * UP_PATIENCE,
                false => calls * DOWN_PATIENCE,
            };
        } else if has_failed {
            self.other_failed = false;
            self.step = (self.step / 2.).max(FINE);
            self.patience = 0.;
        }
    }

    fn change(&mut self, now: Instant) {
        self.changed = Some(now);
        self.round = None;
        self.last = None;
        self.recent = Rate::default();
        self.restless = 0;
        self.waited = 0.;
    }

    /// Gives up a trial that says nothing, because the load has gone.
    fn abandon(&mut self, now: Instant) {
        let most = 2. * self.needed();
        if self.trial.is_some_and(|trial| trial.calls > most) {
            self.trial = None;
            self.change(now);
        }
    }

    /// Ends a trial if it is clear what it says.
    fn judge(&mut self, now: Instant) {
        let Some(trial) = self.trial else { return };
        if trial.rate.calls < LEAST_CALLS {
            return;
        }
        let more = (trial.rate.in_flight() / self.known.in_flight()).ln();
        let gain = (trial.rate.per_second() / self.known.per_second()).ln();
        let doubt = self.doubt(self.known, trial.rate);
        let is_over = trial.rate.calls >= self.needed();
        // What more calls must bring, or what fewer may cost. To stay where it was wants less proof
        // than to go elsewhere.
        let worth = more * if self.upward { PAYS } else { KEPT };
        let pays = if gain - 2. * doubt > worth {
            Some(true)
        } else if gain + doubt < worth {
            Some(false)
        } else {
            is_over.then_some(gain > worth)
        };
        let Some(pays) = pays else { return };
        self.trial = None;
        self.change(now);
        if pays {
            self.limit = trial.limit;
            self.known = trial.rate;
            self.step = (self.reach() * 2.).min(COARSE);
            self.other_failed = false;
            self.patience = 0.;
        } else {
            self.turn(trial.calls);
        }
    }

    /// The standard deviation of the logarithm of the ratio of two rates that are the same.
    fn doubt(&self, one: Rate, other: Rate) -> f64 {
        (self.spread * (1. / one.calls.max(1.) + 1. / other.calls.max(1.))).sqrt()
    }
}

impl Default for Auto {
    fn default() -> Self {
        Self {
            limit: FIRST,
            known: Rate::default(),
            recent: Rate::default(),
            restless: 0,
            round: None,
            last: None,
            spread: SPREAD,
            trial: None,
            step: COARSE,
            upward: true,
            other_failed: false,
            changed: None,
            waited: 0.,
            patience: 0.,
            slope: Slope::default(),
            ends: 0.,
            lates: 0.,
        }
    }
}

impl Slope {
    fn add(&mut self, among: usize, took: f64) {
        let among = among as f64;
        self.count += 1.;
        self.among += among;
        self.took += took;
        self.among_squared += among * among;
        self.took_squared += took * took;
        self.both += among * took;
    }

    /// Returns by which power of how many are under way the time of calls grows, and the standard
    /// deviation of that.
    fn power(&self) -> Option<(f64, f64)> {
        let (among, took) = (self.among / self.count, self.took / self.count);
        let of_among = self.among_squared / self.count - among * among;
        let of_took = self.took_squared / self.count - took * took;
        let of_both = self.both / self.count - among * took;
        // Where as many are under way all the time, nothing is told.
        if of_among < VARIES * among || took <= 0. {
            return None;
        }
        let slope = of_both / of_among;
        let rest = (of_took - slope * of_both).max(0.);
        let doubt = (rest / (of_among * self.count)).sqrt();
        Some((slope * among / took, doubt * among / took))
    }
}

impl Round {
    fn begin(now: Instant) -> Self {
        Self {
            began: now,
            calls: 0,
            answered: 0,
            pressed: 0,
            in_flight: 0,
        }
    }

    /// Returns its rate, unless that was the load's or that of a server which is away.
    fn rate(&self, now: Instant, limit: usize) -> Option<Rate> {
        let is_full = self.in_flight as f64 >= FULL * (self.calls * limit) as f64;
        let is_there = 2 * self.answered > self.calls;
        (is_full && is_there && 2 * self.pressed > self.calls).then(|| Rate {
            calls: self.calls as f64,
            answered: self.answered as f64,
            seconds: now.saturating_duration_since(self.began).as_secs_f64(),
            in_flight: self.in_flight as f64,
        })
    }
}

impl Rate {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.seconds += other.seconds;
        self.in_flight += other.in_flight;
    }

    /// Lets what is over so many calls weigh no more.
    fn fade(&mut self, calls: f64) {
        let factor = (calls / self.calls.max(1.)).min(1.);
        self.calls *= factor;
        self.answered *= factor;
        self.seconds *= factor;
        self.in_flight *= factor;
    }

    fn per_second(&self) -> f64 {
        self.answered / self.seconds.max(SHORTEST)
    }

    /// Returns how many calls were under way in the mean.
    fn in_flight(&self) -> f64 {
        self.in_flight / self.calls.max(1.)
    }
}

/// Returns a limit that is larger or smaller by a factor, by one call at least.
fn stepped(limit: usize, step: f64, upward: bool) -> usize {
    let step = if upward { step } else { -step };
    let there = (limit as f64 * step.exp()).round() as usize;
    match upward {
        true => there.max(limit + 1).min(MOST),
        false => there.min(limit - 1).max(1),
    }
}

/// The calls that may be under way before anything is known: a light load never notices that there
/// is a limit, and a server with one instance is eight calls behind for a moment.
const FIRST: usize = 8;
/// The most calls: more than servers have instances or slots for.
pub(super) const MOST: usize = 1024;
/// The largest step: a doubling.
const COARSE: f64 = std::f64::consts::LN_2;
/// The smallest: a fifth.
const FINE: f64 = COARSE / 4.;
/// The part of a step by which the rate must rise if more calls are to pay. Where calls only share
/// what the server can do it rises by none, where it has places to spare by all of it.
const PAYS: f64 = 0.2;
/// The same, for calls that are there already.
const KEPT: f64 = 0.15;
/// Calls of a trial of the largest step after which the mean decides, however unclear; those of
/// smaller ones grow by the square.
const NEEDED: f64 = 48.;
/// Rounds of a trial after which it does, at least.
const ROUNDS: f64 = 6.;
/// Calls of a trial by which it may be clear.
const LEAST_CALLS: f64 = 16.;
/// Calls of a round, at least.
const LEAST_ROUND: usize = 8;
/// Calls that are compared with those before, at least.
const WINDOW: f64 = 16.;
/// How many times what a trial takes is remembered of the rate before it.
const MEMORY: f64 = 2.;
/// By how much the rates of windows differ, beyond noise, if the server has changed.
const CHANGE: f64 = 0.1;
/// Windows after which it has.
const RESTLESS: u32 = 2;
/// How many times what a trial takes there is before the next when none pays any more: of more calls,
/// which only makes some wait within the server, and of fewer, which may cost a sixth of the rate.
const UP_PATIENCE: f64 = 8.;
const DOWN_PATIENCE: f64 = 24.;
/// Calls after each of which it is told how they grow with how many there are.
const SLOPE: f64 = 64.;
/// And after which it is begun anew.
const LONGEST_SLOPE: f64 = 2048.;
/// How much their number must differ, as a part of what it would if they came by accident.
const VARIES: f64 = 0.1;
/// The share of calls that may take longer than there is time. Where calls differ much, some always do.
const TOO_LATE: f64 = 0.5;
/// Calls by which that is told.
const LEAST_ENDS: f64 = 16.;
/// What is left of a limit that is far too high.
const LESS: f64 = 0.7;
/// The part of the limit that must be under way in the mean, if a rate is to be the server's.
const FULL: f64 = 0.9;
/// How fast what is known of the spread follows.
const GAIN: f64 = 0.05;
/// What is assumed of it at first, and in what bounds it is: from clockwork to heavy tails.
const SPREAD: f64 = 0.5;
const LEAST_SPREAD: f64 = 0.002;
const MOST_SPREAD: f64 = 10.;
/// Seconds, so that nothing is divided by zero.
const SHORTEST: f64 = 1e-9;
