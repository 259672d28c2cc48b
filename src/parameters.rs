// SPDX-License-Identifier: GPL-2.0

//! What the module's parameters may be, without a kernel: tested on the host as well.

use crate::abi;
use core::fmt;

/// How many devices one module can be told to make at load time.
pub(crate) const MAX_DEVICES: u32 = 1024;

/// Checked parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Bytes in each device: a multiple of a mebibyte, above zero.
    pub(crate) size: u64,
    /// How many devices there are: at most [`MAX_DEVICES`].
    pub(crate) devices: u32,
    /// When folios above the base size are used.
    pub(crate) huge: Huge,
    /// The order of the largest folio.
    pub(crate) max_order: u32,
    /// Bytes in all devices together, at most.
    pub(crate) limit: u64,
}

/// When a device uses folios above the base size; [`abi::HUGE_NEVER`] and so on in the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Huge {
    /// Never.
    Never,
    /// Wherever they fit, and nobody has advised against it.
    Always,
    /// Where a mapping has been advised so (`MADV_HUGEPAGE`).
    Advise,
}

impl Huge {
    /// Returns what a number of the interface means; `None` for one that it does not have.
    pub(crate) const fn from_abi(value: u32) -> Option<Self> {
        match value {
            abi::HUGE_NEVER => Some(Self::Never),
            abi::HUGE_ALWAYS => Some(Self::Always),
            abi::HUGE_ADVISE => Some(Self::Advise),
            _ => None,
        }
    }

    /// Returns the number of the interface.
    pub(crate) const fn to_abi(self) -> u32 {
        match self {
            Self::Never => abi::HUGE_NEVER,
            Self::Always => abi::HUGE_ALWAYS,
            Self::Advise => abi::HUGE_ADVISE,
        }
    }
}

/// Returns the order of a folio of `bytes` bytes, from one page to the largest of `2^largest` pages; `None`
/// where there is none of that size.
pub(crate) const fn folio_order(bytes: u64, page: u64, largest: u32) -> Option<u32> {
    if !bytes.is_power_of_two() || bytes < page || bytes / page > 1 << largest {
        return None;
    }
    Some((bytes / page).ilog2())
}

/// The module's parameters as they were given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values {
    pub(crate) size_mib: u64,
    pub(crate) devices: u32,
    pub(crate) huge: u32,
    pub(crate) folio_kib: u64,
    pub(crate) limit_mib: u64,
}

/// What a machine can give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Bytes in a page.
    pub(crate) page: u64,
    /// The order of the largest folio that one page-table entry maps.
    pub(crate) largest_order: u32,
}

/// Why parameters are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `size_mib` is 0.
    NoSize,
    /// `devices` is above [`MAX_DEVICES`].
    Devices(u32),
    /// `huge` is none of 0, 1 and 2.
    Huge(u32),
    /// `folio_kib` is no size of a folio.
    Folio(u64),
    /// `limit_mib` is more than the machine's memory.
    Limit {
        /// Mebibytes in the machine.
        memory_mib: u64,
    },
    /// The devices are more than they may be together.
    TooLarge {
        /// Mebibytes that they may be.
        limit_mib: u64,
    },
}

impl Parameters {
    /// Checks the values of the module's parameters on this machine.
    pub(crate) fn check(values: &Values, machine: &Machine) -> Result<Self, Refusal> {
        let &Values {
            size_mib,
            devices,
            huge,
            folio_kib,
            limit_mib,
        } = values;
        if size_mib == 0 {
            return Err(Refusal::NoSize);
        }
        if devices > MAX_DEVICES {
            return Err(Refusal::Devices(devices));
        }
        let huge = Huge::from_abi(huge).ok_or(Refusal::Huge(huge))?;
        let max_order = folio_kib
            .checked_mul(1 << 10)
            .and_then(|bytes| folio_order(bytes, machine.page, machine.largest_order))
            .ok_or(Refusal::Folio(folio_kib))?;
        let limit = match limit_mib {
            // As a tmpfs has it.
            0 => machine.memory / 2,
            mib => mib
                .checked_mul(1 << 20)
                .filter(|&limit| limit <= machine.memory)
                .ok_or(Refusal::Limit {
                    memory_mib: machine.memory >> 20,
                })?,
        };
        let too_large = Refusal::TooLarge {
            limit_mib: limit >> 20,
        };
        let size = size_mib.checked_mul(1 << 20).ok_or(too_large)?;
        let total = size.checked_mul(devices.into()).ok_or(too_large)?;
        if total > limit {
            return Err(too_large);
        }
        Ok(Self {
            size,
            devices,
            huge,
            max_order,
            limit,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSize => write!(f, "size_mib=0: a device has at least 1 MiB"),
            Self::Devices(devices) => write!(f, "devices={devices}: choose 0 to {MAX_DEVICES}"),
            Self::Huge(huge) => write!(
                f,
                "huge={huge}: choose 0 (small pages only), 1 (large folios where they fit) or 2 (where madvise() asks for them)"
            ),
            Self::Folio(kib) => write!(
                f,
                "folio_kib={kib}: choose a power of two from the size of a page to that of a huge page, such as 64 or 2048"
            ),
            Self::Limit { memory_mib } => write!(
                f,
                "limit_mib is more than the {memory_mib} MiB of this machine: choose less"
            ),
            Self::TooLarge { limit_mib } => write!(
                f,
                "size_mib times devices is more than the {limit_mib} MiB that all devices may have together: choose less, or a higher limit_mib"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine {
        memory: 1 << 30,
        page: 4096,
        largest_order: 9,
    };
    const DEFAULTS: Values = Values {
        size_mib: 64,
        devices: 1,
        huge: 1,
        folio_kib: 2048,
        limit_mib: 1024,
    };

    fn check(values: Values) -> Result<Parameters, Refusal> {
        Parameters::check(&values, &MACHINE)
    }

    fn sizes(size_mib: u64, devices: u32) -> Result<Parameters, Refusal> {
        check(Values {
            size_mib,
            devices,
            ..DEFAULTS
        })
    }

    #[test]
    fn the_defaults_pass() {
        let parameters = check(DEFAULTS).unwrap();
        assert_eq!(parameters.size, 64 << 20);
        assert_eq!(parameters.devices, 1);
        assert_eq!(parameters.huge, Huge::Always);
        assert_eq!(parameters.max_order, 9);
    }

    #[test]
    fn all_memory_passes_and_one_more_mebibyte_does_not() {
        assert!(sizes(1024, 1).is_ok());
        assert!(sizes(512, 2).is_ok());
        let too_large = Err(Refusal::TooLarge { limit_mib: 1024 });
        assert_eq!(sizes(1025, 1), too_large);
        assert_eq!(sizes(512, 3), too_large);
    }

    #[test]
    fn half_the_memory_is_the_limit_unless_another_is_given() {
        let with_limit = |size_mib, limit_mib| {
            check(Values {
                size_mib,
                limit_mib,
                ..DEFAULTS
            })
            .map(|checked| checked.limit)
        };
        assert_eq!(with_limit(512, 0), Ok(512 << 20));
        assert_eq!(
            with_limit(513, 0),
            Err(Refusal::TooLarge { limit_mib: 512 })
        );
        assert_eq!(with_limit(1, 1), Ok(1 << 20));
        assert_eq!(with_limit(2, 1), Err(Refusal::TooLarge { limit_mib: 1 }));
        for limit_mib in [1025, 1 << 44, u64::MAX] {
            let refused = Err(Refusal::Limit { memory_mib: 1024 });
            assert_eq!(with_limit(1, limit_mib), refused);
        }
    }

    #[test]
    fn sizes_that_overflow_are_too_large() {
        let too_large = Err(Refusal::TooLarge { limit_mib: 1024 });
        assert_eq!(sizes(u64::MAX, 1), too_large);
        assert_eq!(sizes(1 << 44, 1), too_large);
        assert_eq!(sizes((1 << 44) - 1, 1024), too_large);
    }

    #[test]
    fn nothing_and_too_many_are_refused() {
        assert_eq!(sizes(0, 1), Err(Refusal::NoSize));
        assert_eq!(sizes(1, 1025), Err(Refusal::Devices(1025)));
    }

    #[test]
    fn there_are_three_choices_of_huge() {
        let huge = |huge| check(Values { huge, ..DEFAULTS }).map(|checked| checked.huge);
        assert_eq!(huge(0), Ok(Huge::Never));
        assert_eq!(huge(1), Ok(Huge::Always));
        assert_eq!(huge(2), Ok(Huge::Advise));
        assert_eq!(huge(3), Err(Refusal::Huge(3)));
        assert_eq!(huge(u32::MAX), Err(Refusal::Huge(u32::MAX)));
    }

    #[test]
    fn a_folio_is_a_power_of_two_from_a_page_to_a_huge_page() {
        let order = |folio_kib| {
            check(Values {
                folio_kib,
                ..DEFAULTS
            })
            .map(|checked| checked.max_order)
        };
        assert_eq!(order(4), Ok(0));
        assert_eq!(order(64), Ok(4));
        assert_eq!(order(2048), Ok(9));
        for bad in [0, 1, 2, 63, 65, 4096, 1 << 54, u64::MAX] {
            assert_eq!(order(bad), Err(Refusal::Folio(bad)));
        }
    }
}
