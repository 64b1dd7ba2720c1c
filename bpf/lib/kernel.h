/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What not every kernel has. The agent probes and sets these bytes before it loads a program (agent/datapath/kernel-switches.ts);
 * the verifier knows their values and leaves out the branch that is not taken, with its helper.
 */
#ifndef MESH_KERNEL_H
#define MESH_KERNEL_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct kernel_switches {
	/* bpf_ktime_get_coarse_ns(), Linux 5.11. */
	__u8 coarse_clock;
	/* bpf_set_retval() in cgroup programs, Linux 5.18. */
	__u8 set_retval;
	__u8 pad[6];
};

const volatile struct kernel_switches kernel_switches SEC(".rodata.kernel") = {
	.coarse_clock = 1,
	.set_retval = 1,
};

/* Nanoseconds since boot, sleep not counted; of the last tick where the kernel has that, which costs less. */
static __always_inline __u64 now_ns(void)
{
	return kernel_switches.coarse_clock ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
}

#endif
