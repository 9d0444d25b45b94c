//! A device that has done everything at once: what a caller costs by itself. Reads leave the buffer as it is.

use std::sync::Arc;

use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::device::{Completion, Device, Geometry, Op, Options, Wait};
use crate::error::{DeviceError, IoCause, Refused};
use crate::target::ReadWrite;
use crate::uring::{accept, refused};

/// The device that does nothing.
#[derive(Debug)]
pub struct Null {
    name: Arc<str>,
    geometry: Geometry,
    depth: usize,
    ended: Vec<Completion>,
    clock: Clock,
}

impl Null {
    /// Of any size.
    #[must_use]
    pub fn new(geometry: Geometry, options: Options) -> Self {
        let depth = options.depth as usize;
        Self {
            name: "null".into(),
            geometry,
            depth,
            ended: Vec::with_capacity(depth),
            clock: Clock::start(),
        }
    }
}

impl Device for Null {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &'static str {
        "null"
    }

    fn description(&self) -> String {
        "completes at once".into()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.ended.len()
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        Buffer::zeroed(len)
    }

    fn submit(&mut self, token: u64, op: Op) -> Result<(), Refused> {
        let cause = if self.ended.len() >= self.depth {
            Err(IoCause::Full { depth: self.depth })
        } else {
            accept::<ReadWrite>(&self.geometry, &op)
        };
        if let Err(cause) = cause {
            return Err(refused(&self.name, op, cause));
        }
        self.ended.push(Completion {
            token,
            op,
            result: Ok(()),
        });
        Ok(())
    }

    fn complete(&mut self, _wait: Wait, done: &mut Vec<Completion>) -> Result<(), DeviceError> {
        done.append(&mut self.ended);
        Ok(())
    }
}
