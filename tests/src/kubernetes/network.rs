//! The network namespace in which all of a cluster's traffic stays, and the one way in from outside: a port of this
//! machine's loopback that is forwarded to the API.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::command::{program, run};

/// Its name; there is one on a machine.
pub(super) const NAME: &str = "ringpv-kube";
/// Where the namespace can be entered.
const PATH: &str = "/run/netns/ringpv-kube";
/// The bridge that every node is on.
const BRIDGE: &str = "br0";
/// Address of the control plane and of the native node.
pub(super) const ADDRESS: &str = "10.77.0.254";
/// The native node's pods.
pub(super) const NATIVE_PODS: &str = "10.88.254.0/24";
/// All nodes' pods.
pub(super) const PODS: &str = "10.88.0.0/16";
/// All services, and the first of them, which is the API.
pub(super) const SERVICES: &str = "10.96.0.0/16";
pub(super) const API_SERVICE: &str = "10.96.0.1";
/// The API's port.
pub(super) const API_PORT: u16 = 6443;

const LIMIT: Duration = Duration::from_secs(20);

/// A program that runs in the namespace.
#[must_use]
pub(super) fn inside(path: impl AsRef<Path>) -> Command {
    // Not `ip netns exec`, which mounts another /sys, one without control groups.
    let mut command = program("nsenter");
    command.arg(format!("--net={PATH}")).arg("--");
    command.arg(path.as_ref());
    command
}

/// Makes the namespace, with the bridge as its only way anywhere.
///
/// # Errors
/// When the kernel or `ip` does not let us.
pub(super) fn make() -> Result<()> {
    ip(&["netns", "add", NAME])?;
    within(&["link", "set", "lo", "up"])?;
    within(&["link", "add", BRIDGE, "type", "bridge"])?;
    within(&["addr", "add", &format!("{ADDRESS}/24"), "dev", BRIDGE])?;
    within(&["link", "set", BRIDGE, "up"])?;
    // Some programs want a default route; behind this one is nothing.
    within(&["route", "add", "default", "dev", BRIDGE])?;
    let mut forward = inside("sh");
    forward.args(["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);
    let outcome = run(forward, LIMIT);
    ensure!(outcome.code == Some(0), "{outcome}");
    Ok(())
}

/// Removes the namespace where it is there.
pub(super) fn remove() {
    if Path::new(PATH).exists()
        && let Err(error) = ip(&["netns", "delete", NAME])
    {
        crate::tell(&format!("{error:#}"));
    }
}

/// Runs `ip` in the namespace.
///
/// # Errors
/// When it does not succeed.
pub(super) fn within(words: &[&str]) -> Result<()> {
    ip(&[&["-n", NAME], words].concat())
}

fn ip(words: &[&str]) -> Result<()> {
    let mut command = program("ip");
    command.args(words);
    let outcome = run(command, LIMIT);
    ensure!(outcome.code == Some(0), "{outcome}");
    Ok(())
}

/// A port on the loopback of whoever made it, forwarded to the API, until it is dropped.
pub(super) struct Forward {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Begins to forward. A socket belongs to the namespace in which it was made, so one thread can hold both: it listens
    /// out here, moves into the namespace, and connects in there.
    ///
    /// # Errors
    /// When there is no port, or no namespace.
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let namespace = File::open(PATH).context(PATH)?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let moved = setns(&namespace, CloneFlags::CLONE_NEWNET);
            drop(namespace); // else it would outlive its removal
            moved.expect("root may enter a namespace");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener);
                tokio::select! {
                    () = forward(listener.expect("a listener")) => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self {
            address,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// The API as seen from outside.
    pub(super) fn server(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn forward(listener: tokio::net::TcpListener) {
    while let Ok((mut outer, _)) = listener.accept().await {
        tokio::spawn(async move {
            // While the API does not listen the connection just closes: whoever asked asks again.
            if let Ok(mut inner) = TcpStream::connect((Ipv4Addr::LOCALHOST, API_PORT)).await {
                tokio::io::copy_bidirectional(&mut outer, &mut inner)
                    .await
                    .ok();
            }
        });
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
