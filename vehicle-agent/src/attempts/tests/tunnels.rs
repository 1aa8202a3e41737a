//! People in the car's Pods: who gets in, who has to leave, and what the owner sees of it.

use kerbside_core::owner::Document;
use kerbside_link::fault::FaultKind;
use kerbside_link::proto::{Attach, Exec, PortForward, Streams, TunnelPart, open_tunnel};

use super::*;

fn typed(data: &'static str) -> TunnelPart {
    TunnelPart {
        data: Bytes::from_static(data.as_bytes()),
        ..TunnelPart::default()
    }
}

fn exec(container: &str) -> open_tunnel::What {
    open_tunnel::What::Exec(Exec {
        container: container.to_owned(),
        command: vec!["sh".to_owned(), "-i".to_owned()],
        streams: Some(both()),
    })
}

fn both() -> Streams {
    Streams {
        stdin: true,
        stdout: true,
        ..Streams::default()
    }
}

fn frozen() -> State {
    State::Paused {
        since: Boottime::default(),
        parked_since: None,
        cause: Cause::Owner,
    }
}

impl Fixture {
    /// The owner's document lets people in, and this is how the car stands.
    fn lets_in(&self, state: State, command: Command) {
        let document = Document {
            allow_exec: true,
            ..owner()
        };
        self.outlook.send_replace(Outlook {
            document: Some(Arc::new(document)),
            command,
            ..outlook(&*self.clock, state)
        });
    }

    async fn knocks(&self, request_id: &str, what: open_tunnel::What) {
        self.link(Event::OpenTunnel(OpenTunnel {
            request_id: request_id.to_owned(),
            uid: "u-1".to_owned(),
            user: "ann".to_owned(),
            what: Some(what),
        }))
        .await;
    }

    /// The visits, once the newest is as wanted.
    async fn visits(&self, wanted: impl Fn(&Visit) -> bool) -> Vec<Visit> {
        let mut visits = self.visits.clone();
        let found = visits.wait_for(|visits| visits.last().is_some_and(&wanted));
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        found
            .expect("the owner is told")
            .expect("the supervisor is there")
            .clone()
    }
}

#[tokio::test]
async fn somebody_types_in_a_program_and_the_owner_sees_it_until_they_have_gone() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    fixture.lets_in(available(), Command::None);
    fixture.knocks("t", exec("classify")).await;
    let (says, mut hears) = fixture.cluster.opened("t").await;
    says.send(typed("hello")).await.unwrap();
    let part = hears.recv().await.unwrap();
    assert_eq!((part.channel, part.data.as_ref()), (1, b"hello".as_slice()));
    let command = vec!["sh".to_owned(), "-i".to_owned()];
    assert_eq!(process.sessions(), [(Some(command), both())]);
    let seen = fixture.visits(|visit| visit.to.is_none()).await;
    assert_eq!(
        (
            seen.len(),
            seen[0].user.as_str(),
            seen[0].pod.as_str(),
            seen[0].what.as_str()
        ),
        (1, "ann", "vision/digits-3-abcde", "runs \"sh -i\" in classify")
    );
    assert_eq!(seen[0].refused, "");
    fixture.link(Event::CloseTunnel("t".to_owned())).await;
    assert!(hears.recv().await.is_none());
    fixture
        .visits(|visit| visit.to.is_some() && visit.refused.is_empty())
        .await;
}

#[tokio::test]
async fn nobody_gets_in_whom_the_owner_does_not_let_in_and_the_owner_sees_who_wanted_to() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    fixture.knocks("t", exec("classify")).await;
    let why = fixture.cluster.refused("t").await;
    assert_eq!(why.kind(), FaultKind::Denied);
    let seen = fixture.visits(|visit| visit.to.is_some()).await;
    assert!(seen[0].refused.contains("allowExec"), "{seen:?}");
    assert!(process.sessions().is_empty());
}

/// Each of these ends work, or is the owner's no.
#[rstest::rstest]
#[case::taken_back(None, "allowExec")]
#[case::paused_by_the_owner(Some((frozen(), Command::Pause)), "stands still or ends")]
#[case::withdrawn(Some((available(), Command::Withdraw)), "stands still or ends")]
#[tokio::test]
async fn whoever_is_in_has_to_leave_when_the_owner_says_so(#[case] then: Option<(State, Command)>, #[case] says: &str) {
    let fixture = Fixture::new();
    fixture.running("u-1").await;
    fixture.lets_in(available(), Command::None);
    fixture.knocks("t", exec("classify")).await;
    let (_they, mut hears) = fixture.cluster.opened("t").await;
    match then {
        None => fixture.car(available()),
        Some((state, command)) => fixture.lets_in(state, command),
    }
    let last = hears.recv().await.unwrap();
    assert_eq!((last.channel, last.end), (3, true));
    let status: Json = serde_json::from_slice(&last.data).unwrap();
    assert_eq!(status["status"], "Failure");
    assert!(status["message"].as_str().unwrap().contains(says), "{status}");
    assert!(hears.recv().await.is_none());
    fixture.visits(|visit| visit.to.is_some()).await;
}

#[tokio::test]
async fn session_stands_still_with_its_program_and_nobody_new_comes_in() {
    let fixture = Fixture::new();
    fixture.running("u-1").await;
    fixture.lets_in(available(), Command::None);
    fixture.knocks("t", exec("classify")).await;
    let (says, mut hears) = fixture.cluster.opened("t").await;
    fixture.lets_in(frozen(), Command::None);
    fixture.phase("u-1", AttemptPhase::Frozen).await;
    says.send(typed("hello")).await.unwrap();
    fixture.knocks("second", exec("classify")).await;
    let why = fixture.cluster.refused("second").await;
    assert_eq!(why.kind(), FaultKind::Unavailable);
    assert!(
        hears.try_recv().is_err(),
        "no byte of a program leaves a car that stands still"
    );
    fixture.lets_in(available(), Command::None);
    assert_eq!(hears.recv().await.unwrap().data.as_ref(), b"hello");
}

#[rstest::rstest]
#[case::no_such_container(exec("side"), FaultKind::NotFound, "side")]
#[case::nothing_to_join(open_tunnel::What::Attach(Attach { container: "side".to_owned(), streams: None }), FaultKind::NotFound, "side")]
#[case::listens_nowhere(open_tunnel::What::PortForward(PortForward { port: 80 }), FaultKind::Unavailable, "listens nowhere")]
#[tokio::test]
async fn way_that_leads_nowhere_is_refused_with_its_reason(
    #[case] what: open_tunnel::What,
    #[case] kind: FaultKind,
    #[case] says: &str,
) {
    let fixture = Fixture::new();
    fixture.running("u-1").await;
    fixture.lets_in(available(), Command::None);
    fixture.knocks("t", what).await;
    let why = fixture.cluster.refused("t").await;
    assert_eq!(why.kind(), kind);
    assert!(why.message().contains(says), "{why}");
    let seen = fixture.visits(|visit| visit.to.is_some()).await;
    assert_eq!(seen[0].refused, why.message());
}

#[tokio::test]
async fn pod_that_is_not_in_the_car_is_not_found() {
    let fixture = Fixture::new();
    fixture.lets_in(available(), Command::None);
    fixture.knocks("t", exec("classify")).await;
    assert_eq!(fixture.cluster.refused("t").await.kind(), FaultKind::NotFound);
}
