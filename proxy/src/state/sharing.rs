use std::{sync::Arc, time::Duration};

use outrigger_filters::select::{self, Arm, Batch, Keeper, Memory, Selector};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Directory, Metrics, Redis,
    metrics::{ModelLabels, ResultLabels},
};
use crate::config;

/// What was learned of all models, and where it is kept. A clone is a handle of the same.
///
/// A task exchanges it in the background. When the last handle is dropped it ends, as soon as all is
/// kept that nobody else has taken over, or a minute later.
#[derive(Clone, Debug)]
pub struct State(Arc<Owner>);

/// Exchanges what was learned with what keeps it.
#[derive(Debug)]
pub struct Sharing {
    keeper: Kind,
    models: Mutex<Vec<Model>>,
    /// When the last handle was dropped.
    left: Mutex<Option<Instant>>,
    /// Whose turn it is to exchange: the task's, or that of the end.
    turn: tokio::sync::Mutex<()>,
    status: Mutex<Status>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Owner {
    sharing: Arc<Sharing>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Kind {
    Memory,
    Keeper(Arc<dyn Keeper>),
    Directory(Directory),
}

/// A model and what was learned of it.
#[derive(Clone, Debug)]
struct Model {
    name: String,
    config: select::Config,
    arms: Vec<Arm>,
    memory: Memory,
    phase: Phase,
}

/// Where a memory is in its life.
///
/// ```text
/// New --- its table is in force ---> InForce --- another table is ---> Leaving ---> gone
///  '----------- it never was, and nobody has it any more ---------------------------^
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its table may never come into force: nothing begins with it, and it is not exchanged.
    New,
    InForce,
    /// It stays until what it has learned is kept, unless another one has taken that over.
    Leaving,
}

#[derive(Debug)]
struct Status {
    began: Instant,
    last: Option<Instant>,
    failures: u32,
    error: Option<String>,
}

impl State {
    /// Opens what a configuration names. Nothing is waited for: what cannot be reached is tried
    /// again and again. Feedback can be told again for so long as is said, and is recognised then.
    ///
    /// # Panics
    ///
    /// Panics outside of a runtime, unless everything is kept in memory.
    pub fn open(config: &config::State, counted_for: Duration, metrics: Metrics) -> Self {
        match config {
            config::State::Memory => Self::new(Kind::Memory, None, metrics),
            config::State::Redis(redis) => {
                let keeper = Arc::new(Redis::new(redis.clone(), counted_for));
                Self::new(Kind::Keeper(keeper), Some(redis.interval), metrics)
            }
            config::State::Directory(path) => Self::new(
                Kind::Directory(Directory::new(path.clone())),
                Some(SNAPSHOTS),
                metrics,
            ),
        }
    }

    /// Shares what is learned through a keeper, which is asked that often.
    ///
    /// # Panics
    ///
    /// Panics outside of a runtime.
    pub fn kept_by(keeper: Arc<dyn Keeper>, interval: Duration, metrics: Metrics) -> Self {
        Self::new(Kind::Keeper(keeper), Some(interval), metrics)
    }

    fn new(keeper: Kind, interval: Option<Duration>, metrics: Metrics) -> Self {
        let sharing = Arc::new(Sharing {
            keeper,
            models: Mutex::default(),
            left: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            status: Mutex::new(Status {
                began: Instant::now(),
                last: None,
                failures: 0,
                error: None,
            }),
            metrics,
        });
        let task = interval.map(|interval| tokio::spawn(sharing.clone().run(interval)));
        Self(Arc::new(Owner { sharing, task }))
    }

    /// Returns what was learned of a model whose arms are these.
    ///
    /// Where nothing of the settings has changed since it was last asked for, it is the same one.
    /// Otherwise it begins with what was learned before, as far as arms have the same names.
    pub fn memory(&self, model: &str, config: &select::Config, arms: &[Arm]) -> Memory {
        let sharing = &*self.0.sharing;
        let arms: Vec<_> = arms
            .iter()
            .filter(|arm| arm.shadow.is_none())
            .cloned()
            .collect();
        let mut models = sharing.models.lock();
        sharing.let_go(&mut models);
        let last = |phase| {
            let mut known = models.iter().rev();
            known.find(|known| known.name == model && known.phase == phase)
        };
        // One that was left out for a while goes on where it was.
        let last = last(Phase::InForce).or_else(|| last(Phase::Leaving));
        if let Some(known) = last
            && known.phase == Phase::InForce
            && known.config == *config
            && known.arms == arms
        {
            return known.memory.clone();
        }
        let max_contexts = config
            .context
            .as_ref()
            .map_or(0, |context| context.max_contexts);
        let names = arms.iter().map(|arm| arm.name.clone()).collect();
        let mut memory = Memory::new(Selector::new(config, &arms), max_contexts, names);
        if let Kind::Keeper(_) = sharing.keeper {
            memory = memory.kept(model.into(), config.policy.as_str(), rand::random());
        }
        match last {
            Some(known) => memory.begin_with(&known.memory),
            None => {
                if let Kind::Directory(directory) = &sharing.keeper {
                    directory.load(model, config.policy.as_str(), &memory);
                }
            }
        }
        models.push(Model {
            name: model.to_owned(),
            config: config.clone(),
            arms,
            memory: memory.clone(),
            phase: Phase::New,
        });
        memory
    }

    /// Goes over to the memories of another table, which all come from [`memory`](Self::memory); they
    /// [take over](Memory::take_over) from those that they began with. Of the others it lets go when
    /// all that they have learned is kept.
    pub fn take_over<'a>(&self, memories: impl IntoIterator<Item = &'a Memory>) {
        let memories: Vec<_> = memories.into_iter().collect();
        let mut models = self.0.sharing.models.lock();
        for model in &mut *models {
            let stays = memories.iter().any(|memory| memory.is(&model.memory));
            model.phase = match (stays, model.phase) {
                (true, _) => {
                    model.memory.take_over();
                    Phase::InForce
                }
                (false, Phase::New) => Phase::New,
                (false, _) => Phase::Leaving,
            };
        }
        self.0.sharing.let_go(&mut models);
    }

    /// Brings what was learned to where it is kept, for so long at most. Tells whether that is done.
    pub async fn finish(&self, within: Duration) -> bool {
        let sharing = &*self.0.sharing;
        let all = async {
            loop {
                sharing.exchange().await;
                if sharing.is_acknowledged() {
                    return;
                }
                sleep(AGAIN).await;
            }
        };
        let done = timeout(within, all).await.is_ok();
        if !done {
            warn!(
                unacknowledged = sharing.unacknowledged(),
                "not all that was learned could be kept"
            );
        }
        done
    }

    /// Returns how it stands with what is kept; `None` where nothing is.
    pub fn view(&self) -> Option<Value> {
        let sharing = &*self.0.sharing;
        let status = sharing.status.lock();
        let kind = match &sharing.keeper {
            Kind::Memory => return None,
            Kind::Keeper(_) => "redis",
            Kind::Directory(_) => "directory",
        };
        let age = status.last.map(|last| last.elapsed().as_secs_f64());
        Some(json!({
            "kept": kind,
            "connected": status.last.is_some() && status.failures == 0,
            "last_exchange_seconds": age,
            "failures": status.failures,
            "error": status.error,
            "unacknowledged": sharing.unacknowledged(),
        }))
    }

    /// Brings the metrics up to date.
    pub fn show(&self) {
        self.0.sharing.show();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Some(task) = &self.task else {
            return;
        };
        let mut models = self.sharing.models.lock();
        models.retain(|model| model.phase != Phase::New);
        for model in &mut *models {
            model.phase = Phase::Leaving;
        }
        self.sharing.let_go(&mut models);
        match models.is_empty() {
            true => task.abort(),
            false => *self.sharing.left.lock() = Some(Instant::now()),
        }
    }
}

impl Sharing {
    async fn run(self: Arc<Self>, interval: Duration) {
        loop {
            let failures = self.status.lock().failures;
            // Replicas that began together, or lost the store together, shall not ask together.
            let jitter = 0.75 + 0.5 * rand::random::<f64>();
            sleep(backoff(interval, failures).mul_f64(jitter)).await;
            self.exchange().await;
            let left = *self.left.lock();
            if let Some(left) = left
                && (self.models.lock().is_empty() || left.elapsed() > LINGER)
            {
                return;
            }
        }
    }

    /// Lets go of what nobody has any more, and of what was left and is kept or taken over.
    fn let_go(&self, models: &mut Vec<Model>) {
        models.retain(|model| match model.phase {
            Phase::New => !model.memory.is_alone(),
            Phase::InForce => true,
            Phase::Leaving => !self.is_kept(model),
        });
    }

    /// Tells whether nothing of a model would be lost with it.
    fn is_kept(&self, model: &Model) -> bool {
        let memory = &model.memory;
        match &self.keeper {
            Kind::Memory => true,
            Kind::Keeper(_) => memory.is_acknowledged(),
            Kind::Directory(directory) => {
                memory.is_succeeded() || !directory.is_behind(&model.name, memory)
            }
        }
    }

    /// Exchanges once, and again at once for as long as there is a reason to.
    async fn exchange(&self) {
        let _turn = self.turn.lock().await;
        let models: Vec<Model> = {
            let models = self.models.lock();
            let models = models.iter().filter(|model| model.phase != Phase::New);
            models.cloned().collect()
        };
        match &self.keeper {
            Kind::Memory => {}
            Kind::Keeper(keeper) => {
                let all = models
                    .iter()
                    .map(|model| self.ask(&**keeper, &model.memory));
                futures_util::future::join_all(all).await;
            }
            Kind::Directory(directory) => {
                for model in models.iter().filter(|model| !model.memory.is_succeeded()) {
                    let policy = model.config.policy.as_str();
                    if let Some(saved) = directory.save(&model.name, policy, &model.memory).await {
                        self.ended(saved.map_err(|error| error.to_string()));
                    }
                }
            }
        }
        // Their own handles are none that keep anything.
        drop(models);
        self.let_go(&mut self.models.lock());
    }

    async fn ask(&self, keeper: &dyn Keeper, memory: &Memory) {
        for _ in 0..AT_ONCE {
            let Some(batch) = memory.batch() else {
                return;
            };
            let began = Instant::now();
            let answer = keeper.exchange(Batch::clone(&batch)).await;
            self.metrics.duration.observe(began.elapsed().as_secs_f64());
            let (failed, urgent) = match answer {
                Ok(mut reply) => {
                    let failed = reply.failed.take();
                    (failed, memory.absorb(&batch, reply))
                }
                Err(error) => (Some(error), false),
            };
            let failed = failed.map(|error| error.to_string());
            let go_on = urgent && failed.is_none();
            self.ended(failed.map_or(Ok(()), Err));
            if !go_on {
                return;
            }
        }
    }

    /// Takes note of how an exchange ended; only changes are logged.
    fn ended(&self, result: Result<(), String>) {
        let mut status = self.status.lock();
        let label = match result {
            Ok(()) => {
                if status.failures > 0 {
                    info!("what was learned is kept again");
                }
                status.failures = 0;
                status.error = None;
                status.last = Some(Instant::now());
                "ok"
            }
            Err(error) => {
                status.failures = status.failures.saturating_add(1);
                if status.error.as_ref() != Some(&error) {
                    warn!(%error, "what was learned cannot be kept; it is remembered until it can");
                }
                status.error = Some(error);
                "failed"
            }
        };
        let label = ResultLabels { result: label };
        self.metrics.exchanges.get_or_create(&label).inc();
    }

    fn is_acknowledged(&self) -> bool {
        let models = self.models.lock();
        let mut models = models.iter().filter(|model| model.phase != Phase::New);
        models.all(|model| self.is_kept(model))
    }

    fn unacknowledged(&self) -> usize {
        let models = self.models.lock();
        let journals = models
            .iter()
            .filter_map(|model| model.memory.view().journal);
        journals.map(|journal| journal.unacknowledged).sum()
    }

    fn show(&self) {
        for model in &*self.models.lock() {
            if model.phase != Phase::InForce {
                continue;
            }
            let labels = ModelLabels {
                model: model.name.clone(),
            };
            let view = model.memory.view();
            let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            let contexts = self.metrics.contexts.get_or_create(&labels);
            contexts.set(count(view.contexts));
            if let Some(journal) = view.journal {
                let unacknowledged = self.metrics.unacknowledged.get_or_create(&labels);
                unacknowledged.set(count(journal.unacknowledged));
            }
        }
        let status = self.status.lock();
        let last = status.last.unwrap_or(status.began);
        self.metrics.age.set(last.elapsed().as_secs_f64());
    }
}

/// Returns how long to wait after so many failures: the store is asked again within seconds of its
/// return, and is not kept from it by those who ask.
fn backoff(interval: Duration, failures: u32) -> Duration {
    let doubled = interval.saturating_mul(1 << failures.min(10));
    doubled.min(LONGEST.max(interval))
}

/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(2);

/// How long what was left is exchanged, if it is not acknowledged before.
const LINGER: Duration = Duration::from_secs(60);

/// The wait between exchanges at the end.
const AGAIN: Duration = Duration::from_millis(50);

/// Exchanges without a wait in between: enough for the journal of a long outage.
const AT_ONCE: usize = 128;

/// How often a directory is looked after.
const SNAPSHOTS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use outrigger_filters::select::{Config, Evidence, Policy, Pool};

    use super::*;

    fn faster(learning_rate: f64) -> Config {
        Config {
            policy: Policy::Exp3 {
                learning_rate,
                exploration: 0.01,
                share: 1e-4,
            },
            ..Config::default()
        }
    }

    fn arms() -> [Arm; 2] {
        ["a", "b"].map(Arm::new)
    }

    fn learn(memory: &Memory) {
        let evidence = Evidence::Chosen {
            arm: 0,
            probability: 1.,
            loss: 1.,
        };
        memory.learn(None, evidence, None).unwrap();
    }

    #[tokio::test]
    async fn a_memory_goes_when_another_one_has_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let directory = config::State::Directory(folder.path().into());
        for config in [config::State::Memory, directory] {
            let state = State::open(&config, Duration::MAX, Metrics::default());
            let known = || state.0.sharing.models.lock().len();
            for round in 1_u8..=20 {
                let memory = state.memory("m", &faster(round.into()), &arms());
                state.take_over([&memory]);
                learn(&memory);
                assert_eq!(known(), 1);
            }
            let memory = state.memory("m", &faster(20.), &arms());
            assert_eq!(memory.state(None).arms[0].observations, 20.);
            // The model is left out of the configuration; what is not saved yet is so before it goes.
            state.take_over([]);
            assert!(state.finish(Duration::from_secs(5)).await);
            assert_eq!(known(), 0);
        }
        let state = State::open(
            &config::State::Directory(folder.path().into()),
            Duration::MAX,
            Metrics::default(),
        );
        let memory = state.memory("m", &faster(20.), &arms());
        assert_eq!(memory.state(None).arms[0].observations, 20.);
    }

    #[tokio::test]
    async fn what_never_came_into_force_is_not_exchanged_and_goes_with_its_table() {
        let pool = Arc::new(Pool::default());
        let state = State::kept_by(pool.clone(), Duration::from_secs(3600), Metrics::default());
        let memory = state.memory("m", &faster(1.), &arms());
        let topic = memory.batch().unwrap().topic;
        assert!(state.finish(Duration::from_secs(5)).await);
        assert_eq!(pool.state(&topic, None), None);
        drop(memory);
        assert!(state.finish(Duration::from_secs(5)).await);
        assert!(state.0.sharing.models.lock().is_empty());
        let memory = state.memory("m", &faster(1.), &arms());
        state.take_over([&memory]);
        assert!(state.finish(Duration::from_secs(5)).await);
        assert!(pool.state(&topic, None).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_is_gone_is_told_of_after_the_last_handle_is() {
        let pool = Arc::new(Pool::default());
        let state = State::kept_by(pool.clone(), Duration::from_secs(1), Metrics::default());
        let memory = state.memory("m", &faster(1.), &arms());
        state.take_over([&memory]);
        let topic = memory.batch().unwrap().topic;
        learn(&memory);
        drop((state, memory));
        sleep(Duration::from_secs(3)).await;
        let kept = pool.state(&topic, None).unwrap();
        assert_eq!(kept.arms[0].observations, 1.);
        assert_eq!(Arc::strong_count(&pool), 1, "the task has ended");
    }
}
