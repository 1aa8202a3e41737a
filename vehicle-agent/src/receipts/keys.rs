//! The public keys of every identity that the car has had, as certificates beside the ledger.
//!
//! Keys change with each renewal, and old receipts must verify for ever. A certificate is found by the key that is in it, never by the name
//! of its file. Whether its issuer is to be believed is not asked here: in the car there is nobody to lie to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use kerbside_core::ids::VehicleId;
use kerbside_core::receipt::{Keys, Verdict};
use kerbside_link::identity::{PublicKey, Signer};

use crate::directory;

fn place(root: &Path) -> PathBuf {
    root.join("keys")
}

/// Makes the certificates of a key durable. Those that are there stay.
pub(crate) fn keep(root: &Path, signer: &Signer) -> io::Result<()> {
    let path = place(root).join(format!("{}.pem", signer.key_id()));
    let there = std::fs::read_to_string(&path).ok();
    let known = there.and_then(|pem| PublicKey::from_chain_pem(&pem).ok());
    if known.is_some_and(|known| known.key_id() == signer.key_id()) {
        return Ok(());
    }
    directory::replace(&path, signer.chain_pem().as_bytes())?;
    // The directory of the keys may be new too.
    directory::sync_directory(root)
}

/// The certificates of the key with this id, in PEM. What is no id names no file.
pub(super) fn chain(root: &Path, keyid: &str) -> io::Result<String> {
    if keyid.len() != 64 || !keyid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a receipt names a key that is none",
        ));
    }
    std::fs::read_to_string(place(root).join(format!("{keyid}.pem")))
}

/// The keys that are known.
#[derive(Debug, Default)]
pub(crate) struct KnownKeys {
    keys: BTreeMap<String, (PublicKey, String)>,
}

impl KnownKeys {
    /// Reads what is there. A file that is no certificate of a car is none.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut keys = BTreeMap::new();
        let entries = match std::fs::read_dir(place(root)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            let pem = std::fs::read(&path)?;
            let pem = String::from_utf8_lossy(&pem).into_owned();
            match PublicKey::from_chain_pem(&pem) {
                Ok(key) => {
                    keys.insert(key.key_id().to_owned(), (key, pem));
                }
                Err(error) => tracing::warn!(file = %path.display(), %error, "no key of a receipt"),
            }
        }
        Ok(Self { keys })
    }

    /// The certificates, in PEM, by the id of their key.
    pub(crate) fn certificates(&self) -> BTreeMap<&str, &str> {
        self.keys
            .iter()
            .map(|(id, (_, pem))| (id.as_str(), pem.as_str()))
            .collect()
    }
}

impl Keys for KnownKeys {
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
        match self.keys.get(keyid) {
            None => Verdict::UnknownKey,
            Some((key, _)) if key.verify(message, signature) => Verdict::Good,
            Some(_) => Verdict::Forged,
        }
    }

    fn vehicle(&self, keyid: &str) -> Option<VehicleId> {
        self.keys.get(keyid).map(|(key, _)| key.vehicle().clone())
    }
}
