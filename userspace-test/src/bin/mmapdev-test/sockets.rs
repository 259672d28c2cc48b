// SPDX-License-Identifier: GPL-2.0

//! Sockets that send from a mapping and receive into one, and that carry the device itself to another process.

use crate::Test;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::io::{pread, pwrite};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

const SIZE: usize = 8 * MIB;
const HUGE: &str = "huge=1 size_mib=8";
const SMALL: &str = "huge=0 size_mib=8";

pub(crate) const TESTS: &[Test] = &[
    Test::with("a_unix_socket_sends_from_the_mapping", HUGE, || {
        send(unix()?, SendFlags::empty())
    }),
    Test::with(
        "a_unix_socket_sends_from_the_mapping_in_small_pages",
        SMALL,
        || send(unix()?, SendFlags::empty()),
    ),
    Test::with("a_unix_socket_receives_into_the_mapping", HUGE, || {
        receive(unix()?)
    }),
    Test::with(
        "a_unix_socket_receives_into_the_mapping_in_small_pages",
        SMALL,
        || receive(unix()?),
    ),
    Test::with("tcp_sends_from_the_mapping", HUGE, || {
        send(tcp()?, SendFlags::empty())
    }),
    Test::with("tcp_sends_from_the_mapping_in_small_pages", SMALL, || {
        send(tcp()?, SendFlags::empty())
    }),
    Test::with("tcp_receives_into_the_mapping", HUGE, || receive(tcp()?)),
    Test::with(
        "tcp_receives_into_the_mapping_in_small_pages",
        SMALL,
        || receive(tcp()?),
    ),
    Test::with("tcp_sends_the_mapping_by_zerocopy", HUGE, || {
        send(zerocopy()?, ZEROCOPY)
    }),
    Test::with(
        "tcp_sends_the_mapping_by_zerocopy_in_small_pages",
        SMALL,
        || send(zerocopy()?, ZEROCOPY),
    ),
    Test::with(
        "a_device_that_is_handed_over_is_the_same_memory",
        HUGE,
        hand_over,
    ),
];

/// `MSG_ZEROCOPY`, which rustix does not name.
const ZEROCOPY: SendFlags = SendFlags::from_bits_retain(0x0400_0000);

/// Two connected sockets, the first of which sends.
type Pair = (Box<dyn Socket>, Box<dyn Socket>);

trait Socket: AsFd + Read + Send + Sync {}
impl Socket for UnixStream {}
impl Socket for TcpStream {}

fn unix() -> io::Result<Pair> {
    let (one, other) = UnixStream::pair()?;
    Ok((Box::new(one), Box::new(other)))
}

fn streams() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    Ok((one, listener.accept()?.0))
}

fn tcp() -> io::Result<Pair> {
    let (one, other) = streams()?;
    Ok((Box::new(one), Box::new(other)))
}

fn zerocopy() -> io::Result<Pair> {
    let (one, other) = streams()?;
    mmapdev_userspace::mapping::allow_zerocopy(&one)?;
    Ok((Box::new(one), Box::new(other)))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at / PAGE * 7 + at % 241) as u8)
        .collect()
}

/// Not at the start of a page, and across huge pages.
const PLACE: usize = PAGE + 3;
const LEN: usize = 2 * HUGE_PAGE + 5 * PAGE + 11;

fn send((sender, mut receiver): Pair, flags: SendFlags) -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    // The second half is not mapped yet when it is sent.
    let bytes = pattern(LEN);
    let (first, second) = bytes.split_at(HUGE_PAGE);
    mapping.write(PLACE, first);
    let place = (PLACE + HUGE_PAGE) as u64;
    assert_eq!(pwrite(&device, second, place), Ok(second.len()));
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut bytes = vec![0; LEN];
            receiver.read_exact(&mut bytes).map(|()| bytes)
        });
        let mut sent = 0;
        while sent < LEN {
            sent += mapping.send_to(&sender, PLACE + sent, (LEN - sent).min(MIB), flags)?;
        }
        reader.join().expect("the reader")
    })?;
    assert!(seen == bytes);
    Ok(())
}

fn receive((sender, receiver): Pair) -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let source = Mapping::anonymous(LEN)?;
    source.write(0, &pattern(LEN));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut sent = 0;
            while sent < LEN {
                sent += source.send_to(&sender, sent, LEN - sent, SendFlags::empty())?;
            }
            Ok::<_, io::Error>(())
        });
        let mut received = 0;
        while received < LEN {
            let count = mapping.receive_from(&receiver, PLACE + received, LEN - received)?;
            assert!(count > 0, "the sender has gone");
            received += count;
        }
        writer.join().expect("the writer")
    })?;
    assert!(mapping.read(PLACE, LEN) == pattern(LEN));
    let mut bytes = vec![0; LEN];
    assert_eq!(pread(&device, &mut bytes, PLACE as u64)?, LEN);
    assert!(bytes == pattern(LEN));
    Ok(())
}

fn hand_over() -> io::Result<()> {
    let (one, other) = UnixStream::pair()?;
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.write(5, b"here");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let files = [device.as_fd()];
    assert!(message.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(
        &one,
        &[IoSlice::new(b"x")],
        &mut message,
        SendFlags::empty(),
    )?;

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        &other,
        &mut [IoSliceMut::new(&mut byte)],
        &mut message,
        RecvFlags::empty(),
    )?;
    let received = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let received = received.expect("a descriptor");
    drop(device);
    let theirs = Mapping::shared(&received, SIZE)?;
    assert_eq!(theirs.read(5, 4), b"here");
    theirs.write(5, b"away");
    assert_eq!(mapping.read(5, 4), b"away");
    Ok(())
}
