// SPDX-License-Identifier: GPL-2.0

//! What an open file of a device's node has, and what is done when it goes.

use crate::abstractions::page_cache::Wait;
use crate::backing::Backing;
use crate::device::Device;
use crate::events::Seen;
use crate::registry::Registry;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::{Arc, UniqueArc};

/// What a device's node is registered with.
pub(crate) struct Node<B: Backing> {
    pub(crate) device: Arc<Device<B>>,
    pub(crate) registry: Arc<Registry>,
}

/// One opening of a device.
pub(crate) struct OpenDevice<B: Backing> {
    device: Arc<Device<B>>,
    registry: Arc<Registry>,
    seen: Seen,
    _usage: B::Usage,
}

impl<B: Backing> OpenDevice<B> {
    /// Opens a device. May sleep. Fails with `ENOMEM`, and as [`Backing::open`] does.
    pub(crate) fn new(node: &Node<B>, file: &File) -> Result<Arc<Self>> {
        // What a program can have many of is charged to its memory cgroup, as the file itself is. Nothing fails once it is
        // counted as open: its end may wait for a disk, and who opens holds the lock of all misc devices.
        let place = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let usage = node.device.backing().open(file)?;
        let seen = node.device.events().seen_by_now();
        node.device.opened();
        let open = place.write(Self {
            device: node.device.clone(),
            registry: node.registry.clone(),
            seen,
            _usage: usage,
        });
        Ok(open.into())
    }

    pub(crate) fn device(&self) -> &Device<B> {
        &self.device
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns which events were taken by this file.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// See [`Device::follow_size`].
    pub(crate) fn follow_size(&self) -> Result {
        self.device.as_arc_borrow().follow_size()
    }

    /// See [`Device::follow_size_or`].
    pub(crate) fn follow_size_or(&self, wait: Wait) -> Result {
        self.device.as_arc_borrow().follow_size_or(wait)
    }
}

impl<B: Backing> Drop for OpenDevice<B> {
    fn drop(&mut self) {
        self.device.events().signal_nobody(&self.seen);
        if self.device.released() == 0 {
            self.device.backing().settle();
        }
    }
}
