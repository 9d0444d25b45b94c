//! Facts from sysfs. Rooted at a path, so that a captured tree is a test's input.
//!
//! Attributes are read relative to the device's open directory: half the work of full paths, and all of one device
//! even if its name is given to another meanwhile. Nothing here touches a device but one attribute: virtio's serial
//! is asked of the device each time (kernel-notes/32), so it is read on a thread that may hang ([`slow_serial`]). What an
//! ioctl would tell is here as well, and an ioctl wants the device opened, which may take as long as the device likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use api::drive::Transport;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::facts::{BackingFile, DeviceFacts, DeviceKind, Media, PartitionOf};
use super::mounts::Usage;

/// Bytes of a sector as sysfs counts sizes, whatever the device's own.
const SYSFS_SECTOR: u64 = 512;
/// Most bytes of one attribute.
const ATTRIBUTE_MAX: u64 = 4096;

/// Where the machine's own trees are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
}

impl Default for Root {
    /// This machine.
    fn default() -> Self {
        Self {
            sys: PathBuf::from("/sys"),
            proc: PathBuf::from("/proc"),
            dev: PathBuf::from("/dev"),
        }
    }
}

/// sysfs could not be read at all.
#[derive(Debug, thiserror::Error)]
#[error("listing the block devices in {path}")]
pub struct SysfsError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Facts of all block devices but those that have nothing behind them (loop and network devices that are not
/// attached), by kernel name. `media` is [`Media::Unread`] in all. Each device is told of as soon as its own facts are
/// known; only its `partitions` and `loops` come later.
///
/// # Errors
/// The list of devices could not be read. A device that goes away meanwhile is just not there.
pub fn read_all(
    root: &Root,
    usage: &Usage,
    mut tell: impl FnMut(&DeviceFacts),
) -> Result<BTreeMap<String, DeviceFacts>, SysfsError> {
    let path = root.sys.join("class/block");
    let failed = |source| SysfsError {
        path: path.clone(),
        source,
    };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    let mut all = BTreeMap::new();
    for facts in names.iter().filter_map(|name| read_one(root, usage, name)) {
        tell(&facts);
        all.insert(facts.name.clone(), facts);
    }
    link_partitions(&mut all);
    link_loops(root, &mut all);
    Ok(all)
}

/// A disk's partitions are told by the partitions.
fn link_partitions(all: &mut BTreeMap<String, DeviceFacts>) {
    let pairs: Vec<(String, String)> = all
        .values()
        .filter_map(|part| Some((part.partition.as_ref()?.disk.clone(), part.name.clone())))
        .collect();
    for (disk, part) in pairs {
        if let Some(disk) = all.get_mut(&disk) {
            disk.partitions.push(part);
        }
    }
}

/// A block device below a loop device is told by the loop device. One that stands on a disk stands on its partitions too;
/// the other way round a disk is not free for having partitions.
fn link_loops(root: &Root, all: &mut BTreeMap<String, DeviceFacts>) {
    let grounds: Vec<(String, String)> = all
        .values()
        .filter_map(|one| {
            Some((
                one.name.clone(),
                ground(root, all, &one.backing.as_ref()?.path)?,
            ))
        })
        .collect();
    for (name, ground) in grounds {
        let is_on_it = |one: &&mut DeviceFacts| {
            let part = one.partition.as_ref();
            one.name == ground || part.is_some_and(|part| part.disk == ground)
        };
        for one in all.values_mut().filter(is_on_it) {
            one.loops.push(name.clone());
        }
    }
}

/// Which block device a path leads to on the host, or here.
fn ground(root: &Root, all: &BTreeMap<String, DeviceFacts>, path: &Path) -> Option<String> {
    let named = path.strip_prefix("/dev").ok().and_then(Path::to_str);
    if let Some(found) = named.and_then(|name| all.get(name)) {
        return Some(found.name.clone());
    }
    let below = path.strip_prefix("/").ok()?;
    let nodes = [root.proc.join("1/root").join(below), path.to_path_buf()];
    let mut found = nodes.iter().flat_map(std::fs::metadata);
    let found = found.find(|found| found.file_type().is_block_device())?;
    let (major, minor) = (libc::major(found.rdev()), libc::minor(found.rdev()));
    let number = format!("{major}:{minor}");
    let mut of_number = all.values().filter(|one| one.major_minor == number);
    of_number.next().map(|one| one.name.clone())
}

/// One device's directory in sysfs. What is in it is listed once: most devices lack most attributes.
struct Attributes {
    dir: OwnedFd,
    entries: BTreeSet<String>,
}

impl Attributes {
    fn open(path: &Path) -> Option<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(path, flags, Mode::empty()).ok()?;
        let entries = entries(dir.as_fd(), ".");
        Some(Self { dir, entries })
    }

    /// Whether there is such an attribute or directory, or the directory that it would be in.
    fn may_have(&self, name: &str) -> bool {
        let first = name.split('/').next().unwrap_or_default();
        self.entries.contains(first)
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        if !self.may_have(name) {
            return None;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(self.dir.as_fd(), name, flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        let mut file = File::from(file).take(ATTRIBUTE_MAX);
        file.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// An attribute's text without outer blanks; empty where it is missing.
    fn text(&self, name: &str) -> String {
        let bytes = self.bytes(name).unwrap_or_default();
        String::from_utf8_lossy(&bytes)
            .trim_matches(|c: char| c.is_whitespace() || c == '\0')
            .to_owned()
    }

    /// The first attribute of several that says something.
    fn first(&self, names: &[&str]) -> String {
        names
            .iter()
            .map(|name| self.text(name))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).parse().ok()
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == "1"
    }

    /// Names in a subdirectory, sorted; none where it is missing.
    fn list(&self, name: &str) -> Vec<String> {
        if self.may_have(name) {
            entries(self.dir.as_fd(), name).into_iter().collect()
        } else {
            Vec::new()
        }
    }
}

/// Names in a directory below `dir`; none where it cannot be read.
fn entries(dir: BorrowedFd<'_>, name: &str) -> BTreeSet<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut dir) = nix::dir::Dir::openat(dir, name, flags, Mode::empty()) else {
        return BTreeSet::new();
    };
    dir.iter()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .collect()
}

/// Facts of one device; `None` where there is no such device, or nothing behind it.
#[must_use]
pub fn read_one(root: &Root, usage: &Usage, sysfs_name: &str) -> Option<DeviceFacts> {
    let path = root.sys.join("class/block");
    let link = std::fs::read_link(path.join(sysfs_name.replace('/', "!"))).ok()?;
    // `../../devices/…`, as seen from there.
    let place = link.strip_prefix("../..").ok()?;
    let attributes = Attributes::open(&root.sys.join(place))?;
    let uevent = uevent(&attributes.text("uevent"));
    let name = match uevent.get("DEVNAME") {
        Some(name) => name.clone(),
        None => sysfs_name.replace('!', "/"),
    };
    let major_minor = attributes.text("dev");
    let size_bytes = attributes
        .number::<u64>("size")?
        .saturating_mul(SYSFS_SECTOR);
    let kind = kind(&name, &attributes);
    if size_bytes == 0 && matches!(kind, DeviceKind::Loop | DeviceKind::Unsupported) {
        return None;
    }
    let partition = (kind == DeviceKind::Partition)
        .then(|| partition_of(place, &attributes))
        .flatten();
    // A partition has the limits and the hardware of its disk, one directory up.
    let parent = match &partition {
        Some(_) => Some(Attributes::open(&root.sys.join(place.parent()?))?),
        None => None,
    };
    let disk = parent.as_ref().unwrap_or(&attributes);
    let disk_kind = match &partition {
        Some(part) => self::kind(&part.disk, disk),
        None => kind,
    };
    let transport = transport(disk_kind, place, disk);
    Some(DeviceFacts {
        path: root.dev.join(&name),
        diskseq: disk.number("diskseq").unwrap_or(0),
        size_bytes,
        logical_block_bytes: disk.number("queue/logical_block_size").unwrap_or(512),
        physical_block_bytes: disk.number("queue/physical_block_size").unwrap_or(512),
        read_only: attributes.flag("ro"),
        removable: disk.flag("removable"),
        hidden: disk.flag("hidden"),
        zoned: !matches!(disk.text("queue/zoned").as_str(), "" | "none"),
        rotational: disk.flag("queue/rotational"),
        numa_node: disk
            .first(&["device/numa_node", "device/device/numa_node"])
            .parse()
            .ok(),
        transport,
        model: model(disk),
        serial: serial(disk),
        wwid: disk.first(&["wwid", "device/wwid", "dm/uuid", "md/uuid", "device/cid"]),
        firmware: disk.first(&["device/firmware_rev", "device/rev", "device/fwrev"]),
        place: fixed_place(place),
        partition,
        partitions: Vec::new(),
        holders: attributes.list("holders"),
        loops: Vec::new(),
        slaves: attributes.list("slaves"),
        backing: (kind == DeviceKind::Loop).then(|| backing(disk)).flatten(),
        mounts: usage
            .mounts
            .get(&major_minor)
            .map(|points| points.iter().cloned().collect())
            .unwrap_or_default(),
        swap: usage.swaps.contains(&major_minor),
        media: Media::Unread,
        kind,
        major_minor,
        name,
    })
}

/// `KEY=value` lines.
fn uevent(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn kind(name: &str, attributes: &Attributes) -> DeviceKind {
    let driver = name
        .trim_start_matches("cciss/")
        .trim_end_matches(|c: char| c.is_ascii_digit());
    if attributes.may_have("partition") {
        return DeviceKind::Partition;
    }
    if attributes.may_have("dm") {
        return DeviceKind::DeviceMapper;
    }
    if attributes.may_have("md") {
        return DeviceKind::Md;
    }
    match driver {
        "loop" => DeviceKind::Loop,
        "sr" | "scd" => DeviceKind::CdRom,
        "ram" | "zram" | "fd" | "nbd" | "rbd" | "mtdblock" | "ubiblock" => DeviceKind::Unsupported,
        _ if attributes.text("device/type") == "5" => DeviceKind::CdRom,
        _ => DeviceKind::Disk,
    }
}

fn partition_of(place: &Path, attributes: &Attributes) -> Option<PartitionOf> {
    Some(PartitionOf {
        disk: place.parent()?.file_name()?.to_str()?.replace('!', "/"),
        number: attributes.number("partition")?,
        start_sector: attributes.number("start")?,
    })
}

fn backing(attributes: &Attributes) -> Option<BackingFile> {
    const DELETED: &str = " (deleted)";
    let text = attributes.text("loop/backing_file");
    if text.is_empty() {
        return None;
    }
    let path = PathBuf::from(text.strip_suffix(DELETED).unwrap_or(&text));
    let inode = std::fs::metadata(&path)
        .ok()
        .filter(|_| !text.ends_with(DELETED))
        .map(|file| format!("{}:{}", file.dev(), file.ino()))
        .unwrap_or_default();
    Some(BackingFile {
        path,
        inode,
        offset_bytes: attributes.number("loop/offset").unwrap_or(0),
    })
}

fn model(disk: &Attributes) -> String {
    let vendor = disk.text("device/vendor");
    let model = disk.first(&["device/model", "device/name"]);
    // SCSI tells the vendor apart (ATA's is a constant); virtio's and PCI's vendor is a number.
    match vendor.as_str() {
        "" | "ATA" | "NVMe" => model,
        number if number.starts_with("0x") => model,
        vendor if model.is_empty() => vendor.to_owned(),
        vendor => format!("{vendor} {model}"),
    }
}

fn serial(disk: &Attributes) -> String {
    let text = disk.first(&["device/serial"]);
    if !text.is_empty() {
        return text;
    }
    // SCSI's unit serial number: four bytes of header, then text.
    let page = disk.bytes("device/vpd_pg80").unwrap_or_default();
    String::from_utf8_lossy(page.get(4..).unwrap_or_default())
        .trim_matches(|c: char| c.is_whitespace() || c == '\0')
        .to_owned()
}

/// How the device is attached, from its kind and from the buses on its way.
fn transport(kind: DeviceKind, place: &Path, disk: &Attributes) -> Transport {
    match kind {
        DeviceKind::Loop => return Transport::Loop,
        DeviceKind::DeviceMapper => return Transport::DeviceMapper,
        DeviceKind::Md => return Transport::Md,
        DeviceKind::Disk | DeviceKind::Partition | DeviceKind::CdRom | DeviceKind::Unsupported => {}
    }
    let steps: Vec<&str> = place.iter().filter_map(|step| step.to_str()).collect();
    let numbered = |prefix: &str| {
        steps.iter().any(|step| {
            step.strip_prefix(prefix)
                .and_then(|rest| rest.bytes().next())
                .is_some_and(|byte| byte.is_ascii_digit())
        })
    };
    if numbered("nvme") {
        return match nvme_transport(disk).as_str() {
            "" | "pcie" => Transport::Nvme,
            _ => Transport::NvmeFabric,
        };
    }
    if numbered("usb") {
        return Transport::Usb;
    }
    if numbered("ata") {
        return Transport::Sata;
    }
    if numbered("end_device-") || numbered("expander-") {
        return Transport::Sas;
    }
    if numbered("virtio") {
        return Transport::Virtio;
    }
    Transport::Other
}

/// `pcie`, `tcp`, `rdma`, `fc`, `loop`; of the first controller where the namespace belongs to a subsystem.
fn nvme_transport(disk: &Attributes) -> String {
    let direct = disk.text("device/transport");
    if !direct.is_empty() {
        return direct;
    }
    disk.list("device")
        .iter()
        .filter(|name| name.starts_with("nvme"))
        .map(|name| disk.text(&format!("device/{name}/transport")))
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// The part of a device's path that does not depend on the order in which things were found: bus addresses, and for
/// SCSI channel, target and unit. Empty for virtual devices.
fn fixed_place(place: &Path) -> String {
    let steps: Vec<&str> = place
        .iter()
        .filter_map(|step| step.to_str())
        .take_while(|step| *step != "block")
        .collect();
    if steps.contains(&"virtual") {
        return String::new();
    }
    let kept: Vec<String> = steps
        .iter()
        .filter_map(
            |step| match step.split(':').collect::<Vec<_>>().as_slice() {
                [_, _, rest] if rest.contains('.') && !rest.starts_with('.') => {
                    Some((*step).to_owned())
                }
                [host, channel, target, unit] if host.bytes().all(|b| b.is_ascii_digit()) => {
                    Some(format!("{channel}:{target}:{unit}"))
                }
                _ if step.contains('.') || step.contains('@') => Some((*step).to_owned()),
                _ => None,
            },
        )
        .collect();
    kept.join("/")
}

/// Whether a device's serial has to be asked of the device itself.
#[must_use]
pub fn has_slow_serial(facts: &DeviceFacts) -> bool {
    facts.transport == Transport::Virtio
        && facts.serial.is_empty()
        && facts.wwid.is_empty()
        && matches!(facts.kind, DeviceKind::Disk | DeviceKind::Partition)
}

/// Asks a virtio disk for its serial. Blocks as long as the device does not answer.
#[must_use]
pub fn slow_serial(root: &Root, disk: &str) -> String {
    Attributes::open(&root.sys.join("class/block").join(disk.replace('/', "!")))
        .map(|attributes| attributes.text("serial"))
        .unwrap_or_default()
}
