//! Emulated machines with NVMe drives as further nodes of the cluster: there a size is enforced, a drive fails, and the
//! power goes.
//!
//! What a machine's kubelet, containerd and agent keep lies on a disk of its own, mounted where the cluster's folder lies
//! on this machine, and outlives a power cut; on it lie the images. Its programs come from a folder that it shares with us.

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;

use super::node::is_ready;
use super::settings::{KUBELET, Proof, STATE, Settings};
use super::sweep::GROUP;
use super::{Kubernetes, network};
use crate::guest::Guest;

/// What a node needs of its kernel, whether or not somebody asks for it by name.
const JOIN: &str = r#"
mkdir -p $FOLDER
mount /dev/vdb $FOLDER
cp -r /host/node/. $FOLDER/
modprobe -a br_netfilter overlay nf_tables
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 vm.overcommit_memory=1 kernel.panic=10 kernel.panic_on_oops=1
ip route replace default via $GATEWAY
printf '127.0.0.1 localhost\n%s %s\n' $ADDRESS $NAME >/etc/hosts
hostname $NAME
echo $NAME | md5sum | cut -c1-32 >/etc/machine-id
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$controller >/sys/fs/cgroup/cgroup.subtree_control; done
mkdir -p /sys/fs/cgroup/$GROUP $FOLDER/$KUBELET $FOLDER/$STATE /var/lib/kubelet
# where Kubernetes' own suite looks for them
ln -sfn $FOLDER/$KUBELET/pods /var/lib/kubelet/pods
go() { local log=$FOLDER/$1.log; shift; setsid "$@" >>$log 2>&1 </dev/null & }
ctr() { command ctr --address $FOLDER/containerd.sock "$@"; }
go containerd containerd --config $FOLDER/containerd.toml
until ctr version >/dev/null 2>&1; do sleep 0.2; done
go kubelet /host/kubelet $KUBELET_WORDS
go proxy /host/kube-proxy --config=$FOLDER/proxy.yaml
cat /proc/sys/kernel/random/boot_id
"#;

/// A machine that is a node; off once its power was cut.
pub struct Machine {
    name: String,
    address: String,
    pods: String,
    folder: PathBuf,
    options: Vec<String>,
    guest: Option<Guest>,
}

impl Machine {
    /// The name of its node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine itself, to do something in it or to it.
    ///
    /// # Panics
    /// When it is off.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        self.guest.as_ref().expect("it is on")
    }

    /// What it shares with this machine.
    fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    /// What outlives a power cut.
    fn disk(&self) -> PathBuf {
        self.folder.join("state.img")
    }

    fn boot(&mut self) {
        let address = format!("{}/24", self.address);
        let state = format!("file={}", self.disk().display());
        let mut options = vec!["--lan", network::NAME, "--ip", &address, "--disk", &state];
        options.extend(["--mem", "1536"]);
        options.extend(self.options.iter().map(String::as_str));
        self.guest = Some(Guest::boot_sharing(&self.name, &self.share(), &options));
    }

    /// Cuts its power.
    pub fn cut(&mut self) {
        if let Some(guest) = self.guest.take() {
            guest.cut();
        }
    }
}

impl Kubernetes {
    /// Makes new machines nodes, each with a name and the options of `tests/guest/vm` that give it its drives. Waits until
    /// they are ready.
    ///
    /// # Errors
    /// When one does not become so, with what its processes said.
    pub fn join(&self, wanted: &[(&str, &[&str])]) -> Result<Vec<Machine>> {
        let machines = wanted.iter().zip(1_u8..);
        let machines =
            machines.map(|((name, options), number)| self.machine(name, number, options));
        let mut machines = machines.collect::<Result<Vec<_>>>()?;
        let disks: Vec<PathBuf> = machines.iter().map(Machine::disk).collect();
        self.stock(&disks)?;
        self.power_on(&mut machines)?;
        Ok(machines)
    }

    /// Starts machines, which keep their addresses, their drives and what is on them, and waits until they are ready.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn power_on(&self, machines: &mut [Machine]) -> Result<()> {
        // A machine ends with the thread that boots it; what is to be done in it may be done by any.
        for machine in &mut *machines {
            machine.boot();
        }
        let boots: Vec<String> = std::thread::scope(|scope| {
            let scripts = machines.iter().map(|machine| {
                let script = self.script(machine);
                scope.spawn(move || machine.guest().ok(&script))
            });
            let scripts: Vec<_> = scripts.collect();
            let ended = scripts.into_iter().map(|script| script.join());
            ended
                .map(|boot| boot.unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        for (machine, boot) in machines.iter().zip(&boots) {
            self.is_ready(machine, boot.trim())?;
        }
        Ok(())
    }

    fn machine(&self, name: &str, number: u8, options: &[&str]) -> Result<Machine> {
        let machine = Machine {
            name: name.to_owned(),
            address: format!("10.77.0.{number}"),
            pods: format!("10.88.{number}.0/24"),
            options: options.iter().map(|&word| word.to_owned()).collect(),
            folder: self.path("machines").join(name),
            guest: None,
        };
        let share = machine.share();
        fs::create_dir_all(&share)?;
        for program in ["kubelet", "kube-proxy"] {
            fs::hard_link(self.programs.join(program), share.join(program)).context(program)?;
        }
        self.identify(&machine, &share.join("node"))?;
        let (net, via) = (machine.pods.as_str(), machine.address.as_str());
        network::within(&["route", "replace", net, "via", via])?;
        Ok(machine)
    }

    fn script(&self, machine: &Machine) -> String {
        let words = [
            ("FOLDER", self.folder.display().to_string()),
            ("GATEWAY", network::ADDRESS.to_owned()),
            ("NAME", machine.name.clone()),
            ("ADDRESS", machine.address.clone()),
            ("GROUP", GROUP.to_owned()),
            ("KUBELET", KUBELET.to_owned()),
            ("STATE", STATE.to_owned()),
            (
                "KUBELET_WORDS",
                self.settings(machine).kubelet_words().join(" "),
            ),
        ];
        let words = words.map(|(name, value)| format!("{name}='{value}'\n"));
        words.concat() + JOIN
    }

    /// Waits until the kubelet of this boot calls its node ready.
    fn is_ready(&self, machine: &Machine, boot: &str) -> Result<()> {
        self.until_telling(&format!("{} is ready", machine.name), |cluster| {
            let nodes = Api::<Node>::all(cluster.client());
            let node = cluster.runtime.block_on(nodes.get_opt(&machine.name));
            let node = node?.context("no such node yet")?;
            let status = node.status.as_ref();
            let seen = status.and_then(|status| status.node_info.as_ref());
            ensure!(
                seen.is_some_and(|seen| seen.boot_id == boot),
                "another boot's"
            );
            ensure!(is_ready(&node), "not ready");
            Ok(())
        })
        .inspect_err(|_| {
            let logs = format!("tail -n 30 {}/*.log", self.folder.display());
            crate::tell(&machine.guest().run(&logs).to_string());
        })
    }

    /// Takes a machine away, and its node.
    pub fn leave(&self, machine: Machine) {
        let node = machine.name.clone();
        drop(machine);
        self.kubectl(&["delete", "node", &node]).ok();
    }

    fn settings<'a>(&'a self, machine: &'a Machine) -> Settings<'a> {
        Settings {
            folder: &self.folder,
            name: &machine.name,
            address: &machine.address,
            pods: &machine.pods,
        }
    }

    /// Writes what the machine's processes are told and prove themselves with.
    fn identify(&self, machine: &Machine, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        let (name, address) = (&machine.name, &machine.address);
        let proof = self.credentials.node(to, "kubelet", name, address)?;
        self.credentials.proxy(to)?;
        let there = |from: PathBuf, name: &str| -> Result<PathBuf> {
            fs::copy(from, to.join(name))?;
            Ok(self.folder.join(name))
        };
        let proof = Proof {
            authority: there(proof.authority, "authority.crt")?,
            certificate: there(proof.certificate, "node.crt")?,
            key: there(proof.key, "node.key")?,
        };
        self.settings(machine).write(to, &proof)
    }
}
