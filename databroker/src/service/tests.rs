//! The calls, without a network in between: what a slow reader does not take is not in any buffer but the broker's.

use std::sync::Arc;

use jiff::Timestamp;
use tonic::Code;

use super::*;
use crate::proto::{SignalId, signal_id};
use crate::vss::{self, DRIVERS_DOOR, Release};
use crate::{Admits, unsigned};

fn broker() -> Databroker {
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let since = tokio::time::Instant::now();
    Databroker::new(vss::unset(Release::V6), 7, Arc::new(move || start + since.elapsed()))
}

fn door() -> String {
    format!("{DRIVERS_DOOR}.IsOpen")
}

async fn subscribe(
    broker: &Databroker,
    paths: &[&str],
    buffer_size: u32,
) -> Result<BoxStream<'static, Result<proto::SubscribeResponse, Status>>, Code> {
    let signal_paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request = Request::new(proto::SubscribeRequest {
        signal_paths,
        buffer_size,
    });
    let subscribed = broker.subscribe(request).await;
    subscribed.map(Response::into_inner).map_err(|status| status.code())
}

async fn publish(broker: &Databroker, by: signal_id::Signal, value: TypedValue) -> Result<(), Code> {
    let request = Request::new(proto::PublishValueRequest {
        signal_id: Some(SignalId { signal: Some(by) }),
        // From long ago; it is not looked at.
        data_point: Some(crate::said(Timestamp::UNIX_EPOCH, value)),
    });
    let published = broker.publish_value(request).await;
    published.map(drop).map_err(|status| status.code())
}

fn opens(told: &proto::SubscribeResponse) -> Option<TypedValue> {
    told.entries.get(&door())?.value.clone()?.typed_value
}

#[tokio::test(start_paused = true)]
async fn slow_reader_that_asks_for_no_buffer_loses_all_but_the_newest_without_a_word() {
    let broker = broker();
    let mut none = subscribe(&broker, &[&door()], 0).await.unwrap();
    let mut some = subscribe(&broker, &[&door()], 2).await.unwrap();
    for reader in [&mut none, &mut some] {
        let first = reader.next().await.unwrap().unwrap();
        assert_eq!(
            first.entries[&door()],
            proto::Datapoint::default(),
            "nobody has ever set it"
        );
    }
    for open in [true, false] {
        let by = signal_id::Signal::Path(door());
        publish(&broker, by, TypedValue::Bool(open)).await.unwrap();
    }
    let told = none.next().await.unwrap().unwrap();
    assert_eq!(opens(&told), Some(TypedValue::Bool(false)), "it never was open");
    assert!(none.next().now_or_never().is_none());
    for open in [true, false] {
        let told = some.next().await.unwrap().unwrap();
        assert_eq!(opens(&told), Some(TypedValue::Bool(open)));
        let stamp = told.entries[&door()].timestamp.unwrap().seconds;
        assert_eq!(stamp, 1_800_000_000, "by the broker's clock");
    }
}

#[tokio::test]
async fn one_path_that_is_not_known_refuses_all() {
    let broker = broker();
    let refused = [
        (vec!["Vehicle.Speed", "Vehicle.Wings"], 0, Code::NotFound),
        (vec!["Vehicle.Cabin"], 0, Code::NotFound),
        (vec![], 0, Code::InvalidArgument),
        (vec!["Vehicle.Speed"], 1_001, Code::InvalidArgument),
    ];
    for (paths, buffer, code) in refused {
        let refused = subscribe(&broker, &paths, buffer).await.err();
        assert_eq!(refused, Some(code), "{paths:?}");
    }
    assert!(broker.asked().is_empty());
    assert!(subscribe(&broker, &["Vehicle.Speed"], 1_000).await.is_ok());
}

#[tokio::test]
async fn value_of_another_type_or_range_is_refused() {
    let broker = broker();
    let gear = || signal_id::Signal::Path("Vehicle.Powertrain.Transmission.SelectedGear".to_owned());
    for (value, expected) in [
        (TypedValue::Int32(126), Ok(())),
        (TypedValue::Int32(128), Err(Code::InvalidArgument)),
        (TypedValue::Uint32(126), Err(Code::InvalidArgument)),
    ] {
        assert_eq!(publish(&broker, gear(), value.clone()).await, expected, "{value:?}");
    }
}

#[tokio::test]
async fn provider_that_says_no_value_takes_back_what_it_said() {
    let broker = broker();
    let mut reader = subscribe(&broker, &[&door()], 10).await.unwrap();
    reader.next().await.unwrap().unwrap();
    let by = || signal_id::Signal::Path(door());
    publish(&broker, by(), TypedValue::Bool(false)).await.unwrap();
    assert!(opens(&reader.next().await.unwrap().unwrap()).is_some());
    let request = Request::new(proto::PublishValueRequest {
        signal_id: Some(SignalId { signal: Some(by()) }),
        data_point: None,
    });
    broker.publish_value(request).await.unwrap();
    let told = reader.next().await.unwrap().unwrap();
    assert!(told.entries[&door()].timestamp.is_some() && opens(&told).is_none());
}

#[tokio::test]
async fn numbers_of_signals_are_others_after_a_start() {
    let broker = broker();
    let id = async || {
        let request = Request::new(proto::ListMetadataRequest {
            root: "Vehicle.Speed".to_owned(),
            filter: String::new(),
        });
        let listed = broker.list_metadata(request).await.unwrap().into_inner();
        assert_eq!(listed.metadata.len(), 1);
        listed.metadata[0].id
    };
    let before = id().await;
    let mut reader = subscribe(&broker, &["Vehicle.Speed"], 10).await.unwrap();
    reader.next().await.unwrap().unwrap();
    publish(&broker, signal_id::Signal::Id(before), TypedValue::Float(3.0))
        .await
        .unwrap();
    assert!(reader.next().await.is_some());
    broker.restart();
    assert!(reader.next().await.is_none(), "who listened has to ask anew");
    let after = id().await;
    assert_ne!(before, after);
    let by_old = publish(&broker, signal_id::Signal::Id(before), TypedValue::Float(3.0)).await;
    assert_eq!(by_old, Err(Code::NotFound));
}

#[tokio::test(start_paused = true)]
async fn end_of_a_token_ends_what_was_subscribed_to_with_it() {
    let broker = broker();
    let token = unsigned("car", Some(1_800_000_060), "read:Vehicle.Speed");
    broker.admit(Admits::Tokens(vec![token.clone()]));
    assert_eq!(
        subscribe(&broker, &["Vehicle.Speed"], 0).await.err(),
        Some(Code::Unauthenticated)
    );
    let shown = |paths: &[&str]| {
        let mut request = Request::new(proto::SubscribeRequest {
            signal_paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            buffer_size: 0,
        });
        let header = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", header);
        request
    };
    let mut reader = broker
        .subscribe(shown(&["Vehicle.Speed", "Vehicle.IsMoving"]))
        .await
        .unwrap()
        .into_inner();
    let first = reader.next().await.unwrap().unwrap();
    let there: Vec<_> = first.entries.keys().collect();
    assert_eq!(there, ["Vehicle.Speed"], "what may not be read is left out in silence");
    let mut reader = broker.subscribe(shown(&["Vehicle.Speed"])).await.unwrap().into_inner();
    reader.next().await.unwrap().unwrap();
    let began = tokio::time::Instant::now();
    assert!(reader.next().await.is_none());
    assert_eq!(began.elapsed().as_secs(), 60);
    let late = broker.subscribe(shown(&["Vehicle.Speed"])).await;
    assert_eq!(late.err().map(|status| status.code()), Some(Code::Unauthenticated));
}
