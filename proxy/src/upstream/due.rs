use http::Request;
use outrigger_filters::deadline::Expired;
use tokio::time::Instant;

use super::Cause;
use crate::{
    body::Body,
    codec::grpc::timeout::{self, NAME},
    detect::is_grpc,
};

/// Until when a call is wanted: it goes with the request until that is sent, for which it may have
/// to wait for a connection, or to be sent a second time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due(Instant);

impl Due {
    /// Says of a request until when its answer is wanted.
    pub(super) fn put(deadline: Option<Instant>, request: &mut Request<Body>) {
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Self(deadline));
        }
    }

    /// Tells a gRPC server the time that is left, at the moment at which the request is sent.
    ///
    /// # Errors
    ///
    /// Fails where none is left: such a request is not sent.
    pub(super) fn tell(request: &mut Request<Body>) -> Result<(), Cause> {
        let Some(Self(deadline)) = request.extensions().get().copied() else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Cause::Expired(Expired::new()));
        }
        if is_grpc(request.headers()) {
            request.headers_mut().insert(NAME, timeout::format(left));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call(deadline: Option<Instant>) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        let content_type = "application/grpc".parse().unwrap();
        request.headers_mut().insert("content-type", content_type);
        Due::put(deadline, &mut request);
        request
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_told_that_is_left_when_a_request_is_sent() {
        let mut request = call(Some(Instant::now() + Duration::from_millis(30)));
        for told in ["30000000n", "20000000n"] {
            Due::tell(&mut request).unwrap();
            assert_eq!(request.headers()[NAME], told);
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        tokio::time::advance(Duration::from_millis(10)).await;
        let late = Due::tell(&mut request);
        assert!(matches!(late, Err(Cause::Expired(_))), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_told_where_there_is_no_deadline_or_no_grpc() {
        let mut request = call(None);
        Due::tell(&mut request).unwrap();
        assert!(!request.headers().contains_key(NAME));
        let mut rest = call(Some(Instant::now() + Duration::from_millis(30)));
        rest.headers_mut().clear();
        Due::tell(&mut rest).unwrap();
        assert!(rest.headers().is_empty());
    }
}
