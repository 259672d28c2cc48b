// SPDX-License-Identifier: GPL-2.0

//! What one of the two machines saw, as JSON.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::{fs, io};

/// All that one machine has to say.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Side {
    /// The release of its kernel.
    pub(crate) kernel: String,
    /// Where it has the memory.
    pub(crate) memory: String,
    /// Bytes of memory.
    pub(crate) size: u64,
    /// How many stores of the other it has seen, of how many.
    pub(crate) seen: [u64; 2],
    /// What was moved, each in a way of its own.
    pub(crate) transfers: Vec<Transfer>,
}

/// Data moved from the first machine to the second.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Transfer {
    /// By which way.
    pub(crate) way: String,
    /// Bytes of data.
    pub(crate) bytes: u64,
    /// How many messages were not as they must be.
    pub(crate) wrong: u64,
    /// How often this side has waited for the other.
    pub(crate) waits: u64,
    /// Nanoseconds from this side's beginning to its end.
    pub(crate) time: f64,
    /// Those in which its CPU was busy, where these were counted.
    pub(crate) busy: f64,
    /// Bytes that the module has copied meanwhile, where the memory is the module's.
    pub(crate) copied: Option<u64>,
}

impl Side {
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("figures can be written")
    }

    /// Reads what a machine has printed: the one line that is an object, whatever else there is.
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find(|line| line.starts_with('{'));
        let line = line.ok_or_else(|| {
            io::Error::other(format!("there are no results in {}", file.display()))
        })?;
        serde_json::from_str(line).map_err(io::Error::other)
    }

    /// What was moved by one way.
    pub(crate) fn by(&self, way: &str) -> Option<&Transfer> {
        self.transfers.iter().find(|transfer| transfer.way == way)
    }
}
