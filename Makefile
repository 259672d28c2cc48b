# SPDX-License-Identifier: GPL-2.0
# The front door. All the work is done by the scripts in qemu/; each target is a few of them in
# turn, and the first one that fails ends it with its status.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test test-pressure test-pci test-debug stress crash test-vms demo-vms bench-vms module shell bench bench-check breaks check clean distclean provision userspace rig-test guest guest-debug self-test

# Variables from the command line reach the scripts as those of the environment do. KDIR is for the module alone: the
# guests have Debian's kernel, whatever tree a kernel developer's environment names.
ifeq ($(filter module,$(MAKECMDGOALS)),)
override KDIR :=
endif

help: ## this text
	@echo "make TARGET [VARIABLE=value]..., where TARGET is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo "and VARIABLE one of:"
	@sed -n 's/^#: \([A-Z_]*\) *\(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

#: TESTS            only the tests whose name has this in it
#: PART             only one part of make test-debug: main, allocations, pressure, pci, vms or rig
#: SECONDS          how long make stress is at it (120)
#: SEED             what stress and crash take their choices from, as a failure names it; else the clock
#: KILLS            how many guests make crash kills (5)
#: KDIR             build the module on this host, for this prepared kernel tree
#: RUSTC            the compiler that goes with KDIR
#: MODULE_ARGS      parameters of the module in make shell, such as "size_mib=64"
#: KERNEL           another of Debian's kernels: 7.3, 7.3.5 or 7.3.5+deb13-cloud-amd64
#: MIRROR           another mirror of Debian than debootstrap's default
#: MMAPDEV_CACHE    where the tools and the kernel are kept (~/.cache/mmapdev)
#: ACCEL            tcg or kvm, instead of trying whether KVM works
#: SLOWNESS         how many times as long as usual guests and tests may take, on a slow machine

demo: guest ## boots a stock kernel, loads the module, shows zero copy
	@qemu/boot.sh --name demo mmapdev-demo --disk /mnt/disk

test: guest ## runs all tests in guests, and those of the rig itself [TESTS=name]
	@qemu/test.sh $(TESTS)
	@$(if $(TESTS),,qemu/self-test.sh)

test-pressure: guest ## those of its tests where memory is short: a guest of 512 MiB [TESTS=name]
	@qemu/pressure.sh $(TESTS)

test-pci: guest ## those of its tests that are about memory of PCI devices [TESTS=name]
	@qemu/pci.sh $(TESTS)

test-debug: guest-debug ## all tests, and some of its own, on a kernel that looks for mistakes [TESTS=name] [PART=main]
	@qemu/debug.sh $(TESTS)

# In bash, and so in the scripts, SECONDS is the time since the start.
stress: guest-debug ## races under an oracle, on the kernel that looks for mistakes [SECONDS=120] [SEED=1]
	@qemu/stress.sh $(or $(SECONDS),120)

crash: guest ## kills guests that write to a file, and looks at what their disks have [KILLS=5] [SEED=1]
	@qemu/crash.sh $(or $(KILLS),5) $(SEED)

demo-vms: guest ## two guests with one memory: a ring in it, beside TCP between them
	@qemu/vms.sh demo

test-vms: guest ## the tests of two guests with one memory [TESTS=name]
	@qemu/vms.sh test $(TESTS)

bench-vms: guest ## what the ring and TCP cost two guests, in instructions; fails if a bar is missed
	@qemu/vms.sh bench

module: $(if $(KDIR),,provision) ## builds build/mmapdev.ko [KDIR=kernel tree]
	@qemu/build-module.sh

breaks: guest ## breaks the module on purpose, one way after the other, and sees a test turn red [NAME=punch]
	@qemu/breaks.sh $(NAME)

shell: guest ## a shell in the guest, with the module loaded [MODULE_ARGS="size_mib=64"]
	@qemu/shell.sh

bench: guest ## what mapping and copying cost beside memfd, hugetlb, device-dax, anonymous memory: instructions, time
	@qemu/bench.sh

bench-check: guest ## the same in instructions only; fails if a bar is missed
	@qemu/bench.sh check

check: provision ## formatting, lints, documentation, host unit tests, shell scripts
	@qemu/check.sh

clean: ## removes build/
	@rm -rf build

distclean: clean ## removes build/ and the cache
	@qemu/distclean.sh

# The steps that those are made of.
provision:
	@qemu/provision.sh

userspace: provision
	@qemu/build-userspace.sh

rig-test: provision
	@qemu/build-module.sh qemu/rig-test

guest: userspace module rig-test
	@qemu/initramfs.sh

# The programs come last: where the other guest is made at the same time, that one begins with them.
guest-debug:
	@qemu/provision.sh sanitizer
	@TREE=sanitizer qemu/build-module.sh
	@TREE=sanitizer qemu/build-untraced.sh
	@TREE=sanitizer qemu/build-module.sh qemu/rig-test
	@qemu/build-userspace.sh
	@TREE=sanitizer qemu/initramfs.sh

self-test: guest
	@qemu/self-test.sh
