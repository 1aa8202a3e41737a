//! On directories that look like the kernel's.

mod real;

use super::*;

/// A mount of the first version, with these controllers, or of the second.
fn mount(controllers: &[&str]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    if controllers.is_empty() {
        fs::write(temp.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    }
    for controller in controllers {
        fs::create_dir(temp.path().join(controller)).unwrap();
    }
    temp
}

const MOST: Most = Most {
    memory: Some(1 << 20),
    cpu: Some(1500),
    pids: Some(64),
    disk: None,
};

#[test]
fn group_of_the_first_version_is_made_and_bounded_in_each_controller_that_is_there() {
    let mount = mount(&["freezer", "memory", "cpu", "pids"]);
    let group = Cgroup::at(mount.path(), "/kerbside/car").child("u-1");
    assert!(!group.is_unified() && group.name() == "/kerbside/car/u-1");
    group.make(MOST).unwrap();
    let read = |path: &str| fs::read_to_string(mount.path().join(path)).unwrap();
    assert_eq!(read("memory/kerbside/car/u-1/memory.limit_in_bytes"), "1048576");
    assert_eq!(read("cpu/kerbside/car/u-1/cpu.cfs_quota_us"), "150000");
    assert_eq!(read("pids/kerbside/car/u-1/pids.max"), "64");
    assert!(!mount.path().join("blkio").exists());
    group.freeze().unwrap();
    assert_eq!(read("freezer/kerbside/car/u-1/freezer.state"), "FROZEN");
    assert!(group.is_frozen().unwrap());
    group.thaw().unwrap();
    assert_eq!(read("freezer/kerbside/car/u-1/freezer.state"), "THAWED");
}

#[test]
fn group_of_the_second_version_has_one_directory_whose_controllers_go_down_to_it() {
    let mount = mount(&[]);
    let group = Cgroup::at(mount.path(), "/kerbside/car");
    group.make(MOST).unwrap();
    let read = |path: &str| fs::read_to_string(mount.path().join(path)).unwrap();
    assert!(group.is_unified());
    assert_eq!(read("kerbside/car/memory.max"), "1048576");
    assert_eq!(read("kerbside/car/cpu.max"), "150000 100000");
    assert_eq!(read("kerbside/car/pids.max"), "64");
    assert_eq!(
        read("kerbside/cgroup.subtree_control"),
        "+io",
        "each is one write; the last one is seen here"
    );
    group.freeze().unwrap();
    assert_eq!(read("kerbside/car/cgroup.freeze"), "1");
}

#[test]
fn bound_without_a_controller_is_an_error_that_names_the_file() {
    let mount = mount(&["freezer", "memory", "cpu"]);
    let group = Cgroup::at(mount.path(), "/kerbside/car");
    let message = group.make(MOST).unwrap_err().to_string();
    assert!(message.contains("pids.max"), "{message}");
}

#[test]
fn processes_of_all_groups_within_are_found_and_what_was_used_is_read() {
    let mount = mount(&["freezer", "memory", "cpuacct"]);
    let group = Cgroup::at(mount.path(), "/kerbside/car");
    assert_eq!(group.pids().unwrap(), [], "one that is not there is empty");
    group.kill().unwrap();
    let write = |path: &str, text: &str| {
        let path = mount.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("freezer/kerbside/car/cgroup.procs", "7\n");
    // Zero is a process that cannot be seen from here.
    write("freezer/kerbside/car/u-1/c/cgroup.procs", "8\n0\n9\n");
    let pids: Vec<_> = group.pids().unwrap().iter().map(|pid| pid.as_raw_pid()).collect();
    assert_eq!(pids, [7, 8, 9]);
    write("cpuacct/kerbside/car/cpuacct.usage", "1234567890\n");
    write("memory/kerbside/car/memory.max_usage_in_bytes", "4096\n");
    let usage = group.usage();
    assert_eq!((usage.cpu_ms, usage.memory_peak), (1234, 4096));
}

#[test]
fn rate_of_a_disk_is_bounded_in_the_words_of_each_version() {
    let disks = ["254:0".to_owned(), "259:3".to_owned()];
    let first = mount(&["freezer", "blkio"]);
    let group = Cgroup::at(first.path(), "/kerbside/car/u-1");
    // The kernel keeps a line for each disk; a file keeps the last.
    group.bound_disks(1 << 20, &disks).unwrap();
    let read = |mount: &Path, path: &str| fs::read_to_string(mount.join("blkio/kerbside/car/u-1").join(path)).unwrap();
    assert_eq!(read(first.path(), "blkio.throttle.read_bps_device"), "259:3 1048576");
    assert_eq!(read(first.path(), "blkio.throttle.write_bps_device"), "259:3 1048576");
    let second = mount(&[]);
    let group = Cgroup::at(second.path(), "/kerbside/car/u-1");
    group.bound_disks(1 << 20, &disks[..1]).unwrap();
    let text = fs::read_to_string(second.path().join("kerbside/car/u-1/io.max")).unwrap();
    assert_eq!(text, "254:0 rbps=1048576 wbps=1048576");
    // Where nothing is to be bounded nothing is written.
    let none = mount(&["freezer"]);
    Cgroup::at(none.path(), "/kerbside/car").bound_disks(0, &[]).unwrap();
}
