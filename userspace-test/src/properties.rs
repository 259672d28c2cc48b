// SPDX-License-Identifier: GPL-2.0

//! Properties of what is computed without a kernel, against the same in numbers too wide to overflow.
//!
//! The cases are the same in every run: a failure is one for everybody, and nothing is written.

use crate::abi::{self, Name as Field, NAME_SIZE};
use crate::bar_registers::{kind, of_register, Kind, Noted};
use crate::device_span::{Span, Width};
use crate::extent::{align_down, bytes_before, end_of, offsets_exist, orders_around};
use crate::parameters::{
    folio_order, Huge, Machine, Parameters, Refusal as ParameterRefusal, Values, MAX_DEVICES,
};
use crate::{name, size};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 4096,
        rng_seed: RngSeed::Fixed(0x6d6d_6170),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// The last offset that a file can have, wide.
const LAST: u128 = i64::MAX as u128;

/// Numbers of all magnitudes, most of them beside a power of two, or beside 0 and the largest.
fn number() -> impl Strategy<Value = u64> {
    let beside =
        (0..64u32, -2i64..=2).prop_map(|(bit, off)| (1u64 << bit).wrapping_add_signed(off));
    prop_oneof![
        3 => beside,
        1 => any::<u64>(),
        1 => 0..5u64,
        1 => (0..5u64).prop_map(|off| u64::MAX - off),
        1 => (0..3u64, 0..64u32).prop_map(|(times, bit)| times << bit),
        1 => (any::<u64>(), 0..64u32).prop_map(|(bits, shift)| bits >> shift),
    ]
}

/// Two numbers that are often near to each other.
fn two_numbers() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (number(), number()),
        (number(), -3i64..=3).prop_map(|(one, off)| (one, one.wrapping_add_signed(off))),
        // Those that together are about the largest of a file, or of a number.
        (number(), -3i64..=3).prop_map(|(one, off)| (
            one,
            (i64::MAX as u64).wrapping_sub(one).wrapping_add_signed(off)
        )),
        (number(), -3i64..=3)
            .prop_map(|(one, off)| (one, u64::MAX.wrapping_sub(one).wrapping_add_signed(off))),
    ]
}

fn order() -> impl Strategy<Value = u32> {
    prop_oneof![0..=12u32, select(&[0u32, 1, 3, 4, 5, 9][..])]
}

/// The whole of [`orders_around`] in other words.
fn orders(index: u128, pages: u128, max_order: u32) -> Vec<u32> {
    let mut tried = vec![max_order, 4, 0];
    tried.retain(|&order| order <= max_order);
    tried.dedup();
    tried.retain(|&order| {
        let folio = 1u128 << order;
        order == 0 || (index / folio + 1) * folio <= pages
    });
    tried
}

/// What the kernel has noted of a BAR.
fn noted() -> impl Strategy<Value = Noted> {
    let memory = any::<bool>().prop_map(|is_wide| Noted::Memory { is_wide });
    prop_oneof![2 => Just(Noted::Nothing), 1 => Just(Noted::Ports), 2 => memory]
}

/// What a name field says, by its documentation: `mmapdev.h` and `name.rs`.
fn name_oracle(field: &[u8; NAME_SIZE]) -> Result<(), name::Refusal> {
    let Some(end) = field.iter().position(|&byte| byte == 0) else {
        return Err(name::Refusal::TooLong);
    };
    let allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    let mut rest = field[end..].iter();
    let mut bytes = field[..end].iter();
    match &field[..end] {
        b"" | b"." | b".." => Err(name::Refusal::Invalid),
        _ if !rest.all(|&byte| byte == 0) => Err(name::Refusal::Invalid),
        _ if !bytes.all(|&byte| allowed.contains(char::from(byte))) => Err(name::Refusal::Invalid),
        b"control" => Err(name::Refusal::Taken),
        _ => Ok(()),
    }
}

/// Name fields: names, names with something wrong in one place, and any bytes.
fn field() -> impl Strategy<Value = [u8; NAME_SIZE]> {
    let padded = |text: Vec<u8>| {
        let mut field = [0; NAME_SIZE];
        field[..text.len()].copy_from_slice(&text);
        field
    };
    let name = "[A-Za-z0-9._-]{0,64}".prop_map(String::into_bytes);
    let special = select(&["", ".", "..", "...", "control", "control0", "0", "-"][..])
        .prop_map(|text| text.as_bytes().to_vec());
    let good = prop_oneof![name, special].prop_map(padded);
    prop_oneof![
        good.clone(),
        (good, 0..NAME_SIZE, any::<u8>()).prop_map(|(mut field, place, byte)| {
            field[place] = byte;
            field
        }),
        proptest::array::uniform(any::<u8>()),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn orders_are_those_whose_folio_lies_within_the_file(
        (index, pages) in two_numbers(),
        max_order in order(),
    ) {
        let got: Vec<u32> = orders_around(index as usize, pages as usize, max_order).collect();
        prop_assert_eq!(got, orders(index.into(), pages.into(), max_order));
    }

    #[test]
    fn a_folio_holds_the_page_that_it_is_made_around(
        (index, pages) in two_numbers(),
        max_order in order(),
    ) {
        for order in orders_around(index as usize, pages as usize, max_order) {
            let start = align_down(index as usize, order) as u128;
            let folio = 1u128 << order;
            prop_assert!(start % folio == 0);
            prop_assert!(start <= index.into() && u128::from(index) < start + folio);
        }
    }

    #[test]
    fn aligned_is_the_largest_multiple_that_is_not_above(index in number(), order in 0..64u32) {
        let folio = 1u128 << order;
        prop_assert_eq!(
            align_down(index as usize, order) as u128,
            u128::from(index) / folio * folio
        );
    }

    #[test]
    fn bytes_before_an_end_are_counted(
        (offset, end) in two_numbers(),
        wanted in number(),
    ) {
        let left = u128::from(end).saturating_sub(offset.into());
        let expected = left.min(wanted.into());
        prop_assert_eq!(bytes_before(offset, wanted as usize, end) as u128, expected);
    }

    #[test]
    fn bytes_before_an_end_near_by_are_counted(
        offset in number(),
        wanted in number(),
        off in -3i64..=3,
    ) {
        let end = offset.wrapping_add(wanted).wrapping_add_signed(off);
        let expected = u128::from(end).saturating_sub(offset.into()).min(wanted.into());
        prop_assert_eq!(bytes_before(offset, wanted as usize, end) as u128, expected);
    }

    #[test]
    fn a_range_has_an_end_where_a_file_can_have_it((offset, length) in two_numbers()) {
        let end = u128::from(offset) + u128::from(length);
        let expected = (length > 0 && end <= LAST).then_some(end);
        prop_assert_eq!(end_of(offset, length).map(u128::from), expected);
    }

    #[test]
    fn offsets_exist_up_to_the_largest_of_a_file(
        (offset, len) in two_numbers(),
        shift in select(&[0usize, 12, 12, 12, 16, 21][..]),
        off in -3i64..=3,
    ) {
        for index in [offset, offset >> shift, (offset >> shift).wrapping_add_signed(off)] {
            let end = (u128::from(index) << shift) + u128::from(len);
            prop_assert_eq!(offsets_exist(index as usize, len as usize, shift), end <= LAST);
        }
    }

    #[test]
    fn memory_of_a_device_is_there_where_each_byte_has_an_address((start, len) in two_numbers()) {
        let end = u128::from(start) + u128::from(len);
        let is_there = len > 0 && end <= u64::MAX.into();
        let span = Span::new(start, len, 12).map(|span| (span.start(), span.len()));
        prop_assert_eq!(span, is_there.then_some((start, len)));
    }

    #[test]
    fn an_entry_of_a_page_table_maps_whole_pages_of_the_device_alone(
        (start, len) in two_numbers(),
        is_whole in any::<bool>(),
        index in number(),
        order in prop_oneof![order(), 0..70u32],
    ) {
        const PAGE: u128 = 4096;
        let cut = |bytes: u64| if is_whole { bytes & !4095 } else { bytes };
        let Some(span) = Span::new(cut(start), cut(len), 12) else {
            return Ok(());
        };
        let (start, len) = (u128::from(cut(start)), u128::from(cut(len)));
        let pages = if start % PAGE == 0 && len % PAGE == 0 { len / PAGE } else { 0 };
        prop_assert_eq!(span.pages() as u128, pages);
        for index in [index, index % (pages as u64).max(1)] {
            let folio = 1u128 << order;
            let first = u128::from(index) / folio * folio;
            let frame = start / PAGE + first;
            let is_there = order < 64 && first + folio <= pages && frame % folio == 0;
            let expected = is_there.then_some(frame as usize);
            prop_assert_eq!(span.frame_in(index as usize, order), expected);
        }
    }

    #[test]
    fn a_piece_is_at_the_first_multiple_of_its_size_or_nowhere(
        (start, len) in two_numbers(),
        bit in 0..64u32,
    ) {
        if let Some(span) = Span::new(start, len, 12) {
            let size = 1u128 << bit;
            let end = u128::from(start).next_multiple_of(size) + size;
            prop_assert_eq!(span.has_piece(1 << bit), end <= u128::from(start) + u128::from(len));
        }
    }

    #[test]
    fn an_access_is_aligned_and_as_wide_as_that_lets_it_be(offset in number(), len in 1..40usize) {
        let is_one = |width: usize| offset % width as u64 == 0;
        let whole = [1, 2, 4, 8].into_iter().find(|&width| width == len && is_one(width));
        prop_assert_eq!(Width::of(offset, len).map(|width| width as usize), whole);
        let next = [4, 2, 1].into_iter().find(|&width| width <= len && is_one(width));
        prop_assert_eq!(Some(Width::next(offset, len) as usize), next);
    }

    #[test]
    fn each_register_of_a_device_is_a_bar_or_the_upper_half_of_the_one_before(
        bars in prop::collection::vec((noted(), prop_oneof![Just(0), 0..16u32, any::<u32>()]), 1..7),
    ) {
        let (noted, registers): (Vec<_>, Vec<_>) = bars.into_iter().unzip();
        let mut is_upper_half = false;
        for index in 0..noted.len() {
            let expected = match noted[index] {
                _ if is_upper_half => Kind::UpperHalf,
                Noted::Ports => Kind::Ports,
                Noted::Memory { .. } => Kind::Memory,
                Noted::Nothing => of_register(registers[index]),
            };
            prop_assert_eq!(kind(index, &noted, &registers), expected);
            let is_wide = match noted[index] {
                Noted::Memory { is_wide } => is_wide,
                Noted::Ports => false,
                Noted::Nothing => registers[index] % 8 == 4,
            };
            is_upper_half = !is_upper_half && is_wide;
        }
    }

    #[test]
    fn an_order_is_that_of_a_power_of_two_in_pages(
        bytes in number(),
        page_shift in select(&[12u32, 14, 16][..]),
        largest in 0..=13u32,
    ) {
        let found = (0..=largest).find(|order| u128::from(bytes) == 1u128 << (page_shift + order));
        prop_assert_eq!(folio_order(bytes, 1 << page_shift, largest), found);
    }

    #[test]
    fn huge_is_a_number_and_back(value in prop_oneof![0..5u32, any::<u32>()]) {
        let huge = Huge::from_abi(value);
        prop_assert_eq!(huge.is_some(), value <= abi::HUGE_ADVISE);
        prop_assert!(huge.is_none_or(|huge| huge.to_abi() == value));
    }

    #[test]
    fn parameters_are_taken_where_all_devices_fit_in_the_limit(
        size_mib in number(),
        devices in prop_oneof![0..4u32, 1022..1027u32, 0..=MAX_DEVICES, any::<u32>()],
        huge in 0..4u32,
        folio_kib in prop_oneof![3 => select(&[4u64, 64, 2048][..]), 1 => number()],
        memory in number(),
        limit_mib in prop_oneof![Just(0u64), number()],
        // In some cases, the half of it is just about what is asked for.
        fits in any::<bool>(),
        off in -1i64..=1,
    ) {
        let values = Values { size_mib, devices, huge, folio_kib, limit_mib };
        let total = (u128::from(size_mib) * u128::from(devices)) << 20;
        let memory = match u64::try_from(2 * total) {
            Ok(total) if fits => total.wrapping_add_signed(off),
            _ => memory,
        };
        let limit = match limit_mib {
            0 => u128::from(memory / 2),
            mib => u128::from(mib) << 20,
        };
        let machine = Machine { memory, page: 4096, largest_order: 9 };
        let order = (0..=9u32).find(|order| u128::from(folio_kib) == 4u128 << order);
        let expected = if size_mib == 0 {
            Err(ParameterRefusal::NoSize)
        } else if devices > 1024 {
            Err(ParameterRefusal::Devices(devices))
        } else if huge > 2 {
            Err(ParameterRefusal::Huge(huge))
        } else if order.is_none() {
            Err(ParameterRefusal::Folio(folio_kib))
        } else if limit > memory.into() {
            Err(ParameterRefusal::Limit { memory_mib: memory / (1 << 20) })
        } else if total > limit || (u128::from(size_mib) << 20) > u64::MAX.into() {
            Err(ParameterRefusal::TooLarge { limit_mib: (limit >> 20) as u64 })
        } else {
            Ok((u128::from(size_mib) << 20, devices, huge, order))
        };
        let got = Parameters::check(&values, &machine).map(|got| (
            got.size.into(),
            got.devices,
            got.huge.to_abi(),
            Some(got.max_order),
        ));
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn a_name_is_what_the_header_says(field in field()) {
        let got = name::Name::check(&Field(field)).map(|name| *name.field());
        prop_assert_eq!(got, name_oracle(&field).map(|()| Field(field)));
    }

    #[test]
    fn a_name_is_its_bytes_and_only_a_number_has_no_dash(text in "[0-9]{1,63}|[A-Za-z0-9._-]{1,63}") {
        let field = Field::new(text.as_bytes()).expect("short enough");
        if let Ok(name) = name::Name::check(&field) {
            prop_assert_eq!(name.as_str(), text.as_str());
            let number = text.chars().all(|character| character.is_ascii_digit());
            prop_assert_eq!(name.separator(), if number { "" } else { "-" });
        }
    }

    #[test]
    fn a_name_field_holds_what_leaves_room_for_a_zero(text in prop::collection::vec(any::<u8>(), 0..70)) {
        match Field::new(&text) {
            Some(field) => {
                prop_assert!(text.len() < NAME_SIZE);
                prop_assert_eq!(&field.0[..text.len()], &text[..]);
                prop_assert!(field.0[text.len()..].iter().all(|&byte| byte == 0));
                let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
                prop_assert_eq!(field.bytes(), &text[..end]);
            }
            None => prop_assert!(text.len() >= NAME_SIZE),
        }
    }

    #[test]
    fn bytes_of_a_field_end_at_the_first_zero(field in field()) {
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(NAME_SIZE);
        let field = Field(field);
        prop_assert_eq!(field.bytes(), &field.0[..end]);
    }

    #[test]
    fn a_size_that_is_written_is_read_again(bytes in number()) {
        prop_assert_eq!(size::parse(&size::format(bytes)), Ok(bytes));
    }

    #[test]
    fn a_size_is_written_without_a_remainder_and_as_short_as_that_goes(bytes in number()) {
        let text = size::format(bytes);
        let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
        let number: u64 = digits.parse().expect("digits");
        let power = ["", "K", "M", "G", "T"].iter().position(|suffix| *suffix == &text[digits.len()..]);
        let power = power.expect("a suffix that there is");
        prop_assert_eq!(u128::from(number) << (10 * power), bytes.into());
        prop_assert!(power == 4 || number % 1024 != 0 || number == 0);
    }

    #[test]
    fn a_size_is_a_number_times_its_suffix(
        number in prop_oneof![number(), 0..5000u64],
        zeros in 0..3usize,
        suffix in select(&["", "K", "k", "M", "m", "G", "g", "T", "t"][..]),
    ) {
        let text = format!("{}{number}{suffix}", "0".repeat(zeros));
        let power = match suffix.to_ascii_uppercase().as_str() {
            "K" => 1,
            "M" => 2,
            "G" => 3,
            "T" => 4,
            _ => 0,
        };
        let wide = u128::from(number) << (10 * power);
        prop_assert_eq!(size::parse(&text).ok().map(u128::from), (wide <= u64::MAX.into()).then_some(wide));
    }

    #[test]
    fn what_is_no_size_is_refused_and_no_text_is_too_strange(text in prop_oneof![
        "\\PC{0,8}",
        "[0-9KMGTkmgt +.-]{0,6}",
        "[0-9]{18,24}[KMGT]?",
    ]) {
        let digits = text.strip_suffix(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't']).unwrap_or(&text);
        let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if let Ok(bytes) = size::parse(&text) {
            prop_assert!(number, "{bytes}");
        }
    }
}
