//! One run of one program: its thread, how it is held and ended, and how its end is told.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use wasmtime::{InstancePre, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::engine::Shared;
use super::limits::{MemoryLimit, Meter, Throttle, thread_cpu};
use super::stdio::Printed;
use crate::logs::writer::Stream;
use crate::runtime::{Ending, Process, Running, Spec, Usage};

/// The most that a program may ask of the host's randomness at once: generating it cannot be interrupted.
const RANDOM_MAX: u64 = 4 << 20;
/// A message about a trap is for people.
const MESSAGE_MAX: usize = 4096;

/// What belongs to one run.
pub(super) struct Guest {
    pub(super) wasi: WasiP1Ctx,
    memory: MemoryLimit,
}

/// The program ended itself.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(super) struct ProgramExit(pub(super) i32);

/// The program was ended.
#[derive(Debug, thiserror::Error)]
#[error("the program was ended")]
struct Ended;

/// What a program may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Run,
    Frozen,
    End,
}

struct Handle {
    mode: watch::Sender<Mode>,
    meter: Arc<Meter>,
}

impl Process for Handle {
    fn freeze(&self) {
        self.mode
            .send_if_modified(|mode| *mode == Mode::Run && std::mem::replace(mode, Mode::Frozen) == Mode::Run);
    }

    fn thaw(&self) {
        self.mode
            .send_if_modified(|mode| *mode == Mode::Frozen && std::mem::replace(mode, Mode::Run) == Mode::Frozen);
    }

    /// A WebAssembly program has no way to be asked, so it is ended: its owner's car is wanted back.
    fn stop(&self) {
        self.kill();
    }

    fn kill(&self) {
        self.mode.send_replace(Mode::End);
    }

    fn usage(&self) -> Usage {
        self.meter.usage()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.mode.send_replace(Mode::End);
    }
}

/// Starts a program on a thread of its own.
pub(super) fn start(
    shared: &Arc<Shared>,
    pre: &InstancePre<Guest>,
    brake: watch::Receiver<bool>,
    spec: Spec,
) -> io::Result<Running> {
    let wasi = wasi(&spec)?;
    let ticking = shared.tick()?;
    let meter = Arc::new(Meter::default());
    let (mode, commands) = watch::channel(Mode::Run);
    let (tell, ended) = oneshot::channel();
    let handle = Handle {
        mode,
        meter: Arc::clone(&meter),
    };
    let (engine, pre) = (shared.engine.clone(), pre.clone());
    let gate = Gate { commands, brake };
    let name = format!("wasm-{}", spec.name);
    std::thread::Builder::new().name(name).spawn(move || {
        let ending = match runtime() {
            Ok(runtime) => {
                let guest = Guest {
                    wasi,
                    memory: MemoryLimit::new(spec.memory_limit, Arc::clone(&meter)),
                };
                let mut store = Store::new(&engine, guest);
                let result = runtime.block_on(run(&mut store, &pre, &gate, spec.cpu_limit, &meter));
                // A file operation that still goes on does not hold up the end.
                runtime.shutdown_background();
                meter.cpu(thread_cpu());
                ending(result, store.data().memory.exceeded, spec.memory_limit, meter.usage())
            }
            Err(error) => broken(&error, meter.usage()),
        };
        if let Err(error) = spec.log.finish() {
            tracing::warn!(%error, "failed to finish the log of a program");
        }
        drop(ticking);
        // Nobody waits for the end of a program whose attempt is forgotten.
        let _ = tell.send(Ok(ending));
    })?;
    Ok(Running {
        started: None,
        process: Box::new(handle),
        ended,
    })
}

/// File operations of a program block one or two threads of this, never the program's own: that must stay able to stop.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
}

fn wasi(spec: &Spec) -> io::Result<WasiP1Ctx> {
    let mut builder = WasiCtxBuilder::new();
    builder.args(&spec.command).args(&spec.args).max_random_size(RANDOM_MAX);
    for (name, value) in &spec.env {
        builder.env(name, value);
    }
    if let Some(directory) = &spec.working_dir {
        // WASI preview 1 knows no working directory; Go's and some C libraries' programs take it from here.
        if !spec.env.iter().any(|(name, _)| name == "PWD") {
            builder.env("PWD", directory);
        }
        builder.initial_cwd(directory);
    }
    for directory in &spec.directories {
        let perms = if directory.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        builder
            .preopened_dir(&directory.host, &directory.guest, perms)
            .map_err(|e| io::Error::other(format!("{}: {e:#}", directory.guest)))?;
    }
    builder
        .stdout(Printed::new(&spec.log, Stream::Stdout))
        .stderr(Printed::new(&spec.log, Stream::Stderr));
    Ok(builder.build_p1())
}

/// What decides whether a program goes on.
#[derive(Clone)]
struct Gate {
    commands: watch::Receiver<Mode>,
    brake: watch::Receiver<bool>,
}

impl Gate {
    fn mode(&self) -> Mode {
        match *self.commands.borrow() {
            // Whoever held the program is gone.
            _ if self.commands.has_changed().is_err() => Mode::End,
            Mode::Run if *self.brake.borrow() => Mode::Frozen,
            mode => mode,
        }
    }

    /// Returns when the mode may have changed; at once if it is already another than `known`.
    async fn changed(&mut self) {
        let Self { commands, brake } = self;
        tokio::select! {
            // An error is the end, which `mode` sees.
            _ = commands.changed() => {}
            changed = brake.changed() => if changed.is_err() {
                // The car's policy is gone, and with it who could release the brake: only the end can come.
                let _ = commands.changed().await;
            },
        }
    }

    /// Waits while the program is frozen.
    async fn thawed(mut self) {
        while self.mode() == Mode::Frozen {
            self.changed().await;
        }
    }

    async fn ended(mut self) {
        while self.mode() != Mode::End {
            self.changed().await;
        }
    }

    /// Waits out a debt of processor time, unless the program is to be frozen or ended before that.
    async fn idle(mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while self.mode() == Mode::Run {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.changed() => {}
            }
        }
    }
}

async fn run(
    store: &mut Store<Guest>,
    pre: &InstancePre<Guest>,
    gate: &Gate,
    cpu_limit: Option<u64>,
    meter: &Arc<Meter>,
) -> wasmtime::Result<()> {
    store.limiter(|guest| &mut guest.memory);
    let mut throttle = Throttle::new(cpu_limit, thread_cpu());
    let (watched, counted) = (gate.clone(), Arc::clone(meter));
    store.epoch_deadline_callback(move |_| {
        let cpu = thread_cpu();
        counted.cpu(cpu);
        let pause: Pin<Box<dyn Future<Output = ()> + Send>> = match watched.mode() {
            Mode::End => return Err(Ended.into()),
            Mode::Frozen => Box::pin(watched.clone().thawed()),
            Mode::Run => match throttle.as_mut().map(|throttle| throttle.wait(cpu)) {
                Some(wait) if !wait.is_zero() => Box::pin(watched.clone().idle(wait)),
                _ => return Ok(UpdateDeadline::Continue(1)),
            },
        };
        Ok(UpdateDeadline::YieldCustom(1, pause))
    });
    store.set_epoch_deadline(1);
    gate.clone().thawed().await;
    tokio::select! {
        biased;
        () = gate.clone().ended() => Err(Ended.into()),
        result = async {
            let instance = pre.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            start.call_async(&mut *store, ()).await
        } => result,
    }
}

fn ending(result: wasmtime::Result<()>, out_of_memory: bool, limit: u64, usage: Usage) -> Ending {
    let end = |code, reason, message: String| Ending {
        code,
        reason,
        message,
        usage,
    };
    let Err(error) = result else {
        return end(0, "Completed", String::new());
    };
    if let Some(ProgramExit(code)) = error.downcast_ref::<ProgramExit>() {
        return end(*code, if *code == 0 { "Completed" } else { "Error" }, String::new());
    }
    if out_of_memory {
        return end(
            137,
            "OOMKilled",
            format!("the program wanted more memory than its limit of {limit} bytes"),
        );
    }
    if error.is::<Ended>() {
        return end(137, "Error", "the program was ended".to_owned());
    }
    let mut message = match error.downcast_ref::<Trap>() {
        Some(trap) => format!("trap: {trap}"),
        None => format!("{error:#}"),
    };
    message.truncate(
        (0..=MESSAGE_MAX.min(message.len()))
            .rev()
            .find(|end| message.is_char_boundary(*end))
            .unwrap_or(0),
    );
    // As a container that aborts: 128 and SIGABRT.
    end(134, "Error", message)
}

fn broken(error: &io::Error, usage: Usage) -> Ending {
    Ending {
        code: 128,
        reason: "StartError",
        message: format!("the vehicle could not start a thread: {error}"),
        usage,
    }
}
