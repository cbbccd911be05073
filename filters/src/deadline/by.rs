use std::{future::Future, future::poll_fn, pin::Pin, task::Poll};

use tokio::time::{Instant, sleep_until};

/// Waits for a future until an instant, and gives it back where it has not ended by then. Without an
/// instant it is waited for as long as it takes.
///
/// What has ended by the instant counts, also where both are seen at the same time.
pub async fn by<F>(deadline: Option<Instant>, mut call: F) -> Result<F::Output, F>
where
    F: Future + Unpin,
{
    let Some(deadline) = deadline else {
        return Ok(call.await);
    };
    let ended = {
        let mut timer = std::pin::pin!(sleep_until(deadline));
        poll_fn(|cx| {
            if let Poll::Ready(output) = Pin::new(&mut call).poll(cx) {
                return Poll::Ready(Some(output));
            }
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await
    };
    ended.ok_or(call)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn what_has_not_ended_by_the_instant_is_given_back_and_can_go_on() {
        let start = Instant::now();
        let call = Box::pin(async {
            sleep(TICK * 3).await;
            7
        });
        let call = by(Some(start + TICK), call).await.unwrap_err();
        assert_eq!(start.elapsed(), TICK);
        assert_eq!(call.await, 7);
        assert_eq!(start.elapsed(), TICK * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_or_at_the_last_moment_counts() {
        let start = Instant::now();
        assert!(by(Some(start + TICK), Box::pin(sleep(TICK))).await.is_ok());
        assert!(by(None, Box::pin(sleep(TICK * 100))).await.is_ok());
        // Even where the instant has passed already.
        assert!(
            by(Some(start), Box::pin(std::future::ready(())))
                .await
                .is_ok()
        );
        assert!(by(Some(start), Box::pin(sleep(TICK))).await.is_err());
    }
}
