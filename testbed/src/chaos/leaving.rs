//! How soon the work of cars that leave, and of cars that fall silent, is bound elsewhere.
//!
//! Four kinds of work, each on cars of its own: a FleetJob that replaces when a car is suspected, one that replaces when it is fenced, a
//! Deployment, a StatefulSet. Their cars leave within one second, with notice; then cars of the first lose their power. A time counts from
//! the moment at which the car was switched on or its power cut, or for the second and fourth kind from the moment at which the
//! program was really over, to the moment at which the binding was heard here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use kerbside_simulator::cars::play::Order;
use kerbside_simulator::cars::truth::{Fact, Happened};
use kerbside_simulator::traces::{Place, What};
use tokio::time::{Instant, sleep_until};

use super::book::{Attempt, Attempts, Book, at_work, now_ms};
use super::cars::Cars;
use super::report::{Figures, keep};
use super::work::{self, Replace};
use super::{NAME, Options, say};
use crate::bed::Bed;

const DEADLINE: Duration = Duration::from_mins(5);
const SUSPECTED: &str = "suspected";
const FENCED: &str = "fenced";
const DEPLOYMENT: &str = "deployment";
const STATEFUL: &str = "stateful";
const KINDS: [&str; 4] = [SUSPECTED, FENCED, DEPLOYMENT, STATEFUL];

/// A car was taken from an attempt.
struct Taken {
    attempt: Attempt,
    place: usize,
    at_ms: i64,
}

/// Measures it.
pub(super) async fn measure(
    bed: &Bed,
    options: &Options,
    cars: &mut Cars,
    out: &Path,
    figures: &mut Figures,
) -> Result<()> {
    let book = Book::begin(&bed.client, NAME);
    // More of each kind than leave, so that those who leave are some among many.
    let each = (options.leave * 6 / 10).max(options.lose + 1).max(4);
    let registry = &bed.endpoints.registry;
    let manifests = [
        work::fleet_job(registry, SUSPECTED, Replace::WhenSuspected, (each, each), None),
        work::fleet_job(registry, FENCED, Replace::WhenFenced, (each, each), None),
        work::replicas(registry, "Deployment", DEPLOYMENT, each),
        work::replicas(registry, "StatefulSet", STATEFUL, each),
    ];
    for manifest in &manifests {
        work::apply(bed, manifest).await?;
    }
    all_at_work(&book, each).await?;

    say(&format!("{} cars leave within a second", options.leave));
    let mut leaving = Vec::new();
    let attempts = book.attempts();
    for kind in KINDS {
        let share = usize::try_from(options.leave / 4).context("a count of cars")?;
        leaving.extend(at_work(&attempts).filter(|attempt| attempt.owner == kind).take(share));
    }
    let (began, step) = (
        Instant::now(),
        Duration::from_secs(1) / u32::try_from(leaving.len().max(1))?,
    );
    let mut taken = Vec::new();
    for (number, attempt) in (0..).zip(leaving) {
        sleep_until(began + step * number).await;
        taken.push(take(cars, attempt, |place| Order::See(place, What::Ignition))?);
    }
    let known: BTreeSet<String> = attempts.keys().cloned().collect();
    all_at_work(&book, each).await?;
    let after = book.attempts();
    let facts = cars.truth().facts();
    let mut with_notice = Vec::new();
    let mut when_stopped = Vec::new();
    for kind in KINDS {
        let of_kind: Vec<&Taken> = taken.iter().filter(|taken| taken.attempt.owner == kind).collect();
        let waits = waits(&of_kind, &after, &known, |taken| match kind {
            FENCED | STATEFUL => ended_ms(&facts, &taken.attempt.uid),
            _ => Some(taken.at_ms),
        });
        say(&format!("{kind}: bound elsewhere after {waits:?} ms"));
        match kind {
            FENCED | STATEFUL => when_stopped.extend(waits),
            _ => with_notice.extend(waits),
        }
    }
    figures.notice_replace_ms(with_notice);
    figures.stopped_replace_ms(when_stopped);
    // Those who left come back, so that the next ones have somewhere to go.
    for taken in &taken {
        let parked = What::Parked {
            place: Place::Home,
            metres: 0,
        };
        cars.order(Order::See(taken.place, parked))?;
        cars.order(Order::See(taken.place, What::Locked))?;
    }

    say(&format!("{} cars lose their power", options.lose));
    let attempts = book.attempts();
    let known: BTreeSet<String> = attempts.keys().cloned().collect();
    let count = usize::try_from(options.lose).context("a count of cars")?;
    let mut lost = Vec::new();
    for attempt in at_work(&attempts)
        .filter(|attempt| attempt.owner == SUSPECTED)
        .take(count)
    {
        lost.push(take(cars, attempt, Order::Cut)?);
    }
    all_replaced(&book, &lost, &known).await?;
    let lost: Vec<&Taken> = lost.iter().collect();
    let waits = waits(&lost, &book.attempts(), &known, |taken| Some(taken.at_ms));
    say(&format!("bound elsewhere after {waits:?} ms"));
    figures.loss_replace_ms(waits);
    for taken in &lost {
        cars.order(Order::Boot(taken.place))?;
    }

    keep(out, "leaving-attempts.json", &book.attempts())?;
    keep(out, "leaving-truth.json", &cars.truth().facts())?;
    for manifest in &manifests {
        let text = serde_json::to_string(manifest).context("failed to render JSON")?;
        bed.kubectl.run(&["delete", "--wait=false", "-f", "-"], &text).await?;
    }
    book.until("the Pods of the chaos to be gone", DEADLINE, |all| {
        all.values().all(|attempt| attempt.gone_ms.is_some()).then_some(())
    })
    .await
}

/// Waits until as many of each kind are at work as there should be.
async fn all_at_work(book: &Book, each: u32) -> Result<()> {
    let each = usize::try_from(each).context("a count of Pods")?;
    book.until("every kind of work to be on its cars", DEADLINE, |all| {
        let count = |kind: &str| at_work(all).filter(|attempt| attempt.owner == kind).count();
        KINDS.iter().all(|kind| count(kind) >= each).then_some(())
    })
    .await
}

fn take(cars: &Cars, attempt: &Attempt, order: impl Fn(usize) -> Order) -> Result<Taken> {
    let (_, node) = attempt.bound.as_ref().context("an attempt at work is bound")?;
    let place = cars.place(node).context("its car is one of ours")?;
    let at_ms = now_ms();
    cars.order(order(place))?;
    Ok(Taken {
        attempt: attempt.clone(),
        place,
        at_ms,
    })
}

async fn all_replaced(book: &Book, taken: &[Taken], known: &BTreeSet<String>) -> Result<()> {
    book.until("the attempts of the lost cars to be elsewhere", DEADLINE, |all| {
        taken
            .iter()
            .all(|taken| successor(all, &taken.attempt, known).is_some())
            .then_some(())
    })
    .await
}

/// When another attempt of the same index was bound.
fn successor(all: &Attempts, of: &Attempt, known: &BTreeSet<String>) -> Option<i64> {
    all.values()
        .filter(|attempt| attempt.owner == of.owner && attempt.index == of.index && !known.contains(&attempt.uid))
        .filter_map(|attempt| attempt.bound.as_ref().map(|bound| bound.0))
        .min()
}

/// From each taking to its replacement, sorted. Replicas of a Deployment are all alike: the n-th that was taken is replaced by the
/// n-th that was bound. A StatefulSet's have names, FleetJobs' have indexes.
fn waits(taken: &[&Taken], all: &Attempts, known: &BTreeSet<String>, from: impl Fn(&Taken) -> Option<i64>) -> Vec<i64> {
    let mut waits = Vec::new();
    let mut alike: Vec<i64> = all
        .values()
        .filter(|attempt| attempt.owner == DEPLOYMENT && !known.contains(&attempt.uid))
        .filter_map(|attempt| attempt.bound.as_ref().map(|bound| bound.0))
        .collect();
    alike.sort_unstable();
    let mut alike = alike.into_iter();
    for taken in taken {
        let named = || {
            all.values()
                .filter(|attempt| attempt.name == taken.attempt.name && !known.contains(&attempt.uid))
                .filter_map(|attempt| attempt.bound.as_ref().map(|bound| bound.0))
                .min()
        };
        let bound = match taken.attempt.owner.as_str() {
            DEPLOYMENT => alike.next(),
            STATEFUL => named(),
            _ => successor(all, &taken.attempt, known),
        };
        if let (Some(bound), Some(from)) = (bound, from(taken)) {
            waits.push(bound - from);
        }
    }
    waits.sort_unstable();
    waits
}

/// When the program of an attempt was really over.
fn ended_ms(facts: &[Fact], uid: &str) -> Option<i64> {
    facts
        .iter()
        .filter(|fact| fact.attempt == uid && matches!(fact.what, Happened::Ended(_)))
        .map(|fact| fact.at_ms)
        .max()
}
