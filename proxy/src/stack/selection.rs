use std::sync::Arc;

use bytestring::ByteString;
use http::{HeaderMap, HeaderName};
use outrigger_filters::{
    deadline::{Expired, Stage},
    inference::{Code, Error, Request, Response},
    overload::{Bound, Overloaded},
    select::{Available, Blame, Context, Knows, Learner, Select, ShadowView},
};
use tower::Service as _;

use super::{
    Arm,
    checking::Checking,
    infer::{AskedArm, NotServed, NotUnderstood},
    model::primary,
};
use crate::upstream::{self, Cause, Unreadable, verdict};

/// Which of a model's arms answers, and what was learned of them.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    select: Select<AskedArm>,
    /// By which callers are told apart.
    context: Option<HeaderName>,
    /// Who checks the default output; for its end.
    _checking: Option<Arc<Checking>>,
}

impl Selection {
    /// Selects among a model's arms; requests are read for the first one that answers.
    pub(super) fn new(learner: Learner, arms: &[Arc<Arm>]) -> Option<Self> {
        let primary = primary(arms)?;
        let context = learner.config().context.as_ref();
        let context = context.and_then(|context| context.header.parse().ok());
        let spoken = primary.upstream().protocol();
        let is_mixed = arms.iter().any(|arm| arm.upstream().protocol() != spoken);
        let is_joined = is_mixed && learner.config().asks_all();
        let asked = arms.iter().map(|arm| {
            let service = AskedArm::new(arm.clone(), primary.clone(), is_joined);
            (arm.settings().selectable(), service)
        });
        let described = primary.clone();
        let knows = Knows {
            blame,
            is_expired,
            signature: Arc::new(move || {
                let description = described.learned().description()?;
                description.signature("").cloned()
            }),
        };
        Some(Self {
            _checking: Checking::begin(&learner, primary).map(Arc::new),
            select: Select::new(learner, asked, knows),
            context,
        })
    }

    /// Returns what was learned.
    pub(super) fn learner(&self) -> &Learner {
        self.select.learner()
    }

    /// Returns whose call it is, as far as selection tells callers apart.
    pub(super) fn context(&self, headers: &HeaderMap) -> Option<ByteString> {
        let value = headers.get(self.context.as_ref()?)?;
        let text = std::str::from_utf8(value.as_bytes()).ok();
        text.filter(|text| !text.is_empty()).map(Context::name)
    }

    /// Asks the arm that is chosen, or all.
    pub(super) async fn ask(&self, request: Request) -> Result<Response, Error> {
        self.select.clone().call(request).await
    }

    /// Returns what the arms say to inputs that feedback is about.
    pub(super) async fn predictions(&self, request: &Request) -> Vec<Result<Response, Error>> {
        self.select.predictions(request).await
    }

    /// Returns which of the arms that answer are asked at the moment.
    pub(super) fn available(&self) -> Available {
        self.select.available()
    }

    /// Returns what shadows have answered.
    pub(super) fn shadows(&self) -> impl Iterator<Item = ShadowView> {
        self.select.shadows()
    }
}

/// Tells whose fault it is that an arm gave no answer.
fn blame(error: &Error) -> Blame {
    let first: &(dyn std::error::Error + 'static) = &**error;
    std::iter::successors(Some(first), |&cause| cause.source())
        .find_map(blamed)
        .unwrap_or(Blame::Caller)
}

/// Tells whether a call failed because its time was up, or would have been.
fn is_expired(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = &**error;
    let mut causes = std::iter::successors(Some(first), |&cause| cause.source());
    let too_late = causes.any(|cause| {
        let overloaded = cause.downcast_ref::<Overloaded>();
        overloaded.is_some_and(|overloaded| overloaded.bound() == Bound::Wait)
    });
    too_late || expired_at(first).is_some()
}

/// Returns where a request was when its time was up, if that is why there is no answer.
pub(super) fn expired_at(error: &(dyn std::error::Error + 'static)) -> Option<Stage> {
    std::iter::successors(Some(error), |&cause| cause.source()).find_map(|cause| {
        if let Some(expired) = cause.downcast_ref::<Expired>() {
            return Some(expired.stage());
        }
        let status = verdict(cause)?;
        (status.code() == Code::DeadlineExceeded).then_some(Stage::Server)
    })
}

fn blamed(cause: &(dyn std::error::Error + 'static)) -> Option<Blame> {
    if cause.is::<NotServed>() {
        return Some(Blame::Unreached);
    }
    if cause.is::<Overloaded>() {
        return Some(Blame::Busy);
    }
    match cause.downcast_ref::<Expired>() {
        Some(expired) if expired.is_under_way() => return Some(Blame::Arm),
        // It was never sent: another arm may have time for it.
        Some(expired) if expired.is_unsent() => return Some(Blame::Busy),
        _ => {}
    }
    if cause.is::<NotUnderstood>() {
        return Some(Blame::Arm);
    }
    if let Some(status) = verdict(cause) {
        return Some(match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss => Blame::Arm,
            Code::ResourceExhausted => Blame::Busy,
            _ => Blame::Caller,
        });
    }
    if let Some(unreadable) = cause.downcast_ref::<Unreadable>() {
        return Some(match unreadable.is_too_large() {
            true => Blame::Caller,
            false => Blame::Arm,
        });
    }
    let error = cause.downcast_ref::<upstream::Error>()?;
    Some(match error.cause() {
        Cause::Connect(_) | Cause::Backoff(..) | Cause::NoEndpoint => Blame::Unreached,
        // What this end ends is the caller's doing.
        Cause::Http2(error) if error.is_reset() && !error.is_remote() => Blame::Caller,
        Cause::Http2(_) | Cause::Http1(_) => Blame::Arm,
        Cause::Body(_) | Cause::Request(_) | Cause::Expired(_) => Blame::Caller,
    })
}
