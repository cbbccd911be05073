use outrigger_filters::inference::{Code, Error};

use super::{Cause, Endpoint, Unreadable, verdict};

/// Tells whether an endpoint is to blame for a call that failed, as far as its own word or the end
/// of its connection says so.
///
/// What the caller may have done wrong is no fault of the endpoint's, nor that it has too much to
/// do: that is found by the time that calls take. One that cannot be reached is left alone for
/// that already.
pub(crate) fn blames(endpoint: &Endpoint, error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = &**error;
    std::iter::successors(Some(first), |&cause| cause.source())
        .find_map(|cause| blame(endpoint, cause))
        .unwrap_or(false)
}

fn blame(endpoint: &Endpoint, cause: &(dyn std::error::Error + 'static)) -> Option<bool> {
    if let Some(status) = verdict(cause) {
        return Some(matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Internal
                | Code::Unknown
                | Code::DataLoss
        ));
    }
    if let Some(unreadable) = cause.downcast_ref::<Unreadable>() {
        return Some(!unreadable.is_too_large());
    }
    let error = cause.downcast_ref::<super::Error>()?;
    // A call may have gone on elsewhere.
    if error.endpoint() != Some(endpoint.authority()) {
        return Some(false);
    }
    Some(match error.cause() {
        // What this end ends is the caller's doing.
        Cause::Http2(error) => !error.is_reset() || error.is_remote(),
        Cause::Http1(_) => true,
        Cause::Connect(_)
        | Cause::Backoff(..)
        | Cause::NoEndpoint
        | Cause::Body(_)
        | Cause::Request(_)
        | Cause::Expired(_) => false,
    })
}

/// Tells whether a call failed because its connection was lost after the server may have seen it, so
/// that nobody knows what became of it. A server that resets a stream has said something, and one that
/// cannot be reached was tried at all its endpoints already.
pub(crate) fn is_lost(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = &**error;
    std::iter::successors(Some(first), |&cause| cause.source())
        .find_map(|cause| cause.downcast_ref::<super::Error>())
        .is_some_and(|error| match error.cause() {
            Cause::Http2(error) => !error.is_reset(),
            // What is no HTTP was an answer, and would be the same again.
            Cause::Http1(error) => !error.is_parse() && !error.is_user(),
            Cause::Connect(_)
            | Cause::Backoff(..)
            | Cause::NoEndpoint
            | Cause::Body(_)
            | Cause::Request(_)
            | Cause::Expired(_) => false,
        })
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use outrigger_filters::inference::Status;

    use super::*;
    use crate::{
        config::{HttpVersion, Protocol},
        upstream::Connector,
    };

    #[test]
    fn the_callers_faults_are_not_the_endpoints() {
        let endpoint = Endpoint::new(
            http::uri::Authority::from_static("a:1"),
            Protocol::OipGrpc,
            HttpVersion::Http2,
            Connector::new(|_| std::future::pending()),
        );
        for code in Code::ALL {
            let name = code.name();
            let blamed = [
                "UNAVAILABLE",
                "DEADLINE_EXCEEDED",
                "INTERNAL",
                "UNKNOWN",
                "DATA_LOSS",
            ]
            .contains(&name);
            let status: Error = Status::new(code, "").into();
            assert_eq!(blames(&endpoint, &status), blamed, "{name}");
        }
        let reset = || Cause::Http2(Arc::new(h2::Reason::INTERNAL_ERROR.into()));
        let connect = Cause::Connect(Arc::new(io::ErrorKind::ConnectionRefused.into()));
        let at = |authority, cause| super::super::Error::new(authority, cause).into();
        let here = || Some(endpoint.authority().clone());
        let elsewhere = Some(http::uri::Authority::from_static("b:1"));
        for (error, blamed) in [
            (at(here(), reset()), true),
            (at(elsewhere, reset()), false),
            (at(here(), connect), false),
            (at(here(), Cause::NoEndpoint), false),
            (io::Error::from(io::ErrorKind::NotFound).into(), false),
        ] {
            assert_eq!(blames(&endpoint, &error), blamed, "{error}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_lost_and_a_stream_that_is_reset_is_not() {
        let of = |cause| Error::from(super::super::Error::new(None, cause));
        let (near, far) = tokio::io::duplex(64);
        drop(far);
        let broken = h2::server::handshake(near).await.expect_err("it is gone");
        assert!(is_lost(&of(Cause::Http2(Arc::new(broken)))));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let told: Error = Status::new(Code::Unavailable, "").into();
        for kept in [
            of(Cause::Connect(Arc::new(refused))),
            of(Cause::NoEndpoint),
            told,
        ] {
            assert!(!is_lost(&kept), "{kept}");
        }
    }
}
