//! What a meter makes of readings, gaps and attempts that come and go; what a day remembers.

use std::time::Duration;

use jiff::civil::date;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::clock::Boottime;
use crate::ids::PodUid;

/// A car of round numbers: 100 W to be awake, 60 of them measured by the broker's signal and 10 by the processor's counter; 10 W per core.
fn figures() -> Figures {
    Figures {
        wake_milliwatts: 100_000,
        core_milliwatts: 10_000,
        error_permille: 300,
        most_milliwatts: 500_000,
        broker: Instrument {
            idle_milliwatts: 60_000,
            error_permille: 50,
        },
        rapl: Instrument {
            idle_milliwatts: 10_000,
            error_permille: 100,
        },
    }
}

fn at(ms: u64) -> Boottime {
    Boottime(Duration::from_millis(ms))
}

fn uid(n: u32) -> PodUid {
    format!("u-{n}").parse().unwrap()
}

fn watts(watts: u64) -> Reading {
    Reading::Power {
        milliwatts: watts * 1000,
    }
}

fn counter(joules: u64) -> Reading {
    Reading::Counters(vec![Counter {
        microjoules: joules * MICRO,
        range: 1000 * MICRO,
    }])
}

fn shows(reading: &Reading) -> Input<'_> {
    Input {
        reading: Some(reading),
        ..Input::default()
    }
}

const NOTHING: Input<'static> = Input {
    reading: None,
    busy_ms: None,
    awake_anyway: false,
};

/// An attempt that lived from 0 to `ms` and had so much processor time, evenly; and what was seen at the times between.
fn one(ms: u64, cpu_ms: u64, seen: &[(u64, Input<'_>)], end: Input<'_>) -> Amount {
    let mut meter = Meter::new(figures(), at(0));
    let first = seen.first().map_or(NOTHING, |(_, input)| *input);
    meter.hear(at(0), first, &uid(1), 0, true);
    for (seen_ms, input) in seen {
        meter.hear(at(*seen_ms), *input, &uid(1), cpu_ms * seen_ms / ms, true);
        meter.step(at(*seen_ms), *input);
    }
    meter.hear(at(ms), end, &uid(1), cpu_ms, false);
    meter.of(&uid(1)).unwrap()
}

#[test]
fn without_an_instrument_the_figures_of_the_maker_count() {
    let had = one(20_000, 15_000, &[], NOTHING);
    assert_eq!(had.joules(), 20 * 100 + 15 * 10);
    assert_eq!((had.error_permille(), had.method()), (300, "model".to_owned()));
}

#[test]
fn measured_power_counts_in_the_place_of_its_part_of_the_figures() {
    let (idle, busy) = (watts(60), watts(80));
    // 60 to 80 W over 10 s, and 80 W over another 10; the 40 W beside are the maker's word.
    let had = one(
        20_000,
        15_000,
        &[(0, shows(&idle)), (10_000, shows(&busy))],
        shows(&busy),
    );
    assert_eq!(had.joules(), 700 + 800 + 20 * 40);
    assert_eq!(had.method(), "broker+model");
    // 1500 J to 5 % and 800 J to 30 %.
    assert_eq!(had.error_permille(), (1500 * 50 + 800 * 300_u32).div_ceil(2300));
}

#[test]
fn counter_of_the_processor_counts_and_may_go_round() {
    let (before, after) = (counter(900), counter(300));
    let had = one(10_000, 1000, &[(0, shows(&before))], shows(&after));
    assert_eq!((had.joules(), had.method()), (400 + 10 * 90, "rapl+model".to_owned()));
}

#[rstest]
#[case::counter_set_back(counter(5), counter(1), 1000)]
#[case::other_range(counter(5), Reading::Counters(vec![Counter { microjoules: 6 * MICRO, range: 7 * MICRO }]), 1000)]
#[case::package_gone(counter(5), Reading::Counters(Vec::new()), 1000)]
#[case::beyond_its_range(Reading::Counters(vec![Counter { microjoules: 9 * MICRO, range: MICRO }]), Reading::Counters(vec![Counter { microjoules: 8 * MICRO, range: MICRO }]), 1000)]
#[case::other_instrument(watts(60), counter(5), 1000)]
#[case::more_than_a_computer_takes(watts(60), watts(100_000), 1000)]
#[case::too_far_apart(watts(60), watts(60), 60_001)]
fn readings_that_say_nothing_leave_the_time_to_the_figures(
    #[case] before: Reading,
    #[case] after: Reading,
    #[case] ms: u64,
) {
    let had = one(ms, 500, &[(0, shows(&before))], shows(&after));
    assert_eq!(had, one(ms, 500, &[], NOTHING));
    assert_eq!(had.method(), "model");
}

#[test]
fn value_of_before_is_never_carried_on() {
    let high = watts(400);
    let seen = [(0, shows(&high)), (1000, NOTHING), (5000, NOTHING)];
    // After the last value that was said nothing is known but the figures.
    assert_eq!(one(9000, 500, &seen, NOTHING), one(9000, 500, &[], NOTHING));
}

#[test]
fn processor_time_that_is_heard_at_the_moment_of_a_division_counts_by_the_figures_alone() {
    let power = watts(60);
    for (input, joules) in [(NOTHING, 10 * 100 + 50), (shows(&power), 10 * 100)] {
        let mut meter = Meter::new(figures(), at(0));
        meter.hear(at(0), input, &uid(1), 0, true);
        meter.step(at(10_000), input);
        meter.hear(at(10_000), input, &uid(1), 5000, false);
        assert_eq!(meter.of(&uid(1)).unwrap().joules(), joules);
    }
}

#[test]
fn car_that_nobody_vouches_for_is_awake_for_a_minute_at_most() {
    let had = one(3_600_000, 20_000, &[], NOTHING);
    assert_eq!(had.joules(), 60 * 100 + 20 * 10);
    let looked: Vec<_> = (1..360).map(|n| (n * 10_000, NOTHING)).collect();
    assert_eq!(one(3_600_000, 20_000, &looked, NOTHING).joules(), 3600 * 100 + 20 * 10);
}

#[test]
fn being_awake_is_shared_by_those_that_live_also_if_they_stand_still() {
    let mut meter = Meter::new(figures(), at(0));
    meter.hear(at(0), NOTHING, &uid(1), 0, true);
    meter.hear(at(10_000), NOTHING, &uid(2), 0, true);
    // The second has no processor time: it is frozen.
    meter.hear(at(30_000), NOTHING, &uid(1), 12_000, false);
    meter.hear(at(40_000), NOTHING, &uid(2), 0, false);
    let had = [1, 2].map(|n| meter.of(&uid(n)).unwrap().joules());
    assert_eq!(had, [10 * 100 + 20 * 50 + 12 * 10, 20 * 50 + 10 * 100]);
    assert_eq!(meter.whole(), (40 * 100 + 12 * 10) * MICRO);
}

#[test]
fn car_that_waits_for_work_or_is_awake_anyway_is_awake_for_no_attempt() {
    let mut meter = Meter::new(figures(), at(0));
    assert_eq!(meter.step(at(50_000), NOTHING), 0);
    let anyway = Input {
        awake_anyway: true,
        ..NOTHING
    };
    meter.hear(at(60_000), anyway, &uid(1), 0, true);
    meter.hear(at(70_000), anyway, &uid(1), 5000, false);
    assert_eq!(meter.of(&uid(1)).unwrap().joules(), 50);
}

#[test]
fn programs_of_the_car_have_their_part_of_what_was_measured() {
    let (idle, busy) = (watts(80), watts(80));
    let input = |busy_ms| Input {
        reading: Some(&idle),
        busy_ms: Some(busy_ms),
        awake_anyway: true,
    };
    // 20 W beyond idle over 10 s; a quarter of the processor time was the attempt's.
    let end = Input {
        reading: Some(&busy),
        ..input(28_000)
    };
    let had = one(10_000, 2000, &[(0, input(20_000))], end);
    assert_eq!(had.joules(), 50);
}

#[test]
fn processor_time_that_is_heard_late_counts_and_what_went_back_does_not() {
    let mut meter = Meter::new(figures(), at(0));
    let anyway = Input {
        awake_anyway: true,
        ..NOTHING
    };
    meter.hear(at(0), anyway, &uid(1), 0, true);
    meter.hear(at(10_000), anyway, &uid(1), 4000, false);
    meter.hear(at(11_000), anyway, &uid(1), 3000, false);
    meter.hear(at(12_000), anyway, &uid(1), 5000, false);
    meter.step(at(30_000), anyway);
    assert_eq!(meter.of(&uid(1)).unwrap().joules(), 50);
    meter.forget(&uid(1));
    assert_eq!(meter.of(&uid(1)), None);
}

#[rstest]
#[case::a_whole_car(1000, 1, false, 110_000)]
#[case::two_cores(2000, 1, false, 60_000)]
#[case::half_a_core(500, 1, false, 210_000)]
#[case::with_another(1000, 2, false, 60_000)]
#[case::awake_anyway(500, 1, true, 10_000)]
#[case::rounded_up(3000, 1, false, 43_334)]
#[case::of_nothing(0, 0, false, 100_010_000)]
fn core_has_its_share_of_what_the_car_takes_to_be_awake(
    #[case] milli_cpu: u64,
    #[case] attempts: u64,
    #[case] anyway: bool,
    #[case] milliwatts: u64,
) {
    assert_eq!(figures().per_core(milli_cpu, attempts, anyway), milliwatts);
}

#[rstest]
#[case(0, 1000, 0)]
#[case(1000, 0, 300)]
#[case(1000, 1000, 350)]
#[case(1000, 2500, 425)]
#[case(2, 1000, 0)]
#[case(3, 1000, 1)]
#[case(u64::MAX, u64::MAX, u64::MAX)]
fn most_that_can_have_been_is_bounded(#[case] running_ms: u64, #[case] milli_cpu: u64, #[case] joules: u64) {
    assert_eq!(most_joules(running_ms, milli_cpu), joules);
}

/// What is paid for before an attempt starts is what the ledger believes after it.
#[rstest]
#[case(1000)]
#[case(500)]
#[case(4000)]
fn core_is_paid_for_what_the_ledger_believes_of_an_hour(#[case] milli_cpu: u64) {
    let of_an_hour = most_per_core(milli_cpu) * milli_cpu / 1000 * 3600 / 1000;
    assert_eq!(of_an_hour, most_joules(3_600_000, milli_cpu));
}

#[test]
fn core_of_an_attempt_that_asks_for_none_is_bounded_too() {
    assert_eq!(most_per_core(0), 300_050_000);
    assert_eq!(most_per_core(u64::MAX), MOST_CORE_MILLIWATTS);
}

#[derive(Debug, Clone)]
enum Move {
    Wait(u64),
    Works(u32, u64),
    Lives(u32, bool),
    Shows(Option<Reading>),
}

fn moves() -> impl Strategy<Value = Move> {
    let reading = prop_oneof![
        (0..600_u64).prop_map(watts),
        (0..1000_u64).prop_map(counter),
        Just(Reading::Counters(Vec::new())),
    ];
    prop_oneof![
        prop::sample::select(&[1_u64, 999, 10_000, 59_000, 61_000][..]).prop_map(Move::Wait),
        (0..3_u32, 0..20_000_u64).prop_map(|(n, ms)| Move::Works(n, ms)),
        (0..3_u32, any::<bool>()).prop_map(|(n, lives)| Move::Lives(n, lives)),
        prop::option::weighted(0.8, reading).prop_map(Move::Shows),
    ]
}

proptest! {
    /// Whatever is seen: nobody's energy goes back, and together they have what was given, which is what the computer was seen to take and
    /// what the figures allow for the rest.
    #[test]
    fn attempts_have_no_more_than_was_measured_and_stated(moves in prop::collection::vec(moves(), 1..60), busy in 0..3_u64) {
        let figures = figures();
        let mut meter = Meter::new(figures, at(0));
        let (mut now, mut shown) = (0, None::<Reading>);
        let (mut cpu, mut lives, mut had) = ([0_u64; 3], [false; 3], [0_u64; 3]);
        // Every computer takes less than the most, and every core that works what is stated.
        let mut bound = 0_u128;
        let mut given = 0_u64;
        for one in moves {
            let before = now;
            match &one {
                Move::Wait(ms) => now += ms,
                Move::Works(n, ms) => cpu[*n as usize] += ms,
                Move::Lives(n, alive) => lives[*n as usize] = *alive,
                Move::Shows(reading) => shown.clone_from(reading),
            }
            bound += u128::from(now - before) * u128::from(figures.most_milliwatts + figures.wake_milliwatts);
            let input = Input { reading: shown.as_ref(), busy_ms: Some(now * busy), awake_anyway: false };
            given += meter.step(at(now), input);
            for n in 0..3 {
                let id = uid(n);
                given += meter.hear(at(now), input, &id, cpu[n as usize], lives[n as usize]);
                let has = meter.of(&id).unwrap();
                prop_assert!(has.microjoules() >= had[n as usize]);
                prop_assert!(has.error_permille() <= 300);
                had[n as usize] = has.microjoules();
            }
        }
        // What was heard of a later one may have given some to an earlier one.
        let had = [0, 1, 2].map(|n| meter.of(&uid(n)).map_or(0, |has| has.microjoules()));
        prop_assert_eq!(had.iter().sum::<u64>(), given);
        prop_assert_eq!(meter.whole(), given);
        let stated = u128::from(cpu.iter().sum::<u64>() * figures.core_milliwatts);
        prop_assert!(u128::from(given) <= bound + stated);
    }

    /// With one instrument all the time, and the car's own programs aside: what attempts have is what was measured, but for what is
    /// rounded.
    #[test]
    fn attempts_share_what_was_measured(steps in prop::collection::vec((10_000..60_000_u64, 0..500_u64, 1..9000_u64, 0..9000_u64), 1..20)) {
        let mut figures = figures();
        figures.broker.idle_milliwatts = figures.wake_milliwatts;
        let first = watts(200);
        let mut meter = Meter::new(figures, at(0));
        meter.hear(at(0), shows(&first), &uid(1), 0, true);
        meter.hear(at(0), shows(&first), &uid(2), 0, true);
        let (mut now, mut last, mut measured, mut cpu) = (0, 200, 0, (0, 0));
        let count = steps.len() as u64;
        for (ms, power, a, b) in steps {
            now += ms;
            cpu = (cpu.0 + a, cpu.1 + b);
            let reading = watts(power);
            measured += (last + power) * 1000 * ms / 2;
            last = power;
            meter.hear(at(now), shows(&reading), &uid(1), cpu.0, true);
            meter.hear(at(now), shows(&reading), &uid(2), cpu.1, true);
            meter.step(at(now), shows(&reading));
        }
        prop_assert!(meter.whole() <= measured, "{} of {measured}", meter.whole());
        prop_assert!(meter.whole() + 4 * count >= measured, "{} of {measured}", meter.whole());
        prop_assert_eq!(meter.of(&uid(1)).unwrap().method(), "broker");
    }
}

const KWH: u64 = JOULES_PER_KWH * MICRO;

fn today(found: Found) -> Today {
    let mut today = Today::new(found);
    today.is(date(2026, 11, 22));
    today
}

#[test]
fn day_counts_and_its_cost_by_the_price_of_the_moment_and_the_next_one_begins_anew() {
    let mut today = today(Found::Nothing);
    today.spend(KWH, 300_000_000);
    today.spend(KWH, 100_000_000);
    let used = Used {
        microjoules: 2 * KWH,
        cost_nanos: 400_000_000,
        lost: true,
    };
    assert_eq!(today.used(), used, "the disk has nothing of it yet");
    today.kept(today.to_keep().unwrap());
    assert_eq!(today.used(), Used { lost: false, ..used });
    assert!(today.used().up(2 * KWH) && !today.used().up(2 * KWH + 1));
    today.is(date(2026, 11, 21));
    assert_eq!(
        today.used().microjoules,
        2 * KWH,
        "a clock that was set back gives nothing back"
    );
    today.is(date(2026, 11, 23));
    assert_eq!(today.used(), Used::default());
}

#[test]
fn day_is_written_ahead_so_that_a_restart_never_has_more_left() {
    let mut day = today(Found::Nothing);
    assert_eq!(day.to_keep(), None, "nothing was used");
    let mut disk = Found::Nothing;
    let mut writes = 0;
    for _ in 0..1000 {
        day.spend(MARGIN / 100, 0);
        if let Some(kept) = day.to_keep() {
            (disk, writes) = (Found::Count(kept), writes + 1);
            day.kept(kept);
        }
        let after = today(disk).used();
        assert!(!after.lost && after.microjoules >= day.used().microjoules);
        assert!(after.microjoules <= day.used().microjoules + MARGIN);
    }
    assert!((10..=21).contains(&writes), "{writes} writes of ten margins");
    let ended = today(Found::Count(day.at_the_end().unwrap()));
    assert_eq!(ended.used(), day.used());
}

#[test]
fn starts_without_work_do_not_use_the_day_up() {
    let mut day = today(Found::Nothing);
    day.spend(1, 0);
    let kept = day.to_keep().unwrap();
    for _ in 0..3 {
        let day = today(Found::Count(kept));
        assert_eq!((day.used().microjoules, day.to_keep()), (kept.microjoules, None));
    }
}

#[test]
fn count_of_another_day_is_none_of_today_unless_it_is_later() {
    let kept = |day| {
        Found::Count(Kept {
            date: date(2026, 11, day),
            microjoules: KWH,
            cost_nanos: 0,
        })
    };
    let used = [21, 22, 23].map(|day| today(kept(day)).used().microjoules);
    assert_eq!(used, [0, KWH, KWH]);
}

#[test]
fn file_that_was_cut_at_any_byte_counts_as_a_day_that_is_used_up_until_it_is_over() {
    let kept = Kept {
        date: date(2026, 11, 22),
        microjoules: 5 * MARGIN,
        cost_nanos: 7,
    };
    let file = serde_json::to_vec(&kept).unwrap();
    assert_eq!(Found::from(&file[..]), Found::Count(kept));
    for cut in 0..file.len() {
        let mut day = today(Found::from(&file[..cut]));
        assert!(day.used().up(u64::MAX), "{cut}");
        day.spend(1, 0);
        let all = Kept {
            microjoules: ALL,
            cost_nanos: 0,
            ..kept
        };
        assert_eq!((day.to_keep(), day.at_the_end()), (Some(all), Some(all)));
        let mut told = day.clone();
        told.kept(all);
        assert_eq!((told.to_keep(), told.at_the_end()), (None, None), "the disk says so");
        assert!(today(Found::Count(all)).used().up(u64::MAX), "also after a restart");
        day.is(date(2026, 11, 23));
        assert!(!day.used().up(1));
        // Else the next start would find the same file, and no end.
        let kept = day.to_keep().unwrap();
        day.kept(kept);
        assert_eq!((kept.date, day.to_keep()), (date(2026, 11, 23), None));
    }
}

/// Else a car that is off when the day turns would never know that it has.
#[test]
fn day_that_is_lost_is_over_with_its_day_also_in_a_car_that_is_off_by_then() {
    let mut day = Today::new(Found::Count(Kept {
        date: date(2026, 11, 21),
        microjoules: ALL,
        cost_nanos: 0,
    }));
    assert_eq!(day.to_keep(), None);
    assert!(day.used().lost);
    day.is(date(2026, 11, 22));
    assert_eq!((day.used(), day.to_keep()), (Used::default(), None));
    day.spend(1, 0);
    assert_eq!(day.to_keep().unwrap().date, date(2026, 11, 22));
}

#[test]
fn disk_that_takes_nothing_ends_the_day() {
    let mut day = today(Found::Nothing);
    day.spend(MARGIN, 0);
    assert!(!day.used().lost);
    day.spend(1, 0);
    assert!(day.used().up(u64::MAX));
}

/// Agents of before wrote it, and its words stay.
#[test]
fn count_is_kept_in_the_same_words() {
    let kept = Kept {
        date: date(2026, 11, 22),
        microjoules: 36,
        cost_nanos: 7,
    };
    let text = serde_json::to_string(&kept).unwrap();
    assert_eq!(text, r#"{"date":"2026-11-22","microjoules":36,"costNanos":7}"#);
}
