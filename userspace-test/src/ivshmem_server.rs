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
//!
//! What a client does not read at once is kept for it, and no more than who is there now: that somebody has come and gone is
//! forgotten, unless the client knows of it. Nobody waits for a client that does not read.

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::time::Timespec;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

const VERSION: i64 = 0;
const MEMORY: i64 = -1;
/// The specification's: a number has 16 bits.
const MOST_CLIENTS: usize = 1 << 16;

/// The server, and who is connected.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    memory: Arc<OwnedFd>,
    vectors: usize,
    clients: Vec<Client>,
    /// A descriptor to give away for the moment in which a client is refused because there are no more.
    spare: Option<File>,
    refusal: Option<io::Error>,
}

#[derive(Debug)]
struct Client {
    number: i64,
    socket: UnixStream,
    /// One for each vector.
    doorbells: Vec<Arc<OwnedFd>>,
    /// What it has not been told yet, as its socket is full.
    untold: VecDeque<Message>,
}

/// A number, with or without a descriptor.
type Message = (i64, Option<Arc<OwnedFd>>);

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
            memory: Arc::new(memory),
            vectors,
            clients: Vec::new(),
            spare: Some(spare()?),
            refusal: None,
        })
    }

    /// Why a client was refused since this was last asked, if one was.
    pub fn take_refusal(&mut self) -> Option<io::Error> {
        self.refusal.take()
    }

    /// Waits for one thing to happen, and does what has to be done. Returns how many clients there are then.
    pub fn step(&mut self) -> io::Result<usize> {
        if self.spare.is_none() {
            self.spare = spare().ok();
        }
        // Without the spare one a client that comes could not even be refused.
        let listening = match self.spare {
            Some(_) => PollFlags::IN,
            None => PollFlags::empty(),
        };
        let mut polled = vec![PollFd::new(&self.listener, listening)];
        polled.extend(self.clients.iter().map(|client| {
            let events = match client.untold.is_empty() {
                true => PollFlags::IN,
                false => PollFlags::IN | PollFlags::OUT,
            };
            PollFd::new(&client.socket, events)
        }));
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let limit = self.spare.is_none().then_some(&second);
        match poll(&mut polled, limit) {
            Err(rustix::io::Errno::INTR) => return Ok(self.clients.len()),
            other => other?,
        };
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (listener, clients) = ready.split_first().unwrap_or((&false, &[]));
        // From the last on, so that the places of the others stay.
        for (index, _) in clients.iter().enumerate().rev().filter(|(_, &ready)| ready) {
            let client = &mut self.clients[index];
            if is_gone(&mut client.socket) || client.tell_more().is_err() {
                let gone = self.clients.remove(index).number;
                for client in &mut self.clients {
                    client.tell_of_end(gone, self.vectors);
                }
            }
        }
        if *listener {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    if let Err(error) = self.welcome(socket) {
                        self.refusal = Some(error);
                    }
                }
                Err(error) if is_passing(&error) => {}
                Err(error) if has_no_descriptors(&error) => {
                    self.spare = None;
                    // Accepted and closed. It may be gone by now, or somebody else may have taken the descriptor.
                    drop(self.listener.accept());
                    self.spare = spare().ok();
                    self.refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.clients.len())
    }

    /// Takes a client in, or fails, and nobody has heard of it.
    fn welcome(&mut self, socket: UnixStream) -> io::Result<()> {
        // None that does not listen keeps the others waiting.
        socket.set_nonblocking(true)?;
        let is_free = |number: &i64| self.clients.iter().all(|client| client.number != *number);
        let number = (0..MOST_CLIENTS as i64).find(is_free);
        let number = number.ok_or_else(|| io::Error::other("there are no more numbers"))?;
        let doorbell = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        let mut client = Client {
            number,
            socket,
            doorbells: (0..self.vectors).map(doorbell).collect::<Result<_, _>>()?,
            untold: [
                (VERSION, None),
                (number, None),
                (MEMORY, Some(self.memory.clone())),
            ]
            .into(),
        };
        for other in &self.clients {
            client.untold.extend(other.introduction());
        }
        let own: Vec<Message> = client.introduction().collect();
        client.untold.extend(own);
        client.tell_more()?;
        for other in &mut self.clients {
            other.untold.extend(client.introduction());
            // One that cannot be told is found gone by the next step.
            if other.tell_more().is_err() {
                let _ = other.socket.shutdown(std::net::Shutdown::Both);
            }
        }
        self.clients.push(client);
        Ok(())
    }
}

impl Client {
    /// What others are told of it when they meet.
    fn introduction(&self) -> impl Iterator<Item = Message> + '_ {
        let doorbells = self.doorbells.iter();
        doorbells.map(|doorbell| (self.number, Some(doorbell.clone())))
    }

    /// Tells it that another has gone, who had so many doorbells; of whom it has heard nothing, it hears nothing.
    fn tell_of_end(&mut self, gone: i64, vectors: usize) {
        let is_of = |(number, _): &Message| *number == gone;
        let before = self.untold.iter().filter(|message| is_of(message));
        // An earlier one of that number, of whom it has heard, may have gone before it.
        let (doorbells, ends): (Vec<_>, Vec<_>) = before.partition(|(_, file)| file.is_some());
        let has_heard = doorbells.len() < vectors || !ends.is_empty();
        self.untold.retain(|message| !is_of(message));
        if has_heard {
            self.untold.push_back((gone, None));
        }
        if self.tell_more().is_err() {
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Tells it as much of what it has not been told as its socket takes.
    fn tell_more(&mut self) -> io::Result<()> {
        while let Some((number, file)) = self.untold.front() {
            match self.tell(*number, file.as_ref().map(|file| file.as_fd())) {
                Err(error) if is_passing(&error) => return Ok(()),
                told => told?,
            }
            self.untold.pop_front();
        }
        Ok(())
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

/// Any descriptor.
fn spare() -> io::Result<File> {
    File::open("/dev/null")
}

fn has_no_descriptors(error: &io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE]
        .map(Some)
        .contains(&error.raw_os_error())
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
    use crate::child::Child;
    use rustix::io::{read, write};
    use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use rustix::process::{setrlimit, Resource, Rlimit};
    use std::io::{IoSliceMut, Read, Write};
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

    impl Fixture {
        /// One more descriptor.
        fn folder_again(&self) -> std::io::Result<OwnedFd> {
            Ok(std::fs::File::open(&self.folder)?.into())
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let removed = std::fs::remove_dir_all(&self.folder);
            assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
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
    fn who_does_not_listen_keeps_nobody_waiting_and_costs_no_more_than_who_is_there() {
        let mut fixture = Fixture::new("deaf", 64);
        let deaf = fixture.connect();
        for _ in 0..1000 {
            let client = fixture.connect();
            greeting(&client, 1);
            drop(client);
            while fixture.server.clients.len() > 1 {
                fixture.server.step().unwrap();
            }
            assert!(fixture.server.clients[0].untold.len() <= 64 + 1);
        }
        assert!(!fixture.server.clients[0].untold.is_empty());
        // What it hears in the end is whole: of each that came and was heard of it hears that it went.
        greeting(&deaf, 0);
        (0..64).for_each(|_| drop(doorbell(&deaf, 0)));
        let last = fixture.connect();
        let mut heard = 0;
        while heard < 64 {
            if !fixture.server.clients[0].untold.is_empty() {
                fixture.server.step().unwrap();
            }
            let (number, file) = hear(&deaf);
            assert_eq!(number, 1);
            heard = if file.is_some() { heard + 1 } else { 0 };
        }
        drop(last);
    }

    #[test]
    fn clients_that_are_slow_to_read_are_told_all() {
        const CLIENTS: i64 = 8;
        const VECTORS: usize = 64;
        let mut fixture = Fixture::new("slow", VECTORS);
        let clients: Vec<UnixStream> = (0..CLIENTS).map(|_| fixture.connect()).collect();
        let is_told = |fixture: &Fixture| {
            let mut clients = fixture.server.clients.iter();
            clients.all(|client| client.untold.is_empty())
        };
        assert!(!is_told(&fixture), "more than a socket takes");
        std::thread::scope(|scope| {
            for (own, client) in (0..CLIENTS).zip(&clients) {
                scope.spawn(move || {
                    greeting(client, own);
                    let others = (0..own).chain([own]).chain(own + 1..CLIENTS);
                    for other in others {
                        (0..VECTORS).for_each(|_| drop(doorbell(client, other)));
                    }
                });
            }
            while !is_told(&fixture) {
                fixture.server.step().unwrap();
            }
        });
        assert_eq!(fixture.server.clients.len(), clients.len());
    }

    #[test]
    fn who_comes_when_there_are_no_descriptors_is_refused_alone() {
        // A process of its own, which has few.
        let child = Child::run(|| {
            let mut fixture = Fixture::new("few", 4);
            let first = fixture.connect();
            let last = std::fs::read_dir("/proc/self/fd").unwrap();
            let last = last.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let last: u64 = last.map(|name| name.parse().unwrap()).max().unwrap();
            let limit = Rlimit {
                current: Some(last + 20),
                maximum: Some(last + 20),
            };
            setrlimit(Resource::Nofile, limit).unwrap();
            let mut others = Vec::new();
            // First those of its doorbells are missing, and then that of its socket.
            for taken in [1, 4] {
                let mut files: Vec<OwnedFd> = Vec::new();
                let client = UnixStream::connect(fixture.folder.join("socket")).unwrap();
                while let Ok(file) = fixture.folder_again() {
                    files.push(file);
                }
                files.truncate(files.len() - (4 - taken));
                assert_eq!(fixture.server.step().unwrap(), 1);
                assert!(fixture.server.take_refusal().is_some());
                drop(files);
                assert_eq!((&client).read(&mut [0]).unwrap(), 0, "it is closed");
                others.push(client);
            }
            greeting(&first, 0);
            (0..4).for_each(|_| drop(doorbell(&first, 0)));
            let next = fixture.connect();
            greeting(&next, 1);
            doorbell(&first, 1);
            Vec::new()
        });
        child.unwrap().join();
    }
}
