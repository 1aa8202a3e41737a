//! `kubectl fleet ledger export`: one JSON document with everything that is needed to check it again, with our tools or others.

use std::io::Write;

use serde_json::json;

use super::book::Book;
use super::say;
use crate::Error;

/// Writes every ledger of the book, one after the other.
pub(super) async fn export(book: &Book, out: &mut impl Write) -> Result<(), Error> {
    let (ca, cas, keys) = (json!(book.ca), json!(book.cas), json!(book.operator_keys));
    let known = book.cas_are_known;
    say(
        out,
        &format!("{{\"ca\":{ca},\"cas\":{cas},\"casAreKnown\":{known},\"operatorKeys\":{keys},\"vehicles\":["),
    )?;
    for (n, vehicle) in book.vehicles.iter().enumerate() {
        let ledger = json!(book.ledger(vehicle).await?);
        let separator = if n == 0 { "" } else { "," };
        say(out, &format!("{separator}{ledger}"))?;
    }
    say(out, "]}")
}
