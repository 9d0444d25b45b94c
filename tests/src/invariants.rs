//! What must hold after every step, and what must be reached at the end.

use std::collections::BTreeMap;
use std::path::Path;

use api::DrivePhase;

use crate::host::Destroyed;
use crate::host::disk::Disk;
use crate::host::space::FileSystem;
use crate::host::tree::{Kind, ROOT, Tree};
use crate::world::World;
use crate::world::controller::allocatable;
use crate::world::node::named;
use crate::world::volumes::target;

/// The rules of safety.
///
/// # Errors
/// The first that does not hold.
pub fn safe(world: &mut World) -> Result<(), String> {
    world.wrong.take().map_or(Ok(()), Err)?;
    destroyed(world)?;
    within_capacity(world)?;
    data_are_there(world)?;
    unnamed_devices_are_untouched(world)?;
    mounts_are_right(world)
}

/// No volume, and all volumes together, are promised more than their drive has, whoever led.
fn within_capacity(world: &World) -> Result<(), String> {
    let mut promised: BTreeMap<&str, u64> = BTreeMap::new();
    for volume in world.api.volumes.all() {
        if let Some(drive) = &volume.spec.drive {
            *promised.entry(drive).or_default() += volume.spec.capacity_bytes;
        }
    }
    for drive in world.api.drives.all() {
        let name = named(drive);
        let sum = promised.get(name.as_str()).copied().unwrap_or(0);
        match allocatable(drive) {
            Some(bytes) if sum > bytes => {
                return Err(format!("{name} has {bytes} bytes, and {sum} are promised"));
            }
            None if sum > 0 => {
                return Err(format!(
                    "{name} was never ready, and {sum} bytes are promised"
                ));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// What was destroyed since the last step was a person's word.
fn destroyed(world: &mut World) -> Result<(), String> {
    for node in &world.nodes {
        let all: Vec<Destroyed> = node.host.machine().destroyed.drain(..).collect();
        for one in all {
            match one {
                Destroyed::FileSystem { serial, files } => {
                    let holds = volumes_in(&files);
                    if !holds.is_empty() && !world.person.erasable.contains(&serial) {
                        return Err(format!("drive {serial} was erased with {holds:?} on it"));
                    }
                    let kept = &mut world.person.kept;
                    kept.retain(|name, _| !holds.contains(name));
                    if !world.person.named.contains(&serial) {
                        return Err(format!("drive {serial} was erased, and nobody named it"));
                    }
                }
                Destroyed::Removed { path, .. } => {
                    let name = path
                        .file_name()
                        .and_then(|name| name.to_str())
                        .unwrap_or_default();
                    let volume = name.rsplit_once('-').map_or(name, |(volume, _)| volume);
                    if !world.person.released.contains(volume) {
                        return Err(format!(
                            "{} was removed, and {volume} was never released",
                            path.display()
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Names of the volumes whose data a file system holds.
fn volumes_in(files: &Tree) -> Vec<String> {
    let folder = files.child(ROOT, "volumes");
    folder
        .and_then(|folder| files.names(folder))
        .unwrap_or_default()
}

/// What a pod wrote into a volume, on a drive.
fn token(disk: &Disk, volume: &str) -> Option<u64> {
    let files = disk.files.as_ref()?;
    let data = files.child(files.child(files.child(ROOT, "volumes")?, volume)?, "data")?;
    match &files.node(data)?.kind {
        Kind::File(content) => Some(u64::from_le_bytes(content.as_slice().try_into().ok()?)),
        Kind::Filled(_) | Kind::Dir(_) | Kind::Link(_) => None,
    }
}

/// Data that nobody released are on one drive, and on one alone.
fn data_are_there(world: &World) -> Result<(), String> {
    let released = |name: &String| world.person.released.contains(name);
    let wished = world.person.volumes.iter();
    let wished = wished.map(|(name, wish)| (name, wish.token));
    let kept = world.person.kept.iter().map(|(name, token)| (name, *token));
    for (name, written) in wished.chain(kept) {
        if written == 0 || released(name) {
            continue;
        }
        let mut found = Vec::new();
        for node in &world.nodes {
            let machine = node.host.machine();
            for disk in machine.space.disks.values() {
                match token(disk, name) {
                    Some(token) if token == written => found.push(disk.serial.clone()),
                    Some(_) => {
                        return Err(format!("drive {} has other data of {name}", disk.serial));
                    }
                    None => {}
                }
            }
        }
        match found.as_slice() {
            [_] => {}
            [] => return Err(format!("the data of {name} are gone")),
            several => return Err(format!("{name} is on several drives: {several:?}")),
        }
    }
    Ok(())
}

/// A device with somebody's data that nobody named is as it was.
fn unnamed_devices_are_untouched(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        let machine = node.host.machine();
        for disk in machine.space.disks.values() {
            if !world.person.named.contains(&disk.serial) && disk.writes > 0 {
                return Err(format!(
                    "drive {} was written to, and nobody named it",
                    disk.serial
                ));
            }
        }
    }
    Ok(())
}

/// No drive is mounted twice at its place, and where a pod has a volume it has that volume.
fn mounts_are_right(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        let machine = node.host.machine();
        let root = node.site.state_dir.join("mnt");
        let mut places: BTreeMap<&FileSystem, usize> = BTreeMap::new();
        for mount in machine.space.mounts.iter().filter(|mount| !mount.dead) {
            if mount.target.starts_with(&root) && mount.inode == ROOT {
                *places.entry(&mount.file_system).or_default() += 1;
            }
            if let Ok(volume) = mount.target.strip_prefix("/kubelet/pods")
                && mount.root != Path::new("/volumes").join(volume)
            {
                return Err(format!(
                    "{} shows {}",
                    mount.target.display(),
                    mount.root.display()
                ));
            }
        }
        if let Some((drive, count)) = places.into_iter().find(|(_, count)| *count > 1) {
            return Err(format!("{drive:?} is mounted at {count} places"));
        }
    }
    Ok(())
}

/// Whether everything that was wished for is so, and nothing else is left.
///
/// # Errors
/// The first wish that is not fulfilled.
pub fn reached(world: &World) -> Result<(), String> {
    for (id, wish) in &world.person.drives {
        let holds = |volume: &api::Volume| volume.spec.drive.as_ref() == Some(id);
        if !wish.wanted && world.api.volumes.all().any(holds) {
            continue; // deleted by plain means: it stays for as long as volumes are on it
        }
        let Some(drive) = world.api.drives.get(id).filter(|_| wish.wanted) else {
            return Err(format!("drive {id} is not as wished: {wish:?}"));
        };
        let phase = drive.status.as_ref().map(|status| status.phase);
        // Not blank and not forced, no longer what was named, or another drive by now.
        let of_device = world.person.drives.iter();
        let mut of_device = of_device.filter(|(_, other)| other.serial == wish.serial);
        let became_another = of_device.any(|(other, _)| other != id);
        let forced = drive.spec.force || drive.spec.device.fingerprint.content == "blank";
        let refused = !forced || wish.spoiled || became_another;
        match phase {
            Some(DrivePhase::Ready) => {}
            Some(DrivePhase::Failed) if refused => {}
            _ => {
                let status = drive.status.as_ref();
                let why = status.map(|status| (status.reason, status.message.clone()));
                return Err(format!("drive {id} is {phase:?}: {why:?}"));
            }
        }
    }
    for drive in world.api.drives.all() {
        if !world.person.drives.contains_key(&named(drive)) {
            return Err(format!("nobody wished for the Drive {}", named(drive)));
        }
    }
    volumes_reached(world)?;
    nothing_is_left(world)
}

fn volumes_reached(world: &World) -> Result<(), String> {
    for (name, wish) in &world.person.volumes {
        let Some(volume) = world.api.volumes.get(name).filter(|_| wish.wanted) else {
            return Err(format!("volume {name} is not as wished: {wish:?}"));
        };
        if volume.spec.capacity_bytes != wish.bytes || wish.pod != wish.mounted {
            return Err(format!("volume {name} is not as wished: {wish:?}"));
        }
        let in_force = volume
            .status
            .as_ref()
            .and_then(|status| status.capacity_bytes);
        if in_force != Some(wish.bytes) {
            return Err(format!(
                "volume {name} has {in_force:?} in force of {}",
                wish.bytes
            ));
        }
        let node = world
            .nodes
            .iter()
            .find(|node| node.name == volume.spec.node);
        let there = node.is_some_and(|node| {
            node.host
                .machine()
                .space
                .mounted_at(&target(name))
                .is_some()
        });
        if there != wish.pod {
            return Err(format!(
                "volume {name}: mounted {there}, wished {}",
                wish.pod
            ));
        }
    }
    for volume in world.api.volumes.all() {
        if !world.person.volumes.contains_key(&named(volume)) {
            return Err(format!("nobody wished for the Volume {}", named(volume)));
        }
    }
    Ok(())
}

/// No directory of a released volume, nothing in a trash, no mount of a drive that was let go.
fn nothing_is_left(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        let machine = node.host.machine();
        for disk in machine.space.disks.values() {
            let Some(files) = &disk.files else {
                continue;
            };
            let wished = world
                .person
                .drives
                .values()
                .any(|wish| wish.serial == disk.serial);
            let trash = files
                .child(ROOT, ".trash")
                .and_then(|trash| files.names(trash))
                .unwrap_or_default();
            if wished && !trash.is_empty() {
                return Err(format!("the trash of {} holds {trash:?}", disk.serial));
            }
            for name in volumes_in(files).iter().filter(|_| wished) {
                let person = &world.person;
                if !person.volumes.contains_key(name) {
                    return Err(format!(
                        "{name} is gone, and its directory is on {}",
                        disk.serial
                    ));
                }
            }
            let mounted = machine
                .space
                .mounts
                .iter()
                .any(|mount| mount.file_system == FileSystem::Drive(disk.serial.clone()));
            if mounted && !wished {
                return Err(format!("{} was let go and is still mounted", disk.serial));
            }
        }
    }
    Ok(())
}
