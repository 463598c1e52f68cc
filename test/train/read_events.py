"""Reads TensorBoard's event files with Python's standard library alone: checksums, framing, messages.

Usage: read_events.py <folder>. Prints JSON: {"scalars": {tag: [[step, value], ...]}, "images": {tag: [[step, [height, width,
colorspace], base64 of the PNG], ...]}, "versions": [...]}. A file's start of a session takes back what earlier ones have from
its step on, as TensorBoard does.
"""
import base64, glob, json, os, struct, sys


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    with open(path, "rb") as file:
        while header := file.read(12):
            if len(header) < 12:
                return  # torn by a kill
            (length, check) = struct.unpack("<QI", header)
            assert check == masked(header[:8]), f"{path}: checksum of a length"
            data, check = file.read(length), file.read(4)
            if len(check) < 4:
                return
            assert struct.unpack("<I", check)[0] == masked(data), f"{path}: checksum of a record"
            yield data


def fields(data):
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 2: None, 5: 4}[kind]
        size = varint() if size is None else size
        assert at + size <= len(data), "a field ends beyond its message"
        yield key >> 3, data[at : at + size]
        at += size


scalars, images, versions = {}, {}, []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*tfevents*"))):
    for number, record in enumerate(records(path)):
        event = dict(fields(record))
        step = event.get(2, 0)
        assert struct.unpack("<d", event[1])[0] > 1.7e9, "wall_time"
        if number == 0:
            versions.append(event[3].decode())
        if 7 in event and dict(fields(event[7])).get(1) == 1:
            for series in [*scalars.values(), *images.values()]:
                series[:] = [entry for entry in series if entry[0] < step]
        for field, message in fields(event.get(5, b"")):
            assert field == 1
            value = dict(fields(message))
            tag = value[1].decode()
            if 2 in value:
                scalars.setdefault(tag, []).append([step, struct.unpack("<f", value[2])[0]])
            if 4 in value:
                image = dict(fields(value[4]))
                png = base64.b64encode(image[4]).decode()
                images.setdefault(tag, []).append([step, [image[1], image[2], image[3]], png])
print(json.dumps({"scalars": scalars, "images": images, "versions": versions}))
