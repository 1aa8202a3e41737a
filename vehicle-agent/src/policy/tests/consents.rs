//! Consents as the loop sees them: given, taken back, expired, cut off, set back, on a full disk; with the agent running, and no cluster.

use super::*;
use crate::consents::{Book, Giving};

const TWO: &str = "
consent: {givenAt: 2026-11-01T10:00:00Z, classes: [inference, video]}
requirePluggedIn: true
chargeFloorPercent: 50
resumeWithin: 10m
";

fn chain(fixture: &Fixture) -> std::path::PathBuf {
    fixture.temp.path().join("consents/consents.jsonl")
}

impl Fixture {
    /// A car of an owner who has agreed to these classes, and a document that accepts two.
    async fn agreed(purposes: &[&str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("car.yaml"), CAR).unwrap();
        fs::write(temp.path().join("owner.yaml"), TWO).unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        if purposes.is_empty() {
            fs::create_dir(directory.consents()).unwrap();
        } else {
            consented(&directory, purposes, long_ago());
        }
        let fixture = Self::start(temp);
        fixture.parked_for(120).await;
        fixture
    }

    fn withdraw(&self, purpose: &str) {
        let mut book = Book::open(&self.directory(), true).unwrap();
        book.withdraw(Some(&[purpose.to_owned()]), self.clock.wall()).unwrap();
    }

    fn refuses(&self, class: &str) -> Option<String> {
        let outlook = self.outlook.borrow().clone();
        outlook.admit(class, &*self.clock).err().map(|refusal| refusal.reason)
    }

    fn posture_of(&self, class: &str) -> Posture {
        self.outlook.borrow().posture_of(class)
    }

    async fn on_record(&self) -> control::Consents {
        self.ask(Ask::Status).await.status.consents
    }
}

#[tokio::test(start_paused = true)]
async fn car_without_a_record_stays_away_and_says_why_until_one_is_given() {
    let fixture = Fixture::agreed(&[]).await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(
        fixture.refuses("inference").as_deref(),
        Some(reason::OWNER_CONSENT_MISSING)
    );
    let status = fixture.ask(Ask::Status).await.status;
    assert!(status.owner.contains("no record of a consent"), "{}", status.owner);
    assert_eq!(status.consents.purposes[0].says, "none was given");
    consented(&fixture.directory(), &["inference"], fixture.clock.wall());
    fixture.ask(Ask::Consents).await;
    fixture.parked_for(200).await;
    assert_eq!(fixture.standing(), Standing::Available);
    assert_eq!(fixture.said().offer.unwrap().classes, ["inference"]);
    assert_eq!(
        (fixture.refuses("inference"), fixture.refuses("video").is_some()),
        (None, true)
    );
}

#[tokio::test(start_paused = true)]
async fn purpose_that_is_withdrawn_ends_its_work_and_no_other() {
    let fixture = Fixture::agreed(&["inference", "video"]).await;
    assert_eq!(fixture.said().offer.unwrap().classes, ["inference", "video"]);
    fixture.live.send_replace(2);
    fixture.withdraw("video");
    fixture.ask(Ask::Consents).await;
    assert_eq!(fixture.posture_of("inference"), Posture::Run);
    assert!(matches!(fixture.posture_of("video"), Posture::Leave { .. }));
    assert_eq!(fixture.said().offer.unwrap().classes, ["inference"]);
    assert_eq!(fixture.refuses("video").as_deref(), Some(reason::OWNER_CONSENT_MISSING));
    assert_eq!(fixture.standing(), Standing::Available);
}

#[tokio::test(start_paused = true)]
async fn class_for_which_the_owners_expression_is_false_ends_for_that_and_one_for_which_it_is_not_known_stands_still() {
    let fixture = Fixture::agreed(&["inference", "video"]).await;
    fixture.live.send_replace(2);
    let says = |when: &str| fs::write(fixture.temp.path().join("owner.yaml"), format!("{TWO}when: {when}\n")).unwrap();
    // Nothing measures energy in this car.
    says("class == 'inference' || whToday < 1000");
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert_eq!(fixture.standing(), Standing::Paused);
    assert_eq!(fixture.posture_of("video"), Posture::Freeze);
    assert_eq!(fixture.posture_of("inference"), Posture::Freeze);
    says("class == 'inference' || chargePercent > 99");
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert!(matches!(fixture.posture_of("video"), Posture::Leave { .. }));
    let outlook = fixture.outlook.borrow().clone();
    assert_eq!(outlook.why_no_more("video").0, reason::OWNER_TERMS);
    assert_eq!(outlook.why_no_more("training").0, reason::OWNER_CONSENT_MISSING);
}

#[tokio::test(start_paused = true)]
async fn class_that_the_document_names_no_more_ends_its_work_and_no_other_although_its_consent_holds() {
    let fixture = Fixture::agreed(&["inference", "video"]).await;
    fixture.live.send_replace(2);
    assert_eq!(fixture.posture_of("video"), Posture::Run);
    let narrowed = TWO.replace("[inference, video]", "[inference]");
    fs::write(fixture.temp.path().join("owner.yaml"), narrowed).unwrap();
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert!(matches!(fixture.posture_of("video"), Posture::Leave { .. }));
    assert_eq!(fixture.posture_of("inference"), Posture::Run);
    assert_eq!(fixture.refuses("video").as_deref(), Some(reason::CLASS_NOT_ACCEPTED));
    assert_eq!(fixture.standing(), Standing::Available);
    let record = fixture.on_record().await;
    let video = record.purposes.iter().find(|purpose| purpose.purpose == "video");
    assert!(video.is_some_and(|video| video.holds), "{record:?}");
}

#[tokio::test(start_paused = true)]
async fn last_purpose_that_is_withdrawn_brakes_the_car_within_a_second_though_nobody_tells_the_agent() {
    let fixture = Fixture::agreed(&["inference"]).await;
    fixture.live.send_replace(1);
    fixture.withdraw("inference");
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert!(*fixture.brake.borrow());
    assert_eq!(fixture.standing(), Standing::Leaving);
    let record = fixture.on_record().await;
    assert!(record.purposes[0].says.contains("withdrawn"), "{record:?}");
}

#[tokio::test(start_paused = true)]
async fn consent_that_expires_ends_work_and_stays_expired_when_the_clock_is_set_back() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("car.yaml"), CAR).unwrap();
    fs::write(temp.path().join("owner.yaml"), OWNER).unwrap();
    let directory = Directory::open(temp.path()).unwrap();
    crate::identity::write(&directory, &crate::testing::identity()).unwrap();
    let clock = Arc::new(SetClock::new());
    let giving = Giving {
        purposes: &["inference".to_owned()],
        lasts: Some(jiff::SignedDuration::from_mins(5)),
        method: "a test",
    };
    Book::open(&directory, true)
        .unwrap()
        .give(giving, clock.wall())
        .unwrap();
    let (feed, source) = mpsc::unbounded_channel();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let fixture = Fixture::by(shared, temp, Box::new(Fed(source)), feed);
    fixture.parked_for(120).await;
    assert_eq!(fixture.standing(), Standing::Available);
    fixture.parked_for(200).await;
    assert_eq!(fixture.standing(), Standing::Away);
    let written = fs::read_to_string(chain(&fixture)).unwrap();
    assert_eq!(written.lines().count(), 2, "it is written down");
    clock.set(-1_200_000);
    fixture.parked_for(300).await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert!(fixture.on_record().await.purposes[0].says.contains("expired"));
}

#[tokio::test(start_paused = true)]
async fn clock_that_was_set_back_while_no_agent_ran_gives_nothing_back() {
    let fixture = Fixture::agreed(&["inference"]).await;
    // The mark knows when the first agent ran; the second one wakes up before that, and its consent was given long before.
    let clock = Arc::new(SetClock::new());
    clock.set(-86_400_000);
    let (feed, source) = mpsc::unbounded_channel();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let again = Fixture::by(shared, fixture.temp, Box::new(Fed(source)), feed);
    again.parked_for(200).await;
    assert_eq!(again.standing(), Standing::Away);
    assert_eq!(again.said().fault, reason::CLOCK_NOT_TRUSTED);
    let says = again.on_record().await.purposes[0].says.clone();
    assert!(says.contains("clock shows an earlier time"), "{says}");
}

#[tokio::test(start_paused = true)]
async fn chain_that_is_cut_off_while_the_car_works_stops_it_and_status_says_why() {
    for cut in [0, 1, 40] {
        let fixture = Fixture::agreed(&["inference", "video"]).await;
        fixture.live.send_replace(1);
        let whole = fs::read(chain(&fixture)).unwrap();
        // To nothing, before the end of a line, and within one.
        let kept = if cut == 0 { 0 } else { whole.len() - cut };
        fs::write(chain(&fixture), &whole[..kept]).unwrap();
        tokio::time::sleep(Duration::from_millis(1010)).await;
        assert!(*fixture.brake.borrow(), "cut {cut}");
        assert_eq!(
            fixture.refuses("inference").as_deref(),
            Some(reason::OWNER_CONSENT_MISSING)
        );
        let trouble = fixture.on_record().await.trouble;
        assert_eq!(fixture.said().fault, reason::STATE_NOT_TRUSTED);
        assert!(trouble.contains("cut off") || trouble.contains("set back"), "{trouble}");
    }
}

#[tokio::test(start_paused = true)]
async fn agent_whose_consents_were_set_back_to_before_a_withdrawal_does_not_work() {
    let fixture = Fixture::agreed(&["inference"]).await;
    let old = fs::read(chain(&fixture)).unwrap();
    fixture.withdraw("inference");
    fs::write(chain(&fixture), old).unwrap();
    let again = Fixture::start(fixture.temp);
    again.parked_for(200).await;
    assert_eq!(again.standing(), Standing::Away);
    assert!(again.on_record().await.trouble.contains("set back to an old state"));
    // The owner says it anew: a new chain begins, and the car works.
    consented(&again.directory(), &["inference"], again.clock.wall());
    again.parked_for(200).await;
    assert_eq!(again.standing(), Standing::Available);
}

#[tokio::test(start_paused = true)]
async fn new_notice_needs_a_new_consent() {
    let fixture = Fixture::agreed(&["inference"]).await;
    assert_eq!(fixture.standing(), Standing::Available);
    let notice =
        "{version: '2', language: en, controller: Acme, jurisdiction: EU, retention: a year, text: Read this.}";
    fs::write(fixture.temp.path().join("notice.yaml"), notice).unwrap();
    fixture.parked_for(30).await;
    assert_eq!(fixture.standing(), Standing::Away);
    let says = fixture.on_record().await.purposes[0].says.clone();
    assert!(says.contains("notice has changed"), "{says}");
    consented(&fixture.directory(), &["inference"], fixture.clock.wall());
    fixture.parked_for(200).await;
    assert_eq!(fixture.standing(), Standing::Available);
    fs::write(fixture.temp.path().join("notice.yaml"), "{version: '3'").unwrap();
    fixture.parked_for(30).await;
    assert_eq!(fixture.standing(), Standing::Away);
}

#[tokio::test(start_paused = true)]
async fn car_that_is_to_forget_works_for_nobody_until_it_has_whoever_agrees_to_what() {
    let fixture = Fixture::agreed(&["inference"]).await;
    assert_eq!(
        (fixture.standing(), fixture.refuses("inference")),
        (Standing::Available, None)
    );
    // Everything else says yes: the document, the record, the command.
    fs::write(fixture.directory().forgetting(), "{}").unwrap();
    fixture.live.send_replace(1);
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert!(*fixture.brake.borrow());
    assert_eq!(fixture.standing(), Standing::Leaving);
    let outlook = fixture.outlook.borrow().clone();
    let refusal = outlook.admit("inference", &*fixture.clock).unwrap_err();
    assert_eq!(refusal.reason, reason::OWNER_CONSENT_MISSING);
    assert!(
        refusal.message.contains("is to forget its owner"),
        "{}",
        refusal.message
    );
    let status = fixture.ask(Ask::Status).await.status;
    assert!(
        status.why_not.contains("forget") && status.owner.contains("forget"),
        "{status:?}"
    );
    // Nor after a restart, from its first moment on.
    let again = Fixture::start(fixture.temp);
    again.parked_for(200).await;
    assert_eq!(again.standing(), Standing::Away);
    fs::remove_file(again.directory().forgetting()).unwrap();
    again.ask(Ask::Consents).await;
    again.parked_for(200).await;
    assert_eq!(again.standing(), Standing::Available);
}

/// What replaces a file writes another one first, which nobody can where a directory is: as on a disk that is full, while a file can be emptied.
fn fill_the_disk(fixture: &Fixture) {
    fs::create_dir(fixture.temp.path().join("command.new")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn withdrawal_or_pause_that_a_full_disk_does_not_take_is_a_withdrawal_after_a_restart() {
    for ask in [Ask::Withdraw, Ask::Pause] {
        let fixture = Fixture::available().await;
        fill_the_disk(&fixture);
        let says = fixture.ask(ask).await.text;
        assert!(says.contains("the disk did not take it"), "{says}");
        assert!(!*fixture.kept.borrow());
        assert!(*fixture.brake.borrow(), "{ask:?} holds, written down or not");
        let again = Fixture::start(fixture.temp);
        again.parked_for(200).await;
        assert_eq!(again.standing(), Standing::Away, "{ask:?}");
        assert_eq!(again.refusal().as_deref(), Some(reason::OWNER_CONSENT_MISSING));
        again.ask(Ask::Resume).await;
        again.parked_for(200).await;
        assert_eq!(again.standing(), Standing::Away, "nothing that was said before ends it");
    }
}

#[tokio::test(start_paused = true)]
async fn word_that_a_full_disk_did_not_take_is_written_down_when_there_is_room_unless_another_was_said() {
    let fixture = Fixture::available().await;
    let file = fixture.directory().command();
    let written = || control::remembered(&file, Timestamp::UNIX_EPOCH).command(None);
    fill_the_disk(&fixture);
    fixture.ask(Ask::Pause).await;
    let again = fixture.ask(Ask::Pause).await.text;
    assert!(again.contains("the disk did not take it"), "{again}");
    fs::remove_dir(fixture.temp.path().join("command.new")).unwrap();
    fixture.parked_for(10).await;
    assert_eq!((written(), *fixture.kept.borrow()), (Command::Pause, true));
    fill_the_disk(&fixture);
    fixture.ask(Ask::Resume).await;
    fs::remove_dir(fixture.temp.path().join("command.new")).unwrap();
    let says = fixture.ask(Ask::Pause).await.text;
    assert!(!says.contains("the disk"), "{says}");
    fixture.parked_for(10).await;
    assert_eq!((written(), *fixture.kept.borrow()), (Command::Pause, true));
}

#[tokio::test(start_paused = true)]
async fn resumption_that_a_full_disk_does_not_take_leaves_the_pause_and_takes_no_consent_back() {
    let fixture = Fixture::available().await;
    fixture.ask(Ask::Pause).await;
    fill_the_disk(&fixture);
    assert_eq!(fixture.ask(Ask::Resume).await.status.standing, "available");
    let again = Fixture::start(fixture.temp);
    again.parked_for(200).await;
    assert_eq!(again.refusal().as_deref(), Some(reason::OWNER_PAUSED));
}

#[tokio::test(start_paused = true)]
async fn receipt_of_what_starts_names_the_record_of_its_class() {
    let fixture = Fixture::agreed(&["inference", "video"]).await;
    let outlook = fixture.outlook.borrow().clone();
    let named = |class: &str| outlook.consent_to(class, fixture.clock.wall()).unwrap().record;
    assert_eq!(named("inference").unwrap().sequence, 1);
    assert_eq!(named("video").unwrap().sequence, 2);
    assert_eq!(named("training"), None);
}

#[tokio::test(start_paused = true)]
async fn class_whose_consent_the_loop_has_seen_the_end_of_is_not_admitted_though_the_wall_clock_says_otherwise() {
    let fixture = Fixture::available().await;
    let mut outlook = fixture.outlook.borrow().clone();
    outlook.admit("inference", &*fixture.clock).unwrap();
    outlook.consented = Arc::default();
    let refusal = outlook.admit("inference", &*fixture.clock).unwrap_err();
    assert_eq!(refusal.reason, reason::OWNER_CONSENT_MISSING);
}

#[tokio::test(start_paused = true)]
async fn consents_that_run_out_one_after_the_other_are_written_down_as_they_do() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("car.yaml"), CAR).unwrap();
    fs::write(temp.path().join("owner.yaml"), OWNER).unwrap();
    let directory = Directory::open(temp.path()).unwrap();
    crate::identity::write(&directory, &crate::testing::identity()).unwrap();
    let mut book = Book::open(&directory, true).unwrap();
    for (purpose, lasts) in [("inference", 140), ("video", 150)] {
        let giving = Giving {
            purposes: &[purpose.to_owned()],
            lasts: Some(jiff::SignedDuration::from_secs(lasts)),
            method: "a test",
        };
        book.give(giving, TokioClock::new().wall()).unwrap();
    }
    drop(book);
    let fixture = Fixture::start(temp);
    fixture.parked_for(150).await;
    assert_eq!(fs::read_to_string(chain(&fixture)).unwrap().lines().count(), 4);
}

#[tokio::test(start_paused = true)]
async fn clock_that_is_set_back_again_and_again_keeps_no_consent_from_its_end() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("car.yaml"), CAR).unwrap();
    fs::write(temp.path().join("owner.yaml"), OWNER).unwrap();
    let directory = Directory::open(temp.path()).unwrap();
    crate::identity::write(&directory, &crate::testing::identity()).unwrap();
    let clock = Arc::new(SetClock::new());
    let giving = Giving {
        purposes: &["inference".to_owned()],
        lasts: Some(jiff::SignedDuration::from_hours(2)),
        method: "a test",
    };
    Book::open(&directory, true)
        .unwrap()
        .give(giving, clock.wall())
        .unwrap();
    let began = clock.wall();
    let (feed, source) = mpsc::unbounded_channel();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let fixture = Fixture::by(shared, temp, Box::new(Fed(source)), feed);
    fixture.parked_for(2990).await;
    assert_eq!(fixture.standing(), Standing::Available);
    // Never by an hour, and always by so much that it is as it was.
    for behind in 1..=2 {
        clock.set(-2_990_000 * behind);
        fixture.parked_for(2990).await;
    }
    assert!(
        clock.wall() < began + Duration::from_secs(3600),
        "half of its time has not passed by this clock"
    );
    assert_eq!(fixture.standing(), Standing::Away);
    let says = fixture.on_record().await.purposes[0].says.clone();
    assert!(says.contains("expired"), "{says}");
    assert_eq!(fs::read_to_string(chain(&fixture)).unwrap().lines().count(), 2);
}
