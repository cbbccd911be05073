use tokio::sync::{mpsc, watch};

/// Ends the service: connections are told to finish, and waited for.
#[derive(Debug)]
pub struct Drain {
    begin: watch::Sender<bool>,
    /// Each [`Draining`] holds a sender; none is ever used.
    alive: mpsc::Receiver<()>,
}

/// A connection's share in a [`Drain`]: as long as it lives, the drain is not over.
#[derive(Clone, Debug)]
pub struct Draining {
    begun: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

impl Drain {
    /// Makes a drain and the share from which connections take theirs.
    pub fn new() -> (Self, Draining) {
        let (begin, begun) = watch::channel(false);
        let (sender, alive) = mpsc::channel(1);
        (
            Self { begin, alive },
            Draining {
                begun,
                _alive: sender,
            },
        )
    }

    /// Tells every connection to finish.
    pub fn begin(&self) {
        self.begin.send_replace(true);
    }

    /// Waits until no share is left.
    pub async fn finished(&mut self) {
        while self.alive.recv().await.is_some() {}
    }
}

impl Draining {
    /// Waits until the drain begins; for ever, where its owner is gone.
    pub async fn begun(&self) {
        let mut begun = self.begun.clone();
        if begun.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_drain_ends_with_the_last_share() {
        let (mut drain, draining) = Drain::new();
        let (one, two) = (draining.clone(), draining);
        assert!(one.begun().now_or_never().is_none());
        drain.begin();
        assert!(one.begun().now_or_never().is_some());
        assert!(drain.finished().now_or_never().is_none());
        drop(one);
        assert!(drain.finished().now_or_never().is_none());
        drop(two);
        assert!(drain.finished().now_or_never().is_some());
    }

    #[test]
    fn a_share_whose_drain_is_gone_goes_on() {
        let (drain, draining) = Drain::new();
        drop(drain);
        assert!(draining.begun().now_or_never().is_none());
    }
}
