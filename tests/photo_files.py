"""Photos for the tests: flat ones whose colour tells class and number, and bad files."""

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


def png_header(width, height, depth=8, color_type=2):
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def png_chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def white_png(side):
    """A valid PNG of one bit per pixel: 20,000 × 20,000 pixels take 50 KB."""
    packer = zlib.compressobj()
    row = b"\0" + b"\xff" * -(-side // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = png_header(side, side, depth=1, color_type=0)
    return header + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


# One photo of each kind, by name.


def write_readable(folder):
    """Write unusual but valid photos; return the colour at the top left of each."""
    folder.mkdir(parents=True, exist_ok=True)
    half = Image.new("RGB", (40, 20), (10, 20, 30))
    half.paste((200, 210, 220), (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # to be shown upside down
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 250, 120, 60])
    frames = [Image.new("RGB", (9, 9), one) for one in ("red", "blue", "lime")]
    flat = Image.new("RGB", (9, 9), (4, 5, 6))

    Image.new("RGB", (9, 9), (1, 2, 3)).save(folder / "png.jpg", "PNG")
    Image.new("L", (9, 9), 77).save(folder / "grey.jpg")
    Image.new("L", (9, 9), 77).save(folder / "grey.jfif", "JPEG", progressive=True)
    Image.new("1", (9, 9), 1).save(folder / "bit.png")
    palette.save(folder / "palette.png")
    palette.save(folder / "clear_palette.png", transparency=1)
    palette.save(folder / "palette.bmp")
    Image.fromarray(np.full((9, 9), 0x80FF, np.uint16)).save(folder / "sixteen.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(folder / "clear.png")
    Image.new("LA", (9, 9), (77, 9)).save(folder / "clear_grey.png")
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    half.save(folder / "turned.png", exif=exif)
    half.save(folder / "turned.TIFF", exif=exif)
    Image.new("RGB", (1, 1), (9, 8, 7)).save(folder / "dot.png")
    Image.new("RGB", (3000, 1), (9, 8, 7)).save(folder / "line.png")
    flat.save(folder / "kitty.bmp")
    flat.save(folder / "kitty.webp", lossless=True)
    names = ["猫 🐈.png", "cafe\u0301.png", "-rf.png", "~nobody.png", "a\nb\t\x1b[31m.png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9.png"))  # not UTF-8
    for name in names:
        flat.save(folder / name)
    return {
        "png.jpg": (1, 2, 3),
        "grey.jpg": (77, 77, 77),
        "grey.jfif": (77, 77, 77),
        "bit.png": (255, 255, 255),
        "palette.png": (250, 120, 60),
        "clear_palette.png": (250, 120, 60),
        "palette.bmp": (250, 120, 60),
        "sixteen.png": (128, 128, 128),
        "clear.png": (1, 2, 3),
        "clear_grey.png": (77, 77, 77),
        "animated.gif": (255, 0, 0),
        "turned.png": (200, 210, 220),
        "turned.TIFF": (200, 210, 220),
        "dot.png": (9, 8, 7),
        "line.png": (9, 8, 7),
        "kitty.bmp": (4, 5, 6),
        "kitty.webp": (4, 5, 6),
        **dict.fromkeys(names, (4, 5, 6)),
    }


def write_unreadable(folder, monkeypatch):
    """Write one of every kind of bad file; return what is to be reported of each."""
    folder.mkdir(parents=True, exist_ok=True)
    jpeg = write_jpeg(folder / "truncated.jpg").read_bytes()
    png = write_jpeg(folder / "truncated.png").read_bytes()
    bmp = write_jpeg(folder / "truncated.bmp").read_bytes()
    unknown = "unknown image format"
    contents = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "JPEG"),
        "truncated.png": (png[:60], "truncated"),
        "truncated.bmp": (bmp[:999], "truncated"),
        "start.jpg": (jpeg[:3], unknown),
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"These are not the photos you are looking for.\n", unknown),
        "page.jpg": (b"<!DOCTYPE html><title>404</title>", unknown),
        "noise.gif": (bytes(range(256)) * 9, unknown),
        "huge.png": (white_png(20_000), "400000000 pixels"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "nowhere.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "vast.jpg").touch()
    os.truncate(folder / "vast.jpg", 2**33)  # sparse
    close(write_jpeg(folder / "closed.jpg"), monkeypatch)
    return {name: said for name, (_, said) in contents.items()} | {
        "pipe.jpg": "it is a pipe or a device",
        "device.jpg": "it is a pipe or a device",
        "nowhere.jpg": "No such file",
        "loop.jpg": "Too many levels of symbolic links",
        "vast.jpg": "it is larger than 200 MB",
        "closed.jpg": "Permission denied",
    }


def close(path, monkeypatch):
    """Make a file unreadable; for root, by patching Path.open."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        opened: Callable = Path.open

        def refuse(self, *args, **kwargs):
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return opened(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refuse)
