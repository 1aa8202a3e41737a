//! What is read and what is refused; `check` has its own tests for what cancels itself out.

use rstest::rstest;

use super::*;

const WHOLE: &str = "
apiVersion: owner.kerbside.dev/v1alpha1
kind: OwnerPolicy
consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference, video]}
requirePluggedIn: true
chargeFloorPercent: 50
chargeResumeMarginPercent: 10
resumeWithin: 5m
pauseUntil: 2026-11-02T00:00:00+01:00
workHours: [{from: '20:00', to: '08:00', days: [Mon, Sun]}]
quietHours: [{from: '22:00', to: '06:30'}]
timeZone: Europe/Berlin
maxMemory: 1Gi
maxCpu: 1500m
maxDiskBytesPerSecond: 20Mi
egress: {allow: [public, 192.168.7.20], ports: [443], maxBytesPerSecond: 500Ki}
";

fn parse(yaml: &str) -> Result<Document, String> {
    let document: Document = serde_saphyr::from_str(yaml).map_err(|e| e.to_string())?;
    document.check().map_err(|e| e.to_string())
}

#[test]
fn whole_document_is_read() {
    let document = parse(WHOLE).unwrap();
    assert_eq!(document.consent.classes, ["inference", "video"]);
    assert_eq!(document.resume_within, Duration::from_mins(5));
    assert_eq!(document.max_memory, Some("1Gi".parse().unwrap()));
    assert_eq!(document.quiet_hours.len(), 1);
    assert_eq!(document.work_hours.map(|hours| hours.len()), Some(1));
    assert_eq!(document.pause_until, Some("2026-11-01T23:00:00Z".parse().unwrap()));
    assert_eq!(document.max_disk_bytes_per_second, 20 << 20);
    let egress = document.egress.unwrap();
    assert_eq!((egress.allow.len(), egress.max_bytes_per_second), (2, 500 << 10));
}

#[test]
fn shortest_document_gets_the_defaults() {
    let document = parse(
        "{consent: {givenAt: 2026-11-01T10:00:00Z, classes: []}, requirePluggedIn: false, chargeFloorPercent: 30}",
    )
    .unwrap();
    assert_eq!(document.charge_resume_margin_percent.to_bits(), 5.0_f64.to_bits());
    assert_eq!(document.resume_within, Duration::from_mins(2));
    assert_eq!((document.max_cpu, document.consent.expires_at), (None, None));
    assert_eq!(document.max_disk_bytes_per_second, 50 << 20);
    assert_eq!(
        (document.egress, document.work_hours, document.pause_until),
        (None, None, None)
    );
}

#[rstest]
#[case::no_consent(
    "consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference, video]}",
    "",
    "consent"
)]
#[case::no_classes(", classes: [inference, video]", "", "classes")]
#[case::no_plug("requirePluggedIn: true", "", "requirePluggedIn")]
#[case::no_floor("chargeFloorPercent: 50", "", "chargeFloorPercent")]
#[case::no_rate(
    "maxDiskBytesPerSecond: 20Mi",
    "maxDiskBytesPerSecond: 0",
    "at least one byte per second"
)]
#[case::no_reach("allow: [public, 192.168.7.20], ", "", "allow")]
#[case::bad_reach("192.168.7.20]", "192.168.7.20/24]", "192.168.7.0/24")]
#[case::no_egress_rate("maxBytesPerSecond: 500Ki", "maxBytesPerSecond: 0", "at least one byte per second")]
#[case::unknown_egress_field("ports: [443]", "port: 443", "port")]
#[case::unknown_field("maxCpu: 1500m", "maxCpus: 1500m", "maxCpus")]
#[case::unknown_consent_field("classes:", "clases: [a], classes:", "clases")]
#[case::floor_over_100("chargeFloorPercent: 50", "chargeFloorPercent: 150", "0 to 100")]
#[case::bad_duration("resumeWithin: 5m", "resumeWithin: soon", "resumeWithin")]
#[case::bad_time("'22:00'", "'25:00'", "time of day")]
#[case::no_zone("timeZone: Europe/Berlin", "", "workHours needs timeZone")]
#[case::newer_version(
    "owner.kerbside.dev/v1alpha1",
    "owner.kerbside.dev/v1",
    "understands owner.kerbside.dev/v1alpha1 only"
)]
#[case::of_the_cluster(
    "owner.kerbside.dev/v1alpha1",
    "kerbside.dev/v1alpha1",
    "understands owner.kerbside.dev/v1alpha1 only"
)]
#[case::other_kind("kind: OwnerPolicy", "kind: VehiclePool", "understands OwnerPolicy only")]
#[case::version_without_kind("kind: OwnerPolicy", "", "apiVersion and kind belong together")]
#[case::kind_without_version("apiVersion: owner.kerbside.dev/v1alpha1", "", "apiVersion and kind belong together")]
#[case::bad_pause("pauseUntil: 2026-11-02T00:00:00+01:00", "pauseUntil: tomorrow", "pauseUntil")]
#[case::bad_day("[Mon, Sun]", "[Mon, Sunday]", "Sunday")]
#[case::bad_class("[inference, video]", "[Video]", "not a job class")]
#[case::never("expiresAt: 2027-11", "expiresAt: 2025-11", "not after")]
#[case::bad_quantity("maxMemory: 1Gi", "maxMemory: lots", "lots")]
fn document_that_is_wrong_is_refused_with_the_place(#[case] from: &str, #[case] to: &str, #[case] says: &str) {
    assert!(WHOLE.contains(from));
    let message = parse(&WHOLE.replace(from, to)).unwrap_err();
    assert!(message.contains(says), "{message}");
}

#[test]
fn document_of_before_there_were_versions_means_the_same() {
    let old = parse(&WHOLE.replace("apiVersion: owner.kerbside.dev/v1alpha1\nkind: OwnerPolicy\n", "")).unwrap();
    let new = parse(WHOLE).unwrap();
    assert_eq!(
        (old.api_version.as_deref(), new.api_version.as_deref()),
        (None, Some(API_VERSION))
    );
    let versioned = Document {
        api_version: new.api_version.clone(),
        kind: new.kind.clone(),
        ..old
    };
    assert_eq!(versioned, new);
}

/// Half a line must not be read as if its term had been left out.
#[rstest]
#[case("expiresAt: 2027-11-01T10:00:00Z", "expiresAt: null")]
#[case("pauseUntil: 2026-11-02T00:00:00+01:00", "pauseUntil:")]
#[case("workHours: [{from: '20:00', to: '08:00', days: [Mon, Sun]}]", "workHours:")]
#[case("quietHours: [{from: '22:00', to: '06:30'}]", "quietHours:")]
#[case("timeZone: Europe/Berlin", "timeZone:")]
#[case("maxMemory: 1Gi", "maxMemory:")]
#[case("maxCpu: 1500m", "maxCpu:")]
#[case("apiVersion: owner.kerbside.dev/v1alpha1", "apiVersion:")]
#[case("kind: OwnerPolicy", "kind:")]
fn term_without_a_value_is_refused(#[case] from: &str, #[case] to: &str) {
    assert!(WHOLE.contains(from));
    parse(&WHOLE.replace(from, to)).unwrap_err();
}

/// Nothing is what work reaches without it.
#[test]
fn egress_without_a_value_is_none() {
    let (terms, _) = WHOLE.split_once("egress:").unwrap();
    assert_eq!(parse(&format!("{terms}egress:\n")).unwrap().egress, None);
}

#[test]
fn caps_of_the_owner_only_narrow_what_the_car_gives() {
    let gives = |cpu: i64, memory: i64| {
        let gives = [
            ("cpu", Quantity::from_millis(cpu)),
            ("memory", Quantity::from_bytes(memory)),
            ("pods", Quantity::from_units(8)),
        ];
        Resources(gives.map(|(name, amount)| (name.to_owned(), amount)).into())
    };
    let document = parse(WHOLE).unwrap();
    assert_eq!(document.narrowed(gives(4000, 4 << 30)), gives(1500, 1 << 30));
    assert_eq!(document.narrowed(gives(500, 1)), gives(500, 1));
}

#[test]
fn terms_end_with_the_hours_in_which_it_may_work_or_the_consent() {
    let mut document = parse(WHOLE).unwrap();
    let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let ends = |document: &Document, now: &str| document.ends(at(now), &zone);
    // Of a Saturday. It works on Mondays and Sundays from 20:00 until the quiet hours, and from their end at 06:30 to 08:00.
    assert_eq!(
        ends(&document, "2026-11-28T12:00:00Z"),
        Some(at("2026-11-29T21:00:00Z"))
    );
    assert_eq!(
        ends(&document, "2026-11-29T21:30:00Z"),
        Some(at("2026-11-30T07:00:00Z"))
    );
    document.work_hours = None;
    let night = Some(at("2026-11-28T21:00:00Z"));
    assert_eq!(ends(&document, "2026-11-28T12:00:00Z"), night);
    assert_eq!(ends(&document, "2026-11-28T03:00:00Z"), night, "in them, the next ones");
    assert_eq!(
        ends(&document, "2026-11-28T22:00:00Z"),
        Some(at("2026-11-29T21:00:00Z"))
    );
    assert_eq!(ends(&document, "2027-11-01T09:00:00Z"), document.consent.expires_at);
    document.quiet_hours.clear();
    assert_eq!(ends(&document, "2026-11-28T12:00:00Z"), document.consent.expires_at);
    document.consent.expires_at = None;
    assert_eq!(ends(&document, "2026-11-28T12:00:00Z"), None);
}
