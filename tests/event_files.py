"""An independent parser of TensorBoard's event files."""

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

CASTAGNOLI = 0x82F63B78  # the reversed polynomial of CRC-32C


def masked_crc(data: bytes) -> int:
    """The checksum of TFRecord files, computed bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(folder: Path) -> list[Any]:
    """The events of a trial in the order in which TensorBoard reads them."""
    found = []
    for path in sorted(folder.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            length, checksum = struct.unpack("<QI", data[:12])
            if len(data) < 16 + length:
                break  # a crash
            assert checksum == masked_crc(data[:8])
            body, data = data[12 : 12 + length], data[12 + length :]
            assert struct.unpack("<I", data[:4]) == (masked_crc(body),)
            found.append(Event.FromString(body))
            data = data[4:]
    return found


def values(folder: Path) -> list[tuple[str, int, Any]]:
    """Tag, step and value of everything in the files."""
    return [(v.tag, e.step, v) for e in events(folder) for v in e.summary.value]


def scalars(folder: Path, tag: str) -> list[tuple[int, Any]]:
    return [(step, value.simple_value) for name, step, value in values(folder) if name == tag]


def plugin(folder: Path, tag: str) -> Any:
    [value] = [value for name, _, value in values(folder) if name == tag]
    assert value.metadata.plugin_data.plugin_name == "hparams"
    return HParamsPluginData.FromString(value.metadata.plugin_data.content)
