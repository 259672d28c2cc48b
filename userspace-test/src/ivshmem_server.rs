// SPDX-License-Identifier: GPL-2.0

//! The server of ivshmem: gives emulators the memory that their guests share, and each the doorbells of the others.
//!
//! The protocol is QEMU's (docs/specs/ivshmem-spec). Each message is a number of eight bytes, little-endian, with or
//! without a descriptor. A client that has connected is told
//!
//! 1. the version of the protocol, 0;
//! 2. its own number;
//! 3. -1, with the memory;
//! 4. of each other client, for each vector: its number, with the eventfd that interrupts its guest;
//! 5. the same of itself: by these it is interrupted.
//!
//! Later it is told the same of each client that comes, and of one that goes its number without a descriptor.

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

const VERSION: i64 = 0;
const MEMORY: i64 = -1;
/// The specification's: a number has 16 bits.
const MOST_CLIENTS: usize = 1 << 16;

/// The server, and who is connected.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    memory: OwnedFd,
    vectors: usize,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    number: i64,
    socket: UnixStream,
    /// One for each vector.
    doorbells: Vec<OwnedFd>,
}

impl Server {
    /// Makes `size` bytes of memory, and listens at `path`; each client has so many vectors.
    pub fn bind(path: &Path, size: u64, vectors: usize) -> io::Result<Self> {
        let memory = memfd_create("ivshmem", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, size)?;
        let listener = UnixListener::bind(path)?;
        // A client may be gone before it is accepted.
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            memory,
            vectors,
            clients: Vec::new(),
        })
    }

    /// Waits for one thing to happen, and does what has to be done. Returns how many clients there are then.
    pub fn step(&mut self) -> io::Result<usize> {
        let sockets = self.clients.iter().map(|client| client.socket.as_fd());
        let files = [self.listener.as_fd()].into_iter().chain(sockets);
        let mut polled: Vec<_> = files
            .map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN))
            .collect();
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => return Ok(self.clients.len()),
            other => other?,
        };
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (listener, clients) = ready.split_first().unwrap_or((&false, &[]));
        // From the last on, so that the places of the others stay.
        for (index, _) in clients.iter().enumerate().rev().filter(|(_, &ready)| ready) {
            if is_gone(&mut self.clients[index].socket) {
                let gone = self.clients.remove(index).number;
                self.tell_all(|client| client.tell(gone, None));
            }
        }
        if *listener {
            match self.listener.accept() {
                Ok((socket, _)) => self.welcome(socket)?,
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.clients.len())
    }

    fn welcome(&mut self, socket: UnixStream) -> io::Result<()> {
        // None that does not listen keeps the others waiting.
        socket.set_nonblocking(true)?;
        let is_free = |number: &i64| self.clients.iter().all(|client| client.number != *number);
        let Some(number) = (0..MOST_CLIENTS as i64).find(is_free) else {
            return Ok(());
        };
        let doorbell = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let client = Client {
            number,
            socket,
            doorbells: (0..self.vectors).map(doorbell).collect::<Result<_, _>>()?,
        };
        self.tell_all(|other| other.tell_of(&client));
        let told = client
            .tell(VERSION, None)
            .and_then(|()| client.tell(number, None))
            .and_then(|()| client.tell(MEMORY, Some(self.memory.as_fd())))
            .and_then(|()| {
                self.clients
                    .iter()
                    .try_for_each(|other| client.tell_of(other))
            })
            .and_then(|()| client.tell_of(&client));
        if told.is_ok() {
            self.clients.push(client);
        } else {
            self.tell_all(|other| other.tell(number, None));
        }
        Ok(())
    }

    /// Tells all clients something. One that cannot be told is closed, and found gone by the next step.
    fn tell_all(&self, tell: impl Fn(&Client) -> io::Result<()>) {
        for client in &self.clients {
            if tell(client).is_err() {
                // It may be closed already.
                let _ = client.socket.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

impl Client {
    fn tell_of(&self, other: &Self) -> io::Result<()> {
        let mut doorbells = other.doorbells.iter();
        doorbells.try_for_each(|doorbell| self.tell(other.number, Some(doorbell.as_fd())))
    }

    fn tell(&self, number: i64, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
        if !files.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&files));
        }
        let bytes = number.to_le_bytes();
        let words = [IoSlice::new(&bytes)];
        match sendmsg(&self.socket, &words, &mut control, SendFlags::NOSIGNAL)? {
            8 => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }
}

/// Whether a client has gone; one that says something has not understood, and goes.
fn is_gone(socket: &mut UnixStream) -> bool {
    let heard = socket.read(&mut [0]).map(|_len| ());
    !heard.is_err_and(|error| is_passing(&error))
}

fn is_passing(error: &io::Error) -> bool {
    let passing = [
        ErrorKind::WouldBlock,
        ErrorKind::Interrupted,
        ErrorKind::ConnectionAborted,
    ];
    passing.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::{Server, MEMORY};
    use rustix::io::{read, write};
    use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use std::io::{IoSliceMut, Write};
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    /// A server in a folder of its own.
    struct Fixture {
        server: Server,
        folder: PathBuf,
    }

    impl Fixture {
        fn new(name: &str, vectors: usize) -> Self {
            let name = format!("mmapdev-ivshmem-{}-{name}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir(&folder).unwrap();
            let server = Server::bind(&folder.join("socket"), 8192, vectors).unwrap();
            Self { server, folder }
        }

        /// A new client, once the server has it.
        fn connect(&mut self) -> UnixStream {
            let client = UnixStream::connect(self.folder.join("socket")).unwrap();
            let before = self.server.clients.len();
            assert_eq!(self.server.step().unwrap(), before + 1);
            client
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    /// The next message.
    fn hear(client: &UnixStream) -> (i64, Option<OwnedFd>) {
        let mut bytes = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut words = [IoSliceMut::new(&mut bytes)];
        let heard = recvmsg(client, &mut words, &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(heard.bytes, 8);
        let files = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let mut files: Vec<OwnedFd> = files.flatten().collect();
        assert!(files.len() <= 1);
        (i64::from_le_bytes(bytes), files.pop())
    }

    fn number(client: &UnixStream) -> i64 {
        let (number, file) = hear(client);
        assert!(file.is_none());
        number
    }

    fn doorbell(client: &UnixStream, of: i64) -> OwnedFd {
        let (number, file) = hear(client);
        assert_eq!(number, of);
        file.unwrap()
    }

    /// All that a new client hears first, which is the `own`th: the memory, and its doorbells.
    fn greeting(client: &UnixStream, own: i64) -> OwnedFd {
        assert_eq!(number(client), 0, "the version");
        assert_eq!(number(client), own);
        let (word, memory) = hear(client);
        assert_eq!(word, MEMORY);
        memory.unwrap()
    }

    #[test]
    fn clients_have_one_memory_and_each_others_doorbells() {
        let mut fixture = Fixture::new("doorbells", 2);
        let one = fixture.connect();
        let memory = greeting(&one, 0);
        assert_eq!(rustix::fs::fstat(&memory).unwrap().st_size, 8192);
        let own = [doorbell(&one, 0), doorbell(&one, 0)];

        let other = fixture.connect();
        let same = greeting(&other, 1);
        rustix::io::pwrite(&memory, b"shared", 5).unwrap();
        let mut bytes = [0; 6];
        rustix::io::pread(&same, &mut bytes, 5).unwrap();
        assert_eq!(&bytes, b"shared");

        let ones = [doorbell(&other, 0), doorbell(&other, 0)];
        let others = [doorbell(&one, 1), doorbell(&one, 1)];
        let others_own = [doorbell(&other, 1), doorbell(&other, 1)];
        for (rings, hears) in [(&ones, &own), (&others, &others_own)] {
            for (index, ring) in rings.iter().enumerate() {
                write(ring, &1u64.to_ne_bytes()).unwrap();
                let mut count = [0; 8];
                read(&hears[index], &mut count).unwrap();
                assert_eq!(u64::from_ne_bytes(count), 1);
                let nothing = read(&hears[1 - index], &mut count);
                assert_eq!(nothing, Err(rustix::io::Errno::AGAIN));
            }
        }
    }

    #[test]
    fn who_goes_is_told_of_and_its_number_is_given_again() {
        let mut fixture = Fixture::new("leaving", 1);
        let (first, second) = (fixture.connect(), fixture.connect());
        drop(first);
        assert_eq!(fixture.server.step().unwrap(), 1);
        let third = fixture.connect();
        greeting(&third, 0);
        assert_eq!(number_after_greeting(&second), 0, "the first has gone");
        doorbell(&second, 0);
        doorbell(&third, 1);
        doorbell(&third, 0);
    }

    fn number_after_greeting(second: &UnixStream) -> i64 {
        greeting(second, 1);
        doorbell(second, 0);
        doorbell(second, 1);
        number(second)
    }

    #[test]
    fn who_says_anything_is_not_understood_and_goes() {
        let mut fixture = Fixture::new("talking", 1);
        let mut client = fixture.connect();
        client.write_all(b"?").unwrap();
        assert_eq!(fixture.server.step().unwrap(), 0);
    }

    #[test]
    fn who_does_not_listen_keeps_nobody_waiting() {
        let mut fixture = Fixture::new("deaf", 64);
        let deaf = fixture.connect();
        // What it does not read fills its socket in time, and then it goes.
        let mut left = false;
        for _ in 0..10_000 {
            let client = UnixStream::connect(fixture.folder.join("socket")).unwrap();
            fixture.server.step().unwrap();
            drop(client);
            while fixture.server.clients.iter().any(|c| c.number != 0) {
                fixture.server.step().unwrap();
            }
            left = fixture.server.clients.is_empty();
            if left {
                break;
            }
        }
        assert!(left);
        drop(deaf);
    }
}
