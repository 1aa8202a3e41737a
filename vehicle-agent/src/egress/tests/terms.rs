//! What the owner's terms, the brake and the rate do to connections.

use rstest::rstest;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn tunnel_carries_what_both_say_and_counts_it() {
    let mut car = public();
    let (mut program, mut peer) = car.tunnel().await;
    program.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    peer.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    peer.write_all(b"good day").await.unwrap();
    drop(peer);
    let mut answer = String::new();
    program.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "good day");
    let TotalsNow {
        sent,
        received,
        refused,
    } = car.totals.now();
    // With the question for the name.
    assert_eq!((sent, received, refused), (512 + 5, 8, 0));
}

#[rstest]
#[case::private(&["192.168.178.1"])]
#[case::link_local(&["169.254.169.254"])]
#[case::loopback(&["127.0.0.1"])]
#[case::own(&[OWN])]
#[case::mapped(&["::ffff:127.0.0.1"])]
#[case::unknown(&[])]
#[tokio::test(start_paused = true)]
async fn name_of_what_may_not_be_reached_is_refused_in_the_words_of_a_name_that_nobody_knows(#[case] means: &[&str]) {
    let mut car = played("egress: {allow: [public]}", &[("router.example", &[means])]);
    let told = car.told("CONNECT router.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 403"), "{told}");
    assert!(
        told.ends_with(
            "the owner of this vehicle does not let work reach router.example:443, or the vehicle does not know the name\n"
        ),
        "{told}"
    );
    assert!(car.reached.try_recv().is_err());
    assert_eq!(car.totals.now().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn network_that_the_owner_lets_nothing_go_by_is_no_way_and_what_goes_by_another_counts() {
    let temp = tempfile::tempdir().unwrap();
    let directory = crate::directory::Directory::open(temp.path()).unwrap();
    let clock: Arc<dyn kerbside_core::clock::Clock> = Arc::new(kerbside_link::SystemClock);
    let uplink = Uplink::open(&crate::config::Car::default(), &directory, &clock);
    let names: &[(&str, &[&[&str]])] = &[("far.example", &[&[PUBLIC], &[PUBLIC]])];
    let mut car = played_by(uplink.clone(), "egress: {allow: [public]}", names);
    let told = car.told("CONNECT far.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 403"), "{told}");
    assert!(car.reached.try_recv().is_err());
    uplink.look(crate::uplink::Seen {
        date: None,
        may_move: true,
    });
    let told = car.told("CONNECT far.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!(uplink.now(false).moved.bytes, 2 * 512, "the questions for the name");
}

#[tokio::test(start_paused = true)]
async fn address_that_was_judged_is_the_one_that_is_connected_to() {
    // What a name means changes between two questions; of several addresses only those that are allowed are tried.
    let answers: &[&[&str]] = &[&["192.168.178.1", PUBLIC, "10.0.0.1"], &["127.0.0.1"]];
    let mut car = played("egress: {allow: [public]}", &[("rebind.example", answers)]);
    let told = car.told("CONNECT rebind.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!(car.peer().await.0, SocketAddr::new(PUBLIC.parse().unwrap(), 443));
    assert!(car.reached.try_recv().is_err());
    let told = car.told("CONNECT rebind.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 403"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn private_network_that_the_owner_wrote_down_is_reached_and_no_other() {
    let mut car = played("egress: {allow: [192.168.178.0/24], ports: [8080]}", &[]);
    for (to, status) in [
        ("192.168.178.20:8080", "200"),
        ("[::ffff:192.168.178.20]:8080", "200"),
        ("192.168.178.20:443", "403"),
        ("192.168.179.20:8080", "403"),
        ("93.184.216.34:8080", "403"),
    ] {
        let told = car.told(&format!("CONNECT {to} HTTP/1.1\r\n\r\n")).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{to}: {told}");
    }
    assert_eq!(car.peer().await.0, "192.168.178.20:8080".parse().unwrap());
}

#[tokio::test(start_paused = true)]
async fn name_is_not_asked_for_where_no_answer_would_be_allowed() {
    let car = public();
    assert!(
        car.told("CONNECT example.org:25 HTTP/1.1\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 403")
    );
    car.amend("");
    assert!(
        car.told("CONNECT example.org:443 HTTP/1.1\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 403")
    );
    assert!(car.asked().is_empty(), "{:?}", car.asked());
}

#[tokio::test(start_paused = true)]
async fn no_byte_passes_while_the_brake_is_on() {
    let mut car = public();
    let (mut program, mut peer) = car.tunnel().await;
    car.brake.send_replace(true);
    program.write_all(b"a").await.unwrap();
    peer.write_all(b"b").await.unwrap();
    assert!(!hears(&mut peer).await && !hears(&mut program).await);
    car.brake.send_replace(false);
    assert!(hears(&mut peer).await && hears(&mut program).await);
}

#[tokio::test(start_paused = true)]
async fn all_connections_together_keep_the_rate_in_each_direction() {
    let mut car = played(
        "egress: {allow: [public], maxBytesPerSecond: 16Ki}",
        &[("example.org", &[&[PUBLIC], &[PUBLIC]])],
    );
    let (one, other) = (car.tunnel().await, car.tunnel().await);
    let begin = Instant::now();
    // A second's worth each way, on both: two seconds, for the directions do not wait for each other.
    let each = |(mut program, mut peer): (DuplexStream, DuplexStream)| async move {
        let piece = vec![0; 16 << 10];
        let (mut up, mut down) = (piece.clone(), piece.clone());
        let (mut program_reads, mut program_writes) = tokio::io::split(&mut program);
        let (mut peer_reads, mut peer_writes) = tokio::io::split(&mut peer);
        let done = tokio::join!(
            program_writes.write_all(&piece),
            peer_writes.write_all(&piece),
            program_reads.read_exact(&mut down),
            peer_reads.read_exact(&mut up),
        );
        (done.0.unwrap(), done.1.unwrap(), done.2.unwrap(), done.3.unwrap())
    };
    tokio::join!(each(one), each(other));
    let took = begin.elapsed().as_millis();
    assert!((1_800..=2_100).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn connection_ends_when_the_owner_takes_back_where_it_leads_and_others_go_on() {
    let mut car = played(
        "egress: {allow: [public, 192.168.178.20]}",
        &[("example.org", &[&[PUBLIC], &["192.168.178.20"]])],
    );
    let (mut public, _public_peer) = car.tunnel().await;
    let (mut private, mut private_peer) = car.tunnel().await;
    // The same again, as a document that was only written anew.
    car.amend("egress: {allow: [public, 192.168.178.20]}");
    private_peer.write_all(b"a").await.unwrap();
    assert!(hears(&mut private).await);
    car.amend("egress: {allow: [192.168.178.20]}");
    assert!(ends(&mut public).await);
    private_peer.write_all(b"b").await.unwrap();
    assert!(hears(&mut private).await);
    car.amend("");
    assert!(ends(&mut private).await);
}

#[tokio::test(start_paused = true)]
async fn car_that_is_paused_lets_the_question_wait_and_one_that_leaves_says_so() {
    let mut car = public();
    car.brake.send_replace(true);
    car.stands(paused());
    let mut program = car.program();
    program.write_all(&connect("example.org:443")).await.unwrap();
    assert!(!hears(&mut program).await);
    assert!(
        car.asked().is_empty() && car.reached.try_recv().is_err(),
        "nothing is asked for meanwhile"
    );
    car.brake.send_replace(false);
    car.stands(State::Available { parked_since: NOW });
    assert!(head(&mut program).await.starts_with("HTTP/1.1 200"));

    car.stands(State::Leaving {
        until: NOW,
        cause: Cause::Owner,
    });
    let told = car.told("CONNECT example.org:443 HTTP/1.1\r\n\r\n").await;
    assert!(
        told.starts_with("HTTP/1.1 503") && told.contains("about to leave"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_takes_nothing_from_the_others() {
    let answers: Vec<&[&str]> = vec![&[PUBLIC]; 20];
    let mut car = played(
        "egress: {allow: [public], maxBytesPerSecond: 1Ki}",
        &[("example.org", &answers)],
    );
    for _ in 0..19 {
        let (mut program, _peer) = car.tunnel().await;
        program.write_all(&[0; 16 << 10]).await.unwrap();
    }
    // The questions for the name count, and one piece may have passed; the rest is gone with those who wanted it.
    let begin = Instant::now();
    let (mut program, mut peer) = car.tunnel().await;
    program.write_all(b"a").await.unwrap();
    assert!(hears(&mut peer).await);
    let took = begin.elapsed().as_secs();
    assert!(took <= 35, "{took} s");
}

#[tokio::test(start_paused = true)]
async fn pod_with_many_connections_gets_no_more_than_one_with_one() {
    let answers: Vec<&[&str]> = vec![&[PUBLIC]; 9];
    let mut car = played(
        "egress: {allow: [public], maxBytesPerSecond: 64Ki}",
        &[("example.org", &answers)],
    );
    let mut many = Vec::new();
    for _ in 0..8 {
        many.push(car.tunnel().await);
    }
    let one = program_of(&car.other);
    let (mut program, mut peer) = car.tunnel_of(one).await;
    let greedy: Vec<_> = many
        .into_iter()
        .map(|(mut program, mut peer)| {
            tokio::spawn(async move {
                let send = async { while program.write_all(&[0; 16 << 10]).await.is_ok() {} };
                let mut piece = vec![0; 16 << 10];
                let hear = async { while peer.read_exact(&mut piece).await.is_ok() {} };
                tokio::join!(send, hear)
            })
        })
        .collect();
    let begin = Instant::now();
    let mut heard = vec![0; 320 << 10];
    let sent = vec![0; 320 << 10];
    let (sent, heard) = tokio::join!(program.write_all(&sent), peer.read_exact(&mut heard));
    sent.unwrap();
    heard.unwrap();
    let took = begin.elapsed().as_secs();
    // Five seconds alone, ten with half of it.
    assert!((9..=12).contains(&took), "{took} s");
    greedy.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn program_that_asks_for_much_that_is_not_allowed_is_slowed_down() {
    let car = public();
    let begin = Instant::now();
    for _ in 0..21 {
        car.told("CONNECT 10.0.0.1:443 HTTP/1.1\r\n\r\n").await;
    }
    assert!(begin.elapsed() >= ASKS * 20, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn end_that_is_silent_after_the_other_has_said_all_is_given_up() {
    let mut car = public();
    let (mut program, mut peer) = car.tunnel().await;
    program.shutdown().await.unwrap();
    // It may still answer, for as long as it likes if it goes on.
    for _ in 0..5 {
        tokio::time::advance(Duration::from_mins(9)).await;
        peer.write_all(b"a").await.unwrap();
        assert!(hears(&mut program).await);
    }
    assert!(ends(&mut program).await);
}
