// SPDX-License-Identifier: GPL-2.0

//! All devices of the module, by name: making them, finding them, ending them.
//!
//! # Lock order
//!
//! The registry's lock, then the lock of all misc devices, which registering and deregistering take. Opening
//! a device runs under the latter, and takes the registry's at no time. Nor does opening a file in debugfs, which is removed
//! under the registry's lock. The pages of a device that ends go after the registry's lock was let go of: that may have to wait
//! for a write.

use crate::abi;
use crate::abstractions::debugfs::{DebugFile, DebugFolder};
use crate::abstractions::device_memory::{CacheMode, DeviceMemory};
use crate::abstractions::file_watch::{FileWatch, Watcher};
use crate::abstractions::misc_device::Registration;
use crate::abstractions::pseudo_fs::PseudoMount;
use crate::abstractions::stored_file::{QueueUser, StoredFile};
use crate::backing::bar::BarBacking;
use crate::backing::file::FileBacking;
use crate::backing::memory::Memory;
use crate::budget::{Budget, Reservation};
use crate::counters::Counters;
use crate::device::{AnyDevice, Device};
use crate::mapping::MappedBacking;
use crate::name::Name;
use crate::open_device::{self, OpenDevice};
use crate::parameters::Huge;
use crate::trace;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::str::CString;
use kernel::sync::{Arc, Mutex};

/// How many devices there may be.
const MAX_DEVICES: usize = 4096;

/// What a device is made from, checked.
pub(crate) struct Plan {
    pub(crate) name: Name,
    pub(crate) source: Source,
}

/// What is to keep the bytes of a device.
pub(crate) enum Source {
    Memory {
        /// Bytes: a multiple of the page size, above zero.
        size: u64,
        huge: Huge,
        /// The order of the largest folio.
        max_order: u32,
    },
    File {
        file: Arc<StoredFile>,
        /// Bytes that the device has at most; fewer where the file has fewer.
        most: u64,
    },
    Bar {
        memory: Arc<DeviceMemory>,
        /// How it is cached where nobody asks for it to be uncached.
        mode: CacheMode,
    },
}

impl Source {
    /// Returns how many bytes the device is to have.
    fn size(&self) -> u64 {
        match self {
            Self::Memory { size, .. } => *size,
            Self::File { file, most } => file.size().min(*most),
            Self::Bar { memory, .. } => memory.len(),
        }
    }
}

/// The devices.
#[pin_data]
pub(crate) struct Registry {
    mount: Arc<PseudoMount>,
    debug_folder: Arc<DebugFolder>,
    budget: Arc<Budget>,
    queues: QueueUser,
    #[pin]
    devices: Mutex<Devices>,
}

struct Devices {
    last_id: u64,
    count: usize,
    by_id: RBTree<u64, Entry>,
    /// The ids of the same ones.
    by_name: RBTree<Name, u64>,
    /// Those that are ending: they may yet write to what they are stored in.
    ending: RBTree<u64, Entry>,
}

/// A device.
struct Entry {
    device: Arc<dyn AnyDevice>,
    // Until it ends.
    presence: Option<Presence>,
}

/// What makes a device one that can be opened.
struct Presence {
    // Where the kernel has no way to, the size is looked at with each call only.
    _watch: Option<FileWatch<Device<FileBacking>>>,
    _debug_file: DebugFile<Counters>,
    node: Node,
}

/// The node of a device, which is there until this is dropped.
enum Node {
    Memory(#[expect(dead_code)] Registered<Memory>),
    File(#[expect(dead_code)] Registered<FileBacking>),
    Bar(#[expect(dead_code)] Registered<BarBacking>),
}

type Registered<B> = Pin<KBox<Registration<OpenDevice<B>>>>;

impl Registry {
    /// Makes a registry of devices whose inodes live on `mount`, and whose counters show in `debug_folder`; all together
    /// they have `budget`, and do on `queues` what has to wait.
    pub(crate) fn new(
        mount: Arc<PseudoMount>,
        debug_folder: Arc<DebugFolder>,
        budget: Arc<Budget>,
        queues: QueueUser,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            mount,
            debug_folder,
            budget,
            queues,
            devices <- new_mutex!(Devices {
                last_id: 0,
                count: 0,
                by_id: RBTree::new(),
                by_name: RBTree::new(),
                ending: RBTree::new(),
            }),
        })
    }

    /// Returns where the inodes of devices live.
    pub(crate) fn mount(&self) -> &Arc<PseudoMount> {
        &self.mount
    }

    /// Returns the queues for work of the devices that has to wait.
    pub(crate) fn queues(&self) -> &QueueUser {
        &self.queues
    }

    /// Makes a device and its node, and returns its id. May sleep.
    ///
    /// Fails with `EEXIST` where the name is taken, `ENOSPC` where there are too many devices or bytes, `EFBIG` for a
    /// size that no file can have, and `ENOMEM`.
    pub(crate) fn create(self: &Arc<Self>, plan: &Plan) -> Result<u64> {
        let size = plan.source.size();
        match self.make(plan) {
            Ok((id, largest_folio)) => {
                trace::create(id, size, largest_folio.into(), 0);
                Ok(id)
            }
            Err(error) => {
                trace::create(0, size, 0, error.to_errno().into());
                Err(error)
            }
        }
    }

    /// Makes a device and its node, and returns its id and the bytes in its largest folio.
    fn make(self: &Arc<Self>, plan: &Plan) -> Result<(u64, u32)> {
        // Where it fails late, the device of a file goes after the lock: `sync()` may be at it and at a disk.
        let mut unmade: Option<Arc<Device<FileBacking>>> = None;
        let mut devices = self.devices.lock();
        if devices.by_name.get(&plan.name).is_some() {
            return Err(EEXIST);
        }
        if devices.count == MAX_DEVICES {
            return Err(ENOSPC);
        }
        let id = devices.last_id + 1;
        let counters = Arc::new(Counters::new()?, GFP_KERNEL)?;
        // Once the node is there, somebody may have it open, and nothing may fail any more.
        let place = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let place_of_name = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let size = plan.source.size();
        let entry = match &plan.source {
            Source::Memory {
                size,
                huge,
                max_order,
            } => {
                let reservation = Reservation::new(self.budget.clone(), *size)?;
                let (mount, counted) = (self.mount.clone(), counters.clone());
                let memory = Memory::new(mount, reservation, *size, *huge, *max_order, counted);
                let device = Device::new(id, plan.name, *size, memory, counters.clone())?;
                self.publish(device, counters, None, Node::Memory)?
            }
            Source::File { file, most } => {
                let overlaps = |other: &Entry| other.device.overlaps(file, *most);
                if devices.by_id.values().any(overlaps) || devices.ending.values().any(overlaps) {
                    return Err(EBUSY);
                }
                let backing = FileBacking::new(
                    &crate::FILE_SYSTEM,
                    file.clone(),
                    size,
                    *most,
                    counters.clone(),
                )?;
                let device = Device::new(id, plan.name, size, Ok(backing), counters.clone())?;
                unmade = Some(device.clone());
                device.backing().begin_to_sync();
                let watch = match FileWatch::new(file, device.clone()) {
                    // Then each call looks for itself.
                    Err(error) if error == EOPNOTSUPP => None,
                    watch => Some(watch?),
                };
                // What it has become since its size was asked for is no event.
                Device::file_changed(device.as_arc_borrow());
                self.publish(device, counters, watch, Node::File)?
            }
            Source::Bar { memory, mode } => {
                let backing = BarBacking::new(memory.clone(), *mode);
                let device = Device::new(id, plan.name, size, Ok(backing), counters.clone())?;
                self.publish(device, counters, None, Node::Bar)?
            }
        };
        let largest_folio = entry.device.largest_folio();
        devices.by_id.insert(place.into_node(id, entry));
        devices
            .by_name
            .insert(place_of_name.into_node(plan.name, id));
        devices.last_id = id;
        devices.count += 1;
        drop(devices);
        drop(unmade);
        Ok((id, largest_folio))
    }

    /// Makes the node of a device, after everything else that it needs.
    fn publish<B: MappedBacking>(
        self: &Arc<Self>,
        device: Arc<Device<B>>,
        counters: Arc<Counters>,
        watch: Option<FileWatch<Device<FileBacking>>>,
        to_node: fn(Registered<B>) -> Node,
    ) -> Result<Entry> {
        let name = device.name();
        let node = CString::try_from_fmt(fmt!("mmapdev{}{}", name.separator(), name.as_str()))?;
        let debug_file = self.debug_folder.file(&node, counters);
        let data = open_device::Node {
            device: device.clone(),
            registry: self.clone(),
        };
        let node = KBox::pin_init(Registration::new(node, data), GFP_KERNEL)?;
        Ok(Entry {
            device,
            presence: Some(Presence {
                _watch: watch,
                _debug_file: debug_file,
                node: to_node(node),
            }),
        })
    }

    /// Ends a device, used or not, as somebody asks for. May sleep.
    ///
    /// Fails with `ENOENT` where there is none of that name, and with `EOPNOTSUPP` where it is a BAR: that ends when its
    /// driver is unbound.
    pub(crate) fn destroy(&self, name: &Name) -> Result {
        let id = self.devices.lock().find(name)?;
        self.destroy_id(id).map_err(|error| match error {
            error if error == ENODEV => ENOENT,
            error => error,
        })
    }

    /// Ends the device of an id, as [`Self::destroy`] does. Fails with `ENODEV` where that has happened.
    pub(crate) fn destroy_id(&self, id: u64) -> Result {
        if self.is_bar(id) {
            return Err(EOPNOTSUPP);
        }
        self.remove(id)
    }

    fn is_bar(&self, id: u64) -> bool {
        let devices = self.devices.lock();
        let entry = devices.by_id.get(&id);
        let presence = entry.and_then(|entry| entry.presence.as_ref());
        presence.is_some_and(|presence| matches!(presence.node, Node::Bar(_)))
    }

    /// Ends the device of an id, whatever it is. May sleep. Fails with `ENODEV` where that has happened.
    pub(crate) fn remove(&self, id: u64) -> Result {
        let mut devices = self.devices.lock();
        let entry = devices.by_id.get_mut(&id).ok_or(ENODEV)?;
        let device = entry.device.clone();
        // The node goes under the lock, so that the name is free for whoever takes the lock next.
        entry.presence = None;
        if let Some(entry) = devices.by_id.remove_node(&id) {
            devices.ending.insert(entry);
            devices.by_name.remove(device.name());
            devices.count -= 1;
        }
        drop(devices);
        device.end();
        let ended = self.devices.lock().ending.remove(&id);
        drop(ended);
        Ok(())
    }

    /// Ends all devices, which nobody has open or can open any more. Each knows the registry, so that neither would
    /// ever go without this. May sleep.
    pub(crate) fn clear(&self) {
        loop {
            let devices = self.devices.lock();
            let first = devices.by_id.keys().next().copied();
            drop(devices);
            match first {
                // Nobody else ends one any more.
                Some(id) => drop(self.remove(id)),
                None => return,
            }
        }
    }

    /// Returns the device of a name; `ENOENT` where there is none.
    pub(crate) fn get(&self, name: &Name) -> Result<Arc<dyn AnyDevice>> {
        let devices = self.devices.lock();
        let id = devices.find(name)?;
        let entry = devices.by_id.get(&id).ok_or(ENOENT)?;
        Ok(entry.device.clone())
    }

    /// Returns the device with the least id above `id`; `ENOENT` where there is none.
    pub(crate) fn next(&self, id: u64) -> Result<Arc<dyn AnyDevice>> {
        let from = id.checked_add(1).ok_or(ENOENT)?;
        let devices = self.devices.lock();
        let cursor = devices.by_id.cursor_lower_bound(&from).ok_or(ENOENT)?;
        Ok(cursor.current().1.device.clone())
    }

    /// Returns what the device with the least id above `id` is; see [`Self::next`].
    pub(crate) fn next_info(&self, id: u64) -> Result<abi::Info> {
        Ok(self.next(id)?.info())
    }
}

impl Devices {
    /// Returns the id of the device of a name; `ENOENT` where there is none.
    fn find(&self, name: &Name) -> Result<u64> {
        self.by_name.get(name).copied().ok_or(ENOENT)
    }
}
