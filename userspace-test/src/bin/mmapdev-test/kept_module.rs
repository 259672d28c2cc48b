// SPDX-License-Identifier: GPL-2.0

//! The module as it stays loaded from one test of an area to the next: loading costs as much as a short test does.
//! Devices are made anew for each, those that loading it with the test's parameters would make.

use crate::watched;
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::{abi, MIB};
use std::io;
use std::str::FromStr;

/// The module, if it is loaded.
#[derive(Default)]
pub(crate) struct KeptModule(Option<Kept>);

struct Kept {
    module: Loaded,
    limit_mib: u64,
    area: &'static str,
}

/// The module's parameters, as `insmod` takes them.
struct Parameters {
    size_mib: u64,
    devices: u32,
    huge: u32,
    folio_kib: u32,
    limit_mib: u64,
}

impl KeptModule {
    /// Has the module loaded for a test of this area, and the devices there that these parameters stand for.
    pub(crate) fn begin(&mut self, area: &'static str, parameters: &str) -> io::Result<()> {
        let wanted: Parameters = parameters.parse()?;
        let limit_mib = wanted.limit_mib;
        let fits = |kept: &Kept| kept.limit_mib == limit_mib && kept.area == area;
        if !self.0.as_ref().is_some_and(fits) {
            self.unload()?;
        }
        if self.0.is_none() {
            // What could not be unloaded before may go by now.
            if module::is_loaded() {
                module::remove()?;
            }
            let module = Loaded::with(&format!("devices=0 limit_mib={limit_mib}"))?;
            self.0 = Some(Kept {
                module,
                limit_mib,
                area,
            });
        }
        let control = Control::open()?;
        for number in 0..wanted.devices {
            control.create(abi::Create {
                huge: wanted.huge,
                largest_folio: wanted.folio_kib << 10,
                ..control::memory(&number.to_string(), wanted.size_mib * MIB as u64)?
            })?;
        }
        Ok(())
    }

    /// Ends all devices. Fails where something uses the module still.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let is_bound = {
            let control = Control::open()?;
            let (of_pci, others): (Vec<_>, Vec<_>) = control
                .list()?
                .into_iter()
                .partition(|device| device.backing == abi::BACKING_PCI);
            for device in others {
                control.destroy(&String::from_utf8_lossy(device.name.bytes()))?;
            }
            !of_pci.is_empty()
        };
        let users = module::users()?;
        if users > 0 {
            return Err(io::Error::other(format!(
                "the module is still in use, by {users} references"
            )));
        }
        // A PCI device keeps what was done to it until the module goes.
        if is_bound {
            self.unload()?;
        }
        Ok(())
    }

    /// Unloads the module, if it is loaded. Only that shows some of what its tests may have left.
    pub(crate) fn unload(&mut self) -> io::Result<()> {
        let Some(Kept { module, area, .. }) = self.0.take() else {
            return Ok(());
        };
        watched(|| module.unload()).map_err(|error| {
            io::Error::other(format!(
                "after tests of {area} the module did not unload well: {error}"
            ))
        })
    }

    /// Fails where a test that loads the module itself has not unloaded it.
    pub(crate) fn check_none_is_left() -> io::Result<()> {
        if !module::is_loaded() {
            return Ok(());
        }
        let removed = module::remove();
        Err(io::Error::other(format!(
            "the module was left loaded; unloading it now: {removed:?}"
        )))
    }
}

impl FromStr for Parameters {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        fn number<T: FromStr<Err: Into<Box<dyn std::error::Error + Send + Sync>>>>(
            value: &str,
        ) -> io::Result<T> {
            value.parse().map_err(io::Error::other)
        }
        // What the module itself takes where they are not given.
        let mut parameters = Self {
            size_mib: 64,
            devices: 1,
            huge: abi::HUGE_ALWAYS,
            folio_kib: 2048,
            limit_mib: 0,
        };
        for word in text.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("size_mib", value) => parameters.size_mib = number(value)?,
                ("devices", value) => parameters.devices = number(value)?,
                ("huge", value) => parameters.huge = number(value)?,
                ("folio_kib", value) => parameters.folio_kib = number(value)?,
                ("limit_mib", value) => parameters.limit_mib = number(value)?,
                _ => return Err(io::Error::other(format!("{word} is no parameter"))),
            }
        }
        Ok(parameters)
    }
}
