//! A car whose way to the world somebody looks at: by a file of the month it has one.

use super::*;

/// A car in which this is left of the month before.
fn counting(owner: &str, file: &str) -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("car.yaml"), CAR).unwrap();
    fs::write(temp.path().join("owner.yaml"), OWNER.to_owned() + owner).unwrap();
    fs::write(temp.path().join("data.json"), file).unwrap();
    Fixture::start(temp)
}

const LONG_AGO: &str = r#"{"month":"2020-01-01","bytes":9,"meteredBytes":9}"#;

impl Fixture {
    fn refused(&self) -> Option<String> {
        let outlook = self.outlook.borrow().clone();
        let refusal = outlook.admit("inference", &*self.clock).err();
        refusal.map(|refusal| refusal.to_string())
    }

    async fn connected(&self, connected: bool) {
        self.connection.send_replace(if connected {
            Connection::Connected { epoch: 1 }
        } else {
            Connection::Disconnected {
                why: "a tunnel".to_owned(),
            }
        });
        self.parked_for(20).await;
    }
}

#[tokio::test(start_paused = true)]
async fn month_that_is_not_known_is_used_up_if_the_owner_bounds_it() {
    let fixture = counting("data: {perMonth: 1Ti}\n", "{");
    fixture.parked_for(120).await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(fixture.refusal().as_deref(), Some(reason::NETWORK_TERMS));
    let data = fixture.ask(Ask::Status).await.status.data.unwrap();
    assert_eq!((data.lost, data.per_month), (true, Some(1 << 40)));
    let unbounded = counting("", "{");
    unbounded.parked_for(120).await;
    assert_eq!(unbounded.standing(), Standing::Available);
}

/// Here the cluster is reached by something that no interface has.
#[tokio::test(start_paused = true)]
async fn what_runs_stands_still_by_a_network_that_costs_and_nothing_begins_while_none_is_known() {
    let fixture = counting("data: {perMonth: 1Ti}\n", LONG_AGO);
    fixture.parked_for(120).await;
    assert_eq!(fixture.standing(), Standing::Available, "nothing moves by no network");
    let outside = format!(
        "{}: a term of the owner about the network is not met",
        reason::NETWORK_TERMS
    );
    assert_eq!(fixture.refused().as_ref(), Some(&outside));
    fixture.live.send_replace(1);
    fixture.connected(true).await;
    assert_eq!(fixture.standing(), Standing::Paused);
    assert!(*fixture.brake.borrow());
    fixture.connected(false).await;
    assert_eq!(
        fixture.standing(),
        Standing::Available,
        "what runs goes on without the cluster"
    );
    let data = fixture.ask(Ask::Status).await.status.data.unwrap();
    assert_eq!(
        (data.month_bytes, data.lost, data.metered.as_str()),
        (0, false, "unknown")
    );
}

#[tokio::test(start_paused = true)]
async fn owner_who_allows_it_has_work_by_any_network() {
    let fixture = counting("network: {metered: allow}\n", LONG_AGO);
    fixture.parked_for(120).await;
    fixture.connected(true).await;
    assert_eq!((fixture.standing(), fixture.refused()), (Standing::Available, None));
}

#[tokio::test(start_paused = true)]
async fn expression_that_is_not_true_any_more_lets_work_stand_still() {
    let fixture = Fixture::new(Some(&(OWNER.to_owned() + "when: chargePercent >= 70\n")));
    fixture.parked_for(120).await;
    assert_eq!(fixture.standing(), Standing::Available);
    fixture.live.send_replace(1);
    fixture.signal(path::CHARGE, Value::Number(69.9));
    fixture.settle().await;
    assert_eq!(fixture.standing(), Standing::Paused);
    assert_eq!(fixture.refusal().as_deref(), Some(reason::OWNER_TERMS));
    let outside = format!("{}: a term of the owner is not met", reason::OWNER_TERMS);
    assert_eq!(fixture.refused(), Some(outside));
}
