//! What all programs share: the compiler with its cache, the host functions, and the ticker.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use wasmtime::{Cache, CacheConfig, Config, Engine, Linker};

use super::guest::{Guest, ProgramExit};

/// How often programs look whether they may go on. A tenth of the 100 ms in which they must have stopped.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// No more compiled code is kept than this; Wasmtime deletes what was used longest ago.
const CACHE_BYTES: u64 = 512 << 20;

pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
    /// The engine's own; tests ask how often it had what was wanted.
    #[cfg(test)]
    pub(super) cache: Cache,
    ticker: Mutex<Weak<Ticking>>,
}

/// The epoch moves as long as somebody holds this.
pub(super) struct Ticking;

impl Shared {
    /// Wasmtime keys its cache by its own version, by the settings below and by the processor's features, and checks what it
    /// reads, so a new agent never runs old code.
    pub(super) fn new(cache: &Path) -> Result<Arc<Self>, String> {
        Self::build(cache).map(Arc::new).map_err(|e| format!("{e:#}"))
    }

    fn build(cache: &Path) -> wasmtime::Result<Self> {
        let mut files = CacheConfig::new();
        files
            .with_directory(cache)
            .with_files_total_size_soft_limit(CACHE_BYTES);
        let mut config = Config::new();
        let cache = Cache::new(files)?;
        config.epoch_interruption(true).cache(Some(cache.clone()));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut Guest| &mut guest.wasi)?;
        // Wasmtime's own proc_exit takes 0 to 125 only; programs in containers exit with any byte.
        linker.allow_shadowing(true);
        linker.func_wrap(
            "wasi_snapshot_preview1",
            "proc_exit",
            |code: i32| -> wasmtime::Result<()> { Err(ProgramExit(code & 0xff).into()) },
        )?;
        Ok(Self {
            engine,
            linker,
            #[cfg(test)]
            cache,
            ticker: Mutex::new(Weak::new()),
        })
    }

    /// Keeps the epoch moving; the thread is there only while somebody needs it.
    pub(super) fn tick(&self) -> std::io::Result<Arc<Ticking>> {
        let mut ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ticking) = ticker.upgrade() {
            return Ok(ticking);
        }
        let ticking = Arc::new(Ticking);
        let (wanted, engine) = (Arc::downgrade(&ticking), self.engine.weak());
        std::thread::Builder::new()
            .name("wasm-ticker".to_owned())
            .stack_size(64 << 10)
            .spawn(move || {
                while wanted.strong_count() > 0 {
                    std::thread::sleep(TICK);
                    let Some(engine) = engine.upgrade() else { break };
                    engine.increment_epoch();
                }
            })?;
        *ticker = Arc::downgrade(&ticking);
        Ok(ticking)
    }
}
