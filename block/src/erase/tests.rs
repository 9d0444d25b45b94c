use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn walk(plan: &Plan) -> Vec<Range> {
    let mut parts = Vec::new();
    let mut cursor = 0;
    while let Some(part) = plan.part_at(cursor, 64 * MIB) {
        cursor += part.bytes;
        parts.push(part);
    }
    assert_eq!(cursor, plan.total_bytes());
    parts
}

#[test]
fn plans() {
    let cases = [
        (Wanted::Auto, GIB, true, GIB - 4096),
        (Wanted::Zero, GIB, true, GIB - 4096),
        (Wanted::Signatures, GIB, false, 33 * MIB - 4096),
        (Wanted::Signatures, 512 * GIB, false, 34 * MIB - 4096),
        (Wanted::Signatures, 20 * MIB, false, 20 * MIB - 4096),
    ];
    for (wanted, size, whole, total) in cases {
        let plan = Plan::new(wanted, size);
        assert_eq!((plan.is_whole(), plan.total_bytes()), (whole, total));
        walk(&plan);
    }
}

#[test]
fn every_place_where_a_signature_is_looked_for_is_erased() {
    for size in [512 * MIB, GIB + 512, 3 * GIB + 4096 * 7, 300 * GIB, 1 << 44] {
        let areas = signature_areas(size);
        for looked in crate::signature::everywhere(size) {
            let looked = Range {
                offset: looked.start,
                bytes: looked.end - looked.start,
            };
            for part in without_claim(vec![looked], size) {
                let covers = |area: &Range| area.offset <= part.offset && part.end() <= area.end();
                assert!(areas.iter().any(covers), "{part:?} of {size}");
            }
        }
    }
}

#[test]
fn a_resume_takes_the_plan_that_was_under_way() {
    let (whole, signatures) = (
        Plan::new(Wanted::Auto, GIB),
        Plan::new(Wanted::Signatures, GIB),
    );
    for plan in [&whole, &signatures] {
        let again = Plan::resumed(Wanted::Auto, GIB, plan.total_bytes());
        assert_eq!(again.erased(), plan.erased());
    }
    assert_eq!(Plan::resumed(Wanted::Auto, GIB, 0), whole);
    let zero = Plan::new(Wanted::Zero, GIB);
    assert_eq!(Plan::resumed(Wanted::Zero, GIB, zero.total_bytes()), zero);
    // What a person asks for instead counts.
    assert_eq!(
        Plan::resumed(Wanted::Zero, GIB, signatures.total_bytes()),
        zero
    );
}

proptest! {
    #[test]
    fn the_claim_block_is_never_in_a_plan(sectors in 1u64..1 << 30, kind in 0usize..3, seed: u64) {
        let size = sectors * 512;
        let wanted = [Wanted::Auto, Wanted::Signatures, Wanted::Zero][kind];
        let plan = Plan::new(wanted, size);
        let mut last_end = 0;
        for range in plan.erased().iter().copied().chain(plan.sample(seed)) {
            prop_assert!(range.bytes > 0 && range.end() <= size);
            prop_assert_eq!(range.offset % 4096, 0);
            if let Some(offset) = claim_offset(size) {
                let claim = Range { offset, bytes: CLAIM_BYTES };
                prop_assert!(!range.overlaps(claim));
            }
        }
        for part in walk(&plan) {
            prop_assert!(part.offset >= last_end);
            last_end = part.end();
        }
        let claim = if claim_offset(size).is_some() { CLAIM_BYTES.min(size) } else { 0 };
        if plan.is_whole() {
            prop_assert_eq!(plan.total_bytes() + claim, size);
        }
    }
}
