//! Cars that come while the API server refuses for now.

use super::*;
use crate::arrivals::SOONEST;
use crate::fleet::Fleet;
use crate::testing::Server;

fn refusal(code: u16) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Refused", "message": "not now"})
}

/// A parked car without attempts.
fn idle(at: Boottime) -> Arrival {
    let mut arrival = arrival(at);
    arrival.hello.attempts.clear();
    arrival
}

/// Refuses whatever is asked, until nobody asks within a minute; how often.
async fn refuse_all(server: &mut Server) -> u32 {
    let mut asked = 0;
    while let Ok(Some((_, reply))) = tokio::time::timeout(Duration::from_mins(1), server.next_request()).await {
        asked += 1;
        let body = kube::client::Body::from(refusal(429).to_string().into_bytes());
        reply.send_response(hyper::Response::builder().status(429).body(body).unwrap());
    }
    asked
}

#[rstest::rstest]
#[case(429)]
#[case(503)]
#[case(504)]
#[tokio::test(start_paused = true)]
async fn car_keeps_its_place_while_the_api_server_refuses_for_a_moment(#[case] code: u16) {
    let World {
        context, mut server, ..
    } = World::new();
    list(&context.roster.vehicles, vec![vehicle("r-0")]);
    let car = idle(Boottime::default());
    let answers = async {
        respond(&mut server, code, refusal(code)).await;
        respond(&mut server, code, refusal(code)).await;
        respond(&mut server, 200, serde_json::to_value(vehicle("r-0")).unwrap()).await
    };
    let (epoch, (_, _, raised)) = futures::join!(jobs::raise_epoch(&context, &car.vehicle, &car), answers);
    assert_eq!(epoch.unwrap(), 4);
    assert_eq!(raised["status"]["connection"], json!({"replica": "r-0", "epoch": 4}));
}

#[rstest::rstest]
#[case::at_once(0, 4..=6)]
#[case::after_a_while_in_its_lane(5, 2..=4)]
#[case::when_its_patience_is_nearly_over(9, 1..=1)]
#[tokio::test(start_paused = true)]
async fn car_is_given_an_appointment_before_it_loses_its_patience(
    #[case] waited: u64,
    #[case] tries: std::ops::RangeInclusive<u32>,
) {
    let World {
        context,
        mut server,
        clock,
        ..
    } = World::new();
    list(&context.roster.vehicles, vec![vehicle("r-0")]);
    clock.set(waited);
    let car = idle(Boottime::default());
    let began = tokio::time::Instant::now();
    let raise = async {
        let refused = jobs::raise_epoch(&context, &car.vehicle, &car).await;
        (refused.unwrap_err(), began.elapsed())
    };
    let ((refusal, took), asked) = futures::join!(raise, refuse_all(&mut server));
    assert!(
        matches!(&refusal, Refusal::RetryAfter { delay, .. } if *delay >= SOONEST),
        "{refusal:?}"
    );
    assert!(took < PATIENCE && tries.contains(&asked), "{took:?}, {asked} tries");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_a_car_that_has_gone_meanwhile() {
    let World {
        context, mut server, ..
    } = World::new();
    list(&context.roster.vehicles, vec![vehicle("r-0")]);
    let car = idle(Boottime::default());
    let answers = async {
        let next = server.next_request().await;
        car.session.close(Fault::unavailable("the car has gone"));
        let (_, reply) = next.unwrap();
        let body = kube::client::Body::from(refusal(429).to_string().into_bytes());
        reply.send_response(hyper::Response::builder().status(429).body(body).unwrap());
        refuse_all(&mut server).await
    };
    let (refused, asked) = futures::join!(jobs::raise_epoch(&context, &car.vehicle, &car), answers);
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, Refusal::Fault(fault) if fault.is_retryable()),
        "{refused:?}"
    );
    assert_eq!(asked, 0);
}

/// How many idle cars find a place.
fn places(context: &Context) -> usize {
    let taken = std::iter::from_fn(|| context.gate.arrive(false, &*context.clock).ok());
    taken.collect::<Vec<_>>().len()
}

#[tokio::test(start_paused = true)]
async fn fewer_cars_may_wait_after_one_was_refused() {
    // Another replica's vehicle, so that its actor writes nothing else.
    let Case { mut world, .. } = case("r-1", vec![]);
    let context = Arc::clone(&world.context);
    let fleet = Fleet::new(Arc::clone(&context), CancellationToken::new());
    let at_first = places(&context);
    let refused = tokio::select! {
        answer = fleet.connected(idle(Boottime::default())) => answer.unwrap_err(),
        asked = refuse_all(&mut world.server) => panic!("no answer after {asked} tries"),
    };
    assert!(matches!(&refused, Refusal::RetryAfter { .. }), "{refused:?}");
    assert!(places(&context) < at_first);
    fleet.end().await;
}
