//! Named points at which a test lets this process die as by `kill -9`: `--fault-point NAME`, or `NAME@N` for the N-th
//! time that it comes there. Only in builds with debug assertions or the feature `faults`; elsewhere the argument does
//! not exist and everything here is empty.
//!
//! A point is an action's name and a moment: `claim.before`, `erase.piece`, `create.after`. `tests/src/points.rs` lists
//! them all, and a test sees to it that each is tried or has a reason why not.

#[cfg(any(debug_assertions, feature = "faults"))]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    struct Point {
        name: String,
        times_left: AtomicU32,
    }

    static POINT: OnceLock<Point> = OnceLock::new();

    /// Chooses the point. Only the first call counts.
    pub fn arm(point: &str) {
        let (name, times) = match point.rsplit_once('@') {
            Some((name, times)) => (name, times.parse().unwrap_or(1)),
            None => (point, 1),
        };
        drop(POINT.set(Point {
            name: name.to_owned(),
            times_left: AtomicU32::new(times),
        }));
    }

    /// Dies here, if this is the point and the time: no destructor runs, nothing is flushed.
    fn hit(action: &str, moment: &str) {
        let Some(point) = POINT.get().filter(|point| {
            let rest = point.name.strip_prefix(action);
            rest.and_then(|rest| rest.strip_prefix('.')) == Some(moment)
        }) else {
            return;
        };
        if point.times_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::error!(point = point.name, "Dying at a fault point, as asked");
            let dead = kill(Pid::this(), Signal::SIGKILL);
            assert!(dead.is_ok(), "a process can kill itself");
        }
    }

    /// Just before an action.
    pub fn before(action: &str) {
        hit(action, "before");
    }

    /// In the midst of a long action.
    pub fn piece(action: &str) {
        hit(action, "piece");
    }

    /// Just after an action, before anything else knows of it.
    pub fn after(action: &str) {
        hit(action, "after");
    }
}

#[cfg(not(any(debug_assertions, feature = "faults")))]
mod armed {
    /// Nothing: this build has no fault points.
    pub const fn before(_action: &str) {}

    /// Nothing: this build has no fault points.
    pub const fn piece(_action: &str) {}

    /// Nothing: this build has no fault points.
    pub const fn after(_action: &str) {}
}

#[cfg(any(debug_assertions, feature = "faults"))]
pub use armed::arm;
pub use armed::{after, before, piece};

/// An action with the points before and after it.
pub async fn around<T>(action: &str, work: impl Future<Output = T>) -> T {
    before(action);
    let done = work.await;
    after(action);
    done
}
