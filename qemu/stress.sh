#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the stress program on the sanitizer kernel, with two nodes of memory and PCI devices: stress.sh DURATION, in seconds.
# SEED is what a failure was found with; without one the program takes the clock's, and prints it.
set -euo pipefail
export TREE=sanitizer
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

duration=${1:?how many seconds}
[[ $duration =~ ^[0-9]{1,6}$ ]] || die "SECONDS=$duration is no number of seconds"
words=(--seconds "$duration")
if [[ ${SEED:-} ]]; then words+=(--seed "$SEED"); fi
# The program ends what hangs by itself, and says what that was; the limit is for a guest that cannot. After an oops,
# whose task may have died with locks that all others need, or with CPUs that never come back, it mostly cannot.
limit=$((duration + 1300))
# Pages are overwritten when they are freed: what the kernel still had of one would be seen. Some seventy tasks have two CPUs, which
# may have half of their time: who unbinds a driver then takes a minute, and who waits for that does not hang.
"$QEMU_DIR/boot.sh" --name stress --limit $limit --memory 1G --nodes 2 --pci \
    --append "oops=panic softlockup_panic=1 init_on_alloc=0 page_poison=1 sysctl.kernel.hung_task_timeout_secs=180" \
    mmapdev-stress "${words[@]}"
