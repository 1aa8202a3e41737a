//! The order in which an actor takes things in, and a claim whose car did not wait for it.

use super::*;

/// A claim that has raised the epoch to `epoch`, and what its car is told.
fn claimed(epoch: u64, arrival: Arrival) -> (Done, oneshot::Receiver<Result<Greeting, Refusal>>) {
    let (reply, answer) = oneshot::channel();
    let done = Done {
        key: Key::Claim,
        outcome: Outcome::Claimed(epoch, Box::new(arrival), reply),
    };
    (done, answer)
}

#[tokio::test]
async fn claim_for_a_car_that_has_gone_begins_anew_only_if_another_replica_may_have_acknowledged_it() {
    for (epoch, fenced) in [(4, true), (5, false)] {
        let mut case = case("r-0", vec![pod("30s")]);
        case.actor.turn();
        case.clock().set(100);
        case.actor.turn();
        let uid: PodUid = "u-1".parse().unwrap();
        assert!(
            case.actor.facts.attempts()[&uid].fenced,
            "it was silent for this replica"
        );
        let gone = arrival(Boottime(Duration::from_secs(99)));
        gone.session.close(Fault::unavailable("the car has gone"));
        let (done, answer) = claimed(epoch, gone);
        case.actor.finish(done);
        let refusal = answer.await.unwrap().unwrap_err();
        assert!(
            matches!(&refusal, Refusal::Fault(fault) if fault.is_retryable()),
            "{refusal:?}"
        );
        assert!(case.actor.session.is_none(), "nothing is opened");
        case.actor.turn();
        assert_eq!(case.actor.facts.attempts()[&uid].fenced, fenced, "epoch {epoch}");
        // What it has concluded since holds when the car comes back: nobody had it in between.
        let _greeting = connect(&mut case, "a", epoch + 1);
        assert_eq!(case.actor.facts.attempts()[&uid].fenced, fenced, "epoch {epoch}, back");
    }
}

#[tokio::test]
async fn job_that_is_done_is_taken_in_before_a_message_that_waits() {
    let case = case_that_only_tells();
    let (done, first) = claimed(4, arrival(Boottime::default()));
    case.actor.jobs.push(std::future::ready(done).boxed());
    let (reply, mut second) = oneshot::channel();
    let next = Message::Connected(Box::new(arrival(Boottime::default())), reply);
    case.inbox.try_send(next).unwrap();
    let Case {
        mut world,
        actor,
        inbox,
    } = case;
    let running = tokio::spawn(actor.run());
    assert_eq!(first.await.unwrap().unwrap().epoch, 4);
    // Taken in first, it would have been told that another connection is being greeted.
    let (method, path, _) = respond(&mut world.server, 200, serde_json::to_value(vehicle("r-0")).unwrap()).await;
    let raised = (
        "PATCH",
        "/apis/kerbside.dev/v1alpha1/vehicles/car-aaaaaaaaaaaaaaaa/status",
    );
    assert_eq!((method.as_str(), path.as_str()), raised);
    assert!(!matches!(second.try_recv(), Ok(Err(_))), "it is not refused");
    running.abort();
    drop(inbox);
}

#[tokio::test]
async fn flood_of_one_car_ends_its_turn_after_as_many_messages_as_may_wait() {
    let mut case = case("r-0", vec![]);
    let (flood, inbox) = mpsc::channel(2 * INBOX);
    case.actor.ends.inbox = inbox;
    for _ in 0..2 * INBOX {
        flood.try_send(Message::Disconnected(1)).unwrap();
    }
    let first = case.actor.ends.inbox.try_recv().unwrap();
    case.actor.take_in(first);
    assert_eq!(case.actor.ends.inbox.len(), INBOX - 1);
}
