use super::*;
use crate::inventory::Inventory;
use api::DrivePhase;
use api::drive::Transport;
use api::testing::{DriveBuilder, drive, noon};

const WINDOW: Settings = Settings {
    window: SignedDuration::from_secs(20),
};

/// Rounds over drives whose figures the test sets, a tick apart.
struct Fleet {
    inventory: Inventory,
    health: Health,
    now: Timestamp,
}

impl Fleet {
    fn new() -> Self {
        Self {
            inventory: Inventory::default(),
            health: Health::new(WINDOW),
            now: noon(),
        }
    }

    /// Shows drives as built, and plays `seconds` of rounds; what is written is seen again.
    fn play(&mut self, seconds: i64, drives: &[DriveBuilder]) -> Vec<Judgement> {
        let until = self.now + SignedDuration::from_secs(seconds);
        let mut all = Vec::new();
        let mut shown: Vec<_> = drives
            .iter()
            .map(|builder| builder.clone().build())
            .collect();
        for drive in &mut shown {
            let name = drive.metadata.name.clone().unwrap();
            let kept = self
                .inventory
                .drive(&name)
                .and_then(|entry| entry.verdict.clone());
            drive.status.as_mut().unwrap().verdict = kept;
        }
        while self.now < until {
            for drive in &mut shown {
                if let Some(read) = drive
                    .status
                    .as_mut()
                    .unwrap()
                    .latency
                    .as_mut()
                    .and_then(|l| l.read.as_mut())
                {
                    read.measured_at = Some(self.now);
                }
                self.inventory.apply_drive(drive);
            }
            for judgement in self.health.round(&self.inventory, self.now) {
                for drive in &mut shown {
                    if drive.metadata.name.as_deref() == Some(&*judgement.drive) {
                        drive.status.as_mut().unwrap().verdict = Some(judgement.verdict.clone());
                    }
                }
                all.push(judgement);
            }
            self.now += WINDOW.tick();
        }
        for drive in &shown {
            self.inventory.apply_drive(drive);
        }
        all
    }

    fn state(&self, name: &str) -> Option<HealthState> {
        self.inventory
            .drive(name)
            .unwrap()
            .verdict
            .as_ref()
            .map(|verdict| verdict.state)
    }

    fn message(&self, name: &str) -> String {
        self.inventory
            .drive(name)
            .unwrap()
            .verdict
            .clone()
            .unwrap()
            .message
    }
}

fn reading(name: &str, us: u64) -> DriveBuilder {
    drive(name).reads(us * 1_000, us * 2_000, 1_000, noon())
}

#[test]
fn three_times_slower_is_seen_in_a_window_and_readmitted_through_probation() {
    let mut fleet = Fleet::new();
    fleet.play(60, &[reading("d", 100)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Healthy));

    let judgements = fleet.play(20, &[reading("d", 310)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Slow));
    let turned: Vec<_> = judgements
        .iter()
        .filter(|judgement| judgement.turned)
        .collect();
    assert_eq!(turned.len(), 1);
    let message = fleet.message("d");
    assert!(
        message.starts_with("reads 3.1× its own past at equal load for "),
        "{message}"
    );
    assert!(
        message.contains("(median 310 µs, 100 µs before)"),
        "{message}"
    );

    fleet.play(24, &[reading("d", 105)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Probation));
    fleet.play(60, &[reading("d", 105)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Probation));
    fleet.play(30, &[reading("d", 105)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Healthy));

    // A relapse makes the next probation twice as long.
    fleet.play(20, &[reading("d", 500)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Slow));
    fleet.play(110, &[reading("d", 100)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Probation));
    fleet.play(90, &[reading("d", 100)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Healthy));
}

#[test]
fn a_short_stall_and_a_small_change_are_no_verdict() {
    let mut fleet = Fleet::new();
    fleet.play(60, &[reading("d", 100)]);
    for _ in 0..5 {
        fleet.play(6, &[reading("d", 2_000)]);
        fleet.play(20, &[reading("d", 100)]);
    }
    fleet.play(300, &[reading("d", 170)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Healthy));
}

#[test]
fn no_flapping_between_the_thresholds() {
    let mut fleet = Fleet::new();
    fleet.play(60, &[reading("d", 100)]);
    fleet.play(30, &[reading("d", 300)]);
    let judgements = fleet.play(600, &[reading("d", 180)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Slow));
    assert_eq!(
        judgements
            .iter()
            .filter(|judgement| judgement.turned)
            .count(),
        0
    );
}

#[test]
fn what_slows_the_whole_node_is_nobodys_fault() {
    let names = ["a", "b", "c", "d", "e"];
    let all = |us: u64| -> Vec<_> { names.iter().map(|name| reading(name, us)).collect() };
    let mut fleet = Fleet::new();
    fleet.play(60, &all(100));
    fleet.play(120, &all(900));
    for name in names {
        assert_eq!(fleet.state(name), Some(HealthState::Healthy), "{name}");
    }
    // One that is slow beyond what all are.
    let mut mixed = all(200);
    mixed[2] = reading("c", 900);
    fleet.play(60, &mixed);
    assert_eq!(fleet.state("c"), Some(HealthState::Slow));
    assert_eq!(fleet.state("d"), Some(HealthState::Healthy));
}

#[test]
fn one_drive_of_a_node_at_a_time_the_slowest_first() {
    let mut fleet = Fleet::new();
    let others = ["c", "d", "e", "f", "g"].map(|name| reading(name, 100));
    let with = |a: u64, b: u64| -> Vec<_> {
        others
            .iter()
            .cloned()
            .chain([reading("a", a), reading("b", b)])
            .collect()
    };
    fleet.play(60, &with(100, 100));
    fleet.play(60, &with(400, 600));
    assert_eq!(fleet.state("b"), Some(HealthState::Slow));
    assert_eq!(fleet.state("a"), Some(HealthState::Healthy));
    let message = fleet.message("a");
    assert!(
        message.contains("but b of this node is withdrawn already"),
        "{message}"
    );
    // On another node it would have been.
    let mut apart = with(400, 600);
    apart[5] = reading("a", 400).on("n2");
    fleet.play(60, &apart);
    assert_eq!(fleet.state("a"), Some(HealthState::Slow));
}

#[test]
fn a_drive_slow_from_birth_is_known_by_its_peers() {
    let of_model = |name: &str, us: u64| reading(name, us).model("M", Transport::Nvme);
    let peers = ["a", "b", "c", "d"].map(|name| of_model(name, 100));
    let mut fleet = Fleet::new();
    let mut all = peers.to_vec();
    all.push(of_model("slow", 500).on("n2"));
    fleet.play(60, &all);
    assert_eq!(fleet.state("slow"), Some(HealthState::Slow));
    let message = fleet.message("slow");
    assert!(
        message.starts_with("reads 5.0× its 4 peers at equal load"),
        "{message}"
    );

    // Not where peers are of two kinds, nor for loop devices, nor against two peers.
    for (kinds, transport) in [
        (vec![100, 100, 500, 500], Transport::Nvme),
        (vec![100, 100, 100, 100], Transport::Loop),
        (vec![100, 100], Transport::Nvme),
    ] {
        let mut fleet = Fleet::new();
        let mut all: Vec<_> = (0..)
            .zip(&kinds)
            .map(|(i, us): (u32, _)| reading(&format!("p{i}"), *us).model("M", transport))
            .collect();
        all.push(reading("slow", 500).model("M", transport).on("n2"));
        fleet.play(60, &all);
        assert_eq!(
            fleet.state("slow"),
            Some(HealthState::Healthy),
            "{kinds:?} {transport:?}"
        );
    }
}

#[test]
fn load_excuses_what_load_explains() {
    let mut fleet = Fleet::new();
    let idle = || reading("d", 100).serves(Some(100_000), Some(50_000), 50);
    fleet.play(60, &[idle()]);
    // Ten requests in flight, never seen before: slower, and expected to be.
    fleet.play(
        120,
        &[reading("d", 400).serves(Some(400_000), Some(200_000), 1_000)],
    );
    assert_eq!(fleet.state("d"), Some(HealthState::Healthy));
    // Idle again and as slow: not expected.
    fleet.play(
        30,
        &[reading("d", 400).serves(Some(100_000), Some(50_000), 50)],
    );
    assert_eq!(fleet.state("d"), Some(HealthState::Slow));
}

#[test]
fn users_latency_is_a_signal_of_its_own() {
    let mut fleet = Fleet::new();
    fleet.play(
        60,
        &[reading("d", 100).serves(Some(100_000), Some(50_000), 50)],
    );
    fleet.play(
        30,
        &[reading("d", 100).serves(Some(100_000), Some(250_000), 50)],
    );
    assert_eq!(fleet.state("d"), Some(HealthState::Slow));
    let message = fleet.message("d");
    assert!(
        message.starts_with("its users' writes take 2.5× its own past"),
        "{message}"
    );
}

#[test]
fn errors_fail_a_drive_until_its_phase_says_otherwise() {
    let mut fleet = Fleet::new();
    fleet.play(40, &[reading("d", 100)]);
    let judgements = fleet.play(4, &[reading("d", 100).phase(DrivePhase::Failing)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Failing));
    assert!(judgements.iter().any(|judgement| judgement.turned));
    fleet.play(4, &[reading("d", 100)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Probation));
    fleet.play(100, &[reading("d", 100)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Healthy));
}

#[test]
fn another_controller_goes_on_where_the_last_one_stood() {
    let mut fleet = Fleet::new();
    fleet.play(60, &[reading("d", 100)]);
    fleet.play(30, &[reading("d", 400)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Slow));
    fleet.health = Health::new(WINDOW);
    // It knows the past, so it neither forgets the verdict nor takes slow for usual.
    fleet.play(200, &[reading("d", 400)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Slow));
    fleet.play(30, &[reading("d", 100)]);
    assert_eq!(fleet.state("d"), Some(HealthState::Probation));
}

#[test]
fn old_figures_and_no_figures_say_nothing() {
    let mut fleet = Fleet::new();
    fleet.play(200, &[drive("d")]);
    assert_eq!(fleet.state("d"), None);
    let old = reading("d", 100).build();
    fleet.inventory.apply_drive(&old);
    fleet.now = noon() + SignedDuration::from_hours(3);
    for _ in 0..50 {
        assert_eq!(fleet.health.round(&fleet.inventory, fleet.now), []);
        fleet.now += WINDOW.tick();
    }
}

#[test]
fn a_settled_fleet_writes_nothing() {
    let all = ["a", "b", "c"].map(|name| reading(name, 100));
    let mut fleet = Fleet::new();
    assert_eq!(fleet.play(60, &all).len(), 3);
    assert_eq!(fleet.play(3_600, &all), []);
}
