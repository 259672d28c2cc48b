# SPDX-License-Identifier: GPL-2.0
"""A device as an array of numpy's, shared with every program that maps it. Run it as root."""

import os

import numpy

# numpy.memmap() asks for the size by seeking to the end, as one has to with a device. The shape is given:
# it would otherwise be all of the device.
array = numpy.memmap("/dev/mmapdev0", dtype=numpy.float64, mode="r+", shape=(256, 256))
array[:] = 0.0
array[7, 7] = 2.5

other = numpy.memmap("/dev/mmapdev0", dtype=numpy.float64, mode="r+", shape=(256, 256))
other[0, 0] = 4.0
print("sum", array.sum())

with open("/dev/mmapdev0", "rb") as device:
    print("bytes", numpy.frombuffer(device.read(8), dtype=numpy.float64)[0])
