//! A connection over the loopback, in a car whose maker says that it costs by the byte, in one whose maker says that it does not, and in one
//! whose maker says nothing of it.

use jiff::civil::date;
use kerbside_link::SystemClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const MAY: Seen = Seen {
    date: Some(date(2026, 11, 28)),
    may_move: true,
};

fn open(temp: &tempfile::TempDir, car: &str) -> Uplink {
    let directory = Directory::open(temp.path()).unwrap();
    std::fs::write(directory.car(), car).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Uplink::open(&Car::read(&directory.car()).unwrap(), &directory, &clock)
}

/// Sends three bytes and hears two.
async fn talk(uplink: &Uplink) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = async {
        let (mut there, _) = listener.accept().await.unwrap();
        let mut heard = [0; 3];
        there.read_exact(&mut heard).await.unwrap();
        there.write_all(b"ok").await.unwrap();
    };
    let asks = async {
        let mut here = uplink.tcp().connect("127.0.0.1".to_owned(), port).await.unwrap();
        here.write_all(b"abc").await.unwrap();
        let mut heard = [0; 2];
        here.read_exact(&mut heard).await.unwrap();
    };
    tokio::join!(answers, asks);
}

#[tokio::test]
async fn interface_of_the_connection_decides_and_every_byte_counts() {
    for (car, metered, of_them, unlisted) in [
        ("{}", Tri::No, 0, None),
        ("{meteredInterfaces: ['lo*']}", Tri::Yes, 5, None),
        ("{unmeteredInterfaces: ['eth*']}", Tri::Yes, 5, Some("lo")),
        ("{unmeteredInterfaces: ['*']}", Tri::No, 0, None),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let uplink = open(&temp, car);
        uplink.look(MAY);
        assert_eq!(uplink.now(false).metered, Tri::Unknown, "nothing was reached yet");
        assert_eq!(
            uplink.now(true).metered,
            Tri::Yes,
            "and if it was, nobody knows by what"
        );
        talk(&uplink).await;
        let now = uplink.now(true);
        assert_eq!(now.metered, metered, "{car}");
        assert_eq!((now.moved.bytes, now.moved.metered_bytes), (5, of_them), "{car}");
        let told = uplink.inner.as_ref().unwrap().state().unlisted.clone();
        assert_eq!(told.as_deref(), unlisted, "{car}");
    }
}

#[tokio::test]
async fn count_survives_a_restart_and_a_torn_file_is_a_month_that_is_used_up() {
    let temp = tempfile::tempdir().unwrap();
    let uplink = open(&temp, "{}");
    uplink.look(MAY);
    uplink.count(1000);
    while uplink.inner.as_ref().unwrap().state().writing {
        tokio::task::yield_now().await;
    }
    let cut = open(&temp, "{}").now(false).moved;
    assert!(cut.bytes >= 1000 && !cut.lost, "{cut:?}");
    uplink.close();
    let ended = open(&temp, "{}").now(false).moved;
    assert_eq!((ended.bytes, ended.lost), (1000, false));
    let file = temp.path().join("data.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(open(&temp, "{}").now(false).moved.lost);
}

/// Somebody's pipe lies where the new file is to be written: who opens it waits until somebody reads.
#[tokio::test]
async fn end_does_not_write_beside_a_write_that_hangs_and_waits_for_one_that_is_slow() {
    let temp = tempfile::tempdir().unwrap();
    let uplink = open(&temp, "{}");
    uplink.look(MAY);
    let pipe = directory::new_of(&temp.path().join("data.json"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    uplink.count(1000);
    assert!(uplink.inner.as_ref().unwrap().state().writing);
    uplink.close();
    assert!(uplink.inner.as_ref().unwrap().state().writing, "it is left to hang");
    // A pipe cannot be synced, so this one fails, and the last count is written in a file.
    let reader = std::fs::File::open(&pipe).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    uplink.close();
    drop(reader);
    let ended = open(&temp, "{}").now(false).moved;
    assert_eq!((ended.bytes, ended.lost), (1000, false));
}

#[tokio::test]
async fn nothing_is_moved_before_the_owner_was_asked() {
    let temp = tempfile::tempdir().unwrap();
    let uplink = open(&temp, "{}");
    assert!(!uplink.may_move());
    uplink.look(MAY);
    assert!(uplink.may_move());
    assert!(
        Uplink::default().may_move(),
        "a car that is simulated has no network that costs"
    );
}
