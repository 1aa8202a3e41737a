//! Logs that somebody waits for: a question to a car, and the stream that comes back on its own lane.
//!
//! Called by the kubelet port (ask) and by the link service (answer). A reader that goes away ends the car's transfer; a car that goes
//! away ends the reader's stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use kerbside_core::ids::VehicleId;
use kerbside_link::fault::Fault;
use kerbside_link::proto::ReadLogs;
use kerbside_link::server::{LogStream, SessionHandle};
use tokio::sync::{mpsc, oneshot};

/// A car that does not begin to answer is not asked for longer.
const ANSWER: Duration = Duration::from_secs(10);
/// Pieces in flight between a car and a slow reader.
const IN_FLIGHT: usize = 16;

type Pieces = mpsc::Receiver<Result<Bytes, Fault>>;

#[derive(Debug)]
struct Waiting {
    vehicle: VehicleId,
    answer: oneshot::Sender<Pieces>,
}

/// Questions that wait for their answer.
#[derive(Debug, Default)]
pub(crate) struct LogDesk {
    waiting: Mutex<HashMap<String, Waiting>>,
}

/// Takes the question back when nobody waits any more, and tells the car.
struct Asked {
    desk: Arc<LogDesk>,
    session: SessionHandle,
    id: String,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.desk
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        self.session.cancel_logs(&self.id);
    }
}

impl LogDesk {
    /// Asks a car for a log; the stream ends with the log, with the car, or when it is dropped.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        session: SessionHandle,
        request: ReadLogs,
    ) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
        let id = format!("{:032x}", rand::random::<u128>());
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            vehicle: session.vehicle().clone(),
            answer,
        };
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), waiting);
        let asked = Asked {
            desk: Arc::clone(self),
            session: session.clone(),
            id: id.clone(),
        };
        session.read_logs(ReadLogs {
            request_id: id,
            ..request
        });
        let pieces = match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(pieces)) => pieces,
            Ok(Err(_)) => return Err(Fault::unavailable("the vehicle's connection ended")),
            Err(_) => return Err(Fault::unavailable("the vehicle does not answer; try again")),
        };
        let stream = futures::stream::unfold((pieces, asked), |(mut pieces, asked)| async move {
            let piece = pieces.recv().await?;
            Some((piece, (pieces, asked)))
        });
        Ok(stream.boxed())
    }

    /// A car answers. Returns when the log or its reader is gone.
    pub(crate) async fn answer(&self, vehicle: &VehicleId, id: &str, mut log: LogStream) -> Result<(), Fault> {
        let unknown = || Fault::not_found("nobody waits for this log");
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = waiting.get(id).is_some_and(|w| w.vehicle == *vehicle);
            if asked { waiting.remove(id) } else { None }
        };
        let (pieces, reader) = mpsc::channel(IN_FLIGHT);
        waiting
            .ok_or_else(unknown)?
            .answer
            .send(reader)
            .map_err(|_| unknown())?;
        loop {
            tokio::select! {
                () = pieces.closed() => return Ok(()),
                piece = log.next() => match piece {
                    None => return Ok(()),
                    Some(piece) => {
                        let ends = piece.is_err();
                        if pieces.send(piece).await.is_err() || ends {
                            return Ok(());
                        }
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerbside_link::fault::FaultKind;

    fn vehicle() -> VehicleId {
        VehicleId::from_random([1; 10])
    }

    fn asked(desk: &LogDesk, id: &str) -> oneshot::Receiver<Pieces> {
        let (answer, answered) = oneshot::channel();
        desk.waiting.lock().unwrap().insert(
            id.into(),
            Waiting {
                vehicle: vehicle(),
                answer,
            },
        );
        answered
    }

    fn log(parts: Vec<Result<&'static [u8], Fault>>) -> LogStream {
        futures::stream::iter(parts.into_iter().map(|p| p.map(Bytes::from_static))).boxed()
    }

    #[tokio::test]
    async fn log_reaches_whoever_asked() {
        let desk = LogDesk::default();
        let answered = asked(&desk, "1");
        let read = async {
            let mut pieces = answered.await.unwrap();
            let mut all = Vec::new();
            while let Some(piece) = pieces.recv().await {
                all.push(piece);
            }
            all
        };
        let id = vehicle();
        let answer = desk.answer(
            &id,
            "1",
            log(vec![Ok(b"a"), Ok(b"b"), Err(Fault::not_found("no more"))]),
        );
        let (all, done) = futures::join!(read, answer);
        assert!(done.is_ok());
        assert_eq!(all[0].as_ref().unwrap().as_ref(), b"a");
        assert_eq!(all[2].as_ref().unwrap_err().message(), "no more");
    }

    #[tokio::test]
    async fn log_that_nobody_asked_for_is_refused() {
        let desk = LogDesk::default();
        assert_eq!(
            desk.answer(&vehicle(), "1", log(vec![])).await.unwrap_err().kind(),
            FaultKind::NotFound
        );
    }

    #[tokio::test]
    async fn log_asked_of_another_car_is_refused_and_still_waited_for() {
        let desk = LogDesk::default();
        let _answered = asked(&desk, "1");
        let other = VehicleId::from_random([2; 10]);
        assert_eq!(
            desk.answer(&other, "1", log(vec![])).await.unwrap_err().kind(),
            FaultKind::NotFound
        );
        assert_eq!(desk.waiting.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn reader_that_goes_away_ends_the_transfer() {
        let desk = LogDesk::default();
        let answered = asked(&desk, "1");
        let endless = futures::stream::pending().boxed();
        let id = vehicle();
        let gone = async { drop(answered.await) };
        let (done, ()) = futures::join!(desk.answer(&id, "1", endless), gone);
        assert!(done.is_ok());
    }
}
