//! An owner's document in plain words, as a person would say it: one sentence for each term, also for those that it does not write down.
//!
//! Called by `kerbside-agent policy explain`. What must never happen: a sentence that promises less work than the car may do.

use jiff::Timestamp;

use super::{Document, Egress, Hours, Metered, Reach, Tariff};
use crate::duration;
use crate::quantity::Quantity;

/// What the document means, a sentence each.
pub fn explain(document: &Document) -> Vec<String> {
    let mut says = vec![consent(document)];
    if let Some(until) = document.pause_until {
        says.push(format!("Before {} there is no work.", moment(until)));
    }
    says.push(if document.require_plugged_in {
        "There is work only while a charging cable is connected; when it is pulled, work stands still.".to_owned()
    } else {
        "There is work with and without a charging cable.".to_owned()
    });
    says.push(charge(document));
    says.extend(hours(document));
    says.extend(energy(document));
    if let Some(when) = &document.when {
        says.push(format!(
            "There is work only while this is true, and what it names is known: {}. Else work stands still.",
            when.text()
        ));
    }
    says.push(visit(document));
    says.push(most(document));
    says.push(format!(
        "Each Pod reads at most {} a second from a disk, and writes as much.",
        bytes(document.max_disk_bytes_per_second)
    ));
    says.push(network(document.egress.as_ref()));
    says.push(entry(document));
    says.push(signatures(document));
    says.extend(data(document));
    says.push(
        "Whatever is written here, there is no work while the car is driven, while somebody is at it, or while it is not known \
         whether that is so; and `kerbside-agent pause` and `kerbside-agent withdraw` act within a second."
            .to_owned(),
    );
    says
}

fn consent(document: &Document) -> String {
    let consent = &document.consent;
    let since = moment(consent.given_at);
    let until = consent.expires_at.map_or_else(
        || "until you take it back".to_owned(),
        |expires| format!("until {}, or until you take it back", moment(expires)),
    );
    match &consent.classes[..] {
        [] => format!("You agree to no work at all: the list of classes is empty ({since}, {until})."),
        [class] => format!("You agree to work of the class {class}, from {since} {until}."),
        classes => format!(
            "You agree to work of the classes {}, from {since} {until}.",
            list(classes)
        ),
    }
}

fn visit(document: &Document) -> String {
    if document.resume_within.is_zero() {
        return "As soon as somebody comes to the car, work stands still and ends.".to_owned();
    }
    format!(
        "As soon as somebody comes to the car, work stands still; if the car is not left alone again within {}, work ends.",
        duration::format(document.resume_within)
    )
}

fn charge(document: &Document) -> String {
    let floor = document.charge_floor_percent;
    let start = (floor + document.charge_resume_margin_percent).min(100.0);
    if start > floor {
        format!(
            "Work ends when the charge falls below {floor} %, and begins at {start} % or more; if the charge is not known, there is none."
        )
    } else {
        format!("There is work at a charge of {floor} % or more; if the charge is not known, there is none.")
    }
}

fn energy(document: &Document) -> Vec<String> {
    let clock = document
        .time_zone
        .as_ref()
        .map_or_else(String::new, |zone| format!(" by the clock of {zone}"));
    let mut says = Vec::new();
    if let Some(most) = document.max_kwh_per_day {
        says.push(format!(
            "All work together has at most {} kWh in a day{clock}, what the car takes to be awake for it included; then it ends, until the \
             next day.",
            plain(most.millis())
        ));
    }
    if let Some(Tariff {
        currency,
        per_kwh,
        windows,
    }) = &document.tariff
    {
        let other = windows
            .iter()
            .map(|priced| format!(", {} {}", priced.per_kwh, window(&priced.hours)));
        let other: String = other.collect();
        let clock = if windows.is_empty() { "" } else { clock.as_str() };
        says.push(format!("A kilowatt-hour costs you {per_kwh} {currency}{other}{clock}."));
        if let Some(floor) = document.price_floor {
            says.push(format!(
                "Work is taken only if it pays at least {floor} {currency} for a core hour after the cost of its energy, and is paid in {currency}."
            ));
        }
    }
    says
}

fn hours(document: &Document) -> Vec<String> {
    let clock = document
        .time_zone
        .as_ref()
        .map_or_else(String::new, |zone| format!(", by the clock of {zone}"));
    let windows = |hours: &[Hours]| list(&hours.iter().map(window).collect::<Vec<_>>());
    let mut says = Vec::new();
    match &document.work_hours {
        Some(hours) => says.push(format!("There is work only {}{clock}.", windows(hours))),
        None => says.push("There may be work at any time of the week.".to_owned()),
    }
    if !document.quiet_hours.is_empty() {
        let quiet = windows(&document.quiet_hours);
        says.push(format!("There is no work {quiet}{clock}, whatever else is allowed."));
    }
    says
}

fn window(hours: &Hours) -> String {
    let Hours { from, to, days } = hours;
    let clock = |time: &jiff::civil::Time| format!("{:02}:{:02}", time.hour(), time.minute());
    let times = if from == to && from.hour() == 0 && from.minute() == 0 {
        "all day".to_owned()
    } else if from == to {
        format!("for 24 hours from {}", clock(from))
    } else if from < to {
        format!("from {} to {}", clock(from), clock(to))
    } else {
        format!("from {} to {} of the next day", clock(from), clock(to))
    };
    match days {
        Some(days) => {
            let days: Vec<_> = days.iter().map(|day| day.as_str()).collect();
            format!("{times} on {}", list(&days))
        }
        None => times,
    }
}

fn most(document: &Document) -> String {
    let cpu = document.max_cpu.map(processors);
    let memory = document.max_memory.map(|most| format!("{most} of memory"));
    let caps: Vec<_> = cpu.into_iter().chain(memory).collect();
    if caps.is_empty() {
        "All work together gets what the car gives.".to_owned()
    } else {
        format!(
            "All work together gets at most {}, and never more than the car gives.",
            list(&caps)
        )
    }
}

/// `1 processor`, `1.5 processors`.
fn processors(most: Quantity) -> String {
    let number = plain(most.millis());
    let noun = if number == "1" { "processor" } else { "processors" };
    format!("{number} {noun}")
}

/// Thousandths as a decimal number, as short as it can be.
fn plain(millis: i64) -> String {
    let number = format!("{}.{:03}", millis / 1000, millis % 1000);
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn network(egress: Option<&Egress>) -> String {
    let Some(egress) = egress.filter(|egress| !egress.is_nothing()) else {
        return "Work reaches nothing by your network.".to_owned();
    };
    let reach = |reach: &Reach| match reach {
        Reach::Public => "the internet".to_owned(),
        network @ Reach::Network(_) => network.to_string(),
    };
    let allow: Vec<_> = egress.allow.iter().map(reach).collect();
    let ports: Vec<_> = egress.ports.iter().map(ToString::to_string).collect();
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    format!(
        "Work reaches {} by your network, at {noun} {}, with at most {} a second each way; whoever is reached sees your address.",
        list(&allow),
        list(&ports),
        bytes(egress.max_bytes_per_second)
    )
}

fn entry(document: &Document) -> String {
    if document.allow_exec {
        return "People of the fleet may run commands in the car's Pods, join their programs and reach their ports, while work runs; you see who, where \
                and what."
            .to_owned();
    }
    "Nobody enters the car's Pods from elsewhere: no commands are run in them, and their ports are not reached."
        .to_owned()
}

fn signatures(document: &Document) -> String {
    let names: Vec<_> = document
        .publishers()
        .iter()
        .map(|publisher| publisher.name.as_str())
        .collect();
    match &names[..] {
        [] => "Images need no signature: what runs is what those who may give the car work say.".to_owned(),
        [name] => format!(
            "Work runs only from images that {name} has signed; the car checks that itself before it fetches them, and a refusal says this name."
        ),
        names => format!(
            "Work runs only from images that one of {} has signed; the car checks that itself before it fetches them, and a refusal says these names.",
            list(names)
        ),
    }
}

fn data(document: &Document) -> Vec<String> {
    let mut says = vec![match document.network.metered {
        Metered::Never => {
            "By a network that costs by the byte nothing begins and no image is fetched; what runs stands still."
                .to_owned()
        }
        Metered::Allow => "There is work also by a network that costs by the byte.".to_owned(),
    }];
    if let Some(data) = &document.data {
        let which = if data.metered_only {
            " by networks that cost by the byte"
        } else {
            ""
        };
        let clock = document.time_zone.as_deref().unwrap_or("Greenwich");
        says.push(format!(
            "At most {} are moved{which} in a month by the clock of {clock}, both ways together; then work ends, until the next month.",
            bytes(data.per_month)
        ));
    }
    says
}

/// By the clock of Greenwich, which needs no zone to be known.
fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn bytes(count: u64) -> String {
    Quantity::from_bytes(i64::try_from(count).unwrap_or(i64::MAX)).to_string()
}

/// `a, b and c`.
fn list<T: AsRef<str>>(parts: &[T]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [most @ .., last] => {
            let most: Vec<_> = most.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", most.join(", "), last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(yaml: &str) -> String {
        let document: Document = serde_saphyr::from_str(yaml).unwrap();
        explain(&document.check().unwrap()).join("\n")
    }

    #[test]
    fn document_with_every_term_is_explained() {
        let said = said(
            "
apiVersion: owner.kerbside.dev/v1alpha1
kind: OwnerPolicy
consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference, video, render]}
pauseUntil: 2026-12-01T00:00:00+01:00
requirePluggedIn: true
chargeFloorPercent: 62.5
workHours:
- {from: '22:00', to: '06:00', days: [Mon, Tue]}
- {from: '00:00', to: '00:00', days: [Sun]}
quietHours: [{from: '07:00', to: '09:00'}, {from: '12:00', to: '12:00', days: [Sat]}]
timeZone: Europe/Berlin
maxCpu: 1500m
maxMemory: 1Gi
egress: {allow: [public, 192.168.7.0/24], ports: [443]}
maxKWhPerDay: 1500m
tariff: {currency: EUR, perKWh: '0.30', windows: [{from: '22:00', to: '06:00', days: [Mon], perKWh: '0.2'}]}
priceFloorPerCPUHour: '0.01'
network: {metered: allow}
data: {perMonth: 2Gi, meteredOnly: true}
allowExec: true
when: pluggedIn && chargePercent > 70
",
        );
        assert_eq!(
            said,
            "\
You agree to work of the classes inference, video and render, from 2026-11-01 10:00:00 UTC until 2027-11-01 10:00:00 UTC, or until you take it back.
Before 2026-11-30 23:00:00 UTC there is no work.
There is work only while a charging cable is connected; when it is pulled, work stands still.
Work ends when the charge falls below 62.5 %, and begins at 67.5 % or more; if the charge is not known, there is none.
There is work only from 22:00 to 06:00 of the next day on Mon and Tue and all day on Sun, by the clock of Europe/Berlin.
There is no work from 07:00 to 09:00 and for 24 hours from 12:00 on Sat, by the clock of Europe/Berlin, whatever else is allowed.
All work together has at most 1.5 kWh in a day by the clock of Europe/Berlin, what the car takes to be awake for it included; then it ends, until the next day.
A kilowatt-hour costs you 0.3 EUR, 0.2 from 22:00 to 06:00 of the next day on Mon by the clock of Europe/Berlin.
Work is taken only if it pays at least 0.01 EUR for a core hour after the cost of its energy, and is paid in EUR.
There is work only while this is true, and what it names is known: pluggedIn && chargePercent > 70. Else work stands still.
As soon as somebody comes to the car, work stands still; if the car is not left alone again within 2m, work ends.
All work together gets at most 1.5 processors and 1Gi of memory, and never more than the car gives.
Each Pod reads at most 50Mi a second from a disk, and writes as much.
Work reaches the internet and 192.168.7.0/24 by your network, at port 443, with at most 1Mi a second each way; whoever is reached sees your address.
People of the fleet may run commands in the car's Pods, join their programs and reach their ports, while work runs; you see who, where and what.
Images need no signature: what runs is what those who may give the car work say.
There is work also by a network that costs by the byte.
At most 2Gi are moved by networks that cost by the byte in a month by the clock of Europe/Berlin, both ways together; then work ends, until the next month.
Whatever is written here, there is no work while the car is driven, while somebody is at it, or while it is not known whether that is so; and `kerbside-agent pause` and `kerbside-agent withdraw` act within a second."
        );
    }

    #[test]
    fn what_is_not_written_down_is_explained_too() {
        let said = said(
            "{consent: {givenAt: 2026-11-01T10:00:00Z, classes: []}, requirePluggedIn: false, chargeFloorPercent: 30, chargeResumeMarginPercent: 0, resumeWithin: 0s}",
        );
        for sentence in [
            "You agree to no work at all: the list of classes is empty (2026-11-01 10:00:00 UTC, until you take it back).",
            "There is work with and without a charging cable.",
            "There is work at a charge of 30 % or more; if the charge is not known, there is none.",
            "There may be work at any time of the week.",
            "As soon as somebody comes to the car, work stands still and ends.",
            "All work together gets what the car gives.",
            "Work reaches nothing by your network.",
            "Nobody enters the car's Pods from elsewhere: no commands are run in them, and their ports are not reached.",
            "Images need no signature: what runs is what those who may give the car work say.",
            "By a network that costs by the byte nothing begins and no image is fetched; what runs stands still.",
        ] {
            assert!(said.lines().any(|line| line == sentence), "{sentence}\n\n{said}");
        }
    }
}
