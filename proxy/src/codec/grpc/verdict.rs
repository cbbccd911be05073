use http::HeaderMap;
use outrigger_filters::inference::{Code, Status};

use super::{message, metadata};

/// Reads how a call ended: `grpc-status`, `grpc-message` and what else came with them.
///
/// The verdict stands in the trailers, or in the headers where the server sent nothing else. A
/// number that gRPC does not define, or none at all, is `UNKNOWN`.
pub fn verdict(headers: &HeaderMap, trailers: &HeaderMap) -> Result<(), Status> {
    let spoken = [trailers, headers]
        .into_iter()
        .find_map(|map| map.get("grpc-status").map(|number| (map, number)));
    let status = match spoken {
        None => Status::new(
            Code::Unknown,
            "the server ended its answer without a status",
        ),
        Some((map, number)) => match code(number.as_bytes()) {
            Code::Ok => return Ok(()),
            code => {
                let words = map
                    .get("grpc-message")
                    .map(|words| message::decode(words.as_bytes()));
                Status::new(code, words.unwrap_or_default())
            }
        },
    };
    Err(status.with_metadata(metadata::of_answer(headers), metadata::of_answer(trailers)))
}

fn code(number: &[u8]) -> Code {
    std::str::from_utf8(number)
        .ok()
        .and_then(|number| number.parse().ok())
        .map_or(Code::Unknown, Code::from_number)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn details_and_words_are_kept() {
        let trailers = map(&[
            ("grpc-status", "8"),
            ("grpc-message", "queue is full%21"),
            ("grpc-status-details-bin", "CAgSBWhlbGxv"),
        ]);
        let status =
            verdict(&map(&[("server", "triton")]), &trailers).expect_err("8 is no success");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "queue is full!");
        let details: Vec<_> = status.trailers().iter().map(|(name, _)| &**name).collect();
        assert_eq!(details, ["grpc-status-details-bin"]);
        assert_eq!(status.headers().iter().count(), 1);
    }

    #[test]
    fn a_verdict_may_stand_in_the_headers_alone() {
        let status = verdict(&map(&[("grpc-status", "5")]), &HeaderMap::new());
        assert_eq!(status.expect_err("5 is no success").code(), Code::NotFound);
    }

    #[test]
    fn no_verdict_is_no_success() {
        for trailers in [
            map(&[]),
            map(&[("grpc-status", "x")]),
            map(&[("grpc-status", "99")]),
        ] {
            let status = verdict(&HeaderMap::new(), &trailers).expect_err("it is no success");
            assert_eq!(status.code(), Code::Unknown);
        }
        assert_eq!(
            verdict(&HeaderMap::new(), &map(&[("grpc-status", "0")])),
            Ok(())
        );
    }
}
