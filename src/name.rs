// SPDX-License-Identifier: GPL-2.0

//! What a device may be called, without a kernel: tested on the host as well.

use crate::abi;

/// The name that the control node has, so that no device can.
const CONTROL: &str = "control";

/// A name that a device may have: 1 to 63 of the characters `A-Z a-z 0-9 . _ -`, and colons where the module has given it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(abi::Name);

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is nothing in it, a character that a name cannot have, or something after its end.
    Invalid,
    /// There is no zero at its end.
    TooLong,
    /// It is the control node's.
    Taken,
}

impl Name {
    /// Checks a name field of a device that is to be made.
    pub(crate) fn check(field: &abi::Name) -> Result<Self, Refusal> {
        let name = Self::of_any(field)?;
        if field.bytes().contains(&b':') {
            return Err(Refusal::Invalid);
        }
        Ok(name)
    }

    /// Checks a name field of any device: what the module itself names, by an address in the machine, may have colons, so
    /// that nobody else can take its name.
    pub(crate) fn of_any(field: &abi::Name) -> Result<Self, Refusal> {
        let bytes = field.bytes();
        if bytes.len() == abi::NAME_SIZE {
            return Err(Refusal::TooLong);
        }
        let allowed = |&byte: &u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        let ended = field.0[bytes.len()..].iter().all(|&byte| byte == 0);
        let is_folder = [&b"."[..], b".."].contains(&bytes);
        if bytes.is_empty() || is_folder || !bytes.iter().all(allowed) || !ended {
            return Err(Refusal::Invalid);
        }
        if bytes == CONTROL.as_bytes() {
            return Err(Refusal::Taken);
        }
        Ok(Self(*field))
    }

    /// Returns the name field.
    pub(crate) fn field(&self) -> &abi::Name {
        &self.0
    }

    /// Returns the name.
    pub(crate) fn as_str(&self) -> &str {
        // It is ASCII.
        core::str::from_utf8(self.0.bytes()).unwrap_or_default()
    }

    /// Returns what stands between `mmapdev` and the name in the node's name.
    pub(crate) fn separator(&self) -> &'static str {
        separator(self.0.bytes())
    }
}

/// Returns what stands between `mmapdev` and a name in the node's name.
pub(crate) fn separator(name: &[u8]) -> &'static str {
    if name.iter().all(u8::is_ascii_digit) {
        ""
    } else {
        "-"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<String, Refusal> {
        let mut field = abi::Name::default();
        field.0[..bytes.len()].copy_from_slice(bytes);
        let name = Name::check(&field)?;
        assert_eq!(name.field(), &field);
        Ok(format!("mmapdev{}{}", name.separator(), name.as_str()))
    }

    #[test]
    fn numbers_and_words_have_nodes_of_their_own() {
        assert_eq!(check(b"0").unwrap(), "mmapdev0");
        assert_eq!(check(b"1023").unwrap(), "mmapdev1023");
        assert_eq!(check(b"frames").unwrap(), "mmapdev-frames");
        assert_eq!(check(b"A.b_c-9").unwrap(), "mmapdev-A.b_c-9");
        assert_eq!(check(&[b'x'; 63]).unwrap().len(), 63 + 8);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            &b""[..],
            b"a/b",
            b"/",
            b"a b",
            b"a\n",
            b"a:b",
            b"!",
            b"caf\xc3\xa9",
            b"\xff",
            b"a\0b",
            b"\0a",
            b".",
            b"..",
        ] {
            assert_eq!(check(bad), Err(Refusal::Invalid), "{bad:?}");
        }
        let bar = abi::Name::new(b"pci-0000:01:00.0-bar2").unwrap();
        assert!(Name::check(&bar).is_err() && Name::of_any(&bar).is_ok());
        assert_eq!(check(&[b'x'; 64]), Err(Refusal::TooLong));
        assert_eq!(check(b"control"), Err(Refusal::Taken));
        assert!(check(b"control1").is_ok());
    }
}
