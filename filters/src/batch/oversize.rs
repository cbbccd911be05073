//! Requests with more rows than a call may have: in parts, whose answers are joined.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::inference::{Error, Report, Response, join};

/// The answer to a request that was divided: those of its parts, joined in their order.
///
/// ```text
///         .-- part 1: answered
/// request +-- part 2: under way       all answered --> join --> the answer
///         '-- part 3: waits           one failed   --> its error; the others are dropped
/// ```
///
/// A part that is dropped leaves the queue, as any request whose caller has left; so do all of
/// them when this future is dropped. A part that is under way with others goes on for those.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub(super) struct Divided<F> {
    parts: Vec<Part<F>>,
}

#[derive(Debug)]
struct Part<F> {
    rows: usize,
    /// Dropped as soon as it has answered, with all that it holds.
    under_way: Option<Pin<Box<F>>>,
    answer: Option<Response>,
}

/// Returns the rows of the parts into which a request is divided: as few as there can be of the
/// limit each, the last one less; or `None` where it need not be divided or cannot.
///
/// Where those were more parts than [`MOST_PARTS`], they are larger, up to the `most` rows that
/// any call may have.
pub(super) fn sizes(rows: usize, limit: usize, most: usize) -> Option<Vec<usize>> {
    let part = limit.max(rows.div_ceil(MOST_PARTS)).max(1);
    if rows <= part || part > most {
        return None;
    }
    let (whole, left) = (rows / part, rows % part);
    let mut sizes = vec![part; whole];
    sizes.extend((left > 0).then_some(left));
    Some(sizes)
}

impl<F> Divided<F> {
    /// Waits for the parts of a request, each with the number of its rows, in their order.
    pub(super) fn new(parts: impl IntoIterator<Item = (usize, F)>) -> Self {
        let part = |(rows, future)| Part {
            rows,
            under_way: Some(Box::pin(future)),
            answer: None,
        };
        Self {
            parts: parts.into_iter().map(part).collect(),
        }
    }
}

impl<F: Future<Output = Result<Response, Error>>> Future for Divided<F> {
    type Output = Result<Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut waits = false;
        for part in &mut self.parts {
            let Some(under_way) = &mut part.under_way else {
                continue;
            };
            match under_way.as_mut().poll(cx) {
                Poll::Pending => waits = true,
                Poll::Ready(Ok(answer)) => {
                    part.under_way = None;
                    part.answer = Some(answer);
                }
                Poll::Ready(Err(error)) => {
                    self.parts.clear();
                    return Poll::Ready(Err(error));
                }
            }
        }
        if waits {
            return Poll::Pending;
        }
        let parts = std::mem::take(&mut self.parts);
        let answers = parts
            .into_iter()
            .filter_map(|part| Some((part.rows, part.answer?)));
        let mut report = Report::default();
        let joined = join(answers.inspect(|(_, answer)| include(&mut report, &answer.report)));
        Poll::Ready(joined.map_err(Into::into).map(|mut joined| {
            joined.report = report;
            joined
        }))
    }
}

/// Adds what is said of a part: the largest call, and the longest times.
fn include(report: &mut Report, part: &Report) {
    report.batch_rows = report.batch_rows.max(part.batch_rows);
    report.batch_members = report.batch_members.max(part.batch_members);
    report.batch_limit = report.batch_limit.max(part.batch_limit);
    report.batch_reason = Some(SPLIT);
    report.queue = report.queue.max(part.queue);
    report.upstream = report.upstream.max(part.upstream);
}

/// What is said of a request that was divided, in place of what is said of its parts.
const SPLIT: &str = "split";
/// The most parts of a request: each is polled whenever one of them wakes, and so many are done
/// with in a tenth of a millisecond.
const MOST_PARTS: usize = 64;

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker, time::Duration};

    use bytes::Bytes;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;
    use crate::inference::{
        Datatype, Form, Parameters, Payload, ResponseParts, Shape, Status, Tensor, Uneven,
    };

    /// What the test answers, and whether anybody still waits for it.
    type Hand = Arc<Mutex<Option<Result<Response, Error>>>>;

    struct Held(Hand);

    impl Future for Held {
        type Output = Result<Response, Error>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            match self.0.lock().take() {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            }
        }
    }

    fn divided(rows: &[usize]) -> (Divided<Held>, Vec<Hand>) {
        let hands: Vec<Hand> = rows.iter().map(|_| Hand::default()).collect();
        let parts = rows
            .iter()
            .zip(&hands)
            .map(|(rows, hand)| (*rows, Held(Arc::clone(hand))));
        (Divided::new(parts), hands)
    }

    fn poll(divided: &mut Divided<Held>) -> Poll<Result<Response, Error>> {
        Pin::new(divided).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn is_held(hand: &Hand) -> bool {
        Arc::strong_count(hand) > 1
    }

    fn answer(rows: &[u8]) -> Response {
        Response::from(ResponseParts {
            model: "m".into(),
            id: "i".into(),
            outputs: vec![Tensor {
                name: "y".into(),
                datatype: Datatype::Uint8,
                shape: Shape::new([rows.len() as i64]),
                parameters: Parameters::default(),
                data: Payload::from(Bytes::copy_from_slice(rows)),
                form: Form::Raw,
                unknown: Payload::new(),
            }],
            ..ResponseParts::default()
        })
    }

    fn reported(mut answer: Response, rows: usize, queue: u64, upstream: u64) -> Response {
        answer.report = Report {
            batch_rows: Some(rows),
            queue: Some(Duration::from_millis(queue)),
            upstream: Some(Duration::from_millis(upstream)),
            ..Report::default()
        };
        answer
    }

    #[test]
    fn answers_are_joined_in_the_order_of_the_parts_whoever_is_first() {
        let (mut whole, hands) = divided(&[2, 2, 1]);
        assert!(poll(&mut whole).is_pending());
        *hands[2].lock() = Some(Ok(reported(answer(&[5]), 40, 9, 1)));
        *hands[0].lock() = Some(Ok(reported(answer(&[1, 2]), 2, 0, 7)));
        assert!(poll(&mut whole).is_pending());
        assert!(is_held(&hands[1]) && !is_held(&hands[0]) && !is_held(&hands[2]));
        *hands[1].lock() = Some(Ok(reported(answer(&[3, 4]), 2, 7, 3)));
        let Poll::Ready(Ok(joined)) = poll(&mut whole) else {
            panic!("all parts have answered");
        };
        let output = &joined.outputs[0];
        assert_eq!(output.shape, Shape::new([5]));
        assert_eq!(output.data.to_bytes(), &[1, 2, 3, 4, 5][..]);
        assert_eq!(&*joined.id, "i");
        let mut expected = reported(answer(&[]), 40, 9, 7).report;
        expected.batch_reason = Some(SPLIT);
        assert_eq!(joined.report, expected);
    }

    #[test]
    fn a_part_that_fails_fails_the_whole_and_the_others_are_let_go() {
        let (mut whole, hands) = divided(&[2, 2, 1]);
        *hands[0].lock() = Some(Ok(answer(&[1, 2])));
        *hands[1].lock() = Some(Err(Uneven::NoOutputs.into()));
        let Poll::Ready(Err(error)) = poll(&mut whole) else {
            panic!("a part has failed");
        };
        assert!(error.is::<Uneven>() && !error.is::<Status>());
        assert!(!hands.iter().any(is_held));
    }

    #[test]
    fn dropping_the_whole_drops_its_parts() {
        let (mut whole, hands) = divided(&[1, 1]);
        assert!(poll(&mut whole).is_pending());
        drop(whole);
        assert!(!hands.iter().any(is_held));
    }

    #[test]
    fn a_part_that_answers_fewer_rows_is_never_an_answer() {
        let (mut whole, hands) = divided(&[2, 2]);
        *hands[0].lock() = Some(Ok(answer(&[1])));
        *hands[1].lock() = Some(Ok(answer(&[2, 3, 4])));
        let Poll::Ready(Err(error)) = poll(&mut whole) else {
            panic!("rows are not where they belong");
        };
        assert!(matches!(
            error.downcast_ref(),
            Some(Uneven::Rows {
                expected: 2,
                found: Some(1)
            })
        ));
    }

    proptest! {
        #[test]
        fn sizes_are_all_of_the_rows_in_few_parts_that_a_call_may_have(
            rows in 0..100_000_usize,
            limit in 0..5000_usize,
            most in 0..5000_usize,
        ) {
            match sizes(rows, limit, most) {
                Some(sizes) => {
                    prop_assert_eq!(sizes.iter().sum::<usize>(), rows);
                    prop_assert!((2..=MOST_PARTS).contains(&sizes.len()));
                    prop_assert!(sizes.iter().all(|size| (1..=most).contains(size)));
                    prop_assert!(sizes[0] == limit || sizes[0] == rows.div_ceil(MOST_PARTS) || limit == 0);
                }
                None => prop_assert!(rows <= limit || most < limit || rows.div_ceil(MOST_PARTS) > most || rows <= 1),
            }
        }
    }
}
