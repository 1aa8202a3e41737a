//! The programs of an attempt: how they are started, what their end means, where their logs are.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::attempt::probe::Kind;
use kerbside_core::attempt::{Event, Exit, Life, NotReady};
use kerbside_link::fault::Fault;
use tokio::time::sleep;

use super::{Actor, Order};
use crate::ask::{NO_LIMIT, ask};
use crate::attempts::parts::{self, Parts};
use crate::attempts::prepare::Prepared;
use crate::attempts::tunnels::{Door, NOT_NOW, Way};
use crate::attempts::{files, quota};
use crate::cluster::Cluster;
use crate::egress;
use crate::logs::writer::LogWriter;
use crate::logs::{Log, reader};
use crate::pod::{Around, ContainerWork, Handler, Work, config_error, expand};
use crate::runtime::{Ending, Layer, Process, Running, Spec, SpecDirectory, Usage};

/// Of a log that stands in for a termination message, as in the kubelet.
const FALLBACK_LINES: u64 = 80;
const FALLBACK_BYTES: usize = 2048;

/// How long a program may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What the car holds of one container.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) prepared: Option<Prepared>,
    process: Option<Arc<dyn Process>>,
    directories: Vec<SpecDirectory>,
    log: Option<LogWriter>,
    past: Usage,
}

impl Slot {
    /// What all its runs have used.
    pub(super) fn usage(&self) -> Usage {
        self.process
            .as_ref()
            .map_or(self.past, |process| self.past.then(process.usage()))
    }
}

impl<C: Cluster> Actor<C> {
    pub(super) fn each_process(&self, act: impl Fn(&dyn Process)) {
        self.slots
            .iter()
            .filter_map(|slot| slot.process.as_deref())
            .for_each(act);
    }

    pub(super) fn with_process(&self, container: usize, act: impl Fn(&dyn Process)) {
        if let Some(process) = self.slots.get(container).and_then(|slot| slot.process.as_deref()) {
            act(process);
        }
    }

    /// Does what a Pod wants to be done after the start of a container.
    pub(super) fn post_start(&mut self, container: usize) {
        let hook = self.container(container).and_then(|work| work.post_start.clone());
        let (asked, run) = (self.ask(container, hook, NO_LIMIT), self.run(container));
        self.beside(async move {
            let result = asked.await;
            Order::Event(Event::PostStarted { container, run, result })
        });
    }

    /// The same before its end.
    pub(super) fn pre_stop(&mut self, container: usize) {
        let hook = self.container(container).and_then(|work| work.pre_stop.clone());
        self.with_process(container, |process| process.leave());
        let (asked, run) = (self.ask(container, hook, NO_LIMIT), self.run(container));
        self.beside(async move {
            let result = asked.await;
            Order::Event(Event::PreStopped { container, run, result })
        });
    }

    /// Asks a container by one of its probes.
    pub(super) fn probe(&mut self, container: usize, kind: Kind, number: u32) {
        let probe = self.container(container).and_then(|work| work.probe(kind).cloned());
        let limit = probe.as_ref().map_or(NO_LIMIT, |probe| probe.timeout);
        let (asked, run) = (
            self.ask(container, probe.map(|probe| probe.handler), limit),
            self.run(container),
        );
        self.beside(async move {
            let result = asked.await;
            Order::Event(Event::Probed {
                container,
                run,
                kind,
                number,
                result,
            })
        });
    }

    fn ask(
        &self,
        container: usize,
        handler: Option<Handler>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<(), String>> {
        let process = self.slots.get(container).and_then(|slot| slot.process.as_deref());
        match (handler, process) {
            (Some(handler), Some(process)) => ask(process, handler, limit).boxed(),
            (Some(_), None) => std::future::ready(Err("the program does not run".to_owned())).boxed(),
            (None, _) => std::future::ready(Ok(())).boxed(),
        }
    }

    /// The way into a container, or to a port, for somebody who is not in the car.
    pub(super) fn enter(&self, door: &Door) -> Result<Way, Fault> {
        if self.seed.attempt.frozen {
            return Err(Fault::unavailable(NOT_NOW));
        }
        let running = |slot: &Slot| slot.process.is_some();
        match door {
            Door::Container {
                container,
                command,
                streams,
            } => {
                let containers = self.seed.work.iter().flat_map(|work| &work.containers);
                let named = containers.enumerate().find(|(_, work)| work.name == *container);
                let found = named.and_then(|(number, work)| {
                    let process = self.slots.get(number)?.process.as_deref()?;
                    Some((process, work))
                });
                let (process, work) =
                    found.ok_or_else(|| Fault::not_found(format!("container {container} does not run")))?;
                let streams = match command {
                    Some(_) => *streams,
                    None => work.terminal.joined(*streams),
                };
                Ok(Way::Session(process.session(command.clone(), streams)))
            }
            Door::Port(port) => {
                // They share one network, so any of them leads there.
                let slot = self.slots.iter().find(|slot| running(slot));
                let process = slot.and_then(|slot| slot.process.as_deref());
                let process = process.ok_or_else(|| Fault::not_found("nothing of the Pod runs"))?;
                Ok(Way::Port(process.forward(*port, CONNECT)))
            }
        }
    }

    fn container(&self, container: usize) -> Option<&ContainerWork> {
        self.seed.work.as_ref()?.containers.get(container)
    }

    /// Starts a container. Says what became of it, or will say it later.
    pub(super) fn start(&mut self, container: usize) -> Option<Event> {
        let env = match self.environment(container) {
            Ok(env) => env,
            // It was there when the container was made ready.
            Err(why) => return Some(Event::NotStarted { container, why }),
        };
        let known = env.iter().cloned().collect();
        let parts = match self.parts(container, &known) {
            Ok(parts) => parts,
            Err(why) => return Some(Event::NotStarted { container, why }),
        };
        match self.try_start(container, env, &known, &parts) {
            Ok(true) => Some(Event::Started { container }),
            Ok(false) => None,
            Err(message) => {
                let ending = Ending {
                    code: 128,
                    reason: "StartError",
                    message,
                    usage: Usage::default(),
                };
                Some(Event::Exited {
                    container,
                    exit: self.exit(container, ending),
                })
            }
        }
    }

    /// The address of the Pod in the car, if it has one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let mut programs = self
            .slots
            .iter()
            .filter_map(|slot| slot.prepared.as_ref()?.program.as_ref().ok());
        programs.find_map(|program| program.address())
    }

    /// The Pod, if it has such a container.
    fn work_with(&self, index: usize) -> Option<&Work> {
        let work = self.seed.work.as_deref();
        work.filter(|work| index < work.containers.len())
    }

    /// The parts of volumes that a container has, bound for this run. `Err`: which cannot be.
    fn parts(&self, index: usize, known: &BTreeMap<String, String>) -> Result<Parts, NotReady> {
        let Some(work) = self.work_with(index) else {
            return Ok(Parts::new());
        };
        parts::bind(&self.directory, work, index, known).map_err(config_error)
    }

    /// The environment of a container as it is now. `Err`: what is missing of it.
    fn environment(&self, index: usize) -> Result<Vec<(String, String)>, NotReady> {
        let Some(work) = self.work_with(index) else {
            return Ok(Vec::new());
        };
        let around = Around {
            pod: &work.pod,
            given: &self.wires.given.borrow().clone(),
            address: self.address(),
        };
        let mut env = work.containers[index].env.resolve(around).map_err(config_error)?;
        // Of its own program: another container may still have one of a sandbox that has ended.
        let prepared = self.slots.get(index).and_then(|slot| slot.prepared.as_ref());
        if let Some(proxy) = prepared.and_then(|prepared| prepared.program.as_ref().ok()?.proxy()) {
            egress::tell(&mut env, proxy, around.address);
        }
        Ok(env)
    }

    /// Whether it runs already.
    fn try_start(
        &mut self,
        index: usize,
        env: Vec<(String, String)>,
        known: &BTreeMap<String, String>,
        parts: &Parts,
    ) -> Result<bool, String> {
        let work = self.seed.work.clone().ok_or("the Pod is not known")?;
        let container = work.containers.get(index).ok_or("the Pod has no such container")?;
        let expanded = |words: &[String]| words.iter().map(|word| expand(word, known)).collect();
        // Whatever a Pod says, no program gets more than the owner lets the car give.
        let most = self.most();
        let least = |limit: Option<u64>, most: Option<u64>| limit.into_iter().chain(most).min();
        let slot = &mut self.slots[index];
        slot.directories.clear();
        let prepared = slot.prepared.as_ref().ok_or("the container is not ready")?;
        let program = prepared.program.clone()?;
        let said = |e: io::Error| e.to_string();
        let images = &prepared.volumes;
        slot.directories = files::lay_out(&self.directory, &work, index, images, parts, known).map_err(said)?;
        let restart = self.seed.attempt.containers[index].restarts;
        let log = LogWriter::create(
            &self.directory.log(&container.name, restart),
            Arc::clone(&self.context.clock),
        );
        let log = log.map_err(said)?;
        let layer = Layer::default();
        let running = program.start(Spec {
            name: container.name.clone(),
            attempt: self.seed.uid.to_string(),
            restarts: restart,
            command: expanded(&container.command),
            args: expanded(&container.args),
            env,
            working_dir: container.working_dir.clone(),
            target: container.target.clone(),
            directories: slot.directories.clone(),
            memory_limit: least(container.memory_limit, most.memory).unwrap_or(0),
            cpu_limit: least(container.cpu_limit, most.cpu),
            cpu_request: container.cpu_request,
            security: container.security.clone(),
            terminal: container.terminal,
            layer: layer.clone(),
            log: log.clone(),
        });
        slot.log = Some(log);
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(layer);
        let Running {
            process,
            started,
            ended,
        } = running.map_err(said)?;
        let process: Arc<dyn Process> = process.into();
        let outlook = self.context.outlook.borrow().clone();
        let (uid, class) = (&self.seed.uid, &self.seed.run.class);
        self.context.living.add(uid, class, &process, &outlook);
        slot.process = Some(process);
        let runs = started.is_none();
        let me = self.me.clone();
        // Not one of the children that a stop aborts: its end must be heard.
        tokio::spawn(async move {
            let lost = || Ending {
                code: 137,
                reason: "Error",
                message: "the program's thread is gone".to_owned(),
                usage: Usage::default(),
            };
            if let Some(started) = started
                && started.await.is_ok()
                && let Some(me) = me.upgrade()
            {
                let _ = me.send(Order::Event(Event::Started { container: index })).await;
            }
            let ending = ended.await.unwrap_or_else(|_| Ok(lost()));
            if let Some(me) = me.upgrade() {
                let _ = me.send(Order::Ended(index, ending)).await;
            }
        });
        if let Some(old) = restart.checked_sub(2) {
            // Only the run before this one can still be asked for.
            let _ = std::fs::remove_file(self.directory.log(&container.name, old));
        }
        self.watch_files();
        Ok(runs)
    }

    /// Ends the attempt when it writes more than it may.
    pub(super) fn watch_files(&mut self) {
        let Some(work) = self.seed.work.as_ref().filter(|_| self.watch.is_none()) else {
            return;
        };
        let disk = self.context.outlook.borrow().allocatable.get("ephemeral-storage");
        let disk = u64::try_from(disk.units()).unwrap_or(0);
        let bounds = match quota::bounds(&self.directory, work, disk) {
            Ok(bounds) => Arc::new(bounds),
            Err(error) => {
                tracing::warn!(attempt = %self.seed.uid, %error, "sizes of the attempt's files are not watched");
                return;
            }
        };
        let layers = Arc::clone(&self.layers);
        self.watch = Some(self.beside(async move {
            loop {
                sleep(quota::PERIOD).await;
                let bounds = Arc::clone(&bounds);
                let layers: Vec<_> = {
                    let layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
                    layers.iter().map(|layer| layer.as_ref()?.get().cloned()).collect()
                };
                let broken = tokio::task::spawn_blocking(move || quota::check(&bounds, &layers)).await;
                if let Ok(Some(broken)) = broken {
                    return Order::Event(Event::Fail {
                        reason: broken.reason.to_owned(),
                        message: broken.message,
                    });
                }
            }
        }));
    }

    /// Nothing of a program ran, so there is nothing to be said of its end, and its log is no log.
    pub(super) fn not_started(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.process = None;
            slot.log = None;
        }
    }

    /// The end of a program, with the message that it left.
    pub(super) fn exit(&mut self, index: usize, ending: Ending) -> Exit {
        let now_ms = self.now().wall_ms;
        let life = self.seed.attempt.containers.get(index).map(|container| &container.life);
        let started_ms = if let Some(Life::Running { started_ms, .. }) = life {
            *started_ms
        } else {
            now_ms
        };
        let mut message = None;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.process = None;
            slot.past = slot.past.then(ending.usage);
            let container = self.seed.work.as_ref().and_then(|work| work.containers.get(index));
            message = container.and_then(|c| files::termination_message(&slot.directories, &c.message_path));
            let from_log = ending.code != 0 && container.is_some_and(|container| container.message_from_log);
            if let Some(log) = slot.log.as_ref().filter(|_| from_log && message.is_none()) {
                let text = reader::tail(&log.log().path, FALLBACK_LINES, FALLBACK_BYTES);
                message = text.ok().filter(|text| !text.is_empty());
            }
        }
        Exit {
            code: ending.code,
            reason: ending.reason.to_owned(),
            message: message.unwrap_or(ending.message),
            started_ms,
            finished_ms: now_ms,
        }
    }

    /// The log of a container, or what the kubelet would say instead.
    pub(super) fn log(&self, name: &str, previous: bool) -> Result<Log, String> {
        let pod = self.seed.work.as_ref().map_or("", |work| work.name.as_str());
        let index = self
            .seed
            .plan
            .containers
            .iter()
            .position(|container| container.name == name);
        let Some(index) = index else {
            return Err(format!("container {name:?} in pod {pod:?} is not known in the vehicle"));
        };
        let restarts = self.seed.attempt.containers[index].restarts;
        if previous {
            let path = restarts.checked_sub(1).map(|restart| self.directory.log(name, restart));
            return path
                .filter(|path| path.exists())
                .map(Log::closed)
                .ok_or_else(|| format!("previous terminated container {name:?} in pod {pod:?} not found"));
        }
        if let Some(log) = &self.slots[index].log {
            return Ok(log.log());
        }
        // Written by a former run of the agent.
        let path = self.directory.log(name, restarts);
        if path.exists() {
            return Ok(Log::closed(path));
        }
        let reason = match &self.seed.attempt.containers[index].life {
            Life::Waiting { reason, .. } => reason.as_str(),
            _ => "ContainerCreating",
        };
        Err(format!(
            "container {name:?} in pod {pod:?} is waiting to start: {reason}"
        ))
    }
}
