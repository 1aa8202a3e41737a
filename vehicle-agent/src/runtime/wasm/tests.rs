//! Programs written as text: each does one thing that a runtime has to bear.
//!
//! Bounds are generous, for test machines are busy; what is asserted is that a thing happens at all, whatever the program does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use rstest::rstest;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::*;
use crate::logs::writer::LogWriter;
use crate::runtime::{Ending, Layer, Process, Security, SpecDirectory, Terminal};
use crate::testing::ManualClock;

/// Far above the 100 ms that a stop may take, and far below for ever.
const SOON: Duration = Duration::from_secs(20);

struct Car {
    temp: tempfile::TempDir,
    wasm: Wasm,
    brake: watch::Sender<bool>,
}

impl Car {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("root")).unwrap();
        let (brake, braked) = watch::channel(false);
        let wasm = Wasm::new(&temp.path().join("compiled"), Compiler::Here, braked);
        Self { temp, wasm, brake }
    }

    async fn load_bytes(&self, bytes: &[u8]) -> Result<Arc<dyn Program>, String> {
        let path = self.module(bytes);
        std::fs::write(&path, bytes).unwrap();
        self.wasm.load(path).await
    }

    /// Where a module is: as in the cache of images, its name says what is in it.
    fn module(&self, bytes: &[u8]) -> PathBuf {
        self.temp.path().join(HEXLOWER.encode(&Sha256::digest(bytes)))
    }

    async fn load(&self, text: &str) -> Arc<dyn Program> {
        self.load_bytes(&wat::parse_str(text).unwrap())
            .await
            .unwrap_or_else(|message| panic!("{message}"))
    }

    fn log_path(&self) -> PathBuf {
        self.temp.path().join("logs/0.log")
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn spec(&self) -> Spec {
        let log = LogWriter::create(&self.log_path(), Arc::new(ManualClock)).unwrap();
        let root = SpecDirectory {
            host: self.root(),
            guest: "/".to_owned(),
            read_only: false,
        };
        Spec {
            attempt: "uid".to_owned(),
            name: "main".to_owned(),
            restarts: 0,
            command: vec!["main".to_owned()],
            args: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            target: None,
            directories: vec![root],
            memory_limit: 16 << 20,
            cpu_limit: None,
            cpu_request: 0,
            security: Security::default(),
            terminal: Terminal::default(),
            layer: Layer::default(),
            log,
        }
    }

    async fn start(&self, text: &str) -> Running {
        self.load(text).await.start(self.spec()).unwrap()
    }

    async fn run(&self, text: &str) -> Ending {
        ended(self.start(text).await).await
    }

    fn log(&self) -> String {
        crate::logs::reader::tail(&self.log_path(), 1000, 1 << 20).unwrap()
    }
}

async fn ended(running: Running) -> Ending {
    let Running { process, ended, .. } = running;
    let ending = timeout(SOON, ended).await.expect("the program ends").unwrap().unwrap();
    drop(process);
    ending
}

/// The processor time that a process has used by now, when it does not change any more.
async fn settled_cpu(process: &dyn Process) -> u64 {
    let mut last = process.usage().cpu_ms;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = process.usage().cpu_ms;
        if now == last {
            return now;
        }
        last = now;
    }
}

async fn until_cpu(process: &dyn Process, at_least: u64) {
    let wait = async {
        while process.usage().cpu_ms < at_least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.expect("the program gets processor time");
}

const LOOP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;
const RECURSION: &str = r#"(module (func $f (export "_start") (call $f) (call $f)))"#;
const TRAP: &str = r#"(module (func (export "_start") unreachable))"#;
const OK: &str = r#"(module (func (export "_start")))"#;

/// Waits in the host for an hour.
const SLEEP: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store8 (i32.const 8) (i32.const 0))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 256) (i32.const 1) (i32.const 512)))))"#;

/// Asks for a page of memory at a time, for ever.
const GROW: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "_start") (loop (drop (memory.grow (i32.const 1))) (br 0))))"#;

/// Fills 8 MiB at a time, for ever.
const FILL: &str = r#"(module
  (memory (export "memory") 128)
  (func (export "_start")
    (loop (memory.fill (i32.const 0) (i32.const 7) (i32.const 8388608)) (br 0))))"#;

/// Prints for ever.
const PRINT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "again and again\0a")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 16))
    (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))) (br 0))))"#;

fn exits_with(code: i32) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (func (export "_start") (call $exit (i32.const {code}))))"#
    )
}

#[tokio::test]
async fn program_that_returns_is_completed() {
    let car = Car::new();
    let ending = car.run(OK).await;
    assert_eq!((ending.code, ending.reason), (0, "Completed"));
}

#[rstest]
#[case(0, 0, "Completed")]
#[case(3, 3, "Error")]
#[case(200, 200, "Error")]
#[case(256, 0, "Completed")]
#[tokio::test]
async fn program_exits_with_its_own_code(#[case] code: i32, #[case] seen: i32, #[case] reason: &str) {
    let ending = Car::new().run(&exits_with(code)).await;
    assert_eq!((ending.code, ending.reason), (seen, reason));
}

#[tokio::test]
async fn trap_is_an_error_that_names_itself() {
    let ending = Car::new().run(TRAP).await;
    assert_eq!((ending.code, ending.reason), (134, "Error"));
    assert!(ending.message.contains("unreachable"), "{}", ending.message);
    let ending = Car::new().run(RECURSION).await;
    assert_eq!(ending.code, 134);
    assert!(ending.message.contains("stack"), "{}", ending.message);
}

#[rstest]
#[case::endless_loop(LOOP)]
#[case::waiting_in_the_host(SLEEP)]
#[case::printing(PRINT)]
#[case::filling_its_memory(FILL)]
#[tokio::test]
async fn program_is_ended_whatever_it_does(#[case] program: &str) {
    let car = Car::new();
    let running = car.start(program).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.process.stop();
    let ending = ended(running).await;
    assert_eq!((ending.code, ending.reason), (137, "Error"));
}

#[tokio::test]
async fn program_that_is_told_to_end_gets_hardly_any_processor_time_more() {
    let car = Car::new();
    let running = car.start(LOOP).await;
    until_cpu(&*running.process, 20).await;
    running.process.kill();
    let told = running.process.usage().cpu_ms;
    // What is promised, in the program's own processor time: a machine that does other things meanwhile does not count.
    let more = ended(running).await.usage.cpu_ms - told;
    assert!(more <= 100, "{more} ms");
}

#[tokio::test]
async fn program_that_nobody_holds_any_more_ends() {
    let car = Car::new();
    let Running { process, ended, .. } = car.start(LOOP).await;
    drop(process);
    assert_eq!(timeout(SOON, ended).await.unwrap().unwrap().unwrap().code, 137);
}

#[rstest]
#[case::by_itself(false)]
#[case::by_the_brake(true)]
#[tokio::test]
async fn frozen_program_gets_no_processor_time_and_thawed_it_goes_on(#[case] brake: bool) {
    let car = Car::new();
    let running = car.start(LOOP).await;
    let process = &*running.process;
    until_cpu(process, 20).await;
    if brake {
        car.brake.send_replace(true);
    } else {
        process.freeze();
    }
    let frozen_at = settled_cpu(process).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(process.usage().cpu_ms, frozen_at);
    if brake {
        car.brake.send_replace(false);
    } else {
        process.thaw();
    }
    until_cpu(process, frozen_at + 20).await;
    process.freeze();
    settled_cpu(process).await;
    process.kill();
    assert_eq!(ended(running).await.code, 137, "a frozen program can be ended");
}

#[tokio::test]
async fn program_started_under_the_brake_waits_for_its_release() {
    let car = Car::new();
    car.brake.send_replace(true);
    let mut running = car.start(OK).await;
    assert!(timeout(Duration::from_millis(200), &mut running.ended).await.is_err());
    car.brake.send_replace(false);
    assert_eq!(ended(running).await.code, 0);
}

#[tokio::test]
async fn program_beyond_its_memory_is_killed_as_a_container_would_be() {
    let car = Car::new();
    let ending = car.run(GROW).await;
    assert_eq!((ending.code, ending.reason), (137, "OOMKilled"));
    assert!(ending.message.contains("16777216"), "{}", ending.message);
    assert!(ending.usage.memory_peak <= 16 << 20 && ending.usage.memory_peak > 15 << 20);
    let ending = car.run(r#"(module (memory 1000) (func (export "_start")))"#).await;
    assert_eq!(ending.reason, "OOMKilled", "also before it starts");
}

#[tokio::test]
async fn program_is_held_to_its_share_of_a_processor() {
    let car = Car::new();
    let program = car.load(LOOP).await;
    let running = program
        .start(Spec {
            cpu_limit: Some(200),
            ..car.spec()
        })
        .unwrap();
    until_cpu(&*running.process, 50).await;
    let (start, before) = (Instant::now(), running.process.usage().cpu_ms);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = running.process.usage().cpu_ms - before;
    let share = f64::from(u32::try_from(used).unwrap()) / start.elapsed().as_secs_f64() / 1000.0;
    assert!(share < 0.3, "{share}");
    running.process.kill();
    ended(running).await;
}

/// Prints its arguments and its environment, one after the other, each with its ending zero.
const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $print (param $length i32)
    (i32.store (i32.const 16) (i32.const 4096))
    (i32.store (i32.const 20) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32))))
  (func (export "_start")
    (drop (call $args_sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 1024) (i32.const 4096)))
    (call $print (i32.load (i32.const 4)))
    (drop (call $env_sizes (i32.const 0) (i32.const 4)))
    (drop (call $env (i32.const 1024) (i32.const 4096)))
    (call $print (i32.load (i32.const 4)))))"#;

#[tokio::test]
async fn program_sees_its_arguments_and_environment() {
    let car = Car::new();
    let spec = Spec {
        command: vec!["echo".to_owned()],
        args: vec!["--index".to_owned(), "3".to_owned()],
        env: vec![("Z".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())],
        working_dir: Some("/work".to_owned()),
        ..car.spec()
    };
    ended(car.load(ECHO).await.start(spec).unwrap()).await;
    assert_eq!(car.log().replace('\0', "|"), "echo|--index|3|Z=1|A=2|PWD=/work|\n");
}

/// Opens the file named at 64 (so many bytes) for writing below the directory with this descriptor, writes 5 bytes, and exits with
/// the error number of opening it.
fn writes(path: &str, descriptor: u32) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 64) "{path}")
          (data (i32.const 512) "hello")
          (func (export "_start")
            (local $error i32)
            (local.set $error (call $open (i32.const {descriptor}) (i32.const 0) (i32.const 64) (i32.const {length})
              (i32.const 9) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0)))
            (if (local.get $error) (then (call $exit (local.get $error))))
            (i32.store (i32.const 16) (i32.const 512))
            (i32.store (i32.const 20) (i32.const 5))
            (drop (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 32)))))"#,
        length = path.len()
    )
}

#[tokio::test]
async fn program_writes_into_its_directories_and_nowhere_else() {
    let car = Car::new();
    assert_eq!(car.run(&writes("out.txt", 3)).await.code, 0);
    assert_eq!(std::fs::read_to_string(car.root().join("out.txt")).unwrap(), "hello");
    assert_ne!(car.run(&writes("../escaped", 3)).await.code, 0);
    std::os::unix::fs::symlink(car.temp.path(), car.root().join("link")).unwrap();
    assert_ne!(car.run(&writes("link/escaped", 3)).await.code, 0);
    assert!(!car.temp.path().join("escaped").exists());
}

#[tokio::test]
async fn program_cannot_write_into_a_read_only_directory() {
    let car = Car::new();
    let model = car.temp.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let mut spec = car.spec();
    spec.directories.push(SpecDirectory {
        host: model.clone(),
        guest: "/model".to_owned(),
        read_only: true,
    });
    let ending = ended(car.load(&writes("x", 4)).await.start(spec).unwrap()).await;
    assert_ne!(ending.code, 0);
    assert!(!model.join("x").exists());
}

#[tokio::test]
async fn directory_that_is_not_there_is_the_cars_error() {
    let car = Car::new();
    let mut spec = car.spec();
    spec.directories[0].host = Path::new("/nonexistent").to_owned();
    assert!(car.load(OK).await.start(spec).is_err());
}

#[rstest]
#[case::text(b"this is not wasm".to_vec(), "not WebAssembly")]
#[case::empty(Vec::new(), "not WebAssembly")]
#[case::component(b"\0asm\x0d\0\x01\0".to_vec(), "component")]
#[case::broken(b"\0asm\x01\0\0\0\xff\xff".to_vec(), "not valid")]
#[case::library(wat::parse_str("(module)").unwrap(), "_start")]
#[case::foreign(wat::parse_str(r#"(module (import "env" "gpu" (func)) (func (export "_start")))"#).unwrap(), "gpu")]
#[tokio::test]
async fn module_that_cannot_run_says_why(#[case] bytes: Vec<u8>, #[case] says: &str) {
    let message = Car::new().load_bytes(&bytes).await.err().expect("it is refused");
    assert!(message.contains(says), "{message}");
}

#[tokio::test]
async fn compiled_code_is_kept_for_the_next_start_of_the_agent() {
    let car = Car::new();
    car.load(ECHO).await;
    let hits = |wasm: &Wasm| wasm.lazy.shared.get().unwrap().cache.cache_hits();
    assert_eq!(hits(&car.wasm), 0);
    let again = Wasm::new(
        &car.temp.path().join("compiled"),
        Compiler::Here,
        watch::channel(false).1,
    );
    let module = car.module(&wat::parse_str(ECHO).unwrap());
    let program = again
        .load(module.clone())
        .await
        .unwrap_or_else(|message| panic!("{message}"));
    assert_eq!(hits(&again), 1);
    // And loaded once only for as long as it is in use.
    let other = again.load(module).await;
    assert!(Arc::ptr_eq(
        &program,
        &other.unwrap_or_else(|message| panic!("{message}"))
    ));
    assert_eq!(hits(&again), 1);
    assert_eq!(ended(program.start(car.spec()).unwrap()).await.code, 0);
}
