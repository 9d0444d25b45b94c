//! Level loop. The embedded API's store on a disk that fills up: writes are refused in a sentence, reads go on, and with
//! room again writes go on too, without a restart and without losing one.

#![cfg(test)]

use controller::embedded::{Embedded, Options};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};

/// A small file system in memory, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(directory: &Path) -> nix::Result<Self> {
        let options = Some("size=2m");
        mount(
            Some("tmpfs"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )?;
        Ok(Self(directory.to_owned()))
    }

    fn grow(&self) {
        let nothing = None::<&str>;
        mount(
            nothing,
            &self.0,
            nothing,
            MsFlags::MS_REMOUNT,
            Some("size=32m"),
        )
        .unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

async fn write(api: &Api<Lease>, name: &str) -> kube::Result<Lease> {
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some("x".repeat(100_000)),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await
}

async fn count(api: &Api<Lease>) -> usize {
    api.list(&ListParams::default()).await.unwrap().items.len()
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let small = match Small::mount(directory.path()) {
        Ok(small) => small,
        Err(error) => {
            tests::skip(
                "a_full_disk_refuses_writes_until_there_is_room",
                &format!("no tmpfs can be mounted: {error}"),
            );
            return;
        }
    };
    let place = directory.path().join("embedded");
    let embedded = Embedded::open(&place, Options::default()).unwrap();
    let api: Api<Lease> = Api::namespaced(embedded.client(), "default");
    let mut written = 0;
    let error = loop {
        assert!(written < 100, "the disk does not fill up");
        match write(&api, &format!("lease-{written}")).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    let kube::Error::Api(status) = error else {
        panic!("{error}");
    };
    // Not 503: clients would try again for minutes instead of saying so.
    assert_eq!(status.code, 500, "{status:?}");
    assert!(
        status.message.contains("No space left on device"),
        "{status:?}"
    );
    assert!(written > 0);
    assert_eq!(count(&api).await, written);
    write(&api, "still-full").await.unwrap_err();

    small.grow();
    write(&api, "room-again").await.unwrap();
    assert_eq!(count(&api).await, written + 1);
    embedded.close();

    let again = Embedded::open(&place, Options::default()).unwrap();
    let api: Api<Lease> = Api::namespaced(again.client(), "default");
    assert_eq!(count(&api).await, written + 1);
    again.close();
}
