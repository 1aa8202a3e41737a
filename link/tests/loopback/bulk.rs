//! Logs and outputs, whole and cut.

use std::io::Cursor;

use bytes::Bytes;
use futures::stream;
use kerbside_link::client::{Event, UploadError};
use kerbside_link::fault::{Fault, FaultKind};
use kerbside_link::proto::{OutputFile, ReadLogs};
use kerbside_link::server::SignedReceipt;

use crate::proxy::Proxy;
use crate::world::{Car, LIMIT, Seen, World, config, sha256, uid};

const MIB: usize = 1024 * 1024;

fn content(bytes: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_le_bytes).take(bytes).collect()
}

fn file(path: &str, content: &[u8]) -> OutputFile {
    OutputFile {
        path: path.to_owned(),
        size: content.len() as u64,
        sha256: sha256(content),
    }
}

async fn put(world: &mut World) -> (u64, usize) {
    world
        .see("an upload", |s| {
            if let Seen::Put { offset, bytes } = s {
                Some((offset, bytes))
            } else {
                None
            }
        })
        .await
}

#[tokio::test]
async fn output_uploaded_is_there_and_is_not_sent_again() {
    let mut world = World::start().await;
    let car = world.car().await;
    let content = content(MIB + 7);
    let file = file("dir/result.bin", &content);
    for _ in 0..2 {
        car.client
            .upload(&uid("a"), &file, Cursor::new(content.clone()))
            .await
            .unwrap();
    }
    car.client.seal_output(&uid("a"), vec![file], Vec::new()).await.unwrap();
    assert_eq!(put(&mut world).await, (0, MIB + 7));
    let next = world
        .see("a seal and no second upload", |s| match s {
            Seen::Put { .. } => Some(0),
            Seen::Sealed { files } => Some(files),
            _ => None,
        })
        .await;
    assert_eq!(next, 1);
    assert_eq!(world.adapter.script.lock().unwrap().files["dir/result.bin"], content);
}

#[tokio::test]
async fn output_that_is_empty_arrives() {
    let mut world = World::start().await;
    let car = world.car().await;
    car.client
        .upload(&uid("a"), &file("empty", b""), Cursor::new(Vec::new()))
        .await
        .unwrap();
    assert_eq!(put(&mut world).await, (0, 0));
}

#[tokio::test]
async fn upload_cut_in_the_middle_goes_on_where_it_stopped() {
    let mut world = World::start().await;
    let proxy = Proxy::start(world.address, 3 * MIB as u64).await;
    let mut car = Car::start(config(&proxy.url(), world.identity()));
    car.connected().await;
    let content = content(5 * MIB);
    let (uid, file) = (uid("a"), file("f", &content));
    let upload = car.client.upload(&uid, &file, Cursor::new(content.clone()));
    tokio::time::timeout(LIMIT, upload)
        .await
        .expect("the upload ends")
        .unwrap();
    let (first_offset, first) = put(&mut world).await;
    let (second_offset, second) = put(&mut world).await;
    assert_eq!(first_offset, 0);
    assert!(first > MIB && first < 4 * MIB, "cut after {first}");
    assert_eq!(second_offset, first as u64);
    assert_eq!(first + second, content.len(), "no byte was sent twice");
    assert_eq!(world.adapter.script.lock().unwrap().files["f"], content);
}

#[tokio::test]
async fn output_whose_hash_is_another_is_refused() {
    let mut world = World::start().await;
    let car = world.car().await;
    let wrong = OutputFile {
        sha256: "0".repeat(64),
        ..file("f", b"abc")
    };
    let error = car
        .client
        .upload(&uid("a"), &wrong, Cursor::new(b"abc".to_vec()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, UploadError::Refused(f) if f.kind() == FaultKind::Invalid),
        "{error:?}"
    );
    assert!(error.to_string().contains("SHA-256"), "{error}");
}

#[tokio::test]
async fn output_path_that_leaves_its_directory_never_reaches_the_adapter() {
    let mut world = World::start().await;
    let car = world.car().await;
    let bad = file("../../secret", b"abc");
    let error = car
        .client
        .upload(&uid("a"), &bad, Cursor::new(b"abc".to_vec()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, UploadError::Refused(f) if f.kind() == FaultKind::Invalid),
        "{error:?}"
    );
}

#[tokio::test]
async fn file_that_changed_since_it_was_hashed_is_not_uploaded_for_ever() {
    let mut world = World::start().await;
    let car = world.car().await;
    let file = file("f", b"abcdef");
    let error = car
        .client
        .upload(&uid("a"), &file, Cursor::new(b"abc".to_vec()))
        .await
        .unwrap_err();
    assert!(matches!(error, UploadError::Changed), "{error:?}");
}

#[tokio::test]
async fn heartbeats_do_not_wait_behind_an_upload_that_nobody_reads() {
    let mut world = World::start().await;
    let car = world.car().await;
    world.adapter.tell(|s| s.stalled = true);
    let content = content(4 * MIB);
    let (client, file) = (car.client.clone(), file("f", &content));
    let upload = tokio::spawn(async move { client.upload(&uid("a"), &file, Cursor::new(content)).await });
    let first = world.heartbeat().await;
    while world.heartbeat().await < first + 3 {}
    assert!(!upload.is_finished());
    world.adapter.tell(|s| s.stalled = false);
    world.adapter.go_on.notify_one();
    tokio::time::timeout(LIMIT, upload)
        .await
        .expect("the upload ends")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn log_asked_for_arrives_under_its_request_id() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    session.read_logs(ReadLogs {
        request_id: "r1".into(),
        uid: "a".into(),
        ..ReadLogs::default()
    });
    let read = car
        .hear("a request", |e| {
            if let Event::ReadLogs(read) = e {
                Some(read)
            } else {
                None
            }
        })
        .await;
    let lines = stream::iter([Ok(Bytes::from_static(b"one\n")), Ok(Bytes::from_static(b"two\n"))]);
    car.client.send_logs(&read.request_id, lines).await.unwrap();
    let (id, bytes, end) = log(&mut world).await;
    assert_eq!(
        (id.as_str(), bytes.as_slice(), end),
        ("r1", b"one\ntwo\n".as_slice(), None)
    );
}

#[tokio::test]
async fn log_that_cannot_be_read_says_why_and_sends_nothing_after_it() {
    let mut world = World::start().await;
    let car = world.car().await;
    let lines = stream::iter([
        Ok(Bytes::from_static(b"one\n")),
        Err("no such container".to_owned()),
        Ok("x".into()),
    ]);
    car.client.send_logs("r1", lines).await.unwrap();
    let (_, bytes, end) = log(&mut world).await;
    assert_eq!(bytes, b"one\n");
    assert_eq!(end.unwrap().message(), "no such container");
}

#[tokio::test]
async fn log_without_end_ends_when_the_adapter_has_enough() {
    let mut world = World::start().await;
    let car = world.car().await;
    world.adapter.tell(|s| s.log_chunks = 3);
    let endless = stream::unfold((), |()| async {
        tokio::task::yield_now().await;
        Some((Ok(Bytes::from_static(b"line\n")), ()))
    });
    let sent = tokio::time::timeout(LIMIT, car.client.send_logs("r1", endless)).await;
    sent.expect("it ends").unwrap();
    log(&mut world).await;
}

#[tokio::test]
async fn log_that_nobody_waits_for_is_refused() {
    let mut world = World::start().await;
    let car = world.car().await;
    let fault = car.client.send_logs("unknown", stream::pending()).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::NotFound);
}

#[tokio::test]
async fn upload_of_a_car_that_is_revoked_in_the_middle_stops() {
    let mut world = World::start().await;
    let car = world.car().await;
    world.adapter.tell(|s| s.stalled = true);
    let content = content(2 * MIB);
    let (client, file) = (car.client.clone(), file("f", &content));
    let upload = tokio::spawn(async move { client.upload(&uid("a"), &file, Cursor::new(content)).await });
    world
        .see("an upload that begins", |s| matches!(s, Seen::PutBegun).then_some(()))
        .await;
    world.adapter.tell(|s| {
        s.revoked = true;
        s.stalled = false;
    });
    world.adapter.go_on.notify_one();
    let error = tokio::time::timeout(LIMIT, upload)
        .await
        .expect("the upload ends")
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&error, UploadError::Refused(f) if f.kind() == FaultKind::Denied),
        "{error:?}"
    );
    assert!(world.adapter.script.lock().unwrap().files.values().all(Vec::is_empty));
}

#[tokio::test]
async fn upload_begun_while_disconnected_waits_for_the_connection() {
    let mut world = World::start().await;
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(nowhere.local_addr().unwrap(), u64::MAX).await;
    drop(nowhere);
    let car = Car::start(config(&proxy.url(), world.identity()));
    car.told("").await;
    let client = car.client.clone();
    let upload = tokio::spawn(async move {
        client
            .upload(&uid("a"), &file("f", b"abc"), Cursor::new(b"abc".to_vec()))
            .await
    });
    proxy.lead_to(world.address);
    tokio::time::timeout(LIMIT, upload)
        .await
        .expect("the upload ends")
        .unwrap()
        .unwrap();
    assert_eq!(put(&mut world).await, (0, 3));
}

async fn log(world: &mut World) -> (String, Vec<u8>, Option<Fault>) {
    world
        .see("a log", |s| match s {
            Seen::Log { request_id, bytes, end } => Some((request_id, bytes, end)),
            _ => None,
        })
        .await
}

async fn receipt(world: &mut World) -> SignedReceipt {
    world
        .see("a receipt", |s| match s {
            Seen::Receipt(receipt) => Some(receipt),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn receipt_is_sent_until_it_is_stored() {
    let mut world = World::start().await;
    let car = world.car().await;
    world.adapter.tell(|s| {
        s.receipt_faults
            .push_back(Fault::unavailable("the store is not reachable"));
    });
    let sending = car
        .client
        .put_receipt(Bytes::from_static(b"{}"), "chain".to_owned(), true);
    tokio::time::timeout(LIMIT, sending)
        .await
        .expect("the receipt arrives")
        .unwrap();
    let (refused, stored) = (receipt(&mut world).await, receipt(&mut world).await);
    assert_eq!(refused, stored);
    assert_eq!(
        (stored.envelope.as_ref(), stored.chain_pem.as_str(), stored.newest),
        (&b"{}"[..], "chain", true)
    );
}

#[tokio::test]
async fn receipt_that_stands_against_another_or_is_too_large_is_told_so_at_once() {
    let mut world = World::start().await;
    let car = world.car().await;
    world.adapter.tell(|s| {
        s.receipt_faults
            .push_back(Fault::conflict("another one has this number"));
    });
    let conflict = car
        .client
        .put_receipt(Bytes::from_static(b"{}"), String::new(), false)
        .await;
    assert_eq!(conflict.unwrap_err().kind(), FaultKind::Conflict);
    receipt(&mut world).await;
    let large = Bytes::from(vec![b' '; 16 * 1024 + 1]);
    let large = car.client.put_receipt(large, String::new(), false).await;
    assert_eq!(large.unwrap_err().kind(), FaultKind::TooLarge);
}
