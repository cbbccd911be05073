use std::{future::Future, sync::Arc};

use tokio::{runtime::Handle, sync::Semaphore};

/// Calls that go on although nobody waits for their answers any more, so many at most; further ones
/// are given up. A clone is a handle of the same.
#[derive(Clone, Debug)]
pub struct Late(Arc<Semaphore>);

impl Late {
    /// Makes room for so many calls.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// Lets a call go on by itself, if there is room; tells whether there was.
    pub fn go_on(&self, call: impl Future<Output = ()> + Send + 'static) -> bool {
        // Without a runtime the process ends.
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let Ok(permit) = self.0.clone().try_acquire_owned() else {
            return false;
        };
        runtime.spawn(async move {
            let _permit = permit;
            call.await;
        });
        true
    }
}

impl Default for Late {
    /// As many as servers have threads for: what hangs must not gather what nobody waits for.
    fn default() -> Self {
        Self::new(256)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn there_are_no_more_than_there_is_room_for() {
        let late = Late::new(2);
        let (end, ended) = oneshot::channel::<()>();
        assert!(late.go_on(std::future::pending()));
        assert!(late.go_on(async { drop(ended.await) }));
        assert!(!late.go_on(std::future::pending()));
        end.send(()).unwrap();
        while !late.go_on(std::future::ready(())) {
            tokio::task::yield_now().await;
        }
    }
}
