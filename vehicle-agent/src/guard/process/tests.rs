//! The guard against real processes; the clocks are the kernel's, moved forward by hand where a sleep is wanted.

use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::*;

/// The kernel's clocks on a machine that has slept since, and how often they were read.
#[derive(Default, Clone)]
struct Slept {
    ms: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Slept {
    /// Sleeps, once the guard waits with a fence: it reads the clocks at its start, for its timer, when it wakes, when it is told, and
    /// for its timer again.
    fn sleep(&self, time: Duration) {
        while self.reads.load(Ordering::SeqCst) < 5 {
            std::thread::yield_now();
        }
        self.ms
            .fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clocks for Slept {
    fn now(&self) -> Now {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let mut now = SystemClocks.now();
        now.boot = now.boot + Duration::from_millis(self.ms.load(Ordering::SeqCst));
        now
    }
}

/// What a waker was told.
#[derive(Default, Clone)]
struct Waker(Arc<Mutex<Vec<u8>>>);

#[expect(clippy::unwrap_in_result, reason = "a poisoned lock fails the test")]
impl Write for Waker {
    fn write(&mut self, said: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(said);
        Ok(said.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A process that stands for the agent, and a guard of it.
struct Guarded {
    agent: Child,
    orders: Option<PipeWriter>,
    clocks: Slept,
    waker: Waker,
    guard: JoinHandle<Result<(), GuardError>>,
}

impl Guarded {
    fn new(script: &str) -> Self {
        Self::with(script, None)
    }

    fn with(script: &str, group: Option<Cgroup>) -> Self {
        let agent = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&agent);
        let held = crate::guard::process::Guarded {
            process: pidfd_open(pid, PidfdFlags::empty()).unwrap(),
            group,
            lock: None,
        };
        let (reader, orders) = io::pipe().unwrap();
        let clocks = Slept::default();
        let theirs = clocks.clone();
        let waker = Waker::default();
        let told = waker.clone();
        Self {
            agent,
            orders: Some(orders),
            clocks,
            waker,
            guard: std::thread::spawn(move || watch(&held, reader, told, &theirs)),
        }
    }

    fn tell(&mut self, fence: Option<Boottime>) {
        self.orders.as_mut().unwrap().write_all(line(fence).as_bytes()).unwrap();
    }

    fn tell_fence_after(&mut self, after: Duration) -> Boottime {
        let fence = self.clocks.now().boot + after;
        self.tell(Some(fence));
        fence
    }

    /// The signal by which the agent ended; the guard has ended with it.
    fn ended_by(mut self) -> Option<i32> {
        let status = self.agent.wait().unwrap();
        self.guard.join().unwrap().unwrap();
        status.signal()
    }
}

const SLEEPS: &str = "exec sleep 60";
const KILLED: Option<i32> = Some(9);

#[test]
fn agent_that_was_stopped_is_ended_after_the_fence() {
    let mut guarded = Guarded::new(SLEEPS);
    let pid = Pid::from_child(&guarded.agent);
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let fence = guarded.tell_fence_after(Duration::from_millis(200));
    let clocks = guarded.clocks.clone();
    assert_eq!(guarded.ended_by(), KILLED);
    let late = clocks.now().boot.since(fence);
    assert!(late < kerbside_core::vehicle::FENCE_MARGIN, "{late:?}");
}

#[test]
fn agent_whose_machine_slept_past_the_fence_is_ended_at_once() {
    let mut guarded = Guarded::new(SLEEPS);
    guarded.tell_fence_after(Duration::from_secs(40));
    guarded.clocks.sleep(Duration::from_mins(5));
    assert_eq!(guarded.ended_by(), KILLED);
}

#[test]
fn agent_whose_machine_slept_less_is_frozen_and_goes_on() {
    let mut guarded = Guarded::new("trap 'echo thawed; exit 3' CONT; echo ready; while :; do sleep 0.05; done");
    let mut said = BufReader::new(guarded.agent.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    guarded.tell_fence_after(Duration::from_mins(10));
    guarded.clocks.sleep(Duration::from_mins(5));
    assert_eq!(said.next().unwrap().unwrap(), "thawed");
    let waker = guarded.waker.clone();
    assert_eq!(guarded.ended_by(), None, "it ended by itself");
    assert_eq!(*waker.0.lock().unwrap(), [FROZEN, THAWED]);
}

#[test]
fn fence_that_moves_ends_nobody_and_the_guard_goes_with_the_agent() {
    let mut guarded = Guarded::new(SLEEPS);
    for _ in 0..20 {
        guarded.tell_fence_after(Duration::from_millis(50));
        guarded.tell_fence_after(Duration::from_mins(1));
    }
    guarded.tell(None);
    rustix::process::kill_process(Pid::from_child(&guarded.agent), Signal::TERM).unwrap();
    assert_eq!(guarded.ended_by(), Some(15));
}

#[test]
fn guard_with_nothing_to_guard_ends_when_nobody_speaks_to_it() {
    let mut guarded = Guarded::new(SLEEPS);
    guarded.tell_fence_after(Duration::from_mins(1));
    guarded.tell(None);
    drop(guarded.orders.take());
    guarded.guard.join().unwrap().unwrap();
    assert!(guarded.agent.try_wait().unwrap().is_none(), "the agent was left alone");
    guarded.agent.kill().unwrap();
    guarded.agent.wait().unwrap();
}

#[test]
fn agent_that_closed_its_end_by_mistake_is_guarded_all_the_same() {
    let mut guarded = Guarded::new(SLEEPS);
    guarded.tell_fence_after(Duration::ZERO);
    drop(guarded.orders.take());
    assert_eq!(guarded.ended_by(), KILLED);
}

#[test]
fn what_the_agent_never_says_ends_the_guard_with_the_words() {
    let mut guarded = Guarded::new(SLEEPS);
    guarded.orders.as_mut().unwrap().write_all(b"soon\n").unwrap();
    let error = guarded.guard.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("soon"), "{error}");
    guarded.agent.kill().unwrap();
    guarded.agent.wait().unwrap();
}

#[test]
fn guard_is_only_for_the_process_that_started_it() {
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let error = open(&other.id().to_string()).unwrap_err();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(matches!(error, GuardError::NotMine(_)), "{error}");
    assert!(matches!(open("agent").unwrap_err(), GuardError::NotANumber(_)));
    assert!(matches!(open("").unwrap_err(), GuardError::NotANumber(_)));
}

#[test]
fn containers_of_an_agent_that_ends_are_ended_with_it_whatever_ended_it() {
    let mount = tempfile::tempdir().unwrap();
    let directory = mount.path().join("freezer/kerbside/car");
    std::fs::create_dir_all(&directory).unwrap();
    // It stands for a container: in the group, and no child of the agent.
    let mut container = Command::new("sleep").arg("1000").spawn().unwrap();
    let procs = directory.join("cgroup.procs");
    std::fs::write(&procs, format!("{}\n", container.id())).unwrap();
    let group = Cgroup::at(mount.path(), "/kerbside/car");
    let guarded = Guarded::with("kill -9 $$", Some(group));
    let status = container.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    // As the kernel does with a process that has ended.
    std::fs::write(&procs, "").unwrap();
    assert_eq!(guarded.ended_by(), Some(9));
    let state = std::fs::read_to_string(directory.join("freezer.state")).unwrap();
    assert_eq!(state, "THAWED", "one that stands still cannot end");
}

#[test]
fn container_that_comes_up_late_is_ended_unless_there_is_an_agent_whose_it_is() {
    let mount = tempfile::tempdir().unwrap();
    let directory = mount.path().join("freezer/kerbside/car");
    std::fs::create_dir_all(&directory).unwrap();
    let path = mount.path().join("lock");
    let of_agent = File::create(&path).unwrap();
    let mut container = Command::new("sleep").arg("1000").spawn().unwrap();
    let procs = directory.join("cgroup.procs");
    std::fs::write(&procs, format!("{}\n", container.id())).unwrap();
    let guarded = crate::guard::process::Guarded {
        // Not looked at.
        process: pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap(),
        group: Some(Cgroup::at(mount.path(), "/kerbside/car")),
        lock: Some(path.clone()),
    };
    let lock = File::open(&path).unwrap();
    flock(&of_agent, FlockOperation::LockExclusive).unwrap();
    guarded.kill_group_of_nobody(&lock);
    assert!(container.try_wait().unwrap().is_none(), "it is another agent's");
    flock(&of_agent, FlockOperation::Unlock).unwrap();
    let ended = std::thread::spawn(move || {
        let status = container.wait().unwrap();
        // As the kernel does with a process that has ended.
        std::fs::write(&procs, "").unwrap();
        status.signal()
    });
    guarded.kill_group_of_nobody(&lock);
    assert_eq!(ended.join().unwrap(), Some(9));
    // The next agent can begin.
    flock(&of_agent, FlockOperation::NonBlockingLockExclusive).unwrap();
}
