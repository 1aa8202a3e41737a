//! A night and a morning: every car does what its trace says, a job runs on those that are parked and plugged in, and things break.
//!
//! Two jobs: the large one replaces when a car is suspected, a small one only when it is fenced. The traces bring the drivers, a
//! city-wide outage of the radio and the exodus of 07:00; the faults here kill the programs of the control plane one after another, and
//! take the power of cars at work. What must never happen: a fault that is left in place when the job waits for its end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kerbside_api::v1alpha1::{FleetJob, FleetJobStatus};
use kerbside_simulator::cars::play::{Order, schedule};
use kerbside_simulator::timeline::{Timeline, row};
use kerbside_simulator::traces::{DAY, Fleet, Shock, ShockKind, Trace};
use kube::api::Api;
use tokio::time::{Instant, sleep};

use super::book::{Attempts, Book, at_work, now_ms};
use super::cars::Cars;
use super::idle::figure;
use super::report::{Figures, keep};
use super::score::score;
use super::work::{self, Replace};
use super::{NAME, Options, say};
use crate::audit::Audit;
use crate::bed::Bed;
use crate::fleet::name::{ADAPTER, OPERATOR};
use crate::{process, wait};

const NIGHT: &str = "night";
const FENCED: &str = "night-fenced";
/// Cars that lose their power at each of two moments.
const POWER_CUTS: usize = 5;
/// How long they have none.
const WITHOUT_POWER: Duration = Duration::from_secs(20);
/// How long a killed program is away.
const AWAY: Duration = Duration::from_secs(4);
/// After the morning everybody is parked again; what is left of the jobs then takes no longer.
const EVENING: Duration = Duration::from_mins(10);

/// What breaks, and at which share of the completions.
const FAULTS: [(f64, Fault); 7] = [
    (0.10, Fault::Killed(ADAPTER)),
    (0.20, Fault::Power),
    (0.30, Fault::Killed(OPERATOR)),
    (0.45, Fault::Killed("kube-apiserver")),
    (0.60, Fault::Power),
    (0.70, Fault::Killed("etcd")),
    (0.80, Fault::Killed(ADAPTER)),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A program is killed, and started again after a while.
    Killed(&'static str),
    /// Cars at work lose their power for a while.
    Power,
}

/// Runs it.
pub(super) async fn measure(
    bed: &Bed,
    options: &Options,
    cars: &mut Cars,
    out: &Path,
    figures: &mut Figures,
) -> Result<()> {
    let (from, until) = (hours(options.from), hours(options.until));
    let traces = traces(options, cars.count())?;
    let (starts, steps) = schedule(&traces, from, until);
    let real = cars.pace().real(until.saturating_sub(from));
    say(&format!(
        "a night: {} cars, {} events, {} h in {} s",
        cars.count(),
        steps.len(),
        options.until - options.from,
        real.as_secs()
    ));
    let mut audit = Audit::now(&bed.layout);
    let book = Book::begin(&bed.client, NAME);
    let (began, began_ms) = (Instant::now(), now_ms());
    cars.replay(starts, steps, from).await?;
    let fenced = (options.completions / 10).max(4);
    for manifest in [
        work::fleet_job(
            &bed.endpoints.registry,
            NIGHT,
            Replace::WhenSuspected,
            (options.completions, options.parallelism),
            Some(options.work),
        ),
        work::fleet_job(
            &bed.endpoints.registry,
            FENCED,
            Replace::WhenFenced,
            (fenced, (options.parallelism / 8).max(2)),
            Some(options.work),
        ),
    ] {
        work::apply(bed, &manifest).await?;
    }
    faults(bed, cars, &book, options.completions, began + real).await?;
    let left = (began + real).saturating_duration_since(Instant::now());
    say(&format!("the morning goes on for {} s", left.as_secs()));
    sleep(left).await;
    let morning = book.attempts();
    cars.rest().await?;
    let night = complete(bed, NIGHT).await?;
    let small = complete(bed, FENCED).await?;
    figures.night_seconds = Some(began.elapsed().as_secs_f64());

    let (all, facts) = (book.attempts(), cars.truth().facts());
    keep(out, "night-attempts.json", &all)?;
    keep(out, "night-truth.json", &facts)?;
    keep(out, "night-status.json", &[&night, &small])?;
    let of = |name: &str| {
        all.values()
            .filter(|attempt| attempt.owner == name)
            .cloned()
            .collect::<Vec<_>>()
    };
    let (large, little) = (score(&of(NIGHT), &facts), score(&of(FENCED), &facts));
    let wrong = wrong_results(bed, &[(NIGHT, options.completions), (FENCED, fenced)]).await?;
    let excess =
        |status: &FleetJobStatus, wanted: u32| usize::try_from(status.succeeded.abs_diff(wanted)).unwrap_or(usize::MAX);
    figures.completions = usize::try_from(night.succeeded + small.succeeded)?;
    figures.attempts = large.attempts + little.attempts;
    figures.duplicates = large.repeated
        + little.repeated
        + little.overlaps
        + wrong
        + excess(&night, options.completions)
        + excess(&small, fenced);
    figures.failures_charged = usize::try_from(night.failed + small.failed)?;
    figures.goodput_share = Some(large.goodput());
    figures.work_lost_s = Some(large.lost_s + little.lost_s);
    for (reason, count) in large.disruptions.iter().chain(&little.disruptions) {
        *figures.disruptions.entry(reason.clone()).or_default() += count;
    }
    if let Some(audit) = &mut audit {
        let ours = audit
            .writes()?
            .iter()
            .filter(|write| write.is_ours() && !write.is_housekeeping())
            .count();
        let hours = began.elapsed().as_secs_f64() / 3600.0;
        figures.writes_per_vehicle_hour = Some(figure(ours) / figure(cars.count()) / hours);
    }
    draw(options, cars, &traces, &morning, began_ms, out)?;
    ensure!(
        figures.completions == usize::try_from(options.completions + fenced)?,
        "not every index has a result: {night:?} {small:?}"
    );
    Ok(())
}

fn hours(hours: f64) -> Duration {
    Duration::from_secs_f64(hours * 3600.0)
}

/// What happens to the cars: a city-wide outage in the night, the exodus of the morning.
fn traces(options: &Options, cars: usize) -> Result<Vec<Trace>> {
    let fleet = Fleet {
        seed: options.seed,
        days: u16::try_from(hours(options.until).as_secs() / DAY.as_secs() + 1).context("a number of days")?,
        shocks: vec![
            Shock {
                at: hours(options.from + (options.until - options.from) * 0.3),
                kind: ShockKind::Outage {
                    share: 0.3,
                    lasts: Duration::from_mins(30),
                },
            },
            Shock {
                at: hours(31.0),
                kind: ShockKind::Exodus {
                    share: 0.4,
                    within: Duration::from_mins(60),
                },
            },
        ],
        ..Fleet::default()
    };
    Ok(fleet.traces(u32::try_from(cars)?).collect())
}

/// Breaks things, each at its share of the completions, as long as the night lasts.
async fn faults(bed: &Bed, cars: &Cars, book: &Book, completions: u32, end: Instant) -> Result<()> {
    for (share, fault) in FAULTS {
        let wanted = f64::from(completions) * share;
        let left = end.saturating_duration_since(Instant::now());
        let reached = book.until("completions", left, |all| {
            (figure(succeeded(all)) >= wanted).then_some(())
        });
        if reached.await.is_err() {
            say("the night is over before everything is broken");
            return Ok(());
        }
        match fault {
            Fault::Killed(name) => {
                say(&format!(
                    "at {:.0} % of the completions, {name} is killed",
                    share * 100.0
                ));
                process::crash(&bed.layout, name).await?;
                sleep(AWAY).await;
                restart(bed, name).await?;
            }
            Fault::Power => {
                let places: Vec<usize> = at_work(&book.attempts())
                    .filter_map(|attempt| cars.place(&attempt.bound.as_ref()?.1))
                    .take(POWER_CUTS)
                    .collect();
                say(&format!(
                    "at {:.0} %, {} cars lose their power",
                    share * 100.0,
                    places.len()
                ));
                for place in &places {
                    cars.order(Order::Cut(*place))?;
                }
                sleep(WITHOUT_POWER).await;
                for place in places {
                    cars.order(Order::Boot(place))?;
                }
            }
        }
    }
    Ok(())
}

async fn restart(bed: &Bed, name: &str) -> Result<()> {
    if [ADAPTER, OPERATOR].contains(&name) {
        return bed.restart(name).await;
    }
    process::restart(&bed.layout, name)?;
    wait::until_ok("the API server to be ready", Duration::from_mins(1), async || {
        bed.kubectl.run(&["get", "--raw", "/readyz"], "").await.map(drop)
    })
    .await
}

fn succeeded(all: &Attempts) -> usize {
    let done = |attempt: &&super::book::Attempt| {
        attempt.owner == NIGHT && attempt.over.as_ref().is_some_and(|over| over.1 == "Succeeded")
    };
    all.values().filter(done).count()
}

async fn complete(bed: &Bed, name: &str) -> Result<FleetJobStatus> {
    let jobs: Api<FleetJob> = Api::namespaced(bed.client.clone(), NAME);
    let what = format!("the job {name} to be complete");
    let status = wait::object(&jobs, name, &what, EVENING, |job| {
        let status = job?.status.as_ref()?;
        let over = crate::world::jobs::has(status, "Complete") || crate::world::jobs::has(status, "Failed");
        over.then(|| status.clone())
    })
    .await?;
    ensure!(
        crate::world::jobs::has(&status, "Complete"),
        "job {name} failed: {status:?}"
    );
    Ok(status)
}

/// How many indexes have not exactly the one result that they should have, as a user gets them.
async fn wrong_results(bed: &Bed, jobs: &[(&str, u32)]) -> Result<usize> {
    let mut wrong = 0;
    for (job, completions) in jobs {
        let dir = bed.layout.dir(&format!("chaos/results/{job}"))?;
        bed.results(NAME, job, &dir).await?;
        for index in 0..*completions {
            let path = dir.join(index.to_string()).join("result");
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text != format!("index {index}\n") {
                say(&format!("{} says {text:?}", path.display()));
                wrong += 1;
            }
        }
    }
    Ok(wrong)
}

/// The vehicles by hour and the completions as a curve, in the time of the traces.
fn draw(options: &Options, cars: &Cars, traces: &[Trace], all: &Attempts, began_ms: i64, out: &Path) -> Result<()> {
    let from = hours(options.from);
    let moment = |ms: i64| {
        let real = Duration::from_millis(u64::try_from(ms - began_ms).unwrap_or(0));
        from + cars.pace().trace(real)
    };
    let timeline = Timeline {
        title: format!("{} cars, seed {}", cars.count(), options.seed),
        length: hours(options.until),
        rows: traces
            .iter()
            .zip(cars.ids())
            .map(|(trace, id)| row(id.to_string(), trace))
            .collect(),
        completions: all
            .values()
            .filter_map(|attempt| attempt.over.as_ref().filter(|over| over.1 == "Succeeded"))
            .map(|over| moment(over.0))
            .collect(),
    };
    let path = out.join("night.svg");
    std::fs::write(&path, timeline.svg()).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(())
}
