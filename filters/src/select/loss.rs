/// How far an answer is from the truth, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// 0 for the right label, 1 for another one.
    ZeroOne,
    /// The distance of two numbers, in units of the scale, at most 1.
    Absolute {
        /// The distance that is as bad as any larger one.
        scale: f64,
    },
    /// The square of the distance of two numbers, in units of the scale, at most 1.
    Squared {
        /// The distance that is as bad as any larger one.
        scale: f64,
    },
    /// The negative logarithm of the probability that was given to the right label, in units of the
    /// scale, at most 1.
    Log {
        /// The loss, in nats, that is as bad as any larger one.
        scale: f64,
    },
}
