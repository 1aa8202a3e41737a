//! Whether the text of an owner's document is all of it.
//!
//! Asked where a document is read ([`super::Document::check_in`]). Most terms narrow, and may be left out: a text of which the end is missing,
//! after a power cut or on a full disk, may be valid and allow more than its owner wrote. What must never happen: that such a half counts.

/// What a document with a version begins with, so that none of its halves passes for one of before there were versions.
const BEGINNING: &str = "apiVersion:";
/// What it ends with: to YAML, too, that is the end of a document.
const END: &str = "...";

/// Whether a text with a version has its beginning and its end. One in braces, as JSON is, has its end or cannot be read.
pub(super) fn is_whole(text: &str) -> bool {
    let mut lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#') && line.trim_end() != "---");
    let Some(first) = lines.next() else { return false };
    if first.starts_with('{') {
        return true;
    }
    first.starts_with(BEGINNING) && lines.next_back().is_some_and(|last| last.trim_end() == END)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::owner::{Document, DocumentError};

    const WHOLE: &str = "
# A car's.
apiVersion: owner.kerbside.dev/v1alpha1
kind: OwnerPolicy
requirePluggedIn: false
chargeFloorPercent: 0
consent: {givenAt: 2026-11-01T10:00:00Z, classes: [inference]}
resumeWithin: 5m
maxCpu: 1500m
quietHours:
- {from: '22:00', to: '06:30'}
- {from: '12:00', to: '13:00'}
timeZone: Europe/Berlin
pauseUntil: 2026-11-02T00:00:00Z
...
# What follows is of no matter.
";

    fn read(text: &str) -> Result<Document, String> {
        let document: Document = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        document.check_in(text).map_err(|e| e.to_string())
    }

    #[rstest]
    #[case::plain(WHOLE.to_owned())]
    #[case::of_windows(WHOLE.replace('\n', "\r\n"))]
    #[case::begun(format!("---\n{WHOLE}"))]
    fn document_that_is_cut_off_at_any_byte_is_refused(#[case] text: String) {
        let whole = read(&text).unwrap();
        let mut cuts = 0;
        for at in 0..text.len() {
            // A byte of a word in another alphabet is no text at all, and cannot be read.
            let Some(half) = text.get(..at) else { continue };
            match read(half) {
                Ok(said) => assert_eq!(said, whole, "cut off at {at}"),
                Err(_) => cuts += 1,
            }
        }
        assert!(cuts > text.find(END).unwrap());
    }

    #[rstest]
    #[case::no_end("...\n", "")]
    #[case::end_is_not_last("...\n", "...\n...\nmaxMemory: 1Gi\n")]
    #[case::does_not_begin_with_its_version("# A car's.\n", "maxMemory: 1Gi\n")]
    fn document_with_a_version_is_whole_or_refused(#[case] from: &str, #[case] to: &str) {
        assert!(WHOLE.contains(from));
        read(&WHOLE.replacen(from, to, 1)).unwrap_err();
    }

    #[test]
    fn end_that_is_missing_is_named() {
        let text = WHOLE.replacen("...\n", "", 1);
        let document: Document = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(document.check_in(&text), Err(DocumentError::CutOff));
    }

    #[test]
    fn document_in_braces_and_one_without_a_version_need_no_end() {
        let consent = r#""consent": {"givenAt": "2026-11-01T10:00:00Z", "classes": []}"#;
        let terms = format!(r#"{consent}, "requirePluggedIn": true, "chargeFloorPercent": 50"#);
        let version = r#""apiVersion": "owner.kerbside.dev/v1alpha1", "kind": "OwnerPolicy""#;
        for text in [format!("{{{terms}}}"), format!("{{{version}, {terms}}}")] {
            read(&text).unwrap();
            for at in 1..text.len() {
                read(&text[..at]).unwrap_err();
            }
        }
        read(&format!("{{{terms}}}\n# Of before there were versions.\n")).unwrap();
        let lines = "requirePluggedIn: true\nchargeFloorPercent: 50\n";
        read(&format!(
            "consent: {{givenAt: 2026-11-01T10:00:00Z, classes: []}}\n{lines}"
        ))
        .unwrap();
    }
}
