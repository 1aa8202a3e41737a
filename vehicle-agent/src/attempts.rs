//! The attempts in this car: one actor each, and the supervisor that knows them all.
//!
//! The supervisor takes what the link brings, admits or refuses, and routes by uid. What must never happen: two actors for one uid, an
//! attempt that starts against the owner's word or beyond what the car gives, a uid that is run twice, or a supervisor that waits for an
//! actor: an actor may hang on the disk, and the fences of the others go to the guard through here.

mod actor;
mod files;
mod living;
mod parts;
mod pins;
mod prepare;
mod quota;
mod status;
mod tunnels;
pub(crate) mod volumes;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kerbside_core::admission;
use kerbside_core::attempt::{AGENT_RESTARTED, Attempt, Effect, Heard, Now, Plan};
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::departure::Turn;
use kerbside_core::ids::PodUid;
use kerbside_core::names::reason;
use kerbside_core::owner::Refusal;
use kerbside_core::quantity::Resources;
use kerbside_core::receipt::Tally;
use kerbside_link::client::Event;
use kerbside_link::proto::{AttemptPhase, AttemptStatus, OpenTunnel, Provide, ReadLogs, Run, Stop};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use self::actor::{Actor, Kept, Order, Seed, Wires, Wish};
pub use self::living::Living;
use self::tunnels::{Asked, Gate, Guests};
use crate::cluster::Cluster;
use crate::control::{Held, Visit};
use crate::directory::Directory;
use crate::energy::Energy;
use crate::images::Images;
use crate::journal::{Journal, Recovered};
use crate::logs::Log;
use crate::logs::reader::{LogReader, Wanted};
use crate::outlook::Outlook;
use crate::pod::{Engine, Given, Work};
use crate::receipts::{Receipts, said};
use crate::runtime::{Runtimes, Usage};

/// Orders that may wait for one actor, which is quick; a child or a reader of logs that sends more waits. The supervisor sends none.
const INBOX: usize = 32;
/// Uids that were forgotten and are not run again: a Run may have been on its way.
const REMEMBERED: usize = 256;

/// What every actor uses.
pub struct Context<C> {
    /// Where files are.
    pub directory: Directory,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What survives.
    pub journal: Journal,
    /// What the car signs for.
    pub receipts: Receipts,
    /// Who is told.
    pub cluster: C,
    /// What runs programs.
    pub runtimes: Runtimes,
    /// Where programs and data come from.
    pub images: Images,
    /// What the car may do.
    pub outlook: watch::Receiver<Outlook>,
    /// The programs that run, for the policy loop.
    pub living: Living,
    /// What measures the car's energy.
    pub energy: Energy,
    /// The way to the supervisor.
    pub notes: mpsc::UnboundedSender<Note>,
}

/// What actors tell the supervisor.
#[derive(Debug)]
pub enum Note {
    /// No process of the attempt is alive any more.
    Stopped(PodUid),
    /// The attempt is gone from the car.
    Gone(PodUid),
    /// When the attempt must be dead if the car is not heard; None: nothing of it may be alive, or it has no fence.
    Fence(PodUid, Option<Boottime>),
    /// How the attempt stands now, for the owner.
    Stands(PodUid, Box<Held>),
}

/// An attempt of a former run of the agent, taken up again.
pub struct Revived {
    seed: Seed,
    effects: Vec<Effect>,
}

/// Takes up what the journal knows; the statuses are what the first Hello says.
pub fn revive(recovered: Vec<Recovered>, clock: &dyn Clock) -> (Vec<Revived>, Vec<AttemptStatus>) {
    let now = Now {
        boot: clock.boottime(),
        wall_ms: clock.wall().as_millisecond(),
    };
    let mut statuses = Vec::new();
    let revived = recovered.into_iter().map(|recovered| {
        let Recovered {
            uid,
            run,
            record,
            tally,
        } = recovered;
        // Nothing of it starts any more, so what the car gives is of no matter.
        let work = Work::read(uid.clone(), &run, &Resources::default()).ok().map(Arc::new);
        let plan = work.as_ref().map_or_else(unreadable, |work| work.plan());
        let kept = Kept::recovered(&record);
        let (attempt, effects) = Attempt::recover(&plan, record, now);
        statuses.push(status::status(
            uid.as_str(),
            &attempt,
            work.as_deref(),
            Usage::default(),
        ));
        Revived {
            seed: Seed {
                uid,
                run,
                work,
                plan,
                attempt,
                kept,
                tally,
            },
            effects,
        }
    });
    (revived.collect(), statuses)
}

/// Makes the receipts of attempts that ended with the agent before, or before it, and have none: before the cluster is told of an end. One
/// that cannot be written is tried again by the attempt's actor. Blocks.
pub fn settle(revived: &mut [Revived], directory: &Directory, receipts: &Receipts) {
    for Revived { seed, .. } in revived {
        let record = seed.attempt.record(&seed.plan);
        seed.tally.see(&record, record.started_ms);
        let Some(outcome) = seed.attempt.outcome() else {
            continue;
        };
        let cut_short = outcome.reason == AGENT_RESTARTED && seed.tally.started_at_ms.is_none();
        if cut_short && has_log(directory, &seed.uid) {
            // A log is made right before its program, and the journal hears of the program right after: the power was lost between.
            // That nothing is known of what it used does not make it a program that never ran.
            seed.tally.ran(record.started_ms, None);
        }
        let claim = seed
            .tally
            .claim(seed.uid.clone(), &seed.run.class, &seed.run.terms, &record, outcome);
        if claim.is_some() {
            receipts.keep_terms_now(&seed.run.terms);
        }
        if let Some(Err(error)) = claim.map(|claim| receipts.give_now(claim)) {
            tracing::error!(attempt = %seed.uid, error = said(&error), "receipt not written");
        }
    }
}

/// Whether a program of the attempt was begun, or was about to be.
fn has_log(directory: &Directory, uid: &PodUid) -> bool {
    let containers = std::fs::read_dir(directory.attempt(uid).all_logs());
    containers.is_ok_and(|containers| {
        containers
            .flatten()
            .any(|container| std::fs::read_dir(container.path()).is_ok_and(|mut logs| logs.next().is_some()))
    })
}

/// The plan of a Pod that cannot be read: nothing to do.
fn unreadable() -> Plan {
    Plan {
        containers: Vec::new(),
        grace: Duration::ZERO,
        upload: false,
        run_unheard_for: None,
        once: false,
        active_deadline: None,
    }
}

struct Handle {
    /// For readers of logs.
    orders: mpsc::Sender<Order>,
    wish: watch::Sender<Wish>,
    given: watch::Sender<Arc<Given>>,
    /// Something was given.
    told: bool,
    requests: Resources,
    priority: i32,
    fence: Option<Boottime>,
    stopped: bool,
    held: Held,
}

/// The one task that knows every attempt.
pub struct Supervisor<C> {
    context: Arc<Context<C>>,
    notes: mpsc::UnboundedReceiver<Note>,
    attempts: HashMap<PodUid, Handle>,
    /// Stopped before they were known, or forgotten.
    taken: VecDeque<PodUid>,
    readers: BTreeMap<String, AbortHandle>,
    guests: Guests,
    tasks: JoinSet<()>,
    live: watch::Sender<usize>,
    turn: watch::Sender<Turn>,
    fence: watch::Sender<Option<Boottime>>,
    /// When the newest acknowledged heartbeat was sent. The actors learn of it here and not from the link itself: never before a stop that
    /// came before it.
    heard: watch::Sender<Heard>,
    held: watch::Sender<Vec<Held>>,
    /// The cache is being cleared of what is old; nothing may be fetched meanwhile.
    clearing: Option<tokio::task::JoinHandle<()>>,
}

impl<C: Cluster> Supervisor<C> {
    /// A supervisor with the attempts of the run before. `live` is the number of attempts with a process.
    pub fn new(
        context: Arc<Context<C>>,
        notes: mpsc::UnboundedReceiver<Note>,
        revived: Vec<Revived>,
        live: watch::Sender<usize>,
    ) -> Self {
        let guests = Guests::new(Arc::clone(&context.clock));
        let mut supervisor = Self {
            context,
            notes,
            attempts: HashMap::new(),
            taken: VecDeque::new(),
            readers: BTreeMap::new(),
            guests,
            tasks: JoinSet::new(),
            live,
            turn: watch::Sender::new(Turn::default()),
            fence: watch::Sender::new(None),
            heard: watch::Sender::default(),
            held: watch::Sender::new(Vec::new()),
            clearing: None,
        };
        for Revived { seed, effects } in revived {
            supervisor.begin(seed, effects, Resources::default());
        }
        supervisor
    }

    /// Every attempt in the car, by name, as it stands.
    pub fn held(&self) -> watch::Receiver<Vec<Held>> {
        self.held.subscribe()
    }

    /// The first moment at which an attempt must be dead if the car is not heard.
    pub fn fence(&self) -> watch::Receiver<Option<Boottime>> {
        self.fence.subscribe()
    }

    /// Takes what the link brings, until it ends.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            tokio::select! {
                // What the guard must be told goes before what comes from far away.
                biased;
                Some(note) = self.notes.recv() => self.note(note),
                event = events.recv() => match event {
                    None => return,
                    Some(event) => self.take(event).await,
                },
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Run(run) => {
                if let Some(clearing) = self.clearing.take() {
                    // A panic in it would have been told already.
                    let _ = clearing.await;
                }
                self.admit(run);
            }
            Event::Provide(provide) => self.provide(provide),
            Event::Stop(stop) => self.stop(stop),
            Event::Forget(uid) => self.forget(&uid),
            Event::ReadLogs(request) => self.read_logs(request),
            Event::CancelLogs(request) => {
                if let Some(reader) = self.readers.remove(&request) {
                    reader.abort();
                }
            }
            Event::OpenTunnel(request) => self.open_tunnel(request),
            Event::CloseTunnel(request) => self.guests.leave(&request),
            Event::Heard(heard) => {
                self.heard.send_replace(heard);
            }
            Event::Connected { epoch } => tracing::info!(epoch, "connected"),
            Event::Disconnected { why } => tracing::info!(why, "disconnected"),
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Stopped(uid) => {
                if let Some(handle) = self.attempts.get_mut(&uid) {
                    handle.stopped = true;
                }
                if self.attempts.values().all(|handle| handle.stopped) {
                    self.clear();
                }
            }
            Note::Gone(uid) => {
                self.attempts.remove(&uid);
            }
            Note::Fence(uid, fence) => {
                if let Some(handle) = self.attempts.get_mut(&uid) {
                    handle.fence = fence;
                }
                // It moves with every heartbeat, and nothing else does.
                self.publish_fence();
                return;
            }
            Note::Stands(uid, held) => {
                if let Some(handle) = self.attempts.get_mut(&uid) {
                    handle.held = *held;
                }
            }
        }
        self.count();
    }

    fn publish_fence(&self) {
        let first = self.attempts.values().filter_map(|handle| handle.fence).min();
        self.fence
            .send_if_modified(|known| std::mem::replace(known, first) != first);
    }

    /// Makes room on the disk, now that nothing uses the cache.
    fn clear(&mut self) {
        let images = self.context.images.clone();
        let containers = self.context.runtimes.containers.clone();
        self.clearing = Some(tokio::spawn(async move {
            let mut collected = images.collect().await;
            if let Some(containers) = containers {
                collected = collected.and(containers.collect().await);
            }
            if let Err(error) = collected {
                tracing::warn!(%error, "old images are kept");
            }
        }));
    }

    fn count(&self) {
        self.publish_fence();
        let alive = || self.attempts.values().filter(|handle| !handle.stopped);
        let live = alive().count();
        self.live
            .send_if_modified(|known| std::mem::replace(known, live) != live);
        let turn = Turn {
            live: alive().map(|handle| handle.priority).collect(),
            since: self.context.clock.boottime(),
        };
        self.turn.send_if_modified(|known| {
            let changed = known.live != turn.live;
            if changed {
                *known = turn;
            }
            changed
        });
        let mut held: Vec<_> = self.attempts.values().map(|handle| handle.held.clone()).collect();
        held.sort_by(|a, b| a.pod.cmp(&b.pod));
        self.held.send_replace(held);
    }

    fn admit(&mut self, run: Run) {
        let Ok(uid) = run.uid.parse::<PodUid>() else {
            tracing::warn!(uid = run.uid, "an attempt without a proper uid is not run");
            return;
        };
        if self.attempts.contains_key(&uid) {
            return;
        }
        if self.taken.contains(&uid) {
            // An adapter that asks for it knows less than the one before it did; without an answer it would ask for ever.
            self.disown(run.uid);
            return;
        }
        let (clock, outlook) = (&self.context.clock, self.context.outlook.borrow().clone());
        let now = Now {
            boot: clock.boottime(),
            wall_ms: clock.wall().as_millisecond(),
        };
        let read = Work::read(uid.clone(), &run, &outlook.allocatable);
        // Consent comes first: without it nothing else of the car is told.
        let admitted = outlook
            .admit(&run.class, &**clock)
            .and_then(|()| read.as_ref().map_err(Clone::clone))
            .and_then(|work| self.runs(work))
            .and_then(|work| self.signed(&outlook, work))
            .and_then(|work| self.pays(&outlook, &run.terms, work))
            .and_then(|work| self.fits(&outlook, &work.requests));
        let work = read.ok().map(Arc::new);
        let plan = work.as_ref().map_or_else(unreadable, |work| work.plan());
        let requests = work.as_ref().map(|work| work.requests.clone()).unwrap_or_default();
        let (attempt, effects) = match admitted {
            Ok(()) => Attempt::admit(&plan, *self.heard.borrow(), now),
            Err(Refusal { reason, message }) => {
                tracing::info!(attempt = %uid, reason, message, "attempt refused");
                Attempt::refuse(&plan, &reason, &message, now)
            }
        };
        let requests = if attempt.is_stopped() {
            Resources::default()
        } else {
            requests
        };
        let tally = Tally {
            consent: outlook.consent_to(&run.class, clock.wall()),
            ..Tally::default()
        };
        self.begin(
            Seed {
                uid,
                run,
                work,
                plan,
                attempt,
                kept: Kept::default(),
                tally,
            },
            effects,
            requests,
        );
    }

    /// Whether what the Pod needs to be run by is there now.
    fn runs<'a>(&self, work: &'a Work) -> Result<&'a Work, Refusal> {
        let containers = self.context.runtimes.containers.as_ref();
        let message = match (work.engine, containers) {
            (Engine::Wasm, _) => return Ok(work),
            (Engine::Container, None) => format!(
                "the vehicle does not run containers; for WebAssembly set runtimeClassName: {}",
                Engine::Wasm.runtime_class()
            ),
            (Engine::Container, Some(containers)) if *containers.ready().borrow() => return Ok(work),
            (Engine::Container, Some(_)) => "the vehicle's container engine is not ready".to_owned(),
        };
        Err(Refusal::new(reason::RUNTIME_MISSING, message))
    }

    /// Whether its images may have the signatures that the owner wants: that one has none is known if it was found out a short while ago.
    fn signed<'a>(&self, outlook: &Outlook, work: &'a Work) -> Result<&'a Work, Refusal> {
        let publishers = outlook
            .document
            .as_ref()
            .map_or(&[][..], |document| document.publishers());
        pins::admit(work, &self.context.images, publishers)?;
        Ok(work)
    }

    /// Whether it pays what the owner wants beyond its energy. One that asks for no processor is weighed as if it had a core.
    fn pays<'a>(&self, outlook: &Outlook, terms: &str, work: &'a Work) -> Result<&'a Work, Refusal> {
        let milli_cpu = u64::try_from(work.requests.get("cpu").millis()).unwrap_or(0);
        let draw = self.context.energy.draw(if milli_cpu == 0 { 1000 } else { milli_cpu });
        outlook.pays(terms, draw, &*self.context.clock)?;
        Ok(work)
    }

    fn fits(&self, outlook: &Outlook, request: &Resources) -> Result<(), Refusal> {
        let mut used = Resources::default();
        let mut pods = 0;
        for handle in self.attempts.values().filter(|handle| !handle.stopped) {
            used.add(&handle.requests)
                .map_err(|e| Refusal::new("OutOfcpu", e.to_string()))?;
            pods += 1;
        }
        admission::admit(&outlook.allocatable, &used, pods, request)
            .map_err(|rejection| Refusal::new(&rejection.reason, rejection.message))
    }

    fn begin(&mut self, seed: Seed, effects: Vec<Effect>, requests: Resources) {
        let (orders, inbox) = mpsc::channel(INBOX);
        let (wish, wishes) = watch::channel(Wish::default());
        let (given, gifts) = watch::channel(Arc::default());
        let work = seed.work.as_deref();
        let status = status::status(seed.uid.as_str(), &seed.attempt, work, Usage::default());
        let handle = Handle {
            orders: orders.clone(),
            wish,
            given,
            told: false,
            requests,
            priority: work.map_or(0, |work| work.priority),
            fence: seed.attempt.fence(&seed.plan),
            stopped: seed.attempt.is_stopped(),
            held: status::held(&status, &seed.run, work),
        };
        self.attempts.insert(seed.uid.clone(), handle);
        self.count();
        let actor = Actor::new(
            Arc::clone(&self.context),
            seed,
            inbox,
            orders.downgrade(),
            Wires {
                turn: self.turn.subscribe(),
                wish: wishes,
                heard: self.heard.subscribe(),
                given: gifts,
            },
        );
        self.tasks.spawn(actor.live(effects));
    }

    /// Of an attempt that is not here, nothing is kept.
    fn provide(&mut self, provide: Provide) {
        let uid = provide.uid.parse::<PodUid>().ok();
        if let Some(handle) = uid.and_then(|uid| self.attempts.get_mut(&uid)) {
            let new = Arc::new(Given::from(provide));
            // A new session brings the same again. The first is told whatever it is.
            handle.given.send_if_modified(|given| {
                let news = *given != new || !std::mem::replace(&mut handle.told, true);
                *given = new;
                news
            });
        }
    }

    fn stop(&mut self, stop: Stop) {
        let Ok(uid) = stop.uid.parse::<PodUid>() else { return };
        let grace = std::time::Duration::from_millis(stop.grace_ms);
        if let Some(handle) = self.attempts.get(&uid) {
            handle.wish.send_modify(|wish| wish.stop(grace, stop.reason));
            return;
        }
        // Never seen here, and never to be run: the Run may still be on its way.
        self.take_for_ever(uid);
        self.disown(stop.uid);
    }

    /// Says that nothing of this attempt is in the car, and nothing will be.
    fn disown(&self, uid: String) {
        self.context.cluster.set_status(AttemptStatus {
            uid,
            // Above whatever an agent that has lost its journal may have told of it.
            revision: u64::try_from(self.context.clock.wall().as_millisecond()).unwrap_or(1),
            phase: AttemptPhase::Disrupted.into(),
            reason: "NotInVehicle".to_owned(),
            message: "the vehicle does not know the attempt".to_owned(),
            stopped: true,
            ..AttemptStatus::default()
        });
    }

    fn forget(&mut self, uid: &PodUid) {
        self.take_for_ever(uid.clone());
        match self.attempts.get(uid) {
            Some(handle) => handle.wish.send_modify(Wish::forget),
            None => self.context.cluster.forget(uid),
        }
    }

    fn take_for_ever(&mut self, uid: PodUid) {
        if !self.taken.contains(&uid) {
            self.taken.push_back(uid);
        }
        if self.taken.len() > REMEMBERED {
            self.taken.pop_front();
        }
    }

    /// Only its task waits for the attempt.
    fn open_tunnel(&mut self, request: OpenTunnel) {
        let uid = request.uid.parse::<PodUid>().ok();
        let handle = uid.and_then(|uid| self.attempts.get(&uid));
        let (orders, pod) = handle.map(|h| (h.orders.clone(), h.held.pod.clone())).unzip();
        let asked = Asked {
            request,
            pod: pod.unwrap_or_default(),
            orders,
            gate: Gate::new(self.context.outlook.clone()),
            now: self.context.clock.wall(),
        };
        self.guests.enter(self.context.cluster.clone(), asked);
    }

    /// Who is in the car's Pods, and who was lately.
    pub fn visits(&self) -> watch::Receiver<Vec<Visit>> {
        self.guests.visits()
    }

    /// Only the task waits for the attempt.
    fn read_logs(&mut self, request: ReadLogs) {
        let wanted = wanted(&request, self.context.clock.wall());
        let uid = request.uid.parse::<PodUid>().ok();
        let orders = uid
            .and_then(|uid| self.attempts.get(&uid))
            .map(|handle| handle.orders.clone());
        let cluster = self.context.cluster.clone();
        let id = request.request_id.clone();
        let task = self.tasks.spawn(async move {
            let id = request.request_id.clone();
            let log = log(orders, request).await;
            if let Err(fault) = cluster.send_logs(&id, chunks(log, wanted)).await {
                tracing::debug!(request = id, error = %fault, "log not sent");
            }
        });
        self.readers.retain(|_, reader| !reader.is_finished());
        self.readers.insert(id, task);
    }
}

/// Asks an attempt for its log.
async fn log(orders: Option<mpsc::Sender<Order>>, request: ReadLogs) -> Result<Log, String> {
    let unknown = || format!("the vehicle does not know the attempt {}", request.uid);
    let orders = orders.ok_or_else(unknown)?;
    let (reply, answer) = oneshot::channel();
    let order = Order::Logs {
        container: request.container.clone(),
        previous: request.previous,
        reply,
    };
    orders.send(order).await.map_err(|_| unknown())?;
    answer.await.map_err(|_| unknown())?
}

/// What of a log is wanted, or why there is none.
fn chunks(log: Result<Log, String>, wanted: Wanted) -> BoxStream<'static, Result<Bytes, String>> {
    let unreadable = |error: std::io::Error| format!("the vehicle cannot read the log: {error}");
    let opened = log.and_then(|log| LogReader::open(log, wanted).map_err(unreadable));
    match opened {
        Ok(reader) => stream::unfold(Some(reader), move |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
                Err(error) => Some((Err(unreadable(error)), None)),
            }
        })
        .boxed(),
        Err(error) => stream::once(async { Err(error) }).boxed(),
    }
}

fn wanted(request: &ReadLogs, now: Timestamp) -> Wanted {
    let positive = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let ago = positive(request.since_ms).and_then(|ms| now.checked_sub(std::time::Duration::from_millis(ms)).ok());
    let at = request
        .since_time_ms
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Wanted {
        tail_lines: positive(request.tail_lines),
        since: at.max(ago),
        limit_bytes: positive(request.limit_bytes),
        timestamps: request.timestamps,
        follow: request.follow,
    }
}

#[cfg(test)]
mod tests;
