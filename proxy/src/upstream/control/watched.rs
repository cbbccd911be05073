use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytestring::ByteString;
use futures_util::future::join_all;
use outrigger_filters::cache::Flush;
use parking_lot::RwLock;
use tokio::task::AbortHandle;
use tracing::{debug, info};

use super::{
    Served, describe,
    lookout::{Lookout, Sight},
    shown::Shown,
    trail::Trail,
};
use crate::{
    config::{Name, Protocol},
    upstream::Upstream,
};

/// A model whose server is looked at every second, as long as this is there: another version, or the
/// same one loaded anew, or another process behind the address. Each is told, so that nothing is
/// answered from what the model said before.
///
/// | server | shows by |
/// | --- | --- |
/// | Triton | `ModelStatistics`: counts that begin anew; versions |
/// | TensorFlow Serving | `GetModelStatus`: versions that are available; what labels stand for |
/// | others | the model's description; KServe V1: whether it is ready |
/// | all | a connection that breaks: the process may be another one |
///
/// Every tenth look takes in all that the server says of the model.
#[derive(Debug)]
pub struct Watched {
    labels: Option<Arc<Labels>>,
    task: AbortHandle,
}

/// The labels of versions that requests have named. What a label stands for may change while all
/// versions stay.
#[derive(Debug)]
struct Labels {
    /// By which endpoints it was looked up, one bit each.
    named: RwLock<BTreeMap<ByteString, u64>>,
    /// One bit for each endpoint; none where there are not bits enough.
    all: Option<u64>,
}

impl Watched {
    /// Begins to look at a model by the name that it has on its server, from each of the upstream's
    /// endpoints; must run within the control runtime. Whatever is cached of the model is to be
    /// flushed when `on_change` is called.
    pub fn begin(
        upstream: Arc<Upstream>,
        model: Name,
        version: Option<Name>,
        on_change: impl Fn(Flush) + Send + Sync + 'static,
    ) -> Self {
        let knows_labels = matches!(
            upstream.protocol(),
            Protocol::TfservingGrpc | Protocol::TfservingRest
        );
        // Where the configuration names the version, what callers say of it does not count.
        let labels = (knows_labels && version.is_none())
            .then(|| Arc::new(Labels::new(upstream.endpoints().len())));
        let watching = Watching {
            upstream,
            model,
            version,
            labels: labels.clone(),
        };
        let task = tokio::spawn(async move {
            let endpoints = 0..watching.upstream.endpoints().len();
            join_all(endpoints.map(|index| watching.watch(index, &on_change))).await;
        });
        Self {
            labels,
            task: task.abort_handle(),
        }
    }

    /// Tells whether it would be noticed if a label came to stand for another version; looks for it
    /// from now on. Until then, and where there are too many of them, nothing must be cached of
    /// requests that name it.
    pub fn covers(&self, label: &str) -> bool {
        match &self.labels {
            Some(labels) if !label.is_empty() => labels.cover(label),
            _ => true,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Labels {
    fn new(endpoints: usize) -> Self {
        let named = RwLock::default();
        let bits = u32::try_from(endpoints).ok();
        let all = bits.and_then(|bits| 1_u64.checked_shl(bits));
        Self {
            named,
            all: all.map(|next| next - 1),
        }
    }

    fn cover(&self, label: &str) -> bool {
        if let Some(seen) = self.named.read().get(label) {
            return Some(*seen) == self.all;
        }
        let mut named = self.named.write();
        if named.len() < MOST_LABELS {
            named.entry(label.into()).or_default();
        }
        false
    }

    fn names(&self) -> Vec<ByteString> {
        self.named.read().keys().cloned().collect()
    }

    /// Takes note of what an endpoint shows; labels that it does not know are forgotten, because
    /// callers can make up any number of them.
    fn saw(&self, endpoint: usize, shown: &Shown) {
        let bit = 1_u64.checked_shl(u32::try_from(endpoint).unwrap_or(u32::MAX));
        let Some(bit) = bit.filter(|_| !shown.labels.is_empty()) else {
            return;
        };
        let mut named = self.named.write();
        for (label, stands_for) in &shown.labels {
            match stands_for {
                None => {
                    named.remove(label);
                }
                Some(_) => {
                    if let Some(seen) = named.get_mut(label) {
                        *seen |= bit;
                    }
                }
            }
        }
    }
}

#[derive(Debug)]
struct Watching {
    upstream: Arc<Upstream>,
    model: Name,
    version: Option<Name>,
    labels: Option<Arc<Labels>>,
}

impl Watching {
    async fn watch(&self, index: usize, on_change: &impl Fn(Flush)) {
        let lookouts = self.upstream.lookouts();
        let Some(lookout) = lookouts.get(index) else {
            return;
        };
        let mut trail = Trail::new(lookout.keeps());
        for look in 0_usize.. {
            let away = self.look(index, lookout, &mut trail, on_change).await;
            if look % LOOKS_PER_DESCRIPTION == 0 && !away {
                self.listen(index, &mut trail, on_change).await;
            }
            tokio::time::sleep(if away { AWAY } else { LOOK }).await;
        }
    }

    /// Looks once, and tells whether the server is away.
    async fn look(
        &self,
        index: usize,
        lookout: &Lookout,
        trail: &mut Trail,
        on_change: &impl Fn(Flush),
    ) -> bool {
        let labels = self.labels.as_ref().map(|labels| labels.names());
        let looked = lookout.look(self.served(), labels.unwrap_or_default(), trail.may_count());
        let model = &*self.model;
        match looked.await {
            Sight::Shown(connection, shown) => {
                if let Some(labels) = &self.labels {
                    // Forgotten before they are flushed, so that nothing new is kept of them.
                    labels.saw(index, &shown);
                }
                self.tell(trail.saw(connection, *shown), on_change);
                false
            }
            Sight::Silent(error) => {
                debug!(model, %error, "the server does not show the model");
                trail.waited();
                false
            }
            Sight::Gone(error) => {
                debug!(model, %error, "the server cannot be reached to look at the model");
                trail.missed();
                true
            }
        }
    }

    /// Asks for all that the server says.
    async fn listen(&self, index: usize, trail: &mut Trail, on_change: &impl Fn(Flush)) {
        let Some(endpoint) = self.upstream.endpoints().get(index) else {
            return;
        };
        // Over other connections than the lookout's, because it asks for several things at once.
        let asked = describe::ask(self.upstream.protocol(), endpoint, self.served());
        if let Ok(description) = asked.await {
            self.tell(trail.heard(description), on_change);
        }
    }

    fn tell(&self, change: Option<Flush>, on_change: &impl Fn(Flush)) {
        if let Some(why) = change {
            let (model, why_word) = (&*self.model, why.name());
            info!(
                model,
                why = why_word,
                "the server's model may be another one"
            );
            on_change(why);
        }
    }

    fn served(&self) -> Served<'_> {
        Served {
            model: &self.model,
            version: self.version.as_deref().unwrap_or_default(),
            label: "",
        }
    }
}

/// The wait between looks. It bounds how long an answer of the past may be given after a change that
/// did not pass by here; TensorFlow Serving itself looks for new versions every second. A look is
/// one call, which Triton answers without its models.
const LOOK: Duration = Duration::from_secs(1);
/// The wait between looks for a server that is away.
const AWAY: Duration = Duration::from_millis(250);
/// How many looks go by between two that take in everything.
const LOOKS_PER_DESCRIPTION: usize = 10;
/// How many labels are looked up at a time; people give a model two or three.
const MOST_LABELS: usize = 16;

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::upstream::servers::{MLSERVER_GRPC, Pages, Servers, TENSORFLOW_GRPC};

    /// A model whose server is looked at, and what came of it.
    struct Scene {
        servers: Servers,
        upstream: Arc<Upstream>,
        watched: Watched,
        told: Arc<Mutex<Vec<Flush>>>,
    }

    impl Scene {
        fn new(protocol: &str, pages: Option<Pages>, model: &str) -> Self {
            let (servers, upstream) = Servers::upstream(protocol, pages);
            let told = Arc::new(Mutex::default());
            let watched = {
                let told = Arc::clone(&told);
                let tell = move |why| Mutex::<Vec<Flush>>::lock(&told).push(why);
                Watched::begin(upstream.clone(), model.parse().unwrap(), None, tell)
            };
            Self {
                servers,
                upstream,
                watched,
                told,
            }
        }

        /// Lets time pass, and returns what was told in it.
        async fn pass(&self, time: Duration) -> Vec<Flush> {
            // A little more: the answers, too, take their turns.
            tokio::time::sleep(time + Duration::from_millis(5)).await;
            std::mem::take(&mut self.told.lock())
        }
    }

    const STATISTICS: &str = "/inference.GRPCInferenceService/ModelStatistics";
    const STATUS: &str = "/tensorflow.serving.ModelService/GetModelStatus";

    /// Five rows of version 1, and then six, four, and those of two versions.
    const COUNTS: [Pages; 4] = [
        &[(STATISTICS, b"\x0a\x05\x12\x011\x20\x05")],
        &[(STATISTICS, b"\x0a\x05\x12\x011\x20\x06")],
        &[(STATISTICS, b"\x0a\x05\x12\x011\x20\x04")],
        &[(STATISTICS, b"\x0a\x05\x12\x011\x20\x04\x0a\x03\x12\x012")],
    ];

    #[tokio::test(start_paused = true)]
    async fn a_model_that_is_loaded_anew_counts_from_nothing() {
        let scene = Scene::new("oip-grpc", Some(COUNTS[0]), "m");
        assert_eq!(scene.pass(Duration::from_secs(60)).await, []);
        scene.servers.set(Some(COUNTS[1]));
        assert_eq!(scene.pass(LOOK).await, []);
        scene.servers.set(Some(COUNTS[2]));
        assert_eq!(scene.pass(LOOK).await, [Flush::Version]);
        scene.servers.set(Some(COUNTS[3]));
        assert_eq!(scene.pass(LOOK).await, [Flush::Version]);
        assert_eq!(scene.pass(Duration::from_secs(60)).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_is_unloaded_is_another_one_and_one_that_is_back_too() {
        let scene = Scene::new("oip-rest", Some(&REST), "m");
        assert_eq!(scene.pass(Duration::from_secs(30)).await, []);
        scene.servers.set(Some(&[]));
        assert_eq!(scene.pass(LOOK).await, [Flush::Version]);
        scene.servers.set(Some(&REST));
        assert_eq!(scene.pass(LOOK).await, [Flush::Version]);
    }

    const REST: [(&str, &[u8]); 1] = [(
        "/v2/models/m/stats",
        br#"{"model_stats": [{"version": "1", "inference_count": 5}]}"#,
    )];

    #[tokio::test(start_paused = true)]
    async fn a_server_that_counts_nothing_is_known_by_what_it_says() {
        let scene = Scene::new("oip-grpc", Some(MLSERVER_GRPC), "digits");
        assert_eq!(scene.pass(Duration::from_secs(30)).await, []);
        const OTHER: Pages = &[(
            "/inference.GRPCInferenceService/ModelMetadata",
            b"\x0a\x01m\x12\x012",
        )];
        scene.servers.set(Some(OTHER));
        let told = scene.pass(LOOK * 11).await;
        // Once by the look, and once by the tenth.
        assert_eq!(told, [Flush::Version, Flush::Version]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_is_available_makes_another_model() {
        let scene = Scene::new("tfserving-grpc", Some(TENSORFLOW_GRPC), "half_plus_two");
        assert_eq!(scene.pass(Duration::from_secs(30)).await, []);
        const NEXT: Pages = &[
            TENSORFLOW_GRPC[0],
            // Version 3 is available.
            (STATUS, b"\x0a\x04\x08\x03\x10\x1e"),
        ];
        scene.servers.set(Some(NEXT));
        assert_eq!(scene.pass(LOOK).await, [Flush::Version]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_is_another_one_is_known_by_its_connection() {
        for (protocol, pages) in [("oip-grpc", COUNTS[0]), ("oip-rest", &REST[..])] {
            let scene = Scene::new(protocol, Some(pages), "m");
            assert_eq!(scene.pass(LOOK * 3).await, []);
            // It shows the same as before.
            scene.servers.restart(false);
            assert_eq!(scene.pass(LOOK).await, [Flush::Restart], "{protocol}");
            assert_eq!(scene.pass(LOOK * 60).await, []);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_flushed_when_it_is_back_and_soon() {
        for (protocol, pages) in [("oip-grpc", COUNTS[0]), ("oip-rest", &REST[..])] {
            let scene = Scene::new(protocol, Some(pages), "m");
            assert_eq!(scene.pass(LOOK * 3).await, []);
            scene.servers.restart(true);
            assert_eq!(scene.pass(LOOK * 60).await, [], "the cache goes on");
            scene.servers.restart(false);
            let told = scene.pass(AWAY * 2).await;
            assert_eq!(told, [Flush::Restart], "{protocol}");
            assert_eq!(scene.pass(LOOK * 60).await, []);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_slow_is_not_another_one() {
        for (protocol, pages) in [("oip-grpc", COUNTS[0]), ("oip-rest", &REST[..])] {
            let scene = Scene::new(protocol, Some(pages), "m");
            assert_eq!(scene.pass(LOOK * 3).await, []);
            scene.servers.set(None);
            assert_eq!(scene.pass(LOOK * 10).await, []);
            scene.servers.set(Some(pages));
            assert_eq!(scene.pass(LOOK * 60).await, [], "{protocol}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn looking_ends_with_the_handle() {
        let scene = Scene::new("oip-grpc", Some(COUNTS[0]), "m");
        scene.pass(LOOK * 3).await;
        let Scene {
            servers,
            upstream,
            watched,
            ..
        } = scene;
        let asked = servers.asked();
        // Four looks, and a description of two calls.
        assert!((4..=8).contains(&asked), "{asked}");
        drop(watched);
        tokio::time::sleep(LOOK * 60).await;
        assert_eq!(servers.asked(), asked);
        assert_eq!(Arc::strong_count(&upstream), 1);
    }

    const LABELS: [Pages; 2] = [
        &[
            ("/v1/models/m", AVAILABLE[0]),
            ("/v1/models/m/labels/best", AVAILABLE[1]),
            ("/v1/models/m/labels/last", AVAILABLE[1]),
        ],
        &[
            ("/v1/models/m", AVAILABLE[0]),
            ("/v1/models/m/labels/best", AVAILABLE[2]),
            ("/v1/models/m/labels/last", AVAILABLE[1]),
        ],
    ];
    /// Both versions, the first, and the second.
    const AVAILABLE: [&[u8]; 3] = [
        br#"{"model_version_status": [{"version": "2", "state": "AVAILABLE"},
                                      {"version": "1", "state": "AVAILABLE"}]}"#,
        br#"{"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}"#,
        br#"{"model_version_status": [{"version": "2", "state": "AVAILABLE"}]}"#,
    ];

    #[tokio::test(start_paused = true)]
    async fn a_label_that_moves_is_noticed_once_requests_have_named_it() {
        let scene = Scene::new("tfserving-rest", Some(LABELS[0]), "m");
        scene.pass(LOOK).await;
        assert!(scene.watched.covers(""));
        assert!(!scene.watched.covers("best"), "it was never looked up");
        scene.servers.set(Some(LABELS[1]));
        // Both look-ups need connections of their own over HTTP/1.1.
        scene.pass(LOOK).await;
        assert!(scene.watched.covers("best"));
        assert_eq!(scene.pass(LOOK * 3).await, []);
        scene.servers.set(Some(LABELS[0]));
        assert_eq!(scene.pass(LOOK).await, [Flush::Version]);
        assert!(scene.watched.covers("best"));
    }

    #[tokio::test(start_paused = true)]
    async fn labels_that_callers_make_up_do_not_crowd_out_those_that_are() {
        let scene = Scene::new("tfserving-rest", Some(LABELS[0]), "m");
        for made_up in 0..100 {
            assert!(!scene.watched.covers(&made_up.to_string()));
        }
        assert!(!scene.watched.covers("best"));
        assert!(!scene.watched.covers("best"), "there is no room for it");
        scene.pass(LOOK * 2).await;
        assert!(!scene.watched.covers("best"));
        scene.pass(LOOK * 2).await;
        assert!(scene.watched.covers("best"));
        assert!(!scene.watched.covers("0"));
    }

    #[test]
    fn a_label_is_covered_once_every_endpoint_has_shown_it() {
        let labels = Labels::new(2);
        assert!(!labels.cover("best"));
        let shown = Shown {
            labels: [("best".into(), Some(1))].into(),
            ..Shown::ready(true)
        };
        labels.saw(0, &shown);
        assert!(!labels.cover("best"), "the other endpoint has not shown it");
        labels.saw(1, &shown);
        assert!(labels.cover("best"));
        let many = Labels::new(65);
        assert!(!many.cover("best"));
        (0..65).for_each(|endpoint| many.saw(endpoint, &shown));
        assert!(!many.cover("best"), "there are not bits enough to know");
    }
}
