//! Every fault with the name of its file.

use std::{path::Path, time::Duration};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};

use super::{
    fault::{Fault, Setting},
    files::Files,
    material::{Client, Material as _},
    pem,
    validity::Validity,
};
use crate::config::{ClientAuth, ClientTls, HttpVersion, Identity, ServerTls};

/// Some day in 2026.
const NOW: u64 = 1_790_000_000;

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

/// An authority that holds for a hundred years.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate that holds in these years, and its key.
fn certificate(from: i32, to: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority()).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn server() -> ServerTls {
    ServerTls {
        identity: Identity {
            certificate: "tls.crt".into(),
            key: "tls.key".into(),
        },
        clients: Some(ClientAuth {
            ca: "ca.crt".into(),
            required: true,
        }),
    }
}

fn client() -> Client {
    Client {
        tls: ClientTls {
            ca: Some("ca.crt".into()),
            identity: Some(server().identity),
            server_name: None,
        },
        http: HttpVersion::Http2,
    }
}

/// What is wrong with a listener's files, or an upstream's of the same names, in words.
fn faults(certificate: &[u8], key: &[u8], ca: &[u8]) -> Vec<String> {
    let files = Files::from([("tls.crt", certificate), ("tls.key", key), ("ca.crt", ca)]);
    let told = |faults: Vec<Fault>| {
        let mut told: Vec<_> = faults.iter().map(Fault::to_string).collect();
        told.sort();
        told
    };
    let of_server = server().build(&files, now()).err().unwrap_or_default();
    let of_client = client().build(&files, now()).err().unwrap_or_default();
    let found = told(of_server);
    assert_eq!(found, told(of_client), "both sides think alike");
    found
}

#[test]
fn each_faulty_file_is_named_with_what_is_wrong() {
    let (good, key) = certificate(2020, 2100);
    let (old, old_key) = certificate(2020, 2021);
    let (early, early_key) = certificate(2090, 2100);
    let (_, other_key) = certificate(2020, 2100);
    let ca = authority().pem();
    assert_eq!(
        faults(good.as_bytes(), key.as_bytes(), ca.as_bytes()),
        [""; 0]
    );

    let cut = &good[..good.len() / 2];
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let none = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let garbled = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    for (certificate, key, ca, found) in [
        (
            "",
            &*key,
            &*ca,
            "tls.crt: is not in PEM form: no line begins with `-----BEGIN`",
        ),
        (&*key, &*key, &*ca, "tls.crt: holds no certificate"),
        (
            cut,
            &*key,
            &*ca,
            "tls.crt: is not in PEM form: the last section has no end",
        ),
        (
            garbled,
            &*key,
            &*ca,
            "tls.crt: is not in PEM form: a section is not base64",
        ),
        (
            none,
            &*key,
            &*ca,
            "tls.crt: holds a certificate that is none: TrailingData(SignedData)",
        ),
        (
            &*old,
            &*old_key,
            &*ca,
            "tls.crt: the certificate has expired on Fri, 01 Jan 2021 00:00:00 GMT",
        ),
        (
            &*early,
            &*early_key,
            &*ca,
            "tls.crt: the certificate is not valid before Sun, 01 Jan 2090 00:00:00 GMT",
        ),
        (
            &*good,
            "",
            &*ca,
            "tls.key: is not in PEM form: no line begins with `-----BEGIN`",
        ),
        (&*good, &*good, &*ca, "tls.key: holds no private key"),
        (
            &*good,
            encrypted,
            &*ca,
            "tls.key: holds a key under a password; the key must lie there without one",
        ),
        (
            &*good,
            no_key,
            &*ca,
            "tls.key: holds a key of no use: unexpected error: failed to parse private key as RSA, \
             ECDSA, or EdDSA",
        ),
        (
            &*good,
            &*other_key,
            &*ca,
            "tls.key: the key does not belong to the certificate in tls.crt",
        ),
        (
            &*good,
            &*key,
            "words",
            "ca.crt: is not in PEM form: no line begins with `-----BEGIN`",
        ),
        (&*good, &*key, &*key, "ca.crt: holds no certificate"),
        (
            &*good,
            &*key,
            none,
            "ca.crt: holds a certificate that is none: invalid peer certificate: BadEncoding",
        ),
        (
            &*good,
            &*key,
            &*old,
            "ca.crt: the certificate has expired on Fri, 01 Jan 2021 00:00:00 GMT",
        ),
    ] {
        let all = faults(certificate.as_bytes(), key.as_bytes(), ca.as_bytes());
        assert_eq!(all, [found]);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let (old, _) = certificate(2020, 2021);
    let (_, key) = certificate(2020, 2100);
    let found = faults(old.as_bytes(), key.as_bytes(), b"");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn files_that_cannot_be_read_are_told_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let large = directory.path().join("large");
    std::fs::write(&large, vec![b' '; (1 << 20) + 1]).unwrap();
    let missing = directory.path().join("missing");
    let told = |path: &Path| {
        let files = Files::read([path]);
        let problem = files.contents(path).unwrap_err();
        Fault::new(Setting::Key, Some(path), problem).to_string()
    };
    let at = directory.path().display();
    assert_eq!(
        told(&missing),
        format!("{at}/missing: cannot be read: there is no such file")
    );
    assert_eq!(told(&large), format!("{at}/large: is larger than 1024 KiB"));
    assert!(
        told(directory.path()).starts_with(&format!("{at}: cannot be read: ")),
        "a directory is no file"
    );
}

#[test]
fn an_authority_that_has_expired_is_left_out_beside_one_that_has_not() {
    let (good, key) = certificate(2020, 2100);
    let (old, _) = certificate(2020, 2021);
    let both = format!("{old}{}", authority().pem());
    assert_eq!(
        faults(good.as_bytes(), key.as_bytes(), both.as_bytes()),
        [""; 0]
    );
}

#[test]
fn sessions_are_resumed_only_where_no_client_is_verified() {
    let (certificate, key) = certificate(2020, 2100);
    let ca = authority().pem();
    let files = Files::from([
        ("tls.crt", certificate.as_bytes()),
        ("tls.key", key.as_bytes()),
        ("ca.crt", ca.as_bytes()),
    ]);
    let verified = server().build(&files, now()).unwrap();
    assert_eq!(verified.config.send_tls13_tickets, 0);
    assert!(!verified.config.session_storage.can_cache());
    let open = ServerTls {
        clients: None,
        ..server()
    };
    let open = open.build(&files, now()).unwrap();
    assert!(open.config.session_storage.can_cache());
}

#[test]
fn the_validity_is_read_as_it_is_written() {
    let (certificate, _) = certificate(2020, 2100);
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let validity = Validity::of(&certificate).unwrap();
    let unix = |year| date_time_ymd(year, 1, 1).unix_timestamp().unsigned_abs();
    assert_eq!(validity.not_before.as_secs(), unix(2020));
    assert_eq!(validity.not_after.as_secs(), unix(2100));
}

#[test]
fn nothing_of_a_key_is_shown() {
    let (_, key) = certificate(2020, 2100);
    let files = Files::from([("tls.key", key.as_bytes())]);
    assert_eq!(format!("{files:?}"), r#"{"tls.key"}"#);
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(
        certificate in any::<Vec<u8>>(),
        key in any::<Vec<u8>>(),
        der in any::<Vec<u8>>(),
        cut in 0..10_000_usize,
        flip in any::<u8>(),
    ) {
        faults(&certificate, &key, &certificate);
        let _ = Validity::of(&der.into());
        let (good, good_key) = &*GOOD;
        let mut damaged = good.clone().into_bytes();
        let at = cut % damaged.len();
        damaged[at] ^= flip;
        let _ = pem::certificates(&damaged);
        faults(&damaged, good_key.as_bytes(), &damaged);
        damaged.truncate(at);
        faults(&damaged, good_key.as_bytes(), &damaged);
    }
}

static GOOD: std::sync::LazyLock<(String, String)> =
    std::sync::LazyLock::new(|| certificate(2020, 2100));
