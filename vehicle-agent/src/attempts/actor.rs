//! One task per attempt: it owns everything of the attempt, asks the machine in `core::attempt`, and carries out its effects.
//!
//! Started by the supervisor, ended by Forget. Children (downloads, uploads, programs) report back through the same inbox, so the
//! machine sees one thing after another. Freezing does not wait for any of this: the car's brake acts on programs directly.

mod kept;
mod programs;
mod receipt;
mod upload;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kerbside_core::attempt::{self, Attempt, Effect, Event, Heard, Now, Plan, State};
use kerbside_core::clock::Boottime;
use kerbside_core::departure::{Turn, Window};
use kerbside_core::ids::PodUid;
use kerbside_core::names::reason;
use kerbside_core::receipt::Tally;
use kerbside_link::fault::Fault;
use kerbside_link::proto::Run;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

pub(super) use self::kept::Kept;
use self::programs::Slot;
use super::pins::{Pins, Unprepared};
use super::prepare::{self, Means, Prepared};
use super::status::{held, status};
use super::tunnels::{Door, Way};
use super::volumes::Volumes;
use super::{Context, Note};
use crate::cgroup::Most;
use crate::cluster::Cluster;
use crate::directory::AttemptDirectory;
use crate::logs::Log;
use crate::outlook::Posture;
use crate::pod::{Given, Work};
use crate::runtime::{Ended, Layer, Usage};

/// Timers stop while the car's computer sleeps, so a deadline is never waited for longer than this.
const LOOK: Duration = Duration::from_secs(1);

/// A car that loses its power while programs run loses at most so much of what they earned.
const TALLY: Duration = Duration::from_mins(1);

/// So often the meter hears what processor time an attempt has had, as long as it lives.
const HEAR: Duration = Duration::from_secs(10);

/// Processes and threads of an attempt of containers, all together.
const PIDS: u64 = 1024;

/// What an actor is told.
pub(super) enum Order {
    /// For the machine.
    Event(Event),
    /// Image, volumes and program of a container are there, or not.
    Ready(usize, Result<Prepared, Unprepared>),
    /// A program has ended.
    Ended(usize, Ended),
    /// Somebody wants to read a log.
    Logs {
        /// Of which container.
        container: String,
        /// Of the run before this one.
        previous: bool,
        /// The log, or what to say instead.
        reply: oneshot::Sender<Result<Log, String>>,
    },
    /// Somebody wants to type in a container, or to reach a port.
    Enter {
        /// Where.
        door: Door,
        /// The way in, or why there is none.
        reply: oneshot::Sender<Result<Way, Fault>>,
    },
}

/// What the cluster wants of an attempt. The newest waits for the actor, so that nobody else has to.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    stop: Option<(Duration, String)>,
    forgotten: bool,
}

impl Wish {
    /// It is to end. A later stop can only shorten the grace.
    pub(super) fn stop(&mut self, grace: Duration, reason: String) {
        match &mut self.stop {
            Some((known, _)) => *known = grace.min(*known),
            none => *none = Some((grace, reason)),
        }
    }

    /// Nobody wants anything of it any more.
    pub(super) fn forget(&mut self) {
        self.forgotten = true;
    }
}

/// What an attempt is and where it stands.
pub(super) struct Seed {
    pub(super) uid: PodUid,
    pub(super) run: Run,
    /// Missing for a Pod that could not be read, whose attempt is refused.
    pub(super) work: Option<Arc<Work>>,
    pub(super) plan: Plan,
    pub(super) attempt: Attempt,
    pub(super) kept: Kept,
    pub(super) tally: Tally,
}

/// The car's leaving, as one attempt sees it.
#[derive(Debug, Clone, Copy)]
struct Departure {
    /// When it was heard of.
    began: Boottime,
    /// Everything has ended by then.
    until: Boottime,
    /// The same, as the cluster was told first: it gives the attempt up a margin after that, and the guard ends it before.
    promised: Boottime,
    /// This attempt's turn has come, and it was ended.
    ended: bool,
}

/// What an actor watches beside its inbox.
pub(super) struct Wires {
    /// Whose turn it is to end when the car leaves.
    pub(super) turn: watch::Receiver<Turn>,
    pub(super) wish: watch::Receiver<Wish>,
    pub(super) heard: watch::Receiver<Heard>,
    /// What the Pod refers to, as it is now.
    pub(super) given: watch::Receiver<Arc<Given>>,
}

pub(super) struct Actor<C> {
    context: Arc<Context<C>>,
    seed: Seed,
    inbox: mpsc::Receiver<Order>,
    me: mpsc::WeakSender<Order>,
    wires: Wires,
    /// The car leaves.
    departure: Option<Departure>,
    directory: AttemptDirectory,
    slots: Vec<Slot>,
    /// Something of what the Pod refers to has come.
    told: bool,
    volumes: Volumes,
    /// What the references of its images mean.
    pins: Pins,
    /// Where each container's newest run keeps its own files.
    layers: Arc<Mutex<Vec<Option<Layer>>>>,
    children: JoinSet<()>,
    /// What goes on while the attempt is being ended: hooks, and the watch over its files.
    beside: JoinSet<()>,
    watch: Option<AbortHandle>,
    told_stopped: bool,
    /// It has ended, the journal does not hold that or there is no receipt, and it is not told before: when that is tried again.
    untold: Option<Boottime>,
    told_fence: Option<Boottime>,
    /// Its receipt is durable, or there is none to be made.
    receipted: bool,
    /// When the tally was last written, or tried to be.
    tallied: Instant,
    /// Whether it lived when the meter heard of it last; `None`: it has not lived since the agent started.
    metered: Option<bool>,
    /// When that was.
    heard: Instant,
    /// Programs of it stand still since then.
    frozen_since: Option<Boottime>,
    /// For so long they have, before that.
    frozen: Duration,
    /// Bytes of output that the cluster has stored.
    stored: Arc<AtomicU64>,
    /// Both clocks at one moment. What is told goes on from there with the boot time: nothing ends before it began, whoever sets the wall clock.
    since: Now,
}

impl<C: Cluster> Actor<C> {
    pub(super) fn new(
        context: Arc<Context<C>>,
        seed: Seed,
        inbox: mpsc::Receiver<Order>,
        me: mpsc::WeakSender<Order>,
        wires: Wires,
    ) -> Self {
        let directory = context.directory.attempt(&seed.uid);
        let memory = context.outlook.borrow().allocatable.get("memory").units();
        let volumes = Volumes::new(directory.clone(), u64::try_from(memory).unwrap_or(0));
        let slots: Vec<_> = seed.plan.containers.iter().map(|_| Slot::default()).collect();
        let told_fence = seed.attempt.fence(&seed.plan);
        let since = Now {
            boot: context.clock.boottime(),
            wall_ms: context.clock.wall().as_millisecond().max(seed.attempt.started_ms),
        };
        Self {
            context,
            seed,
            inbox,
            me,
            wires,
            told: false,
            volumes,
            pins: Pins::default(),
            departure: None,
            directory,
            layers: Arc::new(Mutex::new(vec![None; slots.len()])),
            slots,
            children: JoinSet::new(),
            beside: JoinSet::new(),
            watch: None,
            told_stopped: false,
            untold: None,
            told_fence,
            receipted: false,
            tallied: Instant::now(),
            metered: None,
            heard: Instant::now(),
            frozen_since: None,
            frozen: Duration::ZERO,
            stored: Arc::default(),
            since,
        }
    }

    /// Carries out `effects`, and then whatever comes, until the attempt is forgotten.
    pub(super) async fn live(mut self, effects: Vec<Effect>) {
        self.carry_out(effects).await;
        if self.obey().await {
            self.forget().await;
        }
    }

    /// Returns whether the attempt was forgotten; else the agent ends.
    async fn obey(&mut self) -> bool {
        let mut outlook = self.context.outlook.clone();
        outlook.mark_changed();
        loop {
            let turn = self.window().map(|window| window.from);
            let deadline = self
                .seed
                .attempt
                .deadline(&self.seed.plan)
                .into_iter()
                .chain(turn)
                .chain(self.untold)
                .min();
            let (lives, tally, hear) = (self.lives(), self.tallied + TALLY, self.heard + HEAR);
            let metered = lives && self.context.energy.is_there();
            let wait = deadline.map_or(LOOK, |at| at.since(self.context.clock.boottime()).min(LOOK));
            tokio::select! {
                biased;
                changed = outlook.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let posture = outlook.borrow_and_update().posture_of(&self.seed.run.class);
                    self.take_posture(posture).await;
                }
                order = self.inbox.recv() => match order {
                    None => return false,
                    Some(order) => self.take(order).await,
                },
                // After the inbox: a program that had ended before it was to be stopped has ended by itself.
                Ok(()) = self.wires.wish.changed() => {
                    let Wish { stop, forgotten } = self.wires.wish.borrow_and_update().clone();
                    if forgotten {
                        return true;
                    }
                    if let Some((grace, reason)) = stop {
                        let message = "the cluster has ended the attempt".to_owned();
                        self.feed(Event::Stop { grace, reason, message }).await;
                    }
                }
                // After the wish, which came before it if both are new.
                Ok(()) = self.wires.heard.changed() => {
                    let heard = *self.wires.heard.borrow_and_update();
                    if let Some(sent) = heard.counts_for(&self.seed.plan) {
                        self.feed(Event::Heard { sent }).await;
                    }
                }
                Ok(()) = self.wires.given.changed() => self.provided().await,
                // One that has none is at its end with the supervisor.
                Ok(()) = self.wires.turn.changed() => {}
                () = sleep(wait), if deadline.is_some() => self.tick().await,
                () = sleep_until(hear), if metered => self.meter(lives),
                () = sleep_until(tally), if lives => self.carry_out(vec![Effect::WriteJournal]).await,
            }
            self.depart_in_turn().await;
            while self.children.try_join_next().is_some() || self.beside.try_join_next().is_some() {}
        }
    }

    async fn tick(&mut self) {
        if self.untold.is_some_and(|at| at <= self.now().boot) {
            self.carry_out(vec![Effect::WriteJournal, Effect::Report]).await;
        }
        self.feed(Event::Tick).await;
    }

    async fn take_posture(&mut self, posture: Posture) {
        match posture {
            Posture::Run => {
                self.departure = None;
                self.feed(Event::Thaw).await;
            }
            Posture::Freeze => {
                self.departure = None;
                self.feed(Event::Freeze).await;
            }
            Posture::Leave { until } => self.leave(until).await,
        }
    }

    /// The outlook is told anew with every look at the signals: the same departure goes on.
    async fn leave(&mut self, until: Boottime) {
        let (known, now) = (self.departure, self.now().boot);
        if known.is_some_and(|departure| departure.until == until) {
            return;
        }
        // A car that is gone says a moment that has passed.
        let promised = until.max(now);
        self.departure = Some(Departure {
            began: known.map_or(now, |departure| departure.began),
            until,
            promised: known.map_or(promised, |departure| departure.promised.min(promised)),
            ended: false,
        });
        self.depart_in_turn().await;
        if self.departure.is_some_and(|departure| !departure.ended) {
            // Nothing of it begins any more while it waits for its turn.
            self.feed(Event::Freeze).await;
        }
    }

    /// When nothing of the attempt may be alive any more: its own fence, or the end of the notice.
    fn fence(&self) -> Option<Boottime> {
        let attempt = &self.seed.attempt;
        let notice = self.departure.filter(|_| !attempt.is_stopped()).map(|d| d.promised);
        attempt.fence(&self.seed.plan).into_iter().chain(notice).min()
    }

    /// When it is this attempt's turn to end; None if it has been, or the car stays.
    fn window(&self) -> Option<Window> {
        let Departure { began, until, .. } = self.departure.filter(|departure| !departure.ended)?;
        let priority = self.seed.work.as_ref().map_or(0, |work| work.priority);
        Some(self.wires.turn.borrow().window(priority, began, until))
    }

    /// Ends the attempt if the car leaves and nothing of a lower priority lives, or has had its part of the notice.
    async fn depart_in_turn(&mut self) {
        let now = self.now().boot;
        let Some(window) = self.window().filter(|window| now >= window.from) else {
            return;
        };
        if let Some(departure) = &mut self.departure {
            departure.ended = true;
        }
        let grace = self.seed.work.as_ref().map_or(Duration::ZERO, |work| work.grace);
        let (reason, message) = self.why_it_ends();
        self.feed(Event::Depart {
            // The notice binds, whatever the Pod asks for.
            grace: grace.min(window.until.since(now)),
            reason: reason.to_owned(),
            message: message.to_owned(),
        })
        .await;
    }

    /// Why the car ends the attempt: it leaves, or it stays and works on for others. Of the first no more is told.
    fn why_it_ends(&self) -> (&'static str, &'static str) {
        let outlook = self.context.outlook.borrow();
        match outlook.posture() {
            Posture::Leave { .. } => (reason::VEHICLE_DEPARTED, "the vehicle left"),
            Posture::Run | Posture::Freeze => outlook.why_no_more(&self.seed.run.class),
        }
    }

    async fn take(&mut self, order: Order) {
        if matches!(order, Order::Ended(..)) && self.context.living.has_ended(&self.seed.uid) {
            // It has not ended by itself, whatever comes first: that it was ended, or why.
            let (reason, message) = self.context.outlook.borrow().why_no_more(&self.seed.run.class);
            self.feed(Event::Depart {
                grace: Duration::ZERO,
                reason: reason.to_owned(),
                message: message.to_owned(),
            })
            .await;
        }
        match order {
            Order::Event(event) => self.feed(event).await,
            Order::Ready(container, Ok(prepared)) => {
                let image_id = prepared.image_id.clone();
                if let Some(slot) = self.slots.get_mut(container) {
                    slot.prepared = Some(prepared);
                }
                self.feed(Event::Prepared { container, image_id }).await;
            }
            Order::Ready(container, Err(Unprepared::NotReady(why))) => {
                self.feed(Event::NotReady { container, why }).await;
            }
            Order::Ready(container, Err(Unprepared::Declined(why))) => {
                tracing::info!(attempt = %self.seed.uid, reason = why.reason, message = why.message, "attempt refused");
                self.feed(Event::Declined { container, why }).await;
            }
            Order::Ended(container, Err(why)) => {
                self.not_started(container);
                self.feed(Event::NotStarted { container, why }).await;
            }
            Order::Ended(container, Ok(ending)) => {
                let exit = self.exit(container, ending);
                self.feed(Event::Exited { container, exit }).await;
            }
            Order::Logs {
                container,
                previous,
                reply,
            } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.log(&container, previous));
            }
            Order::Enter { door, reply } => {
                // The same.
                let _ = reply.send(self.enter(&door));
            }
        }
    }

    fn now(&self) -> Now {
        let boot = self.context.clock.boottime();
        let passed = i64::try_from(boot.since(self.since.boot).as_millis()).unwrap_or(i64::MAX);
        Now {
            boot,
            wall_ms: self.since.wall_ms.saturating_add(passed),
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let (attempt, effects) = attempt::step(self.seed.attempt.clone(), &self.seed.plan, event, self.now());
        self.seed.attempt = attempt;
        self.count_frozen();
        self.tell_fence();
        effects
    }

    /// Before any effect is carried out: the guard must not wait for the journal, neither to know of a fence nor to hear that nothing lives.
    fn tell_fence(&mut self) {
        let fence = self.fence();
        if std::mem::replace(&mut self.told_fence, fence) != fence {
            // The supervisor ends only with the agent.
            let _ = self.context.notes.send(Note::Fence(self.seed.uid.clone(), fence));
        }
    }

    async fn feed(&mut self, event: Event) {
        let effects = self.step(event);
        self.carry_out(effects).await;
    }

    /// Effects in their order. What the machine is told meanwhile it is told after them, not in between.
    async fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut events = VecDeque::new();
        self.effects(effects, &mut events).await;
        while let Some(event) = events.pop_front() {
            let effects = self.step(event);
            self.effects(effects, &mut events).await;
        }
        if self.seed.attempt.is_stopped() && !std::mem::replace(&mut self.told_stopped, true) {
            // The supervisor ends only with the agent.
            let _ = self.context.notes.send(Note::Stopped(self.seed.uid.clone()));
            self.close();
        }
        let lives = self.lives();
        if let Some(watch) = self.watch.take_if(|_| !lives) {
            watch.abort();
        }
    }

    async fn effects(&mut self, effects: Vec<Effect>, events: &mut VecDeque<Event>) {
        for effect in effects {
            match effect {
                Effect::WriteJournal => {
                    events.extend(self.write_journal().await);
                    self.settle().await;
                }
                Effect::Prepare(container) => self.prepare(container),
                Effect::Start(container) => events.extend(self.start(container)),
                Effect::Freeze => self.each_process(|process| process.freeze()),
                Effect::Thaw => self.each_process(|process| process.thaw()),
                // Downloads and uploads; the end of a program is told by another task, and hooks go on.
                Effect::GiveUp => self.children.abort_all(),
                Effect::PostStart(container) => self.post_start(container),
                Effect::PreStop(container) => self.pre_stop(container),
                Effect::Probe {
                    container,
                    kind,
                    number,
                } => self.probe(container, kind, number),
                Effect::Ask(container) => self.with_process(container, |process| process.stop()),
                Effect::Kill(container) => self.with_process(container, |process| process.kill()),
                Effect::Upload => self.upload(),
                Effect::Report => self.report(),
            }
        }
    }

    /// What the journal may not know after a restart is not told: see [`Kept`]. Nor is an end without its receipt.
    fn report(&mut self) {
        let end = self.seed.attempt.outcome().map(|outcome| outcome.kind);
        self.untold = end
            .filter(|end| !self.receipted || !self.seed.kept.agrees(*end))
            .map(|_| self.now().boot + LOOK);
        if self.untold.is_some() {
            return;
        }
        let Seed { uid, attempt, work, .. } = &self.seed;
        let usage = self.slots.iter().map(Slot::usage).fold(Usage::default(), Usage::then);
        let status = status(uid.as_str(), attempt, work.as_deref(), usage);
        let held = Box::new(held(&status, &self.seed.run, work.as_deref()));
        // The supervisor ends only with the agent.
        let _ = self.context.notes.send(Note::Stands(uid.clone(), held));
        tracing::info!(
            attempt = %uid,
            job.name = work.as_ref().map_or("", |work| work.job.as_str()),
            phase = status.phase().as_str_name(),
            reason = status.reason,
            revision = status.revision,
            "attempt changed"
        );
        self.context.cluster.set_status(status);
    }

    /// What the machine has to know of the write. A failure after the first write only holds up the end: of all before it a restarted
    /// agent says that the attempt was disrupted, with a revision above all that were told.
    async fn write_journal(&mut self) -> Option<Event> {
        self.tallied = Instant::now();
        let record = self.seed.attempt.record(&self.seed.plan);
        self.tally(&record);
        let Seed {
            uid,
            run,
            attempt,
            kept,
            tally,
            ..
        } = &mut self.seed;
        let end = record.end();
        let written = if kept.begun() {
            self.context.journal.state(uid, record, tally.clone()).await
        } else {
            self.context.journal.begin(uid, run, record, tally.clone()).await
        };
        kept.note(end, &written);
        let first = attempt.state == State::Admitted;
        match written {
            Ok(()) => first.then_some(Event::Journaled),
            Err(error) => {
                let cause = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                // Once, and not with every try.
                if self.untold.is_none() {
                    tracing::error!(attempt = %uid, %error, cause, "journal not written");
                }
                first.then_some(Event::JournalFailed { message: cause })
            }
        }
    }

    /// A child that tells the actor what came of it.
    fn child(&mut self, work: impl Future<Output = Order> + Send + 'static) {
        self.children.spawn(told(self.me.clone(), work));
    }

    /// The same for what goes on while the attempt is being ended.
    fn beside(&mut self, work: impl Future<Output = Order> + Send + 'static) -> AbortHandle {
        self.beside.spawn(told(self.me.clone(), work))
    }

    /// How often a container was started again.
    fn run(&self, container: usize) -> u32 {
        self.seed.attempt.containers.get(container).map_or(0, |c| c.restarts)
    }

    fn prepare(&mut self, container: usize) {
        let Some(work) = self.seed.work.clone() else { return };
        let means = Means {
            images: self.context.images.clone(),
            runtimes: self.context.runtimes.clone(),
            directory: self.directory.clone(),
            most: self.most(),
            volumes: self.volumes.clone(),
            pins: self.pins.clone(),
            document: self.context.outlook.borrow().document.clone(),
            given: self.wires.given.clone(),
            told: self.told,
        };
        self.child(async move { Order::Ready(container, prepare::prepare(&work, container, means).await) });
    }

    /// Takes in the containers that were added to the Pod since it came.
    async fn amend(&mut self) {
        if self.seed.attempt.is_stopped() {
            return;
        }
        let allocatable = self.context.outlook.borrow().allocatable.clone();
        let added = self.wires.given.borrow().ephemeral.clone();
        let work = self.seed.work.as_ref();
        let Some(work) = work.and_then(|work| work.amended(&added, &allocatable)) else {
            return;
        };
        self.seed.plan.containers = work.container_plans();
        self.slots.resize_with(work.containers.len(), Slot::default);
        self.layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .resize(work.containers.len(), None);
        self.seed.work = Some(Arc::new(work));
        // Begun anew with the next start, with what is new.
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
        self.watch_files();
        self.feed(Event::Amended).await;
    }

    /// What the Pod refers to has changed.
    async fn provided(&mut self) {
        self.told = true;
        self.wires.given.borrow_and_update();
        self.amend().await;
        let Some(work) = self.seed.work.clone() else { return };
        let (volumes, given, address) = (self.volumes.clone(), self.wires.given.clone(), self.address());
        let updated = tokio::task::spawn_blocking(move || volumes.update(&work, &given, address));
        if let Err(error) = updated.await {
            tracing::warn!(attempt = %self.seed.uid, %error, "volumes are not brought up to date");
        }
        self.feed(Event::Provided).await;
    }

    /// What an attempt may use, whatever its Pod says: no more than the owner lets the car give.
    fn most(&self) -> Most {
        let outlook = self.context.outlook.borrow();
        let given = &outlook.allocatable;
        let amount = |resource: &str, amount: i64| {
            let positive = u64::try_from(amount).unwrap_or(0);
            given.0.contains_key(resource).then_some(positive)
        };
        Most {
            memory: amount("memory", given.get("memory").units()),
            cpu: amount("cpu", given.get("cpu").millis()),
            pids: Some(PIDS),
            disk: outlook
                .document
                .as_ref()
                .map(|document| document.max_disk_bytes_per_second),
        }
    }

    /// Removes what its containers shared. None of them will run any more.
    fn close(&self) {
        if let Some(containers) = self.context.runtimes.containers.clone() {
            let uid = self.seed.uid.clone();
            tokio::spawn(async move { containers.close(&uid).await });
        }
    }

    async fn forget(&mut self) {
        self.children.shutdown().await;
        self.beside.shutdown().await;
        // What they used is known only as long as they are there.
        self.meter(false);
        let record = self.seed.attempt.record(&self.seed.plan);
        self.tally(&record);
        // Programs end when nobody holds them.
        self.slots.clear();
        self.context.living.forget(&self.seed.uid);
        if let Some(containers) = &self.context.runtimes.containers {
            containers.close(&self.seed.uid).await;
        }
        let settled = self.settle_forgotten().await;
        let uid = &self.seed.uid;
        if !settled {
            // The next agent finds it in the journal, makes the receipt, and is told to forget it again.
            tracing::error!(attempt = %uid, "attempt stays in the journal until there is a receipt for it");
        } else if let Err(error) = self.context.journal.forget(uid).await {
            tracing::warn!(attempt = %uid, %error, "attempt not dropped from the journal");
        }
        self.context.cluster.forget(uid);
        let root = self.directory.root().to_owned();
        let volumes = self.volumes.clone();
        let removed = tokio::task::spawn_blocking(move || {
            volumes.close()?;
            std::fs::remove_dir_all(root)
        })
        .await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(attempt = %uid, %error, "files of an attempt are removed at the next start");
        }
        self.context.energy.forget(uid);
        let _ = self.context.notes.send(Note::Gone(uid.clone()));
    }
}

/// Does the work, and tells the actor what came of it. One that is gone does not need to know.
async fn told(me: mpsc::WeakSender<Order>, work: impl Future<Output = Order>) {
    let order = work.await;
    if let Some(me) = me.upgrade() {
        let _ = me.send(order).await;
    }
}
