/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Two processes that share a device's memory, and sleep until the other rings. Run it as root.
 *
 *	cc -I include/uapi -o share userspace-test/examples/share.c && ./share
 */
#include <err.h>
#include <fcntl.h>
#include <mmapdev.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (64 << 20)

static int open_device(void)
{
	int fd = open("/dev/mmapdev-share", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		err(1, "/dev/mmapdev-share");
	return fd;
}

int main(void)
{
	struct mmapdev_create create = {
		.size = sizeof(create),
		.device_size = SIZE,
		.backing = MMAPDEV_BACKING_MEMORY,
		.huge = MMAPDEV_HUGE_ALWAYS,
		.name = "share",
	};
	struct mmapdev_destroy destroy = { .size = sizeof(destroy), .name = "share" };
	struct mmapdev_events events = { .size = sizeof(events) };
	int control = open("/dev/mmapdev-control", O_RDWR | O_CLOEXEC), fd;
	struct pollfd wait;
	char *bytes;

	if (control < 0 || ioctl(control, MMAPDEV_IOC_CREATE, &create))
		err(1, "cannot make a device");
	fd = open_device();
	/* Only addresses are set aside; the first touch of each page brings it in. */
	bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		err(1, "mmap");

	switch (fork()) {
	case -1:
		err(1, "fork");
	case 0: {
		/* A file of its own, which counts its own events. */
		int theirs = open_device();

		strcpy(bytes, "hello from another process");
		if (ioctl(theirs, MMAPDEV_IOC_NOTIFY, 0))
			err(1, "notify");
		_exit(0);
	}
	}
	wait = (struct pollfd){ .fd = fd, .events = POLLPRI };
	if (poll(&wait, 1, 10000) != 1 || ioctl(fd, MMAPDEV_IOC_EVENTS, &events))
		errx(1, "nobody rang");
	printf("%llu event: %s\n", (unsigned long long)events.count, bytes);
	while (wait3(NULL, 0, NULL) > 0)
		;
	/* Works while it is mapped: from now on a touch of bytes[] would be SIGBUS. */
	if (ioctl(control, MMAPDEV_IOC_DESTROY, &destroy))
		err(1, "destroy");
	return 0;
}
