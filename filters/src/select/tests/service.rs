//! Selection over arms that the test plays, on a paused clock.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, advance},
};
use tower::{Service, ServiceExt as _};

use super::{super::*, answer, floats, integers, numbers_of};
use crate::deadline::Expired;
use crate::inference::{DefaultReason, Error, Request, RequestParts, Response, SelectionReport};

/// An arm that the test plays.
#[derive(Clone, Debug)]
struct Played {
    name: &'static str,
    calls: mpsc::UnboundedSender<Call>,
}

/// A request that an arm was asked.
#[derive(Debug)]
struct Call {
    arm: &'static str,
    reply: oneshot::Sender<Result<Response, Error>>,
}

/// Why a played arm gives no answer.
#[derive(Debug)]
struct Fails(Blame);

#[derive(Debug)]
struct Script {
    select: Select<Played>,
    calls: mpsc::UnboundedReceiver<Call>,
}

type Caller = JoinHandle<Result<Response, Error>>;

impl std::fmt::Display for Fails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Fails {}

impl Service<Request> for Played {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        let (reply, answer) = oneshot::channel();
        let arm = self.name;
        let sent = self.calls.send(Call { arm, reply });
        Box::pin(async move {
            sent.map_err(|_| "the test is over")?;
            answer.await.map_err(|_| "the arm hung up")?
        })
    }
}

impl Call {
    /// Answers with a label for each row.
    fn says(self, labels: &[i64]) {
        let rows = labels.len() as i64;
        let response = answer(vec![integers("label", &[rows], labels)]);
        // A caller may have left.
        let _ = self.reply.send(Ok(response));
    }

    /// Answers with a number.
    fn says_number(self, number: f32) {
        let _ = self
            .reply
            .send(Ok(answer(vec![floats("y", &[1, 1], &[number])])));
    }

    fn fails(self, blame: Blame) {
        let _ = self.reply.send(Err(Fails(blame).into()));
    }
}

fn blame(error: &Error) -> Blame {
    error
        .downcast_ref()
        .map_or(Blame::Caller, |Fails(blame)| *blame)
}

fn knows() -> Knows {
    Knows {
        blame,
        is_expired: |_| false,
        signature: std::sync::Arc::new(|| None),
    }
}

fn config(policy: Policy) -> Config {
    Config {
        policy,
        seed: Some(7),
        ..Config::default()
    }
}

impl Script {
    fn new(config: Config, arms: &[&'static str]) -> Self {
        Self::with(
            config,
            arms.iter().map(|arm| (*arm, Arm::new(*arm))),
            |_| {},
        )
    }

    fn with(
        config: Config,
        arms: impl Iterator<Item = (&'static str, Arm)>,
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let arms: Vec<_> = arms.collect();
        let all: Vec<Arm> = arms.iter().map(|(_, arm)| arm.clone()).collect();
        let answering = || all.iter().filter(|arm| arm.shadow.is_none()).cloned();
        let names = answering().map(|arm| arm.name).collect();
        let answering: Vec<Arm> = answering().collect();
        let selector = Selector::new(&config, &answering);
        let mut parts = Parts {
            model: "digits".into(),
            memory: Memory::new(selector, 100, names),
            config,
            arms: answering,
            keys: Keys::new(b"0123456789abcdef", None).unwrap(),
            max_age: Duration::from_secs(3600),
            default_output: None,
            min_confidence: None,
            quorum: None,
            ends_early: false,
            fair: Duration::from_millis(20),
            ledger: None,
            metrics: Metrics::register(&mut Registry::default()).handles("digits", &all),
        };
        change(&mut parts);
        let services = arms.into_iter().map(|(name, arm)| {
            let calls = sender.clone();
            (arm, Played { name, calls })
        });
        Self {
            select: Select::new(Learner::new(parts), services, knows()),
            calls,
        }
    }

    fn send(&self) -> Caller {
        self.send_by(None)
    }

    fn send_by(&self, deadline: Option<Instant>) -> Caller {
        let mut parts = RequestParts::default();
        parts.head.deadline = deadline;
        tokio::spawn(self.select.clone().oneshot(Request::from(parts)))
    }

    async fn call(&mut self) -> Call {
        self.calls.recv().await.expect("an arm is asked")
    }

    /// Takes the calls of all arms, by the names of the arms.
    async fn calls(&mut self, count: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        for _ in 0..count {
            calls.push(self.call().await);
        }
        calls.sort_by_key(|call| call.arm);
        calls
    }

    /// Tells that no arm is asked at the moment.
    async fn is_quiet(&mut self) -> bool {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.calls.try_recv().is_err()
    }

    fn losses(&self) -> Vec<(f64, f64)> {
        let state = self.select.learner().memory().state(None);
        let told = |arm: &Learned| (arm.observations, arm.loss);
        state.arms.iter().map(told).collect()
    }

    fn tell(&self, id: &str, outcome: Outcome, row: Option<u32>) -> Result<Applied, Rejected> {
        let learner = self.select.learner();
        learner.report(&learner.open(id)?, &Feedback { outcome, row })
    }
}

fn report(response: &Response) -> &SelectionReport {
    response
        .report
        .selection
        .as_deref()
        .expect("an arm was selected")
}

fn id(response: &Response) -> String {
    report(response)
        .prediction_id
        .as_deref()
        .expect("it has an id")
        .to_owned()
}

fn label(label: i64) -> Outcome {
    Outcome::Label(vec![Some(label.into())])
}

fn loss(loss: f64) -> Outcome {
    Outcome::Loss(vec![Some(loss)])
}

#[tokio::test(start_paused = true)]
async fn the_arm_that_answered_is_named_and_taught() {
    let mut script = Script::new(config(Policy::USUAL[2]), &["a", "b"]);
    for _ in 0..20 {
        let caller = script.send();
        let call = script.call().await;
        let arm = call.arm;
        call.says(&[3]);
        let response = caller.await.unwrap().unwrap();
        assert_eq!(report(&response).arm.as_deref(), Some(arm));
        let place = usize::from(arm == "b");
        let before = script.losses();
        let told = script.tell(&id(&response), label(4), None);
        assert_eq!(told, Ok(Applied::Learned { arms: 1 }));
        let mut expected = before;
        expected[place].0 += 1.;
        expected[place].1 += 1.;
        assert_eq!(script.losses(), expected);
        assert_eq!(
            script.tell(&id(&response), label(4), None),
            Ok(Applied::Duplicate)
        );
        assert_eq!(script.losses(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_reach_its_arm_is_sent_to_another_one() {
    let mut script = Script::new(config(Policy::Fixed), &["a", "b"]);
    let caller = script.send();
    let first = script.call().await;
    let down = first.arm;
    first.fails(Blame::Unreached);
    let second = script.call().await;
    assert_ne!(second.arm, down);
    second.says(&[1]);
    let response = caller.await.unwrap().unwrap();
    assert_eq!(report(&response).unreached, 1);
    assert!(
        (report(&response).probability - 1.).abs() < 1e-9,
        "no other was left"
    );
    // A failure counts as the worst loss.
    assert_eq!(script.losses()[usize::from(down == "b")], (1., 1.));
    // It is left out while it is down, and is asked again afterwards.
    let mut asked = std::collections::HashSet::new();
    for _ in 0..50 {
        let caller = script.send();
        let call = script.call().await;
        asked.insert(call.arm);
        call.says(&[1]);
        caller.await.unwrap().unwrap();
    }
    assert!(!asked.contains(down));
    advance(Duration::from_secs(2)).await;
    for _ in 0..50 {
        let caller = script.send();
        let call = script.call().await;
        asked.insert(call.arm);
        call.says(&[1]);
        caller.await.unwrap().unwrap();
    }
    assert!(asked.contains(down), "it is back");
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_sent_is_not_sent_again() {
    let mut script = Script::new(config(Policy::Fixed), &["a", "b"]);
    let caller = script.send();
    script.call().await.fails(Blame::Arm);
    assert!(caller.await.unwrap().is_err());
    assert!(script.is_quiet().await);
    let told: f64 = script.losses().iter().map(|(count, _)| count).sum();
    assert_eq!(told, 1.);
}

#[tokio::test(start_paused = true)]
async fn the_callers_faults_and_a_full_arm_teach_nothing() {
    let mut script = Script::new(config(Policy::Fixed), &["a", "b"]);
    for _ in 0..10 {
        let caller = script.send();
        script.call().await.fails(Blame::Caller);
        assert!(caller.await.unwrap().is_err());
    }
    // Who has too much to do has not taken it: the other one is asked.
    let caller = script.send();
    let full = script.call().await;
    let name = full.arm;
    full.fails(Blame::Busy);
    let other = script.call().await;
    assert_ne!(other.arm, name);
    other.fails(Blame::Busy);
    assert!(caller.await.unwrap().is_err());
    assert_eq!(script.losses(), [(0., 0.); 2]);
    assert_eq!(script.select.available().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn while_all_arms_are_down_they_are_asked_nevertheless() {
    let mut script = Script::new(config(Policy::Fixed), &["a", "b"]);
    let caller = script.send();
    script.call().await.fails(Blame::Unreached);
    script.call().await.fails(Blame::Unreached);
    assert!(caller.await.unwrap().is_err());
    let caller = script.send();
    script.call().await.says(&[1]);
    assert!(caller.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_frozen_selection_learns_nothing_and_says_so() {
    let frozen = Config {
        freeze: true,
        ..config(Policy::USUAL[2])
    };
    let mut script = Script::new(frozen, &["a", "b"]);
    let caller = script.send();
    script.call().await.says(&[3]);
    let response = caller.await.unwrap().unwrap();
    assert_eq!(
        script.tell(&id(&response), loss(1.), None),
        Err(Rejected::Frozen)
    );
    assert_eq!(script.losses(), [(0., 0.); 2]);
}

#[tokio::test(start_paused = true)]
async fn feedback_speaks_of_the_rows_that_there_are() {
    let mut script = Script::new(config(Policy::USUAL[2]), &["a"]);
    let caller = script.send();
    script.call().await.says(&[1]);
    let response = caller.await.unwrap().unwrap();
    let id = id(&response);
    let rows = |rows, told| Err(Rejected::Rows { rows, told });
    let both = Outcome::Label(vec![Some(1_i64.into()), Some(2_i64.into())]);
    assert_eq!(script.tell(&id, both, None), rows(1, 2));
    assert_eq!(script.tell(&id, label(1), Some(1)), rows(1, 1));
    assert_eq!(
        script.tell(&id, Outcome::Label(vec![None]), None),
        Err(Rejected::Nothing)
    );
    assert_eq!(script.tell(&id, loss(1.5), None), Err(Rejected::Loss));
    let text = Outcome::Label(vec![Some("1".into())]);
    let Err(Rejected::NotComparable(why)) = script.tell(&id, text, None) else {
        panic!("a text is no class");
    };
    assert!(why.contains("\"1\""), "{why}");
    assert_eq!(
        script.losses(),
        [(0., 0.)],
        "nothing of it has changed anything"
    );
    assert_eq!(
        script.tell(&id, label(1), Some(0)),
        Ok(Applied::Learned { arms: 1 })
    );
}

#[tokio::test(start_paused = true)]
async fn an_ensemble_answers_with_what_most_weight_says_and_all_arms_learn() {
    let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b", "c"]);
    let caller = script.send();
    for (call, says) in script.calls(3).await.into_iter().zip([3, 5, 5]) {
        call.says(&[says]);
    }
    let response = caller.await.unwrap().unwrap();
    let report = report(&response);
    assert_eq!((report.asked, report.answered), (3, 3));
    assert_eq!(report.arm.as_deref(), Some("b"));
    let confidence = report.confidence.unwrap();
    assert!((confidence - 2. / 3.).abs() < 1e-9, "{confidence}");
    let told = script.tell(&id(&response), label(3), None);
    assert_eq!(told, Ok(Applied::Learned { arms: 3 }));
    assert_eq!(script.losses(), [(1., 0.), (1., 1.), (1., 1.)]);
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_an_ensemble_is_that_of_those_who_agreed_with_it() {
    for (given, expected) in [
        // It was right: who said something else was wrong.
        (0., [(1., 1.), (1., 0.), (1., 0.)]),
        // It was wrong: of who said something else nobody knows.
        (1., [(0., 0.), (1., 1.), (1., 1.)]),
    ] {
        let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b", "c"]);
        let caller = script.send();
        for (call, says) in script.calls(3).await.into_iter().zip([3, 5, 5]) {
            call.says(&[says]);
        }
        let response = caller.await.unwrap().unwrap();
        script.tell(&id(&response), loss(given), None).unwrap();
        assert_eq!(script.losses(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_an_ensemble_answers_with_what_has_come() {
    let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b", "c"]);
    let deadline = Instant::now() + Duration::from_millis(20);
    let caller = script.send_by(Some(deadline));
    let mut calls = script.calls(3).await;
    calls.pop().unwrap().says(&[7]);
    let response = caller.await.unwrap().unwrap();
    assert_eq!(Instant::now(), deadline);
    assert_eq!(
        (report(&response).asked, report(&response).answered),
        (3, 1)
    );
    let confidence = report(&response).confidence.unwrap();
    assert!(
        (confidence - 1. / 3.).abs() < 1e-9,
        "who is missing does not agree: {confidence}"
    );
    // None at all is no answer.
    let caller = script.send_by(Some(Instant::now() + Duration::from_millis(20)));
    let _calls = script.calls(3).await;
    let error = caller.await.unwrap().unwrap_err();
    assert!(error.is::<Expired>());
}

#[tokio::test(start_paused = true)]
async fn an_ensemble_does_without_arms_that_fail_and_fails_with_the_last() {
    let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b"]);
    let caller = script.send();
    let mut calls = script.calls(2).await;
    calls.remove(0).fails(Blame::Arm);
    calls.remove(0).says(&[1]);
    let response = caller.await.unwrap().unwrap();
    assert_eq!(report(&response).arm.as_deref(), Some("b"));
    assert_eq!(script.losses(), [(1., 1.), (0., 0.)]);
    let caller = script.send();
    for call in script.calls(2).await {
        call.fails(Blame::Arm);
    }
    let error = caller.await.unwrap().unwrap_err();
    assert!(error.is::<Fails>());
}

#[tokio::test(start_paused = true)]
async fn rows_that_the_arms_are_not_sure_of_are_the_default() {
    let arms = ["a", "b", "c"].map(|name| (name, Arm::new(name)));
    let mut script = Script::with(config(Policy::USUAL[3]), arms.into_iter(), |parts| {
        parts.min_confidence = Some(0.6);
        parts.default_output = Some(Defaults::new(vec![(
            "label".into(),
            vec![Value::from(-1_i64)],
        )]));
    });
    let caller = script.send();
    for (call, says) in script
        .calls(3)
        .await
        .into_iter()
        .zip([[1, 4], [1, 5], [1, 6]])
    {
        call.says(&says);
    }
    let response = caller.await.unwrap().unwrap();
    assert_eq!(
        report(&response).default,
        Some(DefaultReason::LowConfidence)
    );
    assert_eq!(response.outputs[0], integers("label", &[2], &[1, -1]));
}

#[tokio::test(start_paused = true)]
async fn shadows_get_copies_and_nobody_waits_for_them() {
    let shadow = Arm {
        shadow: Some(1.),
        ..Arm::new("s")
    };
    let arms = [("s", shadow), ("a", Arm::new("a"))];
    let mut script = Script::with(config(Policy::Fixed), arms.into_iter(), |_| {});
    let caller = script.send();
    let mut calls = script.calls(2).await;
    let copy = calls.pop().unwrap();
    calls.pop().unwrap().says(&[1]);
    let response = caller.await.unwrap().unwrap();
    assert_eq!(report(&response).arm.as_deref(), Some("a"));
    assert_eq!(report(&response).index, 1, "its place among all arms");
    copy.says(&[2]);
    // One that fails, and one whose original fails.
    for (blame, original) in [(Some(Blame::Arm), true), (None, false)] {
        let caller = script.send();
        let mut calls = script.calls(2).await;
        let copy = calls.pop().unwrap();
        match original {
            true => calls.pop().unwrap().says(&[1]),
            false => calls.pop().unwrap().fails(Blame::Caller),
        }
        assert_eq!(caller.await.unwrap().is_ok(), original);
        match blame {
            Some(blame) => copy.fails(blame),
            None => copy.says(&[1]),
        }
    }
    assert!(script.is_quiet().await);
    let view = script.select.shadows().next().unwrap();
    assert_eq!(
        (view.copies, view.failed, view.rows, view.agree),
        (3, 1, 1, 0)
    );
    assert_eq!(view.max_difference, Some(1.));
    assert_eq!(script.losses(), [(0., 0.)], "nothing is learned of it");
}

#[tokio::test(start_paused = true)]
async fn copies_that_a_shadow_does_not_answer_do_not_gather() {
    let shadow = Arm {
        shadow: Some(1.),
        ..Arm::new("s")
    };
    let arms = [("a", Arm::new("a")), ("s", shadow)];
    let mut script = Script::with(config(Policy::Fixed), arms.into_iter(), |_| {});
    let mut copies = Vec::new();
    for _ in 0..100 {
        let caller = script.send();
        let mut call = script.call().await;
        if call.arm == "s" {
            copies.push(call);
            call = script.call().await;
        }
        call.says(&[1]);
        caller.await.unwrap().unwrap();
    }
    let view = script.select.shadows().next().unwrap();
    assert_eq!((view.copies, view.skipped), (64, 36));
}

#[tokio::test(start_paused = true)]
async fn feedback_on_another_models_prediction_is_refused() {
    let mut script = Script::new(config(Policy::Fixed), &["a"]);
    let caller = script.send();
    script.call().await.says(&[1]);
    let response = caller.await.unwrap().unwrap();
    let arms = [("a", Arm::new("a"))];
    let other = Script::with(config(Policy::Fixed), arms.into_iter(), |parts| {
        parts.model = "letters".into();
    });
    let told = other.tell(&id(&response), loss(1.), None);
    assert_eq!(told, Err(Rejected::OtherModel));
    let gone = Script::new(config(Policy::Fixed), &["b"]);
    assert_eq!(
        gone.tell(&id(&response), loss(1.), None),
        Err(Rejected::UnknownArm)
    );
}

impl Script {
    fn shares(&self) -> Shares {
        let memory = self.select.learner().memory();
        memory.shares(None, Available::first(memory.arms().len()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_arm_of_an_ensemble_that_fails_or_is_late_loses_its_vote() {
    for fails in [true, false] {
        let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b", "c"]);
        for _ in 0..50 {
            let caller = script.send_by(Some(Instant::now() + Duration::from_millis(40)));
            let mut held = Vec::new();
            while !caller.is_finished() {
                match script.calls.try_recv() {
                    Ok(call) if call.arm != "a" => call.says(&[1]),
                    Ok(call) if fails => call.fails(Blame::Arm),
                    Ok(call) => held.push(call),
                    Err(_) if held.is_empty() => tokio::task::yield_now().await,
                    Err(_) => advance(Duration::from_millis(1)).await,
                }
            }
            caller.await.unwrap().unwrap();
            // Out of what was down.
            advance(Duration::from_secs(31)).await;
        }
        let shares = script.shares();
        assert!(shares[0] < 0.1, "fails: {fails}, {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn losses_of_an_ensembles_answers_move_its_votes() {
    let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b", "c"]);
    for _ in 0..20 {
        let caller = script.send();
        for (call, says) in script.calls(3).await.into_iter().zip([3, 5, 5]) {
            call.says(&[says]);
        }
        let response = caller.await.unwrap().unwrap();
        if report(&response).arm.as_deref() == Some("a") {
            break;
        }
        script.tell(&id(&response), loss(1.), None).unwrap();
        assert_eq!(
            script.tell(&id(&response), loss(1.), None),
            Ok(Applied::Duplicate)
        );
    }
    let shares = script.shares();
    assert!(
        shares[0] > 0.5,
        "who was always wrong does not win: {shares:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_more_of_a_hurry_than_any_model_blames_no_arm() {
    for policy in [Policy::USUAL[2], Policy::USUAL[3]] {
        let script = Script::new(config(policy), &["a", "b"]);
        for _ in 0..10 {
            let caller = script.send_by(Some(Instant::now() + Duration::from_millis(1)));
            let error = caller.await.unwrap().unwrap_err();
            assert!(error.is::<Expired>());
        }
        assert_eq!(script.losses(), [(0., 0.); 2]);
        assert_eq!(script.select.available().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_is_late_loses_and_what_it_was_sent_goes_on() {
    let mut script = Script::new(config(Policy::USUAL[2]), &["a"]);
    let caller = script.send_by(Some(Instant::now() + Duration::from_millis(20)));
    let call = script.call().await;
    assert!(caller.await.unwrap().unwrap_err().is::<Expired>());
    assert_eq!(script.losses(), [(1., 1.)]);
    assert!(!call.reply.is_closed(), "nobody waits, and it goes on");
}

#[tokio::test(start_paused = true)]
async fn enough_votes_are_an_answer_and_too_few_are_none() {
    let arms = || {
        ["a", "b", "c"]
            .map(|name| (name, Arm::new(name)))
            .into_iter()
    };
    let mut script = Script::with(config(Policy::USUAL[3]), arms(), |parts| {
        parts.ends_early = true
    });
    let caller = script.send();
    let mut calls = script.calls(3).await;
    let last = calls.pop().unwrap();
    for call in calls {
        call.says(&[4]);
    }
    let response = caller.await.unwrap().unwrap();
    assert_eq!(
        (report(&response).asked, report(&response).answered),
        (3, 2)
    );
    assert!(!last.reply.is_closed());
    let mut script = Script::with(config(Policy::USUAL[3]), arms(), |parts| {
        parts.quorum = Some(2)
    });
    let caller = script.send_by(Some(Instant::now() + Duration::from_millis(20)));
    let mut calls = script.calls(3).await;
    calls.pop().unwrap().says(&[4]);
    assert!(caller.await.unwrap().unwrap_err().is::<Expired>());
}

#[tokio::test(start_paused = true)]
async fn where_no_arm_answers_the_default_output_is_given_and_says_why() {
    let arms = [("a", Arm::new("a"))];
    let mut script = Script::with(config(Policy::Fixed), arms.into_iter(), |parts| {
        let values = vec![Value::from(-1_i64)];
        parts.default_output = Some(Defaults::new(vec![("label".into(), values)]));
    });
    let caller = script.send_by(Some(Instant::now() + Duration::from_millis(20)));
    let _call = script.call().await;
    let response = caller.await.unwrap().unwrap();
    assert_eq!(report(&response).default, Some(DefaultReason::Deadline));
    assert_eq!(report(&response).arm, None);
    assert_eq!(
        report(&response).prediction_id,
        None,
        "nothing was predicted"
    );
    let caller = script.send();
    script.call().await.fails(Blame::Arm);
    let response = caller.await.unwrap().unwrap();
    assert_eq!(report(&response).default, Some(DefaultReason::Error));
    // The caller's own faults are told to it.
    let caller = script.send();
    script.call().await.fails(Blame::Caller);
    assert!(caller.await.unwrap().is_err());
}

/// What an ensemble of two answers of which the second arm fails.
async fn without_the_second(script: &mut Script, first: f32) -> f64 {
    let caller = script.send();
    let mut calls = script.calls(2).await;
    calls.remove(0).says_number(first);
    calls.remove(0).fails(Blame::Arm);
    numbers_of(&caller.await.unwrap().unwrap(), 0)[0]
}

fn of_numbers(missing: Missing) -> Config {
    Config {
        ensemble: true,
        missing,
        loss: Loss::Absolute { scale: 10. },
        ..config(Policy::Fixed)
    }
}

#[tokio::test]
async fn the_mean_of_its_predictions_stands_for_an_arm_that_does_not_answer() {
    for (missing, expected) in [(Missing::Mean, 3.), (Missing::LeaveOut, 2.)] {
        let mut script = Script::new(of_numbers(missing), &["a", "b"]);
        // Of an arm without a prediction nothing is known.
        assert_eq!(without_the_second(&mut script, 2.).await, 2.);
        for said in [3., 5.] {
            let caller = script.send();
            script
                .calls(2)
                .await
                .into_iter()
                .for_each(|call| call.says_number(said));
            caller.await.unwrap().unwrap();
        }
        assert_eq!(
            without_the_second(&mut script, 2.).await,
            expected,
            "{missing:?}"
        );
    }
}

#[tokio::test]
async fn what_arms_predict_outlives_a_reload_and_goes_by_their_names() {
    let mut script = Script::new(of_numbers(Missing::Mean), &["a", "b"]);
    let caller = script.send();
    let mut calls = script.calls(2).await;
    calls.remove(0).says_number(1.);
    calls.remove(0).says_number(9.);
    caller.await.unwrap().unwrap();
    let before = script.select.learner().memory().clone();
    let arms = ["a new one", "b"]
        .map(|arm| (arm, Arm::new(arm)))
        .into_iter();
    let mut script = Script::with(of_numbers(Missing::Mean), arms, |parts| {
        parts.memory.begin_with(&before);
    });
    assert_eq!(without_the_second(&mut script, 1.).await, 5.);
}

#[tokio::test]
async fn what_comes_late_is_known_when_the_arm_is_late_again() {
    let mut script = Script::new(of_numbers(Missing::Mean), &["a", "b"]);
    tokio::time::pause();
    for expected in [2., 5.] {
        let caller = script.send_by(Some(Instant::now() + Duration::from_millis(20)));
        let mut calls = script.calls(2).await;
        calls.remove(0).says_number(2.);
        assert!(script.is_quiet().await);
        advance(Duration::from_millis(20)).await;
        assert_eq!(numbers_of(&caller.await.unwrap().unwrap(), 0), [expected]);
        calls.remove(0).says_number(8.);
        assert!(script.is_quiet().await);
    }
}

/// Sends so many requests with this much time to an ensemble, whose arms are too busy or never answer;
/// returns how many calls there were.
async fn calls_of(script: &mut Script, requests: usize, time: Duration, busy: bool) -> usize {
    let (mut calls, mut told) = (Vec::new(), 0);
    for _ in 0..requests {
        let caller = script.send_by(Some(Instant::now() + time));
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        while let Ok(call) = script.calls.try_recv() {
            calls.push(call);
        }
        if busy {
            told += calls.len();
            calls.drain(..).for_each(|call| call.fails(Blame::Busy));
            assert!(caller.await.unwrap().is_err());
        } else {
            tokio::time::advance(time).await;
            assert!(caller.await.unwrap().is_err());
        }
    }
    told + calls.len()
}

#[tokio::test(start_paused = true)]
async fn arms_that_are_all_late_or_too_busy_are_asked_by_ones_and_never_all_at_once() {
    for busy in [true, false] {
        let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b", "c", "d"]);
        let enough = Duration::from_millis(20);
        calls_of(&mut script, 100, enough, busy).await;
        let calls = calls_of(&mut script, 200, enough, busy).await;
        // One at least, and a second one in twenty times three.
        assert!((200..280).contains(&calls), "{busy} {calls}");
    }
    // Who has hardly any time says nothing of them.
    let mut script = Script::new(config(Policy::USUAL[3]), &["a", "b", "c", "d"]);
    let calls = calls_of(&mut script, 100, Duration::from_millis(2), true).await;
    assert_eq!(calls, 400);
}
