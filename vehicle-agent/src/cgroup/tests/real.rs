//! On the kernel's own control groups, of whichever versions this machine has. Without the right to make one there is nothing to test here.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use tokio::time::Instant;

use super::super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < LIMIT, "not {what}");
        std::thread::yield_now();
    }
}

/// The mounts that are there; a machine with both versions has the second one within the first.
fn mounts() -> Vec<PathBuf> {
    let all = [PathBuf::from(MOUNT), Path::new(MOUNT).join("unified")];
    let there = |mount: &PathBuf| {
        mount.join("freezer").is_dir()
            || mount.join("cgroup.freeze").exists()
            || mount.join("cgroup.controllers").exists()
    };
    all.into_iter().filter(there).collect()
}

fn lives_freezes_and_ends(mount: &Path) {
    let own = Cgroup::at(mount, &format!("/kerbside-test-{}", std::process::id()));
    let group = own.child("car").child("u-1");
    if let Err(error) = group.make(Most::default()) {
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ),
            "{}: {error}",
            mount.display()
        );
        eprintln!(
            "NOT TESTED: no control group can be made below {}: {error}",
            mount.display()
        );
        return;
    }
    // It begins when it is in its group, and so does its child.
    let mut program = Command::new("sh")
        .args(["-c", "read begin; sleep 1000 & exec sleep 1000"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let procs = group.directory("freezer").join("cgroup.procs");
    fs::write(procs, program.id().to_string()).unwrap();
    program.stdin.take().unwrap().write_all(b"\n").unwrap();
    // From above: what is in the groups within it is in it.
    let car = own.child("car");
    until("two processes", || car.pids().unwrap().len() == 2);
    assert!(!group.is_frozen().unwrap());
    car.freeze().unwrap();
    until("frozen", || group.is_frozen().unwrap() || car.is_frozen().unwrap());
    car.thaw().unwrap();
    until("thawed", || !car.is_frozen().unwrap());
    // Frozen processes end too.
    group.freeze().unwrap();
    until("frozen again", || group.is_frozen().unwrap());
    let ended = std::thread::spawn(move || program.wait().unwrap().signal());
    car.kill().unwrap();
    assert!(car.pids().unwrap().is_empty());
    assert_eq!(ended.join().unwrap(), Some(9));
    own.remove().unwrap();
    assert!(!own.directory("freezer").exists());
    assert!(own.pids().unwrap().is_empty(), "one that is not there is empty");
    own.kill().unwrap();
}

#[test]
fn processes_are_counted_frozen_and_ended_by_the_kernel() {
    let mounts = mounts();
    if mounts.is_empty() {
        eprintln!("NOT TESTED: this machine has no control groups");
    }
    for mount in &mounts {
        lives_freezes_and_ends(mount);
    }
}
