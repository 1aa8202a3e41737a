//! WebAssembly programs: core modules that speak WASI preview 1, run by Wasmtime.
//!
//! Each program has a thread of its own. Compiled code asks at every loop and every call whether the epoch has moved on, so freezing
//! and ending never depend on the program's good will; a host call that waits, waits asynchronously and is dropped. Single instructions
//! that fill or copy much memory are taken apart. What must never happen: a program that sees a file outside its directories, opens a
//! socket, or is only *asked* to stop.
//!
//! | file | what |
//! |---|---|
//! | `compiler` | modules become machine code, in a process of its own |
//! | `engine` | Wasmtime's settings, the cache of compiled code, the ticker that moves the epoch |
//! | `guest` | one run: thread, epoch, exit |
//! | `recent` | programs that were loaded a short while ago |
//! | `pieces` | large fills and copies, so that they can be interrupted |
//! | `limits` | memory and processor time |
//! | `stdio` | what it prints |

pub mod compiler;
mod engine;
mod guest;
mod limits;
mod pieces;
mod recent;
mod stdio;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use wasmtime::{InstancePre, Module};

use self::compiler::{Compiler, Known};
use self::engine::Shared;
use self::guest::Guest;
use self::recent::Recent;
use super::{Program, Running, Runtime, Spec};

/// The runtime. Nothing of Wasmtime is there before the first program is loaded.
#[derive(Clone)]
pub struct Wasm {
    lazy: Arc<Lazy>,
}

struct Lazy {
    cache: PathBuf,
    compiler: Compiler,
    known: Known,
    brake: watch::Receiver<bool>,
    shared: tokio::sync::OnceCell<Arc<Shared>>,
    recent: Recent<Linked>,
    /// One compilation at a time: it takes a processor and much memory for seconds.
    turn: Semaphore,
}

impl Wasm {
    /// Compiled code is kept in `cache`. While `brake` is true, no program gets any processor time: the car's own brake, which
    /// does not wait for anybody.
    pub fn new(cache: &Path, compiler: Compiler, brake: watch::Receiver<bool>) -> Self {
        let lazy = Lazy {
            cache: cache.to_owned(),
            compiler,
            known: Known::default(),
            brake,
            shared: tokio::sync::OnceCell::new(),
            recent: Recent::default(),
            turn: Semaphore::const_new(1),
        };
        Self { lazy: Arc::new(lazy) }
    }
}

impl Runtime for Wasm {
    fn load(&self, module: PathBuf) -> BoxFuture<'static, Result<Arc<dyn Program>, String>> {
        let lazy = Arc::clone(&self.lazy);
        async move {
            if let Some(program) = lazy.recent.get(&module) {
                return Ok(program as Arc<dyn Program>);
            }
            let _turn = lazy.turn.acquire().await.map_err(|e| e.to_string())?;
            compiler::compiled(&lazy.compiler, &lazy.known, &lazy.cache, &module, lazy.brake.clone()).await?;
            let shared = lazy
                .shared
                .get_or_try_init(|| {
                    let cache = lazy.cache.clone();
                    async move {
                        blocking(move || Shared::new(&cache))
                            .await
                            .map_err(|e| format!("the vehicle's WebAssembly runtime cannot start: {e}"))
                    }
                })
                .await?;
            let (shared, brake) = (Arc::clone(shared), lazy.brake.clone());
            let path = module.clone();
            let program = Arc::new(blocking(move || link(shared, brake, &path)).await?);
            lazy.recent.put(module, Arc::clone(&program), program.bytes());
            Ok(program as Arc<dyn Program>)
        }
        .boxed()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

struct Linked {
    shared: Arc<Shared>,
    brake: watch::Receiver<bool>,
    pre: InstancePre<Guest>,
}

/// The first bytes of a module, and those of a component.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// The module of a file, if it is one: from the cache, or compiled into it.
fn module(shared: &Shared, path: &Path) -> Result<Module, String> {
    let bytes = fs::read(path).map_err(|e| format!("the module cannot be read: {e}"))?;
    if bytes.starts_with(COMPONENT) {
        return Err(
            "the module is a WebAssembly component; vehicles run core modules for WASI preview 1 yet".to_owned(),
        );
    }
    if !bytes.starts_with(MODULE) {
        return Err("the module is not WebAssembly: it does not start with the magic number".to_owned());
    }
    let bytes = pieces::taken_apart(&bytes, pieces::PIECE).unwrap_or(bytes);
    Module::from_binary(&shared.engine, &bytes).map_err(|e| format!("the module is not valid: {e:#}"))
}

fn link(shared: Arc<Shared>, brake: watch::Receiver<bool>, path: &Path) -> Result<Linked, String> {
    let module = module(&shared, path)?;
    if module
        .get_export("_start")
        .and_then(|export| export.func().cloned())
        .is_none()
    {
        return Err(
            "the module has no function _start: build it as a program (a WASI command), not as a library".to_owned(),
        );
    }
    let pre = shared.linker.instantiate_pre(&module).map_err(|e| {
        format!("the module needs something that a vehicle does not give (only WASI preview 1 is there): {e:#}")
    })?;
    Ok(Linked { shared, brake, pre })
}

impl Linked {
    /// Of machine code, with its data.
    fn bytes(&self) -> usize {
        let code = self.pre.module().image_range();
        (code.end as usize).saturating_sub(code.start as usize)
    }
}

impl Program for Linked {
    fn start(&self, spec: Spec) -> io::Result<Running> {
        guest::start(&self.shared, &self.pre, self.brake.clone(), spec)
    }
}

#[cfg(test)]
mod tests;
