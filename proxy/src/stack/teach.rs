//! Feedback on a listener: found the model that it is of, and told to what learns of its arms.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use http::HeaderMap;
use outrigger_filters::{
    inference::{self, Form, Method, RequestParts},
    select::{self, Context, Feedback, Learner, Token},
};
use tokio::time::timeout;

use super::{Model, Route};
use crate::{
    config::Protocol,
    detect::Inference,
    feedback::{Applied, Applies, Cause, Item, Rejected, Standings, Subject},
    wire,
};

impl Applies for Route {
    fn form(&self, model: &str) -> Form {
        let model = self.models.get(model);
        // What is not like it is said anew for each arm.
        model.map_or(Form::Raw, |model| model.primary().form(None))
    }

    async fn apply(&self, item: Item) -> Result<Applied, Rejected> {
        let (subject, feedback) = item.into_parts();
        match subject {
            Subject::Prediction(id) => self.of_prediction(&id, &feedback),
            Subject::Inputs { request, protocol } => {
                self.of_inputs(*request, protocol, &feedback).await
            }
        }
    }

    fn standings(&self, model: &str, context: Option<&str>) -> Standings {
        let model = self.models.get(model);
        let Some(selection) = model.and_then(|model| model.selection()) else {
            return Standings::new();
        };
        let standings = selection
            .learner()
            .standings(context, selection.available());
        let named = standings.into_iter();
        named
            .map(|standing| (standing.arm.clone(), standing.into()))
            .collect()
    }
}

impl Route {
    /// Tells whether feedback is taken here, because there is something to teach.
    pub(super) fn learns(&self) -> bool {
        self.models
            .values()
            .any(|model| model.selection().is_some())
    }

    fn of_prediction(&self, id: &str, feedback: &Feedback) -> Result<Applied, Rejected> {
        let learners = || self.models.values().filter_map(|model| model.learner());
        // The keys are the same for all models: any of them tells whose the prediction is.
        let first = learners()
            .next()
            .ok_or_else(|| nobody("no model has a selection"))?;
        let token = first.open(id).inspect_err(|rejected| {
            // It is counted with the model that it says it is of.
            let claimed = Token::claims(id);
            let of = learners().find(|learner| Some(learner.digest()) == claimed);
            if let Some(learner) = of {
                learner.refused(rejected);
            }
        })?;
        let learner = learners()
            .find(|learner| learner.is_of(&token))
            .ok_or_else(|| nobody("the model of this prediction is not configured any more"))?;
        let applied = learner.report(&token, feedback)?;
        Ok(told(learner, token.context, applied))
    }

    async fn of_inputs(
        &self,
        request: RequestParts,
        protocol: Protocol,
        feedback: &Feedback,
    ) -> Result<Applied, Rejected> {
        let name = &request.head.model;
        let model = self.models.get(name);
        let Some((model, selection)) = model.and_then(|model| Some((model, model.selection()?)))
        else {
            let words = format!("model `{name}` is not configured, or has no selection");
            return Err(nobody(words));
        };
        let learner = selection.learner();
        if learner.config().freeze {
            return Err(select::Rejected::Frozen.into());
        }
        let context = request
            .head
            .context
            .as_deref()
            .filter(|name| !name.is_empty());
        let context = context.filter(|_| learner.config().context.is_some());
        let context = context.map(Context::name);
        let request = question(model, request, protocol, self.max_message);
        let answers = timeout(PATIENCE, selection.predictions(&request)).await;
        let Ok(answers) = answers else {
            let words = format!("the arms did not answer within {} s", PATIENCE.as_secs());
            return Err(Rejected::new(Cause::Unavailable, words));
        };
        if answers.iter().all(Result::is_err) {
            let reason = answers.into_iter().find_map(Result::err);
            let reason = reason.map(|error| error.to_string()).unwrap_or_default();
            let words = format!("no arm answered to these inputs: {reason}");
            return Err(Rejected::new(Cause::Unavailable, words));
        }
        let answers: Vec<_> = answers.into_iter().map(Result::ok).collect();
        let applied = learner.judge(context.as_deref(), &answers, feedback)?;
        Ok(told(learner, context, applied))
    }
}

/// Makes a request of inputs that no call has asked for; each arm reads them for its own server.
fn question(
    model: &Model,
    parts: RequestParts,
    protocol: Protocol,
    max_message: usize,
) -> inference::Request {
    let said = Arc::new(parts);
    let call = wire::Call {
        inference: Inference {
            protocol,
            method: Method::Infer,
            target: None,
            query: false,
        },
        headers: HeaderMap::new(),
        body: Bytes::new(),
        json_len: None,
        description: None,
        max_message,
        said: Some(said.clone()),
    };
    let request = inference::Request::from((*said).clone()).with_origin(Arc::new(call));
    model.primary().without_ignored_headers(request)
}

fn told(learner: &Learner, context: Option<ByteString>, applied: select::Applied) -> Applied {
    Applied {
        model: learner.model().clone(),
        context,
        duplicate: applied == select::Applied::Duplicate,
    }
}

fn nobody(words: impl Into<String>) -> Rejected {
    Rejected::new(Cause::Model, words)
}

/// How long arms may take to answer inputs that feedback is about: nobody else waits for them.
const PATIENCE: Duration = Duration::from_secs(30);
