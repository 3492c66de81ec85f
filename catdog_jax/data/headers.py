"""How many pixels an encoded photo claims to have, by its header: what decoding it would take.

A few hundred bytes can claim gigabytes, and most decoders believe them. The formats are those that
TensorFlow tells by these same first bytes, less BMP, which is not compressed: it cannot have more
pixels than bytes.
"""

import re
import struct
from collections.abc import Iterator

# As many as full blocks of a GIF, the smallest, fit into the largest photo that is read; and some.
_MOST_BLOCKS = 1_000_000
# The bytes that begin a segment of a JPEG, less those of segments without a length but the end.
_JPEG_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# A progressive JPEG goes through all pixels in each of its scans: some ten, as encoders make them.
_MOST_SCANS = 100
_GIF_FRAME, _GIF_EXTENSION = 0x2C, 0x21
_JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_JXL_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def claimed_pixels(encoded: bytes) -> int:
    """Return how many pixels decoding would unpack; 0 of what is cut off, damaged or no photo.

    Raises:
      ValueError: that takes going through more blocks than any photo has.

    """
    try:
        if encoded.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(encoded)
        if encoded.startswith(b"\xff\xd8\xff"):
            return _jpeg(encoded)
        if encoded.startswith(b"GIF8"):
            return _gif(encoded)
        if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
            return _webp(encoded)
        if encoded.startswith(b"\xff\x0a"):
            return _jxl(encoded)
        if encoded.startswith(_JXL_CONTAINER):
            return _jxl(_jxl_stream(encoded))
    except (struct.error, IndexError):  # cut off
        return 0
    return 0


def _blocks() -> Iterator[None]:
    """Be asked for each block that is gone through, of which a file may have a hundred million."""
    for _ in range(_MOST_BLOCKS):
        yield
    raise ValueError(f"it is in more than {_MOST_BLOCKS:,} pieces, as no photo is")


def _png(png: bytes) -> int:
    blocks = _blocks()
    at = 8
    while png[at + 4 : at + 8] != b"IHDR":  # it should be the first, but need not
        next(blocks)
        at += 12 + struct.unpack_from(">I", png, at)[0]
    width, height = struct.unpack_from(">II", png, at + 8)
    return width * height


def _jpeg(jpeg: bytes) -> int:
    at, pixels, scans = 2, 0, 0
    for _ in _blocks():
        segment = _JPEG_SEGMENT.search(jpeg, at)
        if not segment or segment[1][0] == _JPEG_END:
            break
        if segment[1][0] == _JPEG_SCAN:
            scans += 1
            if scans > _MOST_SCANS:
                raise ValueError(f"it is in more than {_MOST_SCANS} scans, as no photo is")
        elif segment[1][0] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", jpeg, segment.end() + 3)
            pixels = max(pixels, width * height)
        # Where that is cut off, the next search finds nothing.
        at = segment.end() + int.from_bytes(jpeg[segment.end() : segment.end() + 2])
    return pixels


def _gif(gif: bytes) -> int:
    """Return the pixels of all frames: TensorFlow gives the first, but unpacks every one."""
    pixels = 0
    blocks = _blocks()
    at = 13 + _gif_colors(gif[10])
    while at < len(gif):
        next(blocks)
        if gif[at] == _GIF_FRAME and at + 10 <= len(gif):
            width, height, flags = struct.unpack_from("<HHB", gif, at + 5)
            pixels += width * height
            at += 11 + _gif_colors(flags)
        elif gif[at] == _GIF_EXTENSION:
            at += 2
        else:  # the end, or damage
            break
        while at < len(gif) and gif[at]:  # blocks of data
            next(blocks)
            at += 1 + gif[at]
        at += 1
    return pixels


def _gif_colors(flags: int) -> int:
    """Return the bytes of a table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(webp: bytes) -> int:
    kind = webp[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", webp, 26)
        return (width & 0x3FFF) * (height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", webp, 21)
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        low, high = struct.unpack_from("<IH", webp, 24)
        bits = low | high << 32
        return ((bits & 0xFFFFFF) + 1) * ((bits >> 24) + 1)
    return 0


def _jxl(stream: bytes) -> int:
    bits = int.from_bytes(stream[2:16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    in_eighths = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if in_eighths else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = _JXL_RATIOS[take(3)]
    width = height * ratio[0] // ratio[1] if ratio else side()
    return width * height


def _jxl_stream(container: bytes) -> bytes:
    """Return the beginning of the JPEG XL in a container, where it may lie in pieces."""
    stream, at = b"", 0
    blocks = _blocks()
    while len(stream) < 16 and at < len(container):
        next(blocks)
        size, kind = struct.unpack_from(">I4s", container, at)
        content = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", container, content)
            content += 8
        end = at + size if size else len(container)
        if kind == b"jxlc":
            stream += container[content:end][:16]
        elif kind == b"jxlp":
            stream += container[content + 4 : end][:16]
        at = max(end, content)  # onward, whatever it says
    return stream
