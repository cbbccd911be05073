//! Every fault with the name of its file.

use std::{path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use super::{
    fault::{Fault, Setting},
    files::Files,
    material::{Client, Material as _, provider},
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
            "tls.crt: holds a certificate that is none: it cannot be read",
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
            "ca.crt: holds a certificate that is none: it cannot be read",
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

/// A certificate of these uses alone and its key, signed by an authority or by itself.
fn certificate_for(
    uses: &[ExtendedKeyUsagePurpose],
    issuer: Option<&CertifiedIssuer<'_, KeyPair>>,
) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = uses.to_vec();
    let key = KeyPair::generate().unwrap();
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    (certificate.unwrap().pem(), key.serialize_pem())
}

/// What is wrong with a listener's files, and with an upstream's of the same names.
fn faults_of_both(certificate: &str, key: &str, ca: &str) -> [Vec<String>; 2] {
    let files = Files::from([
        ("tls.crt", certificate.as_bytes()),
        ("tls.key", key.as_bytes()),
        ("ca.crt", ca.as_bytes()),
    ]);
    let of_server = server().build(&files, now()).err();
    let of_client = client().build(&files, now()).err();
    [of_server, of_client].map(|faults| {
        let faults = faults.iter().flatten();
        faults.map(Fault::to_string).collect()
    })
}

#[test]
fn a_certificate_must_be_for_the_side_that_shows_it() {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    let authority = authority();
    for (uses, of_server, of_client) in [
        (&[][..], None, None),
        (&[ServerAuth, ClientAuth], None, None),
        (
            &[ServerAuth],
            None,
            Some("client: its extended key usage (serverAuth) lacks clientAuth"),
        ),
        (
            &[ClientAuth],
            Some("server: its extended key usage (clientAuth) lacks serverAuth"),
            None,
        ),
        (
            &[CodeSigning],
            Some("server: its extended key usage (1.3.6.1.5.5.7.3.3) lacks serverAuth"),
            Some("client: its extended key usage (1.3.6.1.5.5.7.3.3) lacks clientAuth"),
        ),
    ] {
        let (certificate, key) = certificate_for(uses, Some(&authority));
        let expected = [of_server, of_client].map(|fault| {
            let told = fault.map(|fault| format!("tls.crt: the certificate is not for a {fault}"));
            Vec::from_iter(told)
        });
        let found = faults_of_both(&certificate, &key, &authority.pem());
        assert_eq!(found, expected, "{uses:?}");
    }
}

#[test]
fn an_authority_must_be_one_or_the_only_peer_itself() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let issuer = authority();
    let (good, key) = certificate(2020, 2100);
    let mut below = CertificateParams::default();
    below.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let below = below.signed_by(&KeyPair::generate().unwrap(), &issuer);
    let (leaf, _) = certificate_for(&[], Some(&issuer));
    let no_authority = "ca.crt: holds a certificate that is no authority (CA:FALSE) and not signed \
                        by itself: nobody can be verified by it";
    // Clients' certificates are verified by a listener, servers' by an upstream.
    for (what, ca, of_server, of_client) in [
        ("one below another", below.unwrap().pem(), None, None),
        ("a pinned peer", certificate_for(&[], None).0, None, None),
        (
            "a pinned server",
            certificate_for(&[ServerAuth], None).0,
            Some(
                "ca.crt: the certificate is not for a client: its extended key usage (serverAuth) \
                 lacks clientAuth",
            ),
            None,
        ),
        (
            "a pinned client",
            certificate_for(&[ClientAuth], None).0,
            None,
            Some(
                "ca.crt: the certificate is not for a server: its extended key usage (clientAuth) \
                 lacks serverAuth",
            ),
        ),
        (
            "a leaf",
            leaf.clone(),
            Some(no_authority),
            Some(no_authority),
        ),
        (
            "a leaf beside its authority",
            format!("{leaf}{}", issuer.pem()),
            Some(no_authority),
            Some(no_authority),
        ),
    ] {
        let expected = [of_server, of_client].map(|fault| Vec::from_iter(fault.map(str::to_owned)));
        assert_eq!(faults_of_both(&good, &key, &ca), expected, "{what}");
    }
}

#[test]
fn a_server_whose_own_certificate_is_trusted_is_verified_by_it() {
    let (certificate, key) = certificate_for(&[], None);
    let files = Files::from([
        ("tls.crt", certificate.as_bytes()),
        ("tls.key", key.as_bytes()),
        ("ca.crt", certificate.as_bytes()),
    ]);
    let client = client().build(&files, UnixTime::now()).unwrap();
    let server = server().build(&files, UnixTime::now()).unwrap();
    assert_eq!(shake(&client.config, &server.config), HandshakeKind::Full);
}

/// Shakes hands, and hands the server's tickets to the client.
fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> HandshakeKind {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = Connection::from(ClientConnection::new(client.clone(), name).unwrap());
    let mut server = Connection::from(ServerConnection::new(server.clone()).unwrap());
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    client.handshake_kind().unwrap()
}

fn pass(from: &mut Connection, to: &mut Connection) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
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
fn sessions_are_resumed_only_where_no_peer_is_verified() {
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

    // A server that resumes, and an upstream that could.
    let (certificate, key) = certificate_for(&[], None);
    let files = Files::from([
        ("tls.crt", certificate.as_bytes()),
        ("tls.key", key.as_bytes()),
        ("ca.crt", certificate.as_bytes()),
    ]);
    let verifying = client().build(&files, UnixTime::now()).unwrap().config;
    for version in [&TLS12, &TLS13] {
        let resuming = resuming(&certificate, &key, version);
        for _ in 0..3 {
            assert_eq!(shake(&verifying, &resuming), HandshakeKind::Full);
        }
        let mut other = ClientConfig::clone(&verifying);
        other.resumption = Resumption::default();
        let other = Arc::new(other);
        assert_eq!(shake(&other, &resuming), HandshakeKind::Full);
        let again = shake(&other, &resuming);
        assert_eq!(again, HandshakeKind::Resumed, "the server does resume");
    }
}

fn resuming(
    certificate: &str,
    key: &str,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            pem::certificates(certificate.as_bytes()).unwrap(),
            pem::key(key.as_bytes()).unwrap(),
        );
    Arc::new(config.unwrap())
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
fn a_system_without_roots_is_told_where_to_name_them_without_a_configuration_file_too() {
    let problem = super::fault::Problem::NoRoots("; why".to_owned());
    let fault = Fault::new(Setting::Authorities, None, problem);
    let owner = |name: &str| super::metrics::Owner::Upstream(name.to_owned());
    let told = |name| super::Faults::of(&owner(name), [fault.clone()]).to_string();
    assert_eq!(
        told("upstream"),
        "upstream: the system has no roots to trust; name their file in the variable \
         SSL_CERT_FILE, or as `tls.ca` in a configuration file; why"
    );
    assert!(told("server").starts_with("upstream server: the system has no roots"));
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
