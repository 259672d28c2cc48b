// SPDX-License-Identifier: GPL-2.0

//! What a device is, as a table for people and as JSON for programs.

use crate::failure::Failure;
use mmapdev_userspace::table::Table;
use mmapdev_userspace::{abi, control, size};
use serde_json::{json, Value};
use std::io::{self, Write};

/// What the module says a device is.
pub(crate) struct Report(pub(crate) abi::Info);

impl Report {
    fn name(&self) -> String {
        String::from_utf8_lossy(self.0.name.bytes()).into_owned()
    }

    fn node(&self) -> String {
        control::node(&self.name()).display().to_string()
    }

    fn huge(&self) -> String {
        match self.0.huge {
            abi::HUGE_NEVER => "never".into(),
            abi::HUGE_ALWAYS => "always".into(),
            abi::HUGE_ADVISE => "advise".into(),
            other => other.to_string(),
        }
    }

    fn backing(&self) -> String {
        match self.0.backing {
            abi::BACKING_MEMORY => "memory".into(),
            abi::BACKING_FILE => "file".into(),
            abi::BACKING_PCI => "pci".into(),
            other => other.to_string(),
        }
    }

    /// One device for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "name": self.name(),
            "node": self.node(),
            "id": self.0.id,
            "size": self.0.device_size,
            "resident_bytes": self.0.resident_bytes,
            "backing": self.backing(),
            "huge": self.huge(),
            "largest_folio": self.0.largest_folio,
            "open_files": self.0.open_files,
        })
    }

    /// One device for people.
    pub(crate) fn lines(&self) -> String {
        let info = &self.0;
        let mut table = Table::new();
        table.heading([&self.name()]);
        for (what, value) in [
            ("node", self.node()),
            ("size", size::format(info.device_size)),
            ("memory held now", size::format(info.resident_bytes)),
            ("backing", self.backing()),
            ("large folios", self.huge()),
            ("largest folio", size::format(info.largest_folio.into())),
            ("open files", info.open_files.to_string()),
            ("id", info.id.to_string()),
        ] {
            table.row([what, &value]);
        }
        table.lines().join("\n")
    }
}

/// All devices for people.
pub(crate) fn table(reports: &[Report]) -> String {
    if reports.is_empty() {
        return "no devices; mmapdevctl create NAME --size 64M makes one".into();
    }
    let mut table = Table::new();
    table.heading(["name", "node", "size", "memory", "huge", "largest", "open"]);
    for report in reports {
        let info = &report.0;
        table.row([
            &report.name(),
            &report.node(),
            &size::format(info.device_size),
            &size::format(info.resident_bytes),
            &report.huge(),
            &size::format(info.largest_folio.into()),
            &info.open_files.to_string(),
        ]);
    }
    table.lines().join("\n")
}

/// Prints text and ends the line.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")
        .and_then(|()| output.flush())
        .map_err(Failure::Output)
}
