//! On a directory that looks like the kernel's.

use super::*;

fn caged() -> (tempfile::TempDir, Cage, impl Fn() -> String) {
    let mount = tempfile::tempdir().unwrap();
    let group = Cgroup::at(mount.path(), "/c");
    std::fs::create_dir_all(mount.path().join("freezer/c")).unwrap();
    let state = mount.path().join("freezer/c/freezer.state");
    let cage = Cage::new("main".to_owned());
    cage.made(group);
    let told = move || std::fs::read_to_string(&state).unwrap_or_default();
    (mount, cage, told)
}

#[tokio::test(start_paused = true)]
async fn container_stands_still_while_its_attempt_is_frozen_or_the_brake_is_on() {
    let (_mount, cage, told) = caged();
    cage.brake(true);
    cage.freeze(true);
    assert_eq!(told(), "FROZEN");
    cage.freeze(false);
    assert_eq!(told(), "FROZEN", "the brake is on");
    cage.brake(false);
    assert_eq!(told(), "THAWED");
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_to_end_while_standing_still_takes_leave_but_not_for_long() {
    let (_mount, cage, told) = caged();
    cage.brake(true);
    cage.end();
    assert_eq!(told(), "THAWED");
    tokio::time::advance(LEAVE).await;
    cage.look();
    assert_eq!(told(), "FROZEN");
    cage.end();
    assert_eq!(told(), "FROZEN", "once");
}

#[tokio::test(start_paused = true)]
async fn who_was_asked_to_end_before_somebody_came_stands_still_like_all_others() {
    let (_mount, cage, told) = caged();
    cage.end();
    cage.freeze(true);
    assert_eq!(told(), "FROZEN");
}
