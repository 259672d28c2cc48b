/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Makes every request of the interface once and checks its answer: built for 64 and for 32 bits, which must
 * have the same layouts. Prints "all requests answered".
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <mmapdev.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

_Static_assert(sizeof(struct mmapdev_info) == MMAPDEV_INFO_SIZE_VER1, "info");
_Static_assert(sizeof(struct mmapdev_create) == MMAPDEV_CREATE_SIZE_VER1, "create");
_Static_assert(sizeof(struct mmapdev_destroy) == MMAPDEV_DESTROY_SIZE_VER0, "destroy");
_Static_assert(sizeof(struct mmapdev_resize) == MMAPDEV_RESIZE_SIZE_VER0, "resize");
_Static_assert(sizeof(struct mmapdev_punch) == MMAPDEV_PUNCH_SIZE_VER0, "punch");
_Static_assert(sizeof(struct mmapdev_events) == MMAPDEV_EVENTS_SIZE_VER0, "events");
_Static_assert(sizeof(struct mmapdev_eventfd) == MMAPDEV_EVENTFD_SIZE_VER0, "eventfd");
_Static_assert(sizeof(struct mmapdev_counters) == MMAPDEV_COUNTERS_SIZE_VER1, "counters");
_Static_assert(sizeof(struct mmapdev_frame) == MMAPDEV_FRAME_SIZE_VER0, "frame");

#define MIB (1 << 20)

#define CHECK(condition)                                                                     \
	do {                                                                                 \
		if (!(condition))                                                            \
			errx(1, "line %d: not so: %s", __LINE__, #condition);                \
	} while (0)

static void request(int fd, unsigned long number, void *argument, const char *name)
{
	if (ioctl(fd, number, argument))
		err(1, "%s", name);
}
#define REQUEST(fd, name, argument) request(fd, MMAPDEV_IOC_##name, argument, #name)

int main(void)
{
	struct mmapdev_create create = { .size = sizeof(create), .device_size = 4 * MIB,
		.backing = MMAPDEV_BACKING_MEMORY, .largest_folio = 4096, .name = "requests" };
	struct mmapdev_info info = { .size = sizeof(info), .name = "requests" };
	struct mmapdev_counters counters = { .size = sizeof(counters) };
	struct mmapdev_frame frame = { .size = sizeof(frame), .offset = 4096 };
	struct mmapdev_resize resize = { .size = sizeof(resize), .device_size = 8 * MIB,
		.name = "requests" };
	struct mmapdev_punch punch = { .size = sizeof(punch), .length = 4096, .name = "requests" };
	struct mmapdev_events events = { .size = sizeof(events) };
	struct mmapdev_destroy destroy = { .size = sizeof(destroy), .name = "requests" };
	struct mmapdev_eventfd wake = { .size = sizeof(wake) };
	int control = open("/dev/mmapdev-control", O_RDWR), number = eventfd(0, 0), fd;

	CHECK(control >= 0);
	REQUEST(control, CREATE, &create);
	CHECK(create.id > 0);
	fd = open("/dev/mmapdev-requests", O_RDWR);
	CHECK(fd >= 0);
	CHECK(pwrite(fd, "0123456789", 10, 4091) == 10);

	REQUEST(control, INFO, &info);
	CHECK(info.device_size == 4 * MIB && info.resident_bytes == 8192 && info.open_files == 1);
	CHECK(info.id == create.id && info.largest_folio == 4096 && info.huge == MMAPDEV_HUGE_NEVER);
	info.id = create.id - 1;
	REQUEST(control, NEXT, &info);
	CHECK(info.id == create.id && strcmp(info.name, "requests") == 0);
	REQUEST(fd, COUNTERS, &counters);
	CHECK(counters.bytes_written == 10 && counters.small_folios == 2);
	REQUEST(fd, FRAME, &frame);
	CHECK(frame.frame > 0 && frame.folio_bytes == 4096);

	REQUEST(control, RESIZE, &resize);
	REQUEST(control, PUNCH, &punch);
	memset(info.name, 0, sizeof(info.name));
	REQUEST(fd, INFO, &info);
	CHECK(info.device_size == 8 * MIB && info.resident_bytes == 4096);
	CHECK(strcmp(info.name, "requests") == 0);
	memset(punch.name, 0, sizeof(punch.name));
	punch.offset = 4096;
	REQUEST(fd, PUNCH, &punch);
	memset(resize.name, 0, sizeof(resize.name));
	resize.device_size = MIB;
	REQUEST(fd, RESIZE, &resize);
	CHECK(lseek(fd, 0, SEEK_END) == MIB);

	REQUEST(fd, NOTIFY, NULL);
	REQUEST(fd, EVENTS, &events);
	CHECK(events.count == 1);
	wake.eventfd = number;
	REQUEST(fd, EVENTFD, &wake);
	REQUEST(fd, NOTIFY, NULL);
	CHECK(read(number, &events.count, 8) == 8 && events.count == 1);
	wake.eventfd = -1;
	REQUEST(fd, EVENTFD, &wake);
	REQUEST(control, DESTROY, &destroy);
	CHECK(ioctl(fd, MMAPDEV_IOC_EVENTS, &events) == -1 && errno == ENODEV);
	puts("all requests answered");
	return 0;
}
