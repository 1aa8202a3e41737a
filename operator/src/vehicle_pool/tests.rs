//! Counting, summing, conditions, and that nothing is written without a change.

use kerbside_api::v1alpha1::Vehicle;
use kerbside_k8s::events::{self, Broadcaster, Recorder};
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;
use crate::testing::HandClock;
use crate::testing::fake_api::{FakeApi, Fate};

fn guard<K: serde::de::DeserializeOwned + kube::Resource>(object: Value) -> DeserializeGuard<K> {
    serde_json::from_value(object).unwrap()
}

fn vehicle(name: &str, pool: &str, phase: &str, cpu: &str) -> DeserializeGuard<Vehicle> {
    guard(json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": name },
        "spec": { "pool": pool },
        "status": { "phase": phase, "offer": { "allocatable": { "cpu": cpu, "kerbside.dev/npu": "1" } } },
    }))
}

fn pool(expression: &str) -> Value {
    json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool",
        "metadata": { "name": "overnight", "generation": 3 },
        "spec": {
            "allowedNamespaces": { "from": "All" },
            "eligibility": [{ "name": "long-stay", "expression": expression, "message": "leaves within the hour" }],
        },
    })
}

fn context(api: &FakeApi) -> Arc<Context> {
    context_that_tells(api).0
}

/// With who publishes its Events.
fn context_that_tells(api: &FakeApi) -> (Arc<Context>, Broadcaster) {
    let client = api.client(Fate::Lives);
    let (events, broadcaster) = events::queue(Recorder::new(&client, "kerbside-operator", None));
    let ctx = Arc::new(Context {
        events,
        client,
        vehicles: Arc::default(),
        metrics: Metrics::new(&mut Registry::default()),
        clock: HandClock::new(),
        failures: Failures::default(),
    });
    (ctx, broadcaster)
}

async fn reconcile_stored(api: &FakeApi, ctx: &Arc<Context>) -> Value {
    let stored = Arc::new(guard(api.get("vehiclepools", "", "overnight")));
    reconcile(stored, Arc::clone(ctx)).await.unwrap();
    api.get::<Value>("vehiclepools", "", "overnight")["status"].clone()
}

fn condition<'a>(status: &'a Value, type_: &str) -> &'a Value {
    status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == type_)
        .unwrap()
}

#[tokio::test]
async fn pool_counts_its_cars_by_phase_and_sums_what_the_available_ones_offer() {
    let api = FakeApi::new();
    api.put("vehiclepools", pool("offer.freeFor.p90 >= 60"));
    let ctx = context(&api);
    let cars = [
        ("a", "overnight", "Available", "1500m"),
        ("b", "overnight", "Available", "2"),
    ];
    let others = [
        ("c", "overnight", "Leaving", "4"),
        ("d", "overnight", "Away", "4"),
        ("e", "day", "Available", "4"),
    ];
    for (name, pool, phase, cpu) in cars.into_iter().chain(others) {
        ctx.vehicles.fold(Event::Apply(vehicle(name, pool, phase, cpu)));
    }
    let status = reconcile_stored(&api, &ctx).await;
    assert_eq!(
        status["vehicles"],
        json!({ "enrolled": 4, "available": 2, "leaving": 1, "away": 1, "withoutAgent": 0, "parkedWithoutAgent": 0 })
    );
    assert_eq!(status["capacity"], json!({ "cpu": "3500m", "kerbside.dev/npu": "2" }));
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(status["observedGeneration"], 3);

    let writes = api.with(|w| w.writes.len());
    reconcile_stored(&api, &ctx).await;
    assert_eq!(
        api.with(|w| w.writes.len()),
        writes,
        "nothing changed and yet something was written"
    );

    for name in ["a", "b"] {
        ctx.vehicles
            .fold(Event::Delete(vehicle(name, "overnight", "Available", "1")));
    }
    let status = reconcile_stored(&api, &ctx).await;
    assert_eq!(status["capacity"], json!({}), "a resource that nobody offers is gone");
}

/// Also one whose status says what no API server lets it say.
#[tokio::test]
async fn cars_without_an_agent_are_counted_apart_and_are_nobodys_capacity() {
    let api = FakeApi::new();
    api.put("vehiclepools", pool("true"));
    let ctx = context(&api);
    let status = json!({ "phase": "Available", "offer": { "allocatable": { "cpu": "4" }, "classes": ["inference"] } });
    for (name, parked) in [("a", "True"), ("b", "False"), ("c", "Unknown"), ("d", "True")] {
        let mut status = status.clone();
        status["telemetry"] = json!({ "parked": parked });
        ctx.vehicles.fold(Event::Apply(guard(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
            "metadata": { "name": format!("car-{}", name.repeat(16)) },
            "spec": { "pool": "overnight", "source": "Telemetry" }, "status": status,
        }))));
    }
    let told = reconcile_stored(&api, &ctx).await;
    assert_eq!(
        told["vehicles"],
        json!({ "enrolled": 0, "available": 0, "leaving": 0, "away": 0, "withoutAgent": 4, "parkedWithoutAgent": 2 })
    );
    assert_eq!(told["capacity"], json!({}));
    let pools = ["overnight".parse().unwrap()];
    assert!(ctx.vehicles.willing(&pools, "inference").is_empty());
}

#[tokio::test]
async fn word_of_a_gateway_that_only_renews_what_it_said_wakes_no_pool() {
    let ctx = context(&FakeApi::new());
    let fold = |parked: &str, until: &str| {
        ctx.vehicles.fold(Event::Apply(guard(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": "car-aaaaaaaaaaaaaaaa" },
            "spec": { "pool": "overnight", "source": "Telemetry" },
            "status": { "telemetry": { "parked": parked }, "telemetryGoodUntil": until },
        }))))
    };
    let overnight = ["overnight".to_owned()].into();
    assert_eq!(fold("True", "2026-11-23T12:00:00Z"), overnight);
    assert!(fold("True", "2026-11-23T12:30:00Z").is_empty());
    // It is known all the same.
    let silent = |at: &str| ctx.vehicles.silent(at.parse().unwrap()).len();
    assert_eq!((silent("2026-11-23T12:29:59Z"), silent("2026-11-23T12:30:00Z")), (0, 1));
    assert_eq!(fold("False", "2026-11-23T13:00:00Z"), overnight);
}

#[tokio::test]
async fn pool_with_a_broken_expression_says_which_rule_and_why() {
    let api = FakeApi::new();
    api.put("vehiclepools", pool("offer.freeFor.p95 >= 60"));
    let status = reconcile_stored(&api, &context(&api)).await;
    let valid = condition(&status, "ExpressionsValid");
    assert_eq!(
        (&valid["status"], &valid["reason"]),
        (&json!("False"), &json!("ExpressionInvalid"))
    );
    assert_eq!(valid["message"], "eligibility rule 'long-stay': an offer has no 'p95'");
    assert_eq!(condition(&status, "Ready")["status"], "False");
}

#[tokio::test]
async fn pool_says_that_attempts_are_held_for_as_long_as_a_vehicle_says_so_and_tells_it_once() {
    let api = FakeApi::new();
    api.put("vehiclepools", pool("true"));
    let (ctx, mut events) = context_that_tells(&api);
    let car = |name: &str, pool: &str, reason: &str| {
        let status = if reason == "VehicleHeard" { "True" } else { "False" };
        let heard = json!({
            "type": "kerbside.dev/Heard", "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-11-23T12:00:00Z",
        });
        Event::Apply(guard(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": name },
            "spec": { "pool": pool }, "status": { "phase": "Available", "conditions": [heard] },
        })))
    };
    ctx.vehicles.fold(car("a", "overnight", "VehicleUnheard"));
    ctx.vehicles.fold(car("b", "day", "LossHeld"));
    let status = reconcile_stored(&api, &ctx).await;
    let held = condition(&status, "LossHeld");
    assert_eq!(
        held["status"], "False",
        "one that is lost alone, and one of another pool"
    );

    assert_eq!(
        ctx.vehicles.fold(car("a", "overnight", "LossHeld")),
        ["overnight".to_owned()].into()
    );
    ctx.vehicles.fold(car("c", "overnight", "LossHeld"));
    for _ in 0..2 {
        let status = reconcile_stored(&api, &ctx).await;
        let held = condition(&status, "LossHeld");
        assert_eq!(
            (&held["status"], &held["reason"]),
            (&json!("True"), &json!("ManyVehiclesUnheard"))
        );
        let message = held["message"].as_str().unwrap();
        assert!(message.starts_with("2 vehicles "), "{message}");
        assert_eq!(condition(&status, "Ready")["status"], "True", "its terms are applied");
    }
    let told = |api: &FakeApi| api.with(|w| w.events.iter().map(|e| e.0.clone()).collect::<Vec<_>>());
    events.drain().await;
    assert_eq!(told(&api), ["ManyVehiclesUnheard"]);

    ctx.vehicles.fold(car("a", "overnight", "VehicleHeard"));
    ctx.vehicles.fold(car("c", "overnight", "VehicleUnheard"));
    let status = reconcile_stored(&api, &ctx).await;
    assert_eq!(condition(&status, "LossHeld")["status"], "False");
    events.drain().await;
    assert_eq!(told(&api), ["ManyVehiclesUnheard", "LossReleased"]);
}

/// A gateway's account writes the status of its Vehicles: none of it may say that the adapter's brake holds.
#[tokio::test]
async fn pool_holds_nothing_for_a_car_without_an_agent_whatever_its_status_says() {
    let api = FakeApi::new();
    api.put("vehiclepools", pool("true"));
    let ctx = context(&api);
    let car = |source: &str| {
        let heard = json!({
            "type": "kerbside.dev/Heard", "status": "False", "reason": "LossHeld", "message": "",
            "lastTransitionTime": "2026-11-23T12:00:00Z",
        });
        Event::Apply(guard(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": "car-aaaaaaaaaaaaaaaa" },
            "spec": { "pool": "overnight", "source": source }, "status": { "conditions": [heard] },
        })))
    };
    for (source, says) in [("Telemetry", "False"), ("Agent", "True")] {
        ctx.vehicles.fold(car(source));
        let status = reconcile_stored(&api, &ctx).await;
        assert_eq!(condition(&status, "LossHeld")["status"], says, "{source}");
    }
}

#[tokio::test]
async fn pool_that_somebody_changed_meanwhile_is_looked_at_again() {
    let api = FakeApi::new();
    api.put("vehiclepools", pool("true"));
    let ctx = context(&api);
    let stale = Arc::new(guard(api.get("vehiclepools", "", "overnight")));
    let key = ("vehiclepools".to_owned(), String::new(), "overnight".to_owned());
    api.change(&key, |p| p["metadata"]["labels"] = json!({ "a": "b" }));
    assert_eq!(reconcile(stale, ctx).await.unwrap(), Action::requeue(AFTER_A_RACE));
}

#[tokio::test]
async fn pool_that_cannot_be_read_waits_for_a_change_and_says_so() {
    let api = FakeApi::new();
    let (ctx, mut events) = context_that_tells(&api);
    let mut broken = pool("true");
    broken["spec"]["allowedNamespaces"] = json!("everybody");
    let broken: Arc<DeserializeGuard<VehiclePool>> = Arc::new(guard(broken));
    let error = reconcile(Arc::clone(&broken), Arc::clone(&ctx)).await.unwrap_err();
    assert_eq!(error.category(), "ObjectUnreadable");
    assert_eq!(on_error(&broken, &error, &ctx), Action::await_change());
    events.drain().await;
    assert_eq!(api.with(|w| w.events[0].0.clone()), "ObjectUnreadable");
}

#[test]
fn index_says_which_pools_a_change_touches() {
    let index = VehicleIndex::default();
    let touched = |event| index.fold(event).into_iter().collect::<Vec<_>>();
    assert_eq!(touched(Event::Apply(vehicle("a", "x", "Away", "1"))), ["x"]);
    assert!(
        touched(Event::Apply(vehicle("a", "x", "Away", "1"))).is_empty(),
        "nothing changed"
    );
    assert_eq!(touched(Event::Apply(vehicle("a", "y", "Away", "1"))), ["x", "y"]);
    assert!(touched(Event::Init).is_empty());
    assert!(touched(Event::InitApply(vehicle("b", "z", "Away", "1"))).is_empty());
    assert_eq!(touched(Event::InitDone), ["y", "z"]);
    assert_eq!(index.totals("y").0.enrolled, 0);
}

#[test]
fn willing_are_those_that_could_take_an_attempt_now() {
    let index = VehicleIndex::default();
    let name = |letter: &str| format!("car-{}", letter.repeat(16));
    let put = |letter: &str, change: fn(&mut Value)| {
        let mut car = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": name(letter) },
            "spec": { "pool": "overnight" },
            "status": { "phase": "Available", "offer": { "classes": ["inference", "training"] } },
        });
        change(&mut car);
        index.fold(Event::Apply(guard(car)));
    };
    put("a", |_| ());
    put("b", |c| c["spec"]["pool"] = "weekend".into());
    put("c", |c| c["spec"]["pool"] = "elsewhere".into());
    put("d", |c| c["status"]["phase"] = "Leaving".into());
    put("e", |c| c["status"]["phase"] = "Away".into());
    put("f", |c| c["spec"]["suspended"] = true.into());
    put("g", |c| c["spec"]["revoked"] = true.into());
    put("h", |c| c["status"]["offer"]["classes"] = json!(["training"]));
    let willing = |pools: &[&str], class: &str| {
        let pools: Vec<_> = pools.iter().map(|p| p.parse().unwrap()).collect();
        let willing = index.willing(&pools, class);
        willing.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(willing(&["overnight"], "inference"), [name("a")]);
    assert_eq!(willing(&["overnight", "weekend"], "inference"), [name("a"), name("b")]);
    assert_eq!(willing(&["overnight"], "training"), [name("a"), name("h")]);
    assert_eq!(willing(&["overnight"], "rendering"), Vec::<String>::new());
    assert_eq!(willing(&[], "inference"), Vec::<String>::new());
}

#[test]
fn car_that_was_moved_is_known_in_both_pools() {
    let index = VehicleIndex::default();
    let name = "car-aaaaaaaaaaaaaaaa";
    let id = name.parse().unwrap();
    assert_eq!(index.pools_of(&id), Vec::<String>::new());
    index.fold(Event::Apply(vehicle(name, "overnight", "Available", "1500m")));
    assert_eq!(index.pools_of(&id), ["overnight"]);
    index.fold(Event::Apply(vehicle(name, "weekend", "Available", "2")));
    index.fold(Event::Apply(vehicle(name, "weekend", "Leaving", "2")));
    assert_eq!(index.pools_of(&id), ["weekend", "overnight"]);
    index.fold(Event::Init);
    index.fold(Event::InitApply(vehicle(name, "weekend", "Away", "0")));
    index.fold(Event::InitDone);
    assert_eq!(index.pools_of(&id), ["weekend", "overnight"]);
}
