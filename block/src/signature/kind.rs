//! The names of what a device may hold.

macro_rules! kinds {
    ($( $(#[doc = $doc:literal])* $name:ident = $text:literal, )*) => {
        /// What a finding is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $( $(#[doc = $doc])* $name, )*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// Its name: blkid's TYPE or PTTYPE in lower case, where blkid knows it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

kinds! {
    /// The claim block of RingPV.
    Claim = "ringpv-claim",
    /// Bytes that are not zero and bear no known magic.
    Unknown = "unknown-data",
    /// XFS.
    Xfs = "xfs",
    /// External log of an XFS.
    XfsLog = "xfs_external_log",
    /// ext2.
    Ext2 = "ext2",
    /// ext3.
    Ext3 = "ext3",
    /// ext4.
    Ext4 = "ext4",
    /// External journal of an ext3 or ext4.
    Jbd = "jbd",
    /// btrfs.
    Btrfs = "btrfs",
    /// LVM2 physical volume.
    Lvm2 = "lvm2_member",
    /// LVM1 physical volume.
    Lvm1 = "lvm1_member",
    /// Copy-on-write store of an LVM snapshot.
    LvmSnapshot = "dm_snapshot_cow",
    /// LUKS, either version.
    Luks = "crypto_luks",
    /// dm-verity.
    Verity = "dm_verity_hash",
    /// dm-integrity.
    Integrity = "dm_integrity",
    /// Swap.
    Swap = "swap",
    /// A hibernated system in swap.
    Hibernation = "swsuspend",
    /// md RAID, any version.
    Md = "linux_raid_member",
    /// ZFS.
    Zfs = "zfs_member",
    /// GUID partition table.
    Gpt = "gpt",
    /// MBR partition table.
    Dos = "dos",
    /// bcache.
    Bcache = "bcache",
    /// bcachefs.
    Bcachefs = "bcachefs",
    /// Ceph BlueStore.
    Bluestore = "ceph_bluestore",
    /// VDO.
    Vdo = "vdo",
    /// BitLocker.
    Bitlocker = "bitlocker",
    /// APFS.
    Apfs = "apfs",
    /// HFS+.
    HfsPlus = "hfsplus",
    /// FAT of any width.
    Fat = "vfat",
    /// exFAT.
    Exfat = "exfat",
    /// NTFS.
    Ntfs = "ntfs",
    /// ReFS.
    Refs = "refs",
    /// F2FS.
    F2fs = "f2fs",
    /// EROFS.
    Erofs = "erofs",
    /// NILFS2.
    Nilfs2 = "nilfs2",
    /// JFS.
    Jfs = "jfs",
    /// ISO 9660.
    Iso9660 = "iso9660",
    /// UDF.
    Udf = "udf",
    /// GFS or GFS2.
    Gfs2 = "gfs2",
    /// OCFS2.
    Ocfs2 = "ocfs2",
    /// reiserfs.
    Reiserfs = "reiserfs",
    /// Reiser4.
    Reiser4 = "reiser4",
    /// Minix file system.
    Minix = "minix",
    /// SquashFS.
    Squashfs = "squashfs",
    /// cramfs.
    Cramfs = "cramfs",
    /// romfs.
    Romfs = "romfs",
    /// UFS.
    Ufs = "ufs",
    /// SCO bfs.
    Bfs = "bfs",
    /// zonefs.
    Zonefs = "zonefs",
    /// DRBD.
    Drbd = "drbd",
    /// Stratis.
    Stratis = "stratis",
    /// VMFS volume member.
    VmfsVolume = "vmfs_volume_member",
    /// VMFS.
    Vmfs = "vmfs",
    /// Oracle ASM.
    OracleAsm = "oracleasm",
    /// Firmware RAID after the SNIA's DDF.
    Ddf = "ddf_raid_member",
    /// Intel firmware RAID.
    Imsm = "isw_raid_member",
}
