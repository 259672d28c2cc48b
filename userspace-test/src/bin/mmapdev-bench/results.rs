// SPDX-License-Identifier: GPL-2.0

//! What was measured, as JSON for programs and as a table for people.

use mmapdev_userspace::table::Table;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::{fs, io};

/// The figures of one or more boots.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Collection {
    pub(crate) boots: Vec<Results>,
}

/// All figures of one boot.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    /// The release of the guest's kernel.
    pub(crate) kernel: String,
    /// How many CPUs the guest had.
    pub(crate) cpus: usize,
    /// What the figures count: `instructions` or `ns`.
    pub(crate) unit: String,
    /// What the guest ran in, and how that was called; known on the host only.
    #[serde(default)]
    pub(crate) emulator: String,
    #[serde(default)]
    pub(crate) command: String,
    pub(crate) rows: Vec<Row>,
}

/// One figure: the least, the middle and the most of several runs.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) metric: String,
    /// To what kind of memory.
    pub(crate) variant: String,
    /// The unit of the figures, such as `instructions/page`.
    pub(crate) unit: String,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Results {
    /// Adds a figure from several runs of it.
    pub(crate) fn add(&mut self, metric: &str, variant: &str, unit: String, mut runs: Vec<f64>) {
        runs.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (runs.first(), runs.last()) else {
            return;
        };
        self.rows.push(Row {
            metric: metric.into(),
            variant: variant.into(),
            unit,
            min,
            median: runs[runs.len() / 2],
            max,
        });
    }

    /// The least of a figure's runs: what it costs when nothing comes between.
    pub(crate) fn least(&self, metric: &str, variant: &str) -> Option<f64> {
        let row = self
            .rows
            .iter()
            .find(|row| row.metric == metric && row.variant == variant);
        row.map(|row| row.min)
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures can be written")
    }

    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// The table: a metric for each row, a variant for each column.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut variants: Vec<&str> = Vec::new();
        let mut metrics: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !variants.contains(&row.variant.as_str()) {
                variants.push(&row.variant);
            }
            if !metrics.contains(&row.metric.as_str()) {
                metrics.push(&row.metric);
            }
        }
        let mut table = Table::new();
        let mut heading = vec![format!(
            "{} on {} CPU(s), {}",
            self.unit, self.cpus, self.kernel
        )];
        heading.extend(variants.iter().map(|variant| variant.to_string()));
        table.heading_of(heading);
        for metric in metrics {
            let mut cells = vec![metric.to_string()];
            cells.extend(variants.iter().map(|variant| {
                self.least(metric, variant)
                    .map_or("-".to_string(), |least| match least {
                        least if least < 2.0 => format!("{least:.2}"),
                        least if least < 100.0 => format!("{least:.1}"),
                        least => format!("{least:.0}"),
                    })
            }));
            table.row_of(cells);
        }
        table.lines()
    }
}

impl Collection {
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures can be written")
    }

    /// The figures of the boot that counted in this unit.
    pub(crate) fn in_unit(&self, unit: &str) -> Option<&Results> {
        self.boots.iter().find(|boot| boot.unit == unit)
    }
}
