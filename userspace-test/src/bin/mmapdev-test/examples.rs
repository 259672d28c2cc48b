// SPDX-License-Identifier: GPL-2.0

//! The examples that README shows, and a C program of 32 bits: each does what it says.

use crate::Test;
use std::fs::File;
use std::io;
use std::process::{Command, Stdio};

const ONE: &str = "size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with("the_example_in_c_works", ONE, || {
        says("example-share-c", "1 event: hello from another process\n")
    }),
    Test::with("the_example_in_c_works_with_32_bits", ONE, || {
        says(
            "example-share-c-32",
            "1 event: hello from another process\n",
        )
    }),
    Test::with("the_example_in_rust_works", ONE, || {
        says(
            "example-share-rs",
            "stored 42, read 42\nwrote 43, loaded 43\n",
        )
    }),
    Test::with("the_example_of_a_ring_works", ONE, || {
        says(
            "example-ring-rs",
            "10000 of 10000 messages as they were sent, 0 bytes copied\n",
        )
    }),
    Test::with_debian("the_example_in_python_works", ONE, || {
        python("share.py", "sum 10 copied 0\nsum 10 copied 4096\n")
    }),
    Test::with_debian("the_example_with_numpy_works", ONE, || {
        python("numpy_memmap.py", "sum 6.5\nbytes 4.0\n")
    }),
    Test::with("every_request_works_from_c", ONE, || {
        says("requests", "all requests answered\n")
    }),
    Test::with("every_request_works_from_c_with_32_bits", ONE, || {
        says("requests-32", "all requests answered\n")
    }),
];

fn says(program: &str, words: &str) -> io::Result<()> {
    check(&mut Command::new(program), words)
}

/// Runs a script by the Python of the Debian that the rig shares with the guest.
fn python(script: &str, words: &str) -> io::Result<()> {
    let script = File::open(format!("/lib/mmapdev/{script}"))?;
    let mut command = Command::new("chroot");
    let command = command.args(["/debian", "python3", "-"]);
    check(command.stdin(Stdio::from(script)), words)
}

fn check(command: &mut Command, words: &str) -> io::Result<()> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), words, "{errors}");
    assert!(output.status.success(), "{errors}");
    Ok(())
}
