//! Golden files of the tests, in `testdata`.

use std::path::Path;

/// Compares with a file; with `UPDATE` set, writes it first.
pub(crate) fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name}: review the change, then run with UPDATE=1");
}
