// SPDX-License-Identifier: GPL-2.0

//! Sizes as people write them: `4096`, `64K`, `2M`, `1G`, in powers of 1024.

/// The suffixes, from the smallest; each is 1024 times the one before.
const SUFFIXES: [char; 4] = ['K', 'M', 'G', 'T'];

/// Reads a size: digits, and one of `K`, `M`, `G` and `T`, small or large, behind them or not.
///
/// Fails with a sentence for the person who wrote it.
pub fn parse(text: &str) -> Result<u64, String> {
    let suffix = text.chars().last().map(|last| last.to_ascii_uppercase());
    let power = SUFFIXES.iter().position(|&known| Some(known) == suffix);
    let digits = match power {
        Some(_) => &text[..text.len() - 1],
        None => text,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a size is a number, with K, M, G or T behind it or not, such as 64M".into());
    }
    let shift = power.map_or(0, |power| 10 * (power + 1));
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "no file and no memory is as large as that".into())
}

/// Writes a size with the largest suffix that leaves no remainder, so that [`parse`] gives the same again.
pub fn format(bytes: u64) -> String {
    let mut number = bytes;
    let mut suffix = None;
    for next in SUFFIXES {
        if number == 0 || number % 1024 != 0 {
            break;
        }
        number /= 1024;
        suffix = Some(next);
    }
    match suffix {
        Some(suffix) => format!("{number}{suffix}"),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn a_size_is_a_number_with_or_without_a_suffix() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("4096", 4096),
            ("4k", 4 << 10),
            ("64K", 64 << 10),
            ("2M", 2 << 20),
            ("3g", 3 << 30),
            ("1T", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "K",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.5M",
            "1KB",
            "1KiB",
            "0x10",
            "1µ",
            "é",
            "M1",
            "16777216T",
            "18446744073709551616",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_exact() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1023, "1023"),
            (4096, "4K"),
            (64 << 20, "64M"),
            ((64 << 20) + 4096, "65540K"),
            ((1 << 30) + 1, "1073741825"),
            (5 << 40, "5T"),
            (2 << 50, "2048T"),
        ] {
            assert_eq!(format(bytes), text);
            assert_eq!(parse(text), Ok(bytes));
        }
    }
}
