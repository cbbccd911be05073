//! Where a figure stands on an axis, and which figures the axis names.

/// The range of an axis, and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    kind: Kind,
}

/// How the range of an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Equal differences are equally far apart.
    Linear,
    /// Equal ratios are equally far apart; what is not above zero has no place.
    Log,
}

impl Scale {
    /// Takes a range that holds all of the figures and ends at ticks. A linear one begins at zero
    /// unless a figure is below.
    pub fn over(kind: Kind, figures: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for figure in figures {
            if figure.is_finite() && (kind == Kind::Linear || figure > 0.0) {
                low = low.min(figure);
                high = high.max(figure);
            }
        }
        let (low, high) = match kind {
            Kind::Linear => {
                let (low, high) = (low.min(0.0), high.max(0.0));
                let high = if high > low { high } else { low + 1.0 };
                let step = nice_step(high - low);
                ((low / step).floor() * step, (high / step).ceil() * step)
            }
            Kind::Log if low > high => (1.0, 10.0),
            Kind::Log => {
                let low = parts_of_a_decade(low).rev().find(|part| *part <= low);
                let above = parts_of_a_decade(high).find(|part| *part >= high);
                let (low, high) = (low.unwrap_or(1.0), above.unwrap_or(10.0));
                (low, if high > low { high } else { low * 10.0 })
            }
        };
        Self { low, high, kind }
    }

    /// The share of the axis that lies before the figure: 0 at its low end, 1 at its high end.
    pub fn share(self, figure: f64) -> f64 {
        match self.kind {
            Kind::Linear => (figure - self.low) / (self.high - self.low),
            Kind::Log if figure <= 0.0 => 0.0,
            Kind::Log => (figure / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// The figures that are named, in order.
    pub fn ticks(self) -> Vec<f64> {
        match self.kind {
            Kind::Linear => {
                let step = nice_step(self.high - self.low);
                let steps = ((self.high - self.low) / step).round() as i64;
                let first = (self.low / step).round() as i64;
                (first..=first + steps).map(|n| n as f64 * step).collect()
            }
            Kind::Log => {
                let decades = (self.high / self.low).log10();
                let within = |tick: &f64| {
                    (self.low * 0.999..=self.high * 1.001).contains(tick)
                        && (decades < MANY_DECADES || is_power_of_ten(*tick))
                };
                let first = self.low.log10().floor() as i32;
                let last = self.high.log10().ceil() as i32;
                (first..=last)
                    .flat_map(|exponent| PARTS.map(|part| part * 10_f64.powi(exponent)))
                    .filter(within)
                    .collect()
            }
        }
    }
}

/// Writes a figure as an axis names it: 1500000 is 1.5M, 0.25 stays 0.25.
pub fn label(figure: f64) -> String {
    let short = |figure: f64| {
        let text = format!("{figure:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match figure.abs() {
        size if size >= 999_999.5 => format!("{}M", short(figure / 1e6)),
        size if size >= 9999.5 => format!("{}k", short(figure / 1e3)),
        _ => short(figure),
    }
}

/// The distance of ticks: 1, 2 or 5 times a power of ten, so that there are four to nine of them.
fn nice_step(range: f64) -> f64 {
    let rough = range / FEWEST_STEPS;
    let power = 10_f64.powf(rough.log10().floor());
    let nice = PARTS.iter().rev().find(|part| *part * power <= rough);
    nice.unwrap_or(&1.0) * power
}

/// The ticks around a figure on a logarithmic axis.
fn parts_of_a_decade(figure: f64) -> impl DoubleEndedIterator<Item = f64> {
    let exponent = figure.log10().floor() as i32;
    (exponent - 1..=exponent + 1)
        .flat_map(|exponent| PARTS.map(move |part| part * 10_f64.powi(exponent)))
}

fn is_power_of_ten(figure: f64) -> bool {
    (figure.log10() - figure.log10().round()).abs() < 1e-9
}

/// What ticks are multiples of.
const PARTS: [f64; 3] = [1.0, 2.0, 5.0];
/// A linear axis has at least as many steps.
const FEWEST_STEPS: f64 = 4.0;
/// A logarithmic axis of as many decades names powers of ten only.
const MANY_DECADES: f64 = 3.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_at_a_tick_above_all_figures() {
        let scale = Scale::over(Kind::Linear, [3.0, 17.0]);
        assert_eq!(
            scale.ticks(),
            [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0]
        );
        assert_eq!((scale.share(0.0), scale.share(18.0)), (0.0, 1.0));
        assert_eq!(scale.share(9.0), 0.5);
        let below = Scale::over(Kind::Linear, [-1.0, 1.0]);
        assert!(below.share(-1.0).abs() < 1e-9);
    }

    #[test]
    fn equal_ratios_are_equally_far_apart_on_a_logarithmic_axis() {
        let scale = Scale::over(Kind::Log, [12.0, 900.0]);
        assert_eq!(
            scale.ticks(),
            [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
        );
        let (ten, hundred) = (scale.share(10.0), scale.share(100.0));
        assert!((scale.share(1000.0) - hundred - (hundred - ten)).abs() < 1e-9);
        let wide = Scale::over(Kind::Log, [1.0, 1e6]);
        assert_eq!(wide.ticks().len(), 7);
    }

    #[test]
    fn axes_of_nothing_and_of_one_figure_are_whole() {
        for kind in [Kind::Linear, Kind::Log] {
            for figures in [&[][..], &[0.0], &[7.0], &[f64::NAN]] {
                let scale = Scale::over(kind, figures.iter().copied());
                assert!(scale.ticks().len() >= 2, "{scale:?}");
                assert!(
                    scale
                        .ticks()
                        .iter()
                        .all(|tick| scale.share(*tick).is_finite())
                );
            }
        }
    }

    #[test]
    fn figures_are_named_shortly() {
        let named = [0.25, 0.0, 1500.0, 20_000.0, 1.5e6].map(label);
        assert_eq!(named, ["0.25", "0", "1500", "20k", "1.5M"]);
    }
}
