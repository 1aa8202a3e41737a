//! From a car's certificate to its pseudonym: the one place where a VIN is.
//!
//! Called for each connection, and for each line of the list of the fleet's cars. A [`Vin`] can be compared and hashed under the fleet's key,
//! and nothing else: it has no text, so that neither a log nor an object can ever get one. Another key gives other pseudonyms, and
//! nobody without the key can tell which car is which, nor that two names are one car.

use std::collections::HashSet;
use std::time::Duration;

use aws_lc_rs::hmac;
use kerbside_core::ids::VehicleId;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::slots::Slots;

/// Mixed into each hash, so that the key gives nothing away if the fleet uses it elsewhere.
const CONTEXT: &[u8] = b"kerbside vehicle id\0";
/// Of a key, in bytes: as long as what it makes.
const KEY: usize = 32;

/// What cannot be made a pseudonym of. None of it repeats what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PseudonymError {
    /// The key is so short that VINs could be tried out.
    #[error(
        "failed to use the key of the pseudonyms: it has {0} bytes, and needs at least 32; make one with 'head -c 32 /dev/urandom'"
    )]
    ShortKey(usize),
    /// The certificate has no common name, or more than one, or it is not a VIN.
    #[error("failed to find a vehicle in a certificate")]
    NoVehicle,
    /// A line of the list is not a VIN.
    #[error("failed to read the list of the fleet's cars: line {0} is not a VIN of 17 letters and digits")]
    Line(usize),
    /// The list has no car in it. A file that is just being written, or was cut off, looks like that.
    #[error(
        "failed to use the list of the fleet's cars: there is no VIN in it; to show no car any more, end the gateway and delete its Vehicles by \
         their label"
    )]
    Empty,
}

/// A vehicle identification number.
#[derive(Clone, PartialEq, Eq)]
pub struct Vin([u8; 17]);

impl std::fmt::Debug for Vin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vin(…)")
    }
}

impl Vin {
    fn parse(text: &str) -> Option<Self> {
        // I, O and Q are in none.
        let valid = |b: &u8| b.is_ascii_digit() || (b.is_ascii_uppercase() && !matches!(b, b'I' | b'O' | b'Q'));
        let bytes: [u8; 17] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(valid).then_some(Self(bytes))
    }

    /// The car that a certificate is for: its common name. Whoever calls has verified the certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PseudonymError> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| PseudonymError::NoVehicle)?;
        let mut names = certificate.subject().iter_common_name();
        let (name, more) = (names.next(), names.next());
        let name = name.filter(|_| more.is_none()).and_then(|name| name.as_str().ok());
        name.and_then(Self::parse).ok_or(PseudonymError::NoVehicle)
    }

    /// Whether a message's own words for its sender are of this car. An empty one says nothing, and is.
    pub fn is_sender(&self, sender: &[u8]) -> bool {
        let bare = sender.strip_prefix(b"vehicle_device.").unwrap_or(sender);
        bare.is_empty() || bare == self.0
    }
}

/// Makes pseudonyms.
pub struct Pseudonyms(hmac::Key);

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pseudonyms(…)")
    }
}

impl Pseudonyms {
    /// With the fleet's key.
    pub fn new(key: &[u8]) -> Result<Self, PseudonymError> {
        if key.len() < KEY {
            return Err(PseudonymError::ShortKey(key.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// The name of the car's Vehicle: the first 80 bits of the hash.
    pub fn of(&self, vin: &Vin) -> VehicleId {
        let tag = hmac::sign(&self.0, &[CONTEXT, &vin.0].concat());
        let mut bytes = [0; 10];
        for (to, from) in bytes.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        VehicleId::from_random(bytes)
    }

    /// When each car's Vehicle may be written, once in `every`.
    pub fn slots(&self, every: Duration) -> Slots {
        Slots::new(self.0.clone(), every)
    }

    /// The names of a list of VINs, one a line; empty lines and those that begin with `#` are skipped. A list of none is no list.
    pub fn of_list(&self, list: &str) -> Result<HashSet<VehicleId>, PseudonymError> {
        let lines = list.lines().map(str::trim).enumerate();
        let ids: HashSet<_> = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(at, line)| {
                Vin::parse(line)
                    .map(|vin| self.of(&vin))
                    .ok_or(PseudonymError::Line(at + 1))
            })
            .collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Err(PseudonymError::Empty);
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIN: &str = "5YJ3E1EA7KF000001";
    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(rcgen::DnType::CommonName, *name);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    /// Reckoned with Python's `hmac` and `base64`.
    #[test]
    fn pseudonym_is_a_keyed_hash_of_the_vin() {
        let vin = Vin::of(&certificate(&[VIN])).unwrap();
        let ours = Pseudonyms::new(KEY).unwrap().of(&vin);
        assert_eq!(ours.as_str(), "car-4xdze5jdkgvy4vhf");
        let other = Pseudonyms::new(b"another key of the fleet, 32 byte").unwrap().of(&vin);
        assert_ne!(ours, other);
    }

    #[rstest::rstest]
    #[case::none(&[])]
    #[case::short(&["5YJ3E1EA7KF00000"])]
    #[case::long(&["5YJ3E1EA7KF0000011"])]
    #[case::letter_that_no_vin_has(&["5YJ3E1EA7KF00000O"])]
    #[case::small(&["5yj3e1ea7kf000001"])]
    #[case::path(&["../../../etc/passw"])]
    fn certificate_without_a_vin_names_no_vehicle(#[case] names: &[&str]) {
        assert_eq!(Vin::of(&certificate(names)), Err(PseudonymError::NoVehicle));
    }

    #[test]
    fn what_is_no_certificate_names_no_vehicle() {
        assert_eq!(
            Vin::of(&CertificateDer::from(vec![1, 2, 3])),
            Err(PseudonymError::NoVehicle)
        );
    }

    #[test]
    fn key_that_is_short_is_refused_with_the_way_to_make_one() {
        let message = Pseudonyms::new(b"secret").unwrap_err().to_string();
        assert!(
            message.contains("6 bytes") && message.contains("/dev/urandom"),
            "{message}"
        );
    }

    #[test]
    fn list_is_read_line_by_line_and_says_which_one_is_wrong_but_not_what_it_says() {
        let pseudonyms = Pseudonyms::new(KEY).unwrap();
        let list = format!("# the depot\n\n  {VIN}  \n");
        let ids = pseudonyms.of_list(&list).unwrap();
        assert_eq!(ids, ["car-4xdze5jdkgvy4vhf".parse().unwrap()].into());
        let message = pseudonyms.of_list(&format!("{list}{VIN}x\n")).unwrap_err().to_string();
        assert!(message.contains("line 4") && !message.contains(VIN), "{message}");
    }

    #[rstest::rstest]
    #[case::nothing("")]
    #[case::cut_off_after_its_head("# the depot\n\n")]
    fn list_without_a_car_is_refused(#[case] list: &str) {
        let refused = Pseudonyms::new(KEY).unwrap().of_list(list).unwrap_err();
        assert_eq!(refused, PseudonymError::Empty);
        assert!(refused.to_string().contains("there is no VIN in it"), "{refused}");
    }

    #[test]
    fn vin_has_no_text() {
        let vin = Vin::parse(VIN).unwrap();
        assert_eq!(format!("{vin:?}"), "Vin(…)");
    }

    #[rstest::rstest]
    #[case::by_type(b"vehicle_device.5YJ3E1EA7KF000001", true)]
    #[case::bare(b"5YJ3E1EA7KF000001", true)]
    #[case::silent(b"", true)]
    #[case::another(b"vehicle_device.5YJ3E1EA7KF000002", false)]
    #[case::of_another_type(b"energy_device.5YJ3E1EA7KF000001", false)]
    fn sender_of_a_message_is_the_car_of_the_certificate(#[case] sender: &[u8], #[case] is: bool) {
        assert_eq!(Vin::parse(VIN).unwrap().is_sender(sender), is);
    }
}
