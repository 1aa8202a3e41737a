//! What an owner's document can never mean, and what it probably does not.
//!
//! The first is refused when the document is read: terms that cancel each other out are a mistake, and an owner who wants no work has
//! plainer words for it. The second is said by `kerbside-agent policy check`, and the document holds all the same.

use jiff::civil::{DateTime, date};

use super::{Document, Hours, Publisher, publisher};

/// A document that says something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// What there is of its version says nothing without the rest.
    #[error("apiVersion and kind belong together: say both, or neither as in a document of before there were versions")]
    HalfAVersion,
    /// What is missing might have said less.
    #[error(
        "apiVersion is not its first line, or `...` not its last: so a document that was cut off is told from one that leaves terms out"
    )]
    CutOff,
    /// What is left over cannot be reckoned.
    #[error("priceFloorPerCPUHour needs tariff: what is left after the cost of energy cannot be known without")]
    FloorWithoutTariff,
    /// Hours mean nothing without a time zone.
    #[error("{0} needs timeZone, such as Europe/Berlin")]
    TimeZoneMissing(&'static str),
    /// A class that no job can have.
    #[error(
        "consent.classes: '{0}' is not a job class: it has 1 to 63 characters of a-z, 0-9 and '-' and starts and ends with a letter or digit"
    )]
    Class(String),
    /// The consent would never hold.
    #[error("consent.expiresAt is not after consent.givenAt")]
    NeverHolds,
    /// The consent ends first.
    #[error("pauseUntil is not before consent.expiresAt: the consent would end before any work could begin")]
    PausedToTheEnd,
    /// Work that may have nothing cannot be.
    #[error(
        "{0} must be more than nothing: leave it out to give what the car gives, or empty consent.classes to accept no work"
    )]
    NothingGiven(&'static str),
    /// No time is within no hours.
    #[error(
        "workHours is empty, so that no time is within it: leave it out to allow work at any time, or empty consent.classes to accept none"
    )]
    NoWorkHours,
    /// No window begins on no day.
    #[error("{field}[{index}].days is empty: leave it out to mean every day")]
    NoDays {
        /// Of the document.
        field: &'static str,
        /// Counted from 0.
        index: usize,
    },
    /// No car is ever so.
    #[error("when is never true, whatever the car knows: leave it out, or empty consent.classes to accept no work")]
    NeverTrue,
    /// Nothing is left of the week.
    #[error("quietHours cover the whole week, so that no time is left for work")]
    AlwaysQuiet,
    /// An owner who trusts nobody has plainer words for it.
    #[error(
        "publishers is empty, so that no signature would count: leave it out to take images without one, or empty consent.classes to accept no work"
    )]
    NoPublishers,
    /// Each is tried for every signature.
    #[error("publishers has {0} entries: at most {most} are taken", most = publisher::MOST)]
    TooManyPublishers(usize),
    /// A refusal names them.
    #[error("publishers: two are called '{0}'")]
    PublisherTwice(String),
    /// Nothing is left of the hours of work.
    #[error("quietHours cover all of workHours, so that no time is left for work")]
    WorkAlwaysQuiet,
}

/// Why there could never be work by this document, whatever happens; `None` if there could. A list of classes that is empty is a way to
/// say no, and not meant here.
pub(super) fn never(document: &Document) -> Option<DocumentError> {
    let Document { consent, .. } = document;
    if consent.expires_at.is_some_and(|expires| expires <= consent.given_at) {
        return Some(DocumentError::NeverHolds);
    }
    if let (Some(paused), Some(expires)) = (document.pause_until, consent.expires_at)
        && paused >= expires
    {
        return Some(DocumentError::PausedToTheEnd);
    }
    for (field, most) in [
        ("maxCpu", document.max_cpu),
        ("maxMemory", document.max_memory),
        ("maxKWhPerDay", document.max_kwh_per_day),
    ] {
        if most.is_some_and(|most| most.nanos() <= 0) {
            return Some(DocumentError::NothingGiven(field));
        }
    }
    if let Some(error) = document.publishers.as_deref().and_then(wrong_publishers) {
        return Some(error);
    }
    let work = document.work_hours.as_deref();
    for (field, windows) in [
        ("workHours", work.unwrap_or_default()),
        ("quietHours", &document.quiet_hours),
    ] {
        if let Some(index) = windows
            .iter()
            .position(|window| window.days.as_ref().is_some_and(Vec::is_empty))
        {
            return Some(DocumentError::NoDays { field, index });
        }
    }
    let priced = document.tariff.iter().flat_map(|tariff| &tariff.windows);
    let mut priced = priced.map(|window| &window.hours);
    if let Some(index) = priced.position(|hours| hours.days.as_ref().is_some_and(Vec::is_empty)) {
        let field = "tariff.windows";
        return Some(DocumentError::NoDays { field, index });
    }
    if work.is_some_and(<[Hours]>::is_empty) {
        return Some(DocumentError::NoWorkHours);
    }
    if document
        .when
        .as_ref()
        .is_some_and(|when| when.is_never(&consent.classes))
    {
        return Some(DocumentError::NeverTrue);
    }
    if !document.has_hours() || week().any(|minute| document.hours(minute).is_ok()) {
        return None;
    }
    let quiet = |minute| document.quiet_hours.iter().any(|hours| hours.contain(minute));
    Some(if week().all(quiet) {
        DocumentError::AlwaysQuiet
    } else {
        DocumentError::WorkAlwaysQuiet
    })
}

/// What a list of publishers cannot be.
fn wrong_publishers(publishers: &[Publisher]) -> Option<DocumentError> {
    if publishers.is_empty() {
        return Some(DocumentError::NoPublishers);
    }
    if publishers.len() > publisher::MOST {
        return Some(DocumentError::TooManyPublishers(publishers.len()));
    }
    let mut names = std::collections::BTreeSet::new();
    let twice = publishers.iter().find(|publisher| !names.insert(&publisher.name))?;
    Some(DocumentError::PublisherTwice(twice.name.clone()))
}

/// Every minute of a week: hours begin and end with a minute, so that nothing is between two.
fn week() -> impl Iterator<Item = DateTime> {
    // From a Monday on; which one does not matter, for no zone is asked.
    (2..9).flat_map(|day| {
        (0..24).flat_map(move |hour| (0..60).map(move |minute| date(2026, 11, day).at(hour, minute, 0, 0)))
    })
}

/// What the owner may not have meant, a sentence each; nothing of it makes the document less valid.
pub fn doubts(document: &Document, now: jiff::Timestamp) -> Vec<String> {
    let mut doubts = Vec::new();
    let mut say = |is_so: bool, sentence: &str| {
        if is_so {
            doubts.push(sentence.to_owned());
        }
    };
    let consent = &document.consent;
    say(
        document.api_version.is_none(),
        "apiVersion and kind are missing: the document is read as one of before there were versions, and if it is cut off nobody will know",
    );
    say(
        consent.classes.is_empty(),
        "consent.classes is empty: the car accepts no work at all",
    );
    say(
        consent.expires_at.is_some_and(|expires| expires <= now),
        "consent.expiresAt has passed: the car accepts no work any more",
    );
    say(
        consent.given_at > now,
        "consent.givenAt is in the future: the car accepts no work before",
    );
    say(
        document.pause_until.is_some_and(|until| until > now),
        "pauseUntil is in the future: the car does not work before",
    );
    say(
        document.time_zone.is_some() && !document.needs_zone() && document.data.is_none(),
        "timeZone is not needed: there are no hours, nor energy by the day, nor data by the month",
    );
    say(
        document.charge_floor_percent + document.charge_resume_margin_percent > 100.0,
        "chargeFloorPercent and chargeResumeMarginPercent are more than 100 together: work starts only with a full battery",
    );
    say(
        document.egress.as_ref().is_some_and(super::Egress::is_nothing),
        "egress allows nothing: no address, or no port",
    );
    let metered_only = document.data.is_some_and(|data| data.metered_only);
    say(
        metered_only && document.network.metered == super::Metered::Never,
        "data.meteredOnly bounds what goes by networks that cost by the byte, and network.metered lets no work go by them",
    );
    say(
        document.network.metered == super::Metered::Allow && document.data.is_none(),
        "network.metered allows networks that cost by the byte, and without data.perMonth nothing bounds what that costs",
    );
    for (index, window) in document.work_hours.iter().flatten().enumerate() {
        if !week().any(|minute| window.contain(minute) && document.hours(minute).is_ok()) {
            doubts.push(format!("workHours[{index}] lies within quietHours, which win"));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HEAD: &str = "
apiVersion: owner.kerbside.dev/v1alpha1
kind: OwnerPolicy
requirePluggedIn: true
timeZone: Europe/Berlin
";
    const CONSENT: &str =
        "consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference]}\n";

    /// An Ed25519 key as one line of YAML.
    const KEY: &str = "'-----BEGIN PUBLIC KEY----- MCowBQYDK2VwAyEAAPmqlBS8i3zkkyVyFQNoZJd1pWcFzW83r5vLsXzH6sM= -----END PUBLIC KEY-----'";

    fn read(terms: &str) -> Result<Document, String> {
        let terms = &terms.replace("KEY", KEY);
        let consent = if terms.contains("consent:") { "" } else { CONSENT };
        let charge = if terms.contains("chargeFloorPercent") {
            ""
        } else {
            "chargeFloorPercent: 50\n"
        };
        let text = format!("{HEAD}{consent}{charge}{terms}\n");
        let document: Document = serde_saphyr::from_str(&text).map_err(|e| e.to_string())?;
        document.check().map_err(|e| e.to_string())
    }

    #[rstest]
    #[case::day_and_night(
        "quietHours: [{from: '06:00', to: '20:00'}, {from: '20:00', to: '06:00'}]",
        "cover the whole week"
    )]
    #[case::all_day("quietHours: [{from: '07:00', to: '07:00'}]", "cover the whole week")]
    #[case::day_by_day(
        "quietHours: [{from: '00:00', to: '00:00', days: [Mon, Tue, Wed, Thu, Fri]}, {from: '00:00', to: '00:00', days: [Sat, Sun]}]",
        "cover the whole week"
    )]
    #[case::work_within_quiet(
        "workHours: [{from: '22:00', to: '06:00'}]\nquietHours: [{from: '21:00', to: '07:00'}]",
        "cover all of workHours"
    )]
    #[case::work_within_quiet_days(
        "workHours: [{from: '22:00', to: '06:00', days: [Fri]}]\nquietHours: [{from: '00:00', to: '00:00', days: [Fri, Sat]}]",
        "cover all of workHours"
    )]
    #[case::no_work_hours("workHours: []", "workHours is empty")]
    #[case::no_days(
        "workHours: [{from: '22:00', to: '06:00'}, {from: '12:00', to: '13:00', days: []}]",
        "workHours[1].days"
    )]
    #[case::no_quiet_days("quietHours: [{from: '22:00', to: '06:00', days: []}]", "quietHours[0].days")]
    #[case::paused_to_the_end("pauseUntil: 2027-11-01T10:00:00Z", "pauseUntil is not before")]
    #[case::no_energy("maxKWhPerDay: 0", "maxKWhPerDay")]
    #[case::no_data("data: {perMonth: 0}", "at least one byte")]
    #[case::never_true("when: chargePercent > 100", "when is never true")]
    #[case::not_for_the_classes("when: class == 'video'", "when is never true")]
    #[case::no_expression("when: pluggedIn &&", "when: line 1")]
    #[case::no_such_word("network: {metered: sometimes}", "sometimes")]
    #[case::floor_without_tariff("priceFloorPerCPUHour: '2'", "needs tariff")]
    #[case::no_days_of_a_price(
        "tariff: {currency: EUR, perKWh: '1', windows: [{from: '22:00', to: '06:00', days: [], perKWh: '1'}]}",
        "tariff.windows[0].days"
    )]
    #[case::no_currency("tariff: {currency: Euro, perKWh: '1'}", "not a currency")]
    #[case::no_price("tariff: {currency: EUR, perKWh: cheap}", "not a price")]
    #[case::nobody("publishers: []", "publishers is empty")]
    #[case::publisher_twice(
        "publishers: [{name: a, publicKey: KEY}, {name: a, publicKey: KEY}]",
        "two are called 'a'"
    )]
    #[case::too_many_publishers(
        "publishers: [{name: a, publicKey: KEY}, {name: b, publicKey: KEY}, {name: c, publicKey: KEY}, {name: d, publicKey: KEY}, {name: e, publicKey: KEY}, {name: f, publicKey: KEY}, {name: g, publicKey: KEY}, {name: h, publicKey: KEY}, {name: i, publicKey: KEY}, {name: j, publicKey: KEY}, {name: k, publicKey: KEY}, {name: l, publicKey: KEY}, {name: m, publicKey: KEY}, {name: n, publicKey: KEY}, {name: o, publicKey: KEY}, {name: p, publicKey: KEY}, {name: q, publicKey: KEY}]",
        "has 17 entries: at most 16"
    )]
    #[case::key_of_no_kind("publishers: [{name: a, publicKey: cosign.pub}]", "no public key")]
    #[case::publishers_without_a_value("publishers:", "publishers")]
    #[case::no_cpu("maxCpu: 0", "maxCpu")]
    #[case::less_than_no_memory("maxMemory: -1Mi", "maxMemory")]
    #[case::expired(
        "consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2026-11-01T10:00:00Z, classes: []}",
        "expiresAt"
    )]
    fn document_that_can_never_be_is_refused_with_the_reason(#[case] terms: &str, #[case] says: &str) {
        let message = read(terms).unwrap_err();
        assert!(message.contains(says), "{message}");
    }

    #[rstest]
    #[case::one_minute_left("quietHours: [{from: '00:00', to: '23:59'}]")]
    #[case::one_minute_a_week(
        "workHours: [{from: '22:00', to: '06:00', days: [Fri]}]\nquietHours: [{from: '22:00', to: '05:59'}]"
    )]
    #[case::full_battery_and_a_margin("chargeFloorPercent: 100\nchargeResumeMarginPercent: 100")]
    #[case::paused_for_a_while("pauseUntil: 2027-11-01T09:59:59Z")]
    #[case::no_classes("consent: {givenAt: 2026-11-01T10:00:00Z, classes: []}")]
    #[case::little("maxCpu: 1m\nmaxMemory: 1")]
    #[case::expression("when: chargePercent > 99 && (pluggedIn || hour in [3, 4])")]
    #[case::little_energy("maxKWhPerDay: 1m")]
    #[case::energy_for_nothing("tariff: {currency: EUR, perKWh: '0'}\npriceFloorPerCPUHour: '0'")]
    #[case::no_quiet_hours("quietHours: []")]
    #[case::a_publisher("publishers: [{name: a, publicKey: KEY}]")]
    #[case::nothing_waits("resumeWithin: 0s")]
    fn document_that_could_be_is_accepted(#[case] terms: &str) {
        read(terms).unwrap();
    }

    #[test]
    fn what_an_owner_may_not_have_meant_is_said() {
        let now = "2026-12-01T10:00:00Z".parse().unwrap();
        let of = |terms: &str| doubts(&read(terms).unwrap(), now);
        let hours = "quietHours: [{from: '07:00', to: '09:00'}]";
        assert_eq!(of(hours), Vec::<String>::new());
        for (terms, says) in [
            (
                "consent: {givenAt: 2026-11-01T10:00:00Z, classes: []}",
                "accepts no work at all",
            ),
            (
                "consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2026-11-30T10:00:00Z, classes: []}",
                "expiresAt has passed",
            ),
            (
                "consent: {givenAt: 2026-12-02T10:00:00Z, classes: []}",
                "givenAt is in the future",
            ),
            ("pauseUntil: 2026-12-02T10:00:00Z", "pauseUntil"),
            ("maxCpu: 1", "timeZone is not needed"),
            ("chargeFloorPercent: 98", "full battery"),
            ("egress: {allow: []}", "egress allows nothing"),
            ("network: {metered: allow}", "nothing bounds what that costs"),
            ("data: {perMonth: 1Gi, meteredOnly: true}", "lets no work go by them"),
            (
                "workHours: [{from: '12:00', to: '13:00'}, {from: '07:30', to: '08:30'}]\nquietHours: [{from: '07:00', to: '09:00'}]",
                "workHours[1] lies within quietHours",
            ),
        ] {
            let said = of(terms);
            assert!(said.iter().any(|doubt| doubt.contains(says)), "{terms}: {said:?}");
        }
        let old = read(hours).map(|document| Document {
            api_version: None,
            kind: None,
            ..document
        });
        assert_eq!(doubts(&old.unwrap(), now).len(), 1);
    }
}
