"""Photos for the tests: flat ones whose colour tells class and number, and one of every trouble."""

import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def color(name):
    """Return the colour of the photo whose name ends in '<class>.<number>.png'."""
    class_name, number = Path(name).name.split(".")[:2]
    return ["cat", "dog", "fox"].index(class_name) * 100, int(number), 7


def write_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), color(path.name)).save(path)


def write_classes(folder, **counts):
    for class_name, count in counts.items():
        for number in range(count):
            write_photo(folder / f"{class_name}s" / f"{class_name}.{number}.png")
    return folder


def write_jpeg(path, seed=0, size=(70, 50), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).save(path, quality=95, **options)
    return path


def zip_of(folder, prefix=""):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


# Files that claim more than they hold.


def png_header(width, height, depth=8, color_type=2):
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def png_chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def white_png(side):
    """A whole PNG, one bit a pixel: 20,000 × 20,000 pixels take 50 KB."""
    packer = zlib.compressobj()
    row = b"\0" + b"\xff" * -(-side // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = png_header(side, side, depth=1, color_type=0)
    return header + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def jpeg_claiming(width, height, jpeg):
    """The JPEG with another size in its header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def jpeg_of_scans(count, jpeg):
    """The JPEG with empty scans before its own, so that there are so many."""
    at = jpeg.index(b"\xff\xda")
    return jpeg[:at] + (b"\xff\xda" + struct.pack(">H6x", 8)) * (count - 1) + jpeg[at:]


def gif_of_frames(count, width, height):
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return screen + (frame + b"\x02\x02\x44\x01\0") * count + b";"


def bmp_claiming(width, height):
    fields = (b"BM", 1078, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHIIiiHHIIiiII", *fields) + bytes(1024)


# WebP and JPEG XL, which newer TensorFlows read. Pillow cannot write the latter: 40×30 pixels, red.
JXL = bytes.fromhex("ff0ae83010090800010058004b188b1500d48831c68d31ee01444041a237ba1ce103")


def webp_claiming(width, height):
    picture = b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(9)
    chunk = b"WEBPVP8L" + struct.pack("<I", len(picture)) + picture
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


def jxl_claiming(width, height):
    bits = 3 << 1 | height - 1 << 3 | 3 << 36 | width - 1 << 38
    return b"\xff\x0a" + bits.to_bytes(14, "little")


def jxl_in_pieces(jxl):
    """The JPEG XL in a container, its first byte apart from the rest."""
    boxes = ((b"jxlp", bytes(4) + jxl[:1]), (b"jxlp", b"\x80\0\0\1" + jxl[1:]))
    start = bytes.fromhex("0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20")
    return start + b"".join(
        struct.pack(">I", 8 + len(content)) + name + content for name, content in boxes
    )


# Of each kind one, by name.


def write_readable(folder):
    """Write photos that are unusual, but photos; return a pixel of those whose colour is exact."""
    folder.mkdir(parents=True, exist_ok=True)
    half = Image.new("RGB", (40, 20), (10, 20, 30))
    half.paste((200, 210, 220), (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 250, 120, 60])
    frames = [Image.new("RGB", (9, 9), one) for one in ("red", "blue", "lime")]

    write_jpeg(folder / "plain.jpg")
    write_jpeg(folder / "progressive.jpg", 1, progressive=True)
    (folder / "png.jpg").write_bytes(png_of(Image.new("RGB", (9, 9), (1, 2, 3)), folder))
    Image.new("CMYK", (9, 9), (200, 30, 60, 10)).save(folder / "cmyk.jpg")
    Image.new("L", (9, 9), 77).save(folder / "grey.jpg")
    Image.new("L", (9, 9), 77).save(folder / "grey.png")
    Image.new("1", (9, 9), 1).save(folder / "bit.png")
    palette.save(folder / "palette.png")
    palette.save(folder / "clear_palette.png", transparency=1)
    Image.fromarray(np.full((9, 9), 0x80FF, np.uint16)).save(folder / "sixteen.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(folder / "clear.png")
    Image.new("LA", (9, 9), (77, 9)).save(folder / "clear_grey.png")
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    half.save(folder / "turned.jpg", exif=exif, quality=95)
    half.save(folder / "turned.png", exif=exif)
    Image.new("RGB", (1, 1), (9, 8, 7)).save(folder / "dot.png")
    Image.new("RGB", (3000, 1), (9, 8, 7)).save(folder / "line.png")
    Image.new("RGB", (9, 9), (4, 5, 6)).save(folder / "kitty.bmp")
    names = ["猫 🐈.png", "cafe\u0301.png", "-rf.png", "~nobody.png", "a\nb\t\x1b[31m.png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9.png"))  # the byte is no UTF-8
    for name in names:
        Image.new("RGB", (9, 9), (4, 5, 6)).save(folder / name)
    return {
        "png.jpg": (1, 2, 3),
        "grey.jpg": (77, 77, 77),
        "grey.png": (77, 77, 77),
        "bit.png": (255, 255, 255),
        "palette.png": (250, 120, 60),
        "clear_palette.png": (250, 120, 60),
        "sixteen.png": (128, 128, 128),
        "clear.png": (1, 2, 3),
        "clear_grey.png": (77, 77, 77),
        "animated.gif": (255, 0, 0),
        "turned.png": (10, 20, 30),  # at the top left, where it lies in the file
        "dot.png": (9, 8, 7),
        "line.png": (9, 8, 7),
        "kitty.bmp": (4, 5, 6),
        **dict.fromkeys(names, (4, 5, 6)),
    }


def png_of(image, folder):
    image.save(folder / "made.png")
    content = (folder / "made.png").read_bytes()
    (folder / "made.png").unlink()
    return content


def write_unreadable(folder, monkeypatch):
    """Write what is no photo, of every kind; return what is to be said of each."""
    folder.mkdir(parents=True, exist_ok=True)
    jpeg = write_jpeg(folder / "truncated.jpg").read_bytes()
    write_jpeg(folder / "truncated.png")
    contents = {
        "truncated.jpg": jpeg[:400],
        "truncated.png": (folder / "truncated.png").read_bytes()[:60],
        "empty.jpg": b"",
        "text.jpg": b"These are not the photos you are looking for.\n",
        "page.jpg": b"<!DOCTYPE html><title>404</title>",
        "tiff.jpg": b"II*\0\x08\0\0\0" + bytes(99),
        "header.png": png_header(9, 9)[:18],
        "huge.png": white_png(20_000),
        "claims.png": png_header(60_000, 60_000) + png_chunk(b"IDAT", zlib.compress(b"\0" * 99)),
        "claims.jpg": jpeg_claiming(60_000, 50_000, jpeg),
        "scans.jpg": jpeg_of_scans(101, jpeg),
        "claims.gif": gif_of_frames(1, 60_000, 60_000),
        "frames.gif": gif_of_frames(9_000, 1_000, 1_000),
        "claims.bmp": bmp_claiming(9_000, 9_000),
        "claims_webp.jpg": webp_claiming(16_000, 12_000),
        "claims_jxl.jpg": jxl_claiming(60_000, 50_000),
        "claims_box.jpg": jxl_in_pieces(jxl_claiming(60_000, 50_000)),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "nowhere.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "vast.jpg").touch()
    os.truncate(folder / "vast.jpg", 2**33)  # on paper
    close(write_jpeg(folder / "closed.jpg"), monkeypatch)
    unknown = "Unknown image file format"
    return {
        "truncated.jpg": "JPEG",
        "truncated.png": "PNG",
        "empty.jpg": "Input is empty",
        "text.jpg": unknown,
        "page.jpg": unknown,
        "tiff.jpg": unknown,
        "header.png": "PNG",
        "huge.png": "400,000,000 pixels, and no more than 178,956,970 are decoded",
        "claims.png": "3,600,000,000 pixels",
        "claims.jpg": "3,000,000,000 pixels",
        "scans.jpg": "it is in more than 100 scans, as no photo is",
        "claims.gif": "3,600,000,000 pixels",
        "frames.gif": "9,000,000,000 pixels",
        "claims.bmp": "Input size",
        "claims_webp.jpg": "192,000,000 pixels",
        "claims_jxl.jpg": "3,000,000,000 pixels",
        "claims_box.jpg": "3,000,000,000 pixels",
        "folder.jpg": "Is a directory",
        "pipe.jpg": "it is a pipe or a device",
        "device.jpg": "it is a pipe or a device",
        "nowhere.jpg": "No such file",
        "loop.jpg": "Too many levels of symbolic links",
        "vast.jpg": "it is larger than 200 MB",
        "closed.jpg": "Permission denied",
    }


def close(path, monkeypatch):
    """Take away the right to read a file; root, who has it always, is refused by hand."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        opened: Callable = Path.open

        def refuse(self, *args, **kwargs):
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return opened(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refuse)
