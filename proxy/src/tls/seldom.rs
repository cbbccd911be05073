use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lets one in a while through: whoever can make lines of a log at will fills a disk.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Tells whether it is time again, and counts from now if so.
    pub(super) fn due(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| now.duration_since(last) >= WHILE);
        if due {
            *last = Some(now);
        }
        due
    }
}

const WHILE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_in_a_second_is_let_through() {
        let seldom = Seldom::default();
        assert_eq!([(); 3].map(|()| seldom.due()), [true, false, false]);
        tokio::time::advance(WHILE / 2).await;
        assert!(!seldom.due());
        tokio::time::advance(WHILE / 2).await;
        assert_eq!([(); 2].map(|()| seldom.due()), [true, false]);
    }
}
