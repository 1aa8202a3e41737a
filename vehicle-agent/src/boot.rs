//! Puts one car's parts together on the running runtime, and takes them apart again.
//!
//! Called by `agent`, once per process, and by a simulator, once per car: whatever decides in a real car decides there. The order
//! matters: the journal and the receipts before the first Hello, the brake on until the policy loop releases it. What belongs to a process and not to
//! a car (the lock, the guard, the owner's socket, signals of the system) is not here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::parked::Terms;
use kerbside_link::client::{Client, Config, Event, Events, Network, StartError};
use kerbside_link::identity::Identity;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::attempts::{self, Context, Living, Supervisor};
use crate::brake::{self, Brake, Watched};
use crate::config::Car;
use crate::consents::Reader;
use crate::control::{self, Held, Request};
use crate::directory::Directory;
use crate::egress::{Proxies, Totals};
use crate::energy::Energy;
use crate::forget::Owes;
use crate::identity;
use crate::images::Images;
use crate::journal::{Journal, JournalError};
use crate::outlook::Outlook;
use crate::policy::{Policy, Wires, nothing_known};
use crate::receipts::{self, ReceiptError, Receipts};
use crate::runtime::Runtimes;
use crate::runtime::cri::Cri;
use crate::signals::Signals;
use crate::uplink::Uplink;

/// After a car was told to end: as long as attempts may take to stop and the last words to leave.
const GOODBYE: Duration = Duration::from_secs(3);

/// A car that cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The journal cannot be opened.
    #[error("failed to start")]
    Journal(#[from] JournalError),
    /// The receipts cannot be opened.
    #[error("failed to start")]
    Receipts(#[from] ReceiptError),
    /// The link cannot be set up.
    #[error("failed to start")]
    Link(#[from] StartError),
    /// The system does not give what is needed.
    #[error("failed to start")]
    System(#[from] io::Error),
}

/// What a car is made of.
pub struct Parts {
    /// Where its files are. Nobody else uses it.
    pub directory: Directory,
    /// The adapter.
    pub link: String,
    /// What connects it.
    pub network: Arc<dyn Network>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who it is.
    pub identity: Identity,
    /// What the maker says of it.
    pub car: Car,
    /// Where programs and data come from.
    pub images: Images,
    /// Where its signals come from.
    pub signals: Box<dyn Signals>,
    /// The owner's commands.
    pub requests: mpsc::Receiver<Request>,
    /// What counts the data of a month. `network` and `images` count by it.
    pub uplink: Uplink,
}

/// A car that is away says nothing of itself before it is connected; all others know themselves sooner.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// A car that runs. Dropping it leaves it running.
pub struct Running {
    outlook: watch::Receiver<Outlook>,
    fence: watch::Receiver<Option<Boottime>>,
    live: watch::Receiver<usize>,
    held: watch::Receiver<Vec<Held>>,
    ending: watch::Sender<bool>,
    client: Client,
    receipts: Receipts,
    energy: Energy,
    watched: Watched,
    engine: Option<Cri>,
    uplink: Uplink,
    words_kept: watch::Receiver<bool>,
    policy: JoinHandle<()>,
    supervisor: JoinHandle<()>,
    link_ended: JoinHandle<()>,
    delivery: JoinHandle<()>,
}

/// What runtimes are made with.
pub struct Given<'a> {
    /// While it is true, no program gets any processor time.
    pub brake: watch::Receiver<bool>,
    /// Where programs come from.
    pub images: &'a Images,
    /// What Pods reach.
    pub proxies: Proxies,
}

/// Boots a car. `runtimes` makes what runs programs; none of them may get any processor time while the brake that it is given is on.
pub async fn boot(parts: Parts, runtimes: impl FnOnce(Given<'_>) -> Runtimes) -> Result<Running, BootError> {
    let Parts {
        directory,
        link,
        network,
        clock,
        identity,
        car,
        images,
        signals,
        requests,
        uplink,
    } = parts;
    let (journal, recovered) = Journal::open(&directory.journal())?;
    let receipts = Receipts::open(&directory, &identity)?;
    let consents = Reader::new(&directory, identity.vehicle());
    let energy = Energy::open(&car, &directory, &clock);
    remove_strangers(&directory, &recovered);
    let (mut revived, statuses) = attempts::revive(recovered, &*clock);
    attempts::settle(&mut revived, &directory, &receipts);
    if revived.is_empty() {
        images.collect().await?;
    }

    let terms = Arc::new(Terms::from(car.parked.clone()));
    let command = control::remembered(&directory.command(), clock.wall()).command(None);
    let (outlook, outlook_seen) = watch::channel(Outlook::initial(terms, command));
    let brake = Brake::pulled();
    let (braked, watched) = (brake.follow(), brake.watched());
    let passed = Arc::new(Totals::by(uplink.clone()));
    let proxies = Proxies::new(outlook_seen.clone(), braked.clone(), Arc::clone(&passed));
    let runtimes = runtimes(Given {
        brake: braked,
        images: &images,
        proxies,
    });
    let engine = runtimes.containers.clone();
    let containers = looked_at(engine.as_ref()).await;

    let config = reached_by(link, network, identity, Arc::clone(&clock));
    let on_renewed = renewed(directory.clone(), receipts.clone());
    let (client, events) = Client::start(config, nothing_known(), statuses, on_renewed)?;

    let delivery = tokio::spawn(receipts::deliver(receipts.clone(), client.clone()));
    let (live, lives) = watch::channel(0);
    let (notes, to_note) = mpsc::unbounded_channel();
    let (living, outlook_too) = (Living::default(), outlook_seen.clone());
    let context = Arc::new(Context {
        directory: directory.clone(),
        clock: Arc::clone(&clock),
        journal,
        receipts: receipts.clone(),
        cluster: client.clone(),
        runtimes,
        images,
        outlook: outlook_seen,
        living: living.clone(),
        energy: energy.clone(),
        notes,
    });
    let (from_link, to_supervisor) = mpsc::channel(1);
    let supervisor = Supervisor::new(context, to_note, revived, live);
    let (held, held_too) = (supervisor.held(), supervisor.held());
    let (visits, fence) = (supervisor.visits(), supervisor.fence());
    let supervisor = tokio::spawn(supervisor.run(to_supervisor));
    let (ending, ends) = watch::channel(false);
    let wires = Wires {
        outlook,
        brake,
        living,
        live: lives.clone(),
        held,
        visits,
        requests,
        containers,
        connection: client.connection(),
        passed,
        receipts: receipts.standing(),
        energy: energy.clone(),
        uplink: uplink.clone(),
        ending: ends,
    };
    let policy = Policy::new(car, directory, consents, clock, client.clone(), wires);
    let (words_kept, policy) = (policy.kept(), tokio::spawn(policy.run(signals)));
    Ok(Running {
        outlook: outlook_too,
        fence,
        live: lives,
        held: held_too,
        ending,
        client,
        receipts,
        energy,
        watched,
        engine,
        uplink,
        words_kept,
        policy,
        supervisor,
        link_ended: tokio::spawn(hand_on(events, from_link)),
        delivery,
    })
}

/// How the cluster is reached; the instance is another one for each start.
fn reached_by(link: String, network: Arc<dyn Network>, identity: Identity, clock: Arc<dyn Clock>) -> Config {
    let instance = format!("{:016x}", rand::random::<u64>());
    let mut config = Config::new(link, env!("CARGO_PKG_VERSION"), instance, identity, clock);
    config.network = network;
    config.first_word = FIRST_WORD;
    config
}

/// Whether the engine can run containers, once it was looked at; without one never.
async fn looked_at(engine: Option<&Cri>) -> watch::Receiver<bool> {
    match engine {
        Some(containers) => {
            containers.looked().await;
            containers.ready()
        }
        None => watch::channel(false).1,
    }
}

/// What the cluster says goes to the supervisor, in order, until one of them ends.
async fn hand_on(mut events: Events, to: mpsc::Sender<Event>) {
    while let Some(event) = events.next().await {
        if to.send(event).await.is_err() {
            return;
        }
    }
}

/// What is done with a new certificate: it is kept, and signs from now on.
fn renewed(directory: Directory, receipts: Receipts) -> impl Fn(&Identity) -> io::Result<()> {
    move |new| {
        identity::write(&directory, new)?;
        if let Err(error) = receipts.renew(new) {
            tracing::error!(%error, "receipts are signed with the key of the certificate before");
        }
        Ok(())
    }
}

impl Running {
    /// The first moment at which an attempt must be dead if the car is not heard.
    pub fn fence(&self) -> watch::Receiver<Option<Boottime>> {
        self.fence.clone()
    }

    /// From now on the brake is pulled also when the policy loop hangs. For a car in a process of its own: it takes a thread.
    pub fn watch(&self, clock: Arc<dyn Clock>) -> io::Result<()> {
        let engine = self.engine.clone();
        brake::watch(self.watched.clone(), clock, move || {
            if let Some(engine) = &engine {
                engine.follow_brake();
            }
        })
    }

    /// Returns when the policy loop has ended, which it does by itself only if something is broken: its papers are gone, or it has panicked. Nobody
    /// judges the car from then on, and what the cluster was told last is true no more: whoever runs it ends it. Call it once.
    pub async fn ended(&mut self) {
        if let Err(error) = (&mut self.policy).await {
            tracing::error!(%error, "the policy loop has ended");
        }
    }

    /// How many attempts have a live process.
    pub fn live(&self) -> watch::Receiver<usize> {
        self.live.clone()
    }

    /// What the policy loop knows.
    pub fn outlook(&self) -> watch::Receiver<Outlook> {
        self.outlook.clone()
    }

    /// How the car stands with what it owes.
    pub fn owes(&self) -> Owes {
        Owes {
            outlook: self.outlook(),
            live: self.live.clone(),
            held: self.held.clone(),
            standing: self.receipts.standing(),
        }
    }

    /// The car's side of the link.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the car in order: attempts stop as when it drives off, the cluster hears it, the connection closes. What is not
    /// stopped within [`GOODBYE`] dies with the process, and the next boot says so.
    pub async fn end(mut self) {
        self.ending.send_replace(true);
        let _ = timeout(GOODBYE, self.live.wait_for(|live| *live == 0)).await;
        self.client.shutdown();
        let _ = timeout(GOODBYE, self.link_ended).await;
        // Nobody waits for a thread of the process that ends, and what the owner said has to be known to the next one.
        if !matches!(
            timeout(GOODBYE, self.words_kept.wait_for(|kept| *kept)).await,
            Ok(Ok(_))
        ) {
            tracing::error!("the owner's newest command may not be written down: the disk did not take it in time");
        }
        self.energy.close();
        self.uplink.close();
        // What is not delivered goes out after the next boot.
        self.delivery.abort();
    }

    /// Takes its power: nothing is told to anybody, programs end where they are. The connection is the network's to break.
    pub fn cut(self) {
        self.policy.abort();
        // Its actors go with it, and their programs with them.
        self.supervisor.abort();
        self.link_ended.abort();
        self.delivery.abort();
        // A write that was asked for goes on without who asked.
        self.receipts.close();
        self.client.shutdown();
    }
}

/// Files of attempts that the journal does not know: left by an agent that was killed while it removed them.
fn remove_strangers(directory: &Directory, known: &[crate::journal::Recovered]) {
    let strangers = directory.attempts_with_files().unwrap_or_default();
    for name in strangers
        .iter()
        .filter(|name| known.iter().all(|known| known.uid.as_str() != name.as_str()))
    {
        if let Err(error) = directory.remove_attempt(name) {
            tracing::warn!(attempt = name, %error, "files of an unknown attempt are left");
        }
    }
}
