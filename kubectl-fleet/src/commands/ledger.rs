//! `kubectl fleet ledger`: what vehicles have signed for and what was accepted of it, checked by whoever asks.
//!
//! Nothing that comes is believed: certificates are held against the CA, signatures against the certificates, the two halves of a ledger
//! against each other. It comes from the operator, or from an export, and then no cluster is needed. One vehicle's ledger is in memory
//! at a time.

mod book;
mod check;
mod export;
mod sum;
#[cfg(test)]
mod testing;
mod verify;

use std::io::Write;
use std::path::Path;

use kerbside_core::ids::VehicleId;
use kube::Client;

use crate::Error;
use crate::cli::{LedgerAction, LedgerFrom};
use book::Book;

/// Does what is asked for with the ledger that the operator has.
pub async fn run(client: &Client, system: &str, action: &LedgerAction, out: &mut impl Write) -> Result<(), Error> {
    let address = action.which().operator.operator.as_deref();
    let book = Book::of_operator(client, system, address).await?;
    on_book(book, action, out).await
}

/// Does what is asked for with the ledger in a file that `export` has written.
pub async fn run_on_export(file: &Path, action: &LedgerAction, out: &mut impl Write) -> Result<(), Error> {
    on_book(Book::of_export(file)?, action, out).await
}

async fn on_book(book: Book, action: &LedgerAction, out: &mut impl Write) -> Result<(), Error> {
    let book = choose(book, action.which())?;
    match action {
        LedgerAction::Verify(from) => verify::verify(&book, from.output, out).await,
        LedgerAction::Sum(sum) => sum::sum(&book, sum.by, sum.from.output, out).await,
        LedgerAction::Export(_) => export::export(&book, out).await,
    }
}

/// What was chosen of it, and the CAs that are believed.
fn choose(mut book: Book, from: &LedgerFrom) -> Result<Book, Error> {
    if let Some(vehicle) = &from.vehicle {
        let vehicle: VehicleId = vehicle.parse().map_err(|e| Error::Refused(format!("--vehicle: {e}")))?;
        if !book.vehicles.contains(&vehicle) {
            return Err(Error::Refused(format!("there is no ledger of {vehicle}")));
        }
        book.vehicles = vec![vehicle];
    }
    if let Some(file) = &from.ca {
        book.ca = read(file)?;
        book.cas.clear();
        book.ca_is_known = true;
    }
    Ok(book)
}

fn read(file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|source| Error::Read {
        path: file.display().to_string(),
        source,
    })
}

fn say(out: &mut impl Write, text: &str) -> Result<(), Error> {
    writeln!(out, "{text}").map_err(Error::Print)
}

#[cfg(test)]
mod tests;
