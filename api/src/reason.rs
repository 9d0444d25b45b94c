//! One enum of reasons. A variant is an event's reason, a condition's reason, a log field and a metric label, and
//! the CLI prints the same word. Add a row here, and nowhere a second word for the same thing.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($( $(#[$group:meta])* $name:ident: $meaning:literal, $advice:literal; )*) => {
        /// Why something is as it is, or was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Reason {
            $( $(#[$group])* #[doc = $meaning] $name, )*
        }

        impl Reason {
            /// All reasons, in the order of the manual.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// The word itself, CamelCase.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )* }
            }

            /// What it means, as a sentence without a full stop.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$name => $meaning, )* }
            }

            /// What a person does next; empty where nothing need be done.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $( Self::$name => $advice, )* }
            }
        }
    };
}

reasons! {
    // ---- why a device is not eligible (judge) ----
    TooSmall: "the device is smaller than the smallest drive", "use a larger device";
    Hidden: "the kernel hides the device (a path of a multipath namespace)", "use the namespace's own device";
    ReadOnlyDevice: "the device is read-only", "clear its write protection, then it is seen within half a minute";
    Partitioned: "the device has partitions", "wipe the partition table if nothing on it is needed, or give a partition-free device";
    HeldByOther: "another driver holds the device (device mapper, md, bcache, a loop device on it)", "take the holder away first";
    Mounted: "a file system on the device is mounted", "unmount it if it is no longer needed";
    SwapInUse: "the device is used as swap", "swapoff it first";
    CdRom: "the device is an optical drive", "";
    RemovableMedia: "the device is removable", "";
    LoopNotAllowed: "loop devices are not used unless allowed", "start the agent with --allow-loop for tests and demos";
    UnsupportedKind: "a device of this kind (ram, zram, network block, zoned) is not used as a drive", "";
    UnsupportedSectorSize: "the logical sector size is neither 512 nor 4096 bytes", "reformat the namespace to 512 or 4096 byte sectors";
    NoStableIdentity: "the device has no serial, no wwid and no fixed place, so it could not be told from another", "give it a serial in the hypervisor";
    DuplicateIdentity: "two devices show the same identity", "remove one of them, or let multipath join them";
    Unresponsive: "the device did not answer in time", "look at the kernel log; it is tried again by itself";
    ReadFailed: "reading the device failed", "look at the kernel log and the cabling";
    OpenedByOther: "somebody else holds the device open exclusively", "find who with lsof or fuser";
    AlreadyManaged: "the device is a drive of this cluster", "";
    Adoptable: "the device carries a drive of this cluster that has no object", "kubectl ringpv adopt";
    ForeignCluster: "the device carries a drive of another cluster; it is neither mounted nor erased", "kubectl ringpv adopt --from-cluster ID, if it is meant to move here";
    HoldsData: "the device holds data", "init --dangerous destroys it, after its fingerprint is confirmed";
    DuplicateDriveId: "two devices carry the same drive id; neither is mounted", "remove the copy";

    // ---- init, adopt, remove ----
    Pending: "waiting for the agent of the node", "look at the agent's log if it stays so";
    Preparing: "the drive is being prepared", "";
    Ready: "ready for use", "";
    DeviceNotFound: "no device with that identity is on the node", "run discover again";
    FingerprintChanged: "the device is not as it was when it was discovered; nothing was written", "run discover again and look at what changed";
    ForceRequired: "the device holds data and the word to destroy it was not given", "init --dangerous";
    ClaimConflict: "the device bears the claim of another drive object", "kubectl ringpv discover shows whose it is";
    GateFailed: "the drive did not pass its gate benchmark", "use another drive, or ease the gate in drives.yaml";
    EraseFailed: "erasing the device failed", "look at the kernel log; it goes on by itself once the device answers";
    EraseUnsupported: "the drive cannot be erased in the way that was asked for", "ask for another method, auto or zero: in drives.yaml, once the drive object is removed";
    VerifyFailed: "what was read back after erasing is not zero", "the device does not do what it is told: replace it";
    MkfsMissing: "mkfs.xfs was not found", "install the package xfsprogs on the node; it is tried again by itself";
    FormatFailed: "mkfs.xfs failed", "the message says why";
    MountFailed: "the file system could not be mounted", "the message says why; kubectl ringpv suspend drives DRIVE, then repair DRIVE, mends a damaged one";
    IdMismatch: "the file system's id is not the drive's", "kubectl ringpv discover shows what the device carries";
    ProbeFileFailed: "the probe file could not be written", "look at the kernel log";
    DriveInUse: "volumes are on the drive", "delete them first";
    Removing: "the drive is being removed", "";

    // ---- a drive's turns ----
    Healthy: "as fast as its own past and its peers", "";
    Slow: "slower than its own past or its peers", "no new volume is placed here; kubectl ringpv health DRIVE";
    Probation: "fast again, still watched", "";
    Failing: "errors or a critical warning", "replace the drive";
    DriveLost: "the device is gone", "put it back, or remove the drive";
    DriveReadOnly: "the file system turned read-only", "look at the kernel log; kubectl ringpv suspend drives DRIVE, then repair DRIVE once no pod uses it";
    FilesystemShutdown: "XFS shut the file system down", "look at the kernel log; kubectl ringpv suspend drives DRIVE, then repair DRIVE once no pod uses it";
    Repairing: "xfs_repair looks the file system over", "";
    RepairFailed: "xfs_repair could not be run", "the message says why";
    FilesystemDamaged: "the file system is not well", "xfs_repair's own words, in the drive's status, say what is wrong";
    NotSuspended: "pods may use the drive at any time", "kubectl ringpv suspend drives DRIVE";
    IoErrors: "reads or writes fail", "look at the kernel log; replace the drive if it goes on";
    Suspended: "suspended by a person", "kubectl ringpv resume drives DRIVE, or resume volumes VOLUME";
    Cordoned: "cordoned by a person: no new volumes", "kubectl ringpv uncordon";
    QuotaSupported: "the kernel enforces project quota", "";
    QuotaUnsupported: "this kernel has no XFS project quota, so a volume's size is not enforced", "a kernel with CONFIG_XFS_QUOTA; or a class with capacity-enforcement: best-effort";
    OverAllocated: "more is promised than the drive holds", "delete a volume";
    QuotaBypassed: "files on the drive have left their volumes' projects and count against no capacity", "find them with find -xdev and xfs_io -c lsproj; their owner may put them back or delete them";

    // ---- I/O backends ----
    UringUsed: "io_uring works", "";
    UringDisabled: "the sysctl kernel.io_uring_disabled forbids io_uring; threads are used", "sysctl kernel.io_uring_disabled=0";
    UringRefused: "io_uring_setup was refused (a seccomp profile); threads are used", "let the agent's seccomp profile allow io_uring_setup, io_uring_enter and io_uring_register, or run the agent without one (privileged)";
    UringNoMemory: "io_uring_setup was refused for want of memory that may be locked (RLIMIT_MEMLOCK); threads are used", "let the agent lock more memory (systemd: LimitMEMLOCK=64M), or give it CAP_IPC_LOCK";
    UringUnsupported: "the kernel has no io_uring; threads are used", "a kernel of 5.15 or later";
    UringEnded: "the ring that reads what devices hold has ended; threads are used for that", "start the agent again, and report what its log says";
    ThreadsFaster: "io_uring leaves each read of this device to a kernel worker, and threads take less than half as long; threads are used", "";
    ThreadsChosen: "threads were asked for", "";

    // ---- why a drive cannot take a volume (placement) ----
    WrongTopology: "on a node that the request does not allow", "";
    NotReady: "not ready", "";
    Unhealthy: "slow or failing", "";
    WrongTier: "not of a wanted access tier", "";
    LabelMismatch: "not selected by the class's drive-selector", "";
    SpreadTaken: "already holds a volume of this spread group", "";
    InsufficientCapacity: "too little free capacity", "";
    TooManyVolumes: "as many volumes as a drive may have", "";
    TooSlow: "its read p99 is above the class's ceiling", "";
    LatencyUnknown: "never measured, and the class sets a ceiling", "kubectl ringpv bench DRIVE";
    CapacityNotEnforced: "its kernel cannot enforce a volume's size", "a class with capacity-enforcement: best-effort";
    BeingRemoved: "being removed", "";
    NodeSilent: "the agent of the node is not heard of", "look at the node, and at its agent's log; what is mounted there stays, and nothing is moved";
    NodeHeard: "the agent of the node is heard of again", "";

    // ---- volumes and CSI ----
    Placed: "a drive was chosen", "";
    NoFit: "no drive can hold the volume", "the counts say why each was refused";
    NoDrives: "there are no drives", "kubectl ringpv discover, then init";
    Provisioned: "the volume's directory stands", "";
    Staged: "mounted for its node", "";
    Published: "mounted for a pod", "";
    Trashed: "released; its data are being removed", "";
    VolumeNotFound: "no such volume", "";
    DriveNotFound: "no such drive", "";
    DriveUnavailable: "the volume's drive does not answer or is not mounted", "kubectl ringpv list drives";
    OtherNode: "the volume lives on another node", "";
    OperationPending: "another call for this volume is under way", "";
    SizeConflict: "a volume of this name and another size exists", "use another name";
    NameConflict: "a volume of another name has the same id", "use another name";
    VolumeConflict: "a volume of this name exists and is not what is asked for", "use another name, or ask for what it is";
    StillPublished: "still mounted somewhere", "unmount it first";
    StillClaimed: "a PersistentVolume names the volume", "delete the claim, and the PersistentVolume where it stays";
    NotPublished: "not mounted there", "";
    NotStaged: "not mounted at its staging path", "the caller stages it first";
    TargetConflict: "something else is mounted there, or the same with other options", "unmount it first";
    EarlierData: "the data of an earlier volume of this name are on the drive and are kept", "kubectl ringpv adopt takes them over; or use another name";
    RecordUnreadable: "the volume's record on its drive cannot be read", "the message says why";
    CapacityExceeded: "more than the volume was promised", "";
    BestEffortCapacity: "the size is a promise only: the kernel does not enforce it", "";
    QuotaFailed: "the quota could not be set", "look at the agent's log";
    NotLeader: "this controller does not lead", "ask the leader; this one takes over by itself";
    InvalidArgument: "the request is not valid", "the message says what to change";
    InvalidParameter: "a class parameter is not valid", "the message says which and what it may be";
    Unsupported: "not supported", "";

    // ---- benchmarks and health reads ----
    BenchmarkRunning: "measuring", "";
    BenchmarkDone: "measured", "";
    BenchmarkFailed: "the measurement failed", "the message says why";
    BenchmarkRefused: "the measurement was refused", "the message says why";

    // ---- the command line ----
    NothingMatched: "nothing matches", "kubectl ringpv list drives, or volumes, nodes, benchmarks, shows what there is";
    AmbiguousName: "more than one matches", "give more of its name";
    NotConfirmed: "not confirmed; nothing was changed", "repeat it with the word that it asks for, or give that to --yes";
    AlreadyInitialized: "the device is a drive already, or is being made one", "kubectl ringpv list drives";
    FileInvalid: "the file does not say what it should", "the message says in which line";
    FileExists: "the file exists and may hold your edits; it was not touched", "--overwrite, or another name";
    NoAgent: "no agent has reported a node", "start ringpv-agent on the node and look at its log";
    NoCluster: "no API server is known", "--kubeconfig FILE, or start ringpv-controller --embedded DIR";
    SocketUnavailable: "nobody listens on the socket", "start the process that serves it, or name another socket";
    TimedOut: "not finished in time; it goes on without you", "kubectl ringpv list drives --watch";
    UnsupportedHere: "this system cannot do it", "the message says what is missing";

    // ---- the processes ----
    ApiUnavailable: "the API server does not answer", "mounted volumes stay; work resumes by itself";
    StoreNewer: "the store was written by a newer version", "use that version or later";
    StoreDamaged: "the store cannot be read", "move it away and adopt: the drives know themselves";
    StoreLocked: "another controller uses the same directory", "stop that one first";
    NotRoot: "root is needed", "run it as root (sudo)";
    Internal: "a fault of RingPV itself", "report it with the log";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no reason of this version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a known reason")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .find(|r| r.as_str() == text)
            .copied()
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_wire_form() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert!(
                !reason.meaning().ends_with('.') && !reason.advice().ends_with('.'),
                "{reason}"
            );
        }
        assert!("Nonsense".parse::<Reason>().is_err());
    }
}
