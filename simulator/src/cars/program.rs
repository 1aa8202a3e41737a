//! Programs that only let time pass: what runs in simulated cars.
//!
//! Given to the agent as its runtime, one per boot of a car. A program works as long as its environment says, in the time of the traces,
//! and then leaves one file; the time in which it is frozen, or the car's brake is on, is not work. What must never happen: work that
//! [`Truth`] does not know of.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_vehicle_agent::runtime::{Ending, Process, Program, Running, Runtime, Spec, Usage};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use super::truth::{Happened, Truth};
use crate::pace::Pace;

/// How long the program works, in the time of the traces, such as `10m`. Without it, until it is ended.
pub const WORK: &str = "SIMULATED_WORK";
/// The file that it leaves: a path as the program sees it. Its content is one line, `index N`.
pub const OUTPUT: &str = "SIMULATED_OUTPUT";
/// Which part of a job it is.
const INDEX: &str = "JOB_COMPLETION_INDEX";

const KILLED: i32 = 137;
/// As of a shell that was called wrongly.
const MISUSED: i32 = 2;

/// The runtime of one car.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The car's number in the lot.
    pub car: u32,
    /// Where it is written down.
    pub truth: Truth,
    /// How fast the time of the traces runs.
    pub pace: Pace,
    /// True: nothing may work.
    pub braked: watch::Receiver<bool>,
}

impl Runtime for Programs {
    fn load(&self, _module: PathBuf) -> BoxFuture<'static, Result<Arc<dyn Program>, String>> {
        let program: Arc<dyn Program> = Arc::new(self.clone());
        std::future::ready(Ok(program)).boxed()
    }
}

impl Program for Programs {
    fn start(&self, spec: Spec) -> io::Result<Running> {
        let (orders, ordered) = watch::channel(Orders::default());
        let worked = Arc::new(AtomicU64::new(0));
        let (tell, ended) = oneshot::channel();
        let (programs, counted) = (self.clone(), Arc::clone(&worked));
        let index = variable(&spec, INDEX).and_then(|index| index.parse().ok());
        self.truth.note(self.car, &spec.attempt, index, Happened::Started, 0);
        tokio::spawn(async move {
            let (code, message) = programs.work(&spec, ordered, &counted).await;
            let cpu_ms = counted.load(Ordering::Relaxed);
            programs
                .truth
                .note(programs.car, &spec.attempt, index, Happened::Ended(code), cpu_ms);
            let message = match spec.log.finish() {
                Ok(()) => message,
                Err(error) => format!("{message} (log not written: {error})"),
            };
            // Nobody waits for the end of a program whose car lost its power.
            let _ = tell.send(Ok(Ending {
                code,
                reason: if code == 0 { "Completed" } else { "Error" },
                message,
                usage: Usage { cpu_ms, memory_peak: 0 },
            }));
        });
        Ok(Running {
            started: None,
            process: Box::new(Handle { orders, worked }),
            ended,
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    frozen: bool,
    end: bool,
}

/// The way to one program. Whoever drops it ends the program: its orders end.
struct Handle {
    orders: watch::Sender<Orders>,
    worked: Arc<AtomicU64>,
}

impl Process for Handle {
    fn freeze(&self) {
        self.orders.send_modify(|orders| orders.frozen = true);
    }

    fn thaw(&self) {
        self.orders.send_modify(|orders| orders.frozen = false);
    }

    fn stop(&self) {
        self.kill();
    }

    fn kill(&self) {
        self.orders.send_modify(|orders| orders.end = true);
    }

    fn usage(&self) -> Usage {
        Usage {
            cpu_ms: self.worked.load(Ordering::Relaxed),
            memory_peak: 0,
        }
    }
}

impl Programs {
    /// The whole life of a program: its exit code, and what there is to say.
    async fn work(&self, spec: &Spec, orders: watch::Receiver<Orders>, worked: &AtomicU64) -> (i32, String) {
        let need = match variable(spec, WORK).map(kerbside_core::duration::parse).transpose() {
            Ok(need) => need.map(|need| self.pace.real(need)),
            Err(error) => return (MISUSED, format!("{WORK}: {error}")),
        };
        if !pass(need, orders, self.braked.clone(), worked).await {
            return (KILLED, String::new());
        }
        match leave(spec) {
            Ok(()) => (0, String::new()),
            Err(error) => (1, format!("{OUTPUT}: {error}")),
        }
    }
}

/// Lets time pass; false if the program was ended first.
async fn pass(
    need: Option<Duration>,
    mut orders: watch::Receiver<Orders>,
    mut braked: watch::Receiver<bool>,
    worked: &AtomicU64,
) -> bool {
    let mut done = Duration::ZERO;
    loop {
        let Orders { frozen, end } = *orders.borrow_and_update();
        if end {
            return false;
        }
        let stands = frozen || *braked.borrow_and_update();
        let left = need.map(|need| need.saturating_sub(done));
        let since = Instant::now();
        let over = tokio::select! {
            biased;
            ordered = orders.changed() => {
                if ordered.is_err() {
                    return false;
                }
                false
            }
            // A brake that nobody holds any more is one of a car without power, whose programs are dropped.
            Ok(()) = braked.changed() => false,
            () = sleep(left.unwrap_or(Duration::MAX)), if !stands => true,
        };
        if !stands {
            done += since.elapsed();
            worked.store(u64::try_from(done.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if over {
            return true;
        }
    }
}

fn leave(spec: &Spec) -> io::Result<()> {
    let Some(path) = variable(spec, OUTPUT) else {
        return Ok(());
    };
    let inside = |guest: &str| {
        path.strip_prefix(guest.trim_end_matches('/'))?
            .strip_prefix('/')
            .map(str::to_owned)
    };
    let place = spec
        .directories
        .iter()
        .filter_map(|directory| Some((directory, inside(&directory.guest)?)))
        .max_by_key(|(directory, _)| directory.guest.len());
    let (directory, rest) = place.ok_or_else(|| io::Error::other(format!("{path} lies in none of its directories")))?;
    let index = variable(spec, INDEX).unwrap_or_default();
    std::fs::write(directory.host.join(rest), format!("index {index}\n"))
}

fn variable<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.env
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use kerbside_link::SystemClock;
    use kerbside_vehicle_agent::logs::writer::LogWriter;
    use kerbside_vehicle_agent::runtime::{Layer, Security, SpecDirectory, Terminal};

    use super::*;

    struct Car {
        programs: Programs,
        brake: watch::Sender<bool>,
        directory: tempfile::TempDir,
    }

    impl Car {
        fn new() -> Self {
            let (brake, braked) = watch::channel(false);
            let programs = Programs {
                car: 7,
                truth: Truth::new(Arc::new(SystemClock)),
                pace: Pace::new(60.0).unwrap(),
                braked,
            };
            let directory = tempfile::tempdir().unwrap();
            Self {
                programs,
                brake,
                directory,
            }
        }

        fn start(&self, env: &[(&str, &str)]) -> Running {
            let own = |text: &&str| (*text).to_owned();
            let spec = Spec {
                name: "work".to_owned(),
                attempt: "uid-1".to_owned(),
                restarts: 0,
                command: Vec::new(),
                args: Vec::new(),
                env: env.iter().map(|(key, value)| (own(key), own(value))).collect(),
                working_dir: None,
                target: None,
                directories: vec![SpecDirectory {
                    host: self.directory.path().to_owned(),
                    guest: "/out".to_owned(),
                    read_only: false,
                }],
                memory_limit: 0,
                cpu_limit: None,
                cpu_request: 0,
                security: Security::default(),
                terminal: Terminal::default(),
                layer: Layer::default(),
                log: LogWriter::create(&self.directory.path().join("log"), Arc::new(SystemClock)).unwrap(),
            };
            self.programs.start(spec).unwrap()
        }
    }

    const TEN_MINUTES: [(&str, &str); 3] = [(WORK, "10m"), (OUTPUT, "/out/result"), (INDEX, "3")];

    #[tokio::test(start_paused = true)]
    async fn program_works_as_long_as_it_is_told_in_the_time_of_traces() {
        let car = Car::new();
        let started = Instant::now();
        let Running {
            ended,
            process: _process,
            ..
        } = car.start(&TEN_MINUTES);
        let ending = ended.await.unwrap().unwrap();
        assert_eq!(
            (ending.code, ending.reason, ending.usage.cpu_ms),
            (0, "Completed", 10_000)
        );
        assert_eq!(started.elapsed(), Duration::from_secs(10));
        let left = std::fs::read_to_string(car.directory.path().join("result")).unwrap();
        assert_eq!(left, "index 3\n");
        let facts = car.programs.truth.facts();
        assert_eq!(
            facts.iter().map(|f| f.what).collect::<Vec<_>>(),
            [Happened::Started, Happened::Ended(0)]
        );
        assert!(
            facts
                .iter()
                .all(|f| (f.car, f.attempt.as_str(), f.index) == (7, "uid-1", Some(3)))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_a_program_is_frozen_or_braked_is_no_work() {
        let car = Car::new();
        let started = Instant::now();
        let Running { process, mut ended, .. } = car.start(&TEN_MINUTES);
        sleep(Duration::from_secs(4)).await;
        process.freeze();
        sleep(Duration::from_secs(100)).await;
        assert_eq!(process.usage().cpu_ms, 4000);
        process.thaw();
        sleep(Duration::from_secs(1)).await;
        car.brake.send_replace(true);
        sleep(Duration::from_secs(100)).await;
        assert!(ended.try_recv().is_err());
        car.brake.send_replace(false);
        assert_eq!(ended.await.unwrap().unwrap().usage.cpu_ms, 10_000);
        assert_eq!(started.elapsed(), Duration::from_secs(210));
    }

    #[tokio::test(start_paused = true)]
    async fn program_that_is_stopped_or_dropped_ends_without_a_result() {
        let car = Car::new();
        let Running { process, ended, .. } = car.start(&TEN_MINUTES);
        process.stop();
        assert_eq!(ended.await.unwrap().unwrap().code, 137);
        let Running { process, ended, .. } = car.start(&TEN_MINUTES);
        drop(process);
        assert_eq!(ended.await.unwrap().unwrap().code, 137);
        assert!(!car.directory.path().join("result").exists());
        assert_eq!(car.programs.truth.facts().len(), 4);
    }

    #[rstest::rstest]
    #[case(&[(WORK, "soon")], 2, WORK)]
    #[case(&[(WORK, "1s"), (OUTPUT, "/elsewhere/result")], 1, "lies in none of its directories")]
    #[tokio::test(start_paused = true)]
    async fn program_that_is_told_nonsense_says_so(
        #[case] env: &[(&str, &str)],
        #[case] code: i32,
        #[case] says: &str,
    ) {
        let car = Car::new();
        let Running {
            ended,
            process: _process,
            ..
        } = car.start(env);
        let ending = ended.await.unwrap().unwrap();
        assert_eq!(ending.code, code);
        assert!(ending.message.contains(says), "{}", ending.message);
    }
}
