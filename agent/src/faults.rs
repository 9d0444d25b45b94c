//! Named points at which a test lets this process die as by `kill -9`: `--fault-point NAME`. Only in builds with debug
//! assertions or the feature `faults`; elsewhere the argument does not exist and [`hit`] is empty.
//!
//! Points are named `<action>.before` and `<action>.after` for every action of a plan (`claim.before`, `erase.piece`),
//! and as the callers of [`hit`] say for volumes.

#[cfg(any(debug_assertions, feature = "faults"))]
mod armed {
    use std::sync::OnceLock;

    static POINT: OnceLock<String> = OnceLock::new();

    /// Chooses the point. Only the first call counts.
    pub fn arm(point: String) {
        drop(POINT.set(point));
    }

    /// Dies here, if this is the point: no destructor runs, nothing is flushed.
    pub fn hit(point: &str) {
        if POINT.get().is_some_and(|armed| armed == point) {
            tracing::error!(point, "Dying at a fault point, as asked");
            let dead = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
            assert!(dead.is_ok(), "a process can kill itself");
        }
    }
}

#[cfg(not(any(debug_assertions, feature = "faults")))]
mod armed {
    /// Nothing: this build has no fault points.
    pub const fn hit(_point: &str) {}
}

#[cfg(any(debug_assertions, feature = "faults"))]
pub use armed::arm;
pub use armed::hit;
