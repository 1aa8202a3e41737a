//! Tunnels that somebody waits for: a question to a car, and both directions of what comes of it.
//!
//! Called by the kubelet port (open) and by the link service (answer). Whoever goes away ends the tunnel: the kubelet port by dropping its
//! [`Open`], the car by ending its call, the session by ending.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kerbside_core::ids::VehicleId;
use kerbside_link::fault::Fault;
use kerbside_link::proto::OpenTunnel;
use kerbside_link::server::{SessionHandle, TunnelEnds};
use tokio::sync::oneshot;

/// A car that does not begin to answer is not asked for longer.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Waiting {
    vehicle: VehicleId,
    answer: oneshot::Sender<Result<TunnelEnds, Fault>>,
}

/// Questions that wait for their answer.
#[derive(Debug, Default)]
pub(crate) struct TunnelDesk {
    waiting: Mutex<HashMap<String, Waiting>>,
}

/// A tunnel, as long as somebody has it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) ends: TunnelEnds,
    /// Tells the car when it is dropped.
    pub(crate) asked: Asked,
}

/// Takes the question back when nobody waits any more, and tells the car.
#[derive(Debug)]
pub(crate) struct Asked {
    desk: Arc<TunnelDesk>,
    session: SessionHandle,
    id: String,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.desk.waiting().remove(&self.id);
        self.session.close_tunnel(&self.id);
    }
}

impl TunnelDesk {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a car for a tunnel.
    ///
    /// # Errors
    /// What the car says against it, or `unavailable` if it says nothing.
    pub(crate) async fn open(self: &Arc<Self>, session: SessionHandle, request: OpenTunnel) -> Result<Open, Fault> {
        let id = format!("{:032x}", rand::random::<u128>());
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            vehicle: session.vehicle().clone(),
            answer,
        };
        self.waiting().insert(id.clone(), waiting);
        let asked = Asked {
            desk: Arc::clone(self),
            session: session.clone(),
            id: id.clone(),
        };
        session.open_tunnel(OpenTunnel {
            request_id: id,
            ..request
        });
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(ends)) => Ok(Open { ends: ends?, asked }),
            Ok(Err(_)) => Err(Fault::unavailable("the vehicle's connection ended")),
            Err(_) => Err(Fault::unavailable("the vehicle does not answer; try again")),
        }
    }

    /// A question that waits. For tests: nobody else may guess its id.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> Option<String> {
        self.waiting().keys().next().cloned()
    }

    /// A car answers.
    ///
    /// # Errors
    /// If nobody waits for this of this car (`not_found`).
    pub(crate) fn answer(&self, vehicle: &VehicleId, id: &str, answer: Result<TunnelEnds, Fault>) -> Result<(), Fault> {
        let unknown = || Fault::not_found("nobody waits for this tunnel");
        let mut waiting = self.waiting();
        let asked = waiting.get(id).is_some_and(|w| w.vehicle == *vehicle);
        let waiting = if asked { waiting.remove(id) } else { None };
        waiting.ok_or_else(unknown)?.answer.send(answer).map_err(|_| unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use kerbside_link::fault::FaultKind;
    use kerbside_link::proto::TunnelPart;
    use tokio::sync::mpsc;

    fn vehicle() -> VehicleId {
        VehicleId::from_random([1; 10])
    }

    fn ends() -> (TunnelEnds, mpsc::Receiver<TunnelPart>) {
        let (to_car, at_car) = mpsc::channel(4);
        let from_car = futures::stream::pending().boxed();
        (TunnelEnds { from_car, to_car }, at_car)
    }

    /// A question that waits, under whatever id it got.
    async fn asked(desk: &Arc<TunnelDesk>) -> (tokio::task::JoinHandle<Result<Open, Fault>>, String) {
        let (ours, session) = (Arc::clone(desk), SessionHandle::detached(vehicle()));
        let open = tokio::spawn(async move { ours.open(session, OpenTunnel::default()).await });
        loop {
            match desk.asked() {
                Some(id) => return (open, id),
                None => tokio::task::yield_now().await,
            }
        }
    }

    #[tokio::test]
    async fn tunnel_reaches_whoever_asked_and_ends_with_them() {
        let desk = Arc::new(TunnelDesk::default());
        let (open, id) = asked(&desk).await;
        let (ends, mut at_car) = ends();
        desk.answer(&vehicle(), &id, Ok(ends)).unwrap();
        let open = open.await.unwrap().unwrap();
        open.ends.to_car.send(TunnelPart::default()).await.unwrap();
        assert!(at_car.recv().await.is_some());
        drop(open);
        assert!(at_car.recv().await.is_none());
    }

    #[tokio::test]
    async fn tunnel_of_another_car_is_refused_and_still_waited_for() {
        let desk = Arc::new(TunnelDesk::default());
        let (_open, id) = asked(&desk).await;
        let other = VehicleId::from_random([2; 10]);
        let (ends, _at_car) = ends();
        assert_eq!(
            desk.answer(&other, &id, Ok(ends)).unwrap_err().kind(),
            FaultKind::NotFound
        );
        assert_eq!(desk.waiting().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn car_that_does_not_answer_is_not_waited_for() {
        let desk = Arc::new(TunnelDesk::default());
        let open = desk
            .open(SessionHandle::detached(vehicle()), OpenTunnel::default())
            .await;
        assert_eq!(open.unwrap_err().kind(), FaultKind::Unavailable);
        assert!(desk.waiting().is_empty());
    }

    #[tokio::test]
    async fn refusal_of_the_car_reaches_whoever_asked() {
        let desk = Arc::new(TunnelDesk::default());
        let (open, id) = asked(&desk).await;
        desk.answer(&vehicle(), &id, Err(Fault::denied("no"))).unwrap();
        assert_eq!(open.await.unwrap().unwrap_err().kind(), FaultKind::Denied);
    }
}
