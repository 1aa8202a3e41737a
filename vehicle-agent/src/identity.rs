//! The car's identity on disk: key, certificate chain and the link's CA, in one file.
//!
//! Written at enrolment and at each renewal, read at the start. What must never happen: a power cut that leaves a key beside another
//! key's certificate. Such a car is nobody, and somebody has to go to it; so all three change in one step.

use std::io;
use std::path::PathBuf;

use kerbside_link::identity::{Identity, IdentityError};
use serde::{Deserialize, Serialize};

use crate::directory::{self, Directory};

/// PEM, each.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    chain: String,
    ca: String,
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The car never had one.
    #[error("this car is not enrolled; run the line that `kubectl fleet enrol` prints")]
    Missing,
    /// The file is there and cannot be read.
    #[error("failed to read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system or the parser says.
        #[source]
        source: io::Error,
    },
    /// It is no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn file(directory: &Directory) -> PathBuf {
    directory.identity().join("identity.json")
}

/// Whether the car is somebody.
pub fn exists(directory: &Directory) -> bool {
    file(directory).exists()
}

/// Reads and checks it.
pub fn read(directory: &Directory) -> Result<Identity, ReadError> {
    let path = file(directory);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ReadError::Missing),
        Err(source) => return Err(ReadError::File { path, source }),
    };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| ReadError::File { path, source: e.into() })?;
    Ok(Identity::from_pem(&kept.key, &kept.chain, &kept.ca)?)
}

/// Replaces it, in one step.
pub fn write(directory: &Directory, identity: &Identity) -> io::Result<()> {
    let kept = Kept {
        key: identity.key_pem().to_owned(),
        chain: identity.chain_pem().to_owned(),
        ca: identity.ca_pem().to_owned(),
    };
    directory::replace(&file(directory), &serde_json::to_vec_pretty(&kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerbside_core::clock::Clock;
    use kerbside_link::SystemClock;
    use kerbside_link::identity::{Ca, VEHICLE_VALIDITY, new_key_and_csr};

    fn identity() -> Identity {
        let now = SystemClock.wall();
        let ca = Ca::generate(now).unwrap();
        let made = new_key_and_csr(&[]).unwrap();
        let id = "car-aaaaaaaaaaaaaaaa".parse().unwrap();
        let chain = ca
            .sign_vehicle(&made.csr_der, &id, "acme", VEHICLE_VALIDITY, now)
            .unwrap();
        Identity::from_pem(&made.key_pem, &chain, &ca.certificate_pem()).unwrap()
    }

    fn directory() -> (tempfile::TempDir, Directory) {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        (temp, directory)
    }

    #[test]
    fn identity_is_read_as_it_was_written_and_replaced_in_one_file() {
        let (_temp, directory) = directory();
        for identity in [identity(), identity()] {
            write(&directory, &identity).unwrap();
            let back = read(&directory).unwrap();
            assert_eq!(
                (back.key_pem(), back.chain_pem(), back.ca_pem()),
                (identity.key_pem(), identity.chain_pem(), identity.ca_pem())
            );
            // Nothing beside it that could be of another identity.
            assert_eq!(std::fs::read_dir(directory.identity()).unwrap().count(), 1);
        }
    }

    #[test]
    fn car_without_an_identity_is_told_how_to_get_one() {
        let (_temp, directory) = directory();
        assert!(!exists(&directory));
        let text = read(&directory).unwrap_err().to_string();
        assert!(text.contains("kubectl fleet enrol"), "{text}");
    }

    #[test]
    fn file_that_is_broken_or_mixed_is_refused_by_its_name_or_its_fault() {
        let (_temp, directory) = directory();
        write(&directory, &identity()).unwrap();
        let path = file(&directory);
        let mut kept: Kept = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        kept.key = identity().key_pem().to_owned();
        std::fs::write(&path, serde_json::to_vec(&kept).unwrap()).unwrap();
        assert!(matches!(
            read(&directory).unwrap_err(),
            ReadError::Identity(IdentityError::KeyMismatch)
        ));
        std::fs::write(&path, "{").unwrap();
        assert!(read(&directory).unwrap_err().to_string().contains("identity.json"));
    }
}
