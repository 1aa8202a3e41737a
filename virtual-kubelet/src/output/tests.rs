//! Uploads that go on, that break, that lie, and that are not wanted.

use super::*;
use kerbside_link::fault::FaultKind;

const GOOD: &[u8] = b"seven\n";

struct Case {
    output: Output,
    store: Store,
    directory: tempfile::TempDir,
}

fn vehicle(n: u8) -> VehicleId {
    VehicleId::from_random([n; 10])
}

fn uid() -> PodUid {
    "u-1".parse().unwrap()
}

fn case(phase: &str) -> Case {
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let store = Store::open(&format!("file://{}/store", directory.path().display())).unwrap();
    let pod: Arc<Pod> = Arc::new(
        serde_json::from_value(json!({
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "u-1",
                "annotations": {"kerbside.dev/output-path": "/kerbside/out", "kerbside.dev/output-max-bytes": "10"},
            },
            "spec": {"containers": [], "nodeName": vehicle(1)},
            "status": {"phase": phase},
        }))
        .unwrap(),
    );
    let pods: PodsOf = Box::new(move |u| (u.as_str() == "u-1").then(|| Arc::clone(&pod)));
    Case {
        output: Output::new(store.clone(), pods, spool),
        store,
        directory,
    }
}

fn file(data: &[u8]) -> OutputFile {
    OutputFile {
        path: "result.txt".into(),
        size: data.len() as u64,
        sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(data)),
    }
}

fn stream(parts: Vec<Result<&'static [u8], Fault>>) -> OutputStream {
    futures::stream::iter(parts.into_iter().map(|p| p.map(Bytes::from_static))).boxed()
}

impl Case {
    async fn put(&self, file: &OutputFile, offset: u64, data: &'static [u8]) -> Result<OutputReceipt, Fault> {
        self.output
            .put(&vehicle(1), &uid(), file, offset, stream(vec![Ok(data)]))
            .await
    }

    async fn offset(&self, file: &OutputFile) -> u64 {
        self.output.offset(&vehicle(1), &uid(), file).await.unwrap()
    }
}

#[tokio::test]
async fn upload_in_one_piece_is_in_the_store_under_its_hash() {
    let (case, file) = (case("Running"), file(GOOD));
    assert_eq!(case.offset(&file).await, 0);
    let receipt = case.put(&file, 0, GOOD).await.unwrap();
    assert!(receipt.complete);
    assert_eq!(case.offset(&file).await, file.size);
    let stored = case.store.get(&attempt_file("ns", "u-1", &file.sha256)).await.unwrap();
    assert_eq!(stored.as_ref(), GOOD);
}

#[tokio::test]
async fn upload_that_breaks_goes_on_where_it_stopped() {
    let (case, file) = (case("Running"), file(GOOD));
    let broken = stream(vec![Ok(b"sev"), Err(Fault::unavailable("gone"))]);
    let fault = case
        .output
        .put(&vehicle(1), &uid(), &file, 0, broken)
        .await
        .unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unavailable);
    assert_eq!(case.offset(&file).await, 3);
    assert_eq!(case.put(&file, 0, GOOD).await.unwrap_err().kind(), FaultKind::Conflict);
    assert!(case.put(&file, 3, b"en\n").await.unwrap().complete);
}

#[tokio::test]
async fn upload_with_another_hash_is_dropped() {
    let (case, mut file) = (case("Running"), file(GOOD));
    file.sha256 = "0".repeat(64);
    assert_eq!(case.put(&file, 0, GOOD).await.unwrap_err().kind(), FaultKind::Invalid);
    assert_eq!(case.offset(&file).await, 0);
}

#[tokio::test]
async fn upload_of_more_than_was_told_is_dropped() {
    let (case, file) = (case("Running"), file(GOOD));
    assert_eq!(
        case.put(&file, 0, b"seven\nand eight\n").await.unwrap_err().kind(),
        FaultKind::Invalid
    );
    assert_eq!(case.offset(&file).await, 0);
}

#[tokio::test]
async fn empty_file_needs_no_upload() {
    let (case, file) = (case("Running"), file(b""));
    assert_eq!(case.offset(&file).await, file.size);
    case.output.seal(&vehicle(1), &uid(), &[file], &[]).await.unwrap();
}

#[rstest::rstest]
#[case::another_car(2, "u-1", FaultKind::Denied)]
#[case::no_such_attempt(1, "u-2", FaultKind::NotFound)]
#[tokio::test]
async fn upload_for_what_is_not_the_cars_is_refused(#[case] car: u8, #[case] uid: &str, #[case] kind: FaultKind) {
    let fault = case("Running")
        .output
        .offset(&vehicle(car), &uid.parse().unwrap(), &file(GOOD))
        .await
        .unwrap_err();
    assert_eq!(fault.kind(), kind);
}

#[tokio::test]
async fn upload_after_the_attempt_has_ended_is_not_wanted() {
    let (case, file) = (case("Failed"), file(GOOD));
    assert_eq!(case.put(&file, 0, GOOD).await.unwrap_err().kind(), FaultKind::NotFound);
    let fault = case.output.seal(&vehicle(1), &uid(), &[], &[]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::NotFound);
}

#[tokio::test]
async fn seal_writes_a_manifest_of_what_arrived() {
    let (case, file) = (case("Running"), file(GOOD));
    let fault = case
        .output
        .seal(&vehicle(1), &uid(), std::slice::from_ref(&file), &[])
        .await
        .unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Conflict, "{fault}");
    case.put(&file, 0, GOOD).await.unwrap();
    for _ in 0..2 {
        case.output
            .seal(&vehicle(1), &uid(), std::slice::from_ref(&file), &[])
            .await
            .unwrap();
    }
    let manifest = case.store.get(&attempt_manifest("ns", "u-1")).await.unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let expected = json!({"path": "result.txt", "size": 6, "sha256": file.sha256});
    assert_eq!(manifest, json!({"uid": "u-1", "files": [expected], "logs": []}));
}

#[tokio::test]
async fn seal_of_more_than_the_job_allows_is_too_large() {
    let case = case("Running");
    let (a, b) = (
        file(b"0123456"),
        OutputFile {
            path: "b".into(),
            ..file(b"789abcd")
        },
    );
    case.put(&a, 0, b"0123456").await.unwrap();
    case.put(&b, 0, b"789abcd").await.unwrap();
    assert_eq!(
        case.output
            .seal(&vehicle(1), &uid(), &[a, b], &[])
            .await
            .unwrap_err()
            .kind(),
        FaultKind::TooLarge
    );
}

#[rstest::rstest]
#[case("../x")]
#[case("/etc/passwd")]
#[case("a//b")]
#[case("")]
#[case("a\\b")]
#[tokio::test]
async fn seal_with_a_path_that_leads_elsewhere_is_refused(#[case] path: &str) {
    let (case, file) = (case("Running"), file(GOOD));
    case.put(&file, 0, GOOD).await.unwrap();
    let file = OutputFile {
        path: path.to_owned(),
        ..file
    };
    assert_eq!(
        case.output
            .seal(&vehicle(1), &uid(), &[file], &[])
            .await
            .unwrap_err()
            .kind(),
        FaultKind::Invalid
    );
}

#[tokio::test]
async fn store_that_is_down_loses_nothing_and_the_car_is_told_to_try_again() {
    let (case, file) = (case("Running"), file(GOOD));
    let (store, away) = (case.directory.path().join("store"), case.directory.path().join("away"));
    std::fs::rename(&store, &away).unwrap();
    std::fs::write(&store, "in its place").unwrap();
    let fault = case.put(&file, 0, GOOD).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unavailable);
    assert!(fault.is_retryable() && fault.message().contains("store"), "{fault}");
    let seal = case
        .output
        .seal(&vehicle(1), &uid(), std::slice::from_ref(&file), &[])
        .await;
    assert!(seal.is_err(), "nothing is sealed that has not arrived");
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    let here = case.offset(&file).await;
    let rest = GOOD.get(usize::try_from(here).unwrap()..).unwrap();
    assert!(case.put(&file, here, rest).await.unwrap().complete);
    case.output.seal(&vehicle(1), &uid(), &[file], &[]).await.unwrap();
}

#[test]
fn store_that_cannot_be_used_is_a_fault_to_try_again_and_tells_the_car_nothing_of_it() {
    let error = Store::open("nowhere:secret-bucket").unwrap_err();
    let fault = store_fault(&error);
    assert_eq!(fault.kind(), FaultKind::Unavailable);
    assert!(!fault.message().contains("secret-bucket"), "{fault}");
}
