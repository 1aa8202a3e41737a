//! The meter with the files that it reads and writes.

use jiff::civil::date;
use kerbside_core::energy::MARGIN;
use tokio::time::sleep;

use super::rapl::tests::zone;
use super::*;
use crate::testing::{ManualClock, TokioClock};

const MODEL: &str = "{model: {wakeWatts: 100, wattsPerCore: 10}, rapl: {idleWatts: 20}, broker: {idleWatts: 60}}";

struct Fixture {
    temp: tempfile::TempDir,
    energy: Energy,
}

impl Fixture {
    fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), MODEL)
    }

    fn with(temp: tempfile::TempDir, config: &str) -> Self {
        let config: EnergyConfig = serde_saphyr::from_str(config).unwrap();
        let (powercap, stat) = (temp.path().join("powercap"), temp.path().join("stat"));
        let file = temp.path().join("energy.json");
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        let energy = Energy::open_at(config, file, clock, &powercap, &stat);
        energy.look(seen(None));
        Self { temp, energy }
    }

    fn file(&self) -> PathBuf {
        self.temp.path().join("energy.json")
    }

    /// So many seconds go by, and the policy loop looks in each.
    async fn pass(&self, seconds: u64, watts: Option<f64>) {
        for _ in 0..seconds {
            sleep(Duration::from_secs(1)).await;
            self.energy.look(seen(watts));
        }
    }

    /// What was to be written is on the disk.
    async fn written(&self) {
        while self.energy.inner.as_ref().unwrap().state().writing {
            tokio::task::yield_now().await;
        }
    }
}

fn seen(watts: Option<f64>) -> Seen {
    Seen {
        watts,
        date: Some(date(2026, 11, 22)),
        price: "0.3".parse().unwrap(),
        ..Seen::default()
    }
}

fn uid() -> PodUid {
    "u-1".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn attempt_in_a_car_without_instruments_has_what_the_figures_say() {
    let fixture = Fixture::new();
    fixture.energy.hear(&uid(), 0, true);
    fixture.pass(30, None).await;
    fixture.energy.hear(&uid(), 20_000, false);
    let had = fixture.energy.of(&uid()).unwrap();
    assert!((3200..=3210).contains(&had.joules), "{had:?}");
    assert_eq!((had.method.as_str(), had.error_permille), ("model", Some(300)));
    assert_eq!(fixture.energy.source(), Some(Source::Model));
    let today = fixture.energy.today().unwrap();
    assert_eq!(today.microjoules / 1_000_000, had.joules);
    // 0.3 for a kilowatt-hour: 3200 of 3,600,000 J, in billionths and rounded down with each division.
    assert!((266_660..=267_500).contains(&today.cost_nanos), "{today:?}");
    fixture.energy.forget(&uid());
    assert_eq!(fixture.energy.of(&uid()), None);
}

#[tokio::test(start_paused = true)]
async fn power_that_the_car_says_goes_before_the_counters_and_these_before_the_figures() {
    let fixture = Fixture::new();
    let root = fixture.temp.path().join("powercap");
    zone(&root, "intel-rapl:0", "package-0", 1_000_000);
    let fixture = Fixture::with(fixture.temp, MODEL);
    fixture.energy.hear(&uid(), 0, true);
    for second in 1..=10 {
        zone(&root, "intel-rapl:0", "package-0", 1_000_000 + second * 30_000_000);
        fixture.pass(1, None).await;
    }
    assert_eq!(fixture.energy.source(), Some(Source::Rapl));
    fixture.pass(10, Some(70.0)).await;
    assert_eq!(fixture.energy.source(), Some(Source::Broker));
    fixture.energy.hear(&uid(), 10_000, false);
    let had = fixture.energy.of(&uid()).unwrap();
    assert_eq!(had.method, "broker+rapl+model");
    fixture.written().await;
}

#[tokio::test(start_paused = true)]
async fn counters_that_go_are_not_missed_but_in_the_error() {
    let fixture = Fixture::new();
    let root = fixture.temp.path().join("powercap");
    zone(&root, "intel-rapl:0", "package-0", 0);
    let fixture = Fixture::with(fixture.temp, MODEL);
    fixture.energy.hear(&uid(), 0, true);
    zone(&root, "intel-rapl:0", "package-0", 300_000_000);
    fixture.pass(10, None).await;
    let before = fixture.energy.of(&uid()).unwrap().error_permille.unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    fixture.pass(20, None).await;
    let after = fixture.energy.of(&uid()).unwrap().error_permille.unwrap();
    assert!(before < after && after <= 300, "{before} {after}");
    assert_eq!(fixture.energy.source(), Some(Source::Model));
}

/// Many actors are heard in turn, so that no second is without one.
#[tokio::test(start_paused = true)]
async fn attempts_that_are_heard_often_do_not_keep_the_day_from_being_counted() {
    let fixture = Fixture::new();
    fixture.energy.hear(&uid(), 0, true);
    for _ in 0..120 {
        sleep(Duration::from_millis(500)).await;
        fixture.energy.hear(&uid(), 0, true);
        sleep(Duration::from_millis(500)).await;
        fixture.energy.look(seen(None));
    }
    let joules = fixture.energy.of(&uid()).unwrap().joules;
    assert!((11_000..=12_100).contains(&joules), "{joules}");
    fixture.written().await;
}

#[tokio::test(start_paused = true)]
async fn counters_that_go_leave_the_programs_of_the_car_their_part() {
    let fixture = Fixture::new();
    let root = fixture.temp.path().join("powercap");
    let stat = fixture.temp.path().join("stat");
    zone(&root, "intel-rapl:0", "package-0", 0);
    std::fs::write(&stat, "cpu 0 0 0 0 0\n").unwrap();
    let fixture = Fixture::with(fixture.temp, MODEL);
    fixture.energy.hear(&uid(), 0, true);
    // 100 W beyond what it shows when idle, and a tenth of the processor time is the attempt's.
    for second in 1..=9 {
        zone(&root, "intel-rapl:0", "package-0", second * 120_000_000);
        fixture.pass(1, None).await;
    }
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::write(&stat, "cpu 1000 0 0 0 0\n").unwrap();
    fixture.energy.hear(&uid(), 1000, true);
    fixture.pass(1, None).await;
    // A thousand joules to be awake, 90 of what was measured, and one by the figures.
    let joules = fixture.energy.of(&uid()).unwrap().joules;
    assert!((1085..=1095).contains(&joules), "{joules}");
}

#[test]
fn energy_beyond_what_the_ledger_believes_is_drawn_but_not_paid() {
    let config = "{model: {wakeWatts: 400, wattsPerCore: 10}}";
    let temp = tempfile::tempdir().unwrap();
    let config: EnergyConfig = serde_saphyr::from_str(config).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock);
    let energy = Energy::open_at(config, temp.path().join("energy.json"), clock, temp.path(), temp.path());
    let draw = energy.draw(1000).unwrap();
    assert_eq!((draw.per_core_milliwatts, draw.paid_milliwatts), (410_000, 350_000));
    let draw = energy.draw(4000).unwrap();
    assert_eq!((draw.per_core_milliwatts, draw.paid_milliwatts), (110_000, 110_000));
}

#[tokio::test(start_paused = true)]
async fn day_goes_on_after_a_restart_and_never_with_less() {
    let fixture = Fixture::new();
    fixture.energy.hear(&uid(), 0, true);
    fixture.pass(900, None).await;
    fixture.written().await;
    let had = fixture.energy.today().unwrap();
    assert!(!had.lost && had.microjoules >= 89_000_000_000, "{had:?}");
    // Its power was cut.
    let file = std::fs::read(fixture.file()).unwrap();
    let cut = Fixture::with(fixture.temp, MODEL);
    let after = cut.energy.today().unwrap().microjoules;
    assert!((had.microjoules..=had.microjoules + MARGIN).contains(&after), "{after}");
    std::fs::write(cut.file(), &file[..file.len() - 3]).unwrap();
    let torn = Fixture::with(cut.temp, MODEL);
    assert!(torn.energy.today().unwrap().up(u64::MAX));
}

#[tokio::test(start_paused = true)]
async fn day_of_an_agent_that_ends_in_order_is_written_exactly() {
    let fixture = Fixture::new();
    fixture.energy.hear(&uid(), 0, true);
    fixture.pass(20, None).await;
    fixture.written().await;
    fixture.energy.close();
    let had = fixture.energy.today();
    let again = Fixture::with(fixture.temp, MODEL);
    assert_eq!(again.energy.today(), had);
    assert!(had.unwrap().microjoules >= 1_000_000_000);
}

/// Somebody's pipe lies where the new file is to be written: who opens it waits until somebody reads.
#[tokio::test]
async fn end_does_not_write_beside_a_write_that_hangs_and_waits_for_one_that_is_slow() {
    let fixture = Fixture::new();
    let pipe = directory::new_of(&fixture.file());
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let writing = || fixture.energy.inner.as_ref().unwrap().state().writing;
    fixture.energy.inner.as_ref().unwrap().state().today.spend(1000, 0);
    fixture.energy.look(seen(None));
    assert!(writing());
    fixture.energy.close();
    assert!(writing(), "it is left to hang");
    // A pipe cannot be synced, so this one fails, and the last count is written in a file.
    let reader = std::fs::File::open(&pipe).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    fixture.energy.close();
    drop(reader);
    let again = Fixture::with(fixture.temp, MODEL);
    assert_eq!(again.energy.today().unwrap().microjoules, 1000);
}

#[tokio::test(start_paused = true)]
async fn disk_that_takes_nothing_ends_the_day() {
    let temp = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(temp, MODEL);
    // Nobody can write a file where a directory is.
    std::fs::create_dir(fixture.file().with_extension("new")).unwrap();
    fixture.energy.hear(&uid(), 0, true);
    fixture.pass(370, None).await;
    fixture.written().await;
    assert!(fixture.energy.today().unwrap().up(u64::MAX));
}

#[tokio::test(start_paused = true)]
async fn idle_car_is_not_looked_at_and_one_without_figures_has_no_meter() {
    let fixture = Fixture::new();
    fixture.pass(100, Some(60.0)).await;
    assert_eq!(fixture.energy.today(), Some(Used::default()));
    assert!(!fixture.file().exists());
    let none = Energy::default();
    none.look(seen(None));
    none.hear(&uid(), 5, true);
    assert_eq!((none.of(&uid()), none.today(), none.draw(1000)), (None, None, None));
}

#[tokio::test(start_paused = true)]
async fn one_more_attempt_shares_what_the_car_takes_to_be_awake() {
    let fixture = Fixture::new();
    let draw = |milli_cpu| fixture.energy.draw(milli_cpu).unwrap().per_core_milliwatts;
    assert_eq!(draw(1000), 110_000);
    fixture.energy.hear(&uid(), 0, true);
    assert_eq!((draw(1000), draw(500)), (60_000, 110_000));
}

#[test]
fn watts_of_a_signal_are_a_power_or_nothing() {
    let said = [0.0, 1.5, 55.0004, -1.0, f64::NAN, f64::INFINITY, 1e300].map(milliwatts);
    assert_eq!(said, [Some(0), Some(1500), Some(55_000), None, None, None, None]);
}
