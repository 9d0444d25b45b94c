//! `place` over 10,000 drives on 500 nodes: cargo bench -p controller --bench place

use std::hint::black_box;

use api::AccessTier;
use api::testing::{drive, node, noon, volume};
use controller::inventory::Inventory;
use controller::placement::request::{Class, Places, Request};
use controller::placement::{Policy, place};
use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::BTreeMap;

const DRIVES: u64 = 10_000;
const DRIVES_PER_NODE: u64 = 20;

fn inventory() -> Inventory {
    let mut inventory = Inventory::default();
    for index in 0..DRIVES {
        let name = format!("d{index:05}");
        let on = format!("n{:03}", index / DRIVES_PER_NODE);
        let tier = AccessTier::ALL
            .into_iter()
            .nth(usize::try_from(index % 3).unwrap_or(0));
        let us = 80 + index % 97;
        let built = drive(&name)
            .on(&on)
            .tier(tier.unwrap_or_default())
            .holds(4 << 40)
            .label("rack", &format!("r{}", index % 16))
            .reads(us * 1_000, us * 4_000, 1_000, noon());
        inventory.apply_drive(&built.build());
        if index % DRIVES_PER_NODE == 0 {
            inventory.apply_node(&node(&on, &[("zone", &format!("z{}", index % 3))]));
        }
        for number in 0..index % 5 {
            let name = format!("v{index}-{number}");
            inventory.apply_volume(&volume(&name).on(&on, &format!("d{index:05}")).build());
        }
    }
    inventory
}

fn request(parameters: &[(&str, &str)]) -> Request {
    let parameters: BTreeMap<_, _> = parameters
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Request {
        name: "pvc-2f1c".to_owned(),
        bytes: 10 << 30,
        class: Class::parse(&parameters).unwrap_or_default(),
        places: Places::default(),
        now: noon(),
    }
}

fn benches(criterion: &mut Criterion) {
    let inventory = inventory();
    let anywhere = request(&[]);
    let picky = request(&[
        ("access-tier", "hot,warm"),
        ("drive-selector", "rack in (r1, r2, r3, r5, r7)"),
        ("spread-id", "ring"),
        ("max-read-latency-p99", "700us"),
    ]);
    let mut group = criterion.benchmark_group("place, 10,000 drives");
    for (name, request) in [("any drive", &anywhere), ("every rule", &picky)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| place(black_box(request), &inventory, Policy::default()));
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
