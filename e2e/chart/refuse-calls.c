/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refuse-calls PROGRAM [ARGUMENT...]: runs a program to which the kernel refuses the system calls that container runtimes refuse by
 * their default profile (seccompProfile RuntimeDefault), whatever capabilities the agents' container has: EPERM, and ENOSYS for
 * clone3, whose flags a filter cannot see.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const unsigned int refused[] = {
	SYS_acct,	   SYS_add_key,	       SYS_chroot,	    SYS_clock_settime,	 SYS_delete_module, SYS_finit_module,
	SYS_get_mempolicy, SYS_init_module,    SYS_io_uring_enter,  SYS_io_uring_setup,	 SYS_kexec_load,    SYS_keyctl,
	SYS_mbind,	   SYS_migrate_pages,  SYS_move_pages,	    SYS_nfsservctl,	 SYS_pivot_root,    SYS_reboot,
	SYS_request_key,   SYS_set_mempolicy,  SYS_settimeofday,    SYS_swapoff,	 SYS_swapon,	    SYS_userfaultfd,
	SYS_vhangup,	   SYS_open_by_handle_at, SYS_io_uring_register,
};

#define CALLS (sizeof(refused) / sizeof(refused[0]))
/* Two instructions a call, three for clone3 and the load, one that lets all others pass. */
#define LENGTH (2 * CALLS + 4)

int main(int argc, char **argv)
{
	struct sock_filter filter[LENGTH];
	struct sock_fprog program = { .len = LENGTH, .filter = filter };
	size_t next = 0, i;

	if (argc < 2) {
		fprintf(stderr, "usage: refuse-calls PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	filter[next++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (i = 0; i < CALLS; i++) {
		filter[next++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refused[i], 0, 1);
		filter[next++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	}
	filter[next++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
	filter[next++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
	filter[next++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	/* Needs CAP_SYS_ADMIN, which the program may lose afterwards. */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) {
		fprintf(stderr, "refuse-calls: cannot set the filter: %s\n", strerror(errno));
		return 125;
	}
	execvp(argv[1], argv + 1);
	fprintf(stderr, "refuse-calls: cannot run %s: %s\n", argv[1], strerror(errno));
	return 127;
}
