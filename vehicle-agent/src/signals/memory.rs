//! Whether the car's computer is short of memory: the agent's own eye, beside the car's signals.
//!
//! Wrapped around the source of signals, so that the policy loop has one to listen to. The kernel tells for how much of the last ten
//! seconds all of its programs stood still for want of memory; above the maker's limit the car's own programs suffer, and work ends. A
//! kernel that does not tell says nothing, like a car without the signal. What must never happen: an eye that went blind and counts as
//! one that sees nothing; what it said grows old like any signal.

use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::parked::Value;
use kerbside_core::parked::signals::path;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Signals, Update};

/// Pressure stall information, of the whole computer.
const PRESSURE: &str = "/proc/pressure/memory";
/// The kernel makes a new average every two seconds. Well below the least age at which a signal may count as old.
const EVERY: Duration = Duration::from_secs(1);

/// The source of a car's signals, and the eye.
pub struct WithMemory {
    car: Box<dyn Signals>,
    eye: Eye,
    looks: Interval,
}

impl WithMemory {
    /// Looks from now on. Memory is short above so many percent.
    pub fn new(car: Box<dyn Signals>, full_percent_max: f64) -> Self {
        Self::at(car, Eye::new(PathBuf::from(PRESSURE), full_percent_max))
    }

    fn at(car: Box<dyn Signals>, eye: Eye) -> Self {
        let mut looks = interval(EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { car, eye, looks }
    }
}

impl Signals for WithMemory {
    fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
        async move {
            loop {
                tokio::select! {
                    biased;
                    update = self.car.next() => {
                        let mut update = update?;
                        // Of one moment, so that after a standstill of this process neither is judged without the other.
                        if update.at.is_none() {
                            update.set.extend(self.eye.look());
                        }
                        return Some(update);
                    }
                    _ = self.looks.tick() => {
                        if let Some(seen) = self.eye.look() {
                            return Some(Update { set: vec![seen], ..Update::default() });
                        }
                    }
                }
            }
        }
        .boxed()
    }
}

/// What looks.
#[derive(Debug)]
struct Eye {
    file: PathBuf,
    full_percent_max: f64,
    /// It has been said that it sees nothing.
    blind: bool,
}

impl Eye {
    fn new(file: PathBuf, full_percent_max: f64) -> Self {
        Self {
            file,
            full_percent_max,
            blind: false,
        }
    }

    /// Whether memory is short, as a signal; `None` if the kernel does not tell.
    fn look(&mut self) -> Option<(String, Value)> {
        // A few bytes that the kernel makes up: no disk is waited for.
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let full = full_percent(&text);
        if full.is_none() && !self.blind {
            tracing::warn!(file = %self.file.display(), "the kernel does not tell when memory is short");
        }
        self.blind = full.is_none();
        let short = Value::Bool(full? > self.full_percent_max);
        Some((path::MEMORY_SHORT.to_owned(), short))
    }
}

/// For how much of the last ten seconds everything stood still, in percent: `full avg10`.
fn full_percent(text: &str) -> Option<f64> {
    let full = text.lines().find_map(|line| line.strip_prefix("full "))?;
    let percent = full.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
    let percent: f64 = percent.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kerbside_core::clock::Boottime;
    use tokio::sync::mpsc;

    use super::*;

    fn pressure(some: &str, full: &str) -> String {
        format!(
            "some avg10={some} avg60=0.00 avg300=0.00 total=73848\nfull avg10={full} avg60=0.00 avg300=0.00 total=7523\n"
        )
    }

    fn seen(short: bool) -> (String, Value) {
        (path::MEMORY_SHORT.to_owned(), Value::Bool(short))
    }

    fn eye(directory: &Path) -> Eye {
        Eye::new(directory.join("memory"), 10.0)
    }

    #[test]
    fn full_average_of_ten_seconds_is_read_and_nothing_else() {
        for (text, percent) in [
            (pressure("0.00", "0.00"), Some(0.0)),
            (pressure("99.00", "12.34"), Some(12.34)),
            (pressure("0.00", "100.00"), Some(100.0)),
            (pressure("0.00", "NaN"), None),
            (pressure("0.00", "-1.00"), None),
            (pressure("0.00", ""), None),
            ("some avg10=50.00 avg60=0.00 avg300=0.00 total=1\n".to_owned(), None),
            ("full avg60=50.00 avg10=3.00\n".to_owned(), Some(3.0)),
            (String::new(), None),
        ] {
            let percent: Option<f64> = percent;
            assert_eq!(
                full_percent(&text).map(f64::to_bits),
                percent.map(f64::to_bits),
                "{text}"
            );
        }
    }

    #[test]
    fn memory_is_short_above_the_limit_and_unknown_if_the_kernel_does_not_tell() {
        let temp = tempfile::tempdir().unwrap();
        let mut eye = eye(temp.path());
        assert_eq!((eye.look(), eye.blind), (None, true));
        for (some, full, short) in [
            ("0.00", "0.00", false),
            ("90.00", "10.00", false),
            ("90.00", "10.01", true),
        ] {
            std::fs::write(&eye.file, pressure(some, full)).unwrap();
            assert_eq!((eye.look(), eye.blind), (Some(seen(short)), false), "{full}");
        }
        std::fs::write(&eye.file, "").unwrap();
        assert_eq!((eye.look(), eye.blind), (None, true));
    }

    struct Fed(mpsc::UnboundedReceiver<Update>);

    impl Signals for Fed {
        fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
            self.0.recv().boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn eye_looks_each_second_beside_a_car_that_is_heard() {
        let temp = tempfile::tempdir().unwrap();
        let eye = eye(temp.path());
        std::fs::write(&eye.file, pressure("80.00", "80.00")).unwrap();
        let (says, said) = mpsc::unbounded_channel();
        let mut source = WithMemory::at(Box::new(Fed(said)), eye);
        let short = Update {
            set: vec![seen(true)],
            ..Update::default()
        };
        assert_eq!(source.next().await, Some(short.clone()), "at once");
        let (then, now) = (
            Update {
                at: Some(Boottime::default()),
                ..Update::default()
            },
            Update::default(),
        );
        for update in [&then, &now] {
            says.send(update.clone()).unwrap();
        }
        assert_eq!(source.next().await, Some(then));
        assert_eq!(
            source.next().await,
            Some(short.clone()),
            "together with what is said now"
        );
        let before = tokio::time::Instant::now();
        assert_eq!(source.next().await, Some(short));
        assert!((EVERY..EVERY * 2).contains(&before.elapsed()));
        drop(says);
        assert_eq!(source.next().await, None, "with the car's signals all ends");
    }

    #[tokio::test(start_paused = true)]
    async fn blind_eye_says_nothing_and_holds_nothing_up() {
        let temp = tempfile::tempdir().unwrap();
        let (says, said) = mpsc::unbounded_channel();
        let mut source = WithMemory::at(Box::new(Fed(said)), eye(temp.path()));
        let waited = tokio::time::timeout(Duration::from_mins(1), source.next()).await;
        assert!(waited.is_err());
        says.send(Update::default()).unwrap();
        assert_eq!(source.next().await, Some(Update::default()));
    }
}
