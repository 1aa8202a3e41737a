//! One simulated car: a directory, the owner's document in it, signals from a file, and the real agent as a process.
//!
//! Called by the demo and by tests. Everything that happens to a car goes through what a real one has too: its signals, its
//! owner's commands, its power, its network. Nothing reaches into the agent.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kerbside_core::ids::VehicleId;
use kerbside_core::parked::signals::path;
use kerbside_vehicle_agent::control::Status;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::endpoints::Endpoints;
use crate::kubectl::{Output, Tool};
use crate::layout::{Layout, read_json, write_json};
use crate::process::{self, Program, Record};
use crate::{databroker, engine, programs, tools};

/// Where a car keeps who it is, in its directory.
pub const IDENTITY: &str = "identity/identity.json";

/// What a car's signals say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// Parked, locked, empty, plugged in, charged.
    Parked,
    /// The driver's door opens.
    DriverReturns,
    /// The driver's door opens, and soon after the car is on the road.
    DrivesOff,
    /// On the road, with nobody seen before.
    Driving,
    /// Parked, and charged less than the owner keeps: nobody is there, and the car leaves in good order.
    Spent,
    /// Nothing is known.
    Silent,
}

impl Signals {
    /// The scenario file: JSON, which every reader of YAML reads.
    fn script(self) -> Value {
        match self {
            Self::Parked => json!({"preset": "parked"}),
            // A car whose door opens was parked before: its other signals stay what they are.
            Self::DriverReturns => json!({"preset": "parked", "steps": [{"at": "0s", "preset": "driverReturns"}]}),
            Self::DrivesOff => json!({"preset": "parked", "steps": [
                {"at": "0s", "preset": "driverReturns"},
                {"at": "1500ms", "preset": "driving"},
            ]}),
            Self::Driving => json!({"preset": "driving"}),
            Self::Spent => json!({"preset": "parked", "set": {path::CHARGE: 10}}),
            Self::Silent => json!({"preset": "silent"}),
        }
    }
}

/// What a car is when it is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What its signals say first.
    pub signals: Signals,
    /// The classes that the owner consents to, by document and on record; without any document at all if `None`.
    pub consent: Option<Vec<String>>,
    /// What it gives, in the words of a Node's allocatable.
    pub cpu: &'static str,
    /// Likewise.
    pub memory: &'static str,
    /// How long it must be parked before it is available.
    pub dwell: Duration,
    /// From the decision to leave to the last process gone.
    pub notice: Duration,
    /// How long the owner lets frozen work wait.
    pub resume_within: Duration,
    /// The container engine that it has.
    pub containers: Option<engine::Kind>,
    /// The section `energy` of its `car.yaml`: without it nothing is known of what work takes.
    pub energy: Option<Value>,
    /// What its owner says beside consent, as an object: its fields go before those that every owner of the testbed says.
    pub terms: Value,
    /// The section `signals` of its `car.yaml`: it listens to a databroker, and `signals` above says nothing, unless somebody plays it there.
    pub databroker: Option<Value>,
    /// Minutes that it says it stays, with 50 and with 90 % confidence.
    pub free_for: [u32; 2],
    /// The port of its owner's page, on this machine's loopback.
    pub page: Option<u16>,
    /// Its maker says that its network costs by the byte: here that is the loopback.
    pub metered: bool,
    /// It never ran any program, and compiles each at first. Else it is as after a night's work, if the testbed has machine code.
    pub fresh: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            signals: Signals::Parked,
            consent: Some(vec!["inference".into()]),
            cpu: "1",
            memory: "512Mi",
            // Short: nobody waits in a test for a driver who might come back.
            dwell: Duration::from_millis(200),
            notice: Duration::from_secs(5),
            resume_within: Duration::from_mins(2),
            containers: None,
            energy: None,
            terms: json!({}),
            databroker: None,
            free_for: [240, 60],
            page: None,
            metered: false,
            fresh: false,
        }
    }
}

/// A car of the testbed.
#[derive(Debug, Clone)]
pub struct Car {
    /// What people call it; names its directory, its process and its log.
    pub name: String,
    /// Who it is to the cluster.
    pub id: VehicleId,
    layout: Layout,
    link: String,
    engine: Option<PathBuf>,
    /// Its signals come from a databroker.
    listens: bool,
    /// Without TLS.
    registries: Vec<String>,
}

impl Car {
    /// Makes the directory, writes what owner and maker say, and enrols the car with `token`. It does not run yet.
    pub async fn enrol(layout: &Layout, endpoints: &Endpoints, name: &str, plan: &Plan, token: &str) -> Result<Self> {
        let dir = layout.dir(&format!("cars/{name}"))?;
        let socket = dir.join("control.sock");
        databroker::socket_fits(&socket)?;
        let engine = match plan.containers.map(|kind| endpoints.engine(kind)) {
            None => None,
            Some(Ok(socket)) => Some(socket.to_owned()),
            Some(Err(why)) => bail!("the testbed has no such container engine: {why}"),
        };
        write_documents(&dir, plan, engine.as_deref())?;
        set_signals(&dir, plan.signals)?;
        if !plan.fresh {
            programs::give_compiled(layout, &dir)?;
        }
        let agent = Tool::own("kerbside-agent", &endpoints.kubeconfig)?;
        let path = dir.to_str().context("a testbed's path is text")?;
        agent
            .run(
                &["enrol", "--dir", path, "--link", &endpoints.link, "--token", token],
                "",
            )
            .await?;
        for purpose in plan.consent.iter().flatten() {
            agent
                .run(&["consent", "give", "--dir", path, "--agree", "--purpose", purpose], "")
                .await?;
        }
        let id = certificate_name(&dir)?;
        Ok(Self {
            name: name.to_owned(),
            id,
            layout: layout.clone(),
            link: endpoints.link.clone(),
            engine,
            listens: plan.databroker.is_some(),
            registries: endpoints.plain_http(),
        })
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        self.layout.path(&format!("cars/{}", self.name))
    }

    /// Starts the agent, as when the car's computer boots.
    pub fn start(&self) -> Result<Record> {
        let dir = self.dir();
        let program = Program::new(&process_name(&self.name), tools::own("kerbside-agent")?)
            .args(["run", "--link", &self.link])
            .args(self.registries.iter().flat_map(|host| ["--registry-http", host]))
            .args(["--dir".to_owned(), dir.display().to_string()]);
        let program = if self.listens {
            program
        } else {
            program.args(["--scenario".to_owned(), scenario(&dir).display().to_string()])
        };
        process::start(&self.layout, &program)
    }

    /// What its signals say from now on.
    pub fn signals(&self, signals: Signals) -> Result<()> {
        set_signals(&self.dir(), signals)
    }

    /// Whether it listens to a databroker, and knows by it all that it is judged by.
    pub async fn hears(&self) -> Result<bool> {
        let status = self.owner("status").await?.stdout;
        Ok(self.listens && !status.lines().any(|line| line.starts_with("unknown")))
    }

    /// Replaces the owner's document; `None` takes it away. What is on record stays.
    pub fn consent(&self, plan: &Plan) -> Result<()> {
        write_documents(&self.dir(), plan, self.engine.as_deref())
    }

    /// The owner's command: `pause`, `resume`, `withdraw` or `status`; gives what the program said.
    pub async fn owner(&self, command: &str) -> Result<Output> {
        self.agent(&[command]).await
    }

    /// How things stand, for its owner.
    pub async fn status(&self) -> Result<Status> {
        let said = self.agent(&["status", "--json"]).await?.stdout;
        serde_json::from_str(&said).context("the agent's status is not what it was")
    }

    /// Calls the agent's program in the car, as its owner may; gives what it said.
    pub async fn agent(&self, words: &[&str]) -> Result<Output> {
        let agent = Tool::own("kerbside-agent", std::path::Path::new("/nonexistent"))?;
        let dir = self.dir();
        let dir = ["--dir", dir.to_str().context("a testbed's path is text")?];
        let args: Vec<&str> = words.iter().copied().chain(dir).collect();
        let output = agent.attempt(&args, "").await?;
        if !output.success {
            bail!(
                "`kerbside-agent {}` failed for {}: {}",
                words.join(" "),
                self.name,
                output.stderr.trim()
            );
        }
        Ok(output)
    }

    /// The agent's process, which must run.
    pub fn process(&self) -> Result<Record> {
        super::running(&self.layout, &process_name(&self.name))
    }

    /// The car's computer loses power.
    pub async fn crash(&self) -> Result<()> {
        process::crash(&self.layout, &process_name(&self.name)).await.map(drop)
    }

    /// The car drives into a tunnel: nothing is heard of it, and it does nothing. Also its program stands still, unlike in a real
    /// tunnel: what it does while unheard is for tests of the link.
    pub fn freeze(&self) -> Result<()> {
        self.process()?.signal(Signal::SIGSTOP);
        Ok(())
    }

    /// It comes out of the tunnel.
    pub fn thaw(&self) -> Result<()> {
        self.process()?.signal(Signal::SIGCONT);
        Ok(())
    }

    /// Ends the agent as a service manager does.
    pub async fn stop(&self) -> Result<()> {
        let Some(record) = process::find(&self.layout, &process_name(&self.name)) else {
            return Ok(());
        };
        // A stopped process does not hear that it should end.
        record.signal(Signal::SIGCONT);
        process::end(&self.layout, &[record], Duration::from_secs(5)).await
    }
}

/// Names of cars' processes begin with this.
pub const PREFIX: &str = "car-";

fn process_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Where in its directory a car's signals are played from.
pub(crate) fn scenario(dir: &std::path::Path) -> PathBuf {
    dir.join("scenario.yaml")
}

fn set_signals(dir: &std::path::Path, signals: Signals) -> Result<()> {
    write_json(&scenario(dir), &signals.script())
}

fn write_documents(dir: &std::path::Path, plan: &Plan, engine: Option<&std::path::Path>) -> Result<()> {
    let owner = dir.join("owner.yaml");
    match &plan.consent {
        Some(classes) => {
            let mut document = json!({
                "consent": {"givenAt": "2026-01-01T00:00:00Z", "classes": classes},
                "requirePluggedIn": true,
                "chargeFloorPercent": 50,
                "resumeWithin": text(plan.resume_within),
            });
            for (field, value) in plan.terms.as_object().context("what an owner says more is an object")? {
                document[field.as_str()] = value.clone();
            }
            write_json(&owner, &document)?;
        }
        None if owner.exists() => {
            std::fs::remove_file(&owner).with_context(|| format!("failed to remove {}", owner.display()))?;
        }
        None => {}
    }
    let metered: &[&str] = if plan.metered { &["lo*"] } else { &[] };
    write_json(
        &dir.join("car.yaml"),
        &json!({
            "allocatable": {"cpu": plan.cpu, "memory": plan.memory},
            "freeFor": {"p50": plan.free_for[0], "p90": plan.free_for[1]},
            // All cars share this machine: what presses on its memory is no one car's work.
            "parked": {"dwell": text(plan.dwell), "notice": text(plan.notice), "memoryFullPercentMax": 100},
            "containers": engine.map(|socket| json!({"socket": socket})),
            "signals": plan.databroker,
            "meteredInterfaces": metered,
            // Whatever this machine calls its own.
            "unmeteredInterfaces": ["*"],
            "energy": plan.energy,
            "page": plan.page.map(|port| json!({"listen": format!("127.0.0.1:{port}")})),
        }),
    )
}

/// As Kubernetes' fields take it: at most five digits before each unit.
fn text(duration: Duration) -> String {
    format!("{}s{}ms", duration.as_secs(), duration.subsec_millis())
}

/// Who the car is, from the certificate that it got.
fn certificate_name(dir: &std::path::Path) -> Result<VehicleId> {
    let kept: Value = read_json(&dir.join(IDENTITY))?;
    let part = |name: &str| kept[name].as_str().unwrap_or_default();
    let identity = kerbside_link::identity::Identity::from_pem(part("key"), part("chain"), part("ca"))
        .context("the identity that enrolment left is not valid")?;
    Ok(identity.vehicle().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_what_the_agent_reads() {
        let dir = tempfile::tempdir().unwrap();
        write_documents(dir.path(), &Plan::default(), None).unwrap();
        let text = std::fs::read_to_string(dir.path().join("owner.yaml")).unwrap();
        let document: kerbside_core::owner::Document = serde_saphyr::from_str(&text).unwrap();
        let document = document.check().unwrap();
        assert_eq!(document.consent.classes, ["inference"]);
        assert_eq!(document.max_kwh_per_day, None);
        assert_eq!(document.resume_within, Duration::from_mins(2));
        write_documents(
            dir.path(),
            &Plan {
                consent: None,
                ..Plan::default()
            },
            None,
        )
        .unwrap();
        assert!(!dir.path().join("owner.yaml").exists());
    }

    #[test]
    fn what_an_owner_and_a_maker_say_of_energy_is_in_their_documents() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            energy: Some(json!({"model": {"wakeWatts": 120, "wattsPerCore": 9}})),
            terms: json!({"timeZone": "UTC", "maxKWhPerDay": "1m", "resumeWithin": "5s"}),
            ..Plan::default()
        };
        write_documents(dir.path(), &plan, None).unwrap();
        let text = std::fs::read_to_string(dir.path().join("owner.yaml")).unwrap();
        let document: kerbside_core::owner::Document = serde_saphyr::from_str(&text).unwrap();
        let document = document.check().unwrap();
        assert_eq!(document.max_microjoules_per_day(), Some(3_600_000_000));
        assert_eq!(document.resume_within, Duration::from_secs(5));
        let car: Value = read_json(&dir.path().join("car.yaml")).unwrap();
        assert_eq!(Some(&car["energy"]), plan.energy.as_ref());
    }
}
