use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_filters::{
    batch::{Batchable, Capability, Unbatchable},
    inference::{Code, Datatype, Status},
};
use serde_json::Value;
use tokio::{runtime::Handle, time::Instant};

use super::{ready::PATIENCE, servers::*, *};
use crate::{
    codec::{
        tfs_grpc::control::{CLASSIFY, ModelMetadata, VersionStatus},
        tfs_rest,
    },
    upstream::Upstream,
};

const DIGITS: Served<'static> = Served {
    model: "digits_svm",
    version: "",
    label: "",
};

const YES: Batchable = Batchable::Yes {
    max_batch_size: None,
};

fn learned(upstream: &Arc<Upstream>) -> Learned {
    Learned::new(
        Handle::current(),
        upstream.clone(),
        "digits_svm".parse().unwrap(),
        None,
        Capability::new(Batchable::Unasked),
    )
}

#[tokio::test(start_paused = true)]
async fn triton_describes_a_model_over_both_protocols_alike() {
    let (_, grpc) = Servers::upstream("oip-grpc", Some(TRITON_GRPC));
    let (_, rest) = Servers::upstream("oip-rest", Some(TRITON_REST));
    let grpc = describe(&grpc, DIGITS).await.unwrap();
    let rest = describe(&rest, DIGITS).await.unwrap();
    let limit = Batchable::Yes {
        max_batch_size: Some(128),
    };
    assert_eq!(grpc.batchable, limit);
    assert_eq!(grpc.versions, ["1"]);
    let signature = grpc.signature("").unwrap();
    assert_eq!(signature.input("x").unwrap().datatype, Datatype::Fp32);
    assert_eq!(signature.output("label").unwrap().datatype, Datatype::Int64);
    assert!(rest.binary);
    assert_eq!(
        Description {
            binary: false,
            ..rest
        },
        grpc
    );
}

#[tokio::test(start_paused = true)]
async fn mlserver_describes_a_model_without_a_configuration() {
    let (_, grpc) = Servers::upstream("oip-grpc", Some(MLSERVER_GRPC));
    let (_, rest) = Servers::upstream("oip-rest", Some(MLSERVER_REST));
    let grpc = describe(&grpc, DIGITS).await.unwrap();
    let served = Served {
        version: "v1",
        ..DIGITS
    };
    let rest = describe(&rest, served).await.unwrap();
    assert_eq!(grpc.batchable, YES);
    assert!(grpc.signature("").unwrap().input("predict").is_some());
    assert_eq!(rest, grpc);
    assert!(!rest.binary);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_there_is_told_in_the_servers_words() {
    let (_, rest) = Servers::upstream("oip-rest", Some(MLSERVER_REST));
    let error = describe(&rest, DIGITS).await.unwrap_err();
    let status = error.downcast_ref::<Status>().unwrap();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "nothing here");
}

#[tokio::test(start_paused = true)]
async fn readiness_is_asked_of_the_model_in_each_protocol() {
    let nobody = Served {
        model: "nobody",
        version: "",
        label: "",
    };
    let (_, rest) = Servers::upstream("oip-rest", Some(TRITON_REST));
    assert!(is_ready(&rest, Some(DIGITS)).await);
    assert!(!is_ready(&rest, Some(nobody)).await);
    assert!(is_ready(&rest, None).await);
    let (_, grpc) = Servers::upstream("oip-grpc", Some(TRITON_GRPC));
    assert!(is_ready(&grpc, Some(DIGITS)).await);
    // It has no such call, but it answers.
    assert!(is_ready(&grpc, None).await);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_before_somebody_waits() {
    let (servers, upstream) = Servers::upstream("oip-rest", Some(TRITON_REST));
    let learned = learned(&upstream);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(learned.description(), None);
    assert_eq!(servers.asked(), 0);
    let began = Instant::now();
    let description = learned.wait().await.unwrap();
    assert!(description.binary);
    assert!(began.elapsed() < Duration::from_millis(10));
    assert_eq!(learned.capability().get(), description.batchable);
    assert_eq!(learned.description(), Some(description));
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_asking() {
    let (servers, upstream) = Servers::upstream("oip-rest", Some(TRITON_REST));
    let learned = learned(&upstream);
    let (one, two, three) = tokio::join!(learned.wait(), learned.wait(), learned.wait());
    let [one, two, three] = [one, two, three].map(Result::unwrap);
    assert!(Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&two, &three));
    assert_eq!(servers.asked(), 3, "config, metadata and server");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_keeps_a_request_for_two_seconds_and_only_once() {
    let (_, upstream) = Servers::upstream("oip-rest", None);
    let learned = learned(&upstream);
    let began = Instant::now();
    let (one, two) = tokio::join!(learned.wait(), learned.wait());
    assert!(one.is_err() && two.is_err());
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    assert!(learned.wait().await.is_err());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_comes_late_is_found_and_one_that_goes_stays_known() {
    let (servers, upstream) = Servers::upstream("oip-rest", Some(&[]));
    let learned = learned(&upstream);
    learned.begin();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let error = learned.wait().await.unwrap_err();
    let status = error.source().unwrap().downcast_ref::<Status>().unwrap();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(learned.capability().get(), Batchable::Unasked);
    servers.set(Some(TRITON_REST));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let known = learned.description().unwrap();
    servers.set(Some(&[]));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(learned.description(), Some(known));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_loaded_anew_is_noticed_within_ten_seconds() {
    let (servers, upstream) = Servers::upstream("oip-grpc", Some(TRITON_GRPC));
    let learned = learned(&upstream);
    let first = learned.wait().await.unwrap();
    servers.set(Some(MLSERVER_GRPC));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_ne!(learned.description().unwrap(), first);
    assert_eq!(learned.capability().get(), YES);
}

#[tokio::test(start_paused = true)]
async fn a_model_is_asked_for_again_at_once_when_it_may_be_another_one() {
    let (servers, upstream) = Servers::upstream("oip-grpc", Some(TRITON_GRPC));
    let learned = learned(&upstream);
    learned.ask_again();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(servers.asked(), 0, "nobody has asked yet");
    let first = learned.wait().await.unwrap();
    servers.set(Some(MLSERVER_GRPC));
    learned.ask_again();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_ne!(learned.description().unwrap(), first);
    let asked = servers.asked();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(servers.asked(), asked, "and from then on as before");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(servers.asked() > asked);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_did_not_divide_outweighs_what_the_server_says() {
    let (_, upstream) = Servers::upstream("oip-grpc", Some(TRITON_GRPC));
    let learned = learned(&upstream);
    let uneven = Batchable::No(Unbatchable::UnevenOutput);
    learned.capability().set(uneven);
    assert!(learned.wait().await.is_ok());
    assert_eq!(learned.capability().get(), uneven);
}

#[tokio::test(start_paused = true)]
async fn the_asking_ends_with_the_last_handle() {
    let (servers, upstream) = Servers::upstream("oip-grpc", Some(TRITON_GRPC));
    let learned = learned(&upstream);
    let clone = learned.clone();
    learned.wait().await.unwrap();
    let asked = servers.asked();
    drop(learned);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(servers.asked() > asked);
    drop(clone);
    let asked = servers.asked();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(servers.asked(), asked);
    assert_eq!(Arc::strong_count(&upstream), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_endpoint_does_not_keep_a_model_unknown_that_another_knows() {
    let endpoints = ["http://silent:1", "http://good:1"];
    let (_, upstream) = Servers::at("oip-grpc", Some(TRITON_GRPC), &endpoints);
    let learned = learned(&upstream);
    learned.begin();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let known = Batchable::Yes {
        max_batch_size: Some(128),
    };
    assert_eq!(learned.capability().get(), known);
    assert!(learned.description().is_some());
}

#[tokio::test(start_paused = true)]
async fn other_versions_are_learned_while_requests_name_them() {
    const VERSIONS: Pages = &[
        MLSERVER_REST[0],
        MLSERVER_REST[1],
        ("/v2/models/digits_svm", MLSERVER_REST[0].1),
    ];
    let (servers, upstream) = Servers::upstream("oip-rest", Some(VERSIONS));
    let learned = learned(&upstream);
    // Labels mean nothing to this server.
    assert!(learned.is_usual("", "best"));
    assert!(!learned.is_usual("v1", ""));
    let (one, two) = tokio::join!(learned.wait_of("v1", ""), learned.wait_of("v1", "best"));
    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
    assert_eq!(servers.asked(), 3, "config, metadata and server");
    assert_eq!(learned.description(), None);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(servers.asked(), 6, "it was named since it was asked first");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(servers.asked(), 6);
    assert!(learned.of("v1", "").is_none(), "nobody named it");
}

#[tokio::test(start_paused = true)]
async fn so_many_versions_are_known_at_a_time_and_no_more() {
    let (_, upstream) = Servers::upstream("tfserving-grpc", Some(TENSORFLOW_GRPC));
    let learned = learned(&upstream);
    for version in 1..=40 {
        learned.wait_of(&version.to_string(), "").await.unwrap();
    }
    assert!(learned.of("40", "").is_some() && learned.of("25", "").is_some());
    assert!(learned.of("24", "").is_none());
    drop(learned);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(upstream_is_free(&upstream).await);
}

/// Tells whether all who ask have ended at last.
async fn upstream_is_free(upstream: &Arc<Upstream>) -> bool {
    tokio::time::sleep(Duration::from_secs(11)).await;
    Arc::strong_count(upstream) == 1
}

#[tokio::test(start_paused = true)]
async fn a_server_that_only_says_that_a_model_is_ready_is_asked_no_more_of() {
    let model = Served {
        model: "m",
        ..Served::default()
    };
    const READY: Pages = &[("/v2/models/m/ready", b"")];
    let (_, rest) = Servers::upstream("oip-rest", Some(READY));
    assert_eq!(
        describe(&rest, model).await.unwrap(),
        Description::default()
    );
    assert!(describe(&rest, DIGITS).await.is_err());
    let (_, grpc) = Servers::upstream("oip-grpc", Some(&[]));
    assert_eq!(
        describe(&grpc, model).await.unwrap(),
        Description::default()
    );
    const UNREADY: Pages = &[("/inference.GRPCInferenceService/ModelReady", b"")];
    let (_, grpc) = Servers::upstream("oip-grpc", Some(UNREADY));
    assert!(describe(&grpc, model).await.is_err());
    const LIST: Pages = &[("/v1/models", br#"{"models": ["m"]}"#)];
    let (_, rest) = Servers::upstream("tfserving-rest", Some(LIST));
    assert_eq!(
        describe(&rest, model).await.unwrap(),
        Description::default()
    );
    assert!(is_ready(&rest, Some(model)).await);
    assert!(describe(&rest, HALF).await.is_err());
}

fn models() -> Vec<(String, String)> {
    [DIGITS.model; 3]
        .map(|name| (name.to_owned(), String::new()))
        .to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_in_time_however_many_are_silent() {
    let began = Instant::now();
    let endpoints = ["http://silent:1", "http://silent:2", "http://silent:3"];
    let (_, silent) = Servers::at("oip-grpc", Some(TRITON_GRPC), &endpoints);
    assert_eq!(unready(&silent, &models()).await.len(), 3);
    assert_eq!(unready(&silent, &[]).await, ["upstream u"]);
    let took = began.elapsed();
    assert!(took < 2 * PATIENCE + Duration::from_millis(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_that_is_ready_is_enough_and_none_is_waited_for() {
    let began = Instant::now();
    let endpoints = ["http://silent:1", "http://good:1", "http://silent:2"];
    let (_, mixed) = Servers::at("oip-grpc", Some(TRITON_GRPC), &endpoints);
    assert!(unready(&mixed, &models()).await.is_empty());
    assert!(unready(&mixed, &[]).await.is_empty());
    assert!(began.elapsed() < Duration::from_millis(10));
}

const HALF: Served<'static> = Served {
    model: "half_plus_two",
    version: "",
    label: "",
};

#[tokio::test(start_paused = true)]
async fn tensorflow_describes_a_model_over_both_protocols_alike() {
    let (_, grpc) = Servers::upstream("tfserving-grpc", Some(TENSORFLOW_GRPC));
    let (_, rest) = Servers::upstream("tfserving-rest", Some(TENSORFLOW_REST));
    let grpc = describe(&grpc, HALF).await.unwrap();
    assert_eq!(describe(&rest, HALF).await.unwrap(), grpc);
    assert_eq!(grpc.versions, ["2", "1"]);
    assert_eq!(grpc.batchable, YES);
    let x = grpc.signature("").unwrap().input("x").unwrap();
    assert_eq!(x.datatype, Datatype::Fp32);
    let mut named = grpc.signatures.iter();
    let classify = named.find(|named| named.name == "classify_both").unwrap();
    assert_eq!(classify.method, CLASSIFY);
}

#[tokio::test(start_paused = true)]
async fn kserve_answers_and_describes_nothing() {
    let (_, rest) = Servers::upstream("tfserving-rest", Some(KSERVE_V1));
    let digits = Served {
        model: "digits",
        ..Served::default()
    };
    let described = describe(&rest, digits).await.unwrap();
    assert_eq!(described, Description::default());
    assert!(is_ready(&rest, Some(digits)).await);
    assert!(!is_ready(&rest, Some(HALF)).await);
    assert!(is_ready(&rest, None).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_only_predicts_is_taken_at_its_word() {
    let (_, grpc) = Servers::upstream("tfserving-grpc", Some(&[]));
    assert_eq!(describe(&grpc, HALF).await.unwrap(), Description::default());
    assert!(is_ready(&grpc, Some(HALF)).await);
    assert!(is_ready(&grpc, None).await);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_no_number_is_not_asked_for_where_versions_are_numbers() {
    let (servers, grpc) = Servers::upstream("tfserving-grpc", Some(TENSORFLOW_GRPC));
    let named = Served {
        version: "v1",
        ..HALF
    };
    let error = describe(&grpc, named).await.unwrap_err();
    let status = error.downcast_ref::<Status>().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!is_ready(&grpc, Some(named)).await);
    assert_eq!(servers.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_signature_that_does_not_say_leaves_it_to_the_configuration() {
    const FIXED: Pages = &[(
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        include_bytes!("../../codec/tfs_grpc/recorded/tensorflow.fixed.metadata.bin"),
    )];
    let (_, grpc) = Servers::upstream("tfserving-grpc", Some(FIXED));
    let described = describe(&grpc, HALF).await.unwrap();
    assert!(described.signature("").is_some());
    assert_eq!(described.batchable, Batchable::Unknown);
    assert_eq!(described.versions, ["1"]);
}

/// What a server says in its messages, and the same in protobuf's own JSON.
#[test]
fn tensorflow_serving_says_over_rest_what_it_says_over_grpc() {
    macro_rules! both {
        ($name:literal) => {
            (
                &include_bytes!(concat!("../../codec/tfs_rest/recorded/", $name, ".json"))[..],
                Bytes::from_static(include_bytes!(concat!(
                    "../../codec/tfs_grpc/recorded/",
                    $name,
                    ".bin"
                ))),
            )
        };
    }
    for (rest, grpc) in [
        both!("tensorflow.half_plus_two.metadata"),
        both!("tensorflow.words.metadata"),
        both!("tensorflow.types.metadata"),
    ] {
        let grpc = ModelMetadata::read(&grpc).unwrap();
        assert!(!grpc.signatures.is_empty());
        assert_eq!(tfs_rest::control::read_metadata(rest).unwrap(), grpc);
    }
    for (rest, grpc) in [
        both!("tensorflow.half_plus_two.status"),
        both!("tensorflow.words.status"),
    ] {
        let grpc = VersionStatus::read_all(&grpc).unwrap();
        let written = tfs_rest::control::write_status(&grpc);
        let [rest, written] = [rest, &written].map(serde_json::from_slice::<Value>);
        assert_eq!(rest.unwrap(), written.unwrap());
    }
}
