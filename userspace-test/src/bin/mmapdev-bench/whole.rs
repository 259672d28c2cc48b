// SPDX-License-Identifier: GPL-2.0

//! All of a BAR, mapped, touched and unmapped, beside what the kernel has of the same kind: hugetlb, and device-dax, which like
//! a BAR is memory that is not the kernel's to give to others, at the same page size.
//!
//! The memory of device-dax is some of the machine's own that was set aside at boot (`memmap=`), in two pieces.

use crate::bars::{BAR, BAR_SMALL, DAX, DAX_SMALL, HUGETLB, WHOLE_READ, WHOLE_WRITE};
use crate::measure::{cost, ivshmem, MEMORY};
use crate::results::Results;
use crate::stored::run;
use mmapdev_userspace::control;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags, OFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How much memory that is, all that the BAR has.
pub(crate) const SIZE: usize = 256 * MIB;
const PAGES: f64 = (SIZE / PAGE) as f64;

/// Measures each kind of memory.
pub(crate) fn measure(results: &mut Results) -> io::Result<()> {
    let loaded = Loaded::with("devices=0")?;
    let node = control::node(&ivshmem(SIZE)?.name_of(MEMORY));
    let device = Device::open_with(node, OFlags::RDWR)?;
    if device.size()? != SIZE {
        return Err(io::Error::other("there is no BAR of 256 MiB"));
    }
    touches(results, BAR, || Mapping::shared(&device, SIZE))?;
    // Where no entry for a huge page fits.
    touches(results, BAR_SMALL, || {
        Mapping::shared_off_alignment(&device, SIZE, HUGE_PAGE)
    })?;
    drop((device, loaded));

    let file = memfd_create("bench", MemfdFlags::HUGETLB)?;
    ftruncate(&file, SIZE as u64)?;
    touches(results, HUGETLB, || Mapping::shared(&file, SIZE))?;
    drop(file);

    for name in ["libnvdimm", "nd_e820", "dax_pmem", "device_dax"] {
        run("insmod", &[&format!("/lib/{name}.ko")])?;
    }
    for (region, (variant, alignment)) in [(DAX, HUGE_PAGE), (DAX_SMALL, PAGE)].iter().enumerate() {
        let device = dax(region, *alignment)?;
        touches(results, variant, || Mapping::shared(&device, SIZE))?;
    }
    Ok(())
}

/// Maps, touches and unmaps memory that is there.
fn touches(
    results: &mut Results,
    variant: &str,
    map: impl Fn() -> io::Result<Mapping>,
) -> io::Result<()> {
    map()?.touch_write(0, SIZE, 1);
    let [mut reads, mut writes] = [(); 2].map(|()| Vec::new());
    for _ in 0..results.runs() {
        let (read, done) = cost(|| map().map(|mapping| mapping.touch_read(0, SIZE)));
        done?;
        reads.push(read / PAGES);
        let (write, done) = cost(|| map().map(|mapping| mapping.touch_write(0, SIZE, 1)));
        done?;
        writes.push(write / PAGES);
    }
    let unit = || format!("{}/page", results.unit);
    let (read_unit, write_unit) = (unit(), unit());
    results.add(WHOLE_READ, variant, read_unit, reads);
    results.add(WHOLE_WRITE, variant, write_unit, writes);
    Ok(())
}

/// Makes a device-dax of one of the pieces that were set aside, whose pages have this size, and opens it.
fn dax(region: usize, alignment: usize) -> io::Result<File> {
    // As `ndctl create-namespace --mode=devdax --map=mem` does.
    let name = format!("dax{region}.0");
    let folder = Path::new("/sys/bus/nd/devices").join(&name);
    let set = |attribute: &str, value: &str| {
        fs::write(folder.join(attribute), value)
            .map_err(|error| io::Error::other(format!("{attribute} of {name}: {error}")))
    };
    set(
        "uuid",
        &format!("6d6d6170-6465-7600-0000-00000000000{region}"),
    )?;
    set("mode", "ram")?;
    set("align", &alignment.to_string())?;
    set("namespace", &format!("namespace{region}.0"))?;
    fs::write("/sys/bus/nd/drivers/dax_pmem/bind", &name)
        .map_err(|error| io::Error::other(format!("binding {name}: {error}")))?;
    let size = fs::read_to_string(format!("/sys/bus/dax/devices/{name}/size"))?;
    if size.trim().parse::<usize>().map_err(io::Error::other)? < SIZE {
        return Err(io::Error::other(format!("{name} has only {size} bytes")));
    }
    // The node is made in the kernel's own time.
    let end = Instant::now() + Duration::from_secs(10);
    let node = format!("/dev/{name}");
    while !Path::new(&node).exists() && Instant::now() < end {
        thread::yield_now();
    }
    OpenOptions::new().read(true).write(true).open(node)
}
