//! The calls of `kuksa.val.v2`, as the real broker answers them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use crate::proto;
use crate::proto::val_server::Val;
use crate::proto::value::TypedValue;
use crate::proto::{DataType, EntryType};
use crate::token::{Rights, Verb};
use crate::{Databroker, Reader, State};

/// More it does not keep for anybody.
const MOST_KEPT: u32 = 1_000;
/// A longer path is refused.
const LONGEST_PATH: usize = 1_000;
/// A token that does not end lets a subscription last as long as a broker.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

impl Databroker {
    /// What whoever asks may do.
    fn rights<T>(&self, request: &Request<T>) -> Result<Rights, Status> {
        let shown = request.metadata().get("authorization");
        let shown = shown.and_then(|value| value.to_str().ok());
        Rights::of(&self.state().admits, shown, (self.wall)())
    }
}

/// Until the end of its token.
fn left(rights: &Rights, broker: &Databroker) -> Duration {
    let left = rights.end.map(|end| end.duration_since((broker.wall)()));
    left.map_or(FOR_EVER, |left| Duration::try_from(left).unwrap_or_default())
}

fn path_of<'a>(state: &'a State, signal: Option<&proto::SignalId>) -> Result<&'a str, Status> {
    state.find(signal).map(|signal| signal.path.as_str())
}

#[tonic::async_trait]
impl Val for Databroker {
    type SubscribeStream = BoxStream<'static, Result<proto::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let rights = self.rights(&request)?;
        let request = request.into_inner();
        if request.signal_paths.is_empty() {
            return Err(Status::invalid_argument("no signal is named"));
        }
        if request.buffer_size > MOST_KEPT {
            return Err(Status::invalid_argument(format!("buffer_size is at most {MOST_KEPT}")));
        }
        if request.signal_paths.iter().any(|path| path.len() > LONGEST_PATH) {
            return Err(Status::invalid_argument(format!(
                "a path has at most {LONGEST_PATH} characters"
            )));
        }
        let mut state = self.state();
        let mut entries = HashMap::new();
        for path in &request.signal_paths {
            // One that is not known refuses all; one that may not be read is left out, and nobody is told.
            let signal = state.signals.get(path);
            let signal = signal.ok_or_else(|| Status::not_found(format!("{path} is not known")))?;
            if rights.check(Verb::Read, path).is_ok() {
                entries.insert(path.clone(), signal.point.clone().unwrap_or_default());
            }
        }
        let kept = usize::try_from(request.buffer_size).unwrap_or_default() + 1;
        let (tells, hears) = broadcast::channel(kept);
        let paths: BTreeSet<_> = entries.keys().cloned().collect();
        // The first message is lost like any other.
        let _ = tells.send(proto::SubscribeResponse { entries });
        state.readers.push(Reader { paths, tells });
        state.asked.push(request);
        drop(state);
        let told = stream::unfold(hears, async |mut hears| {
            loop {
                match hears.recv().await {
                    Ok(told) => return Some((Ok(told), hears)),
                    // What the reader was too slow for is left out without a word.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let ends = tokio::time::sleep(left(&rights, self));
        Ok(Response::new(told.take_until(ends.boxed()).boxed()))
    }

    async fn list_metadata(
        &self,
        request: Request<proto::ListMetadataRequest>,
    ) -> Result<Response<proto::ListMetadataResponse>, Status> {
        // Whoever is let in may see what there is.
        self.rights(&request)?;
        let root = request.into_inner().root;
        let state = self.state();
        let within = |path: &str| {
            let rest = path.strip_prefix(root.as_str());
            root.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let numbered = (state.first..).zip(state.signals.values());
        let metadata: Vec<_> = numbered
            .filter(|(_, signal)| within(&signal.path))
            .map(|(id, signal)| proto::Metadata {
                path: signal.path.clone(),
                id,
                data_type: signal.data_type.into(),
                entry_type: EntryType::Sensor.into(),
            })
            .collect();
        if metadata.is_empty() {
            return Err(Status::not_found(format!("{root} is not known")));
        }
        Ok(Response::new(proto::ListMetadataResponse { metadata }))
    }

    async fn get_value(
        &self,
        request: Request<proto::GetValueRequest>,
    ) -> Result<Response<proto::GetValueResponse>, Status> {
        let rights = self.rights(&request)?;
        let state = self.state();
        let signal = state.find(request.into_inner().signal_id.as_ref())?;
        rights.check(Verb::Read, &signal.path)?;
        let data_point = Some(signal.point.clone().unwrap_or_default());
        Ok(Response::new(proto::GetValueResponse { data_point }))
    }

    async fn publish_value(
        &self,
        request: Request<proto::PublishValueRequest>,
    ) -> Result<Response<proto::PublishValueResponse>, Status> {
        let rights = self.rights(&request)?;
        let request = request.into_inner();
        let value = request.data_point.and_then(|point| point.value);
        let value = value.and_then(|value| value.typed_value);
        // The stamp is the broker's; what the provider gives is not looked at. Without a value the provider takes back what it said.
        let point = self.now(value.clone());
        let mut state = self.state();
        let path = path_of(&state, request.signal_id.as_ref())?.to_owned();
        rights.check(Verb::Provide, &path)?;
        if let Some(signal) = state.signals.get_mut(&path) {
            if value.is_some_and(|value| !fits(signal.data_type, &value)) {
                return Err(Status::invalid_argument(format!(
                    "{path} has values of {}",
                    signal.data_type.as_str_name()
                )));
            }
            signal.point = Some(point.clone());
        }
        state.tell(&path, &[(path.clone(), point)].into());
        Ok(Response::new(proto::PublishValueResponse {}))
    }

    async fn get_server_info(
        &self,
        _: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        Ok(Response::new(proto::GetServerInfoResponse {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit_hash: String::new(),
        }))
    }
}

/// Whether a signal of this type may have this value: those of 8 and 16 bits come as ones of 32.
fn fits(data_type: DataType, value: &TypedValue) -> bool {
    match (data_type, value) {
        (DataType::Unspecified, _)
        | (DataType::String, TypedValue::String(_))
        | (DataType::Boolean, TypedValue::Bool(_))
        | (DataType::Int32, TypedValue::Int32(_))
        | (DataType::Int64, TypedValue::Int64(_))
        | (DataType::Uint32, TypedValue::Uint32(_))
        | (DataType::Uint64, TypedValue::Uint64(_))
        | (DataType::Float, TypedValue::Float(_))
        | (DataType::Double, TypedValue::Double(_)) => true,
        (DataType::Int8, TypedValue::Int32(number)) => i8::try_from(*number).is_ok(),
        (DataType::Int16, TypedValue::Int32(number)) => i16::try_from(*number).is_ok(),
        (DataType::Uint8, TypedValue::Uint32(number)) => u8::try_from(*number).is_ok(),
        (DataType::Uint16, TypedValue::Uint32(number)) => u16::try_from(*number).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
