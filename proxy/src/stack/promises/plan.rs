//! What may happen: configurations, servers and callers, at random.

use proptest::prelude::*;

use super::server::{Act, Greeting};

/// Everything that happens.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) stack: Stack,
    pub(super) servers: Vec<Script>,
    pub(super) callers: Vec<Caller>,
}

/// What a server does.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) acts: Vec<Act>,
    pub(super) greetings: Vec<Greeting>,
}

/// Who comes, and when; times are in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) at: u64,
    pub(super) mark: i64,
    pub(super) rows: usize,
    pub(super) patience: Patience,
    /// After how long it hangs up.
    pub(super) leaves: Option<u64>,
}

/// How long a caller says that it waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// As long as the configuration says.
    Usual,
    /// What it says as gRPC does.
    Grpc(u64),
    /// What it says as we do.
    Own(u64),
}

/// What stands between callers and servers.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    pub(super) shape: Shape,
    /// What the model has besides.
    pub(super) settings: Vec<String>,
    pub(super) default: Option<u64>,
    /// What `deadline` says besides.
    pub(super) deadline: Vec<&'static str>,
}

/// How the servers are asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    /// They are endpoints of one arm.
    Endpoints,
    /// Each is an arm, of which one is asked.
    One,
    /// Each is an arm, and all are asked.
    All,
}

impl Stack {
    /// Writes the configuration for so many servers.
    pub(super) fn config(&self, servers: usize) -> String {
        let address = |server: usize| format!("'http://server:{}'", server + 1);
        let upstream = |name: &str, endpoints: &str| {
            format!("{name}: {{protocol: oip-grpc, endpoints: [{endpoints}]}}")
        };
        let (upstreams, mut settings) = if self.shape == Shape::Endpoints {
            let all: Vec<String> = (0..servers).map(address).collect();
            (upstream("u0", &all.join(", ")), Vec::new())
        } else {
            let upstreams: Vec<String> = (0..servers)
                .map(|server| upstream(&format!("u{server}"), &address(server)))
                .collect();
            let arms: Vec<String> = (0..servers)
                .map(|server| format!("a{server}: {{upstream: u{server}, model: m}}"))
                .collect();
            let policy = match self.shape {
                Shape::All => "exp4",
                _ => "exp3",
            };
            let settings = vec![
                format!("arms: {{{}}}", arms.join(", ")),
                format!("selection: {{policy: {policy}, seed: 7}}"),
            ];
            (upstreams.join(", "), settings)
        };
        let mut deadline: Vec<String> = self.deadline.iter().map(|&text| text.into()).collect();
        deadline.extend(self.default.map(|millis| format!("default: {millis}ms")));
        if !deadline.is_empty() {
            settings.push(format!("deadline: {{{}}}", deadline.join(", ")));
        }
        settings.extend(self.settings.iter().cloned());
        format!(
            "{{listeners: [{{address: '127.0.0.1:0', upstream: u0}}],
               upstreams: {{{upstreams}}},
               models: {{m: {{{}}}}}}}",
            settings.join(", ")
        )
    }

    /// Tells whether a server is asked what the model takes.
    pub(super) fn asks(&self) -> bool {
        !self.settings.is_empty()
    }

    pub(super) fn asks_all(&self) -> bool {
        self.shape == Shape::All
    }

    /// Tells whether a caller may have had its answer when it left, and others were still asked.
    pub(super) fn ends_early(&self) -> bool {
        self.deadline.contains(&"enough: true")
    }

    /// Tells whether calls go on whose callers have left.
    pub(super) fn outlives(&self) -> bool {
        let cancels = |text: &String| text.contains("cancel: abandoned");
        !self.settings.iter().any(cancels)
    }

    pub(super) fn default_deadline(&self) -> Option<u64> {
        self.default
    }
}

/// Any case with such a stack, of so many servers.
pub(super) fn case(
    stack: impl Strategy<Value = Stack>,
    servers: std::ops::Range<usize>,
    marks: i64,
) -> impl Strategy<Value = Case> {
    let servers = prop::collection::vec(script(), servers);
    let callers = prop::collection::vec(caller(), 1..60);
    (stack, servers, callers).prop_map(move |(stack, servers, mut callers)| {
        for (nth, caller) in callers.iter_mut().enumerate() {
            caller.mark = nth as i64 % marks;
        }
        Case {
            stack,
            servers,
            callers,
        }
    })
}

fn script() -> impl Strategy<Value = Script> {
    let calm = prop::collection::vec((0..30_u64).prop_map(Act::Answer), 1..4);
    let wild = prop::collection::vec(act(), 1..8);
    let greeting = prop_oneof![
        4 => (0..200_u64).prop_map(Greeting::After),
        1 => Just(Greeting::Refuse),
        1 => Just(Greeting::Silent),
    ];
    let greetings = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(greeting, 1..4),
    ];
    (prop_oneof![1 => calm, 3 => wild], greetings)
        .prop_map(|(acts, greetings)| Script { acts, greetings })
}

fn act() -> impl Strategy<Value = Act> {
    let reasons = [
        h2::Reason::REFUSED_STREAM,
        h2::Reason::INTERNAL_ERROR,
        h2::Reason::CANCEL,
    ];
    prop_oneof![
        10 => (0..60_u64).prop_map(Act::Answer),
        2 => (0..30_u64, prop::sample::select(vec![13, 14, 8, 4, 3])).prop_map(|(after, code)| Act::Fail(after, code)),
        2 => Just(Act::Hang),
        1 => Just(Act::Stall),
        1 => (0..30_u64, prop::sample::select(reasons.to_vec())).prop_map(|(after, reason)| Act::Reset(after, reason)),
        1 => (0..30_u64).prop_map(Act::Close),
    ]
}

fn caller() -> impl Strategy<Value = Caller> {
    let at = prop_oneof![3 => 0..200_u64, 1 => (0..10_u64).prop_map(|tens| tens * 20)];
    let patience = prop_oneof![
        2 => Just(Patience::Usual),
        3 => (1..120_u64).prop_map(Patience::Grpc),
        1 => (1..120_u64).prop_map(Patience::Own),
    ];
    let leaves = prop::option::weighted(0.25, 0..80_u64);
    (at, 1..4_usize, patience, leaves).prop_map(|(at, rows, patience, leaves)| Caller {
        at,
        mark: 0,
        rows,
        patience,
        leaves,
    })
}
