// SPDX-License-Identifier: GPL-2.0

//! What two machines saw, as tables, and whether it is as it must be.

use crate::machine::{ALONE, RING, TCP, TCP_LARGE};
use crate::results::{Side, Transfer};
use crate::MESSAGE;
use mmapdev_userspace::table::Table;
use mmapdev_userspace::{KIB, MIB};
use std::path::Path;
use std::{fs, io};

/// How many times as many bytes the ring must move as TCP for as many instructions.
const BAR: f64 = 5.0;

fn mark(is_so: bool) -> &'static str {
    if is_so {
        "ok"
    } else {
        "FAIL"
    }
}

fn title(sides: &[Side; 2]) -> String {
    format!(
        "mmapdev: {} MiB of memory in two virtual machines, both with Linux {}",
        sides[0].size / MIB as u64,
        sides[0].kernel
    )
}

/// What was moved by one way, as both saw it.
fn pair<'a>(sides: &'a [Side; 2], way: &str) -> Option<[&'a Transfer; 2]> {
    Some([sides[0].by(way)?, sides[1].by(way)?])
}

/// Whether all arrived as it was sent.
fn is_whole([sent, received]: [&Transfer; 2]) -> bool {
    sent.bytes == received.bytes && received.wrong == 0 && sent.bytes > 0
}

/// The bytes that the module of each machine has copied, in words, and whether there were none; to count none is not to know.
fn copied(pair: [&Transfer; 2]) -> ([String; 2], bool) {
    let count = |side: &Transfer| side.copied.map_or("not counted".into(), |n| n.to_string());
    let none = pair.iter().all(|side| side.copied == Some(0));
    (pair.map(count), none)
}

/// Shows that the memory is one, and the data moved.
pub(crate) fn demo(sides: &[Side; 2]) -> bool {
    let mut table = Table::new();
    let mut checks = Vec::new();
    let mut check = |is_so: bool| {
        checks.push(is_so);
        mark(is_so)
    };
    println!("{}\n", title(sides));
    let one_size = check(sides[0].size == sides[1].size && sides[0].size > 0);
    table.heading(["One memory, in two machines", "the first", "the second", ""]);
    let [first, second] = [0, 1].map(|side| sides[side].memory.as_str());
    table.row(["it is", first, second, one_size]);
    let seen = |side: usize| {
        let [seen, of] = sides[side].seen;
        (format!("{seen} of {of}"), seen == of)
    };
    let [(first, first_all), (second, second_all)] = [seen(0), seen(1)];
    let all = check(first_all && second_all);
    table.row(["stores of the other that it saw", &first, &second, all]);

    for (way, what) in [
        (RING, "through a ring in it"),
        (TCP, "over TCP, frames of 1500 bytes"),
        (TCP_LARGE, "over TCP, frames of 65535 bytes"),
    ] {
        table.space();
        let Some([sent, received]) = pair(sides, way) else {
            table.row([what, "was not tried", "", check(false)]);
            continue;
        };
        let heading = format!("{} MiB {what}", sent.bytes / MIB as u64);
        table.heading([&heading, "sent", "received", ""]);
        let number = |bytes: u64| format!("{} of {} KiB", bytes / MESSAGE as u64, MESSAGE / KIB);
        let whole = check(is_whole([sent, received]));
        table.row([
            "messages",
            &number(sent.bytes),
            &number(received.bytes),
            whole,
        ]);
        let wrong = received.wrong.to_string();
        table.row(["of these not as they were sent", "-", &wrong, whole]);
        if way == RING {
            let ([out, back], none) = copied([sent, received]);
            table.row(["bytes copied by the kernels", &out, &back, check(none)]);
            let [out, back] = [sent, received].map(|side| side.waits.to_string());
            table.row(["times it slept, waiting for the other", &out, &back, "-"]);
        }
        let speed = format!(
            "{:.0} MiB/s",
            received.bytes as f64 / MIB as f64 / received.time * 1e9
        );
        table.row(["throughput", "", &speed, "-"]);
    }
    table.lines().iter().for_each(|line| println!("{line}"));
    let failed = checks.iter().filter(|&&is_so| !is_so).count();
    println!();
    if failed > 0 {
        println!("{failed} of {} checks failed.", checks.len());
    } else {
        println!(
            "All {} checks passed: what one machine writes into its mapping, the other reads in its own.",
            checks.len()
        );
    }
    failed == 0
}

/// Shows what it cost, writes that to a file, and looks at the bars.
pub(crate) fn bench(sides: &[Side; 2], json: &Path) -> io::Result<bool> {
    let pair = |way: &str| {
        pair(sides, way).ok_or_else(|| io::Error::other(format!("\"{way}\" was not measured")))
    };
    // Instructions for each byte: of the sender, and of the receiver.
    let cost = |pair: [&Transfer; 2]| pair.map(|side| side.busy / side.bytes as f64);
    let alone = cost(pair(ALONE)?);
    let total = |way: &str| Ok::<f64, io::Error>(cost(pair(way)?).iter().sum());
    let moving = |way: &str| Ok::<f64, io::Error>(total(way)? - alone.iter().sum::<f64>());

    let mut table = Table::new();
    println!("{}\n", title(sides));
    table.heading([
        "Instructions of the guests for each KiB",
        "sender",
        "receiver",
        "both",
        "bytes an instruction",
        "of them to move it",
    ]);
    let mut whole = true;
    let mut figures = Vec::new();
    for (way, what) in [
        (RING, "through a ring in shared memory"),
        (TCP, "over TCP, frames of 1500 bytes"),
        (TCP_LARGE, "over TCP, frames of 65535 bytes"),
        (ALONE, "made and checked, and not moved"),
    ] {
        whole &= way == ALONE || is_whole(pair(way)?);
        let kib = |cost: f64| format!("{:.0}", cost * KIB as f64);
        let [sender, receiver] = cost(pair(way)?);
        let (both, move_it) = (total(way)?, moving(way)?);
        let rate = format!("{:.3}", 1.0 / both);
        table.row([
            what,
            &kib(sender),
            &kib(receiver),
            &kib(both),
            &rate,
            &kib(move_it),
        ]);
        figures.push(serde_json::json!({
            "way": way, "bytes": pair(way)?[0].bytes,
            "instructions": {"sender": pair(way)?[0].busy, "receiver": pair(way)?[1].busy},
        }));
    }
    table.lines().iter().for_each(|line| println!("{line}"));
    let ring = pair(RING)?;
    let ([out, back], none) = copied(ring);
    let document = serde_json::json!({
        "kernel": sides[0].kernel, "ways": figures, "copied": ring.map(|side| side.copied),
    });
    fs::write(json, format!("{document:#}\n"))?;
    println!();
    if !whole {
        println!("FAIL the data did not arrive as it was sent");
    }
    println!(
        "{} bytes of the ring's memory that the kernels have copied: {out} and {back}",
        mark(none)
    );
    let as_it_comes = total(TCP)? / total(RING)?;
    // So few that what it took to make the data may by chance have been more.
    let by_ring = moving(RING)?.max(1.0 / KIB as f64);
    let at_its_best = moving(TCP)?.min(moving(TCP_LARGE)?) / by_ring;
    for (what, times) in [
        ("data made, moved and checked, as TCP comes", as_it_comes),
        ("moving it alone, and TCP at its best", at_its_best),
    ] {
        println!(
            "{} the ring moves {times:.1} times as many bytes an instruction, and must {BAR:.1} times: {what}",
            mark(times >= BAR)
        );
    }
    Ok(whole && none && as_it_comes >= BAR && at_its_best >= BAR)
}

#[cfg(test)]
mod tests {
    use super::{bench, demo};
    use crate::machine::{ALONE, RING, TCP, TCP_LARGE};
    use crate::results::{Side, Transfer};

    /// Two machines that saw what they must.
    fn good() -> [Side; 2] {
        let transfer = |(way, busy): (&str, f64)| Transfer {
            way: way.to_string(),
            bytes: 1 << 20,
            time: 1e6,
            busy,
            copied: Some(0),
            ..Transfer::default()
        };
        let side = Side {
            kernel: "7.3".to_string(),
            memory: "/dev/some".to_string(),
            size: 64 << 20,
            seen: [1000, 1000],
            transfers: [(ALONE, 1e5), (RING, 2e5), (TCP, 2e6), (TCP_LARGE, 1e6)]
                .map(transfer)
                .to_vec(),
        };
        [side.clone(), side]
    }

    fn changed(change: impl FnOnce(&mut [Side; 2])) -> [Side; 2] {
        let mut sides = good();
        change(&mut sides);
        sides
    }

    fn measured(sides: &[Side; 2]) -> Option<bool> {
        let name = format!("mmapdev-vms-{:?}.json", std::thread::current().id());
        let file = std::env::temp_dir().join(name);
        let verdict = bench(sides, &file).ok();
        // Not there where nothing was measured.
        let _ = std::fs::remove_file(file);
        verdict
    }

    #[test]
    fn what_is_as_it_must_be_passes() {
        assert!(demo(&good()));
        assert_eq!(measured(&good()), Some(true));
    }

    #[test]
    fn data_that_changed_on_its_way_fails() {
        for way in [1, 2, 3] {
            let sides = changed(|sides| sides[1].transfers[way].wrong = 1);
            assert!(!demo(&sides));
            assert_eq!(measured(&sides), Some(false));
        }
    }

    #[test]
    fn data_that_did_not_all_arrive_fails() {
        let sides = changed(|sides| sides[1].transfers[1].bytes -= 1);
        assert!(!demo(&sides));
        assert_eq!(measured(&sides), Some(false));
        let sides = changed(|sides| drop(sides[1].transfers.pop()));
        assert!(!demo(&sides));
        assert_eq!(measured(&sides), None);
    }

    #[test]
    fn a_store_that_was_not_seen_fails() {
        assert!(!demo(&changed(|sides| sides[0].seen[0] = 999)));
    }

    #[test]
    fn a_byte_that_a_kernel_copied_fails() {
        let copied = |sides: &mut [Side; 2]| sides[1].transfers[1].copied = Some(1);
        assert!(!demo(&changed(copied)));
        assert_eq!(measured(&changed(copied)), Some(false));
    }

    #[test]
    fn bytes_that_were_not_counted_fail() {
        let unknown = |sides: &mut [Side; 2]| sides[0].transfers[1].copied = None;
        assert!(!demo(&changed(unknown)));
        assert_eq!(measured(&changed(unknown)), Some(false));
    }

    #[test]
    fn a_ring_that_costs_too_much_fails() {
        // 400000 instructions, and 5 times as many are TCP's just so.
        let cost = |ring: f64, tcp: f64, large: f64| {
            measured(&changed(|sides| {
                for side in sides {
                    for (index, busy) in [(1, ring), (2, tcp), (3, large)] {
                        side.transfers[index].busy = busy;
                    }
                }
            }))
        };
        assert_eq!(cost(2e5, 1e6, 6e5), Some(true));
        assert_eq!(cost(2e5, 9.9e5, 6e5), Some(false), "as TCP comes");
        assert_eq!(cost(2e5, 1e6, 5.9e5), Some(false), "TCP at its best");
    }
}
