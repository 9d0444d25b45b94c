//! `move DRIVE --to DRIVE`: points volumes from a drive that fails, or is gone, to another of the same node. No byte is
//! copied and none destroyed: each volume begins empty on its new drive, for an application that heals itself, and its
//! data stay where they are. The controller moves a volume once no pod uses it; till then no pod gets it.

use api::{Drive, Reason, Volume};
use clap::Args;
use kube::ResourceExt as _;
use serde_json::json;

use crate::advice::{Hint, Refusal, Stop};
use crate::args::{Confirm, DryRun, Wait};
use crate::change;
use crate::confirm::{self, Target};
use crate::progress::{End, follow};
use crate::select::{by_names, drive_label, nothing, short};
use crate::session::{Inventory, Session};
use crate::view::counted;

/// Flags of `move`.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// Id of the drive that volumes leave, or its first digits
    #[arg(value_name = "DRIVE")]
    from: String,
    /// Id of the drive that they go to, or its first digits
    #[arg(long, value_name = "DRIVE")]
    to: String,
    /// Only these volumes, by their whole names [else: all on the drive]
    #[arg(long, value_name = "VOLUME", value_delimiter = ',')]
    volume: Vec<String>,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    wait: Wait,
}

/// What is to be done.
#[derive(Debug)]
struct Moves {
    from: Drive,
    to: Drive,
    volumes: Vec<Volume>,
}

/// Runs `move`.
pub(crate) async fn run(session: &mut Session, args: &MoveArgs) -> Result<(), Stop> {
    let inventory = session.inventory().await?;
    let moves = decide(args, inventory)?;
    let target = moves.target();
    if args.dry_run.dry_run {
        let count = counted(moves.volumes.len(), "volume");
        let to = drive_label(&moves.to);
        session
            .screen
            .line(format!("{count} would be moved to {to}"))?;
        return session.hint(&Hint::DryRun);
    }
    let words = args.confirm.words();
    confirm::confirm(&mut session.screen, &[target], words, "Moving")?;
    let api = session.api::<Volume>().await?;
    let to = moves.to.name_any();
    for volume in &moves.volumes {
        let wish = json!({"spec": {"moveTo": to}});
        change::patch_despite_reports(&api, volume, wish).await?;
    }
    until_moved(session, &moves, &args.wait).await
}

/// What is to be done, or why it cannot be.
fn decide(args: &MoveArgs, inventory: Inventory) -> Result<Moves, Stop> {
    let drive = |typed: &String| {
        let ids = inventory.drives.iter().map(|drive| drive.name_any());
        let ids = by_names(std::slice::from_ref(typed), ids, "drive")?;
        let found = inventory.drives.iter();
        let mut found = found.filter(|drive| ids.contains(&drive.name_any()));
        found.next().cloned().ok_or_else(|| nothing("drive"))
    };
    let (from, to) = (drive(&args.from)?, drive(&args.to)?);
    let invalid = |detail: String| {
        let refusal = Refusal::new(Reason::InvalidArgument, drive_label(&to));
        Stop::refused(refusal.detail(detail).next("kubectl ringpv list drives"))
    };
    if from.name_any() == to.name_any() {
        return Err(invalid(
            "it is the drive that the volumes are on".to_owned(),
        ));
    }
    if from.spec.node != to.spec.node {
        return Err(invalid(format!(
            "it is on {}, and a volume never leaves its node, here {}",
            to.spec.node, from.spec.node
        )));
    }
    let id = from.name_any();
    let here = inventory.volumes.into_iter().filter(|volume| {
        volume.spec.drive.as_ref() == Some(&id) && volume.metadata.deletion_timestamp.is_none()
    });
    let volumes: Vec<Volume> = here
        .filter(|volume| args.volume.is_empty() || args.volume.contains(&volume.name_any()))
        .collect();
    let is_there = |name: &&String| volumes.iter().any(|volume| volume.name_any() == **name);
    if let Some(name) = args.volume.iter().find(|name| !is_there(name)) {
        let refusal = Refusal::new(Reason::VolumeNotFound, name);
        return Err(Stop::refused(refusal.detail(format!(
            "no volume of that name is on drive {}",
            short(&id)
        ))));
    }
    if volumes.is_empty() {
        return Err(Stop::refused(
            Refusal::new(Reason::NothingMatched, drive_label(&from))
                .detail("no volume is on it")
                .next("kubectl ringpv list volumes"),
        ));
    }
    Ok(Moves { from, to, volumes })
}

impl Moves {
    fn target(&self) -> Target {
        let id = self.from.name_any();
        let count = counted(self.volumes.len(), "volume");
        Target {
            name: format!("{count} from {}", drive_label(&self.from)),
            loses: format!(
                "nothing, but on drive {} they begin empty; their data stay on drive {}, out of the pods' reach",
                short(&self.to.name_any()),
                short(&id)
            ),
            word: id,
        }
    }
}

async fn until_moved(session: &mut Session, moves: &Moves, wait: &Wait) -> Result<(), Stop> {
    let to = moves.to.name_any();
    let goes_on = Hint::GoesOn {
        command: format!("kubectl ringpv list volumes --drive {to}"),
    };
    if wait.no_wait {
        return session.hint(&goes_on);
    }
    let names: Vec<String> = moves.volumes.iter().map(|v| v.name_any()).collect();
    let api = session.api::<Volume>().await?;
    let mut left: Vec<Refusal> = Vec::new();
    let end = follow(api, wait.timeout, |all| {
        let staying = |name: &&String| {
            let volume: Option<&Volume> = all.get(*name);
            volume.is_some_and(|volume| volume.spec.drive.as_ref() != Some(&to))
        };
        let staying = names.iter().filter(staying);
        left = staying.map(|name| waits_for(all.get(name))).collect();
        Ok(left.is_empty())
    })
    .await?;
    if end == End::Done {
        let count = counted(names.len(), "volume");
        let line = format!("{count} moved to {}", drive_label(&moves.to));
        return Ok(session.screen.line(line)?);
    }
    session.hint(&goes_on)?;
    Err(Stop::FailedFor(left))
}

/// Why a volume is not moved yet, as far as its object tells.
fn waits_for(volume: Option<&Volume>) -> Refusal {
    let name = volume.map(|v| v.name_any()).unwrap_or_default();
    let status = volume.and_then(|volume| volume.status.as_ref());
    let used = status.is_some_and(|s| s.staging_path.is_some() || !s.targets.is_empty());
    if used {
        return Refusal::new(Reason::StillPublished, format!("volume {name}"))
            .detail("a pod has it mounted; it is moved once none has")
            .next("scale down or delete the pods that use it");
    }
    Refusal::new(Reason::TimedOut, format!("volume {name}"))
        .detail("the controller has not moved it")
        .next(format!(
            "kubectl get events --namespace default --field-selector involvedObject.name={name} says why"
        ))
}

#[cfg(test)]
mod tests {
    use api::DrivePhase;

    use super::*;
    use crate::testing;

    fn decided(from: &str, to: &str, volumes: &[&str]) -> Result<Vec<String>, Reason> {
        let drive = |id: &str, node: &str| testing::drive(id, node, "nvme0n1", DrivePhase::Ready);
        let inventory = Inventory {
            nodes: Vec::new(),
            drives: vec![drive("1a", "n1"), drive("1b", "n1"), drive("2a", "n2")],
            volumes: vec![
                testing::volume("v", "n1", "1a", 1),
                testing::volume("w", "n1", "1a", 1),
                testing::volume("x", "n2", "2a", 1),
            ],
        };
        let args = MoveArgs {
            from: from.to_owned(),
            to: to.to_owned(),
            volume: volumes.iter().map(|&name| name.to_owned()).collect(),
            confirm: Confirm::default(),
            dry_run: DryRun::default(),
            wait: Wait {
                timeout: std::time::Duration::ZERO,
                no_wait: true,
            },
        };
        match decide(&args, inventory) {
            Ok(moves) => Ok(moves.volumes.iter().map(|v| v.name_any()).collect()),
            Err(Stop::Refused(refusals)) => Err(refusals[0].reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn volumes_move_within_their_node() {
        assert_eq!(
            decided("1a", "1b", &[]),
            Ok(vec!["v".to_owned(), "w".to_owned()])
        );
        assert_eq!(decided("1a", "1b", &["w"]), Ok(vec!["w".to_owned()]));
        assert_eq!(decided("1a", "1b", &["x"]), Err(Reason::VolumeNotFound));
        assert_eq!(decided("1a", "1a", &[]), Err(Reason::InvalidArgument));
        assert_eq!(decided("1a", "2a", &[]), Err(Reason::InvalidArgument));
        assert_eq!(decided("1b", "1a", &[]), Err(Reason::NothingMatched));
    }
}
