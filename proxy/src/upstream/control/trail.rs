use outrigger_filters::cache::Flush;

use super::{Description, shown::Shown};

/// What was seen of a model at one endpoint from look to look, and what follows from a change.
///
/// ```text
///                     another model: version
///                   .------------------------.
///                   v                        |
/// nothing --saw--> seen --saw, and the connection is another one: restart--> seen
///    |              | '--saw, and all is as it was: nothing-----------------> seen
///    '--missed---> away --saw: restart--------------------------------------> seen
/// ```
///
/// A server that cannot be reached changes nothing: what is cached goes on being the answer, which
/// is worth most just then. It is flushed when the server is back, if it may have been started anew
/// in between, and another model with it. One that has merely been slow has kept its connection, and
/// is the same process.
#[derive(Debug)]
pub(crate) struct Trail {
    last: Option<Look>,
    /// Whether a connection ends only if one of the two sides does.
    keeps: bool,
    /// Whether the last connection carried several looks, so that its end means something.
    proven: bool,
    /// Whether the server could not be reached since it was seen.
    away: bool,
    description: Option<Description>,
}

#[derive(Debug)]
struct Look {
    /// Which of the connections it was made over.
    connection: u64,
    shown: Shown,
}

impl Trail {
    /// Begins to look. Servers of HTTP/2 keep connections open; many of HTTP/1.1 close them after
    /// each answer, and then another one means nothing.
    pub(crate) fn new(keeps: bool) -> Self {
        Self {
            last: None,
            keeps,
            proven: false,
            away: false,
            description: None,
        }
    }

    /// Tells whether the server counts what the model does, as far as is known.
    pub(crate) fn may_count(&self) -> bool {
        let last = self.last.as_ref().filter(|_| !self.away);
        last.is_none_or(|last| !last.shown.ready || last.shown.statistics.is_some())
    }

    /// Takes note of a look over a connection, and tells whether what is cached goes for it.
    pub(crate) fn saw(&mut self, connection: u64, shown: Shown) -> Option<Flush> {
        let Some(last) = self.last.replace(Look { connection, shown }) else {
            return std::mem::take(&mut self.away).then_some(Flush::Restart);
        };
        let held = last.connection == connection;
        let broke = !held && (self.keeps || self.proven);
        self.proven = held;
        let away = std::mem::take(&mut self.away);
        let differs = (self.last.as_ref()).is_some_and(|now| now.shown.differs(&last.shown));
        if away || broke && self.keeps {
            return Some(Flush::Restart);
        }
        // A look that took more calls than the last one may have needed more connections as well.
        match (differs, broke) {
            (true, _) => Some(Flush::Version),
            (false, true) => Some(Flush::Restart),
            (false, false) => None,
        }
    }

    /// Takes note that the server could not be reached, or that the connection broke under a look.
    pub(crate) fn missed(&mut self) {
        self.away = true;
    }

    /// Takes note that the server has not answered, or not to the point, and is there.
    pub(crate) fn waited(&mut self) {
        // Over HTTP/1.1, who does not wait for an answer closes the connection.
        self.proven = false;
    }

    /// Takes note of all that the server says of the model, which is asked for more seldom.
    pub(crate) fn heard(&mut self, description: Description) -> Option<Flush> {
        let last = self.description.as_ref();
        let differs = last.is_some_and(|last| *last != description);
        self.description = Some(description);
        differs.then_some(Flush::Version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Shown {
        Shown::ready(true)
    }

    #[test]
    fn a_model_that_stays_is_never_flushed() {
        let mut trail = Trail::new(true);
        for _ in 0..100 {
            assert_eq!(trail.saw(1, here()), None);
            assert_eq!(trail.heard(Description::default()), None);
        }
    }

    #[test]
    fn what_a_server_shows_of_another_model_is_its_version() {
        let mut trail = Trail::new(true);
        trail.saw(1, here());
        assert_eq!(trail.saw(1, Shown::ready(false)), Some(Flush::Version));
        assert_eq!(trail.saw(1, Shown::ready(false)), None);
        assert_eq!(trail.saw(1, here()), Some(Flush::Version));
        assert_eq!(trail.heard(Description::default()), None);
        let other = Description {
            binary: true,
            ..Description::default()
        };
        assert_eq!(trail.heard(other.clone()), Some(Flush::Version));
        assert_eq!(trail.heard(other), None);
    }

    #[test]
    fn a_server_that_was_away_has_restarted() {
        let mut trail = Trail::new(false);
        trail.saw(1, here());
        trail.missed();
        trail.missed();
        assert_eq!(trail.saw(2, here()), Some(Flush::Restart));
        assert_eq!(trail.saw(2, here()), None);
    }

    #[test]
    fn a_server_that_comes_late_flushes_what_was_before_it() {
        let mut trail = Trail::new(true);
        trail.missed();
        assert_eq!(trail.saw(1, here()), Some(Flush::Restart));
    }

    #[test]
    fn a_restart_between_two_looks_breaks_the_connection() {
        let mut trail = Trail::new(true);
        trail.saw(1, here());
        assert_eq!(trail.saw(2, here()), Some(Flush::Restart));
        assert_eq!(trail.saw(2, here()), None);
        let mut trail = Trail::new(false);
        trail.saw(1, here());
        trail.saw(1, here());
        assert_eq!(trail.saw(2, here()), Some(Flush::Restart));
        trail.saw(2, here());
        assert_eq!(trail.saw(3, Shown::ready(false)), Some(Flush::Version));
    }

    #[test]
    fn a_server_that_closes_after_each_answer_has_not_restarted() {
        let mut trail = Trail::new(false);
        for connection in 1..100 {
            assert_eq!(trail.saw(connection, here()), None);
        }
        assert_eq!(trail.saw(100, Shown::ready(false)), Some(Flush::Version));
    }

    #[test]
    fn a_server_that_is_slow_has_not_restarted() {
        let mut trail = Trail::new(false);
        trail.saw(1, here());
        trail.saw(1, here());
        trail.waited();
        assert_eq!(trail.saw(2, here()), None);
        let mut trail = Trail::new(true);
        trail.saw(1, here());
        trail.waited();
        assert_eq!(trail.saw(1, here()), None);
        assert_eq!(trail.saw(2, here()), Some(Flush::Restart));
    }

    #[test]
    fn a_server_is_asked_for_counts_until_it_shows_that_it_has_none() {
        let mut trail = Trail::new(true);
        assert!(trail.may_count());
        trail.saw(1, Shown::ready(false));
        assert!(trail.may_count(), "the model was not there");
        trail.saw(1, here());
        assert!(!trail.may_count());
        trail.missed();
        assert!(trail.may_count(), "it may be another server");
        trail.saw(2, Shown::counted(Vec::new()));
        assert!(trail.may_count());
    }
}
