//! What is asked of a machine that runs: by its API, by CSI, and by the command line as its user has it.

use std::fs;
use std::path::PathBuf;

use api::event::EVENTS_NAMESPACE;
use api::{Drive, DrivePhase, Reason, StorageNode, Volume};
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};

use super::{LIMIT, Machine, NODE};
use crate::command::{Outcome, ours, program, run, until, until_telling};
use crate::csi::Csi;

/// A class that any drive can serve, whatever its kernel enforces.
pub const CLASS: &str = "\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: any
provisioner: ringpv.io
parameters:
  capacity-enforcement: best-effort
";

impl Machine {
    pub(super) async fn connect(&self) -> anyhow::Result<kube::Client> {
        let config = kube::config::Kubeconfig::read_from(self.path("store/kubeconfig"))?;
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// A client of its API.
    ///
    /// # Panics
    /// When there is no kubeconfig to read.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.runtime
            .block_on(self.connect())
            .expect("a client from the controller's kubeconfig")
    }

    /// CSI calls to the controller.
    #[must_use]
    pub fn controller_csi(&self) -> Csi {
        Csi::at(&self.path("controller.sock"))
    }

    /// CSI calls to the agent.
    #[must_use]
    pub fn agent_csi(&self) -> Csi {
        Csi::at(&self.path("agent.sock"))
    }

    /// Runs the command line program as its user would.
    #[must_use]
    pub fn ringpv(&self, words: &[&str]) -> Outcome {
        let mut command = program(ours("kubectl-ringpv"));
        command
            .current_dir(self.dir.path())
            .env("KUBECONFIG", self.path("store/kubeconfig"))
            .env("RINGPV_MOUNTS", self.path("mounts.yaml"))
            .arg("--controller-endpoint")
            .arg(self.endpoint("controller"))
            .arg("--node-endpoint")
            .arg(self.endpoint("agent"))
            .args(words);
        run(command, 2 * LIMIT)
    }

    /// All objects of a kind.
    ///
    /// # Panics
    /// When the API does not answer.
    #[must_use]
    pub fn list<K>(&self) -> Vec<K>
    where
        K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api = Api::<K>::all(self.client());
        let list = self.runtime.block_on(api.list(&ListParams::default()));
        list.expect("the API answers").items
    }

    /// The machine's StorageNode, where the agent wrote it and the API answers.
    #[must_use]
    pub fn node(&self) -> Option<StorageNode> {
        self.runtime.block_on(async {
            let api = Api::<StorageNode>::all(self.connect().await.ok()?);
            api.get_opt(NODE).await.ok().flatten()
        })
    }

    /// What discovery says of a device.
    ///
    /// # Panics
    /// When it does not know the device.
    #[must_use]
    pub fn discovered(&self, index: usize) -> api::Device {
        let name = self.device(index);
        let node = self.node().and_then(|node| node.status);
        node.and_then(|status| {
            status
                .devices
                .into_iter()
                .find(|device| device.name == name)
        })
        .unwrap_or_else(|| panic!("{name} is not in the StorageNode"))
    }

    /// Why a device is not eligible, or what is said of it all the same.
    ///
    /// # Panics
    /// When discovery does not know the device.
    #[must_use]
    pub fn reasons(&self, index: usize) -> Vec<Reason> {
        let reasons = self.discovered(index).reasons;
        reasons.iter().map(|one| one.reason).collect()
    }

    /// Waits until discovery gives `reason` for a device.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn discovered_with(&self, index: usize, reason: Reason) {
        let what = format!("{} to be {reason}", self.device(index));
        until(&what, LIMIT, || {
            self.reasons(index).contains(&reason).then_some(())
        });
    }

    /// The Drive on a device, where there is one.
    #[must_use]
    pub fn drive(&self, index: usize) -> Option<Drive> {
        let name = self.device(index);
        let on = |drive: &Drive| {
            let status = drive
                .status
                .as_ref()
                .and_then(|status| status.device.as_ref());
            status.map_or(drive.spec.device.name == name, |device| device.name == name)
        };
        self.list::<Drive>().into_iter().find(on)
    }

    /// Waits until the Drive on a device is in `phase`.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn drive_in(&self, index: usize, phase: DrivePhase) -> Drive {
        until_telling(LIMIT, || {
            let drive = self.drive(index);
            let status = drive.as_ref().and_then(|drive| drive.status.as_ref());
            let told = format!("a drive that is {phase:?}: {status:#?}");
            let there = status.is_some_and(|status| status.phase == phase);
            drive.filter(|_| there).ok_or(told)
        })
    }

    /// A Volume by its name, where there is one.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<Volume> {
        let api = Api::<Volume>::all(self.client());
        self.runtime
            .block_on(api.get_opt(name))
            .expect("the API answers")
    }

    /// Makes every eligible device a drive, through `discover` and `init`, and waits until all are Ready.
    ///
    /// # Panics
    /// When one does not become Ready.
    pub fn init_all(&self) {
        self.discover();
        self.ringpv(&["init", "drives.yaml"]).ok();
        for index in 0..self.drives.len() {
            self.drive_in(index, DrivePhase::Ready);
        }
    }

    /// Writes drives.yaml with every eligible device selected.
    pub fn discover(&self) {
        self.ringpv(&["discover", "--overwrite"]).ok();
    }

    /// Asks for a volume of a class that asks for no enforcement.
    #[must_use]
    pub fn create_volume(&self, name: &str, size: &str) -> Outcome {
        self.write("class.yaml", CLASS);
        self.ringpv(&[
            "volumes",
            "create",
            name,
            "--size",
            size,
            "--class",
            "class.yaml",
        ])
    }

    /// The same, and mounts it. Where its data are.
    ///
    /// # Panics
    /// When it cannot be had.
    #[must_use]
    pub fn mounted_volume(&self, name: &str, size: &str) -> PathBuf {
        self.create_volume(name, size).ok();
        let path = self.path(&format!("mnt-{name}"));
        self.ringpv(&["volumes", "mount", name, &path.display().to_string()])
            .ok();
        path
    }

    /// Whether there is an event of a reason about an object of a name; false while the API is away.
    #[must_use]
    pub fn is_told(&self, name: &str, reason: Reason) -> bool {
        let events = Api::<Event>::namespaced(self.client(), EVENTS_NAMESPACE);
        let listed = self.runtime.block_on(events.list(&ListParams::default()));
        listed.is_ok_and(|events| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some(reason.as_str())
                    && event.involved_object.name.as_deref() == Some(name)
            })
        })
    }

    /// Writes a file into its folder.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file in the machine's folder");
    }
}
