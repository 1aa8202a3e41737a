//! Turning modules into machine code, in a process of its own.
//!
//! Compiling takes seconds of a processor and more memory than everything else in the agent together. In a process of its own it can be
//! frozen with the car and ended at any time, a module that makes it run out of memory ends nothing else, and the memory is
//! given back. The result travels through Wasmtime's cache on disk, which checks what it reads.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::engine::Shared;

/// Where modules are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// In this process: for tests, which have no program of their own to call.
    Here,
    /// By this program, which is the agent itself.
    Program(PathBuf),
}

impl Compiler {
    /// The agent's own program, also when its file has been replaced meanwhile.
    pub fn own() -> Self {
        Self::Program(PathBuf::from("/proc/self/exe"))
    }
}

/// The name of the hidden command that [`in_child`] calls.
pub const COMMAND: &str = "compile";

/// Modules that are in the cache already.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashSet<PathBuf>>);

impl Known {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that the code of `module` is in `cache`. While `brake` is on, nothing is compiled. Dropping the future ends it.
pub(super) async fn compiled(
    compiler: &Compiler,
    known: &Known,
    cache: &Path,
    module: &Path,
    brake: watch::Receiver<bool>,
) -> Result<(), String> {
    let Compiler::Program(program) = compiler else {
        return Ok(());
    };
    if known.lock().contains(module) {
        return Ok(());
    }
    in_child(program, cache, module, brake).await?;
    known.lock().insert(module.to_owned());
    Ok(())
}

async fn in_child(program: &Path, cache: &Path, module: &Path, mut brake: watch::Receiver<bool>) -> Result<(), String> {
    let cannot = |e: std::io::Error| format!("the vehicle cannot compile the module: {e}");
    let ending = || "the agent is ending".to_owned();
    brake.wait_for(|on| !on).await.map_err(|_| ending())?;
    let mut command = Command::new(program);
    command.arg(COMMAND).arg("--cache").arg(cache).arg(module);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(cannot)?;
    let mut said = String::new();
    let mut output = child.stdout.take();
    let status = {
        let mut listening = std::pin::pin!(async {
            if let Some(output) = &mut output {
                output.read_to_string(&mut said).await?;
            }
            Ok::<(), std::io::Error>(())
        });
        loop {
            hold(&child, *brake.borrow_and_update());
            tokio::select! {
                heard = &mut listening => {
                    heard.map_err(cannot)?;
                    break child.wait().await.map_err(cannot)?;
                }
                changed = brake.changed() => if changed.is_err() {
                    return Err(ending());
                },
            }
        }
    };
    answer(status, said)
}

/// Stops the child with the car, and lets it go on. One that has ended needs neither.
fn hold(child: &Child, brake: bool) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = kill(
            Pid::from_raw(pid),
            if brake { Signal::SIGSTOP } else { Signal::SIGCONT },
        );
    }
}

fn answer(status: ExitStatus, said: String) -> Result<(), String> {
    if !said.is_empty() {
        return Err(said);
    }
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "the vehicle cannot compile the module: the compiler ended with {status}"
    ))
}

/// What the hidden command does: the text is why the module is none, empty if all is well.
pub fn compile(cache: &Path, module: &Path) -> String {
    // An agent that is killed cannot end what it has frozen.
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return format!("the vehicle cannot compile the module: {error}");
    }
    let compiled = Shared::new(cache).and_then(|shared| super::module(&shared, module));
    compiled.err().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A compiler that is a shell script.
    fn script(directory: &Path, text: &str) -> Compiler {
        let path = directory.join("compiler");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Compiler::Program(path)
    }

    async fn run(compiler: &Compiler, known: &Known, brake: watch::Receiver<bool>) -> Result<(), String> {
        compiled(compiler, known, Path::new("/cache"), Path::new("/module"), brake).await
    }

    #[tokio::test]
    async fn module_is_compiled_once() {
        let temp = tempfile::tempdir().unwrap();
        let count = temp.path().join("count");
        let compiler = script(temp.path(), &format!("echo \"$@\" >> {}", count.display()));
        let (known, (_brake, braked)) = (Known::default(), watch::channel(false));
        run(&compiler, &known, braked.clone()).await.unwrap();
        run(&compiler, &known, braked).await.unwrap();
        assert_eq!(fs::read_to_string(count).unwrap(), "compile --cache /cache /module\n");
    }

    #[tokio::test]
    async fn module_that_is_none_and_a_compiler_that_dies_say_so_each_time() {
        let temp = tempfile::tempdir().unwrap();
        let (known, (_brake, braked)) = (Known::default(), watch::channel(false));
        for (text, says) in [
            ("printf 'not wasm'", "not wasm"),
            ("kill -9 $$", "signal: 9"),
            ("exit 3", "exit status: 3"),
        ] {
            let compiler = script(temp.path(), text);
            for _ in 0..2 {
                let message = run(&compiler, &known, braked.clone()).await.unwrap_err();
                assert!(message.contains(says), "{message}");
            }
        }
        let none = Compiler::Program(temp.path().join("none"));
        assert!(run(&none, &known, braked).await.unwrap_err().contains("cannot compile"));
    }

    #[tokio::test]
    async fn compiler_stands_still_under_the_brake() {
        let temp = tempfile::tempdir().unwrap();
        let (begun, done) = (temp.path().join("begun"), temp.path().join("done"));
        let text = format!("touch {}; sleep 0.5; touch {}", begun.display(), done.display());
        let compiler = script(temp.path(), &text);
        let (brake, braked) = watch::channel(true);
        let known = Known::default();
        let mut running = std::pin::pin!(run(&compiler, &known, braked));
        assert!(timeout(Duration::from_millis(200), &mut running).await.is_err());
        assert!(!begun.exists(), "nothing begins under the brake");
        brake.send_replace(false);
        while !begun.exists() {
            assert!(timeout(Duration::from_millis(5), &mut running).await.is_err());
        }
        brake.send_replace(true);
        assert!(timeout(Duration::from_secs(2), &mut running).await.is_err());
        assert!(!done.exists(), "what has begun stands still");
        brake.send_replace(false);
        running.await.unwrap();
        assert!(done.exists());
    }
}
