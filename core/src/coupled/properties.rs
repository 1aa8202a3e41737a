//! Random worlds, and worlds with a mistake in them that must be found.

use proptest::prelude::*;

use super::*;
use crate::parked::Factor;

/// Something that happens. Numbers choose among those to which it can happen; times are milliseconds.
#[derive(Debug, Clone)]
enum Happening {
    Wait(Ms),
    /// The way of a car is so slow from now on, up and down.
    Slow(usize, Ms, Ms),
    /// Nothing arrives over the way of a car, until it does again.
    Hold(usize, bool),
    /// The connections of a car break: whether the car sees it, and the adapter.
    Cut(usize, bool, bool),
    /// A car's way leads to this replica now.
    Route(usize, usize),
    /// The agent dies: whether what it was writing is on disk, whether its connections end, for how long it is away.
    Crash(usize, bool, bool, Ms),
    /// The agent does nothing for so long.
    Stuck(usize, Ms),
    /// The machine sleeps: for how long, and whether the agent wakes before the guard.
    Sleep(usize, Ms, bool),
    /// The car's wall clock is so many seconds off.
    Wall(usize, i64),
    /// The car's journal is so slow, or broken.
    Journal(usize, Ms, bool),
    /// Programs in the car do not listen.
    Stubborn(usize, bool),
    Drive(usize),
    Touch(usize),
    Park(usize),
    /// A live program ends.
    End(usize, bool),
    ReplicaDies(usize, Ms),
    ReplicaStands(usize, Ms),
    /// A replica does not reach the API server.
    CutOff(usize, bool),
    /// No replica reaches it.
    ApiDown(bool),
    /// A replica sees so much later what is written, and its requests take so long.
    Lag(usize, Ms, Ms),
    ReplicaWall(usize, i64),
    OperatorDies(u8, Ms),
    OperatorLag(Ms, Ms),
    OperatorWall(i64),
    StoreDown(bool),
    /// Somebody binds a Pod, whatever the Node says.
    Bind(usize, usize),
    CollectedByPodGc(usize),
    Deleted(usize, bool),
}

use Happening as H;

fn long() -> impl Strategy<Value = Ms> {
    prop_oneof![0..1_000u64, 1_000..10_000u64, 10_000..60_000u64]
}

fn happening() -> impl Strategy<Value = Happening> {
    let (car, replica, yes) = (0..CARS, 0..REPLICAS, any::<bool>());
    let delay = || prop_oneof![Just(20u64), 0..3_000u64, 3_000..12_000u64];
    let off = -300i64..300;
    let cars = prop_oneof![
        3 => (car.clone(), delay(), delay()).prop_map(|(c, up, down)| H::Slow(c, up, down)),
        2 => (car.clone(), yes).prop_map(|(c, b)| H::Hold(c, b)),
        4 => (car.clone(), yes, yes).prop_map(|(c, a, b)| H::Cut(c, a, b)),
        2 => (car.clone(), replica.clone()).prop_map(|(c, r)| H::Route(c, r)),
        3 => (car.clone(), yes, yes, long()).prop_map(|(c, a, b, t)| H::Crash(c, a, b, t)),
        2 => (car.clone(), long()).prop_map(|(c, t)| H::Stuck(c, t)),
        2 => (car.clone(), long(), yes).prop_map(|(c, t, b)| H::Sleep(c, t, b)),
        1 => (car.clone(), -4_000i64..4_000).prop_map(|(c, s)| H::Wall(c, s)),
        1 => (car.clone(), prop_oneof![Just(0u64), long()], prop::bool::weighted(0.2)).prop_map(|(c, t, b)| H::Journal(c, t, b)),
        1 => (car.clone(), yes).prop_map(|(c, b)| H::Stubborn(c, b)),
        2 => car.clone().prop_map(H::Drive),
        1 => car.clone().prop_map(H::Touch),
        4 => car.clone().prop_map(H::Park),
        3 => (0..4usize, prop::bool::weighted(0.8)).prop_map(|(n, ok)| H::End(n, ok)),
    ];
    let cluster = prop_oneof![
        3 => (replica.clone(), long()).prop_map(|(r, t)| H::ReplicaDies(r, t)),
        2 => (replica.clone(), long()).prop_map(|(r, t)| H::ReplicaStands(r, t)),
        3 => (replica.clone(), yes).prop_map(|(r, b)| H::CutOff(r, b)),
        1 => yes.prop_map(H::ApiDown),
        2 => (replica.clone(), 0..2_000u64, prop_oneof![Just(10u64), 0..2_000u64]).prop_map(|(r, a, b)| H::Lag(r, a, b)),
        1 => (replica, off.clone()).prop_map(|(r, s)| H::ReplicaWall(r, s)),
        2 => (0..8u8, long()).prop_map(|(n, t)| H::OperatorDies(n, t)),
        1 => (delay(), delay()).prop_map(|(a, b)| H::OperatorLag(a, b)),
        1 => off.prop_map(H::OperatorWall),
        1 => yes.prop_map(H::StoreDown),
        1 => (0..4usize, car).prop_map(|(n, c)| H::Bind(n, c)),
        1 => (0..4usize).prop_map(H::CollectedByPodGc),
        1 => (0..4usize, yes).prop_map(|(n, b)| H::Deleted(n, b)),
    ];
    prop_oneof![
        4 => prop_oneof![0..500u64, 500..5_000u64, 5_000..45_000u64].prop_map(H::Wait),
        3 => cars,
        1 => cluster,
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let drift = prop::array::uniform5(-500i64..500);
    let loss = prop_oneof![3 => Just(OnLoss::WhenFenced), 1 => Just(OnLoss::WhenSuspected)];
    (loss, 1..4u32, 1..4u32, 15..40u64, drift).prop_map(|(on_loss, completions, parallelism, fence, drift)| Frame {
        on_loss,
        completions,
        parallelism,
        fence,
        drift,
    })
}

impl World {
    fn happen(&mut self, happening: &Happening) -> Result<(), String> {
        let now = self.now;
        match *happening {
            H::Wait(time) => self.pass(time)?,
            H::Slow(car, up, down) => (self.links.ways[car].up, self.links.ways[car].down) = (up, down),
            H::Hold(car, held) => self.links.ways[car].held = held,
            H::Cut(car, car_sees, adapter_sees) => self.links.cut(now, car, car_sees, adapter_sees),
            H::Route(car, replica) => self.cars[car].machine.route = replica,
            H::Crash(car, written, said, away) => self.cars[car].crash(now, &mut self.links, written, said, away),
            H::Stuck(car, time) => self.cars[car].stick(now, time),
            H::Sleep(car, time, agent_first) => self.cars[car].sleep(now, time, agent_first),
            H::Wall(car, off) => self.cars[car].machine.wall = off,
            H::Journal(car, takes, broken) => {
                let machine = &mut self.cars[car].machine;
                (machine.journal_takes, machine.journal_broken) = (takes, broken);
            }
            H::Stubborn(car, stubborn) => self.cars[car].machine.stubborn = stubborn,
            H::Drive(car) => self.cars[car].machine.verdict = Verdict::Going(Factor::NotReadyToDrive),
            H::Touch(car) => self.cars[car].machine.verdict = Verdict::Attended(Factor::Closed),
            H::Park(car) => self.cars[car].machine.verdict = Verdict::Parked { may_start: true },
            H::End(n, well) => {
                let live = self.live();
                if let Some((car, uid)) = live.get(n % live.len().max(1)) {
                    self.cars[*car].machine.end(now, uid, 0, i32::from(!well));
                }
            }
            H::ReplicaDies(replica, away) => self.replicas[replica].die(now, &mut self.links, away),
            H::ReplicaStands(replica, time) => self.replicas[replica].stand(now, time),
            H::CutOff(replica, cut_off) => self.replicas[replica].reach.cut_off = cut_off,
            H::ApiDown(down) => self
                .replicas
                .iter_mut()
                .for_each(|replica| replica.reach.cut_off = down),
            H::Lag(replica, lag, write) => {
                let reach = &mut self.replicas[replica].reach;
                (reach.lag, reach.write) = (lag, write);
            }
            H::ReplicaWall(replica, off) => self.replicas[replica].wall = off,
            H::OperatorDies(writes, away) => self.operator.dies = Some((writes, away)),
            H::OperatorLag(lag, slow) => (self.operator.lag, self.operator.slow) = (lag, slow),
            H::OperatorWall(off) => self.operator.wall = off,
            H::StoreDown(down) => self.api.store_down = down,
            H::Bind(n, car) => {
                let unbound = self.pod(n, |pod| pod.attempt.node.is_none());
                if let Some(uid) = &unbound {
                    self.api.bind(now, uid, car);
                }
            }
            H::CollectedByPodGc(n) => {
                let bound = self.pod(n, |pod| pod.attempt.node.is_some() && !pod.is_terminal());
                if let Some(uid) = &bound {
                    self.api.collect(now, uid);
                }
            }
            H::Deleted(n, by_force) => {
                let there = self.pod(n, |pod| pod.deletion.is_none());
                let grace = Duration::from_secs(if by_force { 0 } else { 3 });
                if let Some(uid) = &there {
                    self.api.delete(now, uid, grace);
                }
            }
        }
        self.api.broken.take().map_or(Ok(()), Err)
    }

    fn pod(&self, n: usize, fits: impl Fn(&api::Pod) -> bool) -> Option<PodUid> {
        let fitting: Vec<_> = self.api.pods.values().filter(|pod| fits(pod)).collect();
        Some(fitting.get(n % fitting.len().max(1))?.attempt.uid.clone())
    }
}

/// What a world comes to.
fn run(frame: &Frame, twist: Option<Twist>, happenings: &[Happening]) -> Result<World, String> {
    let mut world = World::new(frame, twist);
    // Cars come, attempts are made, bound and begun.
    world.pass(6_000)?;
    for happening in happenings {
        world.happen(happening)?;
    }
    world.settle()?;
    Ok(world)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::with_cases(cases())
    }
}

/// Worlds by default; a nightly run sets `PROPTEST_CASES`, and these are larger than most cases.
fn cases() -> u32 {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse::<u32>().ok());
    cases.map_or(100, |cases| cases / 4)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_index_lives_twice_or_ends_twice_and_every_job_ends(
        frame in frame(),
        happenings in prop::collection::vec(happening(), 0..50),
    ) {
        if let Err(broken) = run(&frame, None, &happenings) {
            prop_assert!(false, "{broken}");
        }
    }
}

/// A world in which the mistake shows, found by the property above and made as short as it could.
#[rstest::rstest]
#[case(Twist::CarCountsFromReceipt, 20, &[H::Slow(1, 4_510, 20), H::Cut(1, false, false), H::Wait(25_080), H::Sleep(1, 43_141, false),
    H::Crash(0, false, false, 18_412), H::Wait(43_141)])]
#[case(Twist::GuardSleeps, 15, &[H::Hold(0, true), H::Stuck(0, 40_000), H::Wait(40_000)])]
#[case(Twist::NoMargin, 15, &[H::Hold(0, true), H::Stuck(0, 40_000), H::Wait(40_000)])]
#[case(Twist::CutOffProves, 15, &[H::CutOff(0, true), H::Wait(63_681)])]
// The other one was dead when it last looked, so it is alone; and then that one is started again.
#[case(Twist::CutOffProves, 15, &[H::ReplicaDies(1, 60_000), H::Wait(30_000), H::CutOff(0, true), H::Wait(110_000)])]
#[case(Twist::EndsWithoutPrecondition, 15, &[H::Drive(0), H::Wait(5_000), H::Cut(1, true, false), H::Lag(0, 903, 10), H::End(0, true),
    H::Wait(640), H::ReplicaDies(1, 1_000), H::Wait(600)])]
#[case(Twist::ReplacesBeforeFence, 16, &[H::Hold(0, true), H::Wait(18_000)])]
#[case(Twist::AcceptsWithoutCheck, 15, &[H::Cut(0, false, false), H::Wait(9_200)])]
fn mistake_is_found(#[case] twist: Twist, #[case] fence: u64, #[case] happenings: &[Happening]) {
    let frame = Frame {
        on_loss: match twist {
            Twist::AcceptsWithoutCheck => OnLoss::WhenSuspected,
            _ => OnLoss::WhenFenced,
        },
        completions: if twist == Twist::AcceptsWithoutCheck { 3 } else { 1 },
        parallelism: 3,
        fence,
        drift: [0; CARS + REPLICAS],
    };
    assert_eq!(
        run(&frame, None, happenings).err(),
        None,
        "without the mistake all is well"
    );
    let broken = run(&frame, Some(twist), happenings).unwrap_err();
    assert!(!broken.contains("does not end"), "{broken}");
}
