// SPDX-License-Identifier: GPL-2.0

//! Unit tests: the Rust mirror of the ioctl interface says what the text of the C header says.

use crate::abi;
use std::mem::{offset_of, size_of};

const HEADER: &str = include_str!("../../include/uapi/mmapdev.h");

/// A field as C lays it out: name, offset, size.
type Field = (String, usize, usize);

/// The header without its comments, so that words in them are not taken for declarations.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        code.push_str(&rest[..start]);
        let end = rest[start..].find("*/").expect("a comment ends");
        rest = &rest[start + end + 2..];
    }
    code + rest
}

/// The fields of `struct name`, laid out with natural alignment, and the structure's size.
fn c_struct(code: &str, name: &str) -> (Vec<Field>, usize) {
    let opening = format!("struct {name} {{");
    let start = code
        .find(&opening)
        .unwrap_or_else(|| panic!("the header has no struct {name}"));
    let body = &code[start + opening.len()..];
    let body = &body[..body.find('}').expect("a structure ends")];

    let mut fields = Vec::new();
    let mut end = 0usize;
    let mut largest = 1;
    for declaration in body
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        let (kind, field) = declaration
            .split_once(char::is_whitespace)
            .expect("a type and a name");
        let align: usize = match kind {
            "__aligned_u64" => 8,
            "__u32" | "__s32" => 4,
            "__u16" => 2,
            "__u8" | "char" => 1,
            other => panic!("struct {name} has a field of type {other}, which is no fixed width"),
        };
        let (field, count) = match field.trim().split_once('[') {
            Some((field, "MMAPDEV_NAME_SIZE]")) => (field, abi::NAME_SIZE),
            Some((_, other)) => panic!("struct {name} has a field of [{other} elements"),
            None => (field.trim(), 1),
        };
        let offset = end.next_multiple_of(align);
        assert_eq!(offset, end, "struct {name} has padding before {field}");
        fields.push((field.to_string(), offset, align * count));
        end = offset + align * count;
        largest = largest.max(align);
    }
    (fields, end.next_multiple_of(largest))
}

/// The names of all structures that the header defines.
fn c_struct_names(code: &str) -> Vec<&str> {
    let declared = code.split("struct ").skip(1);
    declared
        .filter_map(|text| text.split_once(" {"))
        .map(|(name, _)| name)
        .collect()
}

fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

/// Every constant of the header, `#define` or enumerator, without its `MMAPDEV_`.
fn c_constants(code: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for line in code.lines().map(str::trim) {
        let (name, value) = if let Some(definition) = line.strip_prefix("#define MMAPDEV_") {
            let Some((name, value)) = definition.split_once(char::is_whitespace) else {
                continue;
            };
            let value = value.trim();
            let request = value
                .strip_prefix("_IO(MMAPDEV_IOC_TYPE,")
                .map(|rest| rest.trim());
            match request.and_then(|rest| rest.strip_suffix(')')) {
                Some(nr) => (name, (0xBD << 8) | number(nr)),
                None => (name, number(value)),
            }
        } else if let Some(enumerator) = line.strip_prefix("MMAPDEV_") {
            let (name, value) = enumerator.split_once('=').expect("an explicit value");
            (name.trim(), number(value.trim().trim_end_matches(',')))
        } else {
            continue;
        };
        found.push((name.to_string(), value));
    }
    found
}

/// The size of the field that `get` picks.
fn field_size<S: Default, F>(get: impl Fn(&S) -> &F) -> usize {
    get(&S::default());
    size_of::<F>()
}

macro_rules! mirror {
    ($kind:ty: $($field:ident),+) => {
        (
            vec![$((
                stringify!($field).to_string(),
                offset_of!($kind, $field),
                field_size(|value: &$kind| &value.$field),
            )),+],
            size_of::<$kind>(),
        )
    };
}

#[test]
fn structures_have_the_headers_fields_offsets_and_sizes() {
    let code = without_comments(HEADER);
    let mirrors = [
        (
            "mmapdev_info",
            mirror!(abi::Info: size, flags, device_size, resident_bytes, backing, huge, id,
                    largest_folio, open_files, name),
        ),
        (
            "mmapdev_create",
            mirror!(abi::Create: size, flags, device_size, backing, huge, largest_folio, reserved,
                    id, name, file, file_flags, file_offset),
        ),
        ("mmapdev_destroy", mirror!(abi::Destroy: size, flags, name)),
        (
            "mmapdev_resize",
            mirror!(abi::Resize: size, flags, device_size, name),
        ),
        (
            "mmapdev_punch",
            mirror!(abi::Punch: size, flags, offset, length, name),
        ),
        ("mmapdev_events", mirror!(abi::Events: size, flags, count)),
        (
            "mmapdev_eventfd",
            mirror!(abi::EventFd: size, flags, eventfd, reserved),
        ),
        (
            "mmapdev_counters",
            mirror!(abi::Counters: size, flags, faults, huge_faults, map_pages, mmap_lock_faults,
                    failed_faults, folios_added, bytes_added, bytes_read, bytes_written,
                    bus_errors, out_of_memory, huge_fallbacks, page_mkwrites, small_folios,
                    large_folios, huge_folios, bytes_removed, events),
        ),
        (
            "mmapdev_frame",
            mirror!(abi::Frame: size, flags, offset, frame, folio_bytes),
        ),
    ];
    for (name, mirror) in &mirrors {
        assert_eq!(*mirror, c_struct(&code, name), "struct {name}");
    }
    assert_eq!(
        c_struct_names(&code),
        mirrors.map(|(name, _)| name),
        "a mirror for each structure"
    );
}

#[test]
fn constants_have_the_headers_names_and_values() {
    let mut header = c_constants(&without_comments(HEADER));
    let mut mirror = [
        ("IOC_TYPE", abi::IOC_TYPE),
        ("IOC_INFO", abi::IOC_INFO),
        ("IOC_COUNTERS", abi::IOC_COUNTERS),
        ("IOC_FRAME", abi::IOC_FRAME),
        ("IOC_CREATE", abi::IOC_CREATE),
        ("IOC_DESTROY", abi::IOC_DESTROY),
        ("IOC_RESIZE", abi::IOC_RESIZE),
        ("IOC_PUNCH", abi::IOC_PUNCH),
        ("IOC_NEXT", abi::IOC_NEXT),
        ("IOC_NOTIFY", abi::IOC_NOTIFY),
        ("IOC_EVENTS", abi::IOC_EVENTS),
        ("IOC_EVENTFD", abi::IOC_EVENTFD),
        ("NAME_SIZE", abi::NAME_SIZE as u32),
        ("BACKING_MEMORY", abi::BACKING_MEMORY),
        ("BACKING_FILE", abi::BACKING_FILE),
        ("BACKING_PCI", abi::BACKING_PCI),
        ("HUGE_NEVER", abi::HUGE_NEVER),
        ("HUGE_ALWAYS", abi::HUGE_ALWAYS),
        ("HUGE_ADVISE", abi::HUGE_ADVISE),
        ("INFO_SIZE_VER0", abi::INFO_SIZE_VER0 as u32),
        ("INFO_SIZE_VER1", abi::INFO_SIZE_VER1 as u32),
        ("CREATE_SIZE_VER0", abi::CREATE_SIZE_VER0 as u32),
        ("CREATE_SIZE_VER1", abi::CREATE_SIZE_VER1 as u32),
        ("DESTROY_SIZE_VER0", abi::DESTROY_SIZE_VER0 as u32),
        ("RESIZE_SIZE_VER0", abi::RESIZE_SIZE_VER0 as u32),
        ("PUNCH_SIZE_VER0", abi::PUNCH_SIZE_VER0 as u32),
        ("EVENTS_SIZE_VER0", abi::EVENTS_SIZE_VER0 as u32),
        ("EVENTFD_SIZE_VER0", abi::EVENTFD_SIZE_VER0 as u32),
        ("COUNTERS_SIZE_VER0", abi::COUNTERS_SIZE_VER0 as u32),
        ("COUNTERS_SIZE_VER1", abi::COUNTERS_SIZE_VER1 as u32),
        ("FRAME_SIZE_VER0", abi::FRAME_SIZE_VER0 as u32),
    ]
    .map(|(name, value)| (name.to_string(), u64::from(value)))
    .to_vec();
    header.sort();
    mirror.sort();
    assert_eq!(mirror, header);
}
