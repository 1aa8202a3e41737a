//! One test's own part of the shared testbed: a namespace, a pool, cars, jobs. Gone when the test is over, whatever its end.
//!
//! Called by cluster tests through [`run`]. Names carry the test's name, so that tests do not meet. What went wrong is shown with
//! the state of the test's objects and the ends of its cars' logs: nobody has to run it again to see why.

pub mod jobs;

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kerbside_api::v1alpha1::{Vehicle, VehiclePhase, VehiclePool};
use kerbside_databroker::vss::Release;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::databroker::{Databroker, Way};
use crate::fleet::car::{Car, Plan};
use crate::kubectl::Tool;
use crate::process::{self, Program, Record};
use crate::wait;

/// A condition that is not reached within this is not reached. Cars compute for real, beside other tests.
pub const DEADLINE: Duration = Duration::from_mins(2);

/// One test's part of the testbed.
pub struct World {
    /// The testbed.
    pub bed: Bed,
    /// The test's namespace, and its pool's name.
    pub name: String,
    cars: Vec<Car>,
    /// Processes of the test's own.
    besides: Vec<String>,
}

/// Runs a test in a world of its own and clears it away. `name` is short, and no other test's.
pub async fn run<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World) -> Result<()>,
{
    let mut world = World::new(name).await?;
    let result = test(&mut world).await;
    let result = match result {
        Ok(()) => Ok(()),
        Err(e) => {
            let state = world.describe().await;
            Err(e.context(format!(
                "test {name} failed; the state of its part of the cluster:\n{state}\ncaused by"
            )))
        }
    };
    world.clear().await.and(result)
}

impl World {
    async fn new(name: &str) -> Result<Self> {
        let bed = Bed::from_environment().await?;
        // A test that is repeated must not meet what its last run left behind.
        let name = format!("{name}-{}", data_encoding::HEXLOWER.encode(&rand::random::<[u8; 2]>()));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let namespaces: Api<Namespace> = Api::all(bed.client.clone());
        kerbside_k8s::apply::apply(&namespaces, &name, "kerbside-testbed", &namespace)
            .await
            .context("failed to create the test's namespace")?;
        let world = Self {
            bed,
            name,
            cars: Vec::new(),
            besides: Vec::new(),
        };
        world.pool(|_| ()).await?;
        Ok(world)
    }

    /// The API as the administrator.
    pub fn client(&self) -> Client {
        self.bed.client.clone()
    }

    /// The test's Pods.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client(), &self.name)
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> &Tool {
        &self.bed.kubectl
    }

    /// Applies the test's pool, changed by `edit`.
    pub async fn pool(&self, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let mut pool = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": {"name": self.name},
            "spec": {"allowedNamespaces": {"from": "All"}},
        });
        edit(&mut pool);
        let api: Api<VehiclePool> = Api::all(self.client());
        kerbside_k8s::apply::apply(&api, &self.name, "kerbside-testbed", &pool)
            .await
            .context("failed to apply the test's pool")?;
        Ok(())
    }

    /// A databroker for a car of the test; it ends with the test.
    pub async fn databroker(&mut self, release: Release, way: Way) -> Result<Databroker> {
        let name = format!("{}-{}", self.name, self.besides.len());
        let broker = Databroker::start(&self.bed.layout, &name, release, way).await?;
        self.besides.push(broker.process()?.program.name);
        Ok(broker)
    }

    /// A program besides all others; it ends with the test.
    pub fn program(&mut self, program: &Program) -> Result<Record> {
        let record = process::start(&self.bed.layout, program)?;
        self.besides.push(program.name.clone());
        Ok(record)
    }

    fn besides(&self) -> impl Iterator<Item = Record> {
        self.besides
            .iter()
            .filter_map(|name| process::find(&self.bed.layout, name))
    }

    /// A new car that runs; it is Available when this returns, if its plan lets it be.
    pub async fn car(&mut self, plan: &Plan) -> Result<Car> {
        let car = self
            .bed
            .car(&format!("{}-{}", self.name, self.cars.len()), &self.name, plan)
            .await?;
        self.cars.push(car.clone());
        car.start()?;
        let works = plan.consent.is_some() && !plan.metered;
        if works && plan.signals == crate::fleet::car::Signals::Parked {
            self.phase(&car, VehiclePhase::Available).await?;
        }
        Ok(car)
    }

    /// `count` cars as they come by default.
    pub async fn cars(&mut self, count: usize) -> Result<Vec<Car>> {
        let mut cars = Vec::new();
        for _ in 0..count {
            cars.push(self.car(&Plan::default()).await?);
        }
        Ok(cars)
    }

    /// Waits until the cluster sees the car in `phase`.
    pub async fn phase(&self, car: &Car, phase: VehiclePhase) -> Result<()> {
        let api: Api<Vehicle> = Api::all(self.client());
        let what = format!("car {} ({}) to be {phase:?}", car.name, car.id);
        let there = |v: Option<&Vehicle>| v?.status.as_ref().filter(|s| s.phase == phase).map(|_| ());
        wait::object(&api, car.id.as_str(), &what, DEADLINE, there).await
    }

    /// Waits until the car's own account of its link (`kerbside-agent status`) says `words`.
    pub async fn link_says(&self, car: &Car, words: &str) -> Result<()> {
        wait::until_ok(
            &format!("the link of {} to say '{words}'", car.name),
            DEADLINE,
            async || {
                let status = car.owner("status").await?.stdout;
                let link = status
                    .lines()
                    .find(|l| l.starts_with("link"))
                    .unwrap_or_default()
                    .to_owned();
                anyhow::ensure!(link.contains(words), "it says: {link}");
                Ok(())
            },
        )
        .await
    }

    /// Waits until `condition` gives something for the car's Node, which is `None` while there is none.
    pub async fn node<T>(&self, car: &Car, what: &str, condition: impl Fn(Option<&Node>) -> Option<T>) -> Result<T> {
        wait::object(&Api::all(self.client()), car.id.as_str(), what, DEADLINE, condition).await
    }

    /// Waits until `condition` gives something for the test's Pods.
    pub async fn wait_pods<T>(&self, what: &str, condition: impl Fn(&[Pod]) -> Option<T>) -> Result<T> {
        wait::objects(
            &self.pods(),
            kube::runtime::watcher::Config::default(),
            what,
            DEADLINE,
            condition,
        )
        .await
    }

    /// Waits until a Pod of the job runs on `car`; gives the Pod.
    pub async fn running_on(&self, car: &Car) -> Result<Pod> {
        let node = car.id.as_str();
        self.wait_pods(&format!("a Pod to run on {node}"), |pods| {
            pods.iter()
                .find(|p| on(p, node) && phase(p) == "Running" && !ending(p))
                .cloned()
        })
        .await
    }

    /// Waits until a Pod of the job runs on one of `cars`; gives the Pod and the car.
    pub async fn running_on_one_of<'a>(&self, cars: &'a [Car]) -> Result<(Pod, &'a Car)> {
        let place = |pod: &Pod| cars.iter().position(|car| on(pod, car.id.as_str()));
        let (pod, at) = self
            .wait_pods("a Pod to run on one of the cars", |pods| {
                pods.iter()
                    .filter(|p| phase(p) == "Running" && !ending(p))
                    .find_map(|p| Some((p.clone(), place(p)?)))
            })
            .await?;
        Ok((pod, &cars[at]))
    }

    /// Waits until `count` Pods are there and the scheduler has said of each that no Node takes it.
    pub async fn pods_unplaced(&self, count: usize) -> Result<()> {
        self.wait_pods(&format!("{count} Pods that no Node takes"), |pods| {
            let unplaced = |p: &&Pod| condition(p, "PodScheduled") == Some(("False", "Unschedulable"));
            (pods.iter().filter(unplaced).count() == count && pods.len() == count).then_some(())
        })
        .await
    }

    /// Waits for an Event with `reason` about an object of the test whose note has `words` in it; gives the note.
    pub async fn event(&self, about: &str, reason: &str, words: &str) -> Result<String> {
        use k8s_openapi::api::events::v1::Event;
        let api: Api<Event> = Api::namespaced(self.client(), &self.name);
        let wanted = |e: &&Event| {
            let regarding = e.regarding.as_ref().and_then(|r| r.name.as_deref());
            let says = |note: &str| note.contains(words);
            regarding == Some(about)
                && e.reason.as_deref() == Some(reason)
                && says(e.note.as_deref().unwrap_or_default())
        };
        let config = kube::runtime::watcher::Config::default();
        wait::objects(
            &api,
            config,
            &format!("the Event {reason} about {about} with \"{words}\""),
            DEADLINE,
            |events| events.iter().find(wanted).map(|e| e.note.clone().unwrap_or_default()),
        )
        .await
    }

    /// What a person would look at first.
    async fn describe(&self) -> String {
        let mut text = String::new();
        let looks: [&[&str]; 4] = [
            &["get", "fleetjobs,pods", "-o", "wide"],
            &[
                "get",
                "fleetjobs",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}: {.status}{\"\\n\"}{end}",
            ],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &[
                "get",
                "vehicles,nodes",
                "-l",
                &format!("kerbside.dev/pool={}", self.name),
            ],
        ];
        for look in looks {
            let args = [&["-n", self.name.as_str()], look].concat();
            if let Ok(output) = self.kubectl().attempt(&args, "").await {
                text.extend(["$ kubectl ", &args.join(" "), "\n", &output.stdout, &output.stderr]);
            }
        }
        for car in &self.cars {
            let log = self.bed.layout.path(&format!("logs/car-{}.log", car.name));
            text.extend([&car.name, " (", car.id.as_str(), "):\n", &process::tail(&log, 15)]);
        }
        text
    }

    /// Ends the cars and deletes everything; what the cluster then has to do, it does while other tests run.
    async fn clear(self) -> Result<()> {
        let delete = DeleteParams::background();
        let jobs: Api<kerbside_api::v1alpha1::FleetJob> = Api::namespaced(self.client(), &self.name);
        // First what makes Pods, then who runs them, so that the namespace never waits for a car that is gone.
        jobs.delete_collection(&delete, &ListParams::default())
            .await
            .context("failed to delete the test's jobs")?;
        let namespaces: Api<Namespace> = Api::all(self.client());
        namespaces
            .delete(&self.name, &delete)
            .await
            .context("failed to delete the test's namespace")?;
        let gone = self
            .wait_pods("the test's Pods to be gone", |pods| pods.is_empty().then_some(()))
            .await;
        let ended: Result<Vec<()>> = join_all(self.cars.iter().map(Car::stop)).await.into_iter().collect();
        let vehicles: Api<Vehicle> = Api::all(self.client());
        for car in &self.cars {
            vehicles
                .delete(car.id.as_str(), &delete)
                .await
                .map(drop)
                .or_else(|e| match e {
                    kube::Error::Api(s) if s.is_not_found() => Ok(()),
                    e => Err(e).context("failed to delete a test's Vehicle"),
                })?;
        }
        let pools: Api<VehiclePool> = Api::all(self.client());
        pools
            .delete(&self.name, &delete)
            .await
            .context("failed to delete the test's pool")?;
        ended?;
        let besides: Vec<_> = self.besides().collect();
        for record in &besides {
            // A stopped process does not hear that it should end.
            record.signal(Signal::SIGCONT);
        }
        process::end(&self.bed.layout, &besides, Duration::from_secs(5)).await?;
        gone.context("a test must leave nothing behind")
    }
}

impl Drop for World {
    /// A test that panics, or is ended for its slowness, still takes its cars along, and what it started besides.
    fn drop(&mut self) {
        let cars = self.cars.iter().filter_map(|car| car.process().ok());
        for record in cars.chain(self.besides()) {
            record.signal(Signal::SIGKILL);
        }
    }
}

/// Whether the Pod is bound to `node`.
pub fn on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
}

/// The Pod's phase, or nothing.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether somebody asked for the Pod to go.
pub fn ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// A condition of the Pod: status and reason.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let found = conditions.iter().find(|c| c.type_ == type_)?;
    Some((found.status.as_str(), found.reason.as_deref().unwrap_or_default()))
}

/// Whether the Node has a taint with this key.
pub fn tainted(node: &Node, key: &str) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref());
    taints.unwrap_or_default().iter().any(|t| t.key == key)
}

/// The attempt's completion index.
pub fn index(pod: &Pod) -> Option<u32> {
    pod.labels().get(kerbside_core::names::label::INDEX)?.parse().ok()
}
