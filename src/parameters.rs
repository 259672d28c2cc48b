// SPDX-License-Identifier: GPL-2.0

//! What the module's parameters may be, without a kernel: tested on the host as well.

use core::fmt;

/// How many devices one module can be told to make at load time.
pub(crate) const MAX_DEVICES: u32 = 1024;

/// Checked parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Bytes in each device: a multiple of a mebibyte, above zero.
    pub(crate) size: u64,
    /// How many devices there are: 1 to [`MAX_DEVICES`].
    pub(crate) devices: u32,
    /// Whether the devices use huge pages where they fit.
    pub(crate) huge: bool,
}

/// Why parameters are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `size_mib` is 0.
    NoSize,
    /// `devices` is 0 or above [`MAX_DEVICES`].
    Devices(u32),
    /// `huge` is neither 0 nor 1.
    Huge(u32),
    /// The devices would not fit in the machine's memory.
    TooLarge {
        /// Mebibytes in the machine.
        memory_mib: u64,
    },
}

impl Parameters {
    /// Checks the values of the parameters `size_mib`, `devices` and `huge` on a machine with `memory`
    /// bytes.
    pub(crate) fn check(
        size_mib: u64,
        devices: u32,
        huge: u32,
        memory: u64,
    ) -> Result<Self, Refusal> {
        if size_mib == 0 {
            return Err(Refusal::NoSize);
        }
        if devices == 0 || devices > MAX_DEVICES {
            return Err(Refusal::Devices(devices));
        }
        if huge > 1 {
            return Err(Refusal::Huge(huge));
        }
        let too_large = Refusal::TooLarge {
            memory_mib: memory >> 20,
        };
        let size = size_mib.checked_mul(1 << 20).ok_or(too_large)?;
        let total = size.checked_mul(devices.into()).ok_or(too_large)?;
        if total > memory {
            return Err(too_large);
        }
        Ok(Self {
            size,
            devices,
            huge: huge == 1,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSize => write!(f, "size_mib=0: a device has at least 1 MiB"),
            Self::Devices(devices) => write!(f, "devices={devices}: choose 1 to {MAX_DEVICES}"),
            Self::Huge(huge) => write!(
                f,
                "huge={huge}: choose 0 (4 KiB pages only) or 1 (up to 2 MiB where they fit)"
            ),
            Self::TooLarge { memory_mib } => write!(
                f,
                "size_mib times devices is more than the {memory_mib} MiB of this machine: choose less"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 1 << 30;

    #[test]
    fn the_defaults_pass() {
        let parameters = Parameters::check(64, 1, 1, MEMORY).unwrap();
        assert_eq!(parameters.size, 64 << 20);
        assert_eq!(parameters.devices, 1);
        assert!(parameters.huge);
    }

    #[test]
    fn all_memory_passes_and_one_more_mebibyte_does_not() {
        assert!(Parameters::check(1024, 1, 0, MEMORY).is_ok());
        assert!(Parameters::check(512, 2, 0, MEMORY).is_ok());
        let too_large = Err(Refusal::TooLarge { memory_mib: 1024 });
        assert_eq!(Parameters::check(1025, 1, 0, MEMORY), too_large);
        assert_eq!(Parameters::check(512, 3, 0, MEMORY), too_large);
    }

    #[test]
    fn sizes_that_overflow_are_too_large() {
        let too_large = Err(Refusal::TooLarge { memory_mib: 1024 });
        assert_eq!(Parameters::check(u64::MAX, 1, 0, MEMORY), too_large);
        assert_eq!(Parameters::check(1 << 44, 1, 0, MEMORY), too_large);
        assert_eq!(Parameters::check((1 << 44) - 1, 1024, 0, MEMORY), too_large);
    }

    #[test]
    fn nothing_and_too_many_are_refused() {
        assert_eq!(Parameters::check(0, 1, 1, MEMORY), Err(Refusal::NoSize));
        assert_eq!(Parameters::check(1, 0, 1, MEMORY), Err(Refusal::Devices(0)));
        assert_eq!(
            Parameters::check(1, 1025, 1, MEMORY),
            Err(Refusal::Devices(1025))
        );
        assert_eq!(Parameters::check(1, 1, 2, MEMORY), Err(Refusal::Huge(2)));
    }
}
