//! Secrets that occur nowhere by chance, and every form of bytes in which they are looked for.
//!
//! A text is looked for as it is, in capitals and small letters, reversed, in UTF-16, quoted for URLs, each of these in hexadecimal and base64
//! at every alignment; and by its SHA-256 and MD5 (the hashes that are in the tree), raw, in hexadecimal and base64. A number is looked
//! for as the bits of a float of both sizes and orders, as decimals, and as the whole numbers and varints that a message would make of it.
//!
//! What is too short to tell from chance is left out ([`LEAST_TEXT`], [`LEAST_DIGITS`], [`LEAST_BYTES`]). Not found: what is encrypted,
//! compressed, salted, split, or added up with something else. What must never happen: a canary that the car says on purpose.

use std::collections::BTreeSet;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// Fewer letters than this, or digits with a point among them, are found by chance among megabytes of text. A number under 60 is no good
/// canary: time stamps have seconds with six digits behind the point.
pub const LEAST_TEXT: usize = 7;
/// Fewer digits in a row are found by chance among time stamps and versions.
pub const LEAST_DIGITS: usize = 9;
/// Fewer bytes than this are found by chance among megabytes of anything: 4 are 32 bits.
pub const LEAST_BYTES: usize = 4;

/// Something that must not leave the car.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// What it is, for whoever reads that it was found.
    pub what: &'static str,
    /// The secret.
    pub secret: Secret,
}

/// A secret.
#[derive(Debug, Clone, PartialEq)]
pub enum Secret {
    /// A name, a number plate, a line of a document.
    Text(String),
    /// A signal's value.
    Number(f64),
    /// An IPv4 address.
    Address([u8; 4]),
    /// A time of day, `HH:MM`; short, so it is looked for only where a time of day could stand, and not in the minutes and seconds of a time stamp.
    TimeOfDay(String),
}

/// Bytes that give a canary away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needle {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Of which canary.
    pub what: &'static str,
    /// In which form.
    pub form: String,
}

impl Canary {
    /// A text.
    pub fn text(what: &'static str, text: impl Into<String>) -> Self {
        Self {
            what,
            secret: Secret::Text(text.into()),
        }
    }

    /// A number.
    pub fn number(what: &'static str, number: f64) -> Self {
        Self {
            what,
            secret: Secret::Number(number),
        }
    }

    /// All bytes by which it is looked for.
    pub fn needles(&self) -> Vec<Needle> {
        let mut forms = Forms {
            what: self.what,
            needles: BTreeSet::new(),
        };
        match &self.secret {
            Secret::Text(text) => forms.text(text),
            Secret::Number(number) => forms.number(*number),
            Secret::Address(address) => forms.address(*address),
            Secret::TimeOfDay(time) => forms.time_of_day(time),
        }
        forms.needles.into_iter().collect()
    }
}

/// All needles of all canaries.
pub fn needles(canaries: &[Canary]) -> Vec<Needle> {
    canaries.iter().flat_map(Canary::needles).collect()
}

struct Forms {
    what: &'static str,
    needles: BTreeSet<Needle>,
}

impl Forms {
    fn put(&mut self, form: impl Into<String>, bytes: impl Into<Vec<u8>>, least: usize) {
        let bytes = bytes.into();
        if bytes.len() >= least {
            self.needles.insert(Needle {
                bytes,
                what: self.what,
                form: form.into(),
            });
        }
    }

    /// Bytes that a message may carry as they are, or written as text.
    fn bytes(&mut self, form: &str, bytes: &[u8]) {
        self.put(form, bytes, LEAST_BYTES);
        self.put(format!("{form}, hex"), HEXLOWER.encode(bytes), LEAST_TEXT);
        self.put(format!("{form}, HEX"), HEXUPPER.encode(bytes), LEAST_TEXT);
        for alphabet in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
            for before in 0..3 {
                self.put(
                    format!("{form}, base64 behind {before}"),
                    base64(alphabet, bytes, before),
                    LEAST_TEXT,
                );
            }
        }
    }

    fn text(&mut self, text: &str) {
        let reversed: String = text.chars().rev().collect();
        for (form, text) in [
            ("as it is", text.to_owned()),
            ("small letters", text.to_lowercase()),
            ("capitals", text.to_uppercase()),
            ("reversed", reversed),
            ("for a URL", for_url(text)),
        ] {
            self.bytes(form, text.as_bytes());
        }
        let utf16: Vec<u16> = text.encode_utf16().collect();
        let wide = |order: fn(u16) -> [u8; 2]| -> Vec<u8> { utf16.iter().copied().flat_map(order).collect() };
        let (little, big) = (wide(u16::to_le_bytes), wide(u16::to_be_bytes));
        self.bytes("UTF-16, little end first", &little);
        self.bytes("UTF-16, big end first", &big);
        for text in BTreeSet::from([text.to_owned(), text.to_lowercase(), text.to_uppercase()]) {
            self.bytes("SHA-256", &Sha256::digest(text.as_bytes()));
            self.bytes("MD5", &Md5::digest(text.as_bytes()));
        }
    }

    fn number(&mut self, number: f64) {
        self.bytes("double, little end first", &number.to_le_bytes());
        self.bytes("double, big end first", &number.to_be_bytes());
        let single = single(number);
        self.bytes("float, little end first", &single.to_le_bytes());
        self.bytes("float, big end first", &single.to_be_bytes());
        for text in decimals(number) {
            self.put(format!("decimal {text}"), text.as_bytes(), LEAST_TEXT);
            if text.len() >= LEAST_TEXT {
                self.bytes("SHA-256 of a decimal", &Sha256::digest(text.as_bytes()));
                for alphabet in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
                    for before in 0..3 {
                        let form = format!("decimal {text}, base64 behind {before}");
                        self.put(form, base64(alphabet, text.as_bytes(), before), LEAST_TEXT);
                    }
                }
            }
        }
        for scale in [1.0, 1e3, 1e5, 1e6, 1e7] {
            self.whole(number * scale);
        }
    }

    /// As the whole number that a message has of it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`as` saturates, and a canary is far from there"
    )]
    fn whole(&mut self, number: f64) {
        let whole = number.round() as i64;
        self.put(format!("whole {whole}"), whole.to_string(), LEAST_DIGITS);
        let zigzag = (whole << 1) ^ (whole >> 63);
        for (form, value) in [("varint", whole), ("zigzag", zigzag)] {
            self.put(format!("{form} of {whole}"), varint(value.cast_unsigned()), LEAST_BYTES);
        }
        if let Ok(word) = i32::try_from(whole)
            // Small numbers are mostly zeros, and those are everywhere.
            && word.unsigned_abs() > 1 << 24
        {
            self.bytes("word, little end first", &word.to_le_bytes());
            self.bytes("word, big end first", &word.to_be_bytes());
        }
    }

    fn address(&mut self, address: [u8; 4]) {
        let [a, b, c, d] = address;
        self.text(&format!("{a}.{b}.{c}.{d}"));
        self.bytes("an address's bytes", &address);
        self.put(
            "an address as a number",
            u32::from_be_bytes(address).to_string(),
            LEAST_TEXT,
        );
    }

    fn time_of_day(&mut self, time: &str) {
        for before in ["\"", "'", " ", "T", "=", "/", "-", "("] {
            self.put(format!("behind {before:?}"), format!("{before}{time}"), 0);
        }
        // As the documents of owners have it, whatever is around.
        self.bytes("from", format!("from: {time}").as_bytes());
        self.bytes("to", format!("to: {time}").as_bytes());
    }
}

/// What is certain of the base64 of these bytes when so many unknown ones stand before them.
fn base64(alphabet: &Encoding, bytes: &[u8], before: usize) -> Vec<u8> {
    let mut padded = vec![0; before];
    padded.extend(bytes);
    let encoded = alphabet.encode(&padded).into_bytes();
    let (first, after) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    encoded.get(first..after).unwrap_or_default().to_vec()
}

fn for_url(text: &str) -> String {
    let mut quoted = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push('%');
            quoted.push_str(&HEXUPPER.encode(&[byte]));
        }
    }
    quoted
}

#[expect(clippy::cast_possible_truncation, reason = "that is what is looked for")]
fn single(number: f64) -> f32 {
    number as f32
}

/// As it is written, to as many digits as tell it from others; also what a float of half the size makes of it.
fn decimals(number: f64) -> BTreeSet<String> {
    let single = single(number);
    let mut all = BTreeSet::from([number.to_string(), single.to_string(), f64::from(single).to_string()]);
    for digits in 3..8 {
        all.insert(format!("{number:.digits$}"));
        // Cut, and not rounded.
        let longest = format!("{number:.12}");
        let point = longest.find('.').map_or(longest.len(), |point| point + 1);
        all.extend(longest.get(..point + digits).map(str::to_owned));
    }
    all
}

/// As protobuf writes it.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::scan::Scanner;

    fn found(canary: Canary, hay: &[u8]) -> bool {
        !Scanner::new(needles(&[canary])).unwrap().find(hay).is_empty()
    }

    fn vin() -> Canary {
        Canary::text("VIN", "WKB9ZQ7XJ4T508213")
    }

    #[rstest::rstest]
    #[case(b"{\"vin\":\"WKB9ZQ7XJ4T508213\"}")]
    #[case(b"wkb9zq7xj4t508213")]
    #[case(b"312805T4JX7QZ9BKW")]
    #[case(b"W\0K\0B\x009\0Z\0Q\x007\0X\0J\x004\0T\x005\x000\x008\x002\x001\x003\0")]
    fn text_is_found_in_each_form(#[case] hay: &[u8]) {
        assert!(found(vin(), hay));
    }

    #[test]
    fn text_is_found_in_what_others_make_of_it() {
        let text = "WKB9ZQ7XJ4T508213";
        let mut hays = vec![HEXLOWER.encode(text.as_bytes()), HEXUPPER.encode(text.as_bytes())];
        for before in ["", "a", "ab", "abc", "abcd"] {
            for after in ["", "y", "yz"] {
                hays.push(BASE64_NOPAD.encode(format!("{before}{text}{after}").as_bytes()));
            }
        }
        hays.push(HEXLOWER.encode(&Sha256::digest(text)));
        hays.push(BASE64_NOPAD.encode(&Sha256::digest(text.to_lowercase())));
        hays.push(HEXLOWER.encode(&Md5::digest(text)));
        for hay in hays {
            assert!(found(vin(), hay.as_bytes()), "{hay}");
        }
        assert!(found(vin(), &Sha256::digest(text)));
        assert!(found(
            Canary::text("person", "Äpfel & Söhne"),
            b"q=%C3%84pfel%20%26%20S%C3%B6hne"
        ));
    }

    fn latitude() -> Canary {
        Canary::number("latitude", 69.731_642_9)
    }

    #[test]
    fn number_is_found_as_bits_decimals_and_whole_numbers() {
        let value = 69.731_642_9_f64;
        let mut hays: Vec<Vec<u8>> = vec![
            value.to_le_bytes().to_vec(),
            value.to_be_bytes().to_vec(),
            single(value).to_le_bytes().to_vec(),
            single(value).to_be_bytes().to_vec(),
            HEXLOWER.encode(&value.to_be_bytes()).into_bytes(),
            697_316_429_i32.to_le_bytes().to_vec(),
            // Protobuf's sint64 of 10^-7 degrees, by hand: twice 697316429.
            vec![0x9a, 0xd1, 0x81, 0x99, 0x05],
        ];
        hays.extend(["69.7316429", "69.731643", "69.73164", "697316429"].map(|text| text.as_bytes().to_vec()));
        hays.push(BASE64_NOPAD.encode(b"{\"lat\":69.7316429}").into_bytes());
        for hay in hays {
            assert!(found(latitude(), &hay), "{hay:?}");
        }
    }

    #[test]
    fn varint_is_that_of_protobuf() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(150), [0x96, 0x01]);
        assert_eq!(varint(300), [0xac, 0x02]);
    }

    #[test]
    fn address_and_time_of_day_are_found() {
        let address = Canary {
            what: "address",
            secret: Secret::Address([127, 83, 147, 219]),
        };
        assert!(found(address.clone(), b"peer=127.83.147.219:40112"));
        assert!(found(address.clone(), b"::ffff:127.83.147.219"));
        assert!(found(address, &[0, 127, 83, 147, 219, 0]));
        let time = Canary {
            what: "schedule",
            secret: Secret::TimeOfDay("15:47".to_owned()),
        };
        assert!(found(time.clone(), b"not before 15:47"));
        assert!(found(time.clone(), b"2026-11-28T15:47:00Z"));
        // Minutes and seconds are no time of day.
        assert!(!found(time, b"2026-11-28T12:15:47Z"));
    }

    /// The control: of all these needles none is in what has none of the secrets, as far as a few hundred kilobytes can tell.
    #[test]
    fn nothing_is_found_where_nothing_is() {
        let canaries = [vin(), latitude(), Canary::text("person", "Quillon Vandersloot-Maro")];
        let scanner = Scanner::new(needles(&canaries)).unwrap();
        // Hashes in a row: bytes that look like chance, and the same in every run.
        let mut block = Sha256::digest(b"control");
        let mut hay = Vec::new();
        for _ in 0..8_000 {
            block = Sha256::digest(block);
            hay.extend_from_slice(&block);
        }
        assert_eq!(scanner.find(&hay), []);
        assert_eq!(scanner.find(HEXLOWER.encode(&hay).as_bytes()), []);
        assert_eq!(scanner.find(BASE64_NOPAD.encode(&hay).as_bytes()), []);
    }

    #[test]
    fn what_is_too_short_to_tell_from_chance_is_no_needle() {
        for canary in [vin(), latitude(), Canary::number("speed", 87.5)] {
            for needle in canary.needles() {
                assert!(needle.bytes.len() >= LEAST_BYTES, "{needle:?}");
            }
        }
        assert!(!found(Canary::number("speed", 87.5), b"it was 87.5"));
    }
}
