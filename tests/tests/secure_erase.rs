//! Level guest. Drives that erase their cells by NVMe Format: when they are made and when they are removed, with the agent
//! killed at each step; and what they cannot do.

#![cfg(test)]

use serde_json::Value;
use tests::guest::{Guest, Images, on_guests};

/// Starts an agent that dies at a point.
const ARMED: &str = "\
exec_agent() { setsid ringpv-agent --node guest --kubeconfig $KUBECONFIG $* >>/var/lib/ringpv/agent.log 2>&1 & }
stop_agent() { kill $(pidof ringpv-agent) 2>/dev/null || true; while pidof ringpv-agent >/dev/null; do sleep 0.1; done; }
gone() { for i in $(seq 600); do pidof ringpv-agent >/dev/null || return 0; sleep 0.1; done; echo 'it never came there'; false; }
cd /var/lib/ringpv
";

const POINTS: [&str; 4] = [
    "secure-erase.before",
    // The cells are erased, and the claim with them.
    "secure-erase.piece",
    "secure-erase.after",
    "erase.after",
];

/// A guest with one NVMe drive, and its images.
fn booted(name: &str) -> (Guest, Images) {
    let images = Images::new();
    let (nvme, state) = (images.spec("A", "600M"), images.spec("state", "512M"));
    let guest = Guest::boot(name, &["--nvme", &nvme, "--disk", &state]);
    (guest, images)
}

fn erased(drive: &Value) -> [&str; 2] {
    let word = |key: &str| drive["status"]["erased"][key].as_str().unwrap_or_default();
    [word("level"), word("method")]
}

/// The one Drive; null when it is gone.
fn drive(guest: &Guest) -> Value {
    guest.json("ringpv list drives -o json")["items"][0].clone()
}

fn phase(guest: &Guest) -> [String; 2] {
    let status = drive(guest)["status"].clone();
    ["phase", "reason"].map(|key| status[key].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_drive_erases_its_cells_through_every_kill() {
    on_guests("a_drive_erases_its_cells_through_every_kill", || {
        let (guest, _images) = booted("format");
        let old = "echo OLD-DATA | dd of=/dev/nvme0n1 bs=1M seek=300 conv=notrunc,sync status=none";
        let is_there = || {
            let found = guest.run(
            "dd if=/dev/nvme0n1 iflag=direct bs=1M skip=300 count=1 status=none | grep OLD-DATA",
        );
            found.code == Some(0)
        };
        guest.ok(old);
        assert!(is_there());
        guest.start("");
        guest.ok("cd /var/lib/ringpv; ringpv discover --overwrite
        sed -i 's/method: Auto/method: Format/' drives.yaml; grep 'method: Format' drives.yaml");
        let mut points = POINTS.into_iter();
        let first = points.next().unwrap_or_default();
        guest.ok(&format!(
            "{ARMED} stop_agent; exec_agent --fault-point {first}
        ringpv init drives.yaml --no-wait; gone"
        ));
        assert!(is_there(), "nothing was destroyed before {first}");
        for point in points {
            guest.ok(&format!("{ARMED} exec_agent --fault-point {point}; gone"));
            assert!(!is_there(), "{point}");
        }
        guest.ok(&format!("{ARMED} exec_agent"));
        guest.until("the drive is ready", || phase(&guest)[0] == "Ready");
        let made = drive(&guest);
        let [level, method] = erased(&made);
        assert_eq!(level, "Physical", "{made:#}");
        assert!(method.starts_with("format-user-data, "), "{made:#}");
        assert_eq!(made["status"]["secureEraseSince"], Value::Null, "{made:#}");

        // What the drive cannot do is said, and done to nothing.
        let id = made["metadata"]["name"].as_str().unwrap_or_default();
        let remove = |method: &str, more: &str| {
            let asked = guest.run(&format!("ringpv remove {id} --erase --method {method}"));
            let (_, word) = asked.stderr.split_once("--yes ").unwrap_or_default();
            let word = word.split_whitespace().next().unwrap_or_default();
            guest.run(&format!(
                "ringpv remove {id} --erase --method {method} --yes {word} {more}"
            ))
        };
        let refused = remove("sanitize", "--timeout 20s");
        tests::tell(&refused.to_string());
        assert!(
            refused.stderr.contains("EraseUnsupported")
                && refused.stderr.contains("has no Sanitize"),
            "{refused}"
        );
        guest.ok("[ $(blkid -p -s TYPE -o value /dev/nvme0n1) = xfs ]");

        // Removed, again with every kill; it asks for another method while the drive is on its way out.
        let mut points = POINTS.into_iter();
        let first = points.next().unwrap_or_default();
        guest.ok(&format!(
            "{ARMED} stop_agent; exec_agent --fault-point {first}"
        ));
        let asked = remove("format", "--no-wait");
        assert_eq!(asked.code, Some(0), "{asked}");
        guest.ok(&format!("{ARMED} gone"));
        for point in points {
            guest.ok(&format!("{ARMED} exec_agent --fault-point {point}; gone"));
        }
        assert!(!drive(&guest).is_null(), "it was not seen to its end yet");
        guest.ok(&format!("{ARMED} exec_agent"));
        guest.until("the drive is gone", || drive(&guest).is_null());
        guest.ok("[ -z \"$(blkid -p /dev/nvme0n1)\" ]; cmp -n 600M /dev/nvme0n1 /dev/zero");
    });
}

#[test]
fn what_is_put_on_a_drive_after_its_cells_were_erased_stays() {
    on_guests(
        "what_is_put_on_a_drive_after_its_cells_were_erased_stays",
        || {
            let (guest, _images) = booted("stays");
            guest.start("");
            guest.ok(&format!(
        "{ARMED} ringpv discover --overwrite; sed -i 's/method: Auto/method: Format/' drives.yaml
        stop_agent; exec_agent --fault-point secure-erase.piece
        ringpv init drives.yaml --no-wait; gone
        mkfs.ext4 -q -L photos /dev/nvme0n1; sync; md5sum /dev/nvme0n1 >before
        exec_agent"
    ));
            guest.until("the drive is refused", || {
                phase(&guest) == ["Failed", "FingerprintChanged"]
            });
            guest.ok("cd /var/lib/ringpv; md5sum --check before");
        },
    );
}
