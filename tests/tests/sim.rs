//! Level sim. Simulated clusters, each from a seed: real decisions, simulated machines and time, everything going wrong.
//!
//! A failing seed is printed with the end of its history; `SEED=N tests/run sim` replays it and prints the whole of it.
//! Besides the fixed seeds every run tries fresh ones: `FRESH=N` of them, counted up from `FRESH_FROM=N`. `tests/run`
//! draws that from the commit, so that each commit tries others and a commit tries the same wherever it is tested.

#![cfg(test)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use tests::chance::Chance;
use tests::world::{Scale, World};

/// Seeds that every run tries.
const FIXED: std::ops::Range<u64> = 0..60;
/// How many are tried besides.
const FRESH: u64 = 150;
/// Where those begin when nobody says it.
const FRESH_FROM: u64 = 1_000_000;
/// Lines of a failing seed's history that are printed.
const TAIL: usize = 120;

/// What must have happened somewhere in the fixed seeds, and how often; else they prove little.
const HAPPENS: [(&str, usize); 17] = [
    (": attach", 100),
    ("was killed half-way", 50),
    ("reboots", 40),
    (": written", 100),
    ("is mounted", 60),
    ("is unmounted", 30),
    ("was let go", 20),
    (": erase", 50),
    (": unclaim", 5),
    (": abandon", 5),
    ("stands: Lost", 10),
    ("is judged Slow", 5),
    ("somebody's data appear", 10),
    ("is deleted by plain means", 5),
    ("refused: ForceRequired", 10),
    ("controller-1 leads", 50),
    (" is to grow to ", 30),
];

/// How large a seed's world is.
fn scale(seed: u64) -> Scale {
    let mut chance = Chance::new(seed ^ 0x5ca1e);
    let small = |chance: &mut Chance, end: u64| usize::try_from(1 + chance.below(end)).unwrap_or(1);
    Scale {
        nodes: small(&mut chance, 3),
        drives: small(&mut chance, 3),
        steps: 500 * small(&mut chance, 8),
    }
}

/// Runs a seed: its history, and what it broke.
fn run(seed: u64) -> (Vec<String>, Result<(), String>) {
    let scale = scale(seed);
    let mut world = World::new(seed, scale);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run(scale)));
    let outcome = ended.unwrap_or_else(|_| Err("it panicked".to_owned()));
    let outcome = outcome.map_err(|why| format!("SEED={seed} ({scale:?}): {why}"));
    (world.history, outcome)
}

/// The history of a seed that breaks nothing.
fn history(seed: u64) -> Vec<String> {
    let (history, outcome) = run(seed);
    if let Err(why) = outcome {
        let skip = history.len().saturating_sub(TAIL);
        let end = history.get(skip..).unwrap_or_default().join("\n");
        panic!("{end}\n{why}");
    }
    history
}

/// A number from the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_is_wished_for_comes_true_and_nothing_is_lost() {
    if let Some(seed) = asked("SEED") {
        let (history, outcome) = run(seed);
        tests::tell(&history.join("\n"));
        return outcome.unwrap_or_else(|why| panic!("{why}"));
    }
    let histories: Vec<String> = FIXED.flat_map(history).collect();
    for (what, least) in HAPPENS {
        let count = histories.iter().filter(|line| line.contains(what)).count();
        tests::tell(&format!("{count:6} {what}"));
        assert!(
            count >= least,
            "{what}: {count} times, at least {least} wanted"
        );
    }
}

#[test]
fn fresh_seeds_too() {
    let first = asked("FRESH_FROM").unwrap_or(FRESH_FROM);
    let count = asked("FRESH").unwrap_or(FRESH);
    tests::tell(&format!("{count} fresh seeds, from SEED={first}"));
    let mut broken = Vec::new();
    for seed in (first..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if let Err(why) = run(seed).1 {
            tests::tell(&why);
            broken.push(why);
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Every half of every effect of an init, one after the other.
#[test]
fn an_init_survives_a_death_anywhere() {
    let outlived = |halves: &u64| {
        let outcome = World::prepared_with_a_death(*halves);
        outcome.unwrap_or_else(|why| panic!("death after {halves} halves: {why}"))
    };
    let deaths = (1..500).take_while(|halves| !outlived(halves)).count();
    assert!((40..499).contains(&deaths), "{deaths} deaths");
}

#[test]
fn a_seed_has_one_history() {
    for seed in 0..3 {
        assert_eq!(history(seed), history(seed));
    }
}
