//! What replicas learned is shared through a real Redis, and survives whatever happens to it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::Duration,
};

use outrigger::{
    config,
    state::{Metrics, Redis as Keeper, State},
};
use outrigger_filters::select::{
    Arm, Available, Config, Context, Evidence, Id, Keeper as _, Kept, Learnt, Memory, Policy, Pool,
    Selector,
};
use outrigger_tests::{
    patience::until,
    redis::{Cluster, Redis, Way, free_port},
    tls::{Authority, Folder},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, sleep};

/// A replica of the proxy, as far as what it learns goes.
struct Replica {
    state: State,
    memory: Memory,
}

/// Feedback that was acknowledged, by its context.
#[derive(Default)]
struct Told {
    next: u64,
    by: HashMap<Option<&'static str>, HashSet<u64>>,
}

impl Replica {
    fn start(redis: &config::Redis) -> Self {
        let config = config::State::Redis(redis.clone());
        let state = State::open(&config, DAY, Metrics::default());
        let memory = state.memory("digits", &settings(), &arms());
        state.take_over([&memory]);
        Self { state, memory }
    }

    fn fleet(count: usize, redis: &config::Redis) -> Vec<Self> {
        (0..count).map(|_| Self::start(redis)).collect()
    }

    fn observations(&self, context: Option<&str>) -> f64 {
        // Whoever asks for a context has it looked up.
        self.memory.shares(context, Available::first(ARMS));
        let state = self.memory.state(context);
        state.arms.iter().map(|arm| arm.observations).sum()
    }
}

impl Told {
    /// Tells one replica.
    fn tell(&mut self, replica: &Replica) {
        self.next += 1;
        let nonce = self.next;
        let context = CONTEXTS[nonce as usize % CONTEXTS.len()];
        self.tell_of(replica, context, nonce);
    }

    fn tell_of(&mut self, replica: &Replica, context: Option<&'static str>, nonce: u64) {
        let evidence = Evidence::Chosen {
            arm: nonce as usize % ARMS,
            probability: 0.5,
            loss: (nonce % 3) as f64 / 2.,
        };
        let id = Id { nonce, row: 0 };
        if replica.memory.learn(context, evidence, Some(id)).is_ok() {
            self.by.entry(context).or_default().insert(nonce);
        }
    }

    /// Tells all replicas in turn for some time.
    async fn stream(&mut self, replicas: &[Replica], time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            for replica in replicas {
                for _ in 0..3 {
                    self.tell(replica);
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn count(&self, context: Option<&str>) -> usize {
        match context {
            None => self.by.values().map(HashSet::len).sum(),
            context => self.by.get(&context).map_or(0, HashSet::len),
        }
    }

    fn is_known(&self, replicas: &[Replica]) -> bool {
        // There are requests of all contexts everywhere.
        for replica in replicas {
            for context in CONTEXTS {
                replica.observations(context);
            }
        }
        replicas.iter().all(|replica| {
            CONTEXTS.iter().all(|context| {
                let count = self.count(*context);
                count == 0 || replica.observations(*context) == count as f64
            })
        })
    }

    /// Waits until everyone knows everything, and looks whether that stays so.
    async fn settle(&self, replicas: &[Replica]) {
        let known = until("everyone knows everything", || self.is_known(replicas));
        if tokio::time::timeout(Duration::from_secs(10), known)
            .await
            .is_err()
        {
            for context in CONTEXTS {
                let seen: Vec<_> = replicas.iter().map(|it| it.observations(context)).collect();
                eprintln!("{context:?}: told {}, seen {seen:?}", self.count(context));
            }
            for replica in replicas {
                eprintln!(
                    "{:?} {:?}",
                    replica.state.view(),
                    replica.memory.view().journal
                );
            }
            panic!("not everyone knows everything");
        }
        sleep(INTERVAL * 4).await;
        assert!(self.is_known(replicas), "what is known stays as it is");
        let all = Available::first(ARMS);
        for context in CONTEXTS {
            let first = replicas[0].memory.shares(context, all);
            for replica in replicas {
                let shares = replica.memory.shares(context, all);
                let apart = shares
                    .iter()
                    .zip(&first)
                    .map(|(one, other)| (one - other).abs());
                assert!(apart.fold(0., f64::max) < 1e-9, "{first:?} {shares:?}");
            }
        }
    }
}

fn settings() -> Config {
    Config {
        policy: Policy::Exp3 {
            learning_rate: 0.01,
            exploration: 0.01,
            share: 1e-4,
        },
        context: Some(Context {
            header: "x-user".into(),
            max_contexts: 1000,
        }),
        ..Config::default()
    }
}

fn arms() -> Vec<Arm> {
    ["a", "b", "c"].map(Arm::new).into()
}

fn redis(url: &str) -> config::Redis {
    config::Redis {
        url: url.parse().unwrap(),
        password_file: None,
        ca: None,
        prefix: config::Redis::PREFIX.parse().unwrap(),
        interval: INTERVAL,
        context_ttl: Duration::from_secs(3600),
    }
}

#[tokio::test]
async fn two_and_four_replicas_count_all_feedback_once_and_agree_within_a_second() {
    for count in [2, 4] {
        let server = Redis::start(&[]);
        let redis = config::Redis {
            interval: config::Redis::INTERVAL,
            ..redis(&server.url())
        };
        let replicas = Replica::fleet(count, &redis);
        let mut told = Told::default();
        told.stream(&replicas, Duration::from_millis(600)).await;
        // A burst of which half was told to another replica as well.
        for nonce in 1_000_000..1_001_000 {
            let context = CONTEXTS[nonce as usize % CONTEXTS.len()];
            told.tell_of(&replicas[nonce as usize % count], context, nonce);
            if nonce % 2 == 0 {
                told.tell_of(&replicas[(nonce as usize + 1) % count], context, nonce);
            }
        }
        let last = Instant::now();
        until("everyone knows everything", || told.is_known(&replicas)).await;
        let agreed = last.elapsed();
        assert!(agreed < Duration::from_secs(1), "{count}: {agreed:?}");
        eprintln!("{count} replicas agree after {agreed:?}");
        told.settle(&replicas).await;
    }
}

#[tokio::test]
async fn a_redis_that_is_killed_with_all_it_has_is_told_everything_again() {
    let mut server = Redis::start(&[]);
    let replicas = Replica::fleet(2, &redis(&server.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    server.kill();
    told.stream(&replicas, STREAM).await;
    until("the failure is seen", || {
        replicas
            .iter()
            .all(|it| it.state.view().unwrap()["connected"] == false)
    })
    .await;
    assert!(replicas[0].state.view().unwrap()["unacknowledged"].as_u64() > Some(0));
    server.start_again();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
}

#[tokio::test]
async fn a_redis_that_stands_still_holds_nobody_up() {
    let server = Redis::start(&[]);
    let replicas = Replica::fleet(2, &redis(&server.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    server.freeze();
    let began = Instant::now();
    for _ in 0..1000 {
        told.tell(&replicas[0]);
        replicas[0].memory.shares(Some("x"), Available::first(ARMS));
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    told.stream(&replicas, Duration::from_millis(3500)).await;
    server.thaw();
    told.settle(&replicas).await;
}

#[tokio::test]
async fn a_redis_that_is_flushed_is_told_what_it_had() {
    let server = Redis::start(&[]);
    let replicas = Replica::fleet(4, &redis(&server.url()));
    let mut told = Told::default();
    for _ in 0..4 {
        told.stream(&replicas, STREAM).await;
        assert_eq!(server.ask(&["FLUSHALL"]), "OK");
    }
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
}

#[tokio::test]
async fn a_slow_redis_is_of_use_all_the_same() {
    let server = Redis::start(&[]);
    let way = Way::to(&server).await;
    let replicas = Replica::fleet(2, &redis(&way.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    way.delay(Duration::from_millis(500));
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
}

#[tokio::test]
async fn answers_that_are_lost_have_nothing_counted_twice() {
    let server = Redis::start(&[]);
    let way = Way::to(&server).await;
    let replicas = Replica::fleet(2, &redis(&way.url()));
    let mut told = Told::default();
    for _ in 0..3 {
        told.stream(&replicas, STREAM).await;
        way.lose_answers(true);
        told.stream(&replicas, STREAM).await;
        way.lose_answers(false);
    }
    told.settle(&replicas).await;
}

#[tokio::test]
async fn a_redis_that_goes_back_to_an_older_copy_is_told_the_rest_again() {
    let mut server = Redis::start(&[]);
    let replicas = Replica::fleet(2, &redis(&server.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    assert_eq!(server.ask(&["SAVE"]), "OK");
    told.stream(&replicas, STREAM).await;
    server.kill();
    server.start_again();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
}

#[tokio::test]
async fn a_replica_that_starts_knows_what_others_learned_before() {
    let server = Redis::start(&[]);
    let redis = redis(&server.url());
    let mut told = Told::default();
    let first = Replica::fleet(2, &redis);
    told.stream(&first, STREAM).await;
    for replica in &first {
        assert!(replica.state.finish(Duration::from_secs(5)).await);
    }
    drop(first);
    let second = Replica::fleet(2, &redis);
    told.stream(&second, STREAM).await;
    told.settle(&second).await;
}

#[tokio::test]
async fn the_end_of_a_replica_is_bounded_where_redis_is_gone() {
    let mut server = Redis::start(&[]);
    let replicas = Replica::fleet(1, &redis(&server.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    server.kill();
    told.tell(&replicas[0]);
    let began = Instant::now();
    assert!(!replicas[0].state.finish(Duration::from_millis(300)).await);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_cluster_shares_what_was_learned() {
    let cluster = Cluster::start();
    let replicas = Replica::fleet(2, &redis(&cluster.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    // The contexts lie on more than one server.
    let keys = cluster.servers.iter().map(|server| server.ask(&["DBSIZE"]));
    assert!(keys.filter(|keys| keys != "0").count() > 1);
    assert_eq!(cluster.servers[1].ask(&["FLUSHALL"]), "OK");
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
}

#[tokio::test]
async fn what_a_failover_loses_is_told_again() {
    let mut master = Redis::start(&[]);
    let way = Way::to(&master).await;
    let port = way.port().to_string();
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &port]);
    until("the copy follows", || {
        replica
            .ask(&["INFO", "replication"])
            .contains("master_link_status:up")
    })
    .await;
    let sentinel = Redis::watching("digits", &master);
    until("the copy is known", || {
        sentinel
            .ask(&["SENTINEL", "REPLICAS", "digits"])
            .contains(&replica.port().to_string())
    })
    .await;
    let url = format!("redis+sentinel://127.0.0.1:{}/digits/0", sentinel.port());
    let replicas = Replica::fleet(2, &redis(&url));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    // What is acknowledged from now on never reaches the copy.
    way.lose_answers(true);
    told.stream(&replicas, Duration::from_millis(200)).await;
    until("all is acknowledged", || {
        replicas.iter().all(|it| it.memory.is_acknowledged())
    })
    .await;
    master.kill();
    until("the copy takes over", || {
        replica
            .ask(&["INFO", "replication"])
            .contains("role:master")
    })
    .await;
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    let again = replicas.iter().map(|it| it.memory.view().journal.unwrap());
    assert!(again.map(|it| it.brought_again + it.restored).sum::<u64>() > 0);
}

#[tokio::test]
async fn tls_is_spoken_with_those_whom_the_authority_vouches_for() {
    let authority = Authority::new("ours");
    let folder = Folder::new();
    let issued = authority.issue_for("localhost", Some("127.0.0.1".parse().unwrap()), 2099);
    folder.write("tls.crt", &issued.certificate);
    folder.write("tls.key", &issued.key);
    folder.write("ca.crt", &authority.pem());
    folder.write("other.crt", &Authority::new("theirs").pem());
    let port = free_port();
    let path = |name: &str| folder.path(name).to_string_lossy().into_owned();
    let (certificate, key, ca) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    let _server = Redis::start_at(
        port,
        &[
            "--port",
            "0",
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "no",
        ],
    );
    let url = format!("rediss://127.0.0.1:{port}/0");
    let trusting = config::Redis {
        ca: Some(folder.path("ca.crt")),
        ..redis(&url)
    };
    let replicas = Replica::fleet(2, &trusting);
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    let distrusting = config::Redis {
        ca: Some(folder.path("other.crt")),
        ..redis(&url)
    };
    let stranger = Replica::start(&distrusting);
    let why = failure(&stranger).await;
    assert!(why.contains("certificate"), "{why}");
}

#[tokio::test]
async fn a_wrong_password_is_told_clearly_and_never_shown() {
    let server = Redis::start(&["--requirepass", "sesame"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "wrong-one\n").unwrap();
    let redis = config::Redis {
        password_file: Some(file.clone()),
        ..redis(&server.url())
    };
    let replicas = [Replica::start(&redis)];
    let why = failure(&replicas[0]).await;
    assert!(
        why.contains("does not take the user or the password"),
        "{why}"
    );
    assert!(!why.contains("wrong-one"), "{why}");
    // The file is read again each time.
    fs::write(&file, "sesame\n").unwrap();
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    let none = config::Redis {
        password_file: None,
        ..redis
    };
    let why = failure(&Replica::start(&none)).await;
    assert!(why.contains("wants a password"), "{why}");
}

#[tokio::test]
async fn what_makes_no_sense_in_redis_is_replaced_by_what_is_known() {
    let server = Redis::start(&[]);
    let replicas = Replica::fleet(2, &redis(&server.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    let key = "{outrigger/digits/exp3}";
    for garbage in ["nan nan nan nan nan nan", "1 2", "", "1e300 0 0 0 0 0"] {
        server.ask(&["HSET", key, "arm:a", garbage]);
        told.stream(&replicas, Duration::from_millis(100)).await;
    }
    server.ask(&["HDEL", key, "version"]);
    told.stream(&replicas, Duration::from_millis(100)).await;
    server.ask(&["DEL", key]);
    server.ask(&["SET", key, "text"]);
    server.ask(&["SET", "{outrigger/digits/exp3/x}:counted", "text"]);
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    // What a newer version has written is left alone.
    server.ask(&["HSET", key, "schema", "2"]);
    let why = failure(&replicas[0]).await;
    assert!(why.contains("schema 2"), "{why}");
    assert_eq!(server.ask(&["HGET", key, "schema"]), "2");
}

#[tokio::test]
async fn contexts_expire_and_what_was_learned_of_all_does_not() {
    let server = Redis::start(&[]);
    let replicas = Replica::fleet(1, &redis(&server.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
    let ttl = |key: &str| server.ask(&["TTL", key]).parse::<i64>().unwrap();
    assert_eq!(ttl("{outrigger/digits/exp3}"), -1);
    assert!((3500..=3600).contains(&ttl("{outrigger/digits/exp3/x}")));
    assert!(ttl("{outrigger/digits/exp3}:counted") > 24 * 3600);
    assert!(ttl("{outrigger/digits/exp3/x}:counted") > 24 * 3600);
}

/// The laws of a keeper are shown of one in memory; this one is like it.
#[tokio::test]
async fn redis_answers_whatever_comes_as_the_keeper_in_memory_does() {
    let server = Redis::start(&[]);
    let keeper = Keeper::new(redis(&server.url()), DAY);
    let pool = Pool::default();
    let mut random = SmallRng::seed_from_u64(7);
    for policy in Policy::USUAL {
        let config = Config {
            policy,
            ..settings()
        };
        let memory = |number| {
            let names = arms().into_iter().map(|arm| arm.name).collect();
            Memory::new(Selector::new(&config, &arms()), 16, names).kept(
                "model".into(),
                policy.as_str(),
                number,
            )
        };
        let replicas: Vec<_> = (1..=3).map(memory).collect();
        for nonce in 0..400 {
            let replica = &replicas[random.random_range(0..replicas.len())];
            let context = CONTEXTS[random.random_range(0..CONTEXTS.len())];
            let evidence = Evidence::Chosen {
                arm: random.random_range(0..ARMS),
                probability: random.random_range(0.01..1.),
                loss: random.random(),
            };
            // One in three was told before, to somebody.
            let nonce = if nonce % 3 == 0 { nonce / 2 } else { nonce };
            let id = Id { nonce, row: 1 };
            let _ = replica.learn(context, evidence, Some(id));
            replica.shares(context, Available::first(ARMS));
            if random.random_bool(0.005) {
                pool.flush();
                server.ask(&["FLUSHALL"]);
            }
            if random.random_bool(0.5) {
                continue;
            }
            let batch = replica.batch().unwrap();
            let ours = pool.keep(&batch);
            let theirs = keeper.exchange(batch.clone()).await.unwrap();
            assert_eq!(theirs.failed, None);
            for (ours, theirs) in ours.parts.iter().zip(&theirs.parts) {
                assert_alike(ours, theirs);
            }
            if random.random_bool(0.8) {
                replica.absorb(&batch, theirs);
            }
        }
    }
}

#[tokio::test]
async fn a_directory_keeps_what_was_learned_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let config = config::State::Directory(folder.path().join("state"));
    let open = || {
        let state = State::open(&config, DAY, Metrics::default());
        let memory = state.memory("digits/of all", &settings(), &arms());
        state.take_over([&memory]);
        Replica { state, memory }
    };
    let first = open();
    let mut told = Told::default();
    for _ in 0..1000 {
        told.tell(&first);
    }
    assert!(first.state.finish(Duration::from_secs(5)).await);
    let before = CONTEXTS.map(|context| first.memory.state(context));
    drop(first);
    let second = open();
    assert_eq!(CONTEXTS.map(|context| second.memory.state(context)), before);
    let again = Evidence::Chosen {
        arm: 0,
        probability: 1.,
        loss: 1.,
    };
    let id = Id { nonce: 1, row: 0 };
    assert_eq!(
        second.memory.learn(None, again, Some(id)),
        Ok(Learnt::Duplicate)
    );
    drop(second);
    // One bit is enough to be found out; what is broken is set aside, not overwritten.
    let files = || {
        let files = fs::read_dir(folder.path().join("state")).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        names.sort();
        names
    };
    let [file] = files().try_into().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let third = open();
    assert_eq!(third.observations(None), 0.);
    assert_eq!(files(), [file.with_extension("broken")]);
}

#[tokio::test]
async fn other_settings_begin_with_what_was_learned() {
    let server = Redis::start(&[]);
    let mut replicas = Replica::fleet(1, &redis(&server.url()));
    let mut told = Told::default();
    told.stream(&replicas, STREAM).await;
    let same = replicas[0].state.memory("digits", &settings(), &arms());
    assert_eq!(same.learned(), replicas[0].memory.learned());
    let faster = Config {
        policy: Policy::Exp3 {
            learning_rate: 0.02,
            exploration: 0.02,
            share: 1e-4,
        },
        ..settings()
    };
    let mut more = arms();
    more.push(Arm::new("d"));
    let next = replicas[0].state.memory("digits", &faster, &more);
    replicas[0].state.take_over([&next]);
    assert_eq!(next.arms().len(), 4);
    let observations = |memory: &Memory| -> f64 {
        let state = memory.state(None);
        state.arms.iter().map(|arm| arm.observations).sum()
    };
    assert_eq!(observations(&next), told.count(None) as f64);
    replicas[0].memory = next;
    told.stream(&replicas, STREAM).await;
    told.settle(&replicas).await;
}

#[tokio::test]
async fn another_redis_is_told_what_the_last_one_never_heard_and_the_same_one_nothing_twice() {
    let mut gone = Redis::start(&[]);
    let way = Way::to(&gone).await;
    let other = Redis::start(&[]);
    let mut told = Told::default();
    let mut replica = Replica::start(&redis(&way.url()));
    let next = |last: &Replica, redis: &config::Redis| {
        let config = config::State::Redis(redis.clone());
        let state = State::open(&config, DAY, Metrics::default());
        let memory = state.memory("digits", &settings(), &arms());
        memory.begin_with(&last.memory);
        state.take_over([&memory]);
        Replica { state, memory }
    };
    told.stream(std::slice::from_ref(&replica), STREAM).await;
    told.settle(std::slice::from_ref(&replica)).await;
    // The same Redis, by another address, while what it answered is not known.
    way.lose_answers(true);
    told.stream(std::slice::from_ref(&replica), STREAM).await;
    replica = next(&replica, &redis(&gone.url()));
    told.stream(std::slice::from_ref(&replica), STREAM).await;
    told.settle(std::slice::from_ref(&replica)).await;
    gone.kill();
    told.stream(std::slice::from_ref(&replica), STREAM).await;
    replica = next(&replica, &redis(&other.url()));
    told.stream(std::slice::from_ref(&replica), STREAM).await;
    told.settle(std::slice::from_ref(&replica)).await;
    // It has all of it, whoever asks.
    let replicas = [replica, Replica::start(&redis(&other.url()))];
    told.settle(&replicas).await;
}

#[tokio::test]
async fn replicas_that_are_gone_for_long_are_forgotten_of_contexts_that_stay_busy() {
    let server = Redis::start(&[]);
    let keeper = Keeper::new(redis(&server.url()), DAY);
    let names = arms().into_iter().map(|arm| arm.name).collect();
    let selector = Selector::new(&settings(), &arms());
    let memory = Memory::new(selector, 16, names).kept("digits".into(), "exp3", 1);
    let key = "{outrigger/digits/exp3/x}";
    for number in 0..70 {
        let evidence = Evidence::Chosen {
            arm: 0,
            probability: 1.,
            loss: 0.5,
        };
        memory.learn(Some("x"), evidence, None).unwrap();
        let batch = memory.batch().unwrap();
        let reply = keeper.exchange(batch.clone()).await.unwrap();
        memory.absorb(&batch, reply);
        if number == 0 {
            // More than are told each time.
            for replica in 100..140 {
                server.ask(&["HSET", key, &format!("clock:{replica:016x}"), "5 1000"]);
            }
        }
    }
    assert!(memory.is_acknowledged());
    // Of the three arms, of this replica, and what it is.
    assert_eq!(server.ask(&["HLEN", key]), "7");
}

#[tokio::test]
async fn a_directory_has_what_was_learned_before_settings_changed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config::State::Directory(folder.path().into());
    let faster = Config {
        context: None,
        ..settings()
    };
    let state = State::open(&config, DAY, Metrics::default());
    let memory = state.memory("digits", &settings(), &arms());
    state.take_over([&memory]);
    let mut told = Told::default();
    let first = Replica { state, memory };
    for _ in 0..20 {
        told.tell(&first);
    }
    let next = first.state.memory("digits", &faster, &arms());
    first.state.take_over([&next]);
    assert!(first.state.finish(Duration::from_secs(5)).await);
    drop(first);
    let state = State::open(&config, DAY, Metrics::default());
    let memory = state.memory("digits", &faster, &arms());
    assert_eq!(Replica { state, memory }.observations(None), 20.);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_neither_set_aside_nor_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("digits.state");
    fs::create_dir(&file).unwrap();
    let config = config::State::Directory(folder.path().into());
    let state = State::open(&config, DAY, Metrics::default());
    let memory = state.memory("digits", &settings(), &arms());
    state.take_over([&memory]);
    let replica = Replica { state, memory };
    Told::default().tell(&replica);
    assert!(!replica.state.finish(Duration::from_millis(200)).await);
    assert!(file.is_dir());
    let why = failure(&replica).await;
    assert!(why.contains("could not be read"), "{why}");
    fs::remove_dir(&file).unwrap();
    assert!(replica.state.finish(Duration::from_secs(5)).await);
    assert!(file.is_file());
}

/// Waits for the first failure, and returns what is said of it.
async fn failure(replica: &Replica) -> String {
    let mut why = None;
    until("an exchange fails", || {
        why = replica.state.view().unwrap()["error"]
            .as_str()
            .map(str::to_owned);
        why.is_some()
    })
    .await;
    why.unwrap()
}

fn assert_alike(ours: &Kept, theirs: &Kept) {
    let (
        Kept::State {
            state,
            version,
            clock,
            clocks,
            repeated,
        },
        Kept::State {
            state: their_state,
            version: their_version,
            clock: their_clock,
            clocks: their_clocks,
            repeated: their_repeated,
        },
    ) = (ours, theirs)
    else {
        assert_eq!(ours, theirs);
        return;
    };
    assert_eq!(
        (version, clock, repeated),
        (their_version, their_clock, their_repeated)
    );
    let sorted = |clocks: &Option<Box<[(u64, u64)]>>| {
        let mut clocks = clocks.clone().unwrap_or_default();
        clocks.sort();
        clocks
    };
    assert_eq!(sorted(clocks), sorted(their_clocks));
    for (arm, theirs) in state.arms.iter().zip(&their_state.arms) {
        for (number, theirs) in arm.numbers().into_iter().zip(theirs.numbers()) {
            let near = (number - theirs).abs() <= 1e-9 * (1. + number.abs());
            assert!(near, "{arm:?} {theirs:?}");
        }
    }
}

/// How long feedback can be told again.
const DAY: Duration = Duration::from_secs(24 * 3600);
const ARMS: usize = 3;
const CONTEXTS: [Option<&str>; 3] = [None, Some("x"), Some("y{}")];
/// Shorter than usual, so that more goes wrong in less time.
const INTERVAL: Duration = Duration::from_millis(50);
const STREAM: Duration = Duration::from_millis(300);
