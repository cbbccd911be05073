use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use outrigger_filters::select::{self, Loss, Missing, Policy, Value};
use outrigger_filters::{admission, batch, cache, overload::Cancel, retry};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

/// The contract's example as far as this version goes.
const WHOLE: &str = r#"
listeners:
  - address: 0.0.0.0:9001
    upstream: triton
  - address: 0.0.0.0:9000
    upstream: triton-rest
admin: { address: 127.0.0.1:9900 }
upstreams:
  triton:      { protocol: oip-grpc, endpoints: ["http://127.0.0.1:8001"] }
  triton-rest: { protocol: oip-rest, endpoints: ["http://127.0.0.1:8000"], http: 2 }
models:
  digits:
    latency_objective: 20ms
    arms:
      svm: { upstream: triton, model: digits_svm, version: "3", weight: 9, min_probability: 0.05,
             max_probability: 0.9 }
      forest: { upstream: triton, model: digits_forest }
      new: { upstream: triton, model: digits_new, shadow: 0.1 }
    selection: { policy: exp3, learning_rate: 0.05, exploration: 0.01, share: 0.001, label: digit,
                 context: { header: X-User, max_contexts: 1000 }, loss: absolute, loss_scale: 10,
                 failure_loss: ignore, freeze: true, seed: 7,
                 log: { path: choices.jsonl, max_bytes: 1MiB, files: 2, sample: 0.5 } }
    deadline: { default: 50ms, default_output: { digit: [0], scores: [0.1, 1], name: [none], known: [false] },
                timeout_parameter: true }
    admission: { max_concurrency: 8, max_queue_requests: 50, max_queue_bytes: 3MiB, default_priority: 4,
                 cancel: abandoned }
    retry: { budget: 0.2 }
    hedge: { quantile: 0.9, budget: 0.02 }
    batch: { max_batch_size: 512, max_delay: 2ms, controller: aimd, max_in_flight: auto,
             split: true, default_priority: 3, cancel: abandoned, holdout: 0.02,
             max_queue_rows: 600, max_queue_bytes: 8MiB, max_batch_bytes: 4MiB,
             ignore_headers: [x-request-id] }
    cache: { max_bytes: 16MiB, ttl: 1h, unit: row, tenant: { header: X-Tenant, max_bytes: 2MiB },
             warm: 500, bypass: never, ignore_headers: [X-User, X-Request-Id] }
  other: {}
  votes:
    arms:
      a: { upstream: triton, model: a }
      b: { upstream: triton, model: b }
    selection: { policy: exp4 }
    deadline: { default_output: { digit: [-1] }, min_confidence: 0.6, missing: mean }
limits: { max_message: 32MiB, max_gathered: 256MiB, max_queue_rows: 900, max_queue_bytes: 9MiB,
          max_connections: 100, drain: 1.5s }
telemetry: { access_log: true }
feedback: { key: key, previous_key: old, max_age: 48h }
state: { redis: "rediss://h:6380/2", password_file: password, ca: ca.crt, prefix: ours,
         interval: 100ms, context_ttl: 24h }
"#;

/// What every configuration needs; more may follow.
const LEAST: &str = "
listeners: [{ address: '127.0.0.1:9001', upstream: triton }]
upstreams: { triton: { protocol: oip-grpc, endpoints: ['http://127.0.0.1:8001'] } }
";

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn read(text: &str) -> Config {
    Config::read(text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// All faults as `line:column: path: message`.
fn faults(text: &str) -> Vec<String> {
    let faults = Config::read(text).expect_err("faults");
    let shown = |fault: &Fault| match fault.position() {
        Some(Position { line, column }) => format!("{line}:{column}: {fault}"),
        None => fault.to_string(),
    };
    faults.iter().map(shown).collect()
}

/// The faults of what follows after [`LEAST`], without their places.
fn faults_with(more: &str) -> Vec<String> {
    let faults = Config::read(format!("{LEAST}{more}")).expect_err("faults");
    faults.iter().map(Fault::to_string).collect()
}

#[test]
fn the_whole_of_the_contract_is_read() {
    let config = read(WHOLE);
    assert_eq!(
        config.listeners,
        [
            Listener {
                address: "0.0.0.0:9001".parse().unwrap(),
                upstream: name("triton"),
                tls: None,
            },
            Listener {
                address: "0.0.0.0:9000".parse().unwrap(),
                upstream: name("triton-rest"),
                tls: None,
            },
        ]
    );
    assert_eq!(
        config.admin,
        Some(Admin {
            address: "127.0.0.1:9900".parse().unwrap()
        })
    );
    assert_eq!(
        config.upstreams["triton"],
        Upstream {
            protocol: Protocol::OipGrpc,
            endpoints: vec!["http://127.0.0.1:8001".parse().unwrap()],
            http: HttpVersion::Http2,
            tls: None,
        }
    );
    assert_eq!(config.upstreams["triton-rest"].http, HttpVersion::Http2);
    assert_eq!(
        config.models["digits"],
        Model {
            name: name("digits"),
            latency_objective: Duration::from_millis(20),
            arms: vec![
                Arm {
                    name: name("svm"),
                    upstream: Some(name("triton")),
                    model: name("digits_svm"),
                    version: Some(name("3")),
                    weight: 9.,
                    min_probability: 0.05,
                    max_probability: 0.9,
                    shadow: None,
                },
                Arm {
                    upstream: Some(name("triton")),
                    model: name("digits_forest"),
                    ..Arm::same(&name("forest"))
                },
                Arm {
                    upstream: Some(name("triton")),
                    model: name("digits_new"),
                    shadow: Some(0.1),
                    ..Arm::same(&name("new"))
                },
            ],
            selection: Some(select::Config {
                policy: Policy::Exp3 {
                    learning_rate: 0.05,
                    exploration: 0.01,
                    share: 0.001,
                },
                ensemble: false,
                context: Some(select::Context {
                    header: "x-user".into(),
                    max_contexts: 1000,
                }),
                label: Some("digit".into()),
                loss: Loss::Absolute { scale: 10. },
                missing: select::Missing::LeaveOut,
                failure: None,
                freeze: true,
                seed: Some(7),
            }),
            selection_log: Some(SelectionLog {
                path: "choices.jsonl".into(),
                max_bytes: 1 << 20,
                files: 2,
                sample: 0.5,
            }),
            deadline: Some(Deadline {
                default: Some(Duration::from_millis(50)),
                quorum: None,
                enough: false,
                default_output: vec![
                    ("digit".into(), vec![Value::Integer(0)]),
                    ("scores".into(), vec![Value::Number(0.1), Value::Integer(1)],),
                    ("name".into(), vec![Value::String("none".into())]),
                    ("known".into(), vec![Value::Bool(false)]),
                ],
                min_confidence: None,
                timeout_parameter: true,
            }),
            admission: Some(admission::Config {
                latency_objective: Duration::from_millis(20),
                max_concurrency: admission::Concurrency::Fixed(NonZeroUsize::new(8).unwrap()),
                max_queue_requests: 50,
                max_queue_bytes: 3 << 20,
                default_priority: 4,
                cancel: Cancel::Abandoned,
            }),
            retry: Some(retry::Config {
                budget: batch::Share::new(0.2).unwrap(),
                hedge: Some(retry::Hedge {
                    quantile: batch::Share::new(0.9).unwrap(),
                    budget: batch::Share::new(0.02).unwrap(),
                }),
            }),
            batch: Some(batch::Config {
                latency_objective: Duration::from_millis(20),
                max_batch_size: Some(512),
                controller: batch::Controller::Aimd,
                max_delay: Duration::from_millis(2),
                max_in_flight: batch::InFlight::Auto,
                max_queue_rows: 600,
                max_queue_bytes: 8 << 20,
                max_batch_bytes: 4 << 20,
                split: true,
                default_priority: 3,
                cancel: Cancel::Abandoned,
                holdout: batch::Share::new(0.02).unwrap(),
            }),
            cache: Some(cache::Config {
                max_bytes: 16 << 20,
                ttl: Duration::from_secs(3600),
                unit: cache::Unit::Row,
                tenant: Some(cache::Tenant {
                    header: "x-tenant".into(),
                    max_bytes: 2 << 20,
                }),
                warm: 500,
                bypass: cache::Bypass::Never,
            }),
            ignore_headers: ["x-request-id", "x-user"]
                .map(|name| name.parse().unwrap())
                .to_vec(),
        }
    );
    assert_eq!(config.models["other"].arms, [Arm::same(&name("other"))]);
    assert_eq!(config.models["other"].batch, None);
    assert_eq!(config.models["other"].cache, None);
    assert_eq!(config.models["other"].selection, None);
    assert_eq!(config.models["other"].deadline, None);
    assert_eq!(config.models["other"].admission, None);
    assert_eq!(config.models["other"].retry, None);
    let votes = config.models["votes"].selection.as_ref().expect("votes");
    assert!(votes.ensemble, "as always with exp4");
    assert_eq!(votes.policy, Policy::USUAL[3]);
    assert_eq!(votes.missing, Missing::Mean);
    assert!(config.models["votes"].admission.is_some(), "an ensemble");
    let deadline = config.models["votes"].deadline.as_ref().expect("a default");
    assert_eq!(deadline.min_confidence, Some(0.6));
    assert_eq!(
        config.limits,
        Limits {
            max_message: 32 << 20,
            max_gathered: 256 << 20,
            max_queue_rows: 900,
            max_queue_bytes: 9 << 20,
            max_connections: 100,
            drain: Duration::from_millis(1500),
        }
    );
    assert_eq!(config.telemetry, Telemetry { access_log: true });
    assert_eq!(
        config.feedback,
        Feedback {
            key: Some("key".into()),
            previous_key: Some("old".into()),
            max_age: Duration::from_secs(48 * 3600),
        }
    );
    assert_eq!(
        config.state,
        State::Redis(Redis {
            url: "rediss://h:6380/2".parse().expect("a URL"),
            password_file: Some("password".into()),
            ca: Some("ca.crt".into()),
            prefix: name("ours"),
            interval: Duration::from_millis(100),
            context_ttl: Duration::from_secs(24 * 3600),
        })
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = read(&format!(
        "{LEAST}models: {{ digits: {{ batch: {{}}, cache: {{}}, selection: {{}} }} }}"
    ));
    assert_eq!(config.feedback, Feedback::default());
    assert_eq!(config.state, State::Memory);
    assert_eq!(
        config.models["digits"].selection,
        Some(select::Config::default())
    );
    assert_eq!(config.admin, None);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.telemetry, Telemetry::default());
    assert_eq!(
        config.models["digits"].batch,
        Some(batch::Config::default())
    );
    assert_eq!(
        config.models["digits"].cache,
        Some(cache::Config::default())
    );
    assert_eq!(config.upstreams["triton"].http, HttpVersion::Http2);
}

#[test]
fn what_guards_against_overload_and_loss_is_there_where_it_is_needed() {
    let model = |settings: &str| {
        let config = read(&format!("{LEAST}models: {{ m: {{ {settings} }} }}"));
        let model = &config.models["m"];
        (model.admission.is_some(), model.retry.is_some())
    };
    for (settings, expected) in [
        ("", (false, false)),
        ("retry: { budget: 0 }", (false, false)),
        ("retry: {}", (false, true)),
        ("cache: {}", (false, true)),
        ("batch: {}", (false, true)),
        ("deadline: {}", (true, true)),
        ("hedge: {}", (true, true)),
        ("admission: {}", (true, true)),
        ("arms: { a: { upstream: triton, model: a } }", (false, true)),
        (
            "arms: { a: { upstream: triton, model: a }, b: { upstream: triton, model: b } }, \
             selection: { policy: exp4 }",
            (true, true),
        ),
    ] {
        assert_eq!(model(settings), expected, "{settings}");
    }
    assert_eq!(
        faults_of_model("hedge: { quantile: 1, budget: 0 }").len(),
        2
    );
}

#[test]
fn json_is_accepted() {
    let yaml = read(WHOLE);
    let pretty = serde_json::to_string_pretty(&yaml.effective()).unwrap();
    assert_eq!(read(&pretty), by_name(yaml));
}

/// The configuration with its lists of named things in the order of names, which is that of what is
/// in effect.
fn by_name(mut config: Config) -> Config {
    for model in config.models.values_mut() {
        model.arms.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(deadline) = &mut model.deadline {
            deadline.default_output.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }
    config
}

#[test]
fn what_is_in_effect_reads_as_itself() {
    for text in [
        WHOLE,
        LEAST,
        &format!("{LEAST}models: {{ a: {{ batch: {{}}, cache: {{}} }} }}"),
        &format!("{LEAST}models: {{ a: {{ cache: {{ tenant: {{ header: x-user }} }} }} }}"),
        &format!(
            "{LEAST}models: {{ a: {{ selection: {{ log: {{ path: f }} }}, deadline: {{}} }} }}"
        ),
        &format!("{LEAST}models: {{ a: {{ selection: {{}} }} }}\nstate: {{ directory: d }}"),
        &format!(
            "{LEAST}models: {{ a: {{ selection: {{ context: {{ header: x }} }} }} }}\n\
             feedback: {{}}\nstate: {{ redis: 'redis+sentinel://h,i:1/m' }}"
        ),
    ] {
        let config = read(text);
        assert_eq!(read(&config.effective().to_string()), by_name(config));
    }
}

#[test]
fn every_fault_is_found_at_once_with_its_place() {
    let text = "\
listeners:
  - address: nowhere
    upstream: tritn
  - adress: 127.0.0.1:9002
    upstream: triton
admin: { address: 127.0.0.1:9001, tls: {} }
upstreams:
  triton: { protocol: grpc, endpoints: [] }
models:
  digits:
    latency_objective: 20
    cache: { max_bytes: 64Mb, units: row, bypass: always }
    batch:
      max_batch_size: \"512\"
      controler: aimd
      max_in_flight: many
limits: { drain: soon, max_message: 64Mi }
";
    assert_eq!(
        faults(text),
        [
            "2:14: listeners[0].address: needs an IP address and a port, like 0.0.0.0:9001",
            "3:15: listeners[0].upstream: unknown upstream `tritn`; did you mean `triton`?",
            "4:5: listeners[1].adress: unknown key `adress`; did you mean `address`?",
            "4:5: listeners[1]: `address` is missing",
            "6:35: admin.tls: unknown key `tls`; known are `address`",
            "8:23: upstreams.triton.protocol: unknown protocol `grpc`; known are `oip-grpc`, \
             `oip-rest`, `tfserving-grpc`, `tfserving-rest`",
            "8:29: upstreams.triton.endpoints: needs at least one entry",
            "11:24: models.digits.latency_objective: needs a duration, like 20ms; this needs a \
             unit, one of ns, us, ms, s, m, h",
            "12:25: models.digits.cache.max_bytes: needs a size, like 64MiB; this has no unit \
             that is known; the units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB",
            "12:31: models.digits.cache.units: unknown key `units`; did you mean `unit`?",
            "12:51: models.digits.cache.bypass: unknown way to bypass `always`; known are \
             `auto`, `never`",
            "14:23: models.digits.batch.max_batch_size: needs a whole number, at least 1, without \
             quotes",
            "15:7: models.digits.batch.controler: unknown key `controler`; did you mean \
             `controller`?",
            "16:22: models.digits.batch.max_in_flight: needs a whole number, at least 1, or auto",
            "17:18: limits.drain: needs a duration, like 20ms; this needs a figure and a unit, \
             one of ns, us, ms, s, m, h",
            "17:37: limits.max_message: needs a size, like 64MiB; this has no unit that is known; \
             the units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB",
        ]
    );
}

#[test]
fn all_messages_together_may_be_no_less_than_one() {
    for (limits, found) in [
        (
            "max_gathered: 1MiB",
            "4:25: limits.max_gathered: is less than one message may be: `max_message` is 64MiB",
        ),
        (
            "max_message: 1GiB",
            "4:24: limits.max_message: is more than all messages may be together: `max_gathered` \
             is 512MiB",
        ),
    ] {
        assert_eq!(faults(&format!("{LEAST}limits: {{ {limits} }}")), [found]);
    }
    read(&format!(
        "{LEAST}limits: {{ max_message: 1GiB, max_gathered: 1GiB }}"
    ));
}

#[test]
fn a_fault_shows_its_line() {
    let text = format!("{LEAST}limits: {{ drain: soon }}\n");
    let faults = Config::read(&text)
        .expect_err("a fault")
        .of("proxy.yaml")
        .to_string();
    let (first, rest) = faults.split_once('\n').expect("lines");
    assert!(
        first.starts_with("proxy.yaml:4:18: limits.drain: needs a duration"),
        "{first}"
    );
    assert_eq!(rest, "    limits: { drain: soon }\n                     ^");
}

#[test]
fn what_belongs_to_later_versions_is_a_fault_that_says_so() {
    for (more, path) in [
        ("telemetry: { otlp: 'http://h:4317' }", "telemetry.otlp"),
        ("telemetry: { sample_ratio: 0.1 }", "telemetry.sample_ratio"),
    ] {
        let faults = faults_with(more);
        assert!(
            faults.len() == 1
                && faults[0].starts_with(&format!("{path}: "))
                && faults[0].contains("is not in this version: it comes with"),
            "{faults:?}"
        );
    }
    let faults = faults(
        "listeners: [{ address: '127.0.0.1:1', upstream: u, transparent: true }]\n\
         upstreams: { u: { protocol: oip-grpc, endpoints: ['http://h:1'] } }",
    );
    assert!(
        faults.len() == 1 && faults[0].contains("is not in this version"),
        "{faults:?}"
    );
}

#[test]
fn a_model_may_be_served_in_every_protocol() {
    for protocol in ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"] {
        for model in [
            "{ batch: {} }",
            "{ arms: { a: { upstream: u, model: b } } }",
        ] {
            let config = read(&format!(
                "listeners: [{{ address: '127.0.0.1:1', upstream: u }}]\n\
                 upstreams: {{ u: {{ protocol: {protocol}, endpoints: ['http://h:1'] }} }}\n\
                 models: {{ m: {model} }}"
            ));
            assert_eq!(config.models.len(), 1);
        }
    }
}

#[test]
fn two_listeners_on_one_address_are_a_fault() {
    let text = |first: &str, second: &str| {
        format!(
            "listeners:\n- {{ address: '{first}', upstream: u }}\n- {{ address: '{second}', \
             upstream: u }}\nupstreams: {{ u: {{ protocol: oip-grpc, endpoints: ['http://h:1'] }} }}"
        )
    };
    for (first, second) in [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::1]:1", "[::]:1"),
    ] {
        let faults = faults(&text(first, second));
        let expected = "3:14: listeners[1].address: `listeners[0].address` listens there already";
        assert_eq!(faults, [expected]);
    }
    for (first, second) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:1", "127.0.0.2:1"),
        ("127.0.0.1:1", "[::1]:1"),
    ] {
        read(&text(first, second));
    }
}

#[test]
fn the_admin_pages_need_an_address_of_their_own() {
    assert_eq!(
        faults_with("admin: { address: '127.0.0.1:9001' }"),
        ["admin.address: `listeners[0].address` listens there already"]
    );
}

#[test]
fn an_upstream_that_nothing_leads_to_is_a_fault() {
    let text = LEAST.replace(
        "upstreams: {",
        "upstreams: { spare: { protocol: oip-rest, endpoints: ['http://h:1'] },",
    );
    assert_eq!(
        faults(&text),
        ["3:14: upstreams.spare: no listener and no arm leads to this upstream"]
    );
}

#[test]
fn grpc_is_not_spoken_over_http_1() {
    let text = LEAST.replace("protocol:", "http: 1, protocol:");
    assert_eq!(
        faults(&text),
        ["3:30: upstreams.triton.http: oip-grpc needs HTTP/2"]
    );
}

#[test]
fn a_misspelt_controller_is_answered_with_those_there_are() {
    let faults = faults_with("models: { m: { batch: { controller: quantil } } }");
    assert_eq!(
        faults,
        ["models.m.batch.controller: unknown controller `quantil`; did you mean `quantile`?"]
    );
}

#[test]
fn bounds_that_contradict_each_other_are_faults() {
    for (batch, fault) in [
        (
            "controller: fixed",
            "controller: a fixed controller needs `max_batch_size`",
        ),
        (
            "max_batch_size: 30000",
            "max_batch_size: is more than may wait: `max_queue_rows` is 25000, so no call can \
             become that large",
        ),
        (
            "max_queue_bytes: 1MiB",
            "max_queue_bytes: `max_batch_bytes` (32MiB) is more than may wait: \
             `max_queue_bytes` is 1MiB",
        ),
        (
            "max_batch_size: 0",
            "max_batch_size: needs a whole number, at least 1",
        ),
        (
            "max_delay: 20ms",
            "max_delay: leaves nothing for the model: `latency_objective` is 20ms",
        ),
        (
            "holdout: 2",
            "holdout: needs a number from 0 to 1, like 0.005",
        ),
        (
            "holdout: -0.1",
            "holdout: needs a number from 0 to 1, like 0.005",
        ),
        (
            "cancel: abandonned",
            "cancel: unknown way to cancel `abandonned`; did you mean `abandoned`?",
        ),
        (
            "default_priority: 0",
            "default_priority: needs a whole number, at least 1",
        ),
        ("max_queue_bytes: 0", "max_queue_bytes: must be more than 0"),
        (
            "ignore_headers: [a, A]",
            "ignore_headers[1]: the header is named twice",
        ),
        (
            "ignore_headers: ['a b']",
            "ignore_headers[0]: needs the name of a header",
        ),
    ] {
        let faults = faults_with(&format!("models: {{ m: {{ batch: {{ {batch} }} }} }}"));
        assert_eq!(faults, [format!("models.m.batch.{fault}")]);
    }
    let faults = faults_with("models: { m: { latency_objective: 0 } }");
    assert_eq!(faults, ["models.m.latency_objective: must be more than 0"]);
}

#[test]
fn a_cache_that_could_keep_nothing_or_tell_nobody_apart_is_a_fault() {
    for (cache, fault) in [
        ("max_bytes: 0", "max_bytes: must be more than 0"),
        (
            "max_bytes: 65535",
            "max_bytes: must be at least 64KiB: less holds nothing worth a look-up",
        ),
        (
            "ttl: 0",
            "ttl: must be more than 0; leave `cache` out to keep nothing",
        ),
        ("ttl: 8761h", "ttl: must be at most 8760h, which is a year"),
        (
            "unit: rows",
            "unit: unknown unit `rows`; did you mean `row`?",
        ),
        (
            "unit: batch",
            "unit: unknown unit `batch`; known are `row`, `request`",
        ),
        ("warm: 10001", "warm: must be at most 10000"),
        ("warm: -1", "warm: needs a whole number"),
        ("warm: '5'", "warm: needs a whole number, without quotes"),
        ("tenant: {}", "tenant: `header` is missing"),
        (
            "tenant: { header: x-user, max_bytes: 65MiB }",
            "tenant.max_bytes: is more than the whole cache may take: its `max_bytes` is 64MiB",
        ),
        (
            "tenant: { header: x-user, max_bytes: 8191 }",
            "tenant.max_bytes: must be at least 8KiB: less holds no answer",
        ),
        (
            "tenant: { header: X-Free }",
            "tenant.header: tells nobody apart: `ignore_headers` names it",
        ),
        (
            "tenant: { header: x-user }, ignore_headers: [x, X-User]",
            "tenant.header: tells nobody apart: `ignore_headers` names it",
        ),
        (
            "ignore_headers: [a, A]",
            "ignore_headers[1]: the header is named twice",
        ),
        (
            "tenant: { header: x-request-id }",
            "tenant.header: tells nobody apart: it says nothing of who asks, and is not looked at",
        ),
        (
            "tenant: { header: user-agent }",
            "tenant.header: tells nobody apart: it says nothing of who asks, and is not looked at",
        ),
        (
            "tenant: { header: cache-control }",
            "tenant.header: tells nobody apart: it says nothing of who asks, and is not looked at",
        ),
    ] {
        let model = format!("{{ batch: {{ ignore_headers: [x-free] }}, cache: {{ {cache} }} }}");
        let faults = faults_with(&format!("models: {{ m: {model} }}"));
        assert_eq!(faults, [format!("models.m.cache.{fault}")]);
    }
    for cache in [
        "max_bytes: 64KiB",
        "max_bytes: 64KiB, tenant: { header: x, max_bytes: 8KiB }",
        "ttl: 8760h",
        "warm: 10000",
    ] {
        read(&format!(
            "{LEAST}models: {{ m: {{ cache: {{ {cache} }} }} }}"
        ));
    }
}

#[test]
fn what_the_cache_or_the_batch_ignores_both_do() {
    for (model, effective) in [
        ("cache: { ignore_headers: [X-A] }", json!([null, ["x-a"]])),
        (
            "cache: {}, batch: { ignore_headers: [x-a] }",
            json!([["x-a"], ["x-a"]]),
        ),
        (
            "cache: { ignore_headers: [x-b, x-a] }, batch: { ignore_headers: [x-a] }",
            json!([["x-a", "x-b"], ["x-a", "x-b"]]),
        ),
        ("cache: {}, batch: {}", json!([null, null])),
    ] {
        let config = read(&format!("{LEAST}models: {{ m: {{ {model} }} }}"));
        let shown = config.effective();
        let of = |section: &str| &shown["models"]["m"][section]["ignore_headers"];
        assert_eq!(json!([of("batch"), of("cache")]), effective, "{model}");
        assert_eq!(read(&shown.to_string()), config);
    }
}

#[test]
fn a_tenant_may_fill_an_eighth_of_the_cache_unless_it_says_otherwise() {
    let config = read(&format!(
        "{LEAST}models: {{ m: {{ cache: {{ max_bytes: 8MiB, tenant: {{ header: x }} }} }} }}"
    ));
    let cache = config.models["m"].cache.as_ref().expect("a cache");
    assert_eq!(cache.tenant.as_ref().expect("tenants").max_bytes, 1 << 20);
}

#[test]
fn a_key_without_a_value_is_a_fault() {
    assert_eq!(
        faults_with("models:\n  m:\n    batch:\nlimits: { drain: }"),
        [
            "models.m.batch: has no value; write `{}` for all defaults, or leave it out",
            "limits.drain: has no value; needs a duration, like 20ms, or leave it out",
        ]
    );
}

#[test]
fn a_key_that_stands_twice_is_a_fault() {
    let text = format!("{LEAST}limits: {{ drain: 1s }}\nlimits: {{}}");
    assert_eq!(faults(&text), ["5:1: limits: the key stands on line 4 too"]);
}

#[test]
fn a_number_is_no_name() {
    let arm = "arms: { a: { upstream: triton, model: a, version: 3 } }";
    assert_eq!(
        faults_with(&format!("models: {{ m: {{ {arm} }} }}")),
        ["models.m.arms.a.version: needs a name; this is a number, put it in quotes"]
    );
}

#[test]
fn a_version_that_its_server_cannot_be_asked_for_is_a_fault() {
    let text = |protocol: &str, version: &str| {
        format!(
            "listeners: [{{ address: 127.0.0.1:1, upstream: u }}]\n\
             upstreams: {{ u: {{ protocol: {protocol}, endpoints: ['http://a:1'] }} }}\n\
             models:\n  m: {{ arms: {{ a: {{ upstream: u, model: m, version: '{version}' }} }} }}"
        )
    };
    for protocol in ["tfserving-grpc", "tfserving-rest"] {
        let said = format!(
            "4:53: models.m.arms.a.version: versions of models are numbers where {protocol} is \
             spoken"
        );
        for version in ["v1", "-1", "+1", "99999999999999999999"] {
            assert_eq!(
                faults(&text(protocol, version)),
                [said.as_str()],
                "{version}"
            );
        }
        read(&text(protocol, "3"));
    }
    read(&text("oip-grpc", "v1"));
}

#[test]
fn a_name_with_dots_is_told_from_a_path() {
    assert_eq!(
        faults_with("models: { a.b: { kind: 1 } }"),
        [
            "models.\"a.b\".kind: unknown key `kind`; known are `latency_objective`, `arms`, `batch`, \
         `cache`, `selection`, `deadline`, `admission`, `retry`, `hedge`"
        ]
    );
}

#[test]
fn text_that_is_not_yaml_is_one_fault_with_its_place() {
    for text in [
        "listeners: [",
        "a: b: c",
        "\"",
        "\t- x",
        "&a [*a]",
        "!x {}",
        "*x",
        "--- a\n--- b",
    ] {
        let faults = Config::read(text).expect_err(text);
        assert!(
            faults.iter().all(|fault| fault.position().is_some()),
            "{text}: {faults}"
        );
    }
    assert_eq!(faults(""), ["1:1: the file is empty"]);
    assert_eq!(faults("# nothing"), ["1:1: the file is empty"]);
    let bytes = Config::read(b"a: 1\nb: \xff").expect_err("a fault");
    assert_eq!(bytes.of("f").to_string(), "f:2:1: the text is not UTF-8");
}

#[test]
fn a_small_file_does_not_become_a_large_tree() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let found = faults(&text);
    assert!(
        found[0].contains("more values than any configuration needs"),
        "{found:?}"
    );
    let found = faults(&"[".repeat(100));
    assert!(found[0].contains("nested deeper than 32"), "{found:?}");
    let mut text = String::from("a0: &a0 x\n");
    for level in 1..100 {
        text.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    let found = faults(&text);
    assert!(found[0].contains("nested deeper than 32"), "{found:?}");
    let found = faults(&format!("[{}]", "x,".repeat(20_000)));
    assert!(found[0].contains("more than 10000 entries"), "{found:?}");
    let text = " ".repeat(Config::MAX_BYTES + 1);
    assert_eq!(faults(&text), ["1:1: the file is larger than 1MiB"]);
}

#[test]
fn aliases_repeat_what_they_name() {
    let config = read(&format!(
        "{LEAST}models:\n  a: {{ batch: &batch {{ max_batch_size: 8 }} }}\n  b: {{ batch: *batch }}"
    ));
    assert_eq!(config.models["a"].batch, config.models["b"].batch);
}

#[test]
fn no_password_is_shown() {
    let text = LEAST.replace("http://127.0.0.1", "http://me:sesame@127.0.0.1");
    let faults = Config::read(text).expect_err("a fault").to_string();
    assert!(
        faults.contains("http://me:***@127.0.0.1") && !faults.contains("sesame"),
        "{faults}"
    );
}

#[test]
fn the_examples_have_no_faults() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    let mut count = 0;
    for file in fs::read_dir(directory).expect("examples") {
        let path = file.expect("an example").path();
        let source = Source::File {
            path: path.clone(),
            admin: None,
        };
        let config = source.read().unwrap_or_else(|error| panic!("{error}"));
        assert_valid(&schema(), &config.effective(), "");
        count += 1;
    }
    assert!(count >= 4, "{count}");
}

#[test]
fn the_contract_and_what_is_in_effect_follow_the_schema() {
    assert_valid(&schema(), &read(WHOLE).effective(), "");
    assert_valid(&schema(), &read(LEAST).effective(), "");
}

#[test]
fn every_key_of_the_schema_is_known_to_the_reader_and_no_other() {
    visit(&schema(), &mut Vec::new(), &mut |path, schema| {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        assert_eq!(schema["additionalProperties"], false, "{path:?}");
        let strange = faults_of(&nested(path, json!({ "strange": 1 })));
        assert!(
            strange.contains("unknown key `strange`"),
            "{path:?}: {strange}"
        );
        for (key, property) in properties {
            // A value of no use for any key: what is found is a fault of the value, not of the key.
            let found = faults_of(&nested(path, json!({ key.as_str(): null })));
            assert!(!found.contains("unknown key"), "{path:?} {key}: {found}");
            assert!(found.contains(key.as_str()), "{path:?} {key}: {found}");
            assert!(
                property["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
            );
        }
        for key in schema["required"].as_array().expect("a list") {
            let found = faults_of(&nested(path, json!({})));
            let missing = format!("`{}` is missing", key.as_str().expect("a key"));
            assert!(found.contains(&missing), "{path:?}: {found}");
        }
    });
}

#[test]
fn the_schema_tells_the_defaults_that_are_in_effect() {
    let effective = read(&format!(
        "{LEAST}models: {{ m: {{ batch: {{}}, cache: {{}}, deadline: {{}}, hedge: {{}}, selection: {{ \
         context: {{ header: x }}, log: {{ path: f }} }} }} }}\nstate: {{ redis: 'redis://h' }}"
    ));
    let effective = effective.effective();
    let mut told = 0;
    visit(&schema(), &mut Vec::new(), &mut |path, schema| {
        let description = schema["description"].as_str().unwrap_or_default();
        let Some((_, default)) = description.split_once("Default: ") else {
            return;
        };
        let default = default.split([' ', ';', ',']).next().unwrap_or_default();
        let default = default.trim_end_matches('.');
        let value = path
            .iter()
            .fold(&effective, |value, step| match step.as_str() {
                "any" => value
                    .as_object()
                    .and_then(|all| all.values().next())
                    .expect("an entry"),
                key => &value[key],
            });
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(value, default, "{path:?}");
        told += 1;
    });
    assert!(told >= 20, "{told}");
}

fn faults_of(value: &Json) -> String {
    Config::read(value.to_string())
        .expect_err("faults")
        .to_string()
}

/// Puts a value where the path of a section leads.
fn nested(path: &[String], value: Json) -> Json {
    path.iter()
        .rev()
        .fold(value, |value, step| match step.as_str() {
            "[]" => json!([value]),
            key => json!({ key: value }),
        })
}

/// Walks over the schemas of all sections.
fn visit(schema: &Json, path: &mut Vec<String>, seen: &mut impl FnMut(&[String], &Json)) {
    seen(path, schema);
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(key.clone());
        visit(property, path, seen);
        path.pop();
    }
    for (key, step) in [("items", "[]"), ("additionalProperties", "any")] {
        if schema[key].is_object() {
            path.push(step.to_owned());
            visit(&schema[key], path, seen);
            path.pop();
        }
    }
}

/// As much of JSON Schema as ours uses, patterns excepted.
fn assert_valid(schema: &Json, value: &Json, path: &str) {
    let types: Vec<&str> = match &schema["type"] {
        Json::String(one) => vec![one],
        several => several
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect(),
    };
    let own = match value {
        Json::Object(_) => "object",
        Json::Array(_) => "array",
        Json::String(_) => "string",
        Json::Number(number) if types.contains(&"number") || number.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::Bool(_) => "boolean",
        Json::Null => "null",
    };
    assert!(
        types.is_empty() || types.contains(&own),
        "{path}: {own} is none of {types:?}"
    );
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(
            allowed.contains(value),
            "{path}: {value} is none of {allowed:?}"
        );
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        assert!(
            value.get(key.as_str().expect("a key")).is_some(),
            "{path}: {key} is missing"
        );
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        match schema["properties"].get(key) {
            Some(property) => assert_valid(property, value, &path),
            None => {
                let schema = &schema["additionalProperties"];
                assert!(schema.is_object(), "{path}: not in the schema");
                assert_valid(schema, value, &path);
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        assert_valid(&schema["items"], item, path);
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_configuration_or_faults(bytes: Vec<u8>) {
        if let Err(faults) = Config::read(&bytes) {
            prop_assert!(faults.count() > 0 && !faults.to_string().is_empty());
        }
    }

    #[test]
    fn any_text_gives_a_configuration_or_faults(
        text in "([ \n\t:\\-\\[\\]{},&*!|>'\"%@`#?a-c0-1]|: |- |\n  |\\PC){0,200}",
    ) {
        if let Err(faults) = Config::read(&text) {
            prop_assert!(faults.count() > 0 && !faults.to_string().is_empty());
        }
    }

    #[test]
    fn a_damaged_file_gives_faults_within_the_file_or_a_configuration(
        at in 0..WHOLE.len(),
        removed in 0..40_usize,
        inserted in "[ \n\t:\\-\\[\\]{},&*!|>'\"%@`#?a-c0-1\\PC]{0,6}",
    ) {
        let end = (at + removed).min(WHOLE.len());
        let text = format!("{}{inserted}{}", &WHOLE[..at], &WHOLE[end..]);
        match Config::read(&text) {
            Ok(config) => {
                let shown = config.effective().to_string();
                // What is masked is not what was written.
                if !shown.contains("***") {
                    prop_assert_eq!(by_name(read(&shown)), by_name(config));
                }
            }
            Err(faults) => for fault in faults.iter() {
                let line = fault.position().expect("a place").line;
                prop_assert!((1..=text.split('\n').count() + 1).contains(&line), "{}", faults);
            }
        }
    }
}

/// A configuration whose listener and upstream say these things of TLS.
fn with_tls(listener: &str, upstream: &str) -> String {
    format!(
        "listeners: [{{ address: '127.0.0.1:1', upstream: u{listener} }}]\n\
         upstreams: {{ u: {{ protocol: oip-grpc, {upstream} }} }}\n"
    )
}

#[test]
fn tls_is_read_whole() {
    let config = read(&with_tls(
        ", tls: { certificate: tls.crt, key: tls.key, client_ca: ca.crt }",
        "endpoints: ['https://h', 'https://h:1'], \
         tls: { ca: ca.crt, certificate: c.crt, key: c.key, server_name: models.example }",
    ));
    let tls = config.listeners[0].tls.as_ref().expect("TLS");
    assert_eq!(tls.identity.certificate, Path::new("tls.crt"));
    let clients = tls.clients.as_ref().expect("clients are asked");
    assert!(clients.required, "unless it says otherwise");
    let upstream = &config.upstreams["u"];
    assert_eq!(upstream.endpoints[0].port(), 443);
    let tls = upstream.tls.as_ref().expect("TLS");
    assert_eq!(
        tls.server_name.as_ref().expect("a name").to_str(),
        "models.example"
    );
    assert_eq!(tls.files().count(), 3);
    assert_eq!(read(&config.effective().to_string()), config);
    assert_valid(&schema(), &config.effective(), "");

    let config = read(&with_tls(
        ", tls: { certificate: a, key: b, client_ca: c, client_auth: optional }",
        "endpoints: ['https://h']",
    ));
    let clients = &config.listeners[0].tls.as_ref().expect("TLS").clients;
    assert!(!clients.as_ref().expect("clients are asked").required);
    assert_eq!(config.upstreams["u"].tls, Some(ClientTls::default()));
    assert_eq!(read(&config.effective().to_string()), config);
}

#[test]
fn what_contradicts_itself_in_tls_is_a_fault() {
    const HTTPS: &str = "endpoints: ['https://h']";
    for (listener, upstream, found) in [
        (
            ", tls: { certificate: c }",
            HTTPS,
            "listeners[0].tls: `key` is missing",
        ),
        (
            ", tls: { certificate: c, key: k, client_auth: optional }",
            HTTPS,
            "listeners[0].tls.client_auth: needs `client_ca`: without it no client is asked",
        ),
        (
            ", tls: { certificate: '', key: k }",
            HTTPS,
            "listeners[0].tls.certificate: needs the path of a file",
        ),
        (
            "",
            "endpoints: ['http://h:1'], tls: {}",
            "upstreams.u.tls: the endpoints are http://, where no TLS is spoken; write \
             https://",
        ),
        (
            "",
            "endpoints: ['https://h', 'http://h:1']",
            "upstreams.u.endpoints[1]: the endpoints of an upstream are all http:// or all \
             https://",
        ),
        (
            "",
            "endpoints: ['https://h', 'https://h:443']",
            "upstreams.u.endpoints[1]: the endpoint is named twice",
        ),
        (
            "",
            "endpoints: ['https://h'], tls: { certificate: c }",
            "upstreams.u.tls.certificate: needs a `key` beside it",
        ),
        (
            "",
            "endpoints: ['https://h'], tls: { key: k }",
            "upstreams.u.tls.key: needs a `certificate` beside it",
        ),
        (
            "",
            "endpoints: ['https://h'], tls: { server_name: 'no name' }",
            "upstreams.u.tls.server_name: needs a host's name or an IP address",
        ),
        (
            "",
            "endpoints: ['https://h$h']",
            "upstreams.u.endpoints[0]: no certificate can be for this host; name another as \
             `tls.server_name`",
        ),
    ] {
        let all = Config::read(with_tls(listener, upstream)).expect_err("a fault");
        let all: Vec<_> = all.iter().map(Fault::to_string).collect();
        assert_eq!(all, [found]);
    }
}

#[test]
fn files_of_tls_are_found_beside_the_configuration_and_every_fault_is_told_in_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    let text = "\
listeners:
  - address: 127.0.0.1:1
    upstream: u
    tls: { certificate: tls.crt, key: keys/tls.key }
upstreams:
  u:
    protocol: oip-grpc
    endpoints: ['https://h']
    tls: { ca: ca.crt }
limits: { drain: soon }
";
    fs::write(&path, text).expect("a file");
    fs::write(directory.path().join("ca.crt"), "no certificate").expect("a file");
    let source = Source::File { path, admin: None };
    let error = source.read_whole().expect_err("faults").to_string();
    let at = directory.path().display();
    for fault in [
        format!("{at}/tls.crt: cannot be read: there is no such file"),
        format!("{at}/keys/tls.key: cannot be read: there is no such file"),
        format!("{at}/ca.crt: is not in PEM form: no line begins with `-----BEGIN`"),
        "limits.drain: needs a duration".to_owned(),
    ] {
        assert!(error.contains(&fault), "{fault}: {error}");
    }
    for place in [
        ":4:25: listeners[0].tls.certificate: ",
        ":4:39: listeners[0].tls.key: ",
        ":9:16: upstreams.u.tls.ca: ",
    ] {
        assert!(error.contains(place), "{place}: {error}");
    }
    // A reload has the last good files to go on with.
    let faults = source.parse(text).expect_err("a fault");
    assert_eq!(faults.count(), 1);
}

/// The faults of a model with two arms that answer and one that does not, and these sections.
fn faults_of_model(more: &str) -> Vec<String> {
    faults_with(&format!(
        "models: {{ m: {{ arms: {{ a: {{ upstream: triton, model: a }}, \
         b: {{ upstream: triton, model: b }}, \
         c: {{ upstream: triton, model: c, shadow: true }} }}, {more} }} }}"
    ))
}

/// The faults of arms that say these things.
fn faults_of_arms(arms: &[&str], more: &str) -> Vec<String> {
    let arms = arms.iter().enumerate().map(|(index, arm)| {
        let comma = if arm.is_empty() { "" } else { ", " };
        format!(
            "{}: {{ upstream: triton, model: x{comma}{arm} }}",
            ('a'..).nth(index).unwrap()
        )
    });
    let arms: Vec<String> = arms.collect();
    faults_with(&format!(
        "models: {{ m: {{ arms: {{ {} }}, {more} }} }}",
        arms.join(", ")
    ))
}

#[test]
fn several_arms_are_chosen_from_by_their_weights_unless_it_says_otherwise() {
    let config = read(&format!(
        "{LEAST}models: {{ m: {{ arms: {{ z: {{ upstream: triton, model: x, weight: 9 }}, \
         a: {{ upstream: triton, model: y, shadow: false }}, \
         s: {{ upstream: triton, model: s, shadow: true }} }} }}, \
         one: {{ deadline: {{ default_output: {{ y: [1.5] }} }} }} }}"
    ));
    let model = &config.models["m"];
    let arms: Vec<_> = model.arms.iter().map(Arm::selectable).collect();
    let names: Vec<&str> = arms.iter().map(|arm| &*arm.name).collect();
    assert_eq!(names, ["z", "a", "s"], "in the order of the file");
    assert_eq!(arms[0].weight, 9.);
    assert_eq!((arms[1].shadow, arms[2].shadow), (None, Some(1.)));
    assert_eq!(model.selection, Some(select::Config::default()));
    assert!(
        config.models["one"].selection.is_some(),
        "there is something else to give"
    );
}

#[test]
fn settings_that_the_policy_does_not_have_are_faults() {
    for (selection, fault) in [
        (
            "learning_rate: 0.1",
            "learning_rate: policy `fixed` has no `learning_rate`",
        ),
        (
            "policy: exp3, epsilon: 0.1",
            "epsilon: policy `exp3` has no `epsilon`",
        ),
        (
            "policy: exp3, discount: 0.1",
            "discount: policy `exp3` has no `discount`",
        ),
        (
            "policy: exp4, exploration: 0.1",
            "exploration: policy `exp4` has no `exploration`",
        ),
        (
            "policy: thompson, share: 0.1",
            "share: policy `thompson` has no `share`",
        ),
        (
            "policy: epsilon-greedy, learning_rate: 0.1",
            "learning_rate: policy `epsilon-greedy` has no `learning_rate`",
        ),
        ("loss_scale: 2", "loss_scale: loss `zero-one` has no scale"),
        (
            "policy: exp3, ensemble: true",
            "ensemble: policy `exp3` chooses one arm; all answer with `fixed` and `exp4`",
        ),
        (
            "policy: exp4, ensemble: false",
            "ensemble: with policy `exp4` all arms answer",
        ),
        // What is of a policy that nobody knows is not told of as well.
        (
            "policy: exp5, learning_rate: 0.1, ensemble: true",
            "policy: unknown policy `exp5`; did you mean `exp3`?",
        ),
        (
            "loss: absolut, loss_scale: 2",
            "loss: unknown loss `absolut`; did you mean `absolute`?",
        ),
    ] {
        let faults = faults_of_model(&format!("selection: {{ {selection} }}"));
        assert_eq!(faults, [format!("models.m.selection.{fault}")]);
    }
}

#[test]
fn settings_of_selection_out_of_their_range_are_faults() {
    for (selection, fault) in [
        (
            "policy: exp3, learning_rate: 0",
            "learning_rate: needs a number of more than 0, like 0.2",
        ),
        (
            "policy: exp3, learning_rate: 11",
            "learning_rate: must be at most 10",
        ),
        (
            "policy: exp3, exploration: 1.1",
            "exploration: needs a number from 0 to 1, like 0.05",
        ),
        (
            "policy: exp3, exploration: '0.1'",
            "exploration: needs a number from 0 to 1, like 0.05",
        ),
        (
            "policy: exp3, share: 0.6",
            "share: must be at most 0.5: more forgets what it is told",
        ),
        (
            "policy: thompson, discount: 0",
            "discount: must be more than 0: nothing would be learned",
        ),
        (
            "policy: epsilon-greedy, epsilon: .nan",
            "epsilon: needs a number from 0 to 1, like 0.05",
        ),
        (
            "loss: squared, loss_scale: -1",
            "loss_scale: needs a number of more than 0, like 0.2",
        ),
        (
            "failure_loss: 2",
            "failure_loss: needs a number from 0 to 1, or ignore",
        ),
        ("seed: -1", "seed: needs a whole number"),
        ("context: {}", "context: `header` is missing"),
        (
            "context: { header: x, max_contexts: 10000001 }",
            "context.max_contexts: must be at most 10000000",
        ),
        (
            "context: { header: Connection }",
            "context.header: tells nobody apart: it says nothing of who asks, and is not looked at",
        ),
        (
            "context: { header: traceparent }",
            "context.header: tells nobody apart: it says nothing of who asks, and is not looked at",
        ),
        ("log: {}", "log: `path` is missing"),
        (
            "log: { path: f, max_bytes: 1KiB }",
            "log.max_bytes: must be at least 64KiB",
        ),
        (
            "log: { path: f, files: 0 }",
            "log.files: needs a whole number, at least 1",
        ),
        (
            "log: { path: f, files: 1001 }",
            "log.files: must be at most 1000",
        ),
        (
            "log: { path: f, sample: 0 }",
            "log.sample: must be more than 0; leave `log` out to write nothing",
        ),
    ] {
        let faults = faults_of_model(&format!("selection: {{ {selection} }}"));
        assert_eq!(faults, [format!("models.m.selection.{fault}")]);
    }
    // By it callers are told apart for the choice, and not for the rest.
    read(&format!(
        "{LEAST}models: {{ m: {{ selection: {{ context: {{ header: x }} }}, \
         cache: {{ ignore_headers: [x] }} }} }}"
    ));
}

#[test]
fn arms_that_cannot_stand_beside_each_other_are_faults() {
    let both = "selection: {}";
    for (arms, more, fault) in [
        (
            &["min_probability: 0.6", "min_probability: 0.5"][..],
            both,
            "arms: the least probabilities are more than 1 together",
        ),
        (
            &["max_probability: 0.6", "max_probability: 0.3"],
            both,
            "arms: the greatest probabilities are less than 1 together",
        ),
        (
            &["min_probability: 0.6, max_probability: 0.5", ""],
            both,
            "arms.a.min_probability: is more than `max_probability`, which is 0.5",
        ),
        (
            &["weight: 0", "weight: 0", "shadow: true"],
            both,
            "arms: one of the arms that answer needs a `weight`",
        ),
        (
            &["weight: -1", ""],
            both,
            "arms.a.weight: needs a number, at least 0, like 9",
        ),
        (
            &["weight: .inf", ""],
            both,
            "arms.a.weight: needs a number, at least 0, like 9",
        ),
        (
            &["shadow: 0.5, weight: 1", ""],
            both,
            "arms.a.weight: means nothing to a shadow, which is never chosen",
        ),
        (
            &["shadow: 0", ""],
            both,
            "arms.a.shadow: needs true, false or a number of more than 0 and at most 1, like 0.1",
        ),
        (
            &["shadow: true", "shadow: 0.1"],
            both,
            "arms: all of them are shadows: none answers",
        ),
        (
            &["weight: 2"],
            "cache: {}",
            "arms.a.weight: means nothing: the model has one arm and no `selection`",
        ),
        (
            &["", "shadow: true"],
            "selection: { policy: exp4 }",
            "selection.policy: needs several arms: one has nobody to agree with",
        ),
        (
            &[""],
            "selection: { ensemble: true }",
            "selection.ensemble: needs several arms: one has nobody to agree with",
        ),
    ] {
        let found = faults_of_arms(arms, more);
        assert_eq!(found, [format!("models.m.{fault}")], "{arms:?}");
    }
    let many = |count: usize| {
        let arms = (0..count).map(|arm| format!("a{arm}: {{ upstream: triton, model: x }}"));
        let arms = arms.collect::<Vec<_>>().join(", ");
        format!("{LEAST}models: {{ m: {{ arms: {{ {arms} }} }} }}")
    };
    assert_eq!(read(&many(64)).models["m"].arms.len(), 64);
    let found = Config::read(many(65)).expect_err("a fault").to_string();
    assert!(
        found.contains("models.m.arms: a model has at most 64 arms"),
        "{found}"
    );
    let tenths = "min_probability: 0.1, max_probability: 0.1, weight: 0.1";
    let tenths: Vec<String> = (0..10)
        .map(|a| format!("a{a}: {{ upstream: triton, model: x, {tenths} }}"))
        .collect();
    read(&format!(
        "{LEAST}models: {{ m: {{ arms: {{ {} }} }} }}",
        tenths.join(", ")
    ));
}

#[test]
fn a_default_output_that_is_no_row_or_never_given_is_a_fault() {
    for (deadline, fault) in [
        (
            "default_output: {}",
            "default_output: needs at least one entry",
        ),
        (
            "default_output: { y: [] }",
            "default_output.y: needs at least one entry",
        ),
        ("default_output: { y: 0 }", "default_output.y: needs a list"),
        (
            "default_output: { y: [[0]] }",
            "default_output.y[0]: needs a number, true, false or text, not a list",
        ),
        (
            "default_output: { y: [0, a] }",
            "default_output.y: an output holds numbers, or texts, or true and false, not some of \
             each",
        ),
        (
            "default_output: { y: [.inf] }",
            "default_output.y[0]: needs a number, true, false or text; no whole number of more \
             than 64 bits, and none that is not finite",
        ),
        (
            "default_output: { y: [9223372036854775808] }",
            "default_output.y[0]: needs a number, true, false or text; no whole number of more \
             than 64 bits, and none that is not finite",
        ),
        (
            "default_output: { y: [0] }, min_confidence: 0.5",
            "min_confidence: needs an ensemble, with `selection.policy: exp4` or \
             `selection.ensemble: true`: one arm alone has no confidence",
        ),
        (
            "min_confidence: 0.5",
            "min_confidence: needs `default_output`: there is nothing to give instead",
        ),
        (
            "default_output: { y: [0] }, min_confidence: 0",
            "min_confidence: must be more than 0; left out, every answer is given",
        ),
        (
            "default_output: { y: [0] }, min_confidence: 1.5",
            "min_confidence: needs a number from 0 to 1, like 0.05",
        ),
    ] {
        let faults = faults_of_model(&format!("deadline: {{ {deadline} }}"));
        assert_eq!(faults, [format!("models.m.deadline.{fault}")]);
    }
}

#[test]
fn values_of_a_default_output_are_what_they_are_written_as() {
    use Value::{Bool, Integer, Number, String as Text};
    let config = read(&format!(
        "{LEAST}models: {{ m: {{ deadline: {{ default_output: {{ \
         x: [-1, 9223372036854775807, 1.0, 1e3], y: ['1', a, 'true'], z: [true] }} }} }} }}"
    ));
    let deadline = config.models["m"]
        .deadline
        .as_ref()
        .expect("a default output");
    let values: Vec<_> = deadline
        .default_output
        .iter()
        .map(|(_, values)| values.as_slice())
        .collect();
    let text = |text: &str| Text(text.into());
    assert_eq!(
        values,
        [
            &[
                Integer(-1),
                Integer(i64::MAX.into()),
                Number(1.),
                Number(1000.)
            ][..],
            &[text("1"), text("a"), text("true")],
            &[Bool(true)],
        ]
    );
    assert_eq!(read(&config.effective().to_string()), config);
}

#[test]
fn what_is_said_of_feedback_and_state_has_to_mean_something() {
    const SELECTS: &str = "models: { m: { selection: {} } }\n";
    for (more, found) in [
        (
            "feedback: {}",
            "feedback: means nothing: no model has `selection`",
        ),
        (
            "state: { directory: d }",
            "state: means nothing: no model has `selection`",
        ),
    ] {
        assert_eq!(faults_with(more), [found]);
    }
    for (more, found) in [
        (
            "feedback: { previous_key: k }",
            "feedback.previous_key: needs a `key` beside it: without one, ids are signed with a \
             random key",
        ),
        (
            "feedback: { key: k, previous_key: k }",
            "feedback.previous_key: is the file of `key`",
        ),
        (
            "feedback: { max_age: 0 }",
            "feedback.max_age: must be more than 0: no feedback comes at once",
        ),
        (
            "feedback: { max_age: 8761h }",
            "feedback.max_age: must be at most 8760h, which is a year",
        ),
        ("state: {}", "state: needs `redis` or `directory`"),
        (
            "state: { redis: 'redis://h', directory: d }",
            "state.directory: is instead of `redis`, not beside it",
        ),
        (
            "state: { directory: d, interval: 1s }",
            "state.interval: is for `redis`, and means nothing to a directory",
        ),
        (
            "state: { redis: 'http://h' }",
            "state.redis: needs a URL like redis://127.0.0.1:6379/0; the scheme must be redis, \
             redis+sentinel, redis+cluster, or with TLS rediss, rediss+sentinel, rediss+cluster",
        ),
        (
            "state: { redis: 'redis://h', ca: c }",
            "state.ca: no TLS is spoken; write rediss instead of redis",
        ),
        (
            "state: { redis: 'redis://:sesame@h', password_file: f }",
            "state.password_file: the URL has a password already",
        ),
        (
            "state: { redis: 'redis://h', prefix: 'a{b' }",
            "state.prefix: must not hold braces: they say what a cluster keeps together",
        ),
        (
            "state: { redis: 'redis://h', interval: 5ms }",
            "state.interval: must be from 10ms to 1m",
        ),
        (
            "state: { redis: 'redis://h', context_ttl: 1s }",
            "state.context_ttl: must be at least 1m",
        ),
    ] {
        assert_eq!(faults_with(&format!("{SELECTS}{more}")), [found]);
    }
    let two = "models: { m: { selection: { log: { path: f } } }, n: { selection: { log: { path: f } } } }";
    assert_eq!(
        faults_with(two),
        ["models.n.selection.log.path: `models.m.selection.log.path` is written to it already"]
    );
}

#[test]
fn a_password_of_redis_is_kept_and_not_shown() {
    let config = read(&format!(
        "{LEAST}models: {{ m: {{ selection: {{}} }} }}\n\
         state: {{ redis: 'redis://me:sesame@h' }}"
    ));
    assert_eq!(
        config.effective()["state"]["redis"],
        "redis://me:***@h:6379/0"
    );
    assert!(!format!("{config:?}").contains("sesame"));
    let State::Redis(redis) = &config.state else {
        panic!("{:?}", config.state);
    };
    let password = redis
        .password()
        .expect("no file is read")
        .expect("a password");
    assert_eq!(password.reveal(), "sesame");
    let faults = faults_with("state: { redis: 'redis://:sesa/me@h' }").concat();
    assert!(!faults.contains("sesa"), "{faults}");
    let faults = Config::read(format!("{LEAST}state: {{ redis: 'redis://:sesa/me@h' }}"));
    let faults = faults.expect_err("faults").to_string();
    assert!(!faults.contains("sesa"), "{faults}");
}

#[test]
fn files_of_selection_are_looked_at_where_files_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let with = |state: &str| {
        let text = format!(
            "{LEAST}models: {{ m: {{ selection: {{ log: {{ path: logs/choices.jsonl }} }} }} }}\n\
             feedback: {{ key: short, previous_key: missing }}\nstate: {{ {state} }}\n"
        );
        let path = at.join("proxy.yaml");
        fs::write(&path, text).expect("a file");
        Source::File { path, admin: None }
    };
    fs::write(at.join("short"), "fifteen bytes..").expect("a file");
    fs::write(at.join("empty"), "\n").expect("a file");
    fs::write(at.join("password"), "sesame\n").expect("a file");
    for (state, found) in [
        ("directory: nowhere", "nowhere: there is no such directory"),
        ("directory: short", "short: is no directory"),
        (
            "redis: 'redis://h', password_file: empty",
            "empty: cannot be read: it is empty",
        ),
        (
            "redis: 'redis://h', password_file: missing",
            "missing: cannot be read: there is no such file",
        ),
        (
            "redis: 'rediss://h', ca: short",
            "short: is not in PEM form: no line begins with `-----BEGIN`",
        ),
    ] {
        fs::write(at.join("short"), "fifteen bytes..").expect("a file");
        let source = with(state);
        let error = source.read_whole().expect_err("faults").to_string();
        let shown = at.display();
        for found in [
            format!("{shown}/{found}"),
            format!("feedback.key: {shown}/short: a key of 15 bytes is too short: it needs 16"),
            format!(
                "feedback.previous_key: {shown}/missing: cannot be read: there is no such file"
            ),
            format!("selection.log.path: {shown}/logs: there is no such directory"),
        ] {
            assert!(error.contains(&found), "{found}: {error}");
        }
        source.read().expect("no file is looked at");
    }
    fs::write(at.join("short"), "sixteen bytes...").expect("a file");
    fs::write(at.join("missing"), "sixteen bytes too").expect("a file");
    fs::create_dir(at.join("logs")).expect("a directory");
    for state in [
        "directory: logs",
        "redis: 'redis://h', password_file: password",
    ] {
        let config = with(state).read_whole();
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        if let State::Redis(redis) = &config.state {
            let password = redis.password().expect("a file").expect("a password");
            assert_eq!(password.reveal(), "sesame", "without the end of its line");
        }
    }
}
