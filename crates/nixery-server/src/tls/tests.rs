//! Certificates that are read from files, and replaced.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rstest::rstest;

use super::*;

struct Issued {
    certificate: String,
    key: KeyPair,
}

fn issue(last_year: i32) -> Issued {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(last_year, 12, 31);
    Issued {
        certificate: params.self_signed(&key).unwrap().pem(),
        key,
    }
}

struct Files {
    settings: TlsSettings,
    _folder: tempfile::TempDir,
}

fn files(certificate: &str, key: &str) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let settings = TlsSettings {
        certificate: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
    };
    fs::write(&settings.certificate, certificate).unwrap();
    fs::write(&settings.key, key).unwrap();
    Files {
        settings,
        _folder: folder,
    }
}

fn certificate_of(tls: &Tls) -> CertificateDer<'static> {
    tls.current.get().cert[0].clone()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Returns the SEC1 key within a PKCS#8 key for P-256.
fn sec1(key: &KeyPair) -> String {
    let pkcs8 = key.serialized_der();
    // A sequence of the version 1 and the 32 bytes of the key.
    let version = [2, 1, 1, 4, 32];
    let at = pkcs8.windows(5).position(|window| window == version);
    let sec1 = STANDARD.encode(&pkcs8[at.unwrap() - 2..]);
    format!("-----BEGIN EC PRIVATE KEY-----\n{sec1}\n-----END EC PRIVATE KEY-----\n")
}

#[rstest]
#[case::pkcs8(|key: &KeyPair| key.serialize_pem())]
#[case::sec1(sec1)]
#[tokio::test]
async fn keys_are_read_in_all_forms(#[case] key: fn(&KeyPair) -> String) {
    let issued = issue(2100);
    let files = files(&issued.certificate, &key(&issued.key));
    let tls = Tls::load(&files.settings).await.unwrap();
    assert_eq!(certificate_of(&tls), der(&issued.certificate));
}

#[tokio::test]
async fn the_whole_chain_is_used() {
    let (issued, other) = (issue(2100), issue(2100));
    let chain = issued.certificate.clone() + &other.certificate;
    let files = files(&chain, &issued.key.serialize_pem());
    let tls = Tls::load(&files.settings).await.unwrap();
    assert_eq!(tls.current.get().cert.len(), 2);
}

const BROKEN: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n";
const NO_X509: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
const ENCRYPTED: &str =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
const NO_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";

#[rstest]
#[case::empty(
    Some(""),
    None,
    "cert.pem`, the file of NIXERY_TLS_CERT (--tls-cert), has no certificate. Fix: "
)]
#[case::broken(Some(BROKEN), None, "is not valid PEM. Fix: ")]
#[case::no_x509(Some(NO_X509), None, "the first certificate in `")]
#[case::no_key(
    None,
    Some(""),
    "key.pem`, the file of NIXERY_TLS_KEY (--tls-key), has no private key"
)]
#[case::encrypted(None, Some(ENCRYPTED), "a key with a password cannot be used")]
#[case::unusable(None, Some(NO_KEY), "cannot be used. Fix: use an ECDSA")]
#[tokio::test]
async fn files_that_cannot_be_used_are_refused_with_what_to_do(
    #[case] certificate: Option<&str>,
    #[case] key: Option<&str>,
    #[case] expected: &str,
) {
    let issued = issue(2100);
    let valid = issued.key.serialize_pem();
    let certificate = certificate.unwrap_or(&issued.certificate);
    let files = files(certificate, key.unwrap_or(&valid));
    let message = Tls::load(&files.settings).await.unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[tokio::test]
async fn the_key_of_another_certificate_is_refused() {
    let files = files(&issue(2100).certificate, &issue(2100).key.serialize_pem());
    let message = Tls::load(&files.settings).await.unwrap_err().to_string();
    assert!(
        message.contains("does not belong to the certificate"),
        "{message}"
    );
    assert!(
        message.contains("cert.pem") && message.contains("key.pem"),
        "{message}"
    );
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let issued = issue(2100);
    let files = files(&issued.certificate, &issued.key.serialize_pem());
    fs::remove_file(&files.settings.key).unwrap();
    let error = Tls::load(&files.settings).await.unwrap_err();
    let message = error.to_string();
    let expected = "key.pem`, the file of NIXERY_TLS_KEY (--tls-key). Fix: ";
    assert!(message.contains(expected), "{message}");
    assert!(error_chain(&error).contains("No such file"), "{error:?}");
}

#[test]
fn the_end_of_validity_is_read() {
    for (year, expected) in [
        (2020, "2020-12-31T00:00:00Z"),
        (2149, "2149-12-31T00:00:00Z"),
    ] {
        let certificate = der(&issue(year).certificate);
        assert_eq!(
            expiry(&certificate).map(timestamp).as_deref(),
            Some(expected)
        );
    }
}

#[tokio::test]
async fn a_pair_is_used_when_both_files_fit() {
    let (old, new) = (issue(2100), issue(2100));
    let files = files(&old.certificate, &old.key.serialize_pem());
    let tls = Tls::load(&files.settings).await.unwrap();
    let mut seen = tls.loaded.clone();
    assert!(!tls.reload(&mut seen).await.unwrap(), "nothing has changed");

    fs::write(&files.settings.certificate, &new.certificate).unwrap();
    let mismatch = tls.reload(&mut seen).await.unwrap_err();
    assert!(matches!(mismatch, TlsError::Mismatch { .. }), "{mismatch}");
    assert!(!tls.reload(&mut seen).await.unwrap(), "it is reported once");
    fs::remove_file(&files.settings.key).unwrap();
    let absent = tls.reload(&mut seen).await.unwrap_err();
    assert!(matches!(absent, TlsError::Read { .. }), "{absent}");
    assert!(!tls.reload(&mut seen).await.unwrap(), "it is reported once");
    assert_eq!(certificate_of(&tls), der(&old.certificate));

    fs::write(&files.settings.key, new.key.serialize_pem()).unwrap();
    assert!(tls.reload(&mut seen).await.unwrap());
    assert_eq!(certificate_of(&tls), der(&new.certificate));
    assert!(!tls.reload(&mut seen).await.unwrap(), "nothing has changed");
}
