//! Keys and certificates of a testbed's control plane.
//!
//! Called while starting. One authority signs servers and clients; keys never leave the testbed's directory, which only its
//! owner can read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::layout::write_atomically;

/// What a certificate is for.
#[derive(Debug, Clone, Copy)]
pub enum Usage<'a> {
    /// A server that is called by these names or addresses.
    Server(&'a [String]),
    /// A client.
    Client,
}

/// The authority that signs everything in one testbed.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("failed to describe a certificate")?;
        params.distinguished_name = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("failed to make a key")?;
        let pem = params.self_signed(&key).context("failed to sign a certificate")?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// Writes its certificate.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.pem.as_bytes())
    }

    /// A new key and its certificate. Kubernetes takes the common name for the user and organisations for its groups.
    pub fn issue(&self, common_name: &str, organisations: &[&str], usage: Usage<'_>) -> Result<Identity> {
        let (names, purpose) = match usage {
            Usage::Server(names) => (names.to_vec(), ExtendedKeyUsagePurpose::ServerAuth),
            Usage::Client => (Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
        };
        let mut params = CertificateParams::new(names).context("failed to describe a certificate")?;
        params.distinguished_name = named(common_name, organisations);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().context("failed to make a key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("failed to sign a certificate")?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// Writes `<name>.crt` and `<name>.key`.
    pub fn write(&self, dir: &Path, name: &str) -> Result<()> {
        write_atomically(&dir.join(format!("{name}.crt")), self.certificate.as_bytes())?;
        write_secret(&dir.join(format!("{name}.key")), &self.key)
    }
}

/// Writes `<name>.key` and `<name>.pub`: what signs and what checks ServiceAccount tokens.
pub fn write_key_pair(dir: &Path, name: &str) -> Result<()> {
    let key = KeyPair::generate().context("failed to make a key")?;
    write_secret(&dir.join(format!("{name}.key")), &key.serialize_pem())?;
    write_atomically(&dir.join(format!("{name}.pub")), key.public_key_pem().as_bytes())
}

/// Writes a file that only its owner can read.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, text.as_bytes())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("failed to protect {}", path.display()))
}

fn named(common_name: &str, organisations: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // rcgen keeps one value per type: no certificate here needs a second organisation.
    for organisation in organisations.iter().take(1) {
        name.push(DnType::OrganizationName, *organisation);
    }
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("test").unwrap();
        authority
            .issue("somebody", &["group"], Usage::Client)
            .unwrap()
            .write(dir.path(), "one")
            .unwrap();
        let mode = std::fs::metadata(dir.path().join("one.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            std::fs::read_to_string(dir.path().join("one.crt"))
                .unwrap()
                .contains("BEGIN CERTIFICATE")
        );
    }
}
