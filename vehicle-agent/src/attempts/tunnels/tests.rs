//! Who gets in, who is seen, and what goes through to a port.

use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::owner::Document;
use kerbside_core::parked::{Cause, State, Terms};
use kerbside_link::fault::FaultKind;

use super::*;
use crate::testing::{ManualClock, owner};

const FREE: State = State::Available {
    parked_since: Boottime(Duration::ZERO),
};

const FROZEN: State = State::Paused {
    since: Boottime(Duration::ZERO),
    parked_since: None,
    cause: Cause::PausedTooLong,
};
const LEAVING: State = State::Leaving {
    until: Boottime(Duration::ZERO),
    cause: Cause::Owner,
};

fn outlook(allow_exec: bool, state: State, command: Command) -> Outlook {
    let document = Document { allow_exec, ..owner() };
    Outlook {
        state,
        document: Some(Arc::new(document)),
        ..Outlook::initial(Arc::new(Terms::default()), command)
    }
}

fn gate(allow_exec: bool) -> (watch::Sender<Outlook>, Gate) {
    let (outlook, seen) = watch::channel(outlook(allow_exec, FREE, Command::None));
    (outlook, Gate::new(seen))
}

fn asked(what: Option<open_tunnel::What>) -> (Asked, mpsc::Receiver<Order>) {
    let (orders, inbox) = mpsc::channel(1);
    let request = OpenTunnel {
        request_id: "t".into(),
        uid: "u-1".into(),
        user: "ann".into(),
        what,
    };
    let asked = Asked {
        request,
        pod: "default/p".into(),
        orders: Some(orders),
        gate: gate(true).1,
        now: Timestamp::UNIX_EPOCH,
    };
    (asked, inbox)
}

fn exec(command: &[&str]) -> open_tunnel::What {
    open_tunnel::What::Exec(kerbside_link::proto::Exec {
        container: "main".into(),
        command: command.iter().map(ToString::to_string).collect(),
        streams: None,
    })
}

fn port(port: u32) -> open_tunnel::What {
    open_tunnel::What::PortForward(kerbside_link::proto::PortForward { port })
}

#[test]
fn nobody_gets_in_whom_the_owner_does_not_let_in() {
    let (mut asked, _inbox) = asked(Some(exec(&["sh"])));
    asked.gate = gate(false).1;
    let why = door(&asked, 0).unwrap_err();
    assert_eq!(why.kind(), FaultKind::Denied);
    assert!(why.message().contains("allowExec"), "{why}");
}

#[rstest::rstest]
#[case::allowed(true, FREE, Command::None, None)]
#[case::not_allowed(false, FREE, Command::None, Some(FaultKind::Denied))]
#[case::paused_by_the_owner(true, FREE, Command::Pause, Some(FaultKind::Unavailable))]
#[case::withdrawn(true, FREE, Command::Withdraw, Some(FaultKind::Unavailable))]
#[case::somebody_is_at_the_car(true, FROZEN, Command::None, None)]
#[case::leaving(true, LEAVING, Command::None, Some(FaultKind::Unavailable))]
#[case::away(true, State::Away { parked_since: None }, Command::None, Some(FaultKind::Unavailable))]
fn owner_and_car_say_whether_anybody_may_be_in(
    #[case] allow_exec: bool,
    #[case] state: State,
    #[case] command: Command,
    #[case] expected: Option<FaultKind>,
) {
    let why = closed(&outlook(allow_exec, state, command));
    assert_eq!(why.map(|why| why.kind()), expected);
}

#[tokio::test]
async fn gate_shuts_when_the_owner_takes_it_back_and_when_nobody_looks_any_more() {
    let (outlooks, gate) = gate(true);
    let shuts = tokio::spawn(gate.clone().shuts());
    outlooks.send_replace(outlook(true, FROZEN, Command::None));
    outlooks.send_replace(outlook(false, FREE, Command::None));
    assert_eq!(shuts.await.unwrap().kind(), FaultKind::Denied);
    outlooks.send_replace(outlook(true, FREE, Command::None));
    drop(outlooks);
    assert_eq!(gate.shuts().await.kind(), FaultKind::Unavailable);
}

fn visit(number: usize, refused: &str) -> Visit {
    Visit {
        pod: format!("default/p-{number}"),
        refused: refused.to_owned(),
        to: (!refused.is_empty()).then_some(Timestamp::UNIX_EPOCH),
        ..Visit::default()
    }
}

#[test]
fn who_is_in_stays_on_the_list_whoever_comes_and_is_refused() {
    let visits = watch::Sender::default();
    let see = |visit| Seen::new(&visits, Arc::new(ManualClock), visit);
    let inside = see(visit(0, ""));
    drop(see(visit(1, "")));
    for number in 0..3 * TOLD {
        drop(see(visit(number, "no")));
    }
    let listed = |pod: &str| visits.borrow().iter().any(|v| v.pod == pod && v.refused.is_empty());
    assert!(listed("default/p-0") && listed("default/p-1"));
    assert_eq!(visits.borrow().len(), 2 + TOLD);
    for number in 2..2 + TOLD {
        drop(see(visit(number, "")));
    }
    assert!(listed("default/p-0") && !listed("default/p-1"));
    assert_eq!(visits.borrow().len(), 2 * TOLD);
    drop(inside);
    assert!(visits.borrow().iter().all(|v| v.to.is_some()));
}

#[test]
fn who_is_refused_further_in_is_one_who_was_refused() {
    let visits = watch::Sender::default();
    let mut seen = Seen::new(&visits, Arc::new(ManualClock), visit(0, ""));
    seen.refused("no such container");
    drop(seen);
    let told = visits.borrow().clone();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].refused, "no such container");
    assert!(told[0].to.is_some());
}

#[test]
fn what_the_cluster_says_of_people_cannot_steer_a_terminal_and_is_short() {
    assert_eq!(shown("ann\u{1b}[2J\n"), "ann\u{fffd}[2J\u{fffd}");
    assert_eq!(shown(&"x".repeat(SHOWN + 1)).len(), SHOWN);
}

#[rstest::rstest]
#[case::no_command(Some(exec(&[])), 0, "no command")]
#[case::port_zero(Some(port(0)), 0, "between 1 and 65535")]
#[case::port_too_high(Some(port(70_000)), 0, "between 1 and 65535")]
#[case::something_new(None, 0, "does not know")]
#[case::full(Some(exec(&["sh"])), MOST, "the most")]
fn what_cannot_be_is_refused_with_its_reason(
    #[case] what: Option<open_tunnel::What>,
    #[case] guests: usize,
    #[case] expected: &str,
) {
    let (asked, _inbox) = asked(what);
    let why = door(&asked, guests).unwrap_err();
    assert!(why.message().contains(expected), "{why}");
}

#[test]
fn pod_that_is_not_here_is_not_found() {
    let (mut asked, _inbox) = asked(Some(exec(&["sh"])));
    asked.orders = None;
    assert_eq!(door(&asked, 0).unwrap_err().kind(), FaultKind::NotFound);
}

#[test]
fn owner_reads_what_is_done() {
    let (asked, _inbox) = asked(Some(exec(&["sh", "-c", "id"])));
    assert_eq!(what(&asked.request), "runs \"sh -c id\" in main");
}

/// A port that says back what it hears, and one that hangs up.
#[tokio::test]
async fn connection_goes_both_ways_and_says_that_it_was_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).unwrap();
        theirs.write_all(&heard).unwrap();
    });
    let (says, said) = mpsc::channel(4);
    let (to, mut hears) = mpsc::channel(4);
    let part = |data: &'static [u8], end| TunnelPart {
        data: Bytes::from_static(data),
        end,
        ..TunnelPart::default()
    };
    says.send(part(b"hello", false)).await.unwrap();
    says.send(part(b"", true)).await.unwrap();
    let from = futures::stream::unfold(said, |mut said| async { said.recv().await.map(|part| (part, said)) });
    forward((&mut from.boxed(), &to), connected, gate(true).1).await;
    let back = hears.recv().await.unwrap();
    assert_eq!((back.channel, back.data.as_ref()), (FROM, b"hello".as_slice()));
    let last = hears.recv().await.unwrap();
    assert_eq!((last.channel, last.data.len(), last.end), (ERROR, 0, true));
}
