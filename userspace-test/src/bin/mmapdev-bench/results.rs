// SPDX-License-Identifier: GPL-2.0

//! What was measured, as JSON for programs and as a table for people.

use mmapdev_userspace::table::Table;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::{fs, io};

/// The unit of what happens so many times in a second.
pub(crate) const PER_SECOND: &str = "per second";
/// The unit of one figure as a multiple of another.
pub(crate) const RATIO: &str = "times";

/// The unit of what takes time; any other is counted.
const NANOSECONDS: &str = "ns";

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
    /// How often to measure each: what is counted is the same each time but the first, in which there may be more to do.
    pub(crate) fn runs(&self) -> usize {
        if self.unit == NANOSECONDS {
            5
        } else {
            2
        }
    }

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
            median: runs[(runs.len() - 1) / 2],
            max,
        });
    }

    /// The least of a figure's runs: what it costs when nothing comes between.
    pub(crate) fn least(&self, metric: &str, variant: &str) -> Option<f64> {
        self.row(metric, variant).map(|row| row.min)
    }

    fn row(&self, metric: &str, variant: &str) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.metric == metric && row.variant == variant)
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
                self.row(metric, variant)
                    .map_or("-".to_string(), |row| match row.shown() {
                        shown if shown < 2.0 => format!("{shown:.2}"),
                        shown if shown < 100.0 => format!("{shown:.1}"),
                        shown => format!("{shown:.0}"),
                    })
            }));
            table.row_of(cells);
        }
        table.lines()
    }
}

impl Row {
    /// The figure for people: the least of what something costs, but of rates, which are good when they are
    /// large, the middle one.
    fn shown(&self) -> f64 {
        match self.unit.as_str() {
            PER_SECOND | RATIO => self.median,
            _ => self.min,
        }
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

#[cfg(test)]
mod tests {
    use super::{Collection, Results, PER_SECOND};

    fn results() -> Results {
        let mut results = Results {
            kernel: "7.3".into(),
            cpus: 2,
            unit: "ns".into(),
            ..Default::default()
        };
        results.add("touch", "ours", "ns/page".into(), vec![300.0, 1.5, 20.0]);
        results.add("touch", "theirs", "ns/page".into(), vec![250.0]);
        results.add("rate", "ours", PER_SECOND.into(), vec![9.0, 7.0, 5000.0]);
        results
    }

    #[test]
    fn of_several_runs_the_least_the_middle_and_the_most_are_kept() {
        let results = results();
        let row = &results.rows[0];
        assert_eq!((row.min, row.median, row.max), (1.5, 20.0, 300.0));
        assert_eq!(results.least("touch", "ours"), Some(1.5));
        assert_eq!(results.least("touch", "nobody's"), None);
    }

    #[test]
    fn no_runs_give_no_figure() {
        let mut results = Results::default();
        results.add("touch", "ours", "ns/page".into(), Vec::new());
        assert!(results.rows.is_empty());
    }

    #[test]
    fn the_table_shows_the_least_cost_and_the_middle_rate() {
        let lines = [
            "ns on 2 CPU(s), 7.3  ours  theirs",
            "  touch              1.50  250",
            "  rate               9.0   -",
        ];
        assert_eq!(results().lines(), lines);
    }

    #[test]
    fn what_is_written_as_json_reads_back_the_same() {
        let collection = Collection {
            boots: vec![results()],
        };
        let text = collection.to_json();
        let again: Collection = serde_json::from_str(&text).unwrap();
        assert_eq!(again.to_json(), text);
        assert_eq!(again.in_unit("ns").map(|boot| boot.rows.len()), Some(3));
        assert!(again.in_unit("instructions").is_none());
    }
}
