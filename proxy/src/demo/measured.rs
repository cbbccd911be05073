//! What a scene came to.

use std::time::Duration;

use super::{
    error::Spoiled,
    figures,
    load::{Outcome, Report},
    processor::Processor,
};

/// What a scene came to.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// What the load saw.
    pub(super) report: Report,
    /// From the first call until nothing was waited for any more.
    pub(super) elapsed: Duration,
    /// Answers that named the digit on the image.
    pub(super) truths: u64,
    /// Calls that the model executed.
    pub(super) calls: u64,
    /// Rows of those calls.
    pub(super) rows: u64,
    /// What the process used meanwhile.
    pub(super) processor: Processor,
}

impl Measured {
    /// The names of [`Measured::cells`].
    pub(super) fn headings(objective: Duration) -> Vec<String> {
        let within = format!("in {} ms", objective.as_millis());
        [
            "answered", "p50", "p99", &within, "batch", "accuracy", "CPU s", "proxy",
        ]
        .map(str::to_owned)
        .into()
    }

    /// The figures for the table.
    pub(super) fn cells(&self, objective: Duration) -> Vec<String> {
        let sent = self.report.sent();
        let answered = self.report.answered();
        vec![
            figures::rate(answered as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)),
            self.latency(0.5),
            self.latency(0.99),
            figures::share(sent - self.report.later_than(objective).min(sent), sent),
            figures::mean(self.rows, self.calls),
            figures::share(self.truths, answered),
            figures::seconds(self.processor.process),
            figures::seconds(self.processor.proxy),
        ]
    }

    /// Says why the figures mean nothing, if so.
    ///
    /// Calls without an answer are what a model that cannot follow looks like: they count as late.
    pub(super) fn check(&self) -> Result<(), Spoiled> {
        let failed = self
            .report
            .outcomes()
            .find(|(outcome, _)| !matches!(outcome, Outcome::Grpc(0) | Outcome::Unanswered));
        if let Some((outcome, count)) = failed {
            return Err(Spoiled::Failed { outcome, count });
        }
        match self.report.answered() {
            0 => Err(Spoiled::Silent),
            _ => Ok(()),
        }
    }

    /// A latency over all calls. Where so many have no answer that the quantile is one of them, it
    /// is only known to be longer than they were waited for.
    fn latency(&self, quantile: f64) -> String {
        let sent = self.report.sent() as f64;
        let unanswered = self.report.count(Outcome::Unanswered) as f64;
        let latency = figures::latency(self.report.latency(quantile));
        match unanswered > (1. - quantile) * sent {
            true => format!("> {latency}"),
            false => latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTIVE: Duration = Duration::from_millis(20);

    fn measured(outcomes: &[(Outcome, u64, u64)]) -> Measured {
        let mut report = Report::new();
        for (outcome, count, milliseconds) in outcomes {
            for _ in 0..*count {
                report.record(*outcome, Duration::from_millis(*milliseconds));
            }
        }
        Measured {
            report,
            elapsed: Duration::from_secs(2),
            truths: 9,
            calls: 4,
            rows: 10,
            processor: Processor::default(),
        }
    }

    #[test]
    fn every_heading_has_its_figure() {
        let cells = measured(&[(Outcome::Grpc(0), 10, 10)]).cells(OBJECTIVE);
        assert_eq!(
            cells,
            [
                "5.0/s", "10.0 ms", "10.0 ms", "100.0 %", "2.5", "90.0 %", "-", "-"
            ]
        );
        assert_eq!(Measured::headings(OBJECTIVE).len(), cells.len());
    }

    #[test]
    fn calls_without_an_answer_are_late_and_longer_than_they_were_waited_for() {
        let cells = measured(&[(Outcome::Grpc(0), 90, 10), (Outcome::Unanswered, 10, 500)])
            .cells(OBJECTIVE);
        assert_eq!(&cells[..4], ["45/s", "10.0 ms", "> 500 ms", "90.0 %"]);
    }

    #[test]
    fn errors_and_silence_spoil_a_scene_and_overload_does_not() {
        let check = |outcomes: &[_]| measured(outcomes).check();
        let (good, late) = ((Outcome::Grpc(0), 5, 1), (Outcome::Unanswered, 95, 500));
        assert_eq!(check(&[good, late]), Ok(()));
        assert_eq!(check(&[late]), Err(Spoiled::Silent));
        assert_eq!(check(&[]), Err(Spoiled::Silent));
        for outcome in [Outcome::Wrong, Outcome::Grpc(14), Outcome::Lost] {
            let failed = Spoiled::Failed { outcome, count: 2 };
            assert_eq!(check(&[good, (outcome, 2, 1)]), Err(failed));
        }
    }
}
