//! Memory and processor time of one program.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use wasmtime::ResourceLimiter;

use crate::runtime::Usage;

/// Entries of tables; a table entry costs the car 8 bytes.
const TABLE_ELEMENTS: usize = 1 << 20;

/// What a program uses; read from outside while it runs.
#[derive(Debug, Default)]
pub(super) struct Meter {
    cpu_ms: AtomicU64,
    memory_peak: AtomicU64,
}

impl Meter {
    pub(super) fn usage(&self) -> Usage {
        Usage {
            cpu_ms: self.cpu_ms.load(Ordering::Relaxed),
            memory_peak: self.memory_peak.load(Ordering::Relaxed),
        }
    }

    pub(super) fn cpu(&self, used: Duration) {
        self.cpu_ms
            .store(u64::try_from(used.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The memory of one program, over all its memories.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    limit: u64,
    used: u64,
    meter: Arc<Meter>,
    /// It wanted more than it may have, and was ended for it.
    pub(super) exceeded: bool,
}

impl MemoryLimit {
    pub(super) fn new(limit: u64, meter: Arc<Meter>) -> Self {
        Self {
            limit,
            used: 0,
            meter,
            exceeded: false,
        }
    }
}

/// The program wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("the program wanted more memory than its limit")]
struct OutOfMemory;

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The program's own bound: it is told no, as everywhere.
            return Ok(false);
        }
        let used = self.used.saturating_add(desired.saturating_sub(current) as u64);
        if used > self.limit {
            // As in a container: a program beyond its limit is ended, not told no.
            self.exceeded = true;
            return Err(OutOfMemory.into());
        }
        self.used = used;
        self.meter.memory_peak.fetch_max(used, Ordering::Relaxed);
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}

/// How much more than its share a program may use for a moment.
const BURST: Duration = Duration::from_millis(100);

/// The processor time of the thread that runs a program, held to a share of the real time.
///
/// A bucket of time: it fills with the share of the time that passes, up to one burst, and empties with use. In debt, the program
/// waits until the debt is paid.
#[derive(Debug)]
pub(super) struct Throttle {
    share: f64,
    bucket: f64,
    last: Instant,
    last_cpu: Duration,
}

impl Throttle {
    /// For a program that may use `millis` thousandths of a processor; `None` if it may use a whole one, for it has one thread.
    pub(super) fn new(millis: Option<u64>, cpu: Duration) -> Option<Self> {
        let millis = u16::try_from(millis?).ok().filter(|millis| *millis < 1000)?;
        let share = f64::from(millis.max(1)) / 1000.0;
        Some(Self {
            share,
            bucket: share * BURST.as_secs_f64(),
            last: Instant::now(),
            last_cpu: cpu,
        })
    }

    /// How long the program has to wait now.
    pub(super) fn wait(&mut self, cpu: Duration) -> Duration {
        let now = Instant::now();
        let passed = (now - self.last).as_secs_f64();
        let used = cpu.saturating_sub(self.last_cpu).as_secs_f64();
        self.last = now;
        self.last_cpu = cpu;
        self.bucket = (self.bucket + passed * self.share).min(self.share * BURST.as_secs_f64()) - used;
        if self.bucket >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.bucket / self.share)
        }
    }
}

/// The processor time that the calling thread has used.
pub(super) fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn program_held_to_a_quarter_uses_a_quarter() {
        let mut cpu = Duration::ZERO;
        let start = Instant::now();
        let mut throttle = Throttle::new(Some(250), cpu).unwrap();
        while cpu < Duration::from_secs(10) {
            // It runs for a tick, then it is looked at.
            tokio::time::advance(Duration::from_millis(10)).await;
            cpu += Duration::from_millis(10);
            tokio::time::advance(throttle.wait(cpu)).await;
        }
        let share = cpu.as_secs_f64() / (Instant::now() - start).as_secs_f64();
        assert!((0.24..0.26).contains(&share), "{share}");
    }

    #[tokio::test(start_paused = true)]
    async fn program_that_was_idle_may_burst_for_a_moment_only() {
        let mut throttle = Throttle::new(Some(500), Duration::ZERO).unwrap();
        tokio::time::advance(Duration::from_mins(10)).await;
        assert_eq!(throttle.wait(Duration::from_millis(50)), Duration::ZERO);
        assert!(throttle.wait(Duration::from_millis(150)) >= Duration::from_millis(190));
    }

    #[tokio::test]
    async fn program_that_may_use_a_whole_processor_is_not_throttled() {
        assert!(Throttle::new(Some(1000), Duration::ZERO).is_none() && Throttle::new(None, Duration::ZERO).is_none());
        assert!(Throttle::new(Some(u64::MAX), Duration::ZERO).is_none());
        assert!(Throttle::new(Some(0), Duration::ZERO).is_some());
    }

    #[test]
    fn memory_beyond_the_limit_ends_the_program_and_beyond_its_own_bound_is_denied() {
        let meter = Arc::new(Meter::default());
        let mut limit = MemoryLimit::new(300, Arc::clone(&meter));
        assert!(limit.memory_growing(0, 100, None).unwrap());
        assert!(limit.memory_growing(100, 200, Some(200)).unwrap());
        assert!(!limit.memory_growing(200, 300, Some(200)).unwrap());
        assert!(!limit.exceeded);
        assert!(limit.memory_growing(0, 101, None).is_err() && limit.exceeded);
        assert_eq!(meter.usage().memory_peak, 200);
    }
}
