use std::time::Duration;

/// What batching brings at one endpoint, as measured of late.
///
/// Figures that are not known yet are `None`; without a hold-out those of "without" stay so.
#[derive(Clone, Debug, PartialEq)]
pub struct BenefitView {
    /// Whether batching pays here.
    pub pays: Pays,
    /// How many times as many rows the model answers in the same time because they are batched.
    pub speed_up: Option<f64>,
    /// The standard error of the speed-up.
    pub error: Option<f64>,
    /// Requests that were held out since the start.
    pub hold_outs: u64,
    /// Rows of a call that more than one request shared, on average.
    pub batch_rows: Option<f64>,
    /// What the model takes for a row in a batch.
    pub with: Option<Duration>,
    /// What the model would take for a row of a request that is a call of its own.
    pub without: Option<Duration>,
    /// Rows that are answered in a second.
    pub rate: Option<f64>,
    /// How many calls are under way on average: 0.5 is a model that is busy half of the time.
    pub busy: Option<f64>,
    /// How many would have to be, at the same rate, if each request were a call of its own. More
    /// than there are places is more than the model can do.
    pub busy_without: Option<f64>,
    /// What the model takes for a request that is held out: the median.
    pub alone_p50: Option<Duration>,
    /// What 99 of 100 requests that are held out keep to.
    pub alone_p99: Option<Duration>,
}

/// Whether batching pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pays {
    /// Not enough is known. Requests are batched.
    Unknown,
    /// A row takes the model less time in a batch. Requests are batched.
    Yes,
    /// It does not: time grows in proportion to rows. Requests are sent singly.
    No {
        /// After how long batching is tried again.
        again: Duration,
    },
}

impl BenefitView {
    /// Sums up what the endpoints of an arm show: rates and what is busy are added, and times are
    /// means by the rows that are answered.
    ///
    /// Batching pays for the arm where it does for one of its endpoints, and does not where it does
    /// for none and is known for all.
    pub fn of_arm(endpoints: &[Self]) -> Option<Self> {
        let (first, more) = endpoints.split_first()?;
        if more.is_empty() {
            return Some(first.clone());
        }
        let sum = |figure: fn(&Self) -> Option<f64>| {
            let known = endpoints.iter().filter_map(figure);
            known.reduce(|sum, figure| sum + figure)
        };
        // An endpoint that has answered nothing of late still says something where no other does.
        let weight = |view: &Self| view.rate.unwrap_or(0.).max(f64::MIN_POSITIVE);
        let mean = |figure: fn(&Self) -> Option<f64>| {
            let known = || {
                endpoints
                    .iter()
                    .filter_map(|view| Some((weight(view), figure(view)?)))
            };
            let whole: f64 = known().map(|(weight, _)| weight).sum();
            (whole > 0.).then(|| {
                known()
                    .map(|(weight, figure)| weight / whole * figure)
                    .sum()
            })
        };
        let time = |figure: fn(&Self) -> Option<f64>| mean(figure).map(Duration::from_secs_f64);
        Some(Self {
            pays: endpoints
                .iter()
                .map(|view| view.pays)
                .reduce(Pays::or)
                .unwrap_or(Pays::Unknown),
            speed_up: mean(|view| view.speed_up),
            error: mean(|view| view.error),
            hold_outs: endpoints.iter().map(|view| view.hold_outs).sum(),
            batch_rows: mean(|view| view.batch_rows),
            with: time(|view| Some(view.with?.as_secs_f64())),
            without: time(|view| Some(view.without?.as_secs_f64())),
            rate: sum(|view| view.rate),
            busy: sum(|view| view.busy),
            busy_without: sum(|view| view.busy_without.or(view.busy)),
            alone_p50: time(|view| Some(view.alone_p50?.as_secs_f64())),
            // The slowest endpoint's is what callers meet.
            alone_p99: endpoints.iter().filter_map(|view| view.alone_p99).max(),
        })
    }
}

impl Pays {
    /// Returns the word for it: `unknown`, `yes` or `no`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Yes => "yes",
            Self::No { .. } => "no",
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::No { again }, Self::No { again: other }) => Self::No {
                again: again.min(other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(pays: Pays, rate: f64, micros: u64) -> BenefitView {
        BenefitView {
            pays,
            speed_up: None,
            error: None,
            hold_outs: 1,
            batch_rows: None,
            with: Some(Duration::from_micros(micros)),
            without: None,
            rate: Some(rate),
            busy: Some(0.5),
            busy_without: None,
            alone_p50: None,
            alone_p99: None,
        }
    }

    #[test]
    fn endpoints_are_summed_up_by_the_rows_they_answer() {
        assert_eq!(BenefitView::of_arm(&[]), None);
        let no = Pays::No {
            again: Duration::from_secs(60),
        };
        let arm = BenefitView::of_arm(&[endpoint(no, 100., 200), endpoint(Pays::Yes, 300., 400)])
            .unwrap();
        assert_eq!(arm.pays, Pays::Yes);
        assert_eq!(arm.with, Some(Duration::from_micros(350)));
        assert_eq!((arm.rate, arm.busy), (Some(400.), Some(1.)));
        assert_eq!((arm.without, arm.hold_outs), (None, 2));
    }

    #[test]
    fn an_arm_does_not_pay_only_if_no_endpoint_does() {
        let no = |seconds| Pays::No {
            again: Duration::from_secs(seconds),
        };
        assert_eq!(no(60).or(no(30)), no(30));
        assert_eq!(no(60).or(Pays::Unknown), Pays::Unknown);
        assert_eq!(Pays::Unknown.or(Pays::Yes), Pays::Yes);
    }
}
