// SPDX-License-Identifier: GPL-2.0

//! What is said when a request fails: what went wrong, and what to do about it.

use mmapdev_userspace::{abi, control, size};
use rustix::io::Errno;
use std::fmt;
use std::io;

/// Why the program did not do what it was asked for.
pub(crate) enum Failure {
    /// A request failed, in a sentence.
    Request(String),
    /// What there was to say could not be written.
    Output(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(sentence) => f.write_str(sentence),
            Self::Output(error) => write!(f, "cannot write to stdout: {error}"),
        }
    }
}

/// The device that a request was about.
pub(crate) struct Target<'a> {
    name: &'a str,
}

impl<'a> Target<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        Self { name }
    }

    /// Says why any request about a device failed.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        let name = self.name;
        Failure::Request(match errno(error) {
            Some(Errno::NOENT) => {
                format!("there is no device named \"{name}\": mmapdevctl list shows those that there are")
            }
            Some(Errno::NODEV) => format!("the device named \"{name}\" has been destroyed"),
            Some(Errno::OPNOTSUPP) => format!("the device named \"{name}\" {}", self.of_others()),
            _ => format!("the device named \"{name}\": {}", general(error)),
        })
    }

    /// Says why a device was not made.
    pub(crate) fn create_failed(&self, plan: &abi::Create, error: &io::Error) -> Failure {
        let name = self.name;
        let bytes = size::format(plan.device_size);
        Failure::Request(match errno(error) {
            Some(Errno::EXIST) if control::node(name).as_os_str() == control::PATH => {
                format!("\"{name}\" is the name of the control node: choose another name")
            }
            Some(Errno::EXIST) => {
                format!("a device named \"{name}\" exists: destroy it first or choose another name")
            }
            _ if plan.backing == abi::BACKING_FILE => return self.file_failed(plan, error),
            Some(Errno::INVAL) if is_whole_pages(plan.device_size) => format!(
                "--largest-folio {} is none that this machine has: choose a power of two from {} to 2M",
                size::format(plan.largest_folio.into()),
                size::format(page()),
            ),
            Some(Errno::NOSPC) => format!(
                "there is no room for {bytes} more: all devices of memory together may be as large as the module's limit_mib says (half of the memory unless chosen), and 4096 at most; destroy some first, or choose less"
            ),
            _ => return self.size_failed(&bytes, plan.device_size, error),
        })
    }

    /// Says why a device was not made of a file.
    fn file_failed(&self, plan: &abi::Create, error: &io::Error) -> Failure {
        let pages = size::format(page());
        Failure::Request(match errno(error) {
            Some(Errno::BUSY) => "another device has these bytes of the file: destroy it first, or choose others".into(),
            Some(Errno::ISDIR) => "--file is a directory: give a file or a block device".into(),
            Some(Errno::TXTBSY) => "--file is used as swap space: swapoff it first".into(),
            Some(Errno::NXIO) => "the file has no bytes at --file-offset: it has to begin within the file".into(),
            Some(Errno::INVAL) if plan.file_offset % page() != 0 || plan.device_size % page() != 0 => {
                format!("--size and --file-offset have to be multiples of the page size: choose multiples of {pages}")
            }
            Some(Errno::INVAL) if plan.device_size > 0 => "--file is neither a file nor a block device, or has fewer bytes than --size from --file-offset on: leave --size out for all that it has".into(),
            Some(Errno::INVAL) => "--file is neither a file nor a block device, or one that only takes bytes at its end: give another".into(),
            _ => return self.failed(error),
        })
    }

    /// Says why a device was not resized.
    pub(crate) fn resize_failed(&self, bytes: u64, error: &io::Error) -> Failure {
        self.size_failed(&size::format(bytes), bytes, error)
    }

    /// Says why a size was refused.
    fn size_failed(&self, text: &str, bytes: u64, error: &io::Error) -> Failure {
        Failure::Request(match errno(error) {
            Some(Errno::INVAL) if !is_whole_pages(bytes) => format!(
                "--size {text} is no multiple of the page size above 0: choose one of {}",
                size::format(page()),
            ),
            Some(Errno::NOSPC) => format!(
                "there is no room for --size {text}: all devices of memory together may be as large as the module's limit_mib says (half of the memory unless chosen); destroy some, or choose less"
            ),
            Some(Errno::FBIG) => format!("--size {text} is more than any file can have: choose less"),
            Some(Errno::NOMEM) => format!(
                "--size {text} is more than the machine's memory, or memory is short now: choose less, or free some"
            ),
            _ => return self.failed(error),
        })
    }

    /// Says whose the bytes are that this is not done to.
    fn of_others(&self) -> &'static str {
        let info = control::Control::open().and_then(|control| control.info(self.name));
        match info.map(|info| info.backing) {
            Ok(abi::BACKING_FILE) => "is that of a file: change the file itself",
            Ok(abi::BACKING_PCI) => "is memory of a PCI device, which is as it is: unbind the driver mmapdev from that device to end it",
            _ => "is none that this can be done to",
        }
    }

    /// Says why a range was not given back.
    pub(crate) fn punch_failed(&self, length: u64, error: &io::Error) -> Failure {
        Failure::Request(match errno(error) {
            Some(Errno::INVAL) if length == 0 => {
                "--length 0 is no range: give how many bytes".into()
            }
            Some(Errno::INVAL) => {
                "--offset and --length make more than any file can have: choose less".into()
            }
            _ => return self.failed(error),
        })
    }

    /// Says why the device's own node could not be opened.
    pub(crate) fn open_failed(&self, error: &io::Error) -> Failure {
        let node = control::node(self.name);
        let node = node.display();
        match errno(error) {
            // Without the module there is no node of any device.
            Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => match control::Control::open() {
                Err(no_control) if errno(&no_control) == Some(Errno::NOENT) => {
                    control_failed(&no_control)
                }
                _ => self.failed(&Errno::NOENT.into()),
            },
            Some(Errno::ACCESS | Errno::PERM) => Failure::Request(format!(
                "{node} is not to be read by this user: run this as root, or have root chmod it"
            )),
            _ => Failure::Request(format!("{node}: {}", general(error))),
        }
    }
}

/// Says why the control node did not do what it was asked for, whichever device that was about.
pub(crate) fn control_failed(error: &io::Error) -> Failure {
    let path = control::PATH;
    Failure::Request(match errno(error) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => {
            format!("there is no {path}: the module is not loaded: insmod mmapdev.ko")
        }
        _ => format!("{path}: {}", general(error)),
    })
}

/// What an error means whatever was asked for.
fn general(error: &io::Error) -> String {
    match errno(error) {
        Some(Errno::ACCESS | Errno::PERM) => "this is for root alone: run it as root".into(),
        Some(Errno::NOMEM) => "memory is short: free some, or try again later".into(),
        Some(Errno::NOTTY | Errno::TOOBIG) => {
            "the module that is loaded does not know this request: load the one that came with this program".into()
        }
        _ => error.to_string(),
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

fn page() -> u64 {
    rustix::param::page_size() as u64
}

fn is_whole_pages(bytes: u64) -> bool {
    bytes > 0 && bytes % page() == 0
}
