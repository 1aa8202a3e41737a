//! The disk hangs under what the loop has read or written. What hangs here is a pipe that nobody writes to, or reads from, in the place of a file.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::consents::{Book, Giving};

/// A file that somebody reads, and hangs in until this is dropped.
struct Hanging {
    writer: File,
    text: String,
}

impl Hanging {
    /// In the place of `path`; returns when somebody reads it. In the end it reads `text`.
    async fn at(path: &Path, text: &str) -> Self {
        let pipe = path.with_extension("pipe");
        mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        fs::rename(&pipe, path).unwrap();
        let (tell, told) = oneshot::channel();
        let path = path.to_owned();
        // Who opens one end waits for the other. Not one of the runtime's own threads: a paused clock would stand still meanwhile.
        std::thread::spawn(move || tell.send(OpenOptions::new().write(true).open(path).unwrap()));
        let writer = tokio::time::timeout(Duration::from_secs(20), told).await;
        Self {
            writer: writer.expect("somebody reads it").unwrap(),
            text: text.to_owned(),
        }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Its end comes with the end of this one. A test that has failed already must not fail twice.
        let _ = self.writer.write_all(self.text.as_bytes());
    }
}

/// Lets time pass while a thread hangs: a paused clock does not advance by itself then.
async fn passes(time: Duration) {
    let step = Duration::from_millis(20);
    for _ in 0..=time.as_millis() / step.as_millis() {
        tokio::time::advance(step).await;
    }
}

/// Has the agent hang in the owner's document.
async fn hangs(fixture: &Fixture) -> Hanging {
    Hanging::at(&fixture.temp.path().join("owner.yaml"), OWNER).await
}

/// Puts the owner's document back, and lets go who hangs.
fn goes_on(fixture: &Fixture, hanging: Hanging) {
    let new = fixture.temp.path().join("owner.new");
    fs::write(&new, OWNER).unwrap();
    fs::rename(new, fixture.temp.path().join("owner.yaml")).unwrap();
    drop(hanging);
}

#[tokio::test(start_paused = true)]
async fn loop_goes_on_judging_while_the_disk_hangs() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    let hanging = hangs(&fixture).await;
    assert_eq!(fixture.posture(), Posture::Run);
    fixture.set(vec![open_door()]);
    passes(Duration::from_millis(20)).await;
    assert!(*fixture.brake.borrow());
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Paused, Posture::Freeze)
    );
    passes(Duration::from_secs(20)).await;
    assert_eq!(
        fixture.watched.look(fixture.clock.boottime(), fixture.clock.awake()),
        Some(false),
        "it has looked all the time"
    );
    let status = fixture.ask(Ask::Status).await.status;
    assert_eq!(status.standing, "paused");
    assert!(!status.stalled.contains("did not look"), "{}", status.stalled);
    goes_on(&fixture, hanging);
    fixture.parked_for(130).await;
    assert_eq!(fixture.standing(), Standing::Available);
}

#[tokio::test(start_paused = true)]
async fn car_whose_disk_does_not_answer_stands_still_for_what_its_owner_takes_back_is_not_seen() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    let hanging = hangs(&fixture).await;
    passes(Duration::from_secs(9)).await;
    assert!(!*fixture.brake.borrow(), "a disk may be slow");
    assert_eq!(fixture.said().fault, "");
    passes(Duration::from_secs(3)).await;
    assert!(*fixture.brake.borrow());
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Paused, Posture::Freeze)
    );
    assert_eq!(fixture.said().fault, reason::AGENT_STALLED);
    let status = fixture.ask(Ask::Status).await.status;
    let says = "the disk has not answered";
    assert!(
        status.why_not.contains(says) && status.stalled.contains(says),
        "{status:?}"
    );
    fixture.signal(path::IS_MOVING, Value::Bool(true));
    passes(Duration::from_millis(20)).await;
    assert_eq!(
        fixture.standing(),
        Standing::Leaving,
        "a car that drives leaves all the same"
    );
    fixture.live.send_replace(0);
    goes_on(&fixture, hanging);
    fixture.parked_for(130).await;
    assert_eq!(
        (fixture.standing(), fixture.said().fault),
        (Standing::Available, String::new())
    );
}

#[tokio::test(start_paused = true)]
async fn owners_word_holds_at_once_while_the_disk_hangs_and_is_answered_when_it_is_kept() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    let hanging = hangs(&fixture).await;
    let (reply, mut answer) = oneshot::channel();
    fixture.requests.send((Ask::Withdraw, reply)).await.unwrap();
    passes(Duration::from_millis(20)).await;
    assert!(*fixture.brake.borrow());
    assert_eq!(fixture.standing(), Standing::Leaving);
    assert!(answer.try_recv().is_err(), "it is not kept yet");
    let file = fixture.directory().command();
    assert!(!file.exists());
    goes_on(&fixture, hanging);
    assert!(answer.await.unwrap().text.contains("withdr"));
    let kept = control::remembered(&file, fixture.clock.wall());
    assert_eq!(kept.command(None), Command::Withdraw);
}

#[tokio::test(start_paused = true)]
async fn word_that_the_disk_does_not_take_in_time_is_answered_as_that_and_kept_when_it_does() {
    let fixture = Fixture::available().await;
    let hanging = hangs(&fixture).await;
    let (reply, mut answer) = oneshot::channel();
    fixture.requests.send((Ask::Pause, reply)).await.unwrap();
    passes(words::ANSWER.saturating_sub(Duration::from_millis(100))).await;
    assert!(answer.try_recv().is_err(), "the disk may answer still");
    passes(Duration::from_millis(200)).await;
    let says = answer.try_recv().unwrap().text;
    assert!(says.contains("not written down yet"), "{says}");
    assert!(!*fixture.kept.borrow(), "who ends the agent waits for it");
    goes_on(&fixture, hanging);
    let mut kept = fixture.kept.clone();
    kept.wait_for(|kept| *kept).await.unwrap();
    let file = fixture.directory().command();
    assert_eq!(
        control::remembered(&file, fixture.clock.wall()).command(None),
        Command::Pause
    );
}

#[tokio::test(start_paused = true)]
async fn word_that_comes_by_a_signal_is_waited_for_at_the_end_as_any_other() {
    let fixture = Fixture::available().await;
    let hanging = hangs(&fixture).await;
    assert!(*fixture.kept.borrow(), "nothing was said");
    let said = Update {
        owner: Some(OwnerWord::Withdraw),
        ..Update::default()
    };
    fixture.feed.send(said).unwrap();
    fixture.ending.send_replace(true);
    passes(Duration::from_millis(20)).await;
    let mut kept = fixture.kept.clone();
    assert!(!*kept.borrow());
    goes_on(&fixture, hanging);
    kept.wait_for(|kept| *kept).await.unwrap();
    let file = fixture.directory().command();
    assert_eq!(
        control::remembered(&file, fixture.clock.wall()).command(None),
        Command::Withdraw
    );
}

#[tokio::test(start_paused = true)]
async fn consent_that_runs_out_while_the_disk_hangs_ends_its_work_at_once() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("car.yaml"), CAR).unwrap();
    fs::write(temp.path().join("owner.yaml"), OWNER).unwrap();
    let directory = Directory::open(temp.path()).unwrap();
    crate::identity::write(&directory, &crate::testing::identity()).unwrap();
    let giving = Giving {
        purposes: &["inference".to_owned()],
        lasts: Some(jiff::SignedDuration::from_secs(140)),
        method: "a test",
    };
    let mut book = Book::open(&directory, true).unwrap();
    book.give(giving, TokioClock::new().wall()).unwrap();
    drop(book);
    let fixture = Fixture::start(temp);
    fixture.parked_for(120).await;
    assert_eq!(fixture.standing(), Standing::Available);
    fixture.live.send_replace(1);
    let hanging = hangs(&fixture).await;
    let over = Duration::from_secs(1140).saturating_sub(fixture.clock.boottime().0);
    passes(over).await;
    passes(Duration::from_secs(1)).await;
    assert!(*fixture.brake.borrow());
    assert!(matches!(
        fixture.outlook.borrow().posture_of("inference"),
        Posture::Leave { .. }
    ));
    goes_on(&fixture, hanging);
    fixture.parked_for(10).await;
    let written = fs::read_to_string(directory.consents().join("consents.jsonl")).unwrap();
    assert_eq!(written.lines().count(), 2, "it is written down when the disk is back");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_for_a_moment_is_read_again_though_no_file_has_changed() {
    let fixture = Fixture::available().await;
    let receipts = fixture.temp.path().join("receipts");
    // Where the keys are is a file, when the consents have to be read again.
    fs::rename(receipts.join("keys"), receipts.join("aside")).unwrap();
    fs::write(receipts.join("keys"), "").unwrap();
    let mark = fixture.directory().consents_mark();
    let same = fs::read(&mark).unwrap();
    fs::write(&mark, same).unwrap();
    fixture.parked_for(20).await;
    assert_eq!(fixture.standing(), Standing::Away);
    let trouble = fixture.ask(Ask::Status).await.status.consents.trouble;
    assert!(trouble.contains("cannot be read"), "{trouble}");
    fs::remove_file(receipts.join("keys")).unwrap();
    fs::rename(receipts.join("aside"), receipts.join("keys")).unwrap();
    fixture.parked_for(200).await;
    assert_eq!(fixture.standing(), Standing::Available);
}
