// SPDX-License-Identifier: GPL-2.0

//! What a PCI device's base address registers say of its memory, without a kernel: tested on the host as well.
//!
//! Reference: [`include/uapi/linux/pci_regs.h`](srctree/include/uapi/linux/pci_regs.h), `PCI_BASE_ADDRESS_0` and after it.

/// What the kernel has noted of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Nothing: there is none, it is the upper half of the one before, or the kernel has forgotten it.
    Nothing,
    /// I/O ports.
    Ports,
    /// Memory.
    Memory {
        /// Whether the address has 64 bits, and the next register has the upper half.
        is_wide: bool,
    },
}

/// What a BAR is by what the kernel has noted and its register has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The upper half of the one before.
    UpperHalf,
    /// I/O ports.
    Ports,
    /// Memory.
    Memory,
    /// Memory that the kernel has forgotten, as there was no room for it.
    Forgotten,
    /// None, or one of a kind that has no bit set where it has no address: the register tells when it is written to.
    Silent,
}

/// Whether a BAR is I/O ports, in its register.
const PORTS: u32 = 1;
/// The bits of a register that say how wide its address is, or that it is that of ports; and what they are where it has 64 bits.
const WIDTH: u32 = 7;
const WIDE: u32 = 4;

/// Returns what BAR `index` is by what was noted and the registers, each of which has at least `index + 1`.
pub(crate) fn kind(index: usize, noted: &[Noted], registers: &[u32]) -> Kind {
    let is_wide = |at: usize| match noted[at] {
        Noted::Nothing => registers[at] & WIDTH == WIDE,
        Noted::Ports => false,
        Noted::Memory { is_wide } => is_wide,
    };
    let mut at = 0;
    while at < index {
        at += if is_wide(at) { 2 } else { 1 };
    }
    match noted[index] {
        _ if at > index => Kind::UpperHalf,
        Noted::Ports => Kind::Ports,
        Noted::Memory { .. } => Kind::Memory,
        Noted::Nothing => of_register(registers[index]),
    }
}

/// Returns what a BAR is of which nothing is noted, by its register.
pub(crate) const fn of_register(value: u32) -> Kind {
    match value {
        0 => Kind::Silent,
        _ if value & PORTS != 0 => Kind::Ports,
        _ => Kind::Forgotten,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE_MEMORY: Noted = Noted::Memory { is_wide: true };
    const MEMORY: Noted = Noted::Memory { is_wide: false };

    #[test]
    fn a_wide_bar_takes_two_registers() {
        let noted = [WIDE_MEMORY, Noted::Nothing, MEMORY, Noted::Nothing];
        // The upper half of the first looks as if the register after it were one, too.
        let registers = [0xc, 4, 0xfe00_0000, 0];
        let kinds: Vec<_> = (0..4).map(|at| kind(at, &noted, &registers)).collect();
        let expected = [Kind::Memory, Kind::UpperHalf, Kind::Memory, Kind::Silent];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn what_the_kernel_has_forgotten_is_found_by_its_register() {
        let noted = [Noted::Nothing; 4];
        let registers = [0xc, 0, 1, 8];
        let kinds: Vec<_> = (0..4).map(|at| kind(at, &noted, &registers)).collect();
        let expected = [
            Kind::Forgotten,
            Kind::UpperHalf,
            Kind::Ports,
            Kind::Forgotten,
        ];
        assert_eq!(kinds, expected);
    }
}
