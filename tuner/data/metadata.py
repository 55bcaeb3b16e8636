"""Strip metadata from PNG and JPEG files.

Decoders reject an image for a damaged, oversized or truncated comment or colour profile. Pixels,
palette, transparency and orientation are kept, including any damage to them.
"""

import io
import struct
from typing import BinaryIO

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PNG_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
APPLICATION, EXIF, ADOBE = range(0xE0, 0xF0), 0xE1, 0xEE  # Adobe's holds the colour encoding
COMMENT, START_OF_SCAN, FILLING = 0xFE, 0xDA, 0xFF


def without_metadata(file: BinaryIO) -> BinaryIO | None:
    """The file without metadata; None for other formats."""
    file.seek(0)
    start = file.read(len(PNG_START))
    if start == PNG_START:
        return io.BytesIO(start + b"".join(_png_chunks(file)))
    if start.startswith(JPEG_START):
        file.seek(len(JPEG_START))
        return io.BytesIO(JPEG_START + b"".join(_jpeg_segments(file)))
    return None


def _png_chunks(file: BinaryIO) -> list[bytes]:
    kept = []
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in PNG_NEEDED:
            kept.append(head + file.read(length + 4))  # with its checksum
        else:
            file.seek(length + 4, io.SEEK_CUR)
        if kind == b"IEND":
            break
    return kept


def _jpeg_segments(file: BinaryIO) -> list[bytes]:
    """The required segments before the first scan, and everything from there on."""
    kept = []
    while len(head := file.read(4)) == 4:
        start, marker, length = struct.unpack(">BBH", head)
        if marker == FILLING:
            file.seek(-3, io.SEEK_CUR)
            continue
        if start != FILLING or marker == START_OF_SCAN:
            kept.append(head + file.read())
            break
        body = file.read(max(0, length - 2))
        orientation = marker == EXIF and body.startswith(b"Exif")
        if orientation or marker == ADOBE or marker not in (*APPLICATION, COMMENT):
            kept.append(head + body)
    return kept
