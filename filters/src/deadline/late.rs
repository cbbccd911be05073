use std::{future::Future, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

/// Calls that go on although nobody waits for their answers any more: so many at most, with so many
/// bytes, and for a minute. Further ones are given up. A clone is a handle of the same.
#[derive(Clone, Debug)]
pub struct Late {
    calls: Arc<Semaphore>,
    /// What they hold in memory, by kilobytes.
    held: Arc<Semaphore>,
}

impl Late {
    /// Makes room for so many calls, with so many bytes together.
    pub fn new(calls: usize, bytes: usize) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(calls)),
            held: Arc::new(Semaphore::new(bytes >> KILO)),
        }
    }

    /// Lets a call go on by itself that holds so many bytes, if there is room; tells whether there
    /// was.
    pub fn go_on(&self, held: usize, call: impl Future<Output = ()> + Send + 'static) -> bool {
        // Without a runtime the process ends.
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let held = u32::try_from(held >> KILO).unwrap_or(u32::MAX);
        let (Ok(place), Ok(room)) = (
            self.calls.clone().try_acquire_owned(),
            self.held.clone().try_acquire_many_owned(held),
        ) else {
            return false;
        };
        runtime.spawn(async move {
            let _permits = (place, room);
            // What hangs is given up.
            let _ = timeout(LONGEST, call).await;
        });
        true
    }
}

impl Default for Late {
    /// As many as servers have threads for: what hangs must not gather what nobody waits for.
    fn default() -> Self {
        Self::new(256, 64 << 20)
    }
}

/// The binary logarithm of a kilobyte.
const KILO: u32 = 10;
/// How long a call may go on for nobody: what comes later says little of the present.
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_or_holds_too_much_is_given_up() {
        let late = Late::new(10, 1 << 20);
        assert!(!late.go_on(2 << 20, std::future::ready(())));
        assert!(late.go_on(1 << 20, std::future::pending()));
        assert!(!late.go_on(1 << 10, std::future::ready(())));
        tokio::time::sleep(LONGEST * 2).await;
        assert!(late.go_on(1 << 20, std::future::ready(())));
    }

    #[tokio::test]
    async fn there_are_no_more_than_there_is_room_for() {
        let late = Late::new(2, 0);
        let (end, ended) = oneshot::channel::<()>();
        assert!(late.go_on(0, std::future::pending()));
        assert!(late.go_on(0, async { drop(ended.await) }));
        assert!(!late.go_on(0, std::future::pending()));
        end.send(()).unwrap();
        while !late.go_on(0, std::future::ready(())) {
            tokio::task::yield_now().await;
        }
    }
}
